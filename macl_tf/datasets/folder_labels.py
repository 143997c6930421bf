"""Where the labels and the parts of an own archive come from: a table, masks, class folders, split lists."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from macl_tf.datasets.class_folders import class_folders
from macl_tf.datasets.class_tables import is_class_table, read_class_table
from macl_tf.datasets.mask_labels import areas_by_class, find_class_table, mask_histogram
from macl_tf.datasets.mask_pairs import masks_among, pair_masks
from macl_tf.datasets.matching import Finding, match_rows
from macl_tf.datasets.remembering import remembered
from macl_tf.datasets.split_lists import read_split_lists, split_by_folders
from macl_tf.datasets.table_files import find_table, tables_by_part
from macl_tf.datasets.tables import LabelTable, read_label_table, read_label_tables
from macl_tf.datasets.walk import shorten


class FoundLabels(NamedTuple):
    """Where the labels of a folder come from."""

    table: LabelTable
    images: Sequence[str]  # without masks
    findings: list[Finding]
    areas: np.ndarray | None = None  # of the table's rows
    has_table: bool = True


def find_labels(
    root: Path,
    table: str | os.PathLike[str] | None,
    images: Sequence[str],
    cache_dir: str | os.PathLike[str] | None,
    min_area: float,
) -> FoundLabels:
    """A table's labels, those of masks, or of class folders; a table without labels where there are none of these."""
    parts = tables_by_part(root) if table is None else None
    found = find_table(root, table) if parts is None else None
    class_table = found if found is not None and is_class_table(found) else None
    if found is None and parts is None:
        class_table = find_class_table(root)
    if class_table is not None:
        return _mask_labels(root, class_table, images, cache_dir, min_area)
    if min_area:
        raise ValueError(
            f"min_area must be 0 for {root}, which has no masks with a class table, got {min_area}. Leave it out."
        )
    masks = masks_among(images)
    pairs, _ = pair_masks([name for name in images if name not in masks], masks)
    masks = masks if len(pairs) * 4 >= len(images) else set()  # a few may be called so by chance
    images = [name for name in images if name not in masks]
    if found is not None or parts is not None:
        rows = read_label_table(found) if found is not None else read_label_tables(parts or {})
        if masks:
            rows = replace(rows, notes=(*rows.notes, f"masks beside the images, not read: {len(masks):,}"))
        return FoundLabels(rows, images, [])
    if masks:
        note = (
            f"{len(masks):,} masks and no class table: the images have no labels. Write one with a row name,value or "
            "name,color for each class, for example as classes.csv"
        )
        return FoundLabels(_own_table(root, images, (), np.zeros((len(images), 0)), (note,)), images, [], None, False)
    classes, note = class_folders(images)
    names = tuple(sorted(set(classes) - {""}))
    kept = [place for place, name in enumerate(classes) if name] if classes else range(len(images))
    labels = np.zeros((len(kept), len(names)), np.uint8)
    if names:
        column = {name: place for place, name in enumerate(names)}
        labels[np.arange(len(kept)), [column[classes[place]] for place in kept]] = 1
    rows = _own_table(root, [images[place] for place in kept], names, labels, (note,))
    rows = replace(rows, scenes=tuple(classes[place] for place in kept) if names else None)
    loose = [Finding("loose", name, "") for name, scene in zip(images, classes, strict=False) if not scene]
    return FoundLabels(rows, rows.image_names, loose, has_table=False)


def _mask_labels(
    root: Path,
    class_table: Path,
    images: Sequence[str],
    cache_dir: str | os.PathLike[str] | None,
    min_area: float,
) -> FoundLabels:
    """Labels by area of the pictures that have a mask."""
    classes = read_class_table(class_table)
    found = masks_among(images)
    pictures = [name for name in images if name not in found]
    pairs, doubtful = pair_masks(pictures, sorted(found))
    if not pairs:
        raise ValueError(
            f"{root} must hold a mask for each tile, beside the class table {class_table.name}, but no image has one. "
            "Masks lie in a folder called masks or labels, or end in _mask or _label, and else are called as their "
            f"tiles. The images are {shorten(images)}."
        )
    masks = {mask: picture for picture, mask in sorted(pairs.items())}
    known, broken = remembered(
        root, list(masks), cache_dir, lambda path, name: mask_histogram(path, name), "mask-marks", "reading masks"
    )
    readable = {masks[name]: histogram for name, histogram in known.items()}
    findings = [Finding("unreadable", name, error) for name, error in broken.items()]
    for name in (name for name in pictures if pairs.get(name) not in known):
        findings.append(
            Finding("unmasked", name, f"several fit: {shorten(doubtful[name])}" if name in doubtful else "")
        )
    strays = sorted(found - masks.keys())
    if not readable:
        raise ValueError(f"{root} must hold a mask that can be read, but: {next(iter(broken.values()))}")
    names, areas, notes = areas_by_class(readable, classes)
    labels = ((areas > 0) & (areas >= np.float32(min_area))).astype(np.uint8)
    notes = (
        f"labels by area of masks, classes of {class_table.name}"
        + (f", from a share of {min_area:g}" if min_area else ""),
        *notes,
        *([f"masks without an image: {len(strays)} ({shorten(strays)})"] if strays else []),
    )
    table = _own_table(root / class_table.name, list(readable), names, labels, notes)
    return FoundLabels(table, table.image_names, findings, areas)


def _own_table(
    path: Path, images: Sequence[str], names: tuple[str, ...], labels: np.ndarray, notes: tuple[str, ...]
) -> LabelTable:
    """A table of images whose labels stand in no file, with the parts that folders tell."""
    parts = split_by_folders(images)
    if parts:
        notes = (*notes, "the official split is that of the folders")
    return LabelTable(
        path=path,
        image_names=tuple(images),
        lines=tuple(range(1, len(images) + 1)),
        label_names=names,
        labels=labels,
        scenes=None,
        splits=tuple(parts) if parts else None,
        notes=notes,
    )


def published_parts(
    root: Path, table: LabelTable, matched: Mapping[str, int]
) -> tuple[dict[str, str], tuple[str, ...], list[Finding]]:
    """The part of each image, "" where there are none; notes; and the images that published lists leave out."""
    lists = read_split_lists(root)
    if table.splits is not None or lists is None or not lists.names:
        told = () if lists is None else lists.notes if not lists.names else ("split lists beside a split, not used",)
        return {name: table.splits[row] if table.splits else "" for name, row in matched.items()}, told, []
    none = np.zeros((len(lists.names), 0), np.uint8)
    rows = LabelTable(lists.path, lists.names, lists.lines, (), none, None, lists.parts, ())
    rows, found, findings = match_rows(rows, sorted(matched))
    kept = [finding for finding in findings if finding.problem in ("ambiguous", "conflicting")]
    kept += [finding._replace(problem="unassigned") for finding in findings if finding.problem == "orphan"]
    told = lists.notes
    if missing := [finding.name for finding in findings if finding.problem == "missing"]:
        told = (*told, f"names in the split lists without an image: {len(missing)} ({shorten(missing)})")
    if not found:
        raise ValueError(
            f"the split lists {lists.path.name} in {root} must name its images, but name none: "
            f"{shorten(lists.names)}; the images are {shorten(sorted(matched))}. Correct or remove them."
        )
    return {name: lists.parts[row] for name, row in found.items()}, told, kept
