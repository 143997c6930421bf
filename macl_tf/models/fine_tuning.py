"""Which part of an encoder is trained: all of it, its last stages, or its head alone, on features computed once."""

from __future__ import annotations

import keras

from macl_tf.models.backbones import stages
from macl_tf.models.descriptor_names import HEAD, last_stages


def backbone_part(encoder: keras.Model) -> keras.Model:
    """The model from pixels to features (B, F) float32, of the same layers."""
    return keras.Model(encoder.input, encoder.get_layer("features").output, name="backbone")


def with_head(backbone: keras.Model, head: keras.Model) -> keras.Model:
    """The model from pixels to what a head makes of a backbone's features."""
    return keras.Model(backbone.input, head(backbone.output), name="encoder")


def set_trainable(encoder: keras.Model, trainable: str, *, freeze_norms: bool = False) -> None:
    """Freezes what is not to be trained of the backbone.

    Args:
        encoder: A model with a layer called `features`, before which the backbone lies.
        trainable: "all"; "head", nothing of the backbone; or "last:N", its last N stages: a new stage begins where
            feature maps get smaller.
        freeze_norms: Whether batch normalisation of the backbone keeps its statistics, scales and shifts.

    Raises:
        ValueError: For another text, or more stages than there are.
    """
    last = last_stages(trainable)
    found = stages(backbone_part(encoder).layers)
    if last is not None and last > len(found):
        raise ValueError(f"trainable=last:N must be at most the backbone's {len(found)} stages, got {last}.")
    frozen = len(found) if trainable == HEAD else 0 if last is None else len(found) - last
    for number, stage in enumerate(found):
        for layer in stage:
            norm = freeze_norms and isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = number >= frozen and not norm


def detached_head(model: keras.Model) -> keras.Model:
    """A copy of what follows the pooled features (B, F), to be trained on these; `take_head` brings it back."""
    head = keras.Model(model.get_layer("features").input, model.outputs, name=model.name)
    copied = keras.models.clone_model(head)
    copied.set_weights(head.get_weights())
    return copied


def take_head(model: keras.Model, head: keras.Model) -> None:
    """Gives a model the weights of its `detached_head`."""
    for layer in head.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
