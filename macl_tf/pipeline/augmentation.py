"""Random changes of view for images from above, whole batches at once and stateless."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

_MAX_ASPECT = 4 / 3
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def augment_images(
    images: tf.Tensor,
    key: tf.Tensor,
    image_size: int,
    *,
    views: int = 1,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    colour: float = 0.2,
    deviation: Sequence[float] | None = None,
    first: int | tf.Tensor = 0,
    whole: int | None = None,
) -> tf.Tensor:
    """Augments overhead images, (B, H, W, 3) of 0..255: crop and resize, flips and quarter turns, mild colour changes.

    An image from above has no up, so all eight flips and turns are equally likely. Crops vary in area (`crop_scale`,
    smallest and largest share) and in aspect ratio (3/4 to 4/3). Colour: saturation s, then contrast k about the mean
    grey m of the crop, then brightness b, each from [1 - colour, 1 + colour]: b (m + k (g + s (x - g) - m)), where g is
    the grey of the pixel; 0 leaves colours alone. Of other bands than 8-bit RGB, whose `deviation` is given by band, in
    their units and with NaN for no data: m + k (x - m) + (b - 1) deviation with the mean m of each band, since those
    of radar and of heat have no zero that is black. The same key, (2,) integers, gives the same augmentation; of images
    that are a part of a batch of `whole` rows, from row `first` on, that of the whole batch.

    Returns:
        (views * B, S, S, 3) float32 in 0..255, or (..., N) in the units of the bands, the first view of all images,
        then the second.
    """
    smallest, largest = crop_scale
    if not 0 < smallest <= largest <= 1:
        raise ValueError(f"crop_scale must be (smallest, largest) with 0 < smallest <= largest <= 1, got {crop_scale}.")
    if not 0 <= colour < 1:
        raise ValueError(f"colour must be in [0, 1), got {colour}.")
    batch = images.shape[0] or tf.shape(images)[0]  # known beforehand, where it is, for the graph optimiser
    uniform = tf.random.stateless_uniform((10, whole or views * batch), key, alg="philox")
    uniform = uniform[:, first : first + views * batch]
    area, aspect, top, left, flip_rows, flip_columns, turn, *colours = tf.unstack(uniform)

    area = smallest + (largest - smallest) * area
    # An aspect beyond the area or its inverse would reach outside: no side is longer than the image's.
    aspect = tf.exp(tf.minimum(math.log(_MAX_ASPECT), -tf.math.log(area)) * (2 * aspect - 1))
    rows = _interval(tf.sqrt(area / aspect), top, flip_rows)
    columns = _interval(tf.sqrt(area * aspect), left, flip_columns)
    boxes = tf.stack([rows[0], columns[0], rows[1], columns[1]], axis=1)
    source = tf.tile(tf.range(batch), (views,))
    images = tf.image.crop_and_resize(images, boxes, source, (image_size, image_size))
    # Transposing half of the images, beside the two flips, makes all eight positions.
    images = tf.where(turn[:, None, None, None] < 0.5, tf.transpose(images, (0, 2, 1, 3)), images)
    if colour == 0:
        return images

    saturation, contrast, brightness = ((1 + colour * (2 * factor - 1))[:, None, None, None] for factor in colours)
    if deviation is not None:
        known = tf.logical_not(tf.math.is_nan(images))
        total = tf.reduce_sum(tf.where(known, images, 0.0), axis=(1, 2), keepdims=True)
        count = tf.reduce_sum(tf.cast(known, tf.float32), axis=(1, 2), keepdims=True)
        mean = tf.math.divide_no_nan(total, count)
        return mean + contrast * (images - mean) + (brightness - 1) * tf.constant(deviation, tf.float32)
    # Multiplied out, so as to pass over the pixels as little as possible.
    grey = tf.tensordot(images, tf.constant([[shade] for shade in _GREY]), 1)
    mean = tf.reduce_mean(grey, axis=(1, 2, 3), keepdims=True)
    shift = brightness * (contrast * (1 - saturation) * grey + (1 - contrast) * mean)
    return tf.clip_by_value(brightness * contrast * saturation * images + shift, 0, 255)


def _interval(length: tf.Tensor, place: tf.Tensor, flip: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Ends of a crop along one side, in [0, 1]; swapped where it is flipped."""
    length = tf.minimum(length, 1.0)
    start = place * (1 - length)
    # crop_and_resize paints black what lies outside, and by a rounding error the outermost row can (54 to 96 px).
    start, stop = tf.maximum(start, 1e-6), tf.minimum(start + length, 1 - 1e-6)
    return tf.where(flip < 0.5, stop, start), tf.where(flip < 0.5, start, stop)
