"""Embedding a source of tiles of any size into shards: in bounded memory, and again from where it was stopped."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from macl_tf.datasets.images import resize_image, thumbnail
from macl_tf.datasets.label_lists import listed, quoted
from macl_tf.datasets.label_names import KnownLabels
from macl_tf.datasets.tags import read_tags
from macl_tf.files import locked
from macl_tf.serving.footprints import footprint
from macl_tf.serving.items import Items
from macl_tf.serving.shard_records import BadFile, Origin
from macl_tf.serving.shards import BAD_FILES, ShardFolder
from macl_tf.serving.sources import Tile, TileSource

_NOWHERE = np.full((4, 2), np.nan)


class Encoder(Protocol):
    """What is needed of `macl_tf.serving.saved_model.ExportedEncoder`."""

    version: int
    info: dict[str, Any]
    dim: int
    image_size: int
    label_names: tuple[str, ...]

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, S, S, 3) pixels to (B, D) embeddings."""


@dataclass(frozen=True)
class EmbeddingReport:
    """What a run of `embed_images` did.

    Attributes:
        output: Folder of the shards.
        embedded: Tiles embedded by this run.
        before: Tiles that were embedded before.
        bad: Files that could not be embedded, in this run or before; they stand in bad_files.csv.
        seconds: How long this run took.
    """

    output: Path
    embedded: int
    before: int
    bad: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Speed of this run."""
        return self.embedded / self.seconds if self.embedded else 0.0

    def __str__(self) -> str:
        """A closing line for the command."""
        if self.embedded:
            text = f"{self.embedded:,} images embedded, {self.images_per_second:,.1f} a second"
            text += f"; {self.before:,} were before" if self.before else ""
        else:
            text = f"nothing to do: {self.before:,} images were embedded before"
        files = "file" if self.bad == 1 else "files"
        return text + (f"; {self.bad:,} bad {files}, see '{self.output / BAD_FILES}'" if self.bad else "")


class _Prepared(NamedTuple):
    """A tile, ready for the encoder; its full-size picture is gone."""

    tile: Tile
    pixels: NDArray[np.uint8]
    thumbnail: bytes | None
    date: np.datetime64
    footprint: NDArray[np.float64]


def embed_images(
    encoder: Encoder,
    source: TileSource,
    output: str | os.PathLike[str],
    *,
    shard_size: int = 4096,
    thumbnail_size: int = 128,
    workers: int = 2,
    batch_size: int = 64,
    progress: bool = True,
) -> EmbeddingReport:
    """Embeds every tile of a source into a folder of Parquet shards.

    The same call after an interruption goes on behind the last finished shard, and after files were added embeds
    these. What was embedded is not looked at again; a bad file is tried again once it has changed. Memory depends
    on `batch_size`, `shard_size` and the largest picture, and by 16 bytes each on how many were embedded before.

    Args:
        encoder: The exported encoder.
        source: Where tiles come from.
        output: Folder of the shards; it is made if need be.
        shard_size: Tiles in a shard, >= 1. As many are embedded again after a kill, at most.
        thumbnail_size: Longest side in pixels of the small pictures to keep; 0 keeps none.
        workers: Threads that read, decode and resize, >= 1.
        batch_size: Pictures that the encoder takes at once, >= 1.
        progress: Whether to show a bar, and what the source has to note.

    Returns:
        What was done. The source's labels that the encoder does not know become columns of their own, behind its own.

    Raises:
        FileNotFoundError: If the source is empty.
        BlockingIOError: If another process is writing to `output`.
        ValueError: If `output` holds shards of another encoder, with other labels or damaged, or a number is too small.
        OSError: If a shard cannot be written; those before stay, and the same call goes on.
    """
    least = {"shard_size": 1, "thumbnail_size": 0, "workers": 1, "batch_size": 1}
    given = {"shard_size": shard_size, "thumbnail_size": thumbnail_size, "workers": workers, "batch_size": batch_size}
    for name, value in given.items():
        if value < least[name]:
            raise ValueError(f"{name} must be >= {least[name]}, got {value}.")
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    busy = f"'{output}' is being written by another process. Wait for it to end, then run this again."
    with locked(output / ".lock", busy=busy):
        label_names = _all_labels(encoder.label_names, source.label_names)
        identity = encoder.info["encoder_sha256"], encoder.info["descriptor"], encoder.version
        shards = ShardFolder(output, Origin(*identity, label_names, encoder.dim))
        before, started = shards.rows, time.monotonic()
        shard = _Shard(encoder, label_names)
        with tqdm(desc="embedding", unit="image", smoothing=0, disable=not progress) as bar:
            if progress:
                for note in (*source.notes, *_new_labels(encoder.label_names, source.label_names)):
                    bar.write(note, file=sys.stderr)
                threading.Thread(target=lambda: setattr(bar, "total", source.count()), daemon=True).start()

            def todo() -> Iterator[Tile]:
                for tile in source:
                    known = shards.bad.get(tile.path)
                    if shards.holds(tile.id) or (known is not None and known.stamp == _stamp(tile)):
                        bar.initial = getattr(bar, "initial", 0) + 1  # this run's speed is without it
                        bar.update()
                    else:
                        yield tile

            with closing(_prepared(todo(), encoder.image_size, thumbnail_size, workers, 2 * batch_size)) as stream:
                for prepared in stream:
                    shard.take(prepared, batch_size, shard_size)
                    if shard.is_full(shard_size):
                        shard.write(shards)
                    bar.update()
            shard.write(shards)
        if not shards.rows and not shards.bad:
            raise FileNotFoundError(f"'{source.name}' must hold images, but none was found.")
        shards.write_bad_files()
    return EmbeddingReport(output, shards.rows - before, before, len(shards.bad), time.monotonic() - started)


class _Shard:
    """The shard that is being filled."""

    def __init__(self, encoder: Encoder, label_names: tuple[str, ...]) -> None:
        self._encoder = encoder
        self._label_names = label_names
        self._known = KnownLabels(label_names)
        self._clear()

    def _clear(self) -> None:
        self._waiting: list[_Prepared] = []
        self._rows: list[_Prepared] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._bad: list[BadFile] = []

    def take(self, prepared: _Prepared | BadFile, batch_size: int, shard_size: int) -> None:
        if isinstance(prepared, BadFile):
            self._bad.append(prepared)
        else:
            self._waiting.append(prepared)
        if len(self._waiting) == min(batch_size, shard_size - len(self._rows)):
            self._encode()

    def is_full(self, shard_size: int) -> bool:
        return max(len(self._rows), len(self._bad)) >= shard_size

    def write(self, shards: ShardFolder) -> None:
        self._encode()
        if not self._rows and not self._bad:
            return
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
        thumbnails = [prepared.thumbnail for prepared in self._rows]
        shards.add(items, vectors, thumbnails if any(thumbnails) else None, self._bad)
        self._clear()

    def _encode(self) -> None:
        if not self._waiting:
            return
        vectors = np.asarray(self._encoder.embed_pixels(np.stack([prepared.pixels for prepared in self._waiting])))
        expected = (len(self._waiting), self._encoder.dim)
        if vectors.shape != expected:
            raise ValueError(f"the encoder must give shape {expected}, got {vectors.shape}. Export it again.")
        for prepared, vector in zip(self._waiting, vectors, strict=True):
            if np.isfinite(vector).all():
                self._rows.append(prepared._replace(pixels=_NO_PIXELS))
                self._vectors.append(vector)
            else:
                self._bad.append(BadFile(prepared.tile.path, "its embedding is not finite", _stamp(prepared.tile)))
        self._waiting = []


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def _prepared(
    tiles: Iterable[Tile], image_size: int, thumbnail_size: int, workers: int, ahead: int
) -> Generator[_Prepared | BadFile, None, None]:
    """Reads tiles in threads, in order, at most `ahead` of them before they are asked for."""
    executor = ThreadPoolExecutor(workers)
    under_way: deque[Future[_Prepared | BadFile]] = deque()
    try:
        for tile in tiles:
            under_way.append(executor.submit(_prepare, tile, image_size, thumbnail_size))
            if len(under_way) > ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for all that is left


def _prepare(tile: Tile, image_size: int, thumbnail_size: int) -> _Prepared | BadFile:
    stamp = _stamp(tile)
    try:
        image = tile.read()
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return BadFile(tile.path, reason.removeprefix(f"{tile.path} "), stamp)
    small = thumbnail(image, thumbnail_size) if thumbnail_size else None
    pixels = resize_image(image, image_size)
    date, corners = tile.date, None
    if tile.file is not None:
        tags = read_tags(tile.file)
        date = tags.taken if np.isnat(date) else date
        corners = footprint(tile.file) if tags.placed else None
    return _Prepared(tile, pixels, small, date, _NOWHERE if corners is None else corners)


def _stamp(tile: Tile) -> str:
    """What changes when a file is mended."""
    try:
        status = os.stat(tile.file) if tile.file is not None else None
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}" if status else ""


def _all_labels(encoder: Sequence[str], source: Sequence[str]) -> tuple[str, ...]:
    """The encoder's labels, spelt as it knows them, and behind them those that only the source has."""
    known = KnownLabels(encoder)
    return (*encoder, *(name for name in source if known.find(name) is None))


def _new_labels(encoder: Sequence[str], source: Sequence[str]) -> list[str]:
    """Notes on the labels that the encoder was not trained with, which may be misspellings of its own."""
    known, there, new = KnownLabels(encoder), KnownLabels(source), _all_labels(encoder, source)[len(encoder) :]
    if not encoder or not new:
        return []
    # A twin that is in the source as well stands in the source's own notes.
    near = [(name, own) for name in new for own in known.near(name, 1, typo=True) if there.find(own) is None]
    twins = [f"{quoted(name)} beside the encoder's {quoted(own)}: did you mean {quoted(own)}?" for name, own in near]
    return [f"labels that the encoder was not trained with: {listed(new, 10)}", *twins[:5]]
