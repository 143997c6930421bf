"""Windows of scenes are embedded as the tiles that `macl tile` writes of them, on one machine and as a pipeline."""

import os
from functools import partial

import numpy as np
import pytest

from macl_tf.cli import main
from macl_tf.datasets.bands import Bands
from macl_tf.embedding.beam import beam_options, embed_on_beam
from macl_tf.embedding.embedding import embed_images
from macl_tf.embedding.scenes import SceneSource
from macl_tf.embedding.sources import FolderSource
from macl_tf.tiling.options import Options
from macl_tf.tiling.tile import tile
from tests.scene_files import UTM, raster
from tests.stub_encoder import DIM, SIZE, StubEncoder
from tests.test_beam import rows
from tests.test_embedding import bad_files

INFO = {"labels": [], "dim": DIM, "image_size": SIZE, **StubEncoder().info}
OPTIONS = Options(size=32, stride=24, bands=(3, 2, 1))
SMALL = {"shard_size": 7, "thumbnail_size": 12, "batch_size": 3}
GENERATOR = np.random.default_rng(0)


@pytest.fixture
def scenes(tmp_path):
    """Two scenes of four bands, the first of them empty at one side, and a file that is none."""
    root = tmp_path / "scenes"
    for name, shape in (("a/west.tif", (70, 100)), ("east.tif", (40, 64))):
        values = GENERATOR.integers(1, 256, (4, *shape), dtype=np.uint8)
        if name == "a/west.tif":
            values[:, :, :40] = 0
        raster(root / name, values, crs=UTM, nodata=0)
    (root / "broken.tif").write_bytes(b"II*\0 no scene")
    return root


def local(source, output):
    return embed_images(StubEncoder(label_names=()), source, output, progress=False, **SMALL)


def by_id(output):
    """Each row but for the name of the folder that it comes from; the orders differ."""
    columns = {name: values for name, values in rows(output).items() if name not in ("names", "sources")}
    return {row[0]: row for row in zip(*columns.values(), strict=True)}


def of_tiles(scenes, tmp_path):
    """The rows of the tiles that `macl tile` writes, which lie in another folder."""
    tile([scenes], tmp_path / "cut", OPTIONS, progress=False)
    local(FolderSource(tmp_path / "cut"), tmp_path / "of_tiles")
    return by_id(tmp_path / "of_tiles")


def test_the_rows_are_those_of_the_tiles_on_one_machine_and_as_a_pipeline(scenes, tmp_path):
    expected = of_tiles(scenes, tmp_path)
    source = SceneSource([scenes], OPTIONS)
    report = local(source, tmp_path / "here")
    assert by_id(tmp_path / "here") == expected
    assert source.count() == report.embedded + report.bad and report.bad == len(bad_files(tmp_path / "here")) == 6
    said = bad_files(tmp_path / "here")
    assert "broken.tif" in said and said.pop("broken.tif")
    assert said["tiles/west/west_00_00.tif"] == "100.0% of it is without data, and --max-nodata is 0.5"
    assert all("is without data" in reason for reason in said.values())
    load, options = partial(StubEncoder, label_names=()), beam_options("DirectRunner")
    embed_on_beam(load, INFO, 1, source, "", str(tmp_path / "beam"), options, windows=OPTIONS, **SMALL)
    assert by_id(tmp_path / "beam") == expected and bad_files(tmp_path / "beam") == bad_files(tmp_path / "here")


def test_a_scene_that_changed_and_scenes_that_are_cut_otherwise_are_embedded_anew(scenes, tmp_path):
    output = tmp_path / "out"
    first = local(SceneSource([scenes], OPTIONS), output)
    assert local(SceneSource([scenes], OPTIONS), output).embedded == 0
    raster(scenes / "east.tif", np.full((4, 40, 64), 9, np.uint8), crs=UTM, nodata=0)
    again = local(SceneSource([scenes], OPTIONS), output)
    assert again.embedded == again.changed == len([name for name in rows(output)["ids"] if "east" in name])
    other = local(SceneSource([scenes], Options(size=32, stride=24, bands=(1, 2, 3))), output)
    assert other.embedded == other.changed == first.embedded


def test_bands_are_found_by_their_names(tmp_path):
    values = GENERATOR.integers(0, 4000, (3, 40, 40)).astype(np.uint16)
    raster(tmp_path / "scene.tif", values, crs=UTM, descriptions=("nir", "red", "green"))
    bands = Bands(("red", "nir"), (0, 0, 0), low=(0, 0), high=(4000, 4000))
    (one,) = SceneSource([tmp_path / "scene.tif"], Options(size=40), reader=bands)
    np.testing.assert_array_equal(one.read(), values[[1, 0]].transpose(1, 2, 0))
    assert np.isfinite(one.header().footprint).all()


def test_a_scene_that_cannot_be_opened_now_is_tried_again(scenes, tmp_path):
    os.rename(scenes / "east.tif", tmp_path / "kept.tif")
    os.symlink(tmp_path / "away.tif", scenes / "east.tif")
    output = tmp_path / "out"
    local(SceneSource([scenes], OPTIONS), output)
    os.rename(tmp_path / "kept.tif", tmp_path / "away.tif")
    report = local(SceneSource([scenes], OPTIONS), output)
    assert report.embedded == len([name for name in rows(output)["ids"] if "east" in name]) > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stride", "8"], "--stride is for windows of scenes: give --windows SIZE too"),
        (["--max-nodata", "0"], "--max-nodata is for windows"),
        (["--windows", "4"], "size must be >= 8 pixels, got 4"),
        (["--windows", "64", "--bands", "a"], "bands must be numbers like 4,3,2, got a"),
        (["--windows", "64", "--table", "x.csv"], "--table is for tiles that are files"),
    ],
)
def test_what_does_not_go_together_is_said(words, message, tmp_path, capsys):
    assert main(["embed", "served", "--input", str(tmp_path), "--output", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
