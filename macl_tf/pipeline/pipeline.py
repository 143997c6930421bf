"""From an archive to training batches: decode, resize, draw, augment, in views.

Everything random is a function of (seed, epoch, step): there is no state to save, and a run that is started
again at an epoch goes on with the very batches it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from macl_tf.datasets.archives import Archive
from macl_tf.pipeline.augmentation import augment_images
from macl_tf.pipeline.samplers import Sampler, make_sampler
from macl_tf.pipeline.streams import stateless_seed

# Images are kept a little larger than they are used, so that a crop is not a blown-up half of one.
MARGIN = 1.25


class Parts(NamedTuple):
    """Which parts of each batch a data set yields, one after the other: those of this machine's replicas.

    A batch is cut into `of` parts of consecutive rows. Only the images of `own` are read.
    """

    own: range = range(1)
    of: int = 1


WHOLE = Parts()


@dataclass(frozen=True)
class TrainingData:
    """Batches for `fit`, with their number and the share of draws of each image."""

    # Yields (images, labels): float32 (views * B, S, S, 3) in 0..255, or of N bands in their units, and float32
    # (views * B, C), from the first epoch asked for to the last. With two views, rows b and B + b show one image.
    # Of `Parts`, the rows of one after the other.
    dataset: tf.data.Dataset
    steps_per_epoch: int  # `fit` needs it, since the data set runs through all epochs
    cached: bool  # whether the decoded images are held in memory
    weights: np.ndarray  # (N,) share of the draws of each image of the training set, in the order of `indices`
    # Images that have no label or, in batches of classes, the same labels as no other.
    num_not_drawn: int


def load_images(archive: Archive, indices: np.ndarray, size: int, *, progress: bool = True) -> np.ndarray:
    """Decodes and resizes images, without augmentation: what evaluation sees: (n, size, size, 3) uint8, or of N bands.

    `indices` are (n,) positions in the archive. A ValueError names an image that cannot be read, or says which argument
    breaks its rule.
    """
    indices = _check_indices(archive, indices)
    _check_positive(size=size)
    images: np.ndarray = np.empty((len(indices), size, size, archive.reader.channels), archive.reader.dtype)

    def load(row: int) -> None:
        images[row] = read_tile(archive, int(indices[row]), size)[0]

    pool = ThreadPoolExecutor(2)
    done = pool.map(load, range(len(indices)))
    try:
        list(tqdm(done, f"read {archive.name}", len(indices), unit="img", disable=not progress))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, do not first read the rest
    return images


def training_dataset(
    archive: Archive,
    indices: np.ndarray,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    epochs: int,
    initial_epoch: int = 0,
    sampler: str | Sampler = "weighted",
    views: int = 1,
    augment: bool = True,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    colour: float = 0.2,
    cache_bytes: int = 4 * 2**30,
    steps_per_epoch: int | None = None,
    progress: bool = True,
    parts: Parts = WHOLE,
    **sampling: Any,
) -> TrainingData:
    """Builds the batches of a training run.

    Args:
        archive: Images and labels.
        indices: (N,) positions of the training images in the archive.
        image_size: S, side of the images in pixels.
        batch_size: B, images drawn per step over all replicas; at most the number of labelled images.
        seed: Any integer.
        epochs: Epoch at which the data set ends, as in `fit`.
        initial_epoch: Epoch at which it starts, 0 <= initial_epoch <= epochs.
        sampler: A name in `samplers.SAMPLERS` ("weighted", "repeat", "uniform", "classes"), or a sampler of
            `archive.labels[indices]`, which then decides B and the steps.
        views: 1, or 2 for two augmentations of each image.
        augment: False gives the plain resize, and so two equal views.
        crop_scale: Smallest and largest share of the image's area that a random crop covers, in (0, 1].
        colour: Strength of brightness, contrast and saturation changes, in [0, 1); each factor is drawn from
            [1 - colour, 1 + colour].
        cache_bytes: Decoded images are kept in memory if they take no more than this, else decoded anew at
            every draw.
        steps_per_epoch: Batches in an epoch; by default labelled images // B.
        progress: Whether to show a bar meanwhile.
        parts: Which rows of each batch are wanted, by default all. Images are then read when they are first drawn.
        **sampling: `power` and `images_per_class` of a sampler that is named, as `make_sampler` takes them.

    Returns:
        The data set and its description.

    Raises:
        ValueError: If an argument breaks its rule, no image has a label, or an image cannot be read.

    Example:
        >>> tile, names = np.zeros((9, 9, 3), np.uint8), ("a.png", "b.png")
        >>> archive = Archive("mine", ("sea", "sand"), names, np.eye(2), lambda index: tile)
        >>> settings = {"image_size": 8, "batch_size": 2, "seed": 0, "epochs": 30, "progress": False}
        >>> data = training_dataset(archive, np.arange(2), **settings)
        >>> images, labels = next(iter(data.dataset))
        >>> images.shape, labels.shape, data.steps_per_epoch
        (TensorShape([2, 8, 8, 3]), TensorShape([2, 2]), 1)

        And then `model.fit(data.dataset, epochs=30, steps_per_epoch=data.steps_per_epoch, shuffle=False)`.
    """
    indices = _check_indices(archive, indices)
    _check_positive(image_size=image_size, batch_size=batch_size, epochs=epochs)
    if views not in (1, 2):
        raise ValueError(f"views must be 1 or 2, got {views}.")
    if not 0 <= initial_epoch <= epochs:
        raise ValueError(f"initial_epoch must be between 0 and epochs={epochs}, got {initial_epoch}.")
    if isinstance(sampler, str):
        labels = archive.labels[indices]
        sampler = make_sampler(sampler, labels, batch_size, seed=seed, steps=steps_per_epoch, **sampling)
    batch_size, drawable = sampler.batch_size, sampler.drawable
    pool, labels = indices[drawable], archive.labels[indices[drawable]]
    decoded_size = math.ceil(MARGIN * image_size) if augment else image_size
    shape = (decoded_size, decoded_size, archive.reader.channels)
    cached = len(pool) * math.prod(shape) * np.dtype(archive.reader.dtype).itemsize <= cache_bytes
    deviation = archive.bands.deviation if archive.bands else None
    if cached and parts.of == 1:
        held, known = load_images(archive, pool, decoded_size, progress=progress), np.ones(len(pool), bool)
    elif cached:
        held, known = np.empty((len(pool), *shape), archive.reader.dtype), np.zeros(len(pool), bool)

    def read(rows: np.ndarray) -> np.ndarray:
        if not cached:
            return np.stack([read_tile(archive, int(pool[row]), decoded_size)[0] for row in rows])
        for row in rows[~known[rows]]:
            held[row], known[row] = read_tile(archive, int(pool[row]), decoded_size)[0], True
        return held[rows]

    # A part of a batch has its rows in all views already.
    here, size = (views, batch_size) if parts.of == 1 else (1, views * batch_size // parts.of)

    def make(epoch: tf.Tensor, step: tf.Tensor, row: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Through NumPy, since a tensor that a tf.data function captures is copied into its graph, which must
        # stay below 2 GB. Declared stateless, or op determinism would take the parallelism away.
        images = tf.numpy_function(read, [rows], archive.reader.dtype, stateful=False)
        images = tf.ensure_shape(images, (size, *shape))
        if augment:
            key = stateless_seed(seed, epoch, step)
            changes: dict[str, Any] = {"crop_scale": crop_scale, "colour": colour, "deviation": deviation}
            of_batch = {"first": row, "whole": views * batch_size}
            images = augment_images(images, key, image_size, views=here, **of_batch, **changes)
        else:
            images = tf.tile(tf.cast(images, tf.float32), (here, 1, 1, 1))
        return images, tf.tile(tf.cast(tf.gather(labels, rows), tf.float32), (here, 1))

    dataset = batches_of(sampler, make, epochs=epochs, initial_epoch=initial_epoch, views=views, parts=parts)
    return TrainingData(dataset, sampler.steps, cached, sampler.weights, len(indices) - len(drawable))


def batches_of(
    sampler: Sampler,
    make: Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], Any],
    *,
    epochs: int,
    initial_epoch: int,
    views: int = 1,
    parts: Parts = WHOLE,
) -> tf.data.Dataset:
    """What `make` gives of epoch, step, first row and what the rows show, told as positions in a sampler's `drawable`.

    Of a whole batch the images of its first view are told, (B,); of a part those of each of its rows in all views.
    """
    size, drawable = sampler.batch_size, sampler.drawable
    if views * size % parts.of:
        raise ValueError(f"the {views * size} rows of a batch must be divisible by its parts, got {parts.of}.")
    length = size if parts.of == 1 else views * size // parts.of
    shown = [[row % size for row in range(part * length, (part + 1) * length)] for part in parts.own]

    own = len(parts.own)
    shape, begins = (sampler.steps * own, length), np.array(parts.own) * length

    def drawn(epoch: np.ndarray) -> np.ndarray:
        return np.searchsorted(drawable, sampler.rows(int(epoch))[:, shown]).reshape(shape)

    def draw(epoch: tf.Tensor) -> tf.data.Dataset:
        places = tf.ensure_shape(tf.numpy_function(drawn, [epoch], tf.int64, stateful=False), shape)
        told = tf.data.Dataset.from_tensor_slices(places).enumerate()
        return told.map(lambda number, rows: (epoch, number // own, tf.gather(begins, number % own), rows))

    options = tf.data.Options()
    options.deterministic = True
    return (
        tf.data.Dataset.range(initial_epoch, epochs)
        .flat_map(draw)
        .apply(tf.data.experimental.assert_cardinality((epochs - initial_epoch) * shape[0]))
        .map(make, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )


def read_tile(archive: Archive, index: int, *sizes: int) -> list[np.ndarray]:
    """The tile in each size, (size, size, 3) uint8 or of N bands; a ValueError with its name if it cannot be read."""
    try:
        image = archive.read_image(index)
        return [archive.reader.resize(image, size) for size in sizes]
    except Exception as error:  # whatever a reader raises, the user needs the name of the file
        name = archive.file_names[index]
        raise ValueError(f"Could not read image {name!r} of archive {archive.name!r}: {error}") from error


def _check_indices(archive: Archive, indices: np.ndarray) -> np.ndarray:
    indices = np.asarray(indices)
    if indices.ndim != 1 or indices.size == 0 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(
            f"indices must be a vector of at least one integer, got shape {indices.shape} of {indices.dtype}."
        )
    if indices.min() < 0 or indices.max() >= len(archive):
        raise ValueError(
            f"indices must be between 0 and {len(archive) - 1}, the last image of {archive.name!r}, "
            f"got {indices.min()} to {indices.max()}."
        )
    return indices


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}.")
