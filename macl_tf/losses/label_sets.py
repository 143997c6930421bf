"""Batches by their distinct sets of labels, of which an archive has few beside its tiles."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from macl_tf.losses.targets import Parameters, Target

Tensor = Any

BLOCK_PAIRS = 1 << 22  # of sets that are compared at a time: 16 MiB for each matrix


def with_positive(target: Target, parameters: Parameters, labels: Tensor) -> Tensor:
    """(B,) boolean: which images of a batch have a positive in it, from its distinct sets of labels."""
    sets, set_of = distinct(labels)
    if set_of is None:
        sets, set_of = labels, tf.range(size(labels))
    described = target.describe(sets, parameters)
    images = tf.math.bincount(set_of, minlength=tf.shape(sets)[0], dtype=labels.dtype)
    width = tf.clip_by_value(BLOCK_PAIRS // tf.maximum(tf.shape(sets)[0], 1), 1, tf.maximum(tf.shape(sets)[0], 1))

    def body(start: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        chosen = tf.range(start, tf.minimum(start + width, tf.shape(sets)[0]))
        positive = tf.cast(target.positive(take(described, chosen), described, parameters), labels.dtype)
        own = tf.gather_nd(positive, tf.stack([tf.range(tf.size(chosen)), chosen], axis=1))
        number = tf.linalg.matvec(positive, images) - (0.0 if target.include_self else own)
        return start + width, tf.tensor_scatter_nd_update(found, chosen[:, None], number > 0)

    nobody = tf.zeros(tf.shape(sets)[0], tf.bool)
    found = tf.while_loop(
        lambda start, _: start < tf.shape(sets)[0], body, (tf.constant(0), nobody), parallel_iterations=1
    )[1]
    return tf.gather(found, set_of)


def distinct(labels: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The distinct rows (U, C) of labels (B, C), and which of them each row is (B,); two None under XLA.

    XLA fixes all shapes when it compiles, and U is known only then.
    """
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return None, None
    sets, set_of = tf.raw_ops.UniqueV2(x=labels, axis=[0])
    return tf.ensure_shape(sets, [None, labels.shape[1]]), tf.ensure_shape(set_of, [labels.shape[0]])


def take(described: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The given rows of every tensor."""
    return {name: tf.gather(tensor, rows) for name, tensor in described.items()}


def size(tensor: Tensor) -> int | Tensor:
    """Number of rows, as an integer where it is known."""
    return tensor.shape[0] if tensor.shape[0] is not None else tf.shape(tensor)[0]
