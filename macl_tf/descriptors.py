"""SPoC descriptors: the feature maps of a network, summed over the image, and the same at several scales.

DCL trains such a descriptor end to end: what the loss sees is what retrieval compares, with no projection between.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers

from macl_tf.encoders import SMALL_TILE, Backbone, imagenet_resnet18, load_weights, resnet18

Tensor = Any


def spoc_encoder(
    image_size: int, *, backbone: Backbone | None = None, weights: str | Path | None = None
) -> keras.Model:
    """An encoder whose embedding is the sum of its feature maps over the image, divided by its norm.

        z = f / ||f||,  f = sum over x, y of features(x, y)

    Args:
        image_size: S, the side of a tile in pixels, at least 32.
        backbone: Function from scaled pixels (B, h, w, 3) in [-1, 1] of any height and width to feature maps
            (B, h', w', F), any Keras layers inside; ResNet-18 by default, with a 3x3 stem under 96 px.
        weights: None, or a `.weights.h5` file written by `save_weights` of the same encoder, or "imagenet" for
            ResNet-18 with ImageNet weights through the extra `hub` (downloaded).

    Returns:
        Model from pixels (B, S, S, 3) in 0 to 255, any numeric type, to (B, F) unit-norm float32 descriptors.
        Its layer `trunk` holds the feature maps, `features` their sum before the norm (up to a factor).

    Raises:
        ValueError: For a size below 32, a backbone that gives no maps, or weights that do not fit.
        FileNotFoundError: For a weights file that is not there.

    Example:
        >>> import numpy as np
        >>> spoc_encoder(64).predict(np.zeros((2, 64, 64, 3), "uint8"), verbose=0).shape
        (2, 512)

    Reference:
        Babenko and Lempitsky, Aggregating Deep Convolutional Features for Image Retrieval, ICCV 2015, without
        its centring prior, which photographs of objects want and tiles do not, and without whitening.
    """
    if image_size < 32:
        raise ValueError(f"image_size must be at least 32 (ResNet-18 halves it five times), got {image_size}.")
    if weights == "imagenet":
        if backbone is not None:
            raise ValueError("weights='imagenet' brings its own ResNet-18; give backbone or 'imagenet', not both.")
        backbone, weights = imagenet_resnet18(), None
    elif backbone is None:

        def backbone(x: Tensor) -> Tensor:
            return resnet18(x, small_stem=image_size < SMALL_TILE)

    scaled = keras.Input((None, None, 3))
    maps = backbone(scaled)
    if len(maps.shape) != 4:
        raise ValueError(f"backbone must give feature maps (B, h, w, F), got shape {tuple(maps.shape)}.")
    trunk = keras.Model(scaled, maps, name="trunk")
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    features = sum_of_maps(trunk(rescaled(pixels)), name="features")
    encoder = keras.Model(pixels, layers.UnitNormalization(dtype="float32", name="embedding")(features), name="encoder")
    if weights is not None:
        load_weights(encoder, Path(weights))
    return encoder


def multi_scale_descriptor(encoder: keras.Model, scales: Sequence[float] = (1.0, 0.75, 0.5)) -> keras.Model:
    """The encoder's descriptor summed over several sizes of the image, for retrieval after training.

        z = g / ||g||,  g = sum over scales of the unit-norm descriptor of the image at that scale

    Args:
        encoder: A model of `spoc_encoder`; the weights are shared.
        scales: Factors of the side, > 0; each resized side must be at least 32 pixels. The cost is the sum of
            their squares.

    Returns:
        Model from pixels (B, S, S, 3) to (B, F), unit norm, float32.

    Raises:
        ValueError: For no scales, one that makes the image too small, or a model without the layer `trunk`.

    Example:
        >>> import numpy as np
        >>> model = multi_scale_descriptor(spoc_encoder(64), scales=(1.0, 0.5))
        >>> model.predict(np.zeros((2, 64, 64, 3), "uint8"), verbose=0).shape
        (2, 512)
    """
    if "trunk" not in [layer.name for layer in encoder.layers]:
        raise ValueError("encoder must be a model of spoc_encoder, got one without a layer called 'trunk'.")
    size = encoder.input_shape[1]
    sides = [round(size * scale) for scale in scales]
    if not sides or min(sides) < 32:
        raise ValueError(
            f"scales must be one or more factors that leave a side of at least 32 pixels, got {tuple(scales)} "
            f"for images of {size}."
        )
    trunk = encoder.get_layer("trunk")
    pixels = keras.Input(encoder.input_shape[1:], name="pixels")
    descriptors = []
    for side in sides:
        resized = rescaled(pixels)
        if side != size:
            resized = layers.Resizing(side, side, antialias=True)(resized)
        descriptors.append(layers.UnitNormalization(dtype="float32")(sum_of_maps(trunk(resized))))
    total = descriptors[0] if len(descriptors) == 1 else layers.Add(dtype="float32")(descriptors)
    return keras.Model(pixels, layers.UnitNormalization(dtype="float32", name="descriptor")(total), name="descriptor")


def rescaled(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 255 in [-1, 1]."""
    return layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)


def sum_of_maps(maps: Tensor, name: str | None = None) -> Tensor:
    """Feature maps (B, h, w, F) summed over the image, as their mean (B, F), which no image size overflows.

    The norm that follows takes out the factor between the two. float32 under mixed precision too.
    """
    return layers.GlobalAveragePooling2D(dtype="float32", name=name)(maps)
