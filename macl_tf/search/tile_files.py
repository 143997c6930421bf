"""Tiles as files that other programs open: CSV, GeoJSON and GeoParquet, each with where its tiles lie."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from macl_tf.datasets.label_lists import listed
from macl_tf.files import write_text
from macl_tf.index.items import unrolled
from macl_tf.index.view import View
from macl_tf.search.places import box_of, geometry_of
from macl_tf.search.query import Answer, QueryError

# By the end of a file's name, which is also what requests call the format.
TYPES = {"csv": "text/csv", "geojson": "application/geo+json", "parquet": "application/vnd.apache.parquet"}
Columns = Mapping[str, Sequence[Any]]
_KNOWN = ("labels", "split", "source", "date")  # what the index knows, of a column each


def write_results(answers: Sequence[Answer], path: str | os.PathLike[str], snapshot: View) -> None:
    """Writes what was found, best first: rank, score, and what the index knows of each tile; as for `write_tiles`.

    Where there are several answers, a column says of which query each result is.
    """
    rows = [(answer.query, result) for answer in answers for result in answer.results]
    columns: dict[str, Sequence[Any]] = {"query": [query for query, _ in rows]} if len(answers) > 1 else {}
    columns |= {"rank": [one.rank for _, one in rows], "score": [round(one.score, 6) for _, one in rows]}
    write_tiles([one.id for _, one in rows], columns, path, snapshot, known=[one.item for _, one in rows])


def write_tiles(
    ids: Sequence[str],
    columns: Columns,
    path: str | os.PathLike[str],
    snapshot: View,
    *,
    name: str = "",
    known: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Writes tiles as the file's suffix says: .csv, .geojson (or .json), .parquet; whole or not at all.

    Places are those of the index. A tile that it does not hold has none, and is written as the others are.

    Args:
        ids: Of the tiles.
        columns: What is said of them beside that: texts or numbers, one for each tile.
        path: The file.
        snapshot: The index.
        name: Of the whole, which GeoJSON holds.
        known: What the index says of them (`describe`), where that is to be written, too; Parquet has it always.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise QueryError(f"a file of tiles is one of {', '.join(WRITERS)}", str(path), "Name it so.")
    if known is not None and suffix != ".parquet":
        said = {key: [one[key] for one in known] for key in _KNOWN}
        if suffix == ".csv":
            said = {key: [listed(one) if key == "labels" else one or "" for one in said[key]] for key in said}
        columns = {**columns, **said}
    WRITERS[suffix](ids, columns, path, snapshot, name)


def _write_csv(ids: Sequence[str], columns: Columns, path: str | os.PathLike[str], snapshot: View, name: str) -> None:
    corners = unrolled(snapshot.items_of(ids).footprints)
    middle = (corners.min(axis=1) + corners.max(axis=1)) / 2
    middle[:, 0] -= 360.0 * (middle[:, 0] > 180)
    places = [["" if np.isnan(degrees) else degrees for degrees in place] for place in middle.round(7).tolist()]
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["id", *columns, "lon", "lat"])
    for id_, *said, place in zip(ids, *columns.values(), places, strict=True):
        table.writerow([id_, *said, *place])
    write_text(path, text.getvalue())


def _write_geojson(
    ids: Sequence[str], columns: Columns, path: str | os.PathLike[str], snapshot: View, name: str
) -> None:
    features = []
    footprints = snapshot.items_of(ids).footprints.tolist()
    for id_, *values, corners in zip(ids, *columns.values(), footprints, strict=True):
        placed = corners[0][0] == corners[0][0]  # not NaN
        where = {"bbox": box_of(corners)} if placed else {}
        shape = geometry_of(corners) if placed else None
        said = dict(zip(columns, values, strict=True))
        features.append({"type": "Feature", "id": id_, **where, "geometry": shape, "properties": said})
    whole = {"type": "FeatureCollection", **({"name": name} if name else {}), "features": features}
    write_text(path, json.dumps(whole, ensure_ascii=False, allow_nan=False) + "\n")


def _write_geoparquet(
    ids: Sequence[str], columns: Columns, path: str | os.PathLike[str], snapshot: View, name: str
) -> None:
    from macl_tf.index.parquet import write_parquet

    items = snapshot.items_of(ids)
    items = replace(items, paths=np.full(len(items), "", object))  # where they lie on a disk is nobody else's business
    write_parquet(path, items, more=columns)


WRITERS: dict[str, Callable[[Sequence[str], Columns, str | os.PathLike[str], View, str], None]] = {
    ".csv": _write_csv,
    ".geojson": _write_geojson,
    ".json": _write_geojson,
    ".parquet": _write_geoparquet,
}
