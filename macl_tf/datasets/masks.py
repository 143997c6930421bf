"""Label masks: recognised by content, and turned into the share of the tile that each label covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]

# A mask holds a colour per label and perhaps a few for "nothing"; a picture, even one with a palette, holds far more.
_MORE_COLOURS = 8


def mask_areas(image: Image.Image, colours: Sequence[Colour], *, by_index: bool) -> np.ndarray | None:
    """Return the share of the pixels that each label covers, or None where the image is no mask but a picture.

    A colour counts as its label wherever it comes from: a palette or plain RGB. Where the colours are not those of the
    labels, the raw values 1 to C count, 0 being nothing - but only if `by_index`, for archives whose indices are known.
    A palette is never looked at through its luminance: `convert("L")` gives grey values, not labels.

    Args:
        image: loaded Pillow image of any mode.
        colours: the C colours of the labels, in the order of the labels.
        by_index: whether raw value i is label i - 1 where the colours say nothing.

    Returns:
        (C,) float32 with a sum of at most 1, or None.
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
