"""Collections: tiles of an archive that somebody marked as right or wrong, by whom and when, under a name.

They lie in the served folder beside the index, in one SQLite file, and know tiles by their ids: marks outlive versions
of the index, and tiles that are deleted and come back. A name means the collection that is spelled so but for case,
blanks, hyphens and underscores, and a label of the index that is spelled so is that of the collection
(`macl_tf.datasets.label_names`).

    about    one row: number of the last row of `events`, CRC-32 of it
    events   number (1, 2, ...), kind, collection, id, mark, by, at, CRC-32 of these

Kinds are make, rename (id is the new name), delete, and mark (right, wrong, skipped for a tile that somebody looked at
and left, or none: taken back). The mark of a tile with the newest time counts, of equals the one written last; all stay
in the file. One call is one transaction (`macl_tf.sqlite_files`), under the lock file beside it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from macl_tf.artifacts import ArtifactError
from macl_tf.datasets.label_names import KnownLabels
from macl_tf.datasets.walk import shorten
from macl_tf.files import locked
from macl_tf.index.view import Engine, View
from macl_tf.search.query import NotThereError, QueryError, check_there
from macl_tf.sqlite_files import cannot_be_opened, crc_of, making, reading, writing

RIGHT, WRONG, SKIPPED, NEITHER = "right", "wrong", "skipped", "none"
MARKS = (RIGHT, WRONG, SKIPPED)
_FORMAT = 1  # SQLite's user_version
_SCHEMA = f"""
PRAGMA user_version = {_FORMAT};
CREATE TABLE about (last INTEGER, crc INTEGER);
INSERT INTO about VALUES (0, {crc_of(0)});
CREATE TABLE events (
    number INTEGER PRIMARY KEY, kind TEXT, collection TEXT, id TEXT, mark TEXT, by TEXT, at TEXT, crc INTEGER
);
"""
_LONGEST = 200  # letters of a collection's name, and of an author's
_LONGEST_ID = 512
_REMEDY = "The page's menu Collections lists them, and so do GET api/v1/collections and macl collections SERVED."


class Mark(NamedTuple):
    """What somebody said of a tile."""

    id: str
    mark: str  # "right", "wrong" or "skipped"; in a history also "none", which takes back what was said before
    by: str  # "" where it is not known
    at: str  # in UTC, "2026-01-31T12:00:00.000Z"


class _Event(NamedTuple):
    kind: str
    collection: str
    id: str = ""
    mark: str = ""
    by: str = ""
    at: str = ""


@dataclass(frozen=True)
class Collection:
    """A state of a collection, which never changes."""

    name: str
    by: str  # who made it
    at: str  # when
    said: dict[str, Mark]  # the newest of each tile, those that were taken back among them

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """What is right and wrong now, in the order in which it was said."""
        return tuple(mark for mark in self.said.values() if mark.mark in (RIGHT, WRONG))

    @cached_property
    def seen(self) -> tuple[Mark, ...]:
        """`marks`, and the tiles that were skipped among them."""
        return tuple(mark for mark in self.said.values() if mark.mark != NEITHER)

    @property
    def right(self) -> tuple[str, ...]:
        """Ids of the tiles that are marked right."""
        return tuple(mark.id for mark in self.marks if mark.mark == RIGHT)

    @property
    def wrong(self) -> tuple[str, ...]:
        """Ids of the tiles that are marked wrong."""
        return tuple(mark.id for mark in self.marks if mark.mark == WRONG)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Ids of the tiles that somebody looked at and left, neither right nor wrong; no round asks for them again."""
        return tuple(mark.id for mark in self.seen if mark.mark == SKIPPED)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many tiles are right, and how many wrong."""
        right = sum(mark.mark == RIGHT for mark in self.marks)
        return {RIGHT: right, WRONG: len(self.marks) - right}

    @property
    def changed(self) -> tuple[str, str]:
        """By whom and when the last mark was made, or the collection where there is none."""
        return max(
            ((mark.by, mark.at) for mark in self.said.values()), key=lambda one: one[1], default=(self.by, self.at)
        )

    def absent(self, snapshot: View) -> list[str]:
        """Ids of marked tiles that the index does not hold now."""
        there = snapshot.present([mark.id for mark in self.seen])
        return [mark.id for mark in self.seen if mark.id not in there]

    def examples(self, snapshot: View) -> dict[str, list[str]]:
        """What to search for, as `SearchEngine.search` takes it: right tiles are positive, wrong ones negative.

        Tiles that the index does not hold are left out; a QueryError where no right one is left.
        """
        there = snapshot.present([*self.right, *self.wrong])
        right, wrong = ([id_ for id_ in ids if id_ in there] for ids in (self.right, self.wrong))
        if not right:
            rule = f"a collection to search with has a tile of the index that is right, and {self.name!r} has none"
            raise QueryError(rule, None, "Mark one as right.")
        return {"positive": right, "negative": wrong}


class Collections:
    """The collections of a served folder. Any number of threads and processes may read and write them at once.

    What is asked is what stands on disk at that moment; what a method writes is on disk when it returns, all of it, or
    after an error nothing. A NotThereError is for a collection that there is not, a QueryError for names, ids and
    authors that cannot be, an ArtifactError for a file that does not hold what was written, an OSError where nothing
    can be written.

    Example:
        >>> import tempfile
        >>> collections = Collections(tempfile.mkdtemp())
        >>> _ = collections.mark("ships", right=["a", "b"], wrong=["c"], by="Ada")
        >>> _ = collections.mark("ships", neither=["b"], by="Grace")
        >>> collections.get("ships").right, collections.get("ships").wrong
        (('a',), ('c',))
    """

    def __init__(self, served: str | os.PathLike[str]) -> None:
        self._served = Path(served)
        self._path, self._lock = self._served / "collections.sqlite", self._served / "collections.lock"
        self._mutex = threading.Lock()
        self._state: dict[str, Collection] = {}
        self._end: tuple[int, int] = (0, 0)  # number and CRC of the last event that is in the state
        if not self._served.is_dir():
            raise ArtifactError(f"'{served}' is not there. `macl export --run-dir RUN --output {served}` makes it.")

    def all(self) -> list[Collection]:
        """All collections by name."""
        found = self._newest()
        return [found[name] for name in sorted(found)]

    def get(self, name: str) -> Collection:
        """The collection of that name."""
        return _named(self._newest(), name)

    def history(self, name: str) -> list[Mark]:
        """All marks that were ever made in a collection, in the order in which they were written."""
        name = self.get(name).name
        state: dict[str, list[Mark]] = {}
        for event in self._read(0)[0]:
            if event.kind == "make":
                state[event.collection] = []
            elif event.kind == "rename":
                state[event.id] = state.pop(event.collection)
            elif event.kind == "mark":
                state[event.collection].append(Mark(event.id, event.mark, event.by, event.at))
        return state[name]

    def mark(
        self,
        name: str,
        *,
        right: Iterable[str] = (),
        wrong: Iterable[str] = (),
        skipped: Iterable[str] = (),
        neither: Iterable[str] = (),
        by: str = "",
        snapshot: View | None = None,
    ) -> Collection:
        """Marks tiles now, and makes the collection where there is none.

        Args:
            name: Of the collection, in any spelling; of a new one: printable, at most 200 letters.
            right: Ids of tiles.
            wrong: Ids of tiles.
            skipped: Ids of tiles that are neither for now: no round asks for them again.
            neither: Ids of tiles whose marks are taken back.
            by: Who says so.
            snapshot: A state of the index: an id that is neither in it nor in the collection is a NotThereError.
        """
        given = [(RIGHT, right), (WRONG, wrong), (SKIPPED, skipped), (NEITHER, neither)]
        wanted = [(id_, mark) for mark, ids in given for id_ in ([ids] if isinstance(ids, str) else ids)]
        if twice := [id_ for id_, count in Counter(id_ for id_, _ in set(wanted)).items() if count > 1]:
            rule = f"a tile is marked {', '.join(MARKS)} or {NEITHER}, one of them"
            raise QueryError(rule, shorten(sorted(twice), 5), "Leave out the other mark.")

        def change(state: dict[str, Collection]) -> list[_Event]:
            there = _found(state, name)
            said = there.said if there else {}
            for id_, _ in wanted:
                if snapshot is not None and id_ not in said:
                    check_there(snapshot, id_)
            now = _now()
            marks = [
                # A clock may be behind that of who marked it before.
                Mark(id_, mark, by, max(now, said[id_].at) if id_ in said else now)
                for id_, mark in dict(wanted).items()
            ]
            return _marked(name, there, by, marks)

        return _named(self._write(change), name)

    def take_in(self, name: str, marks: Sequence[Mark]) -> Collection:
        """Adds marks with their own authors and times, and makes the collection where there is none.

        Of each tile the newest mark counts, which may be the one that is there.
        """
        timed = [mark._replace(at=time_in(mark.at)) for mark in marks]
        if twice := [id_ for id_, count in Counter(mark.id for mark in marks).items() if count > 1]:
            raise QueryError("a tile has one mark", shorten(twice, 5), "Leave out all but the right one of each tile.")

        def change(state: dict[str, Collection]) -> list[_Event]:
            return _marked(name, _found(state, name), "", timed)

        return _named(self._write(change), name)

    def make(self, name: str, by: str = "") -> Collection:
        """Makes an empty collection; a QueryError where there is one of that name."""

        def change(state: dict[str, Collection]) -> list[_Event]:
            _check_free(state, name)
            return _marked(name, None, by, ())

        return self._write(change)[name]

    def rename(self, name: str, new: str, by: str = "") -> Collection:
        """Gives a collection another name, which no other has."""

        def change(state: dict[str, Collection]) -> list[_Event]:
            old = _named(state, name).name
            _check_free({other: one for other, one in state.items() if other != old}, new)
            return [_Event("rename", old, new, by=by, at=_now())] if new != old else []

        return self._write(change)[new]

    def delete(self, name: str, by: str = "") -> None:
        """Takes a collection away; what was marked stays in the file, for whoever looks for it there."""

        def change(state: dict[str, Collection]) -> list[_Event]:
            return [_Event("delete", _named(state, name).name, by=by, at=_now())]

        self._write(change)

    def to_label(
        self, name: str, index: Engine, label: str = "", *, new_labels: Sequence[str] = ()
    ) -> tuple[dict[str, bool], list[str]]:
        """Makes a collection a label of the index: tiles that are right hold it from now on, wrong ones do not.

        The collection stays. The label is by default called as the collection; as of `Index.relabel`, one that is near
        to another must be among `new_labels`.

        Returns:
            The tiles that changed, with whether they hold the label now; and the ids that the index does not hold.
        """
        collection = self.get(name)
        index.refresh()
        if not index.snapshot.present(collection.right):
            rule = f"a collection that becomes a label has a tile of the index that is right, and {name!r} has none"
            raise QueryError(rule, None, "Mark one as right.")
        holds = {mark.id: mark.mark == RIGHT for mark in collection.marks}
        changed = index.relabel(label or collection.name, holds, new_labels=new_labels)
        return changed, collection.absent(index.snapshot)

    def _newest(self) -> dict[str, Collection]:
        with self._mutex, self._shared():
            return self._caught_up()

    def _write(self, change: Callable[[dict[str, Collection]], list[_Event]]) -> dict[str, Collection]:
        """Makes events durable, then visible. `change` sees the newest state and checks everything first."""
        with self._mutex, locked(self._lock):
            events = change(self._caught_up())
            for event in events:
                _check(event)
            if events:
                crc = self._append(events)
                self._state, self._end = _after(self._state, events), (self._end[0] + len(events), crc)
            return self._state

    def _append(self, events: Sequence[_Event]) -> int:
        """Writes events behind those that were read, and gives the CRC of the last one."""
        there, (last, _) = self._path.is_file(), self._end
        rows: list[tuple[Any, ...]] = [(number, *event) for number, event in enumerate(events, last + 1)]
        rows = [(*row, crc_of(row)) for row in rows]
        with writing(self._path, _damaged) if there else making(self._path, _SCHEMA, _damaged) as database:
            database.executemany(f"INSERT INTO events VALUES ({', '.join('?' * len(rows[0]))})", rows)
            end = last + len(rows)
            done = database.execute("UPDATE about SET last = ?, crc = ? WHERE last = ?", (end, crc_of(end), last))
            if done.rowcount != 1:
                raise sqlite3.IntegrityError("it does not end where it was read to")
        return int(rows[-1][-1])

    def _shared(self) -> AbstractContextManager[None]:
        return locked(self._lock, shared=True)

    def _caught_up(self) -> dict[str, Collection]:
        """The present state; the caller has the lock, or shares it."""
        events, end = self._read(self._end[0], nullcontext)
        if events:
            self._state, self._end = _after(self._state, events), end
        return self._state

    def _read(
        self, start: int, held: Callable[[], AbstractContextManager[None]] | None = None
    ) -> tuple[list[_Event], tuple[int, int]]:
        """The events behind `start`, and number and CRC of the last one; the file may not be there yet."""
        with (held or self._shared)():
            if not self._path.is_file():
                if start:
                    raise ArtifactError(f"'{self._path}' was removed while it was open. {_AGAIN}")
                return [], (0, 0)
            try:
                with reading(self._path) as database:
                    if (found := database.execute("PRAGMA user_version").fetchone()[0]) != _FORMAT:
                        raise ArtifactError(
                            f"'{self._path}' must be of format {_FORMAT}, got {found}. Use the macl_tf that wrote it, "
                            "or remove this file if its collections are not wanted."
                        )
                    ((last, crc),) = database.execute("SELECT * FROM about").fetchall()
                    first = max(start, 1)  # the last that is known, to see that it is the same
                    rows = database.execute(
                        "SELECT * FROM events WHERE number >= ? ORDER BY number", (first,)
                    ).fetchall()
            except (sqlite3.DatabaseError, ValueError, TypeError) as error:
                if isinstance(error, ArtifactError):
                    raise
                if cannot_be_opened(error):
                    raise PermissionError(errno.EACCES, "the collections cannot be opened", str(self._path)) from error
                raise _damaged(self._path, str(error)) from error
        if crc != crc_of(last):
            raise _damaged(self._path, "where it ends")
        for number, row in enumerate(rows, first):
            if row[0] != number or row[-1] != crc_of(row[:-1]):
                raise _damaged(self._path, f"event {number:,}")
        if first + len(rows) - 1 != max(last, first - 1) or last < start:
            raise _damaged(self._path, f"event {first + len(rows):,}")
        if start and start == self._end[0] and rows[0][-1] != self._end[1]:
            raise ArtifactError(f"'{self._path}' was replaced while it was open. {_AGAIN}")
        return [_Event(*row[1:-1]) for row in rows[1 if start else 0 :]], (last, rows[-1][-1] if rows else 0)


_AGAIN = "Open it again: restart the program or server that says so."


def _now() -> str:
    return time_of(datetime.now(UTC))


def time_of(moment: datetime) -> str:
    """A moment as marks have it; without a zone it is in UTC."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_in(text: str) -> str:
    """A moment that a person or a file gives, as marks have it; a QueryError for what is none."""
    try:
        return time_of(datetime.fromisoformat(text))
    except ValueError:
        raise QueryError(
            "a time is like 2026-01-31T12:00:00Z", text, "Write it so, or leave it empty; without a zone it is UTC."
        ) from None


