"""Multi-Similarity: soft pair weights from a pair's own similarity and from its neighbours'."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from macl_tf.losses.batch_loss import MASKED, check_range
from macl_tf.losses.margin import MarginLoss, related, rows_of

Tensor = Any


def multi_similarity(
    labels: Tensor,
    embeddings: Tensor,
    all_labels: Tensor,
    all_embeddings: Tensor,
    offset: Tensor,
    *,
    positive_scale: float = 2.0,
    negative_scale: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
    min_overlap: float = 0.0,
) -> Tensor:
    """`MultiSimilarity` per anchor: (b,) values whose mean over the global batch is the loss."""
    positive, negative = rows_of(labels, all_labels, offset, *related(all_labels, min_overlap))
    similarities = ops.matmul(embeddings, ops.transpose(all_embeddings))
    known = ops.stop_gradient(similarities)
    hardest = ops.max(ops.where(negative, known, MASKED), axis=1, keepdims=True, initial=MASKED)
    lowest = ops.min(ops.where(positive, known, -MASKED), axis=1, keepdims=True, initial=-MASKED)
    mined_positive = ops.logical_and(positive, known - epsilon < hardest)
    mined_negative = ops.logical_and(negative, known + epsilon > lowest)
    excess = similarities - base
    attraction = log_one_plus_sum(-positive_scale * excess, mined_positive) / positive_scale
    return attraction + log_one_plus_sum(negative_scale * excess, mined_negative) / negative_scale


def log_one_plus_sum(logits: Tensor, mask: Tensor, axis: int = 1) -> Tensor:
    """log(1 + sum of exp over the entries of the mask), 0 with zero gradient where the mask holds none."""
    return ops.softplus(ops.logsumexp(ops.where(mask, logits, MASKED), axis=axis))


@keras.saving.register_keras_serializable("macl_tf")
class MultiSimilarity(MarginLoss):
    """Multi-Similarity loss with its pair mining.

    With s_ij = z_i . z_j, the positives P(i) sharing a label with i and the negatives N(i), those that
    matter are mined first,

        P*(i) = { p : s_ip - epsilon < max over n of s_in }
        N*(i) = { n : s_in + epsilon > min over p of s_ip }
        L_i   = 1/a log(1 + sum over P* of exp(-a (s_ip - l))) + 1/b log(1 + sum over N* of exp(b (s_in - l)))

    a = `positive_scale`, b = `negative_scale`, l = `base`. The loss is the mean of L_i over all rows of the
    global batch. As nothing is mined for it, an anchor without a positive or without a negative has L_i = 0;
    the mean counts it all the same, as in the authors' code and in pytorch-metric-learning.

    Args:
        positive_scale: a > 0.
        negative_scale: b > 0.
        base: l, the similarity that parts positives from negatives.
        epsilon: Slack of the mining; a large one mines every pair.
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
        >>> round(float(MultiSimilarity()(labels, z)), 3)
        0.806

    Reference:
        Wang, Han, Huang, Dong, Scott, Multi-Similarity Loss with General Pair Weighting for Deep Metric
        Learning, CVPR 2019, equations 11, 12 and 15; multi-label positives are this project's reading.
    """

    def __init__(
        self,
        positive_scale: float = 2.0,
        negative_scale: float = 50.0,
        base: float = 0.5,
        epsilon: float = 0.1,
        *,
        min_overlap: float = 0.0,
        name: str = "multi_similarity",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(min_overlap, name=name, reduction=reduction, dtype=dtype)
        check_range("positive_scale", positive_scale, "> 0", positive_scale > 0)
        check_range("negative_scale", negative_scale, "> 0", negative_scale > 0)
        check_range("base", base, "a number", base == base)
        check_range("epsilon", epsilon, ">= 0", epsilon >= 0)
        self.positive_scale = float(positive_scale)
        self.negative_scale = float(negative_scale)
        self.base = float(base)
        self.epsilon = float(epsilon)

    def rows(self, *batch: Tensor) -> Tensor:
        """As in `BatchLoss`."""
        return multi_similarity(
            *batch,
            positive_scale=self.positive_scale,
            negative_scale=self.negative_scale,
            base=self.base,
            epsilon=self.epsilon,
            min_overlap=self.min_overlap,
        )
