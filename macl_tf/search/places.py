"""Footprints as answers show them: boxes, and GeoJSON polygons after RFC 7946."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from macl_tf.datasets.geometries import in_one_piece, rings_of

Corner = Sequence[float]


def box_of(footprint: Sequence[Corner]) -> list[float]:
    """West, south, east and north of a footprint; west is greater than east where it crosses the antimeridian."""
    ring = in_one_piece(footprint)
    east = max(x for x, _ in ring)
    south, north = min(y for _, y in ring), max(y for _, y in ring)
    return [float(min(x for x, _ in ring)), float(south), float(east - 360 if east > 180 else east), float(north)]


def geometry_of(footprint: Sequence[Corner]) -> dict[str, Any]:
    """A Polygon, counterclockwise; cut in two at the antimeridian where the footprint crosses it."""
    ring = in_one_piece(footprint)
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True))
    rings = rings_of(footprint[::-1] if area < 0 else footprint)
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
