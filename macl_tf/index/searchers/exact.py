"""Exact search by cosine: every vector is looked at, in bounded memory.

It is the search of small indexes, of filters that few items pass, and what approximate search is measured against.
Products are summed in float32 to find who could be among the best, and those few are scored again in float64 and
rounded to float32, as `macl_tf.evaluation.retrieval.nearest` does. So a query finds the same items with the same scores
alone and in a batch, and equal vectors have equal scores, whatever order BLAS adds in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.index.vectors import cosines, unit_rows
from macl_tf.metrics.ranked import check_cutoff

# A block of scores stays in the cache between the product and the look for its best.
_QUERIES, _ROWS, _GROUPS = 256, 16384, 512
# A sum of float32 products of unit vectors is off by less than this.
_MARGIN = np.float32(1e-5)


class ExactSearcher:
    """Exhaustive search over (N, D) float32 vectors of unit norm, N >= 0; a memory map is read where it is.

    Searching changes nothing, so any number of threads may search at once. That the norms are 1 is the caller's to see
    to: `vectors.unit_rows` makes such rows, and looking through all of an archive's would read everything from disk.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.vectors = vectors
        self.size, self.dim = vectors.shape

    def search(
        self, queries: ArrayLike, k: int, *, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The K nearest rows of each query: cosines (Q, K) and positions (Q, K), best first, ties by position.

        Queries (Q, D) may be of any norm but zero. `allowed` (N,) says which rows may be found, None for all. K is `k`,
        or the number of rows that may be found where that is less.
        """
        check_cutoff(k, optional=False)
        left = unit_rows(queries, self.dim, "queries")
        depth = min(k, self.size if allowed is None else int(np.count_nonzero(allowed)))
        best = _Best(len(left), depth)
        if depth == 0 or not len(left):
            return best.scores, best.positions
        for start in range(0, self.size, _ROWS):
            rows = np.asarray(self.vectors[start : start + _ROWS])
            places: NDArray[np.int64] | None = None  # of the rows within the block, where some are left out
            if allowed is not None and not (mask := allowed[start : start + _ROWS]).all():
                places = np.flatnonzero(mask)
                if not places.size:
                    continue
                rows = rows[places]
            for first in range(0, len(left), _QUERIES):
                block = slice(first, first + _QUERIES)
                products = left[block] @ rows.T
                query, row = best.candidates(products, block)
                if query.size:
                    scores = cosines(left[block], query, rows, row)
                    best.merge(block, query, scores, start + (row if places is None else places[row]))
        return best.scores, best.positions


class _Best:
    """The best items of each query so far."""

    def __init__(self, queries: int, depth: int) -> None:
        self.scores = np.full((queries, depth), -np.inf, np.float32)
        self.positions = np.full((queries, depth), -1, np.int64)
        self.depth = depth

    def candidates(self, products: NDArray[np.float32], block: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(query, row) of all that may be among the best: by query, then by row.

        The rows are dealt into groups. The K-th best of the groups' peaks is no better than the K-th best of all, and
        only groups whose peak reaches it are looked into: one pass over the products, where sorting takes many.
        """
        queries, width = products.shape
        groups = max(_GROUPS, 1 << (4 * self.depth - 1).bit_length())
        floor = self.scores[block, -1].copy()
        if width < 2 * groups:
            if width > self.depth:
                np.maximum(floor, np.partition(products, -self.depth, axis=1)[:, -self.depth], out=floor)
            found = np.flatnonzero(products >= (floor - _MARGIN)[:, None])
            return np.divmod(found, width)
        whole = width - width % groups
        dealt = products[:, :whole].reshape(queries, -1, groups)
        peaks = dealt.max(axis=1)
        np.maximum(floor, np.partition(peaks, -self.depth, axis=1)[:, -self.depth], out=floor)
        floor -= _MARGIN
        query, group = np.nonzero(peaks >= floor[:, None])
        hit, place = np.nonzero(dealt[query, :, group] >= floor[query, None])
        keys = query[hit] * width + place * groups + group[hit]
        if whole < width:
            query, rest = np.nonzero(products[:, whole:] >= floor[:, None])
            keys = np.concatenate([keys, query * width + whole + rest])
        keys.sort()
        return np.divmod(keys, width)

    def merge(
        self, block: slice, query: NDArray[np.int64], scores: NDArray[np.float32], positions: NDArray[np.int64]
    ) -> None:
        """Takes candidates in; those of earlier blocks stand first among equals, having lower positions."""
        count = np.bincount(query, minlength=len(self.scores[block]))
        touched = np.flatnonzero(count)
        # One row for each query with candidates, filled up with what is worse than anything.
        width = self.depth + int(count.max())
        all_scores = np.full((touched.size, width), -np.inf, np.float32)
        all_positions = np.full((touched.size, width), -1, np.int64)
        all_scores[:, : self.depth] = self.scores[block][touched]
        all_positions[:, : self.depth] = self.positions[block][touched]
        starts = np.cumsum(count) - count
        line = np.searchsorted(touched, query)
        column = self.depth + np.arange(query.size) - starts[query]
        all_scores[line, column], all_positions[line, column] = scores, positions
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, : self.depth]
        self.scores[block][touched] = np.take_along_axis(all_scores, order, axis=1)
        self.positions[block][touched] = np.take_along_axis(all_positions, order, axis=1)
