"""Losses of multi-label metric learning, each a `keras.losses.Loss` over (B, C) labels and (B, D) embeddings."""

from macl_tf.losses.contrastive import MACL

__all__ = ["MACL"]
