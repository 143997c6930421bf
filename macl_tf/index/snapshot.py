"""One state of an index: a published version and the changes made to it. It never changes, so threads may share it.

Rows are numbered twice. A row is where a vector lies: 0 to N - 1 in the version, from N on what was added since, the
dead among them. A position is a place in `items`, which holds the living only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.index.diverse import centres
from macl_tf.index.filters import Filter
from macl_tf.index.items import Items
from macl_tf.index.journal import Change, Delete, NewLabels, Relabel, Upsert, journal_path, read_changes
from macl_tf.index.plot import Plot
from macl_tf.index.searchers.exact import ExactSearcher
from macl_tf.index.vectors import cosines, unit_rows
from macl_tf.index.version import Stored
from macl_tf.index.view import BACKGROUND, Hit, View
from macl_tf.metrics.ranked import check_cutoff

# With so few rows left to choose from, or so many candidates to fetch, looking at all of them is the faster way.
_FEW_ROWS, _MANY_CANDIDATES = 20_000, 2_000
_DIVERSE, _KEPT = 20_000, 20  # items among which diverse ones are chosen, choices that are kept
_SPARE = 1_000  # dead rows that were added since and are not worth tidying away


@dataclass(frozen=True, eq=False)
class Snapshot(View):
    """A state of an index. `Index.snapshot` gives the present one; its answers stay consistent beside writes."""

    stored: Stored  # the published version
    published: Items  # N, the version's items, with the labels that they hold now
    end: int  # where in its journal the changes end that are in this state
    alive: NDArray[np.bool_]  # (N,) which rows of the version are neither deleted nor replaced
    added: Items  # M items that were upserted since
    added_vectors: NDArray[np.float32]  # (M, D)
    added_thumbnails: tuple[bytes | None, ...]
    added_alive: NDArray[np.bool_]  # (M,) which of them are neither deleted nor replaced
    added_rows: dict[str, int]  # place among the M of each id that lives there

    @classmethod
    def of(cls, stored: Stored) -> Snapshot:
        """The version as it was published."""
        nothing = np.zeros(0, np.intp)
        empty, vectors = stored.items.take(nothing), np.empty((0, stored.vectors.shape[1]), np.float32)
        return cls(stored, stored.items, 0, np.ones(len(stored.items), bool), empty, vectors, (), np.zeros(0, bool), {})

    def caught_up(self, root: Path) -> Snapshot:
        """This state and all that stands in the journal after it, whose lock the caller holds or shares."""
        path = journal_path(root, self.stored.version)
        return self.after(*read_changes(path, self.stored.uuid, self.label_names, self.end))

    def after(self, changes: Sequence[Change], end: int) -> Snapshot:
        """The state after `changes`, which end at `end` in the journal: this one, where there are none."""
        if not changes and end == self.end:
            return self  # with all that was computed of it
        state = self
        # Upserts and deletes that follow each other are taken in together.
        for of_labels, part in groupby(changes, lambda change: isinstance(change, NewLabels | Relabel)):
            take_in = state._relabelled if of_labels else state._rewritten
            state = take_in(list(part))
        return replace(state, end=end)

    def _relabelled(self, changes: Sequence[Change]) -> Snapshot:
        """The state after changes of labels."""
        new = tuple(name for change in changes if isinstance(change, NewLabels) for name in change.names)
        tables = [table.aligned((*self.label_names, *new)) for table in (self.published, self.added)]
        if any(isinstance(change, Relabel) for change in changes):
            tables = [replace(table, labels=table.labels.copy()) for table in tables]
        published, added = tables
        for change in changes:
            if isinstance(change, Relabel):
                column = published.label_names.index(change.label)
                for id_, holds in change.holds.items():
                    if (row := self.added_rows.get(id_)) is not None:
                        added.labels[row, column] = holds
                    elif (row := self.stored.rows.get(id_)) is not None and self.alive[row]:
                        published.labels[row, column] = holds
        return replace(self, published=published, added=added)

    def _rewritten(self, changes: Sequence[Change]) -> Snapshot:
        """The state after upserts and deletes."""
        upserts = [change for change in changes if isinstance(change, Upsert)]
        alive, rows, place = self.alive.copy(), dict(self.added_rows), len(self.added)
        added_alive = np.concatenate([self.added_alive, np.ones(sum(len(change.items) for change in upserts), bool)])
        for change in changes:
            assert isinstance(change, Upsert | Delete)  # for the type checker
            ids = change.ids if isinstance(change, Delete) else change.items.ids
            for id_ in ids:
                if (row := rows.pop(id_, None)) is not None:
                    added_alive[row] = False
                elif (row := self.stored.rows.get(id_)) is not None:
                    alive[row] = False
            if isinstance(change, Upsert):
                rows.update(zip(ids, range(place, place + len(ids)), strict=True))
                place += len(ids)
        added = Items.concatenate([self.added, *(change.items for change in upserts)])
        vectors = np.concatenate([self.added_vectors, *(change.vectors for change in upserts)])
        thumbnails = sum((change.thumbnails for change in upserts), self.added_thumbnails)
        if 2 * np.count_nonzero(added_alive) + _SPARE < len(added):
            living = np.flatnonzero(added_alive)
            added, vectors, added_alive = added.take(living), vectors[living], np.ones(len(living), bool)
            thumbnails = tuple(thumbnails[row] for row in living)
            rows = {id_: row for row, id_ in enumerate(added.ids)}
        return Snapshot(self.stored, self.published, self.end, alive, added, vectors, thumbnails, added_alive, rows)

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive)) + len(self.added_rows)

    @property
    def dim(self) -> int:
        """D, the dimensions of the vectors."""
        return self.stored.vectors.shape[1]

    @property
    def version(self) -> int:
        """Number of the published version."""
        return self.stored.version

    @property
    def uuid(self) -> str:
        """What tells the published version from every other."""
        return self.stored.uuid

    @property
    def revision(self) -> str:
        """What tells this state from every other."""
        return f"{self.stored.uuid}-{self.end:x}"

    @property
    def info(self) -> dict[str, Any]:
        """The facts in the version's manifest: encoder, dim, count, label_names, kind, parameters, recall."""
        return self.stored.info

    @property
    def label_names(self) -> tuple[str, ...]:
        """C label names: those of the version in its order, then those that came since in theirs."""
        return self.published.label_names

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(N, C) multi-hot labels of the living items, in order."""
        return np.concatenate([self.published.labels[self.alive], self.added.labels[self.added_alive]])

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """(C,) how many items hold each label."""
        return self.labels.sum(axis=0, dtype=np.int64)

    @property
    def can_be_exact(self) -> bool:
        """See `View`."""
        return True

    @property
    def has_places(self) -> bool:
        """Whether any living item has a footprint."""
        parts = [(self.stored.items.footprints, self.alive), (self.added.footprints, self.added_alive)]
        return any(bool((~np.isnan(footprints[:, 0, 0]) & alive).any()) for footprints, alive in parts)

    def vectors_of(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit vectors of items. A ValueError names an id that is not there, here and in what follows."""
        homes = [self._home(id_) for id_ in ids]
        found = [(self.added_vectors if table is self.added else self.stored.vectors)[row] for table, row in homes]
        return np.array(found, np.float32).reshape(len(homes), self.dim)

    @cached_property
    def num_changes(self) -> int:
        """Items in which this state differs from the published version: added, replaced, deleted or relabelled."""
        replaced = sum(id_ in self.stored.rows for id_ in self.added_rows)
        relabelled = 0
        if self.published is not self.stored.items:
            others = self.published.labels != self.stored.items.aligned(self.label_names).labels
            relabelled = int(np.count_nonzero(others.any(axis=1) & self.alive))
        return len(self.added_rows) + int(np.count_nonzero(~self.alive)) - replaced + relabelled

    @cached_property
    def items(self) -> Items:
        """The living items: those of the version in its order, then those added since in theirs."""
        if self._all_alive and not len(self.added):
            return self.published
        return Items.concatenate([self.published.take(self.alive), self.added.take(self.added_alive)])

    @cached_property
    def background(self) -> tuple[str, ...]:
        """Ids of 300 living items, or of all if there are fewer: drawn at random, and always the same."""
        count = min(BACKGROUND, len(self))
        places = np.random.default_rng(0).choice(len(self), count, replace=False)
        return tuple(table.ids[row] for table, row in map(self._home, np.sort(places).tolist()))

    def counts(self, filter: Filter | None = None) -> tuple[int, NDArray[np.int64]]:
        """How many living items meet a filter, and (C,) how many of these hold each label."""
        items = self.items
        held = items.labels
        if filter is None:
            return len(items), held.sum(axis=0, dtype=np.int64)
        mask = filter.mask(items)
        return int(np.count_nonzero(mask)), held[mask].sum(axis=0, dtype=np.int64)

    def diverse(self, count: int, seed: int = 0) -> tuple[str, ...]:
        """Ids of so many living items that are unlike each other, to begin with; see `macl_tf.index.diverse`.

        They are chosen among 20,000 drawn at random, another seed among half as many or half of the items.
        """
        found = self._diverse.get((count, seed))
        if found is None:
            most = min(len(self), _DIVERSE if seed == 0 else max(count, min(_DIVERSE, len(self)) // 2))
            places = np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False)).tolist()
            ids = [table.ids[row] for table, row in map(self._home, places)]
            if len(self._diverse) >= _KEPT:
                self._diverse.clear()
            found = tuple(ids[place] for place in centres(self.vectors_of(ids), count))
            self._diverse[count, seed] = found
        return found

    @cached_property
    def _diverse(self) -> dict[tuple[int, int], tuple[str, ...]]:
        return {}

    @cached_property
    def plot(self) -> Plot | None:
        """See `View`; what was written since the version was built is not drawn."""
        if self.stored.plot is None:
            return None
        rows, places = self.stored.plot
        living = self.alive[rows]
        return Plot(self.stored.items.ids[rows[living]], places[living])

    def holds(self, id_: str) -> bool:
        """Whether there is an item with this id."""
        row = self.stored.rows.get(id_)
        return id_ in self.added_rows or (row is not None and bool(self.alive[row]))

    def present(self, ids: Collection[str]) -> set[str]:
        """Those of the ids that there are items with."""
        return {id_ for id_ in ids if self.holds(id_)}

    def holds_label(self, id_: str, label: str) -> bool:
        """Whether an item holds a label of the index."""
        table, row = self._home(id_)
        return bool(table.labels[row, self.label_names.index(label)])

    def ids_ending(self, name: str) -> list[str]:
        """Ids that end so after a slash, or, after "…", anywhere; see `id_of`."""
        end = name[1:] if name.startswith("…") else f"/{name}"
        return [id_ for id_ in self.items.ids if id_.endswith(end)] if name.strip("…/") else []

    def ids_like(self, text: str, most: int) -> list[str]:
        """Ids that hold a text in any case: the one that is it, those that end so after a slash, then others."""
        sought = text.lower()
        first = ([text] if self.holds(text) else []) + [id_ for id_ in self.ids_ending(text) if id_ != text]
        others = (id_ for id_ in self.items.ids if sought in id_.lower())
        return list(dict.fromkeys(chain(first[:most], islice(others, most))))[:most]

    def keeping(self, items: Items, missing: Mapping[str, Sequence[bool]]) -> Items:
        """Items of an upsert, with what was not given for them as the items with the same ids here have it.

        `missing` says by name of a column, as in `Index.upsert`, for which of them nothing was given.
        """
        columns: dict[str, Any] = {name: getattr(items, name).copy() for name in missing}
        homes = {place: self._home(id_) for place, id_ in enumerate(items.ids) if self.holds(id_)}
        for name, unknown in missing.items():
            for place, (table, row) in homes.items():
                if unknown[place]:
                    columns[name][place] = getattr(table, name)[row]
        return replace(items, **columns)

    def items_of(self, ids: Sequence[str]) -> Items:
        """What is known of the items of these ids, in their order; of one that is not there nothing but its id."""
        homes = [(self._home(id_) if self.holds(id_) else None) for id_ in ids]
        parts, places = [], list[int]()
        for table in (self.published, self.added):
            there = [place for place, home in enumerate(homes) if home is not None and home[0] is table]
            parts.append(table.take([homes[place][1] for place in there]))  # type: ignore[index]
            places += there
        absent = [place for place, home in enumerate(homes) if home is None]
        parts.append(Items.of(self.label_names, [ids[place] for place in absent]))
        return Items.concatenate(parts).take(np.argsort([*places, *absent]))

    def describe(self, item: int | str) -> dict[str, Any]:
        """Everything known about the item of a position or an id; see `Items.describe`."""
        table, row = self._home(item)
        return table.describe(row)

    def describe_all(self, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        """See `View`."""
        if len(self.added):
            return super().describe_all(hits)
        rows = np.array([hit.position for hit in hits], np.intp)
        return self.published.describe_all(rows if self._living is None else self._living[rows])

    def has_thumbnail(self, item: int | str) -> bool:
        """Whether the item of a position or an id has a small picture."""
        if self._all_pictured and item in self.stored.rows:
            return True
        table, row = self._home(item)
        if table is self.added:
            return bool(self.added_thumbnails[row])
        return self.stored.thumbnails is not None and self.stored.thumbnails.holds(row)

    def thumbnail(self, item: int | str) -> bytes | None:
        """Small JPEG picture of the item of a position or an id, None where it has none."""
        table, row = self._home(item)
        pictures = self.added_thumbnails if table is self.added else self.stored.thumbnails
        return None if pictures is None else pictures[row]

    @property
    def published_vectors(self) -> NDArray[np.float32] | None:
        """(N, D) vectors of `items`, mapped from disk, where nothing was changed; else None: `blocks` has them."""
        return self.stored.vectors if self._all_alive and not len(self.added) else None

    def blocks(self, size: int = 65_536) -> Iterator[NDArray[np.float32]]:
        """Vectors of all living items, in order, as blocks."""
        for start in range(0, len(self.alive), size):
            yield self.stored.vectors[start : start + size][self.alive[start : start + size]]
        yield self.added_vectors[self.added_alive]

    def search(
        self,
        vectors: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        exact: bool = False,
        without: Collection[str] = (),
    ) -> list[list[Hit]]:
        """See `View`; ties by position."""
        check_cutoff(k, optional=False)
        given = np.asarray(vectors)
        queries = unit_rows(given if given.size else np.empty((0, self.dim)), self.dim, "queries")
        allowed: NDArray[np.bool_] | None = None if filter is None and self._all_alive else self.alive
        added_allowed = self.added_alive
        if filter is not None:
            allowed = self.alive & filter.mask(self.published)
            added_allowed = added_allowed & filter.mask(self.added)
        if without:
            allowed, added_allowed = (self.alive if allowed is None else allowed).copy(), added_allowed.copy()
            for id_ in without:
                if (row := self.added_rows.get(id_)) is not None:
                    added_allowed[row] = False
                elif (row := self.stored.rows.get(id_)) is not None:
                    allowed[row] = False
        scores, rows = self._search_version(queries, k, allowed, exact)
        if added_allowed.any():
            beside = ExactSearcher(self.added_vectors)
            more_scores, more = beside.search(queries, k, allowed=added_allowed)
            scores = np.concatenate([scores, more_scores], axis=1)
            rows = np.concatenate([rows, more + len(self.alive)], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equals, those of the version stand first
            scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        return self._hits(scores, rows)

    def _search_version(
        self, queries: NDArray[np.float32], wanted: int, allowed: NDArray[np.bool_] | None, exact: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best of the version's rows, best first, ties by row."""
        stored, size = self.stored, len(self.alive)
        count = size if allowed is None else int(np.count_nonzero(allowed))
        wanted = min(wanted, count)
        # Half as many again and ten as the share of rows that may be found asks for: neighbours are not spread evenly.
        fetched = wanted if allowed is None else math.ceil(1.5 * wanted * size / max(count, 1)) + 10
        if stored.approximate is None or exact or count <= _FEW_ROWS or fetched > _MANY_CANDIDATES:
            if not wanted:
                return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
            return stored.exact.search(queries, wanted, allowed=allowed)
        _, rows = stored.approximate.search(queries, fetched, unit=True)
        usable, places = rows >= 0, np.maximum(rows, 0)
        if allowed is not None:
            usable &= allowed[places]
        # ScaNN's own scores are sums in float32: scored as exact search does it, equal vectors tie wherever they lie.
        each = np.arange(len(queries))[:, None]
        found = np.where(usable, cosines(queries, each, stored.vectors, places), -np.inf)
        order = np.lexsort((rows, -found), axis=1)[:, :wanted]
        scores, rows = found[each, order], rows[each, order]
        short = np.flatnonzero(usable.sum(axis=1) < wanted)
        if short.size:
            scores[short], rows[short] = stored.exact.search(queries[short], wanted, allowed=allowed)
        return scores, rows

    def _hits(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> list[list[Hit]]:
        """Of each query, from cosines and rows (Q, K)."""
        positions = rows if self._living is None else np.searchsorted(self._living, rows)
        size, ids = len(self.alive), np.empty(rows.shape, object)
        old = rows < size
        ids[old], ids[~old] = self.stored.items.ids[rows[old]], self.added.ids[rows[~old] - size]
        found = zip(ids.tolist(), scores.tolist(), positions.tolist(), strict=True)
        return [list(map(Hit, *columns)) for columns in found]

    @cached_property
    def _all_alive(self) -> bool:
        return bool(self.alive.all())

    @cached_property
    def _all_pictured(self) -> bool:
        return self._all_alive and not len(self.added) and bool(self.stored.thumbnails and self.stored.thumbnails.whole)

    @cached_property
    def _living(self) -> NDArray[np.int64] | None:
        """Rows of the living, ascending; None where that is all of them."""
        if self._all_alive and self.added_alive.all():
            return None
        return np.flatnonzero(np.concatenate([self.alive, self.added_alive]))

    def _home(self, item: int | str) -> tuple[Items, int]:
        """The table that the item of a position or an id stands in, and its row there."""
        if isinstance(item, str):
            if not self.holds(item):
                raise ValueError(f"ids must be of items in the index, got {item!r}, which is not there.")
            row = self.added_rows.get(item)
            return (self.published, self.stored.rows[item]) if row is None else (self.added, row)
        if not 0 <= item < len(self):
            raise ValueError(f"position must be in [0, {len(self)}), got {item}.")
        row, size = int(item if self._living is None else self._living[item]), len(self.alive)
        return (self.published, row) if row < size else (self.added, row - size)
