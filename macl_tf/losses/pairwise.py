"""The one kernel of the pairwise losses, and their rows made whole across replicas.

Every loss of the family is L_i = - sum_j W_ij log softmax_j(s_ij / T_ij) over j != i, with
s_ij = z_i . z_j: its target weights W and temperatures T say which loss it is, and both depend on
labels alone. Letters: B rows of the global batch, b rows of this replica, D dimensions, C labels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from macl_tf.labels import LabelStatistics

Tensor = Any

# Reductions that divide by the rows of a replica; only these need the share of an uneven batch.
MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")

# A logit that exp() turns into 0 whatever the row's maximum is. Finite, because 0 x inf is NaN.
MASKED = -1e30


def not_self(rows: int | Tensor, columns: int | Tensor, offset: int | Tensor = 0) -> Tensor:
    """Boolean (rows, columns) mask that is False where column j is row i itself, j = offset + i."""
    positions = ops.arange(rows) + offset
    return ops.expand_dims(positions, 1) != ops.arange(columns)


def row_losses(anchors: Tensor, keys: Tensor, weights: Tensor, temperature: Tensor, others: Tensor) -> Tensor:
    """Weighted cross-entropy of each anchor against all other rows, from one stable log-sum per row.

    L_i = - sum_j W_ij s_ij / T_ij + (sum_j W_ij) log sum over a != i of exp(s_ia / T_ia)

    Args:
        anchors: (b, D) embeddings, unit norm.
        keys: (B, D) embeddings, unit norm.
        weights: (b, B), >= 0, and 0 where `others` is False.
        temperature: (b, B) or a scalar, > 0.
        others: (b, B) boolean, False where key j is anchor i itself.

    Returns:
        (b,) losses; 0, with zero gradient, for a row whose weights are all 0.
    """
    logits = ops.matmul(anchors, ops.transpose(keys)) / temperature
    masked = ops.where(others, logits, ops.cast(MASKED, logits.dtype))
    log_sum = ops.logsumexp(masked, axis=1)
    return ops.sum(weights, axis=1) * log_sum - ops.sum(weights * logits, axis=1)


def gather_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of the whole global batch, wherever this is called from.

    Under a `tf.distribute` strategy the rows of all replicas are gathered, and gradients flow back
    through the gathered rows; elsewhere the batch is already whole.

    Args:
        embeddings: (b, D) of this replica.
        labels: (b, C) of this replica.

    Returns:
        The (B, D) embeddings and (B, C) labels of the global batch, the row at which this replica's
        rows begin in them, and the scale b R / B that turns a mean over this replica's rows, divided
        by R replicas as Keras does, into its share of the mean over the global batch. The scale is 1
        unless replicas hold different numbers of rows, as in an uneven last batch.
    """
    one = ops.ones((), embeddings.dtype)
    if keras.config.backend() != "tensorflow":
        return embeddings, labels, ops.zeros((), "int32"), one
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()  # None while Keras builds the loss in fit
    if replica is None or replica.num_replicas_in_sync == 1:
        return embeddings, labels, tf.zeros((), tf.int32), one
    # One tensor and so one collective: two could be paired wrongly with the optimizer's. Each row brings its
    # replica's number, which tells where the rows of this one begin, however unevenly a batch was split.
    index = tf.cast(replica.replica_id_in_sync_group, embeddings.dtype)
    width, num_labels = embeddings.shape[1], labels.shape[1]
    rows = tf.concat([embeddings, labels, tf.fill([tf.shape(labels)[0], 1], index)], axis=1)
    all_z, all_y, home = tf.split(replica.all_gather(rows, axis=0), [width, num_labels, 1], axis=1)
    count = functools.partial(tf.math.count_nonzero, dtype=tf.int32)
    share = count(home == index) * replica.num_replicas_in_sync / tf.shape(home)[0]
    return all_z, all_y, count(home < index), tf.cast(share, embeddings.dtype)


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` as a `tf.function` where TensorFlow calls it eagerly, itself everywhere else.

    Eagerly it saves the dispatch of some thirty operations. In a graph the caller's own compilation takes it
    in; a `tf.function` nested there would gain nothing, and under XLA its gradient is wrong when a tensor is
    passed twice, as anchors and as keys (TensorFlow 2.20 on CPU: values off by up to 7).
    """
    if keras.config.backend() != "tensorflow":
        return function
    import tensorflow as tf

    traced = tf.function(function, autograph=False)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        return (traced if tf.executing_eagerly() else function)(*args, **kwargs)

    return call


def check_range(name: str, value: float, rule: str, holds: bool) -> None:
    """Raises a ValueError that gives rule and value unless the rule holds (NaN holds none)."""
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}.")


def check_shapes(labels: Tensor, embeddings: Tensor, statistics: LabelStatistics | None) -> None:
    """Raises a ValueError unless labels are (B, C), embeddings (B, D), and the statistics are of C labels."""
    y, z = tuple(labels.shape), tuple(embeddings.shape)
    if len(y) != 2 or len(z) != 2 or (None not in (y[0], z[0]) and y[0] != z[0]):
        raise ValueError(
            "labels must be multi-hot (B, C) and embeddings (B, D) with the same B, "
            f"got {y} and {z}. Class indices must be turned into multi-hot rows first."
        )
    if statistics is not None and y[1] != statistics.num_labels:
        raise ValueError(
            f"labels must have the {statistics.num_labels} columns of label_statistics, got {y[1]}. "
            "Compute the statistics from the same label table."
        )
