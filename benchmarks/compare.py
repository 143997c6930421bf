"""Losses compared under one budget: trained alike, tuned alike, judged on tiles that none of them saw.

    python -m benchmarks.compare --dataset ucm --data-dir UCM --work DIR --losses macl,wmacl,supcon-any --seeds 0,1,2
        [--samplers weighted,uniform] [--joint 0,20] [--tune 3] [--set image_size=64 --set epochs=30]

Every loss is trained with every seed, sampler and weight of classification: same encoder, augmentation, epochs and
batches. `bce` is classification alone. With --tune N each loss first gets N trials of the one number that it has
(temperature or margin; the learning rate where it has neither), by retrieval among validation tiles; the best is then
used in all its runs. What a run compares, projection, backbone or probabilities, is chosen on validation as well.

Each run leaves one JSON file in --out (figures, and the test queries' own values, for intervals). Stopped and started
again, it goes on where it was. `python -m benchmarks.compare_report --results OUT` writes the report.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trainings import run_directory, train_all
from macl_tf.config import load_settings
from macl_tf.files import read_json, write_json

TUNING_SEED = 1000  # of trials, which no compared run has
TEMPERATURES, RATES = (0.05, 0.1, 0.2, 0.3, 0.07), (1e-3, 3e-4, 3e-3, 2e-3, 5e-4)
MARGIN_FACTORS = (1.0, 0.5, 2.0, 0.25, 1.5)
MEANS = ("ndcg@100_jaccard", "map_rarest_third", "map_per_label", "map_jaccard50", "map_any", "wap@100")


def grid(loss: str, trials: int) -> list[str]:
    """The settings that are tried for a loss: as many for each."""
    from macl_tf.recipe import own_number

    setting, own = own_number(loss) or ("learning_rate", None)
    values = {
        "temperature": TEMPERATURES,
        "margin": [factor * (own or 1.0) for factor in MARGIN_FACTORS],
        "learning_rate": RATES,
    }
    return [f"{setting}={value:g}" for value in values[setting][:trials]]


def views(loss: str) -> list[str]:
    """InfoNCE finds its positives among views."""
    return ["--set", "views=2"] if loss == "infonce" else []


def tune(options: argparse.Namespace, common: list[str]) -> dict[str, dict[str, Any]]:
    """The best setting of each loss on validation tiles, and all that was tried."""
    chosen: dict[str, dict[str, Any]] = {}
    for loss in options.losses:
        path = options.out / "tuning" / f"{loss}.json"
        tried = grid(loss, options.tune)
        if path.is_file() and [*read_json(path)["trials"]] == tried:
            chosen[loss] = read_json(path)
            continue
        names = {f"{loss}@{text}": ["--set", f"loss={loss}", *views(loss), "--set", text] for text in tried}
        train_all(options.work, names, [TUNING_SEED], common)
        scores = {
            text: max(history(run_directory(options.work, name, TUNING_SEED)))
            for text, name in zip(tried, names, strict=True)
        }
        chosen[loss] = {"trials": scores, "best": max(scores, key=lambda text: scores[text])}
        write_json(path, chosen[loss])
    return chosen


def history(run: Path) -> list[float]:
    """Validation NDCG of each epoch."""
    head, *rows = (run / "history.csv").read_text(encoding="utf-8").splitlines()
    column = head.split(",").index("val_ndcg@100_jaccard")
    return [float(row.split(",")[column]) for row in rows]


def variants(options: argparse.Namespace, chosen: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Name of each compared training to its words for `macl train`."""
    found: dict[str, list[str]] = {}
    for loss in options.losses:
        tuned = ["--set", chosen[loss]["best"]] if loss in chosen else []
        for weight in [0.0] if loss == "bce" else options.joint:
            for sampler in options.samplers:
                name = f"{loss}{f'+bce{weight:g}' if weight else ''}-{sampler}"
                joint = ["--set", f"classification_weight={weight:g}"] if weight else []
                found[name] = ["--set", f"loss={loss}", *views(loss), *tuned, *joint, "--set", f"sampler={sampler}"]
    return found


def judge(run: Path) -> dict[str, Any]:
    """Of a finished run: means on validation and test tiles and each test query's values, for every descriptor."""
    import keras

    from macl_tf.datasets.splits import Splits
    from macl_tf.descriptors import descriptor_model, descriptors_of
    from macl_tf.labels import LabelStatistics
    from macl_tf.pipeline import load_images
    from macl_tf.retrieval import embed
    from macl_tf.run_directory import open_archive

    settings = load_settings(run / "settings.toml")
    archive = open_archive(settings)
    splits, statistics = Splits.read(run, archive), LabelStatistics.from_config(read_json(run / "labels.json"))
    encoder = keras.saving.load_model(run / "encoder.keras", compile=False)
    results: dict[str, Any] = {}
    for part in ("validation", "test"):
        rows = getattr(splits, part)
        images = load_images(archive, rows, settings.image_size, progress=False)
        for name in descriptors_of(encoder):
            found = embed(descriptor_model(encoder, name), images, progress=False)
            results.setdefault(name, {})[part] = scores(found, archive.labels[rows], statistics, queries=part == "test")
    return results


