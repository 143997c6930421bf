"""Ranked List Loss: positives inside one distance, negatives beyond another, the hard ones weighing more."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from macl_tf.losses.batch_loss import MASKED, Batch, in_range, known_to_keras
from macl_tf.losses.margin import PairLoss, count, distances

Tensor = Any


def weighted_violation(violations: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Mean over axis 1 of the violations in the mask, weighted by exp(scale * violation); 0 if it is empty."""
    logits = ops.where(mask, scale * violations, MASKED)
    weights = ops.exp(logits - ops.logsumexp(logits, axis=1, keepdims=True))
    return ops.sum(ops.where(mask, weights * violations, 0.0), axis=1)


class BoundaryLoss(PairLoss):
    """A loss over pairs between two distances on the unit sphere, the boundary and the boundary less the margin.

    Args:
        boundary: Distance, > 0, within which a negative counts; alpha in the paper of Ranked List Loss.
        margin: Width, in [0, boundary], between the two distances.
        weight_scale: T >= 0, which the papers call a temperature though it multiplies. 0 weighs all negatives alike;
            the hardest alone counts as it grows.
        **kwargs: As in `PairLoss`: min_overlap, normalize, name, reduction, dtype.
    """

    arguments: ClassVar[tuple[str, ...]] = ("boundary", "margin", "weight_scale")

    def __init__(
        self, *, boundary: float = 1.2, margin: float = 0.4, weight_scale: float = 10.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.boundary = in_range("boundary", boundary, "> 0", boundary > 0)
        self.margin = in_range("margin", margin, f"in [0, boundary = {boundary}]", 0 <= margin <= boundary)
        self.weight_scale = in_range("weight_scale", weight_scale, ">= 0", weight_scale >= 0)


@known_to_keras
class RankedList(BoundaryLoss):
    """Ranked List Loss (RLL).

    With d_ij = ||z_i - z_j||, the positives P(i) sharing a label with i and the negatives N(i),

        P*(i) = { p : d_ip > boundary - margin },   L_P = mean over P* of (d_ip - (boundary - margin))
        N*(i) = { n : d_in < boundary },            L_N = sum over N* of v_in (boundary - d_in) / sum v_in
        v_in  = exp(weight_scale (boundary - d_in))
        L_i   = L_P + balance L_N

    A term whose set is empty is 0. The loss is the mean of L_i over all rows of the global batch. The gradient
    is that of this value, through the weights v too.

    Departures from pytorch-metric-learning's RankedListLoss: it returns (1 - imbalance) L_P + imbalance L_N,
    which at its default of 0.5 is half of this (the CVPR form, lambda = 1); and it adds 1e-5 per column to the
    weights in its denominators, where here an empty set is told apart instead.

    Args:
        balance: lambda >= 0.
        **kwargs: As in `BoundaryLoss`: boundary, margin, weight_scale, min_overlap, normalize, name, reduction, dtype.

    Reference:
        Wang, Hua, Kodirov, Hu, Garnier, Robertson, Ranked List Loss for Deep Metric Learning, CVPR 2019;
        multi-label positives are this project's reading.
    """

    arguments = ("balance",)

    def __init__(self, *, balance: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.balance = in_range("balance", balance, ">= 0", balance >= 0)

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`."""
        positive, negative = self.pairs(batch)
        apart = distances(batch.embeddings, batch.all_embeddings)
        beyond = apart - (self.boundary - self.margin)
        hard = ops.logical_and(positive, beyond > 0)
        attraction = ops.sum(ops.where(hard, beyond, 0.0), axis=1) / ops.maximum(count(hard, apart.dtype, axis=1), 1.0)
        inside = self.boundary - apart
        near = ops.logical_and(negative, inside > 0)
        return attraction + self.balance * weighted_violation(inside, near, self.weight_scale)
