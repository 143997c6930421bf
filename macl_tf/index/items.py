"""What an index knows about each item: id, path, labels, split, source, footprint and date, as columns.

Letters: N items, C labels. Row n of every column describes the same item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.datasets.label_names import KnownLabels, UnknownLabelError


@dataclass(frozen=True, eq=False)
class Items:
    """The id table of N items, as columns. `Items.of` makes one from lists and fills in what is not known.

    Example:
        >>> items = Items.of(("sea", "sand"), ["a", "b"], [[1, 0], [1, 1]], dates=["2020-06-01", None])
        >>> len(items), items.describe(1)["labels"], items.describe(0)["date"]
        (2, ['sea', 'sand'], '2020-06-01')
    """

    label_names: tuple[str, ...]  # C unique names, the columns of `labels`
    ids: NDArray[np.object_]  # (N,) unique, non-empty str
    paths: NDArray[np.object_]  # (N,) str, "" where unknown; so are the next two
    splits: NDArray[np.object_]  # "train", "validation", "test" or whatever the archive has
    sources: NDArray[np.object_]  # where the tile comes from: a sensor, a product, a campaign
    labels: NDArray[np.uint8]  # (N, C) of 0 and 1
    # (N, 4, 2) corners of each tile in order around it, longitude in [-180, 180] and latitude in [-90, 90] (WGS 84),
    # NaN where unknown. A tile whose longitudes differ by more than 180 degrees crosses the antimeridian.
    footprints: NDArray[np.float64]
    dates: NDArray[np.datetime64]  # (N,) of days, NaT where unknown

    @classmethod
    def of(
        cls,
        label_names: Sequence[str],
        ids: Sequence[str],
        labels: ArrayLike | None = None,
        *,
        paths: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        footprints: ArrayLike | None = None,
        dates: Sequence[Any] | NDArray[np.datetime64] | None = None,
    ) -> Items:
        """Checks columns and fills in those that are not given; text columns by "".

        They are as above, of whatever type fits: dates are "2020-06-01", a date, a datetime64 or None. The table owns
        its columns only where they had to be converted. A ValueError says which entry is wrong: lengths that do not
        fit, an id that is empty or occurs twice, a text that UTF-8 cannot write, a label that is not 0 or 1, a corner
        that is not on Earth.
        """
        names = tuple(label_names)
        if len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"label_names must be unique, non-empty str, got {names}.")
        keys = _texts("ids", ids, None)
        count = len(keys)
        if len(set(keys)) != count or not all(keys):
            _refuse_ids(keys)
        return cls(
            names,
            keys,
            _texts("paths", paths, count),
            _texts("splits", splits, count),
            _texts("sources", sources, count),
            _labels(labels, (count, len(names)), names),
            _footprints(footprints, count),
            _dates(dates, count),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: ArrayLike) -> Items:
        """The items at `positions` (integers, or an (N,) mask), in that order."""
        chosen = np.asarray(positions)
        if chosen.dtype != bool:
            chosen = chosen.astype(np.intp)
        columns = {name: getattr(self, name)[chosen] for name in _COLUMNS}
        return Items(self.label_names, **columns)

    @staticmethod
    def concatenate(parts: Sequence[Items]) -> Items:
        """One table of several with the same labels. That ids stay unique is the caller's to know."""
        if not parts or any(part.label_names != parts[0].label_names for part in parts):
            raise ValueError(
                "Items.concatenate needs at least one part and the same label names in all, got "
                f"{[part.label_names for part in parts]}. Items.aligned brings parts to the same names."
            )
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        return Items(parts[0].label_names, **columns)

    def aligned(self, label_names: Sequence[str]) -> Items:
        """The same items with other label columns, among which all of theirs must be."""
        names = tuple(label_names)
        if names == self.label_names:
            return self
        unknown = [name for name in self.label_names if name not in names]
        if unknown:
            raise UnknownLabelError(unknown, KnownLabels(names))
        labels = np.zeros((len(self), len(names)), np.uint8)
        labels[:, [names.index(name) for name in self.label_names]] = self.labels
        return Items(names, **{name: getattr(self, name) for name in _COLUMNS} | {"labels": labels})

    def describe(self, position: int) -> dict[str, Any]:
        """Everything about one item, ready for JSON; None for what is not known.

        id, path, labels (names), split, source, date ("2020-06-01") and footprint (four [longitude, latitude]).
        """
        return self.describe_all([position])[0]

    def describe_all(self, positions: ArrayLike) -> list[dict[str, Any]]:
        """The same of several items, in their order."""
        rows = np.asarray(positions, np.intp)
        # Through lists: Python's own numbers are several times as fast as NumPy's.
        columns = (self.ids, self.paths, self.labels, self.splits, self.sources, self.dates)
        known = ~np.isnan(self.footprints[rows, 0, 0])
        footprints = iter(self.footprints[rows[known]].tolist())
        return [
            {
                "id": id_,
                "path": path or None,
                "labels": list(compress(self.label_names, held)),
                "split": split or None,
                "source": source or None,
                "date": date and str(date),
                "footprint": next(footprints) if placed else None,
            }
            for id_, path, held, split, source, date, placed in zip(
                *(column[rows].tolist() for column in columns), known.tolist(), strict=True
            )
        ]

    @cached_property
    def bounds(self) -> NDArray[np.float64]:
        """(N, 4) west, south, east, north of each footprint, NaN where unknown.

        East is at most 180 but for tiles that cross the antimeridian: theirs is above, west + width.
        """
        corners = unrolled(self.footprints)
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def extent_of(bounds: NDArray[np.float64]) -> list[float]:
    """West, south, east, north around (N, 4) `Items.bounds`, in degrees after RFC 7946; empty where none is known.

    West is greater than east where a tile crosses the antimeridian.
    """
    known = bounds[~np.isnan(bounds[:, 0])]
    if not len(known):
        return []
    west, south, _, _ = known.min(axis=0).tolist()
    _, _, east, north = known.max(axis=0).tolist()
    if east > 180:
        west, east = (west - 360 * (west == 180), east - 360) if east - 360 < west else (-180.0, 180.0)
    return [west, south, east, north]


