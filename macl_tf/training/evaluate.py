"""Evaluates an encoder by the descriptors that it has, or a finished run, on its test tiles or on another archive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.label_lists import listed
from macl_tf.datasets.splits import Splits, seen_before
from macl_tf.datasets.walk import shorten
from macl_tf.evaluation.retrieval import RetrievalReport, embed, evaluate
from macl_tf.labels import LabelStatistics
from macl_tf.models.descriptor_names import LEARNED, ROBUST
from macl_tf.models.descriptors import all_descriptors
from macl_tf.models.familiarity import FAMILIAR, as_indexed
from macl_tf.training import run_directory
from macl_tf.training.inputs import tell, tile_inputs
from macl_tf.training.run_directory import LABELS


class Evaluation(NamedTuple):
    """The result of `evaluate_run`: which tiles were searched, in words, and a report for each descriptor."""

    tiles: str
    reports: dict[str, RetrievalReport]


def evaluate_run(
    run_dir: str | Path, *, data_dir: str = "", table: str = "", features: str = "", progress: bool = True
) -> Evaluation:
    """Evaluates the encoder of a finished run again, on its own test tiles or on another archive.

    What is not as it was at the training, tiles gone, new or with other labels, is counted and named on standard
    error; figures are of the test tiles that are left.

    Args:
        run_dir: A finished run.
        data_dir: Where the run's archive lies now, whose test tiles are used; or another archive of the same kind
            and with the same labels: all its tiles are used, but for exact copies of tiles that the run trained on.
            Empty for where the archive lay at the training.
        table: Label table of that archive, if it is a folder.
        features: Where the vectors of its tiles lie, if the run was trained on vectors and they lie elsewhere.
        progress: Whether to show bars.

    Returns:
        The reports, and which tiles they are of.

    Raises:
        FileNotFoundError: If the run directory holds no finished run, or the archive is not there.
        ValueError: If the archive's labels are not those of the run, or no tile is left to evaluate on.
    """
    run, familiar = run_directory.finished_run(run_dir), None
    statistics = LabelStatistics.from_config(run_directory.read_run(run, LABELS))
    archive, settings = run_directory.archive_of(run, data_dir, table, features)
    try:
        splits = Splits.read(run, archive)
    except ValueError:
        if not data_dir:
            raise
        check_labels(statistics, archive)
        seen = seen_before(run, archive)
        if len(seen):
            names = shorten([archive.file_names[index] for index in seen])
            tell(f"{len(seen)} tiles are exact copies of tiles that the run trained on, left out: {names}")
        indices = np.setdiff1d(np.arange(len(archive)), seen)
        tiles = f"all {len(indices)} tiles of {data_dir}"
        archive, _ = run_directory.with_labels_of(statistics, archive)
        if (run / FAMILIAR).is_file():
            familiar = np.load(run / FAMILIAR, allow_pickle=False)
    else:
        archive, lines = run_directory.with_labels_of(statistics, archive)
        for line in (*splits.changes, *lines):
            tell(line)
        indices, tiles = splits.test, f"the {len(splits.test)} test tiles of {run}"
    if not len(indices):
        raise ValueError(
            f"there must be a tile to evaluate on, but none is left of {tiles}. Give an archive by --data-dir."
        )
    encoder = run_directory.read_encoder(run)
    images = tile_inputs(archive, indices, settings, progress=progress)
    if images.shape[1:] != encoder.input_shape[1:]:
        raise ValueError(
            f"vectors must be of the {encoder.input_shape[1]} numbers that the run was trained on, got "
            f"{images.shape[1]}. Compute them by the same model."
        )
    labels = archive.labels[indices]
    found = evaluate_encoder(
        encoder, images, labels, statistics, turns=settings.turns, familiar=familiar, progress=progress
    )
    return Evaluation(tiles, found)


def check_labels(statistics: LabelStatistics, archive: Archive) -> None:
    """Raises a ValueError that names the odd ones if an archive has other labels than a run."""
    _, gone, came = run_directory.compared_labels(statistics, archive)
    if gone or came:
        raise ValueError(
            f"The archive must have the labels that the encoder was trained with; these are in only one of "
            f"the two: {listed(sorted(gone + came))}."
        )


def evaluate_encoder(
    encoder: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    statistics: LabelStatistics,
    *,
    turns: int = 1,
    familiar: np.ndarray | None = None,
    progress: bool = True,
) -> dict[str, RetrievalReport]:
    """Searches tiles with each other, each by all others, and reports for each descriptor that the encoder has.

    Of another archive than the run's, `familiar` are features (M, F) of training tiles: "robust" is as an index of that
    archive has it.
    """
    found = described(encoder, images, turns=turns, progress=progress)
    if familiar is not None:
        found[ROBUST], alike, share = as_indexed(found[ROBUST], familiar)
        if share != LEARNED:
            tell(f"{alike:.0%} of the tiles look like those of the training: robust has a share of {share:.2f} learned")
    return retrieval_reports(found, labels, statistics)


def described(
    encoder: keras.Model, tiles: np.ndarray, *, turns: int = 1, progress: bool = True
) -> dict[str, np.ndarray]:
    """Tiles (N, ...), as the encoder takes them, by each descriptor that it has, (N, D) up to a factor."""
    model, widths = all_descriptors(encoder, turns=turns)
    parts = np.split(embed(model, tiles, progress=progress), np.cumsum([*widths.values()])[:-1], axis=1)
    return dict(zip(widths, parts, strict=True))


def retrieval_reports(
    found: Mapping[str, np.ndarray], labels: np.ndarray, statistics: LabelStatistics
) -> dict[str, RetrievalReport]:
    """Searches tiles with each other, each by all others, and reports for each descriptor."""
    names, counts = statistics.label_names, statistics.counts
    return {name: evaluate(one, labels, label_names=names, label_counts=counts) for name, one in found.items()}
