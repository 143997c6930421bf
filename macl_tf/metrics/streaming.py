"""All metrics of all queries, a block of queries at a time: memory grows with block x N, never with Q x N."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.labels import check_multi_hot
from macl_tf.metrics.ranked import (
    GAINS,
    check_cutoff,
    discounted_cumulative_gain,
    discounts,
    gains,
    precision_sum,
    weighted_average_precision,
)
from macl_tf.metrics.ranking import order, rank

Floats = NDArray[np.float64]
Similarities = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class QueryScores:
    """What `score_queries` found.

    Args:
        values: Name of the metric to (Q,) float64, NaN where it is undefined.
        label_ap: (Q, C) average precision of label c ("relevant" = holds c) for the queries that hold c; NaN for others
            and where no other item holds c.
        label_hits: (Q, C, P) how many of the first `precision_k[p]` items hold c, for the queries that hold c; else 0.
        label_total: (Q, C) how many items other than the query hold c.
    """

    values: dict[str, Floats]
    label_ap: Floats
    label_hits: NDArray[np.int32]
    label_total: NDArray[np.int32]


def score_queries(
    similarities: Similarities | ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    *,
    exclude: ArrayLike | None = None,
    k: int = 100,
    precision_k: Sequence[int] = (1, 10, 100),
    map_k: int | None = None,
    block_size: int = 64,
    workers: int | None = None,
    on_block: Callable[[int], object] | None = None,
) -> QueryScores:
    """All metrics of all queries.

    Names, with the cut-offs as given: `map_any`, `map_jaccard50` (`map@K_any` with a `map_k`),
    `ndcg@K_jaccard`, `ndcg@K_shared`, `ndcg@K_cosine`, `wap@K` and `acg@K` (shared labels as gains),
    `r_precision`, `precision@K`, `recall@K`. Relevant means "shares a label", for `map_jaccard50` Jaccard >= 0.5.

    `similarities` are a (Q, N) finite array, or a function (start, stop) that returns those rows, writable and called
    from several threads; float32 ranks in float32, float64 in float64. Labels are (Q, C) and (N, C) multi-hot,
    `exclude` (Q,) holds the database position that is the query itself, or -1, and `on_block` is called with the number
    of queries done. All else is as for `evaluation.retrieval.evaluate`. A ValueError is for shapes that do not fit,
    labels other than 0 and 1, or a cut-off below 1.
    """
    scorer = Scorer(query_labels, database_labels, exclude, k, precision_k, map_k)
    if block_size < 1 or (workers is not None and workers < 1):
        raise ValueError(f"block_size and workers must be >= 1, got {block_size} and {workers}.")
    source: Any = similarities if callable(similarities) else np.asarray(similarities)
    shape = (len(scorer.queries), len(scorer.set_of))
    if not callable(source) and source.shape != shape:
        raise ValueError(f"similarities must have shape {shape} to fit the labels, got {source.shape}.")

    def score(start: int) -> int:
        stop = min(start + block_size, len(scorer.queries))
        out = scorer.exclude[start:stop]
        positions = order(source(start, stop), out) if callable(source) else rank(source[start:stop], None, out)
        scorer.score(start, stop, positions)
        return stop - start

    starts = range(0, len(scorer.queries), block_size)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(workers or cores, len(starts))
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for done in pool.map(score, starts) if threads > 1 else map(score, starts):
            if on_block is not None:
                on_block(done)
    return QueryScores(scorer.values, scorer.label_ap, scorer.label_hits, scorer.label_total)


class Scorer:
    """Label look-ups of one evaluation, and the arrays that its blocks fill; arguments as of `score_queries`.

    Items with the same labels are worth the same to every query. So labels are reduced to U different label sets, and
    what a query needs of them (shared labels, relevance) is a table over sets that the ranking looks up.
    """

    def __init__(
        self,
        query_labels: ArrayLike,
        database_labels: ArrayLike,
        exclude: ArrayLike | None,
        k: int,
        precision_k: Sequence[int],
        map_k: int | None,
    ) -> None:
        self.queries = _multi_hot(query_labels, "query_labels")
        database = _multi_hot(database_labels, "database_labels")
        if self.queries.shape[1] != database.shape[1]:
            raise ValueError(
                "query_labels and database_labels must have the same columns, "
                f"got {self.queries.shape[1]} and {database.shape[1]}."
            )
        check_cutoff(k, "k", optional=False)
        check_cutoff(map_k, "map_k")
        for cutoff in precision_k:
            check_cutoff(cutoff, "precision_k", optional=False)
        num_queries, size = len(self.queries), len(database)
        self.exclude = np.full(num_queries, -1) if exclude is None else np.asarray(exclude, np.int64)
        if self.exclude.shape != (num_queries,) or np.any((self.exclude < -1) | (self.exclude >= size)):
            raise ValueError(f"exclude must hold {num_queries} positions below {size}, or -1 for none.")
        self.depth = min(k, size)
        self.map_k = size if map_k is None else map_k
        self.cutoffs = np.array(precision_k, np.int64)

        _, first, self.set_of, self.set_counts = np.unique(
            np.packbits(database, axis=1), axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        self.set_of = self.set_of.reshape(-1)
        self.sets = database[first]
        self.query_words, self.set_words = _words(self.queries), _words(self.sets)
        self.holds = np.ascontiguousarray(self.sets.T.astype(bool))  # (C, U)
        self.set_sizes = self.sets.sum(axis=1, dtype=np.int64)
        self.counting = np.arange(1.0, size + 1)

        # A gain depends on |y_q| and on (|O|, |y_j|), which is one code: tables over (|y_q|, code).
        self.query_sizes = self.queries.sum(axis=1, dtype=np.int64)
        self.base = int(self.set_sizes.max(initial=0)) + 1
        most = int(self.query_sizes.max(initial=0))
        code = np.arange((min(most, self.base - 1) + 1) * self.base)
        both, own, other = code // self.base, np.arange(most + 1)[:, None], code % self.base
        both = np.where((both <= own) & (both <= other), both, 0)  # codes that no pair can have gain nothing
        tables = {kind: gains(both, own, other, kind) for kind in GAINS}
        tables["shared"] = np.exp2(tables["shared"]) - 1
        self.tables = {kind: (table, np.argsort(-table, axis=1)) for kind, table in tables.items()}
        self.reach = np.concatenate([[0.0], np.cumsum(discounts(self.depth))])  # discounts of the first r ranks

        ap = "map" if map_k is None else f"map@{map_k}"
        self.ap_names = f"{ap}_any", f"{ap}_jaccard50"
        self.gain_names = {kind: f"ndcg@{k}_{kind}" for kind in ("jaccard", "shared", "cosine")}
        self.wap, self.acg = f"wap@{k}", f"acg@{k}"
        self.at_k = [f"{name}@{c}" for name in ("precision", "recall") for c in precision_k]
        names = [*self.gain_names.values(), *self.ap_names, self.wap, self.acg, "r_precision", *self.at_k]
        self.values = {name: np.full(num_queries, np.nan) for name in names}
        self.label_ap = np.full(self.queries.shape, np.nan)
        self.label_hits = np.zeros((*self.queries.shape, self.cutoffs.size), np.int32)
        own_items = self.exclude >= 0
        self.label_total = np.repeat(database.sum(axis=0, dtype=np.int32)[None], num_queries, axis=0)
        self.label_total[own_items] -= database[self.exclude[own_items]]

    def score(self, start: int, stop: int, positions: NDArray[np.int64]) -> None:
        """Fills in the values of queries start ... stop - 1, whose full rankings are given."""
        shared = np.zeros((stop - start, len(self.sets)), np.int64)
        for own, other in zip(self.query_words[start:stop].T, self.set_words.T, strict=True):
            shared += np.bitwise_count(own[:, None] & other)
        sizes = self.query_sizes[start:stop, None]
        relevant = shared > 0
        half = relevant & (3 * shared >= sizes + self.set_sizes)  # |O| / (a + b - |O|) >= 1/2
        lengths = positions.shape[1] - (self.exclude[start:stop] >= 0)
        for row, length in enumerate(lengths):
            self._score_row(start + row, positions[row, :length], relevant[row], half[row])
        self._score_head(slice(start, stop), positions[:, : self.depth], lengths, shared)

    def _score_row(
        self, query: int, ranking: NDArray[np.int64], relevant: NDArray[np.bool_], half: NDArray[np.bool_]
    ) -> None:
        """Metrics of the whole ranking, from the ranks of its relevant items."""
        sets = self.set_of.take(ranking)
        hits = np.flatnonzero(relevant.take(sets))
        found, ranks = sets.take(hits), self.counting.take(hits)
        values = self.values
        if ranking.size:
            within = np.searchsorted(hits, self.cutoffs)
            precision = within / np.minimum(self.cutoffs, ranking.size)
            for name, value in zip(self.at_k[: self.cutoffs.size], precision, strict=True):
                values[name][query] = value
        if not hits.size:
            return
        for name, value in zip(self.at_k[self.cutoffs.size :], within / hits.size, strict=True):
            values[name][query] = value
        values["r_precision"][query] = np.searchsorted(hits, hits.size) / hits.size
        values[self.ap_names[0]][query] = self._average_precision(ranks)
        values[self.ap_names[1]][query] = self._average_precision(ranks.compress(half.take(found)))
        for label in np.flatnonzero(self.queries[query]):
            holding = ranks.compress(self.holds[label].take(found))
            self.label_ap[query, label] = self._average_precision(holding)
            self.label_hits[query, label] = np.searchsorted(holding, self.cutoffs, "right")

    def _average_precision(self, ranks: Floats) -> float:
        if not ranks.size:
            return np.nan
        head = ranks if self.map_k >= self.counting.size else ranks[: np.searchsorted(ranks, self.map_k, "right")]
        return precision_sum(head, self.counting) / min(self.map_k, ranks.size)

    def _score_head(
        self, block: slice, head: NDArray[np.int64], lengths: NDArray[np.int64], shared: NDArray[np.int64]
    ) -> None:
        """Metrics of graded gains, from the first K of each ranking."""
        rows = np.arange(len(head))[:, None]
        excluded = self.exclude[block]
        own = np.flatnonzero(excluded >= 0)
        codes = shared * self.base + self.set_sizes
        num_codes = self.tables["shared"][0].shape[1]
        # How many items of the database have each code: that is the ideal ranking, the query itself taken out.
        counts = np.bincount(
            (rows * num_codes + codes).ravel(),
            np.broadcast_to(self.set_counts, codes.shape).ravel(),
            minlength=len(head) * num_codes,
        ).reshape(-1, num_codes)
        counts[own, codes[own, self.set_of[excluded[own]]]] -= 1
        ranked = np.take_along_axis(codes, self.set_of.take(head), axis=1)
        sizes = self.query_sizes[block, None]
        ranked[np.arange(head.shape[1]) >= lengths[:, None]] = 0  # the query itself, where K reaches the end
        for kind, (table, falling) in self.tables.items():
            best_first = falling[sizes[:, 0]]
            upto = np.minimum(np.cumsum(np.take_along_axis(counts, best_first, axis=1), axis=1), self.depth)
            weight = np.diff(self.reach[upto.astype(np.int64)], axis=1, prepend=0.0)
            ideal = np.sum(weight * table[sizes, best_first], axis=1)
            dcg = discounted_cumulative_gain(table[sizes, ranked])
            defined = ideal > 0
            value = np.minimum(dcg / np.where(defined, ideal, 1.0), 1.0)
            self.values[self.gain_names[kind]][block] = np.where(defined, value, np.nan)
        overlap = (ranked // self.base).astype(np.float64)
        filled = np.minimum(self.depth, lengths)
        acg = overlap.sum(axis=1) / np.maximum(filled, 1)
        self.values[self.acg][block] = np.where(filled > 0, acg, np.nan)
        relevant = counts[:, self.base :].sum(axis=1).astype(np.int64)  # |O| >= 1
        self.values[self.wap][block] = weighted_average_precision(overlap, None, relevant)


def _words(labels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Multi-hot rows as bits, 64 labels in a word."""
    packed = np.packbits(labels, axis=1)
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.ascontiguousarray(padded).view(np.uint64)  # labels may come column by column


def _multi_hot(labels: ArrayLike, name: str) -> NDArray[np.uint8]:
    array = check_multi_hot(labels, name)
    if not len(array):
        raise ValueError(f"{name} must be multi-hot with a row for at least one image, got shape {array.shape}.")
    return array.astype(np.uint8)
