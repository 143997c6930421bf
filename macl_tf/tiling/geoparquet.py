"""GeoParquet: vectors that others wrote, and the footprints of tiles."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rasterio.crs import CRS

from macl_tf.datasets.geometries import wkb_of
from macl_tf.files import written_whole

_ROWS = 50_000  # in a row group
# Without "crs" it is OGC:CRS84, longitude and latitude on WGS 84.
_GEOMETRY = {"encoding": "WKB", "geometry_types": ["MultiPolygon", "Polygon"]}
_GEO = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": _GEOMETRY}}
_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "group": pa.string(),
        "labels": pa.list_(pa.string()),
        "datetime": pa.string(),
        "geometry": pa.binary(),
    },
    {"geo": json.dumps(_GEO)},
)


def no_column(path: Path, column: str, columns: Iterable[str]) -> ValueError:
    """The error of a vector file without the column that is asked for, or where none is."""
    held = ", ".join(columns) or "none"
    if not column:
        return ValueError(f"vectors need a column with the labels: '{path}' has {held}. Name it by --label-column.")
    return ValueError(f"'{path}' must have the column '{column}', but has {held}. Name one by --label-column.")


def read_geoparquet(path: Path, column: str) -> tuple[list[bytes | None], list[Any], Any]:
    """WKB, the cells of a column, and the coordinate system (None: unknown) of a GeoParquet file."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            geo = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
            place = str(geo.get("primary_column") or "geometry")
            if place not in schema.names:
                raise ValueError(f"'{path}' must hold geometries in the column '{place}', as GeoParquet does.")
            if column not in schema.names:
                raise no_column(path, column, (name for name in schema.names if name != place))
            table = file.read(columns=list(dict.fromkeys([column, place])))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"'{path}' must be a Parquet file, but is damaged or another one ({error}).") from error
    said = geo.get("columns", {}).get(place, {})
    if said.get("encoding", "WKB") != "WKB":
        raise ValueError(f"'{path}' must hold geometries as WKB, got {said['encoding']}. Write it anew so.")
    system = said.get("crs", "OGC:CRS84")  # without a word it is longitude and latitude; null is unknown
    crs = None if system is None else CRS.from_user_input(json.dumps(system) if isinstance(system, dict) else system)
    bodies = table[place].combine_chunks()
    return getattr(bodies, "storage", bodies).to_pylist(), table[column].to_pylist(), crs


class Row(NamedTuple):
    """A tile of the archive."""

    image: str
    group: str
    datetime: str
    shares: NDArray[np.float64] | None  # of each label
    labels: list[str]
    corners: NDArray[np.float64]  # (4, 2) longitude and latitude, NaN where they are not known


def write_footprints(path: Path, rows: Iterable[Row]) -> None:
    """Writes what tiles are and where, whole, row group by row group."""
    with written_whole(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        held: list[tuple[Any, ...]] = []
        for row in rows:
            body, corners = None, row.corners
            if np.isfinite(corners).all():
                body = wkb_of(corners)
            held.append((row.image, row.group, row.labels, row.datetime or None, body))
            if len(held) == _ROWS:
                writer.write_table(_table(held))
                held.clear()
        if held:
            writer.write_table(_table(held))


def _table(rows: list[tuple[Any, ...]]) -> Any:
    columns = zip(zip(*rows, strict=True), _SCHEMA.types, strict=True)
    return pa.table([pa.array(column, kind) for column, kind in columns], schema=_SCHEMA)
