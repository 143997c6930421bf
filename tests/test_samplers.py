"""Label-aware weights against hand calculations, draws against the binomial distribution."""

import numpy as np
import pytest

from macl_tf.pipeline.samplers import (
    SAMPLERS,
    draw_epoch,
    expected_frequencies,
    label_aware_weights,
    make_sampler,
    repeat_factors,
    repeat_pass,
)

# n = (3, 2, 1): 1/n = (1/3, 1/2, 1)
LABELS = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])


def long_tail(num_images: int = 60) -> np.ndarray:
    """Multi-hot labels with counts from 60 down to 6, one in ten images without any."""
    generator = np.random.default_rng(7)
    labels = (generator.random((num_images, 5)) < [0.8, 0.5, 0.3, 0.15, 0.1]).astype(np.uint8)
    labels[::10] = 0
    return labels


def draw_epochs(weights, num_draws: int, *, seed: int, epochs: int) -> list[np.ndarray]:
    return [draw_epoch(weights, num_draws, seed=seed, epoch=epoch) for epoch in range(epochs)]


def test_weights_by_hand():
    # mean of 1/n_c over the labels: 1/3; (1/3 + 1/2) / 2 = 5/12; (1/3 + 1/2 + 1) / 3 = 11/18; none
    means = np.array([1 / 3, 5 / 12, 11 / 18, 0.0])
    for power in (0.25, 0.5, 1.0, 2.0):
        expected = np.where(means > 0, means**power, 0) / np.sum(means[:3] ** power)
        np.testing.assert_allclose(label_aware_weights(LABELS, power), expected, rtol=1e-12)


