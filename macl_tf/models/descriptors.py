"""Descriptors: the vectors that retrieval compares, from models that share an encoder's weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import layers

from macl_tf.models.backbones import Tensor
from macl_tf.models.descriptor_names import DESCRIPTORS, LEARNED, OF_CLASSIFIER, PROBABILITIES, ROBUST
from macl_tf.models.encoders import sum_of_maps

SCALES = (1.0, 0.75, 0.5)
SMALLEST = 32  # pixels: ResNet-18 halves an image five times
PRETRAINED = "pretrained"  # the layer of an encoder that gives the features of its backbone as it began
SHARE = 0.5  # of the unit-norm probabilities beside another descriptor; chosen on UC Merced's training tiles


def descriptors_of(encoder: keras.Model) -> tuple[str, ...]:
    """The names that `descriptor_model` knows for this encoder; the first is what the loss sees."""
    names = {layer.name for layer in encoder.layers}
    head = "spoc" if "trunk" in names else "projection"
    return DESCRIPTORS[head] + (OF_CLASSIFIER[head] if "logits" in names else ())


def descriptor_model(encoder: keras.Model, descriptor: str | None = None) -> keras.Model:
    """The encoder with a descriptor as its output.

    Args:
        encoder: A model of `build_encoder` or `spoc_encoder`, with or without proxies or a classifier behind it, or
            any model with a layer called `features`.
        descriptor: Of `build_encoder`: "projection", what the loss sees; "backbone", the pooled features before it;
            or "robust", [sqrt(1 - w) f, sqrt(w) z] of unit norm with w = 0.5, for places that training has not seen: f
            are the features of the backbone as it began, where `beside_pretrained` has put it beside, and else those of
            the backbone as it is. Of `spoc_encoder`: "spoc", what the loss sees, or "multi-scale", its sum over the
            scales 1, 0.75 and 0.5 as far as they leave 32 pixels. Of `classified`: "probabilities" too, p, those of
            the labels as the classifier sees them, and "projection+probabilities", "backbone+probabilities" or
            "spoc+probabilities", two beside each other, whose similarity is (z . z' + p . p' / 4) / 1.25 for the
            first, z, and p of unit norm. None for what the loss sees.

    Returns:
        Model of the same weights from pixels to (B, D), (B, F), (B, C) or two of them side by side, unit norm, float32.

    Raises:
        ValueError: For another descriptor.
    """
    known = descriptors_of(encoder)
    if descriptor not in (None, *known):
        raise ValueError(f"descriptor must be one of {', '.join(known)} for this encoder, got '{descriptor}'.")
    if descriptor in (None, known[0]):
        embedding = next((layer.output for layer in encoder.layers if layer.name == "embedding"), encoder.outputs[0])
        is_all = len(encoder.outputs) == 1 and embedding is encoder.outputs[0]
        return encoder if is_all else keras.Model(encoder.input, embedding, name="encoder")
    if descriptor == "multi-scale":
        size = encoder.input_shape[1]
        return multi_scale_descriptor(encoder, [scale for scale in SCALES if round(size * scale) >= SMALLEST])
    return keras.Model(
        encoder.input, _described(encoder, descriptor, descriptor.replace("+", "_and_")), name="descriptor"
    )


def _described(encoder: keras.Model, descriptor: str, prefix: str) -> Tensor:
    """A descriptor other than the first, of layers whose names begin with a prefix.

    One model may hold several, and a name that Keras chose might be in an encoder that was loaded from a file.
    """
    if descriptor == ROBUST:
        learned = descriptor_model(encoder).outputs[0]
        kept = any(layer.name == PRETRAINED for layer in encoder.layers)
        features = encoder.get_layer(PRETRAINED).output if kept else encoder.get_layer("features").output
        features = layers.UnitNormalization(dtype="float32", name=f"{prefix}_unit")(features)
        halves = (features, 1 - LEARNED), (learned, LEARNED)
        scaled = [
            layers.Rescaling(math.sqrt(share), dtype="float32", name=f"{prefix}_half{number}")(half)
            for number, (half, share) in enumerate(halves)
        ]
        return layers.Concatenate(dtype="float32", name=f"{prefix}_beside")(scaled)
    first, beside, _ = descriptor.partition("+")
    if beside:
        known = descriptors_of(encoder)[0]
        one = descriptor_model(encoder).outputs[0] if first == known else _described(encoder, first, f"{prefix}_first")
        share = layers.Rescaling(SHARE, dtype="float32", name=f"{prefix}_share")
        both = [one, share(_described(encoder, PROBABILITIES, f"{prefix}_second"))]
        features = layers.Concatenate(dtype="float32", name=f"{prefix}_beside")(both)
    elif descriptor == PROBABILITIES:
        logits = encoder.get_layer("logits").output
        features = layers.Activation("sigmoid", dtype="float32", name=f"{prefix}_sigmoid")(logits)
    else:
        features = encoder.get_layer("features").output
    return layers.UnitNormalization(dtype="float32", name=f"{prefix}_unit")(features)


def all_descriptors(encoder: keras.Model, *, turns: int = 1) -> tuple[keras.Model, dict[str, int]]:
    """One model of all descriptors of an encoder side by side, each up to a factor, and the width of each."""
    models = {name: descriptor_model(encoder, name) for name in descriptors_of(encoder)}
    pixels = encoder.inputs[0]
    outputs = [model.outputs[0] if model.inputs[0] is pixels else model(pixels) for model in models.values()]
    joined = layers.Concatenate(dtype="float32", name="all_descriptors")(outputs)
    model = keras.Model(pixels, joined, name="descriptors")
    return turned(model, turns), {name: model.output_shape[1] for name, model in models.items()}


def turned(model: keras.Model, turns: int) -> keras.Model:
    """The descriptor of a tile whichever way up it is: the mean over turns, at the cost of as many passes.

        z = g / ||g||,  g = sum over the turns of the descriptor of the turned tile

    Args:
        model: From pixels (B, S, S, 3) to (B, D), unit norm.
        turns: 1, as it is; 2, also upside down; 4, all quarter turns.

    Returns:
        Model from pixels to (B, D), unit norm, float32. With 4 turns a turned tile has the same descriptor.
    """
    if turns == 1:
        return model
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    found = [model(_quarter_turns(pixels, quarter)) for quarter in range(0, 4, 4 // turns)]
    total = layers.Add(dtype="float32")(found)
    return keras.Model(pixels, layers.UnitNormalization(dtype="float32", name="turned")(total), name="descriptor")


def _quarter_turns(pixels: Tensor, quarters: int) -> Tensor:
    turned = keras.ops.transpose(pixels, (0, 2, 1, 3)) if quarters % 2 else pixels
    for axis in {0: (), 1: (1,), 2: (1, 2), 3: (2,)}[quarters]:  # one by one, as OpenVINO knows it
        turned = keras.ops.flip(turned, axis=axis)
    return turned


def searchable(model: keras.Model) -> keras.Model:
    """A trained model without its proxies, which only training needs; its classifier stays, which is a descriptor.

    From pixels to the embedding (B, D), and the logits (B, C) if there are such, by layers of Keras and `fast_layers`.
    """
    encoder = descriptor_model(model)
    if PROBABILITIES not in descriptors_of(model):
        return encoder
    return keras.Model(model.inputs, [encoder.outputs[0], model.get_layer("logits").output], name="encoder")


def beside_pretrained(encoder: keras.Model, backbone: keras.Model) -> keras.Model:
    """An encoder that also holds its backbone as it began, for "robust".

    What training learned of one place may not be so in another, and what the backbone knew is still there. Its
    features (B, F) follow the encoder's other outputs. Only "robust" takes the second pass through it.
    """
    kept = keras.Model(backbone.inputs[0], backbone.outputs[0], name="backbone_as_it_began")
    features = layers.Activation("linear", dtype="float32", name=PRETRAINED)(kept(encoder.inputs[0]))
    return keras.Model(encoder.inputs, [*encoder.outputs, features], name=encoder.name)


def multi_scale_descriptor(encoder: keras.Model, scales: Sequence[float] = SCALES) -> keras.Model:
    """The encoder's descriptor summed over several sizes of the image, for retrieval after training.

        z = g / ||g||,  g = sum over scales of the unit-norm descriptor of the image at that scale

    The encoder is one of `spoc_encoder`, scales are factors of the side that leave 32 pixels or more.
    """
    if not set(DESCRIPTORS["spoc"]) <= set(descriptors_of(encoder)):
        raise ValueError("encoder must be a model of spoc_encoder, got one without a layer called 'trunk'.")
    size = encoder.input_shape[1]
    sides = [round(size * scale) for scale in scales]
    if not sides or min(sides) < SMALLEST:
        raise ValueError(
            f"scales must be one or more factors that leave a side of at least 32 pixels, got {tuple(scales)} "
            f"for images of {size}."
        )
    trunk = encoder.get_layer("trunk")
    pixels = keras.Input(encoder.input_shape[1:], name="pixels")
    descriptors = []
    for side in sides:
        resized = pixels if side == size else layers.Resizing(side, side, antialias=True)(pixels)
        descriptors.append(layers.UnitNormalization(dtype="float32")(sum_of_maps(trunk(resized))))
    total = descriptors[0] if len(descriptors) == 1 else layers.Add(dtype="float32")(descriptors)
    return keras.Model(pixels, layers.UnitNormalization(dtype="float32", name="descriptor")(total), name="descriptor")
