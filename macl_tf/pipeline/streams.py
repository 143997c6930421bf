"""Keys of stateless draws."""

from __future__ import annotations

import tensorflow as tf


def stateless_seed(seed: int, *counters: int | tf.Tensor) -> tf.Tensor:
    """(2,) int64 key for `tf.random.stateless_*`, its own for each seed and counters, such as epoch and step."""
    key = tf.constant([seed, 0], tf.int64)
    for counter in counters:
        key = tf.random.experimental.stateless_fold_in(key, tf.cast(counter, tf.int64), "philox")
    return key
