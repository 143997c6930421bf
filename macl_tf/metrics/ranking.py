"""The order of a ranking: descending similarity, ties by database position."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.metrics.ranked import check_cutoff

_LOW = np.int64(0xFFFFFFFF)
_LAST = np.int64(0x7FFFFFFF) << 32  # behind every finite similarity


def rank(similarities: ArrayLike, k: int | None = None, exclude: ArrayLike | None = None) -> NDArray[np.int64]:
    """Database positions by descending similarity; equal similarities by ascending position.

    Args:
        similarities: (Q, N) finite; float32 ranks in float32, everything else in float64. 0 and -0 are equal.
        k: Only the first K, or None for all.
        exclude: (Q,) a position that goes to the end of each ranking (the query itself), or -1 for none.

    Returns:
        (Q, min(K, N)) positions.

    Raises:
        ValueError: For a shape other than (Q, N), values that are not finite, or `k` < 1.

    Example:
        >>> rank([[0.5, 0.9, 0.5, 0.1]]).tolist(), rank([[0.5, 0.9, 0.5, 0.1]], exclude=[1]).tolist()
        ([[1, 0, 2, 3]], [[0, 2, 3, 1]])
    """
    check_cutoff(k)
    array = np.asarray(similarities)
    array = np.array(array, np.float32 if array.dtype == np.float32 else np.float64, order="C")
    if array.ndim != 2 or array.shape[1] >= _LOW:
        raise ValueError(f"similarities must have shape (queries, database), got {array.shape}.")
    if not np.isfinite(array).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"similarities must be finite, got {array[row, column]} for query {row} and database item {column}. "
            "Use `exclude` to keep an item out."
        )
    excluded = np.full(len(array), -1) if exclude is None else np.asarray(exclude, np.int64)
    if excluded.shape != (len(array),) or np.any(excluded < -1) or np.any(excluded >= array.shape[1]):
        raise ValueError(
            f"exclude must hold a position below {array.shape[1]}, or -1, for each of the {len(array)} queries, "
            f"got shape {excluded.shape}."
        )
    return order(array, excluded, k)


def order(similarities: NDArray[Any], exclude: NDArray[np.int64], k: int | None = None) -> NDArray[np.int64]:
    """`rank` without its checks; overwrites float32 `similarities`."""
    rows = np.flatnonzero(exclude >= 0)
    if similarities.dtype != np.float32:
        return _order_float64(similarities, rows, exclude[rows], k)
    # One 64-bit integer for each item, the similarity in its high half and the position in its low half: sorting
    # these needs no argsort, and ties by position come for free.
    similarities += np.float32(0)  # -0 becomes 0
    bits = similarities.view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # now ordered like the floats
    np.invert(bits, out=bits)
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(keys.shape[1])
    keys[rows, exclude[rows]] = _LAST | exclude[rows]
    if k is not None and k < keys.shape[1]:
        keys.partition(k - 1, axis=1)
        keys = keys[:, :k].copy()
    keys.sort(axis=1)
    keys &= _LOW
    return keys


def _order_float64(
    similarities: NDArray[np.float64], rows: NDArray[np.int64], exclude: NDArray[np.int64], k: int | None
) -> NDArray[np.int64]:
    falling = -similarities
    falling[rows, exclude] = np.inf
    # The quick sort is twice as fast but does not keep ties in order: rows that have any are sorted again.
    positions = np.argsort(falling, axis=1)
    ranked = np.take_along_axis(falling, positions, axis=1)
    tied = np.flatnonzero((ranked[:, 1:] == ranked[:, :-1]).any(axis=1))
    if tied.size:
        positions[tied] = np.argsort(falling[tied], axis=1, kind="stable")
    return positions[:, :k]
