"""Supervised contrastive losses with several labels per image: each is its target and its numbers.

All are L_i = - sum_j W_ij log softmax_j(s_ij / tau) over j != i, with s_ij = z_i . z_j, O_ij the labels that i and
j share, J_ij their Jaccard overlap, P(i) the other images of the global batch that share a label with i, and the
mean over the anchors that have a positive. `targets` holds their W.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from macl_tf.losses import targets
from macl_tf.losses.batch_loss import check_range
from macl_tf.losses.pairwise import PairwiseLoss
from macl_tf.losses.targets import Target

Tensor = Any


@keras.saving.register_keras_serializable("macl_tf")
class SupCon(PairwiseLoss):
    """Supervised contrastive learning, its positives read from label sets in one of two ways.

        positives="any":  W_ij = 1 / |P(i)| for j in P(i)
        positives="all":  W_ij uniform over the other images with exactly the labels of i (at least one)

    With one label per image the two are the same, the published loss (outside the logarithm, L_out).

    Args:
        positives: "any", sharing one label is enough, or "all", the label sets must be identical.
        temperature: tau > 0, a `keras.Variable`, so that `TemperatureSchedule` can change it.
        tile_size: None: dense b x B matrices for small batches, tiles of rows for large ones. 0: dense. 1 or
            more: so many anchors at a time. Value and gradient are the same. JAX and torch are always dense.
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: For an argument outside its range; when called, for labels and embeddings that are not
            (B, C) and (B, D), or for labels other than 0 and 1 (in a compiled step the loss is NaN).

    Example:
        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> round(float(macl_tf.losses.SupCon()(labels, z)), 3)
        2.885

    Reference:
        Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, eq. 2. ANY and ALL: Zhang and Wu,
        Multi-Label Supervised Contrastive Learning, AAAI 2024.
    """

    def __init__(
        self,
        positives: str = "any",
        *,
        temperature: float = 0.07,
        tile_size: int | None = None,
        name: str = "supcon",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(temperature, tile_size=tile_size, name=name, reduction=reduction, dtype=dtype)
        if positives not in ("any", "all"):
            raise ValueError(f"positives must be 'any' or 'all', got {positives!r}.")
        self.positives = positives

    def choose_target(self) -> Target:
        """By `positives`."""
        return targets.SUPCON_ANY if self.positives == "any" else targets.SUPCON_ALL


@keras.saving.register_keras_serializable("macl_tf")
class JaccardSupCon(PairwiseLoss):
    """Supervised contrastive learning with positives weighed by the overlap of their labels.

        W_ij = J_ij / sum over p in P(i) of J_ip

    Args:
        temperature: tau > 0, a `keras.Variable`, so that `TemperatureSchedule` can change it.
        tile_size: None: dense b x B matrices for small batches, tiles of rows for large ones. 0: dense. 1 or
            more: so many anchors at a time. Value and gradient are the same. JAX and torch are always dense.
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: For an argument outside its range; when called, for labels and embeddings that are not
            (B, C) and (B, D), or for labels other than 0 and 1 (in a compiled step the loss is NaN).

    Example:
        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> round(float(macl_tf.losses.JaccardSupCon()(labels, z)), 3)
        2.314

    Reference:
        Audibert, Gauffre, Amini, Exploring Contrastive Learning for Long-Tailed Multi-Label Text
        Classification, ECML PKDD 2024, whose overlap is the Jaccard index.
    """

    target = targets.JACCARD

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        tile_size: int | None = None,
        name: str = "jaccard_supcon",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(temperature, tile_size=tile_size, name=name, reduction=reduction, dtype=dtype)


@keras.saving.register_keras_serializable("macl_tf")
class MultiSupCon(PairwiseLoss):
    """Supervised contrastive learning over the pairs whose labels overlap enough.

        W_ij = J_ij / |{p != i : J_ip >= threshold}| where J_ij >= threshold, else 0

    The weights of an anchor do not sum to 1: an anchor whose matches are weak pulls weakly. The mean is over
    the anchors that have a pair above the threshold.

    Args:
        threshold: Smallest Jaccard overlap of a positive pair, in (0, 1].
        temperature: tau > 0, a `keras.Variable`, so that `TemperatureSchedule` can change it.
        tile_size: None: dense b x B matrices for small batches, tiles of rows for large ones. 0: dense. 1 or
            more: so many anchors at a time. Value and gradient are the same. JAX and torch are always dense.
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: For an argument outside its range; when called, for labels and embeddings that are not
            (B, C) and (B, D), or for labels other than 0 and 1 (in a compiled step the loss is NaN).

    Example:
        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> round(float(macl_tf.losses.MultiSupCon()(labels, z)), 3)
        0.965

    Reference:
        Zaigrajew and Zieba, Contrastive Learning for Supervised Multi-Label Learning, NeurIPS 2022 workshop.
    """

    target = targets.MULTISUPCON

    def __init__(
        self,
        threshold: float = 0.3,
        *,
        temperature: float = 0.07,
        tile_size: int | None = None,
        name: str = "multisupcon",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(temperature, tile_size=tile_size, name=name, reduction=reduction, dtype=dtype)
        check_range("threshold", threshold, "in (0, 1]", 0 < threshold <= 1)
        self.threshold = float(threshold)

    def parameters(self, all_labels: Tensor) -> dict[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}


@keras.saving.register_keras_serializable("macl_tf")
class MulSupCon(PairwiseLoss):
    """One supervised contrastive loss per label and image, averaged over them all.

    For each label c of i, P_c(i) are the other images that hold c:

        L_ic = - 1/|P_c(i)| sum over p in P_c(i) of log softmax_p(s_ip / tau)

    and the loss is the mean of L_ic over all (i, c) with P_c(i) not empty. Summed over c this is
    W_ij ~ sum over the shared labels of 1/|P_c(i)|, with anchors weighed by their number of such labels.

    Args:
        temperature: tau > 0, a `keras.Variable`, so that `TemperatureSchedule` can change it.
        tile_size: None: dense b x B matrices for small batches, tiles of rows for large ones. 0: dense. 1 or
            more: so many anchors at a time. Value and gradient are the same. JAX and torch are always dense.
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: For an argument outside its range; when called, for labels and embeddings that are not
            (B, C) and (B, D), or for labels other than 0 and 1 (in a compiled step the loss is NaN).

    Example:
        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> round(float(macl_tf.losses.MulSupCon()(labels, z)), 3)
        2.73

    Reference:
        Zhang and Wu, Multi-Label Supervised Contrastive Learning, AAAI 2024.
    """

    target = targets.MULSUPCON

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        tile_size: int | None = None,
        name: str = "mulsupcon",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(temperature, tile_size=tile_size, name=name, reduction=reduction, dtype=dtype)

    def parameters(self, all_labels: Tensor) -> dict[str, Any]:
        """How many images of the batch hold each label."""
        return {"batch_counts": ops.sum(all_labels, axis=0)}


@keras.saving.register_keras_serializable("macl_tf")
class SimilarityDissimilarity(PairwiseLoss):
    """Supervised contrastive learning, positives weighed by what they share and by what they add.

        W_ij = 1/|P(i)| * O_ij / |y_i| * 1 / (1 + |labels of j that i lacks|)

    The weights of an anchor do not sum to 1, and W_ij is not W_ji.

    Args:
        temperature: tau > 0, a `keras.Variable`, so that `TemperatureSchedule` can change it.
        tile_size: None: dense b x B matrices for small batches, tiles of rows for large ones. 0: dense. 1 or
            more: so many anchors at a time. Value and gradient are the same. JAX and torch are always dense.
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: For an argument outside its range; when called, for labels and embeddings that are not
            (B, C) and (B, D), or for labels other than 0 and 1 (in a compiled step the loss is NaN).

    Example:
        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> round(float(macl_tf.losses.SimilarityDissimilarity()(labels, z)), 3)
        0.727

    Reference:
        Multi-label contrastive learning with a similarity-dissimilarity loss, arXiv 2410.13439.
    """

    target = targets.SIMILARITY_DISSIMILARITY

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        tile_size: int | None = None,
        name: str = "similarity_dissimilarity",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(temperature, tile_size=tile_size, name=name, reduction=reduction, dtype=dtype)
