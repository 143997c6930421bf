"""Proxy-Anchor: a learned proxy per label, which attracts the images that hold it and repels the others.

Keras trains the weights of layers, never those of a loss. So the proxies are weights of a layer, `ProxyHead`, which
turns embeddings (B, D) into their cosines to the proxies (B, C), and `ProxyAnchor` is a loss over these cosines:
    model = keras.Sequential([encoder, ProxyHead(num_labels)])
    model.compile("adam", loss=ProxyAnchor())
    model.fit(images, labels)         # trains encoder and proxies; `encoder` alone serves retrieval
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from macl_tf.losses.batch_loss import Batch, BatchLoss, in_range, known_to_keras
from macl_tf.losses.margin import count
from macl_tf.losses.multi_similarity import log_one_plus_sum

Tensor = Any


@keras.saving.register_keras_serializable("macl_tf")
class ProxyHead(keras.layers.Layer):
    """Cosines between embeddings and one learned proxy per label, for `ProxyAnchor`.

    s_ic = z_i . p_c / (||z_i|| ||p_c||)

    The authors train proxies with 100 times the encoder's learning rate. Keras has one rate per optimizer, but only the
    direction of a proxy counts: those that start 100 times shorter turn 100 times faster under Adam and its kin, whose
    steps do not depend on the size of the gradient. Under plain SGD a multiplier of 10 gives 100.

    Args:
        num_labels: C >= 1.
        learning_rate_multiplier: How much faster than the encoder the proxies learn under Adam, > 0.
        **kwargs: As in `keras.layers.Layer`; it computes in float32 unless `dtype` says otherwise.

    Raises:
        ValueError: For an argument out of range.

    Example:
        >>> import numpy as np
        >>> tuple(ProxyHead(17)(np.ones((4, 128), "float32")).shape)
        (4, 17)

    Reference:
        Kim, Kim, Cho, Kwak, Proxy Anchor Loss for Deep Metric Learning, CVPR 2020.
    """

    def __init__(self, num_labels: int, *, learning_rate_multiplier: float = 100.0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", "name": "proxies", **kwargs})
        whole, faster = num_labels >= 1 and num_labels == int(num_labels), learning_rate_multiplier > 0
        self.num_labels = int(in_range("num_labels", num_labels, "an integer >= 1", whole))
        self.learning_rate_multiplier = in_range("learning_rate_multiplier", learning_rate_multiplier, "> 0", faster)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Draws the proxies as the authors do: normal, variance 2 / C, here over the multiplier squared."""
        scale = 2.0 / self.learning_rate_multiplier**2
        self.proxies = self.add_weight(
            shape=(self.num_labels, input_shape[-1]),
            initializer=keras.initializers.VarianceScaling(scale, "fan_in", "untruncated_normal"),
            name="proxies",
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Cosines (B, C) of embeddings (B, D)."""
        unit = ops.normalize(ops.convert_to_tensor(self.proxies), axis=1, epsilon=1e-12)
        return ops.matmul(ops.normalize(inputs, axis=1, epsilon=1e-12), ops.transpose(unit))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(B, C) of (B, D)."""
        return (*input_shape[:-1], self.num_labels)

    def get_config(self) -> dict[str, Any]:
        """Everything `__init__` takes."""
        own = {"num_labels": self.num_labels, "learning_rate_multiplier": self.learning_rate_multiplier}
        return {**super().get_config(), **own}


@known_to_keras
class ProxyAnchor(BatchLoss):
    """Proxy-Anchor loss over the cosines that `ProxyHead` gives.

    With s_ic the cosine of image i to the proxy of label c, X+_c the images of the global batch that hold c and
    X-_c the others, P+ the labels that anyone in the batch holds, a = `scale`:

        L = 1/|P+| sum over c in P+ of log(1 + sum over i in X+_c of exp(-a (s_ic - margin)))
          + 1/C    sum over all c   of log(1 + sum over i in X-_c of exp( a (s_ic + margin)))

    An image is attracted by the proxy of each of its labels. The values are those of pytorch-metric-learning's
    ProxyAnchorLoss where every image has one label, all that it takes. The proxies are the anchors here, and each
    gathers over the batch, so that L has no parts by image: `call` returns L for every row.

    Args:
        scale: a > 0.
        margin: >= 0, delta in the paper.
        **kwargs: As in `BatchLoss`: name, reduction, dtype.

    Example:
        >>> import numpy as np
        >>> labels = np.array([[1, 0], [1, 1], [0, 1]], "float32")
        >>> cosines = np.array([[0.9, -0.2], [0.3, 0.4], [0.0, 0.7]], "float32")
        >>> round(float(ProxyAnchor()(labels, cosines)), 3)
        1.641

    Reference:
        Kim, Kim, Cho, Kwak, Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, equation 4.
    """

    arguments = ("scale", "margin")

    def __init__(self, *, scale: float = 32.0, margin: float = 0.1, **kwargs: Any) -> None:
        super().__init__(normalize=False, **kwargs)  # cosines are
        self.scale = in_range("scale", scale, "> 0", scale > 0)
        self.margin = in_range("margin", margin, ">= 0", margin >= 0)

    def rows(self, batch: Batch) -> Tensor:
        """The loss of the global batch, once per row of this replica. The embeddings are the cosines."""
        labels, cosines = batch.all_labels, batch.all_embeddings
        if labels.shape[1] != cosines.shape[1]:
            raise ValueError(
                "labels and cosines must both be (B, C), got "
                f"{tuple(batch.labels.shape)} and {tuple(batch.embeddings.shape)}. The model must end in ProxyHead(C)."
            )
        held = labels > 0
        present = count(ops.any(held, axis=0), cosines.dtype)
        attraction = log_one_plus_sum(-self.scale * (cosines - self.margin), held, axis=0)
        repulsion = log_one_plus_sum(self.scale * (cosines + self.margin), ops.logical_not(held), axis=0)
        loss = ops.sum(attraction) / ops.maximum(present, 1.0) + ops.mean(repulsion)
        return ops.ones_like(batch.labels[:, 0]) * loss

    def get_config(self) -> dict[str, Any]:
        """As in `BatchLoss`."""
        own = super().get_config()
        del own["normalize"]
        return own
