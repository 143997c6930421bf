"""A folder of images, searchable by a pretrained backbone without a label or any training."""

import numpy as np
import pytest
from PIL import Image

from macl_tf.cli import main
from macl_tf.embedding.shards import read_shards
from macl_tf.export.model_info import describe_backbone
from macl_tf.export.saved_model import ExportedEncoder
from macl_tf.models.descriptors import descriptor_model, turned
from macl_tf.models.encoders import build_encoder
from macl_tf.search.engine import SearchEngine
from macl_tf.training.settings import Settings

INDEX = ["--backbone", "efficientnet-lite0", "--image-size", "64", "--turns", "2", "--quiet"]


def texture(kind, seed):
    """A tile of fine or coarse noise: two kinds that any pretrained network tells apart."""
    rng = np.random.default_rng(seed)
    size = 64 if kind == "fine" else 4
    pixels = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
    return np.repeat(np.repeat(pixels, 64 // size, 0), 64 // size, 1)


@pytest.fixture
def tiles(tmp_path):
    folder = tmp_path / "tiles"
    folder.mkdir()
    for kind in ("fine", "coarse"):
        for seed in range(4):
            Image.fromarray(texture(kind, seed)).save(folder / f"{kind}{seed}.png")
    return folder


@pytest.mark.slow
def test_it_is_indexed_searched_and_brought_up_to_date(tiles, tmp_path, capsys):
    served = tmp_path / "served"
    command = ["index", str(tiles), *INDEX, "--output", str(served)]
    assert main(command) == 0
    assert "8 images embedded" in capsys.readouterr().out
    encoder = ExportedEncoder.load(served)
    assert (encoder.info["descriptor"], encoder.info["settings"]["weights"], encoder.label_names) == (
        "backbone",
        "imagenet",
        (),
    )
    model = build_encoder(64, backbone="efficientnet-lite0", weights="imagenet")
    expected = turned(descriptor_model(model, "backbone"), 2).predict(texture("fine", 9)[None], verbose=0)
    np.testing.assert_allclose(encoder.embed_pixels(texture("fine", 9)[None]), expected, rtol=1e-3, atol=1e-4)

    for kind in ("fine", "coarse"):
        assert main(["search", str(served), str(tiles / f"{kind}0.png"), "-k", "4"]) == 0
        found = [line.split()[2] for line in capsys.readouterr().out.splitlines()[2:] if line.strip()]
        assert found[0] == f"{kind}0.png" and all(name.startswith(kind) for name in found), found

    pytest.importorskip("openvino")
    assert main(["embed", str(served), "--input", str(tiles), "--output", str(tmp_path / "shards"), "--quiet"]) == 0
    fast = ["--output", str(tmp_path / "fast"), "--quiet", "--runtime", "openvino"]
    assert main(["embed", str(served), "--input", str(tiles), *fast]) == 0
    by_tensorflow, by_openvino = (read_shards(tmp_path / name)[1] for name in ("shards", "fast"))
    assert (by_tensorflow * by_openvino).sum(axis=1).min() > 0.999
    capsys.readouterr()

    Image.fromarray(texture("fine", 7)).save(tiles / "fine7.png")
    (tiles / "coarse3.png").unlink()
    assert main(command) == 0
    assert "1 image embedded" in capsys.readouterr().out.replace("1 images", "1 image")
    engine = SearchEngine.open(served)
    assert len(engine.index) == 8 and engine.index.snapshot.id_of("fine7.png") == "fine7.png"
    assert [path.name for path in (served / "encoder").iterdir() if path.name.isdigit()] == ["1"]  # the same one


def test_shards_of_another_size_or_turns_are_of_another_encoder():
    """By `encoder_sha256` shards find their encoder, whose weights are the same."""
    settings = [Settings(backbone="resnet18", descriptor="backbone", **changes)
                for changes in ({}, {"image_size": 96}, {"turns": 4})]  # fmt: skip
    assert len({describe_backbone(each, "00")["encoder_sha256"] for each in settings}) == 3


def test_what_is_wrong_is_said_and_nothing_written(tiles, tmp_path, capsys):
    served = tmp_path / "served"
    wrong = {
        ("index", str(tmp_path / "none"), *INDEX): "must be a folder of images",
        ("index", str(tiles), "--backbone", "efficientnet-lite9"): "Did you mean efficientnet-lite",
        ("index", str(tiles), *INDEX, "--from", str(tmp_path)): "give one of them",
        ("index", str(tiles), *INDEX, "--image-size", "16"): "image_size must be at least 32",
    }
    for command, message in wrong.items():
        assert main([*command, "--output", str(served)]) != 0
        assert message in capsys.readouterr().err
        assert not served.exists()
