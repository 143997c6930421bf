"""Label-aware sampling: images with rare labels are drawn more often.

Weights are NumPy. What draws is TensorFlow and stateless: every draw is a function of (seed, epoch), so a run
that was interrupted sees the batches of one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from macl_tf.labels import check_multi_hot


def label_aware_weights(labels: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Share of the draws that each image gets.

    u_i = (mean over c in y_i of 1 / n_c) ^ power, divided by its sum, n_c being the images that hold c.
    Power 1 is inverse frequency, 0 draws every labelled image alike. An image without a label has no positive
    to be compared with and is never drawn.

    Args:
        labels: (N, C) multi-hot labels of the training set.
        power: Exponent, >= 0.

    Returns:
        (N,) float64, >= 0, summing to 1; 0 for images without a label.

    Raises:
        ValueError: If `power` is negative or not finite, or if no image has a label.

    Example:
        >>> label_aware_weights(np.array([[1, 0], [1, 0], [0, 1], [0, 0]]), power=1.0).tolist()
        [0.25, 0.25, 0.5, 0.0]
    """
    labels = check_multi_hot(labels).astype(np.float64)
    if not 0 <= power < np.inf:
        raise ValueError(f"power must be finite and >= 0, got {power}.")
    num_labels = labels.sum(axis=1)
    if not num_labels.any():
        raise ValueError(f"At least one image must have a label, none of {len(labels)} has. Check the label table.")
    inverse_counts = 1.0 / np.maximum(labels.sum(axis=0), 1.0)
    mean_inverse = labels @ inverse_counts / np.maximum(num_labels, 1.0)
    weights = np.where(num_labels > 0, mean_inverse**power, 0.0)
    return weights / weights.sum()


def repeat_factors(weights: np.ndarray) -> np.ndarray:
    """How often each image is emitted per pass over a stream: f_i = u_i / mean u.

    Args:
        weights: (N,) from `label_aware_weights`.

    Returns:
        (N,) float64 with mean 1, so that a pass stays about as long as the data set.

    Example:
        >>> repeat_factors(np.array([0.25, 0.25, 0.5, 0.0])).tolist()
        [1.0, 1.0, 2.0, 0.0]
    """
    weights = check_weights(weights)
    return weights / weights.mean()


def expected_frequencies(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the drawn images that hold each label: sum over i of u_i y_ic / sum of u_i.

    Args:
        labels: (N, C) multi-hot labels.
        weights: (N,) from `label_aware_weights`; all equal gives the frequencies before resampling.

    Returns:
        (C,) float64 in [0, 1]. A multi-label image counts for each of its labels, so they do not sum to 1.

    Raises:
        ValueError: If the two differ in length.

    Example:
        >>> expected_frequencies(np.array([[1, 0], [1, 1]]), np.array([0.25, 0.75])).tolist()
        [1.0, 0.75]
    """
    labels, weights = check_multi_hot(labels), check_weights(weights)
    if len(labels) != len(weights):
        raise ValueError(f"labels and weights must have one row per image, got {len(labels)} and {len(weights)}.")
    return (weights / weights.sum()) @ labels.astype(np.float64)


def draw_epoch(weights: np.ndarray | tf.Tensor, num_draws: int, *, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
    """Draws the images of one epoch in proportion to their weights (systematic sampling).

    The images lie end to end on [0, 1), each as long as its share, in an order shuffled anew for each epoch;
    the points (k + U) / num_draws, k = 0 .. num_draws - 1, with one uniform U, are the draws, which are then
    shuffled. Every image is thus drawn its expected number of times rounded down or up (independent draws
    would show some images thrice by luck and others never), and the mean over epochs is exact. With equal
    weights and as many draws as images, each is drawn once.

    Args:
        weights: (N,) >= 0, any scale.
        num_draws: Draws in the epoch, >= 1.
        seed: Any integer.
        epoch: Number of the epoch; may be a tensor, so that this can run inside `tf.data`.

    Returns:
        (num_draws,) int64 positions in `weights`; never one of weight 0.

    Example:
        >>> sorted(draw_epoch([0.25, 0.25, 0.5, 0.0], 4, seed=0, epoch=0).numpy().tolist())
        [0, 1, 2, 2]

    Reference:
        Madow and Madow, "On the theory of systematic sampling", Annals of Mathematical Statistics, 1944.
    """
    weights = tf.convert_to_tensor(weights, tf.float64)
    order_key, offset_key, shuffle_key = (stateless_seed(seed, epoch, stream) for stream in range(3))
    order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(weights, tf.int64)), order_key, "philox")
    ends = tf.cumsum(tf.gather(weights, order))
    offset = tf.random.stateless_uniform([], offset_key, dtype=tf.float64, alg="philox")
    points = (tf.range(num_draws, dtype=tf.float64) + offset) / tf.cast(num_draws, tf.float64) * ends[-1]
    # Strictly below the end, whatever the rounding: the first end beyond a point is then always one that its
    # own weight has moved, which rules out images of weight 0 as well.
    points = tf.minimum(points, tf.math.nextafter(ends[-1], tf.zeros_like(ends[-1])))
    drawn = tf.gather(order, tf.searchsorted(ends, points, side="right"))
    return tf.random.experimental.stateless_shuffle(drawn, shuffle_key, "philox")


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


def check_weights(weights: np.ndarray) -> np.ndarray:
    """Returns weights as (N,) float64, or says what is wrong with them.

    Args:
        weights: (N,) numbers, >= 0, at least one above 0.

    Returns:
        (N,) float64.

    Raises:
        ValueError: If the rule above is broken.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            "weights must be a vector of finite numbers >= 0 with at least one above 0, got "
            f"shape {weights.shape}, minimum {weights.min(initial=0.0)}, sum {weights.sum()}."
        )
    return weights
