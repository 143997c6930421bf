"""A finished run without the training: everything that serving needs of one, in a few seconds."""

from pathlib import Path

import keras

from macl_tf.datasets.bands import Bands
from macl_tf.datasets.splits import split_archive
from macl_tf.files import write_json
from macl_tf.labels import LabelStatistics
from macl_tf.models.encoders import build_encoder
from macl_tf.models.resnet import basic_block, convolution
from macl_tf.pipeline.pipeline import load_images
from macl_tf.training.evaluate import evaluate_encoder
from macl_tf.training.run_directory import ENCODER, LABELS, METRICS, describe_run, open_archive
from macl_tf.training.settings import Settings

TILES, SIZE, DIM = 60, 32, 16
ROBUST_DIM = DIM + 8  # the features of `one_layer` beside the projection


def one_layer(scaled):
    """Instead of ResNet-18, where tracing and exporting it would take longest."""
    return keras.layers.Conv2D(8, 5, strides=4, activation="relu", name="conv")(scaled)


def make_small_encoder(settings: Settings, bands: Bands | None = None) -> keras.Model:
    """Instead of `macl_tf.training.build.make_encoder`, for runs whose network is not the subject."""
    weights = None if settings.weights in ("", "imagenet") else settings.weights
    small = {"backbone": one_layer, "embedding_dim": settings.embedding_dim, "hidden_dim": 8}
    return build_encoder(settings.image_size, **small, weights=weights, bands=bands)


def residual(scaled):
    """ResNet-18 in small: its first layers and one block, with all that an export or a fast layer has to keep."""
    stem = keras.layers.ReLU()(convolution(scaled, 8, 3, 2, "stem"))
    return basic_block(stem, 16, 2, "block")


def make_run(folder: Path, seed: int = 0, *, backbone=one_layer, **changes: object) -> Path:
    """An untrained encoder, with the settings, parts and figures of a run on a small synthetic archive."""
    settings = Settings(
        num_tiles=TILES, test=0.4, image_size=SIZE, embedding_dim=DIM, batch_size=16, epochs=1, seed=seed, **changes
    )
    archive = open_archive(settings)
    splits = split_archive(archive, settings.split, validation=settings.validation, test=settings.test, seed=seed)
    folder.mkdir(parents=True)
    describe_run(settings, folder)
    splits.write(folder, archive)
    statistics = LabelStatistics.from_labels(archive.labels[splits.train], archive.label_names)
    write_json(folder / LABELS, statistics.get_config())
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(SIZE, embedding_dim=DIM, backbone=backbone)
    encoder.save(folder / ENCODER)
    images = load_images(archive, splits.test, SIZE, progress=False)
    reports = evaluate_encoder(encoder, images, archive.labels[splits.test], statistics, progress=False)
    figures = {name: report.to_dict() for name, report in reports.items()}
    write_json(
        folder / METRICS,
        {"split": splits.note, "leaks": splits.leaks, "descriptor": settings.descriptor, "best_epoch": None,
         "untrained": figures, "trained": figures},
    )  # fmt: skip
    return folder
