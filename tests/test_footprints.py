"""Footprints of GeoTIFFs that rasterio writes, against what the projections' definitions say."""

from __future__ import annotations

import math
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

from macl_tf.datasets.images import decode_image
from macl_tf.datasets.tile_facts import read_header
from tests.generated import photo, save

WGS84_A, WGS84_F = 6378137.0, 1 / 298.257223563


def write_geotiff(
    path: Path, transform: tuple[float, ...] | None, crs: str | None, size: int = 64, **options: object
) -> Path:
    """An 8-bit RGB GeoTIFF. `transform` is (a, b, left, d, e, top): x = a column + b row + left, y likewise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"driver": "GTiff", "height": size, "width": size, "count": 3, "dtype": "uint8"} | options
    grid = None if transform is None else rasterio.Affine(*transform)
    with rasterio.open(path, "w", crs=crs, transform=grid, **given) as file:
        pixels = np.random.default_rng(0).integers(0, 200, (given["count"], size, size))
        file.write(pixels.astype(given["dtype"]))
    return path


def utm_to_lon_lat(easting: float, northing: float, zone: int) -> tuple[float, float]:
    """Snyder (1987), Map Projections: A Working Manual, equations 8-12 to 8-25 and 3-26; good to a few millimetres."""
    k0, e2 = 0.9996, WGS84_F * (2 - WGS84_F)
    ep2 = e2 / (1 - e2)
    x = easting - 500_000
    mu = northing / k0 / (WGS84_A * (1 - e2 / 4 - 3 * e2**2 / 64 - 5 * e2**3 / 256))
    e1 = (1 - math.sqrt(1 - e2)) / (1 + math.sqrt(1 - e2))
    phi = (
        mu
        + (3 * e1 / 2 - 27 * e1**3 / 32) * math.sin(2 * mu)
        + (21 * e1**2 / 16 - 55 * e1**4 / 32) * math.sin(4 * mu)
        + 151 * e1**3 / 96 * math.sin(6 * mu)
        + 1097 * e1**4 / 512 * math.sin(8 * mu)
    )
    c, t = ep2 * math.cos(phi) ** 2, math.tan(phi) ** 2
    w = 1 - e2 * math.sin(phi) ** 2
    n, r = WGS84_A / math.sqrt(w), WGS84_A * (1 - e2) / w**1.5
    d = x / (n * k0)
    lat = phi - n * math.tan(phi) / r * (
        d**2 / 2
        - (5 + 3 * t + 10 * c - 4 * c**2 - 9 * ep2) * d**4 / 24
        + (61 + 90 * t + 298 * c + 45 * t**2 - 252 * ep2 - 3 * c**2) * d**6 / 720
    )
    lon = (
        d - (1 + 2 * t + c) * d**3 / 6 + (5 - 2 * c + 28 * t - 3 * c**2 + 8 * ep2 + 24 * t**2) * d**5 / 120
    ) / math.cos(phi)
    return 6 * zone - 183 + math.degrees(lon), math.degrees(lat)


def footprint(path: Path) -> np.ndarray:
    return read_header(path).footprint


def test_degrees_come_back_as_they_are(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "a.tif", (0.01, 0, 8.5, 0, -0.02, 47.25), "EPSG:4326")
    corners = footprint(path)
    assert corners.dtype == np.float64
    # Upper left, upper right, lower right, lower left of 64 x 64 pixels of 0.01 by 0.02 degrees.
    expected = [[8.5, 47.25], [9.14, 47.25], [9.14, 45.97], [8.5, 45.97]]
    np.testing.assert_allclose(corners, expected, atol=1e-9)


def test_utm_follows_the_projection(tmp_path: Path) -> None:
    # Zone 32 has its central meridian at 9 degrees east, which is easting 500 000; the equator is northing 0.
    path = write_geotiff(tmp_path / "a.tif", (10, 0, 500_000, 0, -10, 640), "EPSG:32632")
    corners = footprint(path)
    np.testing.assert_allclose(corners[[0, 3], 0], 9.0, atol=1e-9)
    np.testing.assert_allclose(corners[[2, 3], 1], 0.0, atol=1e-9)
    # Elsewhere in the zone, by the series of the textbook: 1e-7 degrees is a centimetre.
    path = write_geotiff(tmp_path / "b.tif", (10, 0, 345_000, 0, -10, 5_300_000), "EPSG:32632")
    expected = [
        utm_to_lon_lat(x, y, 32)
        for x, y in ((345_000, 5_300_000), (345_640, 5_300_000), (345_640, 5_299_360), (345_000, 5_299_360))
    ]
    np.testing.assert_allclose(footprint(path), expected, atol=1e-7)


def test_a_rotated_grid_has_rotated_corners(tmp_path: Path) -> None:
    turn = math.radians(30)
    a, b, d, e = 0.01 * math.cos(turn), 0.01 * math.sin(turn), 0.01 * math.sin(turn), -0.01 * math.cos(turn)
    corners = footprint(write_geotiff(tmp_path / "a.tif", (a, b, 10, d, e, 50), "EPSG:4326"))
    right = np.array([0.64 * math.cos(turn), 0.64 * math.sin(turn)])  # along the first row
    down = np.array([0.64 * math.sin(turn), -0.64 * math.cos(turn)])  # along the first column
    origin = np.array([10.0, 50.0])
    np.testing.assert_allclose(corners, [origin, origin + right, origin + right + down, origin + down], atol=1e-9)


def test_a_tile_over_the_antimeridian_has_corners_on_both_sides(tmp_path: Path) -> None:
    degrees = footprint(write_geotiff(tmp_path / "a.tif", (0.01, 0, 179.7, 0, -0.01, 10), "EPSG:4326"))
    np.testing.assert_allclose(degrees[:, 0], [179.7, -179.66, -179.66, 179.7], atol=1e-9)
    # UTM zone 60 ends at 180 degrees, about 833.98 km at the equator: 64 pixels of 100 m reach over it.
    metres = footprint(write_geotiff(tmp_path / "b.tif", (100, 0, 831_000, 0, -100, 6400), "EPSG:32660"))
    assert metres[0, 0] > 179.9 and metres[1, 0] < -179.9


def test_what_has_no_place_has_no_footprint(tmp_path: Path) -> None:
    grid = (10, 0, 500_000, 0, -10, 640)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rasterio's, while it writes a file without a grid
        keys_only = write_geotiff(tmp_path / "keys.tif", None, "EPSG:32632")
    save(tmp_path / "world.tif", photo(0))
    (tmp_path / "world.tfw").write_text("10\n0\n0\n-10\n500005\n635\n")  # a file beside it does not count
    (tmp_path / "text.tif").write_text("no image")
    truncated = tmp_path / "truncated.tif"
    truncated.write_bytes(write_geotiff(tmp_path / "whole.tif", grid, "EPSG:32632").read_bytes()[:150])
    without = [
        save(tmp_path / "plain.tif", photo(0)),
        save(tmp_path / "plain.jpg", photo(0)),
        tmp_path / "world.tif",
        tmp_path / "text.tif",
        tmp_path / "missing.tif",
        truncated,
        keys_only,
        write_geotiff(tmp_path / "no_crs.tif", grid, None),
        write_geotiff(tmp_path / "local.tif", grid, 'LOCAL_CS["a hall",UNIT["metre",1]]'),
        write_geotiff(tmp_path / "nowhere.tif", (1e9, 0, 1e15, 0, -1e9, 1e15), "EPSG:32632"),
        write_geotiff(tmp_path / "beyond_the_pole.tif", (0.1, 0, 8, 0, -0.1, 92), "EPSG:4326"),
    ]
    # Warnings are errors here: none of these says NotGeoreferencedWarning.
    assert [path.name for path in without if not np.isnan(footprint(path)).all()] == []


def test_footprints_are_found_in_threads(tmp_path: Path) -> None:
    paths = [write_geotiff(tmp_path / f"{n}.tif", (0.01, 0, n, 0, -0.01, 10), "EPSG:4326") for n in range(8)]
    found: dict[int, float] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: float(footprint(paths[n])[0, 0])})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == pytest.approx({n: float(n) for n in range(8)})


def test_rgb_in_every_layout_that_gdal_writes_is_read_and_placed(tmp_path: Path) -> None:
    grid = (10, 0, 500_000, 0, -10, 640)
    for name, options in {
        "tiled": {"compress": "lzw", "tiled": True, "blockxsize": 32, "blockysize": 32, "photometric": "RGB"},
        "by_band": {"interleave": "band"},
        "zero_is_black": {"photometric": "MINISBLACK"},
        "deflate": {"compress": "deflate", "predictor": 2, "photometric": "RGB"},
        "big": {"BIGTIFF": "YES"},
    }.items():
        path = write_geotiff(tmp_path / f"{name}.tif", grid, "EPSG:32632", **options)
        with rasterio.open(path) as dataset:
            expected = np.moveaxis(dataset.read(), 0, 2)
        np.testing.assert_array_equal(decode_image(path, name), expected, err_msg=name)
        np.testing.assert_allclose(footprint(path)[0, 0], 9.0, atol=1e-9)
