"""Settings in, a trained and evaluated run directory out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from macl_tf.callbacks import RetrievalEvaluation, TemperatureSchedule
from macl_tf.checkpoint import BEST, Checkpoint, without_optimizer
from macl_tf.config import Settings, load_settings
from macl_tf.datasets.archives import Archive
from macl_tf.datasets.label_lists import listed
from macl_tf.datasets.label_names import KnownLabels
from macl_tf.datasets.splits import Splits, split_archive
from macl_tf.descriptors import descriptor_model, descriptors_of, searchable
from macl_tf.files import read_json, write_json, written_whole
from macl_tf.labels import LabelStatistics
from macl_tf.layers import plain
from macl_tf.pipeline import TrainingData, load_images, training_dataset
from macl_tf.pretrained import check_weights
from macl_tf.recipe import (
    LearningRateLog,
    follows_schedule,
    make_encoder,
    make_loss,
    make_optimizer,
    temperature_schedule,
    trained_model,
)
from macl_tf.retrieval import RetrievalReport, embed, evaluate
from macl_tf.run_directory import ENCODER, LABELS, METRICS, SETTINGS, check_run, describe_run, open_archive
from macl_tf.run_figures import draw_run

MONITOR = "val_ndcg@100_jaccard"


def train(settings: Settings, run_dir: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Trains an encoder and evaluates it on tiles that it never saw; goes on where an earlier call stopped.

    Args:
        settings: What to do.
        run_dir: Where everything is written: settings, versions, parts, history, weights, figures, pictures.
        progress: Whether to show bars and notes.

    Returns:
        What `metrics.json` holds: figures of the untrained and the trained encoder, for each of its descriptors.

    Raises:
        ValueError: If the run directory holds a run with other settings, naming them, or a setting does not
            suit the archive.
    """
    run = Path(run_dir)
    check_run(settings, run)
    if (run / METRICS).is_file():
        return read_json(run / METRICS)

    if settings.weights not in ("", "imagenet"):
        check_weights(Path(settings.weights))  # before an archive is prepared
    say = print if progress else lambda *_: None
    tf.get_logger().setLevel("ERROR")  # its advice on retracing is for programmers
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.precision)

    archive = open_archive(settings)
    splits = split_archive(
        archive,
        settings.split,
        validation=settings.validation,
        test=settings.test,
        gap=settings.gap,
        seed=settings.seed,
    )
    describe_run(settings, run)  # only now: a wrong path should leave nothing behind
    splits.write(run, archive)
    statistics = LabelStatistics.from_labels(archive.labels[splits.train], archive.label_names)
    write_json(run / LABELS, statistics.get_config())
    for note in (*archive.notes, f"{len(archive)} tiles, {len(archive.label_names)} labels; {splits.note}"):
        say(note)
    if (report := getattr(archive, "report", None)) is not None:
        report.write(run / "archive_report.csv")

    size = settings.image_size
    validation_images = load_images(archive, splits.validation, size, progress=progress)
    test_images = load_images(archive, splits.test, size, progress=progress)

    # Again: preparing an archive, which only its first run does, draws random numbers too.
    keras.utils.set_random_seed(settings.seed)
    with strategy_scope():
        encoder = make_encoder(settings)
        model = trained_model(encoder, settings, len(archive.label_names))
        searched = model if settings.classifies else encoder  # by the probabilities of labels too
        untrained = evaluate_encoder(searched, test_images, archive.labels[splits.test], statistics, progress=progress)
        steps = steps_per_epoch(archive, splits, settings)
        model.compile(make_optimizer(settings, steps), loss=make_loss(settings, statistics))
        model.optimizer.build(model.trainable_variables)
        checkpoint = Checkpoint(run, MONITOR, settings.early_stopping)
        done = checkpoint.restore(model)

    data = training_data(archive, splits, settings, done, steps, progress=progress)
    if data.num_not_drawn:
        why = "no label" if settings.sampler != "classes" else "no other tile with the same labels"
        say(f"{data.num_not_drawn} training tiles have {why} and are not drawn.")
    if done:
        say(f"Going on after epoch {done} of {settings.epochs}.")
    if done < settings.epochs and not checkpoint.finished_early:
        validation = RetrievalEvaluation(
            validation_images,
            archive.labels[splits.validation],
            label_statistics=statistics,
            descriptor=settings.descriptor,
        )
        schedule = TemperatureSchedule(temperature_schedule(settings, settings.epochs * steps))
        model.fit(
            data.dataset,
            epochs=settings.epochs,
            initial_epoch=done,
            steps_per_epoch=data.steps_per_epoch,
            shuffle=False,  # the draws are shuffled
            callbacks=[
                *([schedule] if follows_schedule(settings) else []),
                LearningRateLog(),
                validation,
                keras.callbacks.TensorBoard(run / "tensorboard", write_graph=False),
                checkpoint,
            ],
            verbose=1 if progress else 0,
        )

    model = without_optimizer(model)
    if checkpoint.best_epoch is not None:
        model.load_weights(run / BEST)
    encoder = searchable(model)
    trained = evaluate_encoder(encoder, test_images, archive.labels[splits.test], statistics, progress=progress)
    with written_whole(run / ENCODER) as path:
        plain(encoder).save(path)  # loads without this package
    draw_run(
        run,
        archive=archive,
        splits=splits,
        statistics=statistics,
        draw_weights=data.weights,
        history=checkpoint.columns(),
        monitor=MONITOR,
        encoder=encoder,
        descriptor=settings.descriptor,
        test_images=test_images,
        reports={"untrained": untrained[settings.descriptor], "trained": trained[settings.descriptor]},
    )
    best = checkpoint.best_epoch
    result = {
        "split": splits.note,
        "leaks": splits.leaks,
        "descriptor": settings.descriptor,
        "best_epoch": None if best is None else best + 1,
        "untrained": {name: report.to_dict() for name, report in untrained.items()},
        "trained": {name: report.to_dict() for name, report in trained.items()},
    }
    write_json(run / METRICS, result)  # last: a run that has it is finished
    return result


