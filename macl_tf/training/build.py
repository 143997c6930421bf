"""Builds loss, temperature schedule, optimizer and model from the settings."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from macl_tf.datasets.bands import Bands
from macl_tf.labels import LabelStatistics
from macl_tf.losses import ProxyHead, registry
from macl_tf.models.cached_gradients import CachedGradients
from macl_tf.models.encoders import build_encoder, classified, spoc_encoder, vector_encoder
from macl_tf.models.fast_layers import fast
from macl_tf.models.fine_tuning import set_trainable
from macl_tf.training.optimizer import BackboneAdamW
from macl_tf.training.settings import Settings

_DEPTHWISE = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)


def make_loss(settings: Settings, statistics: LabelStatistics) -> Any:
    """The loss that the settings name; a ValueError if another setting does not suit it."""
    if settings.loss == "info-nce" and settings.views < 2:
        raise ValueError("info-nce finds the positives of a tile among its other views: add --set views=2.")
    return registry.make(settings.loss, label_statistics=statistics, **dataclasses.asdict(settings))


def objective(settings: Settings, statistics: LabelStatistics) -> dict[str, Any]:
    """What `compile` is told to minimise: a loss, or those of the embedding and the logits of `classified`."""
    loss = make_loss(settings, statistics)
    if not settings.classifies:
        return {"loss": loss}
    if settings.loss == "bce":
        return {"loss": [unjudged, loss]}
    return {"loss": [loss, registry.make("bce")], "loss_weights": [1.0, settings.classification_weight]}


def unjudged(labels: Any, embeddings: Any) -> Any:
    """0 for each row of embeddings that no loss is asked for; connected to them, so that their gradient is 0 too."""
    return 0.0 * keras.ops.sum(embeddings, axis=-1)


def targets(labels: Any, settings: Settings) -> Any:
    """The labels as `fit` wants them: once for each output of the model."""
    return (labels, labels) if settings.classifies else labels


def make_encoder(settings: Settings, bands: Bands | None = None) -> keras.Model:
    """The encoder that the settings ask for, untrained or from weights, of the layers that train faster."""
    chosen: dict[str, Any] = {
        "backbone": settings.backbone,
        "width": settings.width,
        "weights": settings.weights or None,
        "bands": bands,
    }
    if settings.head == "spoc":
        encoder = fast(spoc_encoder(settings.image_size, **chosen))
    else:
        encoder = fast(build_encoder(settings.image_size, embedding_dim=settings.embedding_dim, **chosen))
    set_trainable(encoder, settings.trainable, freeze_norms=settings.freeze_norms)
    return encoder


def make_head(settings: Settings, width: int) -> keras.Model:
    """What stands in place of an encoder for vectors from elsewhere, (B, width): a head, from weights of another."""
    weights = settings.weights if settings.weights != "imagenet" else None
    return vector_encoder(width, embedding_dim=settings.embedding_dim, weights=weights or None)


def chosen_precision(settings: Settings) -> str:
    """The dtype policy of `settings.precision`; for "auto" the one that trains faster on this machine.

    That is mixed_bfloat16 on a processor with instructions for it, 1.4 to 1.7 times as fast for ResNet-18; but
    float32 for a network with depthwise convolutions, which lose by it (EfficientNet-Lite0: .63 times), for a head
    alone, which takes seconds, and on GPUs, where nothing was measured. A machine always answers the same.
    """
    if settings.precision != "auto":
        return settings.precision
    if settings.trains_head or tf.config.list_physical_devices("GPU") or not has_bfloat16():
        return "float32"
    found = make_encoder(dataclasses.replace(settings, weights=""))._flatten_layers()
    return "float32" if any(isinstance(layer, _DEPTHWISE) for layer in found) else "mixed_bfloat16"


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux says that the processor multiplies in bfloat16, as AVX512_BF16 and AMX do."""
    return cpuinfo.is_file() and bool({"avx512_bf16", "amx_bf16"} & set(cpuinfo.read_text(errors="replace").split()))


