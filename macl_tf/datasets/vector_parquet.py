"""Vectors in Parquet and GeoParquet of whatever program: a part of a row group is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds
from numpy.typing import NDArray

from macl_tf.datasets.geometries import Projection, footprints_of, projection_of
from macl_tf.datasets.vector_rows import BATCH, IDS, VECTORS, Said, VectorFile, VectorRows, day_in, refuse

_DATES = ("date", "datetime", "timestamp")
_SOURCES = ("source", "product_id", "source_url")


class ParquetFile(VectorFile):
    """Columns of Parquet, of which a part of a row group is read at a time."""

    def __init__(self, path: Path, said: Said | None) -> None:
        try:
            with pq.ParquetFile(path) as file:
                schema, count = file.schema_arrow, file.metadata.num_rows
        except Exception as error:  # pyarrow's, of which not all have a common class
            refuse(path, "be a Parquet file", f"another or a damaged one ({error})", "Copy or write it anew.")
        told = {key.decode(errors="replace"): value for key, value in (schema.metadata or {}).items()}
        own = _said_in(_metadata(path, told, "emb"))
        super().__init__(path, replace(own, **{key: value for key, value in vars(said or own).items() if value}))
        self.count = count
        self.label_names = tuple(_metadata(path, told, "macl_tf").get("label_names") or ())
        self._geo = geo = _metadata(path, told, "geo")
        place = str(geo.get("primary_column") or "geometry")
        columns = {
            "ids": IDS,
            "vectors": VECTORS,
            "footprints": (place,),
            "dates": _DATES,
            "labels": ("labels",),
            "splits": ("split",),
            "sources": _SOURCES,
            "paths": ("path",),
            "thumbnails": ("thumbnail",),
        }
        chosen: dict[str, str] = {}
        for what, names in columns.items():
            there = [name for name in names if name in schema.names]
            if what in ("ids", "vectors") and not there:
                known = " or ".join(repr(name) for name in names[:2])
                remedy = "Rename it: pyarrow's table.rename_columns({'OLD': '" + names[0] + "'})."
                refuse(path, f"have a column {known}", ", ".join(schema.names), remedy)
            fitting = [name for name in there if _FITS[what](_storage(schema.field(name).type))]
            if fitting:
                chosen[what] = fitting[0]
            elif what in ("ids", "vectors"):
                rule, type_ = "text or whole numbers" if what == "ids" else "lists of numbers", schema.field(there[0])
                remedy = "Write the column anew, or rename it if another one is meant."
                refuse(path, f"hold {rule} in the column '{there[0]}'", str(type_.type), remedy)
        self._columns = chosen

    def ids(self) -> Iterator[str]:
        """The ids."""
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH, columns=[self._columns["ids"]]):
                yield from _texts(batch.column(0))

    def read(self, size: int, *, facts: bool) -> Iterator[VectorRows]:
        """The rows."""
        chosen = self._columns if facts else {key: self._columns[key] for key in ("ids", "vectors")}
        projection: Projection | None = None
        if "footprints" in chosen:
            projection = projection_of(self._geo.get("columns", {}).get(chosen["footprints"]) or {})
        start = 0
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            batches = file.iter_batches(size, columns=list(dict.fromkeys(chosen.values())))
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except Exception as error:  # as above
                    refuse(self.path, "be whole", f"a damaged part ({error})", "Copy or write it anew.")
                held = {what: _storage_of(batch.column(name)) for what, name in chosen.items()}
                yield self._rows(held, start, projection)
                start += batch.num_rows

    def _rows(self, held: Mapping[str, Any], start: int, projection: Projection | None) -> VectorRows:
        ids = _texts(held["ids"])
        known: dict[str, Any] = {}
        if "footprints" in held:
            bodies = held["footprints"].to_pylist()
            try:
                known["footprints"] = footprints_of(bodies, ids, projection)
            except ValueError as error:
                raise ValueError(f"'{self.path}': {error}") from error
        if "dates" in held:
            days = held["dates"]
            days = days if _text(days.type) else days.cast(pa.date32(), safe=False)  # of a time with nanoseconds too
            known["dates"] = np.array([day_in(text) for text in _texts(days)], "datetime64[D]")
        if "labels" in held:
            known["labels"] = [tuple(label for label in names or () if label) for names in held["labels"].to_pylist()]
        for what in ("splits", "sources", "paths"):
            if what in held:
                known[what] = _texts(held[what])
        if "thumbnails" in held:
            known["thumbnails"] = held["thumbnails"].to_pylist()
        return self.rows(ids, self._matrix(held["vectors"], ids, start), **known)

    def _matrix(self, lists: Any, ids: Sequence[str], start: int) -> NDArray[Any]:
        """(n, F) of a column of lists, of lists of lists too, of which each row is one after another."""

        def wrong(row: int, got: str) -> NoReturn:
            rule = f"hold a vector of one width in each row, without gaps, but row {start + row} ('{ids[row]}')"
            refuse(self.path, rule, got, "Leave the row out, or write its vector anew.")

        count, per_row = len(lists), 1
        while kinds.is_nested(lists.type):
            if lists.null_count:
                wrong(pc.index(lists.is_null(), True).as_py() // per_row, "no vector")
            lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
            if len(lengths) and (lengths != lengths[0]).any():
                row = int(np.argmax(lengths != lengths[0]))
                wrong(row // per_row, f"{lengths[row]} numbers where others have {lengths[0]}")
            per_row *= int(lengths[0]) if len(lengths) else 1
            lists = lists.flatten()
        if lists.null_count:
            wrong(pc.index(lists.is_null(), True).as_py() // max(per_row, 1), "a number that is null")
        return lists.to_numpy(zero_copy_only=False).reshape(count, per_row)


def _metadata(path: Path, told: Mapping[str, bytes], key: str) -> dict[str, Any]:
    try:
        found = json.loads(told.get(key, b"{}"))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        refuse(path, f"hold JSON in its metadata '{key}'", f"{error}", "Write the file anew.")
    return found


def _said_in(emb: Mapping[str, Any]) -> Said:
    """What the metadata `emb` says, as Earth Index writes it."""
    model, sets = emb.get("model"), emb.get("datasets") or emb.get("source_datasets")
    known = model if isinstance(model, dict) else {"name": model}
    source = sets[0].get("name") if isinstance(sets, list) and len(sets) == 1 and isinstance(sets[0], dict) else ""
    return Said(str(known.get("id") or known.get("name") or ""), str(emb.get("datetime") or ""), str(source or ""))


def _storage(type_: Any) -> Any:
    """The type under an extension, such as tensors of fixed shape and GeoArrow's WKB."""
    return getattr(type_, "storage_type", type_)


