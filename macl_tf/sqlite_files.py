"""SQLite files of acknowledged writes: one call is one transaction, on disk when it returns.

Who writes holds a lock file of its own choice, who reads shares it; so SQLite never meets another process. At rest
there is one file, which can be read where nothing can be written.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from macl_tf.artifacts import ArtifactError
from macl_tf.files import sync

NEW = ".new"  # ends the name of a file that is being made


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that no one writes to meanwhile, which changes nothing in its folder.

    Where a killed process left changes beside the file, a copy of both is read: the next writer takes them in.
    """
    log = path.with_name(path.name + "-wal")
    left = log.is_file() and log.stat().st_size > 0
    with tempfile.TemporaryDirectory() if left else nullcontext() as aside:
        if aside:
            shutil.copyfile(log, Path(aside, log.name))
            path = shutil.copyfile(path, Path(aside, path.name))
        with closing(connected(path, "rw" if aside else "ro&immutable=1")) as database:
            yield database


@contextmanager
def writing(path: Path, damaged: Callable[[Path, str], ArtifactError]) -> Iterator[sqlite3.Connection]:
    """A transaction in a file that is there: on disk when the block ends, or after an error as if it had not begun.

    `damaged` makes the error of a file that does not hold what was written. An OSError is for what cannot be written.
    """
    with _told(path, damaged), closing(connected(path)) as database, database:
        database.execute("BEGIN IMMEDIATE")
        yield database
    # being closed, SQLite takes it into the file itself; on a full disk it is safe beside it


@contextmanager
def making(path: Path, schema: str, damaged: Callable[[Path, str], ArtifactError]) -> Iterator[sqlite3.Connection]:
    """The first transaction in a file that is not there yet: it gets its name when it is whole and on disk."""
    temporary = path.with_suffix(NEW)
    remove(temporary)  # of a process that was killed
    try:
        with _told(path, damaged), closing(connected(temporary, "rwc")) as database:
            database.execute("PRAGMA journal_mode = OFF")  # until it is whole, when it gets its name
            database.executescript(schema)
            with database:
                database.execute("BEGIN")
                yield database
            database.execute("PRAGMA journal_mode = WAL")  # stays with the file
        sync(temporary)
        os.replace(temporary, path)
    finally:
        remove(temporary)
    sync(path.parent)


def remove(path: Path) -> None:
    """Removes a file, and what a killed process left beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def crc_of(*values: Any) -> int:
    """CRC-32 of a row's values, in which any flipped bit shows."""
    crc = 0
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode()
        crc = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), crc))
    return crc


def cannot_be_opened(error: BaseException) -> bool:
    """Whether SQLite may not open the file, which says nothing about what is in it."""
    return _code(error) == sqlite3.SQLITE_CANTOPEN


def connected(path: Path, mode: str = "rw") -> sqlite3.Connection:
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
def _told(path: Path, damaged: Callable[[Path, str], ArtifactError]) -> Iterator[None]:
    """Says of SQLite's errors while writing what they mean."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = _code(error)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR):
            raise damaged(path, str(error)) from error
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
