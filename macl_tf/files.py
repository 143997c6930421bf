"""Files that others rely on: written whole or not at all, and by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

PARTIAL = ".part-"  # begins the name of a file that is being written
_MARK = re.compile(r"([0-9a-f]{8})-(\d+)-\d+-")  # machine, process, number: who writes it
_FORGOTTEN = 86_400.0  # seconds without a change after which nobody writes a file any more
_numbers = itertools.count()
_FREE = "Free some space on the disk"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_partial(path: Path) -> bool:
    """Whether a file is what a killed process left of `written_whole`: never the only copy of anything."""
    return path.name.startswith(PARTIAL)


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends without an error; its folder is made if need be.

    The bytes are on disk before the name is: after a crash or a SIGKILL at any moment there is the old file
    or the new one, never a part. The temporary name keeps the file's suffixes, by which writers tell formats, and is
    of this process and call alone: of several that write one file at once, the last one wins, whole. What killed
    writers of the same file left is removed. The OSError of a full disk says what to do.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    temporary = path.with_name(f"{PARTIAL}{_machine()}-{os.getpid()}-{next(_numbers)}-{path.name}")
    try:
        with told_if_full(path, f"'{path.name}' could not be written, and what was there is as it was"):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """Removes what writers of `path` left that were killed."""
    for left in path.parent.glob(f"{glob.escape(PARTIAL)}*-{glob.escape(path.name)}"):
        mark = _MARK.match(left.name, len(PARTIAL))
        if mark is None or left.name[mark.end() :] != path.name:
            continue
        with suppress(OSError):  # it is gone, or not ours to remove
            ended = mark[1] == _machine() and not _runs(int(mark[2]))
            if ended or time.time() - left.stat().st_mtime > _FORGOTTEN:
                left.unlink()


def _runs(process: int) -> bool:
    """Whether there is a process of that number, as far as this one can tell."""
    try:
        os.kill(process, 0)
    except OSError as error:  # another user's runs, and may not be asked
        return not isinstance(error, ProcessLookupError)
    return True


@lru_cache(maxsize=1)
def _machine() -> str:
    """What tells the numbers of this machine's or container's processes from those of others that share its disk."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        space = str(os.stat("/proc/self/ns/pid").st_ino).encode()
    except OSError:
        boot, space = os.urandom(16), b""  # nobody can be told to have ended: left files wait for a day
    return hashlib.sha256(boot + space).hexdigest()[:8]


@contextmanager
def told_if_full(path: str | os.PathLike[str], state: str) -> Iterator[None]:
    """Turns what libraries raise of a full disk inside the block into one OSError: what is so now, and what to do."""
    try:
        yield
    except Exception as error:  # HDF5 says it by a RuntimeError too, TensorFlow and ScaNN by their own
        number = disk_full(error)
        if number is None or _FREE in str(error):  # said already, by what wrote a file of many
            raise
        raise OSError(number, f"{os.strerror(number)}: {state}. {_FREE}, then try again", str(path)) from error


def disk_full(error: BaseException) -> int | None:
    """The number of the system's error if an exception tells of a full disk, else None."""
    if isinstance(error, OSError):
        return error.errno if error.errno in DISK_FULL else None
    text = str(error)
    return next((number for number in DISK_FULL if os.strerror(number) in text), None)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text whole. Whatever bytes a file name in it holds, it can be written and read back."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON whole; NaN, which JSON does not have, is an error."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def sync(path: str | os.PathLike[str]) -> None:
    """Sees to it that a file's bytes, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Where what can be made again is kept: `$XDG_CACHE_HOME/macl_tf` or `~/.cache/macl_tf`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "macl_tf"


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8", errors="surrogateescape"))


@contextmanager
def locked(path: str | os.PathLike[str], *, busy: str = "", shared: bool = False) -> Iterator[None]:
    """Holds a lock file, made if need be, which the system lets go of when the process ends, however it ends.

    Who finds the lock taken waits, or with `busy` gets a BlockingIOError with this text. Readers share it with each
    other; they make no lock file: where there is none, nobody writes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        if not shared:
            raise
        yield
        return
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise BlockingIOError(busy) from None
        yield
    finally:
        os.close(descriptor)
