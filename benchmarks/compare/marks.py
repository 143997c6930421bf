"""How well marked tiles find the others of a rare label: mean average precision by ways to rank, on untrained features.

    python -m benchmarks.compare.marks --data-dir UCM --elsewhere DUBAI

For each label that at most a tenth of the tiles of UC Merced hold, or 55 % of Dubai's, and five draws: so many tiles
with the label are marked right, and as many wrong ones, those that the right ones' mean finds first. What is not marked
is ranked. EfficientNet-Lite0 at 224 px from ImageNet weights; no training, but for the head that MACL trains on the
marks, and on tiles drawn at random as negatives: 100 steps of 64 tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import command
from benchmarks.tables import markdown, number
from macl_tf.metrics import average_precision
from macl_tf.search.direction import classifier, direction, rocchio, unit

MARKS, DRAWS = (1, 2, 5, 10, 20, 50), 5
SHARE = {"ucm": 0.1, "dubai": 0.55}  # of the tiles, that hold a label which is asked for
BACKGROUND = 300  # tiles that nobody marked, for what is usual, as the search takes them
LEFT = 20  # tiles with the label that are not marked, at least
STEPS, BATCH = 100, 64  # of a head, as `macl teach` has them
HEADS = ("both, half each, on a MACL head", "both, half each, on features beside a MACL head")
Floats, Rows = NDArray[np.float64], Sequence[int] | NDArray[np.int64]
Way = Callable[[Floats, Floats, Floats], Floats]  # right, wrong and unmarked rows to a direction

WAYS: dict[str, Way] = {
    "mean of the right ones": lambda right, wrong, usual: unit(right.mean(axis=0)),
    "mean and difference (Rocchio)": lambda right, wrong, usual: rocchio(right, wrong),
    "logistic regression": lambda right, wrong, usual: classifier(right, np.concatenate([wrong, usual])),
    "both, half each": direction,
    "both, half each; nothing marked wrong": lambda right, wrong, usual: direction(right, wrong[:0], usual),
}

# Among which five folds of the marks choose, and by how much a way must lead the search's own to be chosen.
CHOICE = ("mean of the right ones", "mean and difference (Rocchio)", "logistic regression", "both, half each")
LEADS = {"chosen by the marks": 0.0, "chosen by the marks where it leads by .02": 0.02}


def chosen(right: Floats, wrong: Floats, usual: Floats, lead: float, rng: np.random.Generator) -> str:
    """The way whose average precision on marks left out is highest, in up to five folds, unmarked tiles being wrong."""
    own = CHOICE[-1]
    folds = min(5, len(right))
    if folds < 2:
        return own
    parts = [(rows, rng.permutation(len(rows)) % folds) for rows in (right, wrong, usual)]
    score = dict.fromkeys(CHOICE, 0.0)
    for fold in range(folds):
        held = np.concatenate([rows[of == fold] for rows, of in parts])
        true = np.arange(len(held)) < np.count_nonzero(parts[0][1] == fold)
        for name in CHOICE:
            scores = held @ WAYS[name](*(rows[of != fold] for rows, of in parts))
            score[name] += float(average_precision(true[np.argsort(-scores, kind="stable")])) / folds
    best = max(score, key=score.__getitem__)
    return best if score[best] > score[own] + lead else own


def features(dataset: str, folder: Path, size: int = 224) -> tuple[Floats, NDArray[np.bool_]]:
    """Unit rows (N, F) of the pooled features of all tiles, and their labels (N, C)."""
    import macl_tf
    from macl_tf.datasets import load_archive
    from macl_tf.evaluation.retrieval import embed
    from macl_tf.models.descriptors import descriptor_model
    from macl_tf.pipeline.pipeline import load_images

    archive = load_archive(dataset, data_dir=str(folder))
    encoder = macl_tf.build_encoder(size, backbone="efficientnet-lite0", weights="imagenet")
    images = load_images(archive, np.arange(len(archive)), size)
    rows = embed(descriptor_model(encoder, "backbone"), images).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), archive.labels.astype(bool)


class Heads:
    """Heads that MACL trains on marks: their vectors of all tiles, alone and beside the features, half each."""

    def __init__(self, rows: Floats) -> None:
        self._rows = rows
        self._trainers: dict[int, Any] = {}  # by the right ones in a batch

    def _trainer(self, count: int) -> Any:
        from macl_tf.labels import LabelStatistics
        from macl_tf.training.heads import HeadTrainer
        from macl_tf.training.settings import load_settings

        if count not in self._trainers:
            settings = load_settings(
                assignments=["loss=macl", "descriptor=projection", f"batch_size={count}", "epochs=1", "dropout=0"]
            )
            one_label = LabelStatistics.from_labels(np.ones((2, 1), np.uint8))
            trainer = HeadTrainer(settings, self._rows.shape[1], one_label, steps=STEPS, negatives=BATCH - count)
            self._trainers[count] = trainer
        return self._trainers[count]

    def __call__(self, right: Rows, others: Rows) -> dict[str, Floats]:
        """The vectors, by name; none of a single right one, which has no positive."""
        if len(right) < 2:
            return {}
        labels = np.repeat(np.array([1, 0], np.uint8), [len(right), len(others)])[:, None]
        head = self._trainer(min(len(right), BATCH // 2)).fit(self._rows[[*right, *others]].astype(np.float32), labels)
        vectors = head.describe(self._rows.astype(np.float32)).astype(np.float64)
        return dict(zip(HEADS, (vectors, np.concatenate([self._rows, vectors], axis=1) / 2**0.5), strict=True))


def one_draw(
    rows: Floats, held: NDArray[np.bool_], marks: int, rng: np.random.Generator, heads: Heads
) -> dict[str, float]:
    """The average precision by each way."""
    right = rng.permutation(np.flatnonzero(held))[:marks]
    by_mean = np.argsort(-(rows @ rows[right].mean(axis=0)), kind="stable")
    wrong = by_mean[~held[by_mean]][:marks]
    left = np.setdiff1d(np.arange(len(rows)), [*right, *wrong])
    usual = rng.choice(left, min(BACKGROUND, len(left)), replace=False)
    marked = (rows[right], rows[wrong], rows[usual])

    def precision(vectors: Floats, way: Way) -> float:
        scores = vectors[left] @ way(vectors[right], vectors[wrong], vectors[usual])
        return float(average_precision(held[left][np.argsort(-scores, kind="stable")]))

    found = {name: precision(rows, way) for name, way in WAYS.items()}
    found |= {name: precision(z, direction) for name, z in heads(right, [*wrong, *usual]).items()}
    return found | {name: found[chosen(*marked, lead, rng)] for name, lead in LEADS.items()}


def measured(rows: Floats, labels: NDArray[np.bool_], share: float) -> dict[str, dict[str, float]]:
    """The mean over labels and draws, by way and number of marks."""
    found: dict[tuple[str, int], list[float]] = {}
    heads = Heads(rows)
    rare = [label for label, held in enumerate(labels.T) if held.mean() <= share]
    for label in tqdm(rare, "labels", unit="label"):
        for marks in [marks for marks in MARKS if labels[:, label].sum() >= marks + LEFT]:
            for draw in range(DRAWS):
                rng = np.random.default_rng([draw, label, marks])
                for name, value in one_draw(rows, labels[:, label], marks, rng, heads).items():
                    found.setdefault((name, marks), []).append(value)
    return {
        name: {str(marks): float(np.mean(found[name, marks])) for marks in MARKS if (name, marks) in found}
        for name in (*WAYS, *HEADS, *LEADS)
    }


def table(summary: Mapping[str, Any]) -> str:
    """A line for each archive and way, a column for each number of marks."""
    lines = [
        [archive, name, *(number(by_marks.get(str(marks))) for marks in MARKS)]
        for archive, found in summary["archives"].items()
        for name, by_marks in found.items()
    ]
    return markdown(["archive", "ranked by", *(f"{marks} right" for marks in MARKS)], lines, "ll")


def main(words: Sequence[str] | None = None) -> None:
    """Embeds both archives, measures, writes and prints."""
    parser = command.parser(__doc__, "marks")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of UC Merced with its 17 labels")
    parser.add_argument(
        "--elsewhere", type=Path, required=True, help="folder of the 768 tiles of Dubai with labels.csv"
    )
    options = parser.parse_args(words)
    folders = {"ucm": ("ucm", options.data_dir), "dubai": ("folder", options.elsewhere)}
    archives = {}
    for name, (dataset, folder) in folders.items():
        rows, labels = features(dataset, folder)
        archives[name] = measured(rows, labels, SHARE[name])
    command.record(options.out, "benchmarks.compare.marks", ["tensorflow", "keras"], {"archives": archives}, table)


if __name__ == "__main__":
    main()
