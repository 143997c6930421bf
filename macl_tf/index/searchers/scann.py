"""Approximate search with ScaNN, tuned to a recall that is measured and written down.

An index is trained once; how many leaves are looked into and how many candidates are scored
again is decided at search time, so the cheapest setting that reaches the target is found by trying (`tuning.py`).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from macl_tf.index.searchers.tuning import Setting, sample_queries, tune
from macl_tf.index.vectors import unit_rows
from macl_tf.metrics.ranked import check_cutoff
from macl_tf.versions import check_for_scann

_HELP = (
    "ScaNN could not be loaded ({error}). It needs Linux, a processor with AVX and FMA (or Arm), and for its "
    "TensorFlow ops TensorFlow 2.20: pip install 'scann~=1.4.2' 'tensorflow-cpu~=2.20.0'. Exact search does without."
)
KINDS = ("brute_force", "hashing", "tree")
_BRUTE_FORCE_BELOW, _TREE_FROM = 20_000, 100_000  # ScaNN's rules of thumb (its docs/algorithms.md)
# Of long vectors a code for each 4 dimensions is half the bytes to read; the tuning holds the target of the recall.
_DIMS_PER_BLOCK, _DIMS_PER_BLOCK_OF_LONG, _LONG = 2, 4, 1024
_ANISOTROPIC_THRESHOLD = 0.2
# Each vector lies in two leaves, the second chosen for the queries that the first serves badly ("SOAR", Sun et al.
# 2023). In one build of 1M x 128, on a busy machine, it answered 1.3 to 1.9 times as many queries a CPU second at
# recall 0.95 to 0.99, for D / 4 bytes a vector more.
_SOAR_LAMBDA = 1.5
_TRAINING_SAMPLE = 250_000
TRAINABLE_FROM = 16  # vectors; a code book of hashing holds as many
_ASSETS = "scann_assets.pbtxt"
_BESIDE = 2  # asked for beside what is wanted, without a harder search: the query itself, and one of the next page
_PARALLEL_FROM = 64  # queries; fewer are not worth waking threads for
_lock = threading.Lock()


class OutOfReachError(ValueError):
    """No setting of an index of some kind reaches the recall that is wanted."""


class ScannSearcher:
    """A ScaNN index of N vectors (N, D) and the setting at which it is searched, made by `build` or `load`.

    Searching changes nothing and holds no Python lock, so any number of threads may search at once. `parameters` say
    for JSON how it was built and is searched; its recall@K is that on queries that took no part in tuning.
    """

    def __init__(self, native: Any, parameters: dict[str, Any]) -> None:
        self._native = native
        self.parameters = parameters
        self.size: int = parameters["size"]
        self.dim: int = parameters["dim"]

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        *,
        kind: str,
        recall_target: float = 0.95,
        k: int = 10,
        num_queries: int = 1000,
        progress: bool = True,
    ) -> ScannSearcher:
        """Trains an index of (N, D) float32 unit vectors, N >= `TRAINABLE_FROM`, and tunes it to the target recall@k.

        Rows of the index serve as queries, each without itself. On one sample of them, of `num_queries` but at most
        half of the rows, the cheapest setting is sought whose recall is above the target by two standard errors; the
        recall that is written down comes from another sample. ScaNN trains without a seed: two builds differ a little.
        `kind` is "hashing" or "tree". An OutOfReachError where no setting reaches the target.
        """
        with tqdm(total=3, desc="index", unit="step", disable=not progress, leave=False) as bar:
            bar.set_description(f"building {kind} index")
            parameters = _parameters(kind, vectors, k, recall_target)
            searcher = cls(_train(scann_pybind(), vectors, parameters), parameters)
            bar.update()
            bar.set_description("exact neighbours of the sampled queries")
            tuning, held_out = sample_queries(vectors, k, num_queries)
            bar.update()
            bar.set_description("tuning the search")
            leaves = parameters.get("num_leaves", 1)
            chosen = tune(searcher._at, tuning, held_out, recall_target, len(vectors), leaves, _blocks(parameters))
        if chosen is None:
            raise OutOfReachError(
                f"No setting of a {kind} index of these {len(vectors):,} vectors reaches recall@{k} {recall_target}"
            )
        parameters |= {
            "leaves_to_search": chosen.setting.leaves,
            "reorder": chosen.setting.reorder,
            "recall": chosen.recall,
            "queries": len(held_out.rows),
        }
        return searcher

    def search(self, queries: ArrayLike, k: int, unit: bool = False) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The K nearest rows of each query, as far as ScaNN finds them: cosines and positions (Q, K), best first.

        Queries (Q, D) may be of any norm but zero; `unit` says that they are float32 of norm 1 and need not be looked
        through. K = min(k, N). Where fewer were found the rest are -inf and -1. The index is tuned for one K; for a
        larger one, beyond two more, more leaves are looked into and more candidates scored.
        """
        check_cutoff(k, optional=False)
        rows = np.asarray(queries) if unit else unit_rows(queries, self.dim, "queries")
        depth = min(k, self.size)
        setting = Setting(self.parameters["leaves_to_search"], self.parameters["reorder"])
        return self._at(rows, depth, setting.scaled((depth - _BESIDE) / self.parameters["k"]))

    def _at(
        self, queries: NDArray[np.float32], k: int, setting: Setting
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search at a setting of its own."""
        if not len(queries):
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        # Twice the size, since a vector that lies in two leaves counts twice.
        arguments = {"final_num_neighbors": k, "pre_reorder_num_neighbors": min(max(setting.reorder, k), 2 * self.size)}
        if self.parameters["kind"] == "tree":
            arguments["leaves_to_search"] = min(setting.leaves, self.parameters["num_leaves"])
        parallel = len(queries) >= _PARALLEL_FROM
        search = self._native.search_batched_parallel if parallel else self._native.search_batched
        positions, scores = search(queries, **arguments)
        missing = np.isnan(scores)
        found = positions.astype(np.int64)
        if missing.any():
            scores[missing], found[missing] = -np.inf, -1
        return scores, found

    def save(self, folder: str | os.PathLike[str], *, vectors: str | None = None) -> None:
        """Writes ScaNN's files into an empty folder, which can be moved. `parameters` are the caller's to keep.

        `vectors` is a .npy file of the very rows that the index was built from, as a path relative to the folder
        ("../vectors.npy"), to refer to instead of writing them once more. It must move with the folder.
        """
        folder = Path(folder)
        self._native.serialize(os.fspath(folder), relative_path=True)
        if vectors is not None and (folder / "dataset.npy").exists():
            text = (folder / _ASSETS).read_text(encoding="utf-8")
            (folder / _ASSETS).write_text(text.replace('"dataset.npy"', json.dumps(vectors)), encoding="utf-8")
            (folder / "dataset.npy").unlink()

    @classmethod
    def load(cls, folder: str | os.PathLike[str], parameters: dict[str, Any]) -> ScannSearcher:
        """Reads what `save` wrote, with the `parameters` of the searcher that was saved."""
        folder = Path(folder)
        assets = folder / _ASSETS
        if not assets.is_file():
            raise FileNotFoundError(f"{folder} holds no ScaNN index: {_ASSETS} is missing.")
        module = scann_pybind()
        try:
            # Not load_searcher: it unpickles a table of ids wherever it finds one.
            native = module.scann_pybind.ScannNumpy(os.fspath(folder), assets.read_text(encoding="utf-8"))
        except RuntimeError as error:
            raise ValueError(f"{folder} could not be read by ScaNN: {error}. Build the index again.") from error
        searcher = cls(module.ScannSearcher(native), dict(parameters))
        if searcher._native.size() != searcher.size:
            raise ValueError(
                f"{folder} holds {searcher._native.size()} vectors, its parameters say {searcher.size}: "
                "they are not of one index. Build it again."
            )
        return searcher


def scann_module(vectors: NDArray[np.float32], parameters: dict[str, Any]) -> Any:
    """The same kind of index for TensorFlow's ops: a tf.Module to keep as an attribute of a SavedModel's module.

    They have no second leaf for each vector, so it is trained and tuned anew. `search_module` searches it.
    """
    import tensorflow as tf

    native = _train(scann_tensorflow(), vectors, parameters)
    module = native.serialize_to_module()
    k, size, leaves = (int(parameters.get(name, 0)) for name in ("k", "size", "num_leaves"))
    setting: Setting | None = Setting(0, 0)
    if parameters["kind"] != "brute_force":

        def search(
            queries: NDArray[np.float32], count: int, setting: Setting
        ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            reorder = min(max(setting.reorder, count), size)
            positions, scores = native.search_batched_parallel(queries, count, reorder, max(setting.leaves, 1))
            return scores.numpy(), positions.numpy().astype(np.int64)

        samples = sample_queries(vectors, k, int(parameters["queries"]))
        chosen = tune(search, *samples, parameters["recall_target"], size, max(leaves, 1), _blocks(parameters))
        setting = chosen.setting if chosen else Setting(leaves, size)
    module.setting = tf.Variable(setting, dtype=tf.float32, trainable=False, name="setting")
    return module


def search_module(module: Any, parameters: dict[str, Any], queries: Any, k: int) -> tuple[Any, Any]:
    """Searches what `scann_module` made, inside a tf.function (made outside of one, it cannot be saved).

    Queries are (Q, D) float32 of unit norm, Q >= 1, and k in [1, N]. Gives cosines (Q, K) float32 and positions (Q, K)
    int32; NaN and 0 where fewer were found.
    """
    import tensorflow as tf

    searcher = scann_tensorflow().searcher_from_module(module)
    if parameters["kind"] == "brute_force":
        positions, scores = searcher.search_batched(queries, k)
        return scores, positions
    factor = max((k - _BESIDE) / parameters["k"], 1.0)
    leaves = tf.cast(tf.math.ceil(module.setting[0] * math.sqrt(factor)), tf.int32)
    reorder = tf.cast(tf.math.ceil(module.setting[1] * factor), tf.int32)
    positions, scores = searcher.search_batched(
        queries,
        final_num_neighbors=k,
        pre_reorder_num_neighbors=tf.clip_by_value(reorder, k, parameters["size"]),
        leaves_to_search=tf.clip_by_value(leaves, 1, parameters.get("num_leaves", 1)),
    )
    return scores, positions


def kind_for(size: int) -> str:
    """The kind of index for so many vectors, by ScaNN's rules."""
    return KINDS[(size >= _BRUTE_FORCE_BELOW) + (size >= _TREE_FROM)]


def _parameters(kind: str, vectors: NDArray[np.float32], k: int, recall_target: float) -> dict[str, Any]:
    """How an index of a kind is to be built; its recall is not known yet."""
    parameters: dict[str, Any] = {"kind": kind, "size": len(vectors), "dim": vectors.shape[1]}
    parameters |= {"k": k, "recall_target": recall_target}
    dims_per_block = _DIMS_PER_BLOCK_OF_LONG if vectors.shape[1] >= _LONG else _DIMS_PER_BLOCK
    parameters |= {"dims_per_block": dims_per_block, "anisotropic_threshold": _ANISOTROPIC_THRESHOLD}
    if kind == "tree":
        parameters |= {"num_leaves": max(1, round(math.sqrt(len(vectors)))), "soar_lambda": _SOAR_LAMBDA}
    return parameters


def _blocks(parameters: dict[str, Any]) -> int:
    """Codes of each vector."""
    return math.ceil(parameters["dim"] / parameters["dims_per_block"])


def _train(module: Any, vectors: NDArray[np.float32], parameters: dict[str, Any]) -> Any:
    """A trained searcher of ScaNN's, for NumPy or for TensorFlow."""
    builder = module.builder(vectors, parameters["k"], "dot_product")
    sample = min(len(vectors), _TRAINING_SAMPLE)
    if parameters["kind"] == "brute_force":
        builder = builder.score_brute_force()
    else:
        if parameters["kind"] == "tree":
            builder = builder.tree(
                num_leaves=parameters["num_leaves"],
                num_leaves_to_search=max(1, parameters["num_leaves"] // 20),
                training_sample_size=sample,
                soar_lambda=None if module.__name__.endswith("scann_ops") else parameters["soar_lambda"],
            )
        builder = builder.score_ah(
            parameters["dims_per_block"],
            anisotropic_quantization_threshold=parameters["anisotropic_threshold"],
            training_sample_size=min(sample, 100_000),
        ).reorder(10 * parameters["k"])
    return builder.build()


def scann_pybind() -> Any:
    """ScaNN's module for NumPy arrays; an ImportError says what to do.

    `import scann` imports TensorFlow for its ops, seconds that a search of vectors has no use for. So the module is
    imported past the package's `__init__`, in some 30 ms; `import scann` works as ever before and after.
    """
    name = "scann.scann_ops.py.scann_ops_pybind"
    with _lock:
        if name in sys.modules:
            return sys.modules[name]
        try:
            spec = importlib.util.find_spec("scann")
            if spec is None or not spec.submodule_search_locations:
                raise ImportError("not installed")
            if "scann" in sys.modules:
                return importlib.import_module(name)
            bare = ModuleType("scann")
            bare.__path__ = list(spec.submodule_search_locations)
            sys.modules["scann"] = bare
            try:
                return importlib.import_module(name)
            finally:
                del sys.modules["scann"]  # the next `import scann` runs its __init__
        except (ImportError, OSError) as error:
            raise ImportError(_HELP.format(error=error)) from error


def scann_tensorflow() -> Any:
    """ScaNN's TensorFlow ops; a process that loads a SavedModel with them must have called this or `import scann`.

    An ImportError says what to do.
    """
    check_for_scann()
    try:
        return importlib.import_module("scann.scann_ops.py.scann_ops")
    except Exception as error:  # an undefined symbol comes as TensorFlow's NotFoundError
        raise ImportError(_HELP.format(error=error)) from error
