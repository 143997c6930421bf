"""Builds loss, temperature schedule, optimizer and model from the settings."""

from __future__ import annotations

import math
from typing import Any

import keras

from macl_tf import losses
from macl_tf.labels import LabelStatistics
from macl_tf.models.cached_gradients import CachedGradients
from macl_tf.models.encoders import build_encoder, classified, spoc_encoder
from macl_tf.models.fast_layers import fast
from macl_tf.training.settings import MACL_ALONE, Settings

# All but MACL and the proxies: the class, and what makes it this loss.
_WITH_TEMPERATURE: dict[str, tuple[Any, dict[str, Any]]] = {
    "infonce": (losses.InfoNCE, {}),
    "supcon-any": (losses.SupCon, {"positives": "any"}),
    "supcon-all": (losses.SupCon, {"positives": "all"}),
    "jaccard": (losses.JaccardSupCon, {}),
    "multisupcon": (losses.MultiSupCon, {}),
    "mulsupcon": (losses.MulSupCon, {}),
    "similarity-dissimilarity": (losses.SimilarityDissimilarity, {}),
}
_WITH_MARGIN: dict[str, Any] = {
    "triplet-semi-hard": losses.TripletSemiHard,
    "triplet-hard": losses.TripletHard,
    "contrastive": losses.MarginContrastive,
    "lifted-structure": losses.LiftedStructure,
    "ranked-list": losses.RankedList,
    "dcl": losses.DCL,
}
_WITHOUT: dict[str, Any] = {
    "n-pairs": losses.MultiLabelNPairs,  # its temperature is 1, as published
    "multi-similarity": losses.MultiSimilarity,
    "proxy-anchor": losses.ProxyAnchor,
    "bce": losses.LabelCrossEntropy,
}


def make_loss(settings: Settings, statistics: LabelStatistics) -> keras.losses.Loss:
    """The loss that the settings ask for, with classification beside it if they do.

    Raises:
        ValueError: If another setting does not suit the loss.
    """
    loss = basic_loss(settings, statistics)
    if settings.loss == "bce" or not settings.classification_weight:
        return loss
    return losses.Joint(loss, settings.classification_weight)


def basic_loss(settings: Settings, statistics: LabelStatistics) -> Any:
    """The loss by its name alone."""
    name = settings.loss
    if name == "infonce" and settings.views < 2:
        raise ValueError("infonce finds the positives of a tile among its other views: add --set views=2.")
    if name in _WITHOUT:
        return _WITHOUT[name]()
    if name in _WITH_MARGIN:
        return _WITH_MARGIN[name](**({"margin": settings.margin} if settings.margin else {}))
    if name in _WITH_TEMPERATURE:
        kind, arguments = _WITH_TEMPERATURE[name]
        return kind(temperature=settings.temperature, **arguments)
    return losses.MACL(
        statistics,
        temperature=settings.temperature,
        weighted=name == "wmacl",
        **{setting: getattr(settings, setting) for setting in MACL_ALONE},
    )


def make_encoder(settings: Settings) -> keras.Model:
    """The encoder that the settings ask for, untrained or from weights, of the layers that train faster."""
    weights = settings.weights or None
    if settings.head == "spoc":
        return fast(spoc_encoder(settings.image_size, width=settings.width, weights=weights))
    width, dimensions = settings.width, settings.embedding_dim
    return fast(build_encoder(settings.image_size, width=width, embedding_dim=dimensions, weights=weights))


def trained_model(encoder: keras.Model, settings: Settings, num_labels: int) -> keras.Model:
    """The model that `fit` sees: the encoder, with what the loss needs behind it, whole or by microbatches.

    That is proxies, where the loss has them, and a classifier, where one is trained.

    Raises:
        ValueError: If microbatches do not divide the batch.
    """
    check_microbatch(settings)
    model, proxies = encoder, None
    if settings.loss == "proxy-anchor":
        proxies = losses.ProxyHead(num_labels)(encoder.outputs[0])
        model = keras.Model(encoder.inputs, proxies, name="encoder")
    if settings.classifies:
        model = classified(encoder, num_labels, head=proxies)
    return CachedGradients(model, settings.microbatch) if settings.microbatch else model


def check_microbatch(settings: Settings) -> None:
    """Raises a ValueError if microbatches do not divide the batch."""
    rows = settings.batch_size * settings.views
    if settings.microbatch and rows % settings.microbatch:
        raise ValueError(f"microbatch must divide the {rows} rows of a batch, got {settings.microbatch}.")


def follows_schedule(settings: Settings) -> bool:
    """Whether the loss has a temperature that the settings decide."""
    return own_number(settings.loss) == ("temperature", None)


def own_number(loss: str) -> tuple[str, float | None] | None:
    """The setting that belongs to a loss and is worth tuning, and the loss's own value for it; None where none does.

    That is "margin", or "temperature", for which a loss has no value of its own in a run.
    """
    if loss in ("macl", "wmacl", *_WITH_TEMPERATURE):
        return "temperature", None
    return ("margin", float(_WITH_MARGIN[loss]().margin)) if loss in _WITH_MARGIN else None


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
