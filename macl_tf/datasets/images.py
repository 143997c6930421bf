"""Images: decoded correctly or refused, resized, made into thumbnails. Everything that reads images uses this.

What is read: grey of 1, 2, 4 or 8 bits, palettes, and 8-bit RGB. `macl_tf.export.image_graph` does the same inside a
SavedModel for the formats that TensorFlow knows.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from macl_tf.datasets.picture_kinds import (
    IMAGE_FORMATS,
    RASTER_SUFFIXES,
    Kind,
    PictureError,
    broken,
    integers,
    not_read,
    other_format,
    too_many_pixels,
)
from macl_tf.datasets.tiff import is_tiff, read_tiff

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
# Below Pillow's own limit of 89 million, so that ours is the message that a user reads.
MAX_PIXELS = 64_000_000
_OF_PILLOW = [name for name in IMAGE_FORMATS if name != "TIFF"]
_HEAD = 512  # bytes that tell a format
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BANDS = {0: (1, "grey"), 2: (3, "RGB"), 3: (1, "palette"), 4: (2, "grey and alpha"), 6: (4, "RGB and alpha")}
# Pillow's modes of 8 bits or less.
_MODES = ("1", "L", "P", "RGB", "RGBA", "RGBX", "LA", "PA")


def is_image_name(name: str, *, others: bool = True) -> bool:
    """Whether a file's name, or a suffix with its dot, ends as those of pictures do.

    `others` are rasters that are known and not read, as a.jp2: they stand for a picture to be named and refused.
    """
    return name.lower().endswith((*IMAGE_SUFFIXES, *RASTER_SUFFIXES) if others else IMAGE_SUFFIXES)


def open_image(data: bytes | Path, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and fully load a picture of a kind that is read; TIFF with rasterio, all others with Pillow.

    It is of mode 1, L, P, RGB, or these with transparency, and holds no open file. A PictureError that calls it `name`
    refuses another kind, what cannot be decoded and, by the header, before anything is decoded, more than `max_pixels`.
    """
    try:
        with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
            head = file.read(_HEAD)
            if is_tiff(head):
                return read_tiff(data, name, max_pixels)
            image = Image.open(file, formats=_OF_PILLOW)
            width, height = image.size
            if width * height > max_pixels:
                raise too_many_pixels(name, f"{width} x {height}", max_pixels)
            _check_kind(image, head, name)
            image.load()
            return image
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
        raise too_many_pixels(name, "far too many", max_pixels) from None
    except Image.UnidentifiedImageError as error:
        # Pillow's text names the file or the buffer's address: neither belongs in a message that is kept.
        raise other_format(name, head) or broken(name, "not a known image format", "format") from error
    except Exception as error:  # On broken bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
        raise broken(name, str(error)) from error


def _check_kind(image: Image.Image, head: bytes, name: str) -> None:
    """Refuses what Pillow would decode to something else than what the file holds."""
    bits, bands, colours = 8, len(image.getbands()), image.mode
    if image.format == "PNG":
        if head[:8] != _PNG or head[12:16] != b"IHDR":
            raise ValueError("its header is not where it belongs")
        bits, (bands, colours) = head[24], _PNG_BANDS.get(head[25], (1, ""))
    if bits <= 8 and image.mode in _MODES:  # of more bits Pillow keeps the high byte of each value
        return
    layout = "interleaved by pixel" if bands > 1 else ""
    raise not_read(name, Kind(str(image.format), bands, integers(bits), colours, layout))


def decode_image(data: bytes | Path, name: str) -> np.ndarray:
    """Decode an image, its encoded bytes or a file, to (H, W, 3) uint8 RGB: right, or not at all.

    Palettes are expanded and grey is repeated. In PNG, GIF, BMP and WebP transparency is dropped and the colour below
    it kept, as tf.io does; in a TIFF, where a fourth band may be anything, an alpha band must be opaque. Of several
    frames or pages the first is taken, but a TIFF of several pages of one band is refused. EXIF orientation is
    ignored, as tf.io does. What has more than 8 bits, floating-point values, other bands or other colours is refused: a
    PictureError calls the image `name`, and says what it is and how to convert it.
    """
    return rgb_array(open_image(data, name))


def rgb_array(image: Image.Image) -> np.ndarray:
    """Return a picture that `open_image` loaded as an (H, W, 3) uint8 RGB array."""
    return np.array(_rgb(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA")  # Pillow warns where a palette with transparency goes straight to RGB.
    return image if image.mode == "RGB" else image.convert("RGB")


class Rgb:
    """Reads tiles that are pictures of 8-bit RGB; `bands.Bands` reads those of other bands in the same words."""

    channels = 3
    dtype = np.uint8

    def files(self, tile: Path) -> list[Path]:
        """Of a tile."""
        return [tile]

    def read(self, data: bytes | Path, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """A tile (H, W, 3) uint8; see `decode_image`."""
        return rgb_array(open_image(data, name, max_pixels=max_pixels))

    def read_resized(self, data: bytes | Path, name: str, size: int, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """What `resize` makes of what `read` reads, in one go."""
        image = _rgb(open_image(data, name, max_pixels=max_pixels))
        return np.array(image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR))

    def resize(self, tile: np.ndarray, size: int) -> np.ndarray:
        """See `resize_image`."""
        return resize_image(tile, size)

    def show(self, tile: np.ndarray) -> np.ndarray:
        """The picture (H, W, 3) uint8 that people see: the tile."""
        return tile

    def blank(self, size: int) -> np.ndarray:
        """A tile without content."""
        return np.zeros((size, size, 3), np.uint8)


RGB = Rgb()


def content_digest(image: np.ndarray) -> str:
    """32 hexadecimal digits that tell an (H, W, 3) picture from all that differ in any pixel, whatever their files."""
    digest = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 resized to a square, antialiased by a triangle filter, as tf.image.resize does.

    It is the image itself where it has that size already.
    """
    if size <= 0:
        raise ValueError(f"size must be > 0, got {size}.")
    if image.shape[:2] == (size, size):
        return image
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def thumbnail(image: np.ndarray, size: int) -> bytes:
    """A small JPEG of an (H, W, 3) uint8 picture, its longest side `size` pixels; a smaller one keeps its size."""
    if size <= 0:
        raise ValueError(f"size must be > 0, got {size}.")
    picture = Image.fromarray(image)
    picture.thumbnail((size, size))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=80)
    return encoded.getvalue()
