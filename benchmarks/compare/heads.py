"""Heads on frozen features: what `macl train --set trainable=head` trains, hundreds of them in an hour.

Features of tiles and of their augmented views are computed once, by the product's own cache, and runs share processes.
A run has the batches, head, optimizer, budget and choice of the best epoch of `macl train`. Its head begins from
other random numbers than a command's of the same seed, and what it searches has features of float16.

`logistic-regression` is scikit-learn's, one for each label, on standardised features of the tiles as they are; its one
number is C, and what is compared are the roots of its probabilities. `labelled` are shares of the training and
validation tiles that keep their labels: the others are not there, and epochs have as many steps. With `--elsewhere`
each head also searches all tiles of another archive, which it has not seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.compare import results_file
from benchmarks.compare.encoders import STRENGTHS, TUNING_SEED, best_of, refuse_others, settings_of_all, trials_asked
from benchmarks.compare.evaluate_run import AS_INDEXED, FROZEN, LEADING, scores
from benchmarks.compare.experiment import Experiment, of_loss, split, texts
from benchmarks.compare.results_file import FLOOR, RUN
from benchmarks.environment import made_by, settings_without_places
from macl_tf.pipeline.features import FeatureViews
from macl_tf.training.settings import Settings, load_settings

LOGISTIC = "logistic-regression"
# Which a process computes once, for all of its runs.
OF_FEATURES = (
    "backbone",
    "weights",
    "image_size",
    "width",
    "runtime",
    "turns",
    "augment",
    "feature_views",
    "crop_area",
)
OTHER_SHARES = {f"robust {w:g}": w for w in (0.25, 0.75)}  # w of the learned embedding, where `robust` has a half


class Tiles(NamedTuple):
    """Features and labels of an archive's parts, `elsewhere` those of another archive, if asked for."""

    train: FeatureViews
    labels: np.ndarray
    names: tuple[str, ...]
    searched: dict[str, tuple[np.ndarray, np.ndarray]]


class _Worker:
    """What a process keeps: the backbone is read once, and the features of each size."""

    def __init__(self, settings: Settings, elsewhere: str) -> None:
        from macl_tf.training import build

        self.settings, self.encoders = settings, {settings.embedding_dim: build.make_encoder(settings)}
        self.tiles = read_tiles(settings, self.encoders[settings.embedding_dim], elsewhere)

    def encoder(self, settings: Settings) -> Any:
        """The one of a run, whose head may have a width of its own.

        Raises:
            ValueError: If the run asks for other features.
        """
        from macl_tf.training import build

        for name in OF_FEATURES:
            one, other = getattr(settings, name), getattr(self.settings, name)
            if one != other:
                raise ValueError(f"runs on the same features must have {name}={other}, got {one}. Set it in [set].")
        if settings.embedding_dim not in self.encoders:
            self.encoders[settings.embedding_dim] = build.make_encoder(settings)
        return self.encoders[settings.embedding_dim]


def read_tiles(settings: Settings, encoder: Any, elsewhere: str) -> Tiles:
    """Features of all parts, from the cache or computed with a bar."""
    from macl_tf.datasets.splits import split_archive
    from macl_tf.training.inputs import backbone_features
    from macl_tf.training.run_directory import open_archive

    archive = open_archive(settings)
    asked = {name: getattr(settings, name) for name in ("validation", "test", "gap", "seed")}
    splits = split_archive(archive, settings.split, block=settings.split_block, **asked)
    features = backbone_features(encoder, archive, settings, progress=True)
    searched = {}
    for part in ("validation", "test"):
        rows = getattr(splits, part)
        searched[part] = features(rows, 0).unchanged(), archive.labels[rows]
    if settings.turns != 1:
        raise ValueError(
            f"features of heads are of tiles as they are, turns=1, got {settings.turns}. Compare encoders."
        )
    if elsewhere:
        other = open_archive(dataclasses.replace(settings, dataset="folder", data_dir=elsewhere, table=""))
        found = backbone_features(encoder, other, settings, progress=True)(np.arange(len(other)), 0)
        searched["elsewhere"] = found.unchanged(), other.labels
    views = features(splits.train, settings.feature_views if settings.augment else 0)
    return Tiles(views, archive.labels[splits.train], tuple(archive.label_names), searched)


def labelled(tiles: Tiles, share: float, seed: int) -> Tiles:
    """The tiles of which a share of the training and of the validation tiles is kept, drawn by seed."""
    if share == 1:
        return tiles
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(tiles.labels), round(share * len(tiles.labels)), replace=False))
    part = FeatureViews.of(np.concatenate(tiles.train.parts, axis=1)[:, rows])
    features, labels = tiles.searched["validation"]
    kept = np.sort(rng.choice(len(labels), max(round(share * len(labels)), 2), replace=False))
    searched = tiles.searched | {"validation": (features[kept], labels[kept])}
    return tiles._replace(train=part, labels=tiles.labels[rows], searched=searched)


