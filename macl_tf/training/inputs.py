"""What a run draws and sees of its tiles: batches that they can fill, pixels, and features of a frozen backbone."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from functools import cache

import keras
import numpy as np

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.splits import Splits
from macl_tf.files import cache_folder, sha256_of
from macl_tf.models.backbones import weights_digest
from macl_tf.models.fine_tuning import backbone_part
from macl_tf.models.inference import embedding_function
from macl_tf.pipeline.features import FeatureViews, feature_dataset, feature_views
from macl_tf.pipeline.pipeline import WHOLE, Parts, TrainingData, load_images
from macl_tf.pipeline.samplers import SAMPLERS, Sampler, make_sampler
from macl_tf.training import build
from macl_tf.training.settings import Settings


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


def tile_inputs(archive: Archive, indices: np.ndarray, settings: Settings, *, progress: bool) -> np.ndarray:
    """What an encoder sees of tiles: pixels (n, S, S, 3), or their vectors (n, F) where these stand for pictures."""
    if archive.features is not None:
        return archive.features[indices]
    return load_images(archive, indices, settings.image_size, progress=progress)


def pictures_of(archive: Archive, indices: np.ndarray, size: int) -> np.ndarray:
    """What people see of tiles, (n, S, S, 3) uint8."""
    return np.stack([archive.reader.show(tile) for tile in load_images(archive, indices, size, progress=False)])


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
        dropout=settings.dropout,
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
