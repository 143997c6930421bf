"""Upserts and deletes made since an index was published, in the order in which they were made.

    header   b"MACLJRN1", the uuid of the index version (32 letters), CRC-32 of these 40 bytes
    record   length of the payload (8 bytes), its CRC-32, CRC-32 of these 12 bytes; payload
    payload  length of a JSON text (4 bytes), the text, (n, D) float32 vectors, thumbnails one after another

All numbers are little-endian. One call is one record, so it is all there or not at all. A record counts once it is on
disk; what a dying process left of one at the end of the file is passed over by readers and cut off by the next writer.
Anything else that does not add up is damage, and refused: nothing acknowledged is ever dropped in silence.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.artifacts import ArtifactError
from macl_tf.index.items import Items
from macl_tf.index.vectors import unit_rows

_MAGIC = b"MACLJRN1"
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<QI")
HEADER_BYTES = len(_MAGIC) + 32 + _CRC.size
_RECORD_BYTES = _RECORD.size + _CRC.size


@dataclass(frozen=True, eq=False)
class Upsert:
    """Items to add, or to put in the place of those with the same ids.

    Attributes:
        items: n items.
        vectors: (n, D) float32 of unit norm.
        thumbnails: n JPEG files or None.
    """

    items: Items
    vectors: NDArray[np.float32]
    thumbnails: tuple[bytes | None, ...]

    @classmethod
    def of(
        cls,
        items: Items,
        vectors: ArrayLike,
        thumbnails: Iterable[bytes | None] | None,
        label_names: tuple[str, ...],
        dim: int,
    ) -> Upsert:
        """Checks everything that an upsert to an index with these labels and dimensions must fulfil.

        Raises:
            ValueError: If something does not fit.
        """
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
    return root / f"journal-{version}.log"


def encode(change: Change) -> bytes:
    """A change as a whole record, length and checksums included."""
    if isinstance(change, Delete):
        text: dict[str, Any] = {"delete": list(change.ids)}
        bodies = b""
    else:
        items = change.items
        sizes = [len(picture) if picture else 0 for picture in change.thumbnails]
        rows = [items.describe(position) for position in range(len(items))]
        text = {"upsert": rows, "dim": change.vectors.shape[1], "thumbnails": sizes}
        bodies = change.vectors.astype("<f4").tobytes() + b"".join(picture or b"" for picture in change.thumbnails)
    head = json.dumps(text, ensure_ascii=False, allow_nan=False).encode()
    payload = struct.pack("<I", len(head)) + head + bodies
    start = _RECORD.pack(len(payload), zlib.crc32(payload))
    return start + _CRC.pack(zlib.crc32(start)) + payload


def decode(payload: bytes, label_names: tuple[str, ...]) -> Change:
    """The change in a record's payload.

    Raises:
        ValueError, KeyError, TypeError: If it holds something else.
    """
    (length,) = struct.unpack_from("<I", payload)
    text, position = json.loads(payload[4 : 4 + length]), 4 + length
    if "delete" in text:
        return Delete(tuple(text["delete"]))
    rows, dim, sizes = text["upsert"], text["dim"], text["thumbnails"]
    vectors = np.frombuffer(payload, "<f4", len(rows) * dim, position).astype(np.float32).reshape(len(rows), dim)
    position += vectors.nbytes
    pictures = []
    for size in sizes:
        pictures.append(payload[position : position + size] or None)
        position += size
    places = {name: place for place, name in enumerate(label_names)}
    labels = np.zeros((len(rows), len(label_names)), np.uint8)
    for row, held in zip(labels, rows, strict=True):
        row[[places[name] for name in held["labels"]]] = 1
    columns = {f"{name}s": [row[name] or "" for row in rows] for name in ("path", "split", "source")}
    nowhere = [[np.nan, np.nan]] * 4
    items = Items.of(
        label_names,
        [row["id"] for row in rows],
        labels,
        **columns,
        footprints=[row["footprint"] or nowhere for row in rows],
        dates=np.array([row["date"] or "NaT" for row in rows], "datetime64[D]"),
    )
    return Upsert(items, vectors, tuple(pictures))


def read_changes(path: Path, uuid: str, label_names: tuple[str, ...], start: int = 0) -> tuple[list[Change], int]:
    """Reads the changes from `start` on.

    Args:
        path: The journal. It need not be there.
        uuid: Of the index version that it must belong to.
        label_names: C names.
        start: Where an earlier reading ended; 0 for the beginning.

    Returns:
        The changes, and where the last whole record ends: there the next reading starts and the next record goes. It is
        0 where there is no journal yet.

    Raises:
        ArtifactError: If the journal belongs to another index or is damaged, naming the file and the byte.
    """
    if not path.is_file():
        return [], start  # none yet, or gone together with a version that is not kept any more
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < start:
            raise _damaged(path, size)
        if size < HEADER_BYTES:
            return [], 0  # a process died when it had just begun the file
        head = file.read(HEADER_BYTES)
        if zlib.crc32(head[:-4]) != _CRC.unpack(head[-4:])[0] or not head.startswith(_MAGIC):
            raise _damaged(path, 0)
        if head[len(_MAGIC) : -4] != uuid.encode():
            raise ArtifactError(
                f"'{path}' holds changes to another index than the one beside it. Copy the whole index folder anew, or "
                "remove this file if its changes are not wanted."
            )
        end = max(start, HEADER_BYTES)
        changes: list[Change] = []
        for payload in _payloads(file, end, size):
            try:
                changes.append(decode(payload, label_names))
            except (ValueError, KeyError, TypeError, struct.error) as error:
                raise _damaged(path, end) from error
            end += _RECORD_BYTES + len(payload)
        return changes, end


def append(path: Path, uuid: str, record: bytes, end: int) -> int:
    """Writes one record, on disk when this returns. The caller holds the journal's lock.

    Args:
        path: The journal; it is begun if need be.
        uuid: Of the index version it belongs to.
        record: From `encode`, or several of them one after another.
        end: Where the last whole record ends, from `read_changes`; what stands behind it is cut off.

    Returns:
        Where the record ends.

    Raises:
        OSError: If it cannot be written, as on a full disk. Then the journal holds what it held before.
    """
    if end == 0:
        identity = _MAGIC + uuid.encode()
        record = identity + _CRC.pack(zlib.crc32(identity)) + record
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.ftruncate(descriptor, end)
        try:
            left = memoryview(record)
            while left:
                left = left[os.pwrite(descriptor, left, end + len(record) - len(left)) :]
            os.fsync(descriptor)
            if end == 0:
                sync_folder(path.parent)
        except OSError as error:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno or 0)}: the change could not be written and is not made. Free some space on "
                "the disk, then try again",
                str(path),
            ) from error
    finally:
        os.close(descriptor)
    return end + len(record)


def begin(path: Path, uuid: str, records: bytes) -> None:
    """Makes a journal that holds `records` and nothing else; without any there is no file."""
    if records:
        append(path, uuid, records, 0)
    else:
        path.unlink(missing_ok=True)


def records_between(path: Path, start: int, end: int) -> bytes:
    """The bytes of whole records between two places that `read_changes` gave."""
    start = max(start, HEADER_BYTES)
    if end <= start:
        return b""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def sync_folder(folder: Path) -> None:
    """Sees to it that new names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _payloads(file: BinaryIO, place: int, size: int) -> Iterator[bytes]:
    """Whole payloads of the records between `place` and `size`, up to a torn one at the end."""
    file.seek(place)
    while size - place >= _RECORD_BYTES:
        head = file.read(_RECORD_BYTES)
        if zlib.crc32(head[: _RECORD.size]) != _CRC.unpack_from(head, _RECORD.size)[0]:
            if not any(head) and not any(map(any, iter(lambda: file.read(1 << 20), b""))):
                return  # after a power cut: the file had grown, its new bytes were not there yet
            raise _damaged(Path(file.name), place)
        length, checksum = _RECORD.unpack_from(head)
        if size - place - _RECORD_BYTES < length:
            return  # torn
        payload = file.read(length)
        if zlib.crc32(payload) != checksum:
            raise _damaged(Path(file.name), place)
        yield payload
        place += _RECORD_BYTES + length


def _damaged(path: Path, place: int) -> ArtifactError:
    return ArtifactError(
        f"'{path}' is damaged at byte {place:,}: what stands there is not what was written. Copy the whole index "
        "folder anew from where it is whole, or remove this file and lose all changes since that version was published."
    )