_COLUMNS = tuple(field.name for field in fields(Items) if field.name != "label_names")


def unrolled(footprints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4, 2) corners, where a tile crosses the antimeridian with its western longitudes beyond 180: in one piece."""
    longitudes = footprints[:, :, 0]
    crossing = (np.ptp(longitudes, axis=1) > 180)[:, None] & (longitudes < 0)
    if not crossing.any():
        return footprints
    corners = footprints.copy()
    corners[:, :, 0] += 360.0 * crossing
    return corners


def _texts(name: str, values: Sequence[str] | None, count: int | None) -> NDArray[np.object_]:
    """(N,) object array of str."""
    if values is None:
        return np.full(count or 0, "", object)
    if isinstance(values, str):
        raise ValueError(f"{name} must be a list of str, got the single str {values!r}.")
    column = np.empty(len(values), object)
    # tolist: np.str_ are str but would be kept as objects of NumPy, 4 bytes a letter
    column[:] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if count is not None and len(column) != count:
        raise ValueError(f"{name} must have one entry for each of the {count} ids, got {len(column)}.")
    try:
        "".join(column).encode()
    except (TypeError, UnicodeEncodeError):
        for position, value in enumerate(column):
            try:
                "".join([value]).encode()
            except (TypeError, UnicodeEncodeError):
                raise ValueError(
                    f"{name} must be str that UTF-8 can write, got {value!r} at position {position}. "
                    "Numbers become str by str(n); a file name in another encoding must be renamed."
                ) from None
    return column


def _refuse_ids(ids: NDArray[np.object_]) -> None:
    seen: dict[str, int] = {}
    for position, key in enumerate(ids):
        if not key:
            raise ValueError(f"ids must not be empty, got '' at position {position}.")
        if key in seen:
            raise ValueError(f"ids must be unique, got {key!r} at positions {seen[key]} and {position}.")
        seen[key] = position


def _labels(labels: ArrayLike | None, shape: tuple[int, int], names: tuple[str, ...]) -> NDArray[np.uint8]:
    if labels is None:
        return np.zeros(shape, np.uint8)
    array = np.asarray(labels)
    if array.size == 0 and shape[0] == 0:
        array = array.reshape(shape)  # [] has no columns to count
    if array.shape != shape:
        raise ValueError(f"labels must have shape (ids, label names) = {shape}, got {array.shape}. Names: {names}.")
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(f"labels must hold only 0 and 1, got {np.setdiff1d(array, (0, 1))[:5].tolist()}.")
    return array.astype(np.uint8, copy=False)


def _footprints(footprints: ArrayLike | None, count: int) -> NDArray[np.float64]:
    if footprints is None:
        return np.full((count, 4, 2), np.nan)
    corners = np.asarray(footprints, np.float64)
    if count == 0 and corners.size == 0:
        corners = corners.reshape(0, 4, 2)
    if corners.shape != (count, 4, 2):
        raise ValueError(f"footprints must have shape (ids, 4, 2) = ({count}, 4, 2), got {corners.shape}.")
    unknown = np.isnan(corners).all(axis=(1, 2))
    wrong = ~(np.abs(corners) <= (180.0, 90.0)).all(axis=(1, 2)) & ~unknown
    if wrong.any():
        position = int(np.argmax(wrong))
        raise ValueError(
            "footprints must be four corners with longitude in [-180, 180] and latitude in [-90, 90], or all NaN, got "
            f"{corners[position].tolist()} at position {position}. Projected coordinates must be turned into WGS 84."
        )
    return corners


def _dates(dates: Sequence[Any] | NDArray[np.datetime64] | None, count: int) -> NDArray[np.datetime64]:
    if dates is None:
        return np.full(count, "NaT", "datetime64[D]")
    try:
        column = np.asarray(dates).astype("datetime64[D]") if len(dates) else np.empty(0, "datetime64[D]")
    except (ValueError, TypeError) as error:
        raise ValueError(f"dates must be like 2020-06-01, or None; {error}.") from error
    if column.shape != (count,):
        raise ValueError(f"dates must have one entry for each of the {count} ids, got shape {column.shape}.")
    return column
