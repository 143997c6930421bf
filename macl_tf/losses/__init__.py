"""Losses of multi-label metric learning, each a `keras.losses.Loss` over (B, C) labels and (B, D) embeddings.

Each class of `registry.LOSSES`, imported when it is first used, and what one's own losses are made of
(docs/own_loss.md): `PairwiseLoss` with a `Target`, and `BatchLoss` beneath it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from macl_tf.losses.registry import BY_NAME

if TYPE_CHECKING:
    from macl_tf.losses.batch_loss import Batch, BatchLoss
    from macl_tf.losses.boundary import DCL, RankedList
    from macl_tf.losses.macl import MACL
    from macl_tf.losses.margin import LiftedStructure, MarginContrastive, TripletHard, TripletSemiHard
    from macl_tf.losses.multi_similarity import MultiSimilarity
    from macl_tf.losses.pairwise import PairwiseLoss
    from macl_tf.losses.proxy import ProxyAnchor, ProxyHead
    from macl_tf.losses.supcon import (
        InfoNCE,
        JaccardSupCon,
        MulSupCon,
        MultiSupCon,
        NPairs,
        SimilarityDissimilarity,
        SupCon,
    )
    from macl_tf.losses.targets import Target

_HOMES = {
    **{entry.kind: entry.home for entry in BY_NAME.values()},
    "Batch": "batch_loss",
    "BatchLoss": "batch_loss",
    "PairwiseLoss": "pairwise",
    "ProxyHead": "proxy",
    "Target": "targets",
}

__all__ = [
    "DCL", "MACL", "Batch", "BatchLoss", "InfoNCE", "JaccardSupCon", "LiftedStructure", "MarginContrastive",
    "MulSupCon", "MultiSimilarity", "MultiSupCon", "NPairs", "PairwiseLoss", "ProxyAnchor", "ProxyHead", "RankedList",
    "SimilarityDissimilarity", "SupCon", "Target", "TripletHard", "TripletSemiHard",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"macl_tf.losses.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'macl_tf.losses' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
