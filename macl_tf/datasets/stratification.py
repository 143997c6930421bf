"""Random parts of a multi-label set in which every label keeps its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratify(labels: np.ndarray, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Deals images out to parts of exactly the given sizes, so that each label is spread in proportion.

    The label with the fewest images left is dealt out first. Each of its images goes to the part that still
    wants most of that label; among equals to the part with the most room, and then by chance. Images without a
    label fill what is left. A label with fewer images than parts goes to the largest parts.

    Args:
        labels: (N, C) array of 0 and 1.
        sizes: Number of images of each part, >= 0, N together.
        seed: Seed of the order and of ties, >= 0.

    Returns:
        (N,) int64, the part of each image, in [0, len(sizes)).

    Raises:
        ValueError: If the sizes are negative or do not add up to N.

    Example:
        >>> import numpy as np
        >>> rare = np.array([[1]] * 4 + [[0]] * 8)
        >>> parts = stratify(rare, (6, 3, 3), seed=0)
        >>> np.bincount(parts[:4]).tolist(), np.bincount(parts).tolist()
        ([2, 1, 1], [6, 3, 3])

    Reference:
        Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011, figure 2;
        the fixed sizes are this project's addition.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels, np.int64)
    room = np.array(sizes, np.int64)
    if (room < 0).any() or room.sum() != len(labels):
        raise ValueError(f"sizes must be >= 0 and add up to the {len(labels)} images, got {list(sizes)}.")
    wanted = np.outer(room / max(len(labels), 1), labels.sum(axis=0))
    parts = np.full(len(labels), -1, np.int64)
    order = rng.permutation(len(labels))
    while len(order):
        left = labels[order].sum(axis=0)
        if left.any():
            label = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
            need, holders = wanted[:, label], order[labels[order, label] > 0]
        else:
            need, holders = room, order
        for image in holders:
            # The last of the sorted parts: one with room, then by need, by room, by chance.
            part = np.lexsort((rng.random(len(room)), room, need, room > 0))[-1]
            parts[image] = part
            room[part] -= 1
            wanted[part] -= labels[image]  # `need` is a view of it, or of `room`
        order = order[parts[order] < 0]
    return parts
