"""Approximate search with ScaNN, tuned to a recall that is measured and written down.

An index is trained once (`scann_training.py`); how many leaves are looked into and how many candidates are scored
again is decided at search time, so the cheapest setting that reaches the target is found by trying (`tuning.py`).
"""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from macl_tf.index.searchers.exact import check_k, check_vectors, unit_queries
from macl_tf.index.searchers.scann_library import native_log_hidden, scann_pybind, scann_tensorflow
from macl_tf.index.searchers.scann_training import KINDS, TRAINABLE_FROM, index_parameters, kind_for, train
from macl_tf.index.searchers.tuning import Setting, sample_queries, tune

_ASSETS = "scann_assets.pbtxt"
_PARALLEL_FROM = 64  # queries; fewer are not worth waking threads for


class ScannSearcher:
    """A ScaNN index and the setting at which it is searched.

    Made by `build` or `load`. Searching changes nothing and holds no Python lock, so any number of threads may search
    at once.

    Attributes:
        kind: "brute_force", "hashing" or "tree".
        parameters: How it was built and is searched: numbers and strings, for JSON.
        recall: Recall@K on queries that took no part in tuning; None where none was measured.
        size: N.
        dim: D.
    """

    def __init__(self, native: Any, parameters: dict[str, Any]) -> None:
        self._native = native
        self.parameters = parameters
        self.kind: str = parameters["kind"]
        self.recall: float | None = parameters["recall"]
        self.size: int = parameters["size"]
        self.dim: int = parameters["dim"]

    def __len__(self) -> int:
        return self.size

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        *,
        kind: str = "auto",
        recall_target: float = 0.95,
        k: int = 10,
        num_queries: int = 1000,
        seed: int = 0,
        progress: bool = True,
    ) -> ScannSearcher:
        """Trains an index, and tunes its search until recall@K reaches the target.

        Rows of the index serve as queries, each without itself. On one sample of them the cheapest setting is sought
        whose recall is above the target by two standard errors; the recall that is written down comes from another
        sample. Where no setting reaches the target the index becomes one of kind "brute_force", which always does.

        Args:
            vectors: (N, D) float32 of unit norm.
            kind: "brute_force", "hashing", "tree", or "auto" for `kind_for(N)`. Under 16 vectors there is nothing to
                train on, and it is "brute_force".
            recall_target: Recall@K to reach, in (0, 1].
            k: K at which recall is measured.
            num_queries: Size of each of the two samples; at most half of the rows are taken.
            seed: Draws the samples. ScaNN's own training has no seed, so two builds differ a little.
            progress: Shows a progress bar.

        Returns:
            The searcher.

        Raises:
            ValueError: If an argument breaks its rule, or a vector is not of unit norm.
            ImportError: If ScaNN cannot be loaded.
        """
        if kind not in ("auto", *KINDS):
            raise ValueError(f"kind must be one of auto, {', '.join(KINDS)}, got {kind!r}.")
        if not 0 < recall_target <= 1:
            raise ValueError(f"recall_target must be in (0, 1], got {recall_target}.")
        if num_queries < 1:
            raise ValueError(f"num_queries must be >= 1, got {num_queries}.")
        check_k(k)
        check_vectors(vectors)
        if len(vectors) < 2:
            raise ValueError(f"vectors must hold at least 2 rows for ScaNN, got {len(vectors)}. Use ExactSearcher.")
        kind = kind_for(len(vectors)) if kind == "auto" else kind
        if len(vectors) < TRAINABLE_FROM:
            kind = "brute_force"
        with tqdm(total=4, desc="index", unit="step", disable=not progress, leave=False) as bar:
            bar.set_description(f"building {kind} index")
            parameters = index_parameters(kind, vectors, k, recall_target)
            searcher = cls(train(scann_pybind(), vectors, parameters), parameters)
            bar.update()
            if kind == "brute_force":
                parameters["recall"] = searcher.recall = 1.0
                return searcher
            bar.set_description("exact neighbours of the sampled queries")
            tuning, held_out = sample_queries(vectors, k, num_queries, seed)
            bar.update()
            bar.set_description("tuning the search")
            leaves = parameters.get("num_leaves", 1)
            chosen = tune(searcher._at, tuning, held_out, recall_target, len(vectors), leaves)
            bar.update()
            if chosen is None:
                bar.set_description("building brute_force index")
                warnings.warn(
                    f"No setting of a {kind} index of these {len(vectors):,} vectors reaches recall@{k} "
                    f"{recall_target}, so all of them are searched. A lower recall_target is faster.",
                    stacklevel=2,
                )
                instead = index_parameters("brute_force", vectors, k, recall_target)
                instead |= {"recall": 1.0, "instead_of": kind}
                return cls(train(scann_pybind(), vectors, instead), instead)
            parameters |= {
                "leaves_to_search": chosen.setting.leaves,
                "reorder": chosen.setting.reorder,
                "recall": chosen.recall,
                "queries": len(held_out.rows),
            }
            searcher.recall = chosen.recall
            return searcher

    def search(self, queries: ArrayLike, k: int, unit: bool = False) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The K nearest rows of each query, as far as ScaNN finds them.

        The index is tuned for one K; for a larger one more leaves are looked into and more candidates scored.

        Args:
            queries: (Q, D), Q >= 0; of any norm but zero, since they are brought to norm 1.
            k: At least 1.
            unit: Whether they are known to be float32 of norm 1, and need not be looked through.

        Returns:
            Cosines (Q, K) and positions (Q, K), best first; K = min(k, N). Where fewer were found the rest are -inf
            and -1.

        Raises:
            ValueError: For queries of another width, zero or not finite, or `k` < 1.
        """
        check_k(k)
        rows = np.asarray(queries) if unit else unit_queries(queries, self.dim)
        depth = min(k, self.size)
        setting = Setting(self.parameters.get("leaves_to_search", 0), self.parameters.get("reorder", depth))
        return self._at(rows, depth, setting.scaled(depth / self.parameters["k"]))

    def _at(
        self, queries: NDArray[np.float32], k: int, setting: Setting
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search at a setting of its own."""
        if not len(queries):
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        arguments: dict[str, int] = {"final_num_neighbors": k}
        if self.kind != "brute_force":
            # Twice the size, since a vector that lies in two leaves counts twice.
            arguments["pre_reorder_num_neighbors"] = min(max(setting.reorder, k), 2 * self.size)
        if self.kind == "tree":
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
        """Writes ScaNN's files into a folder, with relative names: the folder can be moved.

        Args:
            folder: An existing, empty folder. `parameters` are the caller's to keep.
            vectors: A .npy file of the very rows that the index was built from, as a path relative to `folder`
                ("../vectors.npy"), to refer to instead of writing them once more. It must move with the folder.

        Raises:
            ValueError: If that file holds other rows.
        """
        folder = Path(folder)
        if vectors is not None:
            shape = np.load(folder / vectors, mmap_mode="r", allow_pickle=False).shape
            if shape != (self.size, self.dim):
                raise ValueError(f"{vectors} must hold the rows of the index, {(self.size, self.dim)}, got {shape}.")
        with native_log_hidden():
            self._native.serialize(os.fspath(folder), relative_path=True)
        if vectors is not None and (folder / "dataset.npy").exists():
            text = (folder / _ASSETS).read_text(encoding="utf-8")
            (folder / _ASSETS).write_text(text.replace('"dataset.npy"', json.dumps(vectors)), encoding="utf-8")
            (folder / "dataset.npy").unlink()

    @classmethod
    def load(cls, folder: str | os.PathLike[str], parameters: dict[str, Any]) -> ScannSearcher:
        """Reads what `save` wrote.

        Args:
            folder: The folder.
            parameters: The `parameters` of the searcher that was saved.

        Raises:
            FileNotFoundError: If there is no ScaNN index in the folder.
            ValueError: If ScaNN cannot read it, or it does not fit the parameters.
            ImportError: If ScaNN cannot be loaded.
        """
        folder = Path(folder)
        assets = folder / _ASSETS
        if not assets.is_file():
            raise FileNotFoundError(f"{folder} holds no ScaNN index: {_ASSETS} is missing.")
        module = scann_pybind()
        try:
            with native_log_hidden():
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


