"""Items, embeddings and thumbnails as Parquet files that other programs open too. Reads no others.

Columns: id, path, labels (list of names), split, source, date, geometry (WKB polygon, two where the antimeridian cuts
it), and where they are given embedding (fixed-size list of float32), thumbnail (JPEG bytes) and columns of text. The
label names, with their order, stand in the file's metadata under "macl_tf"; the "geo" metadata makes the file
GeoParquet 1.1. Where the maker of the embeddings is told, the "emb" metadata tells it as Earth Index does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from macl_tf.datasets.geometries import footprints_of, wkb_of
from macl_tf.files import written_whole
from macl_tf.index.items import Items, extent_of, unrolled

_ROW_GROUP = 65_536
_NAMED = 20  # sources that "emb" lists
# A polygon of one closed ring of five points in well-known binary, little-endian: as wide as C would lay it out packed.
_POLYGON = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("ring", "<f8", (5, 2))])


class Rows(NamedTuple):
    """What a Parquet file holds: N items, their (N, D) float32 embeddings and N thumbnails, where it has them."""

    items: Items
    vectors: NDArray[np.float32] | None
    thumbnails: list[bytes | None] | None


def write_parquet(
    path: str | os.PathLike[str],
    items: Items,
    vectors: NDArray[np.float32] | None = None,
    thumbnails: Sequence[bytes | None] | None = None,
    more: Mapping[str, Sequence[Any]] | None = None,
    model: Mapping[str, str] | None = None,
) -> None:
    """Writes N items, and what is given with them, as one Parquet file; whole or not at all.

    `vectors` are (N, D) embeddings, `thumbnails` N JPEG files (None or b"" where there is none), and `more` columns of
    N str or N numbers each, by name; `read_texts` reads those of str. `model` tells what made the embeddings: its id
    and source (a URI), at least.
    """
    columns: dict[str, Any] = {
        "id": pa.array(items.ids, pa.string()),
        "path": pa.array(items.paths, pa.string()),
        "labels": _label_lists(items),
        "split": pa.array(items.splits, pa.string()),
        "source": pa.array(items.sources, pa.string()),
        "date": pa.array(items.dates, pa.date32()),
        "geometry": _geometries(items),
    }
    if vectors is not None:
        if vectors.ndim != 2 or len(vectors) != len(items):
            raise ValueError(f"vectors must have shape (items, D) with {len(items)} items, got {vectors.shape}.")
        flat = np.ascontiguousarray(vectors, np.float32).reshape(-1)
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])
    for name, values in {"thumbnails": thumbnails, **(more or {})}.items():
        if values is not None and len(values) != len(items):
            raise ValueError(f"{name} must have one entry for each of the {len(items)} items, got {len(values)}.")
    if thumbnails is not None:
        columns["thumbnail"] = pa.array([thumbnail or None for thumbnail in thumbnails], pa.binary())
    for name, values in (more or {}).items():
        numbers = bool(len(values)) and not isinstance(values[0], str)
        columns[name] = pa.array(list(values), None if numbers else pa.string())
    metadata = {"macl_tf": json.dumps({"label_names": items.label_names}, ensure_ascii=False)}
    cut = (items.bounds[:, 0] < 180) & (items.bounds[:, 2] > 180)
    kinds = ["MultiPolygon"] * bool(cut.any()) + ["Polygon"]
    # Without "crs" it is OGC:CRS84, longitude and latitude on WGS 84.
    geometry: dict[str, Any] = {"encoding": "WKB", "geometry_types": kinds}
    if box := extent_of(items.bounds):
        geometry["bbox"] = box
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    metadata["geo"] = json.dumps(geo)
    if vectors is not None and model is not None:
        metadata["emb"] = json.dumps(_emb(items, vectors.shape[1], model), ensure_ascii=False)
    table = pa.table(columns).replace_schema_metadata(metadata)
    # Neither a dictionary nor compression makes JPEGs and embeddings smaller.
    heavy = {"embedding.list.element", "thumbnail"}
    with written_whole(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=_ROW_GROUP,
            use_dictionary=["labels.list.element", "split", "source"],
            compression={name: "NONE" if name in heavy else "ZSTD" for name in _leaves(table.schema)},
        )


def read_parquet(path: str | os.PathLike[str], *, vectors: bool = True, thumbnails: bool = True) -> Rows:
    """Reads what `write_parquet` wrote; a ValueError says that it is damaged or of another program, here and below."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' is not there.")
    wanted = ["id", "path", "labels", "split", "source", "date", "geometry"]
    wanted += ["embedding"] * vectors + ["thumbnail"] * thumbnails
    try:
        with pq.ParquetFile(path, read_dictionary=["split", "source"]) as file:
            names = tuple(json.loads(file.schema_arrow.metadata[b"macl_tf"])["label_names"])
            table = file.read(columns=wanted)  # as far as they are there
        items = Items(
            names,
            _strings(table["id"]),
            _strings(table["path"]),
            _few_strings(table["split"]),
            _few_strings(table["source"]),
            _multi_hot(table["labels"], names),
            _corners(table["geometry"]),
            _days(table["date"]),
        )
        embeddings = _embeddings(table["embedding"]) if "embedding" in table.column_names else None
        pictures = table["thumbnail"].to_pylist() if "thumbnail" in table.column_names else None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return Rows(items, embeddings, pictures)


