"""Classification beside a loss over embeddings: values, gradient, replicas, and what retrieval can compare."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import macl_tf
from macl_tf.labels import LabelStatistics
from macl_tf.losses import DCL, MACL, Joint, LabelCrossEntropy, ProxyAnchor, SupCon
from macl_tf.models.descriptors import descriptor_model, descriptors_of
from macl_tf.models.encoders import build_encoder, classified
from macl_tf.training.build import make_loss
from macl_tf.training.settings import Settings, load_settings
from tests.loss_checks import assert_same, drawn, finite_difference, over_replicas, value_and_gradient

WEIGHT = 20.0


def outputs(seed=0, dtype="float32"):
    """Labels, and embeddings with logits behind them."""
    y, z = drawn(seed=seed, dtype=dtype)
    x = np.random.default_rng(seed).normal(0, 3, y.shape).astype(dtype)
    return y, np.concatenate([z, x], axis=1)


def cross_entropy(y, x):
    """Float64, by the definition."""
    p = 1 / (1 + np.exp(-x.astype("float64")))
    return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p), axis=1)


def test_cross_entropy_is_the_definition_and_keras():
    y, both = outputs()
    x = both[:, -7:]
    np.testing.assert_allclose(LabelCrossEntropy().call(y, x).numpy(), cross_entropy(y, x), rtol=1e-5)
    assert float(LabelCrossEntropy()(y, both)) == pytest.approx(float(LabelCrossEntropy()(y, x)), rel=1e-6)
    keras_value = keras.losses.BinaryCrossentropy(from_logits=True)(y, x)
    assert float(LabelCrossEntropy()(y, x)) == pytest.approx(float(keras_value), rel=1e-5)


def test_no_logit_is_too_large():
    y, x = np.array([[1, 0]], "float32"), np.array([[-1e4, 1e4]], "float32")
    value, gradient = value_and_gradient(LabelCrossEntropy(), y, x)
    assert value == 1e4
    np.testing.assert_allclose(gradient, [[-0.5, 0.5]])
    assert float(LabelCrossEntropy()(y, -x)) == 0


@pytest.mark.parametrize("loss", [MACL, SupCon, DCL], ids=lambda kind: kind.__name__)
def test_the_parts_add_up(loss):
    y, both = outputs()
    z, x = both[:, :-7], both[:, -7:]
    value, gradient = value_and_gradient(Joint(loss(), WEIGHT), y, both)
    of_z, of_x = value_and_gradient(loss(), y, z), value_and_gradient(LabelCrossEntropy(), y, x)
    expected = np.concatenate([of_z[1], WEIGHT * of_x[1]], axis=1)
    assert_same((value, gradient), (of_z[0] + WEIGHT * of_x[0], expected))
    assert_same(value_and_gradient(Joint(loss(), 0.0), y, both)[:1], of_z[:1])


def test_gradient_is_the_finite_difference():
    y, both = outputs(dtype="float64")
    y, both = y[:9], both[:9]
    loss = Joint(SupCon(temperature=0.5, dtype="float64"), WEIGHT, dtype="float64")
    numeric = finite_difference(lambda moved: float(loss(y, tf.constant(moved))), both)
    np.testing.assert_allclose(value_and_gradient(loss, y, both)[1], numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sizes", [[12, 12], [6, 1, 9, 8]], ids=str)
def test_rows_of_replicas_add_up_to_the_whole_batch(sizes):
    y, both = outputs()
    for loss in (Joint(MACL(), WEIGHT), LabelCrossEntropy()):
        assert_same(over_replicas(loss, y, both, sizes), value_and_gradient(loss, y, both))


def test_it_is_kept_with_its_loss_and_its_temperature_can_be_scheduled():
    statistics = LabelStatistics.from_labels(drawn()[0])
    loss = Joint(MACL(statistics, temperature=0.2, rarity_scale=0.1), 7.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()
    assert again.loss.rarity_scale == 0.1 and again.classification_weight == 7
    assert loss.temperature is loss.loss.temperature
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(15)])
    model.compile("sgd", loss=loss)
    y, x = drawn()[0], np.zeros((24, 3), "float32")
    model.fit(x, y, batch_size=24, verbose=0, callbacks=[macl_tf.TemperatureSchedule(lambda step: 0.3)])
    assert float(loss.temperature) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="needs a loss with a `temperature` variable"):
        model.compile("sgd", loss=Joint(ProxyAnchor()))
        model.fit(x, y, verbose=0, callbacks=[macl_tf.TemperatureSchedule(lambda step: 0.3)])


def test_bad_arguments_are_refused():
    y, both = outputs()
    with pytest.raises(ValueError, match="classification_weight must be >= 0, got -1"):
        Joint(MACL(), -1)
    with pytest.raises(ValueError, match=r"loss must be a loss of macl_tf\.losses, got 'mse'"):
        Joint("mse")
    with pytest.raises(ValueError, match="must hold the embedding before the 7 logits, got 7 columns"):
        Joint(MACL())(y, both[:, -7:])
    with pytest.raises(ValueError, match="must end in 7 logits, got 5 columns"):
        LabelCrossEntropy()(y, both[:, :5])
    few = LabelStatistics.from_labels(y[:, :3])
    with pytest.raises(ValueError, match="3 columns of label_statistics, got 7"):
        Joint(MACL(few))(y, both)


def test_a_classified_encoder_offers_five_descriptors(tmp_path):
    keras.utils.set_random_seed(0)
    encoder = build_encoder(32, embedding_dim=8)
    model = classified(encoder, 5)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("uint8")
    output = model.predict(pixels, verbose=0)
    beside = ("projection+probabilities", "backbone+probabilities")
    assert output.shape == (3, 13) and descriptors_of(model) == ("projection", "backbone", "probabilities", *beside)
    np.testing.assert_allclose(descriptor_model(model).predict(pixels, verbose=0), output[:, :8], rtol=1e-5, atol=1e-6)
    probabilities = 1 / (1 + np.exp(-output[:, 8:]))
    expected = probabilities / np.linalg.norm(probabilities, axis=1, keepdims=True)
    actual = descriptor_model(model, "probabilities").predict(pixels, verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    for name in ("projection", "backbone"):
        first = descriptor_model(model, name).predict(pixels, verbose=0)
        both = descriptor_model(model, f"{name}+probabilities").predict(pixels, verbose=0)
        similar = (first @ first.T + expected @ expected.T / 4) / 1.25
        np.testing.assert_allclose(both @ both.T, similar, rtol=1e-5, atol=1e-6)
    # Read in a new process, where names that Keras makes up begin anew, every descriptor is a model yet.
    model.save(tmp_path / "encoder.keras")
    keras.utils.clear_session()
    again = keras.saving.load_model(tmp_path / "encoder.keras", compile=False)
    for name in descriptors_of(again):
        own = descriptor_model(again, name)
        assert len({layer.name for layer in own.layers}) == len(own.layers), name
    np.testing.assert_allclose(own.predict(pixels, verbose=0), both, rtol=1e-5, atol=1e-6)
    for name in ("projection", "backbone"):
        own = descriptor_model(encoder, name).predict(pixels, verbose=0)
        np.testing.assert_allclose(descriptor_model(model, name).predict(pixels, verbose=0), own, rtol=1e-5, atol=1e-6)


def test_settings_say_what_is_trained_and_compared():
    statistics = LabelStatistics.from_labels(drawn()[0])
    assert not Settings().classifies and Settings().descriptors == ("projection", "backbone")
    joint = Settings(loss="supcon-any", classification_weight=3.0)
    assert joint.classifies and make_loss(joint, statistics).classification_weight == 3
    alone = load_settings(None, ["loss=bce"])
    assert alone.descriptor == "backbone" and alone.descriptors[2:4] == ("probabilities", "projection+probabilities")
    assert isinstance(make_loss(alone, statistics), LabelCrossEntropy)
    with pytest.raises(ValueError, match="descriptor must be projection or backbone with head=projection"):
        Settings(descriptor="probabilities")
