"""Which mask belongs to which picture, by their names: images/1.jpg and masks/1.png, 1_sat.jpg and 1_mask.png."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from macl_tf.datasets.archives import normalise_stem
from macl_tf.datasets.class_folders import MASK_WORDS

_PICTURE_WORDS = {"image", "images", "img", "imgs", "sat", "rgb", "irrg", "rgbir", "tile", "tiles", "jpegimages"}
_FORMATS = {"png", "tif", "tiff", "jpg", "jpeg", "bmp"}
_LEFT_OUT = MASK_WORDS | _PICTURE_WORDS | _FORMATS
# What sets add to the names of pictures and masks: 119_sat.jpg and 119_mask.png.
_END = re.compile(r"[ _-](sat|image|img|rgb|(mask|masks|label|labels|gt|seg|lbl))$")


def masks_among(names: Iterable[str]) -> set[str]:
    """The paths that say that their images are masks: masks/1.png, 1_mask.png, labels/1.tif.

    Beside labels/1_mask.png, labels/1.jpg is its picture.
    """
    names = list(names)
    ended = {name for name in names if (end := _END.search(_stem(name))) and end[2]}
    masked = {_place(name) for name in ended}
    called = {name for name in names if not MASK_WORDS.isdisjoint(_words(name)) and _place(name) not in masked}
    return ended | called


def pair_masks(
    pictures: Sequence[str], masks: Iterable[str], *, shared: bool = False
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Pairs pictures and masks by their names; the strictest way of comparing them by which just one fits counts.

    Args:
        pictures: Paths, or names without a suffix.
        masks: The same.
        shared: Whether a mask may be that of several pictures of its very name, as those of several days.

    Returns:
        The mask of each picture that has one; the masks that fit the others, where there are several.
    """
    masks, pairs, doubtful = list(masks), dict[str, str](), dict[str, list[str]]()
    # 2_Ortho_RGB/top_1_RGB.tif and 5_Labels/top_1_label.tif agree in the words of their own names alone.
    ways = [(_place, True), (_path_words, False), (_own_stem, True), (_own_words, False)]
    for key, exact in sorted(ways, key=lambda way: not way[1]) if shared else ways:
        taken = set() if shared else set(pairs.values())
        of, by = defaultdict[object, list[str]](list), defaultdict[object, list[str]](list)
        for name in (name for name in pictures if name not in pairs):
            of[key(name)].append(name)
        for name in (name for name in masks if name not in taken):
            by[key(name)].append(name)
        for common in of.keys() & by.keys():
            if len(by[common]) == 1 and (len(of[common]) == 1 or (shared and exact)):
                pairs |= dict.fromkeys(of[common], by[common][0])
            elif len(by[common]) > 1:
                doubtful = dict.fromkeys(of[common], by[common]) | doubtful
    return pairs, {name: fitting for name, fitting in doubtful.items() if name not in pairs}


def _stem(name: str) -> str:
    """A name without folders and suffixes, a.tif.png too."""
    while (stem := normalise_stem(name)) != name:
        name = stem
    return name


def _own_stem(name: str) -> str:
    """A picture's and its mask's name without what sets add."""
    stem = _stem(name)
    return _END.sub("", stem) or stem


def _place(name: str) -> tuple[str, str]:
    return str(PurePosixPath(name).parent), _own_stem(name)


def _path_words(name: str) -> tuple[str, ...]:
    """The words of a path but those for pictures and masks."""
    words = _words(" ".join(map(normalise_stem, PurePosixPath(name).parts)))
    return tuple(word for word in words if word not in _LEFT_OUT)


def _own_words(name: str) -> tuple[str, ...]:
    return _path_words(PurePosixPath(name).name)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", text.casefold()) if word]
