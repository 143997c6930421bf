"""Features of tiles and their views: kept by what decides them, part by part, and read back tile by tile."""

import numpy as np
import pytest

from macl_tf.datasets.archives import Archive
from macl_tf.pipeline import features as module
from macl_tf.pipeline.features import FeatureViews, feature_dataset, feature_views
from macl_tf.pipeline.pipeline import WHOLE, Parts
from macl_tf.pipeline.samplers import make_sampler

TILES = 10


@pytest.fixture
def archive():
    """Tile i is of one colour, 10 i, so that its mean is 10 i in every crop, flip and turn."""
    names = tuple(f"{index}.png" for index in range(TILES))
    labels = np.eye(2)[np.arange(TILES) % 2]
    return Archive("mine", ("sea", "sand"), names, labels, lambda index: np.full((9, 9, 3), 10 * index, np.uint8))


def describe(images):
    """The mean of a tile, and twice that."""
    means = np.asarray(images, "float64").mean((1, 2, 3))
    return np.stack([means, 2 * means], axis=1)


def of(archive, cache, indices=None, describe=describe, **changes):
    settings = {"backbone": "a", "image_size": 8, "views": 2, "crop_scale": (0.5, 1.0), "colour": 0.0, "seed": 0}
    rows = np.arange(TILES) if indices is None else np.array(indices)
    return feature_views(archive, rows, describe, cache=cache, progress=False, **{**settings, **changes})


def test_they_are_of_each_tile_in_each_view(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PART", 4)
    found = of(archive, tmp_path, indices=[7, 2, 9, 4, 0, 5])
    assert (found.views, found.width, len(found.parts)) == (3, 2, 2)
    rows, views = np.array([5, 0, 3, 4, 1]), np.array([0, 1, 2, 2, 0])
    np.testing.assert_allclose(found.read(views, rows)[:, 0], [50, 70, 40, 0, 20], atol=0.1)


def test_the_same_again_computes_nothing_and_anything_else_is_computed(archive, tmp_path):
    of(archive, tmp_path)
    asked = []

    def counted(images):
        asked.append(len(images))
        return describe(images)

    of(archive, tmp_path, describe=counted)
    assert asked == []
    others = [
        {"backbone": "b"}, {"image_size": 7}, {"views": 1}, {"crop_scale": (0.7, 1.0)}, {"colour": 0.1}, {"seed": 1},
        {"indices": range(9)}, {"indices": [1, 0, *range(2, TILES)]},
    ]  # fmt: skip
    for number, changes in enumerate(others):
        of(archive, tmp_path, describe=counted, **changes)
        assert len(asked) == sum(1 + other.get("views", 2) for other in others[: number + 1]), changes
    of(archive, tmp_path, describe=counted, views=0)
    before = len(asked)
    of(archive, tmp_path, describe=counted, views=0, seed=3)  # nothing random is in plain tiles
    assert len(asked) == before


def test_a_killed_computation_goes_on_after_its_last_part(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PART", 4)
    calls = []

    def killed(images):
        calls.append(len(images))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return describe(images)

    with pytest.raises(KeyboardInterrupt):
        of(archive, tmp_path, describe=killed)
    assert len([*tmp_path.rglob("*.npy")]) == 1
    calls.clear()

    def counted(images):
        calls.append(len(images))
        return describe(images)

    found = of(archive, tmp_path, describe=counted)
    assert calls == [4, 4, 4, 2, 2, 2]
    np.testing.assert_allclose(found.read(np.zeros(TILES, int), np.arange(TILES))[:, 0], 10 * np.arange(TILES))


def test_batches_hold_the_tiles_that_the_sampler_draws_with_their_labels(archive, tmp_path):
    sampler = make_sampler("weighted", archive.labels, 4, seed=0)
    data = feature_dataset(of(archive, tmp_path), archive.labels, sampler, seed=0, epochs=2, views=2)
    assert data.steps_per_epoch == 2 and data.dataset.cardinality().numpy() == 4
    batches = [(x.numpy(), y.numpy()) for x, y in data.dataset]
    for epoch in range(2):
        drawn = np.concatenate([x[:4, 0] for x, _ in batches[2 * epoch : 2 * epoch + 2]])
        np.testing.assert_allclose(drawn, 10 * sampler.rows(epoch).reshape(-1), atol=0.2)
    for x, y in batches:
        np.testing.assert_allclose(x[:4, 0], x[4:, 0], atol=0.2)  # the same tiles, in another view
        np.testing.assert_array_equal(y, archive.labels[np.round(x[:, 0] / 10).astype(int)])
    later = feature_dataset(of(archive, tmp_path), archive.labels, sampler, seed=0, epochs=2, initial_epoch=1, views=2)
    for (x, y), (again, labels) in zip(batches[2:], later.dataset, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, labels)


def test_parts_put_together_are_the_batches(archive, tmp_path):
    sampler = make_sampler("weighted", archive.labels, 4, seed=0)
    features = of(archive, tmp_path)
    for views, dropout in ((1, 0.5), (2, 0.0), (2, 0.5)):
        asked = {"seed": 0, "epochs": 2, "views": views, "dropout": dropout}
        whole, *parts = (
            feature_dataset(features, archive.labels, sampler, **asked, parts=each).dataset
            for each in (WHOLE, Parts(range(1), 2), Parts(range(1, 2), 2))
        )
        for batch, *halves in zip(whole, *parts, strict=True):
            for expected, *rows in zip(batch, *halves, strict=True):
                np.testing.assert_array_equal(np.concatenate(rows), expected)


def test_dropout_leaves_out_other_features_of_each_draw_and_keeps_their_mean():
    width, labels = 400, np.eye(2, dtype=np.uint8)[np.arange(20) % 2]
    sampler = make_sampler("weighted", labels, 16, seed=0)
    features = FeatureViews.of(np.full((20, width), 2, np.float16))
    asked = {"seed": 0, "epochs": 1, "views": 2, "dropout": 0.25}
    first, again = (next(iter(feature_dataset(features, labels, sampler, **asked).dataset))[0] for _ in range(2))
    found = np.array(first)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_allclose(np.unique(found), [0, 2 / 0.75], rtol=1e-6)
    assert (found == 0).mean() == pytest.approx(0.25, abs=0.02)  # five deviations
    with pytest.raises(ValueError, match=r"got one view of each and dropout=0\. Set dropout=0\.5"):
        feature_dataset(features, labels, sampler, **asked | {"dropout": 0.0})
    agree = (found[:, None] == found[None]).mean(-1)[~np.eye(32, dtype=bool)]
    assert abs(agree - (0.75**2 + 0.25**2)).max() < 0.13  # no two rows alike beyond chance
