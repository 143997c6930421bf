"""Upserts and deletes made since an index was published, in the order in which they were made: one SQLite file.

    about    one row: uuid of the index version, number of the last row of `changes`, CRC-32 of these
    changes  number (1, 2, ...), number of its change's first row, id, item (JSON; NULL where the id is deleted),
             vector (D float32, little-endian), thumbnail (JPEG), CRC-32 of these

One call is one transaction, so it is all there or not at all. What does not add up is damage, and refused: nothing
acknowledged is ever dropped in silence.

Who writes holds the lock file, who reads shares it; so SQLite never meets another process. At rest there is one file,
which can be read where nothing can be written. On a network file system all this needs flock to work there between
machines. To copy a folder that is being written to, hold the lock: `flock served/index/journal.lock cp -r ...`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
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

_FORMAT = 2  # SQLite's user_version; 1 was a format of our own, in journal-N.log
_SCHEMA = f"""
PRAGMA user_version = {_FORMAT};
CREATE TABLE about (uuid TEXT, last INTEGER, crc INTEGER);
CREATE TABLE changes (
    number INTEGER PRIMARY KEY, change INTEGER, id TEXT, item TEXT, vector BLOB, thumbnail BLOB, crc INTEGER
);
"""
_NEW = ".new"  # ends the name of a journal that is being made


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


Change = Upsert | Delete


def journal_path(root: Path, version: int) -> Path:
    """Where the changes to a version are kept: beside its folder, in which nothing ever changes."""
    return root / f"journal-{version}.sqlite"


def lock_path(root: str | os.PathLike[str]) -> Path:
    """The lock of whoever writes to a journal under `root`, or hands one over to a new version; readers share it."""
    return Path(root) / "journal.lock"


def read_changes(path: Path, uuid: str, label_names: tuple[str, ...], start: int = 0) -> tuple[list[Change], int]:
    """The changes behind `start`, where an earlier reading ended, and where they end. The caller shares the lock.

    An ArtifactError says that the journal belongs to another index version than that of `uuid`, is of another format,
    or is damaged. It need not be there.
    """
    if (old := path.with_suffix(".log")).is_file():
        raise _of_another_format(old)
    if not path.is_file():
        return [], start  # none yet, or gone with a version that is not kept
    try:
        with _reading(path) as database:
            if database.execute("PRAGMA user_version").fetchone() != (_FORMAT,):
                raise _of_another_format(path)
            ((held, last, crc),) = database.execute("SELECT uuid, last, crc FROM about").fetchall()
            rows = database.execute("SELECT * FROM changes WHERE number > ? ORDER BY number", (start,)).fetchall()
        if crc != _crc(held, last) or last < start:
            raise _damaged(path, f"it must go to change {start:,} at least")
        if held != uuid:
            raise ArtifactError(
                f"'{path}' holds changes to another index than the one beside it. Copy the whole index folder anew, or "
                "remove this file if its changes are not wanted."
            )
        for number, row in enumerate(rows, start + 1):
            if row[0] != number or row[-1] != _crc(*row[:-1]):
                raise _damaged(path, f"change {number:,}")
        if start + len(rows) != last:
            raise _damaged(path, f"change {start + len(rows) + 1:,}")
        return [_decoded(list(change), label_names) for _, change in groupby(rows, lambda row: row[1])], last
    except ArtifactError:
        raise
    except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
        if not path.is_file():
            return [], start  # it went meanwhile
        if _code(error) == sqlite3.SQLITE_CANTOPEN:
            raise PermissionError(errno.EACCES, "the journal cannot be opened", str(path)) from error
        raise _damaged(path, str(error)) from error


def append(path: Path, uuid: str, change: Change, end: int) -> int:
    """Writes one change, which is not empty, behind `end`; it is on disk when this returns. The caller holds the lock.

    Returns where the changes end now. After an OSError, as on a full disk, the journal holds what it held before; an
    ArtifactError says that it is damaged, or not the one that was read.
    """
    if not path.is_file():
        if end:
            raise ArtifactError(f"'{path}' was removed while this index was open. Open the index again.")
        return begin(path, uuid, [change])
    with _told(path), closing(_connected(path)) as database, database:  # a transaction
        database.execute("BEGIN IMMEDIATE")
        last = _insert(database, uuid, [change], end)
    return last  # being closed, SQLite takes it into the file itself; on a full disk it is safe beside it


def begin(path: Path, uuid: str, changes: Sequence[Change]) -> int:
    """Makes a journal that holds `changes` and nothing else, on disk when this returns; without any there is no file.

    Returns where they end.
    """
    remove(path)
    if not changes:
        return 0
    temporary = path.with_suffix(_NEW)
    remove(temporary)  # of a process that was killed
    try:
        with _told(path), closing(_connected(temporary, "rwc")) as database:
            database.execute("PRAGMA journal_mode = OFF")  # until it is whole, when it gets its name
            database.executescript(_SCHEMA)
            with database:
                database.execute("BEGIN")
                database.execute("INSERT INTO about VALUES (?, 0, 0)", (uuid,))
                last = _insert(database, uuid, changes, 0)
            database.execute("PRAGMA journal_mode = WAL")  # stays with the file
        sync(temporary)
        os.replace(temporary, path)
    finally:
        remove(temporary)
    sync(path.parent)
    return last


def remove_others(root: Path, there: Iterable[int]) -> None:
    """Removes the journals of versions that are gone, and what killed processes left. The caller holds the lock."""
    kept = {journal_path(root, version) for version in there}
    for path in (*root.glob("journal-*.sqlite"), *root.glob(f"journal-*{_NEW}")):
        if path not in kept:
            remove(path)
    sync(root)


def remove(path: Path) -> None:
    """Removes a journal, and what a killed process left beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connected(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """A connection whose every commit is on disk when it returns."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")  # so SQLite needs no memory that processes share
        database.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        database.close()
        raise
    return database


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a journal that no one writes to meanwhile, which changes nothing in its folder.

    Where a killed process left changes beside the file, a copy of both is read: the next writer takes them in.
    """
    log = path.with_name(path.name + "-wal")
    left = log.is_file() and log.stat().st_size > 0
    with tempfile.TemporaryDirectory() if left else nullcontext() as aside:
        if aside:
            shutil.copyfile(log, Path(aside, log.name))
            path = shutil.copyfile(path, Path(aside, path.name))
        with closing(_connected(path, "rw" if aside else "ro&immutable=1")) as database:
            yield database


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says of SQLite's errors while writing what they mean."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = _code(error)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR):
            raise _damaged(path, str(error)) from error
        full = code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)  # the latter of a quota
        raise OSError(
            errno.ENOSPC if full else errno.EACCES,
            f"{error}: the change could not be written and is not made. Free some space on the disk, or look who may "
            "write there, then try again",
            str(path),
        ) from error


def _code(error: BaseException) -> int:
    """SQLite's primary result code, 0 where an error is not SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _insert(database: sqlite3.Connection, uuid: str, changes: Iterable[Change], end: int) -> int:
    """Writes rows behind the row `end`, which must be the last; the last one now."""
    last = end
    for change in changes:
        first = last + 1
        for last, values in enumerate(_encoded(change), first):
            row = (last, first, *values)
            database.execute("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, _crc(*row)))
    done = database.execute(
        "UPDATE about SET last = ?, crc = ? WHERE uuid = ? AND last = ?", (last, _crc(uuid, last), uuid, end)
    )
    if done.rowcount != 1:
        raise sqlite3.IntegrityError("it does not end where it was read to")
    return last


def _encoded(change: Change) -> Iterator[tuple[str, str | None, bytes | None, bytes | None]]:
    """Id, item, vector and thumbnail of each row."""
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


def _crc(*values: Any) -> int:
    """CRC-32 of a row's values, in which any flipped bit shows."""
    crc = 0
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode()
        crc = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), crc))
    return crc


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
