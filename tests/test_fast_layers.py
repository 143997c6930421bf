import keras
import numpy as np
import pytest
import tensorflow as tf

from macl_tf.models.cached_gradients import CachedGradients
from macl_tf.models.encoders import build_encoder, spoc_encoder
from macl_tf.models.fast_layers import BatchNormalization, Conv2D, fast, plain
from tests.runs import residual


def maps(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.5, 2.0, shape).astype("float32")


def training_step(layer, x):
    """Output, gradients of inputs and weights of a random function of the output, and the weights after."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        value = tf.reduce_sum(tf.cast(y, "float32") * maps(*y.shape, seed=1))
    wanted = [x, *(weight.value for weight in layer.trainable_weights)]
    return [y, *tape.gradient(value, wanted), *(weight.value for weight in layer.non_trainable_weights)]


def assert_alike(ours, theirs, rtol=2e-5):
    for one, other in zip(ours, theirs, strict=True):
        scale = float(np.abs(np.asarray(other, np.float32)).max())
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), atol=rtol * scale)


@pytest.mark.parametrize("shape", [(6, 5, 4, 8), (1, 1, 1, 3), (2, 1, 1, 3), (7, 12)])
def test_batch_normalisation_is_that_of_keras(shape):
    ours, theirs = (
        BatchNormalization(momentum=0.9, epsilon=1e-5),
        keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
    )
    for layer in (ours, theirs):
        layer.build(shape)
        layer.set_weights([np.linspace(0.5, 2, shape[-1]) + offset for offset in range(4)])
    x = maps(*shape)
    if np.prod(shape[:-1]) == 1:  # no variance: what is left is the offset
        np.testing.assert_array_equal(ours(x, training=True), theirs(x, training=True))
        return
    assert_alike(training_step(ours, x), training_step(theirs, x))
    assert_alike([ours(x)], [theirs(x)])


def test_batch_normalisation_in_half_precision_is_that_of_keras():
    x = tf.cast(maps(16, 4, 4, 8), "bfloat16")
    layers = [kind(dtype="mixed_bfloat16") for kind in (BatchNormalization, keras.layers.BatchNormalization)]
    (ours, *_), (theirs, *_) = (training_step(layer, x) for layer in layers)
    assert ours.dtype == theirs.dtype == tf.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float32), np.asarray(theirs, np.float32), atol=2**-6)
    assert layers[0].moving_variance.dtype == "float32"


def test_batch_normalisation_that_is_frozen_stays():
    layer = BatchNormalization()
    layer.build((None, 4, 4, 2))
    layer.trainable = False
    before = layer.get_weights()
    x = maps(3, 4, 4, 2)
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1.001), rtol=1e-5)
    for one, other in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_gradient_of_a_part_of_a_kernel_is_as_large_as_the_kernel():
    """Of kernel[y, x] it is, zeros but for that part: sixteen a layer took a third of a training step."""
    layer = Conv2D(filters=5, kernel_size=3, padding="same", use_bias=False)
    layer.build((None, 2, 2, 4))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(layer(x, training=True))
        return tape.gradient(value, layer.kernel.value)

    operations = [op.type for op in gradient.get_concrete_function(tf.zeros((3, 2, 2, 4))).graph.get_operations()]
    assert "MatMul" in operations and "StridedSliceGrad" not in operations


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (1, 4), (3, 2), (8, 8)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_that_of_keras(size, stride):
    arguments = {"filters": 5, "kernel_size": 3, "strides": stride, "padding": "same", "use_bias": False}
    ours, theirs = Conv2D(**arguments), keras.layers.Conv2D(**arguments)
    for layer in (ours, theirs):
        layer.build((None, *size, 4))
    theirs.set_weights(ours.get_weights())
    x = maps(3, *size, 4)
    assert_alike(training_step(ours, x), training_step(theirs, x))
    assert_alike([ours(x)], [theirs(x)])


@pytest.mark.parametrize(
    "more", [{"use_bias": True}, {"padding": "valid"}, {"activation": "relu"}, {"dilation_rate": 2}]
)
def test_other_convolutions_on_small_maps_are_those_of_keras(more):
    arguments = {"filters": 5, "kernel_size": 3 if more.get("padding") != "valid" else 1, "padding": "same"} | more
    ours, theirs = Conv2D(**arguments), keras.layers.Conv2D(**arguments)
    for layer in (ours, theirs):
        layer.build((None, 2, 2, 4))
    theirs.set_weights(ours.get_weights())
    assert_alike(training_step(ours, maps(3, 2, 2, 4)), training_step(theirs, maps(3, 2, 2, 4)))


@pytest.mark.slow
def test_an_encoder_trains_as_with_the_layers_of_keras():
    keras.utils.set_random_seed(3)
    theirs = build_encoder(64, embedding_dim=8, width=8)
    ours = fast(theirs)
    assert {type(layer).__module__.split(".")[0] for layer in theirs.layers} == {"keras"}
    pixels = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(ours(pixels), theirs(pixels), atol=1e-6)
    values = []
    for model in (ours, theirs, CachedGradients(fast(theirs), 12)):
        model.compile(keras.optimizers.SGD(0.0), loss=lambda target, z: keras.ops.sum(target * z, axis=1))
        model.fit(pixels, maps(12, 8), batch_size=12, shuffle=False, verbose=0)
        values.append([weight.value for weight in model.non_trainable_weights if "moving" in weight.path])
    assert_alike(values[0], values[1], rtol=1e-4)
    assert_alike(values[2], values[1], rtol=1e-4)


@pytest.mark.parametrize(
    "build", [lambda: build_encoder(32, embedding_dim=8, width=8), lambda: spoc_encoder(32, width=8)]
)
def test_names_and_weights_stay_there_and_back(build, tmp_path):
    encoder = build()
    quick = fast(encoder)
    assert sum(isinstance(layer, Conv2D) for layer in quick._flatten_layers()) == 20
    kinds = [
        [
            (type(layer), layer.name)
            for layer in model._flatten_layers()
            if not isinstance(layer, keras.layers.InputLayer)  # Keras names that of a nested model anew
        ]
        for model in (encoder, quick, plain(quick))
    ]
    assert kinds[0] == kinds[2] != kinds[1]
    quick.save_weights(tmp_path / "own.weights.h5")
    other = build()
    other.load_weights(tmp_path / "own.weights.h5")
    for one, two in zip(encoder.weights, other.weights, strict=True):
        assert one.path == two.path
        np.testing.assert_array_equal(one, two)


def test_a_saved_model_of_them_loads_where_the_module_is_known(tmp_path):
    encoder = fast(build_encoder(32, embedding_dim=8, backbone=residual))
    encoder.save(tmp_path / "fast.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    again = keras.saving.load_model(tmp_path / "fast.keras")
    np.testing.assert_allclose(again(pixels), encoder(pixels), rtol=1e-5, atol=1e-6)
    assert isinstance(again.get_layer("stem_conv"), Conv2D)
