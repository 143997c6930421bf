r"""Reads label tables: from a spreadsheet, a script, an annotation tool or a published archive.

They are CSV, TSV, Excel (.xlsx), Parquet or JSON (`table_files`, `annotations`), and all the same from here on. The
first row names the columns. Delimiter (tab, comma, semicolon, bar; else runs of spaces), byte order
mark, line ends and quoting are found out. The image, by name or path, with or without extension, is the column called
`image`, `filename`, `file`, `path`, `image_id` and the like; without one, the first column that is none of those below
(nor a row index without a name). Of the others:

* `labels` or `tags` holds a list of labels. `;` or `|` separates where one of them occurs in the column, else `,`; only
  where none of these occurs do spaces separate, and not where no word recurs without the others (Inland waters). Quotes
  keep a label whole, "Beaches, dunes, sands","Sea", and lists as Python and JSON write them are read,
  ['Beaches, dunes, sands', 'Sea']. Further columns are ignored, and a note says so.
* `label`, `class`, `category` or `scene` holds one label, where the other columns are not all 0 and 1:
  `filename,width,height,class,xmin,ymin,xmax,ymax` and `ImageID,Source,LabelName,Confidence` are such tables. Blanks
  are part of it, and so are commas, unless what is between them recurs without them. The other columns are ignored,
  and a note says so; but 0 in a column `confidence`, `presence` or `value` means that the label is not there.
* else every further column is a label, named by its header, with 0 or 1 (also 0.0, 1.0, true, false) in each
  row, and `scene`, `class`, `category` or `label` is the scene of the image;
* `split` is train, validation or test (also training, val, testing);
* `group` is what the image was cut from, where it is not 0 and 1: images of one belong in one part;
* `date` is the day on which the image was taken (2021-07-31), unless it holds only 0 and 1: then it is a label.

Where each row holds one label at most, an image may have several rows, and then holds the labels of all of them. Two
spellings are one label where they differ in case, blanks, hyphens and underscores only (`archives.normalise_label`); a
note names what was joined.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from macl_tf.datasets.annotations import TableRows
from macl_tf.datasets.archives import bare_name, normalise_label
from macl_tf.datasets.delimited import BINARY
from macl_tf.datasets.label_lists import listed
from macl_tf.datasets.split_lists import SPLIT_VALUES
from macl_tf.datasets.table_columns import PRESENCE_COLUMNS, SPLIT_COLUMN, find_columns, read_cells, repeats
from macl_tf.datasets.table_files import read_rows
from macl_tf.datasets.tile_facts import UNKNOWN_DAY, day_of

_NAMED = 10  # joined spellings that notes name


@dataclass(frozen=True, eq=False)
class LabelTable:
    """A label table as it stands in its file: R rows, C labels."""

    path: Path
    image_names: tuple[str, ...]  # of each row, as written
    lines: tuple[int, ...]  # of each row in the file, from 1
    label_names: tuple[str, ...]  # as first written; in the file's order if each has a column, else sorted
    labels: np.ndarray  # (R, C) uint8, 0 or 1
    scenes: tuple[str, ...] | None
    splits: tuple[str, ...] | None  # "train", "validation" or "test"
    notes: tuple[str, ...]  # what was read as what, in short lines
    dates: tuple[str, ...] | None = None  # as written, "" where there is none
    # Whether an image holds the labels of all its rows. Rows of the file that agree in everything else are one row here
    # then, with the line of the first.
    adds_up: bool = False
    # Of rows that say so, the labels that the image does not hold. A label that is in `labels` as well is in dispute.
    denied: Mapping[int, frozenset[int]] = field(default_factory=dict)
    groups: tuple[str, ...] | None = None

    @property
    def days(self) -> np.ndarray | None:
        """(R,) datetime64[D] of the rows, NaT where there is none; a ValueError names the line of what is no date."""
        if self.dates is None:
            return None
        days = np.full(len(self.dates), UNKNOWN_DAY)
        for row, text in enumerate(self.dates):
            try:
                days[row] = day_of(text[:10])
            except ValueError:
                raise ValueError(
                    f"{self.path}, line {self.lines[row]}, column 'date': a date must be written as 2021-07-31, got "
                    f"{text!r}."
                ) from None
        return days

    def take(self, rows: Sequence[int]) -> LabelTable:
        """The same table with some of its rows only."""
        columns = {
            name: getattr(self, name) for name in ("image_names", "lines", "scenes", "splits", "dates", "groups")
        }
        taken: dict[str, Any] = {key: value and tuple(value[row] for row in rows) for key, value in columns.items()}
        return replace(
            self,
            **taken,
            labels=self.labels[list(rows)],
            denied={place: self.denied[row] for place, row in enumerate(rows) if row in self.denied},
        )

    def choose(self, label_names: Sequence[str]) -> LabelTable:
        """The same table with the known labels of an archive, in their order, which it may spell otherwise.

        A ValueError where a label has no column.
        """
        # R writes bare.soil where others write bare-soil; among the known names nothing else can be meant.
        columns: dict[str, int] = {}
        for spell in (bare_name, normalise_label):
            columns |= {spell(name): column for column, name in enumerate(self.label_names)}
        absent = [name for name in label_names if bare_name(name) not in columns]
        if absent:
            needed = f"{self.path} must have a column for each of {', '.join(label_names)}"
            raise ValueError(f"{needed}, but has none for {', '.join(absent)}.")
        chosen = [columns[bare_name(name)] for name in label_names]
        denied = {row: frozenset(map(chosen.index, found & set(chosen))) for row, found in self.denied.items()}
        return replace(self, label_names=tuple(label_names), labels=self.labels[:, chosen], denied=denied)


def read_label_table(path: str | os.PathLike[str]) -> LabelTable:
    """Reads a label table of any kind of `macl_tf.datasets.table_files`; the module's text says what it may look like.

    Rows are neither matched with images nor checked for duplicates. A ValueError names the line and the column.
    """
    path = Path(path)
    return label_table_of(path, read_rows(path))


def read_label_tables(parts: Mapping[Path, str]) -> LabelTable:
    """The tables of the parts of an archive, train.csv and test.csv, or train/_classes.csv and test/_classes.csv.

    Their columns must be the same. A table in a folder of its part names the images of that folder.
    """
    tables = {path: read_rows(path) for path in parts}
    header = next(iter(tables.values())).header
    if other := next((path for path, found in tables.items() if found.header != header), None):
        raise ValueError(
            f"the tables of the parts must have the same columns, but those of {next(iter(tables))} are "
            f"{', '.join(header)}, and those of {other} {', '.join(tables[other].header)}. Name one by --table."
        )
    values = [[cells[column] for found in tables.values() for _, cells in found.rows] for column in range(len(header))]
    image = find_columns(next(iter(parts)), header, values).image
    inside = len({path.parent for path in parts}) == len(parts) > 1

    def cells_of(path: Path, cells: Sequence[str]) -> list[str]:
        own = [f"{path.parent.name}/{cell}" if inside and place == image else cell for place, cell in enumerate(cells)]
        return [*own, parts[path]]

    rows = [(line, cells_of(path, cells)) for path, found in tables.items() for line, cells in found.rows]
    names = [f"{path.parent.name}/{path.name}" if inside else path.name for path in parts]
    notes = tuple(note for found in tables.values() for note in found.notes)
    opinions = any(found.by_annotator for found in tables.values())
    return label_table_of(Path(" and ".join(names)), TableRows([*header, SPLIT_COLUMN], rows, notes, opinions))


def label_table_of(path: Path, found: TableRows) -> LabelTable:
    """The label table in rows of text; `path` is for messages."""
    header, rows, told, by_annotator = found
    values = [[cells[column] for _, cells in rows] for column in range(len(header))]
    lines = tuple(line for line, _ in rows)
    columns = find_columns(path, header, values)
    images = values[columns.image]
    if "" in images:
        line, name = lines[images.index("")], header[columns.image]
        raise ValueError(f"{path}, line {line}: a row must name its image, but column {name!r} is empty.")

    def cells_of(column: int | None) -> tuple[str, ...] | None:
        return None if column is None else tuple(values[column])

    table = LabelTable(
        path=path,
        image_names=tuple(images),
        lines=lines,
        label_names=(),
        labels=np.zeros((len(rows), 0), np.uint8),
        scenes=cells_of(columns.scene),
        splits=None if columns.split is None else _read_splits(path, lines, values[columns.split]),
        notes=told,
        dates=cells_of(columns.date),
        groups=cells_of(columns.group),
    )
    column = columns.label if columns.listed is None else columns.listed
    ignored = list(columns.ignored)
    if column is not None:
        single = columns.listed is None
        given, how = read_cells(values[column], images, one_each=single)
        presence = next((place for place in ignored if _is_presence(header[place], values[place])), None)
        note = f"column {header[column]!r} read as {'the label' if single else 'lists of labels'}{how}"
        absent = [presence is not None and _share(values[presence][row]) == 0 for row in range(len(rows))]
        table = _with_lists(replace(table, notes=(*told, note)), values[column], given, absent, not by_annotator)
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


def _with_lists(
    table: LabelTable,
    cells: Sequence[str],
    given: Mapping[str, Sequence[str]],
    absent: Sequence[bool],
    may_add_up: bool,
) -> LabelTable:
    """The table with the labels `given` for each cell of a column; `absent` rows say that an image holds them not.

    Several rows of an image are several labels only where they `may_add_up`, and else contradict each other.
    """
    spellings: dict[str, dict[str, None]] = {}
    for names in given.values():
        for name in names:
            spellings.setdefault(normalise_label(name), {})[name] = None
    keys = sorted(spellings)
    position = {key: place for place, key in enumerate(keys)}
    places = {cell: frozenset(position[normalise_label(name)] for name in names) for cell, names in given.items()}
    held = [frozenset() if absent[row] else places[cell] for row, cell in enumerate(cells)]
    denied = {row: places[cell] for row, cell in enumerate(cells) if absent[row]}
    notes = [*table.notes]
    adds_up = may_add_up and all(len(found) < 2 for found in places.values())
    if adds_up and repeats(table.image_names, [places[cell] for cell in cells]):
        # Image by image already here: a row for each of a million boxes would not fit into memory.
        every = (table.image_names, table.scenes, table.splits, table.dates, table.groups)
        facts = [told for told in every if told is not None]
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
        notes=tuple(notes),
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
    return f"0 in column {name!r} read as a label that the image does not hold, {shares.count(0):,} times{between}"


def _read_splits(path: Path, lines: Sequence[int], cells: Sequence[str]) -> tuple[str, ...]:
    for line, cell in zip(lines, cells, strict=True):
        if cell.casefold() not in SPLIT_VALUES:
            raise ValueError(
                f"{path}, line {line}, column {SPLIT_COLUMN!r}: a split must be train, validation or test, "
                f"got {cell!r}."
            )
    return tuple(SPLIT_VALUES[cell.casefold()] for cell in cells)
