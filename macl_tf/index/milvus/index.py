"""An index in a Milvus, searched and written to: what an alias stands for is the version that is live.

What is written goes into that version itself, under its primary key, and so is there for every process. A version that
another one is about to replace is closed first: no acknowledged write is left behind in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from macl_tf.artifacts import ArtifactError
from macl_tf.datasets.label_names import known_labels
from macl_tf.index.items import Items
from macl_tf.index.journal import Upsert
from macl_tf.index.milvus import rows as of_rows
from macl_tf.index.milvus.about import CHANGED, About
from macl_tf.index.milvus.connection import READ, WRITE, Address, Connection
from macl_tf.index.milvus.view import Counts, Live, MilvusView
from macl_tf.index.view import Engine, EngineError

_AT_ONCE = 1_000  # rows or ids in one call
_TRIES = 3  # of a write, where one new version after the other goes live
T = TypeVar("T")


class MilvusIndex(Engine):
    """An opened index; any number of threads and processes may search and write at once.

    Of two that write the same tile at the same time, one is the last. Searches see what this process wrote at once,
    and what others wrote as soon as Milvus has it everywhere; what is asked by id is read as it stands.
    """

    def __init__(self, address: Address, connection: Connection) -> None:
        self.address, self._connection = address, connection
        self._about = About(connection, address.collection)
        self._mutex, self._counts = threading.Lock(), Counts()
        self._changed: set[str] = set()  # versions of which it is noted that they were written to
        self._live = self._found()

    @classmethod
    def open(cls, address: Address | str, *, read: float = READ, write: float = WRITE) -> MilvusIndex:
        """Opens what an address names, "milvus:URI"; `read` and `write` are the seconds that a call may take.

        An ArtifactError says that no index is there, an EngineError that Milvus does not answer.
        """
        where = Address.parse(address) if isinstance(address, str) else address
        return cls(where, Connection(where.uri, read=read, write=write))

    @property
    def snapshot(self) -> MilvusView:
        """The live version, for one request: what it reads it remembers."""
        return MilvusView(self._connection, self._live, self._counts)

    def refresh(self) -> None:
        """See `Engine`."""
        with self._mutex:
            self._live = self._found()

    def published(self) -> list[tuple[int, dict[str, Any]]]:
        """See `Engine`."""
        found = {number: facts for number, facts in self._about.versions().items() if facts["whole"]}
        return [(number, found[number]["info"]) for number in sorted(found) if number <= self._live.number]

    def at(self, version: int) -> MilvusView:
        """See `Engine`."""
        facts = self._about.versions().get(version)
        if facts is None or not facts["whole"]:
            raise ArtifactError(f"'{self.address}' has no version {version}. Choose another.")
        return MilvusView(self._connection, self._of(version, facts), Counts())

    def upsert(
        self,
        items: Items,
        vectors: ArrayLike,
        thumbnails: Iterable[bytes | None] | None = None,
        *,
        encoder: Any = None,
        missing: Mapping[str, Sequence[bool]] | None = None,
        new_labels: Sequence[str] = (),
        meant: Sequence[str] | None = None,
    ) -> int:
        """See `Engine`."""
        pictures = None if thumbnails is None else list(thumbnails)

        def change(view: MilvusView) -> int:
            if encoder not in (None, view.info.get("encoder")):
                raise ArtifactError("vectors must be of the newest index's encoder, which is another now: embed again.")
            sure = new_labels if meant is None else meant
            names = known_labels(view.label_names).open_to(new_labels, sure)[1].names
            there = view.present(items.ids.tolist())
            known = _keeping(items.aligned(names), missing or {}, view, there)
            made = Upsert.of(known, vectors, pictures, known.label_names, view.dim)
            rows = of_rows.rows_of(made.items, made.vectors, made.thumbnails, self._connection.is_lite)
            self._add_labels(view, names)
            self._put(view, rows)
            return len(there)

        return self._write(change) if len(items) else 0

    def delete(self, ids: Iterable[str]) -> int:
        """See `Engine`."""
        wanted = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))

        def change(view: MilvusView) -> int:
            found = sorted(view.present(wanted))
            for start in range(0, len(found), _AT_ONCE):
                condition = of_rows.among(found[start : start + _AT_ONCE])
                self._connection.change("delete", self._live.collection, filter=condition)
            return len(found)

        return self._write(change) if wanted else 0

    def relabel(self, label: str, holds: Mapping[str, bool], *, new_labels: Sequence[str] = ()) -> dict[str, bool]:
        """See `Engine`."""
        if not label:
            raise ValueError("a label must not be empty, got ''. Give its name.")

        def change(view: MilvusView) -> dict[str, bool]:
            (name,), known = known_labels(view.label_names).open_to([label], new_labels)
            there = view.present(list(holds))
            changed = {id_: bool(held) for id_, held in holds.items()
                       if id_ in there and (name in view.describe(id_)["labels"]) != bool(held)}  # fmt: skip
            rows = view.whole_rows(list(changed))
            for row in rows:
                labels = [other for other in row["labels"] if other != name] + [name] * changed[row["id"]]
                of_rows.set_labels(row, labels)
            self._add_labels(view, known.names)
            self._put(view, rows)
            return changed

        return self._write(change)

    def _write(self, change: Callable[[MilvusView], T]) -> T:
        """Makes a change to the live version, that it is not closed to."""
        with self._mutex:
            for _ in range(_TRIES):
                self._live = self._found()
                if self._live.collection not in self._changed:
                    self._about.note(self._live.number, CHANGED)
                    self._changed.add(self._live.collection)
                # In this order: who fills a new version closes this one first, and then looks whether it was changed.
                if not self._about.noted(self._live.number).closed:
                    done = change(self.snapshot)
                    self._counts.forget()
                    return done
                if self._about_to_end():
                    break
        raise EngineError(
            f"'{self.address}' must take writes, but a new version is about to take this one's place",
            remedy="Try again in a moment; if `macl index` was ended just then, run it again.",
        )

    def _about_to_end(self) -> bool:
        """Whether the version that is closed is still the live one."""
        return self._connection.target(self.address.collection) == self._live.collection

    def _put(self, view: MilvusView, rows: list[dict[str, Any]]) -> None:
        for start in range(0, len(rows), _AT_ONCE):
            self._connection.change("upsert", self._live.collection, rows[start : start + _AT_ONCE])

    def _add_labels(self, view: MilvusView, names: tuple[str, ...]) -> None:
        have = view.label_names
        self._about.add_labels(view.version, names[len(have) :], len(have))
        self._live = replace(self._live, label_names=names)

    def _found(self) -> Live:
        """The live version as it is now."""
        name = self.address.collection
        collection = self._connection.target(name)
        facts = {} if collection is None else self._about.versions()
        for number, told in facts.items():
            if told["collection"] == collection and told["whole"]:
                return self._of(number, told)
        raise ArtifactError(
            f"'{self.address.uri}' holds no index '{name}'. Make it: macl index SERVED --to milvus --uri "
            f"{self.address.uri}" + ("" if name == "tiles" else f" --collection {name}")
        )

    def _of(self, number: int, told: Mapping[str, Any]) -> Live:
        names = self._about.noted(number).label_names
        return Live(number, told["collection"], told["uuid"], told["info"] | {"label_names": list(names)}, names)


def _keeping(items: Items, missing: Mapping[str, Sequence[bool]], view: MilvusView, there: set[str]) -> Items:
    """Items of an upsert, with what was not given for them as those with the same ids in the index have it."""
    places = [place for place, id_ in enumerate(items.ids) if id_ in there]
    if not places or not missing:
        return items
    old = view.items_of([items.ids[place] for place in places])
    names = tuple(dict.fromkeys((*items.label_names, *old.label_names)))
    items, old = items.aligned(names), old.aligned(names)
    columns = {name: getattr(items, name).copy() for name in missing}
    for name, unknown in missing.items():
        for row, place in enumerate(places):
            if unknown[place]:
                columns[name][place] = getattr(old, name)[row]
    return replace(items, **columns)
