"""Searchers beside each other: the same four steps of each library, with the settings that its users would sweep.

Each is imported only where it runs. All take unit vectors and rank by inner product, in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Search = Callable[[Vectors, int], NDArray[Any]]

M, EF_CONSTRUCTION = 16, 200
BEAMS = [round(10 * 1.2**step) for step in range(28)]


@dataclass(frozen=True)
class Library:
    """A library's index.

    Args:
        build: (vectors, folder, threads): builds it and writes it to the folder.
        load: (folder, vectors, threads): reads it, as an object of its own.
        settings: (index): settings to sweep, in runs of growing recall: a run ends where recall is high enough.
        searching: (index, setting): the search (queries, k) -> positions at a setting.
        module: Is imported first, so that what that takes is not counted as the index's.
        package: Name of its distribution.
        note: What to know of it.
    """

    build: Callable[[Vectors, Path, int], None]
    load: Callable[[Path, Vectors, int], Any]
    settings: Callable[[Any], Iterator[list[dict[str, int]]]]
    searching: Callable[[Any, dict[str, int]], Search]
    module: str
    package: str
    note: str


def _one(_: Any) -> Iterator[list[dict[str, int]]]:
    yield [{}]


def _beams(_: Any) -> Iterator[list[dict[str, int]]]:
    yield [{"ef": ef} for ef in BEAMS]


# macl_tf


def _exact_build(vectors: Vectors, folder: Path, threads: int) -> None:
    """Nothing to build."""


def _exact_load(folder: Path, vectors: Vectors, threads: int) -> Any:
    from macl_tf.index.searchers.exact import ExactSearcher

    return ExactSearcher(vectors)


def _exact_searching(index: Any, setting: dict[str, int]) -> Search:
    return lambda queries, k: index.search(queries, k)[1]


def _scann_build(vectors: Vectors, folder: Path, threads: int) -> None:
    from macl_tf.index.searchers.scann import ScannSearcher, kind_for

    kind = kind_for(len(vectors))
    searcher = ScannSearcher.build(vectors, kind="hashing" if kind == "brute_force" else kind)
    searcher.save(folder)
    (folder / "parameters.json").write_text(json.dumps(searcher.parameters))


def _scann_load(folder: Path, vectors: Vectors, threads: int) -> Any:
    from macl_tf.index.searchers.scann import ScannSearcher

    return ScannSearcher.load(folder, json.loads((folder / "parameters.json").read_text()))


def _scann_settings(index: Any) -> Iterator[list[dict[str, int]]]:
    leaves = index.parameters.get("num_leaves", 1)
    yield [{}]  # as tuned
    probes = sorted({max(1, min(leaves, round(1.3**step))) for step in range(30)}) if leaves > 1 else [0]
    for reorder in (20, 30, 45, 70, 110, 250):
        yield [{"leaves": probe, "reorder": reorder} for probe in probes]


def _scann_searching(index: Any, setting: dict[str, int]) -> Search:
    if setting:
        named = {"leaves_to_search": setting["leaves"], "reorder": setting["reorder"]}
        index = type(index)(index._native, index.parameters | named)
    return lambda queries, k: index.search(queries, k)[1]


# FAISS


def _faiss_load(folder: Path, vectors: Vectors, threads: int) -> Any:
    import faiss

    faiss.omp_set_num_threads(threads)
    return faiss.read_index(str(folder / "index"))


def _faiss_build(factory: Callable[[Vectors], str]) -> Callable[[Vectors, Path, int], None]:
    def build(vectors: Vectors, folder: Path, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        rows = np.ascontiguousarray(vectors)
        index = faiss.index_factory(rows.shape[1], factory(rows), faiss.METRIC_INNER_PRODUCT)
        if isinstance(index, faiss.IndexHNSW):
            index.hnsw.efConstruction = EF_CONSTRUCTION
        if not index.is_trained:
            sample = np.random.default_rng(0).permutation(len(rows))[: 64 * nlist(rows)]
            index.train(rows[np.sort(sample)])
        index.add(rows)
        faiss.write_index(index, str(folder / "index"))

    return build


def nlist(vectors: Vectors) -> int:
    """Inverted lists: about 4 sqrt(N), as FAISS's guidelines say."""
    return int(2 ** round(np.log2(4 * np.sqrt(len(vectors)))))


