"""The graph that embeds: batch normalisation folded away, by TensorFlow or by OpenVINO, with the encoder's answers."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from macl_tf.export.saved_model import ExportedEncoder, save_encoder
from macl_tf.models import runtimes
from macl_tf.models.descriptors import descriptor_model, turned
from macl_tf.models.encoders import build_encoder, spoc_encoder
from macl_tf.models.fast_layers import fast
from macl_tf.models.inference import embedding_function, folded
from macl_tf.models.runtimes import check_runtime

ALIKE = 0.999  # cosine
openvino = pytest.mark.skipif(runtimes.find_spec("openvino") is None, reason="needs the extra openvino")


def trained(model):
    """The model with statistics, scales and shifts of batch normalisation as after training."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.endswith(("moving_variance", "gamma")):
            variable.assign(random.uniform(0.5, 2, variable.shape))
        elif variable.path.endswith(("moving_mean", "beta", "bias")):
            variable.assign(random.normal(0, 0.2, variable.shape))
    return model


def pixels(count, size=64):
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def norms(model):
    return sum(isinstance(layer, layers.BatchNormalization) for layer in model._flatten_layers())


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def lite():
    return fast(build_encoder(64, backbone="efficientnet-lite0", weights="imagenet"))


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("resnet18", "four turns, robust")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["efficientnet-lite0", "spoc", *SLOW])
def test_folding_leaves_no_normalisation_and_the_same_embeddings(kind, lite):
    if kind == "spoc":
        model = trained(spoc_encoder(64, width=8))
    else:
        model = lite if kind == "efficientnet-lite0" else trained(fast(build_encoder(64, width=8)))
    if kind.startswith("four"):
        model = turned(descriptor_model(model, "robust"), 4)
    weights = [value.copy() for value in model.get_weights()]
    expected = model.predict_on_batch(pixels(5))
    after = folded(model)
    assert norms(model) >= 20 and norms(after) == 0
    np.testing.assert_allclose(after.predict_on_batch(pixels(5)), expected, atol=2e-5)
    for before, now in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, now)


def test_normalisation_that_is_not_alone_behind_a_linear_layer_stays():
    """Folded are those of one plain layer; not of an activation, of a sum, of what is used twice, of a shared layer."""
    x = pictures = keras.Input((8, 8, 4))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="two")(x)
    x = layers.BatchNormalization(name="folded_1")(x)
    x = layers.Conv2D(6, 3, groups=2, name="groups")(x)
    x = layers.BatchNormalization(scale=False, center=False, name="folded_2")(x)
    x = layers.Conv2D(6, 1, activation="relu")(x)
    x = layers.BatchNormalization(name="stays_1")(x)
    twice = layers.Conv2D(6, 1)(x)
    x = layers.Add()([layers.BatchNormalization(name="stays_2")(twice), twice])
    shared = layers.Conv2D(6, 1)
    x = layers.BatchNormalization(name="stays_3")(shared(shared(x)))
    x = layers.BatchNormalization(axis=1, name="stays_4")(layers.Conv2D(6, 1)(x))
    x = keras.ops.flip(layers.Flatten()(x), axis=1)
    model = trained(keras.Model(pictures, layers.BatchNormalization(name="folded_3")(layers.Dense(5)(x))))
    after = folded(model)
    left = {layer.name for layer in after.layers if isinstance(layer, layers.BatchNormalization)}
    assert left == {"stays_1", "stays_2", "stays_3", "stays_4"}
    given = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)
    np.testing.assert_allclose(after.predict_on_batch(given), model.predict_on_batch(given), rtol=1e-4, atol=1e-4)


def test_what_was_trained_in_half_precision_embeds_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = trained(build_encoder(64, width=8))
    finally:
        keras.config.set_dtype_policy("float32")
    after = folded(model)
    assert {layer.compute_dtype for layer in after.layers} == {"float32"}
    assert cosines(after.predict_on_batch(pixels(4)), model.predict_on_batch(pixels(4))).min() > ALIKE


@openvino
@pytest.mark.parametrize("count", [1, 2, 7, 37])
def test_openvino_gives_the_same_embeddings_for_any_number_of_pictures(count, by_openvino, by_tensorflow):
    expected, found = by_tensorflow(pixels(count)), by_openvino(pixels(count))
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert cosines(found, expected).min() > ALIKE
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)


@pytest.fixture(scope="module")
def by_openvino(lite):
    return embedding_function(lite, "openvino")


@pytest.fixture(scope="module")
def by_tensorflow(lite):
    return embedding_function(lite, "tensorflow")


@openvino
def test_many_threads_get_their_own_pictures_back(by_openvino):
    given = np.repeat(np.repeat(pixels(24, 4), 16, axis=1), 16, axis=2)  # patches of colour, which differ more
    alone = np.concatenate([by_openvino(picture[None]) for picture in given])
    with ThreadPoolExecutor(6) as pool:
        found = np.concatenate([*pool.map(by_openvino, np.split(given, [1, 3, 6, 7, 16]))])
    off = (alone @ alone.T)[~np.eye(24, dtype=bool)].max()
    assert off < ALIKE and np.argmax(found @ alone.T, axis=1).tolist() == list(range(24))


@openvino
@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 4])
def test_an_exported_encoder_answers_alike_in_both(tmp_path, turns):
    model = turned(trained(build_encoder(64, width=8)), turns)
    save_encoder(model, {"image_size": 64, "dim": 128, "labels": ["a"]}, tmp_path / "1")
    loaded = tf.saved_model.load(tmp_path / "1")
    plain, fast_one, half = (ExportedEncoder(loaded, 1, runtime) for runtime in runtimes.RUNTIMES)
    for given in (pixels(5), pixels(3, 100), pixels(1)):
        assert cosines(fast_one.embed_pixels(given), plain.embed_pixels(given)).min() > ALIKE
        assert cosines(half.embed_pixels(given), plain.embed_pixels(given)).min() > 0.99  # the processor may have it
    png = tf.io.encode_png(pixels(1, 80)[0]).numpy()
    found, valid = fast_one.embed_bytes([png, b"no picture", png])
    expected, _ = plain.embed_bytes([png, b"no picture", png])
    assert valid.tolist() == [True, False, True] and not found[1].any()
    assert cosines(found[::2], expected[::2]).min() > ALIKE
    assert fast_one.embed_pixels(pixels(0)).shape == (0, 128)


@openvino
@pytest.mark.slow
def test_a_network_with_loose_ends_and_one_that_openvino_cannot_run():
    # As it begins: with statistics at random this network makes a cosine of .94 of 1e-4 of noise in the pixels.
    loose = fast(build_encoder(64, backbone="keras:EfficientNetV2B0"))
    expected = loose.predict_on_batch(pixels(3))
    assert cosines(embedding_function(loose, "openvino")(pixels(3)), expected).min() > ALIKE
    scales = descriptor_model(spoc_encoder(64, width=8), "multi-scale")
    with pytest.raises(ValueError, match=r"OpenVINO cannot run .*ScaleAndTranslate.*: take runtime=tensorflow\."):
        embedding_function(scales, "openvino")
    assert embedding_function(scales, "tensorflow")(pixels(2)).shape == (2, 64)


def test_what_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    check_runtime("tensorflow")
    with pytest.raises(ImportError, match=r"needs OpenVINO: pip install 'macl_tf\[openvino\]'"):
        check_runtime("openvino")
    with pytest.raises(ValueError, match="runtime must be one of tensorflow, openvino, openvino-bf16, got 'onnx'"):
        check_runtime("onnx")
