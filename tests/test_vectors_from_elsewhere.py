"""Vectors that other programs computed: read as they are published, trained on, indexed and served."""

import json
import struct
from importlib.util import find_spec

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from macl_tf.cli import main
from macl_tf.datasets.archives import Archive
from macl_tf.datasets.geometries import footprints_of, projection_of
from macl_tf.datasets.vector_tiles import with_features
from macl_tf.datasets.vectors import VectorFiles, holds_vectors
from macl_tf.embedding.shards import Origin, ShardFolder
from macl_tf.export.saved_model import ExportedEncoder
from macl_tf.files import read_json
from macl_tf.index.items import Items
from macl_tf.models import efficientnet_lite
from macl_tf.models.descriptors import descriptor_model
from macl_tf.models.familiarity import reweighted
from macl_tf.search.encoders import load_encoder
from macl_tf.search.engine import SearchEngine
from macl_tf.search.query import QueryError
from macl_tf.server.auth import LOOPBACK, Access
from macl_tf.training.evaluate import evaluate_run
from macl_tf.training.run_directory import read_encoder
from macl_tf.training.settings import Settings
from macl_tf.training.train import train
from tests.serving_process import TOKEN, running, upload

LABELS = ("sea", "sand", "dock")
WIDTH, COUNT = 6, 40
SQUARE = [(8.0, 47.0), (9.0, 47.0), (9.0, 46.0), (8.0, 46.0)]


def polygon(points, order="<"):
    """Well-known binary of one closed ring."""
    ring = [*points, points[0]]
    return struct.pack(f"{order}BIII{2 * len(ring)}d", order == "<", 3, 1, len(ring), *np.ravel(ring))


