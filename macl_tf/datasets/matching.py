"""Joins images and rows of a label table by name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from macl_tf.datasets.archives import normalise_stem
from macl_tf.datasets.images import is_image_name
from macl_tf.datasets.label_lists import listed
from macl_tf.datasets.tables import LabelTable
from macl_tf.datasets.walk import shorten

# What Label Studio calls a file that was uploaded to it, around the name that it had.
_UPLOADED = re.compile(r"/?data/upload/(?:\d+/)?[0-9a-f]{8}-(.+)")


class Finding(NamedTuple):
    """One thing that is wrong with one image or row."""

    problem: str
    name: str
    detail: str


class _Key(NamedTuple):
    """A name as it is compared: one Unicode form, no case, no image extension, either kind of slash."""

    folders: tuple[str, ...]
    stem: str
    suffix: str


def match_images(table: LabelTable, images: Sequence[str]) -> tuple[LabelTable, dict[str, int], list[Finding]]:
    """As `match_rows`, where some of the images are rasters of a kind that is not read.

    Such a one gets a row only where no other image has it: beside the picture that was made of it, it is left out
    without a finding.
    """
    read = [name for name in images if is_image_name(name, others=False)]
    table, matched, findings = match_rows(table, read)
    others = sorted(set(images) - set(read))
    if not others:
        return table, matched, findings
    stems = {normalise_stem(name) for name in read}
    open_rows = {finding.name for finding in findings if finding.problem == "missing"}
    table, more, doubts = match_rows(table, others)
    more = {name: row for name, row in more.items() if table.image_names[row] in open_rows}
    found = {table.image_names[row] for row in more.values()}
    kept = [finding for finding in findings if not (finding.problem == "missing" and finding.name in found)]
    without = [doubt for doubt in doubts if doubt.problem == "orphan" and normalise_stem(doubt.name) not in stems]
    return table, matched | more, kept + without


def match_rows(table: LabelTable, images: Sequence[str]) -> tuple[LabelTable, dict[str, int], list[Finding]]:
    """Joins rows and images (paths relative to the archive's folder, with forward slashes) by name.

    Names are compared without case, extension and Unicode form. Where several images or rows share a stem, the folders
    that row and image both name must agree, and after that the extension decides; what is still open is left out. What
    Label Studio puts before the name of an uploaded file counts only where an image has it too.

    Returns:
        The table; the row in it of each image that has one; and what was found wrong: rows that are `missing` their
        image or `ambiguous`, images that are an `orphan`, or have `duplicate` or `conflicting` rows (the latter are
        left out). Where the rows of an image add up (`LabelTable.adds_up`), its row holds the labels of all.
    """
    by_stem: dict[str, list[tuple[str, _Key]]] = defaultdict(list)
    for image in images:
        key = _key(image)
        by_stem[key.stem].append((image, key))
    row_keys = [_key(name) for name in table.image_names]
    distinct = Counter(stem for _, stem in {(key.folders, key.stem) for key in row_keys})

    findings: list[Finding] = []
    rows_of: dict[str, list[int]] = defaultdict(list)
    claimed: set[str] = set()
    for row, (name, key) in enumerate(zip(table.image_names, row_keys, strict=True)):
        candidates = by_stem.get(key.stem, [])
        if not candidates and (uploaded := _UPLOADED.fullmatch(name)):
            key = _key(uploaded[1])
            candidates = by_stem.get(key.stem, [])
        fitting = _fitting(name, key, candidates, distinct[key.stem] == 1)
        claimed.update(fitting)
        where = f"line {table.lines[row]} of {table.path.name}"
        if not fitting:
            findings.append(Finding("missing", name, where))
        elif len(fitting) > 1:
            findings.append(Finding("ambiguous", name, f"{where} fits {shorten(fitting, 5)}"))
        else:
            rows_of[fitting[0]].append(row)
    findings += [Finding("orphan", image, "") for image in images if image not in claimed]

    matched: dict[str, int] = {}
    united = table.labels.copy() if table.adds_up else table.labels
    dates = None if table.dates is None else list(table.dates)
    for image, rows in sorted(rows_of.items()):
        first = rows[0]
        lines = f"lines {' and '.join(str(table.lines[row]) for row in rows)} of {table.path.name}"
        if len(rows) > 1 or first in table.denied:
            held = table.labels[rows].max(axis=0)
            disputed = [label for row in rows for label in table.denied.get(row, ()) if held[label]]
            if disputed:
                names = listed([table.label_names[label] for label in dict.fromkeys(disputed)])
                both = f"{table.path.name} says both that it holds {names} and not"
                findings.append(Finding("conflicting", image, both))
                continue
            alike = len({table.labels[row].tobytes() for row in rows}) == 1
            other_facts = len({_facts(table, row) for row in rows}) > 1 or len(_days(table, rows)) > 1
            if other_facts or not (alike or table.adds_up):
                findings.append(Finding("conflicting", image, lines))
                continue
            if len(rows) > 1 and alike:
                findings.append(Finding("duplicate", image, lines))
            if table.adds_up:
                united[first] = held
            if dates is not None:
                dates[first] = next((dates[row] for row in rows if dates[row]), "")
        matched[image] = first
    return replace(table, labels=united, dates=None if dates is None else tuple(dates)), matched, findings


def stem_of(name: str) -> str:
    """What two names must have in common to be joined."""
    return _key(name).stem


def _key(name: str) -> _Key:
    text = unicodedata.normalize("NFC", name).casefold().replace("\\", "/")
    *folders, last = [part for part in text.split("/") if part not in ("", ".")] or [""]
    stem = normalise_stem(last)
    return _Key(tuple(folders), stem, last.removeprefix(stem))


def _fitting(name: str, key: _Key, candidates: list[tuple[str, _Key]], only_row: bool) -> list[str]:
    if only_row and len(candidates) == 1:
        return [candidates[0][0]]
    if any(image == name for image, _ in candidates):
        return [name]
    agreeing = [
        (image, other)
        for image, other in candidates
        if all(a == b for a, b in zip(reversed(key.folders), reversed(other.folders), strict=False))
    ]
    same_suffix = [image for image, other in agreeing if other.suffix == key.suffix]
    return same_suffix or [image for image, _ in agreeing]


def _facts(table: LabelTable, row: int) -> tuple[str, str]:
    return table.scenes[row] if table.scenes else "", table.splits[row] if table.splits else ""


def _days(table: LabelTable, rows: Sequence[int]) -> set[str]:
    """The days that rows name, without the time of the day; an empty cell says nothing."""
    return {table.dates[row][:10] for row in rows if table.dates[row]} if table.dates else set()
