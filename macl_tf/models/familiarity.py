"""How far an archive looks like what a run was trained on, and so how much of "robust" is what the run learned.

What training learned helps where it was learned and harms elsewhere (docs/results.md has both measured). Which of the
two an archive is shows in the features of the backbone as it began: whether tiles have training tiles as near as these
have each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.models.descriptor_names import LEARNED

FAMILIAR = "familiar.npy"  # of a run and of an exported encoder: features of some training tiles (M, F) float16
SAMPLE = 1024  # tiles that stand for a training set, and at most as many again for an archive
LEAST = 20  # of both: fewer say nothing sure
_NEIGHBOURS = 5
_STRANGE = 0.05  # of the training tiles are as far from the others as what counts as strange
_AT_HOME = 2 / 3  # of an archive's tiles that look like training tiles: from there on nothing is taken away


def sample(count: int) -> NDArray[np.int64]:
    """At most `SAMPLE` positions among so many, evenly spaced."""
    return np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(np.int64)


def shares(training: ArrayLike, features: ArrayLike) -> tuple[float, float]:
    """Both p of `familiar_share` and w of `learned_share`; 1 and 1/2 with fewer than `LEAST` tiles of either."""
    if min(len(np.asarray(training)), len(np.asarray(features))) < LEAST:
        return 1.0, LEARNED
    familiar = familiar_share(training, features)
    return familiar, learned_share(familiar)


def familiar_share(training: ArrayLike, features: ArrayLike) -> float:
    """p, the share of an archive's tiles that look like training tiles.

        p = share of tiles with a >= q,  a = mean cosine with the 5 nearest training tiles,
        q = the 5 % quantile of a over the training tiles, each among the others

    Args:
        training: (M, F) features of training tiles, M >= 3, such as those at `sample(N)`.
        features: (N, F) features of tiles of the archive by the same backbone, N >= 1; a sample of them is compared.

    Returns:
        p, in [0, 1]. An archive like the training set has about 0.95.

    Raises:
        ValueError: If there are fewer tiles, they are not of one width, or a number of the training is not finite.
    """
    training, features = np.asarray(training, np.float32), np.asarray(features, np.float32)
    if training.ndim != 2 or len(training) < 3 or features.shape[1:] != training.shape[1:] or not len(features):
        raise ValueError(
            f"features must be (M, F) of 3 training tiles or more and (N, F) of one tile or more, got "
            f"{training.shape} and {features.shape}."
        )
    if not np.isfinite(training).all():
        raise ValueError("features of training tiles must be finite, got some that are not. Train and export again.")
    training, features = _unit(training), _unit(features[sample(len(features))])
    nearest = min(_NEIGHBOURS, len(training) - 1)
    among = training @ training.T
    np.fill_diagonal(among, -np.inf)
    least = np.quantile(_mean_of_largest(among, nearest), _STRANGE)
    return float((_mean_of_largest(features @ training.T, nearest) >= least).mean())


def learned_share(familiar: float) -> float:
    """w, the share of the learned embedding in "robust", for an archive of which a share p looks like training tiles.

    w = 1/2 min(1, p / (2/3))
    """
    return LEARNED * min(1.0, familiar / _AT_HOME)


def reweighted(rows: ArrayLike, features: int, share: float) -> NDArray[np.float32]:
    """Vectors (N, D) of "robust", whose first columns are so many features, with another share of the learned ones.

    [sqrt(1 - w) f, sqrt(w) z] of [sqrt(1/2) f, sqrt(1/2) z], of unit norm.
    """
    rows = np.asarray(rows, np.float32) * column_scale(np.shape(rows)[-1], features, share)
    return _unit(rows)


def as_indexed(rows: ArrayLike, training: ArrayLike) -> tuple[NDArray[np.float32], float, float]:
    """Vectors (N, D) of "robust" as an index of them has them, beside features (M, F) of training tiles; p and w."""
    rows, width = np.asarray(rows), np.shape(training)[1]
    familiar, share = shares(training, rows[:, :width])
    return reweighted(rows, width, share), familiar, share


def column_scale(width: int, features: int, share: float) -> NDArray[np.float32]:
    """What `reweighted` multiplies each of D columns by, before the norm."""
    found = np.full(width, np.sqrt(share / LEARNED), np.float32)
    found[:features] = np.sqrt((1 - share) / (1 - LEARNED))
    return found


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.float32(1e-12))


def _mean_of_largest(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """(N,) the mean of the so many largest of each row."""
    return np.partition(values, values.shape[1] - count, axis=1)[:, -count:].mean(axis=1)
