"""Every loss by its name in the settings: it trains, and the encoder can be told from what it was trained with."""

import keras
import numpy as np
import pytest

from macl_tf.labels import LabelStatistics
from macl_tf.losses.registry import LOSSES, OF_MACL
from macl_tf.models.descriptors import descriptor_model
from macl_tf.training import build
from macl_tf.training.build import (
    chosen_precision,
    follows_schedule,
    has_bfloat16,
    make_loss,
    objective,
    own_number,
    targets,
    trained_model,
)
from macl_tf.training.settings import Settings
from tests.loss_checks import eagerly

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


# Keras says so of eager steps alone, and of a model that is made of a list with one input.
one_input_in_a_list = pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning")


@pytest.mark.slow
@one_input_in_a_list
@pytest.mark.parametrize("name", LOSSES)
@eagerly()
def test_every_loss_falls_when_it_is_trained(name):
    settings = Settings(loss=name, views=2 if name == "info-nce" else 1, batch_size=ROWS)
    images, labels = data()
    encoder = small_encoder()
    model = trained_model(encoder, settings, LABELS)
    model.compile(keras.optimizers.Adam(0.01), **objective(settings, LabelStatistics.from_labels(labels)))
    if name == "info-nce":  # rows b and b + B / 2 are views of one image
        images = np.concatenate([images[: ROWS // 2], images[: ROWS // 2] + 0.1])
    history = []
    for _ in range(12):
        model.reset_metrics()
        history.append(model.train_on_batch(images, targets(labels, settings), return_dict=True)["loss"])
    assert np.isfinite(history).all() and history[-1] < history[0]
    alone = descriptor_model(model)
    assert alone.output_shape == (None, 8)
    np.testing.assert_allclose(alone.predict_on_batch(images), encoder.predict_on_batch(images), atol=1e-6)


@pytest.mark.slow
@one_input_in_a_list
@pytest.mark.parametrize("name", LOSSES)
@eagerly()
def test_every_loss_takes_the_same_step_by_microbatches(name):
    images, labels = data()
    start, weights = None, []
    for microbatch in (0, 8):
        settings = Settings(loss=name, views=2, batch_size=ROWS // 2, microbatch=microbatch)
        keras.utils.set_random_seed(2)
        model = trained_model(small_encoder(), settings, LABELS)
        start = [variable.numpy() for variable in model.variables]
        model.compile(keras.optimizers.SGD(0.1), **objective(settings, LabelStatistics.from_labels(labels)))
        model.train_on_batch(images, targets(np.tile(labels[: ROWS // 2], (2, 1)), settings))
        weights.append([variable.numpy() for variable in model.variables])
    moved = max(np.abs(after - before).max() for before, after in zip(start, weights[0], strict=True))
    assert moved > 1e-4
    for whole, parts in zip(*weights, strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-4 * moved, rtol=0)


def test_settings_reach_the_loss():
    statistics = LabelStatistics.from_labels(data()[1])
    given = {"temperature": 0.2, "margin": 0.7, **{name: 0.25 for name in OF_MACL}}
    for name, entry in LOSSES.items():
        loss = make_loss(Settings(loss=name, views=2, **given), statistics)
        for setting, value in given.items():
            if setting in entry.reads:
                assert float(getattr(loss, setting)) == pytest.approx(value)
            else:
                assert getattr(loss, setting, None) is None or float(getattr(loss, setting)) != pytest.approx(value)
        assert getattr(loss, "label_statistics", statistics) == statistics
        assert follows_schedule(Settings(loss=name)) == ("temperature" in entry.reads)
        if "margin" in entry.reads:
            assert make_loss(Settings(loss=name), statistics).margin == own_number(name)[1] > 0
        elif "temperature" not in entry.reads:
            assert own_number(name) is None
    assert make_loss(Settings(loss="wmacl"), statistics).weighted
    assert not make_loss(Settings(), statistics).weighted


def test_what_does_not_suit_the_loss_is_said():
    with pytest.raises(ValueError, match="--set views=2"):
        make_loss(Settings(loss="info-nce"), LabelStatistics.from_labels(data()[1]))
    with pytest.raises(ValueError, match="microbatch must divide the 128 rows of a batch, got 100"):
        trained_model(small_encoder(), Settings(microbatch=100), LABELS)
    with pytest.raises(ValueError, match="loss must be one of"):
        Settings(loss="supcon")


@pytest.mark.parametrize(
    ("changes", "bfloat16", "expected"),
    [
        ({"backbone": "resnet18", "weights": ""}, True, "mixed_bfloat16"),
        ({"backbone": "resnet18", "weights": ""}, False, "float32"),
        ({"backbone": "resnet18", "features": "v.npz"}, True, "float32"),  # a head
        ({"backbone": "efficientnet-lite0"}, True, "float32"),  # depthwise convolutions
        ({"backbone": "keras:MobileNetV2"}, True, "float32"),
        ({"backbone": "keras:VGG16", "head": "spoc", "descriptor": "spoc"}, True, "mixed_bfloat16"),
        ({"trainable": "head"}, True, "float32"),
        ({"precision": "mixed_float16"}, False, "mixed_float16"),
        ({"precision": "float32"}, True, "float32"),
    ],
)
def test_precision_auto_takes_what_trains_faster_on_this_processor(changes, bfloat16, expected, monkeypatch):
    monkeypatch.setattr(build, "has_bfloat16", lambda: bfloat16)
    settings = Settings(**{"precision": "auto", "image_size": 64, **changes})
    assert chosen_precision(settings) == expected
    assert keras.config.dtype_policy().name == "float32"  # deciding changes nothing


def test_a_processor_with_bfloat16_is_told_by_its_flags(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert not has_bfloat16(cpuinfo)
    for flags, expected in (("avx2 avx512f", False), ("avx2 avx512_bf16 amx", True), ("amx_tile amx_bf16", True)):
        cpuinfo.write_text(f"processor : 0\nflags : fpu {flags}\n\nprocessor : 1\nflags : fpu {flags}\n")
        assert has_bfloat16(cpuinfo) is expected
