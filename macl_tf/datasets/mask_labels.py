"""Labels by area from masks beside the tiles and a class table: LoveDA, DeepGlobe, any set for segmentation."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from macl_tf.datasets.archives import normalise_label, normalise_stem
from macl_tf.datasets.class_folders import MASK_WORDS
from macl_tf.datasets.class_tables import MaskClass, is_class_table
from macl_tf.datasets.images import open_image
from macl_tf.datasets.walk import list_files, shorten

_PICTURE_WORDS = {"image", "images", "img", "imgs", "sat", "rgb", "irrg", "rgbir", "tile", "tiles", "jpegimages"}
_FORMATS = {"png", "tif", "tiff", "jpg", "jpeg", "bmp"}
_MOST = 256  # different values or colours of a mask that are told apart: more than these are no classes
_REST = "other"

Histogram = dict[str, int]  # pixels of each raw value ("7") or colour ("#ff0000"), both for a palette


def find_class_table(root: Path) -> Path | None:
    """The class table nearest to a folder, None where there is none; a ValueError where it may be one of several."""
    names = [name for name in list_files(root) if name.lower().endswith((".toml", ".csv", ".tsv"))]
    for depth in sorted({name.count("/") for name in names}):
        found = [name for name in names if name.count("/") == depth and is_class_table(root / name)]
        if len(found) > 1:
            raise ValueError(
                f"{root} must hold one class table of masks, got {len(found)}: {shorten(found)}. Name the right one "
                f"by --table {found[0]}"
            )
        if found:
            return root / found[0]
    return None


def is_mask_name(name: str) -> bool:
    """Whether a path says that its image is a mask: masks/1.png, 1_mask.png."""
    return not MASK_WORDS.isdisjoint(_words(name))


def pair_masks(images: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Pairs pictures and masks by their names: masks say so (masks/1.png, 1_mask.png, labels/1.tif), and agree else.

    Returns:
        The mask of each picture; pictures without one; masks without a picture.
    """
    masks = {
        name for name in images if MASK_WORDS & {word for part in PurePosixPath(name).parts for word in _words(part)}
    }
    pairs: dict[str, str] = {}
    for folders in (
        True,
        False,
    ):  # 2_Ortho_RGB/top_1_RGB.tif and 5_Labels/top_1_label.tif agree in their own names alone
        keyed: dict[tuple[str, ...], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        taken = {*pairs, *pairs.values()}
        for name in images:
            if name not in taken:
                keyed[_pair_key(name, folders)][name in masks].append(name)
        pairs |= {of[0]: by[0] for of, by in keyed.values() if len(of) == len(by) == 1}
    taken = {*pairs, *pairs.values()}
    return (
        pairs,
        [name for name in images if name not in taken and name not in masks],
        [name for name in images if name not in taken and name in masks],
    )


def _pair_key(name: str, folders: bool) -> tuple[str, ...]:
    """What a picture and its mask have in common: the words of their names but those for pictures and masks."""
    parts = PurePosixPath(name).parts if folders else (PurePosixPath(name).name,)
    words = [word for part in parts for word in _words(normalise_stem(part))]
    return tuple(word for word in words if word not in MASK_WORDS | _PICTURE_WORDS | _FORMATS)


def mask_histogram(path: Path, name: str) -> Histogram:
    """How many pixels of a mask have each raw value or colour; a ValueError says why it cannot be read."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ValueError(f"{name} must be a lossless mask, got a JPEG, whose colours are not exact. Save it as PNG.")
    image = open_image(path, name)
    if image.mode == "1":
        image = image.convert("L")
    found: Counter[str] = Counter()
    if image.mode in ("P", "L"):
        values, counts = np.unique(np.asarray(image), return_counts=True)
        palette = np.array(image.getpalette("RGB") or [], np.int64).reshape(-1, 3) if image.mode == "P" else None
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            found[str(value)] += count
            colour = (value,) * 3 if palette is None else palette[value].tolist() if value < len(palette) else None
            if colour is not None:
                found[_hex(colour)] += count
        return dict(found)
    codes = np.asarray(image.convert("RGB"), np.uint32) @ np.array([65536, 256, 1], np.uint32)
    values, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts)
    for place in order[:_MOST]:
        found[f"#{values[place]:06x}"] += int(counts[place])
    if rest := int(counts[order[_MOST:]].sum()):
        found[_REST] += rest
    return dict(found)


def areas_by_class(
    histograms: Mapping[str, Histogram], classes: Sequence[MaskClass]
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Labels and their shares of each mask, and notes on values and colours that no class has.

    Args:
        histograms: of each mask (`mask_histogram`).
        classes: of the class table; classes of one name are one label, ignored ones none.

    Returns:
        C label names; (N, C) float32 shares of all pixels of a tile, ignored ones and unknown ones included; notes.
    """
    kept = [one for one in classes if not one.ignore]
    spelled = {normalise_label(one.name): one.name for one in reversed(kept)}
    names = tuple(spelled[key] for key in dict.fromkeys(normalise_label(one.name) for one in kept))
    column = {normalise_label(name): place for place, name in enumerate(names)}

    def decoded(marks: Sequence[str]) -> tuple[int, np.ndarray, Counter[str]]:
        """Pixels of no class, the shares, and the values or colours that the table does not name."""
        of_mark = dict(zip(marks, classes, strict=True))
        areas = np.zeros((len(histograms), len(names)), np.float64)
        unknown: Counter[str] = Counter()
        lost = 0
        for row, histogram in zip(areas, histograms.values(), strict=True):
            # A mask with a palette has each pixel twice, as a value and as a colour.
            seen = {mark: count for mark, count in histogram.items() if (mark[0] == "#") == (marks[0][0] == "#")}
            pixels = _pixels(histogram)
            lost += pixels - sum(count for mark, count in seen.items() if mark in of_mark)
            for mark, count in seen.items():
                if mark not in of_mark:
                    unknown[mark] += count
                elif not of_mark[mark].ignore:
                    row[column[normalise_label(of_mark[mark].name)]] += count
            row /= max(pixels, 1)
        return lost, areas, unknown

    # A table may say both; what the masks hold decides.
    ways = [[str(one.value) for one in classes]] if all(one.value is not None for one in classes) else []
    ways += [[_hex(one.colour or ()) for one in classes]] if all(one.colour is not None for one in classes) else []
    lost, areas, unknown = min((decoded(marks) for marks in ways), key=lambda found: found[0])
    share = lost / max(sum(map(_pixels, histograms.values())), 1)
    marks = shorten([mark for mark, _ in unknown.most_common()], 5) or "colours alone"
    if share > 0.5:
        raise ValueError(
            f"the class table must name the values or colours of the masks, but {share:.0%} of their pixels have "
            f"others: {marks}. Add them to it, with ignore=true where they are no label."
        )
    notes = (f"in the masks, but not in the class table: {marks} ({share:.2%} of all pixels), no label",)
    return names, areas.astype(np.float32), notes if lost else ()


def _pixels(histogram: Histogram) -> int:
    colours = sum(count for mark, count in histogram.items() if not mark.isdigit())
    return max(colours, sum(histogram.values()) - colours)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", text.casefold()) if word]


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)
