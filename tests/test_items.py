"""The id table: what it accepts, and its Parquet file as others read it."""

import datetime
import json
import struct
import subprocess
import sys

import geoparquet_validator
import numpy as np
import pyarrow.parquet as pq
import pytest

from macl_tf.datasets.tile_places import read_footprints
from macl_tf.index.items import Items, extent_of
from macl_tf.index.parquet import read_items, read_parquet, write_parquet
from macl_tf.index.thumbnails import Thumbnails, write_thumbnails
from macl_tf.tiling.geoparquet import Row, write_footprints

NAMES = ("bare soil", "sea", "trees, tall")
SQUARE = np.array([[10.0, 50.0], [10.5, 50.0], [10.5, 50.25], [10.0, 50.25]])
NOWHERE = np.full((4, 2), np.nan)
FIJI = np.array([[179.5, -17.0], [-179.5, -17.0], [-179.5, -16.0], [179.5, -16.0]])


def table():
    corners = np.stack([SQUARE, np.full((4, 2), np.nan), FIJI, SQUARE + 1])
    return Items.of(
        NAMES,
        ["a", "b/ü.tif", "c;d", "0"],
        [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]],
        paths=["x/a.tif", "", "c", "d"],
        splits=["train", "test", "train", ""],
        sources=["S2", "S2", "", "UAV"],
        footprints=corners,
        dates=["1969-07-20", None, datetime.date(2020, 2, 29), np.datetime64("2020-03-01")],
    )


def assert_same(a, b):
    assert a.label_names == b.label_names
    for name in ("ids", "paths", "splits", "sources"):
        column = getattr(b, name)
        assert column.dtype == object and all(type(value) is str for value in column)
        assert getattr(a, name).tolist() == column.tolist()
    np.testing.assert_array_equal(a.labels, b.labels)
    assert b.labels.dtype == np.uint8 and b.labels.shape == (len(b), len(b.label_names))
    # a western longitude is written as 360 degrees more, where a tile crosses the antimeridian
    np.testing.assert_allclose(a.footprints, b.footprints, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(a.dates, b.dates)
    assert b.dates.dtype == "datetime64[D]"


def test_describe_is_ready_for_json():
    assert json.loads(json.dumps([table().describe(row) for row in (0, 1)])) == [
        {
            "id": "a", "path": "x/a.tif", "labels": ["bare soil", "trees, tall"], "split": "train", "source": "S2",
            "date": "1969-07-20", "footprint": SQUARE.tolist(),
        },
        {"id": "b/ü.tif", "path": None, "labels": [], "split": "test", "source": "S2", "date": None, "footprint": None},
    ]  # fmt: skip
    assert table().describe_all([2, 0]) == [table().describe(2), table().describe(0)]


def test_the_least_that_can_be_said():
    items = Items.of(("a",), ["x"])
    assert items.describe(0) == {
        "id": "x", "path": None, "labels": [], "split": None, "source": None, "date": None, "footprint": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("ids", ["a", "b", "a"], "unique.*'a' at positions 0 and 2"),
        ("ids", ["a", "", "c"], "empty.*position 1"),
        ("ids", ["a", 7, "c"], "str.*7 at position 1"),
        ("ids", ["a", "b", "\udcff"], "UTF-8.*position 2"),
        ("ids", "abc", "list of str"),
        ("paths", ["a"], "one entry for each of the 3 ids, got 1"),
        ("splits", ["a", None, "b"], "got None at position 1"),
        ("label_names", ["x", "x"], "unique"),
        ("labels", [[1, 0]] * 2, r"\(3, 2\), got \(2, 2\)"),
        ("labels", [[1, 2]] * 3, r"only 0 and 1, got \[2\]"),
        ("footprints", np.zeros((3, 4)), "shape"),
        ("footprints", np.full((3, 4, 2), [0, 91]), "longitude in .-180, 180. and latitude"),
        ("footprints", np.where(np.arange(24).reshape(3, 4, 2) == 9, np.nan, 1.0), "all NaN.*position 1"),
        ("dates", ["2020-01-01", "soon", None], "soon"),
        ("dates", ["2020-01-01"], "one entry"),
    ],
)
def test_columns_that_break_a_rule_are_refused(column, value, message):
    good = {"label_names": ["x", "y"], "ids": ["a", "b", "c"]}
    with pytest.raises(ValueError, match=message):
        Items.of(**good | {column: value})


def test_take_concatenate_and_aligned():
    items = table()
    assert items.take([2, 0]).ids.tolist() == ["c;d", "a"]
    assert items.take(np.array([False, True, False, True])).ids.tolist() == ["b/ü.tif", "0"]
    assert_same(items, Items.concatenate([items.take([0, 1]), items.take([2]), items.take([]), items.take([3])]))
    fewer = Items.of(("sea", "bare soil"), ["z"], [[1, 0]])
    assert fewer.aligned(NAMES).describe(0)["labels"] == ["sea"]
    with pytest.raises(ValueError, match="bare soil, sea, \"trees, tall\"; got 'harbour'"):
        Items.of(("harbour",), ["z"]).aligned(NAMES)
    with pytest.raises(ValueError, match="same label names"):
        Items.concatenate([items, fewer])


