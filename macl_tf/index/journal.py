"""Upserts and deletes made since an index was published, in the order in which they were made: one SQLite file.

    about    one row: uuid of the index version, number of the last row of `changes`, CRC-32 of these
    changes  number (1, 2, ...), number of its change's first row, id, item (JSON), vector (D float32, little-endian),
             thumbnail (JPEG), CRC-32 of these

What a row says: of an upsert, all of it; of a delete, the id alone; of an id that gets or loses a label, [label, true
or false] for an item, and no vector; of new labels, their names for an item, and no id.

One call is one transaction, so it is all there or not at all (`macl_tf.sqlite_files`). What does not add up is damage,
and refused: nothing acknowledged is ever dropped in silence.

On a network file system all this needs flock to work there between machines. To copy a folder that is being written
to, hold the lock: `flock served/index/journal.lock cp -r ...`.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.artifacts import ArtifactError
from macl_tf.files import sync
from macl_tf.index.items import Items
from macl_tf.index.vectors import unit_rows
from macl_tf.sqlite_files import NEW, cannot_be_opened, crc_of, making, reading, remove, writing

_FORMAT = 3  # SQLite's user_version; 1 was a format of our own, in journal-N.log, 2 had no changes of labels
_FORMATS = (2, _FORMAT)  # that are read; the first write brings a journal to the present one
_SCHEMA = f"""
PRAGMA user_version = {_FORMAT};
CREATE TABLE about (uuid TEXT, last INTEGER, crc INTEGER);
CREATE TABLE changes (
    number INTEGER PRIMARY KEY, change INTEGER, id TEXT, item TEXT, vector BLOB, thumbnail BLOB, crc INTEGER
);
"""


@dataclass(frozen=True, eq=False)
class Upsert:
    """Items to add, or to put in the place of those with the same ids."""

    items: Items  # n
    vectors: NDArray[np.float32]  # (n, D) of unit norm
    thumbnails: tuple[bytes | None, ...]  # n JPEG files

    @classmethod
    def of(
        cls,
        items: Items,
        vectors: ArrayLike,
        thumbnails: Iterable[bytes | None] | None,
        label_names: tuple[str, ...],
        dim: int,
    ) -> Upsert:
        """Checks everything that an upsert to an index with these labels and dimensions must fulfil."""
        count = len(items)
        rows = unit_rows(vectors if count else np.empty((0, dim)), dim)
        pictures = (None,) * count if thumbnails is None else tuple(picture or None for picture in thumbnails)
        if len(rows) != count or len(pictures) != count:
            raise ValueError(
                f"vectors and thumbnails must be given for each of {count} items, got {len(rows)} and {len(pictures)}."
            )
        if not all(isinstance(picture, bytes | None) for picture in pictures):
            raise ValueError("thumbnails must be bytes or None, got something else.")
        if len(set(items.ids)) != count:  # of a table put together by hand, past the checks of Items.of
            raise ValueError("ids must be unique within an upsert, got one twice. Which is the right one?")
        return cls(items.aligned(label_names), rows, pictures)


@dataclass(frozen=True)
class Delete:
    """Ids to take away; those that are not there do not matter."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class NewLabels:
    """Labels that the index had not: they come behind those that it has."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Relabel:
    """Ids that hold a label of the index from now on, or hold it no more; those that are not there do not matter."""

    label: str
    holds: dict[str, bool]  # by id


Change = Upsert | Delete | NewLabels | Relabel


def journal_path(root: Path, version: int) -> Path:
    """Where the changes to a version are kept: beside its folder, in which nothing ever changes."""
    return root / f"journal-{version}.sqlite"


def lock_path(root: str | os.PathLike[str]) -> Path:
    """The lock of whoever writes to a journal under `root`, or hands one over to a new version; readers share it."""
    return Path(root) / "journal.lock"


def read_changes(path: Path, uuid: str, label_names: tuple[str, ...], start: int = 0) -> tuple[list[Change], int]:
    """The changes behind `start`, where an earlier reading ended, and where they end. The caller shares the lock.

    `label_names` are those of the index at `start`. An ArtifactError says that the journal belongs to another index
    version than that of `uuid`, is of another format, or is damaged. It need not be there.
    """
    if (old := path.with_suffix(".log")).is_file():
        raise _of_another_format(old)
    if not path.is_file():
        return [], start  # none yet, or gone with a version that is not kept
    try:
        with reading(path) as database:
            if database.execute("PRAGMA user_version").fetchone()[0] not in _FORMATS:
                raise _of_another_format(path)
            ((held, last, crc),) = database.execute("SELECT uuid, last, crc FROM about").fetchall()
            rows = database.execute("SELECT * FROM changes WHERE number > ? ORDER BY number", (start,)).fetchall()
        if crc != crc_of(held, last) or last < start:
            raise _damaged(path, f"it must go to change {start:,} at least")
        if held != uuid:
            raise ArtifactError(
                f"'{path}' holds changes to another index than the one beside it. Copy the whole index folder anew, or "
                "remove this file if its changes are not wanted."
            )
        for number, row in enumerate(rows, start + 1):
            if row[0] != number or row[-1] != crc_of(*row[:-1]):
                raise _damaged(path, f"change {number:,}")
        if start + len(rows) != last:
            raise _damaged(path, f"change {start + len(rows) + 1:,}")
        changes: list[Change] = []
        for _, part in groupby(rows, lambda row: row[1]):
            changes.append(change := _decoded(list(part), label_names))
            label_names += change.names if isinstance(change, NewLabels) else ()
        return changes, last
    except ArtifactError:
        raise
    except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
        if not path.is_file():
            return [], start  # it went meanwhile
        if cannot_be_opened(error):
            raise PermissionError(errno.EACCES, "the journal cannot be opened", str(path)) from error
        raise _damaged(path, str(error)) from error


def append(path: Path, uuid: str, changes: Sequence[Change], end: int) -> int:
    """Writes changes, at least one and none empty, behind `end`: all or none, on disk when this returns.

    The caller holds the lock. Returns where the changes end now. After an OSError, as on a full disk, the journal holds
    what it held before; an ArtifactError says that it is damaged, or not the one that was read.
    """
    if not path.is_file():
        if end:
            raise ArtifactError(f"'{path}' was removed while this index was open. Open the index again.")
        return begin(path, uuid, changes)
    with writing(path, _damaged) as database:
        if (found := database.execute("PRAGMA user_version").fetchone()[0]) not in _FORMATS:
            raise _of_another_format(path)
        if found != _FORMAT:
            database.execute(f"PRAGMA user_version = {_FORMAT}")
        return _insert(database, uuid, changes, end)


def begin(path: Path, uuid: str, changes: Sequence[Change]) -> int:
    """Makes a journal that holds `changes` and nothing else, on disk when this returns; without any there is no file.

    Returns where they end.
    """
    remove(path)
    if not changes:
        return 0
    with making(path, _SCHEMA, _damaged) as database:
        database.execute("INSERT INTO about VALUES (?, 0, 0)", (uuid,))
        return _insert(database, uuid, changes, 0)


def remove_others(root: Path, there: Iterable[int]) -> None:
    """Removes the journals of versions that are gone, and what killed processes left. The caller holds the lock."""
    kept = {journal_path(root, version) for version in there}
    for path in (*root.glob("journal-*.sqlite"), *root.glob(f"journal-*{NEW}")):
        if path not in kept:
            remove(path)
    sync(root)


def _insert(database: sqlite3.Connection, uuid: str, changes: Iterable[Change], end: int) -> int:
    """Writes rows behind the row `end`, which must be the last; the last one now."""
    last = end
    for change in changes:
        first = last + 1
        for last, values in enumerate(_encoded(change), first):
            row = (last, first, *values)
            database.execute("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, crc_of(*row)))
    done = database.execute(
        "UPDATE about SET last = ?, crc = ? WHERE uuid = ? AND last = ?", (last, crc_of(uuid, last), uuid, end)
    )
    if done.rowcount != 1:
        raise sqlite3.IntegrityError("it does not end where it was read to")
    return last


def _encoded(change: Change) -> Iterator[tuple[str | None, str | None, bytes | None, bytes | None]]:
    """Id, item, vector and thumbnail of each row."""
    if isinstance(change, NewLabels):
        yield None, json.dumps(change.names, ensure_ascii=False), None, None
        return
    if isinstance(change, Relabel):
        texts = [json.dumps([change.label, holds], ensure_ascii=False) for holds in (False, True)]
        yield from ((id_, texts[holds], None, None) for id_, holds in change.holds.items())
        return
    if isinstance(change, Delete):
        yield from ((id_, None, None, None) for id_ in change.ids)
        return
    for position, (vector, picture) in enumerate(zip(change.vectors, change.thumbnails, strict=True)):
        item = change.items.describe(position)
        yield item.pop("id"), json.dumps(item, ensure_ascii=False), vector.astype("<f4").tobytes(), picture


def _decoded(rows: list[tuple[Any, ...]], label_names: tuple[str, ...]) -> Change:
    """The change of its rows."""
    _, _, ids, texts, vectors, pictures, _ = zip(*rows, strict=True)
    if texts[0] is None:
        return Delete(ids)
    if ids[0] is None:
        return NewLabels(tuple(map(str, json.loads(texts[0]))))
    if vectors[0] is None:
        held = dict(zip(ids, map(json.loads, texts), strict=True))
        ((label,),) = {(label,) for label, _ in held.values()}
        if label not in label_names:
            raise ValueError("a label that the index does not have")
        return Relabel(label, {id_: bool(holds) for id_, (_, holds) in held.items()})
    items = [json.loads(text) for text in texts]
    labels = [[name in item["labels"] for name in label_names] for item in items]
    if sum(map(sum, labels)) != sum(len(item["labels"]) for item in items):
        raise ValueError("a label that the index does not have")
    nowhere = [[np.nan, np.nan]] * 4
    table = Items.of(
        label_names,
        ids,
        np.array(labels, np.uint8).reshape(len(ids), len(label_names)),
        **{f"{name}s": [item[name] or "" for item in items] for name in ("path", "split", "source")},
        footprints=[item["footprint"] or nowhere for item in items],
        dates=np.array([item["date"] or "NaT" for item in items], "datetime64[D]"),
    )
    return Upsert(table, np.frombuffer(b"".join(vectors), "<f4").reshape(len(ids), -1).astype(np.float32), pictures)


def _of_another_format(path: Path) -> ArtifactError:
    return ArtifactError(
        f"'{path}' holds changes in a format that this macl_tf does not read. Fold them in with the macl_tf that wrote "
        "them (`macl index SERVED`), or remove this file if its changes are not wanted."
    )


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"'{path}' is damaged ({what}): what stands there is not what was written. Copy the whole index folder anew "
        "from where it is whole, or remove this file and lose all changes since that version was published."
    )
