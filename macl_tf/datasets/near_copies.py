"""Near copies of tiles: the same place saved, scaled or brightened anew, found by perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

BITS = 128
# Groups of bits, of which near copies must share one: with at most MOST_BITS bits that differ, they always do. The bits
# of a group lie apart: neighbours are alike.
_BANDS = 12
MOST_BITS = _BANDS - 1
LEAST_CORRELATION = 0.97  # of the small pictures, so that not the hash alone decides
_SIDE = 16
_FLAT = 0.1  # share of the median contrast below which a tile has none, and its hash is noise
_BLOCK = 1024


def small_grey(image: NDArray) -> NDArray[np.float32]:
    """A picture (H, W, bands) of any type as (16, 16) grey, smoothed so that another size changes little."""
    bands = image.shape[2]
    grey = np.nan_to_num(image.astype(np.float32)) @ np.full(bands, 1 / bands, np.float32)
    return np.asarray(Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), np.float32)


def difference_hashes(small: ArrayLike) -> NDArray[np.uint64]:
    """The hashes of N small grey pictures (N, 16, 16): (N, 2) of 64 bits.

    Each bit says whether one of 8 x 8 places is darker than the next on its right, or below it, as in dHash (Krawetz,
    2013). What is added to a picture or multiplies it does not change them.
    """
    small = np.asarray(small, np.float32)
    rows = small.reshape(len(small), 8, 2, _SIDE).mean(axis=2)
    columns = small.reshape(len(small), _SIDE, 8, 2).mean(axis=3)
    across = rows[:, :, 1::2] > rows[:, :, :-1:2]
    down = columns[:, 1::2] > columns[:, :-1:2]
    bits = np.concatenate([across.reshape(-1, 64), down.reshape(-1, 64)], axis=1)
    return np.packbits(bits, axis=1).view(np.uint64)


def near_copies(small: ArrayLike, groups: Sequence[object] | None = None) -> NDArray[np.int64]:
    """Pairs of tiles that are near copies of each other, enough of them to join all that belong together.

    Two tiles are near copies where at most 11 of the 128 bits of their hashes differ and their small pictures correlate
    by .97 or more. Pairs are looked for among tiles that share a twelfth of the bits, not among all; no pair within
    the bounds is missed. Tiles without contrast (open water, nodata) are never near copies. Copies that are turned,
    mirrored or shifted by more than a few pixels are not found.

    Args:
        small: (N, 16, 16) pictures (`small_grey`).
        groups: what is known to be the same of N tiles, as digests of exact copies: only the first of each is looked
            at. None for all.

    Returns:
        (P, 3) first tile, second tile, bits that differ; at most N - 1 pairs, which join each group of near copies.
    """
    small = np.asarray(small, np.float32)
    first = np.arange(len(small))
    if groups is not None and len(small):
        first = np.sort(np.unique(np.asarray(groups), return_index=True)[1])
    flat = small.reshape(len(small), _SIDE * _SIDE)
    contrast = flat.std(axis=1)
    chosen = first[contrast[first] > _FLAT * np.median(contrast)] if len(small) else first
    if len(chosen) < 2:
        return np.zeros((0, 3), np.int64)
    hashes = difference_hashes(small[chosen])
    normed = flat[chosen] - flat[chosen].mean(axis=1, keepdims=True)
    normed /= np.linalg.norm(normed, axis=1, keepdims=True)
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).astype(np.int64)
    keys = [bits[:, band::_BANDS] @ (1 << np.arange(len(range(band, BITS, _BANDS)))) for band in range(_BANDS)]
    joined = np.arange(len(chosen))

    def root(tile: int) -> int:
        while joined[tile] != tile:
            joined[tile] = joined[joined[tile]]
            tile = int(joined[tile])
        return tile

    pairs: list[tuple[int, int, int]] = []
    for band in range(_BANDS):
        for one, two, differ in _alike(keys[band], hashes, normed):
            ends = root(one), root(two)
            if ends[0] != ends[1]:
                joined[max(ends)] = min(ends)
                pairs.append((min(one, two), max(one, two), differ))
    found = np.array(sorted(pairs), np.int64).reshape(-1, 3)
    found[:, :2] = chosen[found[:, :2]]
    return found


def _alike(
    key: NDArray[np.int64], hashes: NDArray[np.uint64], normed: NDArray[np.float32]
) -> Iterator[tuple[int, int, int]]:
    """The pairs within the bounds among tiles with the same key, and the bits that differ."""
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1, append=-1).astype(bool))
    for start, end in pairwise(starts):
        members = order[start:end]
        for place in range(0, len(members) - 1, _BLOCK):
            rows = members[place : place + _BLOCK]
            for other in range(place, len(members), _BLOCK):
                columns = members[other : other + _BLOCK]
                bits = np.bitwise_count(hashes[rows, None] ^ hashes[None, columns]).sum(axis=2, dtype=np.int64)
                near = bits <= MOST_BITS
                if other == place:
                    near = np.triu(near, 1)
                for one, two in np.argwhere(near):
                    tile, like = int(rows[one]), int(columns[two])
                    if float(normed[tile] @ normed[like]) >= LEAST_CORRELATION:
                        yield tile, like, int(bits[one, two])
