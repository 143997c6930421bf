"""An index as a picture: tiles in two dimensions, those that are alike near each other. Made when a version is built.

plot.npy    one row for each tile that is drawn: its row in the index, x and y in [0, 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLOT = "plot.npy"
DRAWN, ANCHORS = 20_000, 1_500  # tiles that are drawn, and those among them that t-SNE places, at most
_FEW = 100  # tiles below which they lie along the principal axes
_KIND = np.dtype([("row", "<i8"), ("x", "<f4"), ("y", "<f4")])
_DIMENSIONS, _PERPLEXITY, _NEIGHBOURS = 50, 15, 45
_EARLY, _LATE = 50, 100  # steps with the likeness of neighbours exaggerated, and without
_EQUAL = 1e-6  # of unit vectors, what rounding makes
_BLOCK = 256  # rows whose distances are in the processor's cache together
_GOLDEN = np.pi * (3 - np.sqrt(5))


def write_plot(path: Path, vectors: NDArray[np.float32]) -> None:
    """Places tiles by their vectors (N, D) of unit norm, up to 20,000 drawn at random; writes no file for none.

    The same vectors give the same plot on the same machine. It takes seconds whatever N is.
    """
    count = min(DRAWN, len(vectors))
    if not count:
        return
    rows = np.sort(np.random.default_rng(0).choice(len(vectors), count, replace=False))
    places = placed(np.asarray(vectors[rows]))
    table = np.empty(count, _KIND)
    table["row"], table["x"], table["y"] = rows, places[:, 0], places[:, 1]
    np.save(path, table, allow_pickle=False)


@dataclass(frozen=True, eq=False)
class Plot:
    """Tiles that are drawn, and where."""

    ids: NDArray[np.object_]  # (M,)
    places: NDArray[np.float32]  # (M, 2) x and y in [0, 1]

    def within(self, box: Sequence[float]) -> NDArray[np.intp]:
        """Which of the M lie in a box (left, top, right, bottom) in shares of the plot, its middle first."""
        left, top, right, bottom = box
        x, y = self.places.T
        inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
        gaps = np.abs(self.places - ((left + right) / 2, (top + bottom) / 2)).max(axis=1)
        order = np.argsort(gaps, kind="stable")
        return order[inside[order]]


def read_plot(path: Path, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows (M,) of an index of `count` tiles that are drawn, ascending, and their places (M, 2) in [0, 1]."""
    table: NDArray[Any] = np.load(path, allow_pickle=False)
    if table.dtype != _KIND or table.ndim != 1:
        raise ValueError(f"'{path}' must hold rows with x and y, got {table.dtype} of shape {table.shape}.")
    rows, places = table["row"].astype(np.int64), np.stack([table["x"], table["y"]], axis=1)
    if (np.diff(rows, prepend=-1, append=count) < 1).any() or not ((places >= 0) & (places <= 1)).all():
        raise ValueError(f"'{path}' must hold ascending rows of {count} tiles with x and y in [0, 1].")
    return rows, places


def placed(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places (M, 2) in [0, 1] of M >= 1 vectors: t-SNE (van der Maaten and Hinton, 2008) of 1,500 at most.

    The others lie around the one of these that is most like them, the more alike the nearer.
    """
    if np.ptp(vectors, axis=0).max() < _EQUAL:
        return np.full((len(vectors), 2), 0.5, np.float32)
    points = _principal(vectors)
    anchors = np.sort(np.random.default_rng(1).choice(len(points), min(ANCHORS, len(points)), replace=False))
    others = np.setdiff1d(np.arange(len(points)), anchors)
    places = np.empty((len(points), 2), np.float32)
    places[anchors] = _tsne(points[anchors])
    places[others] = _around(places[anchors], points[anchors], points[others])
    low, high = places.min(axis=0), places.max(axis=0)
    middle, width = (low + high) / 2, max(float((high - low).max()), 1e-12)
    return np.clip((places - middle) / width + 0.5, 0, 1).astype(np.float32)


def _principal(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coordinates (M, d) along the d <= 50 principal axes, by random projections (Halko et al., 2011)."""
    centred = vectors - vectors.mean(axis=0)
    most = min(_DIMENSIONS, *centred.shape)
    draws = np.random.default_rng(2).standard_normal((centred.shape[1], min(most + 10, *centred.shape)))
    basis = np.linalg.qr(centred @ draws.astype(np.float32))[0]
    for _ in range(2):
        basis = np.linalg.qr(centred @ (centred.T @ basis))[0]
    left, sizes, axes = np.linalg.svd(basis.T @ centred, full_matrices=False)
    signs = np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1) < 0, -1, 1)[:, 0]
    return np.asarray((basis @ (left * (sizes * signs)))[:, :most], np.float32)


