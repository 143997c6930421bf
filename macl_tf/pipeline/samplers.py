"""Label-aware sampling: which images the batches of an epoch show, so that rare labels are seen more often.

A `Sampler` has one method, `rows(epoch)`. NumPy alone, for every backend; every epoch is a function of (seed, epoch),
so a run that was interrupted sees the batches of one that was not. Of 21 classes, a batch of 60 images drawn at random
holds three of each on average, and of a rare one none or one: `Classes` brings the same number of every class.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from macl_tf.labels import check_multi_hot


class Sampler(ABC):
    """Which images each batch of an epoch shows. Every epoch is a function of (labels, seed, number of the epoch).

    `make_sampler` says what it takes. By default an epoch has drawable rows // B batches.

    Attributes:
        drawable: (n,) int64 rows of the labels that may be drawn, ascending.
        weights: (N,) float64 share of the draws of each row, summing to 1; 0 for rows that are never drawn.
        steps: Batches in an epoch.
    """

    power = 0.0  # of `label_aware_weights`
    _WHO = "labelled"
    _MORE = "Label some."  # what helps where no image can be drawn: not a smaller batch

    def __init__(self, labels: np.ndarray, batch_size: int, *, seed: int, steps: int | None = None) -> None:
        labels = check_multi_hot(labels)
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}.")
        self.batch_size, self.seed = batch_size, seed
        self.weights = label_aware_weights(labels, self.power)
        self.drawable = self.drawable_rows(labels)
        if batch_size > len(self.drawable):
            raise ValueError(
                f"batch_size must be at most the number of labelled training images, got {batch_size} and "
                f"{len(self.drawable)} {self._WHO} of {len(labels)}. "
                f"{'Lower batch_size.' if len(self.drawable) else self._MORE}"
            )
        self.steps = len(self.drawable) // batch_size if steps is None else steps
        if self.steps < 1:
            raise ValueError(f"steps_per_epoch must be >= 1, got {self.steps}.")

    @staticmethod
    def drawable_rows(labels: np.ndarray) -> np.ndarray:
        """Rows (n,) of (N, C) labels that are drawn at all: here, those with a label."""
        return np.flatnonzero(labels.any(axis=1))

    @abstractmethod
    def rows(self, epoch: int) -> np.ndarray:
        """Rows of the labels that each batch shows, (steps, B) int64, in epoch 0, 1, ..."""


class Uniform(Sampler):
    """Every labelled image alike, each at most once in an epoch of the default length."""

    def rows(self, epoch: int) -> np.ndarray:
        """As `draw_epoch` draws them."""
        drawn = draw_epoch(self.weights[self.drawable], self.steps * self.batch_size, seed=self.seed, epoch=int(epoch))
        return self.drawable[drawn].reshape(self.steps, self.batch_size)


class Weighted(Uniform):
    """In proportion to `label_aware_weights` of this power, with the least variance (`draw_epoch`)."""

    def __init__(self, *arguments: Any, power: float = 0.5, **options: Any) -> None:
        self.power = power
        super().__init__(*arguments, **options)


class Repeat(Weighted):
    """Repeat-factor sampling: passes over the images, each repeated in proportion to its weight (`repeat_pass`)."""

    def rows(self, epoch: int) -> np.ndarray:
        """As passes emit them, one after the other; the rest of the last pass is left out."""
        factors = repeat_factors(self.weights[self.drawable])
        passes: list[np.ndarray] = []
        while sum(map(len, passes)) < self.steps * self.batch_size:
            passes.append(repeat_pass(factors, seed=self.seed, epoch=int(epoch), number=len(passes)))
        drawn = np.concatenate(passes)[: self.steps * self.batch_size]
        return self.drawable[drawn].reshape(self.steps, self.batch_size)


class Classes(Sampler):
    """P x K sampling: K images of each of B / K classes in a batch, a class being an exact label set (`class_batches`).

    K, `images_per_class`, is 2 or more and divides B.
    """

    _WHO = "with a companion"
    _MORE = "Label some alike, or use sampler='weighted'."
    # Batches of classes show rare classes more often; how much, an average over this many epochs tells well enough.
    _EPOCHS_COUNTED = 20

    def __init__(self, labels: np.ndarray, batch_size: int, *, images_per_class: int = 8, **options: Any) -> None:
        if images_per_class < 2 or batch_size % images_per_class:
            raise ValueError(
                f"images_per_class must be >= 2 and divide batch_size={batch_size}, got {images_per_class}."
            )
        self.images_per_class = images_per_class
        super().__init__(labels, batch_size, **options)
        if batch_size < 2 * images_per_class:
            raise ValueError(
                f"batch_size must be >= 2 images_per_class, so that a batch holds two classes, got {batch_size} and "
                f"{images_per_class}."
            )
        self._classes = label_set_classes(labels)[self.drawable]
        drawn = np.concatenate([self.rows(epoch).ravel() for epoch in range(self._EPOCHS_COUNTED)])
        self.weights = np.bincount(drawn, minlength=len(labels)) / len(drawn)

    @staticmethod
    def drawable_rows(labels: np.ndarray) -> np.ndarray:
        """Rows (n,) whose exact label set another row has too."""
        classes = label_set_classes(labels)
        companions = np.bincount(classes[classes >= 0], minlength=1)
        return np.flatnonzero((classes >= 0) & (companions[classes] > 1))

    def rows(self, epoch: int) -> np.ndarray:
        """As `class_batches` deals them."""
        width = self.batch_size // self.images_per_class
        drawn = class_batches(
            self._classes, width, self.images_per_class, seed=self.seed, epoch=int(epoch), num_batches=self.steps
        )
        return self.drawable[drawn]


class BesideUnlabelled(Sampler):
    """The batches of another sampler, with images beside them that have no label: negatives of all that have one.

    Args:
        labelled: What draws the images with a label.
        labels: (N, C) multi-hot, the same that `labelled` draws from.
        count: Images without a label in each batch, >= 1, drawn alike.
    """

    def __init__(self, labelled: Sampler, labels: np.ndarray, count: int) -> None:
        self._labelled, self._others, self._count = labelled, np.flatnonzero(~labels.any(axis=1)), count
        if count < 1 or not len(self._others):
            raise ValueError(f"count must be >= 1 of images without a label, got {count} of {len(self._others)}.")
        self.batch_size, self.steps, self.seed = labelled.batch_size + count, labelled.steps, labelled.seed
        self.drawable = np.union1d(labelled.drawable, self._others)
        share = labelled.batch_size / self.batch_size
        self.weights = labelled.weights * share
        self.weights[self._others] = (1 - share) / len(self._others)

    def rows(self, epoch: int) -> np.ndarray:
        """Those of the other sampler, then those without a label."""
        weights = np.full(len(self._others), 1 / len(self._others))
        drawn = draw_epoch(weights, self.steps * self._count, seed=self.seed, epoch=int(epoch))
        beside = self._others[drawn].reshape(self.steps, self._count)
        return np.concatenate([self._labelled.rows(epoch), beside], axis=1)


SAMPLERS: dict[str, type[Sampler]] = {"weighted": Weighted, "repeat": Repeat, "uniform": Uniform, "classes": Classes}


def make_sampler(name: str, labels: np.ndarray, batch_size: int, **options: Any) -> Sampler:
    """A sampler by its name: "weighted", "repeat", "uniform" or "classes".

    Args:
        name: One of `SAMPLERS`.
        labels: (N, C) multi-hot labels of the training images.
        batch_size: B, images in a batch, >= 1.
        **options: `seed`, and where wanted `steps`, `power` (weighted, repeat), `images_per_class` (classes); each
            sampler gets those that it takes.

    Raises:
        ValueError: For an unknown name, or an argument that breaks its rule.

    Example:
        >>> labels = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
        >>> sampler = make_sampler("weighted", labels, 2, seed=0, steps=3, power=1.0, images_per_class=8)
        >>> sampler.rows(epoch=0).shape, sampler.weights.tolist()
        ((3, 2), [0.25, 0.25, 0.5, 0.0])
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}.")
    kinds = (kind for kind in SAMPLERS[name].__mro__ if "__init__" in vars(kind))
    taken = {parameter for kind in kinds for parameter in inspect.signature(kind).parameters}
    return SAMPLERS[name](labels, batch_size, **{key: value for key, value in options.items() if key in taken})


