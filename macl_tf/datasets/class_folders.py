"""A folder for each class and no table, the commonest layout there is: Images/airplane/airplane00.tif."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from macl_tf.datasets.archives import bare_name
from macl_tf.datasets.split_lists import SPLIT_VALUES
from macl_tf.datasets.walk import shorten

# Folders that hold pictures of all classes, as `bare_name` gives them.
_AROUND = {
    "images", "image", "img", "imgs", "jpegimages", "data", "dataset", "tiles", "pictures", "photos", *SPLIT_VALUES,
}  # fmt: skip
MASK_WORDS = {
    "mask", "masks", "msk", "msks", "label", "labels", "annotation", "annotations", "gt", "gts", "groundtruth", "seg",
    "segmentation", "segmentations", "segmentationclass", "lbl",
}  # fmt: skip
# Folders of one picture each of a tile: bands, or days.
_OF_A_TILE = {"a", "b", "before", "after", "pre", "post", "rgb", "nir", "red", "green", "blue", "swir", "sar", "dem"}
_LOOSE = 0.05  # share of images beside the folders, as an overview, that makes them no less classes


def class_folders(images: Sequence[str]) -> tuple[list[str], str]:
    """The class of each image by the folder it lies in, and a note; no classes where the folders are something else.

    Folders around all images, and those called train, val, images and the like, are none. What is left must be a
    folder for each image, two at least with two images each on average, and named in words: those of places, days and
    scenes hold digits (N32E010, 2021, tile_001, 32TQM), and one in five at most may.

    Args:
        images: paths relative to the archive, with forward slashes.

    Returns:
        The class of each image, "" for the few that lie beside the folders, or an empty list; and what was decided.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in images]
    least, most = min(folders, default=()), max(folders, default=())
    common = next((place for place, (one, two) in enumerate(zip(least, most, strict=False)) if one != two), len(least))
    inner = [[folder for folder in parts[common:] if bare_name(folder) not in _AROUND] for parts in folders]
    if not any(inner):
        return [], "no label table, and no folders of a class each: the images have no labels"
    classes = [parts[0] if parts else "" for parts in inner]
    names = sorted(set(classes) - {""})
    reason = _reason(names, classes, inner)
    if reason:
        return [], f"no label table, and folders that are no classes ({reason}): the images have no labels"
    counts = Counter(classes)
    shown = shorten([f"{name} {counts[name]:,}" for name in names], 5)
    return classes, (
        f"no label table: each of {len(names)} folders was taken for a class ({shown}); where they are something else, "
        "name a label table by --table"
    )


def _reason(names: Sequence[str], classes: Sequence[str], inner: Sequence[Sequence[str]]) -> str:
    """Why folders are no classes; "" where they are."""
    bare = [bare_name(name) for name in names]
    if len(names) < 2 or classes.count("") > _LOOSE * len(classes):
        return "images lie beside folders, or in one alone"
    if any(not bare_name(folder).startswith(bare_name(parts[0])) for parts in inner for folder in parts[1:]):
        return f"folders in folders, such as {shorten(sorted({'/'.join(parts) for parts in inner}), 2)}"
    if masks := [name for name in names if set(re.split(r"[\W_]+", name.casefold())) & MASK_WORDS]:
        return f"{masks[0]} holds masks, for which a class table is missing"
    if sum(name in _OF_A_TILE for name in bare) * 2 > len(names):
        return f"{shorten(names, 2)} hold several pictures of a tile"
    if sum(bool(re.search(r"\d", name)) for name in names) * 5 > len(names):
        return f"names with numbers, such as {shorten(names, 2)}"
    if len(classes) < 2 * len(names):
        return f"{len(names)} folders of {len(classes)} images"
    return ""
