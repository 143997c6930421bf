import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from macl_tf.losses.boundary import DCL
from macl_tf.models.descriptors import descriptor_model, descriptors_of, multi_scale_descriptor
from macl_tf.models.encoders import build_encoder, spoc_encoder


def small(x):
    return layers.ReLU()(layers.Conv2D(6, 5, strides=4, padding="same", name="conv")(x))


def images(rows=3, size=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, size, size, 3)).astype("uint8")


@pytest.fixture
def encoder():
    keras.utils.set_random_seed(0)
    return spoc_encoder(64, backbone=small)


def test_the_descriptor_is_the_sum_of_the_maps_over_its_norm(encoder):
    maps = encoder.get_layer("trunk").predict(images(), verbose=0).astype("float64")
    total = maps.sum(axis=(1, 2))
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    actual = encoder.predict(images(), verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert actual.dtype == np.float32


def test_several_scales_are_summed_as_unit_vectors(encoder):
    x = images()
    parts = []
    for side in (64, 48, 32):
        resized = tf.image.resize(x, (side, side), antialias=True).numpy()
        total = encoder.get_layer("trunk").predict(resized, verbose=0).sum(axis=(1, 2)).astype("float64")
        parts.append(total / np.linalg.norm(total, axis=1, keepdims=True))
    expected = sum(parts) / np.linalg.norm(sum(parts), axis=1, keepdims=True)
    model = multi_scale_descriptor(encoder)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)  # float32 resizing
    alone = multi_scale_descriptor(encoder, (1.0,))
    np.testing.assert_allclose(alone.predict(x, verbose=0), encoder.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


def test_names_say_what_an_encoder_offers(encoder):
    x = images()
    assert descriptors_of(encoder) == ("spoc", "multi-scale")
    assert descriptor_model(encoder) is descriptor_model(encoder, "spoc") is encoder
    expected = multi_scale_descriptor(encoder, (1.0, 0.75, 0.5)).predict(x, verbose=0)
    np.testing.assert_allclose(
        descriptor_model(encoder, "multi-scale").predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )
    # Of 32 pixels no smaller scale is left.
    small_tiles = spoc_encoder(32, backbone=small)
    expected = small_tiles.predict(images(size=32), verbose=0)
    actual = descriptor_model(small_tiles, "multi-scale").predict(images(size=32), verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert descriptors_of(build_encoder(32, backbone=small)) == ("projection", "backbone", "robust")
    with pytest.raises(ValueError, match="one of spoc, multi-scale for this encoder, got 'projection'"):
        descriptor_model(encoder, "projection")


def test_weights_are_shared_and_saved(encoder, tmp_path):
    model = multi_scale_descriptor(encoder, (1.0, 0.5))
    before = model.predict(images(), verbose=0)
    encoder.get_layer("trunk").get_layer("conv").kernel.assign(np.full((5, 5, 3, 6), 0.1, "float32"))
    changed = model.predict(images(), verbose=0)
    assert np.abs(changed - before).max() > 1e-3
    encoder.save_weights(tmp_path / "spoc.weights.h5")
    again = spoc_encoder(64, backbone=small, weights=tmp_path / "spoc.weights.h5")
    np.testing.assert_allclose(
        again.predict(images(), verbose=0), encoder.predict(images(), verbose=0), rtol=1e-5, atol=1e-6
    )
    encoder.save(tmp_path / "spoc.keras")
    loaded = keras.saving.load_model(tmp_path / "spoc.keras")
    np.testing.assert_allclose(
        multi_scale_descriptor(loaded, (1.0, 0.5)).predict(images(), verbose=0), changed, rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_dcl_trains_it_end_to_end(encoder):
    y = np.eye(3, dtype="float32")[[0, 0, 0, 1, 1, 1, 2, 2, 2]]
    x = (images(9) * 0.3 + np.array([[150, 0, 0], [0, 150, 0], [0, 0, 150]])[y.argmax(1)][:, None, None]).astype(
        "uint8"
    )
    encoder.compile(keras.optimizers.Adam(0.01), loss=DCL(), jit_compile=False)
    history = encoder.fit(x, y, batch_size=9, epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_blank_images_and_the_default_network_give_numbers():
    for size in (64, 96):  # both stems
        z = spoc_encoder(size, width=8).predict(np.zeros((1, size, size, 3), "uint8"), verbose=0)
        assert z.shape == (1, 64) and np.isfinite(z).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda e: spoc_encoder(16), "image_size must be at least 32"),
        (lambda e: spoc_encoder(64, backbone=layers.Flatten()), r"backbone must give feature maps"),
        (lambda e: spoc_encoder(64, backbone=small, weights="imagenet"), "give the backbone by name"),
        (lambda e: multi_scale_descriptor(e, ()), "scales must be one or more factors"),
        (lambda e: multi_scale_descriptor(e, (1.0, 0.4)), r"got \(1.0, 0.4\) for images of 64"),
        (
            lambda e: multi_scale_descriptor(keras.Sequential([keras.Input((8, 8, 3))])),
            "without a layer called 'trunk'",
        ),
    ],
)
def test_bad_arguments_are_refused(encoder, make, message):
    with pytest.raises(ValueError, match=message):
        make(encoder)


def test_a_missing_weights_file_is_named(encoder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        spoc_encoder(64, backbone=small, weights="nowhere.weights.h5")
