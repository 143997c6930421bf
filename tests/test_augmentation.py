"""Augmentation: what it may do to an image, shown on images made so that the change can be read off."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from macl_tf.pipeline.augmentation import augment_images

SIZE = 16


def augment(images, seed=0, size=SIZE, **options):
    return augment_images(np.asarray(images), tf.constant([seed, 1]), size, **options).numpy()


def dihedral(image: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(side, turns) for side in (image, image[:, ::-1]) for turns in range(4)]


def test_full_crop_gives_the_eight_flips_and_turns_equally_often():
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    count = 800
    results = augment(np.tile(image, (count, 1, 1, 1)), crop_scale=(1.0, 1.0), colour=0.0)
    # Boxes end 1e-6 of the side within the image: 15e-6 pixels, times steps of up to 255.
    distance = np.abs(results[:, None] - np.stack(dihedral(image))[None]).max(axis=(2, 3, 4))
    assert (distance.min(axis=1) < 0.01).all()
    seen = np.bincount(distance.argmin(axis=1), minlength=8)
    # Chi-square, 7 degrees of freedom: above 24.3 in one seed of a thousand.
    assert ((seen - count / 8) ** 2 / (count / 8)).sum() < 24.3


def test_crops_have_the_area_and_aspect_asked_for_and_vary_in_place():
    side = 64
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    image = np.stack([*np.meshgrid(ramp, ramp, indexing="ij"), np.zeros((side, side))], axis=-1)
    crops = augment(np.tile(image, (500, 1, 1, 1)), crop_scale=(0.5, 0.9), colour=0.0)
    # Red is the row and green the column from 0 to 1: their ranges are the sides of the crop.
    lowest, highest = crops.min(axis=(1, 2))[:, :2], crops.max(axis=(1, 2))[:, :2]
    assert (lowest >= 0).all() and (highest <= 1).all()
    height, width = (highest - lowest).T
    assert (height * width > 0.5 - 1e-4).all() and (height * width < 0.9 + 1e-4).all()
    assert (height / width > 3 / 4 - 1e-4).all() and (height / width < 4 / 3 + 1e-4).all()
    assert np.ptp(height * width) > 0.35 and np.ptp(height / width) > 0.5
    room = lowest / (1 - np.stack([height, width], axis=1))
    assert (room.min(axis=0) < 0.05).all() and (room.max(axis=0) > 0.95).all()


# The last two are sizes at which the outermost row is black when boxes end at exactly 0 and 1.
CROPS = [
    (20, 16, (0.5, 1)),
    (32, 32, (1, 1)),
    (7, 31, (0.9, 1)),
    (5, 1, (0.2, 1)),
    (54, 96, (1, 1)),
    (96, 48, (1, 1)),
]


@pytest.mark.parametrize(("side", "size", "scale"), CROPS)
def test_a_crop_never_leaves_the_image(side, size, scale):
    # crop_and_resize paints what is outside in black, if only by a rounding error of a coordinate.
    white = np.full((100, side, side, 3), 255, np.uint8)
    assert augment(white, size=size, crop_scale=scale, colour=0.0).min() == 255


def test_brightness_and_contrast_of_a_grey_image():
    # Half 100, half 150, whatever the turn: b (m + k (x - m)) has mean 125 b and range 50 b k.
    image = np.full((SIZE, SIZE, 3), 100, np.uint8)
    image[: SIZE // 2] = 150
    results = augment(np.tile(image, (400, 1, 1, 1)), crop_scale=(1.0, 1.0), colour=0.2)
    brightness = results.mean(axis=(1, 2, 3)) / 125
    contrast = np.ptp(results, axis=(1, 2, 3)) / 50 / brightness
    for factor in (brightness, contrast):
        assert 0.8 - 1e-4 < factor.min() < 0.82 and 1.18 < factor.max() < 1.2 + 1e-4
        # uniform on [0.8, 1.2]: mean 1, deviation 0.4 / sqrt(12), over 400 images; 4 deviations
        assert abs(factor.mean() - 1) < 4 * 0.4 / np.sqrt(12 * 400)
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.2


def test_saturation_of_two_shades():
    # Two halves of one hue, grey values g = 0.299 * 120 + 0.587 * 80 + 0.114 * 40 = 87.4 and 20 more, mean 97.4.
    # Grey becomes b (97.4 + k (g - 97.4)), and the distance from grey, (32.6, -7.4, -47.4), b k s times itself.
    image = np.full((SIZE, SIZE, 3), (120, 80, 40), np.uint8)
    image[: SIZE // 2] += 20
    results = augment(np.tile(image, (400, 1, 1, 1)), crop_scale=(1.0, 1.0), colour=0.2)
    grey = results @ [0.299, 0.587, 0.114]
    brightness_contrast = np.ptp(grey, axis=(1, 2)) / 20
    factors = (results - grey[..., None]) / [32.6, -7.4, -47.4] / brightness_contrast[:, None, None, None]
    assert np.ptp(factors, axis=(1, 2, 3)).max() < 1e-3  # one per image, the same in all pixels and channels
    factors = factors[:, 0, 0, 0]
    assert 0.8 - 1e-4 < factors.min() < 0.82 and 1.18 < factors.max() < 1.2 + 1e-4


def test_values_stay_in_range():
    extremes = np.random.default_rng(1).choice([0, 255], (200, 8, 8, 3)).astype(np.uint8)
    results = augment(extremes, colour=0.9)
    assert results.min() == 0 and results.max() == 255 and np.isfinite(results).all()


def test_views_differ_and_keep_their_image():
    images = np.arange(0, 250, 10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    first, second = np.split(augment(images, views=2, colour=0.0), 2)
    np.testing.assert_allclose(first.mean(axis=(1, 2, 3)), images[:, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(second, first, rtol=1e-6)
    noise = np.random.default_rng(2).integers(0, 256, (25, 8, 8, 3), np.uint8)
    first, second = np.split(augment(noise, views=2), 2)
    assert (np.abs(first - second).max(axis=(1, 2, 3)) > 1).all()


def test_the_key_decides():
    noise = np.random.default_rng(3).integers(0, 256, (4, 8, 8, 3), np.uint8)
    runs = [augment(noise, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    for one, other in itertools.combinations(runs[0], 2):
        assert np.abs(one - other).max() > 1
    assert np.abs(runs[0] - runs[2]).max(axis=(1, 2, 3)).min() > 1


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.8, 0.5), (0.5, 1.1)])
def test_bad_crop_scale(scale):
    with pytest.raises(ValueError, match=r"crop_scale must be .* 0 < smallest <= largest <= 1, got"):
        augment(np.zeros((1, 4, 4, 3)), crop_scale=scale)


@pytest.mark.parametrize("colour", [-0.1, 1.0])
def test_bad_colour(colour):
    with pytest.raises(ValueError, match=r"colour must be in \[0, 1\), got"):
        augment(np.zeros((1, 4, 4, 3)), colour=colour)
