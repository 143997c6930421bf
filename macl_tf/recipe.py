"""What the settings say of the loss, the temperature and the optimizer, as Keras objects."""

from __future__ import annotations

import math
from typing import Any

import keras

from macl_tf.config import Settings
from macl_tf.labels import LabelStatistics
from macl_tf.losses import MACL


def make_loss(settings: Settings, statistics: LabelStatistics) -> keras.losses.Loss:
    """The loss that the settings ask for."""
    return MACL(
        statistics,
        temperature=settings.temperature,
        reweighting_power=settings.reweighting_power,
        overlap_scale=settings.overlap_scale,
        rarity_scale=settings.rarity_scale,
        min_temperature=settings.min_temperature,
        weighted=settings.loss == "wmacl",
    )


def temperature_schedule(settings: Settings, steps: int) -> Any:
    """A cosine to the final temperature, or a constant."""
    alpha = settings.final_temperature / settings.temperature if settings.final_temperature else 1.0
    return keras.optimizers.schedules.CosineDecay(settings.temperature, steps, alpha=alpha)


def make_optimizer(settings: Settings, steps: int) -> keras.optimizers.Optimizer:
    """AdamW with linear warm-up and cosine decay; norms and biases are not decayed."""
    total, warmup = settings.epochs * steps, math.ceil(settings.warmup_epochs * steps)
    warmup = min(warmup, total // 2)
    peak = settings.learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / 100 if warmup else peak,
        max(total - warmup, 1),
        alpha=0.0 if not warmup else 0.01,
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


class LearningRateLog(keras.callbacks.Callback):
    """Logs the learning rate of the last step, which the optimizer's schedule keeps to itself."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds `learning_rate` to the logs."""
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
