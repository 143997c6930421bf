"""Footprints of geometries in well-known binary (WKB), as GeoParquet holds them, of whatever kind."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.tiff import to_degrees

Projection = Callable[[NDArray[np.float64]], NDArray[np.float64]]
# Little-endian, a polygon, of one ring, of five points: the head of 93 bytes that nearly all tiles have.
_HEAD, _LENGTH = bytes.fromhex("01030000000100000005000000"), 93
_POINT, _LINE, _POLYGON = 1, 2, 3


def footprints_of(
    geometries: Sequence[bytes | None], names: Sequence[str], projection: Projection | None = None
) -> NDArray[np.float64]:
    """(N, 4, 2) corners of geometries in degrees, NaN where there is none or it is empty.

    A polygon of four corners keeps them, in their order; all else becomes the box around it. A footprint whose
    longitudes differ by more than 180 degrees crosses the antimeridian. `projection` turns points (P, 2) into
    longitude and latitude, None where they are that already. `names` are what errors call them: a ValueError where
    one is no WKB, or not on Earth.
    """
    corners = np.full((len(geometries), 4, 2), np.nan)
    outlines: dict[int, NDArray[np.float64]] = {}
    usual = [row for row, body in enumerate(geometries) if body and len(body) == _LENGTH and body[:13] == _HEAD]
    rings = np.frombuffer(b"".join(geometries[row][13:] for row in usual), "<f8").reshape(-1, 5, 2)  # type: ignore[index]
    outlines.update(zip(usual, rings[:, :4], strict=True))
    for row, body in enumerate(geometries):
        if body and row not in outlines:
            try:
                outlines[row] = _outline(body)
            except (struct.error, ValueError, IndexError) as error:
                raise ValueError(
                    f"the geometry of '{names[row]}' must be well-known binary (WKB), got {len(body)} bytes of another "
                    f"kind ({error}). Write it by geopandas, or leave the column out."
                ) from None
    if projection is not None and outlines:
        ends = np.cumsum([len(points) for points in outlines.values()])
        outlines = dict(
            zip(outlines, np.split(projection(np.concatenate([*outlines.values()])), ends[:-1]), strict=True)
        )
    for row, points in outlines.items():
        points = points[~np.isnan(points).any(axis=1)]
        if len(points):
            corners[row] = points if len(points) == 4 else _box(points)
    corners[:, :, 0] -= 360.0 * (corners[:, :, 0] > 180) - 360.0 * (corners[:, :, 0] < -180)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero((np.abs(corners) > (180, 90)).any(axis=(1, 2)))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"the geometry of '{names[row]}' must lie on Earth, in degrees or in the coordinate system that the file's "
            f"'geo' metadata names, got {corners[row].tolist()}. Write it by geopandas with its crs, or as degrees."
        )
    return corners


def projection_of(column: Mapping[str, Any]) -> Projection | None:
    """From what GeoParquet says of a geometry column to what turns its points into degrees; None where they are."""
    system = column.get("crs")
    if (encoding := column.get("encoding", "WKB")) != "WKB":
        raise ValueError(
            f"geometries must be in the encoding WKB, got '{encoding}'. Write them anew: "
            "to_parquet(..., geometry_encoding='WKB') of geopandas."
        )
    if not system:  # none named is longitude and latitude; null is unknown, and what is not on Earth is refused
        return None
    identity = system.get("id") or {}
    degrees = {("EPSG", "4326"), ("OGC", "CRS84"), ("EPSG", "4979"), ("OGC", "CRS84h")}
    wgs84 = system.get("type") == "GeographicCRS" and str(system.get("name", "")).startswith("WGS 84")
    if wgs84 or (identity.get("authority"), str(identity.get("code"))) in degrees:
        return None

    def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return to_degrees(json.dumps(system), points[:, 0].tolist(), points[:, 1].tolist())

    return project


def _outline(body: bytes) -> NDArray[np.float64]:
    """Points (P, 2): four where it is a polygon of four corners, else all."""
    parts, _ = _parts(body, 0)
    if len(parts) == 1 and len(parts[0]) == 5 and np.array_equal(parts[0][0], parts[0][-1]):
        return parts[0][:4]
    # Never four: these would be taken for corners.
    points = np.concatenate(parts) if parts else np.empty((0, 2))
    return points if len(points) != 4 else np.concatenate([points, points[:1]])


def _parts(body: bytes, at: int) -> tuple[list[NDArray[np.float64]], int]:
    """Rings and lines (P, 2) of the geometry that begins at a byte, and where it ends."""
    order = {0: ">", 1: "<"}.get(body[at])
    if order is None:
        raise ValueError(f"byte order {body[at]}")
    (kind,) = struct.unpack_from(f"{order}I", body, at + 1)
    at += 9 if kind & 0x20000000 else 5  # PostGIS writes the number of its coordinate system behind it
    more = bool(kind & 0x80000000) + bool(kind & 0x40000000)  # its marks of height and measure, and those of ISO
    kind &= 0x0FFFFFFF
    width, kind = 2 + (more or (0, 1, 1, 2)[kind // 1000]), kind % 1000

    def number(at: int) -> int:
        (count,) = struct.unpack_from(f"{order}I", body, at)
        return int(count)

    def points(count: int, at: int) -> tuple[NDArray[np.float64], int]:
        found = np.frombuffer(body, f"{order}f8", count * width, at).reshape(count, width)[:, :2]
        return found.astype(np.float64), at + 8 * width * count

    parts: list[NDArray[np.float64]] = []
    if kind == _POINT:
        found, at = points(1, at)
        return [found], at
    count, at = (1, at) if kind == _LINE else (number(at), at + 4)
    for _ in range(count):
        if kind in (_LINE, _POLYGON):
            found, at = points(number(at), at + 4)
            parts.append(found)
        elif 4 <= kind <= 7:
            inner, at = _parts(body, at)
            parts += inner
        else:
            raise ValueError(f"kind {kind}")
    return parts, at


def _box(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners (4, 2) of the box around points, from the upper left one clockwise; east may be above 180."""
    x, y = points.T
    if np.ptp(x) > 180:
        x = x + 360.0 * (x < 0)
    west, east, south, north = x.min(), x.max(), y.min(), y.max()
    return np.array([[west, north], [east, north], [east, south], [west, south]])
