"""A folder for each class, no labels at all, and parts that lists, folders and several tables tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from macl_tf.datasets import load_archive
from macl_tf.datasets.archives import by_scene
from macl_tf.datasets.class_folders import class_folders
from macl_tf.datasets.folder import FolderArchive, load_folder
from macl_tf.datasets.split_lists import is_split_list, part_in_name
from macl_tf.datasets.splits import split_archive
from tests.generated import photo, save


def draw(root: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        save(root / name, photo(number, 6, 6))
    return root


def by_name(archive: FolderArchive) -> dict[str, str]:
    assert archive.official_split is not None
    return {Path(name).stem: part for name, part in zip(archive.file_names, archive.official_split, strict=True)}


def of_classes(*classes: str, each: int = 2) -> list[str]:
    return [f"{folder}/{folder.split('/')[-1]}{number:02}.tif" for folder in classes for number in range(each)]


def test_class_folders_are_scenes(tmp_path: Path) -> None:
    draw(tmp_path / "Images", of_classes("beach", "airplane"))
    archive = load_archive("folder", tmp_path, cache_dir=tmp_path / "cache")
    assert archive.label_names == ("airplane", "beach")
    assert archive.scenes == ("airplane", "airplane", "beach", "beach")
    assert archive.labels.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert archive.notes[:2] == (
        "4 images with 2 labels",
        "no label table: each of 2 folders was taken for a class (airplane 2, beach 2); where they are something else, "
        "name a label table by --table",
    )
    assert by_scene(archive).label_names == archive.label_names


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("EuroSAT/2750/AnnualCrop", "EuroSAT/2750/SeaLake"), {"AnnualCrop", "SeaLake"}),
        (("NWPU-RESISC45/airplane", "NWPU-RESISC45/bridge"), {"airplane", "bridge"}),
        (("train/beach", "test/beach", "train/forest"), {"beach", "forest"}),
        (("beach/images", "forest/images"), {"beach", "forest"}),
        (("airport/airport_0", "airport/airport_1", "zoo/zoo_0"), {"airport", "zoo"}),  # fMoW
        (("1 water", "dense residential", "golf course", "harbor", "river", "runway"), {"1 water", "river"}),
        (("2021", "2022"), set()),
        (("N32E010", "N33E011"), set()),
        (("tile_001", "tile_002"), set()),
        (("32TQM", "33UUP"), set()),
        (("10/512", "10/513"), set()),
        (("rgb", "nir"), set()),
        (("before", "after"), set()),
        (("images",), set()),
        (("berlin/north", "paris/south"), set()),
        (("photos", "masks"), set()),
        ((".",), set()),
    ],
)
def test_which_folders_are_classes(folders: tuple[str, ...], classes: set[str]) -> None:
    found, note = class_folders([f"{folder}/{number}.png" for folder in folders for number in range(3)])
    assert classes <= set(found) and bool(found) == bool(classes)
    assert ("was taken for a class" in note) == bool(classes) and note.startswith("no label table")


def test_one_image_in_each_folder_is_no_class() -> None:
    assert class_folders(of_classes("beach", "forest", "river", each=1))[0] == []


def test_a_few_images_beside_the_folders_are_left_out_and_named(tmp_path: Path) -> None:
    draw(tmp_path, [*of_classes("beach", "forest", each=10), "overview.png"])
    archive = load_folder(tmp_path)
    assert len(archive) == 20
    assert "images beside the class folders, left out: 1 (overview.png)" in archive.notes


def test_without_table_and_classes_there_are_no_labels(tmp_path: Path) -> None:
    draw(tmp_path, ["a.png", "b.png"])
    archive = load_folder(tmp_path)
    assert (archive.label_names, archive.labels.shape, archive.scenes) == ((), (2, 0), None)
    assert archive.notes == (
        "2 images with 0 labels",
        "no label table, and no folders of a class each: the images have no labels",
    )


def write_lists(root: Path, **lists: str) -> None:
    for name, text in lists.items():
        (root / f"{name.replace('__', '-')}.txt").write_text(text, newline="")


def test_published_lists_are_the_official_split(tmp_path: Path) -> None:
    draw(tmp_path / "UCMerced_LandUse/Images", of_classes("beach", "forest", each=3))
    write_lists(
        tmp_path,
        uc_merced__train="beach00.tif\r\nforest00.tif\r\n",  # torchgeo's
        uc_merced__val="beach01.tif\nforest01.tif\n",
        uc_merced__test="beach02.tif\nforest02.tif\nriver00.tif\n",
    )
    archive = load_folder(tmp_path)
    expected = {"00": "train", "01": "validation", "02": "test"}
    assert by_name(archive) == {f"{scene}{n}": part for scene in ("beach", "forest") for n, part in expected.items()}
    assert archive.default_split == "official"
    assert split_archive(archive).note == "official split, with its own validation part"
    assert "names in the split lists without an image: 1 (river00.tif)" in archive.notes
    assert (
        archive.notes[2] == "the official split is that of uc_merced-test.txt, uc_merced-train.txt, uc_merced-val.txt"
    )


def test_lists_with_paths_numbers_and_no_validation(tmp_path: Path) -> None:
    draw(tmp_path, of_classes("beach", "forest", each=3))
    (tmp_path / "ImageSets").mkdir()
    write_lists(
        tmp_path / "ImageSets",
        train="beach/beach00.tif 0\nforest/forest00.tif 1\nbeach/beach02.tif 0\n",
        val="beach/beach01.tif 0\nforest/forest01.tif 1\n",
        trainval="beach/beach00.tif 0\nbeach/beach01.tif 0\n",
    )
    archive = load_folder(tmp_path)
    assert by_name(archive) == {
        "beach00": "train", "beach01": "test", "beach02": "train", "forest00": "train", "forest01": "test",
    }  # fmt: skip
    assert "there is no test list: val.txt is the test part" in archive.notes
    assert "images in none of the split lists, left out: 1 (forest/forest02.tif)" in archive.notes


def test_lists_go_with_a_label_table(tmp_path: Path) -> None:
    draw(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "labels.csv").write_text("image,sea\na,1\nb,0\nc,1\n")
    write_lists(tmp_path, train="a\nb\n", test="c\n")
    assert by_name(load_folder(tmp_path)) == {"a": "train", "b": "train", "c": "test"}
    (tmp_path / "labels.csv").write_text("image,sea,split\na,1,test\nb,0,train\nc,1,train\n")
    archive = load_folder(tmp_path)
    assert by_name(archive) == {"a": "test", "b": "train", "c": "train"}
    assert "split lists beside a split, not used" in archive.notes


def test_an_image_in_two_lists_is_left_out(tmp_path: Path) -> None:
    draw(tmp_path, of_classes("beach", "forest"))
    write_lists(tmp_path, train="beach00\nforest00\nbeach01\n", test="beach01\nforest01\n")
    archive = load_folder(tmp_path)
    assert set(by_name(archive)) == {"beach00", "forest00", "forest01"}
    assert any(finding.problem == "conflicting" for finding in archive.report.findings)


def test_several_sets_of_lists(tmp_path: Path) -> None:
    draw(tmp_path, of_classes("beach", "forest"))
    write_lists(tmp_path, euro__train="beach00\n", euro__test="forest01\n", spatial__train="a\n", spatial__test="b\n")
    archive = load_folder(tmp_path)
    assert archive.official_split is None
    assert any(note.startswith("several sets of split lists, none used (leave one there)") for note in archive.notes)
    write_lists(tmp_path, train="beach00\nforest00\n", test="beach01\nforest01\n")
    assert by_name(load_folder(tmp_path))["beach01"] == "test"


def test_lists_that_name_no_image(tmp_path: Path) -> None:
    draw(tmp_path, of_classes("beach", "forest"))
    write_lists(tmp_path, train="x\n", test="y\n")
    with pytest.raises(ValueError, match=r"the split lists test\.txt and train\.txt in .* must name its images"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("train.txt", "a.tif\nb.tif\n", True),
        ("AID_train_list.txt", "Airport/airport_1.jpg 0\n", True),
        ("val.txt", "my tile 1.png\n", True),
        ("test.txt", "image sea sand\na 1 0\n", False),
        ("test.txt", "a.jpg 0 1\nb.jpg 1 1\n", False),  # labels without a header
        ("train.csv", "a\n", False),
        ("classes.txt", "sea\nsand\n", False),
    ],
)
def test_what_is_a_list_of_names(tmp_path: Path, name: str, text: str, expected: bool) -> None:
    (tmp_path / name).write_text(text)
    assert is_split_list(tmp_path / name) == expected


def test_the_part_that_a_name_tells() -> None:
    assert part_in_name("eurosat-spatial-val.txt") == ("validation", "eurosat spatial txt")
    assert part_in_name("train_test.txt") is None and part_in_name("training_area.csv") == ("train", "area csv")


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "valid.csv", "test.csv"),
        ("Train_labels.csv", "Test_labels.csv"),
        ("instances_train2017.csv", "instances_val2017.csv"),
    ],
)
def test_a_table_for_each_part(tmp_path: Path, names: tuple[str, ...]) -> None:
    draw(tmp_path, [f"{letter}.png" for letter in "abc"[: len(names)]])
    for letter, name in zip("abc", names, strict=False):
        (tmp_path / name).write_text(f"image,sea\n{letter}.png,1\n")
    archive = load_folder(tmp_path)
    assert [*by_name(archive).values()] == [part_in_name(name)[0] for name in names]
    assert archive.notes[0] == f"{len(names)} images with 1 labels, table {' and '.join(sorted(names))}"


def test_a_table_in_the_folder_of_each_part(tmp_path: Path) -> None:
    """As Roboflow exports multi-label classification; tiles of two parts may be called alike."""
    for part, held in (("train", 1), ("valid", 0), ("test", 1)):
        draw(tmp_path / part, ["1.jpg"])
        (tmp_path / part / "_classes.csv").write_text(f"filename, sea, sand\n1.jpg, {held}, 1\n")
    archive = load_folder(tmp_path)
    assert archive.file_names == ("test/1.jpg", "train/1.jpg", "valid/1.jpg")
    assert (archive.official_split, archive.labels.tolist()) == (
        ("test", "train", "validation"),
        [[1, 1], [1, 1], [0, 1]],
    )


def test_tables_of_parts_must_agree(tmp_path: Path) -> None:
    draw(tmp_path, ["a.png", "b.png"])
    (tmp_path / "train.csv").write_text("image,sea\na,1\n")
    (tmp_path / "test.csv").write_text("image,sand\nb,1\n")
    with pytest.raises(ValueError, match=r"the tables of the parts must have the same columns, .* Name one by --table"):
        load_folder(tmp_path)
    (tmp_path / "other.csv").write_text("image,sand\nb,1\n")
    with pytest.raises(ValueError, match="must hold one label table, got 3"):
        load_folder(tmp_path)
