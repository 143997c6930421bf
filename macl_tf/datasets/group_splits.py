"""Parts of whole groups of tiles, by scene or by blocks of ground, and which tiles show the same ground."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

_METRES_A_DEGREE = 111_320.0
_DRAWS = 64  # of which the best is taken
_WORK = 20_000  # groups that are dealt out in all draws together, about
_TILES_A_BLOCK = 4  # along each side, by default
_SLACK = 0.02  # of a tile's side by which neighbours may overlap: their corners are rounded


def deal(
    labels: NDArray[np.integer], groups: NDArray[np.integer], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """The part of each tile, whole groups together, so that tiles and labels are spread by the shares of the parts.

    Of several draws, each of which gives large groups first to the part that lacks them most, the best is taken. Every
    part with a share holds a group.

    Args:
        labels: (N, C) 0 and 1.
        groups: (N,) numbers from 0 without gaps.
        shares: Of each part, with sum 1.
        seed: Of the draws.

    Raises:
        ValueError: Where there are fewer groups than parts.
    """
    count = int(groups.max()) + 1
    used = [part for part, share in enumerate(shares) if share > 0]
    if count < len(used):
        raise ValueError(f"{len(used)} parts need {len(used)} groups at least, got {count}.")
    held = np.zeros((count, labels.shape[1] + 1))
    np.add.at(held, groups, np.column_stack([np.ones(len(labels)), labels]))
    total = held.sum(axis=0)
    held = held[:, total > 0] / total[total > 0]  # shares of all tiles and of each label's
    wanted = np.outer(np.asarray(shares)[used], np.ones(held.shape[1]))
    rng = np.random.default_rng(seed)
    best, least = np.zeros(count, np.int64), np.inf
    for _ in range(max(1, min(_DRAWS, _WORK // count))):
        order = np.argsort(-held[:, 0] * rng.uniform(0.5, 1.5, count))
        lacks, parts = wanted.copy(), np.zeros(count, np.int64)
        for left, group in zip(range(count, 0, -1), order, strict=True):
            empty = [place for place in range(len(used)) if not (lacks[place] != wanted[place]).any()]
            choice = empty if left <= len(empty) else range(len(used))
            costs = [np.sum((lacks[place] - held[group]) ** 2 - lacks[place] ** 2) for place in choice]
            place = list(choice)[int(np.argmin(costs))]
            lacks[place] -= held[group]
            parts[group] = place
        if (cost := float(np.sum(lacks**2))) < least:
            best, least = parts, cost
    return np.array(used, np.int64)[best][groups]


def ground_blocks(places: NDArray[np.float64], side: float) -> tuple[NDArray[np.int64], float]:
    """The square block of ground in which the centre of each tile lies, numbered from 0, and the side of the blocks.

    Args:
        places: (N, 4, 2) corners in degrees.
        side: Of the blocks, in metres; 0 for four sides of a tile.

    Raises:
        ValueError: Where a block is smaller than a tile.
    """
    corners = unrolled(places)
    centres = corners.mean(axis=1)
    edges = corners - np.roll(corners, 1, axis=1)
    edges[..., 0] *= np.cos(np.radians(centres[:, None, 1]))
    tile = float(np.median(np.linalg.norm(edges, axis=2))) * _METRES_A_DEGREE
    if 0 < side < 0.99 * tile:
        raise ValueError(f"split_block must be at least the side of a tile, {tile:.0f} metres, got {side:g}.")
    side = side or _TILES_A_BLOCK * tile
    rows = np.floor(centres[:, 1] * _METRES_A_DEGREE / side)
    # Each row of blocks has its own width in degrees.
    width = np.cos(np.radians((rows + 0.5) * side / _METRES_A_DEGREE)) * _METRES_A_DEGREE / side
    columns = np.floor((centres[:, 0] % 360) * width)
    _, blocks = np.unique(np.stack([rows, columns], axis=1), axis=0, return_inverse=True)
    return blocks.reshape(-1), side


def overlapped(places: NDArray[np.float64], ranks: NDArray[np.integer], *, touching: bool = False) -> NDArray[np.bool_]:
    """Which tiles show ground that a tile of a higher rank shows too; with `touching`, or lies beside it.

    Tiles whose place is not known (NaN) overlap none.

    Args:
        places: (N, 4, 2) corners in degrees of convex outlines.
        ranks: (N,) of each tile; negative ones are not compared.
        touching: Whether neighbours count.
    """
    found = np.zeros(len(places), bool)
    known = np.flatnonzero(np.isfinite(places).all(axis=(1, 2)) & (ranks >= 0))
    if len(known) < 2:
        return found
    corners = unrolled(places[known])
    low, high = corners.min(axis=1), corners.max(axis=1)
    cell = np.maximum((high - low).max(axis=0), 1e-9) * 1.1
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(map(tuple, np.floor((low + high) / 2 / cell).astype(int).tolist())):
        cells[key].append(row)
    rank = ranks[known]
    slack = -_SLACK if touching else _SLACK
    for (x, y), own in cells.items():
        near = np.array([row for dx, dy in product((-1, 0, 1), repeat=2) for row in cells.get((x + dx, y + dy), ())])
        if rank[near].max() == rank[own].min():
            continue
        for row in own:
            others = near[rank[near] > rank[row]]
            boxes = (low[others] <= high[row] + 0.1 * cell) & (high[others] >= low[row] - 0.1 * cell)
            others = others[boxes.all(axis=1)]
            found[known[row]] = len(others) > 0 and bool(_meet(corners[row], corners[others], slack).any())
    return found


def unrolled(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners with longitudes above 180 where a tile crosses the antimeridian."""
    wide = np.ptp(places[..., 0], axis=1, keepdims=True) > 180
    longitudes = np.where(wide & (places[..., 0] < 0), places[..., 0] + 360, places[..., 0])
    return np.stack([longitudes, places[..., 1]], axis=-1)


def _meet(one: NDArray[np.float64], others: NDArray[np.float64], slack: float) -> NDArray[np.bool_]:
    """Whether a convex outline (4, 2) and each of others (M, 4, 2) have ground in common: no line parts them."""
    apart = np.zeros(len(others), bool)
    mine = np.broadcast_to(one, others.shape)
    for outline in (mine, others):
        edges = outline - np.roll(outline, 1, axis=1)
        normals = np.stack([-edges[..., 1], edges[..., 0]], axis=-1)  # (M, 4, 2)
        a, b = (np.einsum("mcd,mnd->mnc", held, normals) for held in (mine, others))
        allowed = slack * np.minimum(np.ptp(a, axis=2), np.ptp(b, axis=2))
        gap = np.maximum(a.min(axis=2) - b.max(axis=2), b.min(axis=2) - a.max(axis=2))
        apart |= (gap >= -allowed).any(axis=1)
    return ~apart
