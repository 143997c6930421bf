"""Trains and evaluates a run from its settings."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.folder import FolderArchive
from macl_tf.datasets.label_lists import listed
from macl_tf.datasets.splits import PARTS, Splits, seen_before, split_archive
from macl_tf.datasets.walk import shorten
from macl_tf.evaluation.retrieval import RetrievalReport, embed, evaluate
from macl_tf.files import cache_folder, sha256_of, write_json, written_whole
from macl_tf.labels import LabelStatistics
from macl_tf.models.backbones import check_backbone, weights_digest
from macl_tf.models.descriptor_names import LEARNED, ROBUST
from macl_tf.models.descriptors import all_descriptors, beside_pretrained, descriptor_model, searchable, turned
from macl_tf.models.familiarity import FAMILIAR, LEAST, reweighted, sample, shares
from macl_tf.models.fast_layers import plain
from macl_tf.models.fine_tuning import backbone_part, detached_head, take_head
from macl_tf.models.inference import embedding_function
from macl_tf.models.pretrained import check_weights
from macl_tf.models.runtimes import check_runtime
from macl_tf.pipeline.features import FeatureViews, feature_dataset, feature_views
from macl_tf.pipeline.pipeline import WHOLE, Parts, TrainingData, load_images, training_dataset
from macl_tf.pipeline.samplers import SAMPLERS, Sampler, make_sampler
from macl_tf.training import build, run_directory
from macl_tf.training.callbacks import RetrievalEvaluation
from macl_tf.training.checkpoint import Checkpoint, without_optimizer
from macl_tf.training.loop import fit
from macl_tf.training.run_directory import BANDS, ENCODER, LABELS, METRICS, UNTRAINED, VERSIONS
from macl_tf.training.run_figures import draw_run
from macl_tf.training.settings import Settings
from macl_tf.training.workers import ChiefsLogs, Cluster, Workers, meet

MONITOR = "val_ndcg@100_jaccard"


def train(
    settings: Settings, run_dir: str | Path, *, progress: bool = True, cluster: Cluster | None = None
) -> dict[str, Any]:
    """Trains an encoder and evaluates it on tiles that it never saw; goes on where an earlier call stopped.

    Args:
        settings: What to do.
        run_dir: Where everything is written: settings, versions, parts, history, weights, figures, pictures.
        progress: Whether to show bars. What is lost, or not as asked for, is said on standard error all the same.
        cluster: The workers of the run, of which this process is one; None for this machine alone. The chief's alone is
            the run directory.

    Returns:
        What `metrics.json` holds: figures of the untrained and the trained encoder, for each of its descriptors.

    Raises:
        ValueError: If the run directory holds a run with other settings, naming them, or on another archive; a setting
            does not suit the archive; or nothing can be learned from it.
        FileNotFoundError: If the archive or the weights are not there.
        BlockingIOError: If another process trains in the run directory.
        TimeoutError: If another worker does not come.
        ConnectionError: If one is gone before the end.
    """
    run, asked = Path(run_dir).expanduser(), run_directory.placed(settings)
    with ExitStack() as stack:
        if cluster is not None and cluster.index:
            run = Path(stack.enter_context(TemporaryDirectory(prefix="macl-worker-")))
        run_directory.check_run(asked, run)
        finished = run_directory.is_finished(run)
        if (held := run.is_dir()) and not finished:
            stack.enter_context(run_directory.occupied(run))
        if cluster is not None:
            meet(cluster, run_directory.common_ground(asked), run_directory.files_to_go_on(run), run)
            finished = run_directory.is_finished(run)
        if finished:
            return run_directory.read_run(run, METRICS)
        workers = Workers(cluster)
        # A directory that is not there yet is made when it is known that there is something to train.
        to_hold = nullcontext() if held else run_directory.occupied(run)
        with workers.together():
            return _train(asked, run, workers, to_hold, stack, progress=progress)


def _train(
    asked: Settings,
    run: Path,
    workers: Workers,
    to_hold: AbstractContextManager[None],
    stack: ExitStack,
    *,
    progress: bool,
) -> dict[str, Any]:
    """What `train` does in a directory that no other process trains in."""
    begun = run_directory.has_progress(run)
    if not begun and asked.weights not in ("", "imagenet"):
        check_weights(Path(asked.weights))  # before an archive is prepared
    if not asked.features:
        check_backbone(asked.backbone, imagenet=asked.weights == "imagenet")
    check_runtime(asked.runtime)
    tf.get_logger().setLevel("ERROR")  # its advice on retracing is for programmers
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(asked.seed)
    task = _read_task(asked, run, workers, begun=begun, progress=progress)
    stack.enter_context(to_hold)  # only now: a wrong path should leave nothing behind
    if run_directory.has_progress(run) != begun:
        raise BlockingIOError(
            f"another process has begun a run in '{run}' meanwhile. The same command goes on with it."
        )
    run_directory.describe_run(asked, run)
    if not begun:
        task.splits.write(run, task.archive)
        write_json(run / LABELS, task.statistics.get_config())
        if task.archive.bands is not None:
            write_json(run / BANDS, task.archive.bands.to_dict())
    if isinstance(task.archive, FolderArchive):
        task.archive.report.write(run / "archive_report.csv")
    settings, precision = task.settings, build.chosen_precision(task.settings)
    workers.agree(archive=task.told, precision=precision)
    keras.config.set_dtype_policy(precision)
    # Again: preparing an archive, which only its first run does, draws random numbers too.
    keras.utils.set_random_seed(settings.seed)
    labelled = task.archive.labels[task.splits.train].any(axis=1)
    steps = int(labelled.sum()) // settings.batch_size
    with workers.strategy.scope():
        # A run that goes on takes its weights from its checkpoint, since those it began from may be gone; but for a
        # frozen backbone, which no checkpoint holds, and published weights, whose network may be another.
        again = begun and settings.weights != "imagenet" and (settings.features or not settings.trains_head)
        start = dataclasses.replace(settings, weights="") if again else settings
        vectors = task.archive.features
        encoder = (
            build.make_encoder(start, task.archive.bands)
            if vectors is None
            else build.make_head(start, vectors.shape[1])
        )
        model = build.trained_model(encoder, settings, len(task.archive.label_names))
        if not begun or settings.trains_head:  # what is frozen is in no checkpoint
            # What tells the weights that the backbone began from, or the vectors: SHA-256 of their values as float32.
            name = "backbone_sha256" if vectors is None else "features_sha256"
            digest = weights_digest(backbone_part(encoder).weights if vectors is None else [vectors])
            versions = run_directory.read_run(run, VERSIONS) if (run / VERSIONS).is_file() else {}
            if not begun:
                write_json(run / VERSIONS, {**versions, name: digest})
            elif versions.get(name, digest) != digest:
                what = settings.features or f"backbone={settings.backbone}, weights={settings.weights}"
                raise ValueError(f"'{run}' began from other values than {what} gives now. Use another --run-dir.")
        pretrained = plain(backbone_part(encoder)) if settings.keeps_pretrained else None  # a copy, as it begins
        fitted = detached_head(model) if settings.trains_head else model
        build.compile_model(fitted, settings, steps, task.statistics)
        checkpoint = Checkpoint(run, MONITOR, settings.early_stopping)
        done = checkpoint.restore(fitted)
    workers.agree(weights=weights_digest(model.weights))
    tests = task.test_inputs(encoder) if workers.is_chief else None  # the chief alone sees test tiles
    if not begun and tests is not None:
        searched = model if settings.classifies else encoder  # by the probabilities of labels too
        untrained = task.reports(task.described(detached_head(searched) if task.judges_features else searched, tests))
        write_json(run / UNTRAINED, {name: report.to_dict() for name, report in untrained.items()})
    data, validation = batches_of_run(task, encoder, done, steps)
    if data.num_not_drawn:
        why = "no label" if settings.sampler != "classes" else "no other tile with the same labels"
        tell(f"{data.num_not_drawn} training tiles have {why} and are not drawn.")
    if done and progress:
        print(f"Going on after epoch {done} of {settings.epochs}.")
    if done < settings.epochs and not checkpoint.finished_early:
        _fit(task, fitted, data, validation, checkpoint, done)
    best = without_optimizer(fitted)
    result = None
    if tests is not None:
        if checkpoint.best_epoch is not None:
            checkpoint.restore_best(best)
        if fitted is not model:
            take_head(model, best)
        result = _finish(task, model, best, pretrained, checkpoint, tests, data.weights)
    return workers.of_chief(result)


class _Task(NamedTuple):
    """What a run learns from, how and where."""

    run: Path
    workers: Workers
    settings: Settings
    archive: Archive
    splits: Splits
    statistics: LabelStatistics
    changes: tuple[str, ...]
    progress: bool

    @property
    def told(self) -> tuple[Any, ...]:
        """What tells the tiles that are learned from, and those that say when to stop, from others."""
        seen = np.concatenate([self.splits.train, self.splits.validation])
        names = [self.archive.file_names[index] for index in seen]
        return len(self.splits.train), names, self.archive.label_names, self.archive.labels[seen].tobytes()

    @property
    def judges_features(self) -> bool:
        """Whether a head alone describes test tiles, from their features, as it is trained on those of others."""
        return self.settings.trains_head and self.archive.features is None and self.settings.turns == 1

    def test_inputs(self, encoder: keras.Model) -> np.ndarray:
        """What `described` takes of the test tiles: pixels, or features from the cache."""
        tests = self.splits.test
        if self.judges_features:
            return backbone_features(encoder, self.archive, self.settings, progress=self.progress)(tests, 0).unchanged()
        return tile_inputs(self.archive, tests, self.settings, progress=self.progress)

    def described(self, encoder: keras.Model, tests: np.ndarray) -> dict[str, np.ndarray]:
        """The test tiles by each descriptor of an encoder, or of a head where features are judged."""
        return described(encoder, tests, turns=self.settings.turns, progress=self.progress)

    def reports(self, found: Mapping[str, np.ndarray]) -> dict[str, RetrievalReport]:
        """Of the test tiles as described."""
        return retrieval_reports(found, self.archive.labels[self.splits.test], self.statistics)


def _read_task(asked: Settings, run: Path, workers: Workers, *, begun: bool, progress: bool) -> _Task:
    """Opens the archive and divides it, or as the run has divided it; refuses what nothing can be learned from."""
    archive = run_directory.open_archive(asked)
    for note in archive.notes:
        tell(note)
    if not archive.label_names:  # a folder of images alone
        raise ValueError(
            f"training needs labels, but the images of {asked.data_dir} have none. Put a label table beside them, or "
            "name it by --table, or put the images of each class into a folder. To search them without labels: macl "
            f"index {asked.data_dir} --backbone efficientnet-lite0 --output SERVED."
        )
    changes: tuple[str, ...] = ()
    if begun:  # the parts and the labels are what they were
        splits = Splits.read(run, archive)
        statistics = LabelStatistics.from_config(run_directory.read_run(run, LABELS))
        archive, lines = run_directory.with_labels_of(statistics, run_directory.with_bands_of(run, archive))
        changes = (*splits.changes, *lines)
        for line in changes:
            tell(line)
        for part in PARTS:
            if not len(getattr(splits, part)):
                raise ValueError(
                    f"'{run}' must have a {part} tile to go on, but none is in the archive any more. Put them back, or "
                    "use another --run-dir."
                )
    else:
        splits = split_archive(
            archive,
            asked.split,
            validation=asked.validation,
            test=asked.test,
            gap=asked.gap,
            block=asked.split_block,
            seed=asked.seed,
        )
        statistics = LabelStatistics.from_labels(archive.labels[splits.train], archive.label_names)
        if archive.bands is not None:
            measured = archive.bands.measured(archive.read_image, splits.train, progress=progress)
            archive = dataclasses.replace(archive, bands=measured)
    if progress:
        print(f"{len(archive)} tiles, {len(archive.label_names)} labels; {splits.note}")
    settings = with_fitting_batches(asked, archive.labels[splits.train], workers.replicas)
    check_learnable(settings, archive, splits)
    build.make_loss(settings, statistics)  # what it refuses is refused before anything is written
    return _Task(run, workers, settings, archive, splits, statistics, changes, progress)


def _fit(
    task: _Task, model: keras.Model, data: TrainingData, validation: np.ndarray, checkpoint: Checkpoint, done: int
) -> None:
    """Trains from an epoch on, with what is logged and kept after each; `validation` as the model takes them."""
    settings, workers = task.settings, task.workers
    labels = task.archive.labels[task.splits.validation]
    # What lies beside the projection in "robust" is not there yet, or does not change.
    descriptor = "projection" if settings.keeps_pretrained and settings.descriptor == ROBUST else settings.descriptor
    evaluation = RetrievalEvaluation(
        validation, labels, label_statistics=task.statistics, descriptor=descriptor, gather=workers.gather
    )
    board = keras.callbacks.TensorBoard(task.run / "tensorboard", write_graph=False)
    callbacks = [build.LearningRateLog(), evaluation, ChiefsLogs(workers), board, checkpoint]
    fit(model, data, settings, callbacks, initial_epoch=done, verbose=1 if task.progress else 0)


def _finish(
    task: _Task,
    model: keras.Model,
    fitted: keras.Model,
    pretrained: keras.Model | None,
    checkpoint: Checkpoint,
    tests: np.ndarray,
    draw_weights: np.ndarray,
) -> dict[str, Any]:
    """Saves the encoder, evaluates it and draws the figures; what `metrics.json` holds is written last."""
    encoder, settings, run = searchable(without_optimizer(model)), task.settings, task.run
    if pretrained is not None:
        encoder = beside_pretrained(encoder, pretrained)
    found = task.described(searchable(fitted) if task.judges_features else encoder, tests)
    trained = task.reports(found)
    kept = run_directory.read_run(run, UNTRAINED)
    untrained = {name: RetrievalReport.from_dict(report) for name, report in kept.items()}
    with written_whole(run / ENCODER) as path:
        plain(encoder).save(path)  # loads without this package
    compared = ROBUST in settings.descriptors and (settings.trains_head or pretrained is not None)
    if compared and len(task.splits.train) >= LEAST:
        with written_whole(run / FAMILIAR) as path, path.open("wb") as file:
            np.save(file, _training_features(task, encoder))
    draw_run(
        run,
        archive=task.archive,
        splits=task.splits,
        statistics=task.statistics,
        draw_weights=draw_weights,
        history=checkpoint.columns(),
        monitor=MONITOR,
        embeddings=found[settings.descriptor],
        pictures=lambda rows: pictures_of(task.archive, task.splits.test[rows], settings.image_size),
        reports={"untrained": untrained[settings.floor], "trained": trained[settings.descriptor]},
    )
    best = checkpoint.best_epoch
    result = {
        "split": task.splits.note,
        "leaks": task.splits.leaks,
        "descriptor": settings.descriptor,
        "best_epoch": None if best is None else best + 1,
        "batch_size": settings.batch_size,
        "changes": list(task.changes),
        "untrained": {name: report.to_dict() for name, report in untrained.items()},
        "trained": {name: report.to_dict() for name, report in trained.items()},
    }
    write_json(run / METRICS, result)  # a run that has it is finished
    return result


def _training_features(task: _Task, encoder: keras.Model) -> np.ndarray:
    """Features (M, F) float16 of some training tiles by the backbone as it began, as "robust" has them."""
    archive, settings, rows = task.archive, task.settings, task.splits.train
    chosen = sample(len(rows))
    if settings.trains_head and settings.turns == 1:  # they are in memory or in the cache
        views = settings.feature_views if settings.augment else 0
        every = backbone_features(encoder, archive, settings, progress=task.progress)(rows, views)
        found = every.read(np.zeros(len(chosen), np.int64), chosen)
    else:
        model = turned(descriptor_model(encoder, ROBUST), settings.turns)
        inputs = tile_inputs(archive, rows[chosen], settings, progress=task.progress)
        found = embed(model, inputs, progress=task.progress)[:, : -settings.embedding_dim]
    return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)).astype(np.float16)


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


def check_learnable(settings: Settings, archive: Archive, splits: Splits) -> None:
    """Refuses an archive where no two training tiles share a label, for a loss of pairs; says what cannot be judged."""
    counts = archive.labels[splits.train].sum(axis=0, dtype=np.int64)
    if settings.loss != "bce" and settings.views == 1 and counts.max(initial=0) < 2:
        raise ValueError(
            f"two training tiles must share a label for {settings.loss} to learn from, but none of the "
            f"{len(counts)} labels is on two of the {len(splits.train)}. Label more tiles alike, or train a classifier "
            "alone: --set loss=bce"
        )
    for part, lost in (("validation", "the last epoch's weights are kept"), ("test", "its figures stay empty")):
        if archive.labels[getattr(splits, part)].sum(axis=0, dtype=np.int64).max(initial=0) < 2:
            tell(f"No two {part} tiles share a label, so that retrieval among them cannot be judged: {lost}.")


def with_fitting_batches(settings: Settings, labels: np.ndarray, replicas: int = 1) -> Settings:
    """The settings with batches that the training tiles, of labels (N, C), can fill; says where they are smaller."""
    rows, batch = SAMPLERS[settings.sampler].drawable_rows(labels), settings.batch_size
    classes, drawable = settings.sampler == "classes", len(rows)
    # A batch holds no class twice.
    most = min(drawable, len(np.unique(labels[rows], axis=0)) * settings.images_per_class) if classes else drawable
    build.check_microbatch(settings, replicas)
    if batch <= most:
        return settings
    per_class = settings.images_per_class if classes else 1
    microbatch = settings.microbatch // math.gcd(settings.microbatch, settings.views) if settings.microbatch else 1
    unit = math.lcm(replicas * microbatch, per_class)
    fitting, least = most // unit * unit, max(2 * per_class, unit)
    if fitting < least:
        raise ValueError(too_few(settings, least, rows, labels))
    tell(f"batch_size is {fitting} instead of {batch}: only {drawable} training tiles can be drawn.")
    return dataclasses.replace(settings, batch_size=fitting)


def too_few(settings: Settings, least: int, rows: np.ndarray, labels: np.ndarray) -> str:
    """What is wrong, and what helps, where the training tiles fill no batch; `rows` of the labels can be drawn."""
    if settings.sampler == "classes":
        classes = len(np.unique(labels[rows], axis=0)) if len(rows) else 0
        found = f"{len(rows)} of {len(labels)}, in {classes} classes"
        if classes < 2 or len(rows) < 4:  # no smaller batch of classes would do
            return (
                f"a batch of classes needs two classes of two training tiles or more with just the same labels, got "
                f"{found}. Label more tiles alike, or draw tiles one by one: --set sampler=weighted"
            )
        smaller = "Lower images_per_class (2 at least)" + (" or set microbatch=0" if settings.microbatch else "")
        return f"a batch needs {least} training tiles with others of the same labels, got {found}. {smaller}."
    smaller = "Lower microbatch (0: none), or label" if settings.microbatch and len(rows) > 1 else "Label"
    return f"a batch needs {least} training tiles with a label, got {len(rows)} of {len(labels)}. {smaller} more tiles."


def tell(line: str) -> None:
    """Says what is lost or not as asked for, which --quiet does not hide."""
    print(line, file=sys.stderr, flush=True)


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
        width = familiar.shape[1]
        alike, share = shares(familiar, found[ROBUST][:, :width])
        if share != LEARNED:
            found[ROBUST] = reweighted(found[ROBUST], width, share)
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


def tile_inputs(archive: Archive, indices: np.ndarray, settings: Settings, *, progress: bool) -> np.ndarray:
    """What an encoder sees of tiles: pixels (n, S, S, 3), or their vectors (n, F) where these stand for pictures."""
    if archive.features is not None:
        return archive.features[indices]
    return load_images(archive, indices, settings.image_size, progress=progress)


def pictures_of(archive: Archive, indices: np.ndarray, size: int) -> np.ndarray:
    """What people see of tiles, (n, S, S, 3) uint8."""
    return np.stack([archive.reader.show(tile) for tile in load_images(archive, indices, size, progress=False)])


def batches_of_run(
    task: _Task, encoder: keras.Model, initial_epoch: int, steps: int
) -> tuple[TrainingData, np.ndarray]:
    """What a run is fitted to from an epoch on, and its validation tiles: pictures, or features for a head alone."""
    settings, archive, splits, parts = task.settings, task.archive, task.splits, task.workers.parts
    own = splits.validation[task.workers.share(len(splits.validation))]
    labels = archive.labels[splits.train]
    if settings.trains_head:
        features = backbone_features(encoder, archive, settings, progress=task.progress)
        seen = features(splits.train, settings.feature_views if settings.augment else 0)
        return head_data(seen, labels, settings, initial_epoch, steps, parts), features(own, 0).unchanged()
    data = training_dataset(
        archive,
        splits.train,
        image_size=settings.image_size,
        sampler=sampler_of(labels, settings, steps),
        batch_size=settings.batch_size,
        seed=settings.seed,
        epochs=settings.epochs,
        initial_epoch=initial_epoch,
        views=settings.views,
        augment=settings.augment,
        crop_scale=(settings.crop_area, 1.0),
        cache_bytes=int(settings.cache_gib * 2**30),
        progress=task.progress,
        parts=parts,
    )
    return data, load_images(archive, own, settings.image_size, progress=task.progress)


def backbone_features(
    encoder: keras.Model, archive: Archive, settings: Settings, *, progress: bool
) -> Callable[[np.ndarray, int], FeatureViews]:
    """From positions in an archive and a number of augmented views to their features, given or computed once."""
    given, backbone = archive.features, backbone_part(encoder)
    bands = f" {archive.bands}" if archive.bands else ""  # their scaling is in no weight, nor are a file's layers
    file = f" {sha256_of(settings.backbone)}" if settings.backbone.endswith(".keras") else ""
    key = f"{settings.backbone} {settings.runtime} {weights_digest(backbone.weights)}{bands}{file}"

    @cache
    def function() -> Callable[[np.ndarray], np.ndarray]:  # only where there is something to compute
        return embedding_function(backbone, settings.runtime)

    def features(indices: np.ndarray, views: int) -> FeatureViews:
        if given is not None:
            return FeatureViews.of(given[indices])
        return feature_views(
            archive,
            indices,
            lambda pixels: function()(pixels),
            backbone=key,
            image_size=settings.image_size,
            views=views,
            crop_scale=(settings.crop_area, 1.0),
            seed=settings.seed,
            cache=cache_folder() / "features",
            progress=progress,
        )

    return features


def head_data(
    features: FeatureViews,
    labels: np.ndarray,
    settings: Settings,
    initial_epoch: int,
    steps: int,
    parts: Parts = WHOLE,
) -> TrainingData:
    """The batches of features that a head is trained on, from an epoch on."""
    return feature_dataset(
        features,
        labels,
        sampler_of(labels, settings, steps),
        seed=settings.seed,
        epochs=settings.epochs,
        initial_epoch=initial_epoch,
        views=settings.views,
        parts=parts,
    )


def sampler_of(labels: np.ndarray, settings: Settings, steps: int) -> Sampler:
    """The sampler that the settings ask for, of the labels (N, C) of the training tiles."""
    return make_sampler(
        settings.sampler,
        labels,
        settings.batch_size,
        seed=settings.seed,
        steps=steps,
        power=settings.sampler_power,
        images_per_class=settings.images_per_class,
    )
