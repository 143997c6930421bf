"""InfoNCE and multi-label N-pairs: the losses that the supervised contrastive ones grew from."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from macl_tf.losses import targets
from macl_tf.losses.batch_loss import check_range
from macl_tf.losses.pairwise import PairwiseLoss

Tensor = Any


@keras.saving.register_keras_serializable("macl_tf")
class InfoNCE(PairwiseLoss):
    """Contrastive learning without labels: the other views of an image are its positives.

        W_ij = 1 / (views - 1) where j is another view of the image of i, else 0

    Row i shows image i mod (B / views): with two views, rows b and b + B / 2 of the *global* batch are one
    image, as `pipeline.training_dataset` makes them with `views=2`. The labels only fill their place in `fit`.
    With two views this is SimCLR's NT-Xent.

    Args:
        views: Rows that show one image, >= 2; must divide B.
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
        >>> round(float(macl_tf.losses.InfoNCE()(labels, z)), 3)
        11.457

    Reference:
        van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive Coding, 2018, eq. 4.
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, eq. 1.
    """

    target = targets.INFO_NCE

    def __init__(
        self,
        views: int = 2,
        *,
        temperature: float = 0.07,
        tile_size: int | None = None,
        name: str = "info_nce",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(temperature, tile_size=tile_size, name=name, reduction=reduction, dtype=dtype)
        check_range("views", views, "a whole number >= 2", int(views) == views and views >= 2)
        self.views = int(views)

    def rows(
        self, labels: Tensor, embeddings: Tensor, all_labels: Tensor, all_embeddings: Tensor, offset: Tensor
    ) -> Tensor:
        """As in `BatchLoss.rows`, with the number of each row's image in place of its labels."""
        total = all_embeddings.shape[0]
        if total is not None and total % self.views:
            raise ValueError(
                f"The rows of a batch must be a multiple of views={self.views}, got {total}. "
                "Rows b and b + B / views show one image; use drop_remainder=True."
            )
        size = ops.shape(all_embeddings)[0]
        images = ops.maximum(size // self.views, 1)
        # A remainder that only shows when the graph runs leaves no pairs to trust.
        trust = ops.where(ops.equal(size % self.views, 0), 0.0, float("nan"))
        all_numbers = ops.expand_dims(ops.cast(ops.arange(size, dtype="int32") % images, embeddings.dtype), 1)
        positions = ops.arange(ops.shape(embeddings)[0], dtype="int32") + offset
        numbers = ops.expand_dims(ops.cast(positions % images, embeddings.dtype), 1)
        return super().rows(numbers, embeddings, all_numbers, all_embeddings, offset) + ops.cast(
            trust, embeddings.dtype
        )


@keras.saving.register_keras_serializable("macl_tf")
class MultiLabelNPairs(PairwiseLoss):
    """Multi-label N-pairs loss: cross-entropy between similarities and shared labels.

        W_ij = O_ij / sum over k of O_ik, k = i included

    as tensorflow-addons' NpairsMultilabelLoss has it: each row is among its own keys, and the similarities
    are raw dot products, of embeddings that need not have unit norm. A row without a label is left out of
    the mean, where tensorflow-addons divides 0 by 0.

    Args:
        temperature: tau > 0, a `keras.Variable`; 1, the loss as published.
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
        >>> round(float(macl_tf.losses.MultiLabelNPairs()(labels, z)), 3)
        1.16

    Reference:
        Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016.
    """

    target = targets.N_PAIRS

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        tile_size: int | None = None,
        name: str = "multi_label_n_pairs",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(temperature, tile_size=tile_size, name=name, reduction=reduction, dtype=dtype)
