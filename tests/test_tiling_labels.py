"""Labels of tiles from masks and from vectors."""

import csv
import json
import sqlite3
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from rasterio.warp import transform

from macl_tf.datasets.class_tables import ClassTable, read_class_table
from macl_tf.datasets.folder import load_folder
from macl_tf.tiling.options import Options
from macl_tf.tiling.polygons import read_shapes
from macl_tf.tiling.tile import tile
from tests.scene_files import PALETTE, PLACE, UTM, box, geojson, ground, palette_png, pixels, raster

TABLE = ClassTable(("water", "land"), {"0": -1, "1": 0, "2": 1})


def cut(scene, output, options=None, **rest):
    return tile([scene], output, options or Options(size=32), progress=False, workers=2, **rest)


def shares(output):
    """Shares of the labels of each tile, by its place in the scene."""
    with open(output / "areas.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {tuple(map(int, row.pop("image")[:-4].split("_")[-2:])): {name: float(value) for name, value in row.items()}
            for row in rows}  # fmt: skip


def labels(output):
    with open(output / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {tuple(map(int, row["image"][:-4].split("_")[-2:])): json.loads(row["labels"]) for row in rows}


def codes():
    """Codes of classes (64, 96): water left of 40, land right of it, nothing in the corner."""
    found = np.full((64, 96), 2, np.uint8)
    found[:, :40] = 1
    found[:8, :8] = 0
    return found


EXPECTED = {
    (0, 0): {"water": 960 / 1024, "land": 0}, (0, 32): {"water": 0.25, "land": 0.75}, (0, 64): {"water": 0, "land": 1},
    (32, 0): {"water": 1, "land": 0}, (32, 32): {"water": 0.25, "land": 0.75}, (32, 64): {"water": 0, "land": 1},
}  # fmt: skip


def assert_shares(output, expected, tolerance=1e-6):
    found = shares(output)
    assert found.keys() == expected.keys()
    for place, held in expected.items():
        assert found[place] == pytest.approx(held, abs=tolerance)


def write_mask(folder, kind):
    """The codes as a mask of a kind, and the class table that it needs."""
    colours = ClassTable(TABLE.names, {}, {PALETTE[1]: 0, PALETTE[2]: 1, PALETTE[0]: -1})
    rgb = np.array([PALETTE[code] for code in range(3)], np.uint8)[codes()]
    if kind == "palette by value":
        palette_png(folder / "s.png", codes())
    elif kind == "palette by colour":
        palette_png(folder / "s.png", codes())
        return colours
    elif kind == "palette TIFF by colour":
        raster(folder / "s.tif", codes()[None], palette=PALETTE)
        return colours
    elif kind == "RGB":
        folder.mkdir()
        Image.fromarray(rgb).save(folder / "s_mask.png")
        return colours
    elif kind == "RGBA TIFF":
        raster(folder / "s.tif", np.moveaxis(np.dstack([rgb, np.full((64, 96), 255, np.uint8)]), 2, 0))
        return colours
    elif kind == "grey PNG":
        folder.mkdir()
        Image.fromarray(codes()).save(folder / "s.png")
    elif kind == "int16":
        raster(folder / "s.tif", codes().astype(np.int16)[None] - 5)
        return ClassTable(TABLE.names, {"-5": -1, "-4": 0, "-3": 1})
    elif kind == "float32 with nodata":
        raster(folder / "s.tif", codes().astype(np.float32)[None], nodata=0)
        return ClassTable(TABLE.names, {"1": 0, "2": 1})
    elif kind == "uint16":
        raster(folder / "s.tif", codes().astype(np.uint16)[None] * 1000)
        return ClassTable(TABLE.names, {"0": -1, "1000": 0, "2000": 1})
    return TABLE


KINDS = ["palette by value", "palette by colour", "palette TIFF by colour", "RGB", "RGBA TIFF", "grey PNG", "int16",
         "uint16", "float32 with nodata"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_kind_give_the_same_labels(tmp_path, kind):
    table = write_mask(tmp_path / "masks", kind)
    scene = raster(tmp_path / "s.tif", pixels())
    summary = cut(scene, tmp_path / "A", masks=tmp_path / "masks", classes=table)
    assert_shares(tmp_path / "A", EXPECTED)
    assert summary.labels == {"water": 4, "land": 4}


def test_a_label_counts_from_min_area_on(tmp_path):
    palette_png(tmp_path / "masks" / "s.png", codes())
    scene = raster(tmp_path / "s.tif", pixels())
    for number, (share, expected) in enumerate([(0.25, ["water", "land"]), (0.2501, ["land"]), (0, ["water", "land"])]):
        output = tmp_path / f"A{number}"
        cut(scene, output, Options(size=32, min_area=share), masks=tmp_path / "masks", classes=TABLE)
        assert labels(output)[0, 32] == expected and labels(output)[0, 64] == ["land"]


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rasterio's, with affine 3
@pytest.mark.parametrize("case", ["finer", "coarser", "shifted", "degrees"])
def test_a_mask_on_another_grid_is_laid_on_the_scenes(tmp_path, case):
    # Blocks of 8 pixels, so that every grid shows them exactly, or nearly.
    scene = raster(tmp_path / "s.tif", pixels())
    if case == "finer":
        values, place, crs = np.kron(codes(), np.ones((2, 2), np.uint8)), Affine(5, 0, 500_000, 0, -5, 5_000_000), UTM
    elif case == "coarser":
        values, place, crs = codes()[::8, ::8], Affine(80, 0, 500_000, 0, -80, 5_000_000), UTM
    elif case == "shifted":  # larger than the scene on one side, smaller on another
        values, place, crs = np.pad(codes(), ((4, 0), (6, 0)), mode="edge")[:-16], PLACE, UTM
        place = Affine(10, 0, 500_000 - 60, 0, -10, 5_000_000 + 40)
    else:
        from rasterio.warp import Resampling, calculate_default_transform, reproject

        crs = "EPSG:4326"
        place, width, height = calculate_default_transform(
            UTM, crs, 96, 64, 500_000, 4_999_360, 500_960, 5_000_000, resolution=2e-5
        )
        values = np.zeros((height, width), np.uint8)
        reproject(codes(), values, src_transform=PLACE, src_crs=UTM, dst_transform=place, dst_crs=crs,
                  resampling=Resampling.nearest)  # fmt: skip
    raster(tmp_path / "masks" / "s.tif", values[None].astype(np.uint8), crs=crs, transform=place)
    cut(scene, tmp_path / "A", masks=tmp_path / "masks", classes=TABLE)
    expected = EXPECTED
    if case == "shifted":  # rows from 48 on are not in it
        expected = {place: {name: share * (16 / 32 if place[0] else 1) for name, share in held.items()}
                    for place, held in EXPECTED.items()}  # fmt: skip
    assert_shares(tmp_path / "A", expected, 0.02 if case == "degrees" else 1e-6)


def test_a_mask_without_a_place_follows_the_scene_to_another_resolution(tmp_path):
    palette_png(tmp_path / "masks" / "s.png", codes())
    scene = raster(tmp_path / "s.tif", pixels())
    cut(scene, tmp_path / "A", Options(size=16, resolution=20), masks=tmp_path / "masks", classes=TABLE)
    assert_shares(tmp_path / "A", {(row // 2, column // 2): held for (row, column), held in EXPECTED.items()})


def test_scenes_without_a_place_and_their_masks(tmp_path):
    palette_png(tmp_path / "masks" / "s.png", codes())
    (tmp_path / "in").mkdir()
    Image.fromarray(np.moveaxis(pixels(), 0, 2)).save(tmp_path / "in" / "s.png")
    cut(tmp_path / "in", tmp_path / "A", masks=tmp_path / "masks", classes=TABLE)
    assert_shares(tmp_path / "A", EXPECTED)
    assert not (tmp_path / "A" / "footprints.parquet").exists()


def test_masks_that_do_not_fit_leave_their_scenes_out_by_name(tmp_path):
    for name in ("good", "size", "value", "none"):
        raster(tmp_path / "in" / f"{name}.tif", pixels())
    palette_png(tmp_path / "masks" / "good.png", codes())
    palette_png(tmp_path / "masks" / "size.png", codes()[:-1])
    palette_png(tmp_path / "masks" / "value.png", np.where(codes() == 2, 3, codes()))
    palette_png(tmp_path / "masks" / "stray.png", codes())
    summary = cut(tmp_path / "in", tmp_path / "A", masks=tmp_path / "masks", classes=TABLE)
    with open(tmp_path / "A" / "left_out.csv", newline="") as file:
        told = {(row["name"], row["problem"]): row["detail"] for row in csv.DictReader(file)}
    assert summary.scenes == 1 and "masks of no scene: 1 (stray.png)" in str(summary)
    assert "must have its size, 96 x 64, or both a coordinate system, got 96 x 63" in told["size.tif", "unreadable"]
    assert "holds 3 (#6ec1e4). Add them to the table, or call them 'ignore'" in told["value.tif", "unreadable"]
    assert told["none.tif", "unreadable"] == "no mask has its name 'none'"


def test_masks_without_a_class_table_show_one_to_complete_which_then_works(tmp_path):
    scene = raster(tmp_path / "s.tif", pixels())
    palette_png(tmp_path / "masks" / "s.png", codes())
    with pytest.raises(ValueError, match=r"masks need a class table\. Save this as classes\.csv") as error:
        cut(scene, tmp_path / "A", masks=tmp_path / "masks")
    draft = str(error.value).split("\n\n")[1]
    assert draft.splitlines()[0] == "value,name,seen" and "#e2a929" in draft
    path = tmp_path / "classes.csv"
    path.write_text(draft)
    with pytest.raises(ValueError, match=r"each value must have a name, or be called 'ignore', but 2 has none"):
        read_class_table(path)
    for value, name in (("0", "ignore"), ("1", "water"), ("2", "land")):
        draft = draft.replace(f"\n{value},...", f"\n{value},{name}")
    path.write_text(draft)
    cut(scene, tmp_path / "A", masks=tmp_path / "masks", classes=read_class_table(path))
    assert_shares(tmp_path / "A", EXPECTED)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "value,name\n1,water\n2,land\n0,ignore\n", TABLE),
        ("b.csv", "Class;Index\nwater;1.0\nland;2\nIgnore;0\n", TABLE),
        ("c.toml", "ignore = [0]\n[classes]\nwater = 1\nland = [2]\n", TABLE),
        ("d.csv", "name,r,g,b\nwater,0,0,255\nland,255,128,0\n",
         ClassTable(TABLE.names, {}, {(0, 0, 255): 0, (255, 128, 0): 1})),
        ("e.csv", "colour,name\n#0000ff,water\n255 128 0,land\n",
         ClassTable(TABLE.names, {}, {(0, 0, 255): 0, (255, 128, 0): 1})),
        ("f.toml", '[classes]\nwater = ["#0000ff", "#000080"]\n',
         ClassTable(("water",), {}, {(0, 0, 255): 0, (0, 0, 128): 0})),
        ("g.csv", "name,value,ignore\nwater,1,false\nland,2,\nnothing,0,true\n", TABLE),
        ("h.toml", "water = 1\nland = 2\nignore = 0\n", TABLE),
        ("i.toml", "[[classes]]\nname = 'water'\nvalue = 1\n[[classes]]\nname = 'land'\nvalue = 2.0\n"
         "[[classes]]\nname = 'nothing'\nvalue = 0\nignore = true\n", TABLE),
        ("j.csv", "value,name,seen\n-1,water,9 %\noak,land,\n", ClassTable(TABLE.names, {"-1": 0, "oak": 1})),
        ("k.toml", "[classes]\nwater = [1, '#0000ff']\nland = ['oak', 'ff8000']\n",
         ClassTable(TABLE.names, {"1": 0, "oak": 1, "ff8000": 1}, {(0, 0, 255): 0, (255, 128, 0): 1})),
        ("l.csv", "name\tr\tg\tb\nwater\t0.0\t0.0\t255.0\nland\t255\t128\t0\n",
         ClassTable(TABLE.names, {}, {(0, 0, 255): 0, (255, 128, 0): 1})),
    ],
)  # fmt: skip
def test_class_tables(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_class_table(tmp_path / name).to_json() == expected.to_json()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b\n1,2\n", "must have the columns name and value, name and colour"),
        ("a.csv", "name,value\na,1\nb,1\n", "a value must stand for one label, but 1 stands for two"),
        ("a.csv", "name,colour\na,red\n", r"line 2: a colour must be like #ff8000 or 255 128 0, got 'red'"),
        ("a.csv", "name,value\nignore,1\n", "must name a label, but names none"),
        ("a.toml", "classes = 1", r"must hold \[classes\]"),
        ("a.toml", "[classes]\nwater = true", "water = True: value must be a number"),
        ("a.toml", "[classes", "must be TOML"),
    ],
)
def test_class_tables_that_are_none(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_table(tmp_path / name)


# Vectors


def features():
    """Water over columns 0 to 40, twice in part; land right of it; a well and a road; what cannot be used."""
    line = {"type": "LineString", "coordinates": [ground(0, 40), ground(50, 40)]}
    bow = {
        "type": "Polygon",
        "coordinates": [[ground(64, 0), ground(96, 32), ground(96, 0), ground(64, 32), ground(64, 0)]],
    }
    return [
        (box(0, 0, 40, 64), {"kind": "water"}),
        (box(0, 0, 20, 64), {"kind": "Water"}),
        (box(40, 0, 64, 64), {"kind": "land"}),
        (bow, {"kind": "bow"}),
        ({"type": "Point", "coordinates": ground(32, 5)}, {"kind": "well"}),
        (line, {"kind": "road"}),
        (box(0, 0, 1, 1), {"kind": None}),
        (box(1000, 1000, 1010, 1010), {"kind": "land"}),
        (None, {"kind": "land"}),
    ]


VECTORS = {
    (0, 0): {"water": 1, "land": 0, "bow": 0}, (0, 32): {"water": 0.25, "land": 0.75, "bow": 0},
    (0, 64): {"water": 0, "land": 0, "bow": 0.5}, (32, 0): {"water": 1, "land": 0, "bow": 0},
    (32, 32): {"water": 0.25, "land": 0.75, "bow": 0}, (32, 64): {"water": 0, "land": 0, "bow": 0},
}  # fmt: skip


def write_vectors(folder, kind):
    plain = geojson(folder / "v.geojson", features(), UTM)
    if kind == "GeoJSON":
        return plain
    _, _, bodies, fields = pyogrio.raw.read(plain)
    path = folder / {"shapefile": "v.shp", "GeoParquet": "v.parquet"}.get(kind, "v.gpkg")
    if kind == "GeoParquet":
        column = {"encoding": "WKB", "geometry_types": [], "crs": CRS.from_user_input(UTM).to_dict(projjson=True)}
        geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
        table = pa.table({"kind": fields[0].tolist(), "geometry": pa.array(bodies.tolist(), pa.binary())})
        pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
        return path
    if kind == "shapefile":  # of one kind of geometry each
        keep = [body is None or shapely.from_wkb(body).geom_type == "Polygon" for body in bodies]
        bodies, fields = bodies[keep], [fields[0][keep]]
    crs = UTM
    if kind == "degrees":
        crs = "EPSG:4326"
        moved = shapely.transform(
            shapely.from_wkb(bodies), lambda points: np.array(transform(UTM, crs, *points.T.tolist())[:2]).T
        )
        bodies = shapely.to_wkb(moved)
    geometry = "Polygon" if kind == "shapefile" else "Unknown"
    pyogrio.raw.write(path, bodies, field_data=[fields[0]], fields=["kind"], crs=crs, geometry_type=geometry)
    return path


@pytest.mark.filterwarnings("ignore:Measured.*:UserWarning")
@pytest.mark.parametrize("kind", ["GeoJSON", "GeoPackage", "shapefile", "GeoParquet", "degrees"])
def test_vectors_of_every_kind_give_the_same_labels(tmp_path, kind):
    scene = raster(tmp_path / "s.tif", pixels())
    vectors = write_vectors(tmp_path, kind)
    summary = cut(scene, tmp_path / "A", Options(size=32, label_column="kind"), vectors=vectors)
    found = {place: {name: share for name, share in held.items() if name in ("water", "land", "bow", "Water")}
             for place, held in shares(tmp_path / "A").items()}  # fmt: skip
    spelled = {place: {"Water" if name == "water" else name: share for name, share in held.items()}
               for place, held in VECTORS.items()}  # fmt: skip
    for place, held in spelled.items():
        assert found[place] == pytest.approx(held, abs=2e-3 if kind == "degrees" else 1e-6)
    notes = str(summary)
    assert "invalid outline, repaired: 1" in notes and "features outside all scenes: 1" in notes
    assert "without a value in the column 'kind', left out: 1" in notes and "without a geometry, left out: 1" in notes
    if kind != "shapefile":
        held = labels(tmp_path / "A")
        # A point on the left edge of a tile is in it, and in no other one; the line touches two tiles.
        assert [place for place, names in held.items() if "well" in names] == [(0, 32)]
        assert [place for place, names in held.items() if "road" in names] == [(32, 0), (32, 32)]


def test_vectors_on_a_rotated_scene_and_in_another_resolution(tmp_path):
    turned = Affine(0, -10, 500_640, -10, 0, 5_000_000)  # columns go down, rows to the left
    scene = raster(tmp_path / "s.tif", pixels(1, 64, 64), transform=turned)
    vectors = geojson(tmp_path / "v.geojson", [(box(0, 0, 16, 64), {"kind": "west"})], UTM)
    options = Options(size=16, resolution=20, label_column="kind")
    cut(scene, tmp_path / "A", options, vectors=vectors)
    assert shares(tmp_path / "A") == {
        (0, 0): {"west": 0.0}, (0, 16): {"west": 0.0}, (16, 0): {"west": 0.5}, (16, 16): {"west": 0.5}}  # fmt: skip


def test_values_of_a_column_may_be_codes_of_a_class_table(tmp_path):
    scene = raster(tmp_path / "s.tif", pixels(1, 32, 64))
    places = {311: (0, 0, 32, 32), 312: (32, 0, 48, 32), 999: (48, 0, 64, 32), 112: (0, 0, 8, 8)}
    shapes = [(box(*place), {"code": code}) for code, place in places.items()]
    vectors = geojson(tmp_path / "v.geojson", shapes, UTM)
    table = ClassTable(("forest",), {"311": 0, "312": 0, "112": -1})
    summary = cut(scene, tmp_path / "A", Options(size=32, label_column="code"), vectors=vectors, classes=table)
    assert shares(tmp_path / "A") == {(0, 0): {"forest": 1.0}, (0, 32): {"forest": 0.5}}
    assert "whose value the class table does not have, left out (999 (1)): 1" in str(summary)


def test_collections_and_multipolygons_count_part_by_part(tmp_path):
    scene = raster(tmp_path / "s.tif", pixels(1, 32, 64))
    both = {"type": "GeometryCollection", "geometries": [
        {"type": "Point", "coordinates": ground(40, 10)},
        {"type": "MultiPolygon", "coordinates": [box(0, 0, 8, 32)["coordinates"], box(16, 0, 24, 32)["coordinates"]]},
    ]}  # fmt: skip
    vectors = geojson(tmp_path / "v.geojson", [(both, {"kind": "mixed"})], UTM)
    cut(scene, tmp_path / "A", Options(size=32, label_column="kind"), vectors=vectors)
    assert shares(tmp_path / "A") == {(0, 0): {"mixed": 0.5}, (0, 32): {"mixed": 0.0}}
    assert labels(tmp_path / "A") == {(0, 0): ["mixed"], (0, 32): ["mixed"]}


def test_what_is_wrong_with_a_vector_file_is_said(tmp_path):
    for kind in ("GeoPackage", "GeoParquet"):
        vectors = write_vectors(tmp_path, kind)
        with pytest.raises(ValueError, match=rf"with the labels: '.*{vectors.name}' has kind\. Name it by --label-"):
            cut(raster(tmp_path / "s.tif", pixels()), tmp_path / "A", vectors=vectors)
        with pytest.raises(ValueError, match=r"must have the column 'label', but has kind\. Name one by --label-"):
            read_shapes(vectors, "label")
    pq.write_table(pa.table({"kind": ["a"]}), tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match=r"bare\.parquet' must hold geometries in the column 'geometry'"):
        read_shapes(tmp_path / "bare.parquet", "kind")
    (tmp_path / "bad.gpkg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must be a vector file that GDAL reads"):
        read_shapes(tmp_path / "bad.gpkg", "kind")
    with pytest.raises(FileNotFoundError, match="the vectors must be there"):
        read_shapes(tmp_path / "none.gpkg", "kind")
    with pytest.raises(ValueError, match="must hold a feature with a label"):
        read_shapes(geojson(tmp_path / "n.geojson", [(box(0, 0, 1, 1), {"kind": None})], UTM), "kind")
    _, _, bodies, fields = pyogrio.raw.read(tmp_path / "v.geojson")
    for layer in ("one", "two"):
        pyogrio.raw.write(tmp_path / "two.gpkg", bodies, field_data=[fields[0]], fields=["kind"], crs=UTM, layer=layer,
                          geometry_type="Unknown", append=layer == "two")  # fmt: skip
    with pytest.raises(ValueError, match=r"has the layers one, two\. Say which by --layer"):
        read_shapes(tmp_path / "two.gpkg", "kind")
    assert len(read_shapes(tmp_path / "two.gpkg", "kind", layer="two").labels) == 8
    assert sqlite3.connect(tmp_path / "two.gpkg")  # it is one


def test_vectors_need_a_scene_with_a_place_and_vectors_elsewhere_give_no_label(tmp_path):
    vectors = geojson(tmp_path / "v.geojson", [(box(0, 0, 9, 9), {"kind": "a"})], UTM)
    options = Options(size=32, label_column="kind")
    with pytest.raises(ValueError, match="vectors need a scene with a coordinate system"):
        cut(raster(tmp_path / "s.tif", pixels(), None), tmp_path / "A", options, vectors=vectors)
    far = raster(tmp_path / "far.tif", pixels(), transform=Affine(10, 0, 700_000, 0, -10, 5_000_000))
    summary = cut(far, tmp_path / "B", options, vectors=vectors)
    assert "features outside all scenes: 1" in str(summary) and "tiles without a label, kept: 6" in str(summary)


@pytest.mark.slow
def test_many_polygons_take_seconds(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.uniform(0, 2560, (2, 30_000))
    boxes = shapely.box(500_000 + 10 * x, 5_000_000 - 10 * y, 500_000 + 10 * x + 50, 5_000_000 - 10 * y + 50)
    kinds = np.array([f"k{number}" for number in generator.integers(0, 5, 30_000)], object)
    pyogrio.raw.write(tmp_path / "v.gpkg", shapely.to_wkb(boxes), field_data=[kinds], fields=["kind"], crs=UTM,
                      geometry_type="Polygon")  # fmt: skip
    scene = raster(tmp_path / "s.tif", np.ones((1, 2560, 2560), np.uint8))
    began = time.monotonic()
    cut(scene, tmp_path / "A", Options(size=256, label_column="kind"), vectors=tmp_path / "v.gpkg")
    assert time.monotonic() - began < 20
    # 25 square pixels each, at random: the union of n of them covers 1 - exp(-25 n / area).
    found = np.array([list(held.values()) for held in shares(tmp_path / "A").values()])
    assert np.abs(found - (1 - np.exp(-25 * 6_000 / 2560**2))).max() < 0.03


def test_the_archive_is_one_that_training_reads(tmp_path):
    names = ["bare soil", "bare rock", "Beaches, dunes; sands", 'say "cheese"']
    scene = raster(tmp_path / "s.tif", pixels())
    squares = [
        (box(32 * number % 96, 0, 32 * number % 96 + 32, 64), {"kind": name}) for number, name in enumerate(names)
    ]
    vectors = geojson(tmp_path / "v.geojson", squares, UTM)
    cut(scene, tmp_path / "A", Options(size=32, label_column="kind"), vectors=vectors)
    archive = load_folder(tmp_path / "A")
    assert set(archive.label_names) == set(names) and len(archive) == 6
    held = {name: {archive.label_names[label] for label in np.flatnonzero(row)}
            for name, row in zip(archive.file_names, archive.labels, strict=True)}  # fmt: skip
    assert held["tiles/s/s_00_00.tif"] == {"bare soil", 'say "cheese"'} and held["tiles/s/s_32_32.tif"] == {"bare rock"}
    assert archive.groups == ("s",) * 6 and np.isfinite(archive.places(np.arange(6))).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_archive_of_four_bands_is_read_with_its_bands_labels_and_places(tmp_path, dtype):
    scene = raster(tmp_path / "s.tif", pixels(4, dtype=dtype))
    vectors = geojson(tmp_path / "v.geojson", [(box(0, 0, 32, 64), {"kind": "pond"})], UTM)
    summary = cut(scene, tmp_path / "A", Options(size=32, label_column="kind"), vectors=vectors)
    assert f"bands: 4 of {dtype}. Read them with --set bands=all" in str(summary)
    with pytest.raises(ValueError, match=r"got 4 bands of .*Or take the bands of all tiles as.*--set bands=all"):
        load_folder(tmp_path / "A")
    archive = load_folder(tmp_path / "A", bands={"asked": "all", "rgb": "", "scaling": "deviation"})
    assert len(archive) == 6 and archive.labels.sum() == 2 and np.isfinite(archive.places(np.arange(6))).all()
    np.testing.assert_array_equal(archive.read_image(1), pixels(4, dtype=dtype)[:, :32, 32:64].transpose(1, 2, 0))


def test_scenes_and_masks_in_one_folder_are_told_apart_by_their_names(tmp_path):
    both = tmp_path / "train"
    both.mkdir()
    Image.fromarray(np.moveaxis(pixels(), 0, 2)).save(both / "119_sat.png")
    palette_png(both / "119_mask.png", codes())
    cut(both, tmp_path / "A", masks=both, classes=TABLE)
    assert_shares(tmp_path / "A", EXPECTED)
    (both / "119_mask.png").rename(both / "119.png")
    with pytest.raises(ValueError, match=r"must hold masks; beside scenes they are called like a_mask\.png"):
        cut(both, tmp_path / "B", masks=both, classes=TABLE)


@pytest.mark.parametrize("kind", ["continent", "in degrees of 400 km"])
def test_shapes_far_larger_than_the_scene_are_there(tmp_path, kind):
    scene = raster(tmp_path / "s.tif", pixels())
    half = 180 if kind == "continent" else 3
    west, north = (-half, 89) if kind == "continent" else (15 - half, 47)
    (x,), (y,) = transform(UTM, "EPSG:4326", [500_480], [4_999_680])
    ring = [[west, north], [x, north], [x, y - half / 2], [west, y - half / 2], [west, north]]
    vectors = geojson(tmp_path / "v.geojson", [({"type": "Polygon", "coordinates": [ring]}, {"kind": "west"})])
    cut(scene, tmp_path / "A", Options(size=32, label_column="kind"), vectors=vectors)
    found = shares(tmp_path / "A")
    assert found[0, 0]["west"] == pytest.approx(1) and found[0, 64]["west"] == 0
    assert found[32, 32]["west"] == pytest.approx(0.5, abs=0.02)


KINDS_OF_BOTH = ["palette", "grey", "16-bit PNG", "16-bit TIFF", "RGB", "RGBA", "1-bit", "1-bit as shown",
                 "float TIFF with NaN", "palette of other values"]  # fmt: skip


def write_both(path, kind):
    """A mask of two halves and a corner of a class that is no label, and the lines of its class table."""
    raw, colours = codes()[:, :64], "name,colour\nwater,#e2a929\nland,#8429f6\nignore,#000000\n"
    values = "name,value\nignore,{}\nwater,{}\nland,{}\n"
    path.parent.mkdir(parents=True)
    rgb = np.array([PALETTE[code] for code in range(3)], np.uint8)[raw]
    if kind.startswith("1-bit"):
        Image.fromarray(np.where(raw == 2, 255, 0).astype(np.uint8)).convert("1").save(path.with_suffix(".png"))
        return "name,value\nwater,0\nland,1\n" if kind == "1-bit" else "name,value\nwater,0\nland,255\n"
    if kind == "16-bit TIFF":
        raster(path.with_suffix(".tif"), raw[None].astype(np.uint16) * 700, None)
    elif kind == "float TIFF with NaN":
        raster(path.with_suffix(".tif"), np.where(raw == 0, np.nan, raw)[None].astype(np.float32), None, nodata=np.nan)
        return "name,value\nwater,1\nland,2\n"
    elif kind == "16-bit PNG":
        Image.fromarray(raw.astype(np.uint16) * 700).save(path.with_suffix(".png"))
    elif kind in ("RGB", "RGBA"):
        Image.fromarray(rgb if kind == "RGB" else np.dstack([rgb, raw * 100])).save(path.with_suffix(".png"))
        return colours
    elif kind.startswith("palette"):
        palette_png(path.with_suffix(".png"), raw)
        if kind != "palette":
            return "name,value,colour\nwater,7,#e2a929\nland,8,#8429f6\nignore,9,#000000\n"
    else:
        Image.fromarray(raw).save(path.with_suffix(".png"))
    return values.format(0, 700, 1400) if kind.startswith("16") else values.format(0, 1, 2)


@pytest.mark.parametrize("kind", KINDS_OF_BOTH)
def test_masks_of_scenes_of_a_tiles_size_give_what_they_give_beside_tiles(tmp_path, kind):
    table = write_both(tmp_path / "in/masks/s", kind)
    (tmp_path / "in/images").mkdir()
    Image.fromarray(np.moveaxis(pixels(width=64), 0, 2)).save(tmp_path / "in/images/s.png")
    path = tmp_path / "in/classes.csv"
    path.write_text(table)
    beside = load_folder(tmp_path / "in")
    cut(tmp_path / "in/images", tmp_path / "A", Options(size=64, min_area=0.0), masks=tmp_path / "in/masks",
        classes=read_class_table(path))  # fmt: skip
    (row,) = shares(tmp_path / "A").values()
    assert row == pytest.approx(dict(zip(beside.label_names, beside.label_areas[0], strict=True)), abs=1e-6)
    land = 24 / 64
    assert row == pytest.approx({"water": 1 - land if kind.startswith("1-bit") else 40 / 64 - 1 / 64, "land": land})
    tiled = load_folder(tmp_path / "A")
    assert tiled.label_names == tuple(sorted(beside.label_names))


@pytest.mark.parametrize(
    ("picture", "mask", "twice"),
    [
        ("Train/Urban/images_png/1.png", "Train/Urban/masks_png/1.png", True),
        ("train/1_sat.jpg", "train/1_mask.png", True),
        ("2_Ortho_RGB/top_1_RGB.tif", "5_Labels/top_1_label.tif", False),
        ("Tile 1/images/image_part_001.jpg", "Tile 1/masks/image_part_001.png", True),
        ("scenes/a.tif", "masks/a.png", False),
        ("scenes/a.tif", "gt/a_lbl.png", False),
        ("labels/7.jpg", "labels/7_mask.png", True),
    ],
)
def test_layouts_of_published_sets_are_paired_beside_tiles_and_in_scenes(tmp_path, picture, mask, twice):
    places = ["", "other/"] if twice else [""]
    for place in places:
        for name in (picture, mask):
            (tmp_path / "in" / place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.moveaxis(pixels(width=64), 0, 2)).save(tmp_path / "in" / place / picture, quality=90)
        Image.fromarray(codes()[:, :64]).save(tmp_path / "in" / place / mask)
    (tmp_path / "in/classes.csv").write_text("name,value\nignore,0\nwater,1\nland,2\n")
    assert load_folder(tmp_path / "in").file_names == tuple(sorted(place + picture for place in places))
    summary = cut(tmp_path / "in", tmp_path / "A", Options(size=64), masks=tmp_path / "in", classes=TABLE)
    assert summary.labels == {"water": len(places), "land": len(places)}


def test_masks_of_several_days_and_those_that_fit_alike(tmp_path):
    for place in ("2019/a", "2020/a", "x/b"):
        raster(tmp_path / f"in/{place}.tif", pixels())
    for name in ("a", "y/b", "z/b"):
        palette_png(tmp_path / f"masks/{name}.png", codes())
    summary = cut(tmp_path / "in", tmp_path / "A", masks=tmp_path / "masks", classes=TABLE)
    assert summary.scenes == 2 and "masks of no scene" not in str(summary)
    assert "several masks fit: y/b.png, z/b.png" in (tmp_path / "A/left_out.csv").read_text()
