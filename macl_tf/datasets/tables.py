r"""Reading a label table that somebody else wrote: CSV or TSV, from a spreadsheet, a script or a published archive.

The first row names the columns. Delimiter (tab, comma, semicolon, bar; else runs of spaces), byte order
mark, line ends and quoting are found out. The first column is the image, by name or path, with or without
extension; where the first column has no name (a row index), or is one of those below, the column called
`image`, `filename`, `file` or `path` is. Of the others:

* `labels` or `tags` holds a list of labels, separated by `;`, `|` or `,`; only where none of these occurs in
  the whole column do spaces separate. Brackets and quotes around them are dropped. Further columns are
  ignored, and a note says so.
* else every further column is a label, named by its header, with 0 or 1 (also 0.0, 1.0, true, false) in each
  row;
* `split` is train, validation or test (also training, val, testing);
* `date` is the day on which the image was taken (2021-07-31), unless it holds only 0 and 1: then it is a label;
* `scene`, `class`, `category` or `label` is the scene of the image where there are labels besides; alone, it
  is the label, one value each, spaces included.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from macl_tf.datasets.archives import normalise_label

IMAGE_COLUMNS = ("image", "image_name", "image_path", "filename", "file_name", "file", "path")
LIST_COLUMNS = ("labels", "tags")
SCENE_COLUMNS = ("scene", "class", "category", "label")
SPLIT_COLUMN = "split"
DATE_COLUMN = "date"
SPLIT_VALUES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_BINARY = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
_SEPARATORS = re.compile(r"[;|,]")


@dataclass(frozen=True, eq=False)
class LabelTable:
    """A label table as it stands in its file: R rows, C labels.

    Attributes:
        path: The file.
        image_names: The image of each row, as written.
        lines: The line of each row in the file, from 1.
        label_names: C names, as first written; in the file's order if each has a column, else sorted.
        labels: (R, C) uint8, 0 or 1.
        scenes: The scene of each row, or None.
        splits: `"train"`, `"validation"` or `"test"` of each row, or None.
        notes: What was read as what, in short lines.
        dates: The date of each row as written, "" where there is none, or None.
    """

    path: Path
    image_names: tuple[str, ...]
    lines: tuple[int, ...]
    label_names: tuple[str, ...]
    labels: np.ndarray
    scenes: tuple[str, ...] | None
    splits: tuple[str, ...] | None
    notes: tuple[str, ...]
    dates: tuple[str, ...] | None = None


def read_label_table(path: str | os.PathLike[str]) -> LabelTable:
    """Reads a label table; the module's description says what it may look like.

    Args:
        path: A CSV or TSV file, UTF-8 or UTF-16 with a byte order mark.

    Returns:
        The table, with every row of the file. Rows are neither matched with images nor checked for
        duplicates.

    Raises:
        ValueError: If the file is not such a table. The message names the line and the column.
    """
    path = Path(path)
    header, rows = _split_rows(path)
    columns = [re.sub(r"[\s-]+", "_", name.casefold()) for name in header]
    image = _image_column(path, columns)
    values = [[cells[column] for _, cells in rows] for column in range(len(header))]
    lines = tuple(line for line, _ in rows)
    for line, name in zip(lines, values[image], strict=True):
        if not name:
            raise ValueError(f"{path}, line {line}: a row must name its image, but column {header[image]!r} is empty.")

    others = [column for column in range(len(header)) if column != image and not _is_blank(columns, values, column)]
    split = next((column for column in others if columns[column] == SPLIT_COLUMN), None)
    scene = next((column for column in others if columns[column] in SCENE_COLUMNS), None)
    listed = next((column for column in others if columns[column] in LIST_COLUMNS), None)
    day = next((column for column in others if _is_date(columns[column], values[column])), None)
    rest = [column for column in others if column not in (split, scene, day)]
    notes: tuple[str, ...] = ()
    if listed is not None:
        names, labels = _read_lists(values[listed], spaces_separate=True)
        notes = (f"column {header[listed]!r} read as lists of labels",)
        ignored = [header[column] for column in rest if column != listed]
        if ignored:
            notes += (f"columns of the table that were ignored: {', '.join(ignored)}",)
    elif rest:
        names, labels = _read_binary(path, lines, [(header[column], values[column]) for column in rest])
    elif scene is not None:
        names, labels = _read_lists(values[scene], spaces_separate=False)
        notes = (f"column {header[scene]!r} read as the label",)
        scene = scene if columns[scene] == "scene" else None
    else:
        names, labels = (), np.zeros((len(rows), 0), np.uint8)
    if not names:
        raise ValueError(
            f"{path} must hold labels beside the images, but none were found in its columns {', '.join(header)}. "
            "Give each label a column of 0 and 1, or write lists of labels in a column called 'labels'."
        )
    return LabelTable(
        path=path,
        image_names=tuple(values[image]),
        lines=lines,
        label_names=names,
        labels=labels,
        scenes=None if scene is None else tuple(values[scene]),
        splits=None if split is None else _read_splits(path, lines, values[split]),
        notes=notes,
        dates=None if day is None else tuple(values[day]),
    )


def _split_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows, each with its line number and as many cells as the header has columns."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, but is not ({error}). Save the table as 'CSV UTF-8'.") from error
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if "\t" in first else max(",;|", key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
    if delimiter in first:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not a readable table ({error}).") from error
    else:
        rows = [(number, line.split()) for number, line in enumerate(lines, 1)]
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if len(rows) < 2 or len(rows[0][1]) < 2:
        raise ValueError(
            f"{path} must be a table with a header, at least two columns and a row per image, separated by tab, comma "
            f"or semicolon. Its first line is {first[:80]!r}, and it has {max(len(rows) - 1, 0)} rows below it."
        )
    header = rows[0][1]
    if all(cell.casefold() in _BINARY for cell in header[1:]):
        raise ValueError(
            f"{path} must begin with a row that names its columns, but begins with an image's row, {first[:80]!r}. "
            "Put a header such as 'image,<label>,<label>' above it."
        )
    return header, [(line, _fit(path, line, cells, header)) for line, cells in rows[1:]]


def _fit(path: Path, line: int, cells: list[str], header: list[str]) -> list[str]:
    """The cells of a row, without the empty ones that a spreadsheet leaves behind the last column."""
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise ValueError(
            f"{path}, line {line}: a row must have as many cells as the header, {len(header)}, got {len(cells)}. "
            "A cell that holds the delimiter must be in double quotes; labels of a list can be separated by ';'."
        )
    return cells[: len(header)]


def _image_column(path: Path, columns: Sequence[str]) -> int:
    first_is_other = columns[0] in ("", "index", "unnamed:_0", SPLIT_COLUMN, *LIST_COLUMNS, *SCENE_COLUMNS)
    named = next((index for index, name in enumerate(columns) if name in IMAGE_COLUMNS), None)
    if not first_is_other or (named is None and columns[0] == ""):
        return 0
    if named is None:
        raise ValueError(
            f"{path} must have a column with the images' names: the first one, or one called "
            f"{', '.join(IMAGE_COLUMNS)}. It has {', '.join(columns)}."
        )
    return named


def _is_blank(columns: Sequence[str], values: Sequence[Sequence[str]], column: int) -> bool:
    """Whether it is a row index in front, or an empty column that a trailing delimiter makes."""
    return columns[column] in ("", "index", "unnamed:_0") and (column == 0 or not any(values[column]))


def _is_date(column: str, cells: Sequence[str]) -> bool:
    return column == DATE_COLUMN and any(cell.casefold() not in _BINARY for cell in cells)


def _read_binary(
    path: Path, lines: Sequence[int], columns: Sequence[tuple[str, Sequence[str]]]
) -> tuple[tuple[str, ...], np.ndarray]:
    labels = np.zeros((len(lines), len(columns)), np.uint8)
    spellings: dict[str, str] = {}
    for index, (name, cells) in enumerate(columns):
        if not name:
            raise ValueError(f"{path}: each column must have a name in the header, but one with values has none.")
        key = normalise_label(name)
        if key in spellings:
            raise ValueError(
                f"{path}: each label must have one column, but {spellings[key]!r} and {name!r} are one label."
            )
        spellings[key] = name
        values = [_BINARY.get(cell.casefold(), -1) for cell in cells]
        if -1 in values:
            row = values.index(-1)
            raise ValueError(
                f"{path}, line {lines[row]}, column {name!r}: a label must be 0 or 1, got {cells[row]!r}. If the "
                "column is no label, remove it; if it holds lists of labels, call it 'labels'."
            )
        labels[:, index] = values
    return tuple(name for name, _ in columns), labels


def _read_lists(cells: Sequence[str], *, spaces_separate: bool) -> tuple[tuple[str, ...], np.ndarray]:
    marked = any(_SEPARATORS.search(cell) for cell in cells)
    spellings: dict[str, str] = {}
    rows: list[list[str]] = []
    for cell in cells:
        cell = cell.strip("[](){} ")
        parts = cell.split() if spaces_separate and not marked else _SEPARATORS.split(cell)
        names = [name for name in (part.strip(" '\"") for part in parts) if name]
        for name in names:
            spellings.setdefault(normalise_label(name), name)
        rows.append([normalise_label(name) for name in names])
    keys = sorted(spellings)
    position = {key: index for index, key in enumerate(keys)}
    labels = np.zeros((len(rows), len(keys)), np.uint8)
    for row, held in enumerate(rows):
        labels[row, [position[key] for key in held]] = 1
    return tuple(spellings[key] for key in keys), labels


def _read_splits(path: Path, lines: Sequence[int], cells: Sequence[str]) -> tuple[str, ...]:
    for line, cell in zip(lines, cells, strict=True):
        if cell.casefold() not in SPLIT_VALUES:
            raise ValueError(
                f"{path}, line {line}, column {SPLIT_COLUMN!r}: a split must be train, validation or test, "
                f"got {cell!r}."
            )
    return tuple(SPLIT_VALUES[cell.casefold()] for cell in cells)
