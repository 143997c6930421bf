"""DCL, the distribution consistency loss: hard positives by sample balance, hard classes by ranking consistency."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from macl_tf.losses.batch_loss import Batch, in_range, known_to_keras
from macl_tf.losses.margin import along_rows, count, distances, root
from macl_tf.losses.pairwise import not_self
from macl_tf.losses.ranked_list import BoundaryLoss, weighted_violation

Tensor = Any


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

    A term without samples is 0. Multi-label reading: a positive shares a label with i (or has a Jaccard overlap
    of at least `min_overlap`), a negative shares none, and the class of a negative is its exact label set. With
    one label per image this is the single-label loss. The gradient is that of this value, through v too.

    Batches should hold several images of each of several classes (`--set sampler=classes`).

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
        """As in `BatchLoss`.

        What is compared is chosen from distances without gradient; the few distances of the result are computed
        anew from the chosen rows, so that the backward pass is of size b x num_hard x D.
        """
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