def scores(embeddings: np.ndarray, labels: np.ndarray, statistics: Any, *, queries: bool) -> dict[str, Any]:
    """Means, and with `queries` the values of each query: NDCG, AP at Jaccard >= 0.5, AP of each label it holds."""
    from macl_tf.metrics import score_queries
    from macl_tf.retrieval import evaluate

    report = evaluate(embeddings, labels, label_names=statistics.label_names, label_counts=statistics.counts)
    result: dict[str, Any] = {key: report[key] for key in MEANS}
    if queries:
        unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        each = score_queries(unit @ unit.T, labels, labels, exclude=np.arange(len(labels)))
        result["per_query"] = {
            "ndcg": rounded(each.values["ndcg@100_jaccard"]),
            "jaccard50": rounded(each.values["map_jaccard50"]),
            "labels": [
                {str(label): round(float(row[label]), 4) for label in np.flatnonzero(~np.isnan(row))}
                for row in each.label_ap
            ],
        }
    return result


def rounded(values: np.ndarray) -> list[float | None]:
    """Four places, None where undefined."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def histogram_floor(run: Path) -> dict[str, Any]:
    """Retrieval by colour histograms (8 x 8 x 8 bins, square roots) of the test tiles of a run."""
    from macl_tf.datasets.splits import Splits
    from macl_tf.labels import LabelStatistics
    from macl_tf.pipeline import load_images
    from macl_tf.run_directory import open_archive

    settings = load_settings(run / "settings.toml")
    archive = open_archive(settings)
    rows, statistics = Splits.read(run, archive).test, LabelStatistics.from_config(read_json(run / "labels.json"))
    images = load_images(archive, rows, settings.image_size, progress=False) // 32
    codes = images[..., 0].astype(int) * 64 + images[..., 1] * 8 + images[..., 2]
    histograms = np.stack([np.bincount(code.ravel(), minlength=512) for code in codes])
    return scores(np.sqrt(histograms).astype(np.float32), archive.labels[rows], statistics, queries=True)


def facts(run: Path) -> dict[str, Any]:
    """What made a run: settings without places, versions, best epoch, split, labels and which are rare."""
    from macl_tf.labels import LabelStatistics

    versions, metrics = read_json(run / "versions.json"), read_json(run / "metrics.json")
    versions.pop("command")
    settings = dict(vars(load_settings(run / "settings.toml")))
    statistics = LabelStatistics.from_config(read_json(run / "labels.json"))
    return {
        "settings": {key: value for key, value in settings.items() if key not in ("data_dir", "table")},
        "versions": versions,
        "split": metrics["split"],
        "best_epoch": metrics["best_epoch"],
        "labels": list(statistics.label_names or ()),
        "train_counts": np.asarray(statistics.counts).tolist(),
        "rarest": statistics.rarest().tolist(),
        "history": [round(value, 4) for value in history(run)],
        "untrained": {name: {key: report[key] for key in MEANS} for name, report in metrics["untrained"].items()},
    }


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    return [int(word) for word in text.split(",")]


def main() -> None:
    """Tunes and trains what is missing, and judges it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ucm", help="as of macl train")
    parser.add_argument("--data-dir", default="", help="as of macl train")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--losses", type=lambda text: text.split(","), required=True, help="names with commas between")
    parser.add_argument("--seeds", type=numbers, default=[0], help="seeds with commas between")
    parser.add_argument("--samplers", type=lambda text: text.split(","), default=["weighted"], help="weighted,uniform")
    parser.add_argument(
        "--joint", type=lambda text: [float(word) for word in text.split(",")], default=[0.0],
        help="weights of classification beside each loss, 0 for none",
    )  # fmt: skip
    parser.add_argument("--tune", type=int, default=0, help="trials for each loss, at most 5; 0: the settings' values")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "compare")
    options = parser.parse_args()
    if not 0 <= options.tune <= len(TEMPERATURES):
        parser.error(f"--tune must be 0 to {len(TEMPERATURES)}, got {options.tune}.")
    common = ["--dataset", options.dataset, *(["--data-dir", options.data_dir] if options.data_dir else [])]
    common += [word for text in options.set for word in ("--set", text)]
    named = variants(options, tune(options, common) if options.tune else {})
    train_all(options.work, named, options.seeds, common)
    for name in named:
        for seed in options.seeds:
            path, run = options.out / f"{name}-seed{seed}.json", run_directory(options.work, name, seed)
            if not path.is_file():
                judged = judge(run)
                write_json(path, {"variant": name, "seed": seed, **facts(run), "results": judged})
                print(f"{name}, seed {seed}: " + ", ".join(said(key, value) for key, value in judged.items()))
    floor = options.out / "histogram.json"
    if not floor.is_file():
        run = run_directory(options.work, next(iter(named)), options.seeds[0])
        write_json(floor, {"test": histogram_floor(run)})


def said(name: str, parts: dict[str, Any]) -> str:
    """A descriptor's two leading figures on test tiles."""
    return f"{name} {parts['test']['ndcg@100_jaccard']:.3f}/{parts['test']['map_rarest_third']:.3f}"


if __name__ == "__main__":
    main()
