"""The encoder as others get it: a SavedModel against the Keras model that was trained, and TensorFlow alone."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from macl_tf.artifacts import ArtifactError, versions
from macl_tf.datasets.images import decode_image, resize_image
from macl_tf.export.saved_model import ExportedEncoder, export_encoder
from macl_tf.files import read_json
from macl_tf.models.descriptors import descriptor_model
from macl_tf.training.run_directory import ENCODER, LABELS, METRICS
from tests.pictures import bad_pictures, good_pictures, pixels
from tests.runs import DIM, SIZE, make_run, residual

NEAR = 1 - 1e-5  # cosine, as the issue asks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_model")
    run = make_run(folder / "run", backbone=residual, data_dir="/home/somebody/tiles", descriptor="projection")
    # Statistics of batch normalisation as after training: folding them into the convolutions must change nothing.
    random = np.random.default_rng(0)
    encoder = keras.saving.load_model(run / ENCODER, compile=False)
    for variable in encoder.non_trainable_variables:
        if variable.path.endswith("moving_mean"):
            variable.assign(random.normal(0, 0.1, variable.shape))
        if variable.path.endswith("moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    encoder.save(run / ENCODER)
    return run


@pytest.fixture(scope="module")
def trained(run):
    """Pixels (B, S, S, 3) to (B, D), by Keras."""
    model = keras.saving.load_model(run / ENCODER, compile=False)
    return lambda images: model.predict_on_batch(np.stack(images).astype(np.float32))


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    served = tmp_path_factory.mktemp("served")
    assert export_encoder(run, served) == served / "encoder" / "1"
    return served


@pytest.fixture(scope="module")
def encoder(served):
    return ExportedEncoder.load(served)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_bytes_are_embedded_as_keras_embeds_their_pixels(encoder, trained):
    pictures = good_pictures()
    expected = trained([resize_image(decode_image(data, name), SIZE) for name, data in pictures.items()])
    assert np.ptp(expected, axis=0).max() > 0.01, "an encoder that says the same of everything shows nothing"
    alone = [encoder.embed_bytes([data]) for data in pictures.values()]  # batches of 1
    assert all(valid.all() for _, valid in alone)
    assert cosines(np.concatenate([rows for rows, _ in alone]), expected).min() > NEAR
    many = [*pictures.values()] * 3
    found, valid = encoder.embed_bytes(many[:64], batch_size=64)
    assert valid.all() and cosines(found, np.concatenate([expected] * 3)[:64]).min() > NEAR
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_a_bad_image_takes_no_neighbour_down(encoder):
    good, bad = good_pictures()["jpeg"], bad_pictures()
    mixed = [image for data in bad.values() for image in (good, data)]
    found, valid = encoder.embed_bytes(mixed)
    assert valid.tolist() == [True, False] * len(bad)
    assert not found[~valid].any()
    assert cosines(found[valid], np.repeat(encoder.embed_bytes([good])[0], len(bad), axis=0)).min() > NEAR
    assert found.dtype == np.float32 and found.shape == (len(mixed), DIM)


def test_pixels_of_any_size(encoder, trained):
    for height, width in ((SIZE, SIZE), (1, 1), (17, 90), (200, 64)):
        images = np.stack([pixels(seed, height, width) for seed in range(3)])
        expected = trained([resize_image(image, SIZE) for image in images])
        assert cosines(encoder.embed_pixels(images), expected).min() > NEAR


def test_images_of_mixed_sizes_by_batches(encoder, trained):
    images = [pixels(seed, 10 + 7 * seed, 64 - 3 * seed) for seed in range(9)]
    expected = trained([resize_image(image, SIZE) for image in images])
    assert cosines(encoder.embed_images(images, batch_size=4), expected).min() > NEAR


def test_empty_batches(encoder):
    found, valid = encoder.embed_bytes([])
    assert found.shape == (0, DIM) and valid.shape == (0,)
    assert encoder.embed_images([]).shape == (0, DIM)
    assert encoder.embed_pixels(np.zeros((0, 5, 7, 3), np.uint8)).shape == (0, DIM)
    signature = encoder._signatures["serving_default"]  # the signature too, and not only the class around it
    assert signature(image_bytes=tf.constant([], tf.string))["embedding"].shape == (0, DIM)


def test_what_the_class_refuses(encoder):
    with pytest.raises(ValueError, match=r"pixels must be \(B, H, W, 3\) uint8, got \(1, 4, 4, 3\) float64"):
        encoder.embed_pixels(np.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="got one image"):
        encoder.embed_bytes(b"")
    for call in (encoder.embed_bytes, encoder.embed_images):
        with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
            call([], batch_size=0)


def test_model_info(encoder, run):
    info = encoder.info
    assert (encoder.version, encoder.dim, encoder.image_size) == (1, DIM, SIZE)
    assert list(encoder.label_names) == info["labels"] == read_json(run / LABELS)["label_names"]
    figures = read_json(run / METRICS)["trained"]["projection"]
    assert info["figures"]["map_any"] == figures["map_any"] and len(info["figures"]) == 6
    assert info["dataset"]["name"] == "synthetic" and "Generated" in info["dataset"]["licence"]
    assert f"{SIZE} x {SIZE}" in info["preprocessing"]
    assert info["versions"]["export"]["keras"] == keras.__version__
    assert info["settings"]["embedding_dim"] == DIM
    assert info["settings"]["data_dir"] == "tiles" and "somebody" not in json.dumps(info), "folders stay private"


@pytest.mark.slow
def test_tensorflow_alone_loads_a_copy_elsewhere_and_serves(served, encoder, tmp_path, run_python):
    """No Keras, no macl_tf, no Python function in the graph, no path that the folder remembers."""
    shutil.copytree(served / "encoder" / "1", tmp_path / "moved" / "7")
    good = good_pictures()
    for name in ("jpeg", "png alpha"):
        (tmp_path / name).write_bytes(good[name])
    script = """
