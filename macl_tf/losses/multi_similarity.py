"""Multi-Similarity: soft pair weights from a pair's own similarity and from its neighbours'."""

from __future__ import annotations

from typing import Any

from keras import ops

from macl_tf.losses.batch_loss import MASKED, Batch, in_range, known_to_keras
from macl_tf.losses.margin import PairLoss

Tensor = Any


def log_one_plus_sum(logits: Tensor, mask: Tensor, axis: int = 1) -> Tensor:
    """log(1 + sum of exp over the entries of the mask), 0 with zero gradient where the mask holds none."""
    return ops.softplus(ops.logsumexp(ops.where(mask, logits, MASKED), axis=axis))


@known_to_keras
class MultiSimilarity(PairLoss):
    """Multi-Similarity loss with its pair mining.

    With s_ij = z_i . z_j, those positives P(i), sharing a label with i, and negatives N(i) that matter are mined first,

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
        **kwargs: As in `PairLoss`: min_overlap, normalize, name, reduction, dtype.

    Reference:
        Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019, equations
        11, 12 and 15; multi-label positives are this project's reading.
    """

    arguments = ("positive_scale", "negative_scale", "base", "epsilon")

    def __init__(
        self,
        *,
        positive_scale: float = 2.0,
        negative_scale: float = 50.0,
        base: float = 0.5,
        epsilon: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.positive_scale = in_range("positive_scale", positive_scale, "> 0", positive_scale > 0)
        self.negative_scale = in_range("negative_scale", negative_scale, "> 0", negative_scale > 0)
        self.base = in_range("base", base, "a number", base == base)
        self.epsilon = in_range("epsilon", epsilon, ">= 0", epsilon >= 0)

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`."""
        positive, negative = self.pairs(batch)
        similarities = ops.matmul(batch.embeddings, ops.transpose(batch.all_embeddings))
        known = ops.stop_gradient(similarities)
        hardest = ops.max(ops.where(negative, known, MASKED), axis=1, keepdims=True, initial=MASKED)
        lowest = ops.min(ops.where(positive, known, -MASKED), axis=1, keepdims=True, initial=-MASKED)
        mined_positive = ops.logical_and(positive, known - self.epsilon < hardest)
        mined_negative = ops.logical_and(negative, known + self.epsilon > lowest)
        excess = similarities - self.base
        attraction = log_one_plus_sum(-self.positive_scale * excess, mined_positive) / self.positive_scale
        return attraction + log_one_plus_sum(self.negative_scale * excess, mined_negative) / self.negative_scale
