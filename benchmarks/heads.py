"""Losses compared on frozen features: a head trained by each loss in seconds, so that half a point of NDCG shows.

    python -m benchmarks.heads --dataset ucm --data-dir UCM --run-dir RUN --out FOLDER --losses macl,supcon-any
        [--seeds 0,1,2] [--joint 0,20] [--variant NAME:KEY=VALUE,KEY=VALUE] [--no-test] [--set KEY=VALUE]
        [--jobs 2] [--json FILE]

The features of a tile are the means of the maps of each stage of RUN's encoder, which was trained on other tiles (the
embedded default: `python train.py --run-dir RUN`), and a colour histogram; of the tile as it is, and of some augmented
views, from which training draws. What is trained is dropout, a layer of 512, batch normalisation
and a projection, with the batches, the sampler and the settings of `macl train`, for 270 steps.

Training tiles are cut into five blocks of neighbouring numbers. For each seed, each block is held out once and is
searched by the head that was trained without it: the validation figures, for choices, are means over all training
tiles. Then a head is trained on all five, and the test tiles are searched. One JSON for each training and seed, which
`benchmarks.compare_report` reads too; a table at the end says what the first leads each other one by on validation
tiles, with its 95 % interval over the blocks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.circumstances import circumstances, settings_without_places
from benchmarks.compare import numbers, views, words
from benchmarks.judging import MEANS, leading_value, scores
from macl_tf.files import read_json, write_json, written_whole
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


def read_tiles(options: argparse.Namespace) -> Tiles:
    """The tiles with their features, which are kept in --out/features.npz."""
    from macl_tf.datasets.splits import split_archive
    from macl_tf.training.run_directory import open_archive

    settings = load_settings(assignments=assignments(options), dataset=options.dataset)
    archive = open_archive(settings)
    if archive.numbers is None or archive.scenes is None:
        raise SystemExit(f"The tiles of a fold are neighbours by number, and '{archive.name}' has no numbers. Use ucm.")
    path = options.out / "features.npz"
    if not path.is_file():
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, features=features(archive, options.run_dir))
    splits = split_archive(archive, "blocks", validation=0.0, test=settings.test)
    test = np.isin(np.arange(len(archive)), splits.test)
    with np.load(path) as kept:
        found = kept["features"]
    return Tiles(found, archive.labels, tuple(archive.label_names), blocks(archive.scenes, archive.numbers, test))


def features(archive: Any, run: Path) -> np.ndarray:
    """(1 + VIEWS, N, F) features of all tiles, and of their augmented views, by the encoder of a run."""
    import keras
    import tensorflow as tf

    from macl_tf.pipeline.augmentation import augment_images
    from macl_tf.pipeline.pipeline import load_images

    encoder = keras.saving.load_model(run / "encoder.keras", compile=False)
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


def assignments(options: argparse.Namespace) -> list[str]:
    """The words after --set, and the archive's place."""
    return [*options.set, *([f"data_dir={options.data_dir}"] if options.data_dir else [])]


