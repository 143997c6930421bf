"""What a finished run is worth: figures on validation and test tiles, and the values of each test query.

    python -m benchmarks.compare.evaluate_run RUN --out FILE [--histogram] [--parts validation] [--elsewhere DUBAI]

Every descriptor of the encoder is evaluated; the report chooses among them by their validation figures. All tiles of
another archive, a folder, are searched too if it is named: there what is rare its own labels say.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.environment import settings_without_places
from macl_tf.files import read_json, write_json
from macl_tf.training.settings import load_settings

PARTS = ("validation", "test")
FROZEN = "frozen features"
AS_INDEXED = "robust, as indexed"  # with the share that `macl index` gives it in the archive that is searched
LEADING = ("ndcg@100_jaccard", "map_rarest_third", "map_jaccard50")  # what choices on validation tiles go by
MEANS = ("ndcg@100_jaccard", "map_rarest_third", "map_per_label", "map_jaccard50", "map_any", "wap@100")


def evaluate_run(run: Path, parts: Sequence[str] = PARTS, elsewhere: str = "") -> dict[str, Any]:
    """Means on validation and test tiles and each test query's values, for every descriptor of a finished run.

    With `elsewhere` means on that archive too, as part "elsewhere", and "robust" as an index would have it; the
    features of the backbone as it began are `FROZEN` there.
    """
    import keras

    from macl_tf.models.familiarity import FAMILIAR, as_indexed
    from macl_tf.training.evaluate import described

    encoder = keras.saving.load_model(run / "encoder.keras", compile=False)
    turns = load_settings(run / "settings.toml").turns
    familiar = np.load(run / FAMILIAR) if elsewhere else None
    results: dict[str, Any] = {}
    for part in (*parts, *(("elsewhere",) if elsewhere else ())):
        images, labels, statistics = tiles(run, part, elsewhere)
        found = described(encoder, images, turns=turns, progress=False)
        if familiar is not None:
            found[AS_INDEXED] = as_indexed(found["robust"], familiar)[0]
            if part == "elsewhere":
                found[FROZEN] = found["robust"][:, : familiar.shape[1]]
        for name, embeddings in found.items():
            results.setdefault(name, {})[part] = scores(embeddings, labels, statistics, queries=part == "test")
    keras.utils.clear_session()
    return results


def tiles(run: Path, part: str, elsewhere: str = "") -> tuple[np.ndarray, np.ndarray, Any]:
    """Images and labels of a part of a run's archive and the statistics of its training labels, or all elsewhere."""
    from macl_tf.datasets.splits import Splits
    from macl_tf.labels import LabelStatistics
    from macl_tf.pipeline.pipeline import load_images
    from macl_tf.training.run_directory import open_archive

    settings = load_settings(run / "settings.toml")
    if part == "elsewhere":
        archive = open_archive(dataclasses.replace(settings, dataset="folder", data_dir=elsewhere, table=""))
        images = load_images(archive, np.arange(len(archive)), settings.image_size, progress=False)
        return images, archive.labels, LabelStatistics.from_labels(archive.labels)
    archive = open_archive(settings)
    rows = getattr(Splits.read(run, archive), part)
    images = load_images(archive, rows, settings.image_size, progress=False)
    return images, archive.labels[rows], LabelStatistics.from_config(read_json(run / "labels.json"))


def scores(embeddings: np.ndarray, labels: np.ndarray, statistics: Any, *, queries: bool) -> dict[str, Any]:
    """Means, and with `queries` the values of each query: NDCG, AP at Jaccard >= 0.5, AP of each label it holds."""
    from macl_tf.evaluation.retrieval import evaluate
    from macl_tf.metrics import score_queries

    report = evaluate(embeddings, labels, label_names=statistics.label_names, label_counts=statistics.counts)
    result: dict[str, Any] = {key: None if np.isnan(report[key]) else report[key] for key in MEANS}
    if queries:
        unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        each = score_queries(unit @ unit.T, labels, labels, exclude=np.arange(len(labels)))
        query, label = np.nonzero(~np.isnan(each.label_ap))
        result["per_query"] = {
            "ndcg": thousandths(each.values["ndcg@100_jaccard"]),
            "jaccard50": thousandths(each.values["map_jaccard50"]),
            "query": query.tolist(),
            "label": label.tolist(),
            "label_ap": thousandths(each.label_ap[query, label]),
        }
    return result