def scann_module(vectors: NDArray[np.float32], parameters: dict[str, Any], *, seed: int = 0) -> Any:
    """The same kind of index for TensorFlow's ops: a tf.Module to keep in a SavedModel.

    They have no second leaf for each vector, so it is trained and tuned anew.

    Args:
        vectors: (N, D) float32 of unit norm.
        parameters: `ScannSearcher.parameters`.
        seed: Draws the queries for tuning.

    Returns:
        A tf.Module. Keep it as an attribute of the module that is saved, and search it by `search_module` inside a
        tf.function.
    """
    import tensorflow as tf

    native = train(scann_tensorflow(), vectors, parameters)
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

        samples = sample_queries(vectors, k, int(parameters["queries"]), seed)
        chosen = tune(search, *samples, parameters["recall_target"], size, max(leaves, 1))
        setting = chosen.setting if chosen else Setting(leaves, size)
    module.setting = tf.Variable(setting, dtype=tf.float32, trainable=False, name="setting")
    return module


def search_module(module: Any, parameters: dict[str, Any], queries: Any, k: int) -> tuple[Any, Any]:
    """Searches what `scann_module` made, inside a tf.function (made outside of one, it cannot be saved).

    Args:
        module: The tf.Module.
        parameters: `ScannSearcher.parameters`.
        queries: (Q, D) float32 tensor of unit norm, Q >= 1.
        k: At least 1, at most N.

    Returns:
        Cosines (Q, K) float32 and positions (Q, K) int32; NaN and 0 where fewer were found.
    """
    import tensorflow as tf

    searcher = scann_tensorflow().searcher_from_module(module)
    if parameters["kind"] == "brute_force":
        positions, scores = searcher.search_batched(queries, k)
        return scores, positions
    factor = max(k / parameters["k"], 1.0)
    leaves = tf.cast(tf.math.ceil(module.setting[0] * math.sqrt(factor)), tf.int32)
    reorder = tf.cast(tf.math.ceil(module.setting[1] * factor), tf.int32)
    positions, scores = searcher.search_batched(
        queries,
        final_num_neighbors=k,
        pre_reorder_num_neighbors=tf.clip_by_value(reorder, k, parameters["size"]),
        leaves_to_search=tf.clip_by_value(leaves, 1, parameters.get("num_leaves", 1)),
    )
    return scores, positions
