"""Pixels of the graph against those of training, which come from Pillow: not one bit differs."""

import numpy as np
import PIL
import pytest
import tensorflow as tf

from macl_tf.datasets.images import decode_image, resize_image
from macl_tf.datasets.picture_kinds import PictureError
from macl_tf.export.image_graph import MAX_PIXELS, decode, decode_batch, resize, resize_batch
from tests.pictures import bad_pictures, blank_png, encoded, good_pictures, pictures_of_other_kinds, pixels

SIZE = 32


@pytest.fixture(scope="module")
def batch():
    """(B,) bytes to pixels and valid, traced once."""
    graph = tf.function(
        lambda data: decode_batch(data, SIZE), input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False
    )
    return lambda images: [output.numpy() for output in graph(tf.constant(images, tf.string))]


@pytest.fixture(scope="module")
def one():
    return tf.function(decode, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


@pytest.mark.parametrize("size", [SIZE, 224])
def test_resize_is_pillows_to_the_last_bit(size):
    graph = tf.function(
        lambda image: resize(image, size), input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)], autograph=False
    )
    random = np.random.default_rng(0)
    # Halves everywhere (256 to 224, 64 to 224), odd sizes, much too wide, the size itself, one pixel.
    shapes = [(256, 256), (64, 64), (1, 1), (2, 3), (31, 57), (63, 65), (300, 299), (128, 224), (3, 700), (size, size)]
    if int(PIL.__version__.split(".")[0]) >= 13:  # older ones resize tall images in the other order
        shapes += [(224, 128), (57, 31), (700, 3), (100, 40)]
    for shape in shapes:
        image = random.integers(0, 256, (*shape, 3), np.uint8)
        np.testing.assert_array_equal(graph(image), resize_image(image, size), str(shape))


def test_a_large_image_is_resized_row_by_row_to_the_same():
    image = np.random.default_rng(0).integers(0, 256, (1500, 2400, 3), np.uint8)
    np.testing.assert_array_equal(tf.function(resize, autograph=False)(image, SIZE), resize_image(image, SIZE))


def test_resize_batch():
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    expected = [resize_image(image, SIZE) for image in images]
    np.testing.assert_array_equal(resize_batch(tf.constant(images), SIZE), expected)
    same = images[:, :SIZE, :SIZE]
    np.testing.assert_array_equal(resize_batch(tf.constant(same), SIZE), same)


def test_good_and_bad_pictures_in_one_batch(batch, one):
    good, bad = good_pictures(), bad_pictures()
    mixed = [picture for pair in zip(good.values(), bad.values(), strict=False) for picture in pair]
    mixed += list(good.values())[len(bad) :]
    decoded, valid = batch(mixed)
    names = {picture: name for name, picture in (good | bad).items()}
    assert {names[picture] for picture, ok in zip(mixed, valid, strict=True) if not ok} == set(bad)
    for picture, image, ok in zip(mixed, decoded, valid, strict=True):
        name = names[picture]
        if ok:
            full = decode_image(picture, name)
            np.testing.assert_array_equal(one(picture), full, name)
            np.testing.assert_array_equal(image, resize_image(full, SIZE), name)
        else:
            assert not image.any(), name


def test_pictures_of_other_kinds_are_bad_where_tensorflow_would_take_the_high_byte(batch):
    for name, data in pictures_of_other_kinds().items():
        assert tf.io.decode_image(data, channels=3).shape == (*pixels().shape[:2], 3), "whole, for TensorFlow"
        with pytest.raises(PictureError, match="must be 8-bit RGB"):
            decode_image(data, name)
        decoded, valid = batch([encoded(pixels(), "PNG"), data])
        assert valid.tolist() == [True, False] and decoded[0].any() and not decoded[1].any(), name


def test_only_bad_pictures_and_none(batch):
    decoded, valid = batch([b"", b"text"])
    assert decoded.shape == (2, SIZE, SIZE, 3) and not valid.any()
    decoded, valid = batch([])
    assert decoded.shape == (1, SIZE, SIZE, 3) and valid.shape == (0,)


def test_the_pixel_limit_is_that_of_training(batch, one):
    largest = blank_png(8000, 8000)
    assert MAX_PIXELS == 8000 * 8000
    assert batch([largest, encoded(pixels(), "PNG")])[1].all()
    # The refused file is whole: without the limit it would be decoded.
    assert tf.io.decode_png(bad_pictures()["too many pixels"], channels=1).shape == (8000, 8001, 1)


@pytest.mark.slow
def test_only_the_first_frame_of_a_gif_is_decoded(run_python):
    """TensorFlow decodes all frames to show one: half a megabyte in 60 frames of 3000 x 3000 would take 540 MB."""
    script = """
import resource
import numpy as np, tensorflow as tf
from macl_tf.export.image_graph import decode
from tests.pictures import encoded
frame = encoded(np.zeros((3000, 3000), np.uint8), "GIF")
start = frame.index(b",\\0\\0\\0\\0")
bomb = frame[:start] + frame[start:-1] * 60 + b";"
graph = tf.function(decode, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
graph(encoded(np.zeros((9, 9), np.uint8), "GIF"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert graph(bomb).shape == (3000, 3000, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    assert int(run_python(script).stdout) < 200


def test_a_bmp_from_top_to_bottom(one):
    picture = bytearray(encoded(pixels(), "BMP"))
    height = int.from_bytes(picture[22:26], "little", signed=True)
    picture[22:26] = (-height).to_bytes(4, "little", signed=True)
    np.testing.assert_array_equal(one(bytes(picture)), pixels()[::-1])
