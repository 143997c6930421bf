r"""Reading a label table that somebody else wrote: CSV or TSV, from a spreadsheet, a script or a published archive.

The first row names the columns. Delimiter (tab, comma, semicolon, bar; else runs of spaces), byte order
mark, line ends and quoting are found out. The image, by name or path, with or without extension, is the column called
`image`, `filename`, `file`, `path`, `image_id` and the like; without one, the first column that is none of those below
(nor a row index without a name). Of the others:

* `labels` or `tags` holds a list of labels. `;` or `|` separates where one of them occurs in the column, else `,`; only
  where none of these occurs do spaces separate. Quotes keep a label whole, "Beaches, dunes, sands","Sea", and lists as
  Python and JSON write them are read, ['Beaches, dunes, sands', 'Sea']. Further columns are ignored; a note says so.
* `label`, `class`, `category` or `scene` holds one label, blanks and commas included, where the other columns are not
  all 0 and 1: `filename,width,height,class,xmin,ymin,xmax,ymax` and `ImageID,Source,LabelName,Confidence` are such
  tables. The others are ignored, and a note says so; but 0 in a column `confidence`, `presence` or `value` means that
  the image does not hold the label.
* else every further column is a label, named by its header, with 0 or 1 (also 0.0, 1.0, true, false) in each
  row, and `scene`, `class`, `category` or `label` is the scene of the image;
* `split` is train, validation or test (also training, val, testing);
* `date` is the day on which the image was taken (2021-07-31), unless it holds only 0 and 1: then it is a label.

Where each row holds one label at most, an image may have several rows, and then holds the labels of all of them. Two
spellings are one label where they differ in case, blanks, hyphens and underscores only; a note names what was joined.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macl_tf.datasets.archives import IMAGE_SUFFIXES, bare_name, normalise_label
from macl_tf.datasets.delimited import BINARY, read_delimited
from macl_tf.datasets.label_names import STRONG, listed, marks_in, separators, split_at, unwrapped

# Names of columns, as `bare_name` gives them.
IMAGE_COLUMNS = (
    "image", "imagename", "imagepath", "imagefile", "imagefilename", "filename", "filepath", "file", "path", "fname",
    "img", "imgname", "imgpath", "imgfile", "imagefilepath",
)  # fmt: skip
IMAGE_ID_COLUMNS = ("imageid", "imgid", "tile", "tileid", "tilename", "patch", "patchid", "patchname", "name", "id")
LIST_COLUMNS = ("labels", "tags")
SCENE_COLUMNS = ("scene", "class", "category", "label")
# One label in each row, the likeliest first.
LABEL_COLUMNS = (
    "label", "labelname", "class", "classname", "category", "categoryname", "tag", "scene", "labelid", "classid",
    "categoryid",
)  # fmt: skip
PRESENCE_COLUMNS = ("presence", "present", "ispresent", "exists", "value", "confidence")
# What tools write beside a label; it may hold 0 and 1 without being a label itself.
_BESIDE_LABELS = {
    *PRESENCE_COLUMNS, *LABEL_COLUMNS, "id", "annotationid", "objectid", "annotator", "annotatorid", "worker",
    "workerid", "user", "userid", "source", "score", "probability", "width", "height", "depth", "channels", "xmin",
    "ymin", "xmax", "ymax", "x", "y", "w", "h", "x1", "y1", "x2", "y2", "area", "bbox", "difficult", "truncated", "occluded", "pose",
    "iscrowd", "isoccluded", "istruncated", "isgroupof", "isdepiction", "isinside", "verified",
}  # fmt: skip
SPLIT_COLUMN = "split"
DATE_COLUMN = "date"
SPLIT_VALUES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_INDEX_COLUMNS = ("", "index", "unnamed0")
_NO_LABELS = {"none", "null", "nan"}  # in a list in brackets, without quotes
_NAMED = 10  # joined spellings that notes name


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
        adds_up: Whether an image holds the labels of all its rows. Rows of the file that agree in everything else are
            one row here then, with the line of the first.
        denied: Of rows that say so, the labels that the image does not hold. A label that is in `labels` as well
            is in dispute.
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
    adds_up: bool = False
    denied: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def take(self, rows: Sequence[int]) -> LabelTable:
        """The same table with some of its rows only."""

        def taken(column: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(column[row] for row in rows)

        return replace(
            self,
            image_names=taken(self.image_names),
            lines=taken(self.lines),
            labels=self.labels[list(rows)],
            scenes=None if self.scenes is None else taken(self.scenes),
            splits=None if self.splits is None else taken(self.splits),
            dates=None if self.dates is None else taken(self.dates),
            denied={place: self.denied[row] for place, row in enumerate(rows) if row in self.denied},
        )


class _Columns(NamedTuple):
    """What the columns of a table are, by their places."""

    image: int
    split: int | None
    date: int | None
    scene: int | None
    listed: int | None  # lists of labels
    label: int | None  # one label a row
    binary: list[int]  # a label each
    ignored: list[int]


class _Lists(NamedTuple):
    """The labels of the cells of a column, as written, and how they were read."""

    cells: dict[str, list[str]]
    how: str


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
    header, rows = read_delimited(path)
    values = [[cells[column] for _, cells in rows] for column in range(len(header))]
    lines = tuple(line for line, _ in rows)
    columns = _find_columns(path, header, values)
    images = values[columns.image]
    for line, name in zip(lines, images, strict=True):
        if not name:
            raise ValueError(
                f"{path}, line {line}: a row must name its image, but column {header[columns.image]!r} is empty."
            )

    def cells_of(column: int | None) -> tuple[str, ...] | None:
        return None if column is None else tuple(values[column])

    splits = None if columns.split is None else _read_splits(path, lines, values[columns.split])
    table = LabelTable(
        path=path,
        image_names=tuple(images),
        lines=lines,
        label_names=(),
        labels=np.zeros((len(rows), 0), np.uint8),
        scenes=cells_of(columns.scene),
        splits=splits,
        notes=(),
        dates=cells_of(columns.date),
    )
    column = columns.label if columns.listed is None else columns.listed
    ignored = list(columns.ignored)
    if column is not None:
        single = columns.listed is None
        given = _read_lists(values[column], images, one_each=single)
        presence = next((place for place in ignored if _is_presence(header[place], values[place])), None)
        table = _with_lists(
            table,
            header[column],
            values[column],
            given,
            kind="the label" if single else "lists of labels",
            presence=None if presence is None else values[presence],
        )
        if presence is not None:
            ignored.remove(presence)
            table = replace(table, notes=(*table.notes, _presence_note(header[presence], values[presence])))
    elif columns.binary:
        names, labels = _read_binary(path, lines, [(header[place], values[place]) for place in columns.binary])
        table = replace(table, label_names=names, labels=labels)
    if not table.label_names:
        raise ValueError(
            f"{path} must hold labels beside the images, but none were found in its columns {', '.join(header)}. "
            "Give each label a column of 0 and 1, or write lists of labels in a column called 'labels'."
        )
    if ignored:
        others = listed([header[place] for place in ignored], _NAMED)
        table = replace(table, notes=(*table.notes, f"columns of the table that were ignored: {others}"))
    return table


def _find_columns(path: Path, header: Sequence[str], values: Sequence[Sequence[str]]) -> _Columns:
    keys = [bare_name(name) for name in header]
    image = _image_column(path, header, keys, values)
    others = [place for place in range(len(keys)) if place != image and not _is_blank(keys, values, place)]

    def first(names: Sequence[str]) -> int | None:
        return next((place for place in others if keys[place] in names), None)

    split, listed_, scene = first((SPLIT_COLUMN,)), first(LIST_COLUMNS), first(SCENE_COLUMNS)
    day = next((place for place in others if keys[place] == DATE_COLUMN and not _is_binary(values[place])), None)
    rest = [place for place in others if place not in (split, day)]
    if listed_ is not None:
        ignored = [place for place in rest if place not in (listed_, scene)]
        return _Columns(image, split, day, scene, listed_, None, [], ignored)
    label = min(
        (place for place in rest if keys[place] in (SCENE_COLUMNS if _is_binary(values[place]) else LABEL_COLUMNS)),
        key=lambda place: LABEL_COLUMNS.index(keys[place]),
        default=None,
    )
    if label is not None:
        scene_beside = next((place for place in rest if keys[place] == "scene"), None)
        beside = [place for place in rest if place not in (label, scene_beside)]
        mixed = [place for place in beside if not _is_binary(values[place], 0.5)]
        labels = [place for place in beside if place not in mixed and keys[place] not in _BESIDE_LABELS]
        # A column of 0 and 1 is a label, and the other one the scene; but not beside boxes in rows of several labels.
        if not labels or (mixed and _repeats(values[image], values[label])):
            return _Columns(image, split, day, scene_beside, None, label, [], beside)
    binary = [place for place in rest if place != scene]
    # Another name or number of the image.
    ids = [
        place for place in binary
        if keys[place] in (*IMAGE_COLUMNS, *IMAGE_ID_COLUMNS) and not _is_binary(values[place], 0.5)
    ]  # fmt: skip
    return _Columns(image, split, day, scene, None, None, [place for place in binary if place not in ids], ids)


def _image_column(path: Path, header: Sequence[str], keys: Sequence[str], values: Sequence[Sequence[str]]) -> int:
    """The column that is called like one of images, and holds file names if there is a choice; else the first."""

    def rank(place: int) -> int:
        is_file = all(cell.casefold().endswith(IMAGE_SUFFIXES) for cell in values[place])
        # Land cover has paths and patches, too.
        named = keys[place].startswith(("im", "file")) or not _is_binary(values[place])
        if keys[place] in IMAGE_COLUMNS and named:
            return 0 if is_file else 1
        if keys[place] in IMAGE_ID_COLUMNS and named:
            return 2 if is_file or keys[place] in ("imageid", "imgid") else 5
        if is_file:
            return 3
        other = keys[place] in (*_INDEX_COLUMNS, SPLIT_COLUMN, DATE_COLUMN, *LIST_COLUMNS, *LABEL_COLUMNS)
        return 4 if place == 0 and not other else 9

    best = min(range(len(keys)), key=lambda place: (rank(place), place))
    if rank(best) == 9 and keys[0] != "":
        raise ValueError(
            f"{path} must have a column with the images' names: the first one, or one called "
            f"{', '.join(IMAGE_COLUMNS)}. It has {', '.join(header)}."
        )
    return best if rank(best) < 9 else 0


def _is_blank(keys: Sequence[str], values: Sequence[Sequence[str]], column: int) -> bool:
    """Whether it is a row index in front, or an empty column that a trailing delimiter makes."""
    return keys[column] in _INDEX_COLUMNS and (column == 0 or not any(values[column]))


def _is_binary(cells: Sequence[str], share: float = 1.0) -> bool:
    """Whether all cells, or such a share of those that are not empty, hold 0 or 1."""
    given = [cell for cell in cells if cell] if share < 1 else cells
    return sum(cell.casefold() in BINARY for cell in given) >= max(share * len(given), 1)


def _repeats(images: Sequence[str], cells: Sequence[object]) -> bool:
    """Whether an image has several rows that differ in a column."""
    return len(set(zip(images, cells, strict=True))) > len(set(images))


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
        values = [BINARY.get(cell.casefold(), -1) for cell in cells]
        if -1 in values:
            row = values.index(-1)
            raise ValueError(
                f"{path}, line {lines[row]}, column {name!r}: a label must be 0 or 1, got {cells[row]!r}. If the "
                "column is no label, remove it; if it holds lists of labels, call it 'labels'."
            )
        labels[:, index] = values
    return tuple(name for name, _ in columns), labels


def _read_lists(cells: Sequence[str], images: Sequence[str], *, one_each: bool) -> _Lists:
    """The labels in the cells of a column.

    Args:
        cells: As they are written.
        images: Of each row.
        one_each: Whether the column's name says that each cell holds one label.
    """
    items: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for cell in dict.fromkeys(cells):
        found, text = unwrapped(cell)
        if found is None:
            texts[cell] = text
        else:
            items[cell] = found
    # A name for lists whose cells hold one label each, in several rows for an image, is no list either.
    single = one_each or _repeats(images, cells)
    marks, how = _separators(list(texts.values()), single=single, blanks=not one_each and not any(items.values()))
    for cell, text in texts.items():
        parts = split_at(text, marks)
        items[cell] = [part for part in parts if part and not (text != cell and part.casefold() in _NO_LABELS)]
    return _Lists(items, how)


def _separators(texts: Sequence[str], *, single: bool, blanks: bool) -> tuple[str, str]:
    """What separates the labels in the cells of a column, and words for it.

    Args:
        texts: The different cells, without brackets.
        single: Whether commas and blanks may belong to labels: they separate only where what is between them recurs.
        blanks: Whether blanks may separate.
    """
    number = Counter(mark for text in texts for mark in marks_in(text, STRONG))
    if number:
        strong = [mark for mark in ";|" if mark in number]
        if len(strong) == 2 and any(len(set(marks_in(text, ";|"))) == 2 for text in texts):
            strong = ["|" if number["|"] > number[";"] else ";"]  # the other one is part of labels
        named = " and ".join([*map(repr, strong), *(["line ends"] if "\n" in number else [])])
        return "".join(strong) + "\n" * ("\n" in number), f", separated by {named} and nothing else"
    if any(separators(text, ",") for text in texts):
        if not single or _parts_recur(texts, ","):
            how = "; a label that itself holds a comma must be quoted or the labels separated by ';'"
            return ",", f", separated by ','{how}"
        return "", "; commas are part of a label, since none recurs without them (write ';' between labels)"
    if blanks and any(separators(text, " ") for text in texts) and (not single or _parts_recur(texts, " ")):
        return " ", ", separated by blanks; a label of several words must be quoted or the labels separated by ';'"
    return "", ""


def _parts_recur(texts: Sequence[str], mark: str) -> bool:
    """Whether what a mark separates are labels: one of them is a cell of its own, or most are parts of several."""
    cells = {normalise_label(text): {normalise_label(part) for part in split_at(text, mark)} for text in texts if text}
    number = Counter(part for parts in cells.values() for part in parts)
    parted = set().union(*(parts for parts in cells.values() if len(parts) > 1))
    alone = {part for parts in cells.values() if len(parts) == 1 for part in parts}
    return bool(parted & alone) or sum(number[part] > 1 for part in parted) * 2 > len(parted)


def _with_lists(
    table: LabelTable, column: str, cells: Sequence[str], given: _Lists, *, kind: str, presence: Sequence[str] | None
) -> LabelTable:
    """The table with the labels of a column.

    Args:
        table: Everything else.
        column: Name of the column.
        cells: Its cells.
        given: The labels in them.
        kind: What the column was read as.
        presence: For each row, 0 where the image does not hold its labels.
    """
    spellings: dict[str, dict[str, None]] = {}
    for names in given.cells.values():
        for name in names:
            spellings.setdefault(normalise_label(name), {})[name] = None
    keys = sorted(spellings)
    position = {key: place for place, key in enumerate(keys)}
    places = {cell: frozenset(position[normalise_label(name)] for name in names) for cell, names in given.cells.items()}
    absent = [presence is not None and _share(presence[row]) == 0 for row in range(len(cells))]
    held = [frozenset() if absent[row] else places[cell] for row, cell in enumerate(cells)]
    denied = {row: places[cell] for row, cell in enumerate(cells) if absent[row]}
    notes = [f"column {column!r} read as {kind}{given.how}"]

    adds_up = all(len(found) < 2 for found in places.values())
    if adds_up and _repeats(table.image_names, [places[cell] for cell in cells]):
        # Image by image already here: a row for each of a million boxes would not fit into memory.
        facts = [
            column for column in (table.image_names, table.scenes, table.splits, table.dates) if column is not None
        ]
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for row, key in enumerate(zip(*facts, strict=True)):
            groups[key].append(row)
        held = [frozenset().union(*(held[row] for row in rows)) for rows in groups.values()]
        together = (frozenset().union(*(denied.get(row, ()) for row in rows)) for rows in groups.values())
        denied = {row: found for row, found in enumerate(together) if found}
        notes.append(
            f"a row for each label: {len(cells):,} rows of {len(set(table.image_names)):,} images, which hold the "
            "labels of all their rows"
        )
        table = table.take([rows[0] for rows in groups.values()])
    labels = np.zeros((len(held), len(keys)), np.uint8)
    for row, found in enumerate(held):
        labels[row, list(found)] = 1
    joined = [listed(list(names)) for names in map(spellings.__getitem__, keys) if len(names) > 1]
    notes += [f"read as one label: {names}" for names in joined[:_NAMED]]
    if len(joined) > _NAMED:
        notes.append(f"{len(joined) - _NAMED:,} more labels are spelled in several ways")
    return replace(
        table,
        label_names=tuple(next(iter(spellings[key])) for key in keys),
        labels=labels,
        notes=(*table.notes, *notes),
        adds_up=adds_up,
        denied=denied,
    )


def _is_presence(name: str, cells: Sequence[str]) -> bool:
    """Whether a column says of each row how far its label is there, from 0 to 1."""
    try:
        return bare_name(name) in PRESENCE_COLUMNS and all(0 <= _share(cell) <= 1 for cell in cells)
    except ValueError:
        return False


def _share(cell: str) -> float:
    """A number, or true and false as 1 and 0; an empty cell says nothing against the label."""
    return float(BINARY.get(cell.casefold(), cell or 1))


def _presence_note(name: str, cells: Sequence[str]) -> str:
    shares = [_share(cell) for cell in cells]
    between = "" if set(shares) <= {0.0, 1.0} else "; everything above 0 counts as held"
    return f"0 in column {name!r} read as a label that the image does not hold: {shares.count(0):,} rows{between}"


def _read_splits(path: Path, lines: Sequence[int], cells: Sequence[str]) -> tuple[str, ...]:
    for line, cell in zip(lines, cells, strict=True):
        if cell.casefold() not in SPLIT_VALUES:
            raise ValueError(
                f"{path}, line {line}, column {SPLIT_COLUMN!r}: a split must be train, validation or test, "
                f"got {cell!r}."
            )
    return tuple(SPLIT_VALUES[cell.casefold()] for cell in cells)
