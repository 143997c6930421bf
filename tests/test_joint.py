"""Classification beside a loss over embeddings: two outputs, two losses, and what retrieval can compare."""

import keras
import numpy as np
import pytest

import macl_tf
from macl_tf.labels import LabelStatistics
from macl_tf.losses import MACL, ProxyAnchor
from macl_tf.models.cached_gradients import CachedGradients
from macl_tf.models.descriptors import descriptor_model, descriptors_of
from macl_tf.models.encoders import build_encoder, classified
from macl_tf.training.build import make_loss, objective, targets, trained_model
from macl_tf.training.settings import Settings, load_settings
from tests.loss_checks import drawn
from tests.oracles import contrastive
from tests.runs import one_layer

ROWS, LABELS, WEIGHT = 24, 7, 20.0


def small_encoder():
    keras.utils.set_random_seed(1)
    given = keras.Input((6,), name="pixels")
    features = keras.layers.Dense(16, activation="tanh", name="features")(given)
    return keras.Model(given, keras.layers.UnitNormalization(name="embedding")(keras.layers.Dense(8)(features)))


def data():
    return np.random.default_rng(2).random((ROWS, 6)).astype("float32"), drawn()[0]


def cross_entropy(y, x):
    """Float64, by the definition."""
    p = 1 / (1 + np.exp(-x.astype("float64")))
    return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))


def compiled(settings, microbatch=0):
    model = trained_model(small_encoder(), settings, LABELS)
    model = CachedGradients(model, microbatch) if microbatch else model
    model.compile(keras.optimizers.SGD(0.5), **objective(settings, LabelStatistics.from_labels(drawn()[0])))
    return model


def test_the_objective_is_the_sum_written_out():
    x, y = data()
    model = compiled(Settings(loss="macl", classification_weight=WEIGHT, batch_size=ROWS))
    z, logits = model.predict(x, verbose=0)
    stats = LabelStatistics.from_labels(y)
    expected = contrastive.macl(y, z, stats.counts, stats.cooccurrence), cross_entropy(y, logits)
    history = model.fit(x, targets(y, Settings(classification_weight=1)), batch_size=ROWS, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected[0] + WEIGHT * expected[1], rel=1e-5)
    assert history["logits_loss"][0] == pytest.approx(expected[1], rel=1e-5)
    assert history["embedding_loss"][0] == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["supcon-any", "dcl", "proxy-anchor", "bce"])
def test_microbatches_take_the_same_step(loss):
    x, y = data()
    settings = Settings(loss=loss, classification_weight=0.0 if loss == "bce" else 2.0, batch_size=ROWS)
    results = []
    for size in (0, 4):
        model = compiled(settings, size)
        before = model.get_weights()
        value = model.fit(x, targets(y, settings), batch_size=ROWS, shuffle=False, verbose=0).history["loss"][0]
        results.append((value, [after - start for after, start in zip(model.get_weights(), before, strict=True)]))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    moved = max(np.abs(change).max() for change in results[0][1])
    assert moved > 1e-3
    for whole, parts in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5 * moved)


REPLICAS = """
import sys, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.test_joint import ROWS, Settings, compiled, data, targets
settings = Settings(loss="supcon-any", classification_weight=5.0, batch_size=ROWS)
x, y = data()

def trained(microbatch):
    model = compiled(settings, microbatch)
    before = model.get_weights()
    batches = tf.data.Dataset.from_tensor_slices((x, targets(y, settings))).batch(ROWS)
    loss = model.fit(batches, epochs=2, verbose=0).history["loss"]
    return loss, [after - start for after, start in zip(model.get_weights(), before)]

alone = trained(0)
for microbatch in (0, 4):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        together = trained(microbatch)
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-5)
    assert len(alone[1]) == 6 and alone[0][1] < alone[0][0]
    for one, two in zip(alone[1], together[1]):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())
    print("same")
"""


@pytest.mark.slow
def test_two_replicas_take_the_same_steps(run_python):
    assert run_python(REPLICAS, warm=True).stdout.count("same") == 2


def test_what_no_loss_is_asked_for_does_not_move_and_raises_no_warning():
    x, y = data()
    settings = Settings(loss="bce", batch_size=ROWS)
    model = compiled(settings)
    before = {weight.path: np.array(weight) for weight in model.trainable_weights}
    history = model.fit(x, targets(y, settings), batch_size=ROWS, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    moved = {weight.path for weight in model.trainable_weights if np.any(np.array(weight) != before[weight.path])}
    assert moved == {path for path in before if path.startswith(("features", "logits"))} and len(moved) == 4


def test_its_temperature_can_be_scheduled():
    x, y = data()
    model = compiled(Settings(loss="supcon-any", classification_weight=7.0, batch_size=ROWS))
    schedule = macl_tf.TemperatureSchedule(lambda step: 0.3)
    history = model.fit(x, [y, y], batch_size=ROWS, verbose=0, callbacks=[schedule]).history
    assert float(model.loss[0].temperature) == pytest.approx(0.3) and history["temperature"] == [pytest.approx(0.3)]
    for losses in ([ProxyAnchor(), "binary_crossentropy"], [MACL(), MACL()]):
        model.compile("sgd", loss=losses)
        with pytest.raises(ValueError, match="needs one loss with a `temperature` variable"):
            model.fit(x, [y, y], verbose=0, callbacks=[macl_tf.TemperatureSchedule(lambda step: 0.3)])


@pytest.mark.slow
def test_a_compiled_model_of_two_outputs_is_kept(tmp_path):
    x, y = data()
    model = compiled(Settings(loss="macl", classification_weight=7.0, batch_size=ROWS), microbatch=8)
    model.fit(x, [y, y], batch_size=ROWS, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is CachedGradients
    expected = model.evaluate(x, [y, y], verbose=0)
    np.testing.assert_allclose(again.evaluate(x, [y, y], verbose=0), expected, rtol=1e-5)
    assert again.loss[0].get_config() == model.loss[0].get_config()


@pytest.mark.slow
def test_a_classified_encoder_offers_six_descriptors(tmp_path):
    keras.utils.set_random_seed(0)
    encoder = build_encoder(32, embedding_dim=8, backbone=one_layer)
    model = classified(encoder, 5)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("uint8")
    embedding, logits = model.predict(pixels, verbose=0)
    beside = ("projection+probabilities", "backbone+probabilities")
    assert (embedding.shape, logits.shape) == ((3, 8), (3, 5))
    assert descriptors_of(model) == ("projection", "backbone", "robust", "probabilities", *beside)
    np.testing.assert_allclose(descriptor_model(model).predict(pixels, verbose=0), embedding, rtol=1e-5, atol=1e-6)
    probabilities = 1 / (1 + np.exp(-logits))
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
    assert not Settings().classifies and Settings().descriptors == ("projection", "backbone", "robust")
    joint = Settings(loss="supcon-any", classification_weight=3.0)
    assert joint.classifies and objective(joint, statistics)["loss_weights"] == [1, 3]
    alone = load_settings(None, ["loss=bce"])
    assert alone.descriptor == "backbone+probabilities" and alone.descriptors[3:5] == (
        "probabilities",
        "projection+probabilities",
    )
    assert isinstance(make_loss(alone, statistics), keras.losses.BinaryCrossentropy)
    with pytest.raises(ValueError, match="must be one of projection, backbone, robust with head=projection"):
        Settings(descriptor="probabilities")
