"""Retrieval quality as Keras metrics, for `compile(metrics=[...])`: tiles searched with each other."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from macl_tf.losses.batch_loss import gather_batch

Tensor = Any
_LAST = -2.0  # below every cosine


class RetrievalMetric(keras.metrics.Metric):
    """A figure of the tiles of an epoch, each searched for among the others by cosine, as `RetrievalEvaluation` does.

    The first `capacity` rows that it sees after `reset_state` are kept, (capacity, D) and (capacity, C) numbers, and
    searched again whenever some come: capacity / batch times capacity^2 products. Rows beyond are not looked at: give
    it at least the number of validation tiles, and memory for some matrices of capacity^2.

    In `fit`, `val_...` is the figure of the validation set; the one without is of training tiles, embedded while the
    weights moved and augmented, and says little. It is computed in float32; the callback ranks in float64, and searches
    any descriptor, where this takes the output of the model. Queries that can find nothing are left out; 0 if all are.

    Args:
        capacity: Rows that are kept, >= 2.
        name: Name of the metric.
        dtype: Precision of the computation, float32 by default.

    Raises:
        ValueError: If `capacity` < 2, for labels and embeddings not of (B, C) and (B, D), or for sample weights.
    """

    def __init__(self, *, capacity: int = 2048, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        if capacity < 2:
            raise ValueError(f"capacity must be >= 2 rows, got {capacity}.")
        self.capacity = int(capacity)
        self.labels: Any = None

    def figures(self, gains: Tensor, similarities: Tensor) -> Tensor:
        """(N,) figures of queries; of what is not there, the overlaps (N, N) are 0 and the cosines below -1."""
        raise NotImplementedError

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Adds the rows of a batch, (B, C) multi-hot labels and (B, D) embeddings, as far as there is room."""
        if sample_weight is not None:
            raise ValueError(f"{self.name} takes no sample weights: put it into metrics=, not weighted_metrics=.")
        y, z = ops.cast(y_true, self.dtype), ops.cast(y_pred, self.dtype)
        if len(y.shape) != 2 or len(z.shape) != 2:
            raise ValueError(
                f"labels must be (B, C) and embeddings (B, D), got {tuple(y.shape)} and {tuple(z.shape)}. "
                "Of a model with two outputs, give the embedding its own: metrics=[[...], []]."
            )
        if self.labels is None:
            # One row more than is kept, for those that find no room.
            self.labels = self.add_variable((self.capacity + 1, y.shape[1]), initializer="zeros", name="labels")
            self.embeddings = self.add_variable((self.capacity + 1, z.shape[1]), initializer="zeros", name="embeddings")
            self.kept = self.add_variable((), initializer="zeros", name="kept")
            self.figure = self.add_variable((), initializer="zeros", name="figure")
            self.copies = self.add_variable((), initializer="zeros", name="copies")
        z, y, _, _ = gather_batch(z, y)  # each replica keeps the rows of all
        before = ops.convert_to_tensor(self.kept)
        places = ops.cast(before, "int32") + ops.arange(ops.shape(y)[0], dtype="int32")
        places = ops.minimum(places, self.capacity)[:, None]
        unit = z / ops.sqrt(ops.maximum(ops.sum(ops.square(z), axis=1, keepdims=True), 1e-12))
        labels = ops.scatter_update(ops.convert_to_tensor(self.labels), places, y)
        embeddings = ops.scatter_update(ops.convert_to_tensor(self.embeddings), places, unit)
        kept = ops.minimum(before + ops.cast(ops.shape(y)[0], self.dtype), float(self.capacity))
        last = ops.convert_to_tensor(self.figure)
        figure = ops.cond(kept > before, lambda: self.searched(labels[:-1], embeddings[:-1], kept), lambda: last)
        variables = (self.labels, self.embeddings, self.kept, self.figure, self.copies)
        for variable, value in zip(variables, (labels, embeddings, kept, figure, ops.ones_like(kept)), strict=True):
            variable.assign(value)

    def searched(self, labels: Tensor, embeddings: Tensor, kept: Tensor) -> Tensor:
        """The mean figure of the first `kept` rows."""
        there = ops.arange(self.capacity, dtype="int32") < ops.cast(kept, "int32")
        others = ops.logical_and(there[:, None], ops.logical_and(there, ops.logical_not(ops.eye(self.capacity) > 0)))
        shared = ops.matmul(labels, ops.transpose(labels))
        held = ops.sum(labels, axis=1)
        gains = ops.where(others, shared / ops.maximum(held[:, None] + held - shared, 1.0), 0.0)
        cosines = ops.matmul(embeddings, ops.transpose(embeddings))
        figures = self.figures(gains, ops.where(others, cosines, _LAST))
        counted = ops.cast(ops.max(gains, axis=1) > 0, gains.dtype)
        return ops.sum(figures * counted) / ops.maximum(ops.sum(counted), 1.0)

    def result(self) -> Tensor:
        """The figure of the rows seen, 0 where there is none."""
        if self.labels is None:
            return ops.zeros((), self.dtype)
        # Keras adds up what replicas hold; each holds the same.
        return ops.convert_to_tensor(self.figure) / ops.maximum(ops.convert_to_tensor(self.copies), 1.0)

    def get_config(self) -> dict[str, Any]:
        """Everything `__init__` takes."""
        return {**super().get_config(), "capacity": self.capacity}


@keras.saving.register_keras_serializable("macl_tf")
class RetrievalNDCG(RetrievalMetric):
    """NDCG@k with Jaccard gains, the `ndcg@k_jaccard` of `macl_tf.evaluate`.

    Args:
        k: Cut-off, >= 1.
        **kwargs: As in `RetrievalMetric`: capacity, name, dtype.

    Example:
        >>> import numpy as np
        >>> metric = RetrievalNDCG(k=2, capacity=4)
        >>> metric.update_state(np.array([[1, 0], [1, 0], [0, 1]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]]))
        >>> round(float(metric.result()), 3)
        0.631
    """

    def __init__(self, *, k: int = 100, name: str = "retrieval_ndcg", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        if k < 1:
            raise ValueError(f"k must be >= 1, got {k}.")
        self.k = int(k)

    def figures(self, gains: Tensor, similarities: Tensor) -> Tensor:
        """As in `RetrievalMetric`."""
        depth = min(self.k, self.capacity)
        discounts = ops.log(2.0) / ops.log(ops.arange(2, depth + 2, dtype=gains.dtype))
        found = ops.take_along_axis(gains, ops.top_k(similarities, depth)[1], axis=1)
        best = ops.sum(ops.top_k(gains, depth)[0] * discounts, axis=1)
        return ops.sum(found * discounts, axis=1) / ops.where(best > 0, best, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Everything `__init__` takes."""
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable("macl_tf")
class RetrievalMAP(RetrievalMetric):
    """Mean average precision, relevant meaning "shares a label": the `map_any` of `macl_tf.evaluate`.

    Args:
        **kwargs: As in `RetrievalMetric`: capacity, name, dtype.
    """

    def __init__(self, *, name: str = "retrieval_map", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def figures(self, gains: Tensor, similarities: Tensor) -> Tensor:
        """As in `RetrievalMetric`."""
        ranking = ops.top_k(similarities, self.capacity)[1]
        relevant = ops.cast(ops.take_along_axis(gains, ranking, axis=1) > 0, gains.dtype)
        precision = ops.cumsum(relevant, axis=1) / ops.arange(1, self.capacity + 1, dtype=gains.dtype)
        return ops.sum(precision * relevant, axis=1) / ops.maximum(ops.sum(relevant, axis=1), 1.0)