def read_items(path: str | os.PathLike[str]) -> Items:
    """The items of such a file, without vectors and thumbnails."""
    return read_parquet(path, vectors=False, thumbnails=False).items


def read_texts(path: str | os.PathLike[str], names: Sequence[str]) -> list[NDArray[np.object_]]:
    """Columns of text of such a file, as (N,) arrays of str."""
    try:
        table = pq.read_table(path, columns=list(names), partitioning=None)
        return [_strings(table[name]) for name in names]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(Path(path), error) from error


def text_columns(path: str | os.PathLike[str]) -> list[str]:
    """Names of the columns of text of any Parquet file; a ValueError where it is none."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"'{path}' must be a Parquet file, but is damaged or another one ({error}).") from error
    return [field.name for field in schema if field.type in (pa.string(), pa.large_string())]


def _emb(items: Items, dim: int, model: Mapping[str, str]) -> dict[str, Any]:
    """What is told of embeddings, after earthindex.ai/spec/emb.schema.json; without days where none is known."""
    facts: dict[str, Any] = {"version": "0.0.1", "model": dict(model), "providers": []}
    days = items.dates[~np.isnat(items.dates)]
    if days.size:
        first, last = f"{days.min()}T00:00:00Z", f"{days.max()}T23:59:59Z"
        one = days.min() == days.max()
        facts |= {"datetime": first if one else None, "start_datetime": first, "end_datetime": last}
    names = [name for name in dict.fromkeys(items.sources.tolist()) if name]
    datasets = [{"id": name, "name": name, "source": name} for name in names[:_NAMED]]
    return facts | {"datasets": datasets, "embedding": {"dim": dim, "quantization": "None"}}


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = str(error) or type(error).__name__
    return ValueError(f"'{path}' is damaged or not a Parquet file of macl_tf ({reason}). Make it again.")


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's names of the columns."""
    nested = [name for name in ("labels", "embedding") if name in schema.names]
    return [f"{name}.list.element" if name in nested else name for name in schema.names]


def _label_lists(items: Items) -> pa.Array:
    counts = items.labels.sum(axis=1, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    names = pa.array(items.label_names, pa.string())
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(np.nonzero(items.labels)[1])))


def _multi_hot(column: pa.ChunkedArray, names: tuple[str, ...]) -> NDArray[np.uint8]:
    labels = np.zeros((len(column), len(names)), np.uint8)
    start = 0
    for chunk in column.chunks:
        rows = np.repeat(np.arange(len(chunk)), np.diff(_numbers(chunk.offsets, np.int32)))
        held = chunk.flatten().dictionary_encode()
        columns = np.array([names.index(name) for name in held.dictionary.to_pylist()], np.intp)
        labels[start + rows, columns[_numbers(held.indices, np.int32)]] = 1
        start += len(chunk)
    return labels


