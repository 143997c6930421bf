"""From image bytes to pixels in TensorFlow's stock operations: what training does with Pillow, inside a SavedModel.

Decoding and resizing agree with `datasets.images` (`decode_image`, `resize_image`) to the last bit: the JPEG transform
is the accurate one that Pillow uses, and the resize repeats Pillow's 22-bit integer arithmetic, because tf.image.resize
rounds otherwise in up to a tenth of the pixels where exact halves occur (256 to 224 pixels). What is refused there is a
bad image here: a PNG of 16 bits, of which TensorFlow would silently keep the high byte, and a JPEG in CMYK.

Measured with tf.image.resize(antialias=True), rounded, in its place (1,680 tiles of UC Merced, 256 to 64 pixels, width
16, 10 epochs): a tenth of the pixels differ by a level, a tile's two embeddings have a cosine of 0.9998, 0.9988 at the
least, where 1 - 1e-5 is promised. NDCG@100 stays (0.556 and 0.557), but the best tile is another for 8 % of 400
queries: one picture would find other tiles over TensorFlow Serving than by `macl search`.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

Tensor = Any

# As `datasets.images`, and no side longer than a JPEG can have, so that the table of a resize stays small.
MAX_PIXELS = 64_000_000
MAX_SIDE = 65_535
_BITS = 22  # of the fraction in Pillow's coefficients: 8 bits of a pixel and 2 of headroom make 32
_AT_ONCE = 2**24  # products that a resize holds in memory at a time, 5 bytes each
_WORKERS = 8  # images decoded at a time; each may need 600 MB at the pixel limit


def decode_batch(image_bytes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Decodes and resizes images (B,) of mixed formats and sizes, a bad one without harm to the others.

    Pixels are (max(B, 1), S, S, 3) uint8, black where an image is bad; beside them, (B,) bool, whether it was decoded.
    An empty batch gets one black row, since convolutions of no rows crash under oneDNN.
    """
    count = tf.shape(image_bytes)[0]
    images = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
    images = images.map(lambda row, data: (row, resize(decode(data), size)), num_parallel_calls=_WORKERS)
    images = images.ignore_errors()
    # A last row of our own, so that there is always one to take, even if all images are bad.
    last = tf.data.Dataset.from_tensors((count, tf.zeros((size, size, 3), tf.uint8)))
    options = tf.data.Options()
    options.autotune.enabled = False  # nothing to learn from a data set that lives for one batch
    options.deterministic = False  # rows are put where they belong
    batch = images.concatenate(last).batch(tf.cast(count, tf.int64) + 1).with_options(options)
    rows, pixels = batch.get_single_element()
    pixels = tf.scatter_nd(rows[:, None], pixels, tf.stack([count + 1, size, size, 3]))
    valid = tf.scatter_nd(rows[:, None], tf.ones_like(rows), [count + 1])[:count] > 0
    return tf.ensure_shape(pixels[: tf.maximum(count, 1)], (None, size, size, 3)), valid


def decode(data: Tensor) -> Tensor:
    """Pixels (H, W, 3) uint8 of one image's bytes; an error of the operation where they cannot be had.

    The size is read from the header first: a decompression bomb is refused before memory is asked for.
    """
    kinds = {b"\xff\xd8\xff": _decode_jpeg, b"\x89PNG\r\n\x1a\n": _decode_png, b"GIF8": _decode_gif, b"BM": _decode_bmp}
    starts = [tf.strings.substr(data, 0, len(magic)) == magic for magic in kinds]
    kind = tf.argmax(tf.stack([*starts, tf.constant(True)]), output_type=tf.int32)
    decoders = [lambda decoder=decoder: decoder(data) for decoder in kinds.values()]
    # What is none of these goes to the decoder empty, and that is its error.
    pixels = tf.switch_case(kind, [*decoders, lambda: tf.io.decode_png("", channels=3)])
    return tf.ensure_shape(pixels, (None, None, 3))


