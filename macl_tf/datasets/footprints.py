"""Footprint of a GeoTIFF."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.tags import read_tags
from macl_tf.datasets.tiff import open_tiff, to_degrees


def footprint(picture: str | os.PathLike[str] | bytes) -> NDArray[np.float64] | None:
    """The corners of a georeferenced TIFF.

    Args:
        picture: The file, or its bytes. Only what stands in it counts, no world file or other file beside it.

    Returns:
        (4, 2) float64 longitude and latitude in degrees, WGS 84: the outer corners of the upper left, upper right,
        lower right and lower left pixel. Of a tile that crosses the antimeridian some longitudes are near 180 and some
        near -180. None where the file has no grid or no coordinate system, or these lead nowhere on Earth.
    """
    picture = picture if isinstance(picture, bytes) else Path(picture)
    if not read_tags(picture).placed:  # for rasterio a file without a grid has one, of a degree or a metre a pixel
        return None
    try:
        with open_tiff(picture) as dataset:
            if dataset.crs is None:
                return None
            a, b, left, d, e, top = dataset.transform[:6]
            columns = np.array([0, dataset.width, dataset.width, 0], np.float64)
            rows = np.array([0, 0, dataset.height, dataset.height], np.float64)
            x, y = a * columns + b * rows + left, d * columns + e * rows + top
            corners = to_degrees(dataset.crs, x.tolist(), y.tolist())
    except Exception:  # GDAL's and PROJ's errors have no public class in common: no file, no such system, no such place
        return None
    if not (np.isfinite(corners).all() and (np.abs(corners) <= (360, 90)).all()):
        return None
    corners[:, 0] -= 360 * (corners[:, 0] > 180) - 360 * (corners[:, 0] < -180)  # a file in degrees may say 190
    return corners
