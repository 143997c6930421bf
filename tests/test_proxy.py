import keras
import numpy as np
import pytest
import tensorflow as tf

from macl_tf.losses.proxy import ProxyAnchor, ProxyHead
from tests.loss_checks import (
    RTOL,
    assert_same,
    drawn,
    finite_difference,
    largest_tensor,
    one_label,
    over_replicas,
    value_and_gradient,
)
from tests.oracles import margins as oracle

SETTINGS = [{}, {"scale": 4.0, "margin": 0.3}, {"margin": 0.0}]
every_setting = pytest.mark.parametrize("arguments", SETTINGS, ids=str)


def cosines(rows=24, labels=7, seed=4, dtype="float32"):
    return np.random.default_rng(seed).uniform(-1, 1, (rows, labels)).astype(dtype)


@every_setting
@pytest.mark.parametrize("labels", ["many", "one"])
def test_value_is_the_oracles(arguments, labels):
    y = drawn()[0] if labels == "many" else one_label(labels=7)
    s = cosines()
    np.testing.assert_allclose(float(ProxyAnchor(**arguments)(y, s)), oracle.proxy_anchor(y, s, **arguments), rtol=RTOL)


@every_setting
def test_gradient_is_the_oracles_finite_difference(arguments):
    y, s = drawn(rows=7, labels=4, density=0.5, dtype="float64")[0], cosines(7, 4, dtype="float64")
    _, gradient = value_and_gradient(ProxyAnchor(**arguments, dtype="float64"), y, s)
    numeric = finite_difference(lambda moved: oracle.proxy_anchor(y, moved, **arguments), s)
    np.testing.assert_allclose(gradient, numeric, rtol=RTOL, atol=1e-6 * np.abs(numeric).max())


@pytest.mark.parametrize("y", [np.zeros((5, 3)), np.ones((5, 3)), np.ones((1, 3))], ids=lambda y: f"{y.tolist()}")
def test_batches_without_holders_or_others_stay_finite(y):
    s = cosines(len(y), 3)
    value, gradient = value_and_gradient(ProxyAnchor(), y.astype("float32"), s)
    np.testing.assert_allclose(value, oracle.proxy_anchor(y, s), rtol=RTOL)
    assert np.isfinite(gradient).all()


def test_an_empty_batch_gives_no_values():
    assert ProxyAnchor().call(np.zeros((0, 3), "float32"), np.zeros((0, 3), "float32")).shape == (0,)


def test_nothing_larger_than_the_cosines_is_held():
    assert largest_tensor(ProxyAnchor(), rows=64, labels=9, width=9) <= 64 * 9


def test_rows_of_replicas_add_up_to_the_whole_batch():
    y, s = drawn()[0], cosines()
    assert_same(over_replicas(ProxyAnchor(), y, s, [6, 1, 9, 8]), value_and_gradient(ProxyAnchor(), y, s))


def test_attraction_is_shared_among_the_labels_that_occur():
    """Two labels of three occur; by hand, one image each."""
    y, s = np.array([[1, 0, 0], [0, 1, 0]], "float32"), np.zeros((2, 3), "float32")
    one = np.log1p(np.exp(0.2))  # scale 2, margin 0.1: attraction and repulsion of a cosine of 0
    expected = 2 * one / 2 + (2 * one + np.log1p(2 * np.exp(0.2))) / 3
    assert float(ProxyAnchor(scale=2.0, margin=0.1)(y, s)) == pytest.approx(expected, rel=1e-6)


def test_the_head_gives_cosines_to_its_proxies():
    head = ProxyHead(3)
    z = drawn(rows=5, width=4)[1] * np.arange(1, 6, dtype="float32")[:, None]
    actual = head(z)
    np.testing.assert_allclose(actual, oracle.cosines(z, np.array(head.proxies)), rtol=RTOL, atol=1e-6)
    assert head.compute_output_shape((None, 4)) == (None, 3) and len(head.trainable_weights) == 1
    assert np.isfinite(head(np.zeros((2, 4), "float32"))).all()


