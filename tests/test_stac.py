"""The STAC that is written beside shards: valid, read by others' reader and by ours, left alone where it is right."""

import os
from urllib.parse import unquote

import numpy as np
import pystac
import pytest
from pystac.validation import validate_dict

from macl_tf.datasets.vectors import VectorFiles
from macl_tf.embedding.shards import Origin, ShardFolder
from macl_tf.embedding.stac import write_stac
from macl_tf.files import read_json, sha256_of
from macl_tf.index.items import Items

LABELS, WIDTH = ("sea", "sand"), 4
ORIGIN = Origin("e" * 64, "projection", 1, LABELS, WIDTH, 8)
SQUARE = np.array([[10.0, 50.0], [10.5, 50.0], [10.5, 50.25], [10.0, 50.25]])
FIJI = np.array([[179.5, -17.0], [-179.5, -17.0], [-179.5, -16.0], [179.5, -16.0]])
NOWHERE = np.full((4, 2), np.nan)
SHARDS = (
    Items.of(
        LABELS, ["a", "b/ü", "c"], [[1, 0], [0, 0], [1, 1]], sources=["S 2/ä", "", "S 2/ä"], splits=["train", "", ""],
        footprints=[SQUARE, NOWHERE, SQUARE + 1], dates=["1969-07-20", None, "2020-02-29"],
    ),
    Items.of(LABELS, ["d"], [[0, 1]], footprints=[FIJI], sources=["UAV"], dates=["2021-03-04"]),
    Items.of(LABELS, ["e", "f"], [[0, 1]] * 2),  # nothing is known of these
)  # fmt: skip
# What the extension's schema, json-schema/schema.json of geo-embeddings/embeddings-stac-specification at 0a9cb04, lets
# stand where, of all names that begin with "emb:". It is on the web alone, as is STAC 1.0.0, which it asks for.
EXTENSION = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
OF_COLLECTIONS = {
    "type", "dimensions", "chip_layout", "temporal_resolution", "fit_for_use", "uncertainty",
}  # fmt: skip
OF_ITEMS = {
    "runtime_parameters", "preprocessing", "postprocessing", "fit_for_use", "spatial_coverage", "uncertainty",
    "quantization", "energy",
}  # fmt: skip


def fill(folder, shards=SHARDS):
    """Shards of a folder, with their STAC, and the vectors of all."""
    vectors = np.random.default_rng(0).normal(size=(sum(map(len, shards)), WIDTH)).astype(np.float32)
    writer, start = ShardFolder(folder, ORIGIN), 0
    for items in shards:
        writer.add(items, vectors[start : start + len(items)], None, [])
        start += len(items)
    write_stac(folder, ORIGIN)
    return vectors


def terms(said, prefix="emb:"):
    return {name.removeprefix(prefix) for name in said if name.startswith(prefix)}


def check(path):
    """By PySTAC, against the schemas of STAC 1.1 that it brings, to which it takes 1.0.0; by hand for the extension."""
    said = read_json(path)
    assert said["stac_version"] == "1.0.0" and EXTENSION in said["stac_extensions"]
    now = pystac.read_file(str(path)).to_dict(include_self_link=False, transform_hrefs=False)
    assert now["stac_version"] == "1.1.0" and validate_dict(now, extensions=[])
    if said["type"] == "Collection":
        assert {"type", "dimensions"} <= terms(said) <= OF_COLLECTIONS
        assert said["emb:type"] in ("pixel", "chip") and said["emb:dimensions"] == WIDTH
        assert said["data_type"] == "float32"
        assert {"emb:model", "emb:source-data"} <= {link["rel"] for link in said["links"]}
    else:
        assert terms(said["properties"]) <= OF_ITEMS and "embeddings" in said["assets"]
        assert not any(terms(asset) for asset in said["assets"].values())
        assert isinstance(said["properties"]["emb:runtime_parameters"], dict)
    assert all(link["href"] and " " not in link["href"] for link in said["links"])


