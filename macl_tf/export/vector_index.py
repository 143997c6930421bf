"""An index of vectors from elsewhere, with or without a head, and the encoder that queries of it go through."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from macl_tf.datasets.matching import match_rows
from macl_tf.datasets.tables import LabelTable, read_label_table
from macl_tf.datasets.vector_rows import VectorRows
from macl_tf.datasets.vectors import VectorFiles
from macl_tf.export.exporting import (
    check_changes,
    check_taught,
    describe_index,
    encoder_identity,
    finish,
    publishing_alone,
    write_retriever,
)
from macl_tf.export.fitting import as_fitted, familiar_of, fitted
from macl_tf.export.model_info import describe_vectors
from macl_tf.export.saved_model import holding, publish_encoder
from macl_tf.files import PARTIAL
from macl_tf.index.index import build_index
from macl_tf.index.items import Items
from macl_tf.index.thumbnails import THUMBNAIL_SIZE
from macl_tf.index.vectors import read_vectors, unit_rows, write_vectors
from macl_tf.training.run_directory import finished_run, read_encoder, run_settings
from macl_tf.training.settings import Settings


def index_vectors(
    vectors: str | os.PathLike[str],
    served: str | os.PathLike[str],
    *,
    head: str | os.PathLike[str] | None = None,
    backbone: Settings | None = None,
    table: str | None = None,
    kind: str = "auto",
    recall_target: float = 0.95,
    keep: int = 2,
    discard_changes: bool = False,
    progress: bool = True,
) -> Path:
    """Makes vectors from elsewhere searchable: by id, by vector, by examples; by picture where a backbone is given.

    What the files tell of tiles, place, day, source, labels, small picture, is in the index. Vectors are read, and go
    through the head, batch by batch. What else is not given is as of `export_run`.

    Args:
        vectors: A file or folder, as `VectorFiles` reads.
        served: Folder to write to.
        head: A finished run on vectors of the same model, whose descriptor is compared; None for the vectors.
        backbone: Which network made the vectors, with weights, image size and turns, to search by picture as well.
        table: Label table of the ids, to show and filter by.
        kind: As of `export_run`.
        recall_target: As of `export_run`.
        keep: As of `export_run`.
        discard_changes: As of `export_run`.
        progress: As of `export_run`.

    Returns:
        `served`.

    Raises:
        FileNotFoundError: If a file or the run is not there.
        ValueError: If the vectors break a rule or are of another width than head or backbone, or as of `export_run`.
            Then nothing was written.
        BlockingIOError: If another process exports to `served` or indexes there.
    """
    source, served = VectorFiles(vectors), Path(served).expanduser()
    label_table = None if table is None else read_label_table(table)
    say: Callable[[str], None] = print if progress else lambda *_: None
    of_vectors, of_pictures, info = _encoder(source, head, backbone)
    served.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=PARTIAL, dir=served.parent) as folder:
        file = Path(folder) / "vectors.npy"
        items, pictures = _embedded(source, of_vectors, file, progress=progress)
        items = items if label_table is None else _labelled(items, label_table, source)
        (served / "encoder").mkdir(parents=True, exist_ok=True)
        with publishing_alone(served):
            root = served / "index"
            check_taught(served, discard_changes)
            check_changes(root, discard_changes)
            path = holding(served, info) or publish_encoder(
                of_pictures or of_vectors,
                info,
                served,
                vectors=of_vectors,
                familiar=None if head is None else familiar_of(finished_run(head), info),
            )
            seen = f", pictures of {info['image_size']} px" if of_pictures else ", no pictures"
            say(f"encoder    {path}: vectors of {source.dim} numbers to {of_vectors.output_shape[1]}{seen}")
            built: dict[str, Any] = {"kind": kind, "recall_target": recall_target}
            made_with = fitted(served, encoder_identity(served, int(path.name)), read_vectors(file))
            if "share" in made_with:  # not in place: on a full disk a memory map ends the process
                given, file = read_vectors(file), file.with_name("fitted.npy")
                write_vectors(file, as_fitted(made_with, given), len(items), of_vectors.output_shape[1])
            facts = {
                "encoder": made_with,
                "archive": {"name": source.name, "tiles": len(items)},
                "built": {**built, "thumbnail_size": THUMBNAIL_SIZE if pictures or of_pictures else 0},
            }
            version = build_index(
                root,
                items,
                read_vectors(file),
                info=facts,
                thumbnails=_thumbnails(source) if pictures else None,
                keep=keep,
                progress=progress,
                check=lambda: check_changes(root, discard_changes, holding=True),
                **built,
            )
            say(describe_index(version))
            if of_pictures is not None:
                write_retriever(served, keep, say)
            finish(served, keep, say, pictures=of_pictures is not None)
    return served


def _encoder(
    source: VectorFiles, head: str | os.PathLike[str] | None, backbone: Settings | None
) -> tuple[Any, Any, dict[str, Any]]:
    """Models from vectors (B, F), and from pictures where there is a backbone, to (B, D), and the facts about them."""
    from macl_tf.models.backbones import check_backbone, weights_digest
    from macl_tf.models.descriptors import descriptor_model, turned
    from macl_tf.models.encoders import build_encoder, unit_vectors
    from macl_tf.models.fine_tuning import backbone_part, with_head

    settings = backbone or Settings(
        dataset="folder", features=os.fspath(source.path), weights="", descriptor="backbone"
    )
    of_vectors, run = unit_vectors(source.dim), None
    if head is not None:
        run = finished_run(head)
        its = run_settings(run)
        if not its.features:
            raise ValueError(
                f"--head must be a run on vectors (--set features=FILE), but '{run}' sees pictures. Serve it by: "
                f"macl export --run-dir {run}"
            )
        of_vectors = descriptor_model(read_encoder(run), its.descriptor)
        _check_width(source, of_vectors.input_shape[1], f"the head of '{run}' takes")
    of_pictures, digest = None, ""
    if backbone is not None:
        if backbone.bands:
            rule = "vectors from elsewhere are searched by pictures of 8-bit RGB alone"
            raise ValueError(f"{rule}, got bands={backbone.bands}. Leave it out.")
        check_backbone(backbone.backbone, imagenet=backbone.weights == "imagenet")
        weights = backbone.weights or None
        part = backbone_part(build_encoder(backbone.image_size, backbone=backbone.backbone, weights=weights))
        _check_width(source, part.output_shape[1], f"{backbone.backbone} makes")
        digest = weights_digest(part.weights)
        of_pictures = turned(with_head(part, of_vectors), backbone.turns)
    made_by = source.model or source.path.name
    return of_vectors, of_pictures, describe_vectors(settings, source.dim, made_by, run=run, backbone_sha256=digest)


def _check_width(source: VectorFiles, width: int, whose: str) -> None:
    if source.dim != width:
        raise ValueError(
            f"'{source.path}' must hold vectors of the {width} numbers that {whose}, got {source.dim}. Compute them by "
            "the same model."
        )


def _embedded(source: VectorFiles, model: Any, file: Path, *, progress: bool) -> tuple[Items, bool]:
    """Writes the index's vectors to a .npy file; the items, and whether there are small pictures of any."""
    parts: list[Items] = []
    pictures = False

    def blocks() -> Iterator[NDArray[np.float32]]:
        nonlocal pictures
        with tqdm(desc="reading", total=source.count, unit="vector", unit_scale=True, disable=not progress) as bar:
            for rows in source.batches():
                parts.append(_items_of(rows, source.label_names))
                pictures = pictures or any(rows.thumbnails)
                yield unit_rows(model.predict_on_batch(rows.vectors))
                bar.update(len(rows.ids))

    write_vectors(file, blocks(), source.count, model.output_shape[1])
    names = tuple(dict.fromkeys(name for part in parts for name in part.label_names))
    return Items.concatenate([part.aligned(names) for part in parts]), pictures


