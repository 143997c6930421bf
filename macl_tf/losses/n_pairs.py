"""InfoNCE and N-pairs: the losses that the supervised contrastive ones grew from."""

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

    Row i shows image i mod (B / views): with two views, rows b and b + B / 2 of the *global* batch are one
    image, as `pipeline.training_dataset` makes them with `views=2`. The labels only fill their place in `fit`.
    With two views this is SimCLR's NT-Xent.

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

    as tensorflow-addons' NpairsMultilabelLoss has it: each row is among its own keys, and the similarities are raw dot
    products without a temperature. A row without a label is left out of the mean, where tensorflow-addons divides 0
    by 0.

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
