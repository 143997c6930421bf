"""The vectors that `search_libraries` searches: embeddings of real tiles, and a million generated ones.

Both are kept in the work folder, so they are made once.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from macl_tf.files import written_whole
from macl_tf.index.searchers.exact import ExactSearcher

K = 10
QUERIES = 1000
_BATCH = 256
_BLOCK = 16384

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """Vectors to search, queries that are not among them, and their exact neighbours.

    Args:
        name: Of the data set.
        vectors: (N, D), a memory map.
        queries: (Q, D).
        neighbours: (Q, K) positions.
        facts: How it was made, and how hard it is.
    """

    name: str
    vectors: Vectors
    queries: Vectors
    neighbours: NDArray[np.int64]
    facts: dict[str, Any]


def load(work: Path, name: str) -> Data:
    """What `embedded` or `clustered` has left in the work folder."""
    folder = work / "vectors" / name
    arrays = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("vectors", "queries", "neighbours"))
    vectors, queries, neighbours = arrays
    return Data(name, vectors, np.array(queries), np.array(neighbours), json.loads((folder / "facts.json").read_text()))


def prepare(work: Path, name: str, vectors: Vectors, queries: Vectors, facts: dict[str, Any]) -> Data:
    """Writes a data set, with the exact neighbours of its queries."""
    folder = work / "vectors" / name
    searcher = ExactSearcher(vectors)
    scores, neighbours = searcher.search(queries, 100)
    facts = facts | {
        "size": len(vectors),
        "dimensions": vectors.shape[1],
        "queries": len(queries),
        "local_intrinsic_dimension": intrinsic_dimension(scores),
        "median_similarity_of_10th": float(np.median(scores[:, K - 1])),
    }
    for part, array in (("vectors", vectors), ("queries", queries), ("neighbours", neighbours[:, :K])):
        with written_whole(folder / f"{part}.npy") as path:
            np.save(path, array)
    with written_whole(folder / "facts.json") as path:
        path.write_text(json.dumps(facts, indent=1))
    return load(work, name)


def intrinsic_dimension(scores: Vectors) -> float:
    """Median over queries of the local intrinsic dimension by maximum likelihood from the 100 nearest.

    It says how hard neighbours are to find (Amsaleg et al. 2015; Aumüller and Ceccarello 2019, who give about 13 for
    SIFT and 18 for GloVe).
    """
    distances = np.sqrt(np.maximum(2 - 2 * scores.astype(np.float64), 1e-12))
    return float(np.median(-1 / np.mean(np.log(distances[:, :-1] / distances[:, -1:]), axis=1)))


def clustered(work: Path, size: int, dimensions: int = 128, seed: int = 0) -> Data:
    """Unit vectors in overlapping clusters of very different sizes.

    A vector is the sum of its cluster's centre and of a deviation, brought to norm 1. There are N / 1000 clusters with
    sizes falling as 1 / sqrt(rank). The variance of the deviations along their j-th axis falls as 1 / j, and each
    cluster has one of 20 random rotations of the axes. Centres are drawn from one such spectrum with a tenth of the
    variance of the deviations, so clusters run into each other: a third of the neighbours are of another cluster.
    """
    name = f"clustered-{size}"
    if (work / "vectors" / name / "facts.json").exists():
        return load(work, name)
    generator = np.random.default_rng(seed)
    clusters = max(8, size // 1000)
    spectrum = np.arange(1, dimensions + 1) ** -0.5
    spectrum /= np.linalg.norm(spectrum)

    def rotation() -> NDArray[np.float64]:
        return np.linalg.qr(generator.standard_normal((dimensions, dimensions)))[0]

    centres = generator.standard_normal((clusters, dimensions)) * spectrum @ rotation() * np.sqrt(0.1)
    rotations = [rotation() for _ in range(20)]
    shape = generator.integers(0, len(rotations), clusters)
    share = np.arange(1, clusters + 1) ** -0.5
    cluster = generator.choice(clusters, size + QUERIES, p=share / share.sum())
    vectors = np.empty((size + QUERIES, dimensions), np.float32)
    for number in tqdm(range(clusters), f"{name}", unit="cluster"):
        rows = np.flatnonzero(cluster == number)
        deviations = generator.standard_normal((len(rows), dimensions)) * spectrum @ rotations[shape[number]]
        vectors[rows] = centres[number] + deviations
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    facts = {
        "kind": "generated",
        "clusters": clusters,
        "seed": seed,
        "how": " ".join((clustered.__doc__ or "").split()),
    }
    return prepare(work, name, vectors[:size], vectors[size:], facts)


def embedded(work: Path, size: int, run: Path, data_dir: Path, seed: int = 0) -> Data:
    """Embeddings, by a run's trained encoder, of UC Merced tiles under augmentation.

    Each tile is shown as often as it takes: crops of 20 to 100 % of the area, flips, quarter turns, colour changes by
    up to 30 %. The queries are further augmentations.
    """
    name = f"tiles-{size}"
    if (work / "vectors" / name / "facts.json").exists():
        return load(work, name)
    vectors = _embed(work / "vectors" / "embeddings.npy", size + QUERIES, run, data_dir, seed)
    facts = {"kind": "embedded tiles", "seed": seed, "how": " ".join((embedded.__doc__ or "").split())}
    return prepare(work, name, vectors[QUERIES : QUERIES + size], vectors[:QUERIES], facts)


def _embed(path: Path, count: int, run: Path, data_dir: Path, seed: int) -> Vectors:
    """The first `count` embeddings: made in batches that are kept, so a killed run goes on where it was."""
    count = -(-count // _BLOCK) * _BLOCK
    parts = [path.with_name(f"{path.stem}-{start // _BLOCK:04d}.npy") for start in range(0, count, _BLOCK)]
    if not all(part.exists() for part in parts):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import keras
        import tensorflow as tf

        from macl_tf.datasets import load_archive
        from macl_tf.pipeline.augmentation import augment_images
        from macl_tf.pipeline.pipeline import load_images

        encoder = keras.saving.load_model(run / "encoder.keras", compile=False)
        side = encoder.input_shape[1]
        archive = load_archive("ucm", data_dir)
        images = load_images(archive, np.arange(len(archive.labels)), 2 * side)

        @tf.function
        def augmented(batch: Any, key: Any) -> Any:
            return augment_images(batch, key, side, crop_scale=(0.2, 1.0), colour=0.3)

        for number, part in enumerate(parts):
            if part.exists():
                continue
            order = np.random.default_rng((seed, number)).permutation(np.arange(_BLOCK) % len(images))
            outputs = []
            for start in tqdm(range(0, _BLOCK, _BATCH), f"embedding {number + 1} of {len(parts)}", unit="batch"):
                pixels = augmented(images[order[start : start + _BATCH]], (seed, number * _BLOCK + start))
                outputs.append(np.asarray(encoder.predict_on_batch(pixels), np.float32))
            with written_whole(part) as temporary:
                np.save(temporary, np.concatenate(outputs))
    vectors = np.concatenate([np.load(part) for part in parts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
