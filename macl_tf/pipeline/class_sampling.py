"""Batches of several images from each of several classes, which losses over pairs need.

Of 21 classes, a batch of 60 images drawn at random holds three of each on average, and of a rare one none or one.
Here every class in a batch brings the same number. NumPy alone; every batch is a function of (seed, epoch).
"""

from __future__ import annotations

import numpy as np

from macl_tf.labels import check_multi_hot


def label_set_classes(labels: np.ndarray) -> np.ndarray:
    """The class of each image: its exact label set, numbered in the order of the sets.

    Args:
        labels: (N, C) multi-hot; with one label per row the classes are the labels themselves, in their order.

    Returns:
        (N,) int64, >= 0; -1 for images without a label, which have no class.

    Example:
        >>> label_set_classes(np.array([[0, 1], [1, 0], [0, 1], [1, 1], [0, 0]])).tolist()
        [2, 1, 2, 0, -1]
    """
    labels = check_multi_hot(labels).astype(np.int8)
    classes = np.full(len(labels), -1, np.int64)
    labelled = labels.any(axis=1)
    if labelled.any():
        classes[labelled] = np.unique(-labels[labelled], axis=0, return_inverse=True)[1].reshape(-1)
    return classes


def class_batches(
    classes: np.ndarray,
    classes_per_batch: int,
    images_per_class: int,
    *,
    seed: int,
    epoch: int,
    num_batches: int | None = None,
) -> np.ndarray:
    """Draws the batches of one epoch: P classes in each, K images of each class.

    In one pass, the images of every class are shuffled and dealt out K at a time, the last hand filled up with
    others of the class; each batch takes one hand from P classes, those with the most hands left, equal ones by
    lot. A pass ends when fewer than P classes have a hand left: what they hold waits for another epoch. So the
    images of a class are drawn alike often, and none twice in a batch, save in a class of fewer than K images.

    Args:
        classes: (N,) integers, the class of each image; negative: not drawn (`label_set_classes`). Classes of
            one image are not drawn either, as it would have no positive.
        classes_per_batch: P >= 2.
        images_per_class: K >= 2.
        seed: Any integer.
        epoch: Number of the epoch, >= 0.
        num_batches: Batches in the epoch; by default one pass. More take further passes.

    Returns:
        (num_batches, P K) int64 positions in `classes`, the rows of a batch in random order.

    Raises:
        ValueError: If an argument breaks its rule, or fewer than P classes have two images.

    Example:
        >>> classes = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
        >>> batches = class_batches(classes, 2, 2, seed=0, epoch=0)
        >>> [sorted(classes[batch].tolist()) for batch in batches]
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    classes = np.asarray(classes)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"classes must be a vector of integers, got shape {classes.shape} of {classes.dtype}.")
    for name, value, least in (
        ("classes_per_batch", classes_per_batch, 2),
        ("images_per_class", images_per_class, 2),
        ("epoch", epoch, 0),
        ("num_batches", 1 if num_batches is None else num_batches, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}.")
    drawable = [np.flatnonzero(classes == value) for value in np.unique(classes[classes >= 0])]
    drawable = [members for members in drawable if len(members) > 1]
    if len(drawable) < classes_per_batch:
        raise ValueError(
            f"classes_per_batch must be at most the number of classes with two images or more, {len(drawable)}, "
            f"got {classes_per_batch}."
        )
    batches: list[np.ndarray] = []
    while not batches or (num_batches is not None and len(batches) < num_batches):
        rng = np.random.default_rng([seed % 2**63, epoch, len(batches)])
        batches += _one_pass(drawable, classes_per_batch, images_per_class, rng)
    return np.stack(batches[:num_batches])


def _one_pass(members: list[np.ndarray], width: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of `width` hands of `size` images until fewer than `width` classes have one left."""
    hands = [_deal(rng.permutation(positions), size) for positions in members]
    left = np.array([len(hand) for hand in hands])
    batches = []
    while np.count_nonzero(left) >= width:
        chosen = np.lexsort((rng.random(len(left)), -left))[:width]
        left[chosen] -= 1
        batches.append(rng.permutation(np.concatenate([hands[c][left[c]] for c in chosen])))
    rng.shuffle(batches)
    return batches


def _deal(shuffled: np.ndarray, size: int) -> np.ndarray:
    """(hands, size): all images once, the last hand filled up from the first images."""
    hands = -(-len(shuffled) // size)
    return np.resize(shuffled, (hands, size))