def test_power_zero_draws_every_labelled_image_alike():
    np.testing.assert_allclose(label_aware_weights(LABELS, 0.0), [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-15)


def test_labels_nobody_has_change_nothing():
    wider = np.concatenate([LABELS, np.zeros((4, 3), int)], axis=1)
    np.testing.assert_array_equal(label_aware_weights(wider), label_aware_weights(LABELS))


@pytest.mark.parametrize("power", [-0.5, np.inf, np.nan])
def test_bad_power(power):
    with pytest.raises(ValueError, match=r"power must be finite and >= 0, got"):
        label_aware_weights(LABELS, power)


def test_no_label_at_all():
    with pytest.raises(ValueError, match="At least one image must have a label, none of 3 has"):
        label_aware_weights(np.zeros((3, 2)))


def test_repeat_factors_have_mean_one():
    weights = label_aware_weights(LABELS)
    factors = repeat_factors(weights)
    np.testing.assert_allclose(factors.mean(), 1.0, rtol=1e-15)
    np.testing.assert_allclose(factors, 4 * weights, rtol=1e-15)  # mean u = 1 / N


def test_expected_frequencies_by_hand():
    # shares 0.2, 0.3, 0.5 of three images, scale free
    expected = [1.0, 0.8, 0.5]
    for scale in (1.0, 7.0):
        weights = scale * np.array([0.2, 0.3, 0.5, 0.0])
        np.testing.assert_allclose(expected_frequencies(LABELS, weights), expected, rtol=1e-12)


def test_resampling_raises_the_rarest_label():
    labels = long_tail()
    before = expected_frequencies(labels, label_aware_weights(labels, 0.0))
    after = expected_frequencies(labels, label_aware_weights(labels, 1.0))
    rarest, commonest = labels.sum(axis=0).argmin(), labels.sum(axis=0).argmax()
    assert after[rarest] > 1.5 * before[rarest]
    assert after[commonest] < before[commonest]


def test_each_image_is_drawn_its_expected_number_rounded_down_or_up():
    weights = label_aware_weights(long_tail(), 1.0)
    for drawn in draw_epochs(weights, 100, seed=3, epochs=20):
        counts = np.bincount(drawn, minlength=len(weights))
        assert drawn.dtype == np.int64 and counts.sum() == 100
        assert (counts >= np.floor(100 * weights - 1e-9)).all()
        assert (counts <= np.ceil(100 * weights + 1e-9)).all()
        assert counts[weights == 0].sum() == 0


def test_draw_frequencies_match_the_weights():
    weights = label_aware_weights(long_tail(), 1.0)
    epochs, draws = 400, 45
    counts = np.zeros(len(weights))
    for drawn in draw_epochs(weights, draws, seed=11, epochs=epochs):
        counts += np.bincount(drawn, minlength=len(weights))
    # An epoch gives floor or ceil of the expected number e, so the sum over epochs is a constant plus a
    # binomial with the fraction of e: 4.5 standard deviations, over 54 images, fail once in 2,700 seeds.
    expected = draws * weights
    fraction = expected - np.floor(expected)
    deviation = np.sqrt(epochs * fraction * (1 - fraction))
    assert (np.abs(counts - epochs * expected) <= 4.5 * deviation + 1e-6).all()
    # And they do vary: images with a fraction near one half are not always drawn alike.
    assert 0.5 < np.std((counts - epochs * expected)[weights > 0] / deviation[weights > 0]) < 1.5


def test_a_single_draw_is_in_proportion_too():
    """Neither the order alone nor a fixed place of the points would ever draw the light one of two."""
    light = sum(int(drawn[0]) == 0 for drawn in draw_epochs(np.array([1.0, 3.0]), 1, seed=0, epochs=400))
    assert abs(light - 100) < 4 * np.sqrt(400 * 3 / 16)


def test_equal_weights_and_as_many_draws_as_images_draw_each_once():
    for num_images in (1, 7, 100, 1000):
        drawn = draw_epoch(np.full(num_images, 0.3), num_images, seed=1, epoch=5)
        np.testing.assert_array_equal(np.sort(drawn), np.arange(num_images))


def test_any_two_images_can_meet():
    # Half of the images an epoch: neighbours must not be bound to opposite halves, as with a fixed order.
    together = sum({0, 1} <= set(drawn.tolist()) for drawn in draw_epochs(np.ones(8), 4, seed=2, epochs=200))
    # Every other place of a random order is drawn: both images are, if both stand at even places or both at
    # odd ones (4/8 * 3/7 * 2 = 3/7) and those are the places drawn (1/2).
    expected = 200 * 3 / 14
    assert abs(together - expected) < 4 * np.sqrt(expected * (1 - 3 / 14))


def test_draws_depend_on_seed_and_epoch_only():
    weights = label_aware_weights(long_tail())
    draws = {(seed, epoch): draw_epoch(weights, 64, seed=seed, epoch=epoch) for seed in (0, 1, -1) for epoch in (0, 1)}
    assert len({tuple(values) for values in draws.values()}) == 6
    np.random.seed(99)
    np.testing.assert_array_equal(draw_epoch(weights, 64, seed=-1, epoch=1), draws[-1, 1])


def test_weights_of_zero_at_the_ends_are_never_drawn():
    for drawn in draw_epochs(np.array([0.0, 1e-12, 0.0, 1.0, 0.0]), 3, seed=0, epochs=50):
        assert set(drawn) <= {1, 3}


def test_repeats_are_floor_or_ceil_with_the_right_probability():
    factors = np.array([0.0, 0.25, 1.0, 1.5, 2.0, 3.9])
    epochs = 300
    counts = np.zeros(len(factors))
    for epoch in range(epochs):
        drawn = repeat_pass(factors, seed=0, epoch=epoch)
        count = np.bincount(drawn, minlength=len(factors))
        assert (count >= np.floor(factors)).all() and (count <= np.ceil(factors)).all()
        counts += count
    fraction = factors - np.floor(factors)
    deviation = np.sqrt(epochs * fraction * (1 - fraction))
    # 4 standard deviations of a binomial, over three fractions: fails once in 5,000 seeds.
    assert (np.abs(counts - epochs * factors) <= 4 * deviation + 1e-9).all()
    assert not np.array_equal(repeat_pass(factors, seed=0, epoch=0), np.sort(repeat_pass(factors, seed=0, epoch=0)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_epochs_of_every_sampler(name):
    labels = np.repeat(long_tail(), 2, axis=0)  # so that each label set has a companion
    sampler = make_sampler(name, labels, 8, seed=3, steps=40, images_per_class=4)
    epochs = [sampler.rows(epoch) for epoch in range(3)]
    assert all(rows.shape == (40, 8) and rows.dtype == np.int64 for rows in epochs)
    assert set(np.concatenate(epochs).ravel()) <= set(sampler.drawable) <= set(np.flatnonzero(labels.any(axis=1)))
    again, other = (make_sampler(name, labels, 8, seed=seed, steps=40, images_per_class=4) for seed in (3, 4))
    np.testing.assert_array_equal(epochs[1], again.rows(1))
    assert len({rows.tobytes() for rows in [*epochs, other.rows(0)]}) == 4
    assert sampler.weights.sum() == pytest.approx(1) and (sampler.weights[sampler.drawable] > 0).all()
    assert make_sampler(name, labels, 8, seed=3, images_per_class=2).steps == len(sampler.drawable) // 8


def test_passes_within_an_epoch_are_shuffled_anew():
    labels = np.eye(4, dtype=np.uint8)[np.arange(12) % 4]
    rows = make_sampler("repeat", labels, 12, seed=0, steps=3).rows(0)  # factors of 1: a batch is a pass
    assert len({tuple(batch) for batch in rows}) == 3 and all(set(batch) == set(range(12)) for batch in rows)


def test_samplers_need_no_backend(run_python):
    script = """
import sys
import numpy as np
from macl_tf.pipeline.samplers import SAMPLERS, make_sampler
for name in SAMPLERS:
    make_sampler(name, np.eye(2)[[0, 0, 1, 1]], 4, seed=0, images_per_class=2).rows(0)
print(sorted({"tensorflow", "keras", "torch", "jax"} & set(sys.modules)))
"""
    assert run_python(script).stdout.strip() == "[]"
