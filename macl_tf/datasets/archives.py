"""`Archive`: labelled tiles, the type that every loader returns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np

from macl_tf.datasets.bands import Bands, Reader
from macl_tf.datasets.images import RGB, is_image_name

# Blanks (the invisible ones too), hyphens (minus and dashes too) and underscores.
_HYPHENS = r"\-\u00ad\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
_BETWEEN = rf"[\s\u200b\u2060\ufeff_{_HYPHENS}]+"
_BETWEEN_WORDS = re.compile(_BETWEEN)
_IN_NUMBERS = re.compile(rf"(?<=\d){_BETWEEN}(?=\d)|^[{_HYPHENS}](?=\d)")


@dataclass(frozen=True, eq=False)
class Archive:
    """N labelled tiles that are read one by one, in the order of their file names.

    Args:
        name: short name of the archive ("ucm").
        label_names: the C label names.
        file_names: N unique names relative to the archive, sorted ("agricultural/agricultural00.tif").
        labels: (N, C) array of 0 and 1; kept as uint8.
        read_image: index -> (H, W, 3) uint8 RGB image of any size, or (H, W, N) float32 of `bands`. It may be called
            from many threads at once.
        label_areas: (N, C) float32 share of the tile that each label covers, in [0, 1], where there are masks.
        scenes: N scene names ("agricultural"), where the archive has scenes.
        numbers: (N,) running number within the scene, for archives whose neighbouring numbers show the same place.
        official_split: N of "train", "validation" or "test", where the authors published a split.
        default_split: what `split_archive` does unless told otherwise: "random", "blocks", "groups" or "official".
        notes: what a user should know about this copy: rows without image, unreadable images and the like.
        contents: N digests of the pixels, the same for exact copies and for no other two; None where they are not
            known. What `content_digest` gives.
        bands: of the tiles; None for pictures of 8-bit RGB.
        groups: N names of groups, tiles of one of which belong in one part: the scene that they were cut from.
        places: indices -> (n, 4, 2) longitude and latitude of the corners of these tiles, NaN where they are not known.
        days: (N,) datetime64[D] on which they were taken as the label table says, NaT where it does not.
        file_day: index -> datetime64[D] on which it was taken as its file says, NaT where it does not.
        features: (N, F) float32 vectors from elsewhere that stand for the pictures, where there are such.

    Raises:
        ValueError: if a length does not fit, a file name occurs twice or out of order, or a label is not 0 or 1.

    Example:
        >>> import numpy as np
        >>> tile = np.zeros((8, 8, 3), np.uint8)
        >>> archive = Archive("mine", ("sea", "sand"), ("a.png", "b.png"), np.eye(2), lambda index: tile)
        >>> len(archive)
        2
    """

    name: str
    label_names: tuple[str, ...]
    file_names: tuple[str, ...]
    labels: np.ndarray
    read_image: Callable[[int], np.ndarray]
    label_areas: np.ndarray | None = None
    scenes: tuple[str, ...] | None = None
    numbers: np.ndarray | None = None
    official_split: tuple[str, ...] | None = None
    default_split: str = "random"
    notes: tuple[str, ...] = ()
    contents: tuple[str, ...] | None = None
    features: np.ndarray | None = None
    bands: Bands | None = None
    groups: tuple[str, ...] | None = None
    places: Callable[[np.ndarray], np.ndarray] | None = None
    days: np.ndarray | None = None
    file_day: Callable[[int], np.datetime64] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.file_names), len(self.label_names))
        labels = np.asarray(self.labels)
        if labels.shape != shape:
            raise ValueError(
                f"labels of {self.name} must have shape (images, label names) = {shape}, got {labels.shape}."
            )
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"labels of {self.name} must be 0 or 1, got {np.setdiff1d(labels, (0, 1))[:5].tolist()}.")
        object.__setattr__(self, "labels", labels.astype(np.uint8))
        if len(set(self.label_names)) != shape[1]:
            raise ValueError(f"label names of {self.name} must be unique, got {self.label_names}.")
        for before, after in pairwise(self.file_names):
            if before >= after:
                raise ValueError(
                    f"file names of {self.name} must be sorted and unique, got {before!r} before {after!r}."
                )
        if self.label_areas is not None:
            areas = np.asarray(self.label_areas, np.float32)
            if areas.shape != shape or not ((areas >= 0) & (areas <= 1)).all():
                raise ValueError(
                    f"label_areas of {self.name} must be shares in [0, 1] of shape {shape}, got {areas.shape}."
                )
            object.__setattr__(self, "label_areas", areas)
        if self.numbers is not None:
            object.__setattr__(self, "numbers", np.asarray(self.numbers, np.int64))
        for field in ("scenes", "numbers", "official_split", "contents", "features", "groups", "days"):
            value = getattr(self, field)
            if value is not None and len(value) != shape[0]:
                raise ValueError(f"{field} of {self.name} must have one entry an image ({shape[0]}), got {len(value)}.")
        if not (parts := set(self.official_split or ())) <= {"train", "validation", "test"}:
            raise ValueError(f"official_split must hold 'train', 'validation' and 'test' only, got {sorted(parts)}.")
        if self.default_split not in (known := ("random", "blocks", "groups", "official")):
            raise ValueError(f"default_split must be one of {', '.join(known)}, got {self.default_split!r}.")

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def reader(self) -> Reader:
        """What has read the tiles, and so resizes and shows them."""
        return self.bands or RGB


def by_scene(archive: Archive) -> Archive:
    """The same tiles with one label each, the scene, for single-label retrieval; scenes in alphabetical order.

    An archive without scenes whose tiles have one label each stays as it is; any other is a ValueError. Spellings of
    one scene are joined, and a note says so.
    """
    if archive.scenes is None:
        if (archive.labels.sum(axis=1) == 1).all():
            return archive
        raise ValueError(
            f"labels=scene needs the scene of each tile, which {archive.name} does not have: ucm, dlrsd, mlaid and "
            "mlrsnet do, and a folder with class folders, with a column 'scene' in its table, or with one label "
            "for each tile."
        )
    spellings: dict[str, dict[str, None]] = {}
    for scene in archive.scenes:
        spellings.setdefault(normalise_label(scene), {})[scene] = None
    scenes = tuple(next(iter(spellings[normalise_label(scene)])) for scene in archive.scenes)
    joined = [f"read as one scene: {', '.join(found)}" for found in spellings.values() if len(found) > 1]
    names = tuple(sorted(set(scenes)))
    labels = np.eye(len(names), dtype=np.uint8)[[names.index(scene) for scene in scenes]]
    notes = (*archive.notes, *joined)
    return replace(archive, label_names=names, labels=labels, label_areas=None, scenes=scenes, notes=notes)


def normalise_stem(name: str) -> str:
    r"""The name by which images, masks and table rows are matched: no folder, no image suffix, lower case.

    Example:
        >>> normalise_stem(r"Images\Airport\Airport_1.JPG")
        'airport_1'
    """
    base = PurePosixPath(name.strip().replace("\\", "/")).name.lower()
    suffix = PurePosixPath(base).suffix
    return base[: -len(suffix)].strip() if is_image_name(suffix) else base


def normalise_label(name: str) -> str:
    """What two spellings of one label have in common: all but case, blanks, hyphens and underscores.

    Everything else tells labels apart: punctuation, the marks of scripts, joiners and variants of emoji. So do hyphens
    that belong to a number, before it or between two. A name that consists of nothing else is itself.

    Example:
        >>> [normalise_label(name) for name in ("Bare-Soil", "bare soil", "C++", "1.1", "1 - 1", "11", "-1", "-")]
        ['baresoil', 'baresoil', 'c++', '1.1', '1-1', '11', '-1', '-']
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
    return _BETWEEN_WORDS.sub("", _IN_NUMBERS.sub("\0", text)).replace("\0", "-") or text


def bare_name(name: str) -> str:
    """A name's letters and digits alone, without case: Image ID and image_id are imageid.

    For finding names that are known beforehand, as folders, columns and the labels of published archives. It does not
    tell labels apart: C++ becomes c, and marks of scripts are lost.
    """
    return re.sub(r"[\W_]+", "", name.casefold())
