import numpy as np
import pytest

from macl_tf.pipeline.samplers import class_batches, label_set_classes

SIZES = [40, 7, 23, 5, 12, 2, 1]  # images by class; the last has no partner
CLASSES = np.random.default_rng(0).permutation(np.repeat(np.arange(7), SIZES))


@pytest.mark.parametrize(("per_batch", "per_class"), [(2, 2), (3, 4), (6, 5), (4, 3)])
def test_every_batch_holds_k_images_of_p_classes(per_batch, per_class):
    batches = class_batches(CLASSES, per_batch, per_class, seed=1, epoch=0)
    assert batches.dtype == np.int64 and batches.shape[1] == per_batch * per_class
    for batch in batches:
        values, counts = np.unique(CLASSES[batch], return_counts=True)
        assert len(values) == per_batch and set(counts) == {per_class}
        assert 6 not in values
        for value in values:
            drawn = np.unique(batch[CLASSES[batch] == value], return_counts=True)[1]
            # No image twice, except where the class has fewer than K: then alike often.
            assert drawn.max() - drawn.min() <= 1
            assert len(drawn) == min(per_class, SIZES[value])


def test_a_pass_over_equal_classes_shows_every_image_once():
    classes = np.repeat(np.arange(6), 20)
    batches = class_batches(classes, 3, 5, seed=0, epoch=0)
    assert batches.shape == (8, 15)
    np.testing.assert_array_equal(np.sort(batches.ravel()), np.arange(120))


def test_images_of_a_class_are_drawn_alike_over_epochs():
    batches = np.concatenate([class_batches(CLASSES, 3, 4, seed=5, epoch=epoch).ravel() for epoch in range(300)])
    counts = np.bincount(batches, minlength=len(CLASSES))
    for value, size in enumerate(SIZES[:6]):
        of_class = counts[value == CLASSES]
        assert of_class.min() > 0
        # Independent fair draws would spread by about the root of the mean; hands spread less.
        assert np.abs(of_class - of_class.mean()).max() < 4.5 * np.sqrt(of_class.mean()), size


def test_batches_are_a_function_of_seed_and_epoch():
    first = class_batches(CLASSES, 3, 4, seed=2, epoch=1)
    np.testing.assert_array_equal(first, class_batches(CLASSES, 3, 4, seed=2, epoch=1))
    for other in ({"seed": 2, "epoch": 2}, {"seed": 3, "epoch": 1}, {"seed": -2, "epoch": 1}):
        drawn = class_batches(CLASSES, 3, 4, **other)
        assert drawn.shape == first.shape and (drawn != first).any()


@pytest.mark.parametrize("num_batches", [1, 3, 50])
def test_as_many_batches_as_wanted(num_batches):
    batches = class_batches(CLASSES, 3, 4, seed=0, epoch=0, num_batches=num_batches)
    assert batches.shape == (num_batches, 12)
    assert len(np.unique(batches, axis=0)) == num_batches
    one_pass = class_batches(CLASSES, 3, 4, seed=0, epoch=0)
    shared = min(num_batches, len(one_pass))
    np.testing.assert_array_equal(batches[:shared], one_pass[:shared])


def test_images_without_a_class_are_not_drawn():
    classes = np.where(CLASSES == 0, -1, CLASSES)
    drawn = np.unique(classes[class_batches(classes, 2, 3, seed=0, epoch=0, num_batches=40)])
    np.testing.assert_array_equal(drawn, [1, 2, 3, 4, 5])


def test_classes_are_exact_label_sets():
    labels = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 1]])
    classes = label_set_classes(labels)
    assert classes[0] == classes[2] and classes[1] == classes[5] and classes[3] == -1
    assert len(set(classes.tolist())) == 4
    np.testing.assert_array_equal(label_set_classes(np.eye(4)[[2, 0, 3, 1]]), [2, 0, 3, 1])
    np.testing.assert_array_equal(label_set_classes(np.zeros((2, 3), int)), [-1, -1])


def test_more_classes_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match="number of classes with two images or more, 6, got 7"):
        class_batches(CLASSES, 7, 2, seed=0, epoch=0)