def _tsne(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places (n, 2) of points (n, d), begun along the first two axes; the gradient is exact."""
    count = len(points)
    places = np.zeros((count, 2), np.float32)
    places[:, : points.shape[1]] = 1e-2 * points[:, :2] / max(float(points[:, 0].std()), 1e-12)
    if count < _FEW:
        return places
    near, likeness = _neighbours(points)
    speed, gains = np.zeros_like(places), np.ones_like(places)
    for step in range(_EARLY + _LATE):
        exaggeration, momentum = (12.0, 0.5) if step < _EARLY else (1.0, 0.8)
        away, total = _repulsion(places)
        apart = [axis[:, None] - axis[near] for axis in places.T]
        kernel = likeness / (1 + apart[0] ** 2 + apart[1] ** 2)
        pull = [kernel * one for one in apart]  # of each of its nearest on a point, and back
        towards = np.stack([one.sum(axis=1) - np.bincount(near.ravel(), one.ravel(), count) for one in pull], axis=1)
        gradient = 4 * (exaggeration * towards - away / total).astype(np.float32)
        gains = np.where(gradient * speed > 0, gains * 0.8, gains + 0.2).clip(0.01)
        speed = momentum * speed - max(count / exaggeration, 50.0) * gains * gradient
        places = places + speed
        places -= places.mean(axis=0)
    return places


def _neighbours(points: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The nearest 45 of each point, and how alike they are: (n, 45), which sum to 1/2, as pairs count both ways."""
    count = len(points)
    most = _NEIGHBOURS
    squares = (points**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * (points @ points.T)
    np.fill_diagonal(distances, np.inf)
    near = np.argpartition(distances, most - 1, axis=1)[:, :most]
    gaps = np.take_along_axis(distances, near, axis=1).astype(np.float64)
    gaps -= gaps.min(axis=1, keepdims=True)
    gaps /= max(float(gaps.mean()), 1e-12)
    low, high = np.full(count, -20.0), np.full(count, 20.0)  # powers of two of the precision
    for _ in range(30):
        power = (low + high) / 2
        weights = np.exp(-gaps * 2 ** power[:, None])
        sums = weights.sum(axis=1)
        entropy = np.log(sums) + 2**power * (weights * gaps).sum(axis=1) / sums
        wide = entropy > np.log(_PERPLEXITY)
        low, high = np.where(wide, power, low), np.where(wide, high, power)
    return near, (weights / sums[:, None] / (2 * count)).astype(np.float32)


def _repulsion(places: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Sums over all others of (y_i - y_j) / (1 + d^2)^2, and of 1 / (1 + d^2) over all pairs."""
    count = len(places)
    squares, ones = (places**2).sum(axis=1, keepdims=True), np.ones((count, 1), np.float32)
    first, second = np.hstack([-2 * places, squares + 1, ones]), np.hstack([places, ones, squares]).T
    with_ones = np.hstack([places, ones])
    sums, total = np.empty((count, 3)), -float(count)  # without each with itself
    for start in range(0, count, _BLOCK):
        kernel = first[start : start + _BLOCK] @ second
        np.reciprocal(kernel, out=kernel)
        total += float(kernel.sum())
        np.square(kernel, out=kernel)
        sums[start : start + _BLOCK] = kernel @ with_ones
    return places * sums[:, 2:] - sums[:, :2], total


def _around(
    places: NDArray[np.float32], anchors: NDArray[np.float32], others: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Places (m, 2) of points beside those of anchors: in a spiral around the nearest, the nearer the more alike."""
    if not len(others):
        return np.empty((0, 2), np.float32)
    squares = (anchors**2).sum(axis=1)
    nearest, distance = np.empty(len(others), np.intp), np.empty(len(others), np.float32)
    for start in range(0, len(others), _BLOCK):
        gaps = squares - 2 * (others[start : start + _BLOCK] @ anchors.T)
        nearest[start : start + _BLOCK], distance[start : start + _BLOCK] = gaps.argmin(axis=1), gaps.min(axis=1)
    distance += (others**2).sum(axis=1)
    order = np.lexsort((distance, nearest))
    sizes = np.bincount(nearest, minlength=len(anchors))
    rank = np.arange(len(others)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    gaps = (places**2).sum(axis=1)[:, None] + (places**2).sum(axis=1) - 2 * places @ places.T
    np.fill_diagonal(gaps, np.inf)
    reach = np.sqrt(np.maximum(np.median(gaps.min(axis=1)), 0))
    radius = reach * np.sqrt(rank / np.maximum(sizes[nearest[order]], 1))
    angle = rank * _GOLDEN + nearest[order]
    found = np.empty((len(others), 2), np.float32)
    found[order] = places[nearest[order]] + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return found
