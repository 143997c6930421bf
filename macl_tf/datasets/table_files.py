"""Files of label tables, whatever wrote them: text, Excel, Parquet, JSON of annotation tools. All become rows of text.

What is in a file decides what it is. `macl_tf.datasets.tables` says what its columns may hold.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import warnings
import zipfile
from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from macl_tf.datasets.annotations import (
    JSON_SUFFIXES,
    TableRows,
    of_label_studio,
    read_annotations,
    says_annotations,
)
from macl_tf.datasets.archives import bare_name
from macl_tf.datasets.class_tables import is_class_table
from macl_tf.datasets.delimited import has_columns, read_delimited
from macl_tf.datasets.split_lists import SPLIT_VALUES, is_split_list, part_in_name
from macl_tf.datasets.table_columns import IMAGE_COLUMNS, IMAGE_ID_COLUMNS
from macl_tf.datasets.walk import list_files, shorten

_BESIDE_LABELS = ("groups", "left_out")  # what `macl tile` writes of tiles without labels too
_TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
_SIDE_FILES = 20  # more texts or JSON files than these beside each other are a tile's each
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_INDEX_OF_PANDAS = "__index_level_0__"


def read_rows(path: Path) -> TableRows:
    """The rows of a table of any kind that is read; each has as many cells as the header.

    A ValueError says what a file that is none is, and what to do.
    """
    with open(path, "rb") as file:
        head = file.read(4)
    if head.startswith(b"PK"):
        return _read_sheet(path)
    if head == _OLD_EXCEL:
        raise ValueError(f"{path} must be .xlsx, but is of old Excel (.xls). Save it as .xlsx, or as 'CSV UTF-8'.")
    if head == b"PAR1":
        return _read_parquet(path)
    if path.suffix.lower() in JSON_SUFFIXES:
        return read_annotations(path)
    return of_label_studio(TableRows(*read_delimited(path)))


def find_table(root: Path, table: str | os.PathLike[str] | None) -> Path | None:
    """The label table: the one that is named, by its path from `root` or from the working directory, or the only one.

    The one nearest to `root` is meant: a table above folders of side files (one .txt per image, say). Of kinds a text
    comes first, then Excel's, Parquet, and JSON of an annotation tool. Of several the one named labels is meant, which
    lies beside areas.csv, groups.csv or a text about the source.

    Returns:
        Its path, or None where there is none.

    Raises:
        FileNotFoundError: If the named one is not there.
        ValueError: If several files may be it.
    """
    if table is not None:
        tried = [root / table, Path(table).expanduser()]
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            places = " or ".join(dict.fromkeys(str(path) for path in tried))
            raise FileNotFoundError(f"the label table must be a file, but there is none at {places}.")
        return found
    candidates = table_candidates(root)
    named = [name for name in candidates if PurePosixPath(name).stem.lower() == "labels"]
    candidates = named if len(named) == 1 else candidates
    if len(candidates) > 1:
        raise ValueError(
            f"{root} must hold one label table, got {len(candidates)}: {shorten(candidates, 5)}. "
            f"Name the right one, for example --table {shlex.quote(candidates[0])}"
        )
    return root / candidates[0] if candidates else None


def tables_by_part(root: Path) -> dict[Path, str] | None:
    """The tables of an archive that has one for each part, by their names or their folders; None where it has not."""
    names = table_candidates(root)
    if len(names) < 2 or any(PurePosixPath(name).stem.lower() == "labels" for name in names):
        return None
    by_folder = len({PurePosixPath(name).name for name in names}) == 1
    told = [part_in_name(PurePosixPath(name).parent.name if by_folder else name) for name in names]
    known = [found for found in told if found is not None and found[0] in SPLIT_VALUES.values()]
    parts = [part for part, _ in known]
    if len(known) < len(names) or len({rest for _, rest in known}) > 1 or len(set(parts)) < len(parts):
        return None
    return {root / name: part for name, part in zip(names, parts, strict=True)}


def table_candidates(root: Path) -> list[str]:
    """The files that may be the label table: of the likeliest kind, among those nearest to the folder."""
    by_depth: dict[int, list[str]] = {}
    for name in list_files(root):
        by_depth.setdefault(name.count("/"), []).append(name)
    return next((found for _, names in sorted(by_depth.items()) if (found := _likeliest(root, names))), [])


def tables_beside(root: Path) -> list[str]:
    """The same of the files directly in the folder, for those who read a table only if it is named."""
    return _likeliest(root, sorted(entry.name for entry in os.scandir(root) if entry.is_file()))


def _likeliest(root: Path, names: Sequence[str]) -> list[str]:
    """Of files the label tables of the likeliest kind."""
    passed_over = ("readme", "license", "licence", "~$", ".")  # ~$: Excel's, beside a file that is open
    names = [name for name in names if not PurePosixPath(name).name.lower().startswith(passed_over)]
    for suffixes, accepted in _KINDS:
        found = [name for name in names if name.lower().endswith(suffixes)]
        sides = {suffix for suffix in (".txt", *JSON_SUFFIXES)
                 if sum(name.lower().endswith(suffix) for name in found) > _SIDE_FILES}  # fmt: skip
        if found := [name for name in found if not name.lower().endswith(tuple(sides)) and accepted(root / name)]:
            return found
    return []


def _is_text_table(path: Path) -> bool:
    """Whether a text is no prose, no list of classes or of the tiles of a part, and does not only group tiles."""
    if path.stem.lower() in _BESIDE_LABELS or is_split_list(path) or is_class_table(path):
        return False
    try:
        return path.suffix.lower() != ".txt" or has_columns(path)
    except (OSError, ValueError):
        return True  # whoever reads it says what is wrong


def _is_parquet_table(path: Path) -> bool:
    """Whether a Parquet file names images and holds no vectors of them."""
    try:
        schema = _parquet(path).read_schema(path)
    except Exception:  # whoever reads it says what is wrong
        return True
    named = any(bare_name(name) in (*IMAGE_COLUMNS, *IMAGE_ID_COLUMNS) for name in schema.names)
    return named and not any(_holds_vectors(field.type) for field in schema)


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Path], bool]], ...] = (
    (_TEXT_SUFFIXES, _is_text_table),
    ((".xlsx",), lambda path: True),
    ((".parquet", ".pq"), _is_parquet_table),
    (JSON_SUFFIXES, says_annotations),
)


def _read_sheet(path: Path) -> TableRows:
    """The first sheet of a workbook of Excel that holds a table; what stands above its header is passed over."""
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError(
            f"Reading {path.name} needs openpyxl: pip install 'macl_tf[excel]', or save it as 'CSV UTF-8'."
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles, which say nothing here
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} must be a workbook of Excel (.xlsx), but is not ({error}). Save it anew.") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
            sheets.sort(key=lambda sheet: bare_name(sheet.title) != "labels")
            tables = [(sheet.title, found) for sheet in sheets if (found := _sheet_rows(sheet))]
        finally:
            book.close()
    if not tables:
        raise ValueError(
            f"{path} must hold a sheet with a header, at least two columns and a row per image, but none of its "
            f"{len(sheets)} sheets does. Formulas count by the values that Excel last saved."
        )
    title, (header, rows) = tables[0]
    others = [name for name, _ in tables[1:]]
    notes = (f"sheet {title!r} of {path.name} read, not {shorten(others)}",) if others else ()
    return TableRows(header, rows, notes)


def _sheet_rows(sheet: Any) -> tuple[list[str], list[tuple[int, list[str]]]] | None:
    """The header and the rows of a sheet, or None where it holds no table."""
    sheet.reset_dimensions()  # programs write wrong ones
    rows = [(number, [cell_text(cell) for cell in cells])
            for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1)]  # fmt: skip
    rows = [(number, cells) for number, cells in rows if any(cells)]
    while rows and sum(map(bool, rows[0][1])) < 2:  # a title
        rows.pop(0)
    if len(rows) < 2:
        return None
    width = max(place for _, cells in rows for place, cell in enumerate(cells, start=1) if cell)
    (_, header), *below = [(number, (cells + [""] * width)[:width]) for number, cells in rows]
    return header, below


def _parquet(path: Path) -> Any:
    """The reader of Parquet files."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"Reading {path.name} needs PyArrow: pip install 'macl_tf[index]'.") from error
    return pyarrow.parquet


