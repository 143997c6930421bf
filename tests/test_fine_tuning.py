"""What is trained of an encoder: all, its last stages, or its head on features that are kept; and at what rate."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from macl_tf import losses
from macl_tf.datasets.splits import Splits
from macl_tf.export.saved_model import ExportedEncoder, export_encoder
from macl_tf.models.descriptors import all_descriptors, descriptor_model, turned
from macl_tf.models.encoders import build_encoder, classified
from macl_tf.models.familiarity import FAMILIAR
from macl_tf.models.fine_tuning import backbone_part, detached_head, set_trainable, take_head
from macl_tf.pipeline import features as features_module
from macl_tf.pipeline.pipeline import load_images
from macl_tf.training.evaluate import evaluate_run
from macl_tf.training.optimizer import BackboneAdamW
from macl_tf.training.run_directory import open_archive, read_encoder, run_settings
from macl_tf.training.settings import Settings, load_settings
from macl_tf.training.train import train
from tests.runs import residual

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype("float32")


def network():
    """Two stages of one's own, with batch normalisation and dropout."""
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    for width in (4, 8):
        x = keras.layers.Conv2D(width, 3, strides=2, use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(pixels, keras.layers.Dropout(0.2)(x))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "mine.keras"
    network().save(path)
    return str(path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "macl_tf" / "features"


def settings_of(backbone, **changes):
    small = {"num_tiles": 60, "image_size": 32, "embedding_dim": 8, "batch_size": 16, "epochs": 3}
    return Settings(backbone=backbone, weights="", **{**small, "trainable": "head", "feature_views": 2, **changes})


def values(model):
    return {weight.path: weight.numpy().copy() for weight in model.weights}


def of_training_tiles(run, turns=1):
    """Their vectors of "robust"."""
    archive = open_archive(run_settings(run))
    images = load_images(archive, Splits.read(run, archive).train, 32, progress=False)
    return turned(descriptor_model(read_encoder(run), "robust"), turns).predict(images.astype("float32"), verbose=0)


def test_a_head_is_trained_on_kept_features_and_the_backbone_stays(backbone, cache, tmp_path):
    settings = settings_of(backbone)
    first = train(settings, tmp_path / "first", progress=False)
    found = read_encoder(tmp_path / "first")
    original = keras.saving.load_model(backbone, compile=False)
    z = keras.Model(found.input, found.get_layer("features").output).predict(PIXELS, verbose=0)
    np.testing.assert_allclose(z, original.predict(PIXELS, verbose=0).mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert first["trained"]["backbone"] == first["untrained"]["backbone"]
    assert first["trained"]["projection"] != first["untrained"]["projection"]
    versions = json.loads((tmp_path / "first" / "versions.json").read_text())
    assert len(versions["backbone_sha256"]) == 64

    kept = np.load(tmp_path / "first" / FAMILIAR)
    np.testing.assert_allclose(kept, of_training_tiles(tmp_path / "first")[:, :-8] * np.sqrt(2), atol=2e-3)

    parts = sorted(cache.rglob("*.npy"))
    assert sorted(np.load(part).shape[0] for part in parts) == [1, 1, 3]  # validation, test and training tiles
    evaluated = evaluate_run(tmp_path / "first", progress=False).reports  # from pixels, where the run has features
    assert set(evaluated) == set(first["trained"]) == {"projection", "backbone", "robust"}
    for name, report in evaluated.items():
        metrics = ("ndcg@100_jaccard", "wap@100", "map_any")
        one, other = (np.array([found[key] for key in metrics]) for found in (report.to_dict(), first["trained"][name]))
        np.testing.assert_allclose(one, other, atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_features_that_are_kept_are_not_computed_again(backbone, cache, tmp_path, monkeypatch):
    first = train(settings_of(backbone), tmp_path / "first", progress=False)

    def computed_again(*arguments, **options):
        raise AssertionError("features are in the cache")

    monkeypatch.setattr(features_module, "_features", computed_again)
    assert train(settings_of(backbone), tmp_path / "again", progress=False)["trained"] == first["trained"]
    other = keras.saving.load_model(backbone, compile=False)  # the same weights behind other layers
    pixels = keras.Input((32, 32, 3))
    keras.Model(pixels, other(keras.layers.Rescaling(0.5)(pixels))).save(tmp_path / "mine.keras")
    with pytest.raises(AssertionError, match="features are in the cache"):
        train(settings_of(str(tmp_path / "mine.keras")), tmp_path / "other", progress=False)


@pytest.mark.slow
def test_a_killed_head_run_goes_on_bit_for_bit(backbone, cache, tmp_path, monkeypatch):
    settings = settings_of(backbone, loss="proxy-anchor", classification_weight=1.0)
    whole = train(settings, tmp_path / "whole", progress=False)
    from macl_tf.training.checkpoint import Checkpoint

    def killed(self, epoch, logs=None):
        real(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    real = Checkpoint.on_epoch_end
    monkeypatch.setattr(Checkpoint, "on_epoch_end", killed)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "killed", progress=False)
    monkeypatch.setattr(Checkpoint, "on_epoch_end", real)
    kept, other = Path(backbone).read_bytes(), keras.saving.load_model(backbone, compile=False)
    other.set_weights([1.5 * value for value in other.get_weights()])
    other.save(backbone)  # trained once more, where it lay
    with pytest.raises(ValueError, match=r"began from other values than backbone=.*mine\.keras, weights= gives now"):
        train(settings, tmp_path / "killed", progress=False)
    Path(backbone).write_bytes(kept)
    assert train(settings, tmp_path / "killed", progress=False)["trained"] == whole["trained"]


def test_last_stages_and_norms_are_frozen_as_asked():
    encoder = build_encoder(64, backbone="resnet18", width=8, embedding_dim=4)
    for trainable, first in (("all", "stem"), ("last:2", "stage3"), ("last:1", "stage4"), ("head", "projection")):
        set_trainable(encoder, trainable)
        assert encoder.trainable_variables[0].path.startswith(first)
        assert {"projection_1/kernel"} <= {variable.path for variable in encoder.trainable_variables}
    set_trainable(encoder, "all", freeze_norms=True)
    assert {v.path.split("/")[0] for v in encoder.trainable_variables if "norm" in v.path} == {"projection_norm"}
    with pytest.raises(ValueError, match="must be at most the backbone's 5 stages, got 6"):
        set_trainable(encoder, "last:6")


def test_a_nested_backbone_is_frozen_too(backbone):
    encoder = build_encoder(32, backbone=backbone, embedding_dim=4)
    set_trainable(encoder, "last:1")
    before = values(encoder)
    encoder.compile("sgd", loss=losses.SupCon())
    encoder.fit(PIXELS, np.eye(2)[[0, 1, 0, 1, 0, 1]], epochs=1, verbose=0)
    changed = {path for path, value in values(encoder).items() if not np.array_equal(value, before[path])}
    assert len([path for path in before if path not in changed]) == 5, changed  # kernel and norm of the first stage


def test_a_detached_head_gives_and_takes_its_weights():
    encoder = classified(build_encoder(32, backbone=residual, embedding_dim=4), 3)
    features = backbone_part(encoder).predict(PIXELS, verbose=0)
    head = detached_head(encoder)
    for ours, whole in zip(head.predict(features, verbose=0), encoder.predict(PIXELS, verbose=0), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-6)
    head.get_layer("logits").bias.assign([1.0, 2.0, 3.0])
    take_head(encoder, head)
    for ours, whole in zip(head.predict(features, verbose=0), encoder.predict(PIXELS, verbose=0), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-6)


def test_the_backbone_moves_by_its_share():
    """By hand: the first step of Adam is the learning rate, whatever the gradient."""
    encoder = build_encoder(32, backbone=residual, embedding_dim=4)
    before = values(encoder)
    encoder.compile(BackboneAdamW(1e-2, weight_decay=0.0, epsilon=1e-12, backbone_factor=0.1), loss=losses.SupCon())
    encoder.fit(PIXELS, np.eye(2)[[0, 1, 0, 1, 0, 1]], batch_size=6, epochs=1, verbose=0)
    for path, step in (("block_2_conv/kernel", 1e-3), ("projection_2/kernel", 1e-2)):
        moved = np.abs(values(encoder)[path] - before[path])
        assert np.median(moved) == pytest.approx(step, rel=1e-3)
    kept = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(encoder.optimizer))
    assert kept.backbone_factor == 0.1


@pytest.mark.parametrize("turns", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_turned_tile_has_the_same_descriptor(turns):
    encoder = build_encoder(32, backbone=residual, embedding_dim=4)
    model = turned(encoder, turns)
    quarters = range(0, 4, 4 // turns)
    each = [encoder.predict(np.rot90(PIXELS, quarter, (1, 2)).copy(), verbose=0) for quarter in quarters]
    expected = sum(each) / np.linalg.norm(sum(each), axis=1, keepdims=True)
    for quarter in quarters:
        found = model.predict(np.rot90(PIXELS, quarter, (1, 2)).copy(), verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_robust_similarity_is_the_mean_of_two():
    encoder = build_encoder(32, backbone=residual, embedding_dim=4)
    f, z, both = (
        descriptor_model(encoder, name).predict(PIXELS, verbose=0) for name in ("backbone", "projection", "robust")
    )
    np.testing.assert_allclose(both @ both.T, (f @ f.T + z @ z.T) / 2, rtol=1e-5, atol=1e-5)


def test_all_descriptors_at_once_are_each_alone():
    encoder = classified(build_encoder(32, backbone=residual, embedding_dim=4), 3)
    model, widths = all_descriptors(encoder, turns=2)
    parts = np.split(model.predict(PIXELS, verbose=0), np.cumsum([*widths.values()])[:-1], axis=1)
    assert [*widths] == [
        "projection",
        "backbone",
        "robust",
        "probabilities",
        "projection+probabilities",
        "backbone+probabilities",
    ]
    for name, part in zip(widths, parts, strict=True):
        expected = turned(descriptor_model(encoder, name), 2).predict(PIXELS, verbose=0)
        np.testing.assert_allclose(part / np.linalg.norm(part, axis=1, keepdims=True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_turns_and_robust_descriptors_are_exported(backbone, cache, tmp_path):
    run = tmp_path / "run"
    result = train(settings_of(backbone, epochs=1, turns=4, descriptor="robust"), run, progress=False)
    served = export_encoder(run, tmp_path / "served").parents[1]
    kept = of_training_tiles(run, turns=4)[:, :-8]
    kept = kept / np.linalg.norm(kept, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(run / FAMILIAR), kept, atol=2e-3)
    assert (served / "encoder" / "1" / FAMILIAR).read_bytes() == (run / FAMILIAR).read_bytes()
    encoder = ExportedEncoder.load(served)
    expected = turned(descriptor_model(read_encoder(run), "robust"), 4).predict(PIXELS, verbose=0)
    np.testing.assert_allclose(encoder.embed_pixels(PIXELS.astype("uint8")), expected, rtol=1e-4, atol=1e-5)
    assert encoder.info["settings"]["turns"] == 4 and encoder.info["descriptor"] == "robust"
    assert encoder.info["settings"]["backbone"] == "mine.keras"  # not the folder of a machine
    assert result["trained"]["robust"] == evaluate_run(run, progress=False).reports["robust"].to_dict()


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["trainable=tail"], "trainable must be all, head, or last:N for the last N stages, got 'tail'"),
        (["trainable=last:0"], "trainable must be all, head, or last:N"),
        (["trainable=head", "head=spoc"], "trainable=head needs head=projection"),
        (["turns=3"], "turns must be 1, 2 or 4, got 3"),
        (["backbone_factor=0"], "backbone_factor must be above 0"),
    ],
)
def test_bad_settings_are_refused(assignments, message):
    with pytest.raises(ValueError, match=message):
        load_settings(None, assignments)


def test_settings_without_a_backbone_that_is_there_are_refused_before_anything_is_written(tmp_path):
    settings = settings_of("nowhere.keras")
    with pytest.raises(FileNotFoundError, match=r"nowhere.keras' is not there"):
        train(settings, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


LOADED = """
import sys, numpy as np, keras, macl_tf
from macl_tf.models.descriptors import all_descriptors, descriptor_model, descriptors_of, turned
encoder = keras.saving.load_model(sys.argv[1], compile=False)
pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype("float32")
model, widths = all_descriptors(encoder, turns=2)
models = {name: turned(descriptor_model(encoder, name), 2) for name in descriptors_of(encoder)}
found = {name: model.predict(pixels, verbose=0) for name, model in models.items()}
np.savez(sys.argv[2], all=model.predict(pixels, verbose=0), **found)
"""


@pytest.mark.slow
def test_an_encoder_from_a_file_has_all_its_descriptors_in_a_new_process(tmp_path, run_python):
    """Whatever names Keras gave to layers when the file was written, and gives again where it is read."""

    def backbone(scaled):
        x = keras.layers.Conv2D(4, 3, strides=2)(scaled)
        x = keras.layers.Concatenate()([keras.layers.Activation("relu")(x), keras.layers.Rescaling(2.0)(x)])
        return keras.layers.UnitNormalization()(x)

    keras.utils.clear_session()  # names begin from nothing, as they will in the new process
    encoder = classified(build_encoder(32, backbone=backbone, embedding_dim=4), 3)
    encoder.save(tmp_path / "encoder.keras")
    renamed = keras.saving.load_model(tmp_path / "encoder.keras", compile=False)
    run_python(LOADED, tmp_path / "encoder.keras", tmp_path / "found.npz", warm=True)
    with np.load(tmp_path / "found.npz") as found:
        for name in ("projection", "backbone", "robust", "probabilities", "backbone+probabilities"):
            expected = turned(descriptor_model(renamed, name), 2).predict(PIXELS, verbose=0)
            np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_robust_keeps_the_backbone_as_it_began_beside_the_trained_one(backbone, tmp_path):
    settings = settings_of(backbone, trainable="all", learning_rate=0.05, epochs=2, classification_weight=1.0)
    result = train(settings, tmp_path / "run", progress=False)
    encoder = read_encoder(tmp_path / "run")
    f, z, robust = (
        descriptor_model(encoder, name).predict(PIXELS, verbose=0) for name in ("backbone", "projection", "robust")
    )
    began = keras.saving.load_model(backbone, compile=False).predict(PIXELS, verbose=0).mean((1, 2))
    began /= np.linalg.norm(began, axis=1, keepdims=True)
    assert np.abs(f - began).max() > 0.05
    np.testing.assert_allclose(robust, np.concatenate([began, z], axis=1) / np.sqrt(2), atol=1e-6)
    kept = np.load(tmp_path / "run" / FAMILIAR)
    np.testing.assert_allclose(kept, of_training_tiles(tmp_path / "run")[:, :-8] * np.sqrt(2), atol=2e-3)
    assert result["trained"]["robust"] == evaluate_run(tmp_path / "run", progress=False).reports["robust"].to_dict()
    # Only this descriptor takes the second pass.
    layers = {name: {layer.name for layer in descriptor_model(encoder, name).layers} for name in ("robust", "backbone")}
    assert "pretrained" in layers["robust"] and "pretrained" not in layers["backbone"]
    # Another run begins with the trained weights, which have the same names.
    again = build_encoder(32, backbone=backbone, embedding_dim=8, weights=tmp_path / "run" / "encoder.keras")
    np.testing.assert_allclose(again.predict(PIXELS, verbose=0), z, atol=1e-6)