def label_aware_weights(labels: np.ndarray, power: float = 0.5) -> np.ndarray:
    """(N,) share of the draws that each image gets, by the (N, C) labels of a training set.

    u_i = (mean over c in y_i of 1 / n_c) ^ power, divided by its sum, n_c being the images that hold c. Power 1 is
    inverse frequency, 0 draws every labelled image alike. An image without a label has no positive to be compared with
    and is never drawn.
    """
    labels = check_multi_hot(labels).astype(np.float64)
    if not 0 <= power < np.inf:
        raise ValueError(f"power must be finite and >= 0, got {power}.")
    num_labels = labels.sum(axis=1)
    if not num_labels.any():
        raise ValueError(f"At least one image must have a label, none of {len(labels)} has. Check the label table.")
    inverse_counts = 1.0 / np.maximum(labels.sum(axis=0), 1.0)
    mean_inverse = labels @ inverse_counts / np.maximum(num_labels, 1.0)
    weights = np.where(num_labels > 0, mean_inverse**power, 0.0)
    return weights / weights.sum()


def repeat_factors(weights: np.ndarray) -> np.ndarray:
    """How often a pass emits each image, f_i = u_i / mean u, so that it stays about as long as the data set."""
    return weights / weights.mean()


def expected_frequencies(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(C,) share of the drawn images that hold each label: sum over i of u_i y_ic / sum of u_i.

    Equal weights give the frequencies before resampling. A multi-label image counts for each of its labels, so they do
    not sum to 1.
    """
    return (weights / weights.sum()) @ labels.astype(np.float64)


def draw_epoch(weights: np.ndarray, num_draws: int, *, seed: int, epoch: int) -> np.ndarray:
    """Draws the images of one epoch in proportion to their (N,) weights: (num_draws,) positions (systematic sampling).

    The images lie end to end on [0, 1), each as long as its share, in an order shuffled anew for each epoch; the points
    (k + U) / num_draws, k = 0 .. num_draws - 1, with one uniform U, are the draws, which are then shuffled. Every image
    is thus drawn its expected number of times rounded down or up (independent draws would show some images thrice by
    luck and others never), and the mean over epochs is exact. With equal weights and as many draws as images, each is
    drawn once.

    Reference:
        Madow and Madow, "On the theory of systematic sampling", Annals of Mathematical Statistics, 1944.
    """
    random = _generator(seed, epoch)
    order = random.permutation(len(weights))
    ends = np.cumsum(weights[order])
    points = (np.arange(num_draws) + random.random()) / num_draws * ends[-1]
    # Strictly below the end, whatever the rounding: the first end beyond a point is then always one that its
    # own weight has moved, which rules out images of weight 0 as well.
    points = np.minimum(points, np.nextafter(ends[-1], 0.0))
    return random.permutation(order[np.searchsorted(ends, points, side="right")])


def repeat_pass(factors: np.ndarray, *, seed: int, epoch: int, number: int = 0) -> np.ndarray:
    """One pass of repeat-factor sampling, shuffled: positions in the (N,) factors, about as many as their sum.

    Image i comes floor(f_i) times, plus once more with probability f_i - floor(f_i). `streams.repeat_by_factor` is the
    same for a stream without random access. `number` is that of the pass within the epoch.

    Reference:
        Gupta, Dollar and Girshick, "LVIS", CVPR 2019.
    """
    random = _generator(seed, epoch, number)
    times = np.floor(factors + random.random(len(factors))).astype(np.int64)
    return random.permutation(np.repeat(np.arange(len(factors)), times))


def label_set_classes(labels: np.ndarray) -> np.ndarray:
    """(N,) class of each image: its exact label set, numbered in the order of the sets; -1 for images without a label.

    With one label per row the classes are the labels themselves, in their order.
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
    """The batches of one epoch, P >= 2 classes in each, K >= 2 images of each class: (num_batches, P K) positions.

    In one pass, the images of every class are shuffled and dealt out K at a time, the last hand filled up with others
    of the class; each batch takes one hand from P classes, those with the most hands left, equal ones by lot. A pass
    ends when fewer than P classes have a hand left: what they hold waits for another epoch. So the images of a class
    are drawn alike often, and none twice in a batch, save in a class of fewer than K images.

    Images of a negative class (`label_set_classes`) are not drawn, nor the only one of a class, which would have no
    positive. By default an epoch is one pass; more batches take further passes.
    """
    drawable = [np.flatnonzero(classes == value) for value in np.unique(classes[classes >= 0])]
    drawable = [members for members in drawable if len(members) > 1]
    if len(drawable) < classes_per_batch:
        raise ValueError(
            f"classes_per_batch must be at most the number of classes with two images or more, {len(drawable)}, "
            f"got {classes_per_batch}."
        )
    batches: list[np.ndarray] = []
    while not batches or (num_batches is not None and len(batches) < num_batches):
        rng = _generator(seed, epoch, len(batches))
        batches += _one_pass(drawable, classes_per_batch, images_per_class, rng)
    return np.stack(batches[:num_batches])


def _generator(*counters: int) -> np.random.Generator:
    return np.random.default_rng([counter % 2**63 for counter in counters])


def _one_pass(members: list[np.ndarray], width: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of `width` hands of `size` images until fewer than `width` classes have one left."""
    # All images of a class once, the last hand filled up from the first images.
    hands = [np.resize(rng.permutation(positions), (-(-len(positions) // size), size)) for positions in members]
    left = np.array([len(hand) for hand in hands])
    batches = []
    while np.count_nonzero(left) >= width:
        chosen = np.lexsort((rng.random(len(left)), -left))[:width]
        left[chosen] -= 1
        batches.append(rng.permutation(np.concatenate([hands[c][left[c]] for c in chosen])))
    rng.shuffle(batches)
    return batches
