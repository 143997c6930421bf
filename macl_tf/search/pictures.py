"""Pictures as they are given to a search or an upsert: paths, encoded bytes or pixels, and what is known of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from macl_tf.datasets.bands import Reader
from macl_tf.datasets.images import MAX_PIXELS, RGB
from macl_tf.datasets.label_names import NewLabelError, known_labels
from macl_tf.datasets.tile_facts import NOWHERE, UNKNOWN_DAY, day_of, footprint_of, read_header
from macl_tf.index.items import Items

Picture = str | os.PathLike[str] | bytes | np.ndarray


def read_picture(image: Picture, name: str = "", *, reader: Reader = RGB, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """What `reader` reads of a path or encoded bytes, or pixels as they are; errors call it `name`, else by its path.

    More than `max_pixels` are refused, by the header, before anything is decoded. Raises FileNotFoundError for a path
    that is not there, ValueError for pixels of another shape, PictureError for what is no picture or not read.
    """
    if isinstance(image, np.ndarray):
        channels, kind = reader.channels, np.dtype(reader.dtype)
        if image.ndim != 3 or image.shape[2] != channels or image.dtype != kind or 0 in image.shape:
            raise ValueError(f"A picture must be (H, W, {channels}) {kind}, got {image.shape} {image.dtype}.")
        return image
    if not isinstance(image, bytes):
        if not all(file.is_file() for file in reader.files(Path(image))):
            raise FileNotFoundError(f"The picture '{image}' is not there.")
        image, name = Path(image), name or str(image)
    return reader.read(image, name or "The image", max_pixels=max_pixels)


def name_of(image: Picture, number: int) -> str:
    """How answers and errors call a picture."""
    return str(image) if isinstance(image, str | os.PathLike) else f"picture {number}"


def items_of(
    images: Sequence[Picture],
    ids: Sequence[str],
    label_names: tuple[str, ...],
    new_labels: Sequence[str] = (),
    **given: Sequence[Any] | None,
) -> tuple[Items, dict[str, list[bool]]]:
    """The items of an upsert, and by name of a column for which nothing is known, as `Index.upsert` takes both.

    `given` are labels, dates, bboxes, splits and sources, as far as given, as `SearchEngine.upsert` takes them. What
    none of `label_names` is, is a new label, which must be among `new_labels` where it is near to another one. The
    pictures are known to be whole: their headers tell date and place where nothing is given.
    """
    count = len(images)
    for name, values in given.items():
        if values is not None and (isinstance(values, str) or len(values) != count):
            got = f"the text {values!r}" if isinstance(values, str) else len(values)
            raise ValueError(f"{name} must have one entry for each of the {count} pictures, got {got}.")
    labels, dates, bboxes, parts, origins = (
        list(given.get(name) or [None] * count) for name in ("labels", "dates", "bboxes", "splits", "sources")
    )
    known, held = known_labels(label_names), list[tuple[str, ...] | None]()
    for names in labels:
        chosen, known = (None, known) if names is None else known.open_to(names, new_labels)
        held.append(chosen)
    days = [None if day is None else day_of(day) for day in dates]
    corners = [None if box is None else footprint_of(box) for box in bboxes]
    for place, image in enumerate(images):
        if (days[place] is None or corners[place] is None) and not isinstance(image, np.ndarray):
            said = read_header(image if isinstance(image, bytes) else Path(image))
            if days[place] is None and not np.isnat(said.date):
                days[place] = said.date
            if corners[place] is None and not np.isnan(said.footprint).any():
                corners[place] = said.footprint
    names = tuple(dict.fromkeys(label for names in held for label in names or ()))
    if unused := [name for name in new_labels if name not in names]:
        raise NewLabelError("new labels must be among the labels of the tiles", unused[0], "Give it as a label, too.")
    items = Items.of(
        names,
        list(ids),
        [[name in (labels or ()) for name in names] for labels in held],
        paths=[str(image) if isinstance(image, str | os.PathLike) else "" for image in images],
        splits=[part or "" for part in parts],
        sources=[origin or "" for origin in origins],
        footprints=[NOWHERE if footprint is None else footprint for footprint in corners],
        dates=[UNKNOWN_DAY if day is None else day for day in days],
    )
    columns: dict[str, list[Any]]
    columns = {"labels": held, "dates": days, "footprints": corners, "splits": parts, "sources": origins}
    return items, {name: [value is None for value in values] for name, values in columns.items()}
