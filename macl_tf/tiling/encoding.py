"""Tiles as files: GeoTIFF by GDAL, PNG and JPEG by Pillow.

Three bands of 8 bits stand pixel by pixel, as every program for pictures reads them; others band by band, as GDAL reads
them and as they are written fastest.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

from macl_tf.tiling.scenes import Grid, Scene

Buffer = bytes | memoryview
_QUALITY = 95  # of JPEG tiles


class _Template(NamedTuple):
    """A GeoTIFF without its pixels, and the numbers in it that say where it is."""

    before: bytes
    after: bytes
    place: tuple[bytes, ...]


class Encoder:
    """Writes the tiles of one scene, for one thread.

    Tiles of a scene are GeoTIFFs that differ in their pixels and their place alone. GDAL needs longer for what they
    have in common than for all else, so it writes that once, and the rest is put in. Whether this gives what GDAL
    writes, byte by byte, is tried for each scene; where it does not, GDAL writes all of them.

    Args:
        scene: The scene.
        kind: A format of `Options`.
        size: Side of the tiles.
        day: When it was taken, as a TIFF says it; "" for unknown.
    """

    def __init__(self, scene: Scene, kind: str, size: int, day: str) -> None:
        self._scene, self._kind, self._size, self._day = scene, kind, size, day
        self._template = self._tried() if kind == "tif" else None

    def encode(self, pixels: NDArray[Any], row: int, column: int) -> Sequence[Buffer]:
        """The file of a tile (B, size, size) whose upper left pixel is there in the scene, in pieces."""
        if self._kind != "tif":
            image = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, 2).squeeze()))
            data = io.BytesIO()
            image.save(data, **({"format": "JPEG", "quality": _QUALITY} if self._kind == "jpg" else {"format": "PNG"}))
            return [data.getvalue()]
        if self._template is None:
            return [self._whole(pixels, row, column)]
        return self._put_in(self._template, pixels, row, column)

    def _part(self, row: int, column: int) -> Grid:
        return self._scene.grid.part(row, column, self._size, self._size)

    def _whole(self, pixels: NDArray[Any], row: int, column: int) -> bytes:
        scene, grid = self._scene, self._part(row, column)
        bands, height, width = pixels.shape
        profile = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": pixels.dtype.name}
        if grid.placed:
            profile |= {"crs": grid.crs, "transform": grid.transform}
        if scene.nodata is not None:
            profile["nodata"] = scene.nodata
        palette = scene.palette and pixels.dtype == np.uint8
        if palette:
            profile["photometric"] = "PALETTE"
        elif _is_picture(pixels):
            profile["photometric"] = "RGB"
        else:  # else GDAL takes four bands of 8 bits for red, green, blue and alpha
            profile |= {"photometric": "MINISBLACK", "alpha": "NO"}
        # One strip, or one a band: the pixels stand in one piece.
        interleave = "pixel" if _is_picture(pixels) else "band"
        with rasterio.MemoryFile() as memory:
            with memory.open(**profile, interleave=interleave, blockysize=height) as dataset:
                if any(scene.descriptions):
                    dataset.descriptions = scene.descriptions
                if palette:
                    dataset.write_colormap(1, scene.colourmap)
                if self._day:
                    dataset.update_tags(TIFFTAG_DATETIME=self._day)
                dataset.write(pixels)  # last: all else then stands before it, once
            return bytes(memory.getbuffer())

    def _tried(self) -> _Template | None:
        """What all tiles have in common, or None where that is not so."""
        rng = np.random.default_rng(0)
        shape = (len(self._scene.bands), self._size, self._size)
        first, second = (rng.integers(0, 100, shape).astype(self._scene.dtype) for _ in range(2))
        whole, pixels, place = self._whole(first, 0, 0), _in_order(first).tobytes(), self._place(0, 0)
        at = whole.find(pixels)
        template = _Template(whole[:at], whole[at + len(pixels) :], place)
        if at < 0:
            return None
        row, column = 3 * self._size, 5 * self._size + 1
        same = b"".join(self._put_in(template, second, row, column)) == self._whole(second, row, column)
        return template if same else None

    def _place(self, row: int, column: int) -> tuple[bytes, ...]:
        """The numbers of a place as they stand in the file; they differ, so that each is found."""
        grid = self._part(row, column)
        return tuple(struct.pack("<d", number) for number in (grid.transform.c, grid.transform.f) if grid.placed)

    def _put_in(self, template: _Template, pixels: NDArray[Any], row: int, column: int) -> list[Buffer]:
        before, after = template.before, template.after
        for old, new in zip(template.place, self._place(row, column), strict=True):
            before, after = before.replace(old, new), after.replace(old, new)
        return [before, _in_order(pixels).reshape(-1).view(np.uint8).data, after]


def _is_picture(pixels: NDArray[Any]) -> bool:
    return len(pixels) == 3 and pixels.dtype == np.uint8


def _in_order(pixels: NDArray[Any]) -> NDArray[Any]:
    """The pixels as they stand in the file."""
    if not _is_picture(pixels):
        return np.ascontiguousarray(pixels)
    whole = np.empty((*pixels.shape[1:], len(pixels)), pixels.dtype)
    for band, values in enumerate(pixels):  # a third of the time of np.moveaxis
        whole[..., band] = values
    return whole


def tag_of(datetime: str) -> str:
    """A time as STAC writes it, 2020-06-01T10:20:31Z, as a TIFF does."""
    day, _, time = datetime[:19].partition("T")
    return f"{day.replace('-', ':')} {time or '00:00:00'}" if datetime else ""
