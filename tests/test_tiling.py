"""`macl tile`: scenes to tiles. Grid, nodata, bands, places, formats, STAC, going on."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.shutil import copy as gdal_copy
from rasterio.warp import transform
from rasterio.windows import Window

from macl_tf import cli
from macl_tf.datasets.images import decode_image
from macl_tf.datasets.walk import image_paths
from macl_tf.tiling import tile as tiling
from macl_tf.tiling.options import Options
from macl_tf.tiling.sources import find_sources
from macl_tf.tiling.tile import tile
from macl_tf.tiling.windows import chunks, starts, together
from tests.scene_files import PLACE, UTM, palette_png, pixels, raster


def cut(inputs, output, options=None, **rest):
    return tile([inputs] if not isinstance(inputs, list) else inputs, output, options or Options(size=32),
                progress=False, workers=2, **rest)  # fmt: skip


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tiles(output):
    """Pixels of each tile by its name."""
    found = {}
    for path in image_paths(output):
        with rasterio.open(path) as file:
            found[path.stem] = file.read()
    return found


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 200])
@pytest.mark.parametrize("stride", [8, 20, 32, 50])
def test_windows_leave_no_pixel_out_and_none_is_beyond(length, stride):
    found = starts(length, 32, stride)
    covered = {pixel for start in found for pixel in range(start, min(start + 32, length))}
    skipped = {pixel for pixel in range(length) if pixel % stride >= 32}
    assert covered >= set(range(length)) - skipped and all(start < length for start in found)
    assert found[-1] == 0 or found[-2] + 32 < length  # none that another one makes needless


def test_parts_hold_every_window_once_whatever_their_size():
    for bytes_a_pixel in (1, 10_000, 10**7):
        parts = list(chunks(100, 170, 32, 16, bytes_a_pixel))
        found = [(part.row, column) for part in parts for column in part.columns]
        assert found == [(row, column) for row in starts(100, 32, 16) for column in starts(170, 32, 16)]
        assert [part.number for part in parts] == list(range(len(parts)))


def test_parts_that_share_blocks_are_cut_by_one_thread():
    parts = list(chunks(1024, 2048, 256, 256, 1 << 16))
    assert len(parts) == 4 * 8  # a window each
    tiled = together(parts, (512, 512))
    assert [[(part.row // 512, part.columns[0] // 512) for part in group] for group in tiled] == [
        [(row, column)] * 4 for row in range(2) for column in range(4)
    ]
    assert [len(group) for group in together(parts, (1, 2048))] == [8] * 4  # strips: a row of windows
    assert together(parts, (1024, 2048)) == [parts]


@pytest.mark.parametrize(
    ("bands", "dtype", "layout"), [(3, "uint8", "pixel"), (4, "uint8", "band"), (3, "uint16", "band")]
)
def test_pictures_stand_pixel_by_pixel_and_other_tiles_band_by_band(tmp_path, bands, dtype, layout):
    values = pixels(bands, 32, 32, dtype)
    cut(raster(tmp_path / "s.tif", values), tmp_path / "A")
    (path,) = image_paths(tmp_path / "A")
    with rasterio.open(path) as file:
        assert file.interleaving.value.lower() == layout and file.read().tolist() == values.tolist()
    if layout == "pixel":
        assert np.moveaxis(np.asarray(Image.open(path)), 2, 0).tolist() == values.tolist()


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rasterio's, with affine 3
def test_tiles_are_the_windows_of_the_scene_with_their_place(tmp_path):
    values = pixels(4, 64, 96, "uint16")
    names = ("red", "green", "blue", "nir")
    scene = raster(tmp_path / "s.tif", values, nodata=0, descriptions=names, tiled=True, blockxsize=16, blockysize=16)
    summary = cut(scene, tmp_path / "A")
    assert summary.tiles == 6 and summary.scenes == 1 and summary.labels is None
    for path in image_paths(tmp_path / "A"):
        row, column = map(int, path.stem.split("_")[1:])
        with rasterio.open(path) as file, rasterio.open(scene) as whole:
            window = Window(column, row, 32, 32)
            assert np.array_equal(file.read(), whole.read(window=window))
            assert file.transform == whole.window_transform(window) and file.crs == whole.crs
            assert file.nodata == 0 and file.dtypes[0] == "uint16" and file.descriptions == names
            assert "alpha" not in {colour.name for colour in file.colorinterp}
    assert [row["image"] for row in rows(tmp_path / "A" / "groups.csv")] == [
        f"tiles/s/s_{row:02}_{column:02}.tif" for row in (0, 32) for column in (0, 32, 64)
    ]
    assert not (tmp_path / "A" / "labels.csv").exists()


def test_edges_are_filled_up_with_nodata_and_count_as_such(tmp_path):
    values = pixels(1, 40, 70)
    scene = raster(tmp_path / "s.tif", values, nodata=255)
    assert cut(scene, tmp_path / "whole", Options(size=32, max_nodata=0)).tiles == 2
    assert cut(scene, tmp_path / "all", Options(size=32, max_nodata=1)).tiles == 6
    found = tiles(tmp_path / "all")["s_32_64"][0]
    assert (
        np.array_equal(found[:8, :6], values[0, 32:, 64:]) and (found[8:] == 255).all() and (found[:, 6:] == 255).all()
    )


def test_tiles_without_data_are_left_out_and_counted(tmp_path):
    values = pixels(2, 64, 64)
    values[:, :32, :32] = 0  # all of the first tile
    values[0, 32:, :32] = 0  # one band alone is not without data
    values[:, 32:, 32:][:, :17] = 0  # 53 %
    scene = raster(tmp_path / "s.tif", values, nodata=0)
    summary = cut(scene, tmp_path / "A")
    assert sorted(tiles(tmp_path / "A")) == ["s_00_32", "s_32_00"]
    assert "more than 50% nodata: 2" in str(summary)
    assert {"problem": "nodata", "name": "s.tif", "detail": "2 windows"} in rows(tmp_path / "A" / "left_out.csv")


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0])
def test_what_is_not_a_number_is_without_data(tmp_path, nodata):
    values = pixels(1, 32, 96).astype(np.float32)
    values[:, :, :32] = np.nan
    values[:, :, 32:64] = -9999 if nodata == -9999 else np.nan
    summary = cut(raster(tmp_path / "s.tif", values, nodata=nodata), tmp_path / "A")
    assert list(tiles(tmp_path / "A")) == ["s_00_64"] and summary.tiles == 1


def test_alpha_is_a_mask_where_it_is_one_and_a_band_where_it_is_near_infrared(tmp_path):
    values = pixels(4, 32, 64)
    colours = ("red", "green", "blue", "alpha")
    raster(tmp_path / "in" / "nir.tif", values, colours=colours)
    values[3] = 255
    values[3, :, :32] = 0
    raster(tmp_path / "in" / "drone.tif", values, colours=colours)
    cut(tmp_path / "in", tmp_path / "A")
    shapes = {name: found.shape[0] for name, found in tiles(tmp_path / "A").items()}
    assert shapes == {"nir_00_00": 4, "nir_00_32": 4, "drone_00_32": 3}


def test_an_internal_mask_says_where_there_is_nothing(tmp_path):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        scene = raster(tmp_path / "s.tif", pixels(3, 32, 64))
        with rasterio.open(scene, "r+") as file:
            mask = np.full((32, 64), 255, np.uint8)
            mask[:, :32] = 0
            file.write_mask(mask)
    cut(scene, tmp_path / "A")
    assert list(tiles(tmp_path / "A")) == ["s_00_32"]


def test_chosen_bands_of_eight_bits_make_tiles_that_are_read(tmp_path):
    values = pixels(4, 32, 32)
    colours = ("gray", "undefined", "undefined", "undefined")
    cut(raster(tmp_path / "s.tif", values, colours=colours), tmp_path / "A", Options(size=32, bands=(4, 1, 2)))
    (path,) = image_paths(tmp_path / "A")
    assert np.array_equal(decode_image(path, "s"), np.moveaxis(values[[3, 0, 1]], 0, 2))


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pictures_are_written_of_eight_bits_only(tmp_path, kind):
    values = pixels(3, 32, 32) // 8 * 0 + 90
    raster(tmp_path / "in" / "a.tif", values)
    raster(tmp_path / "in" / "deep.tif", pixels(3, 32, 32, "uint16"))
    summary = cut(tmp_path / "in", tmp_path / "A", Options(size=32, format=kind))
    (path,) = image_paths(tmp_path / "A")
    assert path.name == f"a_00_00.{kind}"
    assert np.abs(decode_image(path, "a").astype(int) - np.moveaxis(values, 0, 2)).max() <= 2
    assert "scenes left out: 1 (deep.tif)" in str(summary)
    (told,) = rows(tmp_path / "A" / "left_out.csv")
    assert "uint8, got 3 of uint16. Choose three by --bands, or use --format tif." in told["detail"]
    # JPEG holds no place: the table does.
    assert pq.read_table(tmp_path / "A" / "footprints.parquet")["geometry"].null_count == 0


def test_resolution_is_in_metres_on_the_ground(tmp_path):
    values = np.kron(pixels(1, 16, 16), np.ones((1, 4, 4), np.uint8)).astype(np.uint8)
    metres = raster(tmp_path / "m.tif", values)
    degrees = raster(tmp_path / "d.tif", values, "EPSG:4326", Affine(1e-4, 0, 15, 0, -1e-4, 60))
    feet = raster(tmp_path / "f.tif", values, "EPSG:2263", Affine(10, 0, 980_000, 0, -10, 200_000))
    for scene, resolution, sides in ((metres, 40, (16, 16)), (metres, 20, (32, 32)), (degrees, 11.13, (64, 32)),
                                     (feet, 6.096, (32, 32)), (metres, 10, (64, 64))):  # fmt: skip
        name = f"{scene.stem}{resolution}"
        cut(scene, tmp_path / name, Options(size=64, resolution=resolution, max_nodata=1))
        head = json.loads((tmp_path / name / ".tiling" / f"{scene.stem}.jsonl").read_text().splitlines()[0])
        assert head["size"] == list(sides)
    found = tiles(tmp_path / "m40")["m_00_00"][0, :16, :16]
    assert np.array_equal(found, values[0, ::4, ::4])  # averages of what is the same


def test_resolution_without_a_place_is_refused(tmp_path):
    scene = raster(tmp_path / "s.tif", pixels(), None)
    with pytest.raises(ValueError, match=r"none is: s\.tif: resolution needs a scene with a coordinate system"):
        cut(scene, tmp_path / "A", Options(size=32, resolution=5))


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_rotated_scene_keeps_its_place(tmp_path):
    turned = PLACE @ Affine.rotation(30) if hasattr(Affine, "__matmul__") else PLACE * Affine.rotation(30)
    scene = raster(tmp_path / "s.tif", pixels(), transform=turned)
    cut(scene, tmp_path / "A")
    for path in image_paths(tmp_path / "A"):
        row, column = map(int, path.stem.split("_")[1:])
        with rasterio.open(path) as file, rasterio.open(scene) as whole:
            assert file.transform.almost_equals(whole.window_transform(Window(column, row, 32, 32)))


def test_footprints_are_geoparquet_in_degrees(tmp_path):
    cut(raster(tmp_path / "s.tif", pixels(1, 32, 64)), tmp_path / "A")
    table = pq.read_table(tmp_path / "A" / "footprints.parquet")
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["primary_column"] == "geometry" and geo["columns"]["geometry"]["encoding"] == "WKB"
    ring = np.frombuffer(table["geometry"][1].as_py()[13:], "<f8").reshape(5, 2)
    x, y = transform(UTM, "EPSG:4326", [500_320, 500_640], [5_000_000, 4_999_680])
    assert np.allclose(ring[0], (x[0], y[0])) and np.allclose(ring[2], (x[1], y[1])) and (ring[0] == ring[4]).all()


@pytest.mark.parametrize("kind", ["COG", "JP2OpenJPEG", "VRT", "PNG"])
def test_whatever_gdal_reads(tmp_path, kind):
    values = pixels(3, 64, 64)
    original = raster(tmp_path / "o.tif", values)
    suffix = {"COG": "tif", "JP2OpenJPEG": "jp2", "VRT": "vrt", "PNG": "png"}[kind]
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"} if kind == "JP2OpenJPEG" else {}
    gdal_copy(original, tmp_path / f"s.{suffix}", driver=kind, **lossless)
    cut(tmp_path / f"s.{suffix}", tmp_path / "A")
    assert np.array_equal(tiles(tmp_path / "A")["s_32_00"], values[:, 32:, :32])


def test_a_folder_of_scenes_at_any_depth_without_masks_mosaics_and_the_archive_itself(tmp_path):
    root = tmp_path / "data"
    for name in ("a/x.tif", "b/x.tif", "b/c/y.tif"):
        raster(root / name, pixels(1, 32, 32))
    gdal_copy(root / "a" / "x.tif", root / "mosaic.vrt", driver="VRT")
    (root / "broken.tif").write_bytes(b"II*\0nothing")
    (root / "notes.txt").write_text("x")
    for _ in range(2):  # the second time the archive lies among the scenes
        summary = cut(root, root / "archive")
        groups = {row["group"] for row in rows(root / "archive" / "groups.csv")}
        assert groups == {"a_x", "b_x", "y"} and summary.tiles == 3
    told = {(row["problem"], row["name"]) for row in rows(root / "archive" / "left_out.csv")}
    assert told == {("virtual", "mosaic.vrt"), ("unreadable", "broken.tif")}
    found, _ = find_sources([root], [root / "archive", root / "b"])
    assert [source.name for source in found] == ["a/x.tif", "broken.tif"]


def test_a_scene_that_breaks_in_the_middle_is_left_out_as_a_whole(tmp_path):
    whole = raster(tmp_path / "in" / "a.tif", pixels(3, 256, 256), compress="deflate")
    raster(tmp_path / "in" / "b.tif", pixels(3, 64, 64))
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2] + b"\0" * (len(data) // 4))
    summary = cut(tmp_path / "in", tmp_path / "A")
    assert summary.scenes == 1 and not (tmp_path / "A" / "tiles" / "a").exists()
    assert "scenes left out: 1 (a.tif)" in str(summary)
    raster(tmp_path / "in" / "a.tif", pixels(3, 256, 256))  # mended
    assert cut(tmp_path / "in", tmp_path / "A").scenes == 2


def item(name, assets, **properties):
    return {"type": "Feature", "stac_version": "1.0.0", "id": name, "properties": properties, "assets": assets}


def test_stac_items_keep_their_time_and_id(tmp_path):
    raster(tmp_path / "one.tif", pixels())
    raster(tmp_path / "two.tif", pixels())
    tif = {"type": "image/tiff; application=geotiff", "roles": ["data"]}
    look = {"href": "look.png", "type": "image/png", "roles": ["thumbnail"]}
    items = [
        item("first", {"image": {"href": "./one.tif", **tif}, "thumbnail": look}, datetime="2021-07-31T10:20:30Z"),
        item("second", {"image": {"href": (tmp_path / "two.tif").as_uri(), **tif}}, start_datetime="2022-01-02"),
        item("far", {"image": {"href": "https://example.org/a.tif", **tif}}),
    ]
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    summary = cut(path, tmp_path / "A")
    assert summary.scenes == 2 and "scenes left out: 1 (far)" in str(summary)
    table = pq.read_table(tmp_path / "A" / "footprints.parquet").to_pylist()
    assert {(row["group"], row["datetime"]) for row in table} == {
        ("first", "2021-07-31T10:20:30Z"), ("second", "2022-01-02")}  # fmt: skip
    with rasterio.open(next(path for path in image_paths(tmp_path / "A") if "first" in path.name)) as file:
        assert file.tags()["TIFFTAG_DATETIME"] == "2021:07:31 10:20:30"


def test_assets_of_an_item_are_joined_in_the_order_asked_for_on_the_finest_grid(tmp_path):
    fine, coarse = pixels(1, 64, 64), pixels(1, 32, 32, seed=1)
    raster(tmp_path / "b2.tif", fine)
    raster(tmp_path / "b5.tif", coarse, transform=Affine(20, 0, 500_000, 0, -20, 5_000_000))
    assets = {"B05": {"href": "b5.tif", "roles": ["data"]}, "B02": {"href": "b2.tif", "roles": ["data"]}}
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item("s2", assets)))
    with pytest.raises(ValueError, match=r"item 's2' has 2 rasters: B02, B05\. Say which by --assets"):
        cut(path, tmp_path / "A")
    cut(path, tmp_path / "A", Options(size=64, assets=("B05", "B02")))
    found = tiles(tmp_path / "A")["s2_00_00"]
    assert found.shape == (2, 64, 64) and np.array_equal(found[1], fine[0])
    assert abs(float(found[0].mean()) - float(coarse.mean())) < 2


def test_what_is_no_item_is_said(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"type": "Collection"}))
    with pytest.raises(ValueError, match=r"must be a STAC item or item collection, got another file \(type 'Coll"):
        cut(tmp_path / "c.json", tmp_path / "A")


def test_the_same_call_again_cuts_nothing_and_new_scenes_are_added(tmp_path, monkeypatch):
    raster(tmp_path / "in" / "a.tif", pixels())
    cut(tmp_path / "in", tmp_path / "A")
    before = {path: path.stat().st_mtime_ns for path in image_paths(tmp_path / "A")}
    raster(tmp_path / "in" / "b.tif", pixels(seed=1))
    assert cut(tmp_path / "in", tmp_path / "A").tiles == 12
    assert before.items() <= {path: path.stat().st_mtime_ns for path in image_paths(tmp_path / "A")}.items()
    monkeypatch.setattr(tiling, "_cut", None)
    assert cut(tmp_path / "in", tmp_path / "A").tiles == 12
    # What is not given again stays, and what moved is the same scene.
    (tmp_path / "in" / "a.tif").rename(tmp_path / "a.tif")
    assert cut(tmp_path / "a.tif", tmp_path / "A").tiles == 12


def test_a_changed_scene_is_cut_anew_and_a_lost_tile_again(tmp_path):
    scene = raster(tmp_path / "s.tif", pixels())
    cut(scene, tmp_path / "A")
    (tmp_path / "A" / "tiles" / "s" / "s_00_32.tif").write_bytes(b"")  # as after a power cut
    cut(scene, tmp_path / "A")
    assert np.array_equal(tiles(tmp_path / "A")["s_00_32"], pixels()[:, :32, 32:64])
    raster(scene, pixels(3, 32, 32, seed=9))
    summary = cut(scene, tmp_path / "A")
    assert list(tiles(tmp_path / "A")) == ["s_00_00"]
    assert "scenes that changed and were cut anew: 1 (s.tif)" in str(summary)


def test_a_scene_that_changes_while_it_is_cut_is_left_out(tmp_path, monkeypatch):
    scene = raster(tmp_path / "s.tif", pixels())
    real = tiling._cut

    def touched(*arguments):
        scene.touch()
        return real(*arguments)

    monkeypatch.setattr(tiling, "_cut", touched)
    with pytest.raises(ValueError, match=r"s\.tif: it changed while it was cut"):
        cut(scene, tmp_path / "A")


def test_where_nothing_was_cut_another_try_may_have_other_options(tmp_path):
    """A wrong class table is refused with what is wrong; who mends it is not asked to mend the output as well."""
    scene = raster(tmp_path / "s.tif", pixels())
    with pytest.raises(ValueError, match=r"of 1 none is: s\.tif: bands must be from 1 to 3 here, got 9"):
        cut(scene, tmp_path / "A", Options(size=32, bands=(9,)))
    assert cut(scene, tmp_path / "A", Options(size=32, bands=(3,))).tiles == 6
    with pytest.raises(ValueError, match=r"was cut with bands=\[3\], now \[\]"):
        cut(scene, tmp_path / "A", Options(size=32))


def test_when_no_scene_can_be_cut_the_first_reasons_and_how_many_more_are_said(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abcd":
        (tmp_path / "in" / f"{name}.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(ValueError, match=r"of 4 none is: a\.tif: (?!a\.tif).*; b\.tif: .* and 1 more$"):
        cut(tmp_path / "in", tmp_path / "A")


def test_other_options_other_folders_and_two_at_once_are_refused(tmp_path):
    scene = raster(tmp_path / "s.tif", pixels())
    cut(scene, tmp_path / "A")
    with pytest.raises(ValueError, match=r"was cut with size=32, now 16; stride=32, now 16\. Give the same, or"):
        cut(scene, tmp_path / "A", Options(size=16))
    (tmp_path / "B").mkdir()
    (tmp_path / "B" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="must be a new or empty folder, or one that macl tile began"):
        cut(scene, tmp_path / "B")
    from macl_tf.files import locked

    with locked(tmp_path / "A" / ".tiling" / "lock"), pytest.raises(BlockingIOError, match="another macl tile works"):
        cut(scene, tmp_path / "A")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 4}, "size must be >= 8 pixels, got 4"),
        ({"stride": -1}, "stride must be >= 1 pixels, got -1"),
        ({"resolution": -1.0}, "resolution must be > 0"),
        ({"min_area": 1.5}, r"min_area must be a share in \[0, 1\], got 1.5"),
        ({"bands": (0, 1)}, "bands must be numbers from 1, got 0,1"),
        ({"format": "gif"}, "format must be one of tif, png, jpg, got 'gif'"),
    ],
)
def test_options_name_rule_and_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        Options(**wrong)


def test_a_band_that_is_not_there_and_a_scene_that_is_not_there(tmp_path):
    scene = raster(tmp_path / "s.tif", pixels())
    with pytest.raises(ValueError, match="bands must be from 1 to 3 here, got 4"):
        cut(scene, tmp_path / "A", Options(size=32, bands=(4,)))
    with pytest.raises(FileNotFoundError, match="the scenes must be there"):
        cut(tmp_path / "none.tif", tmp_path / "A")


def test_the_command_line(tmp_path, capsys):
    scene = raster(tmp_path / "s.tif", pixels(4))
    mask = palette_png(tmp_path / "masks" / "s.png", np.ones((64, 96)))
    (tmp_path / "classes.csv").write_text("value,name\n1,water\n")
    asked = ["tile", str(scene), "--output", str(tmp_path / "A"), "--size", "32", "--bands", "4,3,2", "--quiet"]
    assert cli.main([*asked, "--masks", str(mask.parent), "--classes", str(tmp_path / "classes.csv")]) == 0
    assert "6 tiles of 1 scene, 1 label\n" in capsys.readouterr().out
    assert cli.main([*asked, "--bands", "red"]) == 2
    assert "bands must be numbers like 4,3,2, got red." in capsys.readouterr().err


def test_the_command_does_not_wait_for_tensorflow(run_python, tmp_path):
    scene = raster(tmp_path / "s.tif", pixels())
    script = """
