"""Pictures on disk and what is known about each: paired with their masks, and read as they are to be kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from macl_tf.datasets.archives import bare_name, normalise_stem
from macl_tf.datasets.images import content_digest, open_image, rgb_array
from macl_tf.datasets.masks import Colour, mask_areas
from macl_tf.datasets.sources import choose_by_stem, count_note, scene_and_number
from macl_tf.datasets.walk import image_paths


@dataclass(frozen=True, eq=False)
class Record:
    """One picture on disk and what is known about it.

    Args:
        path: the picture.
        labels: (C,) of 0 and 1.
        label_areas: (C,) share of the tile, or None without a mask.
        split: "train", or "test" where the archive says so.
    """

    path: Path
    labels: np.ndarray
    label_areas: np.ndarray | None = None
    split: str = "train"

    @property
    def scene(self) -> str:
        """The scene, spelled as the folder is where the folder is named after it."""
        scene = scene_and_number(normalise_stem(self.path.name))[0]
        folder = self.path.parent.name
        return folder if bare_name(folder) == bare_name(scene) else scene


@dataclass(frozen=True, eq=False)
class Listing:
    """The records of an archive on disk, and notes about what was left out."""

    records: Sequence[Record]
    notes: Sequence[str]


def stored_picture(path: Path, name: str) -> tuple[bytes, str]:
    """Return a file as it is if it is a sound JPEG or PNG, else its picture as PNG, which tf.io can decode too.

    Beside it stands the digest of the pixels (`images.content_digest`), for which the picture is decoded once.

    Raises:
        ValueError: if the file cannot be decoded to the end, or is of a kind that is not read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}.") from error
    image = open_image(data, name)
    pixels = rgb_array(image)
    if image.format in ("JPEG", "MPO", "PNG"):  # MPO is a JPEG with more pictures behind the first.
        return data, content_digest(pixels)
    buffer = io.BytesIO()
    # The lightest compression: a third larger than the best, and many times faster to write.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), content_digest(pixels)


def match_masks(
    roots: Sequence[Path], colours: Sequence[Colour], *, by_index: bool
) -> tuple[dict[str, Path], dict[str, np.ndarray], list[str]]:
    """Tell masks from pictures by what is in them, wherever they lie.

    Args:
        roots: folders, the archive's own first: of two pictures with one stem its own is taken.
        colours: the C colours of the labels.
        by_index: see `mask_areas`.

    Returns:
        Stem -> picture, stem -> (C,) label areas, and notes about files that could not be opened.
    """
    pictures: list[Path] = []
    masks: dict[Path, np.ndarray] = {}
    ranks: dict[Path, tuple[int, int]] = {}
    broken: list[str] = []
    paths = [(rank, path) for rank, root in enumerate(roots) for path in image_paths(root)]
    for rank, path in tqdm(paths, desc="Telling masks from pictures", unit=" files", leave=False):
        if path in ranks:  # One root lies in the other.
            continue
        ranks[path] = (rank, 0)
        if path.suffix.lower() in (".jpg", ".jpeg"):  # Lossy compression leaves no mask intact.
            pictures.append(path)
            continue
        try:
            image = open_image(path, path.name)
        except ValueError:
            broken.append(path.name)
            continue
        areas = mask_areas(image, colours, by_index=by_index)
        # Palette masks before index masks, colour pictures before grey ones (which may be masks gone wrong).
        ranks[path] = (rank, 0 if image.mode == "P" or (areas is None and image.mode in ("RGB", "RGBA")) else 1)
        if areas is None:
            pictures.append(path)
        else:
            masks[path] = areas
    notes = count_note(sorted(broken), "image or mask cannot be read", "images or masks cannot be read")
    chosen, _ = choose_by_stem(masks, ranks.__getitem__)
    return (
        choose_by_stem(pictures, ranks.__getitem__)[0],
        {stem: masks[path] for stem, path in chosen.items()},
        notes,
    )


def mask_records(images: dict[str, Path], masks: dict[str, np.ndarray], notes: Sequence[str]) -> Listing:
    """Join pictures and masks by their stems; what has no partner is left out and noted."""
    matched = sorted(images.keys() & masks.keys())
    strays = sorted(images[stem].name for stem in images.keys() - masks.keys())
    orphans = sorted(masks.keys() - images.keys())
    return Listing(
        [Record(images[stem], (masks[stem] > 0).astype(np.uint8), masks[stem]) for stem in matched],
        [
            *notes,
            *count_note(strays, "image has no mask and was left out", "images have no mask and were left out"),
            *count_note(orphans, "mask has no image", "masks have no image"),
        ],
    )