def _items_of(rows: VectorRows, known: tuple[str, ...]) -> Items:
    names = tuple(dict.fromkeys((*known, *(name for held in rows.labels for name in held))))
    place = {name: column for column, name in enumerate(names)}
    labels = np.zeros((len(rows.ids), len(names)), np.uint8)
    for row, held in zip(labels, rows.labels, strict=True):
        row[[place[name] for name in held]] = 1
    told = {"paths": rows.paths, "splits": rows.splits, "sources": rows.sources}
    return Items.of(names, rows.ids, labels, footprints=rows.footprints, dates=rows.dates, **told)


def _labelled(items: Items, table: LabelTable, source: VectorFiles) -> Items:
    """The items with labels, splits and days of a label table, joined by name; says what found no partner."""
    table, row_of, findings = match_rows(table, items.ids.tolist())
    if not row_of:
        raise ValueError(
            f"no row of {table.path} names one of the {len(items):,} ids in '{source.path}'. Names must agree, with or "
            "without extension and folders."
        )
    missing = sum(finding.problem == "missing" for finding in findings)
    without = len(items) - len(row_of)
    note = f"{len(row_of):,} of {len(items):,} vectors have labels in {table.path.name}"
    if missing or without:
        print(f"{note}; {missing:,} of its rows name no vector", file=sys.stderr)
    labels = np.zeros((len(items), len(table.label_names)), np.uint8)
    splits, days, told = items.splits.copy(), items.dates.copy(), table.days
    for place, id_ in enumerate(items.ids):
        if (row := row_of.get(id_)) is not None:
            labels[place] = table.labels[row]
            if table.splits:
                splits[place] = table.splits[row]
            if told is not None and not np.isnat(told[row]):
                days[place] = told[row]
    return replace(items, label_names=table.label_names, labels=labels, splits=splits, dates=days)


def _thumbnails(source: VectorFiles) -> Iterator[bytes | None]:
    """Small pictures, read once more: they need not be in memory all at once."""
    for rows in source.batches():
        yield from rows.thumbnails
