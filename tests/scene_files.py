"""Scenes, masks and vectors as small files, for the tests of `macl tile`."""

import json
import warnings

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

UTM = "EPSG:32633"
PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)  # 10 m pixels
PALETTE = {0: (0, 0, 0), 1: (226, 169, 41), 2: (132, 41, 246), 3: (110, 193, 228)}


def pixels(bands=3, height=64, width=96, dtype="uint8", seed=0):
    """Values (B, H, W) from 1 on, all different from their neighbours."""
    generator = np.random.default_rng(seed)
    high = 255 if dtype == "uint8" else 10_000
    return generator.integers(1, high, (bands, height, width)).astype(dtype)


def raster(path, values, crs=UTM, transform=PLACE, colours=(), descriptions=(), palette=None, **options):
    """Writes a raster of (B, H, W) and gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": values.dtype.name}
    place = {} if crs is None else {"crs": crs, "transform": transform}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(path, "w", driver="GTiff", **shape, **place, **options)
    with file:
        file.write(values)
        if colours:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
        if descriptions:
            file.descriptions = descriptions
        if palette:
            file.write_colormap(1, {value: (*colour, 255) for value, colour in palette.items()})
    return path


def palette_png(path, codes):
    """Writes (H, W) codes as a palette PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(codes.astype(np.uint8))
    image.putpalette([part for value in range(4) for part in PALETTE[value]])
    image.save(path)
    return path


def geojson(path, features, crs=None):
    """Writes (geometry, properties) pairs."""
    content = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": shape, "properties": said} for shape, said in features],
    }
    if crs:
        content["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs.replace(':', '::')}"}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def box(left, top, right, bottom):
    """A polygon in the coordinates of `PLACE` from pixels of the scene."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return {"type": "Polygon", "coordinates": [[ground(*corner) for corner in corners]]}


def ground(column, row):
    """Coordinates of a pixel's corner at `PLACE`."""
    return [500_000 + 10 * column, 5_000_000 - 10 * row]
