"""Shards: written whole, read back as one table, refused when they are damaged or do not belong together."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from macl_tf.embedding.shards import (
    BAD_FILES,
    BadFile,
    Origin,
    ShardFolder,
    read_origin,
    read_record,
    read_shards,
    shard_paths,
)
from macl_tf.index.items import Items

NAMES = ("sea", "sand")
ORIGIN = Origin("a" * 64, "projection", 1, NAMES, 3)


def vectors_of(ids: list[str]) -> np.ndarray:
    """Something else for each id: its letters' codes."""
    return np.array([[ord(id[0]), ord(id[-1]), len(id)] for id in ids], np.float32).reshape(-1, 3)


def add(shards: ShardFolder, ids: list[str], bad: tuple[BadFile, ...] = (), *, thumbnails: bool = True) -> None:
    corners = [[[8, 47], [9, 47], [9, 46], [8, 46]]] + [[[np.nan] * 2] * 4] * (len(ids) - 1)
    items = Items.of(
        NAMES,
        ids,
        [[number % 2, 1] for number in range(len(ids))],
        paths=ids,
        splits=["test"] * len(ids),
        sources=["made"] * len(ids),
        footprints=corners[: len(ids)],
        dates=[np.datetime64("2021-07-03")] * len(ids),
    )
    small = [id.encode() if number else None for number, id in enumerate(ids)]
    shards.add(items, vectors_of(ids), small if thumbnails else None, bad)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards: of three tiles, of bad files only, and of two tiles."""
    shards = ShardFolder(tmp_path, ORIGIN)
    add(shards, ["a", "b", "c"], (BadFile("x.png", "broken", "1:2"),))
    add(
        shards,
        [],
        (BadFile("y, z.png", 'says "no"\nand more'), BadFile(os.fsdecode(b"\xff.png"), "name")),
        thumbnails=False,
    )
    add(shards, ["d", "e"])
    return tmp_path


def test_what_is_written_is_read_back(folder: Path) -> None:
    items, vectors, thumbnails = read_shards(folder)
    assert items.ids.tolist() == items.paths.tolist() == ["a", "b", "c", "d", "e"]
    assert items.label_names == NAMES and items.labels.tolist() == [[0, 1], [1, 1], [0, 1], [0, 1], [1, 1]]
    assert items.describe(3) == {
        "id": "d", "path": "d", "labels": ["sand"], "split": "test", "source": "made", "date": "2021-07-03",
        "footprint": [[8, 47], [9, 47], [9, 46], [8, 46]],
    }  # fmt: skip
    assert np.isnan(items.footprints[4]).all()
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, vectors_of(["a", "b", "c", "d", "e"]))
    assert thumbnails is not None and list(thumbnails) == [None, b"b", b"c", None, b"e"]
    assert read_origin(folder) == ORIGIN


def test_another_library_reads_them(folder: Path) -> None:
    table = pytest.importorskip("pyarrow.parquet").read_table(folder / "part-00000.parquet")
    assert table["id"].to_pylist() == ["a", "b", "c"] and table["labels"].to_pylist() == [["sand"], [*NAMES], ["sand"]]
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist()), vectors_of(["a", "b", "c"]))
    # A point count and ten doubles, in little-endian well-known binary: upper left, around, and upper left again.
    ring = np.frombuffer(table["geometry"][0].as_py(), "<f8", offset=13).reshape(5, 2)
    assert ring.tolist() == [[8, 47], [9, 47], [9, 46], [8, 46], [8, 47]]
    assert b"geo" in table.schema.metadata


def test_without_thumbnails_there_are_none(tmp_path: Path) -> None:
    add(ShardFolder(tmp_path, ORIGIN), ["a"], thumbnails=False)
    assert read_shards(tmp_path)[2] is None


def test_bad_files_are_listed(folder: Path) -> None:
    with open(folder / BAD_FILES, newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["path", "reason"],
            ["x.png", "broken"],
            ["y, z.png", 'says "no"\nand more'],
            [os.fsdecode(b"\xff.png"), "name"],
        ]
    os.remove(folder / BAD_FILES)  # killed between the shard and the list
    ShardFolder(folder, ORIGIN).write_bad_files()
    written = (folder / BAD_FILES).stat().st_mtime_ns
    ShardFolder(folder, ORIGIN).write_bad_files()
    assert (folder / BAD_FILES).stat().st_mtime_ns == written  # the same: not written again


def test_the_folder_knows_what_is_done(folder: Path) -> None:
    shards = ShardFolder(folder, ORIGIN)
    assert shards.rows == 5 and shards.bad["x.png"] == BadFile("x.png", "broken", "1:2") and len(shards.bad) == 3
    assert [id for id in ("a", "b", "e", "f", "x.png", "") if shards.holds(id)] == ["a", "b", "e"]
    add(shards, ["x.png"])  # mended
    assert set(shards.bad) == set(ShardFolder(folder, ORIGIN).bad) == {"y, z.png", os.fsdecode(b"\xff.png")}
    assert shard_paths(folder)[-1].name == "part-00003.parquet"


def test_numbers_of_more_digits_stay_in_order(tmp_path: Path) -> None:
    for number in (2, 99_999, 100_000):
        (tmp_path / f"part-{number:05}.parquet").touch()
    (tmp_path / "part-one.parquet").touch()
    assert [path.name for path in shard_paths(tmp_path)] == [
        "part-00002.parquet",
        "part-99999.parquet",
        "part-100000.parquet",
    ]


def test_what_a_killed_process_left_is_cleared_and_written_again(folder: Path) -> None:
    # Killed when what stands beside it was written, and the shard itself not yet named.
    last = folder / "part-00002.parquet"
    last.rename(folder / ".part-part-00002.parquet")
    (folder / ".part-.part-part-00002.parquet").write_bytes(b"half")
    assert read_shards(folder)[0].ids.tolist() == ["a", "b", "c"]
    shards = ShardFolder(folder, ORIGIN)
    assert shards.rows == 3 and not shards.holds("d")
    add(shards, ["d", "e"])
    assert read_shards(folder)[0].ids.tolist() == ["a", "b", "c", "d", "e"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [BAD_FILES, *(f"part-0000{number}.{kind}" for number in range(3) for kind in ("json", "parquet"))]
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            Origin("b" * 64, "projection", 2, NAMES, 3),
            r"another encoder: version 1 \(projection, 3 dimensions, SHA-256 a{12}\); now version 2 .*b{12}",
        ),
        (replace(ORIGIN, dim=4), r"part-00000\.parquet' was made with another encoder"),
        (replace(ORIGIN, descriptor="backbone"), r"another encoder: .*now version 1 \(backbone"),
        (replace(ORIGIN, label_names=("sea", "trees")), r"has other labels, sea, sand; now sea, trees\. Use ano"),
    ],
)
def test_what_does_not_belong_together_is_refused(folder: Path, other: Origin, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardFolder(folder, other)
    ShardFolder(folder, replace(ORIGIN, version=7))  # the same encoder, exported again


def test_shards_of_two_encoders_are_not_read_as_one(folder: Path) -> None:
    beside = folder / "part-00002.json"
    beside.write_text(beside.read_text().replace("a" * 64, "b" * 64))
    with pytest.raises(ValueError, match=r"part-00000\.parquet' was made with another encoder"):
        read_shards(folder)


def test_a_later_shard_takes_the_place_of_an_earlier_one(folder: Path) -> None:
    shards = ShardFolder(folder, ORIGIN)
    add(shards, ["z", "b"])
    assert shards.rows == 6
    items, vectors, thumbnails = read_shards(folder)
    assert items.ids.tolist() == ["a", "c", "d", "e", "z", "b"]
    np.testing.assert_array_equal(vectors, vectors_of(items.ids.tolist()))
    assert thumbnails is not None and list(thumbnails) == [None, b"c", None, b"e", None, b"b"]
    assert ShardFolder(folder, ORIGIN).rows == 6


def test_what_is_gone_is_not_read_any_more_until_it_comes_back(folder: Path) -> None:
    shards = ShardFolder(folder, ORIGIN)
    shards.see("a", "a")
    assert sorted(shards.unseen()) == sorted(["b", "c", "d", "e", "x.png", "y, z.png", os.fsdecode(b"\xff.png")])
    nothing = Items.of(NAMES, [])
    shards.add(nothing, vectors_of([]), None, (), gone=["b", "e", "x.png"])
    again = ShardFolder(folder, ORIGIN)
    assert (shards.rows, again.rows, again.holds("b"), again.holds("c")) == (3, 3, False, True)
    assert "x.png" not in again.bad and len(again.bad) == 2
    assert read_shards(folder)[0].ids.tolist() == ["a", "c", "d"]
    add(again, ["b"])
    assert read_shards(folder)[0].ids.tolist() == ["a", "c", "d", "b"] and ShardFolder(folder, ORIGIN).rows == 4


def test_a_change_of_the_file_or_of_what_is_said_of_it_is_noticed(tmp_path: Path) -> None:
    shards = ShardFolder(tmp_path, ORIGIN)
    items = Items.of(NAMES, ["a", "b"])
    shards.add(items, vectors_of(["a", "b"]), None, (), stamps=["1:2", ""], facts=["sea", "sand"])
    again = ShardFolder(tmp_path, ORIGIN)
    assert not again.changes("a", "1:2", "sea") and not again.changes("a", "", "sea")
    assert again.changes("a", "1:3", "sea") and again.changes("a", "1:2", "sand") and again.changes("c", "1:2", "sea")


def test_shards_of_another_format_are_refused(folder: Path) -> None:
    beside = folder / "part-00002.json"
    beside.write_text(beside.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(ValueError, match=r"is of format 1, where this macl_tf reads and writes 2\. Use another output"):
        read_shards(folder)


@pytest.mark.parametrize("reader", [read_shards, lambda folder: ShardFolder(folder, ORIGIN)])
def test_damage_is_refused_and_the_file_named(folder: Path, reader: object) -> None:
    path = folder / "part-00002.parquet"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [0, len(whole) - 1, *rng.integers(0, len(whole), 40)]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(
            ValueError, match=r"part-00002\.parquet' does not hold the bytes .*Remove 'part-00002\.parq"
        ):
            reader(folder)
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"part-00002\.parquet' must have {len(whole):,} bytes, got {length:,}"):
            reader(folder)
    path.write_bytes(whole)
    beside = folder / "part-00002.json"
    text = beside.read_text()
    for broken in (
        "",
        "[]",
        "{}",
        text[:-5],
        text.replace('"rows"', '"row"'),
        text.replace('"format": 2', '"format": "2."'),
    ):
        beside.write_text(broken)
        with pytest.raises(ValueError, match=r"part-00002\.json' is damaged"):
            reader(folder)
    beside.write_text(text.replace('"rows": 2', '"rows": 3'))
    if reader is read_shards:
        with pytest.raises(ValueError, match=r"part-00002\.parquet' does not hold what 'part-00002\.json' says"):
            reader(folder)
    beside.unlink()
    with pytest.raises(
        ValueError, match=r"part-00002\.parquet' is no shard of macl_tf: 'part-00002\.json' is not beside"
    ):
        reader(folder)


@pytest.mark.parametrize("reader", [read_shards, lambda folder: ShardFolder(folder, ORIGIN)])
def test_a_lost_shard_is_noticed(folder: Path, reader: object) -> None:
    (folder / "part-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-00001\.parquet' is missing, which 'part-00001\.json' is of"):
        reader(folder)
    (folder / "part-00001.json").unlink()  # as the message says
    reader(folder)


def test_folders_without_tiles_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "no", tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no shards"):
            read_shards(path)
    add(ShardFolder(tmp_path, ORIGIN), [], (BadFile("x.png", "broken"),), thumbnails=False)
    with pytest.raises(FileNotFoundError, match=r"its shards list bad files only\. The first: x.png broken"):
        read_shards(tmp_path)


def test_a_shard_that_cannot_be_written_leaves_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("macl_tf.embedding.shards.write_record", full)
    with pytest.raises(OSError, match="No space left"):
        add(ShardFolder(folder, ORIGIN), ["f"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_records_hold_every_name(tmp_path: Path) -> None:
    names = [os.fsdecode(b"\xff.png"), "海.png", 'a"b\\c\n.png']
    add(ShardFolder(tmp_path, ORIGIN), ["a"], tuple(BadFile(name, "x") for name in names))
    record = read_record(tmp_path / "part-00000.parquet")
    assert [file.path for file in record.bad] == names and record.rows == 1
    assert json.loads((tmp_path / "part-00000.json").read_text(encoding="ascii"))["format"] == 2
