"""ResNet-18."""

from __future__ import annotations

from typing import Any

from keras import layers

Tensor = Any
SMALL_TILE = 96  # below this, a 7x7 stem sees a third of the tile at once


def resnet18(pixels: Tensor, *, small_stem: bool = False, width: int = 64) -> Tensor:
    """ResNet-18 (He et al., 2016, table 1), no classifier: scaled (B, S, S, 3) to maps (B, S / 32, S / 32, 8 width).

    A small stem is a first convolution of 3x3 instead of 7x7, for tiles under 96 px. Stride and pooling stay: keeping
    every pixel would cost four times the time.
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
