"""Embedding a folder: what comes out, in bounded memory, once each, however often it is killed."""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.folder import load_folder
from macl_tf.datasets.images import resize_image, thumbnail
from macl_tf.datasets.vector_tiles import taken
from macl_tf.datasets.vectors import VectorFiles
from macl_tf.embedding.embedding import EmbeddingReport, embed_images
from macl_tf.embedding.shards import BAD_FILES, read_record, read_shards, shard_paths
from macl_tf.embedding.sources import ArchiveSource, FolderSource, Tile
from macl_tf.export.exporting import archive_digest
from macl_tf.tiling.geoparquet import Row, write_footprints
from macl_tf.tiling.options import Options
from macl_tf.tiling.tile import tile as cut_into_tiles
from tests.generated import photo, save
from tests.scene_files import UTM, box, geojson, pixels, raster
from tests.stub_encoder import SIZE, StubEncoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures of different sizes in two folders, and three files that are none."""
    root = tmp_path / "tiles"
    for number in range(10):
        save(root / "ab"[number % 2] / f"{number}.png", photo(number, 10 + number, 30 - number))
    (root / "a" / "text.jpg").write_text("no image")
    (root / "b" / "half.png").write_bytes((root / "b" / "1.png").read_bytes()[:60])
    (root / "empty.tif").touch()
    return root


IDS = ["a/0.png", "a/2.png", "a/4.png", "a/6.png", "a/8.png", "b/1.png", "b/3.png", "b/5.png", "b/7.png", "b/9.png"]
BAD = ["a/text.jpg", "b/half.png", "empty.tif"]


def embed(folder: Path, output: Path, encoder: StubEncoder | None = None, **options: object) -> EmbeddingReport:
    return embed_images(encoder or StubEncoder(), FolderSource(folder), output, **({"progress": False} | options))


def bad_files(output: Path) -> dict[str, str]:
    with open(output / BAD_FILES, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "reason"] and len(dict(rows[1:])) == len(rows) - 1
    return dict(rows[1:])


def snapshot(output: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(output).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in output.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(("shard_size", "batch_size"), [(4096, 64), (4, 3), (3, 64), (1, 1), (10, 4)])
def test_every_tile_is_embedded_once_and_every_bad_file_is_listed(
    folder: Path, tmp_path: Path, shard_size: int, batch_size: int
) -> None:
    output, encoder = tmp_path / "out", StubEncoder()
    report = embed(folder, output, encoder, shard_size=shard_size, batch_size=batch_size, thumbnail_size=12)
    assert (report.embedded, report.before, report.bad) == (10, 0, 3)
    assert max(encoder.batches) <= batch_size and sum(encoder.batches) == 10
    items, vectors, thumbnails = read_shards(output)
    assert items.ids.tolist() == items.paths.tolist() == IDS
    assert items.label_names == ("sea", "sand") and not items.labels.any()
    assert set(items.sources) == {"tiles"} and set(items.splits) == {""} and np.isnat(items.dates).all()
    assert np.isnan(items.footprints).all()
    # One by one, and without any of the machinery.
    images = [photo(int(id[2]), 10 + int(id[2]), 30 - int(id[2])) for id in IDS]
    expected = StubEncoder().embed_pixels(np.stack([resize_image(image, SIZE) for image in images]))
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert thumbnails is not None and list(thumbnails) == [thumbnail(image, 12) for image in images]
    source = VectorFiles(output / "stac" / "collection.json")  # the same for others
    assert (source.count, source.dim, list(source.ids())) == (10, vectors.shape[1], IDS)
    assert list(bad_files(output)) == BAD
    assert bad_files(output)["a/text.jpg"] == "cannot be read as an image: not a known image format."
    rows = [read_record(path).rows for path in shard_paths(output)]
    assert sum(rows) == 10 and max(rows) <= shard_size
    if shard_size == 10:
        assert rows == [10, 0]  # the bad file behind the last full shard has one of its own


def test_the_same_again_does_nothing_and_says_so(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = embed(folder, output, shard_size=4)
    assert str(first).startswith("10 images embedded, ") and str(first).endswith(
        f"3 bad files, see '{output}/{BAD_FILES}'"
    )
    before = snapshot(output)
    again = embed(folder, output, shard_size=4)
    assert (again.embedded, again.before, again.bad) == (0, 10, 3) and again.images_per_second == 0
    assert str(again).startswith("nothing to do: 10 images were embedded before; 3 bad files, see ")
    assert snapshot(output) == before


def test_files_that_came_since_and_bad_ones_that_were_mended_are_embedded(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    embed(folder, output)
    save(folder / "a" / "1.png", photo(20))
    save(folder / "b" / "half.png", photo(21))
    (folder / "late.gif").write_text("no image")
    report = embed(folder, output)
    assert (report.embedded, report.before, report.bad) == (2, 10, 3)
    assert sorted(read_shards(output)[0].ids) == sorted([*IDS, "a/1.png", "b/half.png"])
    assert sorted(bad_files(output)) == ["a/text.jpg", "empty.tif", "late.gif"]
    assert embed(folder, output).embedded == 0


def test_what_changed_is_embedded_anew_and_what_went_is_left_out(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    embed(folder, output, shard_size=4)
    save(folder / "a" / "2.png", photo(77, 12, 28))  # another picture under the same name
    (folder / "b" / "3.png").unlink()
    (folder / "b" / "5.png").write_text("torn")
    (folder / "a" / "text.jpg").unlink()
    save(folder / "a" / "new.png", photo(78))
    report = embed(folder, output)
    assert (report.embedded, report.changed, report.gone, report.before) == (2, 1, 2, 10)
    assert "(1 new, 1 changed, 2 gone); 10 were before" in str(report)
    items, vectors, _ = read_shards(output)
    assert sorted(items.ids) == sorted({*IDS, "a/new.png"} - {"b/3.png", "b/5.png"})
    fresh_items, fresh, _ = read_shards(embed(folder, tmp_path / "fresh").output)
    order = [items.ids.tolist().index(name) for name in fresh_items.ids]
    np.testing.assert_array_equal(vectors[order], fresh)
    assert sorted(bad_files(output)) == ["b/5.png", "b/half.png", "empty.tif"]
    assert str(embed(folder, output)).startswith("nothing to do: 9 images were embedded before; 3 bad")


def test_a_changed_table_changes_what_is_known_of_a_tile(folder: Path, tmp_path: Path) -> None:
    table, output = tmp_path / "table.csv", tmp_path / "out"

    def with_table(text: str) -> EmbeddingReport:
        table.write_text(text)
        return embed_images(StubEncoder(), FolderSource(folder, table), output, progress=False)

    with_table("image,labels,split\na/0,sea,test\na/2,sand;sea,train\n")
    report = with_table("image,labels,split\na/0,sand,test\na/2,sand;sea,train\na/4,sea,test\n")
    assert (report.embedded, report.changed, report.gone) == (2, 2, 0)
    items = read_shards(output)[0]
    described = {items.ids[row]: items.describe(row)["labels"] for row in range(len(items))}
    assert described["a/0.png"] == ["sand"] and described["a/4.png"] == ["sea"]
    assert set(described["a/2.png"]) == {"sand", "sea"}


@pytest.mark.parametrize("way", ["folder", "entry", "root"])
def test_what_cannot_be_listed_is_not_gone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    output = tmp_path / "out"
    save(folder / "a" / "deep" / "x.png", photo(40))
    embed(folder, output)
    (folder / "b" / "7.png").unlink()
    scandir, stat = os.scandir, os.stat

    def refuse(path: Path) -> os.ScandirIterator[str]:  # permissions do not stop root, who may run this test
        if Path(path) == (folder if way == "root" else folder / "a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def lost(path: Path, **options: object) -> os.stat_result:
        if Path(path) == folder / "a":
            raise OSError(116, "Stale file handle", str(path))
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, *(("stat", lost) if way == "entry" else ("scandir", refuse)))
        if way == "root":
            before = snapshot(output)
            with pytest.raises(PermissionError):
                embed(folder, output)
            assert snapshot(output) == before
            return
        for gone, before in ((1, 11), (0, 10)):
            report = embed(folder, output)
            assert (report.embedded, report.gone, report.kept, report.before) == (0, gone, 6, before)
            assert "6 stay as they were, since they cannot be read now" in str(report)
            assert sorted(read_shards(output)[0].ids) == sorted({*IDS, "a/deep/x.png"} - {"b/7.png"})
            assert bad_files(output)["a/"] == ("Stale file handle" if way == "entry" else "Permission denied")
            assert len(shard_paths(output)) == 2  # told once
    report = embed(folder, output)
    assert (report.embedded, report.gone, report.kept, report.before) == (0, 0, 0, 10)
    assert sorted(bad_files(output)) == BAD


def test_what_lies_behind_a_link_to_nothing_is_not_gone(folder: Path, tmp_path: Path) -> None:
    output, disk = tmp_path / "out", tmp_path / "disk"
    save(disk / "site" / "x.png", photo(40))
    (folder / "site").symlink_to(disk / "site")
    (folder / "z.png").symlink_to(disk / "site" / "x.png")
    assert embed(folder, output).embedded == 12
    disk.rename(tmp_path / "unmounted")
    report = embed(folder, output)
    assert (report.embedded, report.changed, report.gone, report.kept) == (0, 0, 0, 2)
    assert {"site/x.png", "z.png"} <= set(read_shards(output)[0].ids) and "site/" in bad_files(output)
    (tmp_path / "unmounted").rename(disk)
    assert embed(folder, output).kept == 0 and sorted(bad_files(output)) == BAD
    (folder / "site").unlink()
    assert embed(folder, output).gone == 1


def test_a_changed_file_that_cannot_be_opened_stays_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(folder, tmp_path / "out")
    save(folder / "a" / "2.png", photo(50))
    read = FolderSource.__iter__

    def locked_away(source: FolderSource):
        for tile in read(source):
            yield replace(tile, read=_denied) if tile.id == "a/2.png" else tile

    monkeypatch.setattr(FolderSource, "__iter__", locked_away)
    report = embed(folder, tmp_path / "out")
    assert (report.embedded, report.changed, report.gone, report.kept) == (0, 0, 0, 1)
    assert "a/2.png" in read_shards(tmp_path / "out")[0].ids and sorted(bad_files(tmp_path / "out")) == BAD
    monkeypatch.undo()
    assert embed(folder, tmp_path / "out").changed == 1


def _denied() -> np.ndarray:
    raise PermissionError(13, "Permission denied")


def test_a_new_file_that_cannot_be_opened_is_tried_each_time(folder: Path, tmp_path: Path) -> None:
    (folder / "z.png").symlink_to(folder / "later.png")
    embed(folder, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    assert "z.png" in bad_files(tmp_path / "out") and embed(folder, tmp_path / "out").bad == 4
    assert snapshot(tmp_path / "out") == before
    save(folder / "later.png", photo(1))
    assert embed(folder, tmp_path / "out").embedded == 2 and sorted(bad_files(tmp_path / "out")) == BAD


def test_other_small_pictures_need_another_folder(folder: Path, tmp_path: Path) -> None:
    embed(folder, tmp_path / "out", thumbnail_size=64)
    with pytest.raises(ValueError, match=r"small pictures of 64 pixels, now 256\. Use --thumbnail 64, or another"):
        embed(folder, tmp_path / "out")


def test_another_or_an_empty_folder_does_not_empty_the_shards(folder: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "out", tmp_path / "other"
    embed(folder, output)
    before = snapshot(output)
    other.mkdir()
    with pytest.raises(FileNotFoundError, match="must hold images, but none was found"):
        embed(other, output)
    save(other / "x.png", photo(3))
    with pytest.raises(
        ValueError, match=r"none of the 10 tiles in '.*' is among the 1 of .* use another output folder"
    ):
        embed(other, output)
    assert snapshot(output) == before
    assert embed(other, tmp_path / "another").embedded == 1  # the remedy


def test_notes_are_told_without_progress_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,labels\na/0,sea\na/17,sea\n")
    embed_images(StubEncoder(), FolderSource(folder, table), tmp_path / "out", progress=False)
    assert "rows without an image, left out: 1 (a/17)" in capsys.readouterr().err


def test_a_label_table_that_is_not_read_is_told(folder: Path) -> None:
    """Shards that have no labels take none later."""
    assert FolderSource(folder).notes == ()
    write_footprints(folder / "footprints.parquet", [Row("a/0.png", "", "", None, [], np.zeros((4, 2)))])
    for name in ("groups.csv", "README.txt"):
        (folder / name).write_text("image,group\n")
    assert FolderSource(folder).notes == ()
    (folder / "my table.csv").write_text("image,labels\na/0,sea\n")
    (told,) = FolderSource(folder).notes
    assert told == "no labels: my table.csv is not read unless you say --table 'my table.csv'"
    assert FolderSource(folder, "my table.csv").label_names == ("sea",)  # the remedy


def test_labels_splits_and_dates_come_along(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.csv").write_text("image,labels,split,date\n0,SEA;trees,train,2021-07-03\n3,sand,test,\n")
    Image.fromarray(photo(3)).save(folder / "b" / "9.png", exif=_taken("2020:02:29 12:00:00"))
    source = FolderSource(folder, "labels.csv")
    embed_images(StubEncoder(), source, tmp_path / "out", progress=False)
    items = read_shards(tmp_path / "out")[0]
    assert items.label_names == ("sea", "sand", "trees")  # as the encoder spells them, and then the new ones
    assert items.labels.sum() == 3
    assert items.describe(0) | {"labels": ["sea", "trees"], "split": "train", "date": "2021-07-03"} == items.describe(0)
    assert items.describe(6)["labels"] == ["sand"] and items.describe(6)["split"] == "test"
    assert items.describe(9)["date"] == "2020-02-29"
    with pytest.raises(ValueError, match=r"part-00000\.parquet' has other labels, sea, sand, trees; now sea, sand"):
        embed(folder, tmp_path / "out")


def test_dates_come_along_by_a_runs_archive_too(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.csv").write_text("image,labels,date\n0,SEA,2021-07-03\n3,sand,\n9,sand,\n")
    Image.fromarray(photo(3)).save(folder / "b" / "9.png", exif=_taken("2020:02:29 12:00:00"))
    archive = load_folder(folder)
    embed_images(StubEncoder(), ArchiveSource(archive), tmp_path / "out", progress=False)
    assert [str(day) for day in read_shards(tmp_path / "out")[0].dates] == ["2021-07-03", "NaT", "2020-02-29"]
    some = taken(replace(archive, groups=("x", "y", "z")), [0, 2])
    assert some.groups == ("x", "z") and some.places(np.arange(2)).shape == (2, 4, 2)
    dates = [(tile.date, tile.header().date) for tile in ArchiveSource(some)]
    assert np.array(dates).astype(str).tolist() == [["2021-07-03", "NaT"], ["NaT", "2020-02-29"]]
    (folder / "labels.csv").write_text("image,labels,date\n0,SEA,2021-07-04\n3,sand,\n9,sand,\n")
    assert archive_digest(load_folder(folder)) != archive_digest(archive)  # so the index is made anew
    (folder / "labels.csv").write_text("image,labels,date\n0,SEA,July\n")
    without = load_folder(folder)  # training needs no dates
    assert without.days is None and any("without dates" in note and "got 'July'" in note for note in without.notes)


def _taken(text: str) -> Image.Exif:
    exif = Image.Exif()
    exif[305] = "a camera"
    exif.get_ifd(0x8769)[36867] = text
    return exif


def test_an_archive_can_be_embedded(tmp_path: Path) -> None:
    archive = Archive("made", ("sea", "sand"), ("a.png", "b.png"), np.array([[1, 0], [1, 1]]), photo)
    assert embed_images(StubEncoder(), ArchiveSource(archive), tmp_path, thumbnail_size=0, progress=False).embedded == 2
    items, _, thumbnails = read_shards(tmp_path)
    assert items.ids.tolist() == ["a.png", "b.png"] and items.labels.tolist() == [[1, 0], [1, 1]]
    assert items.sources.tolist() == ["made", "made"] and thumbnails is None


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("kind", ["tif", "jpg"])
def test_tiles_of_a_scene_keep_their_places(tmp_path: Path, kind: str) -> None:
    """By a run's archive as by its folder; those of pictures without a header stand in footprints.parquet alone."""
    scene = raster(tmp_path / "s.tif", pixels())
    box_around = geojson(tmp_path / "v.geojson", [(box(0, 0, 96, 64), {"kind": "sea"})], UTM)
    cut = Options(size=32, label_column="kind", format=kind)
    cut_into_tiles([scene], tmp_path / "A", cut, vectors=box_around, progress=False)
    expected = np.array(load_folder(tmp_path / "A").places(np.arange(6)))
    assert len(np.unique(expected[:, 0], axis=0)) == 6 and abs(expected[0, 0] - (15.0, 45.154)).max() < 0.01
    for source in (ArchiveSource(load_folder(tmp_path / "A")), FolderSource(tmp_path / "A")):
        embed_images(StubEncoder(), source, tmp_path / source.name, progress=False)
        np.testing.assert_allclose(read_shards(tmp_path / source.name)[0].footprints, expected, atol=1e-9)


