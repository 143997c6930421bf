"""Uploaded pictures: everything is checked that the header says, then one is decoded and made as small as need be.

The reader is that of training, `macl_tf.datasets.images`; the limits are the service's own.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from macl_tf.datasets.images import open_image, resize_image, rgb_array, thumbnail
from macl_tf.datasets.picture_kinds import IMAGE_FORMATS, RULE, PictureError
from macl_tf.server.errors import Refused, mebibytes
from macl_tf.server.limits import Limits

PREVIEW = 40  # longest side of the small picture in an answer; about 1 kB


class Picture(NamedTuple):
    """What is left of an upload: pixels (S, S, 3) uint8 as the encoder sees them; if asked for, a small JPEG."""

    pixels: NDArray[np.uint8]
    small: bytes = b""


def read_picture(data: bytes, size: int, limits: Limits, *, small: int = 0) -> Picture:
    """Decodes an uploaded picture.

    Args:
        data: The file as it was sent. Its name is never looked at.
        size: S, side at which the encoder sees it.
        limits: What it may be at most.
        small: Longest side of the small JPEG, 0 for none.

    Raises:
        Refused: 413 for too many bytes or pixels, 415 for another format, 422 for one that is broken or of a kind
            that is not read, 16 bits or four bands, say.
    """
    if len(data) > limits.bytes:
        rule = f"an image has at most {limits.bytes} bytes ({mebibytes(limits.bytes)})"
        raise Refused(413, rule, len(data), "Make it smaller: scale it down, or cut it into tiles.")
    try:
        pixels = rgb_array(open_image(data, "The image", max_pixels=limits.pixels))
    except PictureError as error:
        raise _refused(error, len(data), limits) from None
    seen = resize_image(pixels, size)
    return Picture(seen, thumbnail(pixels, small)) if small else Picture(seen)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (H, W, 3) uint8 pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _refused(error: PictureError, size: int, limits: Limits) -> Refused:
    if error.problem == "pixels":
        rule = f"an image has at most {limits.pixels} pixels"
        return Refused(413, rule, error.got, "Cut it into tiles, or make it smaller.")
    if error.problem == "kind":
        return Refused(422 if error.format in IMAGE_FORMATS else 415, f"an image {RULE}", error.got, error.remedy)
    if error.problem == "format":
        rule = f"an image must be one of {', '.join(limits.formats)}"
        return Refused(415, rule, f"{size} bytes", "Convert it, or check that the file is an image.")
    return Refused(422, "an image must be whole", f"{size} bytes", "It is broken, or of a rare kind: save it anew.")
