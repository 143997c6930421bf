"""Cosine similarities by blocks of queries, and which item of the database is the query itself.

Dot products are summed in float64. Embeddings of less than float64 are ranked by that sum rounded to float32, which
makes equal rows tie and hides in which order BLAS adds; float64 embeddings are ranked by the sum itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# One product of BLAS takes `rows` queries and COLUMNS items, always as many (zeros fill up), for two reasons. It has
# other code, adding in another order, for what its own blocks leave over: with one shape all pairs take the same path,
# and equal rows get equal similarities. And OpenBLAS hands products of more than 2^18 multiplications to threads of its
# own, which then spin beside ours: on two busy cores that took four times as long.
COLUMNS = 32
PRODUCT = 2**18


def cosine_similarities(
    queries: ArrayLike, database: ArrayLike | None
) -> tuple[Callable[[int, int], NDArray[Any]], int, int]:
    """Function from (start, stop) to the similarities of those queries, and Q and N."""
    left, double = _unit_rows(queries, "query_embeddings")
    num_queries = len(left)
    right, double_too = (left, double) if database is None else _unit_rows(database, "database_embeddings")
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            "query_embeddings and database_embeddings must have the same width, "
            f"got {left.shape[1]} and {right.shape[1]}."
        )
    num_database, width = right.shape
    rows = next((m for m in (64, 32, 16) if m * COLUMNS * width <= PRODUCT), 8)
    tiles = _filled(right, COLUMNS).reshape(-1, COLUMNS, width).transpose(0, 2, 1).copy()
    dtype = np.float64 if double or double_too else np.float32

    def similarities(start: int, stop: int) -> NDArray[Any]:
        block = _filled(left[start:stop], rows).reshape(-1, 1, rows, width)
        result = np.empty((len(block), rows, len(tiles), COLUMNS), dtype)
        result[:] = np.matmul(block, tiles).transpose(0, 2, 1, 3)
        return result.reshape(len(block) * rows, -1)[: stop - start, :num_database]

    return similarities, num_queries, num_database


def _filled(rows: NDArray[np.float64], unit: int) -> NDArray[np.float64]:
    """The rows and as many of zeros as make their number a multiple of `unit`."""
    return np.pad(rows, ((0, -len(rows) % unit), (0, 0)))


def _unit_rows(embeddings: ArrayLike, name: str) -> tuple[NDArray[np.float64], bool]:
    """Rows of norm 1 (or 0) in float64, and whether they came in float64."""
    given = np.asarray(embeddings)
    if given.ndim != 2 or 0 in given.shape:
        raise ValueError(f"{name} must have shape (images, dimensions), both at least 1, got {given.shape}.")
    rows = given.astype(np.float64)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        value = rows[row][~np.isfinite(rows[row])][0]
        raise ValueError(
            f"{name} must be finite, got {value} in row {row}"
            f" ({int((~finite).sum())} of {len(rows)} rows are not). Has training diverged?"
        )
    peak = np.abs(rows).max(axis=1, keepdims=True)  # keeps the squares within range
    rows /= np.where(peak > 0, peak, 1)
    norm = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    rows /= np.where(norm > 0, norm, 1)
    return rows, given.dtype.itemsize >= 8


def own_positions(
    num_queries: int,
    num_database: int,
    alone: bool,
    query_ids: Iterable[Any] | None,
    database_ids: Iterable[Any] | None,
) -> NDArray[np.int64]:
    """(Q,) position of each query in the database, -1 where it is not there."""
    if alone:
        if query_ids is not None or database_ids is not None:
            raise ValueError(
                "query_ids and database_ids need database_embeddings; without, each query is left out for itself."
            )
        return np.arange(num_queries)
    if (query_ids is None) != (database_ids is None):
        raise ValueError("query_ids and database_ids must be given together, got only one of them.")
    if query_ids is None or database_ids is None:
        return np.full(num_queries, -1)
    queries, items = (
        [*np.asarray(ids).tolist()] if hasattr(ids, "dtype") else [*ids] for ids in (query_ids, database_ids)
    )
    if len(queries) != num_queries or len(items) != num_database:
        raise ValueError(
            f"query_ids and database_ids must have {num_queries} and {num_database} entries, "
            f"got {len(queries)} and {len(items)}."
        )
    position = {identity: i for i, identity in enumerate(items)}
    if len(position) != num_database:
        repeated = next(identity for i, identity in enumerate(items) if position[identity] != i)
        raise ValueError(f"database_ids must differ from each other, got {repeated!r} more than once.")
    return np.array([position.get(identity, -1) for identity in queries], np.int64)