def evaluate_run(
    run_dir: str | Path, *, data_dir: str = "", table: str = "", progress: bool = True
) -> dict[str, RetrievalReport]:
    """Evaluates the encoder of a finished run again, on its own test tiles or on another archive.

    Args:
        run_dir: A finished run.
        data_dir: Another archive of the same kind and with the same labels, all of whose tiles are then used;
            empty for the run's own test tiles.
        table: Label table of that archive, if it is a folder.
        progress: Whether to show bars.

    Returns:
        A report for each descriptor.

    Raises:
        FileNotFoundError: If the run directory holds no finished run.
        ValueError: If the archive's labels are not those of the run.
    """
    run = Path(run_dir)
    if not (run / ENCODER).is_file():
        raise FileNotFoundError(f"'{run}' holds no finished run ({ENCODER} is not there). Train it first.")
    settings = load_settings(run / SETTINGS)
    statistics = LabelStatistics.from_config(read_json(run / LABELS))
    if data_dir:
        settings = dataclasses.replace(settings, data_dir=data_dir, table=table)
    archive = open_archive(settings)
    indices = np.arange(len(archive)) if data_dir else Splits.read(run, archive).test
    columns = matching_columns(statistics, archive)
    encoder = keras.saving.load_model(run / ENCODER, compile=False)
    images = load_images(archive, indices, settings.image_size, progress=progress)
    return evaluate_encoder(encoder, images, archive.labels[indices][:, columns], statistics, progress=progress)


def matching_columns(statistics: LabelStatistics, archive: Archive) -> list[int]:
    """Columns of the archive's labels in the order of the run's, or a ValueError that names the odd ones."""
    known = KnownLabels(archive.label_names)
    names = statistics.label_names or archive.label_names
    places = [known.find(name) for name in names]
    odd = [name for name, place in zip(names, places, strict=True) if place is None]
    odd += [name for place, name in enumerate(archive.label_names) if place not in places]
    if odd:
        raise ValueError(
            f"The archive must have the labels that the encoder was trained with; these are in only one of "
            f"the two: {listed(sorted(odd))}."
        )
    return [place for place in places if place is not None]


def evaluate_encoder(
    encoder: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    statistics: LabelStatistics,
    *,
    progress: bool = True,
) -> dict[str, RetrievalReport]:
    """Searches tiles with each other, each by all others, and reports for each descriptor that the encoder has."""
    return {
        name: evaluate(
            embed(descriptor_model(encoder, name), images, progress=progress),
            labels,
            label_names=statistics.label_names,
            label_counts=statistics.counts,
        )
        for name in descriptors_of(encoder)
    }


def strategy_scope() -> AbstractContextManager[Any]:
    """The scope of a MirroredStrategy over all devices of the best kind, or none for a single device."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return nullcontext()
    return tf.distribute.MirroredStrategy([device.name for device in devices]).scope()


def steps_per_epoch(archive: Archive, splits: Splits, settings: Settings) -> int:
    """Whole batches in the labelled training tiles."""
    return int((archive.labels[splits.train].sum(axis=1) > 0).sum()) // settings.batch_size


def training_data(
    archive: Archive, splits: Splits, settings: Settings, initial_epoch: int, steps: int, *, progress: bool
) -> TrainingData:
    """The batches that the settings ask for, from an epoch on."""
    return training_dataset(
        archive,
        splits.train,
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        epochs=settings.epochs,
        initial_epoch=initial_epoch,
        sampler=settings.sampler,
        sampler_power=settings.sampler_power,
        images_per_class=settings.images_per_class,
        views=settings.views,
        augment=settings.augment,
        crop_scale=(settings.crop_area, 1.0),
        cache_bytes=int(settings.cache_gib * 2**30),
        steps_per_epoch=steps,
        progress=progress,
    )


def reports(result: Mapping[str, Any], descriptor: str) -> dict[str, RetrievalReport]:
    """The two reports of a result that `train` returned, for one descriptor."""
    return {name: RetrievalReport.from_dict(result[name][descriptor]) for name in ("untrained", "trained")}