def _within_limit(data: Tensor, height: Tensor, width: Tensor, also: Tensor | bool = True) -> Tensor:
    """The bytes, or none if they promise too many pixels or `also` is false: the decoder refuses them."""
    height, width = tf.abs(tf.cast(height, tf.int64)), tf.cast(width, tf.int64)
    sides = tf.stack([height, width])
    fits = tf.reduce_all((sides > 0) & (sides <= MAX_SIDE)) & (height * width <= MAX_PIXELS)
    return tf.where(fits & also, data, "")


def _numbers(data: Tensor, start: Tensor | int, count: int, dtype: tf.DType, *, little_endian: bool = True) -> Tensor:
    """(count,) whole numbers of the header; an error where it ends before them."""
    part = tf.strings.substr(data, start, count * dtype.size)
    return tf.ensure_shape(tf.io.decode_raw(part, dtype, little_endian=little_endian), (count,))


def _decode_jpeg(data: Tensor) -> Tensor:
    height, width, bands = tf.unstack(tf.io.extract_jpeg_shape(data))
    readable = _within_limit(data, height, width, bands != 4)
    return tf.io.decode_jpeg(readable, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(data: Tensor) -> Tensor:
    width, height = tf.unstack(_numbers(data, 16, 2, tf.int32, little_endian=False))
    bits = tf.io.decode_raw(tf.strings.substr(data, 24, 1), tf.uint8)[0]
    return tf.io.decode_png(_within_limit(data, height, width, bits <= 8), channels=3)


def _decode_bmp(data: Tensor) -> Tensor:
    """8, 24 or 32 bits a pixel, not compressed. TensorFlow leaves palettes out: they are looked up here."""
    offset, header, width, height = tf.unstack(_numbers(data, 10, 4, tf.int32))
    _, bits = tf.unstack(tf.cast(_numbers(data, 26, 2, tf.uint16), tf.int32))
    compression = _numbers(data, 30, 1, tf.int32)[0]
    plain = (compression == 0) | ((compression == 3) & (bits == 32))
    pixels = tf.io.decode_bmp(_within_limit(data, height, width, plain & (header >= 40)), channels=3)

    def look_up() -> Tensor:
        colours = tf.io.decode_raw(tf.strings.substr(data, 14 + header, offset - header - 14), tf.uint8)
        return tf.gather(tf.reshape(colours, (-1, 4))[:, 2::-1], tf.cast(pixels[:, :, 0], tf.int32))

    return tf.cond(bits == 8, look_up, lambda: pixels)


def _decode_gif(data: Tensor) -> Tensor:
    """The first frame, which must fill the screen; the others are cut off, since TensorFlow would decode them all.

    Extensions too: they say which colour is transparent, and TensorFlow would make it black.
    """
    octets = tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32)

    def after_blocks(at: Tensor) -> Tensor:  # blocks of at most 255 bytes, each after its length, until a length of 0
        (at,) = tf.while_loop(lambda at: octets[at] > 0, lambda at: (at + octets[at] + 1,), (at,))
        return at + 1

    def table_size(flags: Tensor) -> Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    start = head = 13 + table_size(octets[10])
    extension, image = 0x21, 0x2C
    (start,) = tf.while_loop(lambda at: octets[at] == extension, lambda at: (after_blocks(at + 2),), (start,))
    end = after_blocks(start + 11 + table_size(octets[start + 9]))
    screen, frame = _numbers(data, 6, 2, tf.uint16), _numbers(data, start + 1, 4, tf.uint16)
    whole = tf.reduce_all(frame == tf.concat([tf.zeros_like(screen), screen], 0)) & (octets[start] == image)
    first = tf.strings.join((tf.strings.substr(data, 0, head), tf.strings.substr(data, start, end - start), b";"))
    return tf.io.decode_image(_within_limit(first, screen[1], screen[0], whole), channels=3, expand_animations=False)


def resize_batch(pixels: Tensor, size: int) -> Tensor:
    """Resizes images of one size: (B, H, W, 3) uint8 to (B, S, S, 3) uint8, as `resize` does each."""
    small = tf.TensorSpec((size, size, 3), tf.uint8)
    same = tf.reduce_all(tf.shape(pixels)[1:3] == size)
    resized = tf.cond(
        same, lambda: pixels, lambda: tf.map_fn(lambda one: resize(one, size), pixels, fn_output_signature=small)
    )
    return tf.ensure_shape(resized, (None, size, size, 3))


