"""Makes the map's outline of land and borders out of the npm package `world-atlas`.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python docs/outline.py package/countries-110m.json

Natural Earth at 1:110 million, in steps of a twentieth of a degree: lists of x, y of the first point and from each to
the next.
"""

from __future__ import annotations

import json
import sys
from itertools import accumulate
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "macl_tf/server/page/vendor/natural-earth/outline.json"
STEPS = 20  # in a degree
Points = list[tuple[float, float]]


def main(source: str) -> None:
    """Writes the outline of a TopoJSON of countries."""
    topology = json.loads(Path(source).read_text())
    (scale_x, scale_y), (x, y) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs: list[Points] = []
    for arc in topology["arcs"]:
        columns = [list(accumulate(column)) for column in zip(*arc, strict=True)]
        arcs.append([(across * scale_x + x, up * scale_y + y) for across, up in zip(*columns, strict=True)])
    countries: dict[int, int] = {}  # by arc
    for country in topology["objects"]["countries"]["geometries"]:
        polygons = country["arcs"] if country["type"] == "MultiPolygon" else [country["arcs"]]
        for arc in {max(arc, ~arc) for polygon in polygons for ring in polygon for arc in ring}:
            countries[arc] = countries.get(arc, 0) + 1
    (land,) = topology["objects"]["land"]["geometries"]
    rings = [ring for polygon in land["arcs"] for ring in polygon]
    shores = [sum((arcs[arc] if arc >= 0 else arcs[~arc][::-1] for arc in ring), Points()) for ring in rings]
    borders = [arcs[arc] for arc, of in countries.items() if of > 1]
    drawn = {
        "steps": STEPS,
        "land": [steps for steps in map(coded, shores) if len(steps) >= 8],
        "borders": [steps for steps in map(coded, borders) if len(steps) >= 4],
    }
    TARGET.write_text(json.dumps(drawn, separators=(",", ":")) + "\n")


def coded(points: Points) -> list[int]:
    """Whole steps to the first point and from each to the next, without those of no length."""
    found, last = list[int](), (0, 0)
    for longitude, latitude in points:
        place = round(longitude * STEPS), round(latitude * STEPS)
        across, up = place[0] - last[0], place[1] - last[1]
        if found and latitude > -89 and abs(across) > 180 * STEPS:  # over the antimeridian, not around the pole
            across -= 360 * STEPS if across > 0 else -360 * STEPS
        if (across, up) != (0, 0) or not found:
            found += [across, up]
        last = place
    return found


if __name__ == "__main__":
    main(sys.argv[1])
