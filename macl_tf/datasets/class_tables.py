r"""Class tables: what the values or colours of a mask, or the values of a column, are called.

CSV with any delimiter, with a column `name` and one of `value`, `colour` (`#ff8000` or `255,128,0`), or three columns
`r,g,b`; these may be called otherwise (`class`, `index`, `hex`, ...). What is called `ignore`, or has true in a column
`ignore`, is no label. Several rows of one name are one label. TOML says the same, or holds [[classes]] with these keys:

    ignore = [0, 255]
    [classes]
    water = 1
    trees = [3, 4]
    building = "#ff0000"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from macl_tf.datasets.archives import bare_name, normalise_label
from macl_tf.datasets.delimited import BINARY, read_delimited

Colour = tuple[int, int, int]
IGNORE, TO_BE_NAMED = "ignore", "..."
# In a table with id, name and label the name is meant.
_NAMES = ("name", "class", "classname", "label", "labelname", "category")
_VALUES = ("value", "index", "id", "classid", "labelid", "pixelvalue", "code", "gridcode")
_COLOURS = ("colour", "color", "hex", "rgb")
_CHANNELS = (("r", "red"), ("g", "green"), ("b", "blue"))
# Columns of a table that is taken for one by them alone; `seen` is of the draft that `macl tile` shows.
_KNOWN = {*_NAMES, *_VALUES[:-1], *_COLOURS, *(name for names in _CHANNELS for name in names), IGNORE, "seen"}
_HEX = re.compile(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
_HOW = (
    "Give each class a row name,value or name,colour (#rrggbb or r,g,b), or name,r,g,b; "
    f"what is called '{IGNORE}', or has true in a column '{IGNORE}', is no label."
)


@dataclass(frozen=True)
class ClassTable:
    """The labels, and which values and colours stand for each; for what is no label by the number -1."""

    names: tuple[str, ...]
    values: Mapping[str, int] = field(default_factory=dict)  # as text: "3", or of a column anything
    colours: Mapping[Colour, int] = field(default_factory=dict)

    @property
    def codes(self) -> dict[int, int]:
        """The label of each value that is a whole number, as masks hold them."""
        return {int(value): number for value, number in self.values.items() if re.fullmatch(r"-?\d+", value)}

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, to be compared with another one."""
        colours = {hex_of(colour): number for colour, number in self.colours.items()}
        return {"names": list(self.names), "values": dict(sorted(self.values.items())), "colours": colours}


class _Row(NamedTuple):
    """A line of a table."""

    name: str
    value: str | None
    colour: Colour | None
    ignored: bool


def hex_of(colour: Iterable[int]) -> str:
    """A colour as #rrggbb."""
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def read_class_table(path: Path) -> ClassTable:
    """Reads a class table, CSV or TOML; the module's description says what it may look like.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is none; it says what is missing.
    """
    return _table_of(path, _rows(path)[1])


def is_class_table(path: Path) -> bool:
    """Whether a file is a class table by its looks: no columns but those of one, and each value or colour once.

    It is more careful than `read_class_table`: a table of labels of images may be read as one.
    """
    try:
        columns, rows = _rows(path)
        _table_of(path, rows)
    except (OSError, ValueError):
        return False
    marks: list[list[Any]] = [[row.value for row in rows if row.value], [row.colour for row in rows if row.colour]]
    names = {normalise_label(row.name) for row in rows}
    return (
        columns <= _KNOWN
        and len(rows) in map(len, marks)  # a value for each class, or a colour for each
        and all(len(set(held)) == len(rows) for held in marks if len(held) == len(rows))
        and all(row.value.isdecimal() or (row.colour and _colour(row.value) == row.colour) for row in rows if row.value)
        and not ("id" in columns and len(names) < len(rows))  # a label table of the images 1, 2, 3
        and (len(names) > 1 or len(rows) == 1)
    )


def _table_of(path: Path, rows: Iterable[_Row]) -> ClassTable:
    """A ValueError where a value stands for two labels, or has no name."""
    names: dict[str, str] = {}
    values: dict[str, int] = {}
    colours: dict[Colour, int] = {}
    for row in rows:
        key, number = normalise_label(row.name), -1
        if not row.ignored:
            names.setdefault(key, row.name)
            number = list(names).index(key)
        held: tuple[tuple[Any, dict[Any, int]], ...] = ((row.value, values), (row.colour, colours))
        for mark, known in held:
            if mark is None:
                continue
            shown = mark if isinstance(mark, str) else hex_of(mark)
            if row.name in ("", TO_BE_NAMED):
                raise _error(path, f"each value must have a name, or be called '{IGNORE}', but {shown} has none")
            if known.setdefault(mark, number) != number:
                raise _error(path, f"a value must stand for one label, but {shown} stands for two")
    if not names:
        raise _error(path, "it must name a label, but names none")
    return ClassTable(tuple(names.values()), values, colours)


