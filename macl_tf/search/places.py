"""Footprints as answers show them: boxes, and GeoJSON polygons after RFC 7946."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Corner = Sequence[float]


def box_of(footprint: Sequence[Corner]) -> list[float]:
    """West, south, east and north of a footprint; west is greater than east where it crosses the antimeridian."""
    ring = _in_one_piece(footprint)
    east = max(x for x, _ in ring)
    south, north = min(y for _, y in ring), max(y for _, y in ring)
    return [float(min(x for x, _ in ring)), float(south), float(east - 360 if east > 180 else east), float(north)]


def geometry_of(footprint: Sequence[Corner]) -> dict[str, Any]:
    """A Polygon, counterclockwise; cut in two at the antimeridian where the footprint crosses it."""
    ring = _in_one_piece(footprint)
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True))
    if area < 0:
        ring.reverse()
    if max(x for x, _ in ring) <= 180:
        return {"type": "Polygon", "coordinates": [_closed(ring)]}
    parts = [_closed(_half(ring, 1)), _closed([(x - 360, y) for x, y in _half(ring, -1)])]
    return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}


def _in_one_piece(footprint: Sequence[Corner]) -> list[tuple[float, float]]:
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


def _closed(ring: list[tuple[float, float]]) -> list[list[float]]:
    return [list(corner) for corner in [*ring, ring[0]]]
