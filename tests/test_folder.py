"""Your own archive: every kind of image, and everything that can be wrong with them, before training."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from macl_tf.datasets import folder as folder_module
from macl_tf.datasets import remembering
from macl_tf.datasets.folder import load_folder, read_all
from macl_tf.datasets.images import RGB
from macl_tf.datasets.splits import split_archive
from tests.generated import photo
from tests.pictures import encoded
from tests.tiffs import refused_tiffs


def draw(path: Path, value: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 5), value).save(path)
    return path


def write_table(folder: Path, text: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def problems(archive: folder_module.FolderArchive) -> list[tuple[str, str]]:
    return [(finding.problem, finding.name) for finding in archive.report.findings]


def test_every_common_kind_of_image_at_any_depth(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    draw(tmp_path / "deep/er/b.JPG")
    draw(tmp_path / "c.bmp")
    draw(tmp_path / "d.gif", 1, "P")
    draw(tmp_path / "with space/é.webp")
    Image.new("L", (6, 5), 0x80).save(tmp_path / "grey.tif")
    draw(tmp_path / "opaque.tiff", 0, "RGBA").write_bytes(encoded(Image.new("RGBA", (6, 5), (9, 8, 7, 255)), "TIFF"))
    draw(tmp_path / "alpha.png", 0, "RGBA")
    names = ["a", "alpha", "b", "c", "d", "grey", "opaque", "é"]
    write_table(tmp_path, "image,labels\n" + "".join(f"{name},x\n" for name in names))
    archive = load_folder(tmp_path)
    assert archive.file_names == (
        "a.png",
        "alpha.png",
        "c.bmp",
        "d.gif",
        "deep/er/b.JPG",
        "grey.tif",
        "opaque.tiff",
        "with space/é.webp",
    )
    images = [archive.read_image(index) for index in range(len(archive))]
    assert {(image.shape, image.dtype.name) for image in images} == {((5, 6, 3), "uint8")}
    assert (images[5] == 0x80).all()
    assert (images[6] == (9, 8, 7)).all()
    assert archive.report.findings == ()
    assert archive.notes == (
        "8 images with 1 labels, table labels.csv",
        "column 'labels' read as lists of labels",
        "images of each label: x 8",
    )


def test_everything_wrong_is_found_counted_and_named(tmp_path: Path) -> None:
    for name in ("good", "bare", "twice", "torn", "orphan", "two/same", "too/same", "contrary"):
        draw(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images/torn.png").write_bytes((tmp_path / "images/good.png").read_bytes()[:40])
    (tmp_path / "images/text.jpg").write_bytes(b"no image")
    text = "image,sea\ngood,1\nbare,0\ntwice,1\ntwice,1\ntorn,1\ntext,1\nsame,1\ngone,1\ncontrary,1\ncontrary.png,0\n"
    write_table(tmp_path, text)
    archive = load_folder(tmp_path)
    assert archive.file_names == ("images/bare.png", "images/good.png", "images/twice.png")
    assert archive.labels.tolist() == [[0], [1], [1]]
    assert problems(archive) == [
        ("missing", "gone"),
        ("ambiguous", "same"),
        ("conflicting", "images/contrary.png"),
        ("unreadable", "images/text.jpg"),
        ("unreadable", "images/torn.png"),
        ("orphan", "images/orphan.png"),
        ("duplicate", "images/twice.png"),
        ("unlabelled", "images/bare.png"),
    ]
    assert archive.notes == (
        "3 images with 1 labels, table labels.csv",
        "images of each label: sea 2",
        "rows without an image, left out: 1 (gone)",
        "rows that fit several images (write the path in the table), left out: 1 (same)",
        "images with rows that contradict each other, left out: 1 (images/contrary.png)",
        "unreadable images, left out: 2 (images/text.jpg, images/torn.png)",
        "images without a row, left out: 1 (images/orphan.png)",
        "images with several rows, all the same, kept once: 1 (images/twice.png)",
        "images without a label, kept: 1 (images/bare.png)",
    )
    path = archive.report.write(tmp_path / "archive_report.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["problem"], row["name"]) for row in rows] == problems(archive)
    details = {row["name"]: row["detail"] for row in rows}
    assert details["gone"] == "line 9 of labels.csv"
    assert details["same"] == "line 8 of labels.csv fits images/too/same.png, images/two/same.png"
    assert details["images/contrary.png"] == "lines 10 and 11 of labels.csv"
    assert "cannot be read as an image" in details["images/text.jpg"]
    assert archive.read_image(1).shape == (5, 6, 3)


def test_pictures_of_other_kinds_are_named_with_what_to_do(tmp_path: Path) -> None:
    draw(tmp_path / "good.png")
    deep = refused_tiffs()["16 bits, planar"][0]
    (tmp_path / "deep.tif").write_bytes(deep)
    (tmp_path / "sentinel.JP2").write_bytes(encoded(Image.fromarray(photo(0)), "JPEG2000"))
    (tmp_path / "stray.nc").write_bytes(b"CDF\x01")
    write_table(tmp_path, "image,sea\ngood,1\ndeep,1\nsentinel,1\ngone,1\n")
    archive = load_folder(tmp_path)
    assert archive.file_names == ("good.png",)
    assert problems(archive) == [
        ("missing", "gone"),
        ("unreadable", "deep.tif"),
        ("unreadable", "sentinel.JP2"),
        ("orphan", "stray.nc"),
    ]
    details = {finding.name: finding.detail for finding in archive.report.findings}
    assert "got 3 bands of 16-bit integers, planar, RGB (TIFF). Convert it to 8-bit RGB: " in details["deep.tif"]
    assert "got 3 bands of 8-bit integers (JPEG 2000). Convert it to 8-bit RGB: " in details["sentinel.JP2"]
    assert "unreadable images, left out: 2 (deep.tif, sentinel.JP2)" in archive.notes
    assert archive.notes[-1] == f"of a kind that is not read: 2; {details['deep.tif']}"


def test_a_folder_of_rasters_that_are_not_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jp2").write_bytes(encoded(Image.fromarray(photo(0)), "JPEG2000"))
    write_table(tmp_path, "image,sea\na.jp2,1\n")
    with pytest.raises(
        ValueError,
        match=r"left out: 1 \(a\.jp2\)\. The first: a\.jp2 must be 8-bit RGB.*gdal_translate.* Or .*--set bands=all",
    ):
        load_folder(tmp_path)


def test_beside_the_picture_made_of_it_a_raster_is_no_loss(tmp_path: Path) -> None:
    """After the advice to convert was followed, in the same folder or in another, all is well."""
    jp2 = encoded(Image.fromarray(photo(0)), "JPEG2000")
    for name in ("jp2/a.jp2", "b.jp2", "b.vrt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jp2)
    draw(tmp_path / "tif" / "a.tif")
    draw(tmp_path / "b.tif")
    write_table(tmp_path, "image,sea\na,1\nb,1\n")
    archive = load_folder(tmp_path)
    assert archive.file_names == ("b.tif", "tif/a.tif") and problems(archive) == []
    write_table(tmp_path, "image,sea\njp2/a,1\ntif/a,1\nb,1\n")  # two pictures with one name
    assert problems(load_folder(tmp_path)) == [("unreadable", "jp2/a.jp2")]


def test_files_that_an_older_reader_could_read_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tif").write_bytes(refused_tiffs()["16 bits"][0])
    monkeypatch.setattr(RGB, "read", lambda data, name: np.zeros((1, 1, 3), np.uint8))
    monkeypatch.setattr(remembering, "READER", remembering.READER - 1)
    assert read_all(tmp_path, ["a.tif"], cache_dir=tmp_path / "cache")[1] == {}
    monkeypatch.undo()
    assert list(read_all(tmp_path, ["a.tif"], cache_dir=tmp_path / "cache")[1]) == ["a.tif"]


@pytest.mark.parametrize(
    "rows, expected",
    [
        (["x/1", "y/1"], {"x/1.png": 0, "y/1.png": 1}),
        (["data\\X\\1.PNG", "/somewhere/data/y/1.png"], {"x/1.png": 0, "y/1.png": 1}),
        (["x/1", "z/1"], {"x/1.png": 0}),  # z/1 is missing; it is not y/1
    ],
)
def test_folders_decide_between_equal_stems(tmp_path: Path, rows: list[str], expected: dict[str, int]) -> None:
    draw(tmp_path / "x/1.png")
    draw(tmp_path / "y/1.png")
    write_table(tmp_path, "image,labels\n" + "".join(f"{name},label{row}\n" for row, name in enumerate(rows)))
    archive = load_folder(tmp_path)
    assert {
        name: int(labels.argmax()) for name, labels in zip(archive.file_names, archive.labels, strict=True)
    } == expected


def test_extension_decides_between_equal_stems_and_a_unique_stem_needs_no_folder(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "a.jpg")
    draw(tmp_path / "renamed/tile_12.5.tif")
    write_table(tmp_path, "image,sea,sand\na.jpg,1,0\na.png,0,1\nold/TILE_12.5,1,1\n")
    archive = load_folder(tmp_path)
    assert archive.file_names == ("a.jpg", "a.png", "renamed/tile_12.5.tif")
    assert archive.labels.tolist() == [[1, 0], [0, 1], [1, 1]]


def test_names_in_either_unicode_form(tmp_path: Path) -> None:
    draw(tmp_path / "cafe\u0301.png")  # e and an accent, as macOS writes it
    write_table(tmp_path, "image,sea\ncaf\u00e9.png,1\n")
    assert len(load_folder(tmp_path)) == 1


def test_hidden_files_and_loops_are_ignored(tmp_path: Path) -> None:
    root = tmp_path / "data"
    draw(root / "images/a.png")
    draw(root / ".cache/a.png")
    draw(root / "__MACOSX/a.png")
    draw(root / "images/._a.png")
    (root / "images/Thumbs.db").write_bytes(b"x")
    (root / "images/loop").symlink_to(root)
    (root / "images/self").symlink_to(root / "images")
    (root / "up").symlink_to(tmp_path)
    (root / "images/broken.png").symlink_to(root / "nowhere.png")
    draw(tmp_path / "elsewhere/b.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    write_table(root, "image,sea\na,1\nb,1\n")
    archive = load_folder(root)
    assert archive.file_names == ("images/a.png", "linked/b.png")
    assert problems(archive) == [("orphan", "images/broken.png")]


def test_table_is_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    assert load_folder(tmp_path).label_names == ()
    (tmp_path / "README.txt").write_text("About these tiles, and so on")
    (tmp_path / "side").mkdir()
    write_table(tmp_path / "side", "0 0.5 0.5\n", "a.txt")
    write_table(tmp_path, "image,sea\na,1\n", "one.csv")
    assert load_folder(tmp_path).label_names == ("sea",)
    write_table(tmp_path, "image\tsand\na\t1\n", "two.tsv")
    with pytest.raises(ValueError, match=r"got 2: one\.csv, two\.tsv\. .* --table one\.csv"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, "two.tsv").label_names == ("sand",)
    monkeypatch.chdir(tmp_path / "side")
    assert load_folder("..", "../one.csv").label_names == ("sea",)
    with pytest.raises(FileNotFoundError, match=r"there is none at .*three\.csv"):
        load_folder(tmp_path, "three.csv")


def test_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder of an own archive must exist, .* --data-dir"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="must hold images"):
        load_folder(tmp_path)
    draw(tmp_path / "a.png")
    write_table(tmp_path, "image,sea\nzebra,1\n")
    with pytest.raises(ValueError, match=r"The table names zebra; the images are a\.png\. Names must agree"):
        load_folder(tmp_path)
    write_table(tmp_path, "image,sea\na,0\n")
    with pytest.raises(
        ValueError, match=r"readable image with a label, but: images without a label, kept: 1 \(a\.png\)"
    ):
        load_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    write_table(tmp_path, "image,sea\na,1\n")
    with pytest.raises(ValueError, match=r"unreadable images, left out: 1 \(a\.png\)"):
        load_folder(tmp_path)


def test_of_several_tables_the_one_named_labels_is_meant(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", 5)
    (tmp_path / "areas.csv").write_text("image,sea\na,0.3\nb,0.1\n", encoding="utf-8")
    (tmp_path / "labels.csv").write_text("image,sea\na,1\nb,0\n", encoding="utf-8")
    assert load_folder(tmp_path).labels.tolist() == [[1], [0]]
    (tmp_path / "labels.csv").rename(tmp_path / "mine.csv")
    with pytest.raises(ValueError, match="must hold one label table, got 2"):
        load_folder(tmp_path)


def test_split_column_becomes_the_official_split(tmp_path: Path) -> None:
    names = [f"{index:02d}" for index in range(20)]
    for name in names:
        draw(tmp_path / f"{name}.png", int(name))  # no copies of each other
    splits = ["test"] * 5 + ["val"] * 5 + ["train"] * 10
    rows = "".join(
        f"{name},{split},1,s{index % 2}\n" for index, (name, split) in enumerate(zip(names, splits, strict=True))
    )
    write_table(tmp_path, "image,split,sea,scene\n" + rows)
    archive = load_folder(tmp_path)
    assert archive.official_split == ("test",) * 5 + ("validation",) * 5 + ("train",) * 10
    assert archive.scenes == ("s0", "s1") * 10
    splits = split_archive(archive)
    assert splits.test.tolist() == [0, 1, 2, 3, 4] and splits.validation.tolist() == [5, 6, 7, 8, 9]
    assert splits.note == "official split, with its own validation part"


def test_rows_that_disagree_about_the_split_are_conflicting(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    write_table(tmp_path, "image,split,sea\na,train,1\na,test,1\nb,train,1\n")
    assert problems(load_folder(tmp_path)) == [("conflicting", "a.png")]


def test_verified_files_are_remembered_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no image")
    decoded: list[str] = []
    decode = RGB.read

    def counted(data: Path, name: str) -> np.ndarray:
        decoded.append(name)
        return decode(data, name)

    monkeypatch.setattr(RGB, "read", counted)
    cache = tmp_path / "cache"

    def check() -> tuple[list[str], list[str]]:
        decoded.clear()
        found, errors = read_all(tmp_path, ["a.png", "b.png", "c.png"], cache)
        assert len({*found, *errors}) == 3 and len(set(found.values())) == min(len(found), 1)  # a and b are alike
        return sorted(errors), sorted(decoded)

    assert check() == (["c.png"], ["a.png", "b.png", "c.png"])
    assert check() == (["c.png"], ["c.png"])  # a failure is tried again
    (tmp_path / "b.png").write_bytes(b"torn")
    assert check() == (["b.png", "c.png"], ["b.png", "c.png"])
    (memory,) = cache.iterdir()
    memory.write_text("{ not JSON")
    assert check() == (["b.png", "c.png"], ["a.png", "b.png", "c.png"])
    assert read_all(tmp_path, ["a.png"], cache_dir=tmp_path / "a.png" / "cache")[1] == {}  # cannot be written
    os.unlink(tmp_path / "a.png")
    assert check() == (["a.png", "b.png", "c.png"], ["b.png", "c.png"])


def test_rows_of_one_label_each_are_joined_by_image(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        draw(tmp_path / f"x/{name}.png")
    rows = ["a,sea,train,,1", "a.png,sand,train,2021-07-03,1", "x/a.png,trees,train,2021-07-03T10:00,1",  # one image
            "b,sea,train,,1", "b,sand,test,,1",  # in two parts
            "c,sea,train,,1", "c,sea,train,,0",  # both held and not
            "d,sea,train,2021-07-03,1", "d,sand,train,2021-07-04,1",  # on two days
            "e,sand,train,,0"]  # fmt: skip
    write_table(tmp_path, "\n".join(["image,label,split,date,present", *rows]) + "\n")
    archive = load_folder(tmp_path)
    assert archive.file_names == ("x/a.png", "x/e.png") and archive.label_names == ("sand", "sea", "trees")
    assert archive.labels.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert problems(archive) == [
        ("conflicting", "x/b.png"), ("conflicting", "x/c.png"), ("conflicting", "x/d.png"), ("unlabelled", "x/e.png")
    ]  # fmt: skip
    details = [finding.detail for finding in archive.report.findings]
    assert details[0] == "lines 5 and 6 of labels.csv"
    assert details[1] == "labels.csv says both that it holds sea and not"
    notes = "\n".join(archive.notes)
    assert "a row for each label: 10 rows of 7 images, which hold the labels of all their rows" in notes
    assert "images of each label: sand 1, sea 1, trees 1" in notes


def test_rows_of_zeros_and_ones_that_contradict_each_other_do_not_add_up(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.png")
    write_table(tmp_path, "image,class,sea,sand\na,beach,1,0\na,port,0,1\nb,port,0,1\n")
    assert problems(load_folder(tmp_path)) == [("conflicting", "a.png")]
    write_table(tmp_path, "image,labels\na,sea;sand\na,sea\nb,sea\n")
    assert problems(load_folder(tmp_path)) == [("conflicting", "a.png")]


def test_notes_tell_counts_what_was_joined_and_typos(tmp_path: Path) -> None:
    for number in range(8):
        draw(tmp_path / f"{number}.png")
    labels = ["airplane;Bare Soil"] * 6 + ["airplnae", "airplane;bare-soil"]
    write_table(tmp_path, "image,labels\n" + "".join(f"{n},{text}\n" for n, text in enumerate(labels)))
    assert load_folder(tmp_path).notes == (
        "8 images with 3 labels, table labels.csv",
        "column 'labels' read as lists of labels, separated by ';' and nothing else",
        "read as one label: Bare Soil, bare-soil",
        "images of each label: airplane 7, Bare Soil 7, airplnae 1",
        "label of one image only: airplnae",
        "airplnae (1) beside airplane (7): did you mean airplane?",
    )
