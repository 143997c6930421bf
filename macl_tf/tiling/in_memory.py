"""Windows of scenes in memory, as the tiles that `tile` would write of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from macl_tf.tiling.encoding import Encoder, tag_of
from macl_tf.tiling.options import Options
from macl_tf.tiling.scenes import Scene, gdal
from macl_tf.tiling.sources import Source, Window


def size_of(source: Source, options: Options) -> tuple[int, int]:
    """Height and width of a scene as it would be cut, in pixels; a ValueError where it cannot be read."""
    with _told(source.name):
        scene = Scene(source, options.bands, options.resolution)
        scene.close()
        return scene.grid.height, scene.grid.width


class WindowReader:
    """Gives one window after another. Any thread may ask; one scene is open at a time, so ask for its windows in order.

    Args:
        options: How scenes are cut; of size, bands, resolution and nodata.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._mutex = threading.Lock()
        self._scene: Scene | None = None
        self._is = tuple[str, ...]()

    def tile(self, window: Window) -> bytes:
        """A window as a GeoTIFF; a ValueError where it cannot be read, or too much of it is without data."""
        with self._mutex, _told(window.scene):
            scene, side = self._opened(window), self.options.size
            values, there = scene.read(window.row, window.column, side, side)
            missing, most = 1 - float(there.mean()), self.options.max_nodata
            if missing > most:
                raise ValueError(f"{missing:.1%} of it is without data, and --max-nodata is {most:g}")
            return b"".join(self._encoder.encode(values, window.row, window.column))

    def _opened(self, window: Window) -> Scene:
        if self._scene is None or self._is != window.paths:
            if self._scene is not None:
                self._scene.close()
                self._scene = None
            source = Source(window.scene, tuple(Path(path) for path in window.paths), window.datetime)
            scene = self._scene = Scene(source, self.options.bands, self.options.resolution)
            self._is = window.paths
            self._encoder = Encoder(scene, "tif", self.options.size, tag_of(window.datetime) or scene.day)
        return self._scene


@contextmanager
def _told(scene: str) -> Iterator[None]:
    """GDAL in this thread, whose errors are ValueErrors that name a scene."""
    try:
        with gdal():
            yield
    except ValueError:
        raise
    except Exception as error:  # rasterio's and GDAL's have no public class in common
        raise ValueError(f"{scene}: {error}") from error
