"""The one kernel of the pairwise losses, and the class that each of them is a few lines of.

Every loss of the family is L_i = - sum_j W_ij log softmax_j(s_ij / T_ij) over j != i, with
s_ij = z_i . z_j: its target weights W and temperatures T say which loss it is, and both depend on
labels alone (`targets`). Letters: B rows of the global batch, b rows of this replica, D dimensions, C labels.

Here stands the dense form in `keras.ops`, which every Keras backend differentiates itself. On TensorFlow `tiles` takes
its place: the same rows with their gradient written out, and no B x B matrix for large batches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import keras
from keras import ops

from macl_tf.losses.batch_loss import MASKED, Batch, BatchLoss, in_range
from macl_tf.losses.targets import Parameters, Target

Tensor = Any


def not_self(rows: int | Tensor, columns: int | Tensor, offset: int | Tensor = 0) -> Tensor:
    """Boolean (rows, columns) mask that is False where column j is row i itself, j = offset + i."""
    positions = ops.arange(rows, dtype="int32") + offset
    return ops.expand_dims(positions, 1) != ops.arange(columns, dtype="int32")


def dense_rows(target: Target, parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor]:
    """L_i (b,) and whether anchor i has a positive (b,), with b x B matrices and the backend's own gradient.

        L_i = - sum_j W_ij s_ij / T_ij + (sum_j W_ij) log sum over a != i of exp(s_ia / T_ia)

    Both sums are taken of what lies below the row's largest logit, so that no rounding makes the loss negative.
    """
    anchors, keys = target.describe(batch.labels, parameters), target.describe(batch.all_labels, parameters)
    weights, sharpness = target.weigh(anchors, keys, parameters)
    others = not_self(ops.shape(batch.labels)[0], batch.size, batch.offset)
    if target.include_self:
        others = ops.ones_like(others)
    weights = ops.where(others, weights, 0.0)
    counted = weights if target.normalised_by == "sum" else ops.cast(weights > 0, weights.dtype)
    norms = ops.sum(counted, axis=1)
    weights = weights / ops.where(norms > 0, norms, 1.0)[:, None]
    logits = ops.matmul(batch.embeddings, ops.transpose(batch.all_embeddings)) * sharpness
    masked = ops.where(others, logits, ops.cast(MASKED, logits.dtype))
    top = ops.max(masked, axis=1, keepdims=True, initial=MASKED)
    below = masked - ops.stop_gradient(top)  # the loss does not change by it
    log_sum = ops.log(ops.sum(ops.exp(below), axis=1))
    return ops.sum(weights, axis=1) * log_sum - ops.sum(weights * below, axis=1), norms > 0


def pairwise(
    target: Target, parameters: Parameters, batch: Batch, *, whole: bool = True, tile_size: int | None = None
) -> Tensor:
    """(b,) values of a loss of the family, whose mean over the global batch is the loss.

    B a_i L_i / sum a over the anchors of the batch with a positive (a = 1, or as the loss says), 0 for an anchor
    without. If the anchors are the `whole` batch, `all_labels` and `all_embeddings` are not read.
    """
    if whole:
        batch = batch._replace(all_labels=batch.labels, all_embeddings=batch.embeddings)
    own = target.importance(batch.labels, parameters)
    if keras.config.backend() == "tensorflow":
        from macl_tf.losses import tiles

        losses, positive = tiles.rows(target, parameters, batch, own, whole=whole, tile_size=tile_size)
        all_positive = positive if whole else tiles.with_positive(target, parameters, batch.all_labels)
    else:
        losses, positive = dense_rows(target, parameters, batch)
        all_positive = positive
    importance = target.importance(batch.all_labels, parameters)
    total = ops.sum(ops.where(all_positive, importance, 0.0))
    size = ops.cast(batch.size, losses.dtype)
    return ops.where(positive, size * own * losses, 0.0) / ops.where(total > 0, total, 1.0)


@functools.cache
def compiled_pairwise(target: Target, num_labels: int, whole: bool, tile_size: int | None) -> Callable[..., Tensor]:
    """`pairwise` for one target and number of labels, a `tf.function` where TensorFlow calls it eagerly.

    Eagerly that saves the dispatch of some thirty operations. In a graph the caller's own compilation takes it
    in; a `tf.function` nested there would gain nothing, and under XLA its gradient is wrong when a tensor is
    passed twice, as anchors and as keys (TensorFlow 2.20 on CPU: values off by up to 7).
    """
    function = functools.partial(pairwise, target, whole=whole, tile_size=tile_size)
    if keras.config.backend() != "tensorflow":
        return function
    import tensorflow as tf

    # A new number of rows is traced as "any number of rows": at most two traces, however batches vary.
    traced = tf.function(function, autograph=False, reduce_retracing=True)
    return lambda *given: (traced if tf.executing_eagerly() else function)(*given)


class PairwiseLoss(BatchLoss):
    """A loss of the family: its `target`, its temperature, and what else the target asks for (`parameters`).

    To write one's own, give the class a `target`: docs/own_loss.md.

    Args:
        temperature: tau > 0, a `keras.Variable`, so that `TemperatureSchedule` can change it. None: 1.
        tile_size: None: all anchors at once up to 16 million pairs, beyond as many at a time as 8 million pairs hold,
            256 at least. 0: all at once. 1 or more: so many anchors at a time. Value and gradient are the same. JAX and
            torch take all at once.
        **kwargs: As in `BatchLoss`: normalize, name, reduction, dtype.
    """

    target: Target
    arguments: ClassVar[tuple[str, ...]] = ("tile_size",)

    def __init__(self, *, temperature: float | None = 0.1, tile_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if tile_size is not None and (isinstance(tile_size, bool) or int(tile_size) != tile_size or tile_size < 0):
            raise ValueError(
                f"tile_size must be None (chosen by size), 0 (all at once) or a number of rows >= 1, got {tile_size}."
            )
        self.tile_size = None if tile_size is None else int(tile_size)
        self.temperature = None
        if temperature is not None:
            # An initializer, not the number: Keras may make a loss that it was given by name within a stateless scope.
            start = keras.initializers.Constant(in_range("temperature", temperature, "> 0", temperature > 0))
            self.temperature = keras.Variable(start, (), "float32", trainable=False, name="temperature")

    def parameters(self, all_labels: Tensor) -> dict[str, Any]:
        """What the target reads beside the temperature: numbers, and counts of the global batch (B, C)."""
        return {}

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`."""
        temperature = 1.0 if self.temperature is None else ops.convert_to_tensor(self.temperature)
        values = {"temperature": temperature, **self.parameters(batch.all_labels)}
        # Tensors, not numbers: a new value is no new trace.
        parameters = {key: ops.cast(value, batch.embeddings.dtype) for key, value in values.items()}
        row_values = compiled_pairwise(self.target, batch.labels.shape[1], batch.whole, self.tile_size)
        return row_values(parameters, batch)

    def get_config(self) -> dict[str, Any]:
        """As in `BatchLoss`."""
        own = {} if self.temperature is None else {"temperature": float(self.temperature)}
        return {**super().get_config(), **own}
