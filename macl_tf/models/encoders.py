"""Encoders: a tile in, a unit-norm embedding out, preprocessing included.

An encoder is a functional `keras.Model` from pixels (B, S, S, 3) in 0 to 255 to an embedding (B, D), unit norm,
which the loss sees: a projection of the backbone's pooled output (`build_encoder`), or that output itself
(`spoc_encoder`). `descriptors.descriptor_model` offers either, and more, for retrieval.
"""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from macl_tf.models.pretrained import Backbone, Tensor, imagenet_resnet18, with_weights

SMALL_TILE = 96  # below this, a 7x7 stem sees a third of the tile at once


def resnet18(pixels: Tensor, *, small_stem: bool = False, width: int = 64) -> Tensor:
    """ResNet-18 (He et al., 2016, table 1), no classifier: scaled (B, S, S, 3) to maps (B, S / 32, S / 32, 8 width).

    A small stem is a 3x3 first convolution. Its stride and pooling stay: every pixel kept costs four times the time.
    """
    x = convolution(pixels, width, 3 if small_stem else 7, stride=2, name="stem")
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            x = basic_block(x, width * 2**stage, stride, name=f"stage{stage + 1}_block{block + 1}")
    return x


def basic_block(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """Two 3x3 convolutions and the shortcut around them."""
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = convolution(x, filters, 1, stride, name=f"{name}_shortcut")
    x = layers.ReLU()(convolution(x, filters, 3, stride, name=f"{name}_1"))
    x = convolution(x, filters, 3, 1, name=f"{name}_2")
    return layers.ReLU()(layers.Add()([x, shortcut]))


def convolution(x: Tensor, filters: int, size: int, stride: int, name: str) -> Tensor:
    """Convolution without bias and batch normalisation."""
    x = layers.Conv2D(
        filters, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)


def build_encoder(
    image_size: int,
    *,
    embedding_dim: int = 128,
    backbone: Backbone | None = None,
    width: int = 64,
    weights: str | Path | None = None,
    hidden_dim: int = 512,
) -> keras.Model:
    """An encoder with a two-layer projection head.

    Args:
        image_size: S, the side of a tile in pixels, at least 32.
        embedding_dim: D, the width of the projection.
        backbone: Function from scaled pixels (B, S, S, 3) in [-1, 1] to feature maps (B, h, w, F) or vectors
            (B, F), any Keras layers inside; ResNet-18 by default, with a 3x3 stem under 96 px.
        width: Channels of the default backbone's first stage, >= 8: 64 is ResNet-18, half trains three times as fast.
        weights: None; or `encoder.keras` of an earlier run of the same backbone (the projection is taken too if it has
            the same shapes); or a `.weights.h5` file that `save_weights` of the same encoder wrote; or "imagenet",
            ResNet-18 with ImageNet weights through the extra `hub` (downloaded).
        hidden_dim: Width of the hidden layer of the projection head.

    Returns:
        Model from pixels (B, S, S, 3) in 0 to 255, any numeric type, to (B, D) unit-norm float32 embeddings.

    Raises:
        ValueError: For a size or dimension out of range, or weights that do not fit the encoder.
        FileNotFoundError: For a weights file that is not there.

    Example:
        >>> import numpy as np
        >>> encoder = build_encoder(64, embedding_dim=32)
        >>> encoder.predict(np.zeros((2, 64, 64, 3), "uint8"), verbose=0).shape
        (2, 32)
    """
    if embedding_dim < 2:
        raise ValueError(f"embedding_dim must be at least 2, got {embedding_dim}.")
    backbone, weights = chosen_backbone(image_size, backbone, width, weights)
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = backbone(rescaled(pixels, name="scale"))
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    x = layers.Activation("linear", dtype="float32", name="features")(x)  # what descriptor_model looks for
    x = layers.Dense(hidden_dim, use_bias=False, name="projection_1")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="projection_norm")(x)
    x = layers.ReLU()(x)
    x = layers.Dense(embedding_dim, name="projection_2")(x)
    # Norms in float32: under mixed precision a half-precision norm would be off by a thousandth.
    x = layers.Activation("linear", dtype="float32")(x)
    embedding = layers.UnitNormalization(dtype="float32", name="embedding")(x)
    return with_weights(keras.Model(pixels, embedding, name="encoder"), weights)