def _rows(path: Path) -> tuple[set[str], list[_Row]]:
    """The columns of a table, and its rows that have a value or a colour."""
    if not path.is_file():
        raise FileNotFoundError(f"the class table must be a file, but there is no '{path}'.")
    if path.suffix.lower() == ".toml":
        lines = _toml(path)
        header = list(dict.fromkeys(key for cells in lines.values() for key in cells))
    else:
        header, found = read_delimited(path)
        lines = {f"{path}, line {line}": dict(zip(header, cells, strict=True)) for line, cells in found}
    columns = {bare_name(name) for name in header}
    coloured = columns & {*_COLOURS} or all(columns & {*names} for names in _CHANNELS)
    if not (columns & {*_NAMES} and (columns & {*_VALUES} or coloured)):
        raise _error(path, f"it must have the columns name and value, name and colour, or name,r,g,b, got {header}")
    rows = [_row(where, {bare_name(key): cell for key, cell in cells.items()}) for where, cells in lines.items()]
    return columns, [row for row in rows if row.value is not None or row.colour is not None]


def _toml(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be TOML, but is not: {error}.") from error
    lists = [value for value in content.values() if isinstance(value, list) and value]
    for rows in (held for held in lists if all(isinstance(row, dict) for row in held)):
        return {f"{path}, class {number}": row for number, row in enumerate(rows, 1)}
    classes = content.get("classes", next((value for value in content.values() if isinstance(value, dict)), content))
    if not isinstance(classes, dict):
        raise _error(path, "it must hold [classes], with lines like water = 1")
    named = {**classes, **({IGNORE: content[IGNORE]} if IGNORE in content else {})}
    lines: dict[str, dict[str, Any]] = {}
    for name, given in named.items():
        for mark in given if isinstance(given, list) else [given]:
            row = lines[f"{path}, {name} = {mark!r}"] = {"name": name}
            text = isinstance(mark, str)
            if not (text and mark.strip().startswith("#")):
                row["value"] = mark
            if text and ("value" not in row or _colour(mark)):
                row["colour"] = mark
    return lines


def _row(where: str, cells: Mapping[str, Any]) -> _Row:
    def first(keys: Iterable[str]) -> str:
        return next((found for key in keys if (found := _text(where, key, cells.get(key, "")))), "")

    name, value, colour = first(_NAMES), first(_VALUES), first(_COLOURS)
    ignore = str(cells.get(IGNORE) or normalise_label(name) == IGNORE)
    if ignore.casefold() not in BINARY:
        raise _error(where, f"{IGNORE} must be true or false, got {ignore!r}")
    colour = colour or " ".join(found for names in _CHANNELS if (found := first(names)))
    if colour and not _colour(colour):
        raise _error(where, f"a colour must be like #ff8000 or 255 128 0, got {colour!r}")
    value = re.sub(r"^(-?\d+)\.0*$", r"\1", value)  # 3 of a spreadsheet's 3.0
    return _Row(name, value or None, _colour(colour), bool(BINARY[ignore.casefold()]))


def _text(where: str, key: str, cell: Any) -> str:
    if isinstance(cell, list) and key in _COLOURS:
        return " ".join(_text(where, key, part) for part in cell)
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        raise _error(where, f'{key} must be a number, "#rrggbb", or a list of these, got {cell!r}')
    return str(cell).strip()


def _colour(text: str) -> Colour | None:
    """Of #rrggbb, or three numbers with any marks between and around."""
    digits = _HEX.fullmatch(text.strip())
    parts = [int(part, 16) for part in digits.groups()] if digits else []
    # A spreadsheet's 255.0 too.
    for written in (text, re.sub(r"\.0(?![.\d])", "", text)):
        parts = parts if len(parts) == 3 else [int(part) for part in re.findall(r"\d+", written)]
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 and max(parts) < 256 else None


def _error(where: Path | str, rule: str) -> ValueError:
    return ValueError(f"{where}: {rule}. {_HOW}")
