"""Labels in the cells of a column; the separator is inferred from all cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from macl_tf.datasets.archives import normalise_label
from macl_tf.datasets.label_lists import STRONG, marks_in, separators, split_at, unwrapped
from macl_tf.datasets.table_columns import repeats

_NO_LABELS = {"none", "null", "nan"}  # in a list in brackets, without quotes


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
