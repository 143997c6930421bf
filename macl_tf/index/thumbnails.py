"""Small pictures of an index: JPEG files one after another in thumbnails.bin, found by offset, read when looked at."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PICTURES, OFFSETS = "thumbnails.bin", "thumbnail_offsets.npy"
THUMBNAIL_SIZE = 256  # longest side in pixels, where nothing else is said


class Thumbnails:
    """The pictures of N items, by position, in the folder that `write_thumbnails` wrote to."""

    def __init__(self, folder: Path) -> None:
        self._offsets: NDArray[np.int64] = np.load(folder / OFFSETS, allow_pickle=False)
        size = (folder / PICTURES).stat().st_size
        steps = self._offsets.dtype == np.int64 and self._offsets.ndim == 1 and len(self._offsets) > 0
        if not steps or self._offsets[0] != 0 or self._offsets[-1] != size or (np.diff(self._offsets) < 0).any():
            raise ValueError(f"'{folder / OFFSETS}' does not fit '{folder / PICTURES}'.")
        self._bytes: mmap.mmap | bytes = b""
        if size:
            with open(folder / PICTURES, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def whole(self) -> bool:
        """Whether every item has a picture."""
        return bool((np.diff(self._offsets) > 0).all())

    def holds(self, position: int) -> bool:
        """Whether there is a picture."""
        start, end = self._offsets[position : position + 2].tolist()
        return bool(end > start)

    def __getitem__(self, position: int) -> bytes | None:
        """JPEG bytes, None where there is no picture."""
        start, end = self._offsets[position : position + 2].tolist()
        return self._bytes[start:end] or None


def write_thumbnails(folder: Path, thumbnails: Iterable[bytes | None], count: int) -> None:
    """Writes the JPEG pictures of `count` items, one at a time, None or b"" for none; no file where all are none."""
    lengths, found = np.zeros(count + 1, np.int64), 0
    with open(folder / PICTURES, "wb") as file:
        for picture in thumbnails:
            found += 1
            if not isinstance(picture, bytes | None):
                raise ValueError(f"thumbnails must be bytes or None, got {type(picture).__name__} at {found - 1}.")
            if picture and found <= count:
                lengths[found] = file.write(picture)
    if found != count:
        raise ValueError(f"thumbnails must have one entry for each of the {count} items, got {found}.")
    if lengths.any():
        np.save(folder / OFFSETS, np.cumsum(lengths), allow_pickle=False)
    else:
        (folder / PICTURES).unlink()
