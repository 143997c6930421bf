import keras
import numpy as np
import pytest

from macl_tf.models.descriptors import descriptor_model, searchable
from macl_tf.models.encoders import build_encoder, classified, spoc_encoder
from macl_tf.models.resnet import resnet18
from macl_tf.training.build import make_encoder
from macl_tf.training.settings import Settings


def pixels(size, rows=3):
    return np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size", "stem"), [(64, 3), (96, 7)])
def test_the_stem_suits_the_tile(size, stem):
    encoder = build_encoder(size, embedding_dim=16)
    assert encoder.get_layer("stem_conv").kernel_size == (stem, stem)
    assert encoder.get_layer("features").output.shape == (None, 512)


def test_resnet18_has_the_parameters_of_the_paper():
    inputs = keras.Input((224, 224, 3))
    model = keras.Model(inputs, resnet18(inputs))
    # torchvision's resnet18 without its classifier: 11,176,512 trainable; keras-hub's 11,186,112 adds the 9,600
    # moving means and variances of batch normalisation.
    assert model.count_params() == 11_186_112
    assert model.output_shape == (None, 7, 7, 512)


@pytest.mark.parametrize("head", ["projection", "spoc"])
def test_a_narrower_encoder_has_a_quarter_of_the_weights(head):
    whole, half = (
        make_encoder(Settings(backbone="resnet18", weights="", head=head, descriptor=head, width=width))
        for width in (32, 16)
    )
    assert half.get_layer("features").output.shape == (None, 128)
    of_backbone = [
        sum(np.prod(weight.shape) for weight in model.weights if "conv" in weight.path) for model in (whole, half)
    ]
    assert of_backbone[0] / of_backbone[1] == pytest.approx(4, rel=0.01)  # the stem's three channels stay
    for build in (build_encoder, spoc_encoder):
        with pytest.raises(ValueError, match="width must be at least 8 channels, got 4"):
            build(64, width=4)
        with pytest.raises(ValueError, match=r"width must be 64 but for resnet18 without weights=imagenet, got 32"):
            build(64, width=32, weights="imagenet")


@pytest.mark.parametrize("policy", [pytest.param("float32", marks=pytest.mark.slow), "mixed_float16"])
def test_embeddings_are_unit_norm_float32(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        encoder = build_encoder(32, embedding_dim=16, width=8)
    finally:
        keras.config.set_dtype_policy(before)
    for name, width in (("projection", 16), ("backbone", 64)):
        z = descriptor_model(encoder, name).predict(pixels(32), verbose=0)
        assert z.shape == (3, width) and z.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)


def test_any_backbone_can_be_plugged_in_and_sees_scaled_pixels():
    def plain(x):
        return keras.layers.AveragePooling2D(32)(x)

    encoder = build_encoder(32, embedding_dim=4, backbone=plain)
    image = np.full((1, 32, 32, 3), 255, np.uint8)
    seen = keras.Model(encoder.input, encoder.get_layer("features").output).predict(image, verbose=0)
    np.testing.assert_allclose(seen, [[1, 1, 1]], rtol=1e-6)  # 0 to 255 becomes -1 to 1


def test_weights_come_from_a_file(tmp_path):
    source = build_encoder(32, embedding_dim=8, width=8)
    source.save_weights(tmp_path / "w.weights.h5")
    loaded = build_encoder(32, embedding_dim=8, width=8, weights=tmp_path / "w.weights.h5")
    np.testing.assert_allclose(
        loaded.predict(pixels(32), verbose=0), source.predict(pixels(32), verbose=0), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="do not fit this encoder"):
        build_encoder(32, embedding_dim=9, width=8, weights=tmp_path / "w.weights.h5")


@pytest.mark.parametrize("build", [build_encoder, pytest.param(spoc_encoder, marks=pytest.mark.slow)])
def test_weights_come_from_the_encoder_of_another_run(build, tmp_path):
    source = classified(build(32, width=8), 5)
    searchable(source).save(tmp_path / "encoder.keras")
    loaded = build(32, width=8, weights=tmp_path / "encoder.keras")
    np.testing.assert_allclose(
        loaded.predict(pixels(32), verbose=0),
        descriptor_model(source).predict(pixels(32), verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )
    with pytest.raises(ValueError, match=r"do not fit .* have other shapes"):
        build(32, width=16, weights=tmp_path / "encoder.keras")
    (tmp_path / "torn.keras").write_bytes(b"torn")
    with pytest.raises(ValueError, match="do not fit this encoder"):
        build(32, width=8, weights=tmp_path / "torn.keras")


def test_another_projection_starts_anew(tmp_path):
    source = build_encoder(32, width=8)
    source.save(tmp_path / "encoder.keras")
    loaded = build_encoder(32, width=8, embedding_dim=7, weights=tmp_path / "encoder.keras")
    features = [descriptor_model(encoder, "backbone").predict(pixels(32), verbose=0) for encoder in (source, loaded)]
    np.testing.assert_allclose(*features, rtol=1e-5, atol=1e-6)
    hidden = [encoder.get_layer("projection_1").kernel for encoder in (source, loaded)]
    assert not np.allclose(*map(keras.ops.convert_to_numpy, hidden))  # both layers of it are new


def test_bad_arguments_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="image_size must be at least 32"):
        build_encoder(16)
    with pytest.raises(ValueError, match="embedding_dim must be at least 2, got 1"):
        build_encoder(64, embedding_dim=1)
    with pytest.raises(
        FileNotFoundError, match=r"weights must be 'imagenet', .* and 'nowhere.weights.h5' is not there"
    ):
        build_encoder(32, weights="nowhere.weights.h5")
    with pytest.raises(ValueError, match="must be one of projection, backbone, robust for this encoder, got 'pool'"):
        descriptor_model(build_encoder(32, width=8), "pool")
    monkeypatch.setattr("macl_tf.models.backbones.find_spec", lambda name: None)  # as where the extra is not installed
    with pytest.raises(ImportError, match=r"macl_tf\[gpu,hub\]"):
        build_encoder(64, weights="imagenet")
