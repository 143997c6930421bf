"""The one place for ScaNN's rules: which kind of index for how many vectors, and how it is trained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.index.searchers.scann_library import native_log_hidden

KINDS = ("brute_force", "hashing", "tree")
_BRUTE_FORCE_BELOW, _TREE_FROM = 20_000, 100_000  # ScaNN's rules of thumb (its docs/algorithms.md)
_DIMS_PER_BLOCK = 2
_ANISOTROPIC_THRESHOLD = 0.2
# Each vector lies in two leaves, the second chosen for the queries that the first serves badly ("SOAR", Sun et al.
# 2023). In one build of 1M x 128, on a busy machine, it answered 1.3 to 1.9 times as many queries a CPU second at
# recall 0.95 to 0.99, for D / 4 bytes a vector more.
_SOAR_LAMBDA = 1.5
_TRAINING_SAMPLE = 250_000
TRAINABLE_FROM = 16  # vectors; a code book of hashing holds as many


def kind_for(size: int) -> str:
    """The kind of index for so many vectors, by ScaNN's rules.

    Args:
        size: N, number of vectors.

    Returns:
        "brute_force" under 20,000, "hashing" under 100,000, "tree" from there.

    Example:
        >>> kind_for(19_999), kind_for(20_000), kind_for(100_000)
        ('brute_force', 'hashing', 'tree')
    """
    return KINDS[(size >= _BRUTE_FORCE_BELOW) + (size >= _TREE_FROM)]


def index_parameters(kind: str, vectors: NDArray[np.float32], k: int, recall_target: float) -> dict[str, Any]:
    """How an index of a kind is to be built; its recall is not known yet."""
    parameters: dict[str, Any] = {
        "kind": kind,
        "size": len(vectors),
        "dim": vectors.shape[1],
        "k": k,
        "recall_target": recall_target,
        "recall": None,
    }
    if kind != "brute_force":
        parameters |= {"dims_per_block": _DIMS_PER_BLOCK, "anisotropic_threshold": _ANISOTROPIC_THRESHOLD}
    if kind == "tree":
        parameters |= {"num_leaves": max(1, round(math.sqrt(len(vectors)))), "soar_lambda": _SOAR_LAMBDA}
    return parameters


def train(module: Any, vectors: NDArray[np.float32], parameters: dict[str, Any]) -> Any:
    """A trained searcher of ScaNN's, for NumPy or for TensorFlow."""
    builder = module.builder(vectors, parameters["k"], "dot_product")
    sample = min(len(vectors), _TRAINING_SAMPLE)
    if parameters["kind"] == "brute_force":
        builder = builder.score_brute_force()
    else:
        if parameters["kind"] == "tree":
            builder = builder.tree(
                num_leaves=parameters["num_leaves"],
                num_leaves_to_search=max(1, parameters["num_leaves"] // 20),
                training_sample_size=sample,
                soar_lambda=None if module.__name__.endswith("scann_ops") else parameters["soar_lambda"],
            )
        builder = builder.score_ah(
            parameters["dims_per_block"],
            anisotropic_quantization_threshold=parameters["anisotropic_threshold"],
            training_sample_size=min(sample, 100_000),
        ).reorder(10 * parameters["k"])
    with native_log_hidden():
        return builder.build()
