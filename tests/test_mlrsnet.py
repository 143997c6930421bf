"""MLRSNet on generated archives: its spellings, and what went wrong in its tables. Why plain pytest: see test_ucm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from macl_tf.datasets import load_archive
from macl_tf.datasets.mlrsnet import LABEL_NAMES, Mlrsnet
from tests.generated import MLRSNET_LABELS, MLRSNET_TILES, label_rows, photo, save, write_mlrsnet

WHOLE = (
    "some 500 more damaged rows cannot be told from others; the labels of commit cd5ca1c of "
    "github.com/cugbrs/MLRSNet (June 2020) are whole"
)


def held(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    listing = Mlrsnet.list_records(*Mlrsnet.source_paths(root))
    labels = {record.path.name: [LABEL_NAMES[place] for place in np.flatnonzero(record.labels)]
              for record in listing.records}  # fmt: skip
    return labels, [*listing.notes]


EXPECTED = {
    f"{category}_{number:05}.jpg": sorted(labels)
    for category, tiles in MLRSNET_TILES.items()
    for number, labels in enumerate(tiles, start=1)
}


def test_tables_of_all_categories_are_joined(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path / "MLRSNet")
    archive = load_archive("mlrsnet", tmp_path, cache_dir=tmp_path / "cache")
    assert archive.label_names == MLRSNET_LABELS
    assert archive.scenes == ("airplane", "airplane", "harbor&port", "harbor&port", "swimmimg_pool", "swimmimg_pool")
    assert archive.file_names[2] == "harbor&port/harbor&port_00001.jpg"
    assert {name.split("/")[1]: [MLRSNET_LABELS[place] for place in np.flatnonzero(row)]
            for name, row in zip(archive.file_names, archive.labels, strict=True)} == EXPECTED  # fmt: skip
    assert archive.notes == ("1 image has no label and was kept: harbor&port/harbor&port_00002.jpg",)


@pytest.mark.parametrize("order", [sorted(MLRSNET_LABELS, reverse=True), [name.title() for name in MLRSNET_LABELS]])
def test_columns_in_any_order_and_spelling(order: list[str], tmp_path: Path) -> None:
    write_mlrsnet(tmp_path / "MLRSNet", header=MLRSNET_LABELS)
    stems = [f"airplane_{number:05}.jpg" for number in (1, 2)]
    labels = np.array([[int(name.lower() in tile) for name in order] for tile in MLRSNET_TILES["airplane"]])
    rows = label_rows(stems, labels, ",", "image", ["Harbor" if name == "Habor" else name for name in order], "\n")
    (tmp_path / "MLRSNet/Labels/airplane.csv").write_bytes(rows)
    assert held(tmp_path) == (EXPECTED, [])


def test_a_blank_name_is_the_one_that_is_missing(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path / "MLRSNet")
    path = tmp_path / "MLRSNet/Labels/airplane.csv"
    path.write_bytes(path.read_bytes().replace(b",snowberg,", b",  ,"))
    assert held(tmp_path) == (EXPECTED, ["airplane.csv: the column without a name was taken for 'snowberg'"])


@pytest.mark.parametrize("filled", [("pavement", "road"), ("grass", "water")])
def test_rows_filled_in_over_their_neighbours_are_left_out(tmp_path: Path, filled: tuple[str, str]) -> None:
    write_mlrsnet(tmp_path / "MLRSNet")
    names = ["intersection_00001.jpg", "intersection_00002.jpg"]
    labels = np.zeros((2, 60), np.uint8)
    labels[0, MLRSNET_LABELS.index(filled[0]) : MLRSNET_LABELS.index(filled[1]) + 1] = 1
    labels[1, [MLRSNET_LABELS.index(name) for name in filled]] = 1
    rows = label_rows(names, labels, ",", "image", MLRSNET_LABELS, "\n")
    (tmp_path / "MLRSNet/Labels/intersection.csv").write_bytes(rows)
    for seed, name in enumerate(names):
        save(tmp_path / "MLRSNet/Images/intersection" / name, photo(seed))
    labels_of, notes = held(tmp_path)
    assert labels_of == {**EXPECTED, names[1]: sorted(filled)}
    left = "1 row is damaged, a label filled in over its neighbours, and left out with the image"
    assert notes == [f"{left}: {names[0]}", WHOLE]


@pytest.mark.parametrize(("category", "label"), [("stadium", "stadium"), ("storage_tank", "tanks")])
def test_a_label_that_its_own_category_lacks_is_put_back(tmp_path: Path, category: str, label: str) -> None:
    write_mlrsnet(tmp_path / "MLRSNet")
    name = f"{category}_00001.jpg"
    rows = label_rows([name], np.eye(60, dtype=np.uint8)[[56]], ",", "image", MLRSNET_LABELS, "\n")
    (tmp_path / f"MLRSNet/Labels/{category}.csv").write_bytes(rows)
    save(tmp_path / "MLRSNet/Images" / category / name, photo(0))
    labels, notes = held(tmp_path)
    assert labels[name] == sorted([label, MLRSNET_LABELS[56]])
    assert notes == [f"{category}.csv: no row had the label {label!r}, which all 1 tiles hold"]


def test_images_without_tables(tmp_path: Path) -> None:
    save(tmp_path / "MLRSNet/Images/airplane/airplane_00001.jpg", photo(0))
    with pytest.raises(FileNotFoundError, match=r"no label table <category>\.csv with 60 labels"):
        load_archive("mlrsnet", tmp_path, cache_dir=tmp_path / "cache")
