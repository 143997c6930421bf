"""Image files of every kind that a server may be sent, as bytes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 37, 50


def pixels(seed=0, height=HEIGHT, width=WIDTH):
    """Smooth colours, so that JPEG has something to keep."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind, **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def png(width, height, depth, colour, rows, interlaced=0, palette=None):
    """A PNG by hand, for what Pillow does not write: 16 bits of colour, interlacing, sizes of our choice."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", palette) if palette else b"",
            chunk(b"IDAT", zlib.compress(rows, 1)),
            chunk(b"IEND", b""),
        ]
    )


def unfiltered(image):
    """Rows of a PNG, each after the number of no filter."""
    return b"".join(b"\0" + row.tobytes() for row in image)


def adam7(image):
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(unfiltered(np.ascontiguousarray(image[y::down, x::right])) for x, y, right, down in passes)


def blank_png(width, height):
    """Black, one bit a pixel: a small file of any size."""
    return png(width, height, 1, 0, b"\0" * ((width + 7) // 8 + 1) * height)


def good_pictures():
    """Every kind that is decoded, by name."""
    base, random = pixels(), np.random.default_rng(1)
    image = Image.fromarray(base)
    rgba = np.dstack([base, random.integers(0, 256, base.shape[:2], np.uint8)])
    palette, grey = image.quantize(30), image.convert("L")
    turned = Image.Exif()
    turned[0x112] = 6
    second = Image.fromarray(255 - base).quantize(30)
    return {
        "jpeg": encoded(base, "JPEG", quality=90),
        "jpeg progressive": encoded(base, "JPEG", progressive=True),
        "jpeg 4:4:4": encoded(base, "JPEG", subsampling=0),
        "jpeg grey": encoded(grey, "JPEG"),
        "jpeg turned by exif": encoded(base, "JPEG", exif=turned),
        "jpeg and more after it": encoded(base, "JPEG") + b"more",
        "jpeg 1x1": encoded(base[:1, :1], "JPEG"),
        "png": encoded(base, "PNG"),
        "png alpha": encoded(rgba, "PNG"),
        "png grey alpha": encoded(Image.fromarray(rgba).convert("LA"), "PNG"),
        "png grey": encoded(grey, "PNG"),
        "png 1 bit": encoded(image.convert("1"), "PNG"),
        "png palette": encoded(palette, "PNG"),
        "png palette transparent": encoded(palette, "PNG", transparency=3),
        "png interlaced": png(WIDTH, HEIGHT, 8, 2, adam7(base), interlaced=1),
        "png 1x1": encoded(base[:1, :1], "PNG"),
        "bmp": encoded(base, "BMP"),
        "bmp grey": encoded(grey, "BMP"),
        "bmp palette": encoded(palette, "BMP"),
        "bmp 32 bit": encoded(rgba, "BMP"),
        "gif": encoded(palette, "GIF"),
        "gif grey": encoded(grey, "GIF"),
        "gif transparent": encoded(palette, "GIF", transparency=3),
        "gif animated": encoded(palette, "GIF", save_all=True, append_images=[second]),
        "gif 1x1": encoded(base[:1, :1], "GIF"),
    }


def pictures_of_other_kinds():
    """Whole pictures that Pillow and TensorFlow decode to something, and that are refused all the same, by name."""
    image = Image.fromarray(pixels())
    deep = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, 4)).astype(">u2")
    return {
        "jpeg cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "png 16 bit grey": encoded(deep[:, :, 0].astype(np.uint16), "PNG"),
        "png 16 bit": png(WIDTH, HEIGHT, 16, 2, unfiltered(deep[:, :, :3])),
        "png 16 bit grey alpha": png(WIDTH, HEIGHT, 16, 4, unfiltered(deep[:, :, :2])),
        "png 16 bit alpha": png(WIDTH, HEIGHT, 16, 6, unfiltered(deep)),
    }


def bad_pictures():
    """What is answered with valid = false, by name."""
    good = good_pictures()
    broken = bytearray(good["png"])
    broken[len(broken) // 2] ^= 255
    gif = good["gif"]
    small_frame = bytearray(gif)
    # The screen's width in the header: the frame no longer fills it.
    small_frame[6:8] = struct.pack("<H", WIDTH + 1)
    compressed = bytearray(good["bmp palette"])
    compressed[30] = 1
    base = pixels()
    return {
        "empty": b"",
        "text": b"this is a text file",
        "one byte": b"\xff",
        "jpeg magic only": b"\xff\xd8\xff",
        "jpeg truncated": good["jpeg"][: len(good["jpeg"]) * 2 // 3],
        "jpeg without its end": good["jpeg"][:-2],
        "png magic only": good["png"][:8],
        "png truncated": good["png"][: len(good["png"]) // 2],
        "png broken": bytes(broken),
        "gif header only": gif[:13],
        "gif truncated": gif[: len(gif) // 2],
        "gif with a frame smaller than its screen": bytes(small_frame),
        "bmp header only": good["bmp"][:32],
        "bmp truncated": good["bmp"][:-10],
        "bmp compressed": bytes(compressed),
        "bmp 1 bit": encoded(Image.fromarray(base).convert("1"), "BMP"),
        "webp": encoded(base, "WEBP"),
        "tiff": encoded(base, "TIFF"),
        "too many pixels": blank_png(8001, 8000),
        "too long a side": blank_png(65_536, 1),
        **pictures_of_other_kinds(),
    }