def _geometries(items: Items) -> pa.Array:
    footprints, beyond = items.footprints, np.flatnonzero(items.bounds[:, 2] > 180)
    known = ~np.isnan(footprints[:, 0, 0])
    polygons = np.zeros(int(known.sum()), _POLYGON)
    polygons["order"], polygons["type"], polygons["rings"], polygons["points"] = 1, 3, 1, 5
    polygons["ring"] = unrolled(footprints[known])[:, [0, 1, 2, 3, 0]]
    widths, body = known * _POLYGON.itemsize, polygons.tobytes()
    if beyond.size:
        bodies = [polygon.tobytes() for polygon in polygons]
        for row, place in zip(beyond, (np.cumsum(known) - 1)[beyond], strict=True):
            bodies[place] = wkb_of(footprints[row])
            widths[row] = len(bodies[place])
        body = b"".join(bodies)
    offsets = np.concatenate([[0], np.cumsum(widths)])
    if offsets[-1] > np.iinfo(np.int32).max:  # 23 million tiles in one file
        raise ValueError(f"one file can hold 23 million footprints, got {known.sum():,}: use several files.")
    missing = pa.py_buffer(np.packbits(known, bitorder="little").tobytes())
    buffers = [missing, pa.py_buffer(offsets.astype(np.int32).tobytes()), pa.py_buffer(body)]
    return pa.Array.from_buffers(pa.binary(), len(footprints), buffers)


def _corners(column: pa.ChunkedArray) -> NDArray[np.float64]:
    known = _known(column)
    body = b"".join(_body(chunk)[0] for chunk in column.chunks)
    if len(body) != known.sum() * _POLYGON.itemsize:  # the antimeridian cuts some
        return footprints_of(column.to_pylist(), [f"row {row}" for row in range(len(column))])
    polygons = np.frombuffer(body, _POLYGON)
    if (polygons["type"] != 3).any() or (polygons["points"] != 5).any():
        raise ValueError("a geometry is not a polygon of four corners")
    rings = polygons["ring"][:, :4].copy()
    rings[:, :, 0] -= 360.0 * (rings[:, :, 0] > 180)
    corners = np.full((len(column), 4, 2), np.nan)
    corners[known] = rings
    return corners


def _embeddings(column: pa.ChunkedArray) -> NDArray[np.float32]:
    parts = [_numbers(chunk.flatten(), np.float32) for chunk in column.chunks]
    return _joined(parts, np.float32).reshape(-1, column.type.list_size)


def _days(column: pa.ChunkedArray) -> NDArray[np.datetime64]:
    days = _joined([_numbers(chunk, np.int32) for chunk in column.chunks], np.int32).astype("datetime64[D]")
    days[~_known(column)] = "NaT"
    return days


def _strings(column: pa.ChunkedArray) -> NDArray[np.object_]:
    found: list[str] = []
    for chunk in column.chunks:
        data, offsets = _body(chunk)
        text = data.decode()
        if len(text) == len(data):  # ASCII: places of bytes are places of letters
            found.extend(text[start:end] for start, end in pairwise(offsets.tolist()))
        else:
            found.extend(data[start:end].decode() for start, end in pairwise(offsets.tolist()))
    values = np.empty(len(found), object)
    values[:] = found
    return values


def _few_strings(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """Strings of which many are the same: one object each, not one for every row."""
    parts = [
        np.array(chunk.dictionary.to_pylist(), object)[_numbers(chunk.indices, np.int32)] for chunk in column.chunks
    ]
    return _joined(parts, object)


# Arrow's own to_numpy does the same, but imports pandas first where that is installed: half a second to open an index.


def _known(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which entries are not null."""
    return _joined([_numbers(chunk.is_valid().cast(pa.uint8()), np.uint8) for chunk in column.chunks], np.uint8) != 0


def _numbers(array: pa.Array, dtype: Any) -> NDArray[Any]:
    """The values of an array of numbers, anything where one is null."""
    return np.frombuffer(array.buffers()[-1] or b"", dtype)[array.offset : array.offset + len(array)]


def _body(array: pa.Array) -> tuple[bytes, NDArray[np.int32]]:
    """The bytes of a string or binary array one after another, and where each entry starts and the last one ends."""
    _, places, data = array.buffers()
    offsets = np.frombuffer(places, np.int32)[array.offset : array.offset + len(array) + 1]
    return (data or pa.py_buffer(b"")).to_pybytes()[offsets[0] : offsets[-1]], offsets - offsets[0]


def _joined(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
