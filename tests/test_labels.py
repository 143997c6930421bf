import numpy as np
import pytest
import tensorflow as tf

from macl_tf.labels import LabelStatistics, check_multi_hot

LABELS = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])


def test_counts_and_pairs_by_hand():
    stats = LabelStatistics.from_labels(LABELS, ["a", "b", "c", "d"])
    assert stats.counts.tolist() == [4, 2, 1, 0]
    assert stats.cooccurrence.tolist() == [[4, 2, 1, 0], [2, 2, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert (stats.num_images, stats.num_labels) == (5, 4)


def test_a_data_set_gives_the_same_as_its_array():
    labels = tf.data.Dataset.from_tensor_slices(LABELS.astype("float32"))
    pairs = tf.data.Dataset.zip((tf.data.Dataset.range(5), labels)).batch(2)
    assert LabelStatistics.from_dataset(pairs) == LabelStatistics.from_labels(LABELS)
    assert LabelStatistics.from_dataset(labels.batch(3)) == LabelStatistics.from_labels(LABELS)
    with pytest.raises(ValueError, match="dataset must end, got an infinite one"):
        LabelStatistics.from_dataset(pairs.repeat())
    with pytest.raises(ValueError, match="at least one batch"):
        LabelStatistics.from_dataset([])


def test_rarity_by_hand():
    stats = LabelStatistics.from_labels(LABELS)
    # n = 4, 2, 1 and none: n^-1 = 1/4, 1/2, 1 with mean 7/12 over the three that occur; the fourth counts as n = 1
    np.testing.assert_allclose(stats.rarity(1.0), np.array([3, 6, 12, 12]) / 7)
    np.testing.assert_allclose(stats.rarity(0.0), 1.0)
    with pytest.raises(ValueError, match=r"power must be >= 0, got -1"):
        stats.rarity(-1)


def test_rarest_rounds_up_and_leaves_out_labels_without_an_image():
    stats = LabelStatistics.from_labels(LABELS)
    assert stats.rarest().tolist() == [2]  # a third of the three labels that occur
    assert stats.rarest(0.5).tolist() == [2, 1]
    assert stats.rarest(1.0).tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got 0"):
        stats.rarest(0)


@pytest.mark.parametrize(("labels", "rarest"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 3)])
def test_a_third_of_the_labels_is_rounded_up(labels, rarest):
    counts = np.arange(labels) + 1
    assert LabelStatistics(counts, np.diag(counts), labels).rarest().tolist() == list(range(rarest))


def test_a_data_set_with_sample_weights_is_counted_by_its_labels():
    images, weights = np.zeros((5, 2)), np.eye(5, 4)  # as many columns as labels: they could pass for such
    stats = LabelStatistics.from_dataset([(images[:2], LABELS[:2], weights[:2]), (images[2:], LABELS[2:], weights[2:])])
    assert stats == LabelStatistics.from_labels(LABELS)


def test_config_round_trip():
    stats = LabelStatistics.from_labels(LABELS, ["a", "b", "c", "d"])
    again = LabelStatistics.from_config(stats.get_config())
    assert again == stats and again.label_names == ("a", "b", "c", "d")
    assert again != LabelStatistics.from_labels(LABELS[:3], ["a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"multi-hot with shape \(images, labels\), got shape \(2,\)"),
        (np.zeros((3, 0)), r"got shape \(3, 0\)"),
        ([[0, 2]], "only 0 and 1, got 2 in row 0, column 1"),
        ([[0, 1], [np.nan, 1]], "got nan in row 1, column 0"),
    ],
)
def test_what_is_not_multi_hot_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        check_multi_hot(labels)


def test_impossible_statistics_are_refused():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3, 3\)"):
        LabelStatistics(np.ones(2), np.ones((3, 3)), 5)
    for pairs in ([[2, 3], [3, 3]], [[2, -1], [-1, 3]], [[2, 1], [0, 3]], [[1, 1], [1, 3]]):
        with pytest.raises(ValueError, match="symmetric with counts on its diagonal"):
            LabelStatistics(np.array([2, 3]), np.array(pairs), 5)
    with pytest.raises(ValueError, match="num_images=2"):
        LabelStatistics(np.array([2, 3]), np.array([[2, 1], [1, 3]]), 2)
    with pytest.raises(ValueError, match="each of the 2 labels, got 1 names"):
        LabelStatistics(np.array([2, 3]), np.array([[2, 1], [1, 3]]), 5, ("a",))
