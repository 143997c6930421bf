"""Label-aware resampling of a `tf.data` stream that offers no random access, and the keys of stateless draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def repeat_by_factor(
    dataset: tf.data.Dataset,
    factors: np.ndarray | Callable[[Any], tf.Tensor],
    *,
    buffer_size: int,
    seed: int,
    epoch: int | tf.Tensor = 0,
) -> tf.data.Dataset:
    """Resamples a stream that offers no random access, in one pass.

    Each element is emitted floor(f) times, plus once more with probability f - floor(f), and the result goes
    through a shuffle buffer.

    Args:
        dataset: Finite stream of any elements, in a repeatable order.
        factors: (N,) factors by position in the stream (`repeat_factors`), or a function from an element to
            its scalar factor.
        buffer_size: Elements in the shuffle buffer, >= 1. Repeats of an element leave it side by side, so it
            should span many batches; 1 does not shuffle.
        seed: Any integer.
        epoch: Number of the pass; each has its own draws and its own order. May be a tensor.

    Returns:
        Dataset of the same elements, the same at every iteration.

    Raises:
        ValueError: If `buffer_size` is below 1.

    Example:
        >>> factors = np.array([1.0, 0.0, 2.0])
        >>> stream = repeat_by_factor(tf.data.Dataset.range(3), factors, buffer_size=8, seed=0)
        >>> sorted(int(element) for element in stream)
        [0, 2, 2]

    Reference:
        Gupta, Dollar and Girshick, "LVIS", CVPR 2019 (repeat-factor sampling).
    """
    if buffer_size < 1:
        raise ValueError(f"buffer_size must be >= 1, got {buffer_size}.")
    draw_key, shuffle_key = (stateless_seed(seed, epoch, stream) for stream in range(2))
    factors = factors if callable(factors) else tf.constant(factors, tf.float64)

    def repeated(position: tf.Tensor, element: Any) -> tf.data.Dataset:
        factor = tf.cast(factors(element) if callable(factors) else factors[position], tf.float64)
        key = tf.random.experimental.stateless_fold_in(draw_key, position, "philox")
        uniform = tf.random.stateless_uniform([], key, dtype=tf.float64, alg="philox")
        return tf.data.Dataset.from_tensors(element).repeat(tf.cast(tf.floor(factor + uniform), tf.int64))

    stream = dataset.enumerate().flat_map(repeated)

    def shuffled(_: tf.Tensor) -> tf.data.Dataset:
        # shuffle() mixes the global seed in. Set here it is the one of this function's graph alone, and the
        # order depends on (seed, epoch) whether or not the program called tf.random.set_seed.
        tf.random.set_seed(1)
        return stream.shuffle(buffer_size, seed=shuffle_key[0], reshuffle_each_iteration=False)

    return tf.data.Dataset.range(1).flat_map(shuffled)


def stateless_seed(seed: int, *counters: int | tf.Tensor) -> tf.Tensor:
    """Key for `tf.random.stateless_*`, of its own for each combination of seed and counters.

    Args:
        seed: Any integer.
        *counters: Integers or integer tensors, such as epoch and step.

    Returns:
        (2,) int64.

    Example:
        >>> stateless_seed(0, 1, 2).shape
        TensorShape([2])
    """
    key = tf.constant([seed, 0], tf.int64)
    for counter in counters:
        key = tf.random.experimental.stateless_fold_in(key, tf.cast(counter, tf.int64), "philox")
    return key
