"""Which tiles belong together and where they are: groups.csv, footprints.parquet, or the headers of GeoTIFFs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.archives import bare_name, normalise_stem
from macl_tf.datasets.delimited import read_delimited
from macl_tf.datasets.geometries import footprints_of, projection_of
from macl_tf.datasets.tile_facts import NOWHERE, read_header

GROUPS, FOOTPRINTS = "groups.csv", "footprints.parquet"
_GROUP = ("group", "groups", "scene")
_SAMPLE = 50  # headers that are looked at before all are


def read_groups(root: Path, names: Sequence[str]) -> tuple[str, ...] | None:
    """The group of each tile by the table `groups.csv` (image, group) of an archive; None where it has none.

    A tile that the table does not name is a group of its own. A ValueError where it is no such table.
    """
    path = root / GROUPS
    if not path.is_file():
        return None
    header, rows = read_delimited(path)
    keys = [bare_name(name) for name in header]
    column = next((keys.index(name) for name in _GROUP if name in keys[1:]), None)
    if column is None:
        raise ValueError(f"{path} must have the columns image and group, got {', '.join(header)}.")
    by_path = {cells[0]: cells[column] for _, cells in rows}
    by_stem = {normalise_stem(name): group for name, group in by_path.items()}
    return tuple(by_path.get(name, by_stem.get(normalise_stem(name), name)) for name in names)


def read_places(root: Path, names: Sequence[str]) -> NDArray[np.float64]:
    """(N, 4, 2) corners of tiles in degrees, NaN where they are not known.

    From `footprints.parquet` (GeoParquet, with a column `image`) of an archive, else from the tiles' own headers.
    """
    places = np.tile(NOWHERE, (len(names), 1, 1))
    known = read_footprints(root)
    for row, name in enumerate(names):
        places[row] = known.get(name, NOWHERE)
    left = [row for row, name in enumerate(names) if name not in known and name.lower().endswith((".tif", ".tiff"))]
    if not left:
        return places
    sample = left[:: max(1, len(left) // _SAMPLE)]

    def look(row: int) -> None:
        places[row] = read_header(root / names[row]).footprint

    with ThreadPoolExecutor() as executor:
        list(executor.map(look, sample))
        if np.isfinite(places[sample]).any():  # else they are pictures that happen to be TIFFs
            list(executor.map(look, left))
    return places


def read_footprints(root: Path) -> dict[str, NDArray[np.float64]]:
    """(4, 2) corners in degrees by the name of the tile, of `footprints.parquet` in an archive; none without it."""
    path = root / FOOTPRINTS
    if not path.is_file():
        return {}
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["image", "geometry"])
        geo: dict[str, Any] = json.loads((table.schema.metadata or {}).get(b"geo", b"{}"))
        names = table["image"].to_pylist()
        column = geo.get("columns", {}).get("geometry") or {}
        return dict(zip(names, footprints_of(table["geometry"].to_pylist(), names, projection_of(column)), strict=True))
    except Exception as error:  # pyarrow's have no common class
        raise ValueError(f"'{path}' must be GeoParquet with the columns image and geometry, but: {error}") from error