def _storage_of(column: Any) -> Any:
    return getattr(column, "storage", column)


def _text(type_: Any) -> bool:
    type_ = type_.value_type if kinds.is_dictionary(type_) else type_
    return kinds.is_string(type_) or kinds.is_large_string(type_) or kinds.is_string_view(type_)


def _nested(type_: Any) -> bool:
    return kinds.is_list(type_) or kinds.is_large_list(type_) or kinds.is_fixed_size_list(type_)


def _numbers(type_: Any) -> bool:
    while _nested(type_):
        type_ = type_.value_type
    return kinds.is_floating(type_) or kinds.is_integer(type_)


def _body(type_: Any) -> bool:
    return kinds.is_binary(type_) or kinds.is_large_binary(type_) or kinds.is_binary_view(type_)


# Which types of columns are taken for what.
_FITS: dict[str, Callable[[Any], bool]] = {
    "ids": lambda type_: _text(type_) or kinds.is_integer(type_),
    "vectors": lambda type_: _nested(type_) and _numbers(type_),
    "footprints": _body,
    "dates": lambda type_: _text(type_) or kinds.is_date(type_) or kinds.is_timestamp(type_),
    "labels": lambda type_: _nested(type_) and _text(type_.value_type),
    "splits": _text,
    "sources": _text,
    "paths": _text,
    "thumbnails": _body,
}


def _texts(column: Any) -> list[str]:
    return ["" if value is None else str(value) for value in column.to_pylist()]
