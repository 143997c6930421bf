r"""Class tables: what the values or colours of a mask, or the values of a column, are called.

CSV with a column `name` (or `class`, `label`) and one of `value` (or `index`, `id`, `code`), `colour` (or `color`,
`hex`: `#ff8000`), or three columns `r,g,b` (or `red,green,blue`). What is called `ignore` is no label. Several rows of
one name are one label. TOML says the same:

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
from typing import Any

from macl_tf.datasets.archives import bare_name, normalise_label
from macl_tf.datasets.delimited import read_delimited

IGNORE, TO_BE_NAMED = "ignore", "..."
_NAME = ("name", "class", "label", "classname", "labelname", "category")
_VALUE = ("value", "index", "id", "code", "classid", "labelid", "pixelvalue", "gridcode")
_COLOUR = ("colour", "color", "hex", "rgb")
_BANDS = (("r", "red"), ("g", "green"), ("b", "blue"))

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """The labels, and which values and colours stand for each; for `IGNORE` by the number -1."""

    names: tuple[str, ...]
    values: Mapping[str, int] = field(default_factory=dict)  # as text: "3", or of a column anything
    colours: Mapping[Colour, int] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, rows: Iterable[tuple[str, Any]]) -> ClassTable:
        """From rows of a name and a value or colour; a ValueError where one stands for two labels."""
        names: dict[str, str] = {}
        values: dict[str, int] = {}
        colours: dict[Colour, int] = {}
        numbers: dict[str, int] = {}
        for name, value in rows:
            if name in ("", TO_BE_NAMED):
                shown = value if isinstance(value, str) else hex_of(value)
                raise ValueError(f"{path}: each value must have a name, or be called '{IGNORE}', but {shown} has none.")
            key = normalise_label(name)
            if key != IGNORE and key not in numbers:
                numbers[key], names[key] = len(numbers), name
            number = numbers.get(key, -1)
            held: dict[Any, int] = values if isinstance(value, str) else colours
            if held.setdefault(value, number) != number:
                shown = value if isinstance(value, str) else hex_of(value)
                raise ValueError(f"{path}: a value must stand for one label, but {shown} stands for two.")
        if not names:
            raise ValueError(f"{path} must name a label, but names none.")
        return cls(tuple(names.values()), values, colours)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, to be compared with another one."""
        colours = {hex_of(colour): number for colour, number in self.colours.items()}
        return {"names": list(self.names), "values": dict(sorted(self.values.items())), "colours": colours}


def hex_of(colour: Iterable[int]) -> str:
    """A colour as #rrggbb."""
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def read_class_table(path: Path) -> ClassTable:
    """Reads a class table, TOML or CSV; the module's description says what it may look like."""
    if not path.is_file():
        raise FileNotFoundError(f"the class table must be a file, but there is no '{path}'.")
    return ClassTable.of(path, _toml_rows(path) if path.suffix.lower() == ".toml" else _csv_rows(path))


def _csv_rows(path: Path) -> Iterable[tuple[str, Any]]:
    header, rows = read_delimited(path)
    keys = [bare_name(name) for name in header]

    def column(names: Iterable[str]) -> int | None:
        return next((keys.index(name) for name in names if name in keys), None)

    name, value, colour = column(_NAME), column(_VALUE), column(_COLOUR)
    bands = [column(names) for names in _BANDS]
    if name is None or (value is None and colour is None and None in bands):
        raise ValueError(
            f"{path} must have the columns name and value, name and colour (#ff8000), or name,r,g,b, got "
            f"{', '.join(header)}."
        )
    for line, cells in rows:
        where = f"{path}, line {line}"
        if value is not None and cells[value]:
            yield cells[name], _value(cells[value])
        if colour is not None and cells[colour]:
            yield cells[name], _colour(where, cells[colour])
        elif None not in bands:
            yield cells[name], _colour(where, " ".join(cells[band] for band in bands if band is not None))


def _toml_rows(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} must be TOML, but is not: {error}.") from None
    classes = content.get("classes")
    if not isinstance(classes, dict) or set(content) - {"classes", IGNORE}:
        raise ValueError(f"{path} must hold [classes], with lines like water = 1, and perhaps ignore = [0].")
    for name, given in (*classes.items(), (IGNORE, content.get(IGNORE, []))):
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise ValueError(f'{path}: {name} must be a number, "#rrggbb", or a list of these, got {value!r}.')
            yield name, _colour(f"{path}, {name}", value) if str(value).startswith("#") else _value(str(value))


def _value(text: str) -> str:
    """A value as text: 3 of a spreadsheet's 3.0."""
    return re.sub(r"^(-?\d+)\.0*$", r"\1", text.strip())


def _colour(where: str, text: Any) -> Colour:
    digits = re.fullmatch(r"#([0-9a-fA-F]{6})", str(text).strip())
    parts = [int(digits[1][at : at + 2], 16) for at in (0, 2, 4)] if digits else re.findall(r"\d+", str(text))
    found = [int(part) for part in parts]
    if len(found) != 3 or max(found) > 255:
        raise ValueError(f"{where}: a colour must be like #ff8000 or 255 128 0, got {text!r}.")
    return found[0], found[1], found[2]
