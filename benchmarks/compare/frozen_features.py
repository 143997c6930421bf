"""Heads on frozen features: trained by each loss in seconds, so that half a point of NDCG shows.

The features of a tile are the means of the maps of each stage of an encoder, which was trained on other tiles, and a
colour histogram; of the tile as it is, and of some augmented views, from which training draws. What is trained is
dropout, a layer of 512, batch normalisation and a projection, with the batches, the sampler and the settings of
`macl train`, for 270 steps.

Training tiles are cut into five blocks of neighbouring numbers. For each seed, each block is held out once and is
searched by the head that was trained without it: the validation figures, for choices, are means over all training
tiles. Then, unless `test = false`, a head is trained on all five, and the test tiles are searched.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.compare import results_file
from benchmarks.compare.encoders import refuse_others
from benchmarks.compare.evaluate_run import MEANS, best_descriptor, scores
from benchmarks.compare.experiment import Experiment, texts
from benchmarks.compare.results_file import FLOOR, RUN
from benchmarks.environment import digest, made_by, settings_without_places
from benchmarks.tables import markdown, number
from macl_tf.files import written_whole
from macl_tf.training.settings import Settings, load_settings

FOLDS, VIEWS = 5, 4
EPOCHS, STEPS = 30, 9  # as many steps as of a run of 30 epochs, in batches of 128
WIDTH, DROPOUT = 512, 0.3
T_975 = 2.776  # 97.5 % quantile of Student's t with FOLDS - 1 degrees of freedom
LED_BY = {"ndcg@100_jaccard": "NDCG@100", "map_rarest_third": "rarest third", "map_jaccard50": "Jaccard >= 0.5"}


class Tiles(NamedTuple):
    """What is searched and trained on.

    Args:
        features: (1 + VIEWS, N, F) of the tiles as they are, and of their augmented views.
        labels: (N, C).
        names: Of the labels.
        block: (N,) 0 to FOLDS - 1 for training tiles, FOLDS for test tiles.
    """

    features: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    block: np.ndarray


def blocks(of_scene: Sequence[str], numbers: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(N,) the block of each tile: FOLDS for tests, else by the rank of its number among its scene's others."""
    found = np.full(len(numbers), FOLDS)
    scenes = np.array(of_scene)
    for scene in np.unique(scenes):
        rows = np.flatnonzero((scenes == scene) & ~test)
        known, rank = np.unique(numbers[rows], return_inverse=True)
        found[rows] = rank * FOLDS // len(known)
    return found


def read_tiles(settings: Settings, encoder: Path, kept: Path) -> Tiles:
    """The tiles with their features, which are kept in a file."""
    from macl_tf.datasets.splits import split_archive
    from macl_tf.training.run_directory import open_archive

    archive = open_archive(settings)
    if archive.numbers is None or archive.scenes is None:
        raise ValueError(f"the tiles of a block are neighbours by number, '{archive.name}' has no numbers: take ucm.")
    if not kept.is_file():
        with written_whole(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, features=features(archive, encoder))
    splits = split_archive(archive, "blocks", validation=0.0, test=settings.test)
    test = np.isin(np.arange(len(archive)), splits.test)
    with np.load(kept) as file:
        found = file["features"]
    return Tiles(found, archive.labels, tuple(archive.label_names), blocks(archive.scenes, archive.numbers, test))


