"""Pictures as they are given to a search: paths, encoded bytes or pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from macl_tf.datasets.images import MAX_PIXELS, open_image, rgb_array

Picture = str | os.PathLike[str] | bytes | np.ndarray


def read_picture(image: Picture, name: str = "", *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of a path, encoded bytes, or pixels; errors call it `name`, by default its path.

    More than `max_pixels` are refused, by the header, before anything is decoded. Raises FileNotFoundError for a path
    that is not there, ValueError for pixels of another shape, PictureError for what is no picture or not read.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"A picture must be (H, W, 3) uint8, got {image.shape} {image.dtype}.")
        return image
    if not isinstance(image, bytes):
        if not Path(image).is_file():
            raise FileNotFoundError(f"The picture '{image}' is not there.")
        image, name = Path(image), name or str(image)
    return rgb_array(open_image(image, name or "The image", max_pixels=max_pixels))


def name_of(image: Picture, number: int) -> str:
    """How answers and errors call a picture."""
    return str(image) if isinstance(image, str | os.PathLike) else f"picture {number}"
