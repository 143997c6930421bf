"""What people said of an archive, as a head learns it: labels of the index, collections, and a label table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.label_lists import listed
from macl_tf.datasets.label_names import KnownLabels
from macl_tf.datasets.matching import match_rows
from macl_tf.datasets.tables import read_label_table
from macl_tf.index.snapshot import Snapshot
from macl_tf.pipeline.samplers import label_aware_weights
from macl_tf.search.query import QueryError
from macl_tf.teaching.collections import RIGHT, Collection

LEAST = 4  # tiles that hold a label or are right in a collection: two to learn from, two to judge by
_BACKGROUND = 1_000  # tiles of which nothing is said, that stand for what is usual
_UNLIKE = 0.7  # share of these from which they are drawn, the least like any label
_MOST = 100_000  # labelled tiles that are learned from


@dataclass(frozen=True)
class Lessons:
    """Tiles to learn from, N of them, and what is known of each."""

    names: tuple[str, ...]  # C labels of the index and the table, and collections that are no label
    collections: tuple[str, ...]  # those of the names that are collections, labels or not
    positions: NDArray[np.int64]  # (N,) in the state's `items`, ascending
    labels: NDArray[np.uint8]  # (N, C); a tile without any is marked wrong, or one of which nothing is said
    left_out: tuple[str, ...]  # names of what fewer than two tiles hold

    @property
    def held(self) -> NDArray[np.bool_]:
        """(N,) which tiles hold a label."""
        return np.asarray(self.labels.any(axis=1))


def gather(
    snapshot: Snapshot,
    collections: Sequence[Collection],
    table: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
) -> Lessons:
    """Everything that is said of the tiles of an index.

    A tile that is right in a collection holds its label, one that is wrong does not; a collection that is no label is
    one by its name. What a label table says of a tile wins over the index, and a collection over both.

    Args:
        snapshot: A state of the index.
        collections: All that count.
        table: A label table of its tiles, as of `macl train --table`.
        seed: Of the draw of tiles of which nothing is said.

    Raises:
        QueryError: Where there is nothing to learn.
        ValueError: For a table that names none of the tiles.
    """
    ids = snapshot.items.ids
    names, columns = list(snapshot.label_names), [*snapshot.labels.T.astype(bool)]
    said = np.zeros(len(ids), bool)  # of which somebody said something

    def column_of(name: str) -> NDArray[np.bool_]:
        place = KnownLabels(names).find(name)
        if place is None:
            place = len(names)
            names.append(name)
            columns.append(np.zeros(len(ids), bool))
        return columns[place]

    if table is not None:
        found = read_label_table(table)
        found, row_of, _ = match_rows(found, ids.tolist())
        if not row_of:
            raise ValueError(
                f"no row of {found.path} names one of the {len(ids):,} ids of the index. Names must agree, with or "
                "without extension and folders."
            )
        places = np.flatnonzero([id_ in row_of for id_ in ids])
        rows = found.labels[[row_of[ids[place]] for place in places]]
        for name, held in zip(found.label_names, rows.T, strict=True):
            column_of(name)[places] = held > 0
        said[places] = True
    of_collections = []
    place_of = {id_: place for place, id_ in enumerate(ids)} if collections else {}
    for collection in collections:
        column = column_of(collection.name)
        of_collections.append(names[KnownLabels(names).find(collection.name) or 0])
        for mark in collection.marks:
            if (place := place_of.get(mark.id)) is not None:
                column[place], said[place] = mark.mark == RIGHT, True
    labels = np.stack(columns, axis=1) if columns else np.zeros((len(ids), 0), bool)
    counts = labels.sum(axis=0)
    if counts.max(initial=0) < LEAST:
        there = listed([f"{name} {count}" for name, count in zip(names, counts.tolist(), strict=True)], 5)
        rule = f"teaching needs a label or collection that {LEAST} tiles hold, two to learn from and two to judge by"
        raise QueryError(
            rule,
            there or "none",
            "Mark more tiles right in a collection, or give a label to more; a command also takes a table by --labels.",
        )
    kept = counts >= 2
    labels = labels[:, kept]
    positions = _chosen(snapshot, labels, said, np.random.default_rng(seed))
    return Lessons(
        tuple(name for name, keep in zip(names, kept, strict=True) if keep),
        tuple(name for name in of_collections if kept[names.index(name)]),
        positions,
        labels[positions].astype(np.uint8),
        tuple(name for name, keep in zip(names, kept, strict=True) if not keep),
    )


def vectors_at(snapshot: Snapshot, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, D) vectors of the tiles at ascending positions; one block of others is in memory at a time."""
    parts, start = [np.empty((0, snapshot.dim), np.float32)], 0
    for block in snapshot.blocks():
        own = positions[np.searchsorted(positions, start) : np.searchsorted(positions, start + len(block))]
        parts.append(block[own - start])
        start += len(block)
    return np.concatenate(parts)


def _chosen(
    snapshot: Snapshot, labels: NDArray[np.bool_], said: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Tiles with a label, tiles of which it is said that they have none, and some of which nothing is said.

    Of the last, only those that are unlike what is labelled: where ten of a hundred airplanes are marked, the others
    are among the tiles that are like these, and would be learned as no airplanes.
    """
    held = labels.any(axis=1)
    labelled = np.flatnonzero(held)
    if len(labelled) > _MOST:  # rare labels stay
        weights = label_aware_weights(labels[labelled], 1.0)
        labelled = np.sort(rng.choice(labelled, _MOST, replace=False, p=weights))
    wrong, rest = np.flatnonzero(said & ~held), np.flatnonzero(~said & ~held)
    if len(rest):
        means = labels[labelled].T.astype(np.float32) @ vectors_at(snapshot, labelled)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        likeness = np.concatenate([(block @ means.T).max(axis=1) for block in snapshot.blocks()])[rest]
        unlike = rest[likeness <= np.quantile(likeness, _UNLIKE)]
        rest = rng.choice(unlike, min(_BACKGROUND, len(unlike)), replace=False)
    return np.sort(np.concatenate([labelled, wrong, rest])).astype(np.int64)
