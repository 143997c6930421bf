"""MACL, Multi-Label Adaptive Contrastive Learning: label-aware weights and temperatures.

The mathematics is written in `keras.ops` and runs on every Keras backend; the gathering of a global
batch across replicas is TensorFlow's (see `pairwise.gather_batch`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from macl_tf.labels import LabelStatistics
from macl_tf.losses.pairwise import MEANS, check_range, check_shapes, compiled, gather_batch, not_self, row_losses

Tensor = Any


def label_overlap(labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Shared labels O_ij (b, B) and Jaccard overlap J_ij (b, B), 0 where the union is empty."""
    shared = ops.matmul(labels, ops.transpose(others))
    union = ops.sum(labels, axis=1, keepdims=True) + ops.sum(others, axis=1) - shared
    return shared, shared / ops.maximum(union, 1.0)


def pair_indices(num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """The C (C + 1) / 2 unordered pairs of labels c <= d, as two index arrays."""
    first, second = np.triu_indices(num_labels)
    return first.astype("int32"), second.astype("int32")


def cooccurrence_rarity(labels: Tensor, others: Tensor, cooccurrence: Tensor, power: float) -> Tensor:
    """Sum of M_cd^-power over all pairs of shared labels, as one matrix product.

    sum over c, d in O_ij of M_cd^-gamma = sum over c <= d of [y_ic y_id] (2 - [c = d]) M_cd^-gamma [y_jc y_jd]

    so that images are described by the pairs of labels they hold, (B, C (C + 1) / 2), and no array of
    B x B x C ever exists.

    Args:
        labels: (b, C) multi-hot anchors.
        others: (B, C) multi-hot keys.
        cooccurrence: (C, C) counts M, at least 1.
        power: gamma.

    Returns:
        (b, B), 0 where no label is shared.
    """
    first, second = pair_indices(labels.shape[1])
    multiplicity = np.where(first == second, 1.0, 2.0).astype("float32")
    pair_counts = ops.take(ops.reshape(cooccurrence, (-1,)), first * labels.shape[1] + second)
    rarity = ops.power(pair_counts, -power) * ops.cast(multiplicity, labels.dtype)
    held = ops.take(labels, first, axis=1) * ops.take(labels, second, axis=1) * rarity
    other_held = ops.take(others, first, axis=1) * ops.take(others, second, axis=1)
    return ops.matmul(held, ops.transpose(other_held))


def label_rarity(counts: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Rarity r_c (C,), mean 1 over the labels that occur, and r_c scaled to [0, 1] over them.

    Args:
        counts: (C,) images holding each label, in the training set or the batch; 0 for none.
        power: gamma.
    """
    present = ops.cast(counts > 0, counts.dtype)
    inverse = ops.power(ops.maximum(counts, 1.0), -power)
    rarity = inverse * ops.maximum(ops.sum(present), 1.0) / ops.maximum(ops.sum(inverse * present), 1e-30)
    low = ops.min(ops.where(counts > 0, rarity, ops.full_like(rarity, 1e30)))
    high = ops.max(rarity * present)
    spread = high - low
    # Equal counts give equal rarities up to rounding; below that there is nothing to scale by.
    scaled = ops.where(spread > 1e-6 * high, (rarity - low) / ops.where(spread > 0, spread, 1.0), 0.0)
    return rarity, scaled


def macl(
    labels: Tensor,
    embeddings: Tensor,
    all_labels: Tensor,
    all_embeddings: Tensor,
    offset: Tensor,
    counts: Tensor,
    cooccurrence: Tensor,
    temperature: Tensor,
    *,
    reweighting_power: float = 0.5,
    overlap_scale: float = 0.5,
    rarity_scale: float = 0.3,
    min_temperature: float = 0.01,
    weighted: bool = False,
) -> Tensor:
    """MACL per anchor, as `macl_tf.MACL` states it, for anchors that are rows of a larger batch.

    Args:
        labels: (b, C) multi-hot labels of the anchors.
        embeddings: (b, D) unit-norm embeddings of the anchors.
        all_labels: (B, C) labels of the global batch, the anchors among them.
        all_embeddings: (B, D) embeddings of the global batch.
        offset: Row of the global batch at which the anchors begin.
        counts: (C,) images holding each label, n before its floor of 1.
        cooccurrence: (C, C) images holding each pair, M before its floor of 1.
        temperature: Scalar tau_0.
        reweighting_power: gamma.
        overlap_scale: alpha.
        rarity_scale: beta.
        min_temperature: tau_min.
        weighted: W-MACL.

    Returns:
        (b,) values whose mean over the global batch is the loss: B a_i L_i / sum a (a = 1 for MACL), 0 for
        anchors without a positive.
    """
    others = not_self(ops.shape(labels)[0], ops.shape(all_labels)[0], offset)
    shared, overlap = label_overlap(labels, all_labels)

    # PLR: rare and informative co-occurrences weigh more.
    information = cooccurrence_rarity(labels, all_labels, ops.maximum(cooccurrence, 1.0), reweighting_power)
    values = overlap * information / ops.square(ops.maximum(shared, 1.0))
    values = ops.where(others, values, 0.0)
    totals = ops.sum(values, axis=1, keepdims=True)
    weights = values / ops.where(totals > 0, totals, 1.0)

    # DTS: temperature from the overlap of the pair and the rarity of the anchor.
    rarity, scaled_rarity = label_rarity(counts, reweighting_power)
    anchor_rarity = mean_over_labels(labels, scaled_rarity)
    scales = (1.0 + overlap_scale * overlap) * (1.0 - rarity_scale * ops.clip(anchor_rarity, 0.0, 1.0))[:, None]
    temperatures = ops.maximum(temperature * scales, min_temperature)

    losses = row_losses(embeddings, all_embeddings, weights, temperatures, others)

    # The mean is over the anchors of the *global* batch that have a positive.
    in_batch = ops.sum(all_labels, axis=0)
    batch_has_positive = ops.matmul(all_labels, ops.cast(in_batch > 1, labels.dtype)) > 0
    importance = mean_over_labels(all_labels, rarity) if weighted else ops.ones_like(all_labels[:, 0])
    total = ops.sum(ops.where(batch_has_positive, importance, 0.0))
    own = mean_over_labels(labels, rarity) if weighted else ops.ones_like(labels[:, 0])
    size = ops.cast(ops.shape(all_labels)[0], labels.dtype)
    return size * own * losses / ops.where(total > 0, total, 1.0)


def mean_over_labels(labels: Tensor, values: Tensor) -> Tensor:
    """(B,) mean of `values` (C,) over the labels of each row of `labels` (B, C), 0 for a row without."""
    held = ops.sum(labels, axis=1)
    return ops.matmul(labels, values) / ops.maximum(held, 1.0)


compiled_macl = compiled(macl)


@keras.saving.register_keras_serializable("macl_tf")
class MACL(keras.losses.Loss):
    """Multi-Label Adaptive Contrastive Learning, for `model.compile(loss=macl_tf.MACL())`.

    With s_ij = z_i . z_j, O_ij the labels that i and j share, J_ij their Jaccard overlap, P(i) the other
    images sharing a label with i, n_c and M_cd the images that hold c, and both c and d:

        r_c    = n_c^-gamma / mean_k n_k^-gamma                              label rarity
        a_i    = mean of r_c over the labels of i                            anchor rarity
        R_i    = the mean over the labels of i of (r_c - min r) / (max r - min r)
        v_ij   = J_ij * (sum over c, d in O_ij of M_cd^-gamma) / |O_ij|^2    PLR
        w_ij   = v_ij / sum over p in P(i) of v_ip
        tau_ij = max(tau_min, tau_0 (1 + alpha J_ij) (1 - beta R_i))         DTS
        L_i    = - sum over p in P(i) of w_ip (s_ip / tau_ip - log sum over a != i of exp(s_ia / tau_ia))

    The loss is the mean of L_i over the anchors that have a positive; `weighted=True` (W-MACL) weighs
    anchors by a_i. gamma = alpha = beta = 0 is the Jaccard-weighted SupCon; with one label per image as
    well, it is SupCon.

    Under `MirroredStrategy` the rows of all replicas are gathered: value and gradient are those of the
    whole global batch on one device.

    Args:
        label_statistics: `LabelStatistics` of the training set, or None: then n and M
            are counted in each global batch.
        temperature: tau_0 > 0. It is a `keras.Variable`, so that `TemperatureSchedule` can change it.
        reweighting_power: gamma >= 0. How strongly rare labels and rare pairs of labels weigh.
        overlap_scale: alpha >= 0. The temperature must rise with overlap: below 0, the best-matching pairs
            would be pushed apart.
        rarity_scale: beta in [0, 1). How much lower the temperature of a rare anchor is.
        min_temperature: tau_min > 0, the floor of tau_ij.
        weighted: W-MACL.
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: For a hyper-parameter outside its range; when called, for labels and embeddings that are
            not (B, C) and (B, D), or for a C that is not that of `label_statistics`.

    Example:
        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> loss = macl_tf.MACL(label_statistics=macl_tf.LabelStatistics.from_labels(labels))
        >>> round(float(loss(labels, z)), 3)
        2.053

    Reference:
        MACL, arXiv 2512.16294, fixes the three ideas. The equations are this project's formulation of them.
    """

    def __init__(
        self,
        label_statistics: LabelStatistics | None = None,
        *,
        temperature: float = 0.07,
        reweighting_power: float = 0.5,
        overlap_scale: float = 0.5,
        rarity_scale: float = 0.3,
        min_temperature: float = 0.01,
        weighted: bool = False,
        name: str = "macl",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if isinstance(label_statistics, Mapping):  # from a saved model
            label_statistics = LabelStatistics.from_config(label_statistics)
        if label_statistics is not None and not isinstance(label_statistics, LabelStatistics):
            raise ValueError(
                f"label_statistics must be a LabelStatistics, got {type(label_statistics).__name__}. "
                "macl_tf.LabelStatistics.from_labels(multi_hot) makes one."
            )
        check_range("temperature", temperature, "> 0", temperature > 0)
        check_range("reweighting_power", reweighting_power, ">= 0", reweighting_power >= 0)
        check_range(
            "overlap_scale",
            overlap_scale,
            ">= 0 (the temperature must rise with overlap; a falling one pushes the best matches apart)",
            overlap_scale >= 0,
        )
        check_range("rarity_scale", rarity_scale, "in [0, 1)", 0 <= rarity_scale < 1)
        check_range("min_temperature", min_temperature, "> 0", min_temperature > 0)
        self.label_statistics = label_statistics
        self.reweighting_power = float(reweighting_power)
        self.overlap_scale = float(overlap_scale)
        self.rarity_scale = float(rarity_scale)
        self.min_temperature = float(min_temperature)
        self.weighted = bool(weighted)
        self.temperature = keras.Variable(float(temperature), dtype="float32", trainable=False, name="temperature")

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Values per row, (B,), whose mean over the global batch is the loss.

        Args:
            y_true: (B, C) multi-hot labels.
            y_pred: (B, D) embeddings, unit norm.
        """
        check_shapes(y_true, y_pred, self.label_statistics)
        all_z, all_y, offset, share = gather_batch(y_pred, y_true)
        if self.label_statistics is None:
            counts = ops.sum(all_y, axis=0)
            pairs = ops.matmul(ops.transpose(all_y), all_y)
        else:
            counts = ops.convert_to_tensor(self.label_statistics.counts, dtype=y_pred.dtype)
            pairs = ops.convert_to_tensor(self.label_statistics.cooccurrence, dtype=y_pred.dtype)
        number = functools.partial(ops.cast, dtype=y_pred.dtype)  # a tensor: a new value is no new trace
        values = compiled_macl(
            y_true,
            y_pred,
            all_y,
            all_z,
            offset,
            counts,
            pairs,
            number(ops.convert_to_tensor(self.temperature)),
            reweighting_power=number(self.reweighting_power),
            overlap_scale=number(self.overlap_scale),
            rarity_scale=number(self.rarity_scale),
            min_temperature=number(self.min_temperature),
            weighted=self.weighted,
        )
        return values * share if self.reduction in MEANS else values

    def get_config(self) -> dict[str, Any]:
        """Everything `__init__` takes, the temperature as it is now."""
        statistics = self.label_statistics
        return {
            **super().get_config(),
            "label_statistics": None if statistics is None else statistics.get_config(),
            "temperature": float(self.temperature),
            "reweighting_power": self.reweighting_power,
            "overlap_scale": self.overlap_scale,
            "rarity_scale": self.rarity_scale,
            "min_temperature": self.min_temperature,
            "weighted": self.weighted,
            "dtype": self.dtype,
        }
