"""What all losses over a global batch share: rows made whole across replicas, one value per row, checked input.

Letters: B rows of the global batch, b rows of this replica, D dimensions, C labels.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from macl_tf.labels import LabelStatistics, check_multi_hot
from macl_tf.losses.registry import BY_NAME

Tensor = Any

# A logit that exp() turns into 0 whatever the row's maximum is. Finite, because 0 x inf is NaN.
MASKED = -1e30
# Reductions that divide by the rows of a replica; only these need the share of an uneven batch.
MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
_SHORTEST = 1e-12  # squared norm below which an embedding is not made a unit long, as in TensorFlow


class Batch(NamedTuple):
    """The rows that a loss is computed of; on one device the last three are the first two themselves, and 0."""

    labels: Tensor  # (b, C) multi-hot, of this replica
    embeddings: Tensor  # (b, D) of this replica, of unit norm where the loss normalises
    all_labels: Tensor  # (B, C) of the global batch
    all_embeddings: Tensor  # (B, D) of the global batch
    offset: Tensor  # row of the global batch at which this replica's rows begin

    @property
    def whole(self) -> bool:
        """Whether these rows are all rows of the global batch."""
        return self.all_embeddings is self.embeddings

    @property
    def size(self) -> Tensor:
        """B."""
        return ops.shape(self.all_labels)[0]


def gather_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of the whole global batch, wherever this is called from.

    Gradients flow back through the rows that are gathered from the replicas of a `tf.distribute` strategy. Returned are
    embeddings (B, D) and labels (B, C), the very tensors that came in where there is one replica; the row at which this
    replica's begin; and the scale b R / B that turns a mean over this replica's rows, divided by R replicas as Keras
    does, into its share of the mean over the global batch: 1 unless the last batch is uneven.
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


def known_to_keras(kind: type[keras.losses.Loss]) -> type[keras.losses.Loss]:
    """The class, which Keras then finds in saved models, and by its name in `compile(loss="macl")`."""
    # Keras looks a text up in this table of its own alone, not among what is registered.
    by_name = vars(sys.modules[keras.losses.get.__module__]).get("ALL_OBJECTS_DICT", {})
    for name, entry in BY_NAME.items():
        if entry.kind == kind.__name__:
            by_name.setdefault(name, kind)
    return keras.saving.register_keras_serializable("macl_tf")(kind)


def in_range(name: str, value: float, rule: str, holds: bool) -> float:
    """The value; a ValueError that gives rule and value unless the rule holds (NaN holds none)."""
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}.")
    return float(value)


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
    """1 if the labels (B, C) hold only 0 and 1; else an error, or NaN in a step that cannot raise one (XLA, JAX)."""
    if is_concrete(labels):
        check_multi_hot(ops.convert_to_numpy(labels))
        return ops.ones((), dtype)
    valid = ops.all(ops.logical_or(ops.equal(labels, 0), ops.equal(labels, 1)))
    if keras.config.backend() == "tensorflow":
        valid = refused_in_graph(labels, valid)
    return one_or_nan(valid, dtype)


def refused_in_graph(labels: Tensor, valid: Tensor) -> Tensor:
    """`valid`, which a TensorFlow graph gets only if it is true, and else stops with what `check_multi_hot` would say.

    What hangs on it is not computed then: no weight is touched. XLA and TPUs cannot stop, and get it as it is.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return valid
    sentence = (
        "labels must hold only 0 and 1, got {} in row {}, column {}. "
        "Class indices must be turned into multi-hot rows first."
    )

    def refuse() -> Any:
        place = tf.where(tf.logical_not(tf.logical_or(labels == 0, labels == 1)))[0]
        said = tf.strings.format(sentence, (tf.gather_nd(labels, place), place[0], place[1]))
        with tf.control_dependencies([tf.debugging.Assert(False, [said])]):
            return tf.constant(False)

    return tf.cond(valid, lambda: tf.constant(True), refuse)  # the sentence costs nothing unless it is needed


