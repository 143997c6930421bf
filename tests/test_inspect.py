"""`macl inspect`: what is in an archive, and copies that lie in several parts."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from macl_tf.cli import main
from macl_tf.datasets.archives import Archive
from macl_tf.datasets.folder import load_folder
from macl_tf.datasets.inspection import inspect_archive, tile_facts
from macl_tf.datasets.inspection_page import write_inspection
from macl_tf.datasets.near_copies import MOST_BITS, difference_hashes, near_copies, small_grey
from macl_tf.datasets.splits import split_archive
from tests.generated import photo, save


def scenery(seed: int, side: int = 64) -> np.ndarray:
    """A picture with structure of several pixels, as tiles have."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def recompressed(image: np.ndarray, *, side: int = 64, quality: int = 60, brightness: float = 1.0) -> np.ndarray:
    data = io.BytesIO()
    bright = ImageEnhance.Brightness(Image.fromarray(image)).enhance(brightness)
    bright.resize((side, side)).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


def small(images: list[np.ndarray]) -> np.ndarray:
    return np.stack([small_grey(image) for image in images])


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Near copies


def test_copies_saved_anew_are_found_and_others_are_not() -> None:
    images = [scenery(seed) for seed in range(40)]
    images += [recompressed(images[3]), recompressed(images[7], side=50), recompressed(images[9], brightness=0.8)]
    pairs = near_copies(small(images))
    assert pairs[:, :2].tolist() == [[3, 40], [7, 41], [9, 42]]
    assert (pairs[:, 2] <= MOST_BITS).all()


def test_pairs_are_those_of_comparing_all() -> None:
    rng = np.random.default_rng(0)
    base = small([scenery(seed) for seed in range(30)])
    pictures = np.concatenate([base, *(base + rng.normal(0, spread, base.shape) for spread in (2, 6, 12))])
    hashes = difference_hashes(pictures)
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    alike = (bits <= MOST_BITS) & (np.corrcoef(pictures.reshape(len(pictures), -1)) >= 0.97)

    def groups(links: np.ndarray) -> set[frozenset[int]]:
        reached = np.linalg.matrix_power(links.astype(np.int64) + np.eye(len(links), dtype=np.int64), 8) > 0
        return {frozenset(np.flatnonzero(row).tolist()) for row in reached}

    found = np.zeros_like(alike)
    for one, two, _ in near_copies(pictures).tolist():
        found[one, two] = found[two, one] = True
    assert 0 < found.sum() // 2 < len(pictures)
    assert groups(found) == groups(alike)


def test_brightness_and_contrast_do_not_change_a_hash() -> None:
    picture = small([scenery(1)])
    assert (difference_hashes(picture) == difference_hashes(picture * 3 + 100)).all()
    assert len(near_copies(np.concatenate([picture, picture * 3 + 7]))) == 1


def test_tiles_without_contrast_are_no_copies_of_each_other() -> None:
    images = [scenery(seed) for seed in range(10)]
    images += [np.full((64, 64, 3), value, np.uint8) for value in (0, 0, 9, 200)]
    assert len(near_copies(small(images))) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_few_tiles_have_no_copies(count: int) -> None:
    assert near_copies(np.zeros((count, 16, 16)), ["a"] * count).shape == (0, 3)


def test_one_of_exact_copies_is_compared() -> None:
    images = [scenery(1), scenery(1), recompressed(scenery(1))]
    assert near_copies(small(images), ["same", "same", "other"]).tolist()[0][:2] == [0, 2]


# Facts of tiles


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_numbers_of_a_tile(dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, 250, (20, 30, 4)).astype(dtype)
    facts = tile_facts(image)
    assert (facts.shape, facts.dtype) == ((20, 30, 4), dtype)
    pixels = image.reshape(-1, 4).astype(np.float64)
    for found, expected in (
        (facts.low, pixels.min(0)), (facts.high, pixels.max(0)), (facts.mean, pixels.mean(0)),
        (facts.deviation, pixels.std(0)),
    ):  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_values_that_are_not_finite_are_left_out() -> None:
    image = np.full((4, 4, 1), np.nan, np.float32)
    assert np.isnan(tile_facts(image).mean).all()
    image[0, 0] = 2
    facts = tile_facts(image)
    assert (facts.low[0], facts.mean[0], facts.deviation[0]) == (2, 2, 0)