class Heads:
    """Heads of one training and seed, each trained from the same beginning on other tiles.

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

    def judged(self, held_out: int) -> dict[str, Any]:
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
    """The results of one training and seed, in the form of `benchmarks.compare`'s, and each block's figures."""
    heads = Heads(settings, tiles)
    folds = [heads.judged(block) for block in range(FOLDS)]
    results: dict[str, Any] = {
        name: {
            "validation": {key: mean_of([fold[name][key] for fold in folds]) for key in MEANS},
            "folds": {key: [fold[name][key] for fold in folds] for key in MEANS},
        }
        for name in folds[0]
    }
    for name, found in heads.judged(FOLDS).items() if test else ():
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


def floor(tiles: Tiles) -> dict[str, list[float | None]]:
    """The figures of the features themselves on test tiles."""
    from macl_tf.labels import LabelStatistics

    known, test = tiles.block < FOLDS, tiles.block == FOLDS
    statistics = LabelStatistics.from_labels(tiles.labels[known], tiles.names)
    own = tiles.features[0]
    scaled = ((own - own[known].mean(0)) / (own[known].std(0) + 1e-3))[test]
    found = scores(scaled, tiles.labels[test], statistics, queries=False)
    return {"frozen features": [found[key] for key in LED_BY]}


def variants(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name of each training to its settings."""
    found: dict[str, list[str]] = {}
    for loss in options.losses:
        for weight in [0.0] if loss == "bce" else options.joint:
            joint = [f"classification_weight={weight:g}"] if weight else []
            found[f"{loss}{f'+bce{weight:g}' if weight else ''}"] = [f"loss={loss}", *views(loss)[1:], *joint]
    for text in options.variant:
        name, _, settings = text.partition(":")
        found[name] = words(settings)
    return found


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Validation figures in points, best NDCG first, and what the first training of the list leads each by.

    A lead has half of its 95 % interval by Student's t over the blocks, each a mean over the seeds that both have.
    """
    grouped: dict[str, dict[int, Any]] = {}
    for run in runs:
        grouped.setdefault(run["variant"], {})[run["seed"]] = run["results"]
    best = {name: leading(list(found.values())) for name, found in grouped.items()}
    reference = runs[0]["variant"]

    def figures(name: str, seeds: Iterable[int]) -> np.ndarray:
        """(figures, FOLDS) means over seeds, NaN where undefined."""
        of_seeds = [grouped[name][seed][best[name]]["folds"] for seed in seeds]
        values = np.array([[folds[key] for key in LED_BY] for folds in of_seeds], dtype=float)
        return np.asarray(100 * values.mean(axis=0))

    found = []
    for name, own in grouped.items():
        row: dict[str, Any] = {"name": name, "descriptor": best[name], "seeds": len(own), "lead": {}}
        row |= dict(zip(LED_BY, np.nanmean(figures(name, own), axis=1).round(3).tolist(), strict=True))
        common = [seed for seed in own if seed in grouped[reference]]
        if name != reference and common:
            lead = figures(reference, common) - figures(name, common)
            half = T_975 * np.nanstd(lead, axis=1, ddof=1) / np.sqrt(FOLDS)
            pairs = np.stack([np.nanmean(lead, axis=1), half], axis=1).round(3).tolist()
            row["lead"] = dict(zip(LED_BY, pairs, strict=True))
        found.append(row)
    return sorted(found, key=lambda row: -row["ndcg@100_jaccard"])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each training, as Markdown."""
    reference = next(row["name"] for row in rows if not row["lead"])
    titles = [*LED_BY.values(), *(f"{reference} leads in {title}, points" for title in LED_BY.values())]
    head = "| training | searched by | seeds | " + " | ".join(titles) + " |"
    lines = [head, "|---|---|---:|" + "---:|" * len(titles)]
    for row in rows:
        name = f"**{row['name']}**" if row["name"] == reference else row["name"]
        cells = [f"{row[key] / 100:.3f}" for key in LED_BY]
        leads = [row["lead"].get(key) for key in LED_BY]
        cells += [f"{lead[0]:+.1f} ± {lead[1]:.1f}" if lead else "" for lead in leads]
        lines.append(f"| {name} | {row['descriptor']} | {row['seeds']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def leading(results: Sequence[dict[str, Any]]) -> str:
    """The descriptor with the best mean of validation figures."""
    mean = {d: np.mean([leading_value(found[d]) for found in results]) for d in results[0]}
    return max(mean, key=lambda d: mean[d])


_TILES: list[Tiles] = []  # of a worker process


def begin(options: argparse.Namespace) -> None:
    """Prepares a worker: one thread, and the tiles."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")
    _TILES.append(read_tiles(options))


def work(turn: tuple[str, int, list[str], str, bool]) -> dict[str, Any]:
    """Trains and judges in a worker."""
    name, seed, sets, dataset, test = turn
    settings = load_settings(assignments=[f"epochs={EPOCHS}", *sets, f"seed={seed}"], dataset=dataset)
    return {"variant": name, "seed": seed, **compared(settings, _TILES[0], test=test)}


def arguments() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ucm", help="an archive with numbered tiles")
    parser.add_argument("--data-dir", default="", help="as of macl train")
    parser.add_argument("--run-dir", type=Path, required=True, help="a finished run, whose encoder gives the features")
    parser.add_argument("--losses", type=words, default=[], help="names with commas between")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="seeds with commas between")
    parser.add_argument(
        "--joint", type=lambda text: [float(word) for word in text.split(",")], default=[0.0],
        help="weights of classification beside each loss, 0 for none",
    )  # fmt: skip
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME:KEY=VALUE,...", help="one more training"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all trainings")
    parser.add_argument("--no-test", action="store_true", help="leave the test tiles alone: for choices")
    parser.add_argument(
        "--jobs", type=int, default=min(4, os.cpu_count() or 1), help="trainings at a time (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--json", type=Path, help="file for the figures of the table")
    return parser


def main() -> None:
    """Trains and judges what is missing, and prints the table."""
    parser = arguments()
    options = parser.parse_args()
    named = variants(options)
    if not named:
        parser.error("name --losses, a --variant, or both.")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}.")
    options.out.mkdir(parents=True, exist_ok=True)
    turns = [
        (name, seed, [*options.set, *sets], options.dataset, not options.no_test)
        for seed in options.seeds
        for name, sets in named.items()
    ]
    missing = [turn for turn in turns if not result_path(options, turn[0], turn[1]).is_file()]
    command = circumstances("benchmarks.heads", ["tensorflow", "keras", "numpy"])
    spawn = multiprocessing.get_context("spawn")
    write_json(options.out / "floors.json", floor(read_tiles(options)))  # and features, before workers ask for them
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=begin, initargs=(options,)) as pool:
        for result in tqdm(pool.map(work, missing), "heads", len(missing), unit="run"):
            made = {"command": command["command"], "versions": command["versions"]}
            write_json(result_path(options, result["variant"], result["seed"]), {**made, **result})
    rows = summary([read_json(result_path(options, name, seed)) for name, seed, *_ in turns])
    print(table(rows))
    if options.json:
        write_json(options.json, {**command, "rows": rows})


def result_path(options: argparse.Namespace, name: str, seed: int) -> Path:
    """Where the figures of a training lie."""
    return Path(options.out) / f"{name}-seed{seed}.json"


if __name__ == "__main__":
    main()
