"""MACL, Multi-Label Adaptive Contrastive Learning: label-aware weights and temperatures.

Its mathematics stands in `targets` (which pairs, how strongly, at which temperature) and `pairwise` (the kernel).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import ops

from macl_tf.labels import LabelStatistics
from macl_tf.losses.batch_loss import in_range, known_to_keras
from macl_tf.losses.pairwise import PairwiseLoss
from macl_tf.losses.registry import OF_MACL
from macl_tf.losses.targets import PLR_AND_DTS

Tensor = Any


@known_to_keras
class MACL(PairwiseLoss):
    """Multi-Label Adaptive Contrastive Learning, for `model.compile(loss=macl_tf.MACL())`.

    With s_ij = z_i . z_j, O_ij the labels that i and j share, J_ij their Jaccard overlap, P(i) the other
    images sharing a label with i, n_c and M_cd the images that hold c, and both c and d:

        r_c    = n_c^-gamma / mean_k n_k^-gamma                              label rarity
        a_i    = mean of r_c over the labels of i                            anchor rarity
        R_i    = the mean over the labels of i of (r_c - min r) / (max r - min r)
        v_ij   = J_ij * J_ij^(gamma kappa) * (sum over c, d in O_ij of M_cd^-gamma) / |O_ij|^2    PLR
        w_ij   = v_ij / sum over p in P(i) of v_ip
        tau_ij = max(tau_min, tau_0 (1 + alpha J_ij) (1 - beta R_i))         DTS
        L_i    = - sum over p in P(i) of w_ip (s_ip / tau_ip - log sum over a != i of exp(s_ia / tau_ia))

    A pair informs by its overlap and by the rarity of what it shares, and gamma says how much both count. Where the
    loss is least, s_ij = tau_ij (log w_ij + k_i): with kappa = 0 and tau_0 = 0.1 an image that shares one label of
    five would be 0.16 less similar than one with the same labels, and all who share a label crowd into one corner of
    the sphere. gamma kappa = 2 makes it 0.48, which tells them apart; it gives the better retrieval (docs/results.md).

    The loss is the mean of L_i over the anchors that have a positive; `weighted=True` (W-MACL) weighs anchors by a_i.
    gamma = alpha = beta = 0 is the Jaccard-weighted SupCon; with one label per image as well, it is SupCon.

    Args:
        label_statistics: `LabelStatistics` of the training set, or None: then n and M are counted in each global batch.
        reweighting_power: gamma >= 0. How strongly large overlaps, rare labels and rare pairs of labels weigh.
        overlap_power: kappa >= 0. How strongly large overlaps weigh beside rarity.
        overlap_scale: alpha >= 0. How much the temperature rises with overlap. It must not fall: below 0, the
            best-matching pairs would be pushed apart. 0 by default: 0.5 cost retrieval on real tiles.
        rarity_scale: beta in [0, 1). How much lower the temperature of a rare anchor is.
        min_temperature: tau_min > 0, the floor of tau_ij.
        weighted: W-MACL.
        **kwargs: As in `PairwiseLoss`: temperature (tau_0), tile_size, normalize, name, reduction, dtype.

    Raises:
        ValueError: As in `BatchLoss`, and when called with a C that is not that of `label_statistics`.

    Example:
        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> loss = macl_tf.MACL(label_statistics=macl_tf.LabelStatistics.from_labels(labels))
        >>> round(float(loss(labels, z)), 3)
        0.978

    Reference:
        MACL, arXiv 2512.16294, fixes the three ideas. The equations are this project's formulation of them.
    """

    arguments = (*OF_MACL, "weighted")

    def __init__(
        self,
        label_statistics: LabelStatistics | None = None,
        *,
        reweighting_power: float = 1.0,
        overlap_power: float = 2.0,
        overlap_scale: float = 0.0,
        rarity_scale: float = 0.3,
        min_temperature: float = 0.01,
        weighted: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(label_statistics, Mapping):  # from a saved model
            label_statistics = LabelStatistics.from_config(label_statistics)
        if label_statistics is not None and not isinstance(label_statistics, LabelStatistics):
            raise ValueError(
                f"label_statistics must be a LabelStatistics, got {type(label_statistics).__name__}. "
                "macl_tf.LabelStatistics.from_labels(multi_hot) makes one."
            )
        rises = ">= 0 (the temperature must rise with overlap; a falling one pushes the best matches apart)"
        self.label_statistics = label_statistics
        self.reweighting_power = in_range("reweighting_power", reweighting_power, ">= 0", reweighting_power >= 0)
        self.overlap_power = in_range("overlap_power", overlap_power, ">= 0", overlap_power >= 0)
        self.overlap_scale = in_range("overlap_scale", overlap_scale, rises, overlap_scale >= 0)
        self.rarity_scale = in_range("rarity_scale", rarity_scale, "in [0, 1)", 0 <= rarity_scale < 1)
        self.min_temperature = in_range("min_temperature", min_temperature, "> 0", min_temperature > 0)
        self.weighted = bool(weighted)
        self.target = PLR_AND_DTS[self.weighted, self.overlap_scale > 0]

    def parameters(self, all_labels: Tensor) -> dict[str, Any]:
        """The hyper-parameters, and n and M of the training set or else of the batch."""
        statistics = self.label_statistics
        if statistics is None:
            counts, pairs = ops.sum(all_labels, axis=0), ops.matmul(ops.transpose(all_labels), all_labels)
        else:
            counts = ops.convert_to_tensor(statistics.counts, dtype=all_labels.dtype)
            pairs = ops.convert_to_tensor(statistics.cooccurrence, dtype=all_labels.dtype)
        return {"counts": counts, "cooccurrence": pairs, **{name: getattr(self, name) for name in OF_MACL}}

    def get_config(self) -> dict[str, Any]:
        """As in `BatchLoss`."""
        statistics = None if self.label_statistics is None else self.label_statistics.get_config()
        return {**super().get_config(), "label_statistics": statistics}
