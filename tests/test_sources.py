"""Streams of tiles: the walk through a folder, label tables, archives, and what a header says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.images import thumbnail
from macl_tf.datasets.splits import Splits
from macl_tf.datasets.tile_facts import read_header
from macl_tf.datasets.walk import list_images
from macl_tf.embedding.sources import ArchiveSource, FolderSource
from tests.generated import photo, save
from tests.pictures import encoded
from tests.tiffs import bands_of, refused_tiffs, tiff

DAY = np.datetime64("2021-07-03")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names_in(root: Path) -> list[str]:
    return [name for name, _ in list_images(root)]


def test_the_walk_is_sorted_and_passes_over_clutter(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/10.tif", "a.png", "c/deep/er/x.webp", "b/Thumbs.db", "b/._2.jpg", ".hidden/h.png",
          "__MACOSX/b/2.jpg", "@eaDir/a.png", "readme.txt", "labels.csv", ".a.png", "c/tiff")  # fmt: skip
    assert names_in(tmp_path) == ["a.png", "b/10.tif", "b/2.JPG", "c/deep/er/x.webp"]


def test_the_walk_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{folder:02}/{number}.png" for folder in range(20) for number in range(3)))
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (listed.append(str(folder)), scandir(folder))[1])
    walk = iter(FolderSource(tmp_path))
    assert listed == []
    assert [next(walk).id for _ in range(4)] == ["00/0.png", "00/1.png", "00/2.png", "01/0.png"]
    assert [Path(folder).name for folder in listed] == [tmp_path.name, "00", "01"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/sub/b.png", "elsewhere/c.png")
    root = tmp_path / "images"
    (root / "sub" / "up").symlink_to(root)
    (root / "self").symlink_to(root)
    (root / "also").symlink_to(tmp_path / "elsewhere")
    (root / "link.png").symlink_to(root / "a.png")
    (root / "nothing.png").symlink_to(root / "gone.png")
    os.mkfifo(root / "pipe.png")  # reading it would never end
    assert names_in(root) == ["a.png", "also/c.png", "link.png", "nothing.png", "sub/b.png"]
    tiles = {tile.id: tile for tile in FolderSource(root)}
    with pytest.raises(ValueError, match=r"^nothing\.png cannot be read as an image: \[Errno 2\] No such file"):
        tiles["nothing.png"].read()


def test_a_folder_that_cannot_be_listed_is_a_tile_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "closed/b.png", "z.png")
    scandir = os.scandir

    def refuse(folder: Path) -> os.ScandirIterator[str]:  # permissions do not stop root, who may run this test
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    tiles = list(FolderSource(tmp_path))
    assert [tile.id for tile in tiles] == ["a.png", "closed/", "z.png"]
    with pytest.raises(PermissionError):
        tiles[1].read()


def test_tiles_are_read_from_their_files(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png", photo(3))
    (source,) = FolderSource(tmp_path)
    np.testing.assert_array_equal(source.read(), photo(3))
    assert (source.path, source.labels, source.split, source.source) == ("x/a.png", (), "", tmp_path.name)
    assert np.isnat(source.date) and source.file == tmp_path / "x" / "a.png"
    assert FolderSource(tmp_path).count() == 1
    with pytest.raises(FileNotFoundError, match=r"must be a folder of images, but '.*nowhere' is none"):
        FolderSource(tmp_path / "nowhere")


def test_reasons_name_the_tile_and_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    reasons = {}
    for tile in FolderSource(tmp_path):
        with pytest.raises(ValueError) as caught:
            tile.read()
        reasons[tile.id] = str(caught.value)
    assert reasons == {
        "text.jpg": "text.jpg cannot be read as an image: not a known image format.",
        "text.tif": "text.tif cannot be read as an image: not a known image format.",
        os.fsdecode(b"\xff.png"): "its name is not UTF-8 and cannot be written down: rename it.",
    }


def test_rasters_of_other_kinds_are_tiles_that_cannot_be_read(tmp_path: Path) -> None:
    refused = refused_tiffs()
    (tmp_path / "deep.tif").write_bytes(refused["16 bits, planar"][0])
    (tmp_path / "naip.tif").write_bytes(refused["near infrared declared alpha"][0])
    save(tmp_path / "good.tif", photo(0))
    for name in ("a.jp2", "made.jp2", "MADE.vrt", "x/made.jp2"):  # of made.jp2 somebody has made a PNG
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(Image.fromarray(photo(0)), "JPEG2000"))
    save(tmp_path / "made.png", photo(0))
    reasons = {}
    for tile in FolderSource(tmp_path):
        try:
            np.testing.assert_array_equal(tile.read(), photo(0))
        except ValueError as error:
            reasons[tile.id] = str(error).partition(", got ")[2].partition(". Convert it")[0]
    assert reasons == {
        "a.jp2": "3 bands of 8-bit integers (JPEG 2000)",
        "deep.tif": "3 bands of 16-bit integers, planar, RGB (TIFF)",
        "naip.tif": "4 bands of 8-bit integers, interleaved by pixel, RGB and alpha that is not opaque (TIFF)",
        "x/made.jp2": "3 bands of 8-bit integers (JPEG 2000)",
    }
    assert FolderSource(tmp_path).count() == len(reasons) + 2
    (tmp_path / "labels.csv").write_text("image,labels\nmade,sea\ngood,sand\n")
    labelled = {tile.id: tile.labels for tile in FolderSource(tmp_path, "labels.csv") if tile.labels}
    assert labelled == {"made.png": ("sea",), "good.tif": ("sand",)}


def test_what_a_tiff_says_is_read_whatever_its_bands_are(tmp_path: Path) -> None:
    """Pillow opens none of these; their day and place were lost with that."""
    rgb = bands_of(photo(0))
    for name, bands in (
        ("black is zero", rgb),
        ("16 bits", rgb.astype(np.uint16)),
        ("five", np.concatenate([rgb, rgb[:2]])),
    ):
        for big in ("YES", "NO"):
            grid = rasterio.Affine(0.01, 0, 8.5, 0, -0.02, 47.25)
            data = tiff(
                bands, photometric="minisblack", interleave="band", BIGTIFF=big, crs="EPSG:4326", transform=grid
            )
            path = tmp_path / f"{name} {big}.tif"
            path.write_bytes(data)
            with rasterio.open(path, "r+") as file:
                file.update_tags(TIFFTAG_DATETIME="2021:07:03 10:15:00")
            day, corners = read_header(path)
            assert day == DAY and corners[0].tolist() == [8.5, 47.25], path.name


def test_a_label_table_brings_labels_splits_and_dates(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name, photo(0))
    (tmp_path / "labels.csv").write_text(
        "image,labels,split,date\na,sea;sand,train,2021-07-03\nb,trees,val,2021-07-04T10:15:00Z\nb,trees,val,\n"
        "gone,sea,test,\n"
    )
    source = FolderSource(tmp_path, "labels.csv")
    assert source.label_names == ("sand", "sea", "trees")
    assert source.notes == (
        "2 images with 3 labels, table labels.csv",
        "column 'labels' read as lists of labels, separated by ';' and nothing else",
        "images of each label: sand 1, sea 1, trees 1",
        "3 labels of one image only: sand, sea, trees",
        "rows without an image, left out: 1 (gone)",
        "images with several rows, all the same, kept once: 1 (b.png)",
    )
    a, b, c = source
    assert (a.labels, a.split, a.date) == (("sand", "sea"), "train", DAY)
    assert (b.labels, b.split, b.date) == (("trees",), "validation", DAY + 1)
    assert (c.labels, c.split) == ((), "") and np.isnat(c.date)  # no row: embedded without labels


def test_a_table_of_ones_and_zeros_may_have_dates_too(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photo(0))
    table = tmp_path / "labels.csv"
    table.write_text("image,sea,date,sand\na,1,2021-07-03,0\n")
    source = FolderSource(tmp_path, table)
    assert source.label_names == ("sea", "sand") and [tile.date for tile in source] == [DAY]
    table.write_text("image,sea,date\na,1,1\n")  # a palm
    assert FolderSource(tmp_path, table).label_names == ("sea", "date")


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photo(0))
    table = tmp_path / "labels.csv"
    table.write_text("image,labels,date\na,sea,3 July 2021\n")
    with pytest.raises(ValueError, match=r"line 2, column 'date': a date must be written as 2021-07-31, got '3 July"):
        FolderSource(tmp_path, table)
    table.write_text("image,labels\nz,sea\n")
    with pytest.raises(ValueError, match=r"no row of .*labels\.csv names one of the 1 images"):
        FolderSource(tmp_path, table)
    with pytest.raises(FileNotFoundError, match="the label table must be a file"):
        FolderSource(tmp_path, "other.csv")


def test_an_archive_brings_labels_and_splits() -> None:
    names = ("a.png", "b.png", "c.png", "d.png")
    archive = Archive("made", ("sea", "sand"), names, np.array([[1, 1], [0, 1], [0, 0], [1, 0]]), photo)
    parts = [np.array([row]) for row in range(3)]
    tiles = list(ArchiveSource(archive, Splits("random", *parts, leaks=False, note="")))
    assert [(tile.id, tile.path, tile.labels, tile.split, tile.source) for tile in tiles] == [
        ("a.png", "a.png", ("sea", "sand"), "train", "made"),
        ("b.png", "b.png", ("sand",), "validation", "made"),
        ("c.png", "c.png", (), "test", "made"),
        ("d.png", "d.png", ("sea",), "", "made"),  # added since the splits were drawn
    ]
    np.testing.assert_array_equal(tiles[2].read(), photo(2))
    assert [tile.split for tile in ArchiveSource(archive)] == [""] * 4 and ArchiveSource(archive).count() == 4


def test_the_day_is_the_one_that_the_header_says(tmp_path: Path) -> None:
    image = Image.fromarray(photo(0))
    exif = Image.Exif()
    exif[306] = "2024:01:01 00:00:00"  # in a JPEG: when a program last saved it
    image.save(tmp_path / "saved.jpg", exif=exif)
    exif.get_ifd(0x8769)[36867] = "2021:07:03 10:15:00"
    image.save(tmp_path / "taken.jpg", exif=exif)
    image.save(tmp_path / "taken.png", exif=exif)
    image.save(tmp_path / "scanned.tif", tiffinfo={306: "2021:07:03 23:59:59"})
    image.save(tmp_path / "iso.tif", tiffinfo={306: "2021-07-03"})
    image.save(tmp_path / "plain.jpg")
    exif.get_ifd(0x8769)[36867] = "0000:00:00 00:00:00"
    image.save(tmp_path / "no_clock.jpg", exif=exif)
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("taken.jpg", "taken.png", "scanned.tif", "iso.tif"):
        assert read_header(tmp_path / name).date == DAY, name
    for name in ("saved.jpg", "plain.jpg", "no_clock.jpg", "text.jpg", "missing.jpg"):
        assert np.isnat(read_header(tmp_path / name).date), name


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((200, 100), 50, (50, 25)), ((100, 300), 150, (50, 150)), ((40, 30), 128, (40, 30)), ((1, 999), 10, (1, 10))],
)
def test_thumbnails_fit_and_are_never_enlarged(
    shape: tuple[int, int], size: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    image = np.full((*shape, 3), (200, 100, 50), np.uint8)
    path = tmp_path / "thumbnail.jpg"
    path.write_bytes(thumbnail(image, size))
    with Image.open(path) as small:
        assert small.format == "JPEG" and small.mode == "RGB" and (small.height, small.width) == expected
        assert np.abs(np.asarray(small).astype(int) - (200, 100, 50)).max() <= 3  # of JPEG
    with pytest.raises(ValueError, match="size must be > 0, got 0"):
        thumbnail(image, 0)