def classified(encoder: keras.Model, num_labels: int, *, head: Tensor = None) -> keras.Model:
    """The encoder with a classifier on its features, two outputs for two losses.

        [z, x],  x = W features + b

        model.compile("adam", loss=[macl_tf.MACL(), keras.losses.BinaryCrossentropy(from_logits=True)],
                      loss_weights=[1, 20])
        model.fit(images, [labels, labels])

    The cross-entropy of one label is about 0.3, a contrastive loss about 4: equal shares need a weight of 10 or more.
    The encoder needs a layer called `features`; the logits' is called `logits`. `head` stands in place of the
    embedding, such as the cosines of a `ProxyHead` on it.

    Example:
        >>> classified(build_encoder(64, embedding_dim=32), 17).output_shape
        [(None, 32), (None, 17)]
    """
    features = encoder.get_layer("features").output
    logits = layers.Dense(num_labels, dtype="float32", name="logits")(features)
    first = encoder.outputs[0] if head is None else head
    return keras.Model(encoder.inputs, [first, logits], name=encoder.name)


def spoc_encoder(
    image_size: int, *, backbone: Backbone | None = None, width: int = 64, weights: str | Path | None = None
) -> keras.Model:
    """An encoder whose embedding is the sum of its feature maps over the image, divided by its norm.

        z = f / ||f||,  f = sum over x, y of features(x, y)

    Args:
        image_size: S, the side of a tile in pixels, at least 32.
        backbone: As in `build_encoder`, for pixels of any height and width to feature maps (B, h', w', F).
        width: As in `build_encoder`.
        weights: As in `build_encoder`, of the same trunk.

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
    backbone, weights = chosen_backbone(image_size, backbone, width, weights)
    scaled = keras.Input((None, None, 3))
    maps = backbone(scaled)
    if len(maps.shape) != 4:
        raise ValueError(f"backbone must give feature maps (B, h, w, F), got shape {tuple(maps.shape)}.")
    trunk = keras.Model(scaled, maps, name="trunk")
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    features = sum_of_maps(trunk(rescaled(pixels)), name="features")
    embedding = layers.UnitNormalization(dtype="float32", name="embedding")(features)
    return with_weights(keras.Model(pixels, embedding, name="encoder"), weights)


def rescaled(pixels: Tensor, name: str | None = None) -> Tensor:
    """Pixels of 0 to 255 in [-1, 1]."""
    return layers.Rescaling(1 / 127.5, offset=-1.0, name=name)(pixels)


def sum_of_maps(maps: Tensor, name: str | None = None) -> Tensor:
    """Feature maps (B, h, w, F) summed over the image, as their mean (B, F), which no image size overflows.

    The norm that follows takes out the factor between the two. float32 under mixed precision too.
    """
    return layers.GlobalAveragePooling2D(dtype="float32", name=name)(maps)


def chosen_backbone(
    image_size: int, backbone: Backbone | None, width: int, weights: str | Path | None
) -> tuple[Backbone, str | Path | None]:
    """The backbone that the arguments of an encoder mean, and the weights that are still to be loaded."""
    if image_size < 32:
        raise ValueError(f"image_size must be at least 32 (ResNet-18 halves it five times), got {image_size}.")
    if width < 8:
        raise ValueError(f"width must be at least 8 channels, got {width}.")
    if width != 64 and (backbone is not None or weights == "imagenet"):
        raise ValueError(f"width must be 64 with a backbone or weights='imagenet', which bring their own, got {width}.")
    if weights == "imagenet":
        if backbone is not None:
            raise ValueError("weights='imagenet' brings its own ResNet-18; give backbone or 'imagenet', not both.")
        return imagenet_resnet18(), None
    return backbone or (lambda x: resnet18(x, small_stem=image_size < SMALL_TILE, width=width)), weights
