"""Triplet losses with semi-hard and with hardest examples."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from macl_tf.losses.batch_loss import MASKED, Batch, known_to_keras
from macl_tf.losses.margin import DISTANCES, HingeLoss, along_rows, count, distances, mean_over, related, rows_of

Tensor = Any


def semi_hard_negatives(apart: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """For every anchor the columns by distance, and beside each positive among them its semi-hard negative.

    Sorted once, a row answers for all its positives: if k negatives are not farther than positive p, the
    semi-hard one is number k of the negatives by distance, and the last where all are nearer. So nothing of
    B x B x B is held, and a row costs B log B. The second columns (b, B) mean something beside a positive's.
    """
    # A positive stands behind the negatives at its own distance, since a semi-hard negative is farther.
    rounding = 2.0**-52 if keras.backend.standardize_dtype(apart.dtype) == "float64" else 2.0**-23
    behind = apart * (1.0 + 2 * rounding) + 1e-30
    ranked = ops.argsort(ops.where(negative, apart, ops.where(positive, behind, float("inf"))), axis=1)
    negatives = ops.argsort(ops.where(negative, apart, float("inf")), axis=1)
    nearer = ops.cumsum(ops.cast(along_rows(negative, ranked), "int32"), axis=1)
    last = ops.maximum(ops.sum(ops.cast(negative, "int32"), axis=1, keepdims=True) - 1, 0)
    return ranked, along_rows(negatives, ops.minimum(nearer, last))


class TripletLoss(HingeLoss):
    """What the two triplet losses share: a margin and a measure of distance.

    Args:
        distance_metric: "L2", "squared-L2" or "angular" (1 - cosine), as in tensorflow-addons.
        **kwargs: As in `HingeLoss`: margin, normalize, min_overlap, name, reduction, dtype.
    """

    arguments = ("distance_metric",)

    def __init__(self, *, distance_metric: str = "L2", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if distance_metric not in DISTANCES:
            raise ValueError(f"distance_metric must be one of {', '.join(DISTANCES)}, got {distance_metric!r}.")
        self.distance_metric = distance_metric


@known_to_keras
class TripletSemiHard(TripletLoss):
    """Triplet loss, each positive pair against its semi-hard negative.

    With d the distance, P(i) and N(i) the positives and negatives of anchor i,

        n(i, p) = the nearest n in N(i) with d_in > d_ip, or the farthest of N(i) where there is none
        loss    = mean over all i and p in P(i) of max(margin + d_ip - d_i,n(i, p), 0)

    The values are those of tensorflow-addons' TripletSemiHardLoss, with one departure: anchors without a
    negative are left out of sum and mean, where tensorflow-addons takes d = 0 for the negative that they lack.
    A batch without positive pairs gives 0, not NaN. Its B x B x B memory is not needed (`semi_hard_negatives`).

    Args:
        **kwargs: As in `TripletLoss`: distance_metric, margin, normalize, min_overlap, name, reduction, dtype.

    Reference:
        Schroff, Kalenichenko, Philbin, FaceNet, CVPR 2015, section 3.2.
    """

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`."""
        positive, negative = related(batch.all_labels, self.min_overlap)
        per_anchor = ops.where(ops.any(negative, axis=1), count(positive, batch.embeddings.dtype, axis=1), 0.0)
        total = ops.sum(per_anchor)
        positive, negative = rows_of(batch, positive, negative)
        apart = distances(batch.embeddings, batch.all_embeddings, self.distance_metric)
        ranked, semi_hard = semi_hard_negatives(ops.stop_gradient(apart), positive, negative)
        valid = ops.logical_and(along_rows(positive, ranked), ops.any(negative, axis=1)[:, None])
        gaps = along_rows(apart, ranked) - along_rows(apart, semi_hard)
        return mean_over(total, ops.sum(ops.where(valid, ops.maximum(gaps + self.margin, 0.0), 0.0), axis=1), batch)


@known_to_keras
class TripletHard(TripletLoss):
    """Triplet loss, each anchor's farthest positive against its nearest negative.

    With d the distance, P(i) and N(i) the positives and negatives of anchor i,

        g_i  = max over p in P(i) of d_ip - min over n in N(i) of d_in
        L_i  = max(margin + g_i, 0), or log(1 + exp(g_i)) with `soft`

    The loss is the mean of L_i over the anchors that have a positive and a negative, 0 where none has. With
    such anchors only, the values are those of tensorflow-addons' TripletHardLoss; the departure is that
    tensorflow-addons takes a distance of 0 for a positive that an anchor lacks and the anchor's largest
    distance for a negative, so that it pushes such anchors away from everything and counts them in the mean.

    Args:
        soft: The smooth form, which has no use for the margin.
        **kwargs: As in `TripletLoss`: distance_metric, margin, normalize, min_overlap, name, reduction, dtype.

    Example:
        >>> import numpy as np
        >>> labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.8, -0.6]], "float32")
        >>> round(float(TripletHard()(labels, z)), 3)
        1.447

    Reference:
        Hermans, Beyer, Leibe, In Defense of the Triplet Loss for Person Re-Identification, 2017, equation 5.
    """

    arguments = ("soft",)

    def __init__(self, *, soft: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.soft = bool(soft)

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`."""
        positive, negative = related(batch.all_labels, self.min_overlap)
        valid = ops.logical_and(ops.any(positive, axis=1), ops.any(negative, axis=1))
        total = count(valid, batch.embeddings.dtype)
        positive, negative, valid = rows_of(batch, positive, negative, valid)
        apart = distances(batch.embeddings, batch.all_embeddings, self.distance_metric)
        farthest = ops.max(ops.where(positive, apart, 0.0), axis=1, initial=0.0)
        nearest = ops.min(ops.where(negative, apart, -MASKED), axis=1, initial=-MASKED)
        gap = ops.where(valid, farthest - nearest, 0.0)
        losses = ops.softplus(gap) if self.soft else ops.maximum(gap + self.margin, 0.0)
        return mean_over(total, ops.where(valid, losses, 0.0), batch)