def vectors_of(count=COUNT, seed=0):
    """Vectors and labels (N, 3): the labels are a part of each vector, with some noise."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (count, len(LABELS)))
    labels[np.arange(count), np.arange(count) % len(LABELS)] = 1
    return (labels @ generator.normal(size=(3, WIDTH)) + 0.2 * generator.normal(size=(count, WIDTH))), labels


def ids_of(count=COUNT):
    return [f"tile{number:03d}" for number in range(count)]


def write_npz(path, ids=None, vectors=None):
    ids = ids_of() if ids is None else ids
    np.savez(path, id=ids, vector=vectors_of(len(ids))[0] if vectors is None else vectors)
    return path


def write_parquet(path, columns, **metadata):
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata({key: json.dumps(value) for key, value in metadata.items()}), path)
    return path


def earth_index(path):
    """A file as Earth Index publishes it."""
    embedding = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 2, 0, 3, 4], pa.float32()), 3)
    emb = {
        "version": "0.0.1", "model": {"id": "dino", "name": "SoftCon", "source": "https://example.org"},
        "datetime": "2023-07-02T00:00:00Z", "datasets": [{"source": "https://x", "name": "Mosaics"}],
    }  # fmt: skip
    crs = {"type": "GeographicCRS", "name": "WGS 84", "id": {"authority": "EPSG", "code": 4326}}
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB", "crs": crs}}}
    columns = {"id": ["a", "b"], "embedding": embedding, "geometry": [polygon(SQUARE), None]}
    return write_parquet(path, columns, geo=geo, emb=emb)


def major_tom(path, start=0):
    """A file as Major TOM publishes it; the embedding is an array of (1, F), as its card says."""
    columns = {
        "unique_id": [f"hash{start}", f"hash{start + 1}"],
        "embedding": pa.array([[[1.0, 0.0]], [[0.0, 2.0]]], pa.list_(pa.list_(pa.float32()))),
        "grid_cell": ["1U_2R"] * 2,
        "timestamp": ["20190817T103021", "2020-03-22 20:56:51"],
        "product_id": ["S2A_MSIL2A", "S2B_MSIL2A"],
        "centre_lat": [0.5, 0.6],
        "geometry": [polygon(SQUARE), polygon([(x + 1, y) for x, y in SQUARE])],
        "utm_footprint": ["POLYGON ((0 0))"] * 2,
        "pixel_bbox": [[0, 0, 224, 224]] * 2,
    }
    return write_parquet(path, columns, geo={"primary_column": "geometry", "columns": {"geometry": {}}})


def all_rows(path):
    batches = list(VectorFiles(path).batches())
    assert len(batches) == 1
    return batches[0]


def test_npz_of_any_kind_of_numbers_is_read_in_order(tmp_path):
    vectors, _ = vectors_of()
    for number, given in enumerate((vectors, np.asfortranarray(vectors), (10 * vectors).round().astype("int8"))):
        np.savez(tmp_path / f"{number}.npz", id=np.arange(COUNT), vector=given)
        rows = all_rows(tmp_path / f"{number}.npz")
        assert rows.ids == [str(id_) for id_ in range(COUNT)] and rows.vectors.dtype == np.float32
        np.testing.assert_array_equal(rows.vectors, given.astype("float32"))
        assert np.isnat(rows.dates).all() and np.isnan(rows.footprints).all()


def test_large_files_come_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("macl_tf.datasets.vectors.BATCH", 16)
    vectors, _ = vectors_of()
    columns = {"id": ids_of(), "vector": list(vectors.astype("float32"))}
    for path in (write_npz(tmp_path / "v.npz"), write_parquet(tmp_path / "v.parquet", columns)):
        batches = list(VectorFiles(path).batches())
        assert [len(rows.ids) for rows in batches] == [16, 16, 8]
        np.testing.assert_array_equal(np.concatenate([rows.vectors for rows in batches]), vectors.astype("float32"))
        assert [id_ for rows in batches for id_ in rows.ids] == ids_of() == list(VectorFiles(path).ids())


def test_earth_index_is_read_as_published(tmp_path):
    source = VectorFiles(earth_index(tmp_path / "21MNT.parquet"))
    assert (source.count, source.dim, source.model, source.name) == (2, 3, "dino", "21MNT")
    rows = next(source.batches())
    assert rows.ids == ["a", "b"] and rows.sources == ["Mosaics"] * 2
    assert rows.vectors.tolist() == [[1, 2, 2], [0, 3, 4]]
    assert rows.footprints[0].tolist() == [list(corner) for corner in SQUARE] and np.isnan(rows.footprints[1]).all()
    assert rows.dates.astype(str).tolist() == ["2023-07-02"] * 2


def test_major_tom_is_read_as_published_a_folder_as_one(tmp_path):
    for number in range(2):
        major_tom(tmp_path / f"part_{number}.parquet", 2 * number)
    source = VectorFiles(tmp_path)
    assert (source.count, source.dim) == (4, 2) and holds_vectors(tmp_path)
    rows = next(source.batches())
    assert rows.ids == ["hash0", "hash1"] and rows.vectors.tolist() == [[1, 0], [0, 2]]
    assert rows.dates.astype(str).tolist() == ["2019-08-17", "2020-03-22"]
    assert rows.sources == ["S2A_MSIL2A", "S2B_MSIL2A"] and rows.footprints[1, 0].tolist() == [9, 47]


def test_stac_items_and_collections_name_their_files(tmp_path):
    write_parquet(tmp_path / "v.parquet", {"id": ["a"], "embedding": pa.array([[10, -10]], pa.list_(pa.int8()))})
    quantization = {"method": "linear", "original_dtype": "float32", "scale": [0.5], "offset": [1.0]}
    item = {
        "type": "Feature", "id": "x", "collection": "prithvi",
        "properties": {"datetime": "2024-05-01T10:32:45Z", "emb:quantization": quantization},
        "assets": {"embeddings": {"href": "./v.parquet"}},
    }  # fmt: skip
    (tmp_path / "item.json").write_text(json.dumps(item))
    links = [{"rel": "self", "href": "https://x"}, {"rel": "item", "href": "item.json"}]
    (tmp_path / "collection.json").write_text(json.dumps({"type": "Collection", "links": links}))
    for name in ("item.json", "collection.json"):
        rows = all_rows(tmp_path / name)
        assert rows.vectors.tolist() == [[6, -4]] and rows.sources == ["prithvi"]
        assert str(rows.dates[0]) == "2024-05-01"
    wrong = {
        "https://example.org/v.parquet": "must name files on this disk, got https://example.org/v.parquet. Download",
        "gone.parquet": "gone.parquet' is not there",
    }
    for href, message in wrong.items():
        (tmp_path / "item.json").write_text(json.dumps(item | {"assets": {"embeddings": {"href": href}}}))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            VectorFiles(tmp_path / "collection.json")
    for content in ("[]", "{}", '{"type": "Feature", "assets": {"data": {}}}', "{"):
        (tmp_path / "item.json").write_text(content)
        with pytest.raises(ValueError, match=r"item\.json' must"):
            VectorFiles(tmp_path / "item.json")


def test_what_macl_embed_writes_is_read_back_whole(tmp_path):
    """Also with the metadata that Earth Index asks for."""
    origin = Origin("e" * 64, "projection", 1, LABELS, WIDTH, 8)
    vectors, labels = vectors_of(3)
    items = Items.of(
        LABELS, ids_of(3), labels[:3], paths=["p", "", ""], splits=["test", "", "train"], sources=["S2", "S2", ""],
        footprints=[SQUARE, np.full((4, 2), np.nan), [(179.5, 1), (-179.5, 1), (-179.5, 0), (179.5, 0)]],
        dates=["2020-01-02", None, "2021-03-04"],
    )  # fmt: skip
    ShardFolder(tmp_path, origin).add(items, vectors.astype("float32"), [b"jpeg", None, None], [])
    source = VectorFiles(tmp_path)
    rows = next(source.batches())
    assert rows.ids == items.ids.tolist() and source.label_names == LABELS
    np.testing.assert_array_equal(rows.vectors, vectors.astype("float32"))
    np.testing.assert_array_equal(rows.footprints, items.footprints)
    np.testing.assert_array_equal(rows.dates, items.dates)
    assert [rows.splits, rows.paths] == [items.splits.tolist(), items.paths.tolist()]
    assert rows.sources == ["S2", "S2", ""] and rows.thumbnails == [b"jpeg", None, None]
    held = [[name for name, holds in zip(LABELS, row, strict=True) if holds] for row in labels[:3]]
    assert [list(names) for names in rows.labels] == held
    emb = json.loads(pq.read_schema(tmp_path / "part-00000.parquet").metadata[b"emb"])
    assert emb["version"] == "0.0.1" and {"id", "source"} <= set(emb["model"]) and source.model == emb["model"]["id"]
    assert (emb["start_datetime"], emb["end_datetime"]) == ("2020-01-02T00:00:00Z", "2021-03-04T23:59:59Z")
    assert emb["datetime"] is None and emb["embedding"]["dim"] == WIDTH
    required = {"version", "model", "providers", "datetime", "start_datetime", "end_datetime", "datasets", "embedding"}
    assert required <= set(emb)


def test_geometries_of_every_kind_become_four_corners():
    triangle = [(1.0, 1.0), (3.0, 1.0), (2.0, 4.0)]
    box = [[1, 4], [3, 4], [3, 1], [1, 1]]
    point = struct.pack("<BIdd", 1, 1, 5.0, 6.0)
    with_height = struct.pack("<BIII15d", 1, 1003, 1, 5, *np.ravel([(*c, 9.0) for c in [*SQUARE, SQUARE[0]]]))
    postgis = struct.pack("<BIIII10d", 1, 0x20000003, 4326, 1, 5, *np.ravel([*SQUARE, SQUARE[0]]))
    west, east = (
        polygon([(179, 1), (180, 1), (180, 0), (179, 0)]),
        polygon([(-180, 1), (-179, 1), (-179, 0), (-180, 0)]),
    )
    both = struct.pack("<BII", 1, 6, 2) + west + east
    line = struct.pack("<BII8d", 1, 2, 4, 1, 4, 2, 2, 3, 1, 1, 1)  # of four points, which are no corners
    cases = {
        polygon(SQUARE): SQUARE, polygon(SQUARE, ">"): SQUARE, with_height: SQUARE, postgis: SQUARE,
        polygon(triangle): box, line: box, point: [[5, 6]] * 4,
        both: [[179, 1], [-179, 1], [-179, 0], [179, 0]],
        polygon([(179.5, 1), (180.5, 1), (180.5, 0), (179.5, 0)]): [[179.5, 1], [-179.5, 1], [-179.5, 0], [179.5, 0]],
    }  # fmt: skip
    found = footprints_of([*cases, None, b""], [str(n) for n in range(len(cases) + 2)])
    np.testing.assert_array_equal(found[: len(cases)], np.array([[*corners] for corners in cases.values()], float))
    assert np.isnan(found[len(cases) :]).all()
    for bad in (b"\x07", polygon(SQUARE)[:50], b"POLYGON ((1 2))", struct.pack("<BI", 1, 99)):
        with pytest.raises(ValueError, match=r"geometry of 'mine' must be well-known binary"):
            footprints_of([bad], ["mine"])
    with pytest.raises(ValueError, match=r"geometry of 'mine' must lie on Earth.*crs"):
        footprints_of([polygon([(4e5, 5e6), (5e5, 5e6), (5e5, 4e6), (4e5, 4e6)])], ["mine"])


def test_projected_geometries_come_to_degrees():
    from rasterio.crs import CRS

    mercator = CRS.from_epsg(3857).to_dict(projjson=True)
    x, y = 8 * 111319.49079327358, 5621521.486192066  # 8 degrees east, 45 north
    corners = [(x, y), (x + 10, y), (x + 10, y - 10), (x, y - 10)]
    found = footprints_of([polygon(corners), polygon([*corners, (x, y)])], ["a", "b"], projection_of({"crs": mercator}))
    np.testing.assert_allclose(found[:, 0], [[8, 45]] * 2, atol=1e-6)
    assert projection_of({}) is None and projection_of({"crs": None}) is None
    with pytest.raises(ValueError, match="encoding WKB, got 'point'"):
        projection_of({"encoding": "point"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"], "vector": [[1.0]]}, "must have a column 'id' or 'unique_id', got name, vector. Rename it"),
        ({"id": ["a"], "x": [[1.0]]}, "must have a column 'vector' or 'embedding', got id, x"),
        ({"id": [1.5], "vector": [[1.0]]}, "must hold text or whole numbers in the column 'id', got double"),
        ({"id": ["a"], "vector": ["[1, 2]"]}, "must hold lists of numbers in the column 'vector', got string"),
        ({"id": ["a"], "vector": [["x"]]}, "must hold lists of numbers in the column 'vector', got list"),
        ({"id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}, r"row 1 \('b'\), got 2 numbers where others have 1"),
        ({"id": ["a", "b"], "vector": [[1.0], None]}, r"row 1 \('b'\), got no vector"),
        ({"id": ["a", "b"], "vector": [[1.0, 2.0], [1.0, None]]}, r"row 1 \('b'\), got a number that is null"),
        ({"id": ["a", "b"], "vector": [[1.0], [float("nan")]]}, r"finite and not zero, but row 1 \('b'\), got NaN"),
        ({"id": ["a", "b"], "vector": [[1.0], [1e39]]}, r"row 1 \('b'\), got NaN, or a number beyond float32"),
        ({"id": ["a", "b"], "vector": [[0.0], [0.0]]}, r"row 0 \('a'\), got zeros.*\(2 such rows"),
        ({"id": ["a", "a"], "vector": [[1.0], [2.0]]}, r"hold each id once, but row 1 \('a'\)"),
        ({"id": ["a", None], "vector": [[1.0], [2.0]]}, "name each vector by an id, but row 1, got none"),
        ({"id": ["a"], "vector": pa.array([[]], pa.list_(pa.float32()))}, "got zeros"),
        ({"id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))}, "hold a vector at least"),
    ],
)
def test_what_is_wrong_in_parquet_is_said_with_row_and_remedy(tmp_path, columns, message):
    path = write_parquet(tmp_path / "v.parquet", columns)
    with pytest.raises(ValueError, match=message) as caught:
        list(VectorFiles(path).batches())
    assert str(path) in str(caught.value)


def test_what_is_wrong_in_other_files_is_said(tmp_path):
    def wrong(name, message, kind=ValueError):
        with pytest.raises(kind, match=message):
            list(VectorFiles(tmp_path / name).batches())

    np.savez(tmp_path / "a.npz", names=["a"])
    wrong("a.npz", "must hold the arrays 'id' and 'vector', got names")
    np.savez(tmp_path / "a.npz", id=["a", "b"], vector=np.ones((3, 2)))
    wrong("a.npz", "an id for each vector, got 2 ids and 3 vectors")
    np.savez(tmp_path / "a.npz", id=np.array(["a", None], object), vector=np.ones((2, 2)))
    wrong("a.npz", "ids as one array of text, got object")
    np.savez(tmp_path / "a.npz", id=["a", "b"], vector=np.ones(2))
    wrong("a.npz", r"numbers of shape \(N, F\), got float64 of shape \(2,\)")
    for name in ("b.npz", "b.parquet"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 or not")
        wrong(name, f"{name}' must be")
    (tmp_path / "c.csv").write_text("id,vector")
    wrong("c.csv", r"must be one of \.parquet.*got \.csv")
    wrong("gone.npz", "is not there", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    wrong("empty", "must hold files of vectors", FileNotFoundError)
    folder = tmp_path / "two"
    folder.mkdir()
    write_npz(folder / "a.npz", ["a"], np.ones((1, 2)))
    write_npz(folder / "b.npz", ["b"], np.ones((1, 3)))
    wrong("two", "hold vectors of 2 numbers as the rows before, but row 0")
    write_npz(folder / "b.npz", ["a"], np.ones((1, 2)))
    wrong("two", r"b\.npz' must hold each id once, but row 0 \('a'\)")
    assert not holds_vectors(tmp_path / "empty") and holds_vectors(folder)
    Image.new("RGB", (4, 4)).save(folder / "tile.png")
    assert not holds_vectors(folder)  # a folder of images, whatever else lies there


def test_tiles_and_vectors_are_joined_by_name_and_the_rest_is_told(tmp_path):
    names = ("a/x.tif", "a/y.tif", "b/x.tif", "c/z.tif", "d/w.tif")
    labels = np.eye(5, dtype=np.uint8)
    archive = Archive("mine", tuple("12345"), names, labels, lambda index: names[index], numbers=np.arange(5))
    ids = ["stranger", "b/X", "y", "A/x.png", "z", "C/Z", "more"]
    vectors = np.arange(1.0, 8)[:, None] * np.ones((7, 2))
    found = with_features(archive, VectorFiles(write_npz(tmp_path / "v.npz", ids, vectors)))
    assert found.file_names == ("a/x.tif", "a/y.tif", "b/x.tif") and found.features[:, 0].tolist() == [4, 3, 2]
    assert found.labels.tolist() == labels[:3].tolist() and found.numbers.tolist() == [0, 1, 2]
    assert [found.read_image(index) for index in range(3)] == list(found.file_names)
    assert found.notes[1:] == (
        "tiles without a vector, left out: 1 (d/w.tif)",
        "tiles with several vectors, left out: 1 (c/z.tif)",
        "vectors without a tile, not used: 2 (stranger, more)",
    )
    with pytest.raises(ValueError, match=r"none of its 2 ids \(p, q\) names one of the 5 tiles \(a/x\.tif, a/y"):
        with_features(archive, VectorFiles(write_npz(tmp_path / "v.npz", ["p", "q"], np.ones((2, 2)))))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder with a label table and no picture."""
    folder = tmp_path_factory.mktemp("table")
    _, labels = vectors_of()
    rows = [f"{id_},{';'.join(np.array(LABELS)[row > 0])}" for id_, row in zip(ids_of(), labels, strict=True)]
    (folder / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    return folder


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """A run on vectors, of tiles of which there is only the table, by the defaults and without the extra imagenet."""
    folder = tmp_path_factory.mktemp("trained")
    vectors = write_npz(folder / "v.npz", [*ids_of()[:-1], "stranger"])
    settings = Settings(
        dataset="folder", data_dir=str(table), features=str(vectors), embedding_dim=8, batch_size=16, epochs=2
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet_lite, "find_spec", lambda name: None)
        train(settings, folder / "run", progress=False)
    return folder / "run"


def test_a_head_is_trained_evaluated_and_resumed_without_a_picture(run, table, capsys):
    encoder = read_encoder(run)
    assert encoder.input_shape == (None, WIDTH) and encoder.output_shape == (None, 8)
    assert "features_sha256" in read_json(run / "versions.json")
    metrics = read_json(run / "metrics.json")
    assert metrics["descriptor"] == "robust"  # the vectors beside the projection
    assert set(metrics["trained"]) == {"projection", "backbone", "robust"} == set(metrics["untrained"])
    again = evaluate_run(run, progress=False)
    assert again.reports["robust"].to_dict() == metrics["trained"]["robust"]
    assert "tiles without a vector" not in capsys.readouterr().out
    moved = write_npz(run.parent / "moved.npz", vectors=vectors_of()[0])
    assert len(evaluate_run(run, features=str(moved), progress=False).reports) == 3
    narrow = write_npz(run.parent / "narrow.npz", vectors=np.ones((COUNT, 3)))
    with pytest.raises(ValueError, match=r"vectors must be of the \(6,\) numbers|vectors must be of the 6 numbers"):
        evaluate_run(run, features=str(narrow), progress=False)


def test_settings_that_do_not_suit_vectors_are_refused(small_run):
    for setting, message in ((("head", "spoc"), "head must be projection"), (("turns", 4), "turns must be 1"),
                             (("trainable", "last:1"), "trainable must be head or all")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Settings(features="v.npz", **dict([setting]), **({"descriptor": "spoc"} if setting[0] == "head" else {}))
    with pytest.raises(ValueError, match="sees pictures"):
        evaluate_run(small_run, features="v.npz", progress=False)


@pytest.fixture(scope="module")
def plain_served(tmp_path_factory):
    """Vectors with places, days and labels, indexed without a head."""
    folder = tmp_path_factory.mktemp("plain")
    vectors, labels = vectors_of()
    columns = {
        "id": ids_of(), "vector": list(vectors),
        "labels": [np.array(LABELS)[row > 0].tolist() for row in labels],
        "date": [f"2021-01-{1 + number % 28:02d}" for number in range(COUNT)],
        "geometry": [polygon([(x + number, y) for x, y in SQUARE]) for number in range(COUNT)],
    }  # fmt: skip
    path = write_parquet(folder / "tiles.parquet", columns)
    assert main(["index", str(path), "--output", str(folder / "served"), "--quiet"]) == 0
    return folder / "served"


def test_the_index_knows_places_days_and_labels(plain_served):
    engine, (vectors, _) = SearchEngine.open(plain_served), vectors_of()
    item = engine.index.describe("tile003")
    assert item["date"] == "2021-01-04" and item["footprint"][0] == [11, 47] and item["labels"]
    assert engine.index.info["archive"] == {"name": "tiles", "tiles": COUNT}
    (answer,) = engine.search(vectors=[3 * vectors[5]], k=2, filter="bbox=12.5,46,13.5,47; since=2021-01-02")
    assert {result.id for result in answer.results} == {"tile004", "tile005"} and answer.results[0].id == "tile005"
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    best = np.argsort(-unit @ unit[7])[1]
    assert engine.search(ids=["tile007"], k=1)[0].results[0].id == ids_of()[best]


def test_what_needs_an_encoder_of_pictures_says_what_to_do(plain_served, tmp_path, capsys):
    tile = tmp_path / "tile.png"
    tile.write_bytes(upload(1))
    with pytest.raises(QueryError, match=r"needs an encoder of pictures.*--backbone NAME"):
        SearchEngine.open(plain_served).search(tile)
    for command in (["search", str(plain_served), str(tile)], ["upsert", str(plain_served), str(tile)],
                    ["embed", str(plain_served), "--input", str(tmp_path), "--output", str(tmp_path)]):  # fmt: skip
        assert main(command) == 2
        assert "encoder of pictures" in capsys.readouterr().err
    assert not (plain_served / "deploy").exists() and not (plain_served / "retriever").exists()
    assert main(["index", str(plain_served), "--quiet"]) == 0  # folds changes in, as ever


def serve(served):
    return running(served, access=Access(TOKEN, hosts=LOOPBACK), load=load_encoder)


def test_the_server_answers_by_id_vector_and_features_and_refuses_pictures(plain_served):
    vectors, _ = vectors_of()
    with serve(plain_served) as url, httpx.Client(base_url=f"{url}api/v1") as client:
        model = client.get("/info").json()["model"]
        assert (model["image_size"], model["features"], model["dim"]) == (None, WIDTH, WIDTH)
        assert client.get("/info").json()["has_places"]
        for example in ({"vector": vectors[3].tolist()}, {"features": vectors[3].tolist()}):
            found = client.post("/search", json={"positive": [example], "k": 1}).json()["results"]
            assert found[0]["id"] == "tile003" and found[0]["bbox"] == [11, 46, 12, 47]
        body = {"positive": [{"id": "tile001"}], "negative": [{"features": vectors[2].tolist()}]}
        assert client.post("/search", json=body).status_code == 200
        picture = {"image": ("tile.png", upload(1), "image/png")}
        for answer in (client.post("/search/image", files=picture),
                       client.put("/items", files=picture, headers={"Authorization": f"Bearer {TOKEN}"})):  # fmt: skip
            error = answer.json()["error"]
            assert answer.status_code == 422 and "needs an encoder of pictures" in error["rule"]
            assert "--backbone" in error["remedy"]
        for bad in ([1.0, 2.0], [0.0] * WIDTH):
            error = client.post("/search", json={"positive": [{"features": bad}]})
            assert error.status_code == 422 and "features are 6 numbers" in error.json()["error"]["rule"]


def test_a_head_makes_the_vectors_of_the_index_and_of_queries(run, table, tmp_path):
    vectors, labels = vectors_of()
    path, served = write_npz(tmp_path / "v.npz"), tmp_path / "served"
    command = ["index", str(path), "--head", str(run), "--table", str(table / "labels.csv"), "--output", str(served)]
    assert main([*command, "--quiet"]) == 0
    expected = descriptor_model(read_encoder(run), "robust").predict(vectors, verbose=0)
    snapshot = SearchEngine.open(served).index.snapshot
    np.testing.assert_allclose(snapshot.vectors_of(ids_of()), expected, atol=1e-5)
    assert snapshot.label_names == tuple(sorted(LABELS))
    assert snapshot.describe("tile004")["labels"] == sorted(np.array(LABELS)[labels[4] > 0])
    encoder = ExportedEncoder.load(served)
    assert (encoder.info["descriptor"], encoder.info["features"], encoder.dim) == ("robust", WIDTH, WIDTH + 8)
    np.testing.assert_allclose(encoder.embed_features(vectors), expected, atol=1e-5)
    if find_spec("openvino"):  # which is for pictures, and refuses nothing here
        other = ExportedEncoder.load(served, runtime="openvino")
        np.testing.assert_array_equal(other.embed_features(vectors), encoder.embed_features(vectors))
    assert main([*command, "--quiet"]) == 0
    assert [path.name for path in (served / "encoder").iterdir() if path.name.isdigit()] == ["1"]  # the same one
    with serve(served) as url:
        body = {"positive": [{"features": vectors[9].tolist()}], "k": 1}
        (found,) = httpx.post(f"{url}api/v1/search", json=body).json()["results"]
        assert found["id"] == "tile009" and found["score"] > 0.999


def test_a_head_elsewhere_is_trusted_less(run, tmp_path):
    """Half of these vectors are unlike any of the training."""
    vectors = vectors_of()[0]
    vectors[: COUNT // 2] *= -1
    served = tmp_path / "served"
    assert (
        main(
            [
                "index",
                str(write_npz(tmp_path / "v.npz", vectors=vectors)),
                "--head",
                str(run),
                "--output",
                str(served),
                "--quiet",
            ]
        )
        == 0
    )
    engine = SearchEngine.open(served)
    share = engine.index.info["encoder"]["share"]
    assert 0 < share < 0.5
    at_home = descriptor_model(read_encoder(run), "robust").predict(vectors, verbose=0)
    found = engine.index.snapshot.vectors_of(ids_of())
    np.testing.assert_allclose(found, reweighted(at_home, WIDTH, share), atol=1e-5)
    np.testing.assert_allclose(engine.encoder.of_features(vectors[9]), found[9], atol=1e-5)


def test_nothing_is_written_where_something_is_wrong(run, small_run, tmp_path, capsys):
    served = tmp_path / "below" / "served"
    good, narrow = write_npz(tmp_path / "v.npz"), write_npz(tmp_path / "n.npz", vectors=np.ones((COUNT, 3)))
    bad = vectors_of()[0]
    bad[-1] = np.nan
    spoilt = write_npz(tmp_path / "s.npz", vectors=bad)
    (tmp_path / "labels.csv").write_text("image,labels\nother,sea\n")
    wrong = {
        (str(tmp_path / "gone.npz"),): "is not there",
        (str(narrow), "--head", str(run)): "must hold vectors of the 6 numbers that the head of",
        (str(good), "--head", str(small_run)): "sees pictures",
        (str(good), "--head", str(tmp_path)): "holds no finished run",
        (str(good), "--from", str(tmp_path)): "give one of them",
        (str(spoilt),): "row 39 ('tile039'), got NaN",
        (str(good), "--table", str(tmp_path / "labels.csv")): "names one of the 40 ids",
        (str(tmp_path), "--head", str(run), "--backbone", "resnet18"): "--head is for vectors",
        (str(good), "--backbone", "resnet18", "--bands", "all"): "by pictures of 8-bit RGB alone, got bands=all",
    }
    Image.new("RGB", (8, 8)).save(tmp_path / "tile.png")
    for arguments, message in wrong.items():
        assert main(["index", *arguments, "--output", str(served), "--quiet"]) == 2, arguments
        assert message in capsys.readouterr().err, arguments
        assert not served.exists() and not list(tmp_path.glob("below/*")), arguments
    assert main(["export", "--run-dir", str(run), "--output", str(served)]) == 2
    assert "macl index VECTORS --head" in capsys.readouterr().err and not served.exists()


@pytest.mark.slow
def test_with_the_backbone_that_made_them_pictures_are_searched_for_too(tmp_path):
    """And what is found is what a folder of these images, embedded by us, gives."""
    import keras

    from macl_tf.models.encoders import build_encoder

    network = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(WIDTH, 5, strides=4)])
    network.save(tmp_path / "mine.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("uint8")
    for number, tile in enumerate(pixels):
        Image.fromarray(tile).save(tmp_path / f"{number}.png")
    features = descriptor_model(build_encoder(32, backbone=str(tmp_path / "mine.keras")), "backbone")
    path = write_npz(tmp_path / "v.npz", list("01234"), features.predict(pixels, verbose=0))
    how = ["--backbone", str(tmp_path / "mine.keras"), "--image-size", "32", "--quiet"]  # with its own weights
    assert main(["index", str(path), *how, "--output", str(tmp_path / "served")]) == 0
    engine = SearchEngine.open(tmp_path / "served")
    for number in range(5):
        (result,) = engine.search(tmp_path / f"{number}.png", k=1)[0].results
        assert result.id == str(number) and result.score > 0.9999
    assert ExportedEncoder.load(tmp_path / "served").info["image_size"] == 32
