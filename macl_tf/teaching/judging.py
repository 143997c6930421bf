"""How well two encoders find held-out tiles: each tile is judged by a head that did not learn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.splits import stratify
from macl_tf.evaluation.report import RetrievalReport
from macl_tf.evaluation.retrieval import evaluate

_FOLDS = 3
_JUDGED_ONCE = 2_000  # labelled tiles: of more, one part is held out once, not each part in its turn
_LARGEST = 10_000  # tiles of a part
_QUERIES = 2_000
MEANS = ("ndcg@100_jaccard", "map_per_label", "map_rarest_third")
JUDGED_BY = "map_per_label"

Floats = NDArray[np.floating[Any]]
Pair = tuple[RetrievalReport, RetrievalReport]  # of the encoder before, and after


def held_out(labels: NDArray[np.uint8], seed: int) -> Iterator[NDArray[np.bool_]]:
    """Which of the N tiles of labels (N, C) are held out, in turn: labels are spread evenly over the parts.

    Of few tiles each is held out once; of many, a part is, that is large enough to judge by.
    """
    count = len(labels)
    folds = _FOLDS if labels.sum(axis=0).max() >= 2 * _FOLDS else 2
    folds = max(folds, -(-count // _LARGEST))
    sizes = [(place + 1) * count // folds - place * count // folds for place in range(folds)]
    parts = stratify(labels, sizes, seed)
    for part in range(1 if labels.any(axis=1).sum() > _JUDGED_ONCE else folds):
        yield parts == part


def compared(
    before: Floats, after: Floats, labels: NDArray[np.uint8], names: Sequence[str], counts: NDArray[np.int64], seed: int
) -> Pair:
    """Held-out tiles searched among each other by the vectors (n, D) of two encoders; tiles with a label are queries.

    `counts` (C,) of all tiles say which labels are rare.
    """
    queries = np.flatnonzero(labels.any(axis=1))
    queries = np.sort(np.random.default_rng(seed).permutation(queries)[:_QUERIES])
    everything = np.arange(len(labels))
    given: dict[str, Any] = {"label_names": names, "label_counts": counts, "query_ids": queries}
    one, other = (
        evaluate(rows[queries], labels[queries], rows, labels, database_ids=everything, **given)
        for rows in (before, after)
    )
    return one, other


def pooled(reports: Sequence[RetrievalReport]) -> RetrievalReport:
    """One report of several on different queries: means over all of them."""
    first = reports[0]
    values: dict[str, float | None] = {}
    left_out = {key: sum(report.left_out[key] for report in reports) for key in first.left_out}
    for key in first.values:
        values[key] = _mean([(report.values[key], report.num_queries - report.left_out[key]) for report in reports])
    per_label = []
    for entries in zip(*(report.per_label for report in reports), strict=True):
        whole = dict(entries[0])
        for key, value in entries[0].items():
            if key in ("queries", "left_out"):
                whole[key] = sum(entry[key] for entry in entries)
            elif key == "ap" or "@" in key:
                whole[key] = _mean([(entry[key], entry["queries"] - entry["left_out"]) for entry in entries])
            else:
                whole[key] = value
        per_label.append(whole)
    for key, of in (("map_per_label", per_label), ("map_rarest_third", [one for one in per_label if one["rare"]])):
        known = [entry["ap"] for entry in of if entry["ap"] is not None]
        values[key] = float(np.mean(known)) if known else None
        left_out[key] = len(of) - len(known)
    queries, database = (sum(getattr(report, name) for report in reports) for name in ("num_queries", "num_database"))
    return RetrievalReport(values, left_out, tuple(per_label), queries, database)


def _mean(weighted: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in weighted if value is not None and weight > 0]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def judged(
    train: Callable[[NDArray[np.bool_]], Callable[[Floats], Floats]],
    before: Floats,
    features: Floats,
    labels: NDArray[np.uint8],
    names: Sequence[str],
    seed: int,
) -> Pair:
    """Reports of the encoder before, and of heads that `train` makes without the tiles that are held out.

    Args:
        train: From which of the N tiles to learn (N,) to what a head makes of features.
        before: (N, D) vectors of the encoder before.
        features: (N, F).
        labels: (N, C).
        names: C names.
        seed: Of the parts.
    """
    counts = labels.sum(axis=0, dtype=np.int64)
    pairs = []
    for out in held_out(labels, seed):
        after = train(~out)(features[out])
        pairs.append(compared(before[out], after, labels[out], names, counts, seed))
    one, other = zip(*pairs, strict=True)
    return pooled(one), pooled(other)
