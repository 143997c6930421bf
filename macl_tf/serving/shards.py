"""Embedded tiles on disk: a folder of Parquet shards that grows, survives a kill, and is read back as one table.

    SHARDS/part-00000.parquet ...   id, path, labels, split, source, date, geometry, embedding, thumbnail
    SHARDS/part-00000.json ...      of which encoder and labels the shard is, the files found bad while it was made,
                                    and its size and SHA-256
    SHARDS/bad_files.csv            what could not be embedded, and why

A shard is there as a whole or not at all: what stands beside it is written first, and holds from when the Parquet file
gets its name. What is finished is known from the finished shards alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from macl_tf.files import is_partial, written_whole
from macl_tf.serving.items import Items
from macl_tf.serving.parquet import read_parquet, write_parquet
from macl_tf.serving.shard_records import (
    BadFile,
    Origin,
    Record,
    read_record,
    remedy,
    shard_number,
    shard_path,
    shard_paths,
    write_record,
)

BAD_FILES = "bad_files.csv"
_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])


class ShardFolder:
    """The shards of a folder, to be added to by one process at a time.

    Args:
        folder: The folder, which exists.
        origin: Of what is going to be added.

    Raises:
        ValueError: If a shard is damaged or of another origin.

    Attributes:
        rows: Tiles embedded so far.
        bad: Files found bad so far, by path.
    """

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.folder = folder
        self.origin = origin
        self.rows = 0
        self.bad: dict[str, BadFile] = {}
        for left in folder.iterdir():
            if is_partial(left) and left.is_file():
                left.unlink()  # of a process that was killed
        digests = [np.empty(0, _DIGEST)]
        self._next = 0
        for path in shard_paths(folder):
            record = read_record(path)
            origin.check(record.origin, path)
            digests.append(_digests(read_parquet(path, vectors=False, thumbnails=False).items.ids))
            self.rows += record.rows
            self.bad.update({file.path: file for file in record.bad})
            self._next = shard_number(path) + 1
        done = np.concatenate(digests)
        done = done[np.argsort(done["high"])]
        self._high, self._low = done["high"].copy(), done["low"].copy()  # in one piece each, to be searched quickly
        self.bad = {name: file for name, file in self.bad.items() if not self.holds(name)}  # others were mended

    def holds(self, id: str) -> bool:
        """Whether a tile was embedded before this process began."""
        digest = _digests([id])[0]
        first, last = (np.searchsorted(self._high, digest["high"], side) for side in ("left", "right"))
        return bool((self._low[first:last] == digest["low"]).any())

    def add(
        self,
        items: Items,
        vectors: NDArray[np.float32],
        thumbnails: Sequence[bytes | None] | None,
        bad: Sequence[BadFile],
    ) -> None:
        """Writes the next shard, and the list of bad files."""
        path = shard_path(self.folder, self._next)
        with written_whole(path) as temporary:
            write_parquet(temporary, items, vectors, thumbnails)
            write_record(path, Record(self.origin, len(items), thumbnails is not None, tuple(bad)), temporary)
        self._next += 1
        self.rows += len(items)
        self.bad.update({file.path: file for file in bad})
        for name in items.paths:
            self.bad.pop(name, None)
        self.write_bad_files()

    def write_bad_files(self) -> None:
        """Brings bad_files.csv up to date, which it may not be if a process was killed after its last shard."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([BadFile._fields[:2], *(file[:2] for file in self.bad.values())])
        content = text.getvalue().encode("utf-8", "surrogateescape")  # whatever bytes a file name holds
        path = self.folder / BAD_FILES
        if not path.is_file() or path.read_bytes() != content:
            with written_whole(path) as temporary:
                temporary.write_bytes(content)


def read_origin(folder: str | os.PathLike[str]) -> Origin:
    """Which encoder and which labels the shards of a folder are of.

    Raises:
        FileNotFoundError: If there is no shard.
        ValueError: If a shard is damaged, or shards are of different origins.
    """
    return _survey(Path(folder))[1][-1].origin


def read_shards(
    folder: str | os.PathLike[str],
) -> tuple[Items, NDArray[np.float32], Sequence[bytes | None] | None]:
    """Reads a folder of shards as one table.

    Args:
        folder: What `embed_images` wrote.

    Returns:
        N items, their (N, D) float32 embeddings, and N thumbnails, which are read shard by shard when they are gone
        through in order; None if no shard has any. Beside the result, one shard at a time is in memory.

    Raises:
        FileNotFoundError: If there is no shard, or none with a tile.
        ValueError: If a shard is damaged, shards are of different origins, or an id is in two of them.
    """
    paths, records = _survey(Path(folder))
    count, dim = sum(record.rows for record in records), records[0].origin.dim
    if count == 0:
        raise FileNotFoundError(f"'{folder}' must hold embedded tiles, but its shards list bad files only.")
    vectors = np.empty((count, dim), np.float32)
    parts: list[Items] = []
    start = 0
    for path, record in zip(paths, records, strict=True):
        rows = read_parquet(path, thumbnails=False)
        told = (record.rows, dim), record.origin.label_names
        if rows.vectors is None or (rows.vectors.shape, rows.items.label_names) != told:
            raise ValueError(f"'{path}' does not hold what '{path.with_suffix('.json').name}' says. {remedy(path)}")
        vectors[start : start + record.rows] = rows.vectors
        start += record.rows
        parts.append(rows.items)
    items = Items.concatenate(parts)
    if len(set(items.ids)) != count:
        _refuse_duplicates(paths, parts)
    return items, vectors, ShardThumbnails(paths, records) if any(record.thumbnails for record in records) else None


class ShardThumbnails(Sequence[bytes | None]):
    """The thumbnails of shards, of which one shard's are in memory at a time; quick when gone through in order."""

    def __init__(self, paths: Sequence[Path], records: Sequence[Record]) -> None:
        self._paths = list(paths)
        self._ends = np.cumsum([record.rows for record in records])
        self._at = -1
        self._held: list[bytes | None] = []

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> bytes | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes | None]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes | None] | None:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} thumbnails, got position {index}.")
        shard = int(np.searchsorted(self._ends, position, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        if shard != self._at:
            found = read_parquet(self._paths[shard], vectors=False).thumbnails
            self._held = found or [None] * int(self._ends[shard] - start)
            self._at = shard
        return self._held[position - start]


def _survey(folder: Path) -> tuple[list[Path], list[Record]]:
    paths = shard_paths(folder) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"'{folder}' holds no shards (part-00000.parquet, ...). `macl embed` writes them.")
    records = [read_record(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        records[-1].origin.check(record.origin, path)
    return paths, records


def _refuse_duplicates(paths: Sequence[Path], parts: Sequence[Items]) -> None:
    home: dict[str, Path] = {}
    for path, part in zip(paths, parts, strict=True):
        for id in part.ids:
            if id in home:
                raise ValueError(f"ids must be unique, but {id!r} is in '{home[id]}' and in '{path}'. {remedy(path)}")
            home[id] = path


def _digests(ids: Iterable[str]) -> NDArray[Any]:
    """128 bits of each id: of millions of ids they fit into memory, and no two of different ids are the same."""
    joined = b"".join(hashlib.blake2b(id.encode("utf-8", "surrogateescape"), digest_size=16).digest() for id in ids)
    return np.frombuffer(joined, _DIGEST)
