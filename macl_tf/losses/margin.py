"""Distances and pairs of the margin losses, and the two that sum over all pairs: contrastive and lifted structure.

Two images are a positive pair if they share a label, or by option if their Jaccard overlap is large enough; any
other two are a negative pair. Letters as in `pairwise`: B rows of the global batch, b rows of this replica.
"""

from __future__ import annotations

from typing import Any, ClassVar

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


def rows_of(batch: Batch, *matrices: Tensor) -> tuple[Tensor, ...]:
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
        positive, negative = rows_of(batch, *related(batch.all_labels, self.min_overlap))
        return positive, negative


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

    Args:
        **kwargs: As in `HingeLoss`: margin, normalize, min_overlap, name, reduction, dtype.

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

    The values are those of tensorflow-addons' LiftedStructLoss, with one departure: pairs neither of whose
    images has a negative are left out of sum and mean, where a batch of such pairs alone gives NaN there. A
    batch without positive pairs gives 0.

    Every replica computes the distances of the whole global batch, as the negatives of both images count.

    Args:
        **kwargs: As in `HingeLoss`: margin, normalize, min_overlap, name, reduction, dtype.

    Reference:
        Oh Song, Xiang, Jegelka, Savarese, Deep Metric Learning via Lifted Structured Feature Embedding,
        CVPR 2016, equation 4.
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
