"""Suggestions: tiles that probably hold a label and do not have it, and tiles that have it and probably do not.

Every tile is looked at by a classifier that did not see it (`search.direction`), on what the index keeps of the
backbone, which was learned without these labels. Between the average score of those without the label, 0, and that of
those with it, 1, a tile without it is suggested from 0.75 on, one with it up to 0.25. Confident learning (Northcutt,
Jiang, Chuang 2021) suggests from the averages themselves on, beyond which half of what is wrong is not.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macl_tf.artifacts import open_encoder
from macl_tf.datasets.label_names import KnownLabels
from macl_tf.index.index import Index
from macl_tf.index.snapshot import Snapshot
from macl_tf.models.descriptor_names import features_in
from macl_tf.search.direction import direction, unit
from macl_tf.search.query import QueryError
from macl_tf.teaching.collections import Collection, Collections
from macl_tf.teaching.judging import held_out
from macl_tf.teaching.lessons import LEAST, Lessons, gather, vectors_at

MISSING, DOUBTFUL = "missing", "doubtful"
_SURE = 0.75
_ROWS = 200  # tiles of each side that a classifier learns from
Floats = NDArray[np.float64]


class Suggestion(NamedTuple):
    """A tile whose label is worth a look."""

    label: str
    id: str
    kind: str  # "missing" or "doubtful"
    score: float  # 1 as tiles with the label score on the average, 0 as those without


def suggest(
    served: str | os.PathLike[str],
    *,
    labels: Sequence[str] = (),
    table: str | os.PathLike[str] | None = None,
    most: int = 20,
    seed: int = 0,
) -> list[Suggestion]:
    """Suggestions for each label and collection that four tiles hold at least, the surest first.

    Tiles that are marked wrong in a collection are not suggested to hold it, nor those marked right not to.

    Args:
        served: What `macl export` or `macl index` wrote.
        labels: Labels and collections to look at; all by default.
        table: A label table of the tiles, as of `teach`.
        most: Suggestions of each kind for each label, >= 1.
        seed: Of the parts that are held out.

    Raises:
        QueryError: Where nothing is labelled or marked, and for an unknown label.
        ValueError: For `most` < 1.
        ArtifactError: If the index is missing or damaged.
    """
    served = Path(served)
    state = Index.open(served / "index", exact=True).snapshot
    made_with = state.info.get("encoder")
    info = open_encoder(served, made_with, verify=False)[1]["info"] if made_with else None
    return suggest_in(state, Collections(served).all(), info, labels=labels, table=table, most=most, seed=seed)


def suggest_in(
    state: Snapshot,
    collections: Sequence[Collection],
    info: Mapping[str, Any] | None,
    *,
    labels: Sequence[str] = (),
    table: str | os.PathLike[str] | None = None,
    most: int = 20,
    seed: int = 0,
) -> list[Suggestion]:
    """As `suggest`, of a state of an index; `info` is what its encoder says of itself, None where it has none."""
    if most < 1:
        raise ValueError(f"most must be >= 1, got {most}.")
    lessons = gather(state, collections, table, seed=seed)
    known = KnownLabels(lessons.names)
    if unknown := [name for name in labels if known.find(name) is None]:
        rule = f"a label to look at must be one of {', '.join(lessons.names)}, which two tiles hold at least"
        raise QueryError(rule, unknown[0], "Give it to more tiles first.")
    asked = {known.find(name) for name in labels}
    seen = {known.find(one.name): ({*one.wrong}, {*one.right}) for one in collections}
    width = (info and features_in(info)) or state.dim
    chosen = [
        place
        for place in range(len(lessons.names))
        if (not labels or place in asked) and lessons.labels[:, place].sum() >= LEAST
    ]
    scores = _scores(state, lessons, chosen, width, seed)
    held = np.zeros((len(state), len(lessons.names)), bool)
    held[lessons.positions] = lessons.labels > 0
    found = list[Suggestion]()
    for column, place in enumerate(chosen):
        looked_at = seen.get(place, ((), ()))
        found += _of_label(state, lessons.names[place], held[:, place], scores[:, column], looked_at, most)
    return found


def as_csv(found: Sequence[Suggestion]) -> str:
    """A table of label, id, suggestion and score."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("label", "id", "suggestion", "score"))
    table.writerows((one.label, one.id, one.kind, f"{one.score:.3f}") for one in found)
    return text.getvalue()


def counted(found: Sequence[Suggestion]) -> Mapping[str, tuple[int, int]]:
    """By label, how many tiles are suggested to hold it, and how many not to."""
    names = dict.fromkeys(one.label for one in found)
    kinds = [(one.label, one.kind) for one in found]
    return {name: (kinds.count((name, MISSING)), kinds.count((name, DOUBTFUL))) for name in names}


def _scores(state: Snapshot, lessons: Lessons, chosen: Sequence[int], width: int, seed: int) -> NDArray[np.float32]:
    """(N, C) scores of all tiles for the chosen labels, each by classifiers that did not see it."""
    rng = np.random.default_rng(seed)
    rows = _unit_rows(vectors_at(state, lessons.positions)[:, :width].astype(np.float64))
    parts = [*held_out(lessons.labels, seed)]
    if len(parts) == 1:  # of many tiles; all of them are to be looked at
        parts = [parts[0], ~parts[0]]
    ways = np.zeros((len(parts), len(chosen), width))
    for number, out in enumerate(parts):
        for column, place in enumerate(chosen):
            holds = lessons.labels[:, place] > 0
            with_it, without = (rng.permutation(np.flatnonzero(side & ~out))[:_ROWS] for side in (holds, ~holds))
            if len(with_it):
                ways[number, column] = direction(rows[with_it], rows[without], rows[:0])
    everywhere = [
        _unit_rows(block[:, :width]) @ np.stack([unit(way) for way in ways.mean(axis=0)]).T.astype(np.float32)
        for block in state.blocks()
    ]
    scores = np.concatenate(everywhere)
    for number, out in enumerate(parts):
        scores[lessons.positions[out]] = rows[out] @ ways[number].T
    return scores


def _unit_rows(rows: NDArray[Any]) -> NDArray[Any]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _of_label(
    state: Snapshot,
    name: str,
    held: NDArray[np.bool_],
    scores: NDArray[np.float32],
    seen: tuple[Container[str], Container[str]],
    most: int,
) -> list[Suggestion]:
    ids = state.items.ids
    with_it, without = float(scores[held].mean()), float(scores[~held].mean()) if not held.all() else -1.0
    if with_it <= without:
        return []  # nothing tells them apart
    share = (scores - without) / (with_it - without)
    wrong, right = seen
    sure, unsure = np.flatnonzero((share >= _SURE) & ~held), np.flatnonzero((share <= 1 - _SURE) & held)
    missing = [row for row in sure[np.argsort(-share[sure])] if ids[row] not in wrong]
    doubtful = [row for row in unsure[np.argsort(share[unsure])] if ids[row] not in right]
    pairs = [(row, MISSING) for row in missing[:most]] + [(row, DOUBTFUL) for row in doubtful[:most]]
    return [Suggestion(name, str(ids[row]), kind, float(share[row])) for row, kind in pairs]
