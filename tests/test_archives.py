"""The Archive type, masks, names, and what lies on disk."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from macl_tf.datasets import NAMES, load_archive
from macl_tf.datasets.archives import Archive, bare_name, by_scene, normalise_label, normalise_stem
from macl_tf.datasets.records import mask_areas
from macl_tf.datasets.sources import (
    Source,
    choose_by_stem,
    count_note,
    fingerprint,
    match_table,
    scene_and_number,
)
from macl_tf.datasets.tables import LabelTable, read_label_table
from macl_tf.datasets.walk import image_paths, list_files
from tests.generated import DLRSD_COLOURS, half_and_half, photo, save, save_palette_mask


def rows_of(path: Path, label_names: tuple[str, ...], *stems: str) -> list[list[int]]:
    """The labels of some images by a published archive's table."""
    images = {stem: path.parent / f"{stem}.png" for stem in stems}
    rows, notes = match_table(images, read_label_table(path).choose(label_names))
    assert notes == []
    return [rows[stem].tolist() for stem in stems]


COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def archive(**changes: object) -> Archive:
    given: dict[str, object] = {
        "name": "made",
        "label_names": ("sea", "sand"),
        "file_names": ("a.png", "b.png", "c.png"),
        "labels": np.array([[1, 0], [0, 1], [0, 0]]),
        "read_image": lambda index: photo(index),
    }
    return Archive(**(given | changes))


def test_archive_keeps_what_it_is_given() -> None:
    made = archive(label_areas=np.array([[0.5, 0], [0, 1], [0, 0]]), numbers=[3, 4, 5], scenes=("x", "x", "y"))
    assert len(made) == 3
    assert made.labels.dtype == np.uint8 and made.label_areas.dtype == np.float32 and made.numbers.dtype == np.int64
    assert made.label_areas[0].tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros((3, 3))}, r"shape \(images, label names\) = \(3, 2\), got \(3, 3\)"),
        ({"labels": np.full((3, 2), 2)}, r"must be 0 or 1, got \[2\]"),
        ({"file_names": ("a.png", "a.png", "b.png")}, "sorted and unique, got 'a.png' before 'a.png'"),
        ({"file_names": ("b.png", "a.png", "c.png")}, "sorted and unique, got 'b.png' before 'a.png'"),
        ({"label_names": ("sea", "sea")}, "label names of made must be unique"),
        ({"numbers": np.arange(2)}, r"numbers of made must have one entry an image \(3\), got 2"),
        ({"label_areas": np.full((3, 2), 1.5)}, r"must be shares in \[0, 1\]"),
        ({"official_split": ("train", "val", "test")}, "must hold 'train', 'validation' and 'test' only"),
        ({"default_split": "holdout"}, "got 'holdout'"),
    ],
)
def test_archive_refuses_parts_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        archive(**changes)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("agricultural00", "agricultural00"),
        ("Images/Agricultural/agricultural00.TIF", "agricultural00"),
        ("images_tr\\Airport\\airport_1.jpg ", "airport_1"),
        ("tile.v2", "tile.v2"),  # no image suffix: part of the name
    ],
)
def test_stems(name: str, stem: str) -> None:
    assert normalise_stem(name) == stem


def test_spellings_of_a_label_are_one() -> None:
    spellings = ("bare-soil", "bare soil", "BareSoil", "bare_soil", " Bare \u00a0SOIL", "bare\u2011soil", "bare–soil")
    assert {normalise_label(name) for name in spellings} == {"baresoil"}
    assert normalise_label("for\u00eat") == normalise_label("FORE\u0302T")  # one letter in two forms
    assert normalise_label("海") == "海"  # other scripts are not thrown away


@pytest.mark.parametrize(
    "names",
    [
        ("नदी", "नाद", "नद"),  # vowel signs
        ("ধান", "ধন"),
        ("น้ำ", "นา"),  # tone marks
        ("😀", "😃"),
        ("👩\u200d🚒", "👨\u200d🚒", "👩🚒"),  # joined to one picture, and two side by side
        ("🏳\ufe0f", "🏳\ufe0f\u200d🌈"),
        ("1.1", "11", "1-1", "-1-1"),  # codes of classes: the hyphen belongs to the number
        ("1-12", "11-2"),
        ("C", "C++", "C#"),
        ("a/b", "ab", "a,b", "a.b", "a&b"),
        ("-", "_", "--"),  # nothing else in them
        ("forest", "forêst"),
    ],
)
def test_different_labels_stay_different(names: tuple[str, ...]) -> None:
    assert len({normalise_label(name) for name in names}) == len(names)


