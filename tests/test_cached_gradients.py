"""The gradient of the whole batch, at the memory of a microbatch."""

import keras
import numpy as np
import pytest

import macl_tf
from macl_tf.models.cached_gradients import CachedGradients

ROWS, SIZE, LABELS = 24, 6, 5


def batch(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, SIZE, SIZE, 2)).astype("float32"), (rng.random((rows, LABELS)) < 0.4).astype(
        "float32"
    )


def encoder(norm=keras.layers.LayerNormalization, dropout=0.0, last=None):
    keras.utils.set_random_seed(3)
    pixels = keras.Input((SIZE, SIZE, 2))
    x = keras.layers.Conv2D(4, 3, name="conv")(pixels)
    x = keras.layers.ReLU()(norm()(x))
    x = keras.layers.Dropout(dropout, seed=5)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, keras.layers.UnitNormalization(dtype=last)(keras.layers.Dense(3, name="out")(x)))


def trained(model, steps=2, rate=0.5):
    """Plain gradient descent: weights after it tell the gradients."""
    model.compile(keras.optimizers.SGD(rate), loss=macl_tf.MACL())
    losses = [float(model.train_on_batch(*batch(step))) for step in range(steps)]
    return losses, [keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable)) for variable in model.variables]


@pytest.mark.parametrize("microbatch", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_weights_after_steps_are_those_of_the_whole_batch(microbatch):
    plain_losses, plain = trained(encoder())
    start = [keras.ops.convert_to_numpy(variable) for variable in encoder().variables]
    losses, weights = trained(CachedGradients(encoder(), microbatch))
    assert losses == pytest.approx(plain_losses, rel=1e-5)
    for before, a, b in zip(start, plain, weights, strict=True):
        np.testing.assert_allclose(b - before, a - before, rtol=1e-4, atol=1e-6)
    assert max(np.abs(a - before).max() for before, a in zip(start, plain, strict=True)) > 1e-2


def test_random_layers_draw_alike_in_both_passes():
    # With the one microbatch that is the batch, dropout draws as in a plain step.
    plain_losses, plain = trained(encoder(dropout=0.4))
    losses, weights = trained(CachedGradients(encoder(dropout=0.4), ROWS))
    assert losses == pytest.approx(plain_losses, rel=1e-5)
    for a, b in zip(plain, weights, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


def test_batch_normalisation_sees_microbatches_and_its_averages_each_once():
    model = CachedGradients(encoder(keras.layers.BatchNormalization), 8)
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    conv = keras.Model(model.inputs, model.get_layer("conv").output)
    images, labels = batch()
    features = conv.predict(images, verbose=0)
    expected = np.zeros(4)
    for part in range(3):
        mean = features[8 * part : 8 * part + 8].mean(axis=(0, 1, 2), dtype=np.float64)
        expected = norm.momentum * expected + (1 - norm.momentum) * mean
    model.compile(keras.optimizers.SGD(0.1), loss=macl_tf.MACL())
    model.train_on_batch(images, labels)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(norm.moving_mean), expected, rtol=1e-5)


@pytest.mark.slow
def test_fit_learns_and_shares_the_layers_of_the_encoder():
    plain = encoder()
    before = keras.ops.convert_to_numpy(plain.get_layer("out").kernel)
    model = CachedGradients(plain, 4)
    model.compile(keras.optimizers.Adam(0.01), loss=macl_tf.MACL())
    history = model.fit(*batch(rows=48), batch_size=24, epochs=12, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.05
    assert np.abs(keras.ops.convert_to_numpy(plain.get_layer("out").kernel) - before).max() > 1e-3
    images, _ = batch()
    np.testing.assert_allclose(plain.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)


def test_a_microbatch_must_divide_the_batch():
    with pytest.raises(ValueError, match="microbatch must be >= 1, got 0"):
        CachedGradients(encoder(), 0)
    model = CachedGradients(encoder(), 7)
    model.compile("sgd", loss=macl_tf.MACL())
    with pytest.raises(ValueError, match="must divide the rows of a batch on each replica, got 7 and 24"):
        model.train_on_batch(*batch())


def test_the_scale_of_half_precision_is_taken_out_again():
    """The optimizer divides gradients by the scale that the loss must have been multiplied by."""
    weights = []
    for microbatch in (0, 6):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = encoder(last="float32")  # in float16 its epsilon overflows
        finally:
            keras.config.set_dtype_policy("float32")
        start = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        model = CachedGradients(model, microbatch) if microbatch else model
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=1024.0)
        model.compile(optimizer, loss=macl_tf.MACL(), jit_compile=False)
        model.train_on_batch(*batch())
        weights.append([keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables])
    moved = max(np.abs(after - before).max() for before, after in zip(start, weights[0], strict=True))
    assert moved > 1e-2
    for whole, parts in zip(*weights, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=0, atol=2e-2 * moved)


# In float64: what mines its pairs or divides by distances magnifies the rounding of float32 beyond any comparison.
STEPS = """
import sys
import keras
import numpy as np
import tensorflow as tf
replicas, folder, names = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
keras.config.set_floatx("float64")
from tests.test_cached_gradients import ROWS, batch, encoder
from macl_tf.models.cached_gradients import CachedGradients
import macl_tf
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
data = tf.data.Dataset.from_tensor_slices(batch(0)).batch(ROWS)
for name in names:
    with strategy.scope():
        model = CachedGradients(encoder(), 4) if replicas > 1 else encoder()
        model.compile(keras.optimizers.SGD(0.5), loss=getattr(macl_tf.losses, name)(dtype="float64"))
    loss = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    values = [keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(v)) for v in model.trainable_variables]
    np.savez(f"{folder}/{name}.npz", *values, loss=loss)
"""
# The kernel with anchors that weigh, pairs of both sides, groups. Of all losses it is tested in one process that the
# rows of replicas add up.
NAMES = ("MulSupCon", "LiftedStructure", "DCL")


@pytest.mark.slow
def test_two_replicas_by_microbatches_take_the_steps_of_one_device(tmp_path, run_python):
    for replicas in (1, 2):
        (tmp_path / str(replicas)).mkdir()
        run_python(STEPS, str(replicas), tmp_path / str(replicas), *NAMES, timeout=600, warm=True)
    for name in NAMES:
        with np.load(tmp_path / "1" / f"{name}.npz") as whole, np.load(tmp_path / "2" / f"{name}.npz") as parts:
            assert parts["loss"].tolist() == pytest.approx(whole["loss"].tolist(), rel=1e-9), name
            assert abs(whole["loss"][1] - whole["loss"][0]) > 1e-4, name  # the first step moved something
            for key in set(whole) - {"loss"}:
                assert whole[key].dtype == np.float64
                np.testing.assert_allclose(parts[key], whole[key], rtol=1e-7, atol=1e-9, err_msg=name)
