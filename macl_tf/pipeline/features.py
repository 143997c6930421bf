"""Features of training tiles and of their augmented views, computed once: what a head is trained on in seconds.

They lie in a folder of parts, each written whole, so that a run that is killed goes on after the last part, and the
next run with the same backbone, tiles and augmentation computes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tqdm import tqdm

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.images import content_digest
from macl_tf.files import written_whole
from macl_tf.pipeline.augmentation import augment_images
from macl_tf.pipeline.pipeline import MARGIN, WHOLE, Parts, TrainingData, batches_of, read_tile
from macl_tf.pipeline.samplers import Sampler
from macl_tf.pipeline.streams import stateless_seed

FORMAT = 1  # of the parts and of what decides their content
_PART, _BATCH = 1024, 64  # tiles
Describe = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FeatureViews:
    """Features (V, N, F) of N tiles in V views, as parts of rows; the first view is the tile as it is."""

    parts: tuple[NDArray[np.floating[Any]], ...]

    @classmethod
    def of(cls, features: NDArray[np.floating[Any]]) -> FeatureViews:
        """Of features (V, N, F) that are in memory, or (N, F) in one view."""
        views = features if features.ndim == 3 else features[None]
        return cls(tuple(views[:, start : start + _PART] for start in range(0, views.shape[1], _PART)))

    @property
    def views(self) -> int:
        """V."""
        return self.parts[0].shape[0]

    @property
    def width(self) -> int:
        """F."""
        return self.parts[0].shape[2]

    def unchanged(self) -> NDArray[np.float32]:
        """(N, F) of the tiles as they are."""
        return np.concatenate([part[0] for part in self.parts]).astype(np.float32)

    def read(self, views: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, F) of tiles `rows` (B,), each in its view (B,)."""
        found = np.empty((len(rows), self.width), np.float32)
        for part in np.unique(rows // _PART):
            own = rows // _PART == part
            found[own] = self.parts[part][views[own], rows[own] % _PART]
        return found


def feature_views(
    archive: Archive,
    indices: NDArray[np.int64],
    describe: Describe,
    *,
    backbone: str,
    image_size: int,
    views: int,
    crop_scale: tuple[float, float],
    colour: float = 0.2,
    seed: int = 0,
    cache: Path,
    progress: bool = True,
) -> FeatureViews:
    """Features of tiles as they are and of augmented views, from the cache where they are there.

    Args:
        archive: The tiles.
        indices: (N,) positions in it.
        describe: From pixels (B, S, S, 3) float32 to features (B, F), row by row alike in whatever batch.
        backbone: What tells this `describe` from all others: a digest of its weights and layers.
        image_size: S.
        views: Augmented views of each tile, >= 0.
        crop_scale: As in `training_dataset`.
        colour: As in `training_dataset`.
        seed: Of the augmentation.
        cache: Folder of all features; those asked for lie in one that is named for what decides them.
        progress: Whether to show a bar.

    Raises:
        ValueError: If an image cannot be read, with its name.
    """
    contents = archive.contents
    digests = [contents[i] for i in indices] if contents else [content_digest(archive.read_image(i)) for i in indices]
    deciding = {
        "format": FORMAT,
        "backbone": backbone,
        "image_size": image_size,
        "views": [views, *crop_scale, colour, seed] if views else [],
        "tiles": hashlib.sha256("".join(digests).encode()).hexdigest(),
    }
    folder = cache / hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:24]
    files = [folder / f"{start:09}.npy" for start in range(0, len(indices), _PART)]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    with tqdm(
        desc=f"features of {archive.name}",
        total=sum(len(indices[n * _PART : (n + 1) * _PART]) for n in missing) * (1 + views),
        unit="img",
        disable=not progress or not missing,
    ) as bar:
        for number in missing:
            rows = indices[number * _PART : (number + 1) * _PART]
            found = _features(
                archive, rows, describe, image_size, views, crop_scale, colour, (seed, number), bar=bar.update
            )
            with written_whole(files[number]) as path, path.open("wb") as file:
                np.save(file, found)
    return FeatureViews(tuple(np.load(file, mmap_mode="r") for file in files))