def test_others_find_the_shards_by_it(tmp_path):
    fill(tmp_path)
    for path in (tmp_path / "stac").iterdir():
        check(path)
    collection = pystac.Collection.from_file(str(tmp_path / "stac" / "collection.json"))
    assert collection.extent.spatial.bboxes == [[10, -17, -179.5, 51.25]]
    (interval,) = collection.extent.temporal.to_dict()["interval"]
    assert interval == ["1969-07-20T00:00:00Z", "2021-03-04T23:59:59Z"]
    sources = [unquote(link.href.rpartition(":")[2]) for link in collection.get_links("emb:source-data")]
    assert sources == ["S 2/ä", "UAV"]
    assert collection.get_single_link("emb:model").href == "urn:sha256:" + "e" * 64
    first, fiji, unknown = collection.get_items()
    assert [one.id for one in (first, fiji, unknown)] == ["part-00000", "part-00001", "part-00002"]
    for item in (first, fiji, unknown):
        asset = item.assets["embeddings"]
        assert os.path.samefile(asset.get_absolute_href(), tmp_path / f"{item.id}.parquet")
        assert asset.extra_fields["file:checksum"] == "1220" + sha256_of(asset.get_absolute_href())
        assert item.get_collection() is collection
    assert first.bbox == [10, 50, 11.5, 51.25] and first.geometry["type"] == "Polygon"
    assert fiji.bbox == [179.5, -17, -179.5, -16] and fiji.geometry["type"] == "MultiPolygon"
    assert [ring[0][0][0] for ring in fiji.geometry["coordinates"]] == [179.5, -180]
    assert unknown.bbox is None and unknown.geometry is None
    made = unknown.properties["processing:datetime"]
    assert unknown.properties["datetime"] == made  # STAC asks for a time, and none is known of the tiles
    assert fiji.datetime is None and fiji.properties["start_datetime"] == "2021-03-04T00:00:00Z"


def test_where_nothing_is_known_it_is_valid_too(tmp_path):
    fill(tmp_path, SHARDS[2:])
    for path in (tmp_path / "stac").iterdir():
        check(path)
    extent = read_json(tmp_path / "stac" / "collection.json")["extent"]
    assert extent == {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}


@pytest.mark.parametrize("name", ["collection", "part-00000", "part-00001", "part-00002"])
def test_our_reader_reads_back_what_the_shards_hold(tmp_path, name):
    vectors = fill(tmp_path)
    items, start = Items.concatenate(SHARDS), 0
    if name != "collection":
        number = int(name[-1])
        items, start = SHARDS[number], sum(map(len, SHARDS[:number]))
    source = VectorFiles(tmp_path / "stac" / f"{name}.json")
    assert (source.count, source.dim, source.label_names) == (len(items), WIDTH, LABELS)
    assert source.model == f"{'e' * 64} descriptor projection"
    rows = list(source.batches())
    assert [id_ for part in rows for id_ in part.ids] == items.ids.tolist()
    assert [one for part in rows for one in part.sources] == items.sources.tolist()
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in rows]), vectors[start : start + len(items)])
    np.testing.assert_array_equal(np.concatenate([part.dates for part in rows]), items.dates)
    np.testing.assert_allclose(np.concatenate([part.footprints for part in rows]), items.footprints, atol=1e-12)


def test_what_is_right_is_left_alone_and_what_is_not_is_made_anew(tmp_path):
    fill(tmp_path)
    beside = tmp_path / "stac"

    def times():
        return {path.name: path.stat().st_mtime_ns for path in beside.iterdir()}

    before, said = times(), {path.name: path.read_bytes() for path in beside.iterdir()}
    write_stac(tmp_path, ORIGIN)
    assert times() == before
    (beside / "part-00001.json").unlink()
    (beside / "part-00000.json").write_text("{")
    (beside / "collection.json").write_text("[]")
    write_stac(tmp_path, ORIGIN)
    assert {path.name: path.read_bytes() for path in beside.iterdir()} == said
    assert times()["part-00002.json"] == before["part-00002.json"]
    # The last shard is lost, and another gets its name; then comes one without tiles, which lists what is gone.
    for path in tmp_path.glob("part-00002.*"):
        path.unlink()
    writer = ShardFolder(tmp_path, ORIGIN)
    writer.add(Items.of(LABELS, ["g"], footprints=[SQUARE]), np.ones((1, WIDTH), np.float32), None, [])
    writer.add(Items.of(LABELS, []), np.ones((0, WIDTH), np.float32), None, [], gone=["a"])
    write_stac(tmp_path, ORIGIN)
    assert read_json(beside / "part-00002.json")["bbox"] == [10, 50, 10.5, 50.25]
    links = [link["href"] for link in read_json(beside / "collection.json")["links"] if link["rel"] == "item"]
    assert links == [f"./part-0000{number}.json" for number in range(3)]


def test_shards_without_tiles_have_none(tmp_path):
    fill(tmp_path, [Items.of(LABELS, [])])
    assert not (tmp_path / "stac").exists()