def test_pictures_of_an_archive_that_changed_are_embedded_anew(tmp_path: Path) -> None:
    def archive(contents: tuple[str, ...] | None, *names: str) -> Archive:
        return Archive("made", ("sea",), names, np.ones((len(names), 1)), photo, contents=contents)

    def run(*given: Any) -> tuple[int, int, int]:
        report = embed_images(StubEncoder(), ArchiveSource(archive(*given)), tmp_path, progress=False)
        return report.embedded, report.changed, report.gone

    assert run(("1", "2"), "a.png", "b.png") == (2, 0, 0)
    assert run(None, "a.png", "b.png") == (0, 0, 0)  # nothing is known of changes
    assert run(("1", "3", "4"), "a.png", "b.png", "c.png") == (2, 1, 0)
    assert run(("1", "4"), "a.png", "c.png") == (0, 0, 1)
    assert read_shards(tmp_path)[0].ids.tolist() == ["a.png", "c.png"]


def test_geotiffs_bring_their_footprint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.test_footprints import write_geotiff

    grid = (0.01, 0, 8.5, 0, -0.02, 47.25)
    write_geotiff(tmp_path / "tiles" / "a.tif", grid, "EPSG:4326")
    write_geotiff(tmp_path / "tiles" / "bands.tif", grid, "EPSG:4326", count=4, dtype="uint16")
    save(tmp_path / "tiles" / "plain.tif", photo(0))
    embed(tmp_path / "tiles", tmp_path / "out")
    items = read_shards(tmp_path / "out")[0]
    assert items.ids.tolist() == ["a.tif", "plain.tif"]
    np.testing.assert_allclose(items.footprints[0], [[8.5, 47.25], [9.14, 47.25], [9.14, 45.97], [8.5, 45.97]])
    assert np.isnan(items.footprints[1]).all()
    reason = bad_files(tmp_path / "out")["bands.tif"]
    assert "got 4 bands of 16-bit integers, interleaved by pixel" in reason and "Convert it to 8-bit RGB" in reason
    assert capsys.readouterr() == ("", "")