def _features(
    archive: Archive,
    rows: NDArray[np.int64],
    describe: Describe,
    size: int,
    views: int,
    crop_scale: tuple[float, float],
    colour: float,
    key: tuple[int, int],
    *,
    bar: Callable[[int], object],
) -> NDArray[np.float16]:
    """(1 + views, n, F) of one part."""
    larger = math.ceil(MARGIN * size)
    deviation = archive.bands.deviation if archive.bands else None
    found = []
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(rows), _BATCH):
            read = pool.map(lambda row: read_tile(archive, int(row), size, larger), rows[start : start + _BATCH])
            plain, decoded = map(np.stack, zip(*read, strict=True))
            of_batch = [describe(plain.astype(np.float32))]
            bar(len(plain))
            for view in range(views):
                seed = stateless_seed(key[0], key[1], start * views + view)
                changes: dict[str, Any] = {"crop_scale": crop_scale, "colour": colour, "deviation": deviation}
                of_batch.append(describe(augment_images(decoded, seed, size, **changes)))
                bar(len(plain))
            found.append(np.stack(of_batch).astype(np.float16))
    return np.concatenate(found, axis=1)


def feature_dataset(
    features: FeatureViews,
    labels: np.ndarray,
    sampler: Sampler,
    *,
    seed: int,
    epochs: int,
    initial_epoch: int = 0,
    views: int = 1,
    dropout: float = 0.0,
    parts: Parts = WHOLE,
) -> TrainingData:
    """The batches of a run on features, each draw of a tile in a view of its own.

    Args:
        features: Of N tiles.
        labels: (N, C) multi-hot.
        sampler: Of these labels; decides B and the steps of an epoch.
        seed: Any integer.
        epochs: Epoch at which the data set ends.
        initial_epoch: Epoch at which it starts.
        views: Views of each tile in a batch, 1 or 2. Where one is kept, dropout alone tells two of them apart.
        dropout: Share of the numbers of each feature vector that are 0, others for each draw, and the rest larger by
            1 / (1 - dropout); in [0, 1).
        parts: Which rows of each batch are wanted, by default all.

    Returns:
        Batches of features (views * B, F) and labels (views * B, C), float32, in the form of `training_dataset`.

    Raises:
        ValueError: If nothing would tell two views of a tile apart.
    """
    if views > features.views and not dropout:
        raise ValueError("two views of a tile must differ, got one view of each and dropout=0. Set dropout=0.5.")
    drawable = sampler.drawable
    of_pool = labels[drawable].astype(np.float32)

    here, size = views if parts.of == 1 else 1, sampler.batch_size

    def read(epoch: np.ndarray, step: np.ndarray, row: np.ndarray, rows: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([seed, int(epoch), int(step)])
        chosen = rng.random((size, features.views)).argsort(1)
        shown = int(row) + np.arange(here * len(rows))
        found = features.read(chosen[shown % size, shown // size % features.views], drawable[np.tile(rows, here)])
        if dropout:
            kept = rng.random((views * size, features.width), np.float32) >= dropout  # of the whole batch, on any part
            found *= kept[shown] / np.float32(1 - dropout)
        return found

    def make(epoch: tf.Tensor, step: tf.Tensor, row: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = tf.numpy_function(read, [epoch, step, row, rows], tf.float32, stateful=False)
        found = tf.ensure_shape(found, (views * size // parts.of, features.width))
        return found, tf.tile(tf.gather(of_pool, rows), (here, 1))

    dataset = batches_of(sampler, make, epochs=epochs, initial_epoch=initial_epoch, views=views, parts=parts)
    return TrainingData(dataset, sampler.steps, True, sampler.weights, len(labels) - len(drawable))
