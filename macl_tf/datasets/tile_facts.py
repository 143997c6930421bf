"""Metadata of a tile, from the header of its file or as users write it: date, place.

For all ways in: `macl embed`, `macl upsert`, `SearchEngine.upsert` and `PUT /items`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from macl_tf.datasets.tiff import is_tiff, open_tiff, to_degrees

UNKNOWN_DAY = np.datetime64("NaT", "D")
NOWHERE = np.full((4, 2), np.nan)
_EXIF_FOLDER, _DATE_TAKEN, _DATE = 0x8769, 36867, 306
_PIXEL_SCALE, _TIE_POINT, _TRANSFORMATION = 33550, 33922, 34264
_DAY = re.compile(r"(\d{4})[:-](\d{2})[:-](\d{2})")


class HeaderFacts(NamedTuple):
    """What the header of a picture says."""

    date: np.datetime64  # day it was taken, datetime64[D]; NaT where it does not say
    footprint: NDArray[np.float64]  # (4, 2) longitude and latitude of its corners; NaN where it does not say


def read_header(picture: Path | bytes) -> HeaderFacts:
    """The date and place of a picture; a file that cannot be read says nothing.

    The day is EXIF DateTimeOriginal, in a TIFF DateTime (tag 306). DateTime of other files is left out: there it is
    when a program last saved the file. So is the file's own time, which is when it was copied. Of a TIFF only the tags
    are looked at, whatever its bands are.

    The place is the outer corners of a GeoTIFF's grid, from the upper left one clockwise (WGS 84). Only what stands in
    the file counts, no world file or other file beside it. Of a tile that crosses the antimeridian some longitudes are
    near 180 and some near -180. NaN without a grid or coordinate system, or where these lead nowhere on Earth.
    """
    taken, placed = _read_tags(picture)
    # For rasterio a file without a grid has one, of a degree or a metre a pixel.
    return HeaderFacts(taken, _footprint(picture) if placed else NOWHERE)


def read_day(picture: Path | bytes) -> np.datetime64:
    """The date of `read_header` alone, without looking for the place."""
    return _read_tags(picture)[0]


def day_of(day: Any) -> np.datetime64:
    """A day that somebody gave, "2020-06-01", a date or datetime64, as datetime64[D]; "" and NaT are none."""
    if isinstance(day, np.datetime64):
        return day.astype("datetime64[D]")
    if isinstance(day, date):
        return np.datetime64(day, "D")
    try:
        # A date and not just np.datetime64, which takes "2020" and means its first of January.
        return np.datetime64(date.fromisoformat(day), "D") if day != "" else UNKNOWN_DAY
    except (TypeError, ValueError):
        raise ValueError(f"a date must be like 2020-06-01, got {day!r}.") from None


def degrees_of(box: Iterable[Any]) -> tuple[float, float, float, float]:
    """West, south, east, north of a box that somebody gave, in degrees (WGS 84); a ValueError where it is not on Earth.

    It crosses the antimeridian where west is greater than east.
    """
    given = tuple(box)
    try:
        west, south, east, north = map(float, given)
    except (TypeError, ValueError):
        west = south = east = north = math.nan
    if not (abs(west) <= 180 and abs(east) <= 180 and -90 <= south <= north <= 90):
        raise ValueError(
            "a box must be west, south, east, north in degrees, with longitudes in [-180, 180] and "
            f"-90 <= south <= north <= 90, got {','.join(map(str, given))}."
        )
    return west, south, east, north


def footprint_of(box: Sequence[Any]) -> NDArray[np.float64]:
    """The corners of a box (`degrees_of`): (4, 2) longitude and latitude, from the upper left one clockwise.

    An empty one gives NaN. A ValueError where it is 180 degrees wide or more, which four corners cannot say.
    """
    if len(box) == 0:
        return NOWHERE
    west, south, east, north = degrees_of(box)
    if (east - west) % 360 >= 180:
        raise ValueError(f"a tile's box must be less than 180 degrees wide, got {','.join(map(str, box))}.")
    return np.array([[west, north], [east, north], [east, south], [west, south]])


def _footprint(picture: Path | bytes) -> NDArray[np.float64]:
    """(4, 2) corners of a GeoTIFF, NaN where they lead nowhere."""
    try:
        with open_tiff(picture) as dataset:
            if dataset.crs is None:
                return NOWHERE
            a, b, left, d, e, top = dataset.transform[:6]
            columns = np.array([0, dataset.width, dataset.width, 0], np.float64)
            rows = np.array([0, 0, dataset.height, dataset.height], np.float64)
            x, y = a * columns + b * rows + left, d * columns + e * rows + top
            corners = to_degrees(dataset.crs, x.tolist(), y.tolist())
    except Exception:  # GDAL's and PROJ's errors have no public class in common: no file, no such system, no such place
        return NOWHERE
    if not (np.isfinite(corners).all() and (np.abs(corners) <= (360, 90)).all()):
        return NOWHERE
    corners[:, 0] -= 360 * (corners[:, 0] > 180) - 360 * (corners[:, 0] < -180)  # a file in degrees may say 190
    return corners


def _read_tags(picture: Path | bytes) -> tuple[np.datetime64, bool]:
    """The day that an image's header says it was taken, and whether it is a GeoTIFF with a grid."""
    try:
        with io.BytesIO(picture) if isinstance(picture, bytes) else open(picture, "rb") as file:
            head = file.read(16)
            if is_tiff(head):
                return _tiff_tags(file, head)
            file.seek(0)
            with Image.open(file) as image:
                return _day(image.getexif().get_ifd(_EXIF_FOLDER).get(_DATE_TAKEN)), False
    except Exception:  # On a broken header Pillow raises nearly anything; the pixels may be whole all the same.
        return UNKNOWN_DAY, False


def _tiff_tags(file: BinaryIO, head: bytes) -> tuple[np.datetime64, bool]:
    """Those of the first page, which Pillow need not be able to decode."""
    start = head if 43 in head[2:4] else head[:8]  # BigTIFF has places of 8 bytes

    def folder(place: int) -> ImageFileDirectory_v2:
        tags = ImageFileDirectory_v2(start)
        file.seek(place)
        tags.load(file)
        return tags

    tags = folder(ImageFileDirectory_v2(start).next)
    said = folder(tags[_EXIF_FOLDER]).get(_DATE_TAKEN) if _EXIF_FOLDER in tags else None
    placed = _TRANSFORMATION in tags or (_PIXEL_SCALE in tags and _TIE_POINT in tags)
    return _day(said or tags.get(_DATE)), placed


def _day(text: object) -> np.datetime64:
    found = _DAY.match(str(text).strip())
    try:
        return np.datetime64(date(*map(int, found.groups())), "D") if found else UNKNOWN_DAY
    except ValueError:  # cameras without a clock write 0000:00:00
        return UNKNOWN_DAY