def features(archive: Any, encoder_file: Path) -> np.ndarray:
    """(1 + VIEWS, N, F) features of all tiles, and of their augmented views, by an encoder."""
    import keras
    import tensorflow as tf

    from macl_tf.pipeline.augmentation import augment_images
    from macl_tf.pipeline.pipeline import load_images

    encoder = keras.saving.load_model(encoder_file, compile=False)
    size = encoder.input_shape[1]
    stages = {layer.output.shape[1]: layer.output for layer in encoder.layers if isinstance(layer, keras.layers.Add)}
    means = [keras.layers.GlobalAveragePooling2D()(maps) for maps in stages.values()]
    model = keras.Model(encoder.input, keras.layers.Concatenate()(means))
    tiles, larger = (
        load_images(archive, np.arange(len(archive)), side, progress=False) for side in (size, size * 5 // 4)
    )

    def described(images: np.ndarray) -> np.ndarray:
        codes = np.clip(images, 0, 255).astype(int) // 64
        codes = (codes[..., 0] * 16 + codes[..., 1] * 4 + codes[..., 2]).reshape(len(images), -1)
        colours = np.stack([np.bincount(code, minlength=64) for code in codes]) / codes.shape[1]
        return np.concatenate([model.predict_on_batch(images.astype(np.float32)), np.sqrt(colours)], axis=1)

    batches = [np.arange(start, min(start + 128, len(tiles))) for start in range(0, len(tiles), 128)]
    found = [np.concatenate([described(tiles[rows]) for rows in batches])]
    for view in tqdm(range(VIEWS), "features of views"):
        augmented = [augment_images(tf.constant(larger[rows]), (view, rows[0]), size).numpy() for rows in batches]
        found.append(np.concatenate([described(images) for images in augmented]))
    return np.stack(found).astype(np.float32)


class Heads:
    """Heads of one run, each trained from the same beginning on other tiles.

    What is compiled once serves all of them, and so label statistics of the loss are those of all training blocks.
    """

    def __init__(self, settings: Settings, tiles: Tiles) -> None:
        import keras
        from keras import layers

        from macl_tf.labels import LabelStatistics
        from macl_tf.models.descriptors import descriptor_model, descriptors_of, searchable
        from macl_tf.training.build import make_optimizer, objective, trained_model

        keras.utils.clear_session()
        keras.utils.set_random_seed(settings.seed)
        self.settings, self.tiles = settings, tiles
        self.statistics = LabelStatistics.from_labels(tiles.labels[tiles.block < FOLDS], tiles.names)
        given = keras.Input(tiles.features.shape[2:])
        x = layers.Dense(WIDTH, use_bias=False)(layers.Dropout(DROPOUT)(given))
        x = layers.ReLU(name="features")(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.UnitNormalization(name="embedding")(layers.Dense(settings.embedding_dim)(x))
        self.model = trained_model(keras.Model(given, x, name="encoder"), settings, len(tiles.names))
        optimizer = make_optimizer(settings, STEPS)
        self.model.compile(optimizer, **objective(settings, self.statistics), jit_compile=False)
        optimizer.build(self.model.trainable_variables)
        encoder = searchable(self.model)
        self.descriptors = {name: descriptor_model(encoder, name) for name in descriptors_of(encoder)}
        self.state = [*self.model.variables, *optimizer.variables]
        self.beginning = [keras.ops.convert_to_numpy(variable).copy() for variable in self.state]

    def evaluated(self, held_out: int) -> dict[str, Any]:
        """Figures of a block's tiles by a head trained on the other blocks, for every descriptor.

        Of the test tiles, block FOLDS, by one trained on all the others, with each query's values.
        """
        from macl_tf.evaluation.retrieval import embed

        tiles = self.tiles
        rows = np.flatnonzero((tiles.block != held_out) & (tiles.block < FOLDS))
        searched = np.flatnonzero(tiles.block == held_out)
        seen = tiles.features[:, rows]
        mean, scale = seen.mean((0, 1)), 1 / (seen.std((0, 1)) + 1e-3)
        self.fit(np.clip((seen - mean) * scale, -5, 5), tiles.labels[rows])
        own = np.clip((tiles.features[0, searched] - mean) * scale, -5, 5)
        labels, found = tiles.labels[searched], {}
        for name, model in self.descriptors.items():
            embeddings = embed(model, own, len(own), progress=False)
            found[name] = scores(embeddings, labels, self.statistics, queries=held_out == FOLDS)
        return found

    def fit(self, seen: np.ndarray, labels: np.ndarray) -> None:
        """Trains from the beginning on features (1 + VIEWS, n, F) and labels (n, C)."""
        import tensorflow as tf

        from macl_tf.pipeline.samplers import draw_epoch, label_aware_weights
        from macl_tf.training.build import follows_schedule, targets, temperature_schedule
        from macl_tf.training.callbacks import TemperatureSchedule

        for variable, value in zip(self.state, self.beginning, strict=True):
            variable.assign(value)
        settings, steps = self.settings, self.settings.epochs * STEPS
        weights = label_aware_weights(labels, 0.0 if settings.sampler == "uniform" else settings.sampler_power)
        drawn = draw_epoch(weights, steps * settings.batch_size, seed=settings.seed, epoch=0)
        views = np.random.default_rng(settings.seed).integers(1, 1 + VIEWS, (settings.views, len(drawn)))

        def batches() -> Any:
            for start in range(0, len(drawn), settings.batch_size):
                part = slice(start, start + settings.batch_size)
                chosen = np.concatenate([seen[view[part], drawn[part]] for view in views])
                yield chosen, np.tile(labels[drawn[part]], (settings.views, 1)).astype(np.float32)

        shapes = tf.TensorSpec((None, seen.shape[2])), tf.TensorSpec((None, labels.shape[1]))
        data = tf.data.Dataset.from_generator(batches, output_signature=shapes)
        data = data.map(lambda x, y: (x, targets(y, settings))).prefetch(4)
        schedule = TemperatureSchedule(temperature_schedule(settings, steps))
        callbacks = [schedule] if follows_schedule(settings) else []
        self.model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=callbacks)


def compared(settings: Settings, tiles: Tiles, *, test: bool) -> dict[str, Any]:
    """The facts of a run, in the form of `evaluate_run`'s, and each block's figures."""
    heads = Heads(settings, tiles)
    folds = [heads.evaluated(block) for block in range(FOLDS)]
    results: dict[str, Any] = {
        name: {
            "validation": {key: mean_of([fold[name][key] for fold in folds]) for key in MEANS},
            "folds": {key: [fold[name][key] for fold in folds] for key in MEANS},
        }
        for name in folds[0]
    }
    for name, found in heads.evaluated(FOLDS).items() if test else ():
        results[name]["test"] = found
    return {
        "settings": settings_without_places(vars(settings)),
        "labels": list(tiles.names),
        "train_counts": np.asarray(heads.statistics.counts).tolist(),
        "rarest": heads.statistics.rarest().tolist(),
        "results": results,
    }


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are defined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def floor(tiles: Tiles) -> results_file.Row:
    """The figures of the features themselves on test tiles."""
    from macl_tf.labels import LabelStatistics

    known, test = tiles.block < FOLDS, tiles.block == FOLDS
    statistics = LabelStatistics.from_labels(tiles.labels[known], tiles.names)
    own = tiles.features[0]
    scaled = ((own - own[known].mean(0)) / (own[known].std(0) + 1e-3))[test]
    found = scores(scaled, tiles.labels[test], statistics, queries=False)
    return {"kind": FLOOR, "name": "frozen features", "figures": [found[key] for key in LED_BY]}


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Validation figures in points, best NDCG first, and what the first run of the list leads each by.

    A lead has half of its 95 % interval by Student's t over the blocks, each a mean over the seeds that both have.
    """
    grouped: dict[str, dict[int, Any]] = {}
    for run in runs:
        grouped.setdefault(run["name"], {})[run["seed"]] = run["results"]
    best = {name: best_descriptor(list(found.values())) for name, found in grouped.items()}
    reference = runs[0]["name"]

    def figures(name: str, seeds: Iterable[int]) -> np.ndarray:
        """(figures, FOLDS) means over seeds, NaN where undefined."""
        of_seeds = [grouped[name][seed][best[name]]["folds"] for seed in seeds]
        values = np.array([[folds[key] for key in LED_BY] for folds in of_seeds], dtype=float)
        return np.asarray(100 * values.mean(axis=0))

    def rounded(values: np.ndarray) -> list[Any]:
        """Numbers to a thousandth, None where undefined, as JSON has them."""
        return np.where(np.isnan(values), None, values.round(3)).tolist()

    found = []
    for name, own in grouped.items():
        row: dict[str, Any] = {"name": name, "descriptor": best[name], "seeds": len(own), "lead": {}}
        row |= dict(zip(LED_BY, rounded(np.nanmean(figures(name, own), axis=1)), strict=True))
        common = [seed for seed in own if seed in grouped[reference]]
        if name != reference and common:
            lead = figures(reference, common) - figures(name, common)
            half = T_975 * np.nanstd(lead, axis=1, ddof=1) / np.sqrt(FOLDS)
            row["lead"] = dict(zip(LED_BY, rounded(np.stack([np.nanmean(lead, axis=1), half], axis=1)), strict=True))
        found.append(row)
    return sorted(found, key=lambda row: -row["ndcg@100_jaccard"])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each run, as Markdown."""
    reference = next(row["name"] for row in rows if not row["lead"])
    titles = [f"{reference} leads in {title}, points" for title in LED_BY.values()]
    cells = []
    for row in rows:
        name = f"**{row['name']}**" if row["name"] == reference else row["name"]
        own = [number(row[key] and row[key] / 100) for key in LED_BY]
        leads = [row["lead"].get(key) for key in LED_BY]
        by = [f"{number(lead[0], '+.1f')} ± {number(lead[1], '.1f')}" if lead else "" for lead in leads]
        cells.append([name, row["descriptor"], row["seeds"], *own, *by])
    return markdown(["run", "descriptor", "seeds", *LED_BY.values(), *titles], cells, "ll")


_TILES: list[Tiles] = []  # of a worker process


def begin(settings: Settings, encoder: Path, kept: Path) -> None:
    """Prepares a worker: one thread, and the tiles."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")
    _TILES.append(read_tiles(settings, encoder, kept))


def work(turn: tuple[str, int, list[str], bool]) -> results_file.Row:
    """Trains and evaluates in a worker."""
    name, seed, sets, test = turn
    return {"kind": RUN, "name": name, "seed": seed, **compared(load_settings(assignments=sets), _TILES[0], test=test)}


def train(experiment: Experiment, options: argparse.Namespace) -> None:
    """Trains and evaluates what is missing."""
    shared = [*texts({"dataset": experiment.dataset, "data_dir": options.data_dir}), f"epochs={EPOCHS}"]
    known = {(row["name"], row["seed"]): row for row in results_file.read(options.out) if row["kind"] == RUN}
    missing = []
    for seed in experiment.seeds:
        for name, own in experiment.runs().items():
            sets = [*shared, *texts(experiment.set), *own]
            if (name, seed) in known:
                refuse_others((name, seed), known[name, seed]["settings"], sets)
            else:
                missing.append((name, seed, [*sets, f"seed={seed}"], experiment.test))
    if not missing:
        return
    kept = options.work / f"features-{digest(options.encoder).split()[-1]}.npz"
    given = load_settings(assignments=[*shared, *texts(experiment.set)]), options.encoder, kept
    made = made_by("benchmarks.compare", ["tensorflow", "tensorflow-cpu", "keras", "numpy"])
    results_file.add(options.out, floor(read_tiles(*given)))  # and features, before workers ask for them
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=begin, initargs=given) as pool:
        for result in tqdm(pool.map(work, missing), "heads", len(missing), unit="run"):
            results_file.add(options.out, {"command": made["command"], "versions": made["versions"], **result})
