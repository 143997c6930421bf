"""Where a GeoTIFF lies. The one file that imports rasterio, which is optional: `pip install 'macl_tf[geo]'`."""

from __future__ import annotations

import importlib.util
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.tags import read_tags

WITHOUT_RASTERIO = (
    "GeoTIFFs are embedded without their footprint, because rasterio is not installed. To search by place, stop "
    "this, run pip install 'macl_tf[geo]' and begin with a new output folder."
)


def can_place() -> bool:
    """Whether footprints can be computed here, that is, rasterio is installed."""
    return importlib.util.find_spec("rasterio") is not None


def footprint(picture: str | os.PathLike[str] | bytes) -> NDArray[np.float64] | None:
    """The corners of a georeferenced TIFF.

    Args:
        picture: The file, or its bytes. Only what stands in it counts, no world file or other file beside it.

    Returns:
        (4, 2) float64 longitude and latitude in degrees, WGS 84: the outer corners of the upper left, upper right,
        lower right and lower left pixel. Of a tile that crosses the antimeridian some longitudes are near 180 and some
        near -180. None where the file has no grid or no coordinate system, or these lead nowhere on Earth.

    Raises:
        ImportError: If rasterio is not installed and the file has a grid.
    """
    picture = picture if isinstance(picture, bytes) else Path(picture)
    # rasterio warns of files without a grid. That is no news here, and in threads a warning cannot be silenced
    # without silencing those of other threads: such files are not opened at all.
    if not read_tags(picture).placed:
        return None
    import rasterio
    from rasterio.warp import transform

    try:
        with ExitStack() as stack:
            # Else GDAL lists the whole folder for every file that it opens: a million names, a million times.
            stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"))
            if isinstance(picture, bytes):
                dataset = stack.enter_context(rasterio.MemoryFile(picture)).open(driver="GTiff")
            else:
                dataset = rasterio.open(picture, driver="GTiff")
            stack.enter_context(dataset)
            if dataset.crs is None:
                return None
            a, b, left, d, e, top = dataset.transform[:6]
            columns = np.array([0, dataset.width, dataset.width, 0], np.float64)
            rows = np.array([0, 0, dataset.height, dataset.height], np.float64)
            x, y = a * columns + b * rows + left, d * columns + e * rows + top
            corners = np.array(transform(dataset.crs, "EPSG:4326", x.tolist(), y.tolist())[:2], np.float64).T
    except Exception:  # GDAL's and PROJ's errors have no public class in common: no file, no such system, no such place
        return None
    if not (np.isfinite(corners).all() and (np.abs(corners) <= (360, 90)).all()):
        return None
    corners[:, 0] -= 360 * (corners[:, 0] > 180) - 360 * (corners[:, 0] < -180)  # a file in degrees may say 190
    return corners
