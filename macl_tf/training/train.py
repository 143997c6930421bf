"""Trains a run from its settings and evaluates it on tiles that it never saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.folder import FolderArchive
from macl_tf.datasets.splits import PARTS, Splits, split_archive
from macl_tf.evaluation.retrieval import RetrievalReport, embed
from macl_tf.files import write_json, written_whole
from macl_tf.labels import LabelStatistics
from macl_tf.models.backbones import check_backbone, weights_digest
from macl_tf.models.descriptor_names import ROBUST
from macl_tf.models.descriptors import beside_pretrained, descriptor_model, searchable, turned
from macl_tf.models.familiarity import FAMILIAR, LEAST, sample
from macl_tf.models.fast_layers import plain
from macl_tf.models.fine_tuning import backbone_part, detached_head, take_head
from macl_tf.models.pretrained import check_weights
from macl_tf.models.runtimes import check_runtime
from macl_tf.pipeline.pipeline import TrainingData, load_images, training_dataset
from macl_tf.training import build, run_directory
from macl_tf.training.callbacks import RetrievalEvaluation
from macl_tf.training.checkpoint import Checkpoint, without_optimizer
from macl_tf.training.evaluate import described, retrieval_reports
from macl_tf.training.inputs import (
    backbone_features,
    check_learnable,
    head_data,
    pictures_of,
    sampler_of,
    tell,
    tile_inputs,
    with_fitting_batches,
)
from macl_tf.training.learned_turns import learn_turns
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
        if settings.learns_turns:
            learn_turns(searchable(best), task.archive, task.splits.train, settings, progress=task.progress)
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
