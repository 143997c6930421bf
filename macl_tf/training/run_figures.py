"""Figures of a run directory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.splits import Splits
from macl_tf.evaluation.retrieval import RetrievalReport, nearest
from macl_tf.figures import contact_sheet, plot_history, plot_label_frequencies, plot_per_label
from macl_tf.labels import LabelStatistics
from macl_tf.pipeline.samplers import expected_frequencies

QUERIES, NEIGHBOURS = 8, 6


def draw_run(
    run: Path,
    *,
    archive: Archive,
    splits: Splits,
    statistics: LabelStatistics,
    draw_weights: np.ndarray,
    history: Mapping[str, Sequence[float]],
    monitor: str,
    embeddings: np.ndarray,
    pictures: Callable[[np.ndarray], np.ndarray],
    reports: Mapping[str, RetrievalReport],
) -> None:
    """Draws history.png, label_frequencies.png, per_label.png and neighbours.png into a run directory.

    `embeddings` are those of the test tiles, `pictures` gives their pixels by positions among them.
    A picture that cannot be drawn is said on standard error: it does not cost the run.
    """
    names, rarest = archive.label_names, statistics.rarest()
    rows = archive.labels[splits.train]

    def label_frequencies(path: Path) -> None:
        plot_label_frequencies(names, rows.mean(axis=0), expected_frequencies(rows, draw_weights), path, rarest=rarest)

    def per_labels(path: Path) -> None:
        average_precision = {name: [row["ap"] for row in report.per_label] for name, report in reports.items()}
        plot_per_label(names, statistics.counts, average_precision, path, rarest=rarest)

    def neighbours(path: Path) -> None:
        labels = archive.labels[splits.test]
        if len(labels) < 2:
            raise ValueError("there is one test tile only")
        queries = varied_queries(labels, statistics, QUERIES)
        k, ids = min(NEIGHBOURS, len(labels) - 1), np.arange(len(labels))
        scores, found = nearest(embeddings[queries], embeddings, k, query_ids=queries, database_ids=ids)
        distinct, place = np.unique(np.concatenate([queries, found.reshape(-1)]), return_inverse=True)
        tiles = pictures(distinct)[place.reshape(-1)]
        near = tiles[len(queries) :].reshape(*found.shape, *tiles.shape[1:])
        asked = [*tiles[: len(queries)]]
        contact_sheet(asked, labels[queries], near, labels[found], scores, path, label_names=names, rare=rarest)

    figures: dict[str, Callable[[Path], object]] = {
        "history.png": lambda path: plot_history(history, path, monitor=monitor),
        "label_frequencies.png": label_frequencies,
        "per_label.png": per_labels,
        "neighbours.png": neighbours,
    }
    for name, draw in figures.items():
        try:
            draw(run / name)
        except Exception as error:  # whatever it is: hours of training stand behind these pictures
            print(f"{name} was not drawn: {type(error).__name__}: {error}", file=sys.stderr)


def varied_queries(labels: np.ndarray, statistics: LabelStatistics, count: int) -> np.ndarray:
    """Indices of tiles to show, whether found well or not: one for each label in turn, half rare and half frequent.

    Where the labels give too few, the first tiles follow.
    """
    order = statistics.rarest(1.0)
    half = count // 2
    chosen: list[int] = []
    for label in [*order[:half], *order[half:][::-1]]:
        holders = [int(i) for i in np.flatnonzero(labels[:, label]) if int(i) not in chosen]
        if holders and len(chosen) < count:
            chosen.append(holders[len(holders) // 2])
    chosen += [index for index in range(len(labels)) if index not in chosen][: count - len(chosen)]
    return np.array(chosen, np.int64)