def test_another_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    embed(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="was made with another encoder"):
        embed(folder, tmp_path / "out", StubEncoder("b"))


def test_one_process_writes_at_a_time(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with open(output / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="is being written by another process"):
            embed(folder, output)
    assert embed(folder, output).embedded == 10


@pytest.mark.parametrize("name", ["shard_size", "workers", "batch_size"])
def test_numbers_out_of_range_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        embed(folder, tmp_path / "out", **{name: 0})
    with pytest.raises(ValueError, match="thumbnail_size must be >= 0, got -1"):
        embed(folder, tmp_path / "out", thumbnail_size=-1)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    with pytest.raises(FileNotFoundError, match="'tiles' must hold images, but none was found"):
        embed(tmp_path / "tiles", tmp_path / "out")


def test_a_folder_of_bad_files_only_ends_with_a_list(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_text("no image")
    report = embed(tmp_path, tmp_path / "out", shard_size=2)
    assert (report.embedded, report.bad) == (0, 5) and len(bad_files(tmp_path / "out")) == 5
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3
    assert str(report).startswith("nothing to do: 0 images were embedded before; 5 bad files")


def test_what_the_encoder_cannot_embed_is_a_bad_file(folder: Path, tmp_path: Path) -> None:
    class Failing(StubEncoder):
        def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
            vectors = super().embed_pixels(pixels)
            vectors[0, 0] = np.nan
            return vectors

    assert embed(folder, tmp_path / "out", Failing(), batch_size=4).embedded == 7
    items, vectors, _ = read_shards(tmp_path / "out")
    assert np.isfinite(vectors).all() and items.ids.tolist() == [*IDS[1:4], *IDS[5:8], IDS[9]]
    assert bad_files(tmp_path / "out")[IDS[4]] == "its embedding is not finite"

    class Narrow(StubEncoder):
        def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
            return super().embed_pixels(pixels)[:, :2]

    with pytest.raises(ValueError, match=r"the encoder must give shape \(10, 6\), got \(10, 2\)"):
        embed(folder, tmp_path / "other", Narrow())


class Endless:
    """A source that counts how many of its tiles were read, and how many of the pictures are alive at once."""

    name, label_names, notes = "endless", (), ()

    def __init__(self, count: int) -> None:
        self.total, self.asked, self.reading, self.most = count, 0, 0, 0
        self._lock = threading.Lock()

    def __iter__(self):
        for number in range(self.total):
            self.asked = number + 1
            yield Tile(str(number), str(number), self._read)

    def count(self) -> int:
        return self.total

    def _read(self) -> np.ndarray:
        with self._lock:
            self.reading += 1
            self.most = max(self.most, self.reading)
        time.sleep(0.001)
        with self._lock:
            self.reading -= 1
        return np.zeros((20, 20, 3), np.uint8)


def test_reading_runs_ahead_of_the_encoder_by_a_bounded_number(tmp_path: Path) -> None:
    source = Endless(300)
    ahead: list[int] = []

    class Counting(StubEncoder):
        def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
            ahead.append(source.asked - sum(self.batches))
            return super().embed_pixels(pixels)

    embed_images(Counting(), source, tmp_path, batch_size=10, workers=3, progress=False)
    assert source.most == 3  # pictures in full size
    assert max(ahead) <= 31  # a batch at the encoder, and two that are read meanwhile
    assert read_shards(tmp_path)[0].ids.tolist() == [str(number) for number in range(300)]


def test_an_error_of_the_encoder_ends_the_threads(tmp_path: Path) -> None:
    class Broken(StubEncoder):
        def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
            raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        embed_images(Broken(), Endless(10_000), tmp_path, progress=False)
    assert threading.active_count() == before
    assert embed_images(StubEncoder(), Endless(3), tmp_path, progress=False).embedded == 3  # the lock is free again


def test_the_bar_counts_what_was_done_before_but_not_as_speed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(folder, tmp_path / "out", progress=True)
    assert "13/13 [" in capsys.readouterr().err
    save(folder / "c.png", photo(0))
    embed(folder, tmp_path / "out", progress=True)
    assert "14/14 [" in capsys.readouterr().err
    (folder / "labels.csv").write_text("image,labels\nc,sea\ngone,sand\n")
    embed_images(StubEncoder(), FolderSource(folder, "labels.csv"), tmp_path / "out")
    assert "rows without an image, left out: 1 (gone)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """300 small files, of which every 23rd is bad."""
    root = tmp_path_factory.mktemp("many")
    good, bad = [], []
    for number in range(300):
        name = f"{number % 7}/{number:03}.png"
        (root / name).parent.mkdir(exist_ok=True)
        if number % 23 == 5:
            (root / name).write_text("no image")
            bad.append(name)
        else:
            save(root / name, photo(number, 9, 9))
            good.append(name)
    return root, sorted(good), sorted(bad)


# The processes that are killed are forked from one that has imported everything. The kernel ends them without a word,
# as SIGKILL does, after so much processor time: a busy machine changes nothing. The first is not killed.
KILLED = """
import os, resource, signal, sys
import numpy as np
from macl_tf.embedding.embedding import embed_images
from macl_tf.index.items import Items
from macl_tf.index.parquet import write_parquet
from macl_tf.embedding.sources import FolderSource
from tests.stub_encoder import StubEncoder

assert not {"tensorflow", "keras"} & set(sys.modules)
folder, output, unbroken = sys.argv[1:]
write_parquet(unbroken + "-first.parquet", Items.of((), ["a"]))  # pyarrow takes its time when it is first used

def run(output, seconds):
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        embed_images(StubEncoder(), FolderSource(folder), output, shard_size=8, batch_size=5, progress=False)
        os._exit(0)
    return os.waitpid(child, 0)[1]

assert run(unbroken, 0) == 0
used = resource.getrusage(resource.RUSAGE_CHILDREN)
moments = np.random.default_rng(7).uniform(0.001, (used.ru_utime + used.ru_stime) / 5, 12)
moments[-1] = 0.6 * (used.ru_utime + used.ru_stime)  # past the start of any machine, and its first shards
print([run(output, seconds) for seconds in moments].count(signal.SIGPROF))
"""


@pytest.mark.slow
def test_killed_at_a_dozen_moments_nothing_is_lost_and_nothing_twice(
    many: tuple[Path, list[str], list[str]], tmp_path: Path, run_python
) -> None:
    folder, good, bad = many
    output = tmp_path / "out"
    killed = int(run_python(KILLED, folder, output, tmp_path / "unbroken").stdout)
    assert killed >= 8  # it may be finished before the dozen is full
    report = embed(folder, output, shard_size=8)
    assert report.before >= 8  # it went on, and did not begin anew
    items, vectors, thumbnails = read_shards(output)
    assert sorted(items.ids) == good and len(list(thumbnails)) == len(good)
    assert sorted(bad_files(output)) == bad
    whole, expected, _ = read_shards(tmp_path / "unbroken")
    order, other = np.argsort(items.ids), np.argsort(whole.ids)
    np.testing.assert_array_equal(vectors[order], expected[other])
    assert not [path.name for path in output.iterdir() if path.name.startswith(".part-")]


@pytest.mark.slow
def test_killed_while_it_takes_in_changes_nothing_is_lost_and_nothing_twice(
    many: tuple[Path, list[str], list[str]], tmp_path: Path, run_python
) -> None:
    folder, good, _ = many
    folder = Path(shutil.copytree(folder, tmp_path / "tiles"))
    embed(folder, tmp_path / "out", shard_size=8)
    for number, name in enumerate(good):
        if number % 4 == 0:
            (folder / name).unlink()
        elif number % 4 == 1:
            save(folder / name, photo(number + 1000, 9, 9))
    for number in range(50):
        save(folder / "new" / f"{number:02}.png", photo(number + 2000, 9, 9))
    shutil.copytree(tmp_path / "out", tmp_path / "unbroken")
    killed = int(run_python(KILLED, folder, tmp_path / "out", tmp_path / "unbroken").stdout)
    assert killed >= 6
    embed(folder, tmp_path / "out", shard_size=8)
    embed(folder, tmp_path / "anew")
    fresh, expected, _ = read_shards(tmp_path / "anew")
    other = np.argsort(fresh.ids)
    for output in (tmp_path / "out", tmp_path / "unbroken"):
        items, vectors, _ = read_shards(output)
        order = np.argsort(items.ids)
        assert items.ids[order].tolist() == fresh.ids[other].tolist()
        np.testing.assert_array_equal(vectors[order], expected[other])
        report = embed(folder, output)
        assert (report.embedded, report.changed, report.gone) == (0, 0, 0)
        assert bad_files(output) == bad_files(tmp_path / "anew")


FULL = """
import resource, sys
from macl_tf.embedding.embedding import embed_images
from macl_tf.embedding.sources import FolderSource
from tests.stub_encoder import StubEncoder

resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # no file may grow beyond it: the shard cannot be written
try:
    embed_images(StubEncoder(), FolderSource(sys.argv[1]), sys.argv[2], shard_size=8, progress=False)
except OSError as error:
    print(error)
"""


def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(
    many: tuple[Path, list[str], list[str]], tmp_path: Path, run_python
) -> None:
    folder, good, bad = many
    output = tmp_path / "out"
    assert "File too large" in run_python(FULL, folder, output).stdout
    assert [path.name for path in output.iterdir()] == [".lock"]
    assert embed(folder, output).embedded == len(good)
    assert sorted(read_shards(output)[0].ids) == good and sorted(bad_files(output)) == bad


def test_the_exported_encoder_gives_what_it_gives_alone(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    from macl_tf.export.saved_model import ExportedEncoder, save_encoder

    info = {"image_size": 32, "dim": 4, "labels": ["sea"], "encoder_sha256": "a" * 64, "descriptor": "projection"}
    layers = keras.layers  # a small one: whether a large one is exported rightly is tested where it is exported
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(8, 5, 4),
            layers.Flatten(),
            layers.Dense(4),
            layers.UnitNormalization(),
        ]
    )
    save_encoder(model, info, tmp_path / "encoder")
    encoder = ExportedEncoder(tf.saved_model.load(str(tmp_path / "encoder")), 1)
    images = [photo(number, 20 + number, 90 - number) for number in range(20)]
    for number, image in enumerate(images):
        save(tmp_path / "tiles" / f"{number:02}.png", image)
    source = FolderSource(tmp_path / "tiles")
    assert embed_images(encoder, source, tmp_path / "out", batch_size=8, progress=False).embedded == 20
    items, vectors, _ = read_shards(tmp_path / "out")
    assert items.label_names == encoder.label_names
    # Not bit by bit: the order of sums depends on the batch.
    np.testing.assert_allclose(vectors, encoder.embed_images(images, batch_size=20), atol=1e-5)
