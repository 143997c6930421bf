"""What the header of an image file says besides its pixels: the day it was taken, and whether it has a place."""

from __future__ import annotations

import io
import re
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

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
        picture: An image file that can be decoded, or its bytes.

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
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            exif = image.getexif()
            said = exif.get_ifd(_EXIF_FOLDER).get(_DATE_TAKEN)
            tiff = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
            placed = _TRANSFORMATION in tiff or (_PIXEL_SCALE in tiff and _TIE_POINT in tiff)
            return FileTags(_day(said or tiff.get(_DATE)), placed)
    except Exception:  # On a broken header Pillow raises nearly anything; the pixels may be whole all the same.
        return FileTags(np.datetime64("NaT", "D"), False)


def _day(text: object) -> np.datetime64:
    found = _DAY.match(str(text).strip())
    try:
        return np.datetime64(date(*map(int, found.groups())), "D") if found else np.datetime64("NaT", "D")
    except ValueError:  # cameras without a clock write 0000:00:00
        return np.datetime64("NaT", "D")
