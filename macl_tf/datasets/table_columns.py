"""The columns of a label table: what each is, by name and content, and which labels stand in its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from macl_tf.datasets.archives import bare_name, normalise_label
from macl_tf.datasets.delimited import BINARY
from macl_tf.datasets.images import is_image_name
from macl_tf.datasets.label_lists import STRONG, marks_in, separators, split_at, unwrapped

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
    "ymin", "xmax", "ymax", "x", "y", "w", "h", "x1", "y1", "x2", "y2", "area", "bbox", "difficult", "truncated",
    "occluded", "pose", "iscrowd", "isoccluded", "istruncated", "isgroupof", "isdepiction", "isinside", "verified",
}  # fmt: skip
SPLIT_COLUMN, GROUP_COLUMN = "split", "group"
DATE_COLUMN = "date"
_INDEX_COLUMNS = ("", "index", "unnamed0")
_NO_LABELS = {"none", "null", "nan"}  # in a list in brackets, without quotes


class Columns(NamedTuple):
    """What the columns of a table are, by their places."""

    image: int
    split: int | None
    date: int | None
    scene: int | None
    listed: int | None  # lists of labels
    label: int | None  # one label in each row
    binary: list[int]  # a label each
    ignored: list[int]
    group: int | None = None


def find_columns(path: Path, header: Sequence[str], values: Sequence[Sequence[str]]) -> Columns:
    """Finds out what each column is, by its name in the header and its cells in `values`.

    What is in columns of 0 and 1 has not been checked then. A ValueError where no column holds the names of images.
    """
    keys = [bare_name(name) or name for name in header]
    image = _image_column(path, header, keys, values)
    others = [place for place in range(len(keys)) if place != image and not _is_blank(keys, values, place)]

    def first(names: Sequence[str]) -> int | None:
        return next((place for place in others if keys[place] in names), None)

    split, listed_, scene = first((SPLIT_COLUMN,)), first(LIST_COLUMNS), first(SCENE_COLUMNS)
    day = next((place for place in others if keys[place] == DATE_COLUMN and not _is_binary(values[place])), None)
    group = next((place for place in others if keys[place] == GROUP_COLUMN and not _is_binary(values[place])), None)
    rest = [place for place in others if place not in (split, day, group)]
    if listed_ is not None:
        ignored = [place for place in rest if place not in (listed_, scene)]
        return Columns(image, split, day, scene, listed_, None, [], ignored, group)
    label = min(
        (place for place in rest if keys[place] in (SCENE_COLUMNS if _is_binary(values[place]) else LABEL_COLUMNS)),
        # Numbers of classes are no names, where names stand beside them.
        key=lambda place: (all(map(str.isdigit, values[place])), LABEL_COLUMNS.index(keys[place])),
        default=None,
    )
    if label is not None:
        scene_beside = next((place for place in rest if keys[place] == "scene"), None)
        beside = [place for place in rest if place not in (label, scene_beside)]
        mixed = [place for place in beside if not _is_binary(values[place], 0.5)]
        labels = [place for place in beside if place not in mixed and keys[place] not in _BESIDE_LABELS]
        # A column of 0 and 1 is a label, and the other one the scene; but not beside boxes in rows of several labels.
        if not labels or (mixed and repeats(values[image], values[label])):
            return Columns(image, split, day, scene_beside, None, label, [], beside, group)
    binary = [place for place in rest if place != scene]
    # Another name or number of the image.
    ids = [
        place for place in binary
        if keys[place] in (*IMAGE_COLUMNS, *IMAGE_ID_COLUMNS) and not _is_binary(values[place], 0.5)
    ]  # fmt: skip
    labels = [place for place in binary if place not in ids]
    return Columns(image, split, day, scene, None, None, labels, ids, group)


def _image_column(path: Path, header: Sequence[str], keys: Sequence[str], values: Sequence[Sequence[str]]) -> int:
    """The column that is called like one of images, and holds file names if there is a choice; else the first."""

    def rank(place: int) -> int:
        is_file = all(is_image_name(cell) for cell in values[place])
        # Land cover has paths and patches, too.
        names_images = keys[place] in (*IMAGE_COLUMNS, *IMAGE_ID_COLUMNS) and (
            keys[place].startswith(("im", "file")) or not _is_binary(values[place])
        )
        if names_images and keys[place] in IMAGE_COLUMNS:
            return 0 if is_file else 1
        if names_images:
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


def repeats(images: Sequence[str], cells: Sequence[object]) -> bool:
    """Whether an image has several rows that differ in a column."""
    return len(set(zip(images, cells, strict=True))) > len(set(images))


def read_cells(cells: Sequence[str], images: Sequence[str], *, one_each: bool) -> tuple[dict[str, list[str]], str]:
    """The labels in each different cell of a column, as written there, and words for a note on how they were read.

    `images` has the image of each cell; `one_each` says that each holds one label by the column's name.
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
    several = repeats(images, cells)
    marks, how = _separators(
        list(texts.values()),
        single=one_each or several,
        several=several,
        blanks=not one_each and not any(items.values()),
    )
    for cell, text in texts.items():
        parts = split_at(text, marks)
        items[cell] = [part for part in parts if part and not (text != cell and part.casefold() in _NO_LABELS)]
    return items, how


def _separators(texts: Sequence[str], *, single: bool, several: bool, blanks: bool) -> tuple[str, str]:
    """What separates the labels in the different cells of a column, without brackets, and words for it.

    Commas separate, if labels may hold them (`single`), only where what is between them recurs; so do any marks, if an
    image has several rows (`several`). Blanks separate only where they may and what is between them recurs.
    """
    number = Counter(mark for text in texts for mark in marks_in(text, STRONG))
    if number and (not several or _parts_recur(texts, "".join(number))):
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
    if blanks and any(separators(text, " ") for text in texts):
        if _parts_recur(texts, " "):
            return " ", ", separated by blanks; a label of several words must be quoted or the labels separated by ';'"
        return "", "; blanks are part of a label, since no word recurs without the others (write ';' between labels)"
    return "", ""


def _parts_recur(texts: Sequence[str], mark: str) -> bool:
    """Whether what a mark separates are labels: one of them is a cell of its own, or most are parts of several."""
    cells = {normalise_label(text): {normalise_label(part) for part in split_at(text, mark)} for text in texts if text}
    number = Counter(part for parts in cells.values() for part in parts)
    parted = set().union(*(parts for parts in cells.values() if len(parts) > 1))
    alone = {part for parts in cells.values() if len(parts) == 1 for part in parts}
    return bool(parted & alone) or sum(number[part] > 1 for part in parted) * 2 > len(parted)
