"""Single-label retrieval as one system: scenes as labels, class batches, SPoC, several scales, figures by scene."""

import csv
import json

import keras
import numpy as np
import pytest
from PIL import Image

from macl_tf import cli
from macl_tf.datasets.archives import Archive, by_scene
from macl_tf.export.saved_model import ExportedEncoder, export_encoder
from macl_tf.models.descriptors import descriptor_model
from macl_tf.training.run_directory import ENCODER
from tests.runs import residual

SCENES = {"forest": (40, 90, 40), "harbour": (60, 90, 160), "quarry": (170, 150, 120)}


def archive(**fields):
    tile, names = np.zeros((8, 8, 3), np.uint8), tuple("abcd")
    return Archive("mine", ("sea", "sand"), names, np.ones((4, 2)), lambda index: tile, **fields)


def test_scenes_become_the_labels():
    scenes = ("port", "beach", "port", "dune")
    made = by_scene(archive(scenes=scenes, numbers=np.arange(4), label_areas=np.ones((4, 2))))
    assert made.label_names == ("beach", "dune", "port") and made.label_areas is None
    np.testing.assert_array_equal(made.labels, [[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert made.numbers.tolist() == [0, 1, 2, 3], "the split by blocks needs them"


def test_one_label_a_tile_is_a_scene_and_several_are_not():
    tile = np.zeros((8, 8, 3), np.uint8)
    single = Archive("mine", ("sea", "sand"), ("a", "b"), np.eye(2), lambda index: tile)
    assert by_scene(single) is single
    with pytest.raises(ValueError, match="labels=scene needs the scene of each tile, which mine does not have"):
        by_scene(archive())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiles in three tints, and a table that has other labels and a column for the scene."""
    root = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(72):
        scene = list(SCENES)[number % 3]
        noise = rng.normal(0, 60, (48, 48, 3))
        Image.fromarray(np.clip(SCENES[scene] + noise, 0, 255).astype(np.uint8)).save(root / f"t{number:02d}.png")
        rows.append((f"t{number:02d}", "wet|dry" if number % 2 else "dry", scene))
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels", "scene"), *rows])
    return root


@pytest.mark.slow
def test_the_system_trains_reports_by_scene_and_is_exported(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("macl_tf.models.backbones.resnet18", lambda scaled, **_: residual(scaled))
    words = [
        "backbone=resnet18",
        "width=16",
        "labels=scene",
        "loss=dcl",
        "batch_size=12",
        "images_per_class=4",
        "epochs=2",
        "test=0.3",
    ]
    settings = [part for word in words for part in ("--set", word)]
    run = tmp_path / "run"
    arguments = ["train", "--dataset", "folder", "--data-dir", str(folder), "--run-dir", str(run), "--quiet", *settings]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "by multi-scale" in said and "By scene, trained:" in said
    table = said[said.index("By scene") :].splitlines()
    head = table[2].split()
    assert head[-9:] == ["AP", "P@1", "P@10", "P@100", "R@1", "R@10", "R@100", "hit@10", "hit@100"]
    assert {line.split()[0] for line in table[4:8]} == {*SCENES, "mean"}

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["descriptor"] == "multi-scale" and set(metrics["trained"]) == {"spoc", "multi-scale"}
    by_name = {entry["name"]: entry for entry in metrics["trained"]["multi-scale"]["per_label"]}
    assert set(by_name) == set(SCENES)
    for entry in by_name.values():
        assert 0 < entry["recall@1"] < entry["recall@10"] <= entry["recall@100"] == 1
        assert entry["precision@1"] == entry["hit@1"] <= entry["hit@10"] <= 1
    # What exports is what was compared: the sum over scales, resizing and all.
    export_encoder(run, tmp_path / "served")
    exported = ExportedEncoder.load(tmp_path / "served")
    assert exported.info["descriptor"] == "multi-scale" and exported.dim == 16
    model = descriptor_model(keras.saving.load_model(run / ENCODER, compile=False), "multi-scale")
    pixels = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    cosine = (exported.embed_pixels(pixels) * model.predict_on_batch(pixels.astype(np.float32))).sum(axis=1)
    assert cosine.min() > 1 - 1e-5
