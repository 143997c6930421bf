"""Records of a published archive: images with their masks and metadata, as they are stored."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from macl_tf.datasets.archives import bare_name, normalise_stem
from macl_tf.datasets.images import content_digest, open_image, rgb_array
from macl_tf.datasets.sources import Source, choose_by_stem, count_note, first_table, match_table, scene_and_number
from macl_tf.datasets.tables import LabelTable, read_label_table
from macl_tf.datasets.walk import image_paths

Colour = tuple[int, int, int]
# A mask holds a colour per label and perhaps a few for "nothing"; a picture, even one with a palette, holds far more.
_MORE_COLOURS = 8


@dataclass(frozen=True, eq=False)
class Record:
    """One picture on disk and what is known about it."""

    path: Path
    labels: np.ndarray  # (C,) of 0 and 1
    label_areas: np.ndarray | None = None  # (C,) share of the tile that each label covers, where there is a mask
    split: str = "train"  # or "test" where the archive says so

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
    """A file as it is if it is a sound JPEG or PNG, else its picture as PNG, which tf.io can decode too; and a digest.

    For the digest of the pixels (`images.content_digest`) the picture is decoded once. A ValueError says why it cannot
    be.
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


def mask_areas(image: Image.Image, colours: Sequence[Colour], *, by_index: bool) -> np.ndarray | None:
    """(C,) float32 share of the pixels that each label covers, or None where the image is no mask but a picture.

    A colour counts as its label wherever it comes from: a palette or plain RGB. Where the colours are not those of the
    labels, the raw values 1 to C count, 0 being nothing - but only if `by_index`, for archives whose indices are known.
    A palette is never looked at through its luminance: `convert("L")` gives grey values, not labels.
    """
    pixels = image.width * image.height
    if image.mode in ("P", "L"):
        values, counts = np.unique(np.asarray(image), return_counts=True)
        palette = np.zeros((256, 3), np.int64)
        stored = np.array(image.getpalette("RGB") or [], np.int64).reshape(-1, 3) if image.mode == "P" else palette[:0]
        palette[: len(stored)] = stored
        found = [(tuple(map(int, palette[value])), int(count)) for value, count in zip(values, counts, strict=True)]
    else:
        values, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        few = (
            image.convert("RGB").getcolors(len(colours) + _MORE_COLOURS)
            if image.mode in ("RGB", "RGBA", "PA")
            else None
        )
        found = [(colour, count) for count, colour in few or [] if isinstance(colour, tuple)]
    if not found or len(found) > len(colours) + _MORE_COLOURS:
        return None

    position: dict[tuple[int, ...], int] = {tuple(colour): label for label, colour in enumerate(colours)}
    areas = np.zeros(len(colours), np.float64)
    for colour, count in found:
        if colour in position:
            areas[position[colour]] += count
    if areas.sum() * 2 >= pixels:
        return (areas / pixels).astype(np.float32)
    if len(values) and values.max() <= len(colours) and (by_index or values.max() == 0):
        by_value = np.bincount(values, counts, len(colours) + 1)[1:]
        return (by_value / pixels).astype(np.float32)
    return None


def match_masks(
    roots: Sequence[Path], colours: Sequence[Colour], *, by_index: bool
) -> tuple[dict[str, Path], dict[str, np.ndarray], list[str]]:
    """Tells masks from pictures by what is in them: stem -> picture, stem -> (C,) label areas, and notes.

    The archive's own folder comes first in `roots`: of two pictures with one stem its own is taken. The notes count
    files that could not be opened.
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
    chosen = choose_by_stem(masks, ranks.__getitem__)
    return choose_by_stem(pictures, ranks.__getitem__), {stem: masks[path] for stem, path in chosen.items()}, notes


def masked_records(
    source: Source,
    roots: Sequence[Path],
    colours: Mapping[str, Colour],
    *,
    by_index: bool,
    table: str,
    without_pictures: str,
    without_masks: str,
) -> Listing:
    """Pairs pictures and masks by their stems; without any mask, joins the pictures with a table of this name.

    What has no partner is left out and noted. The last two end the errors for an archive that lacks either.
    """
    images, masks, notes = match_masks(roots, tuple(colours.values()), by_index=by_index)
    if not masks:
        found = first_table(roots[:1], table)
        if found is None:
            raise source.missing(roots[0], f"{len(images)} pictures are there, but no {without_masks}")
        listing = table_records(source, roots[0], images, read_label_table(found).choose(tuple(colours)))
        told = [*notes, f"there are no masks: labels are from {found.name}", *listing.notes]
        return Listing(listing.records, told)
    matched = sorted(images.keys() & masks.keys())
    if not matched:
        raise source.missing(roots[0], f"{len(masks)} masks are there, but not their pictures{without_pictures}")
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


def table_records(source: Source, root: Path, images: Mapping[str, Path], table: LabelTable) -> Listing:
    """The images, by their stems, that have a row in a table."""
    matched, notes = match_table(images, table)
    if not matched:
        raise source.missing(root, f"no image has a row in {table.path.name}")
    return Listing([Record(images[stem], row) for stem, row in sorted(matched.items())], notes)
