"""The tables of an archive, from the journals of its scenes."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine

from macl_tf.datasets.matching import Finding
from macl_tf.datasets.tiff import to_degrees
from macl_tf.datasets.tile_places import FOOTPRINTS, GROUPS
from macl_tf.datasets.walk import number_of, shorten
from macl_tf.files import written_whole
from macl_tf.tiling.geoparquet import Row, write_footprints
from macl_tf.tiling.journal import TILES, Journal, heads
from macl_tf.tiling.options import Options
from macl_tf.tiling.scenes import Grid

LABELS, AREAS, LEFT_OUT = "labels.csv", "areas.csv", "left_out.csv"
_PROBLEMS = {
    "unreadable": "scenes left out",
    "changed": "scenes that changed and were cut anew",
    "virtual": "VRTs beside other rasters, passed over: name one to cut it",
    "mask": "masks of no scene",
    "unlisted": "folders that cannot be listed",
}


@dataclass(frozen=True)
class Summary:
    """What was cut."""

    tiles: int
    scenes: int
    labels: dict[str, int] | None  # tiles of each
    notes: tuple[str, ...]  # what was left out, in lines
    left_out: int = 0  # rows of left_out.csv

    def __str__(self) -> str:
        """The summary as people read it."""
        labels = "" if self.labels is None else f", {number_of(sum(map(bool, self.labels.values())), 'label')}"
        return "\n".join([f"{number_of(self.tiles, 'tile')} of {number_of(self.scenes, 'scene')}{labels}", *self.notes])


def write_tables(
    output: Path, options: Options, labels: Sequence[str] | None, findings: Sequence[Finding], notes: Sequence[str]
) -> Summary:
    """Writes the tables anew, each whole: labels.csv and areas.csv (where labels are known), groups.csv, left_out.csv.

    Footprints are written where a scene is placed. Nothing of an archive is held but one scene's rows.
    """
    found: Counter[str] = Counter()
    tiles = nodata = unlabelled = scenes = 0
    left_out = list(findings)

    def counted() -> Iterator[Row]:
        nonlocal tiles, nodata, unlabelled, scenes
        for path, head in heads(output):
            journal = Journal(output, path.stem, options.format)
            scenes += 1
            without = sum(count for _, _, count in journal.read()[1])
            nodata += without
            if without:
                left_out.append(Finding("nodata", head["scene"], number_of(without, "window")))
            for row in _rows(journal, options, labels):
                tiles += 1
                unlabelled += labels is not None and not row.labels
                found.update(row.labels)
                yield row

    def write(name: str, rows: Iterator[Sequence[Any]]) -> None:
        with (
            written_whole(output / name) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            csv.writer(file).writerows(rows)

    def rows() -> Iterator[Row]:
        for path, _ in heads(output):
            yield from _rows(Journal(output, path.stem, options.format), options, labels)

    write(GROUPS, chain([("image", "group")], ((row.image, row.group) for row in counted())))
    if labels is not None:
        dated = any(head["datetime"] for _, head in heads(output))
        day = ("date",) if dated else ()
        lines = ((row.image, _listed(row.labels), *([row.datetime[:10]] if dated else [])) for row in rows())
        write(LABELS, chain([("image", "labels", *day)], lines))
        shares = ((row.image, *(f"{share:.6f}" for share in row.shares)) for row in rows() if row.shares is not None)
        write(AREAS, chain([("image", *labels)], shares))
    if any(head["crs"] for _, head in heads(output)):
        write_footprints(output / FOOTPRINTS, rows())
    write(LEFT_OUT, chain([Finding._fields], left_out))
    counts = {name: found[name] for name in labels} if labels is not None else None
    told = list(notes)
    if nodata:
        told.append(f"windows left out, with more than {options.max_nodata:.0%} nodata: {nodata:,}")
    if unlabelled:
        told.append(f"tiles without a label, kept: {unlabelled:,}")
    if labels and (absent := [name for name in labels if not found[name]]):
        told.append(f"labels of no tile: {shorten(absent, 10)}")
    for problem, words in _PROBLEMS.items():
        if names := [finding.name for finding in findings if finding.problem == problem]:
            told.append(f"{words}: {len(names):,} ({shorten(names)})")
    return Summary(tiles, scenes, counts, tuple(told), len(left_out))


def _rows(journal: Journal, options: Options, labels: Sequence[str] | None) -> Iterator[Row]:
    head, parts = journal.read()
    tiles = [tile for _, held, _ in parts for tile in held]
    grid = Grid(head["size"][1], head["size"][0], Affine(*head["transform"]), head["crs"] or None)
    places = _places(
        grid, np.array([(tile.column, tile.row) for tile in tiles], np.float64).reshape(-1, 2), options.size
    )
    group = journal.path.stem
    for tile, corners in zip(tiles, places, strict=True):
        image = f"{TILES}/{group}/{journal.tile_name(tile.row, tile.column, head['digits'])}"
        shares, names = None, []
        if labels is not None:
            shares = np.zeros(len(labels))
            shares[[int(label) for label in tile.shares]] = list(tile.shares.values())
            counts = (shares > 0) & (shares >= options.min_area)
            counts[tile.present] = True
            names = [name for name, held in zip(labels, counts, strict=True) if held]
        yield Row(image, group, head["datetime"], shares, names, corners)


def _places(grid: Grid, lefts: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(N, 4, 2) corners in degrees of tiles, from the upper left one clockwise; NaN where they lead nowhere."""
    unknown = np.full((len(lefts), 4, 2), np.nan)
    if grid.crs is None or not len(lefts):
        return unknown
    steps = np.array([[0, 0], [size, 0], [size, size], [0, size]])
    points = grid.points((lefts[:, None] + steps).reshape(-1, 2))
    try:
        corners = to_degrees(CRS.from_wkt(grid.crs), points[:, 0].tolist(), points[:, 1].tolist())
    except Exception:  # PROJ's errors have no public class: no such place
        return unknown
    corners[:, 0] -= 360 * (corners[:, 0] > 180) - 360 * (corners[:, 0] < -180)
    corners = corners.reshape(-1, 4, 2)
    corners[~(np.isfinite(corners) & (np.abs(corners) <= (180, 90))).all(axis=(1, 2))] = np.nan
    return corners


def _listed(names: Sequence[str]) -> str:
    """A list as the label table's reader takes it without a doubt, whatever the labels are."""
    return json.dumps(list(names), ensure_ascii=False)
