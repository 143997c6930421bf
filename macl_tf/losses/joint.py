"""A classification term beside a loss over embeddings: one backbone, two heads, one output.

The contrastive part orders tiles by their labels, the classification part makes each label readable on its own. Trained
together they share the features, which is what retrieval can compare as well as the projection.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from macl_tf.losses.batch_loss import BatchLoss, check_range

Tensor = Any


def label_cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Mean binary cross-entropy over the labels of each row, (b,).

    Args:
        labels: (b, C) multi-hot.
        logits: (b, C), of the probability that a row holds a label.
    """
    # max(x, 0) - x y + log(1 + exp(-|x|)), which overflows for no logit
    terms = ops.relu(logits) - logits * labels + ops.log1p(ops.exp(-ops.abs(logits)))
    return ops.mean(terms, axis=1)


@keras.saving.register_keras_serializable("macl_tf")
class LabelCrossEntropy(BatchLoss):
    """Multi-label classification: the mean over rows and labels of the binary cross-entropy.

        L_i = 1/C sum over c of log(1 + exp(x_ic)) - y_ic x_ic

    Args:
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: When called, for an output of fewer than C columns.

    Example:
        >>> import numpy as np
        >>> round(float(LabelCrossEntropy()(np.array([[1, 0]], "float32"), np.array([[2.0, -1.0]], "float32"))), 3)
        0.22

    The output may hold other columns before the C logits (`encoders.classified`), which are not read.
    """

    def __init__(
        self, *, name: str = "label_cross_entropy", reduction: str = "sum_over_batch_size", dtype: Any = None
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def rows(
        self, labels: Tensor, embeddings: Tensor, all_labels: Tensor, all_embeddings: Tensor, offset: Tensor
    ) -> Tensor:
        """Cross-entropy of each row of this replica."""
        return label_cross_entropy(labels, split_logits(embeddings, labels.shape[1])[1])


@keras.saving.register_keras_serializable("macl_tf")
class Joint(BatchLoss):
    """A loss over embeddings and multi-label classification, of a model that ends in both.

        L = L_embedding + classification_weight * mean over rows and labels of the binary cross-entropy

    With `classification_weight` = 0 it is the loss over embeddings.

    Args:
        loss: Any loss of this package: `MACL()`, `SupCon()`, ....
        classification_weight: >= 0. The cross-entropy of one label is about 0.3 and a contrastive loss about 4, so
            that equal shares need a weight of 10 or more.
        name: Name of the loss.
        reduction: As in `keras.losses.Loss`; `call` itself returns a vector, one value per row.
        dtype: Precision of the computation, float32 by default, under mixed precision too.

    Raises:
        ValueError: For a negative weight or a loss of another package; when called, for an output of no more than C
            columns.

    Example:
        `encoders.classified(encoder, C)` puts the logits behind the embedding:

        >>> import numpy as np, macl_tf
        >>> labels = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], "float32")
        >>> z = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], "float32")
        >>> alone, joint = macl_tf.MACL(), Joint(macl_tf.MACL(), classification_weight=20.0)
        >>> output = np.concatenate([z, 4 * labels - 2], axis=1)
        >>> round(float(joint(labels, output)) - float(alone(labels, z)), 3)
        2.539
    """

    def __init__(
        self,
        loss: BatchLoss,
        classification_weight: float = 20.0,
        *,
        name: str = "joint",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if isinstance(loss, dict):  # from a saved model
            loss = keras.saving.deserialize_keras_object(loss)
        if not isinstance(loss, BatchLoss):
            raise ValueError(f"loss must be a loss of macl_tf.losses, got {loss!r}.")
        check_range("classification_weight", classification_weight, ">= 0", classification_weight >= 0)
        self.loss = loss
        self.classification_weight = float(classification_weight)

    @property
    def temperature(self) -> Any:
        """The variable of the loss over embeddings, for `TemperatureSchedule`; None if it has none."""
        return getattr(self.loss, "temperature", None)

    @property
    def label_statistics(self) -> Any:
        """Those of the loss over embeddings, whose number of labels is checked."""
        return getattr(self.loss, "label_statistics", None)

    def rows(
        self, labels: Tensor, embeddings: Tensor, all_labels: Tensor, all_embeddings: Tensor, offset: Tensor
    ) -> Tensor:
        """Both parts of each row of this replica."""
        own, logits = split_logits(embeddings, labels.shape[1])
        if own.shape[1] == 0:
            raise ValueError(
                f"the output must hold the embedding before the {labels.shape[1]} logits, got "
                f"{embeddings.shape[1]} columns. encoders.classified makes such a model."
            )
        everyone = own if all_embeddings is embeddings else split_logits(all_embeddings, labels.shape[1])[0]
        values = self.loss.rows(labels, own, all_labels, everyone, offset)
        return values + self.classification_weight * label_cross_entropy(labels, logits)

    def get_config(self) -> dict[str, Any]:
        """Everything `__init__` takes."""
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}


def split_logits(outputs: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """The columns (b, D) before the logits, and the logits (b, C), of outputs (b, D + C)."""
    width = outputs.shape[1] - num_labels
    if width < 0:
        raise ValueError(f"the output must end in {num_labels} logits, got {outputs.shape[1]} columns.")
    return outputs[:, :width], outputs[:, width:]
