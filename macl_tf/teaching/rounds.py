"""Rounds: which tiles to judge next for a collection, and what its marks say about the archive so far.

A round asks about three kinds of tiles that nobody has marked: the best candidates, those whose score lies nearest to
where right and wrong ones part, and some that are drawn at random, without which nobody could say how many are left.

How many are left is estimated from the random ones alone, a stratified sample of the whole archive. The sixteenth of
it that is most like the collection's first right tile is one stratum, the rest the other, and within each the tiles
stand in an order by the hash of their ids. One of the first and four of the second are a block; rounds ask for what
is not judged yet, block by block. The sample is the blocks that are judged whole. Strata and order depend neither on
what is marked later nor on how a tile came to be marked, so the sample is one, whoever marked its tiles and why.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.index.snapshot import Snapshot
from macl_tf.index.view import View
from macl_tf.search.query import QueryError, Result, describe, vector_of
from macl_tf.teaching.collections import RIGHT, WRONG, Collection

BEST, UNCERTAIN, SAMPLED = 24, 8, 5  # tiles of each kind in a round
KINDS = ("best", "uncertain", "sampled")
MOST = 200  # of each
_LAST = 50  # marks whose precision is told
_NEAR = 16  # one part in so many of the archive is the stratum near the first right tile
_BLOCK = (1, 4)  # tiles of each stratum in a block: as the square roots of their sizes
_DRAWS, _SURE = 20_000, 0.95
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Left:
    """How many right tiles of the index are not marked yet, estimated."""

    estimate: int
    low: int  # with high, an interval of 95 % confidence; docs/collections.md has how often it held
    high: int
    sample: int  # tiles that were drawn at random, and judged right or wrong


@dataclass(frozen=True)
class Precision:
    """How many of the last marks are right."""

    right: int
    of: int  # at most 50


@dataclass(frozen=True)
class Round:
    """What to judge next. No tile stands in two lists, and none is marked or skipped."""

    collection: Collection
    best: tuple[Result, ...]  # the highest scores first
    uncertain: tuple[Result, ...]  # the most uncertain first
    sampled: tuple[Result, ...]  # in the order in which they are drawn
    found: int  # tiles of the index that are marked right
    precision: Precision | None  # None before the first mark
    left: Left | None  # None as long as no block of the sample is judged


def whole(view: View) -> Snapshot:
    """A state of which every vector can be looked at; a QueryError for one that lies in another engine."""
    if not isinstance(view, Snapshot):
        rule = "rounds and teaching look at every vector, and so need an index of files"
        raise QueryError(rule, None, "Serve the folder without --index.")
    return view


def next_round(
    collection: Collection, snapshot: Snapshot, *, best: int = BEST, uncertain: int = UNCERTAIN, sampled: int = SAMPLED
) -> Round:
    """The tiles of the index to judge next, of each kind so many, as long as there are any.

    Args:
        collection: With a right tile that the index holds.
        snapshot: The state of the index.
        best: Candidates, in [0, 200].
        uncertain: Tiles between right and wrong, in [0, 200].
        sampled: Tiles drawn at random, in [0, 200].

    Raises:
        QueryError: For a collection without such a tile, or a number that cannot be.
    """
    for name, number in zip(KINDS, (best, uncertain, sampled), strict=True):
        if not 0 <= number <= MOST:
            raise QueryError(f"{name} must be in [0, {MOST}]", number, "Ask for another round after this one.")
    marked = collection.examples(snapshot)
    direction = vector_of(snapshot, marked["positive"], marked["negative"])
    first = snapshot.vectors_of(marked["positive"][:1])[0]
    scores, likeness = np.concatenate([block @ np.stack([direction, first], 1) for block in snapshot.blocks()]).T
    ids: list[str] = snapshot.items.ids.tolist()
    said = {mark.id: mark.mark for mark in collection.seen}
    marks = np.array([said.get(id_, "") for id_ in ids])
    right, wrong, seen = marks == RIGHT, marks == WRONG, marks != ""
    near = np.zeros(len(ids), bool)
    near[np.argsort(-likeness, kind="stable")[: math.ceil(len(ids) / _NEAR)]] = True

    ranked = np.argsort(-scores, kind="stable")
    ranked = ranked[~seen[ranked]]
    usual = scores[wrong] if wrong.any() else snapshot.vectors_of(snapshot.background) @ direction
    parting = (scores[right].mean() + usual.mean()) / 2
    rest = ranked[best:]
    unsure = rest[np.argsort(np.abs(scores[rest] - parting), kind="stable")][:uncertain]
    blocks = _blocks(ids, near)
    shown = {*ranked[:best].tolist(), *unsure.tolist()}
    # A tile of the sample that stands among the others is asked for there.
    asked = [place for place in chain.from_iterable(blocks) if not seen[place]][:sampled]
    asked = [place for place in asked if place not in shown]

    def results(places: Sequence[int]) -> tuple[Result, ...]:
        found = enumerate(places, start=1)
        return tuple(
            Result(rank, float(scores[place]), ids[place], describe(snapshot, ids[place])) for rank, place in found
        )

    last = collection.marks[-_LAST:]
    return Round(
        collection,
        results(ranked[:best].tolist()),
        results(unsure.tolist()),
        results(asked),
        int(right.sum()),
        Precision(sum(mark.mark == RIGHT for mark in last), len(last)) if last else None,
        _left(blocks, near, right, wrong, seen),
    )


def figures(found: Round) -> dict[str, Any]:
    """How many are found, the precision of the last marks, and how many are left, for programs."""
    told = {"precision": found.precision, "left": found.left}
    return {"found": found.found, **{name: None if one is None else asdict(one) for name, one in told.items()}}


def as_json(found: Round) -> dict[str, Any]:
    """A round for programs: the collection, figures, and of each kind the tiles."""
    collection = found.collection
    tiles = {kind: [{"score": one.score, **one.item} for one in getattr(found, kind)] for kind in KINDS}
    return {"name": collection.name, **collection.counts, "skipped": len(collection.skipped), **figures(found), **tiles}


def _blocks(ids: Sequence[str], near: Bools) -> list[list[int]]:
    """The order in which the whole archive would be asked for: positions, in blocks."""
    order = np.argsort(_hashes(ids), kind="stable")
    # The rest comes first: what is marked as a candidate lies near, and would make blocks whole too easily.
    queues = [(order[~near[order]].tolist(), _BLOCK[1]), (order[near[order]].tolist(), _BLOCK[0])]
    number = max(-(-len(queue) // size) for queue, size in queues)
    return [
        [place for queue, size in queues for place in queue[size * block : size * (block + 1)]]
        for block in range(number)
    ]


def _hashes(ids: Sequence[str]) -> NDArray[np.uint64]:
    """(N,) numbers that are as good as drawn at random, and always the same of an id."""
    mixed = np.array([zlib.crc32(id_.encode(errors="surrogatepass")) for id_ in ids], np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed


def _left(blocks: list[list[int]], near: Bools, right: Bools, wrong: Bools, seen: Bools) -> Left | None:
    """The estimate from the blocks that are judged whole.

    In a stratum of N tiles of which n were drawn and k of these are right, k + (N - n) k / n are (Horvitz and Thompson,
    1952), and Clopper and Pearson (1934) bound the share. Bounds of the strata are melded: the interval is that of the
    sum of their confidence distributions (Fay, Proschan and Brittain, "Combining one-sample confidence procedures",
    2015). What is known by other marks cuts off what cannot be. Of tiles that were skipped nobody knows: the lower
    bound takes them as wrong, the upper one as right.
    """
    whole = next((number for number, block in enumerate(blocks) if not seen[block].all()), len(blocks))
    drawn = np.zeros(len(near), bool)
    drawn[list(chain.from_iterable(blocks[:whole]))] = True
    generator = np.random.default_rng(0)
    estimate, low, high, judged = 0.0, np.zeros(_DRAWS), np.zeros(_DRAWS), 0
    for stratum in (near, ~near):
        if not stratum.any():
            continue
        size, n, k = (int(np.count_nonzero(stratum & of)) for of in (np.ones_like(near), drawn, drawn & right))
        known, no = (int(np.count_nonzero(stratum & of)) for of in (right, wrong))
        skipped = n - k - int(np.count_nonzero(stratum & drawn & wrong))
        if n == skipped:
            return None
        judged += n - skipped
        estimate += float(np.clip(k + (size - n) * k / (n - skipped), known, size - no)) - known
        least = generator.beta(k, n - k + 1, _DRAWS) if k else np.zeros(_DRAWS)
        most = generator.beta(k + skipped + 1, n - k - skipped, _DRAWS) if k + skipped < n else np.ones(_DRAWS)
        low += np.clip(k + (size - n) * least, known, size - no) - known
        high += np.clip(k + skipped + (size - n) * most, known, size - no) - known
    tail = (1 - _SURE) / 2
    bounds = math.floor(np.quantile(low, tail) + 1e-9), math.ceil(np.quantile(high, 1 - tail) - 1e-9)
    return Left(round(estimate), *bounds, judged)
