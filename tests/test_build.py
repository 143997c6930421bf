"""Every loss by its name in the settings: it trains, and the encoder can be told from what it was trained with."""

import re

import keras
import numpy as np
import pytest

from macl_tf.labels import LabelStatistics
from macl_tf.models.descriptors import descriptor_model
from macl_tf.training.build import _WITH_MARGIN, _WITH_TEMPERATURE, _WITHOUT, follows_schedule, make_loss, trained_model
from macl_tf.training.settings import LOSSES, Settings
from tests.conftest import ROOT

ROWS, LABELS = 32, 5


def data():
    rng = np.random.default_rng(0)
    labels = (rng.random((ROWS, LABELS)) < 0.35).astype("float32")
    images = labels @ rng.normal(size=(LABELS, 12)) + 0.3 * rng.normal(size=(ROWS, 12))
    return images.astype("float32"), labels


def small_encoder():
    keras.utils.set_random_seed(1)
    pixels = keras.Input((12,), name="pixels")
    features = keras.layers.Dense(16, activation="relu", name="features")(pixels)
    embedding = keras.layers.UnitNormalization(name="embedding")(keras.layers.Dense(8)(features))
    return keras.Model(pixels, embedding, name="encoder")


def test_every_name_has_one_loss():
    names = ["macl", "wmacl", *_WITH_TEMPERATURE, *_WITH_MARGIN, *_WITHOUT]
    assert sorted(names) == sorted(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_when_it_is_trained(name):
    settings = Settings(loss=name, views=2 if name == "infonce" else 1, batch_size=ROWS)
    images, labels = data()
    encoder = small_encoder()
    model = trained_model(encoder, settings, LABELS)
    loss = make_loss(settings, LabelStatistics.from_labels(labels))
    model.compile(keras.optimizers.Adam(0.01), loss=loss)
    if name == "infonce":  # rows b and b + B / 2 are views of one image
        images = np.concatenate([images[: ROWS // 2], images[: ROWS // 2] + 0.1])
    history = model.fit(images, labels, batch_size=ROWS, epochs=12, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]
    alone = descriptor_model(model)
    assert alone.output_shape == (None, 8)
    np.testing.assert_allclose(alone.predict(images, verbose=0), encoder.predict(images, verbose=0), atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_the_same_step_by_microbatches(name):
    images, labels = data()
    start, weights = None, []
    for microbatch in (0, 8):
        settings = Settings(loss=name, views=2, batch_size=ROWS // 2, microbatch=microbatch)
        keras.utils.set_random_seed(2)
        model = trained_model(small_encoder(), settings, LABELS)
        start = [variable.numpy() for variable in model.variables]
        model.compile(keras.optimizers.SGD(0.1), loss=make_loss(settings, LabelStatistics.from_labels(labels)))
        model.train_on_batch(images, np.tile(labels[: ROWS // 2], (2, 1)))
        weights.append([variable.numpy() for variable in model.variables])
    moved = max(np.abs(after - before).max() for before, after in zip(start, weights[0], strict=True))
    assert moved > 1e-4
    for whole, parts in zip(*weights, strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-4 * moved, rtol=0)


def test_the_documentation_has_one_row_for_each():
    text = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| `(\w+)", text, re.MULTILINE))
    assert sorted(rows) == sorted(LOSSES)
    statistics = LabelStatistics.from_labels(data()[1])
    for name, kind in rows.items():
        assert type(make_loss(Settings(loss=name, views=2), statistics)).__name__ == kind


def test_settings_reach_the_loss():
    statistics = LabelStatistics.from_labels(data()[1])
    for name in _WITH_TEMPERATURE:
        settings = Settings(loss=name, temperature=0.2, views=2)
        assert float(make_loss(settings, statistics).temperature) == pytest.approx(0.2) and follows_schedule(settings)
    for name in _WITH_MARGIN:
        assert make_loss(Settings(loss=name, margin=0.7), statistics).margin == 0.7
        assert make_loss(Settings(loss=name), statistics).margin == _WITH_MARGIN[name]().margin > 0
    assert float(make_loss(Settings(loss="n-pairs", temperature=0.2), statistics).temperature) == 1
    assert not follows_schedule(Settings(loss="n-pairs"))
    assert make_loss(Settings(loss="wmacl"), statistics).weighted
    assert not make_loss(Settings(), statistics).weighted


def test_what_does_not_suit_the_loss_is_said():
    with pytest.raises(ValueError, match="--set views=2"):
        make_loss(Settings(loss="infonce"), LabelStatistics.from_labels(data()[1]))
    with pytest.raises(ValueError, match="microbatch must divide the 128 rows of a batch, got 100"):
        trained_model(small_encoder(), Settings(microbatch=100), LABELS)
    with pytest.raises(ValueError, match="loss must be one of"):
        Settings(loss="supcon")