import json, os, sys
sys.modules["keras"] = sys.modules["macl_tf"] = sys.modules["tf_keras"] = None
os.chdir(sys.argv[1])
import tensorflow as tf
model = tf.saved_model.load("moved/7")
serve, info = model.signatures["serving_default"], model.signatures["model_info"]
images = [open("jpeg", "rb").read(), b"junk", open("png alpha", "rb").read()]
found = serve(image_bytes=tf.constant(images))
empty = serve(image_bytes=tf.constant([], tf.string))
pixels = model.signatures["embed_pixels"](pixels=tf.zeros((2, 5, 6, 3), tf.uint8))
from tensorflow.core.protobuf import saved_model_pb2
graph = saved_model_pb2.SavedModel.FromString(open("moved/7/saved_model.pb", "rb").read()).meta_graphs[0].graph_def
nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
print(json.dumps({
    "embedding": found["embedding"].numpy().tolist(), "valid": found["valid"].numpy().tolist(),
    "empty": empty["embedding"].shape.as_list(), "pixels": pixels["embedding"].shape.as_list(),
    "info": [json.loads(text) for text in info(request=tf.constant(["", "x"]))["json"].numpy()],
    "operations": sorted({node.op for node in nodes}),
}))
"""
    said = json.loads(run_python(script, tmp_path, PYTHONPATH=None).stdout)
    expected, valid = encoder.embed_bytes([good["jpeg"], b"junk", good["png alpha"]])
    np.testing.assert_allclose(said["embedding"], expected, rtol=1e-5, atol=1e-6)
    assert said["valid"] == valid.tolist() == [True, False, True]
    assert said["empty"] == [0, DIM] and said["pixels"] == [2, DIM]
    assert said["info"] == [encoder.info] * 2
    assert not [name for name in said["operations"] if "PyFunc" in name or "Scann" in name]
    assert "IgnoreErrorsDataset" in said["operations"], "what keeps a bad image to itself"


@pytest.mark.slow
def test_the_same_export_again_and_another(run, served, encoder, tmp_path):
    shutil.copytree(served, tmp_path, dirs_exist_ok=True)
    first = tmp_path / "encoder" / "1"
    assert export_encoder(run, tmp_path) == first and versions(tmp_path / "encoder") == [1]
    graph = first / "saved_model.pb"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # its size tells nothing
    with pytest.raises(ArtifactError, match=r"saved_model\.pb"):
        ExportedEncoder.load(tmp_path)

    # A damaged version is no reason to fail, nor up to date.
    assert export_encoder(run, tmp_path).name == "2"
    assert export_encoder(run, tmp_path, descriptor="backbone", keep=1).name == "3"
    assert versions(tmp_path / "encoder") == [3]
    backbone = ExportedEncoder.load(tmp_path)
    assert backbone.info["descriptor"] == "backbone" and backbone.dim == 16
    assert backbone.info["encoder_sha256"] == encoder.info["encoder_sha256"]
    assert backbone.info["sha256"] != encoder.info["sha256"], "vectors of the two cannot be compared"
    model = descriptor_model(keras.saving.load_model(run / ENCODER, compile=False), "backbone")
    images = np.stack([pixels(seed, SIZE, SIZE) for seed in range(2)])
    expected = model.predict_on_batch(images.astype(np.float32))
    assert cosines(backbone.embed_pixels(images), expected).min() > NEAR


def test_what_cannot_be_exported_leaves_nothing(run, tmp_path):
    with pytest.raises(ValueError, match="must be one of projection, backbone, robust for this run, got 'head'"):
        export_encoder(run, tmp_path, descriptor="head")
    unfinished = tmp_path / "run"
    shutil.copytree(run, unfinished)
    (unfinished / METRICS).rename(unfinished / "not yet")
    with pytest.raises(FileNotFoundError, match=r"finished run, but metrics\.json is not there"):
        export_encoder(unfinished, tmp_path)
    (unfinished / "not yet").rename(unfinished / METRICS)
    (unfinished / ENCODER).write_bytes(b"PK not a Keras model")
    with pytest.raises(ValueError, match="cannot be read as a Keras model"):
        export_encoder(unfinished, tmp_path)
    assert not (tmp_path / "encoder").exists()
