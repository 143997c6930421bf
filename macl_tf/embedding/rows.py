"""Tiles to the rows of a shard: read ahead in threads, embedded in batches; the same wherever it runs."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.bands import Reader
from macl_tf.datasets.images import thumbnail
from macl_tf.datasets.label_names import KnownLabels
from macl_tf.datasets.tile_facts import NOWHERE, UNKNOWN_DAY, HeaderFacts
from macl_tf.embedding.shards import BadFile
from macl_tf.embedding.sources import Tile
from macl_tf.index.items import Items


class Encoder(Protocol):
    """What is needed of `macl_tf.export.saved_model.ExportedEncoder`."""

    version: int
    info: dict[str, Any]
    dim: int
    image_size: int
    label_names: tuple[str, ...]
    reader: Reader  # of the tiles that it takes

    def embed_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """(B, S, S, N) pixels to (B, D) embeddings."""


class Failed(NamedTuple):
    """A tile that cannot be embedded."""

    tile: Tile
    bad: BadFile
    out_of_reach: bool = False  # it could not be opened, which says nothing about what is in it


class Prepared(NamedTuple):
    """A tile, ready for the encoder; its full-size picture is gone."""

    tile: Tile
    pixels: NDArray[Any]
    thumbnail: bytes | None
    date: np.datetime64
    footprint: NDArray[np.float64]
    stamp: str


class Content(NamedTuple):
    """What a shard holds of n tiles."""

    items: Items
    vectors: NDArray[np.float32]  # (n, D)
    thumbnails: list[bytes | None] | None
    stamps: list[str]  # change with a tile's file
    facts: list[str]  # what the source said of it


class Rows:
    """The rows of one shard, `size` at most: what `prepared_tiles` gives is embedded, `batch_size` at once."""

    def __init__(self, encoder: Encoder, label_names: tuple[str, ...], batch_size: int, size: int) -> None:
        self._encoder, self._label_names, self._batch_size, self._size = encoder, label_names, batch_size, size
        self._known = KnownLabels(label_names)
        self.clear()

    def __len__(self) -> int:
        """How many are embedded."""
        return len(self._rows)

    def clear(self) -> None:
        """Begins the next shard."""
        self._waiting: list[Prepared] = []
        self._rows: list[Prepared] = []
        self._vectors: list[NDArray[np.float32]] = []

    def facts_of(self, tile: Tile) -> str:
        """What the source says of a tile, as far as it is kept."""
        columns = sorted(self._known.places(tile.labels))
        return json.dumps([columns, tile.split, str(tile.date)])

    def take(self, prepared: Prepared | Failed) -> list[Failed]:
        """Takes in a tile; returns what turns out not to be embeddable."""
        if isinstance(prepared, Failed):
            return [prepared]
        self._waiting.append(prepared)
        return self.encode() if len(self._waiting) == min(self._batch_size, self._size - len(self._rows)) else []

    def encode(self) -> list[Failed]:
        """Embeds what waits; returns the tiles whose embedding is not finite."""
        if not self._waiting:
            return []
        vectors = np.asarray(self._encoder.embed_pixels(np.stack([prepared.pixels for prepared in self._waiting])))
        expected = (len(self._waiting), self._encoder.dim)
        if vectors.shape != expected:
            raise ValueError(f"the encoder must give shape {expected}, got {vectors.shape}. Export it again.")
        failed = []
        for prepared, vector in zip(self._waiting, vectors, strict=True):
            if np.isfinite(vector).all():
                self._rows.append(prepared._replace(pixels=_NO_PIXELS))
                self._vectors.append(vector)
            else:
                bad = BadFile(prepared.tile.path, "its embedding is not finite", prepared.stamp)
                failed.append(Failed(prepared.tile, bad))
        self._waiting = []
        return failed

    def content(self) -> Content:
        """What is embedded, for the shard's file."""
        labels = np.zeros((len(self._rows), len(self._label_names)), np.uint8)
        for row, prepared in zip(labels, self._rows, strict=True):
            row[self._known.places(prepared.tile.labels)] = 1
        tiles = [prepared.tile for prepared in self._rows]
        items = Items.of(
            self._label_names,
            [tile.id for tile in tiles],
            labels,
            paths=[tile.path for tile in tiles],
            splits=[tile.split for tile in tiles],
            sources=[tile.source for tile in tiles],
            footprints=[prepared.footprint for prepared in self._rows],
            dates=[prepared.date for prepared in self._rows],
        )
        vectors = np.array(self._vectors, np.float32).reshape(-1, self._encoder.dim)
        small = [prepared.thumbnail for prepared in self._rows]
        stamps, facts = [prepared.stamp for prepared in self._rows], [self.facts_of(tile) for tile in tiles]
        return Content(items, vectors, small if any(small) else None, stamps, facts)


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def all_labels(encoder: Sequence[str], source: Sequence[str]) -> tuple[str, ...]:
    """The encoder's labels, spelt as it knows them, and behind them those that only the source has."""
    known = KnownLabels(encoder)
    return (*encoder, *(name for name in source if known.find(name) is None))


def prepared_tiles(
    tiles: Iterable[Tile], encoder: Encoder, thumbnail_size: int, workers: int, ahead: int
) -> Generator[Prepared | Failed, None, None]:
    """Reads tiles in threads, in order, at most `ahead` of them before they are asked for."""
    executor = ThreadPoolExecutor(workers)
    under_way: deque[Future[Prepared | Failed]] = deque()
    try:
        for tile in tiles:
            under_way.append(executor.submit(_prepare, tile, encoder.reader, encoder.image_size, thumbnail_size))
            if len(under_way) > ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for all that is left


def _prepare(tile: Tile, reader: Reader, image_size: int, thumbnail_size: int) -> Prepared | Failed:
    stamp = stamp_of(tile)  # first: what is written while the file is read is a change
    try:
        image = tile.read()
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        out_of_reach = _is_out_of_reach(tile, error)
        bad = BadFile(tile.path, reason.removeprefix(f"{tile.path} "), "" if out_of_reach else stamp)
        return Failed(tile, bad, out_of_reach)
    small = thumbnail(reader.show(image), thumbnail_size) if thumbnail_size else None
    pixels = reader.resize(image, image_size)
    said = tile.header() if tile.header else HeaderFacts(UNKNOWN_DAY, NOWHERE)
    date = said.date if np.isnat(tile.date) else tile.date
    place = said.footprint if np.isfinite(said.footprint).all() else tile.footprint
    return Prepared(tile, pixels, small, date, place, stamp)


def _is_out_of_reach(tile: Tile, error: BaseException) -> bool:
    """Whether a tile could not be opened at all, as without permission or on a disk that is away."""
    if tile.unlisted:
        return True
    cause: BaseException | None = error
    while cause is not None:  # of what a decoder says, only the system's own errors have a number
        if isinstance(cause, OSError) and cause.errno is not None:
            return True
        cause = cause.__cause__
    try:
        if tile.file is not None:
            with open(tile.file, "rb") as file:
                file.read(1)
    except OSError:
        return True
    return False


def stamp_of(tile: Tile) -> str:
    """What changes when a tile's picture does; "" where nothing is known."""
    return tile.contents if tile.file is None else stamp_of_file(tile.file)


def stamp_of_file(file: str | os.PathLike[str]) -> str:
    """Size and time of a file on this machine; "" where it cannot be looked at."""
    try:
        status = os.stat(file)
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"
