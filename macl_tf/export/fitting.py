"""An encoder fitted to the archive that it searches: in a strange one, less of what the run learned.

A run keeps the features of some of its training tiles, and its export takes them along. An index that is built from
shards, or from vectors through a head, compares its tiles with them (`models/familiarity.py`) and says in its manifest
how its vectors came from the encoder's: {"encoder": {..., "share": w, "features": F}}. Whoever loads the encoder for an
index does the same to queries.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.artifacts import open_encoder, verify_file
from macl_tf.models.descriptor_names import LEARNED, ROBUST
from macl_tf.models.familiarity import FAMILIAR, column_scale, reweighted, shares

_BLOCK = 8_192  # rows at a time


def familiar_of(run: Path, info: Mapping[str, Any]) -> Path | None:
    """The file of features of a run's training tiles, where it has one and an export of `info` has them in columns."""
    file = run / FAMILIAR
    return file if info["descriptor"] == ROBUST and file.is_file() else None


def fitted(served: str | os.PathLike[str], made_with: dict[str, Any], vectors: NDArray[np.float32]) -> dict[str, Any]:
    """What an index says of its encoder, which gave its vectors (N, D): with "share" and "features" if it is strange.

    That is said on standard error. Nothing is added where the encoder has nothing to compare with, or where enough of
    the tiles look like training tiles, or too few tell. `as_fitted` makes the vectors of the index.
    """
    path, manifest = open_encoder(served, made_with, verify=False)
    if FAMILIAR not in manifest["files"] or not len(vectors):
        return made_with
    verify_file(path, manifest, FAMILIAR)
    training = np.load(path / FAMILIAR, allow_pickle=False)
    features = int(training.shape[1])
    familiar, share = shares(training, vectors[:, :features])
    if share == LEARNED:
        return made_with
    print(
        f"robust     {familiar:.0%} of the tiles look like those of the training: what was learned there has a share "
        f"of {share:.2f} instead of {LEARNED:g}",
        file=sys.stderr,
    )
    return {**made_with, "share": share, "features": features}


def as_fitted(made_with: Mapping[str, Any], vectors: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The vectors (N, D) of an index that says a share of its encoder, block by block, of unit norm."""
    for start in range(0, len(vectors), _BLOCK):
        yield reweighted(vectors[start : start + _BLOCK], made_with["features"], made_with["share"])


def fit(made_with: Mapping[str, Any], vectors: NDArray[np.float32]) -> None:
    """Makes the vectors (N, D) of an encoder those of the index, in place; nothing where that says no share."""
    if "share" not in made_with:
        return
    start = 0
    for block in as_fitted(made_with, vectors):
        vectors[start : start + len(block)] = block
        start += len(block)


def scale_of(made_with: Mapping[str, Any], dim: int) -> NDArray[np.float32] | None:
    """What an index has the columns of its encoder's vectors (D,) multiplied by, before their norm; None for 1."""
    return column_scale(dim, made_with["features"], made_with["share"]) if "share" in made_with else None
