"""The grid of windows over a scene, and the parts of it that are cut together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

CHUNK_BYTES = 32 << 20  # that one worker holds at a time, but a tile at least


@dataclass(frozen=True)
class Chunk:
    """Neighbouring windows of one row of the grid, which are read together."""

    number: int
    row: int  # of the upper edge, in pixels
    columns: tuple[int, ...]  # of the left edges


class Held(NamedTuple):
    """What a tile holds: shares of its area, by the number of the label, and labels that have none but are there."""

    shares: dict[int, float]
    present: tuple[int, ...] = ()


def starts(length: int, size: int, stride: int) -> range:
    """Where windows begin along one side: every pixel is in one, and the last may reach beyond the edge."""
    return range(0, min(length - size + stride, length) if length > size else 1, stride)


def chunks(height: int, width: int, size: int, stride: int, bytes_a_pixel: int) -> Iterator[Chunk]:
    """All windows of a scene, row by row; `bytes_a_pixel` of all that is held while a part is cut."""
    rows, columns = starts(height, size, stride), starts(width, size, stride)
    # As many whole windows as fit, by the pixels that each adds.
    most = max(1, (CHUNK_BYTES // (size * bytes_a_pixel) - size) // stride + 1)
    number = 0
    for row in rows:
        for first in range(0, len(columns), most):
            yield Chunk(number, row, tuple(columns[first : first + most]))
            number += 1


def together(parts: Iterable[Chunk], block: tuple[int, int]) -> list[list[Chunk]]:
    """Parts in groups that share blocks of a scene's file, (height, width): one thread decodes each block once."""
    height, width = block
    groups: dict[tuple[int, int], list[Chunk]] = {}
    for part in parts:
        groups.setdefault((part.row // height, part.columns[0] // width), []).append(part)
    return list(groups.values())