def trained_model(encoder: keras.Model, settings: Settings, num_labels: int) -> keras.Model:
    """The model that `fit` sees: the encoder, with the loss's proxies or a classifier behind it, or by microbatches."""
    check_microbatch(settings)
    model, proxies = encoder, None
    if registry.LOSSES[settings.loss].ends_in == "proxies":
        proxies = ProxyHead(num_labels)(encoder.outputs[0])
        model = keras.Model(encoder.inputs, proxies, name="encoder")
    if settings.classifies:
        model = classified(encoder, num_labels, head=proxies)
    whole = not settings.microbatch or settings.trains_head  # features of a batch take no memory
    return model if whole else CachedGradients(model, settings.microbatch)


def check_microbatch(settings: Settings, replicas: int = 1) -> None:
    """Raises a ValueError if a batch cannot be divided among the replicas, or their rows into microbatches."""
    rows = settings.batch_size * settings.views
    if rows % replicas:
        fitting = settings.batch_size + -settings.batch_size % replicas
        raise ValueError(
            f"batch_size times views must be divisible by the {replicas} replicas that train together, got "
            f"{settings.batch_size} times {settings.views}. For example --set batch_size={fitting}."
        )
    if settings.microbatch and rows // replicas % settings.microbatch:
        of = "a batch" if replicas == 1 else f"a batch on each of {replicas} replicas"
        raise ValueError(f"microbatch must divide the {rows // replicas} rows of {of}, got {settings.microbatch}.")


def compile_model(
    model: keras.Model, settings: Settings, steps: int, statistics: LabelStatistics, **options: Any
) -> None:
    """Compiles what `trained_model` gives, or the head detached from it, for epochs of so many steps.

    The variables of its first step are made here: what Keras makes within a step is traced a second time.
    """
    model.compile(make_optimizer(settings, steps), **objective(settings, statistics), **options)
    model.optimizer.build(model.trainable_variables)
    if settings.classifies and tf.distribute.get_strategy().num_replicas_in_sync == 1:  # the means of its two losses
        labels = np.zeros((2, statistics.num_labels), np.float32)
        found = [np.zeros((2, *output.shape[1:]), np.float32) for output in model.outputs]
        model.compute_loss(y=targets(labels, settings), y_pred=found)


def follows_schedule(settings: Settings) -> bool:
    """Whether the loss has a temperature that the settings decide."""
    return own_number(settings.loss) == ("temperature", None)


def own_number(loss: str) -> tuple[str, float | None] | None:
    """The setting that is worth tuning for a loss, and its own value: "margin", or "temperature", which has none."""
    reads = registry.LOSSES[loss].reads
    if "temperature" in reads:
        return "temperature", None
    return ("margin", float(registry.make(loss).margin)) if "margin" in reads else None


def temperature_schedule(settings: Settings, steps: int) -> Any:
    """A cosine to the final temperature, or a constant."""
    alpha = settings.final_temperature / settings.temperature if settings.final_temperature else 1.0
    return keras.optimizers.schedules.CosineDecay(settings.temperature, steps, alpha=alpha)


def make_optimizer(settings: Settings, steps: int) -> keras.optimizers.Optimizer:
    """AdamW with linear warm-up and cosine decay; norms and biases are not decayed."""
    total, peak = settings.epochs * steps, settings.learning_rate
    warmup = min(math.ceil(settings.warmup_epochs * steps), total // 2)
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / 100 if warmup else peak,
        max(total - warmup, 1),
        alpha=0.0 if not warmup else 0.01,
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = BackboneAdamW(schedule, weight_decay=settings.weight_decay, backbone_factor=settings.backbone_factor)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


class LearningRateLog(keras.callbacks.Callback):
    """Logs the learning rate of the last step, which the optimizer's schedule keeps to itself."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds `learning_rate` to the logs."""
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
