"""The synthetic archive: deterministic, labelled by what can be seen, long-tailed, and not solved by colour."""

import numpy as np
import pytest

from macl_tf.datasets.synthetic import archive as synthetic
from macl_tf.datasets.synthetic.archive import LABEL_NAMES, MIN_AREA, areas_of, draw_tile, make_synthetic
from macl_tf.datasets.synthetic.canvas import Canvas, box, outline, shade

INDEX = {name: position for position, name in enumerate(LABEL_NAMES)}


@pytest.fixture(scope="module")
def archive():
    return make_synthetic(num_tiles=600, image_size=48, seed=0)


def test_a_tile_depends_on_seed_and_index_alone():
    image, mask = draw_tile(5, 48, seed=3)
    again = make_synthetic(num_tiles=7, image_size=48, seed=3)
    np.testing.assert_array_equal(again.read_image(5), image)
    np.testing.assert_array_equal(again.labels[5], areas_of(mask) > 0)
    assert (draw_tile(5, 48, seed=4)[0] != image).mean() > 0.5
    assert (draw_tile(6, 48, seed=3)[0] != image).mean() > 0.5


def test_shapes_and_types(archive):
    image, mask = draw_tile(0, 96)
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8
    assert mask.shape == (96, 96) and mask.dtype == np.uint8
    assert archive.labels.shape == archive.label_areas.shape == (600, 14) and archive.labels.dtype == np.uint8
    assert archive.default_split == "random" and archive.scenes is None and archive.numbers is None
    assert len(archive) == len(archive.file_names) == 600


def test_an_image_that_was_read_cannot_spoil_the_archive(archive):
    with pytest.raises(ValueError, match="read-only"):
        archive.read_image(0)[:] = 0


def test_labels_and_areas_are_counted_in_the_mask(archive):
    for index in range(0, 600, 40):
        mask = draw_tile(index, 48)[1]
        for label in range(14):
            share = float((mask == label).sum()) / 48**2
            visible = share >= MIN_AREA
            assert archive.labels[index, label] == visible
            assert archive.label_areas[index, label] == pytest.approx(share * visible, abs=1e-7)


def test_a_label_of_few_pixels_does_not_count():
    mask = np.full((100, 100), INDEX["grass"], np.uint8)
    mask[0, :9] = INDEX["cars"]  # 9 of 10,000 pixels: below 0.001
    assert areas_of(mask)[INDEX["cars"]] == 0
    mask[0, 9] = INDEX["cars"]  # 10 of 10,000: just enough
    assert areas_of(mask)[INDEX["cars"]] == pytest.approx(0.001)
    assert areas_of(mask)[INDEX["grass"]] == pytest.approx(0.999)


def test_other_sizes_show_the_same_scene():
    agreement = []
    for index in range(30):
        small, large = (draw_tile(index, size)[1] for size in (48, 96))
        agreement.append((small == large[1::2, 1::2]).mean())
    # The same shapes, cut by another grid: pixels at their edges differ, and now and then a car or a tree.
    assert np.median(agreement) > 0.95 and min(agreement) > 0.5


def test_long_tailed_with_one_to_six_labels_a_tile(archive):
    frequency = archive.labels.mean(axis=0)
    per_tile = archive.labels.sum(axis=1)
    # Rates of 600 draws: at 0.64 and 0.03 the standard deviations are 0.020 and 0.007; bounds two and more away.
    assert frequency.max() > 0.58
    assert 0.01 < frequency.min() < 0.05
    assert (frequency < 0.1).sum() >= 4
    assert per_tile.min() >= 1 and per_tile.max() <= 6


def test_what_occurs_together_is_plausible(archive):
    holds = {name: archive.labels[:, position].astype(bool) for name, position in INDEX.items()}
    assert holds["water"][holds["ship"]].all()
    assert holds["water"][holds["dock"]].mean() > 0.9
    assert holds["pavement"][holds["cars"]].mean() > 0.95
    assert holds["pavement"][holds["airplane"]].all()


def test_colour_alone_does_not_solve_it_but_says_something(archive):
    """Precision at 5 by colour histogram against its chance level, the share of tiles that hold the label."""
    images = np.stack([archive.read_image(index) for index in range(600)])
    codes = (images // 64).reshape(600, -1, 3) @ np.array([16, 4, 1])
    histograms = np.sqrt(np.stack([np.bincount(row, minlength=64) for row in codes]) / codes.shape[1])
    similarity = histograms @ histograms.T
    np.fill_diagonal(similarity, -1)
    nearest = np.argsort(-similarity, axis=1)[:, :5]
    found = np.array([archive.labels[nearest[archive.labels[:, label] == 1], label].mean() for label in range(14)])
    frequency = archive.labels.mean(axis=0)
    rarest = np.argsort(frequency)[:5]
    assert found[rarest].mean() < 0.4
    assert found.mean() < 0.6
    assert found.mean() > 1.3 * frequency.mean()


def test_masks_and_images_agree_on_light_and_dark():
    """Woods are darker than sand under the same light: the image shows what the mask says."""
    contrasts = []
    for index in range(400):
        image, mask = draw_tile(index, 32)
        trees, sand = mask == INDEX["trees"], mask == INDEX["sand"]
        if min(trees.sum(), sand.sum()) >= 30:
            contrasts.append(image[sand].mean() - image[trees].mean())
    assert len(contrasts) > 5 and min(contrasts) > 0


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"num_tiles": 0}, "num_tiles must be >= 1, got 0"),
        ({"num_tiles": 1, "image_size": 15}, "image_size must be >= 16, got 15"),
        ({"num_tiles": 1, "image_size": -3}, "image_size must be >= 16, got -3"),
        ({"num_tiles": 1, "seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_arguments_out_of_range(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        make_synthetic(**arguments)


def test_every_scene_can_be_drawn_with_every_step():
    for _, grounds, steps in synthetic.SCENES:
        for ground in grounds:
            scene = synthetic.Scene(32, np.random.default_rng(1))
            synthetic.draw.ground(scene, ground)
            for step, _ in steps:
                step(scene)
            image, mask = scene.develop(np.zeros(14, np.float32), np.zeros(14, np.float32))
            assert image.shape == (32, 32, 3) and mask.max() < 14


def test_later_shapes_cover_earlier_ones_and_shadows_keep_the_label():
    canvas = Canvas(20, np.random.default_rng(0))
    canvas.polygon([(0, 0), (1, 0), (1, 1), (0, 1)], 1, (100, 100, 100))
    canvas.polygon(box((0.5, 0.5), 0.4, 0.4, 0.0), 2, (200, 0, 0), height=0.1)
    image, mask = canvas.develop(np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert set(np.unique(mask)) == {1, 2}
    assert 49 <= (mask == 2).sum() <= 100  # a square of 8 x 8 pixels, its outline included
    around = image[(mask == 1)].mean(axis=1)
    assert around.min() < 0.75 * np.median(around)  # the shadow, on ground that is still ground


def test_geometry_by_hand():
    # A quarter turn takes (1, 0) to (0, 1), doubled and moved by (3, 4): (3, 6).
    np.testing.assert_allclose(outline((3, 4), [(1, 0)], np.pi / 2, 2.0), [(3, 6)], atol=1e-12)
    np.testing.assert_allclose(box((0, 0), 4, 2, 0.0), [(-2, -1), (2, -1), (2, 1), (-2, 1)], atol=1e-12)
    assert shade((100, 200, 10), 1.5, (0, 0, -20)) == (150, 255, 0)
