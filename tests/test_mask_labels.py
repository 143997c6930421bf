"""Labels by area of masks and a class table: the layouts of sets for segmentation, each drawn here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from macl_tf.datasets import load_archive
from macl_tf.datasets.class_tables import is_class_table, read_class_table
from macl_tf.datasets.folder import FolderArchive, load_folder
from macl_tf.datasets.mask_pairs import masks_among, pair_masks
from macl_tf.datasets.splits import split_archive
from tests.generated import half_and_half, photo, save, save_palette_mask

SEA, SAND = (0, 0, 255), (255, 192, 0)
TABLES = {
    "classes.csv": "name,value,ignore\nnothing,0,true\nsea,1,false\nsand,2,\n",
    "class_dict.csv": "\ufeffname;r;g;b\r\nnothing;0;0;0\r\nsea;0;0;255\r\nsand;255;192;0\r\n",
    "classes.tsv": "color\tname\tignore\n#000000\tnothing\tTRUE\n#0000ff\tsea\tFALSE\n255,192,0\tsand\t0\n",
    "classes.toml": "[[classes]]\nname = 'sea'\nvalue = 1\n[[classes]]\nname = 'sand'\nvalue = 2\n"
    "[[classes]]\nname = 'nothing'\nvalue = 0\nignore = true\n",
    "colours.toml": "sea = '#0000FF'\nsand = '255, 192, 0'\n",
    "lists.toml": "ignore = [0, 255]\n[classes]\nsea = 1\nsand = [2, 3]\n",
    "named.csv": "name,value\nignore,0\nsea,1\nsand,2\n",
    "both.csv": "name,value,color\nnothing,7,#010101\nsea,8,#0000ff\nsand,9,#ffc000\n",  # the masks hold these colours
}


def colour_mask(raw: np.ndarray) -> np.ndarray:
    return np.array([(0, 0, 0), SEA, SAND], np.uint8)[raw]


def write_tiles(root: Path, *, table: str = "classes.csv") -> None:
    """Two tiles and their palette masks: sea and sand; a fifth of sea and else nothing."""
    for number, raw in enumerate((half_and_half(1, 2), half_and_half(1, 0, share=0.2))):
        save(root / f"images/{number}.png", photo(number))
        save_palette_mask(root / f"masks/{number}.png", raw, (SEA, SAND))
    (root / table).write_text(TABLES[table], encoding="utf-8", newline="")


def shares(archive: FolderArchive) -> list[dict[str, float]]:
    assert archive.label_areas is not None
    return [
        dict(zip(archive.label_names, np.round(row.astype(float), 2).tolist(), strict=True))
        for row in archive.label_areas
    ]


@pytest.mark.parametrize("table", TABLES)
def test_class_tables_as_people_write_them(tmp_path: Path, table: str) -> None:
    write_tiles(tmp_path, table=table)
    archive = load_folder(tmp_path)
    known = {"sea": 0.5, "sand": 0.5}, {"sea": 0.2, "sand": 0.0}
    held = [{name: share for name, share in row.items() if name != "nothing"} for row in shares(archive)]
    assert (archive.file_names, held) == (("images/0.png", "images/1.png"), [*known])
    assert archive.notes[:2] == (
        f"2 images with {len(archive.label_names)} labels, table {table}",
        f"labels by area of masks, classes of {table}",
    )


@pytest.mark.parametrize(
    ("least", "labels"), [(0.0, [[1, 1], [1, 0]]), (0.2, [[1, 1], [1, 0]]), (0.3, [[1, 1], [0, 0]])]
)
def test_a_least_area(tmp_path: Path, least: float, labels: list[list[int]]) -> None:
    write_tiles(tmp_path)
    assert load_archive("folder", tmp_path, cache_dir=tmp_path / "cache", min_area=least).labels.tolist() == labels


def test_a_least_area_needs_masks(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "labels.csv").write_text("image,sea\nimages/0.png,1\n")
    assert load_folder(tmp_path).label_areas is None  # a label table goes first
    with pytest.raises(ValueError, match=r"min_area must be 0 for .*, which has no masks with a class table, got 0\.1"):
        load_folder(tmp_path, min_area=0.1)
    assert load_folder(tmp_path, "classes.csv", min_area=0.1).label_areas is not None


def test_the_layouts_of_published_sets(tmp_path: Path) -> None:
    raw = half_and_half(1, 2)
    for number, place in enumerate(("Train/Urban", "Train/Rural", "Val/Urban")):  # LoveDA: grey masks
        save(tmp_path / f"loveda/{place}/images_png/7.png", photo(number))
        save(tmp_path / f"loveda/{place}/masks_png/7.png", raw.astype(np.uint8))
    save(tmp_path / "deepglobe/train/119_sat.jpg", photo(3))
    save(tmp_path / "deepglobe/train/119_mask.png", colour_mask(raw))
    save(tmp_path / "potsdam/2_Ortho_RGB/top_potsdam_2_10_RGB.tif", photo(4))
    save(tmp_path / "potsdam/5_Labels/top_potsdam_2_10_label.tif", colour_mask(raw))
    save(tmp_path / "voc/JPEGImages/2.jpg", photo(5))
    save_palette_mask(tmp_path / "voc/SegmentationClass/2.png", raw, (SEA, SAND))
    for name, table in (
        ("voc", "classes.csv"),
        ("loveda", "classes.csv"),
        ("deepglobe", "class_dict.csv"),
        ("potsdam", "class_dict.csv"),
    ):
        (tmp_path / name / table).write_text(TABLES[table], encoding="utf-8")
    loveda = load_folder(tmp_path / "loveda")
    assert [*shares(loveda)] == [{"sea": 0.5, "sand": 0.5}] * 3
    assert loveda.official_split == ("train", "train", "test") and loveda.default_split == "official"
    assert split_archive(loveda, validation=0).kind == "official"
    for name in ("deepglobe", "potsdam", "voc"):
        (row,) = shares(load_folder(tmp_path / name))
        assert (row["sea"], row["sand"]) == (0.5, 0.5)


def test_pairs_are_told_by_their_names() -> None:
    names = ["img/a_1.tif", "msk/a_1.tif", "img/a_2.tif", "IMG_3.png", "MSK_3.png", "gt/9.png", "overview.png"]
    masks = masks_among(names)
    assert masks == {"msk/a_1.tif", "MSK_3.png", "gt/9.png"}
    pairs, doubtful = pair_masks([name for name in names if name not in masks], masks)
    assert pairs == {"img/a_1.tif": "msk/a_1.tif", "IMG_3.png": "MSK_3.png"}
    assert doubtful == {}


def test_what_is_wrong_is_counted_and_named(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    save(tmp_path / "images/2.png", photo(2))
    save(tmp_path / "images/3.png", photo(3))
    (tmp_path / "masks/3.png").write_bytes(b"torn")
    save(tmp_path / "masks/4.png", half_and_half(1, 9).astype(np.uint8))
    save(tmp_path / "images/4.png", photo(4))
    save(tmp_path / "masks/5.png", half_and_half(1, 1).astype(np.uint8))
    archive = load_folder(tmp_path)
    found = {(finding.problem, finding.name) for finding in archive.report.findings}
    assert found == {("unmasked", "images/2.png"), ("unmasked", "images/3.png"), ("unreadable", "masks/3.png")}
    assert "in the masks, but not in the class table: 9 (16.67% of all pixels), no label" in archive.notes
    assert "masks without an image: 1 (masks/5.png)" in archive.notes
    assert archive.file_names == ("images/0.png", "images/1.png", "images/4.png")


def test_masks_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "classes.csv").write_text("name,value\nsea,11\nsand,12\n")
    with pytest.raises(
        ValueError, match=r"100% of their pixels have others: 0, 1, 2\. Add them to it, with ignore=true"
    ):
        load_folder(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(ValueError, match=r"must be a lossless mask, got a JPEG, .* Save it as PNG"):
        load_folder(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"must hold a mask for each tile, beside the class table classes\.csv"):
        load_folder(tmp_path)


def test_a_label_table_names_the_tile_and_not_its_mask(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "labels.csv").write_text("image,sea\n0.png,1\n1,0\n")
    archive = load_folder(tmp_path)
    assert archive.file_names == ("images/0.png", "images/1.png")
    assert archive.notes[1] == "masks beside the images, not read: 2"
    assert archive.report.findings == (("unlabelled", "images/1.png", ""),)


def test_masks_without_a_class_table_are_no_tiles(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "classes.csv").unlink()
    archive = load_folder(tmp_path)
    assert (archive.file_names, archive.label_names) == (("images/0.png", "images/1.png"), ())
    assert "2 masks and no class table: the images have no labels. Write one" in archive.notes[1]


def test_masks_are_remembered_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiles(tmp_path / "data")
    load_folder(tmp_path / "data", cache_dir=tmp_path)
    read: list[str] = []
    from macl_tf.datasets import folder_labels

    monkeypatch.setattr(folder_labels, "mask_histogram", lambda path, name: read.append(name) or {"1": 400})
    save_palette_mask(tmp_path / "data/masks/1.png", half_and_half(2, 2), (SEA, SAND))
    load_folder(tmp_path / "data", cache_dir=tmp_path)
    assert read == ["masks/1.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,value\nsea,1\nsand,1\n", "a value must stand for one label, but 1 stands for two"),
        ("name,color\nsea,#00f\n", "line 2: a colour must be like #ff8000 or 255 128 0, got '#00f'"),
        ("name,value,ignore\nsea,1,maybe\nsand,2,\n", "ignore must be true or false, got 'maybe'"),
        ("image,value\nsea,1\nsand,2\n", "must have the columns name and value, name and colour"),
        ("name,value\nsea,1\n...,2\n", "each value must have a name, or be called 'ignore', but 2 has none"),
    ],
)
def test_class_tables_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    assert not is_class_table(path)
    with pytest.raises(ValueError, match=rf"{message}.*Give each class a row name,value"):
        read_class_table(path)


@pytest.mark.parametrize(
    "text",
    [
        "name,value\nsea,1\nsand,x\n",
        "name,value\nsea,-1\nsand,2\n",
        "name,value\nsea,1\nsand,2\nsea,1\n",
        "name,value\nsea,1\nsea,2\n",
        "name,value,note\nsea,1,\nsand,2,\n",
        "name,value,color\nsea,1,\nsand,,#0000ff\n",
        "id,label\n1,sea\n2,sand\n3,sea\n",
    ],
)
def test_what_is_read_as_a_class_table_only_where_it_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    assert read_class_table(path).names[0] == "sea" and not is_class_table(path)


@pytest.mark.parametrize("text", ["lr = 0.5\n", "d = 2020-01-01\n", "[a.b]\nc = 1\n", "a = [[1]]\n", "a = [{}, 1]\n"])
def test_other_toml_beside_the_images_is_no_class_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    assert not is_class_table(tmp_path / "settings.toml")


def test_values_of_one_name_are_one_label(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    (tmp_path / "classes.csv").write_text("name,value\nshore,1\nnothing,0\nShore,2\n")
    assert read_class_table(tmp_path / "classes.csv").names == ("shore", "nothing")
    assert shares(load_folder(tmp_path)) == [{"shore": 1.0, "nothing": 0.0}, {"shore": 0.2, "nothing": 0.8}]