def resize_bands(tiles: Tensor, size: int) -> Tensor:
    """Resizes tiles of one size, (B, H, W, N) float32 with NaN for no data, to (B, S, S, N), as `Bands.resize` does."""

    def triangle(values: Tensor) -> Tensor:
        return tf.image.resize(values, (size, size), tf.image.ResizeMethod.BILINEAR, antialias=True)

    def resized() -> Tensor:
        known = tf.logical_not(tf.math.is_nan(tiles))
        weight = triangle(tf.cast(known, tf.float32))
        values = triangle(tf.where(known, tiles, 0.0)) / tf.maximum(weight, 0.5)
        return tf.where(weight >= 0.5, values, math.nan)

    same = tf.reduce_all(tf.shape(tiles)[1:3] == size)
    return tf.ensure_shape(tf.cond(same, lambda: tiles, resized), (None, size, size, tiles.shape[3]))


def resize(pixels: Tensor, size: int) -> Tensor:
    """Resizes (H, W, 3) uint8 to a square with an antialiased triangle filter, to the last bit as Pillow 13's BILINEAR.

    Older Pillow resizes tall images in the other order and may differ by one level. After Pillow 13.0.0,
    src/libImaging/Resample.c: precompute_coeffs, normalize_coeffs_8bpc, ImagingResampleInner.
    """
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    # Columns first, as a pass over the rows of the transposed image; but rows first where the image is much too tall.
    tall = (height > size) & (height - size > 2 * (width - size))
    keep, swap = [0, 1, 2], [1, 0, 2]
    once = _resize_rows(tf.transpose(pixels, tf.where(tall, keep, swap)), size)
    twice = _resize_rows(tf.transpose(once, swap), size)
    return tf.ensure_shape(tf.transpose(twice, tf.where(tall, swap, keep)), (size, size, 3))


def _resize_rows(pixels: Tensor, size: int) -> Tensor:
    """(H, W, 3) to (S, W, 3)."""
    shape = tf.shape(pixels)
    flat = tf.reshape(pixels, (shape[0], shape[1] * 3))
    rows, coefficients = _coefficients(shape[0], size)

    def weigh(rows: Tensor, coefficients: Tensor) -> Tensor:  # (s, K) to (s, W x 3)
        taken = tf.cast(tf.gather(flat, rows), tf.int32)
        total = tf.matmul(coefficients[:, None], taken)[:, 0] + 2 ** (_BITS - 1)
        return tf.cast(tf.bitwise.right_shift(total, _BITS), tf.uint8)

    def one_by_one() -> Tensor:
        row, pairs = tf.TensorSpec((None,), tf.uint8), (rows, coefficients)
        return tf.map_fn(
            lambda pair: weigh(pair[0][None], pair[1][None])[0], pairs, fn_output_signature=row, parallel_iterations=1
        )

    products = tf.size(rows, tf.int64) * tf.cast(shape[1] * 3, tf.int64)
    resized = tf.cond(products <= _AT_ONCE, lambda: weigh(rows, coefficients), one_by_one)
    return tf.reshape(resized, (size, shape[1], 3))


def _coefficients(length: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Which of `length` rows make each of S rows, (S, K), and their weights in units of 2^-22, (S, K) int32."""
    scale = tf.cast(length, tf.float64) / size
    support = tf.maximum(scale, 1.0)
    centre = (tf.range(size, dtype=tf.float64)[:, None] + 0.5) * scale
    first = tf.maximum(tf.cast(centre - support + 0.5, tf.int32), 0)  # the cast truncates, as C's does
    end = tf.minimum(tf.cast(centre + support + 0.5, tf.int32), length)
    rows = first + tf.range(2 * tf.cast(tf.math.ceil(support), tf.int32) + 1)
    distance = tf.abs((tf.cast(rows, tf.float64) - centre + 0.5) * (1 / support))
    weights = tf.where(rows < end, tf.maximum(1 - distance, 0.0), 0.0)
    weights = weights / tf.reduce_sum(weights, axis=1, keepdims=True)
    return tf.minimum(rows, length - 1), tf.cast(weights * 2**_BITS + 0.5, tf.int32)