def trained(settings: Settings, tiles: Tiles, encoder: Any, steps: int, *, test: bool) -> dict[str, Any]:
    """The facts of a run, in the form of `evaluate_run`'s; epochs have as many steps, however few tiles there are."""
    import keras

    from macl_tf.labels import LabelStatistics
    from macl_tf.models.descriptors import all_descriptors, searchable
    from macl_tf.models.fine_tuning import detached_head
    from macl_tf.training import build
    from macl_tf.training.callbacks import RetrievalEvaluation
    from macl_tf.training.checkpoint import without_optimizer
    from macl_tf.training.inputs import head_data, with_fitting_batches
    from macl_tf.training.loop import fit
    from macl_tf.training.train import MONITOR

    keras.utils.set_random_seed(settings.seed)
    statistics = LabelStatistics.from_labels(tiles.labels, tiles.names)
    settings = with_fitting_batches(settings, tiles.labels)
    model = detached_head(build.trained_model(encoder, settings, len(tiles.names)))
    for layer in keras.models.clone_model(model).layers:  # with new random numbers
        model.get_layer(layer.name).set_weights(layer.get_weights())
    build.compile_model(model, settings, steps, statistics, jit_compile=False)
    data = head_data(tiles.train, tiles.labels, settings, 0, steps)
    judged = {"label_statistics": statistics, "descriptor": settings.descriptor}
    best = keras.callbacks.EarlyStopping(
        MONITOR, mode="max", patience=settings.epochs, restore_best_weights=True, start_from_epoch=0
    )
    evaluation = RetrievalEvaluation(*tiles.searched["validation"], **judged)
    history = fit(model, data, settings, [evaluation, best], verbose=0)
    describe, widths = all_descriptors(searchable(without_optimizer(model)))
    results: dict[str, Any] = {}
    for part, (features, labels) in tiles.searched.items():
        if part == "validation" or test:
            whole = describe.predict_on_batch(features)
            found = dict(zip(widths, np.split(whole, np.cumsum([*widths.values()])[:-1], axis=1), strict=True))
            shares = OTHER_SHARES | {AS_INDEXED: share_of(tiles, features)}
            for name, embeddings in (found | beside(found, shares)).items():
                results.setdefault(name, {})[part] = judged_by(part, embeddings, labels, statistics)
    keras.utils.clear_session()
    values = history.history[MONITOR]
    facts = {"best_epoch": int(np.nanargmax(values)) + 1, "history": " ".join(f"{value:.4f}" for value in values)}
    return facts | facts_of(settings, tiles, statistics) | {"results": results}


def share_of(tiles: Tiles, features: np.ndarray) -> float:
    """The share of the learned embedding that `macl index` gives "robust" for tiles with these features."""
    from macl_tf.models.familiarity import sample, shares

    training = tiles.train.unchanged()
    return shares(training[sample(len(training))], features)[1]


