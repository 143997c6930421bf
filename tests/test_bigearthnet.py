"""BigEarthNet in both versions, as they lie on disk: generated patches of the real bands, sizes, names and lists."""

import bz2
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from macl_tf import cli
from macl_tf.datasets import load_archive
from macl_tf.datasets.bigearthnet import BANDS, LABELS, NOMENCLATURE
from tests.test_bands import write

SIDES = dict.fromkeys(BANDS, 12) | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 6)
SIDES |= {"B01": 2, "B09": 2}
ARABLE, SEA, PORT = "Non-irrigated arable land", "Sea and ocean", "Port areas"


def patch(folder, name, number, labels=None):
    rng = np.random.default_rng(number)
    for band, side in SIDES.items():
        values = rng.normal(1000 + 800 * (number % 2), 90, (1, side, side))
        write(folder / name / f"{name}_{band}.tif", values.astype("uint16"))
    if labels is not None:
        facts = {"labels": labels, "acquisition_date": "2017-06-13 10:10:31", "projection": "", "tile_source": ""}
        (folder / name / f"{name}_labels_metadata.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """v1: a folder for each patch, with its labels, and the published lists beside them."""
    root = tmp_path_factory.mktemp("ben") / "BigEarthNet-v1.0"
    names = [f"S2A_MSIL2A_20170613T101031_{number}_48" for number in range(24)]
    for number, name in enumerate(names):
        patch(root, name, number, [SEA, PORT] if number % 2 else [ARABLE, "Pastures"])
    (root / names[5] / f"{names[5]}_labels_metadata.json").write_text("{torn")
    patch(root, "S2B_MSIL2A_20180204T94161_57_38", 99, [PORT])
    lists = {
        "train.csv": [*names[:14], "S2B_MSIL2A_20180204T94161_57_38"],
        "val.csv": names[14:18],
        "test.csv": names[18:23],
    }
    for name, rows in lists.items():
        (root.parent / name).write_text("\n".join(rows) + "\n")
    (root.parent / "patches_with_seasonal_snow.csv.bz2").write_bytes(bz2.compress(f"{names[2]}\n".encode()))
    return root, names


def test_the_first_version_with_its_lists(first, tmp_path):
    root, names = first
    archive = load_archive("bigearthnet", root, cache_dir=tmp_path)
    assert archive.label_names == LABELS[19] and len(archive.label_names) == 19
    held = dict(zip(archive.file_names, archive.labels, strict=True))
    assert names[2] not in held and names[5] not in held and names[23] not in held  # snow; torn; in no part
    assert len(archive) == 22
    assert [LABELS[19][c] for c in np.flatnonzero(held[names[0]])] == ["Arable land", "Pastures"]
    assert [LABELS[19][c] for c in np.flatnonzero(held[names[1]])] == ["Marine waters"]
    parts = dict(zip(archive.file_names, archive.official_split, strict=True))
    assert (parts[names[0]], parts[names[14]], parts[names[18]]) == ("train", "validation", "test")
    assert archive.default_split == "official"
    notes = "\n".join(archive.notes)
    assert "22 patches, v1, 19 labels" in notes and "patches with seasonal snow, left out: 1" in notes
    assert f"patches whose labels cannot be read, left out: 1 ({names[5]})" in notes
    assert (
        "patches with none of the 19 labels, kept: 1" in notes
        and "in no part of the official split, left out: 1" in notes
    )
    tile = archive.read_image(0)
    assert tile.shape == (12, 12, 12) and archive.bands.names == BANDS and archive.bands.rgb == (3, 2, 1)


def test_all_labels_and_some_bands(first, tmp_path):
    root, names = first
    bands = {"asked": "B04,B03,B02,B08", "rgb": ""}
    archive = load_archive("bigearthnet", root, cache_dir=tmp_path, classes=43, bands=bands)
    held = archive.labels[archive.file_names.index(names[1])]
    assert [LABELS[43][c] for c in np.flatnonzero(held)] == [SEA, PORT]
    assert archive.read_image(0).shape == (12, 12, 4) and archive.bands.rgb == (0, 1, 2)
    with pytest.raises(ValueError, match=r"bands must name bands of the tiles, B01, .* got 'B10'"):
        load_archive("bigearthnet", root, cache_dir=tmp_path, bands={"asked": "B10", "rgb": ""})
    with pytest.raises(ValueError, match="classes must be 19 or 43, got 20"):
        load_archive("bigearthnet", root, cache_dir=tmp_path, classes=20)


def test_labels_are_noted_and_a_call_that_was_stopped_goes_on(first, tmp_path, monkeypatch):
    from macl_tf.datasets import bigearthnet

    root, _ = first
    monkeypatch.setattr(bigearthnet, "_PART", 5)
    read, stop = [], bigearthnet._labels

    def counted(folder, name):
        read.append(name)
        if len(read) > 12:
            raise KeyboardInterrupt
        return stop(folder, name)

    monkeypatch.setattr(bigearthnet, "_labels", counted)
    with pytest.raises(KeyboardInterrupt):
        load_archive("bigearthnet", root, cache_dir=tmp_path)
    assert len(list(tmp_path.rglob("*.json"))) == 2  # whole parts
    monkeypatch.setattr(bigearthnet, "_labels", lambda folder, name: read.append(name) or stop(folder, name))
    read.clear()
    archive = load_archive("bigearthnet", root, cache_dir=tmp_path)
    assert len(read) == 24 - 10 and len(archive) == 22
    read.clear()
    assert len(load_archive("bigearthnet", root, cache_dir=tmp_path)) == 22 and not read


@pytest.fixture
def second(tmp_path):
    """v2: folders of Sentinel-2 tiles, labels and parts in metadata.parquet."""
    tile, rows = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", []
    for number in range(9):
        name = f"{tile}_26_{number}"
        patch(tmp_path / "BigEarthNet-S2" / tile, name, number)
        labels = ["Marine waters"] if number % 2 else ["Arable land", "Urban fabric"]
        rows.append({"patch_id": name, "labels": labels, "split": ("train", "validation", "test")[number % 3]})
    rows.append({"patch_id": f"{tile}_80_80", "labels": ["Pastures"], "split": "train"})
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    return tmp_path


@pytest.mark.parametrize("given", ["", "BigEarthNet-S2"])
def test_the_second_version(second, tmp_path, given):
    archive = load_archive("bigearthnet", second / given, cache_dir=tmp_path / "cache")
    assert len(archive) == 9 and archive.official_split[:3] == ("train", "validation", "test")
    assert [LABELS[19][c] for c in np.flatnonzero(archive.labels[0])] == ["Urban fabric", "Arable land"]
    assert archive.read_image(4).shape == (12, 12, 12)
    assert "rows of metadata.parquet without a patch, left out: 1" in "\n".join(archive.notes)
    with pytest.raises(ValueError, match="classes must be 19 for BigEarthNet v2, got 43"):
        load_archive("bigearthnet", second / given, cache_dir=tmp_path, classes=43)


def test_the_nomenclature_is_whole():
    assert len(LABELS[43]) == len(set(LABELS[43])) == 43
    assert sum(map(len, NOMENCLATURE.values())) == 43 and len(NOMENCLATURE[""]) == 11


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"BigEarthNet was not found: there is no patch.*\n.*\n.*BigEarthNet-v1.0"
    ):
        load_archive("bigearthnet", tmp_path, cache_dir=tmp_path)


@pytest.mark.slow
def test_it_is_trained_on(first, small_encoder, tmp_path, capsys):
    root, _ = first
    sets = ("backbone=resnet18", "width=8", "image_size=32", "epochs=1", "batch_size=8", "bands=B02,B03,B04,B8A")
    words = [word for text in sets for word in ("--set", text)]
    run = str(tmp_path / "run")
    assert cli.main(["train", "--dataset", "bigearthnet", "--data-dir", str(root), "--run-dir", run, *words]) == 0
    assert "22 patches, v1, 19 labels" in "".join(capsys.readouterr())
    assert cli.main(["evaluate", "--run-dir", run]) == 0
