"""What all losses over a global batch share: rows made whole across replicas, one value per row, checked input.

Letters: B rows of the global batch, b rows of this replica, D dimensions, C labels.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from macl_tf.labels import LabelStatistics, check_multi_hot

Tensor = Any

# A logit that exp() turns into 0 whatever the row's maximum is. Finite, because 0 x inf is NaN.
MASKED = -1e30
# Reductions that divide by the rows of a replica; only these need the share of an uneven batch.
MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


def gather_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of the whole global batch, wherever this is called from.

    Under a `tf.distribute` strategy the rows of all replicas are gathered, and gradients flow back
    through the gathered rows; elsewhere the batch is already whole.

    Args:
        embeddings: (b, D) of this replica.
        labels: (b, C) of this replica.

    Returns:
        The (B, D) embeddings and (B, C) labels of the global batch (the very tensors that came in, where
        there is one replica), the row at which this replica's rows begin in them, and the scale b R / B
        that turns a mean over this replica's rows, divided by R replicas as Keras does, into its share of
        the mean over the global batch. The scale is 1 unless replicas hold different numbers of rows, as in
        an uneven last batch.
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

    # A new number of rows is traced as "any number of rows": at most two traces, however batches vary.
    traced = tf.function(function, autograph=False, reduce_retracing=True)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        return (traced if tf.executing_eagerly() else function)(*args, **kwargs)

    return call


def check_range(name: str, value: float, rule: str, holds: bool) -> None:
    """Raises a ValueError that gives rule and value unless the rule holds (NaN holds none)."""
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}.")


def check_shapes(labels: Tensor, embeddings: Tensor, statistics: LabelStatistics | None = None) -> None:
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


def multi_hot_or_nan(labels: Tensor, dtype: Any) -> Tensor:
    """1 if the labels (B, C) hold only 0 and 1; else an error, or NaN in a compiled step, which cannot raise one."""
    if is_concrete(labels):
        check_multi_hot(ops.convert_to_numpy(labels))
        return ops.ones((), dtype)
    valid = ops.all(ops.logical_or(ops.equal(labels, 0), ops.equal(labels, 1)))
    return ops.cast(ops.where(valid, 1.0, float("nan")), dtype)


def one_or_nan(embeddings: Tensor) -> Tensor:
    """1 if all embeddings are finite, else NaN: a loss that mines its pairs would pass over a broken row in silence."""
    return ops.cast(ops.where(ops.all(ops.isfinite(embeddings)), 1.0, float("nan")), embeddings.dtype)


def is_concrete(tensor: Tensor) -> bool:
    """Whether a tensor has its values now, and is not a symbol in a function that is being compiled."""
    if keras.config.backend() == "tensorflow":
        return hasattr(tensor, "numpy")
    if keras.config.backend() == "jax":
        return not isinstance(tensor, importlib.import_module("jax").core.Tracer)
    return True


class BatchLoss(keras.losses.Loss):
    """A loss over the rows of the global batch, on one device or several. A subclass writes `rows`.

    `call` gives a vector, one value per row of this replica, whose mean over the *global* batch is the loss:
    Keras divides a vector by the rows and by the replicas, a scalar by neither. A subclass stores each argument
    of its `__init__` under the argument's own name, for `get_config`.
    """

    def rows(
        self, labels: Tensor, embeddings: Tensor, all_labels: Tensor, all_embeddings: Tensor, offset: Tensor
    ) -> Tensor:
        """Values (b,) of the rows of this replica, whose mean over the B rows of the global batch is the loss.

        Args:
            labels: (b, C) multi-hot labels of this replica.
            embeddings: (b, D) of this replica.
            all_labels: (B, C) labels of the global batch; `labels` itself where there is one replica.
            all_embeddings: (B, D) of the global batch; `embeddings` itself where there is one replica.
            offset: Row of the global batch at which this replica's rows begin.
        """
        raise NotImplementedError

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Values per row, (B,), whose mean over the global batch is the loss; NaN if an embedding is not finite.

        Args:
            y_true: (B, C) multi-hot labels.
            y_pred: (B, D) embeddings.
        """
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        check_shapes(y_true, y_pred, getattr(self, "label_statistics", None))
        scale = multi_hot_or_nan(y_true, y_pred.dtype)
        all_z, all_y, offset, share = gather_batch(y_pred, ops.cast(y_true, y_pred.dtype))
        own = all_y if all_z is y_pred else ops.cast(y_true, y_pred.dtype)
        values = self.rows(own, y_pred, all_y, all_z, offset)
        scale = scale * one_or_nan(all_z)
        return values * (scale * share if self.reduction in MEANS else scale)

    def get_config(self) -> dict[str, Any]:
        """Everything `__init__` takes, variables with their values now."""
        arguments = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: plain(getattr(self, name)) for name in arguments}


def plain(value: Any) -> Any:
    """A constructor's argument as plain lists and numbers."""
    if isinstance(value, keras.Variable):
        return float(value)
    return value.get_config() if isinstance(value, LabelStatistics) else value
