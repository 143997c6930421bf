"""TIFFs and other rasters, opened through rasterio. The one file that imports it, and only when one is met."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from macl_tf.datasets.picture_kinds import (
    Kind,
    PictureError,
    broken,
    colours_of,
    integers,
    not_one_page,
    not_read,
    too_many_pixels,
)

_PHOTOMETRIC = 262
_WHITE_IS_ZERO, _PALETTE, _COLOURED = 0, 3, (1, 2, 6)  # the last are: not declared, RGB, YCbCr
_MODELS = {5: "CMYK", 8: "CIELAB", 9: "CIELAB", 10: "CIELAB", 32803: "colour filter array", 34892: "raw"}
# How rasters that are no TIFF begin, and what reads them.
_BEGINNINGS = {
    b"\x00\x00\x00\x0cjP  ": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"RIFF": "WEBP",
}
_SIDE_BY_SIDE = 16  # more bands than that are counted, but not looked at


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins like this is a TIFF, of either byte order, classic or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_raster(data: bytes | Path) -> AbstractContextManager[Any]:
    """As `open_tiff`, of JPEG 2000, PNG, JPEG, BMP, GIF and WebP too, told by how they begin."""
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        head = file.read(12)
    driver = next((driver for begin, driver in _BEGINNINGS.items() if head.startswith(begin)), "GTiff")
    return open_tiff(data, driver)


@contextmanager
def open_tiff(data: bytes | Path, driver: str = "GTiff") -> Iterator[Any]:
    """The rasterio dataset of a TIFF, its encoded bytes or a file. Only what stands in it counts, no file beside it.

    To be used in one thread; GDAL's messages become exceptions or are lost, never a line on the terminal.
    """
    import rasterio

    ignore_missing_places()
    if isinstance(data, Path):
        try:
            str(data).encode()
        except UnicodeEncodeError:  # GDAL takes no other names
            data = data.read_bytes()
    with ExitStack() as stack:
        # Else GDAL lists the whole folder for every file that it opens: a million names, a million times.
        stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"))
        if isinstance(data, Path):  # absolute, and no str: those may be URLs
            yield stack.enter_context(rasterio.open(data.absolute(), driver=driver, sharing=False))
        else:
            memory = stack.enter_context(rasterio.MemoryFile(data))
            yield stack.enter_context(memory.open(driver=driver, sharing=False))


def to_degrees(system: Any, x: Sequence[float], y: Sequence[float]) -> NDArray[np.float64]:
    """Points of a coordinate system, as rasterio knows it, as (N, 2) longitude and latitude in WGS 84."""
    from rasterio.warp import transform

    return np.array(transform(system, "EPSG:4326", list(x), list(y))[:2], np.float64).T


def read_tiff(data: bytes | Path, name: str, max_pixels: int) -> Image.Image:
    """The first page of a TIFF, of mode L, P or RGB; a PictureError that calls it `name` says why it is not read.

    Grey of 1, 2, 4 or 8 bits, palettes, and three bands of 8 bits, which are red, green and blue unless they are
    declared otherwise, in either layout. A last band that is declared alpha and opaque everywhere is left out. All else
    is refused, by the header where it says so.
    """
    try:
        with open_tiff(data) as dataset:
            return _read(dataset, name, max_pixels, _first_value(data, _PHOTOMETRIC))
    except PictureError:
        raise
    except Exception as error:  # rasterio's, GDAL's own, which have no public class, and the system's
        codec = "missing codec" in str(error)
        known = "its compression is not known here: save it anew with COMPRESS=DEFLATE"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or cut off"
        raise broken(name, known if codec else reason) from error


def _read(dataset: Any, name: str, max_pixels: int, photometric: int | None) -> Image.Image:
    width, height, bands = dataset.width, dataset.height, dataset.count
    rows, columns = dataset.block_shapes[0]
    if max(width * height, rows * columns) > max_pixels:
        raise too_many_pixels(name, f"{max(width, columns)} x {max(height, rows)}", max_pixels)
    declared = [colour.name for colour in dataset.colorinterp] if bands <= _SIDE_BY_SIDE else ["undefined"] * bands
    kind = _kind_of(dataset, photometric, declared)
    alpha = bands > 1 and declared[-1] == "alpha"
    colours = declared[:-1] if alpha else declared
    bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    if bands == 1 and len(dataset.subdatasets) > 1:  # of several pages of three bands the first is a picture
        raise not_one_page(name, kind, len(dataset.subdatasets))
    grey = len(colours) == 1 and bits in (1, 2, 4, 8) and photometric in (None, _WHITE_IS_ZERO, 1)
    palette = len(colours) == 1 and photometric == _PALETTE
    rgb = set(colours) == {"red", "green", "blue"} or set(colours) <= {"gray", "undefined"}
    coloured = len(colours) == 3 and bits == 8 and photometric in (None, *_COLOURED) and rgb
    if set(dataset.dtypes) != {"uint8"} or not (grey or palette or coloured):
        raise not_read(name, kind)
    values = dataset.read()
    # Near infrared is declared alpha by GDAL itself, unless it is told otherwise: what is not opaque may be anything.
    if alpha and (values[-1] != 2**bits - 1).any():
        raise not_read(name, kind._replace(colours=f"{kind.colours} that is not opaque"))
    if palette:
        table = dataset.colormap(1)
        image = Image.fromarray(values[0])
        image.putpalette(bytes(value for index in range(len(table)) for value in table[index][:3]))
        return image
    if grey:
        # GDAL leaves it to its caller that white may be zero.
        values = (2**bits - 1 - values[0] if photometric == _WHITE_IS_ZERO else values[0]).astype(np.uint8)
        return Image.fromarray(values * np.uint8(255 // (2**bits - 1)))
    order = [colours.index(colour) for colour in ("red", "green", "blue")] if "red" in colours else [0, 1, 2]
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(values[order], 0, 2)))


def _kind_of(dataset: Any, photometric: int | None, declared: Sequence[str]) -> Kind:
    """What the header says, for the sentence that refuses it."""
    bands, dtype = dataset.count, np.dtype(dataset.dtypes[0]) if "complex_" not in dataset.dtypes[0] else None
    bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 0)) or (8 * dtype.itemsize if dtype else 32)
    if dtype is None or dtype.kind == "c":
        numbers = f"{bits}-bit complex numbers"
    elif dtype.kind == "f":
        numbers = f"{bits}-bit floating-point numbers"
    else:
        numbers = integers(bits, signed=dtype.kind == "i")
    planar = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "BAND"
    layout = "" if bands == 1 else "planar" if planar else "interleaved by pixel"
    wanted = ("red", "green", "blue")
    take = tuple(declared.index(colour) + 1 for colour in wanted) if set(wanted) <= set(declared) else (1, 2, 3)
    options = colours = remedy = ""
    if bands == 1 and photometric == _PALETTE:
        colours, options = "palette", "-expand rgb"
    elif bands == 1 and photometric == _WHITE_IS_ZERO:
        colours, remedy = "grey, white is zero", "Write it anew as 8-bit grey, with zero for black."
    # What a band is declared to be stays with it: near infrared that is shown as red has to be called red.
    elif take == (1, 2, 3) and bands >= 3 and not set(declared[:3]) <= {*wanted, "gray", "undefined"}:
        options = "-colorinterp red,green,blue"
    colours = _MODELS.get(photometric or 0) or colours or colours_of(declared)
    return Kind("TIFF", bands, numbers, colours, layout, take, options, remedy)


def _first_value(data: bytes | Path, wanted: int) -> int | None:
    """A tag's first value in the first page, which rasterio does not tell; None where it is not there."""
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        head = file.read(16)
        order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
        # Place of the page, how its number of tags is written, length of a tag, where in it the value stands.
        place, count, length, value = (8, "Q", 20, 12) if big else (4, "H", 12, 8)
        (page,) = struct.unpack_from(order + ("Q" if big else "I"), head, place)
        file.seek(page)
        (tags,) = struct.unpack(order + count, file.read(8 if big else 2))
        entries = file.read(length * min(tags, 4096))
    for start in range(0, len(entries) - length + 1, length):
        tag, type_ = struct.unpack_from(order + "HH", entries, start)
        if tag == wanted:
            form = {1: "B", 3: "H", 4: "I"}.get(type_, "H")
            return int(struct.unpack_from(order + form, entries, start + value)[0])
    return None


def ignore_missing_places() -> None:
    """Sees to it that rasterio's warning of a TIFF without a place is ignored: most pictures have none.

    It is a filter of the process, for this one category. `warnings.catch_warnings` around each opening would not do:
    what it changes and restores belongs to all threads, and pictures are read in many. It is looked for each time,
    since others restore their filters.
    """
    from rasterio.errors import NotGeoreferencedWarning

    decides = next((entry for entry in warnings.filters if issubclass(NotGeoreferencedWarning, entry[2])), None)
    if decides is None or decides[0] != "ignore" or decides[1] is not None:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
