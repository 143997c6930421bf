"""What was read from the files of a folder, remembered until a file changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from macl_tf.datasets.picture_kinds import READER
from macl_tf.files import read_json, write_json


def remembered(
    root: Path,
    names: Sequence[str],
    cache_dir: str | os.PathLike[str] | None,
    read: Callable[[Path, str], Any],
    kind: str,
    what: str,
    *,
    files: Callable[[Path], Sequence[Path]] = lambda path: (path,),
) -> tuple[dict[str, Any], dict[str, str]]:
    """What `read` says of each file below `root`, as JSON can hold it, and the error of each that cannot be read.

    In threads; with `cache_dir`, only of those whose size or time of change differ from when they were read. `kind`
    tells what is remembered from other things, `what` is for the bar, and `files` gives the files of a name.
    """
    digest = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:12]
    memory = None if cache_dir is None else Path(cache_dir) / f"folder-{digest}-{kind}{READER}.json"
    known = _recall(memory)
    errors: dict[str, str] = {}
    found: dict[str, list[Any]] = {}

    def check(name: str) -> None:
        try:
            status = [file.stat() for file in files(root / name)]
            stamp = [sum(one.st_size for one in status), max(one.st_mtime_ns for one in status)]
            before = known.get(name, [])
            found[name] = [*stamp, before[2] if before[:2] == stamp else read(root / name, name)]
        except (OSError, ValueError) as error:
            errors[name] = str(error)

    executor = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        list(tqdm(executor.map(check, names), what, len(names), unit="image", leave=False, delay=1))
    finally:
        executor.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for all that is left
    if memory is not None and found != known:
        with suppress(OSError):  # a cache that cannot be written costs time in the next run, not this run
            write_json(memory, found)
    return {name: found[name][2] for name in names if name in found}, dict(sorted(errors.items()))


def _recall(memory: Path | None) -> dict[str, list[Any]]:
    try:
        known = read_json(memory) if memory else {}
        return {name: row for name, row in known.items() if len(row) == 3}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # nothing remembered yet, or a damaged file: everything is decoded again