def _faiss_searching(index: Any, setting: dict[str, int]) -> Search:
    import faiss

    if "ef" in setting:
        parameters = faiss.SearchParametersHNSW(efSearch=setting["ef"])
    elif "nprobe" in setting:
        inner = faiss.SearchParametersIVF(nprobe=setting["nprobe"])
        parameters = faiss.IndexRefineSearchParameters(k_factor=setting["k_factor"], base_index_params=inner)
    else:
        parameters = None
    return lambda queries, k: index.search(queries, k, params=parameters)[1]


def _probes(_: Any) -> Iterator[list[dict[str, int]]]:
    for factor in (4, 8, 16, 32, 64, 128):
        yield [{"nprobe": round(1.3**step), "k_factor": factor} for step in range(3, 25)]


# hnswlib and usearch


def _hnswlib_build(vectors: Vectors, folder: Path, threads: int) -> None:
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION, random_seed=0)
    index.add_items(vectors, num_threads=threads)
    index.save_index(str(folder / "index"))


def _hnswlib_load(folder: Path, vectors: Vectors, threads: int) -> Any:
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.load_index(str(folder / "index"))
    index.set_num_threads(threads)
    return index


def _hnswlib_searching(index: Any, setting: dict[str, int]) -> Search:
    index.set_ef(setting["ef"])
    return lambda queries, k: index.knn_query(queries, k)[0]


def _usearch_build(vectors: Vectors, folder: Path, threads: int) -> None:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION)
    index.add(np.arange(len(vectors)), np.ascontiguousarray(vectors), threads=threads)
    index.save(str(folder / "index"))


def _usearch_load(folder: Path, vectors: Vectors, threads: int) -> Any:
    from usearch.index import Index

    index = Index.restore(str(folder / "index"))
    return index, threads


def _usearch_searching(loaded: Any, setting: dict[str, int]) -> Search:
    index, threads = loaded
    index.expansion_search = setting["ef"]

    def search(queries: Vectors, k: int) -> NDArray[Any]:
        return index.search(queries, k, threads=threads).keys.reshape(len(queries), k)

    return search


def _faiss(factory: Callable[[Vectors], str], settings: Any, note: str) -> Library:
    return Library(_faiss_build(factory), _faiss_load, settings, _faiss_searching, "faiss", "faiss-cpu", note)


_GRAPH = f"M {M}, efConstruction {EF_CONSTRUCTION}"
_SCANN, _EXACT = "macl_tf.index.searchers.scann", "macl_tf.index.searchers.exact"
_LISTS = "refined by the vectors; nlist about 4 sqrt(N)"
# fmt: off
LIBRARIES = {
    "macl_tf scann": Library(
        _scann_build, _scann_load, _scann_settings, _scann_searching, _SCANN, "scann",
        "macl_tf.index.searchers.ScannSearcher; the time to build it includes its tuning",
    ),
    "macl_tf exact": Library(
        _exact_build, _exact_load, _one, _exact_searching, _EXACT, "numpy", "macl_tf.index.searchers.ExactSearcher",
    ),
    "faiss flat": _faiss(lambda vectors: "Flat", _one, "exhaustive"),
    "faiss ivf-pq": _faiss(
        lambda vectors: f"IVF{nlist(vectors)},PQ{vectors.shape[1] // 4},RFlat", _probes,
        f"8 bits for 4 dimensions, {_LISTS}",
    ),
    "faiss ivf-pq fast-scan": _faiss(
        lambda vectors: f"IVF{nlist(vectors)},PQ{vectors.shape[1] // 2}x4fs,RFlat", _probes,
        f"4 bits for 2 dimensions, looked up in registers, {_LISTS}",
    ),
    "faiss hnsw": _faiss(lambda vectors: f"HNSW{M}", _beams, _GRAPH),
    "hnswlib": Library(
        _hnswlib_build, _hnswlib_load, _beams, _hnswlib_searching, "hnswlib", "hnswlib", _GRAPH,
    ),
    "usearch": Library(
        _usearch_build, _usearch_load, _beams, _usearch_searching, "usearch.index", "usearch",
        f"connectivity {M}, expansion_add {EF_CONSTRUCTION}, float32",
    ),
}
# fmt: on