def is_concrete(tensor: Tensor) -> bool:
    """Whether a tensor has its values now, and is not a symbol in a function that is being compiled."""
    if keras.config.backend() == "tensorflow":
        return hasattr(tensor, "numpy")
    if keras.config.backend() == "jax":
        return not isinstance(tensor, importlib.import_module("jax").core.Tracer)
    return True


class BatchLoss(keras.losses.Loss):
    """A loss over the rows of the global batch, on one device or several. A subclass writes `rows`.

    `y_true` is multi-hot (B, C), `y_pred` are embeddings (B, D). Under `tf.distribute` the rows of all replicas are
    gathered: value and gradient are those of the whole global batch on one device.

    `call` gives a vector, one value per row of this replica, whose mean over the *global* batch is the loss:
    Keras divides a vector by the rows and by the replicas, a scalar by neither. It is NaN if an embedding is not
    finite: a loss that mines its pairs would pass over a broken row in silence.

    Args:
        normalize: Whether embeddings are divided by their norm before anything else. True by default where a loss is
            of cosines or of distances on the sphere; False where it is of raw distances or products, as published.
        name: Name of the loss, by default that of `macl_tf.losses.registry`.
        reduction: As in `keras.losses.Loss`.
        dtype: Precision of the computation, the norm included: float32 by default, under mixed precision too.

    Raises:
        ValueError: For a hyper-parameter outside its range; when called, for labels and embeddings that are not
            (B, C) and (B, D), and for labels other than 0 and 1. A compiled step of TensorFlow stops with
            `InvalidArgumentError` for those; under XLA (`jit_compile=True`, which Keras chooses on GPUs), on TPUs
            and on JAX nothing can stop it, and the loss is NaN.
    """

    # What `__init__` takes and an attribute of that name keeps; beside those of the bases.
    arguments: ClassVar[tuple[str, ...]] = ("normalize",)

    def __init__(
        self,
        *,
        normalize: bool = True,
        name: str | None = None,
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        kinds = {kind.__name__ for kind in type(self).__mro__}
        own_name = next((known for known, entry in BY_NAME.items() if entry.kind in kinds), None)
        super().__init__(name=name or own_name, reduction=reduction, dtype=dtype)
        self.normalize = bool(normalize)

    def rows(self, batch: Batch) -> Tensor:
        """Values (b,) of the rows of this replica, whose mean over the B rows of the global batch is the loss."""
        raise NotImplementedError

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Values (b,) of the rows; see the class."""
        y_true, z = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        check_shapes(y_true, z, getattr(self, "label_statistics", None))
        scale = multi_hot_or_nan(y_true, z.dtype)
        if self.normalize:
            # A row beyond the range of squares becomes NaN too.
            squares = ops.sum(ops.square(z), axis=1, keepdims=True)
            z = z / ops.sqrt(ops.maximum(squares, _SHORTEST)) * one_or_nan(ops.all(ops.isfinite(squares)), z.dtype)
        y = ops.cast(y_true, z.dtype)
        all_z, all_y, offset, share = gather_batch(z, y)
        values = self.rows(Batch(all_y if all_z is z else y, z, all_y, all_z, offset))
        scale = scale * one_or_nan(ops.all(ops.isfinite(all_z)), z.dtype)
        return values * (scale * share if self.reduction in MEANS else scale)

    def get_config(self) -> dict[str, Any]:
        """Everything `__init__` takes, variables with their values now. A subclass adds what its own takes."""
        names = [name for kind in type(self).__mro__ for name in vars(kind).get("arguments", ())]
        return {**super().get_config(), "dtype": self.dtype, **{name: getattr(self, name) for name in names}}


def one_or_nan(holds: Tensor, dtype: Any) -> Tensor:
    """1 if it holds, else NaN."""
    return ops.cast(ops.where(holds, 1.0, float("nan")), dtype)
