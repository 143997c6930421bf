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
    """Resamples a finite stream of repeatable order, without random access, in one pass (repeat-factor sampling).

    Each element is emitted floor(f) times, plus once more with probability f - floor(f); f is its factor by position,
    of (N,) `factors` (`samplers.repeat_factors`), or what a function of it gives. The result goes through a shuffle
    buffer: repeats enter it side by side, so it should span many batches; 1 does not shuffle. Each pass (`epoch`, which
    may be a tensor) has its own draws and order, the same at every iteration.
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
    """(2,) int64 key for `tf.random.stateless_*`, its own for each seed and counters, such as epoch and step."""
    key = tf.constant([seed, 0], tf.int64)
    for counter in counters:
        key = tf.random.experimental.stateless_fold_in(key, tf.cast(counter, tf.int64), "philox")
    return key