def test_bounds_go_on_beyond_the_antimeridian():
    np.testing.assert_array_equal(table().bounds[[0, 2]], [[10.0, 50.0, 10.5, 50.25], [179.5, -17.0, 180.5, -16.0]])
    assert np.isnan(table().bounds[1]).all()


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1], []])
def test_parquet_there_and_back(tmp_path, rows):
    items = table().take(rows)
    write_parquet(tmp_path / "items.parquet", items)
    assert_same(items, read_items(tmp_path / "items.parquet"))


def test_vectors_and_thumbnails_there_and_back(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    path = tmp_path / "part.parquet"
    write_parquet(path, table(), vectors, [b"jpeg", None, b"", b"\x00\xff"])
    rows = read_parquet(path)
    np.testing.assert_array_equal(rows.vectors, vectors)
    assert rows.thumbnails == [b"jpeg", None, None, b"\x00\xff"]
    rows = read_parquet(path, vectors=False, thumbnails=False)
    assert rows.vectors is None and rows.thumbnails is None
    assert_same(table(), rows.items)
    with pytest.raises(ValueError, match="4 items, got"):
        write_parquet(path, table(), vectors[:3])
    with pytest.raises(ValueError, match=r"thumbnails.*4 items, got 1"):
        write_parquet(path, table(), vectors, [b""])
    assert [file.name for file in tmp_path.iterdir()] == ["part.parquet"]


def test_the_file_is_geoparquet_for_others(tmp_path):
    """Against the specification, GeoParquet 1.1.0, with pyarrow and struct only."""
    write_parquet(tmp_path / "items.parquet", table())
    read = pq.read_table(tmp_path / "items.parquet")
    geo = json.loads(read.schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry"
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB" and column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert column["bbox"] == [10.0, -17.0, -179.5, 51.25]  # from 10 degrees east over the antimeridian
    assert "crs" not in column  # which means OGC:CRS84: longitude, latitude
    bodies = read["geometry"].to_pylist()
    assert bodies[1] is None
    order, kind, rings, points, *ring = struct.unpack("<BIII10d", bodies[0])
    assert (order, kind, rings, points) == (1, 3, 1, 5)  # little-endian, polygon
    assert ring == [*SQUARE.ravel(), *SQUARE[0]]  # closed
    order, kind, polygons, *both = struct.unpack("<BII" + 2 * "BIII10d", bodies[2])
    assert (order, kind, polygons) == (1, 6, 2)  # cut at the antimeridian
    assert both[:4] == both[14:18] == [1, 3, 1, 5]
    assert both[4:14:2] == [179.5, 180, 180, 179.5, 179.5] and both[18::2] == [-180, -179.5, -179.5, -180, -180]
    assert str(read.schema.field("date").type) == "date32[day]"
    assert read["date"].to_pylist() == [datetime.date(1969, 7, 20), None, datetime.date(2020, 2, 29),
                                        datetime.date(2020, 3, 1)]  # fmt: skip
    assert read["labels"].to_pylist()[:2] == [["bare soil", "trees, tall"], []]
    assert read["id"].to_pylist() == ["a", "b/ü.tif", "c;d", "0"]


def test_without_footprints_the_columns_are_the_same(tmp_path):
    for name, items in (("with", table()), ("without", Items.of(NAMES, ["a"]))):
        write_parquet(tmp_path / name, items)
    schemas = [pq.read_schema(tmp_path / name) for name in ("with", "without")]
    assert schemas[0].equals(schemas[1])
    (column,) = json.loads(schemas[1].metadata[b"geo"])["columns"].values()
    assert column == {"encoding": "WKB", "geometry_types": ["Polygon"]}  # GeoParquet all the same, of no place


@pytest.mark.parametrize("kind", ["items", "shard", "results", "footprints"])
@pytest.mark.parametrize(
    "corners",
    [
        [NOWHERE],
        [SQUARE, NOWHERE, SQUARE + 1],
        [FIJI, SQUARE, NOWHERE],
        [[[180, 1], [-179, 1], [-179, 0], [180, 0]]],
        [[[179, 1], [-180, 1], [-180, 0], [179, 0]]],
        [[[179.9, 1], [-179, 0.2], [-179.8, -1], [179, -0.3]], [[-179.9, 0], [179, 1], [179.1, 0], [180, -1]]],
        [[[180, 1], [-179, 0], [180, -1], [179, 0]]],
        [[[180, 1], [-179, 0], [179.9, -1], [179, 0]]],
    ],
    ids=["none", "some", "cut", "begins at 180", "ends at 180", "turned", "two corners on it", "one corner on it"],
)
def test_the_validator_of_geoparquet_finds_no_fault(tmp_path, kind, corners):
    """In what is written of tiles anywhere, and their corners come back. It is of the makers of the specification."""
    path, count = tmp_path / "footprints.parquet", len(corners)
    names, corners = [str(number) for number in range(count)], np.array(corners, float)
    if kind == "footprints":
        write_footprints(path, [Row(name, "", "", None, [], place) for name, place in zip(names, corners, strict=True)])
        found = np.array([read_footprints(tmp_path)[name] for name in names])
    else:
        vectors, more = np.eye(count, 3, dtype=np.float32), {"rank": list(range(count)), "query": names}
        given = {"items": [], "shard": [vectors, [b"jpeg"] * count], "results": [None, None, more]}[kind]
        write_parquet(path, Items.of((), names, footprints=corners), *given)
        found = read_items(path).footprints
    same = np.where(found == -180, 180, found), np.where(corners == -180, 180, corners)
    np.testing.assert_allclose(*same, rtol=0, atol=1e-12)
    report = geoparquet_validator.check(str(path))
    assert report["version"] == "1.1.0"
    # The class for clouds asks for a column of boxes, which nobody has to have, and which we do not claim.
    assert geoparquet_validator.failed(report, "core") == geoparquet_validator.failed(report, "covering") == []


@pytest.mark.parametrize(
    ("bounds", "extent"),
    [
        ([[1, 2, 3, 4], [0, 3, 2, 5]], [0, 2, 3, 5]),
        ([[179, 0, 181, 1], [10, 0, 11, 1]], [10, 0, -179, 1]),
        ([[180, 0, 181, 1]], [-180, 0, -179, 1]),
        ([[179, 0, 181, 1], [-179.5, 0, -178, 2]], [-180, 0, 180, 2]),
    ],
)
def test_the_extent_of_tiles_goes_over_the_antimeridian(bounds, extent):
    assert extent_of(np.array([*bounds, [np.nan] * 4], float)) == extent


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "items.parquet"
    write_parquet(path, table())
    whole = path.read_bytes()
    for content in (whole[:-9], whole[: len(whole) // 2], b"", b"PAR1 or not", whole[:40] + b"\x00" * 60 + whole[100:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"items\.parquet' is damaged"):
            read_items(path)
    path.write_bytes(whole)
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(ValueError, match="not a Parquet file of macl_tf"):
        read_items(path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_items(tmp_path / "other.parquet")


def test_many_row_groups_and_labels_stay_in_order(tmp_path):
    generator = np.random.default_rng(1)
    count = 70_000  # more than a row group
    labels = generator.integers(0, 2, (count, 3))
    corners = np.where(generator.random((count, 1, 1)) < 0.5, np.nan, generator.uniform(-80, 80, (count, 4, 2)))
    days = generator.integers(0, 20_000, count).astype("datetime64[D]")
    splits = generator.choice(["train", "test"], count)
    items = Items.of(NAMES, [f"{n}" for n in range(count)], labels, footprints=corners, dates=days, splits=splits)
    write_parquet(tmp_path / "items.parquet", items)
    assert pq.read_metadata(tmp_path / "items.parquet").num_row_groups == 2
    assert_same(items, read_items(tmp_path / "items.parquet"))


def test_items_do_not_wait_for_pyarrow():
    script = "import sys, macl_tf.index.items; print('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


def test_reading_does_not_wait_for_pandas(tmp_path):
    write_parquet(tmp_path / "items.parquet", table())
    script = "import sys, macl_tf.index.parquet as p; p.read_items(sys.argv[1]); print('pandas' in sys.modules)"
    command = [sys.executable, "-c", script, tmp_path / "items.parquet"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("pictures", [[b"one", None, b"", b"four"], [None, None, None, b"x"]])
def test_thumbnails_by_position(tmp_path, pictures):
    write_thumbnails(tmp_path, iter(pictures), 4)
    read = Thumbnails(tmp_path)
    assert len(read) == 4 and [read[n] for n in range(4)] == [picture or None for picture in pictures]


def test_thumbnails_that_do_not_fit_are_refused(tmp_path):
    for pictures, message in (([b"a"], "2 items, got 1"), ([b"a"] * 3, "got 3"), ([b"a", "b"], "str at 1")):
        with pytest.raises(ValueError, match=message):
            write_thumbnails(tmp_path, pictures, 2)
    write_thumbnails(tmp_path, [b"a", b"bc"], 2)
    (tmp_path / "thumbnails.bin").write_bytes(b"a")
    with pytest.raises(ValueError, match="does not fit"):
        Thumbnails(tmp_path)


def test_no_thumbnail_at_all_leaves_no_file(tmp_path):
    write_thumbnails(tmp_path, [None, b""], 2)
    assert list(tmp_path.iterdir()) == []