def leading_mean(values: Iterable[float | None]) -> float:
    """The mean of the figures `LEADING`, without undefined ones: what a choice on validation tiles goes by.

    By NDCG alone, a thousandth of it would decide against points of the rare labels.
    """
    known = [value for value in values if value is not None]
    return fmean(known) if known else -math.inf


def best_descriptor(results: Sequence[dict[str, Any]]) -> str:
    """The descriptor, of those that all runs have, with the best mean of validation figures.

    Not `AS_INDEXED`, which is "robust" but for another archive.
    """

    def mean(name: str) -> float:
        return fmean(leading_mean(parts[name]["validation"][key] for key in LEADING) for parts in results)

    shared = (name for name in results[0] if name != AS_INDEXED and all(name in parts for parts in results))
    return max(shared, key=mean)


def thousandths(values: np.ndarray) -> list[int | None]:
    """Values in [0, 1] in thousandths, None where undefined."""
    return [None if np.isnan(value) else round(1000 * float(value)) for value in values]


def fractions(values: Sequence[int | None]) -> np.ndarray:
    """What `thousandths` was given, to a thousandth, NaN where undefined."""
    return np.array([np.nan if value is None else value / 1000 for value in values], np.float64)


def label_aps(per_query: Mapping[str, Any], labels: int) -> np.ndarray:
    """(Q, C) APs of labels, NaN where the query does not hold the label."""
    values = np.full((len(per_query["ndcg"]), labels), np.nan)
    values[per_query["query"], per_query["label"]] = fractions(per_query["label_ap"])
    return values


def histogram_floor(run: Path) -> dict[str, Any]:
    """Retrieval by colour histograms (8 x 8 x 8 bins, square roots) of the test tiles of a run."""
    images, labels, statistics = tiles(run, "test")
    bins = images // 32
    codes = bins[..., 0].astype(int) * 64 + bins[..., 1] * 8 + bins[..., 2]
    histograms = np.stack([np.bincount(code.ravel(), minlength=512) for code in codes])
    return scores(np.sqrt(histograms).astype(np.float32), labels, statistics, queries=True)


def facts(run: Path) -> dict[str, Any]:
    """What made a run: settings without places, versions, best epoch, split, labels and which are rare."""
    from macl_tf.labels import LabelStatistics

    versions, metrics = read_json(run / "versions.json"), read_json(run / "metrics.json")
    versions.pop("command")
    statistics = LabelStatistics.from_config(read_json(run / "labels.json"))
    return {
        "settings": settings_without_places(vars(load_settings(run / "settings.toml"))),
        "versions": versions,
        "split": metrics["split"],
        "best_epoch": metrics["best_epoch"],
        "labels": list(statistics.label_names or ()),
        "train_counts": np.asarray(statistics.counts).tolist(),
        "rarest": statistics.rarest().tolist(),
        "history": " ".join(f"{value:.4f}" for value in history(run)),
        "untrained": {name: {key: report[key] for key in MEANS} for name, report in metrics["untrained"].items()},
    }


def history(run: Path) -> list[float]:
    """Validation NDCG of each epoch."""
    head, *rows = (run / "history.csv").read_text(encoding="utf-8").splitlines()
    column = head.split(",").index("val_ndcg@100_jaccard")
    return [float(row.split(",")[column]) for row in rows]


def main() -> None:
    """Evaluates a run into a JSON file, and the floor of its archive too if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory of macl train")
    parser.add_argument("--out", type=Path, required=True, help="file for settings and figures")
    parser.add_argument("--histogram", action="store_true", help="evaluate colour histograms too")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="tiles that are searched (both)")
    parser.add_argument("--elsewhere", default="", help="a folder archive to search too")
    options = parser.parse_args()
    results = evaluate_run(options.run, options.parts, options.elsewhere)
    found = {**facts(options.run), "frozen": results.pop(FROZEN, None), "results": results}
    write_json(options.out, found | ({"floor": histogram_floor(options.run)} if options.histogram else {}))


if __name__ == "__main__":
    main()