def _read_parquet(path: Path) -> TableRows:
    """The columns of a Parquet file but for vectors, pictures and places; lists of texts are lists of labels."""
    parquet = _parquet(path)
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        kept = [field.name for field in schema if not _holds_vectors(field.type)]
        columns = file.read(columns=kept).to_pydict()
    except Exception as error:  # Arrow's errors have no class in common but this
        raise ValueError(f"{path} must be a Parquet file, but cannot be read ({error}). Write it anew.") from error
    if _INDEX_OF_PANDAS in columns:  # of a table whose index holds the images, perhaps; in front it is looked at
        columns = {"": columns.pop(_INDEX_OF_PANDAS), **columns}
    header = list(columns)
    cells = [[cell_text(value) for value in values] for values in columns.values()]
    rows = [(number, list(row)) for number, row in enumerate(zip(*cells, strict=True), start=1)]
    if not rows or len(header) < 2:
        raise ValueError(
            f"{path} must be a table with at least two columns and a row per image, got {len(header)} columns "
            f"({', '.join(header)}) and {len(rows)} rows."
        )
    lost = [field.name for field in schema if field.name not in kept]
    notes = (f"columns of {path.name} that hold no text, ignored: {', '.join(lost)}",) if lost else ()
    return TableRows(header, rows, notes)


def _holds_vectors(kind: Any) -> bool:
    """Whether cells of an Arrow type are vectors, bytes or other things that no label table needs."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _holds_vectors(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return not (types.is_string(kind.value_type) or types.is_large_string(kind.value_type))
    if types.is_struct(kind):
        return "path" not in [field.name for field in kind]  # of Hugging Face, beside the bytes of a picture
    return (
        types.is_nested(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    )


def cell_text(value: Any) -> str:
    """A value of a typed table as it would stand in a text: 1.0 as 1, a list as JSON, nothing as an empty cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == datetime.min.time() else value.isoformat(" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return str(value.get("path") or "")
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return json.dumps([str(item) for item in value if item is not None], ensure_ascii=False)
    return str(value).strip()
