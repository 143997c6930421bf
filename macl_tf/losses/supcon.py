"""Contrastive losses, the supervised ones with several labels per image: each is its target and its numbers.

All are L_i = - sum_j W_ij log softmax_j(s_ij / tau) over j != i, with s_ij = z_i . z_j, O_ij the labels that i and
j share, J_ij their Jaccard overlap, P(i) the other images of the global batch that share a label with i, and the
mean over the anchors that have a positive. `targets` holds their W.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from macl_tf.losses import targets
from macl_tf.losses.batch_loss import Batch, in_range, known_to_keras
from macl_tf.losses.pairwise import PairwiseLoss

Tensor = Any


@known_to_keras
class InfoNCE(PairwiseLoss):
    """Contrastive learning without labels: the other views of an image are its positives.

        W_ij = 1 / (views - 1) where j is another view of the image of i, else 0

    Row i shows image i mod (B / views): with two views, rows b and b + B / 2 of the *global* batch are one image, as
    `pipeline.training_dataset` makes them, and this is SimCLR's NT-Xent. The labels only fill their place in `fit`.

    Args:
        views: Rows that show one image, >= 2; must divide B.
        **kwargs: As in `PairwiseLoss`: temperature, tile_size, normalize, name, reduction, dtype.

    Reference:
        van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive Coding, 2018, eq. 4.
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, eq. 1.
    """

    target, arguments = targets.INFO_NCE, ("views",)

    def __init__(self, *, views: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.views = int(in_range("views", views, "a whole number >= 2", int(views) == views and views >= 2))

    def rows(self, batch: Batch) -> Tensor:
        """As in `BatchLoss`, with the number of each row's image in place of its labels."""
        total, dtype = batch.all_embeddings.shape[0], batch.embeddings.dtype
        if total is not None and total % self.views:
            raise ValueError(
                f"The rows of a batch must be a multiple of views={self.views}, got {total}. "
                "Rows b and b + B / views show one image; use drop_remainder=True."
            )
        size = ops.shape(batch.all_embeddings)[0]
        images = ops.maximum(size // self.views, 1)
        # A remainder that only shows when the graph runs leaves no pairs to trust.
        trust = ops.where(ops.equal(size % self.views, 0), 0.0, float("nan"))

        def numbers(rows: Tensor, first: Tensor | int) -> Tensor:
            positions = ops.arange(ops.shape(rows)[0], dtype="int32") + first
            return ops.expand_dims(ops.cast(positions % images, dtype), 1)

        own, everyone = numbers(batch.embeddings, batch.offset), numbers(batch.all_embeddings, 0)
        return super().rows(batch._replace(labels=own, all_labels=everyone)) + ops.cast(trust, dtype)


@known_to_keras
class NPairs(PairwiseLoss):
    """Multi-label N-pairs loss: cross-entropy between similarities and shared labels.

        W_ij = O_ij / sum over k of O_ik, k = i included

    as tensorflow-addons' NpairsMultilabelLoss has it, of raw dot products without a temperature. A row without a label
    is left out of the mean, where tensorflow-addons divides 0 by 0.

    Args:
        normalize: Whether embeddings are divided by their norm; not so in the published loss.
        **kwargs: As in `PairwiseLoss`: tile_size, name, reduction, dtype.

    Reference:
        Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016.
    """

    target = targets.N_PAIRS

    def __init__(self, *, normalize: bool = False, **kwargs: Any) -> None:
        if kwargs.setdefault("temperature", None) is not None:
            raise ValueError(f"temperature must be left out, n-pairs has none, got {kwargs['temperature']}.")
        super().__init__(normalize=normalize, **kwargs)


@known_to_keras
class SupCon(PairwiseLoss):
    """Supervised contrastive learning, its positives read from label sets in one of two ways.

        positives="any":  W_ij = 1 / |P(i)| for j in P(i)
        positives="all":  W_ij uniform over the other images with exactly the labels of i (at least one)

    With one label per image the two are the same, the published loss (outside the logarithm, L_out).

    Args:
        positives: "any", sharing one label is enough, or "all", the label sets must be identical.
        **kwargs: As in `PairwiseLoss`: temperature, tile_size, normalize, name, reduction, dtype.

    Example:
        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> round(float(macl_tf.losses.SupCon()(labels, z)), 3)
        2.064

    Reference:
        Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, eq. 2. ANY and ALL: Zhang and Wu,
        Multi-Label Supervised Contrastive Learning, AAAI 2024.
    """

    arguments = ("positives",)

    def __init__(self, *, positives: str = "any", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if positives not in ("any", "all"):
            raise ValueError(f"positives must be 'any' or 'all', got {positives!r}.")
        self.positives = positives
        self.target = targets.SUPCON_ANY if positives == "any" else targets.SUPCON_ALL


@known_to_keras
class JaccardSupCon(PairwiseLoss):
    """Supervised contrastive learning with positives weighed by the overlap of their labels.

        W_ij = J_ij / sum over p in P(i) of J_ip

    Reference:
        Audibert, Gauffre, Amini, Exploring Contrastive Learning for Long-Tailed Multi-Label Text
        Classification, ECML PKDD 2024, whose overlap is the Jaccard index.
    """

    target = targets.JACCARD


@known_to_keras
class MultiSupCon(PairwiseLoss):
    """Supervised contrastive learning over the pairs whose labels overlap enough.

        W_ij = J_ij / |{p in P(i) : J_ip >= min_overlap}| where J_ij >= min_overlap, else 0

    An anchor whose matches are weak pulls weakly. The mean is over the anchors that have such a pair.

    Args:
        min_overlap: Jaccard overlap from which two images that share a label are a positive pair, in [0, 1].
        **kwargs: As in `PairwiseLoss`: temperature, tile_size, normalize, name, reduction, dtype.

    Reference:
        Zaigrajew and Zieba, Contrastive Learning for Supervised Multi-Label Learning, NeurIPS 2022 workshop.
    """

    target, arguments = targets.MULTISUPCON, ("min_overlap",)

    def __init__(self, *, min_overlap: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.min_overlap = in_range("min_overlap", min_overlap, "in [0, 1]", 0 <= min_overlap <= 1)

    def parameters(self, all_labels: Tensor) -> dict[str, Any]:
        """The smallest overlap."""
        return {"min_overlap": self.min_overlap}


@known_to_keras
class MulSupCon(PairwiseLoss):
    """One supervised contrastive loss per label and image, averaged over them all.

    For each label c of i, P_c(i) are the other images that hold c:

        L_ic = - 1/|P_c(i)| sum over p in P_c(i) of log softmax_p(s_ip / tau)

    and the loss is the mean of L_ic over all (i, c) with P_c(i) not empty. Summed over c this is
    W_ij ~ sum over the shared labels of 1/|P_c(i)|, with anchors weighed by their number of such labels.

    Reference:
        Zhang and Wu, Multi-Label Supervised Contrastive Learning, AAAI 2024.
    """

    target = targets.MULSUPCON

    def parameters(self, all_labels: Tensor) -> dict[str, Any]:
        """How many images of the batch hold each label."""
        return {"batch_counts": ops.sum(all_labels, axis=0)}


@known_to_keras
class SimilarityDissimilarity(PairwiseLoss):
    """Supervised contrastive learning, positives weighed by what they share and by what they add.

        W_ij = 1/|P(i)| * O_ij / |y_i| * 1 / (1 + |labels of j that i lacks|)

    The weights of an anchor do not sum to 1, and W_ij is not W_ji.

    Reference:
        Multi-label contrastive learning with a similarity-dissimilarity loss, arXiv 2410.13439.
    """

    target = targets.SIMILARITY_DISSIMILARITY
