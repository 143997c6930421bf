"""Class tables of masks: which value or colour is which label, by CSV or TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from macl_tf.datasets.archives import bare_name, normalise_label
from macl_tf.datasets.delimited import BINARY, read_delimited

Colour = tuple[int, int, int]
_NAMES = ("name", "class", "classname", "label", "labelname", "category")
_VALUES = ("value", "index", "id", "classid", "labelid", "pixelvalue", "code")
_COLOURS = ("color", "colour", "rgb", "hex")
_CHANNELS = (("r", "g", "b"), ("red", "green", "blue"))
_KNOWN = {*_NAMES, *_VALUES, *_COLOURS, *(channel for three in _CHANNELS for channel in three), "ignore"}
_IGNORE = "ignore"
_HEX = re.compile(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
_HOW = (
    "Give each class a row name,value or name,color (#rrggbb or r,g,b), or name,r,g,b; ignore=true for what is no label"
)


class MaskClass(NamedTuple):
    """A class of a mask: its name, the raw value or the colour that stands for it, and whether it is no label."""

    name: str
    value: int | None
    colour: Colour | None
    ignore: bool = False


def is_class_table(path: Path) -> bool:
    """Whether a CSV or TOML file is a class table: it has no columns but those of one, and each class once."""
    try:
        read_class_table(path)
    except (OSError, ValueError):
        return False
    return True


def read_class_table(path: Path) -> tuple[MaskClass, ...]:
    """The classes of a table, in its order; several values or colours may be one class.

    Args:
        path: CSV (any delimiter) with the columns `name`, `value` or `color` (also `r,g,b`) and, if wanted, `ignore`;
            or TOML with a list of tables of the same keys, [[classes]], or with name = value, colour or list of them,
            perhaps below [classes]. A class called ignore is ignored.

    Returns:
        The classes; all have a value, or all have a colour, or both.

    Raises:
        ValueError: If it is no such table; it says what is missing.
    """
    if path.suffix.lower() == ".toml":
        return _checked(path, _toml_rows(path))
    header, rows = read_delimited(path)
    keys = [bare_name(name) for name in header]
    unknown = [name for name, key in zip(header, keys, strict=True) if key not in _KNOWN]
    if unknown:
        _refuse(path, f"no column {', '.join(unknown)}")
    return _checked(path, (dict(zip(keys, cells, strict=True)) for _, cells in rows))


def _toml_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be TOML, but is not ({error}).") from error
    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if lists:
        return [{bare_name(key): value for key, value in row.items()} for row in lists[0]]
    pairs = {**next((value for value in content.values() if isinstance(value, dict)), content)}
    if _IGNORE in content:
        pairs[_IGNORE] = content[_IGNORE]
    return [
        {"name": name, "value" if isinstance(mark, int) else "color": mark, _IGNORE: name == _IGNORE}
        for name, marks in pairs.items()
        for mark in (marks if isinstance(marks, list) else [marks])
    ]


def _checked(path: Path, rows: Iterable[Mapping[str, Any]]) -> tuple[MaskClass, ...]:
    rows = list(rows)
    keys = {key for row in rows for key in row}
    classes = [_class_of(path, row) for row in rows]
    if not classes:
        _refuse(path, "a class")
    for marks in ([one.value for one in classes], [one.colour for one in classes]):
        if None not in marks and len(set(marks)) < len(marks):
            _refuse(path, "each value or colour once")
    if any(one.value is None for one in classes) and any(one.colour is None for one in classes):
        _refuse(path, "a value for each class, or a colour for each")
    names = {normalise_label(one.name) for one in classes}
    if "id" in keys and len(names) < len(classes):  # a label table of the images 1, 2, 3
        _refuse(path, "each name once, since its values are in a column 'id'")
    if len(names) == 1 < len(classes):
        _refuse(path, "classes of different names")
    return tuple(classes)


def _class_of(path: Path, row: Mapping[str, Any]) -> MaskClass:
    def first(keys: Iterable[str]) -> Any:
        return next((row[key] for key in keys if row.get(key, "") != ""), None)

    # In a table with id, name and label the name is meant.
    name, value, colour = first(_NAMES), first(_VALUES), first(_COLOURS)
    if colour is None:
        colour = next(([row[key] for key in three] for three in _CHANNELS if all(key in row for key in three)), None)
    if name is None or (value is None and colour is None):
        _refuse(path, "a name and a value or colour for each class")
    if value is not None and not re.fullmatch(r"\d+(\.0)?", str(value)):
        _refuse(path, f"values that are whole numbers from 0, got {value!r}")
    ignore = BINARY.get(str(row.get(_IGNORE) or str(name).strip().casefold() == _IGNORE).casefold())
    if ignore is None:
        _refuse(path, f"true or false for ignore, got {row[_IGNORE]!r}")
    return MaskClass(
        str(name).strip(),
        None if value is None else int(float(value)),
        None if colour is None else _colour_of(path, colour),
        bool(ignore),
    )


def _colour_of(path: Path, given: Any) -> Colour:
    """#rrggbb, "r,g,b" with any marks between and around, or three numbers."""
    if isinstance(given, str) and (found := _HEX.fullmatch(given.strip())):
        red, green, blue = (int(part, 16) for part in found.groups())
        return red, green, blue
    parts = re.findall(r"\d+", given) if isinstance(given, str) else [str(part).removesuffix(".0") for part in given]
    if len(parts) != 3 or not all(part.isdigit() and int(part) < 256 for part in parts):
        _refuse(path, f"colours like #ff8000 or 255,128,0, got {given!r}")
    red, green, blue = map(int, parts)
    return red, green, blue


def _refuse(path: Path, needed: str) -> NoReturn:
    raise ValueError(f"{path} must be a class table of masks, with {needed}. {_HOW}.")
