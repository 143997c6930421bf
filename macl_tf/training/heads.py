"""A head that is fitted to features again and again, from the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from macl_tf.labels import LabelStatistics
from macl_tf.models.backbones import weights_digest
from macl_tf.models.descriptors import descriptor_model, searchable
from macl_tf.models.inference import graph_encoder
from macl_tf.pipeline.features import FeatureViews, feature_dataset
from macl_tf.pipeline.samplers import BesideUnlabelled
from macl_tf.training import build
from macl_tf.training.checkpoint import without_optimizer
from macl_tf.training.inputs import sampler_of
from macl_tf.training.loop import fit
from macl_tf.training.settings import Settings

_BLOCK = 8192  # rows that a head sees at a time


class HeadTrainer:
    """A head that is trained several times, each time from the same random weights, on tiles of one archive.

    The graph of a step is traced once, which takes longer than some hundred steps.

    Args:
        settings: Of the head, loss, batches and optimizer; `epochs` with `steps` each.
        width: F, of the features.
        statistics: Of the labels that are learned.
        steps: Steps of an epoch, >= 1.
        negatives: Tiles without a label that each batch holds beside `settings.batch_size` with one.
    """

    def __init__(
        self, settings: Settings, width: int, statistics: LabelStatistics, *, steps: int, negatives: int = 0
    ) -> None:
        self.settings, self.steps, self.negatives = settings, steps, negatives
        tf.get_logger().setLevel("ERROR")  # its advice on retracing is for programmers
        keras.utils.set_random_seed(settings.seed)
        head = build.make_head(settings, width)
        self._model = build.trained_model(head, settings, statistics.num_labels)
        self._begin = self._model.get_weights()
        build.compile_model(self._model, settings, steps, statistics, jit_compile=False)
        self._begin_of_optimizer = [variable.numpy() for variable in self._model.optimizer.variables]

    def fit(
        self, features: NDArray[Any], labels: NDArray[np.uint8], *, on_epoch: Callable[[], object] | None = None
    ) -> Head:
        """Trains on features (N, F) of tiles with labels (N, C); those without any are the negatives."""
        self._model.set_weights(self._begin)
        for variable, value in zip(self._model.optimizer.variables, self._begin_of_optimizer, strict=True):
            variable.assign(value)
        settings = self.settings
        sampler = sampler_of(labels, settings, self.steps)
        if self.negatives:
            sampler = BesideUnlabelled(sampler, labels, self.negatives)
        views = FeatureViews.of(features)
        data = feature_dataset(
            views,
            labels,
            sampler,
            seed=settings.seed,
            epochs=settings.epochs,
            views=settings.views,
            dropout=settings.dropout,
        )
        told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch() if on_epoch else None)
        fit(self._model, data, settings, [told])
        copied = keras.models.clone_model(without_optimizer(self._model))
        copied.set_weights(self._model.get_weights())
        return Head(searchable(copied), settings)


class Head:
    """A trained head: what it makes of features, and the graph that does."""

    def __init__(self, model: keras.Model, settings: Settings) -> None:
        self.settings = settings
        self._model = descriptor_model(model, settings.descriptor)
        self.width, self.dim = int(self._model.input_shape[1]), int(self._model.output_shape[1])
        self.graph = graph_encoder(self._model, (self.width,))  # from (B, F) float32, B >= 1, to (B, D)

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""
        return weights_digest(list(self._model.weights))

    def describe(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Vectors (N, D) of unit norm of features (N, F)."""
        found = np.empty((len(features), self.dim), np.float32)
        for start in range(0, len(features), _BLOCK):
            rows = np.asarray(features[start : start + _BLOCK], np.float32)
            found[start : start + _BLOCK] = self.graph(tf.constant(rows)).numpy()
        return found