def beside(found: dict[str, np.ndarray], shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Pretrained features and learned embedding side by side, with other shares than `robust`'s half."""
    f, z = found["backbone"], found["projection"]
    f, z = (one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in (f, z))
    return {name: np.concatenate([np.sqrt(1 - w) * f, np.sqrt(w) * z], axis=1) for name, w in shares.items()}


def judged_by(part: str, embeddings: np.ndarray, labels: np.ndarray, statistics: Any) -> dict[str, Any]:
    """Figures; what is rare elsewhere, where labels are others, its own labels say."""
    from macl_tf.labels import LabelStatistics

    if part == "elsewhere":
        statistics = LabelStatistics.from_labels(labels)
    return scores(embeddings, labels, statistics, queries=part == "test")


def facts_of(settings: Settings, tiles: Tiles, statistics: Any) -> dict[str, Any]:
    """What a report wants to know of a run beside its figures."""
    return {
        "settings": settings_without_places(vars(settings)),
        "labels": list(tiles.names),
        "train_counts": np.asarray(statistics.counts).tolist(),
        "rarest": statistics.rarest().tolist(),
    }


def logistic_regression(settings: Settings, tiles: Tiles, strength: float, *, test: bool) -> dict[str, Any]:
    """The same of a logistic regression for each label; a label that all tiles or none hold gets its share."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from macl_tf.labels import LabelStatistics

    statistics = LabelStatistics.from_labels(tiles.labels, tiles.names)
    given, fitted = tiles.train.unchanged(), []
    for column in tiles.labels.T:
        one = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        fitted.append(one.fit(given, column) if len(np.unique(column)) > 1 else float(column.mean()))
    results: dict[str, Any] = {"probabilities": {}}
    for part, (features, labels) in tiles.searched.items():
        if part == "validation" or test:
            columns = [
                np.full(len(features), one) if isinstance(one, float) else one.predict_proba(features)[:, 1]
                for one in fitted
            ]
            roots = np.sqrt(np.stack(columns, axis=1)).astype(np.float32)
            results["probabilities"][part] = judged_by(part, roots, labels, statistics)
    return facts_of(settings, tiles, statistics) | {"results": results, "best_epoch": None, "history": ""}


def floor(tiles: Tiles) -> list[results_file.Row]:
    """The figures of the features themselves, on test tiles and elsewhere."""
    from macl_tf.labels import LabelStatistics

    statistics = LabelStatistics.from_labels(tiles.labels, tiles.names)
    found = {part: judged_by(part, features, labels, statistics) for part, (features, labels) in tiles.searched.items()}
    figures = {part: [one[key] for key in LEADING] for part, one in found.items()}
    return [
        {"kind": FLOOR, "name": name, "figures": figures[part]}
        for part, name in (("test", FROZEN), ("elsewhere", f"{FROZEN}, elsewhere"))
        if part in figures
    ]


_WORKER: list[_Worker] = []


@contextmanager
def workers(sets: Sequence[str], options: argparse.Namespace) -> Iterator[ProcessPoolExecutor]:
    """Processes that hold the tiles; one computes the features before others ask for them."""
    spawn = multiprocessing.get_context("spawn")
    given = {
        "mp_context": spawn,
        "initializer": _begin,
        "initargs": (load_settings(assignments=sets), options.elsewhere),
    }
    with ProcessPoolExecutor(options.jobs, **given) as pool:  # which starts the others when they have work
        pool.submit(_floor).result()
        yield pool


def _begin(settings: Settings, elsewhere: str | None) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")
    _WORKER.append(_Worker(settings, elsewhere or ""))


def _floor() -> list[results_file.Row]:
    return floor(_WORKER[0].tiles)


def work(turn: tuple[Any, list[str], float, bool]) -> tuple[Any, dict[str, Any]]:
    """Trains and evaluates in a worker."""
    key, sets, share, test = turn
    logistic = f"loss={LOGISTIC}" in sets
    own = ("C=", "loss=", "descriptor=") if logistic else ()  # which no run of ours has
    settings = load_settings(assignments=[text for text in sets if not text.startswith(own)])
    tiles = labelled(_WORKER[0].tiles, share, settings.seed)
    if logistic:
        # Without trials what those of `heads` chose, where all tiles have labels.
        strength = next((float(text.partition("=")[2]) for text in sets if text.startswith("C=")), STRENGTHS[0])
        return key, logistic_regression(settings, tiles, strength, test=test)
    steps = int(_WORKER[0].tiles.labels.any(axis=1).sum()) // settings.batch_size
    return key, trained(settings, tiles, _WORKER[0].encoder(settings), steps, test=test)


def train(experiment: Experiment, options: argparse.Namespace) -> None:
    """Tunes, trains and evaluates what is missing."""
    shared = settings_of_all(experiment, options)
    made = made_by("benchmarks.compare", ["tensorflow", "tensorflow-cpu", "keras", "numpy", "scikit-learn"])
    head = {"command": made["command"], "versions": made["versions"]}
    wanted, known, missing = trials_asked(experiment, options, shared)
    if missing:
        with workers([*shared, *texts(experiment.tune_set)], options) as pool:
            turns = []
            for name, text in missing:
                own = [*of_loss(name.removesuffix("+bce")), *split(text), *texts(experiment.tune_set)]
                turns.append(((name, text), [*shared, *own, f"seed={TUNING_SEED}"], 1.0, False))
            for (name, text), facts in tqdm(pool.map(work, turns), "tuning", len(turns), unit="run"):
                known[name]["trials"][text] = {
                    by: [parts["validation"][key] for key in LEADING]
                    for by, parts in facts["results"].items()
                    if by not in (*OTHER_SHARES, AS_INDEXED)
                }
                results_file.add(options.out, known[name])
    with workers(shared, options) as pool:
        results_file.add(options.out, *pool.submit(_floor).result())
        turns = []
        runs = experiment.runs(best_of(wanted, known))
        there = {(row["name"], row["seed"]): row for row in results_file.read(options.out) if row["kind"] == RUN}
        for seed in experiment.seeds:
            for share in experiment.labelled or (1.0,):
                for name, own in runs.items():
                    full = f"{name}{'' if share == 1 else f' {share:.0%}'}"
                    sets = [*shared, *own, f"seed={seed}"]
                    if (full, seed) not in there:
                        turns.append(((full, seed, own), sets, share, experiment.test))
                    elif f"loss={LOGISTIC}" not in own and share == 1:
                        refuse_others((full, seed), there[full, seed]["settings"], sets)
        for (name, seed, own), facts in tqdm(pool.map(work, turns), "heads", len(turns), unit="run"):
            row = {"kind": RUN, "name": name, "seed": seed, **head, **facts}
            if by := [text.partition("=")[2] for text in [*shared, *own] if text.startswith("descriptor=")]:
                row["searched_by"] = by[-1]
            results_file.add(options.out, row)


def elsewhere_rows(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Means over seeds on the other archive, of each variant by each descriptor; empty if there was none."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if all("elsewhere" in parts for parts in run["results"].values()):
            grouped.setdefault(run["name"], []).append(run["results"])
    return {
        name: {
            by: [float(np.mean([found[by]["elsewhere"][key] for found in results])) for key in LEADING]
            for by in results[0]
            if all(by in found for found in results)
        }
        for name, results in grouped.items()
    }