import sys
from macl_tf.cli import main
assert main(["tile", sys.argv[1], "--output", sys.argv[2], "--size", "32", "--quiet"]) == 0
assert not {"keras", "tensorflow", "shapely", "pyogrio"} & set(sys.modules)
"""
    run_python(script, scene, tmp_path / "A")


@pytest.mark.parametrize("resolution", [0, 20])
def test_masked_and_transparent_parts_stay_so_in_another_resolution(tmp_path, resolution):
    values = pixels(4, 64, 128)
    values[3] = 255
    values[3, :, :64] = 0
    raster(tmp_path / "in" / "alpha.tif", values, colours=("red", "green", "blue", "alpha"))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        masked = raster(tmp_path / "in" / "masked.tif", values[:3])
        with rasterio.open(masked, "r+") as file:
            file.write_mask(values[3])
    cut(tmp_path / "in", tmp_path / "A", Options(size=32, resolution=resolution))
    columns = {int(path.stem.split("_")[2]) for path in image_paths(tmp_path / "A")}
    assert columns == ({64, 96} if not resolution else {32})
    assert {path.stem.split("_")[0] for path in image_paths(tmp_path / "A")} == {"alpha", "masked"}


def test_a_full_disk_is_told_and_the_same_command_goes_on(tmp_path):
    scene = raster(tmp_path / "s.tif", pixels(4, 256, 256, "uint16"))
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2); from macl_tf.cli import main; sys.exit(main())"
    )
    asked = ["tile", str(scene), "--output", str(tmp_path / "A"), "--size", "128", "--quiet"]
    done = subprocess.run([sys.executable, "-c", limited, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Free some space on the disk, then try again" in done.stderr
    assert not image_paths(tmp_path / "A")
    assert cli.main(asked) == 0 and len(image_paths(tmp_path / "A")) == 4
