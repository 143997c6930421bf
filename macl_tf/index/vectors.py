"""Embeddings as an index keeps them: float32 rows of unit norm in a .npy file, written and read block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 65_536  # rows checked or written at a time
_CACHED = 1 << 16  # numbers of which a processor's cache holds several arrays


def unit_rows(vectors: ArrayLike, dim: int | None = None, name: str = "vectors", first: int = 0) -> NDArray[np.float32]:
    """Checks (N, D) numbers and brings them to float32 of norm 1; rows that have it within rounding stay as they were.

    A ValueError names what breaks a rule: another shape or D, or a row that is zero or not finite. `name` is what it
    calls them, and `first` the number of the first row.
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not rows.shape[1]:
        raise ValueError(f"{name} must be numbers of shape (N, D), got {rows.dtype} of shape {rows.shape}.")
    if dim is not None and rows.shape[1] != dim:
        raise ValueError(
            f"{name} must have the {dim} dimensions of the index, got {rows.shape[1]}: they come from another encoder."
        )
    wide = rows.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if len(wide) == 1 and abs(float(wide[0] @ wide[0]) - 1) < 1e-6:  # one picture's embedding, the common case
            return np.array(rows, np.float32, order="C")
        norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    bad = np.flatnonzero(~((norms > 1e-30) & (norms < np.inf)))
    if bad.size:
        row = int(bad[0])
        what = "zero, which has no direction (an image that cannot be decoded is embedded so)"
        got = what if norms[row] <= 1e-30 else f"{rows[row]}"
        raise ValueError(f"{name} must be finite and not zero, got row {first + row}: {got}.")
    off = np.abs(norms - 1) > 1e-6
    if off.any():
        wide[off] /= norms[off, None]
        return wide.astype(np.float32)
    return np.array(rows, np.float32, order="C")


def blocks_of(vectors: Any) -> Iterator[NDArray[np.float32]]:
    """The rows of an (N, D) array or memory map as blocks of unit rows."""
    for start in range(0, len(vectors), BLOCK):
        yield unit_rows(vectors[start : start + BLOCK], first=start)


def write_vectors(path: Path, blocks: Iterable[NDArray[np.float32]], count: int, dim: int) -> None:
    """Writes blocks of rows as one (count, dim) .npy file.

    Not through a memory map: on a full disk that ends the process with SIGBUS, where a write is an error.
    """
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4").data)


def read_vectors(path: Path) -> NDArray[np.float32]:
    """Maps a .npy file of float32 rows into memory: pages are read when they are needed."""
    vectors: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"'{path}' must hold float32 rows, got {vectors.dtype} of shape {vectors.shape}.")
    return vectors


def cosines(
    queries: NDArray[np.float32], query: NDArray[np.int64], vectors: NDArray[np.float32], row: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Cosines of pairs, each summed by itself in float64: equal vectors tie, in whatever order BLAS adds.

    `row` says which of the (N, D) vectors each pair holds, (M,) or, of M queries with K each, (M, K); `query`, (M,) or
    (M, 1), says which of the (Q, D) queries. All are of unit norm. The cosines have the shape of `row`.
    """
    scores, wide, vectors = np.empty(row.shape, np.float32), queries.astype(np.float64), np.asarray(vectors)
    step = max(1, _CACHED // (queries.shape[1] * max(1, math.prod(row.shape[1:]))))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        scores[part] = np.vecdot(wide[query[part]], vectors[row[part]].astype(np.float64))
    return scores
