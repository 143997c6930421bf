"""Which items a search may return: by labels, place, date and split."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.label_lists import separators, split_names
from macl_tf.datasets.label_names import known_labels
from macl_tf.datasets.tile_facts import degrees_of
from macl_tf.index.items import Items

_HELP = (
    "A filter reads like 'any_of=water,trees; none_of=cars; bbox=5,45,10,50; since=2020-01-01; until=2020-12-31; "
    "split=test'. What holds ';' stands in quotes: none_of=\"rock; gravel\"."
)


@dataclass(frozen=True)
class Filter:
    """Conditions that an item must all meet. Without any, every item does.

    Args:
        any_of: Labels of which the item holds at least one.
        all_of: Labels that it holds all of.
        none_of: Labels that it holds none of.
        bbox: (west, south, east, north) in degrees, WGS 84: the box around the item's footprint touches it. With west
            greater than east it crosses the antimeridian. Items without a footprint never match.
        since: The first day, a date or "2020-01-01". Items without a date never match.
        until: The last day, itself included.
        split: Names of splits of which the item's is one.

    Raises:
        ValueError: For a box or dates that cannot be.

    Example:
        >>> items = Items.of(("sea", "sand"), ["a", "b"], [[1, 0], [1, 1]], splits=["train", "test"])
        >>> Filter(all_of=["sea"], none_of=["sand"]).mask(items).tolist()
        [True, False]
        >>> Filter.parse("any_of=sea; split=test").mask(items).tolist()
        [False, True]
        >>> Filter.parse("any_of=Beaches, dunes, sands, sea", ("sea", "Beaches, dunes, sands")).any_of
        ('Beaches, dunes, sands', 'sea')
    """

    any_of: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    since: np.datetime64 | None = None
    until: np.datetime64 | None = None
    split: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*_OF_LABELS, "split"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if self.bbox is not None:
            object.__setattr__(self, "bbox", degrees_of(self.bbox))
        for name in ("since", "until"):
            object.__setattr__(self, name, _day(name, getattr(self, name)))
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError(f"since must not be after until, got {self.since} and {self.until}.")

    @classmethod
    def parse(cls, text: str, label_names: Sequence[str] | None = None) -> Filter:
        """Reads the text form; an error shows how it should look.

        Args:
            text: Conditions with semicolons between them, each `name=value` with the names above: any_of, all_of,
                none_of (labels, see `macl_tf.datasets.label_names`), bbox (west,south,east,north), since, until (days)
                and split (names). The empty text is the filter that all items pass.
            label_names: The labels that there are. With them a label with commas needs no quotes, and may be spelled
                with other case, blanks, hyphens and underscores.

        Raises:
            ValueError: If it cannot be read, or names a label that there is not.
        """
        given: dict[str, Any] = {}
        ends = [*separators(text, ";", "=,|"), len(text)]
        for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False):
            part = text[start:end]
            if not part.strip():
                continue
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not value or key not in _READERS:
                raise ValueError(
                    f"each condition must be one of {', '.join(_READERS)}, then = and a value; got {part.strip()!r}. "
                    f"{_HELP}"
                )
            if key in given:
                raise ValueError(f"{key} must be given once, got it twice in {text!r}. {_HELP}")
            given[key] = _READERS[key](value)
            if label_names is not None and key in _OF_LABELS:
                given[key] = known_labels(tuple(label_names)).choose(value) or given[key]
        return cls(**given)

    def mask(self, items: Items) -> NDArray[np.bool_]:
        """(N,) whether each item matches. An UnknownLabelError names all labels that the items do not have."""
        known = known_labels(items.label_names)
        known.places((*self.any_of, *self.all_of, *self.none_of))  # all that are unknown, in one error
        matches = np.ones(len(items), bool)

        def held(names: tuple[str, ...]) -> Iterable[NDArray[np.bool_]]:
            return (items.labels[:, place] != 0 for place in known.places(names))

        if self.any_of:
            matches &= np.logical_or.reduce(list(held(self.any_of)))
        for column in held(self.all_of):
            matches &= column
        for column in held(self.none_of):
            matches &= ~column
        if self.split:
            matches &= np.logical_or.reduce([np.asarray(items.splits == name, bool) for name in self.split])
        if self.since is not None:
            matches &= items.dates >= self.since  # NaT is on no side of any day
        if self.until is not None:
            matches &= items.dates <= self.until
        if self.bbox is not None:
            matches &= _touches(items.bounds, self.bbox)
        return matches


def _touches(bounds: NDArray[np.float64], box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """(N,) whether each box (N, 4) meets `box`; edges count, NaN meets nothing."""
    west, south, east, north = box
    east += 360.0 * (west > east)
    turns = np.array([[0.0], [-360.0], [360.0]])  # the same meridian has several names
    between = ((bounds[:, 0] <= east + turns) & (bounds[:, 2] >= west + turns)).any(axis=0)
    return between & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)


def _names(field: str, names: Iterable[str]) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) else tuple(names)
    if not all(isinstance(name, str) and name for name in found):
        raise ValueError(f"{field} must be non-empty names, got {found}.")
    return found


def _day(field: str, day: Any) -> np.datetime64 | None:
    if day is None:
        return None
    try:
        # A date and not just np.datetime64, which takes "2020" and means its first of January.
        text = str(np.datetime64(day, "D")) if not isinstance(day, str) else day
        return np.datetime64(datetime.date.fromisoformat(text), "D")
    except ValueError:
        raise ValueError(f"{field} must be a date like 2020-01-01, got {day!r}.") from None


_OF_LABELS = ("any_of", "all_of", "none_of")
_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(_OF_LABELS, split_names),
    "bbox": lambda value: value.split(","),
    "since": str,
    "until": str,
    "split": split_names,
}
