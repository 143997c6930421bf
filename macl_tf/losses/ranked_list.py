"""Ranked List Loss: positives inside one distance, negatives beyond another, the hard ones weighing more."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from macl_tf.losses.batch_loss import MASKED, check_range
from macl_tf.losses.margin import MarginLoss, count, distances, related, rows_of

Tensor = Any


def ranked_list(
    labels: Tensor,
    embeddings: Tensor,
    all_labels: Tensor,
    all_embeddings: Tensor,
    offset: Tensor,
    *,
    boundary: float = 1.2,
    margin: float = 0.4,
    weight_temperature: float = 10.0,
    balance: float = 1.0,
    min_overlap: float = 0.0,
) -> Tensor:
    """`RankedList` per anchor: (b,) values whose mean over the global batch is the loss."""
    positive, negative = rows_of(labels, all_labels, offset, *related(all_labels, min_overlap))
    apart = distances(embeddings, all_embeddings)
    beyond = apart - (boundary - margin)
    hard = ops.logical_and(positive, beyond > 0)
    number = ops.maximum(count(hard, apart.dtype, axis=1), 1.0)
    attraction = ops.sum(ops.where(hard, beyond, 0.0), axis=1) / number
    inside = boundary - apart
    return attraction + balance * weighted_violation(inside, ops.logical_and(negative, inside > 0), weight_temperature)


def weighted_violation(violations: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Mean over axis 1 of the violations in the mask, weighted by exp(temperature * violation); 0 if it is empty."""
    logits = ops.where(mask, temperature * violations, MASKED)
    weights = ops.exp(logits - ops.logsumexp(logits, axis=1, keepdims=True))
    return ops.sum(ops.where(mask, weights * violations, 0.0), axis=1)


@keras.saving.register_keras_serializable("macl_tf")
class RankedList(MarginLoss):
    """Ranked List Loss (RLL).

    With d_ij = ||z_i - z_j||, the positives P(i) sharing a label with i and the negatives N(i),

        P*(i) = { p : d_ip > boundary - margin },   L_P = mean over P* of (d_ip - (boundary - margin))
        N*(i) = { n : d_in < boundary },            L_N = sum over N* of v_in (boundary - d_in) / sum v_in
        v_in  = exp(weight_temperature (boundary - d_in))
        L_i   = L_P + balance L_N

    A term whose set is empty is 0. The loss is the mean of L_i over all rows of the global batch. The gradient
    is that of this value, through the weights v too.

    Departures from pytorch-metric-learning's RankedListLoss: it returns (1 - imbalance) L_P + imbalance L_N,
    which at its default of 0.5 is half of this (the CVPR form, lambda = 1); and it adds 1e-5 per column to the
    weights in its denominators, where here an empty set is told apart instead.

    Args:
        boundary: Distance, > 0, within which a negative counts; alpha in the paper.
        margin: Width, in [0, boundary], between the two distances.
        weight_temperature: T_n >= 0. 0 weighs all negatives of N* alike; the hardest alone counts as it grows.
        balance: lambda >= 0.
        min_overlap: Jaccard overlap from which two images that share a label are a positive pair, in [0, 1];
            all other pairs are negative. 0: any shared label.
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: For a hyper-parameter outside its range; when called, for labels and embeddings that are
            not (B, C) and (B, D).

    Example:
        >>> import numpy as np
        >>> labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.8, -0.6]], "float32")
        >>> round(float(RankedList()(labels, z)), 3)
        0.927

    Reference:
        Wang, Hua, Kodirov, Hu, Garnier, Robertson, Ranked List Loss for Deep Metric Learning, CVPR 2019;
        multi-label positives are this project's reading.
    """

    def __init__(
        self,
        boundary: float = 1.2,
        margin: float = 0.4,
        weight_temperature: float = 10.0,
        balance: float = 1.0,
        *,
        min_overlap: float = 0.0,
        name: str = "ranked_list",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(min_overlap, name=name, reduction=reduction, dtype=dtype)
        check_range("boundary", boundary, "> 0", boundary > 0)
        check_range("margin", margin, f"in [0, boundary = {boundary}]", 0 <= margin <= boundary)
        check_range("weight_temperature", weight_temperature, ">= 0", weight_temperature >= 0)
        check_range("balance", balance, ">= 0", balance >= 0)
        self.boundary = float(boundary)
        self.margin = float(margin)
        self.weight_temperature = float(weight_temperature)
        self.balance = float(balance)

    def rows(self, *batch: Tensor) -> Tensor:
        """As in `BatchLoss`."""
        return ranked_list(
            *batch,
            boundary=self.boundary,
            margin=self.margin,
            weight_temperature=self.weight_temperature,
            balance=self.balance,
            min_overlap=self.min_overlap,
        )