def _marked(name: str, there: Collection | None, by: str, marks: Iterable[Mark]) -> list[_Event]:
    """What makes a collection where there is none, and those marks that are not in it yet."""
    if there is None:
        return [_Event("make", name, by=by, at=_now())] + [_Event("mark", name, *mark) for mark in marks]
    return [_Event("mark", there.name, *mark) for mark in marks if there.said.get(mark.id) != mark]


def _after(state: dict[str, Collection], events: Iterable[_Event]) -> dict[str, Collection]:
    """The state after events, each of which fits what is there."""
    state, copied = dict(state), set[str]()
    for event in events:
        name = event.collection
        if event.kind == "make":
            state[name] = Collection(name, event.by, event.at, {})
            copied.add(name)
        elif event.kind == "delete":
            del state[name]
        elif event.kind == "rename":
            state[event.id] = replace(state.pop(name), name=event.id)
            copied.discard(event.id)
        else:
            if name not in copied:  # others look at the one that is there
                state[name] = replace(state[name], said=dict(state[name].said))
                copied.add(name)
            said = state[name].said
            if event.id not in said or said[event.id].at <= event.at:
                said.pop(event.id, None)  # the newest stands last
                said[event.id] = Mark(event.id, event.mark, event.by, event.at)
    return state


def _check(event: _Event) -> None:
    """Refuses what no event may say."""
    _check_name("the name of a collection", event.collection if event.kind != "rename" else event.id)
    if event.by:
        _check_name("an author", event.by)
    if event.kind == "mark":
        if event.mark not in (*MARKS, NEITHER):
            raise QueryError(f"a mark is {', '.join(MARKS)} or {NEITHER}", event.mark, "Give one of these.")
        try:
            fits = event.id.encode() != b"" and len(event.id) <= _LONGEST_ID
        except UnicodeEncodeError:
            fits = False
        if not fits:
            rule = f"an id is a text of 1 to {_LONGEST_ID} letters that UTF-8 can write"
            raise QueryError(rule, event.id, "Ids are those of search results in this index.")


def _check_name(what: str, text: str) -> None:
    if not 0 < len(text) <= _LONGEST or not text.isprintable() or text != text.strip():
        rule = f"{what} is printable text of 1 to {_LONGEST} letters without blanks around"
        raise QueryError(rule, text, "Give it another one.")


def _check_free(state: Mapping[str, Collection], name: str) -> None:
    """Refuses a name that means a collection."""
    if there := _found(state, name):
        raise QueryError(f"there is a collection {there.name!r} already", name, f"Use {there.name!r}, or another name.")


def _found(state: Mapping[str, Collection], name: str) -> Collection | None:
    """The collection that a name means: that of the name, or the only one that is spelled like it."""
    known = KnownLabels(sorted(state))
    place = known.find(name)
    return None if place is None else state[known.names[place]]


def _named(state: Mapping[str, Collection], name: str) -> Collection:
    if there := _found(state, name):
        return there
    near = KnownLabels(sorted(state)).near(name)
    did = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    rule = "a collection must be there" + ("" if state else ", and there is none yet")
    raise NotThereError(rule, name, did + _REMEDY)


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"'{path}' is damaged ({what}): what stands there is not what was written. Copy it anew from where it is "
        "whole, or remove this file and lose all collections."
    )
