"""The cheapest setting of an approximate search whose recall reaches a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macl_tf.index.searchers.exact import ExactSearcher

# Scores within this of the K-th best count as found: which of two equal vectors is named is no matter of recall, and
# archives hold equal tiles (sea, no data).
_TIE = 1e-6
# What scoring a candidate again costs, in codes read in the leaves, one for each block of dimensions: it is the way to
# the vector in memory, more than its length. 3,200 at 100,000 x 128, 6,400 at a million, 2,500 at 100,000 x 1,280.
_REORDER_COST = 3_840
_MARGINS = (2.0, 3.0, 4.0, 6.0)  # standard errors above the target, one after the other
_STEP = 1.15  # from a setting to the next costlier one

Search = Callable[[NDArray[np.float32], int, "Setting"], tuple[NDArray[np.float32], NDArray[np.int64]]]


class Setting(NamedTuple):
    """How hard a search tries: leaves looked into, candidates scored again."""

    leaves: int
    reorder: int

    def scaled(self, factor: float) -> Setting:
        """For K times `factor`; a smaller K is searched as the one that was tuned for."""
        factor = max(factor, 1.0)
        return Setting(math.ceil(self.leaves * math.sqrt(factor)), math.ceil(self.reorder * factor))


class Chosen(NamedTuple):
    """A setting and its recall on queries that took no part in choosing it."""

    setting: Setting
    recall: float


@dataclass(frozen=True)
class Sample:
    """Queries taken from the index, and their exact neighbours."""

    rows: NDArray[np.int64]  # (Q,) positions of the queries
    queries: NDArray[np.float32]  # (Q, D)
    kth: NDArray[np.float32]  # (Q,) score of the K-th best other row
    k: int

    def recalls(self, search: Search, setting: Setting) -> NDArray[np.float64]:
        """(Q,) recall@K of each query, itself left out."""
        scores, positions = search(self.queries, self.k + 1, setting)
        good = (scores >= self.kth[:, None] - _TIE) & (positions != self.rows[:, None]) & (positions >= 0)
        return np.minimum(good.sum(axis=1), self.k) / self.k


def sample_queries(vectors: NDArray[np.float32], k: int, num_queries: int) -> tuple[Sample, Sample]:
    """Two samples of rows, the same each time and none in both, with their exact neighbours."""
    count = min(num_queries, len(vectors) // 2)
    depth = min(k, len(vectors) - 1)
    rows = np.random.default_rng(0).permutation(len(vectors))[: 2 * count]
    rows = np.concatenate([np.sort(rows[:count]), np.sort(rows[count:])])
    queries = np.ascontiguousarray(vectors[rows])
    scores, positions = ExactSearcher(vectors).search(queries, depth + 1)
    own = positions == rows[:, None]
    # Where the query is not among its own neighbours, equal rows fill the list: then the last one goes.
    own[~own.any(axis=1), -1] = True
    kth = scores[~own].reshape(len(rows), depth)[:, -1]
    first, second = (
        Sample(rows[part], queries[part], kth[part], depth) for part in (slice(None, count), slice(count, None))
    )
    return first, second


def tune(
    search: Search, tuning: Sample, held_out: Sample, target: float, size: int, num_leaves: int, blocks: int
) -> Chosen | None:
    """The cheapest setting whose recall reaches the target, and its recall on `held_out`; None where none reaches it.

    Settings are chosen by `tuning`, on which recall must be above the target by two standard errors, and confirmed by
    `held_out`; where they fall below the target there, the margin grows. Cost is counted in codes that are read,
    `blocks` of each vector, not in time: the choice does not depend on what else the machine does. `num_leaves` is 1
    where there is no tree.
    """
    seen: dict[Setting, NDArray[np.float64]] = {}
    for margin in _MARGINS:
        setting = _cheapest(search, tuning, target, margin, size, num_leaves, blocks, seen)
        if setting is None:
            return None
        measured = float(held_out.recalls(search, setting).mean())
        if measured >= target:
            return Chosen(setting, measured)
    return None


def cheapest(
    search: Search, tuning: Sample, held_out: Sample, target: float, settings: Sequence[Setting]
) -> Chosen | None:
    """As `tune`, among settings of which each costs more than the one before and finds no less."""
    seen: dict[Setting, NDArray[np.float64]] = {}
    for margin in _MARGINS:
        low, high = 0, len(settings)
        while low < high:
            middle = (low + high) // 2
            reached = _reaches(search, tuning, settings[middle], target, margin, seen)
            low, high = (low, middle) if reached else (middle + 1, high)
        if low == len(settings):
            return None
        measured = float(held_out.recalls(search, settings[low]).mean())
        if measured >= target:
            return Chosen(settings[low], measured)
    return None


def _reaches(
    search: Search,
    sample: Sample,
    setting: Setting,
    target: float,
    margin: float,
    seen: dict[Setting, NDArray[np.float64]],
) -> bool:
    """Whether the recall is above the target by so many standard errors."""
    if setting not in seen:
        seen[setting] = sample.recalls(search, setting)
    recalls = seen[setting]
    error = recalls.std() / math.sqrt(len(recalls))
    return bool(recalls.mean() >= min(target + margin * error, 1.0))


def _cheapest(
    search: Search,
    sample: Sample,
    target: float,
    margin: float,
    size: int,
    num_leaves: int,
    blocks: int,
    seen: dict[Setting, NDArray[np.float64]],
) -> Setting | None:
    def reaches(setting: Setting) -> bool:
        return _reaches(search, sample, setting, target, margin, seen)

    def cost(setting: Setting) -> float:
        return size * setting.leaves / num_leaves * blocks + _REORDER_COST * setting.reorder

    # Twice the size, since a vector that lies in two leaves counts twice.
    reorders = grid(sample.k + 1, min(2 * size, max(1000, 50 * sample.k)))
    best: Setting | None = None
    for leaves in grid(1, num_leaves):
        if best is not None and cost(Setting(leaves, reorders[0])) >= cost(best):
            break
        # Recall grows with the candidates scored again: halve the range until the fewest that do are found.
        affordable = [r for r in reorders if best is None or cost(Setting(leaves, r)) < cost(best)]
        if not affordable or not reaches(Setting(leaves, affordable[-1])):
            continue
        low, high = 0, len(affordable) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(Setting(leaves, affordable[middle])) else (middle + 1, high)
        best = Setting(leaves, affordable[low])
    return best


def grid(first: int, last: int) -> list[int]:
    """Whole numbers from the first to the last, each some 15 % larger than the one before."""
    values = [min(first, last)]
    while values[-1] < last:
        values.append(min(last, max(values[-1] + 1, round(values[-1] * _STEP))))
    return values
