"""Collections as files that other programs open: CSV, GeoJSON and GeoParquet, and lists of ids to read.

All three hold id, mark, by and at of each tile, and where it lies, as far as the index knows; read back they give the
same marks. Columns besides these are passed over.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from macl_tf.index.view import View
from macl_tf.search.query import QueryError
from macl_tf.search.tile_files import write_tiles
from macl_tf.teaching.collections import MARKS, RIGHT, Collection, Collections, Mark, time_in, time_of

_COLUMNS = Mark._fields
_LIST = "a file of a collection is CSV, GeoJSON or GeoParquet, or a list of ids, one in each line"
# What a cell may say for a mark besides the words themselves.
_WORDS = {**{mark: mark for mark in MARKS}, "1": "right", "true": "right", "0": "wrong", "false": "wrong"}


def export_collection(collection: Collection, path: str | os.PathLike[str], snapshot: View) -> None:
    """Writes a collection as its file's suffix says: .csv, .geojson (or .json), .parquet; whole or not at all.

    Places are those of the index. A tile that it does not hold has none, and its mark is written as the others are.
    """
    marks = collection.seen
    columns = {name: [getattr(mark, name) for mark in marks] for name in _COLUMNS[1:]}
    write_tiles([mark.id for mark in marks], columns, path, snapshot, name=collection.name)


@dataclass(frozen=True)
class Imported:
    """What came of a file."""

    collection: Collection
    read: int  # marks in the file
    changed: int  # tiles whose mark is another now
    absent: list[str]  # ids in the file that the index does not hold; their marks are kept


def import_collection(
    collections: Collections,
    path: str | os.PathLike[str],
    snapshot: View,
    *,
    name: str = "",
    mark: str = RIGHT,
    by: str = "",
) -> Imported:
    """Takes the marks of a file into a collection, all of them or, after an error, none.

    Args:
        collections: Where to.
        path: CSV (with commas, semicolons or tabs), GeoJSON, GeoParquet, or a list of ids, one in each line.
        snapshot: The index, to tell which ids it does not hold.
        name: Of the collection, made if need be; by default what the file is called, without its suffix.
        mark: Of tiles for which the file says none, as in a list.
        by: Who marked those of which the file does not say it, or when.

    Raises:
        QueryError: For a file that cannot be read, or a row that cannot be a mark; it names the row.
    """
    marks = read_marks(path, mark=mark, by=by)
    name = name or Path(path).stem
    before = {one.name: one.said for one in collections.all()}
    after = collections.take_in(name, marks)
    there = before.get(after.name, {})
    changed = sum(after.said[one.id] != there.get(one.id) for one in marks)
    return Imported(after, len(marks), changed, [one.id for one in marks if not snapshot.holds(one.id)])


def read_marks(path: str | os.PathLike[str], *, mark: str = RIGHT, by: str = "") -> list[Mark]:
    """The marks that a file holds; see `import_collection`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"the file of a collection '{path}' is not there.")
    with open(path, "rb") as file:
        head = file.read(4)
    rows = _parquet_rows(path) if head == b"PAR1" else _text_rows(Path(path))
    now, marks = time_of(datetime.now(UTC)), []
    for where, row in rows:
        try:
            marks.append(_mark_of(row, mark, by, now))
        except QueryError as error:
            raise QueryError(f"{where}: {error.rule}", error.value, error.remedy) from None
    return marks


def _mark_of(row: Mapping[str, str], mark: str, by: str, now: str) -> Mark:
    """The mark that a row says; of what it has no column for, what is given."""
    if not row["id"]:
        raise QueryError("each row has an id", "", "Fill it in, or leave the row out.")
    said = _WORDS.get(row.get("mark", mark).strip().lower())
    if said is None:
        raise QueryError(f"a mark is one of {', '.join(MARKS)}", row["mark"], "Write it so, or leave out the column.")
    at = time_in(row["at"]) if row.get("at") else now
    return Mark(row["id"], said, row.get("by", by), at)


def _text_rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise QueryError(f"{_LIST}, as UTF-8", path.name, f"Save it as UTF-8 ({error.reason}).") from None
    if text.lstrip().startswith("{"):
        return _geojson_rows(text, path.name)
    head = text.partition("\n")[0].strip()
    for delimiter in ",;\t":
        if "id" in [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])]:
            return _csv_rows(text, delimiter)
    if any(mark in head for mark in ",;\t") and {"mark", *MARKS} & set(head.lower().replace(";", ",").split(",")):
        raise QueryError("a table of a collection has the column id", head, "Name it so in the first line.")
    lines = [(f"line {number}", line.strip("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(where, line) for where, line in lines if line.strip()]
    if junk := [(where, line) for where, line in lines if not line.isprintable()]:
        raise QueryError(f"{junk[0][0]}: {_LIST}, which is printable", junk[0][1], "Export the file as one of these.")
    return [(where, {"id": line}) for where, line in lines]


def _csv_rows(text: str, delimiter: str) -> list[tuple[str, dict[str, str]]]:
    try:
        cells = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise QueryError("a table is CSV throughout", str(error), "Mind quotes: those in a cell are doubled.") from None
    header = [name.strip().lower() for name in cells[0]]
    wide = [number for number, row in enumerate(cells[1:], start=2) if row and len(row) != len(header)]
    if wide:
        got = len(cells[wide[0] - 1])
        rule = f"row {wide[0]}: each row has as many cells as the header, {len(header)}"
        raise QueryError(rule, got, "Put a cell with commas in quotes.")
    return [
        (f"row {number}", dict(zip(header, row, strict=True))) for number, row in enumerate(cells[1:], start=2) if row
    ]


def _geojson_rows(text: str, name: str) -> list[tuple[str, dict[str, str]]]:
    def text_of(value: Any) -> str:
        return "" if value is None else str(value)

    try:
        features = json.loads(text)["features"]
        rows = []
        for number, feature in enumerate(features, start=1):
            said = {key: text_of(value) for key, value in (feature.get("properties") or {}).items() if key in _COLUMNS}
            id_ = feature.get("id", said.get("id"))
            rows.append((f"feature {number}", {**said, "id": text_of(id_)}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise QueryError("GeoJSON is a FeatureCollection", name, f"Export it as one ({error!r}).") from None
    return rows


def _parquet_rows(path: str | os.PathLike[str]) -> Iterable[tuple[str, dict[str, str]]]:
    from macl_tf.index.parquet import read_texts, text_columns

    try:
        names = [name for name in text_columns(path) if name in _COLUMNS]
        columns = read_texts(path, names) if names else []
    except ValueError as error:
        raise QueryError("a Parquet file is whole", Path(path).name, str(error)) from None
    if "id" not in names:
        raise QueryError("a table of a collection has the column id, of text", Path(path).name, "Name it so.")
    return [
        (f"row {number}", dict(zip(names, row, strict=True)))
        for number, row in enumerate(zip(*columns, strict=True), start=1)
    ]
