"""Metadata of a tile, from the header of its file or as users write it: date, place, part, source.

For all ways in: `macl embed`, `macl upsert`, `SearchEngine.upsert` and `PUT /items`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.footprints import footprint
from macl_tf.datasets.tags import read_tags

UNKNOWN_DAY = np.datetime64("NaT", "D")
NOWHERE = np.full((4, 2), np.nan)


class HeaderFacts(NamedTuple):
    """What the header of a picture says.

    Attributes:
        date: Day it was taken, datetime64[D]; NaT where it does not say.
        footprint: (4, 2) longitude and latitude of its corners; NaN where it does not say.
    """

    date: np.datetime64
    footprint: NDArray[np.float64]


def read_header(picture: Path | bytes) -> HeaderFacts:
    """Reads date and place from the header of a picture.

    Args:
        picture: An image file that can be decoded, or its bytes.

    Returns:
        EXIF DateTimeOriginal or TIFF DateTime, and the footprint of a GeoTIFF.
    """
    tags = read_tags(picture)
    corners = footprint(picture) if tags.placed else None
    return HeaderFacts(tags.taken, NOWHERE if corners is None else corners)


def day_of(day: Any) -> np.datetime64:
    """A day that somebody gave.

    Args:
        day: "2020-06-01", a date or datetime64; "" or NaT for none.

    Returns:
        datetime64[D].

    Raises:
        ValueError: If it is no day.

    Example:
        >>> str(day_of("2020-06-01")), str(day_of(""))
        ('2020-06-01', 'NaT')
    """
    if isinstance(day, np.datetime64):
        return day.astype("datetime64[D]")
    if isinstance(day, date):
        return np.datetime64(day, "D")
    try:
        # A date and not just np.datetime64, which takes "2020" and means its first of January.
        return np.datetime64(date.fromisoformat(day), "D") if day != "" else UNKNOWN_DAY
    except (TypeError, ValueError):
        raise ValueError(f"a date must be like 2020-06-01, got {day!r}.") from None


def footprint_of(box: Sequence[Any]) -> NDArray[np.float64]:
    """The four corners of a box that somebody gave.

    Args:
        box: West, south, east, north in degrees (WGS 84); with west greater than east it crosses the antimeridian.
            Empty for none.

    Returns:
        (4, 2) longitude and latitude: upper left, upper right, lower right, lower left; NaN for none.

    Raises:
        ValueError: If it is not on Earth, or 180 degrees wide or more, which four corners cannot say.

    Example:
        >>> footprint_of((5, 45, 6, 46)).tolist()
        [[5.0, 46.0], [6.0, 46.0], [6.0, 45.0], [5.0, 45.0]]
    """
    if len(box) == 0:
        return NOWHERE
    try:
        west, south, east, north = (float(value) for value in box)
        on_earth = abs(west) <= 180 and abs(east) <= 180 and -90 <= south <= north <= 90
    except (TypeError, ValueError):
        on_earth = False
    if not on_earth or (east - west) % 360 >= 180:
        raise ValueError(
            "a box must be west, south, east, north in degrees, less than 180 degrees wide, with longitudes in "
            f"[-180, 180] and -90 <= south <= north <= 90, got {','.join(map(str, box))}."
        )
    return np.array([[west, north], [east, north], [east, south], [west, south]])
