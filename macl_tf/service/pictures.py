"""Uploaded pictures: everything is checked that the header says, then one is decoded and made as small as need be.

The one file of the service that meets Pillow.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from macl_tf.datasets.archives import resize_image, rgb_array, thumbnail
from macl_tf.service.errors import Refused
from macl_tf.service.limits import Limits

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
        Refused: 413 for too many bytes or pixels, 415 for another format, 422 for one that is broken.
    """
    if len(data) > limits.bytes:
        raise Refused(413, f"an image has at most {limits.bytes} bytes", len(data), "Send a smaller tile.")
    formats = ", ".join(limits.formats)
    try:
        with Image.open(io.BytesIO(data), formats=limits.formats) as image:
            width, height = image.size
            if width * height > limits.pixels:
                raise _too_many(limits, f"{width} x {height}")
            image.load()
            pixels = rgb_array(image, "The image")
    except Refused:
        raise
    except UnidentifiedImageError:
        raise Refused(
            415, f"an image must be one of {formats}", data, "Convert it, or check that the file is an image."
        ) from None
    except Image.DecompressionBombError:
        raise _too_many(limits, "far more") from None
    except Exception:  # on broken bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
        raise Refused(
            422, "an image must be whole and of 8 or 16 bits", data, "It is broken or of a rare kind: save it anew."
        ) from None
    seen = resize_image(pixels, size)
    return Picture(seen, thumbnail(pixels, small)) if small else Picture(seen)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (H, W, 3) uint8 pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _too_many(limits: Limits, got: str) -> Refused:
    return Refused(413, f"an image has at most {limits.pixels} pixels", got, "Cut it into tiles, or make it smaller.")
