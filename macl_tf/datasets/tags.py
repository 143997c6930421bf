"""Headers of image files: the day an image was taken, and whether it is georeferenced."""

from __future__ import annotations

import io
import re
from datetime import date
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from macl_tf.datasets.tiff import is_tiff

_EXIF_FOLDER, _DATE_TAKEN, _DATE = 0x8769, 36867, 306
_PIXEL_SCALE, _TIE_POINT, _TRANSFORMATION = 33550, 33922, 34264
_DAY = re.compile(r"(\d{4})[:-](\d{2})[:-](\d{2})")


class FileTags(NamedTuple):
    """What a header says.

    Attributes:
        taken: Day the picture was taken, datetime64[D]; NaT where the header does not say.
        placed: Whether it is a GeoTIFF with a grid, from which a footprint can be computed.
    """

    taken: np.datetime64
    placed: bool


def read_tags(picture: Path | bytes) -> FileTags:
    """Reads the header of an image file: EXIF DateTimeOriginal, in a TIFF DateTime (tag 306), and GeoTIFF tags.

    DateTime of other files is left out: there it is when a program last saved the file. So is the file's own
    time, which is when it was copied.

    Args:
        picture: An image file that can be decoded, or its bytes. Of a TIFF only the tags are looked at, whatever its
            bands are.

    Returns:
        The tags; NaT and False of a file that cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.tif")
        ...     Image.new("RGB", (8, 8)).save(path, tiffinfo={306: "2021:07:03 10:15:00"})
        ...     read_tags(path)
        FileTags(taken=np.datetime64('2021-07-03'), placed=False)
    """
    try:
        with io.BytesIO(picture) if isinstance(picture, bytes) else open(picture, "rb") as file:
            head = file.read(16)
            if is_tiff(head):
                return _tiff_tags(file, head)
            file.seek(0)
            with Image.open(file) as image:
                return FileTags(_day(image.getexif().get_ifd(_EXIF_FOLDER).get(_DATE_TAKEN)), False)
    except Exception:  # On a broken header Pillow raises nearly anything; the pixels may be whole all the same.
        return FileTags(np.datetime64("NaT", "D"), False)


def _tiff_tags(file: BinaryIO, head: bytes) -> FileTags:
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
    return FileTags(_day(said or tags.get(_DATE)), placed)


def _day(text: object) -> np.datetime64:
    found = _DAY.match(str(text).strip())
    try:
        return np.datetime64(date(*map(int, found.groups())), "D") if found else np.datetime64("NaT", "D")
    except ValueError:  # cameras without a clock write 0000:00:00
        return np.datetime64("NaT", "D")
