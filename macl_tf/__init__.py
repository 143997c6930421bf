"""Rare-class-aware image search for Earth observation archives, in TensorFlow and Keras.

    import macl_tf

    statistics = macl_tf.LabelStatistics.from_labels(labels)
    model.compile("adam", loss=macl_tf.MACL(statistics))
    model.fit(images, labels)

Names are imported when they are first used: `macl --help` does not wait for TensorFlow.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from macl_tf.registration import register_with_keras
from macl_tf.versions import check

check()
# TensorFlow leaves oneDNN off on some processors, where it trains a ResNet-18 three times as fast. Has
# no effect where TensorFlow is already imported or the user decided otherwise.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
register_with_keras()

if TYPE_CHECKING:
    from macl_tf import datasets, losses, metrics, models
    from macl_tf.evaluation.retrieval import RetrievalReport, evaluate
    from macl_tf.evaluation.retrieval_metrics import RetrievalMAP, RetrievalNDCG
    from macl_tf.labels import LabelStatistics
    from macl_tf.losses import MACL
    from macl_tf.models.encoders import build_encoder
    from macl_tf.training.callbacks import RetrievalEvaluation, TemperatureSchedule

_HOMES = {
    "MACL": "losses",
    "LabelStatistics": "labels",
    "RetrievalEvaluation": "training.callbacks",
    "RetrievalMAP": "evaluation.retrieval_metrics",
    "RetrievalNDCG": "evaluation.retrieval_metrics",
    "RetrievalReport": "evaluation.retrieval",
    "TemperatureSchedule": "training.callbacks",
    "build_encoder": "models.encoders",
    "evaluate": "evaluation.retrieval",
}
_MODULES = ("datasets", "losses", "metrics", "models")
__version__ = "0.1.0"

__all__ = [
    "MACL",
    "LabelStatistics",
    "RetrievalEvaluation",
    "RetrievalMAP",
    "RetrievalNDCG",
    "RetrievalReport",
    "TemperatureSchedule",
    "__version__",
    "build_encoder",
    "datasets",
    "evaluate",
    "losses",
    "metrics",
    "models",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"macl_tf.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"macl_tf.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'macl_tf' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
