"""Encoder and ScaNN in one SavedModel: image bytes in, ids and scores out.

For a process that has ScaNN's operations: `import scann` before loading, or a server image built with them (stock
TensorFlow Serving has not). It is a snapshot of one published index: changes made since are not in it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from macl_tf.artifacts import ArtifactError, open_encoder, open_version, publish, versions
from macl_tf.export.fitting import scale_of
from macl_tf.index.parquet import read_items
from macl_tf.index.searchers.scann import scann_module, search_module

KIND = "retriever"
MAX_K = 100
Tensor = Any


class EmptyIndexError(ValueError):
    """An index without a tile, of which no retriever can be made."""


def build_retriever(served: str | os.PathLike[str], *, keep: int = 2) -> Path:
    """Writes the next version of SERVED/retriever from the newest index and the encoder that it was made with.

    Its only signature, `serving_default`, takes `image_bytes` (B,) string and `k` () int32, and gives `ids` (B, K)
    string and `scores` (B, K) float32, best first, and `valid` (B,) bool. K is the least of k, 100 and the items of the
    index. The row of an image that cannot be decoded, and places for which ScaNN found nothing, hold "" and 0.
    Returns the version's folder: the newest there is, if that is of this index and encoder already.

    Without ScaNN's operations it is an ImportError, of an empty index an EmptyIndexError.
    """
    served = Path(served)
    index, index_manifest = open_version(served / "index", "index")
    info = index_manifest["info"]
    encoder, encoder_manifest = open_encoder(served, info["encoder"])
    made_of = {"index": index_manifest["uuid"], "encoder": encoder_manifest["uuid"]}
    root = served / KIND
    if versions(root):
        with suppress(ArtifactError):  # one that is damaged is no reason not to write a whole one
            path, manifest = open_version(root, KIND)
            if all(manifest["info"].get(key) == value for key, value in made_of.items()):
                return path
    if info["count"] < 1:
        raise EmptyIndexError(
            f"'{index}' must hold at least one item to build a retriever, got none. Add tiles with `macl upsert`, then "
            "run `macl index`."
        )
    vectors = np.load(index / "vectors.npy", mmap_mode="r")
    ids = read_items(index / "items.parquet").ids
    parameters = {"kind": info["kind"], "size": len(vectors), "dim": vectors.shape[1], "k": info["recall"]["k"]}
    with publish(root, KIND, keep=keep) as staging:
        staging.info.update(made_of, count=len(ids), kind=info["kind"], max_k=MAX_K)
        scale = scale_of(info["encoder"], vectors.shape[1])
        save_retriever(encoder, np.asarray(vectors), ids, parameters | info["parameters"], staging.path, scale)
    return Path(staging.published or root)


def save_retriever(
    encoder: Path,
    vectors: np.ndarray,
    ids: np.ndarray,
    parameters: dict[str, Any],
    path: Path,
    scale: np.ndarray | None = None,
) -> None:
    """Writes the SavedModel to `path`, of vectors (N, D), N >= 1, and `ScannSearcher.parameters` of their index.

    `scale` (D,) is what the encoder's vectors are multiplied by, where it is not 1, before their norm.
    """
    module = tf.Module(name="retriever")
    module.encoder = tf.saved_model.load(os.fspath(encoder))
    module.index = scann_module(vectors, parameters)
    # A variable and not a constant: graphs end at 2 GB, and 20 million ids are as large.
    module.ids = tf.Variable(tf.constant(list(ids), tf.string), trainable=False, name="ids")
    depth = min(MAX_K, len(ids))
    embed = module.encoder.signatures["serving_default"]

    given = [tf.TensorSpec((None,), tf.string, name="image_bytes"), tf.TensorSpec((), tf.int32, name="k")]

    @tf.function(autograph=False, input_signature=given)
    def serving_default(image_bytes: Tensor, k: Tensor) -> dict[str, Tensor]:
        found = embed(image_bytes=image_bytes)
        count, valid = tf.shape(image_bytes)[0], found["valid"]
        rows = tf.maximum(count, 1)  # ScaNN is not asked for nothing
        embedding = found["embedding"] if scale is None else tf.math.l2_normalize(found["embedding"] * scale, axis=1)
        queries = tf.pad(embedding, [[0, rows - count], [0, 0]])
        # Made inside the function: made outside, saving fails with "untracked resource".
        scores, positions = search_module(module.index, parameters, queries, depth)
        scores, positions = scores[:count, :k], positions[:count, :k]
        there = valid[:, None] & ~tf.math.is_nan(scores)
        names = tf.gather(module.ids, tf.where(there, positions, 0))
        return {"ids": tf.where(there, names, ""), "scores": tf.where(there, scores, 0.0), "valid": valid}

    module.serve = serving_default
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    signatures = {"serving_default": serving_default}
    tf.saved_model.save(module, os.fspath(path), signatures=signatures, options=options)
