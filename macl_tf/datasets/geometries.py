"""Footprints and geometries in well-known binary (WKB), as GeoParquet holds them; read of whatever kind."""

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
_POINT, _LINE, _POLYGON, _POLYGONS = 1, 2, 3, 6


def footprints_of(
    geometries: Sequence[bytes | None], names: Sequence[str], projection: Projection | None = None
) -> NDArray[np.float64]:
    """(N, 4, 2) corners of geometries in degrees, NaN where there is none or it is empty.

    A polygon of four corners keeps them, in their order, also where the antimeridian cuts it in two; all else becomes
    the box around it. A footprint whose longitudes differ by more than 180 degrees crosses the antimeridian.
    `projection` turns points (P, 2) into longitude and latitude, None where they are that already. `names` are what
    errors call them: a ValueError where one is no WKB, or not on Earth.
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


def rings_of(footprint: Sequence[Sequence[float]]) -> list[list[list[float]]]:
    """Closed rings of four corners, in their order: one, or two where the antimeridian cuts it, within 180 degrees.

    The first begins with the first corner.
    """
    ring = in_one_piece(footprint)
    longitudes = [x for x, _ in ring]
    parts = [ring]
    if min(longitudes) < 180 < max(longitudes):
        sides = (1, -1) if longitudes[0] <= 180 else (-1, 1)
        parts = [_half(ring, side) for side in sides]
    turns = [360.0 * (max(x for x, _ in part) > 180) for part in parts]
    closed = [[*part, part[0]] for part in parts]
    return [[[x - turn, y] for x, y in part] for part, turn in zip(closed, turns, strict=True)]


def in_one_piece(footprint: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Corners, those beyond the antimeridian with longitudes over 180."""
    longitudes = [float(x) for x, _ in footprint]
    crosses = max(longitudes) - min(longitudes) > 180
    return [(x + 360 if crosses and x < 0 else x, float(y)) for x, (_, y) in zip(longitudes, footprint, strict=True)]


def _half(ring: list[tuple[float, float]], side: int) -> list[tuple[float, float]]:
    """The part of a ring west (side 1) or east (-1) of longitude 180."""
    part = []
    for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if side * (180 - x0) >= 0:
            part.append((x0, y0))
        if (x0 - 180) * (x1 - 180) < 0:
            part.append((180.0, y0 + (y1 - y0) * (180 - x0) / (x1 - x0)))
    return part


def wkb_of(footprint: NDArray[np.float64]) -> bytes:
    """Four corners in degrees (4, 2) as a polygon in WKB, or as two where the antimeridian cuts it."""
    rings = [np.array(ring) for ring in rings_of(footprint.tolist())]
    polygons = [struct.pack("<BIII", 1, _POLYGON, 1, len(ring)) + ring.astype("<f8").tobytes() for ring in rings]
    return polygons[0] if len(polygons) == 1 else struct.pack("<BII", 1, _POLYGONS, 2) + b"".join(polygons)


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
    if len(parts) == 2 and (joined := _joined(parts)) is not None:
        return joined
    # Never four: these would be taken for corners.
    points = np.concatenate(parts) if parts else np.empty((0, 2))
    return points if len(points) != 4 else np.concatenate([points, points[:1]])


def _joined(rings: Sequence[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """The corners (4, 2) of which the antimeridian made two rings, east above 180; None where it did not."""
    east = [bool(ring[:, 0].min() == -180) for ring in rings]
    if sum(east) != 1 or rings[east.index(False)][:, 0].max() != 180:
        return None
    halves = [ring[:-1] + np.array([360.0 * shifted, 0]) for ring, shifted in zip(rings, east, strict=True)]
    runs = []
    for half in halves:  # the corners of each between the two places where the ring meets the antimeridian
        meets = half[:, 0] == 180
        starts = np.flatnonzero(meets & np.roll(meets, -1))
        if meets.sum() != 2 or len(starts) != 1:
            return None
        runs.append((half, int(starts[0])))
    (first, at), (second, there) = runs
    points = np.insert(first, at + 1, np.roll(second, -there - 2, axis=0)[:-2], axis=0)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    bend = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0])
    bend[points[:, 0] != 180] = np.inf  # these are corners for certain
    spare = np.argsort(bend, kind="stable")[: max(0, len(points) - 4)]
    kept = np.delete(points, spare, axis=0)
    return kept if len(kept) == 4 and np.isfinite(bend[spare]).all() else None


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
