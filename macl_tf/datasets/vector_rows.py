"""What is read of files of vectors: batches of rows, the file that gives them, and how one is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

BATCH = 8192  # rows
# Names of columns as they are published, and of arrays; the first that is there holds.
IDS = ("id", "unique_id", "ids", "tile_id", "chip_id", "item_id")
VECTORS = ("vector", "embedding", "vectors", "embeddings", "features")
_DAY = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")


class VectorRows(NamedTuple):
    """A batch of n rows; texts are "" where nothing is known, and so is what a file does not tell."""

    ids: list[str]
    vectors: NDArray[np.float32]  # (n, F)
    footprints: NDArray[np.float64]  # (n, 4, 2) as `index.items.Items` has them, NaN where unknown
    dates: NDArray[np.datetime64]  # (n,) of days, NaT where unknown
    labels: list[tuple[str, ...]]
    splits: list[str]
    sources: list[str]
    paths: list[str]
    thumbnails: list[bytes | None]  # JPEG


@dataclass(frozen=True)
class Said:
    """What is said of all rows of a file: by its own metadata, or by the STAC item that it is of."""

    model: str = ""  # that made the vectors
    day: str = ""
    source: str = ""
    scale: tuple[float, ...] = ()  # of quantised vectors: value = scale * number + offset
    offset: tuple[float, ...] = ()


class VectorFile:
    """One file of vectors, opened: `count` rows."""

    count: int
    label_names: tuple[str, ...] = ()  # that its metadata names, in order

    def __init__(self, path: Path, said: Said) -> None:
        self.path, self.said = path, said

    def read(self, size: int, *, facts: bool) -> Iterator[VectorRows]:
        """The rows, `size` at a time, unchecked but for their types; ids and vectors only without `facts`."""
        raise NotImplementedError

    def ids(self) -> Iterator[str]:
        """The ids alone."""
        raise NotImplementedError

    def rows(self, ids: list[str], vectors: NDArray[Any], **known: Any) -> VectorRows:
        """A batch with what is known of it, and what is said of all rows of the file."""
        if self.said.scale or self.said.offset:
            vectors = vectors * np.array(self.said.scale or [1.0]) + np.array(self.said.offset or [0.0])
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as not finite
            vectors = np.ascontiguousarray(vectors, np.float32)
        count = len(ids)
        nothing = {
            "footprints": np.full((count, 4, 2), np.nan),
            "dates": np.full(count, day_in(self.said.day), "datetime64[D]"),
            "labels": [()] * count,
            "splits": [""] * count,
            "sources": [self.said.source] * count,
            "paths": [""] * count,
            "thumbnails": [None] * count,
        }
        return VectorRows(ids, vectors, **{**nothing, **known})


def day_in(text: str) -> np.datetime64:
    """The day that a text begins with, 2021-07-31 or 20210731; NaT where it does with none."""
    found = _DAY.match(text)
    try:
        return np.datetime64(date(*map(int, found.groups())), "D") if found else np.datetime64("NaT", "D")
    except ValueError:
        return np.datetime64("NaT", "D")


def refuse(path: Path, rule: str, got: str, remedy: str) -> NoReturn:
    """Raises a ValueError about a file."""
    raise ValueError(f"'{path}' must {rule}, got {got}. {remedy}")
