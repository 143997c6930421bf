"""All metrics of all queries, a block of queries at a time: memory grows with block x N, never with Q x N."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.metrics.ranking import order, rank
from macl_tf.metrics.scoring import Scorer

Floats = NDArray[np.float64]
Similarities = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class QueryScores:
    """What `score_queries` found.

    Args:
        values: Name of the metric to (Q,) float64, one value for each query, NaN where it is undefined.
        label_ap: (Q, C) float64, average precision of label c for the queries that hold c ("relevant" = holds c), NaN
            for other labels and where no other item holds c.
        label_hits: (Q, C, P) int32, how many of the first `precision_k[p]` items hold label c, for the queries that
            hold c; 0 for other labels.
        label_total: (Q, C) int32, how many items other than the query hold label c.
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

    Args:
        similarities: (Q, N) finite array, or a function (start, stop) that returns those rows, writable and called
            from several threads. float32 ranks in float32, float64 in float64.
        query_labels: (Q, C) multi-hot.
        database_labels: (N, C) multi-hot.
        exclude: (Q,) database position that is the query itself, or -1.
        k: Cut-off of NDCG, WAP and ACG.
        precision_k: Cut-offs of precision and recall.
        map_k: Cut-off of the average precisions, None for the whole ranking.
        block_size: Queries ranked at a time; a block needs about 24 bytes x block_size x N per worker.
        workers: Threads, by default one for each core this process may use. Results do not depend on it.
        on_block: Called with the number of queries done, for a progress bar.

    Returns:
        One value for each query and metric.

    Raises:
        ValueError: For shapes that do not fit, labels other than 0 and 1, or a cut-off below 1.
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