def test_a_multiplier_is_a_higher_learning_rate_under_adam():
    """Proxies k times shorter turn as proxies trained with k times the rate do."""
    y, z = one_label(rows=12, labels=3), drawn(rows=12, width=4)[1]
    cosines_after = []
    for multiplier, rate in ((1, 0.05), (50, 0.001)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), ProxyHead(3, learning_rate_multiplier=multiplier)])
        # An epsilon far below the gradients, which are 50 times larger for shorter proxies.
        model.compile(keras.optimizers.Adam(rate, epsilon=1e-12), loss=ProxyAnchor(scale=4), jit_compile=False)
        before = model.predict(z, verbose=0)
        model.fit(z, y, batch_size=12, epochs=5, shuffle=False, verbose=0)
        cosines_after.append(model.predict(z, verbose=0))
    assert np.abs(cosines_after[0] - before).max() > 0.05
    np.testing.assert_allclose(cosines_after[1], cosines_after[0], rtol=1e-3, atol=1e-4)  # five float32 Adam steps


def encoder_and_head(policy="float32"):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(8, dtype=policy)]
    encoder = keras.Sequential([*layers, keras.layers.UnitNormalization(dtype="float32")])
    return encoder, keras.Sequential([encoder, ProxyHead(5)])


@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_fit_trains_encoder_and_proxies_and_a_saved_model_keeps_them(policy, tmp_path):
    y, images = one_label(), np.random.default_rng(2).random((24, 4, 4, 3)).astype("float32")
    encoder, model = encoder_and_head(policy)
    model.compile(keras.optimizers.Adam(0.01), loss=ProxyAnchor(margin=0.2), jit_compile=False)
    before = [np.array(w) for w in model.trainable_weights]
    assert len(before) == 3  # kernel, bias, proxies
    history = model.fit(images, y, batch_size=24, epochs=12, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.abs(np.array(weight) - old).max() > 1e-4
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config() and loaded.loss.margin == 0.2
    np.testing.assert_allclose(loaded.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-6)
    assert encoder.predict(images, verbose=0).shape == (24, 8)


STRATEGY = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from macl_tf.losses.proxy import ProxyAnchor, ProxyHead

rng = np.random.default_rng(0)
x, y = rng.normal(size=(16, 6)).astype("float32"), (rng.random((16, 5)) < 0.35).astype("float32")

def trained():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), ProxyHead(5, learning_rate_multiplier=1)])
    model.compile(keras.optimizers.SGD(0.01), loss=ProxyAnchor(), jit_compile=False)
    before = model.get_weights()
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=2, verbose=0)
    return [after - start for after, start in zip(model.get_weights(), before)]

alone = trained()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    together = trained()
assert len(alone) == 3
for one, two in zip(alone, together):
    assert np.abs(one).max() > 1e-4
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=2e-5 * np.abs(one).max())
print("same")
"""


@pytest.mark.slow
def test_proxies_train_alike_on_one_device_and_two(run_python):
    assert "same" in run_python(STRATEGY, warm=True).stdout


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProxyAnchor(scale=0), "scale must be > 0, got 0"),
        (lambda: ProxyAnchor(margin=-1), "margin must be >= 0, got -1"),
        (lambda: ProxyHead(0), "num_labels must be an integer >= 1, got 0"),
        (lambda: ProxyHead(3, learning_rate_multiplier=0), "learning_rate_multiplier must be > 0, got 0"),
        (lambda: ProxyAnchor()(*drawn()), r"labels and cosines must both be \(B, C\), got \(24, 7\) and \(24, 8\)"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gradient_of_encoder_and_proxies_is_the_oracles():
    y, z = drawn(rows=6, labels=4, width=3, density=0.5, dtype="float64")
    head = ProxyHead(4, dtype="float64", learning_rate_multiplier=1)
    head.build(z.shape)
    start = np.array(head.proxies)
    with tf.GradientTape() as tape:
        value = ProxyAnchor(dtype="float64")(y, head(z))
    gradient = tape.gradient(value, head.proxies.value).numpy()
    numeric = finite_difference(lambda proxies: oracle.proxy_anchor(y, oracle.cosines(z, proxies)), start)
    np.testing.assert_allclose(gradient, numeric, rtol=RTOL, atol=1e-6 * np.abs(numeric).max())
