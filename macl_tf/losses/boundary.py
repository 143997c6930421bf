"""Ranked List Loss and DCL: positives inside one distance, negatives beyond another, the hard ones weighing more."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from keras import ops

from macl_tf.losses.batch_loss import MASKED, Batch, in_range, known_to_keras
from macl_tf.losses.margin import PairLoss, along_rows, count, distances, root
from macl_tf.losses.pairwise import not_self

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
        weight_scale: T >= 0, which multiplies. 0 weighs all negatives alike; the hardest alone counts as it grows.
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

    A term whose set is empty is 0. The loss is the mean of L_i over all rows. The gradient goes through v too.

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


def label_sets(labels: Tensor) -> Tensor:
    """(B,) the class of each image in DCL's reading: the number of the first row that holds exactly its labels."""
    shared = ops.matmul(labels, ops.transpose(labels))
    held = ops.sum(labels, axis=1)
    same = ops.logical_and(shared == held[:, None], shared == held)
    none = np.iinfo("int32").max
    return ops.min(ops.where(same, ops.arange(ops.shape(labels)[0], dtype="int32"), none), axis=1, initial=none)


def first_of_groups(values: Tensor, mask: Tensor, groups: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The smallest of the values (b, B) in the mask from each group of columns, for the groups with the smallest ones.

    Groups (B,) are numbers >= 0. Returned are columns (b, number) by rising value, and boolean (b, number), whether
    there is one: a row may have fewer groups.
    """
    nothing = float("inf")
    # A spare column, never chosen: an empty batch too has something to reduce over.
    left = ops.pad(ops.where(mask, values, nothing), ((0, 0), (0, 1)), constant_values=nothing)
    groups = ops.pad(groups, ((0, 1),), constant_values=-1)
    columns, found = [], []
    for _ in range(number):
        column = ops.argmin(left, axis=1)
        columns.append(column)
        found.append(along_rows(left, column[:, None])[:, 0] < nothing)
        left = ops.where(groups == ops.take(groups, column)[:, None], nothing, left)
    return ops.stack(columns, axis=1), ops.stack(found, axis=1)


def distances_to(anchors: Tensor, keys: Tensor, columns: Tensor) -> Tensor:
    """(b, K) distances from anchors (b, D) to the rows `columns` (b, K) of keys (B, D)."""
    return root(ops.sum(ops.square(anchors[:, None, :] - ops.take(keys, columns, axis=0)), axis=2))


@known_to_keras
class DCL(BoundaryLoss):
    """Distribution consistency loss.

    With d_ij = ||z_i - z_j||, a = `boundary`, m = `margin`, the positives P(i) of an anchor and the hard ones
    among them, H_i = { p in P(i) : d_ip > a - m }:

        SB_i = |H_i| / |P(i)| * mean over the `num_hard` farthest of H_i of (d_ip - (a - m))     sample balance
        RC_i = sum_k v_k (a - d_ik) / sum_k v_k,  v_k = exp(T (a - d_ik))                     ranking consistency
               over the nearest sample k of each other class, of the `num_hard` nearest classes with d_ik < a
        DCL  = mean over all i of (SB_i + RC_i)

    A term without samples is 0. Multi-label reading: a positive shares a label with i (or overlaps by `min_overlap`),
    a negative shares none, and its class is its exact label set. The gradient goes through v too. Batches should hold
    several images of each of several classes (`--set sampler=classes`).

    Args:
        num_hard: Hard positives and hard classes per anchor, >= 1.
        **kwargs: As in `BoundaryLoss`: boundary (a), margin (m), weight_scale (T), min_overlap (pairs that share labels
            but overlap less are neither positive nor negative), normalize, name, reduction, dtype.

    Reference:
        Fan, Zhao, Zhao, Distribution Consistency Loss for Large-Scale Remote Sensing Image Retrieval, Remote
        Sensing 2020, 12(1), 175, for the ideas: five hard samples on either side, balance by the share of hard
        samples, hard classes at distances of their own. The equations are this project's formulation of them.
    """

    arguments = ("num_hard",)

    def __init__(self, *, num_hard: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        whole = num_hard >= 1 and num_hard == int(num_hard)
        self.num_hard = int(in_range("num_hard", num_hard, "an integer >= 1", whole))

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`; what is compared is chosen without gradient, and its few distances are computed anew."""
        labels, z, all_labels, all_z, offset = batch
        positive, _ = self.pairs(batch)
        shared = ops.matmul(labels, ops.transpose(all_labels)) > 0
        stranger = ops.logical_and(ops.logical_not(shared), not_self(ops.shape(labels)[0], batch.size, offset))
        apart = distances(ops.stop_gradient(z), ops.stop_gradient(all_z))
        outer = self.boundary - self.margin

        # Sample balance: the farthest of the positives beyond boundary - margin.
        hard = ops.logical_and(positive, apart > outer)
        share_hard = count(hard, apart.dtype, axis=1) / ops.maximum(count(positive, apart.dtype, axis=1), 1.0)
        images = ops.arange(batch.size, dtype="int32")
        farthest, found = first_of_groups(-apart, hard, images, self.num_hard)
        beyond = ops.where(found, distances_to(z, all_z, farthest) - outer, 0.0)
        mean_beyond = ops.sum(beyond, axis=1) / ops.maximum(count(found, apart.dtype, axis=1), 1.0)

        # Ranking consistency: the nearest sample of each of the nearest classes.
        nearest, found = first_of_groups(apart, stranger, label_sets(all_labels), self.num_hard)
        inside = self.boundary - distances_to(z, all_z, nearest)
        found = ops.logical_and(found, along_rows(apart, nearest) < self.boundary)
        return share_hard * mean_beyond + weighted_violation(inside, found, self.weight_scale)