# The report


def write_archive(root: Path) -> Path:
    """Twelve tiles in parts: one saved anew in another part, one twice in a part, one black; one torn, one gone."""
    rows = ["image,sea,sand,split"]
    pictures = {f"t{number}": scenery(number) for number in range(9)}
    pictures |= {
        "anew": recompressed(pictures["t0"]),
        "twice": pictures["t1"],
        "black": np.zeros((64, 64, 3), np.uint8),
    }
    parts = {"anew": "test", "t8": "test", "t7": "validation"}
    for number, (name, picture) in enumerate(pictures.items()):
        save(root / f"{name}.png", picture)
        rows.append(f"{name},1,{int(number % 3 == 0 and name != 'anew')},{parts.get(name, 'train')}")
    (root / "torn.png").write_bytes((root / "t0.png").read_bytes()[:200])
    (root / "labels.csv").write_text("\n".join([*rows, "torn,1,0,train", "gone,1,0,train"]))
    return root


def test_everything_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_archive(tmp_path / "tiles")
    output = tmp_path / "report"
    assert main(["inspect", str(tmp_path / "tiles"), "--output", str(output), "--quiet"]) == 0
    told = capsys.readouterr().out
    for line in (
        "12 tiles, 2 labels; official split, with its own validation part",
        "- copies that lie in several parts: 1 group of 2 tiles. Figures would be too good: ",
        "- rows without an image, left out: 1 (problems.csv)",
        "- unreadable images, left out: 1 (problems.csv)",
        "- copies with different labels, of which some are wrong: 1 group",
        "- copies within one part, which count more often than others: 1 group",
        "- labels of fewer than 10 tiles: 1 (sand 3)",
        "- tiles of one colour: 1 (black.png)",
    ):
        assert line in told
    copies = {row["image"]: (row["group"], row["part"], row["kind"], row["several_parts"]) for row in
              table(output / "copies.csv")}  # fmt: skip
    assert copies == {
        "anew.png": ("1", "test", "", "True"), "t0.png": ("1", "train", "near", "True"),
        "t1.png": ("2", "train", "", "False"), "twice.png": ("2", "train", "exact", "False"),
    }  # fmt: skip
    assert table(output / "labels.csv")[0] == {
        "label": "sea", "images": "12", "train": "9", "validation": "1", "test": "2", "share": "1.0000", "rare": "no",
    }  # fmt: skip
    assert [row["sand"] for row in table(output / "cooccurrence.csv")] == ["3", "3"]
    assert table(output / "sizes.csv") == [
        {"width": "64", "height": "64", "bands": "3", "type": "uint8", "images": "12"}
    ]
    assert [(row["band"], row["minimum"]) for row in table(output / "bands.csv")] == [
        ("1", "0.0"),
        ("2", "0.0"),
        ("3", "0.0"),
    ]
    assert {row["problem"] for row in table(output / "problems.csv")} == {"missing", "unreadable"}
    assert len(table(output / "tiles.csv")) == 12
    page = (output / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 5 and "http" not in page  # nothing is loaded
    for name in ("labels", "cooccurrence", "rare", "copies", "values"):
        with Image.open(output / f"{name}.png") as picture:
            assert picture.width > 400


def test_a_report_in_the_archive_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_archive(tmp_path / "tiles")
    monkeypatch.chdir(root)
    for _ in range(2):
        assert main(["inspect", ".", "--quiet"]) == 0
    assert (root / "inspection-tiles/index.html").is_file()
    assert len(load_folder(root)) == 12


def test_no_file_of_somebody_else_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_archive(tmp_path / "tiles")
    before = (root / "labels.csv").read_bytes()
    assert main(["inspect", str(root), "--output", str(root), "--quiet"]) == 2
    assert "--output must be a new folder, or of an inspection before" in capsys.readouterr().err
    assert (root / "labels.csv").read_bytes() == before


def test_names_are_text_and_no_html(tmp_path: Path) -> None:
    archive = Archive("<b>", ("<i>", "$a$"), ("<u>.png",), np.array([[1, 1]]), lambda index: scenery(index))
    page = write_inspection(inspect_archive(archive, None, "not <s>", progress=False), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert not {"<b></h1>", "<i>", "<u>", "<s>"} & {tag for tag in ("<b></h1>", "<i>", "<u>", "<s>") if tag in text}


def test_without_labels_and_with_other_bands(tmp_path: Path) -> None:
    images = [np.random.default_rng(n).integers(0, 9000, (20 + n, 20, 5)).astype(np.uint16) for n in range(3)]
    images.append(images[0])
    names = tuple(f"{n}.tif" for n in range(4))
    archive = Archive("deep", (), names, np.zeros((4, 0)), lambda index: images[index])
    found = inspect_archive(archive, None, "not divided", progress=False)
    write_inspection(found, tmp_path)
    assert [(row["type"], row["band"]) for row in table(tmp_path / "bands.csv")] == [
        ("uint16", str(n)) for n in range(1, 6)
    ]
    assert [group.kinds for group in found.copies] == [("", "exact")]
    assert "no labels: the tiles can be indexed and searched, not trained on" in found.warnings()


def test_a_page_warns_only_where_something_was_found(tmp_path: Path) -> None:
    images = [np.random.default_rng(n).integers(0, 255, (64, 64, 3)).astype(np.uint8) for n in range(12)]
    for name, shown, warned in (("fine", images, False), ("copies", images[:11] + images[:1], True)):
        names = tuple(f"{n:02}.png" for n in range(12))
        archive = Archive(name, ("sea",), names, np.ones((12, 1)), lambda index, shown=shown: shown[index])
        write_inspection(inspect_archive(archive, None, "not divided", progress=False), tmp_path / name)
        page = (tmp_path / name / "index.html").read_text(encoding="utf-8")
        assert ('<div class="look">' in page, "Nothing was found that deserves a look" in page) == (warned, not warned)


def test_a_tile_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def read(index: int) -> np.ndarray:
        if index == 1:
            raise ValueError("b.png cannot be read as an image: torn.")
        return photo(index)

    archive = Archive("mine", ("sea",), ("a.png", "b.png", "c.png"), np.ones((3, 1)), read)
    found = inspect_archive(archive, None, "", progress=False)
    assert [(finding.problem, finding.name) for finding in found.findings] == [("unreadable", "b.png")]
    assert len(found.facts) == 2


def test_parts_are_those_that_training_makes(tmp_path: Path) -> None:
    root = tmp_path / "tiles"
    for number in range(20):
        save(root / f"{number:02}.png", scenery(number, 16))
    (root / "labels.csv").write_text("image,sea\n" + "".join(f"{number:02},{number % 2}\n" for number in range(20)))
    output = tmp_path / "out"
    arguments = ["inspect", str(root), "--quiet", "--output", str(output), "--set", "seed=3", "--set", "test=0.5"]
    assert main(arguments) == 0
    archive = load_folder(root)
    splits = split_archive(archive, validation=0.15, test=0.5, seed=3)
    parts = {row["image"]: row["part"] for row in table(output / "tiles.csv")}
    assert [name for name, part in parts.items() if part == "test"] == [archive.file_names[n] for n in splits.test]


def test_a_dataset_is_named_as_for_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_one = ["--set", "num_tiles=30", "--quiet", "--output", str(tmp_path / "out")]
    assert main(["inspect", "synthetic", *small_one]) == 0
    assert "30 tiles, 14 labels; random split" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--data-dir", "x"]) == 2
    assert "leave out --data-dir x" in capsys.readouterr().err


def test_an_archive_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "macl inspect: the folder of an own archive must exist" in capsys.readouterr().err


def test_a_folder_is_inspected_without_tensorflow(tmp_path: Path, run_python) -> None:
    write_archive(tmp_path / "tiles")
    script = """
import sys
from macl_tf.cli import main
assert main(["inspect", sys.argv[1], "--output", sys.argv[2], "--quiet"]) == 0
print(sorted({"keras", "tensorflow"} & set(sys.modules)))
"""
    assert run_python(script, tmp_path / "tiles", tmp_path / "out").stdout.strip().endswith("[]")