def test_folders_and_known_columns_are_found_in_any_spelling(tmp_path: Path) -> None:
    assert bare_name("AID (multi-label)") == bare_name("aid.multilabel") == "aidmultilabel"
    path = tmp_path / "t.csv"
    path.write_text("image,bare.soil,Mobile_Home\na,1,0\n")  # as R writes names with blanks
    assert rows_of(path, ("mobile-home", "bare-soil"), "a") == [[0, 1]]


def test_rows_of_a_published_archive_that_hold_a_label_each_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,label\na.png,sea\na.tif,bare soil\nb,sand\n")
    assert rows_of(path, ("bare-soil", "sand", "sea"), "a", "b") == [[1, 0, 1], [0, 1, 0]]
    path.write_text("image,label,present\na,sea,1\na,sea,0\nb,sand,1\na,sand,0\n")
    with pytest.raises(ValueError, match=r"rows of .*a\.png contradict each other, t\.csv says both that it holds sea"):
        rows_of(path, ("sand", "sea"), "a", "b")


def test_spellings_of_a_scene_are_joined_and_told() -> None:
    made = by_scene(archive(scenes=("Beach", "harbour", "beach")))
    assert made.label_names == ("Beach", "harbour") and made.labels.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert made.scenes == ("Beach", "harbour", "Beach") and made.notes == ("read as one scene: Beach, beach",)


def test_scene_and_number() -> None:
    assert [scene_and_number(stem) for stem in ("beach07", "airport_12", "sea")] == [
        ("beach", 7),
        ("airport", 12),
        ("sea", -1),
    ]


def test_mask_areas_by_colour_and_by_index(tmp_path: Path) -> None:
    raw = half_and_half(1, 3, share=0.25)
    expected = [0.25, 0, 0.75]
    save_palette_mask(tmp_path / "p.png", raw, COLOURS)
    with Image.open(tmp_path / "p.png") as palette:
        assert palette.mode == "P"
        assert mask_areas(palette, COLOURS, by_index=False).tolist() == expected
        # The same colours in another order of the palette: the colour decides, not the raw value.
        assert mask_areas(palette, COLOURS[::-1], by_index=True).tolist() == expected[::-1]
        # Its luminance is 76 and 29: neither labels nor a mask.
        assert mask_areas(palette.convert("L"), COLOURS, by_index=True) is None
        assert mask_areas(palette.convert("RGB"), COLOURS, by_index=False).tolist() == expected
    grey = Image.fromarray(raw.astype(np.uint8))
    assert mask_areas(grey, COLOURS, by_index=True).tolist() == expected
    assert mask_areas(grey, COLOURS, by_index=False) is None


def test_a_mask_may_be_empty_or_hold_nothing_in_places() -> None:
    nothing = Image.fromarray(np.zeros((4, 4), np.uint8))
    assert mask_areas(nothing, COLOURS, by_index=False).tolist() == [0, 0, 0]
    partly = np.array([[1, 1, 0, 3]], np.uint8)
    assert mask_areas(Image.fromarray(partly), COLOURS, by_index=True).tolist() == [0.5, 0, 0.25]


def test_pictures_are_no_masks() -> None:
    colour = Image.fromarray(photo(0))
    for picture in (colour, colour.convert("L"), colour.convert("P", palette=Image.Palette.ADAPTIVE)):
        assert mask_areas(picture, DLRSD_COLOURS, by_index=True) is None


def test_tables_are_read_by_header(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfimage;sand;bare soil\r\nB.png;1;0\r\nc;0;1\r\n\r\n")
    assert rows_of(path, ("bare-soil", "sand"), "b", "c") == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match="has none for sea"):
        read_label_table(path).choose(("sea", "sand"))
    path.write_text("image,sand\na.png,1\na.tif,0\n")
    with pytest.raises(ValueError, match=r"rows of .*a\.png contradict each other, lines 2 and 3 of t\.csv"):
        rows_of(path, ("sand",), "a")


def test_rows_and_images_are_joined_and_the_rest_is_counted() -> None:
    images = {"a": Path("a.png"), "b": Path("b.png")}
    table = LabelTable(Path("t.csv"), ("b", "c", "D.tif"), (2, 3, 4), ("x",), np.array([[1], [0], [0]]), None, None, ())
    matched, notes = match_table(images, table)
    assert list(matched) == ["b"]
    assert notes == [
        "1 image has no row in t.csv and was left out: a.png",
        "2 rows of t.csv have no image: c, d",
    ]
    assert count_note([str(n) for n in range(7)], "x", "things")[0] == "7 things: 0, 1, 2, 3, 4 and 2 more"


