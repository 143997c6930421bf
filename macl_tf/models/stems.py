"""Weights that know red, green and blue, for a network that sees other bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def of_channels(values: Array, shape: Sequence[int], rgb: Sequence[int]) -> Array:
    """Weights for another number of channels, or for colours in other places.

    Red, green and blue are kept, any other band gets the mean of the three:

        W'_b = s W_c(b),  or s mean over c of W_c;  s = 3 / N for kernels, so that activations keep their size

    Args:
        values: Of three channels, in one axis; statistics (3,), or a kernel (h, w, 3, out).
        shape: What is wanted, with N channels in that axis.
        rgb: Positions of red, green and blue among the N, in the order of the three; the same one thrice where
            there are fewer than three.

    Returns:
        The values themselves where shape and order are theirs.

    Raises:
        ValueError: If shapes differ otherwise.

    Example:
        >>> of_channels(np.array([[[[1.0], [2.0], [6.0]]]]), (1, 1, 4, 1), (2, 1, 0))[0, 0, :, 0]
        array([4.5 , 1.5 , 0.75, 2.25])

    Reference:
        Averaging is what timm does, Wightman, PyTorch Image Models, 2019.
    """
    if not shape:
        return values
    kernel = len(shape) == 4
    axis = len(shape) - 2 if kernel else len(shape) - 1
    others = tuple(shape[:axis]) + tuple(shape[axis + 1 :])
    same = tuple(shape) == values.shape
    if same and (tuple(rgb) == (0, 1, 2) or shape[axis] != 3):
        return values
    if len(shape) != values.ndim or values.shape[axis] != 3 or values.shape[:axis] + values.shape[axis + 1 :] != others:
        raise ValueError(f"weights must be of shape {tuple(shape)} but for three channels, got {values.shape}.")
    found = np.repeat(values.mean(axis=axis, keepdims=True), shape[axis], axis=axis)
    if len(set(rgb)) == 3:
        np.moveaxis(found, axis, 0)[list(rgb)] = np.moveaxis(values, axis, 0)
    return found * (3 / shape[axis]) if kernel else found
