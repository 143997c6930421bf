"""Callbacks for `fit`: the temperature schedule, and retrieval on validation tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.evaluation.retrieval import RetrievalReport, embed, evaluate
from macl_tf.labels import LabelStatistics, check_multi_hot
from macl_tf.models.descriptors import descriptor_model

Schedule = Callable[[int], float]  # a LearningRateSchedule is one


def read_scalar(variable: Any) -> float:
    """The value of a scalar variable, of a mirrored one too."""
    return float(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable)))


class TemperatureSchedule(keras.callbacks.Callback):
    """Sets the loss's temperature before each step: temperature = schedule(step).

    The step is the optimizer's own count, so that a run that is restored goes on where it was. The value
    of the last step is logged beside the loss as `temperature`.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`, or a function from the step (0, 1, ...)
            to a temperature > 0.
        loss: The loss whose `temperature` variable follows; by default the one that the model was compiled with, or of
            several the one that has a temperature.

    Raises:
        ValueError: In `fit`, if the loss has no temperature, or the schedule gives one that is not > 0.
        RuntimeError: In `fit` on the JAX backend, whose compiled step holds the temperature as a constant.

    Example:
        Cosine from 0.07 to 0.01 over 1,000 steps:

        >>> import keras, macl_tf
        >>> cosine = keras.optimizers.schedules.CosineDecay(0.07, decay_steps=1000, alpha=0.01 / 0.07)
        >>> callback = macl_tf.TemperatureSchedule(cosine)
        >>> [round(callback.value(step), 3) for step in (0, 500, 1000)]
        [0.07, 0.04, 0.01]
    """

    def __init__(self, schedule: Schedule, loss: keras.losses.Loss | None = None) -> None:
        super().__init__()
        if not callable(schedule):
            raise ValueError(
                f"schedule must be a LearningRateSchedule or a function of the step, got {schedule!r}. "
                "For a constant, set the temperature of the loss."
            )
        self.schedule = schedule
        self.loss = loss

    def value(self, step: int) -> float:
        """The temperature of a step, > 0."""
        temperature = float(keras.ops.convert_to_numpy(self.schedule(step)))
        if not temperature > 0:
            raise ValueError(f"The temperature schedule must stay > 0, got {temperature} at step {step}.")
        return temperature

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the loss, and sets the temperature of the first step."""
        if keras.config.backend() == "jax":
            raise RuntimeError(
                "TemperatureSchedule needs the TensorFlow or torch backend: on JAX, Keras compiles the temperature "
                "into the step, and a change would do nothing. Use a constant temperature there."
            )
        compiled = self.model.loss if self.loss is None else self.loss
        losses = keras.tree.flatten(compiled)
        able = [loss for loss in losses if isinstance(getattr(loss, "temperature", None), keras.Variable)]
        if len(able) != 1:
            raise ValueError(
                f"TemperatureSchedule needs one loss with a `temperature` variable, got {compiled!r}. "
                "Compile with macl_tf.MACL(), or say which by loss=."
            )
        self._target = able[0]
        self.on_train_batch_begin(0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the temperature of this step."""
        self._target.temperature.assign(self.value(int(read_scalar(self.model.optimizer.iterations))))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the temperature of the last step."""
        if logs is not None:
            logs["temperature"] = read_scalar(self._target.temperature)


class RetrievalEvaluation(keras.callbacks.Callback):
    """Evaluates retrieval among the validation tiles after an epoch, and logs the figures.

    Logs, with the prefix `val_`: `ndcg@100_jaccard`, `map_any`, `map_jaccard50`, `map_rarest_third`
    (see `macl_tf.evaluate`). Put it before callbacks that read logs.

    Args:
        images: (N, S, S, 3) pixels, 0 to 255.
        labels: (N, C) multi-hot.
        label_statistics: Of the training set; says which labels are rare. None: of `labels`.
        descriptor: What is compared (see `descriptors.descriptor_model`); None for the model's output.
        k: Cut-off of NDCG.
        every: Epochs between evaluations.
        batch_size: Tiles embedded at a time.
        gather: From the embeddings of these images to those of all that have labels, for images that are a part.

    Raises:
        ValueError: If images and labels differ in number without `gather`, labels are not multi-hot, or `every` < 1.
    """

    METRICS = ("ndcg@{k}_jaccard", "map_any", "map_jaccard50", "map_rarest_third")

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        label_statistics: LabelStatistics | None = None,
        descriptor: str | None = None,
        k: int = 100,
        every: int = 1,
        batch_size: int = 128,
        gather: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.images, self.labels = np.asarray(images), check_multi_hot(labels)
        if gather is None and len(self.images) != len(self.labels):
            raise ValueError(
                f"images and labels must have the same number of rows, got {len(self.images)} and {len(self.labels)}."
            )
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch, got {every}.")
        self.label_statistics = label_statistics or LabelStatistics.from_labels(self.labels)
        self.descriptor, self.k, self.every, self.batch_size = descriptor, k, every, batch_size
        self.gather = gather
        self._describe: keras.Model | None = None

    def report(self) -> RetrievalReport:
        """Evaluates the model as it is now."""
        if self._describe is None:
            found = descriptor_model(self.model, self.descriptor)
            # Of no strategy: Keras would gather what all workers predict, each of its own images.
            self._describe = found if self.gather is None else keras.Model(found.inputs, found.outputs)
        embeddings = embed(self._describe, self.images, batch_size=self.batch_size, progress=False)
        embeddings = embeddings if self.gather is None else self.gather(embeddings)
        return evaluate(embeddings, self.labels, label_counts=self.label_statistics.counts, k=self.k)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the figures to the logs of every `every`-th epoch."""
        if logs is None or (epoch + 1) % self.every:
            return
        figures = self.report().to_dict()
        for metric in self.METRICS:
            name = metric.format(k=self.k)
            # Undefined where no two validation tiles share a label, or no rare one is among them.
            logs[f"val_{name}"] = np.nan if figures[name] is None else figures[name]
