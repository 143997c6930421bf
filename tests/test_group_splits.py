"""Splits by whole groups and by blocks of ground, and what random splits of neighbours are told."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.folder import load_folder
from macl_tf.datasets.group_splits import deal, ground_blocks, overlapped
from macl_tf.datasets.splits import split_archive
from macl_tf.datasets.tile_places import read_groups, read_places
from macl_tf.training.settings import Settings
from tests.scene_files import pixels, raster

DEGREE = 111_320.0


def squares(columns, rows, side=1000.0, step=None, latitude=45.0, longitude=10.0):
    """Corners (N, 4, 2) of a grid of tiles of `side` metres, row by row."""
    step = side if step is None else step
    x, y = np.meshgrid(np.arange(columns) * step, np.arange(rows) * step)
    corners = np.array([[0, 0], [side, 0], [side, -side], [0, -side]])
    metres = np.stack([x.ravel(), -y.ravel()], axis=1)[:, None] + corners
    longitudes = longitude + metres[..., 0] / DEGREE / np.cos(np.radians(latitude))
    return np.stack([(longitudes + 180) % 360 - 180, latitude + metres[..., 1] / DEGREE], axis=-1)


def archive(labels, places=None, groups=None, **more):
    names = tuple(f"{row:05}.tif" for row in range(len(labels)))
    label_names = tuple(f"label{column}" for column in range(labels.shape[1]))
    look = None if places is None else lambda indices: places[indices]
    return Archive("made", label_names, names, labels, lambda index: None, groups=groups, places=look, **more)


def random_labels(count, seed=0):
    return (np.random.default_rng(seed).random((count, 4)) < (0.5, 0.3, 0.1, 0.05)).astype(np.uint8)


@pytest.mark.parametrize("count", [3, 5, 20, 300])
def test_groups_stay_whole_and_parts_have_their_shares(count):
    rng = np.random.default_rng(count)
    group = np.concatenate([np.arange(count), rng.integers(0, count, 2000)])
    labels = random_labels(len(group))
    held = archive(labels, groups=tuple(f"scene{number}" for number in group))
    splits = split_archive(held, "groups", validation=0.15, test=0.2, seed=3)
    parts = [set(group[indices]) for indices in (splits.train, splits.validation, splits.test)]
    assert all(parts) and sum(map(len, parts)) == count == len(set.union(*parts)) and not splits.leaks
    assert len(splits.train) + len(splits.validation) + len(splits.test) == len(group)
    if count >= 20:
        for indices, share in ((splits.train, 0.65), (splits.validation, 0.15), (splits.test, 0.2)):
            assert len(indices) / len(group) == pytest.approx(share, abs=0.02)
            rare = labels[indices, 3].sum() / labels[:, 3].sum()
            assert rare == pytest.approx(share, abs=0.06)
    again = split_archive(held, "groups", validation=0.15, test=0.2, seed=3)
    assert np.array_equal(again.test, splits.test) and f"split by whole groups, {count}" in splits.note


def test_fewer_groups_than_parts_are_refused_and_a_part_without_a_share_gets_none():
    held = archive(random_labels(20), groups=("a", "b") * 10)
    with pytest.raises(ValueError, match=r"3 parts need 3 groups at least, got 2\. Use split=geographic where"):
        split_archive(held, "groups")
    splits = split_archive(held, "groups", validation=0.0, test=0.4)
    assert len(splits.train) == len(splits.test) == 10 and len(splits.validation) == 0
    with pytest.raises(ValueError, match=r"does not say\. Add a column 'group'.*or a table groups\.csv"):
        split_archive(archive(random_labels(20)), "groups")


def test_a_label_of_one_group_is_trained_on():
    labels = np.zeros((100, 2), np.uint8)
    labels[:, 0], labels[:10, 1] = 1, 1
    groups = np.arange(100) // 10
    for seed in range(10):
        parts = deal(labels, groups, (0.65, 0.15, 0.2), seed)
        assert (parts[:10] == 0).all()


@pytest.mark.parametrize(("latitude", "longitude"), [(0, 0), (60, 10), (-70, 179.95), (45, -180)])
def test_blocks_of_ground_are_squares_of_their_side(latitude, longitude):
    places = squares(40, 40, latitude=latitude, longitude=longitude)
    blocks, side = ground_blocks(places, 8000)
    assert side == 8000
    sizes = np.bincount(blocks)
    assert 20 <= len(sizes) <= 56 and sizes.max() <= 81  # 64 tiles each, cut by the border of the archive
    row, column = np.divmod(np.arange(1600), 40)
    for block in range(len(sizes)):
        own = blocks == block
        assert np.ptp(row[own]) <= 8 and np.ptp(column[own]) <= 8
    _, four = ground_blocks(places, 0)
    assert four == pytest.approx(4000, rel=0.05)
    with pytest.raises(ValueError, match="split_block must be at least the side of a tile, 1000 metres, got 100"):
        ground_blocks(places, 100)


def test_a_geographic_split_has_no_ground_in_common():
    places = squares(40, 40, step=500)  # each overlaps its neighbours by half
    held = archive(random_labels(1600), places)
    splits = split_archive(held, "geographic", block=5000, seed=1)
    parts = [splits.train, splits.validation, splits.test]
    outlines = [shapely.unary_union(shapely.polygons(places[indices]).tolist()) for indices in parts]
    tile = shapely.polygons(places[:1])[0].area
    for one in range(3):
        for other in range(one):
            assert outlines[one].intersection(outlines[other]).area < 0.1 * tile
    left_out = 1600 - sum(map(len, parts))
    assert 0 < left_out < 600 and f"{left_out:,} tiles left out that overlap tiles held back" in splits.note
    assert not splits.leaks and "blocks of ground of 5,000 m" in splits.note


def test_a_geographic_split_leaves_out_what_has_no_place_and_needs_some():
    places = squares(20, 20)
    places[::7] = np.nan
    splits = split_archive(archive(random_labels(400), places), "geographic")
    assert "58 tiles without a place left out" in splits.note
    assert not set(range(0, 400, 7)) & {*splits.train, *splits.validation, *splits.test}
    for none in (None, np.full((400, 4, 2), np.nan)):
        with pytest.raises(ValueError, match="a geographic split needs places, and no tile of 'made' has one"):
            split_archive(archive(random_labels(400), none), "geographic")
    with pytest.raises(ValueError, match=r"3 parts need 3 groups at least, got 1\. These are blocks of 900000 metres"):
        split_archive(archive(random_labels(400), squares(20, 20, latitude=1)), "geographic", block=900_000)
    with pytest.raises(ValueError, match="split_block must be 0 unless split=geographic, got 500"):
        split_archive(archive(random_labels(400), places), "random", block=500)


def test_a_random_split_of_neighbours_says_that_it_leaks():
    labels = random_labels(400)
    assert not split_archive(archive(labels), "random").leaks
    apart = split_archive(archive(labels, squares(20, 20, step=3000)), "random")
    assert not apart.leaks and "optimistic" not in apart.note
    for step in (1000, 500):  # beside each other, and overlapping
        splits = split_archive(archive(labels, squares(20, 20, step=step)), "random")
        assert splits.leaks and "overlap or touch tiles held back" in splits.note and "geographic" in splits.note
    splits = split_archive(archive(labels, groups=tuple("abcd" * 100)), "random")
    assert splits.leaks and "tiles of one group lie in several parts" in splits.note


def test_whole_scenes_of_the_same_ground_are_told():
    places = np.concatenate([squares(10, 10)] * 4)
    held = archive(random_labels(400), places, tuple(np.repeat(list("abcd"), 100)))
    splits = split_archive(held, "groups")
    assert splits.leaks and "overlap tiles held back (split=geographic keeps them apart)" in splits.note


def test_overlaps_are_those_of_outlines_and_not_of_boxes():
    # Tiles of a grid that is turned: their boxes overlap, they do not.
    places = squares(10, 10)
    centre, turn = places.mean(axis=(0, 1)), np.radians(30)
    scale = np.array([np.cos(np.radians(45)), 1])
    metres = (places - centre) * scale
    turned = metres @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]] / scale + centre
    ranks = np.arange(100) % 3
    assert not overlapped(turned, ranks).any() and overlapped(turned, ranks, touching=True)[ranks < 2].all()
    turned[5] += (turned[6] - turned[5]) * 0.3
    found = overlapped(turned, np.where(np.arange(100) == 6, 2, 0))
    assert np.flatnonzero(found).tolist() == [5]


def write_archive(folder, groups=None, placed=True):
    """Six tiles side by side, with a table."""
    for number in range(6):
        place = Affine(10, 0, 500_000 + 320 * number, 0, -10, 5_000_000)
        raster(
            folder / "tiles" / f"t{number}.tif", pixels(3, 32, 32, seed=number), "EPSG:32633" if placed else None, place
        )
    (folder / "labels.csv").write_text("image,a,b\n" + "".join(f"tiles/t{n}.tif,1,{n % 2}\n" for n in range(6)))
    if groups:
        rows = "".join(f"t{number},{group}\n" for number, group in enumerate(groups))
        (folder / "groups.csv").write_text("image,group\n" + rows)


def test_a_folder_reads_groups_and_divides_by_them_if_there_are_three(tmp_path):
    write_archive(tmp_path / "three", "aabbcc")
    held = load_folder(tmp_path / "three")
    assert held.groups == tuple("aabbcc") and held.default_split == "groups"
    assert split_archive(held).kind == "groups"
    write_archive(tmp_path / "two", "aaabbb")
    assert load_folder(tmp_path / "two").default_split == "random"
    write_archive(tmp_path / "none", placed=False)
    plain = load_folder(tmp_path / "none")
    assert plain.groups is None and not split_archive(plain).leaks


@pytest.mark.parametrize("listed", [True, False])
def test_a_column_group_of_the_label_table_is_no_label(tmp_path, listed):
    write_archive(tmp_path)
    rows = [f"t{n},{'x;y' if listed else '1,0'},{'abc'[n // 2]}" for n in range(6)]
    head = "image,labels,group" if listed else "image,x,y,group"
    (tmp_path / "labels.csv").write_text("\n".join([head, *rows]))
    held = load_folder(tmp_path)
    assert held.groups == tuple("aabbcc") and held.label_names == ("x", "y")
    assert not [note for note in held.notes if "group" in note]


def test_a_label_that_is_called_group_stays_one(tmp_path):
    write_archive(tmp_path)
    (tmp_path / "labels.csv").write_text("image,group,b\n" + "".join(f"t{n},{n % 2},1\n" for n in range(6)))
    held = load_folder(tmp_path)
    assert held.groups is None and held.label_names == ("group", "b")


def test_a_table_of_groups_that_is_none_is_refused_and_tiles_beside_it_are_their_own(tmp_path):
    (tmp_path / "groups.csv").write_text("image,place\na,b\n")
    with pytest.raises(ValueError, match="must have the columns image and group, got image, place"):
        read_groups(tmp_path, ["a.tif"])
    (tmp_path / "groups.csv").write_text("image,scene\nx/a.tif,s\nb,s\n")
    assert read_groups(tmp_path, ["x/a.tif", "b.png", "c.png"]) == ("s", "s", "c.png")


def test_places_are_those_of_the_table_or_of_the_headers(tmp_path):
    write_archive(tmp_path)
    names = [f"tiles/t{number}.tif" for number in range(6)]
    places = read_places(tmp_path, names)
    assert np.isfinite(places).all() and np.allclose(places[0, 1], places[1, 0])
    corners = np.array([[1.0, 2], [2, 2], [2, 1], [1, 1]])
    geometry = shapely.to_wkb(shapely.polygons([corners]))
    table = pa.table({"image": ["tiles/t0.tif"], "geometry": pa.array(geometry.tolist(), pa.binary())})
    pq.write_table(table, tmp_path / "footprints.parquet")
    mixed = read_places(tmp_path, names)
    assert np.array_equal(mixed[0], corners) and np.array_equal(mixed[1:], places[1:])
    (tmp_path / "footprints.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match="must be GeoParquet with the columns image and geometry"):
        read_places(tmp_path, names)


def test_the_settings_know_them():
    assert Settings(split="geographic", split_block=500.0).split_block == 500
    with pytest.raises(ValueError, match=r"split_block must be at least 0, got -1\.0"):
        Settings(split_block=-1.0)
