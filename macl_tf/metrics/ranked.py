"""The definitions: metrics of items that are already ranked.

Every function takes arrays whose last axis is the rank, best first, and returns one value for each entry of the
axes before it. A value that is undefined is NaN, so that a mean can leave it out and count it. `k` is the cut-off:
None for the whole ranking, and a `k` beyond its end means its end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

GAINS = ("shared", "jaccard", "cosine")


def check_cutoff(k: int | None, name: str = "k", optional: bool = True) -> None:
    """Raises ValueError unless `k` is a whole number of at least 1, or None where that is allowed."""
    if k is None and optional:
        return
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"{name} must be {'None or ' * optional}a whole number >= 1, got {k!r}.")


def gains(shared: ArrayLike, query_size: ArrayLike, item_size: ArrayLike, kind: str) -> Floats:
    """How much an item is worth to a query, from the labels they share.

        shared: |O|      jaccard: |O| / |y_q or y_j|      cosine: |O| / sqrt(|y_q| |y_j|)

    Args:
        shared: |O|, labels shared by query and item; the three arrays broadcast.
        query_size: |y_q|, labels of the query.
        item_size: |y_j|, labels of the item.
        kind: "shared", "jaccard" or "cosine".

    Returns:
        float64; 0 where no label is shared. `ndcg` of `shared` gains takes 2^|O| - 1 of them.

    Raises:
        ValueError: For another kind.

    Example:
        >>> [float(gains(2, 2, 8, kind)) for kind in GAINS]
        [2.0, 0.25, 0.5]
    """
    if kind not in GAINS:
        raise ValueError(f"kind must be one of {', '.join(GAINS)}, got '{kind}'.")
    overlap, a, b = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (shared, query_size, item_size)))
    if kind == "shared":
        return overlap
    scale = a + b - overlap if kind == "jaccard" else np.sqrt(a * b)
    return overlap / np.where(overlap > 0, scale, 1.0)


def precision_sum(ranks: NDArray[np.float64], counting: NDArray[np.float64]) -> float:
    """Sum of P@r over the ranks (1, 2, ..., ascending) of the relevant items; `counting` is 1.0, 2.0, ..."""
    return float(np.add.reduce(counting[: ranks.size] / ranks))


def average_precision(relevant: ArrayLike, k: int | None = None, num_relevant: ArrayLike | None = None) -> Floats:
    """Average precision, AP@K = sum over r <= K of P@r d_r / min(K, number relevant in the database).

    Args:
        relevant: (..., N) d_r, whether the item at rank r is relevant.
        k: K, or None for the whole ranking.
        num_relevant: (...) relevant items in the database, where `relevant` is only the head of the ranking.

    Returns:
        (...) in [0, 1]; NaN where nothing is relevant.

    Raises:
        ValueError: If `k` < 1, or `num_relevant` is less than the relevant items given.

    Example:
        >>> float(average_precision([1, 0, 1, 0]))  # (1/1 + 2/3) / 2
        0.8333333333333333
    """
    check_cutoff(k)
    flags = np.asarray(relevant, bool)
    total = _num_relevant(flags, num_relevant)
    head = flags[..., :k]
    counting = np.arange(1.0, head.shape[-1] + 1)
    found = head.reshape(total.size, head.shape[-1])
    sums = np.array([precision_sum(counting[row], counting) for row in found]).reshape(total.shape)
    return _ratio(sums, total if k is None else np.minimum(total, k))


def discounted_cumulative_gain(gains: ArrayLike, k: int | None = None) -> Floats:
    """DCG@K = sum over r <= K of gain_r / log2(1 + r), the gains as they are.

    Args:
        gains: (..., N) gain of the item at rank r.
        k: K, or None for the whole ranking.
    """
    check_cutoff(k)
    head = np.asarray(gains, np.float64)[..., :k]
    # Not a BLAS product: its last bit would depend on how many rows there are.
    return np.asarray(np.sum(head * discounts(head.shape[-1]), axis=-1))


def discounts(length: int) -> Floats:
    """1 / log2(1 + r) for r = 1 ... length."""
    return 1 / np.log2(np.arange(2.0, length + 2))


def ndcg(gains: ArrayLike, ideal_gains: ArrayLike | None = None, k: int | None = None) -> Floats:
    """Normalised discounted cumulative gain, NDCG@K = DCG@K / DCG@K of the best possible ranking.

    Args:
        gains: (..., N) gain of the item at rank r, used as it is: for the exponential form give 2^rel - 1.
        ideal_gains: (..., M) gains of the whole database in any order; by default `gains`, then of all of it.
        k: K, or None for the whole ranking.

    Returns:
        (...) in [0, 1]; NaN where no item of the database has a gain.

    Example:
        >>> round(float(ndcg([1.0, 3.0])), 4)  # (1 + 3 / 1.585) / (3 + 1 / 1.585)
        0.7967

    Reference:
        Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, 2002; the discount of
        Burges et al., Learning to Rank using Gradient Descent, 2005.
    """
    check_cutoff(k)
    ideal = np.sort(np.asarray(gains if ideal_gains is None else ideal_gains, np.float64), axis=-1)[..., ::-1]
    best = discounted_cumulative_gain(ideal, k)
    return np.minimum(_ratio(discounted_cumulative_gain(gains, k), best), 1.0)  # 1 + 1e-16 is rounding


def average_cumulative_gain(gains: ArrayLike, k: int | None = None) -> Floats:
    """ACG@K, the mean gain of the first K items; NaN for an empty ranking.

    Args:
        gains: (..., N) gain of the item at rank r.
        k: K, or None for the whole ranking.
    """
    check_cutoff(k)
    head = np.asarray(gains, np.float64)[..., :k]
    return _ratio(head.sum(axis=-1), np.full(head.shape[:-1], head.shape[-1]))


def weighted_average_precision(gains: ArrayLike, k: int | None = None, num_relevant: ArrayLike | None = None) -> Floats:
    """WAP@K = sum over r <= K of ACG@r d_r / sum over r <= K of d_r, where d_r says that gain_r > 0.

    Args:
        gains: (..., N) gain of the item at rank r.
        k: K, or None for the whole ranking.
        num_relevant: (...) items of the database with a gain; counted from `gains` by default.

    Returns:
        (...) values, above 1 where gains are; 0 where no relevant item is among the first K, NaN where there is none.

    Example:
        >>> float(weighted_average_precision([2, 0, 1]))  # (2 / 1 + 3 / 3) / 2
        1.5
    """
    check_cutoff(k)
    values = np.asarray(gains, np.float64)
    total = _num_relevant(values > 0, num_relevant)
    head = values[..., :k]
    found = head > 0
    mean_gain = np.cumsum(head, axis=-1) / np.arange(1, head.shape[-1] + 1)
    sums = np.sum(mean_gain * found, axis=-1)
    return np.where(total > 0, sums / np.maximum(found.sum(axis=-1), 1), np.nan)


def precision_at_k(relevant: ArrayLike, k: int) -> Floats:
    """Share of the first K items that are relevant, out of min(K, N); NaN for an empty ranking.

    Args:
        relevant: (..., N) whether the item at rank r is relevant.
        k: K.
    """
    return average_cumulative_gain(np.asarray(relevant, bool), k)


def recall_at_k(relevant: ArrayLike, k: int, num_relevant: ArrayLike | None = None) -> Floats:
    """Share of the relevant items that are among the first K; NaN where nothing is relevant.

    Args:
        relevant: (..., N) whether the item at rank r is relevant.
        k: K.
        num_relevant: (...) relevant items in the database; counted from `relevant` by default.
    """
    check_cutoff(k)
    flags = np.asarray(relevant, bool)
    return _ratio(flags[..., :k].sum(axis=-1), _num_relevant(flags, num_relevant))


def r_precision(relevant: ArrayLike) -> Floats:
    """Precision among the first R of the items (..., N), where R is the number of the relevant; NaN where R is 0."""
    flags = np.asarray(relevant, bool)
    total = flags.sum(axis=-1)
    within = np.arange(flags.shape[-1]) < total[..., None]
    return _ratio(np.sum(flags & within, axis=-1), total)


def _num_relevant(flags: NDArray[np.bool_], given: ArrayLike | None) -> NDArray[np.int64]:
    seen = np.asarray(flags.sum(axis=-1), np.int64)
    if given is None:
        return seen
    total = np.broadcast_to(np.asarray(given, np.int64), seen.shape)
    if np.any(total < seen):
        raise ValueError(
            f"num_relevant must count the whole database, got {int(total[total < seen][0])} where the ranking "
            f"alone holds {int(seen[total < seen][0])} relevant items."
        )
    return total


def _ratio(top: Floats, bottom: NDArray[np.generic]) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) != 0)