def test_files_are_listed_in_order_and_without_clutter(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "a/1.tif", "b/Thumbs.db", "b/._2.jpg", "__MACOSX/b/2.jpg", ".cache/3.png", "readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_files(tmp_path) == ["a/1.tif", "b/2.JPG", "readme.txt"]
    chosen = choose_by_stem([Path("x/a.png"), Path("y/a.tif"), Path("b.png")], lambda path: path.suffix == ".png")
    assert chosen == {"a": Path("y/a.tif"), "b": Path("b.png")}


def test_fingerprint_follows_the_files_and_not_the_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        save(tmp_path / folder / "a.png", photo(0))
        os.utime(tmp_path / folder / "a.png", ns=(10**18, 10**18))
    first = fingerprint([tmp_path / "one"])
    assert first == fingerprint([tmp_path / "two"])
    os.utime(tmp_path / "two" / "a.png", ns=(10**18, 10**18 + 1))
    changed = fingerprint([tmp_path / "two"])
    (tmp_path / "two" / "b.txt").touch()
    assert len({first, changed, fingerprint([tmp_path / "two"])}) == 3


SOURCE = Source("The made archive", ("madearchive",), "made/Images/*.tif", "nowhere.")


def test_an_archive_is_found_around_and_below_the_given_folder(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "Made-Archive"
    save(root / "Images" / "a.png", photo(0))
    save(tmp_path / "another" / "Images" / "b.png", photo(1))
    for given in (tmp_path, root.parent, root, root / "Images"):
        assert SOURCE.locate(given) == root
    assert SOURCE.locate(tmp_path / "another") == tmp_path / "another"  # not called so, but given


def test_an_archive_is_found_behind_links(tmp_path: Path) -> None:
    """As a person would find it: its folder of images may be a link, and no link in a circle holds anybody up."""
    save(tmp_path / "disk" / "store" / "a.png", photo(0))
    root = tmp_path / "data" / "made archive"
    root.mkdir(parents=True)
    (root / "Images").symlink_to(tmp_path / "disk" / "store")
    for folder in (tmp_path / "data", root):
        (folder / "circle").symlink_to(folder)
        (folder / "around").symlink_to(folder.parent)
    assert SOURCE.locate(tmp_path / "data") == root
    assert image_paths(root) == [root / "Images" / "a.png"]
    before = fingerprint([root])
    os.utime(tmp_path / "disk" / "store" / "a.png", ns=(1, 1))
    assert fingerprint([root]) != before
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert len({fingerprint([root]), fingerprint([root]), before}) == 2


def test_a_missing_archive_says_what_where_and_whence(tmp_path: Path) -> None:
    for given, lacking in ((tmp_path / "no", "there is no such folder"), (tmp_path, "there is no image in the folder")):
        with pytest.raises(FileNotFoundError) as caught:
            SOURCE.locate(given)
        text = str(caught.value)
        assert text.startswith(f"The made archive was not found: {lacking} (looked in {given} and below).")
        assert "made/Images/*.tif" in text and text.endswith("Get it from nowhere.")


@pytest.mark.parametrize("name", ["ucm", "dlrsd", "whdld", "mlaid", "mlrsnet"])
def test_every_archive_says_that_it_is_missing_before_anything_is_prepared(name: str, tmp_path: Path) -> None:
    given = tmp_path / "data"
    given.mkdir()
    with pytest.raises(FileNotFoundError, match=r"was not found: .*looked in .*data and below(?s:.*)Get it from http"):
        load_archive(name, given, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["dlrsd", "whdld", "mlaid", "mlrsnet"])
def test_archives_that_cannot_be_downloaded_ask_for_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="its folder has to be given"):
        load_archive(name, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_load_archive_names_the_choices_and_refuses_options_of_others() -> None:
    with pytest.raises(ValueError, match=", ".join(NAMES) + ", got 'ucmerced'"):
        load_archive("ucmerced")
    with pytest.raises(ValueError, match="num_tiles is an option of 'synthetic'"):
        load_archive("ucm", num_tiles=3)
    with pytest.raises(ValueError, match="table is an option of 'folder'"):
        load_archive("ucm", table="t.csv")
    with pytest.raises(ValueError, match="min_area must be 0 for 'synthetic'"):
        load_archive("synthetic", min_area=0.1)
    with pytest.raises(ValueError, match=r"min_area must be in \[0, 1\], got 2"):
        load_archive("dlrsd", ".", min_area=2)
    with pytest.raises(ValueError, match="folder needs data_dir"):
        load_archive("folder")


def test_load_archive_draws_the_synthetic_one() -> None:
    made = load_archive("synthetic", num_tiles=3, seed=1)
    assert len(made) == 3 and made.read_image(2).dtype == np.uint8
