"""Multi-hot labels: what they must be, and what a training set knows about them.

Letters: N images, C labels. A multi-hot array is (N, C) with values 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_multi_hot(labels: ArrayLike, name: str = "labels") -> NDArray[Any]:
    """`labels` as an (N, C) array, not copied where that can be avoided; a ValueError where it is not multi-hot."""
    array = np.asarray(labels)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name} must be multi-hot with shape (images, labels), got shape {array.shape}. "
            "A row per image, a column per label, 1 where the image holds the label."
        )
    if array.dtype != bool:
        wrong = ~((array == 0) | (array == 1))
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"{name} must hold only 0 and 1, got {array[row, column]} in row {row}, column {column}. "
                "Class indices must be turned into multi-hot rows first."
            )
    return array


def rarest(counts: NDArray[np.integer[Any]], share: float = 1 / 3) -> NDArray[np.int64]:
    """Indices of the rarest labels, of counts (C,); see `LabelStatistics.rarest`."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}.")
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    return order[: math.ceil(share * len(order) - 1e-9)]


@dataclass(frozen=True, eq=False)
class LabelStatistics:
    """How often each label, and each pair of labels, occurs in a training set.

    Args:
        counts: (C,) integers, the images that hold label c.
        cooccurrence: (C, C) integers, the images that hold both c and d; its diagonal is `counts`.
        num_images: N, the images counted, those without a label included.
        label_names: C names, where they are known.

    Raises:
        ValueError: If shapes disagree, a value is negative, or the co-occurrences are impossible.

    Example:
        >>> stats = LabelStatistics.from_labels([[1, 0], [1, 1], [1, 0], [1, 0]])
        >>> stats.counts.tolist(), stats.cooccurrence.tolist()
        ([4, 1], [[4, 1], [1, 1]])
        >>> [round(float(r), 3) for r in stats.rarity(power=0.5)]
        [0.667, 1.333]
    """

    counts: NDArray[np.int64]
    cooccurrence: NDArray[np.int64]
    num_images: int
    label_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts, np.int64)
        pairs = np.asarray(self.cooccurrence, np.int64)
        size = counts.shape[0] if counts.ndim == 1 else 0
        if size == 0 or pairs.shape != (size, size):
            raise ValueError(
                "counts must have shape (C,) and cooccurrence (C, C), "
                f"got {counts.shape} and {pairs.shape}. LabelStatistics.from_labels computes both."
            )
        bound = np.minimum(counts[:, None], counts)
        impossible = (pairs < 0) | (pairs > bound) | (pairs != pairs.T)
        if impossible.any() or (np.diagonal(pairs) != counts).any() or counts.max() > self.num_images:
            raise ValueError(
                "cooccurrence must be symmetric with counts on its diagonal, and no pair may occur more often "
                f"than either of its labels, nor a label more often than num_images={self.num_images}. "
                "LabelStatistics.from_labels computes them."
            )
        names = None if self.label_names is None else tuple(str(name) for name in self.label_names)
        if names is not None and len(names) != size:
            raise ValueError(f"label_names must name each of the {size} labels, got {len(names)} names.")
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "cooccurrence", pairs)
        object.__setattr__(self, "num_images", int(self.num_images))
        object.__setattr__(self, "label_names", names)

    @property
    def num_labels(self) -> int:
        """C, the number of labels, those that no image holds included."""
        return int(self.counts.shape[0])

    @classmethod
    def from_labels(cls, labels: ArrayLike, label_names: Iterable[str] | None = None) -> LabelStatistics:
        """Counts the labels of a multi-hot array.

        Args:
            labels: (N, C) multi-hot.
            label_names: C names, optional.

        Raises:
            ValueError: If `labels` is not multi-hot.
        """
        array = check_multi_hot(labels)
        rows = array.astype(np.float64)  # BLAS; exact up to 2^53 images
        pairs = np.rint(rows.T @ rows).astype(np.int64)
        names = None if label_names is None else tuple(label_names)
        return cls(np.diagonal(pairs).copy(), pairs, array.shape[0], names)

    @classmethod
    def from_dataset(cls, dataset: Iterable[Any], label_names: Iterable[str] | None = None) -> LabelStatistics:
        """Counts the labels of a batched data set, reading it once.

        Args:
            dataset: Finite iterable (a `tf.data.Dataset`, a `keras.utils.PyDataset`) of multi-hot batches
                (B, C), or of tuples whose second entry is one, as `fit` takes them.
            label_names: C names, optional.

        Raises:
            ValueError: If a batch is not multi-hot, or there is none, or the data set never ends.
        """
        cardinality = getattr(dataset, "cardinality", None)
        if cardinality is not None and int(cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
            raise ValueError(
                "dataset must end, got an infinite one. Count before .repeat(), or use .take(steps_per_epoch)."
            )
        pairs, images = None, 0
        for element in dataset:
            batch = element[1] if isinstance(element, tuple | list) else element
            part = cls.from_labels(np.asarray(batch))
            pairs = part.cooccurrence if pairs is None else pairs + part.cooccurrence
            images += part.num_images
        if pairs is None:
            raise ValueError("dataset must hold at least one batch of labels, got none.")
        names = None if label_names is None else tuple(label_names)
        return cls(np.diagonal(pairs).copy(), pairs, images, names)

    def rarity(self, power: float = 0.5) -> NDArray[np.float64]:
        """Label rarity r_c = n_c^-power / mean_k n_k^-power, the mean over labels that have an image.

        Args:
            power: Exponent, 0 or more; 0 makes all labels equal.

        Returns:
            (C,) float64, mean 1 over the labels with an image. A label without one counts as n_c = 1.
        """
        if not power >= 0:
            raise ValueError(f"power must be >= 0, got {power}.")
        inverse = np.maximum(self.counts, 1).astype(np.float64) ** -power
        present = self.counts > 0
        return inverse / (inverse[present].mean() if present.any() else 1.0)

    def rarest(self, share: float = 1 / 3) -> NDArray[np.int64]:
        """Indices of the rarest labels, among those with an image, rarest first.

        Args:
            share: Share of the labels, in (0, 1]; the number is rounded up, so that there is always one.

        Returns:
            (ceil(share x labels with an image),) indices; labels with equal counts in order of index.
        """
        return rarest(self.counts, share)

    def get_config(self) -> dict[str, Any]:
        """Plain lists and numbers, enough for `from_config`."""
        return {
            "counts": self.counts.tolist(),
            "cooccurrence": self.cooccurrence.tolist(),
            "num_images": self.num_images,
            "label_names": None if self.label_names is None else list(self.label_names),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LabelStatistics:
        """The statistics that `get_config` described."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LabelStatistics):
            return NotImplemented
        return self.get_config() == other.get_config()
