"""Windows of scenes as tiles to embed, which need not lie on disk: those that `macl tile` would write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from macl_tf.datasets.bands import Reader
from macl_tf.datasets.images import RGB
from macl_tf.datasets.tile_facts import HeaderFacts, read_header
from macl_tf.embedding.rows import stamp_of_file
from macl_tf.embedding.sources import Tile, read_tile
from macl_tf.tiling.in_memory import WindowReader, size_of
from macl_tf.tiling.journal import TILES, tile_name
from macl_tf.tiling.options import Options
from macl_tf.tiling.sources import Window, find_sources, names_of
from macl_tf.tiling.windows import starts


class WindowTile:
    """A window, which is cut once, for its pixels and then for its header."""

    def __init__(self, windows: WindowReader, window: Window, name: str, reader: Reader) -> None:
        self._windows, self._window, self._name, self._reader, self._data = windows, window, name, reader, b""

    def read(self) -> NDArray[Any]:
        """Its pixels; as `Tile.read`."""
        self._data = self._windows.tile(self._window)
        return read_tile(self._reader, self._data, self._name)

    def header(self) -> HeaderFacts:
        """Its date and place; the bytes are let go."""
        data, self._data = self._data, b""
        return read_header(data)


class SceneSource:
    """The windows of scenes, row by row, scene by scene.

    Tiles and ids are those of `macl tile` with the same options, its files excepted. Windows that are mostly without
    data, and scenes that cannot be read, are tiles that cannot be read. A scene that changed is embedded anew.

    Args:
        scenes: Rasters, folders of them, STAC items and item collections.
        options: How they are cut: size, stride, resolution, bands, max_nodata, assets.
        reader: Of the tiles.

    Raises:
        FileNotFoundError: Where a scene is not there.
        ValueError: Where there is no scene.
    """

    label_names: tuple[str, ...] = ()

    def __init__(self, scenes: Sequence[str | os.PathLike[str]], options: Options, *, reader: Reader = RGB) -> None:
        paths = [Path(scene).expanduser().absolute() for scene in scenes]
        self._sources, findings = find_sources(paths, (), options.assets)
        self._names = names_of(self._sources, {})
        self._windows, self._reader = WindowReader(options), reader
        # Each scene is looked at once, beside the one whose windows are read.
        self._size_of = cache(lambda source: size_of(source, options))
        self.name = paths[0].name if len(paths) == 1 else "scenes"
        self.notes = tuple(f"{found.name}: left out, {found.detail}" for found in findings)

    def __iter__(self) -> Iterator[Tile]:
        """The tiles; of a scene that cannot be read, one that says so."""
        size, stride = self._windows.options.size, self._windows.options.stride
        for source in self._sources:
            name, stamp = self._names[source.key], " ".join(map(stamp_of_file, source.paths)).strip()
            first = Window(source.name, tuple(map(str, source.paths)), source.datetime, 0, 0)
            try:
                height, width = self._size_of(source)
            except ValueError:
                yield self._tile(source.name, first, stamp)
                continue
            digits = len(str(max(height, width) - 1))
            for row in starts(height, size, stride):
                for column in starts(width, size, stride):
                    id_ = f"{TILES}/{name}/{tile_name(name, row, column, digits, 'tif')}"
                    yield self._tile(id_, first._replace(row=row, column=column), stamp)

    def count(self) -> int:
        """How many windows there are."""
        return sum(1 for _ in self)

    def _tile(self, id_: str, window: Window, stamp: str) -> Tile:
        options = self._windows.options
        told = stamp and f"{stamp} {options.size} {options.resolution:g} {options.bands} {options.max_nodata:g}"
        return window_tile(self._windows, window, id_, self._reader, self.name, told)


def window_tile(windows: WindowReader, window: Window, id_: str, reader: Reader, source: str, stamp: str) -> Tile:
    """A window as a tile; `stamp` changes with its scene and with how it is cut."""
    cut = WindowTile(windows, window, id_, reader)
    return Tile(id_, id_, cut.read, source=source, header=cut.header, contents=stamp, window=window)
