"""Repeat-factor resampling of a stream: how often, in which order, repeatably."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from macl_tf.pipeline.samplers import label_aware_weights, repeat_factors
from macl_tf.pipeline.streams import repeat_by_factor
from tests.test_samplers import long_tail


def emitted(factors, seed=0, epoch=0, buffer_size=1, num_images=None):
    stream = tf.data.Dataset.range(len(factors) if num_images is None else num_images)
    return [int(i) for i in repeat_by_factor(stream, factors, buffer_size=buffer_size, seed=seed, epoch=epoch)]


def test_repeats_are_floor_or_ceil_with_the_right_probability():
    factors = np.array([0.0, 0.25, 1.0, 1.5, 2.0, 3.9])
    epochs = 150
    stream = tf.data.Dataset.range(len(factors))
    passes = tf.data.Dataset.range(epochs).flat_map(
        lambda epoch: repeat_by_factor(stream, factors, buffer_size=1, seed=0, epoch=epoch).batch(99)
    )
    counts = np.zeros(len(factors))
    for drawn in passes.as_numpy_iterator():
        count = np.bincount(drawn, minlength=len(factors))
        assert (count >= np.floor(factors)).all() and (count <= np.ceil(factors)).all()
        counts += count
    fraction = factors - np.floor(factors)
    deviation = np.sqrt(epochs * fraction * (1 - fraction))
    # 4 standard deviations of a binomial, over three fractions: fails once in 5,000 seeds.
    assert (np.abs(counts - epochs * factors) <= 4 * deviation + 1e-9).all()


def test_stream_is_shuffled_and_repeatable_whatever_the_global_seed():
    factors = repeat_factors(label_aware_weights(long_tail(), 1.0))
    plain = emitted(factors, epoch=2)
    shuffled = emitted(factors, epoch=2, buffer_size=500)
    assert plain == sorted(plain) and shuffled != plain
    assert Counter(shuffled) == Counter(plain)
    tf.random.set_seed(5)
    assert emitted(factors, epoch=2, buffer_size=500) == shuffled
    assert emitted(factors, epoch=3, buffer_size=500) != shuffled
    assert emitted(factors, epoch=2, seed=1, buffer_size=500) != shuffled


def test_one_stream_object_repeats_itself():
    stream = repeat_by_factor(tf.data.Dataset.range(40), np.full(40, 1.5), buffer_size=100, seed=4)
    first = [int(i) for i in stream]
    assert first == [int(i) for i in stream]


def test_factor_by_element_equals_factor_by_position():
    labels = long_tail()
    factors = repeat_factors(label_aware_weights(labels))
    names = tf.data.Dataset.from_tensor_slices({"id": np.arange(len(labels)), "factor": factors})
    by_element = repeat_by_factor(names, lambda element: element["factor"], buffer_size=50, seed=9)
    assert [int(element["id"]) for element in by_element] == emitted(factors, seed=9, buffer_size=50)


def test_elements_of_any_structure_pass_unchanged():
    images = [np.full((size, size), size, np.uint8) for size in (1, 2, 3)]
    stream = tf.data.Dataset.from_generator(
        lambda: ((image, len(image)) for image in images),
        output_signature=(tf.TensorSpec((None, None), tf.uint8), tf.TensorSpec((), tf.int64)),
    )
    result = list(repeat_by_factor(stream, np.array([1.0, 2.0, 1.0]), buffer_size=1, seed=0))
    assert [int(size) for _, size in result] == [1, 2, 2, 3]
    np.testing.assert_array_equal(result[3][0], images[2])


def test_buffer_size():
    with pytest.raises(ValueError, match="buffer_size must be >= 1, got 0"):
        emitted(np.ones(2), buffer_size=0)
