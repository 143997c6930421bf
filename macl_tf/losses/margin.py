"""Distances and pairs of the margin losses, and these: contrastive and lifted structure over all pairs, and triplets.

Two images are a positive pair if they share a label, or by option if their Jaccard overlap is large enough; any
other two are a negative pair. Letters as in `pairwise`: B rows of the global batch, b rows of this replica.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from macl_tf.losses.batch_loss import MASKED, Batch, BatchLoss, in_range, known_to_keras
from macl_tf.losses.pairwise import not_self
from macl_tf.losses.targets import label_overlap

Tensor = Any

DISTANCES = ("L2", "squared-L2", "angular")


def distances(anchors: Tensor, keys: Tensor, metric: str = "L2") -> Tensor:
    """(b, B) distances between embeddings (b, D) and (B, D): one of `DISTANCES`, angular being 1 - cosine.

    The gradient of "L2" is 0 between identical rows, where the root has none.
    """
    if metric == "angular":
        cosines = ops.matmul(ops.normalize(anchors, axis=1), ops.transpose(ops.normalize(keys, axis=1)))
        return ops.maximum(1.0 - cosines, 0.0)
    lengths = ops.sum(ops.square(anchors), axis=1, keepdims=True) + ops.sum(ops.square(keys), axis=1)
    squares = ops.maximum(lengths - 2.0 * ops.matmul(anchors, ops.transpose(keys)), 0.0)
    return squares if metric == "squared-L2" else root(squares)


def root(squares: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0, not infinite."""
    apart = squares > 0
    return ops.where(apart, ops.sqrt(ops.where(apart, squares, 1.0)), 0.0)


def related(all_labels: Tensor, min_overlap: float = 0.0) -> tuple[Tensor, Tensor]:
    """Positive and negative pairs of the global batch, two boolean (B, B) masks; no image is its own pair."""
    shared, overlap = label_overlap(all_labels, all_labels)
    size = ops.shape(all_labels)[0]
    others = not_self(size, size)
    positive = ops.logical_and(shared > 0, overlap >= min_overlap)
    return ops.logical_and(positive, others), ops.logical_and(ops.logical_not(positive), others)


def rows_of(batch: Batch, *matrices: Tensor) -> Any:
    """Of matrices over the global batch (B, ...), the rows of this replica's anchors; all where there is one."""
    if batch.labels is batch.all_labels:
        return matrices
    rows = ops.arange(ops.shape(batch.labels)[0], dtype="int32") + batch.offset
    return tuple(ops.take(matrix, rows, axis=0) for matrix in matrices)


def along_rows(values: Tensor, columns: Tensor) -> Tensor:
    """values[i, columns[i, k]], (b, K): `take_along_axis` without its index pairs, which are 4 times the values."""
    starts = ops.arange(ops.shape(values)[0], dtype="int32") * ops.shape(values)[1]
    return ops.take(ops.reshape(values, (-1,)), ops.cast(columns, starts.dtype) + starts[:, None])


def count(mask: Tensor, dtype: str, axis: int | None = None) -> Tensor:
    """How many entries are True, as a number to compute with."""
    return ops.sum(ops.cast(mask, dtype), axis=axis)


def mean_over(total: Tensor, values: Tensor, batch: Batch) -> Tensor:
    """Row sums (b,) scaled so that their mean over the B rows of the global batch is their sum over `total`."""
    return values * ops.cast(batch.size, values.dtype) / ops.maximum(total, 1.0)


class PairLoss(BatchLoss):
    """A loss over positive and negative pairs, which `min_overlap` tells apart.

    Args:
        min_overlap: Jaccard overlap from which two images that share a label are a positive pair, in [0, 1];
            all other pairs are negative. 0: any shared label.
        **kwargs: As in `BatchLoss`: normalize, name, reduction, dtype.
    """

    arguments: ClassVar[tuple[str, ...]] = ("min_overlap",)

    def __init__(self, *, min_overlap: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.min_overlap = in_range("min_overlap", min_overlap, "in [0, 1]", 0 <= min_overlap <= 1)

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Positive and negative pairs of this replica's anchors, two boolean (b, B) masks."""
        return rows_of(batch, *related(batch.all_labels, self.min_overlap))


class HingeLoss(PairLoss):
    """A loss over pairs with a margin, of raw distances unless `normalize` is asked for, as published.

    Args:
        margin: > 0.
        normalize: Whether embeddings are divided by their norm.
        **kwargs: As in `PairLoss`: min_overlap, name, reduction, dtype.
    """

    arguments = ("margin",)

    def __init__(self, *, margin: float = 1.0, normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(normalize=normalize, **kwargs)
        self.margin = in_range("margin", margin, "> 0", margin > 0)


@known_to_keras
class MarginContrastive(HingeLoss):
    """Contrastive loss with a margin, over all pairs of the global batch.

    With d_ij = ||z_i - z_j||,

        L_ij = d_ij^2                     for a positive pair
        L_ij = max(margin - d_ij, 0)^2    for a negative pair

    and the loss is the mean of L_ij over all B (B - 1) ordered pairs.

    The values are those of tensorflow-addons' ContrastiveLoss, which takes distances of pairs that its caller
    made, where this takes the batch and makes all of them. pytorch-metric-learning's ContrastiveLoss does not
    square, and averages each kind over its pairs above 0.

    Reference:
        Hadsell, Chopra, LeCun, Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006.
    """

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`."""
        positive, negative = self.pairs(batch)
        squares = distances(batch.embeddings, batch.all_embeddings, "squared-L2")
        short = ops.maximum(self.margin - root(squares), 0.0)
        pairs = ops.where(positive, squares, 0.0) + ops.where(negative, ops.square(short), 0.0)
        return ops.sum(pairs, axis=1) / ops.cast(ops.maximum(batch.size - 1, 1), pairs.dtype)


@known_to_keras
class LiftedStructure(HingeLoss):
    """Lifted structured loss: each positive pair against all negatives of both its images.

    With d_ij = ||z_i - z_j|| and N(i) the negatives of i,

        J_ij = d_ij + log( sum over n in N(i) of exp(margin - d_in) + sum over n in N(j) of exp(margin - d_jn) )
        loss = mean over positive pairs (i, j) of max(J_ij, 0)^2 / 2

    The values are those of tensorflow-addons' LiftedStructLoss, with one departure: pairs neither of whose images has a
    negative are left out of sum and mean (a batch of such pairs alone gives NaN there). Without positive pairs it is 0.
    Every replica computes the distances of the whole global batch, as the negatives of both images count.

    Reference:
        Oh Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016, equation 4.
    """

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`."""
        positive, negative = related(batch.all_labels, self.min_overlap)
        has_negative = ops.any(negative, axis=1)
        valid = ops.logical_and(positive, ops.logical_or(has_negative[:, None], has_negative))
        total = count(valid, batch.embeddings.dtype)
        apart = distances(batch.all_embeddings, batch.all_embeddings)
        repulsion = ops.logsumexp(ops.where(negative, self.margin - apart, MASKED), axis=1)
        valid, apart, own = rows_of(batch, valid, apart, repulsion)
        pairs = ops.maximum(apart + ops.logaddexp(own[:, None], repulsion), 0.0)
        return mean_over(total, 0.5 * ops.sum(ops.where(valid, ops.square(pairs), 0.0), axis=1), batch)


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

    The loss is the mean of L_i over the anchors that have a positive and a negative, 0 where none has. With only such
    anchors its values are those of tensorflow-addons' TripletHardLoss, which takes a distance of 0 for a positive that
    an anchor lacks and its largest distance for a negative, and so pushes such anchors away from everything.

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
