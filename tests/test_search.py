"""From a run to answers: export, search, filters, writes, and what the command line says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from macl_tf import cli
from macl_tf.artifacts import ArtifactError, open_version, publish, versions
from macl_tf.datasets.splits import Splits
from macl_tf.export.exporting import export_run
from macl_tf.files import locked
from macl_tf.search.engine import SearchEngine
from macl_tf.training.run_directory import open_archive
from macl_tf.training.settings import load_settings
from tests.conftest import ROOT
from tests.generated import photo, save
from tests.runs import ROBUST_DIM, TILES, make_run


@pytest.fixture
def served(small_served, tmp_path):
    """A copy for each test, in another place than it was made."""
    return shutil.copytree(small_served, tmp_path / "moved")


@pytest.fixture(scope="module")
def archive(small_run):
    return open_archive(load_settings(small_run / "settings.toml"))


def picture(archive, index, path):
    Image.fromarray(archive.read_image(index)).save(path)
    return path


def macl(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_an_archive_that_moved_is_found_where_one_says(tmp_path, capsys):
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for seed in range(20):
        save(tiles / f"{seed}.png", photo(seed))
    rows = [f"{seed}.png,{'sea;sand' if seed % 2 else 'sea'}" for seed in range(20)]
    (tiles / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    run = make_run(tmp_path / "run", dataset="folder", data_dir=str(tiles))
    moved = tiles.rename(tmp_path / "elsewhere")
    words = ["export", "--run-dir", run, "--output", tmp_path / "served", "--quiet"]
    assert macl(*words) == 2
    assert "lies elsewhere now, say --data-dir DIR" in capsys.readouterr().err
    assert not (tmp_path / "served").exists()  # before anything is written
    assert macl(*words, "--data-dir", moved) == 0
    found = SearchEngine.open(tmp_path / "served").search(moved / "3.png", k=1)[0].results[0]
    assert found.id == "3.png" and found.score > 0.999


def test_the_export_is_whole_and_keeps_what_is_up_to_date(served, small_run):
    assert {path.name for path in served.iterdir()} == {"encoder", "index", "retriever", "deploy"}
    for kind in ("encoder", "index", "retriever"):
        open_version(served / kind, kind)
    before = {path: path.stat().st_mtime_ns for path in served.rglob("*.json")}
    export_run(small_run, served, progress=False)
    assert {path: path.stat().st_mtime_ns for path in served.rglob("*.json")} == before


def test_all_tiles_are_in_the_index_with_what_the_run_knows(served, small_run, archive):
    engine = SearchEngine.open(served)
    items, splits = engine.index.items, Splits.read(small_run, archive)
    assert tuple(items.ids) == archive.file_names
    np.testing.assert_array_equal(items.labels, archive.labels)
    for part in ("train", "validation", "test"):
        assert np.flatnonzero(items.splits == part).tolist() == getattr(splits, part).tolist()


def test_a_tile_finds_itself_first_as_picture_bytes_and_pixels(served, archive, tmp_path):
    path = picture(archive, 7, tmp_path / "tile.png")
    answers = SearchEngine.open(served).search([path, path.read_bytes(), archive.read_image(7)], k=3)
    for answer in answers:
        assert answer.results[0].id == archive.file_names[7]
        assert answer.results[0].score == pytest.approx(1, abs=1e-5)
        assert [result.rank for result in answer.results] == [1, 2, 3]
    assert [answer.query for answer in answers] == [str(path), "picture 2", "picture 3"]


def test_scores_are_those_of_the_keras_model(served, small_run, archive):
    import keras

    from macl_tf.models.descriptors import descriptor_model
    from macl_tf.pipeline.pipeline import load_images

    encoder = descriptor_model(keras.saving.load_model(small_run / "encoder.keras", compile=False), "robust")
    embeddings = encoder.predict(load_images(archive, np.arange(TILES), 32, progress=False), verbose=0)
    expected = embeddings @ embeddings[3]
    found = SearchEngine.open(served).search(archive.read_image(3), k=TILES)[0].results
    assert len({result.id for result in found}) == TILES
    for result in found:
        assert result.score == pytest.approx(expected[archive.file_names.index(result.id)], abs=1e-5)


def test_searching_from_a_tile_leaves_it_out_and_marks_shared_labels(served, archive):
    name = archive.file_names[4]
    answer = SearchEngine.open(served).search(ids=[name], k=TILES)[0]
    assert len(answer.results) == TILES - 1 and name not in [result.id for result in answer.results]
    own = {archive.label_names[c] for c in np.flatnonzero(archive.labels[4])}
    assert set(answer.labels) == own
    for result in answer.results:
        assert set(result.shared) == own & set(result.item["labels"])


def test_filters_hold_and_give_k_results_where_k_exist(served, archive):
    rare = archive.label_names[int(archive.labels.sum(axis=0).argmin())]
    holders = int(archive.labels[:, archive.label_names.index(rare)].sum())
    answer = SearchEngine.open(served).search(archive.read_image(0), k=TILES, filter=f"any_of={rare}")[0]
    assert len(answer.results) == holders and all(rare in result.item["labels"] for result in answer.results)


def test_queries_must_be_of_one_kind_and_known_labels(served, archive):
    engine = SearchEngine.open(served)
    with pytest.raises(ValueError, match="exactly one of them"):
        engine.search()
    with pytest.raises(ValueError, match="exactly one of them"):
        engine.search(archive.read_image(0), ids=[archive.file_names[0]])
    with pytest.raises(ValueError, match=r"labels must be among .*; got 'snad'\. Did you mean sand\?"):
        engine.search(archive.read_image(0), labels=["snad"])
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        engine.search(np.zeros((4, 4), np.uint8))


def test_written_pictures_are_there_for_the_next_process(served, archive, tmp_path, capsys):
    path = picture(archive, 0, tmp_path / "new.png")
    label = archive.label_names[2]
    assert macl("upsert", served, path, "--id", "mine", "--labels", label) == 0
    assert f"1 in the index, which holds {TILES + 1} tiles" in capsys.readouterr().out
    found = SearchEngine.open(served).search(path, k=2, filter=f"any_of={label}")[0].results
    assert found[0].id == "mine" and found[0].item["labels"] == [label]
    assert macl("delete", served, "mine", "nobody") == 0
    assert f"1 taken out of the index, which holds {TILES} tiles; 1 were not in it." in capsys.readouterr().out
    assert "mine" not in SearchEngine.open(served).index.items.ids


def test_a_new_label_is_told_and_one_that_may_be_misspelled_must_be_meant(served, archive, tmp_path, capsys):
    path, known = picture(archive, 0, tmp_path / "new.png"), archive.label_names[2]
    wrong = known[:-1] + ("z" if known[-1] != "z" else "y")
    assert macl("upsert", served, path, "--id", "mine", "--labels", f"{known},harbour") == 0
    assert "Note: New in the index: harbour." in capsys.readouterr().err
    assert macl("upsert", served, path, "--id", "two", "--labels", f"Harbour;{wrong}") == 2
    said = capsys.readouterr().err
    assert f"got '{wrong}'. Did you mean {known}" in said and f"If {wrong} is new, say so: --new-label" in said
    assert macl("upsert", served, path, "--id", "two", "--labels", f"Harbour;{wrong}", "--new-label", wrong) == 0
    assert f"New in the index: {wrong}." in capsys.readouterr().err
    assert macl("upsert", served, path, "--id", "three", "--new-label", "pier") == 2
    assert "new labels must be among the labels of the tiles; got 'pier'" in capsys.readouterr().err
    assert macl("index", served, "--quiet") == 0
    engine = SearchEngine.open(served)
    assert engine.index.label_names == (*archive.label_names, "harbour", wrong)
    found = engine.search(path, k=TILES, filter="any_of=harbour")[0].results
    assert [result.item["labels"] for result in found] == [[known, "harbour"], ["harbour", wrong]]


def test_a_refused_write_changes_nothing(served, archive, tmp_path):
    engine = SearchEngine.open(served)
    before = {path: path.stat().st_size for path in (served / "index").rglob("*")}
    junk = tmp_path / "junk.jpg"
    junk.write_text("not a picture")
    for images, ids, labels, error in (
        ([archive.read_image(0), junk], ["a", "b"], None, "junk.jpg cannot be read as an image"),
        ([archive.read_image(0)], ["a"], [["snad"]], "unlike all of them"),
        ([archive.read_image(0)] * 2, ["a", "a"], None, "unique"),
        ([archive.read_image(0)], [], None, "one id, got 1 pictures and 0 ids"),
    ):
        with pytest.raises(ValueError, match=error):
            engine.upsert(images, ids, labels=labels)
    assert len(engine.index) == TILES
    assert {path: path.stat().st_size for path in (served / "index").rglob("*")} == before


@pytest.mark.slow
def test_changes_are_not_lost_by_another_export(served, other_run, archive, capsys):
    engine = SearchEngine.open(served)
    engine.upsert([archive.read_image(0)], ["mine"])
    assert macl("export", "--run-dir", other_run, "--output", served, "--quiet") == 2
    assert "1 upserts and deletes that a new one would not have" in capsys.readouterr().err
    assert "mine" in SearchEngine.open(served).index.items.ids
    assert macl("export", "--run-dir", other_run, "--output", served, "--quiet", "--discard-changes") == 0
    again = SearchEngine.open(served)
    assert again.index.version == 2 and again.encoder.version == 2 and len(again.index) == TILES
    drawn = open_archive(load_settings(other_run / "settings.toml"))
    assert again.search(drawn.read_image(5), k=1)[0].results[0].id == drawn.file_names[5]


@pytest.mark.slow
def test_an_engine_goes_over_to_the_encoder_of_a_new_index(served, other_run, tmp_path, archive):
    """Vectors of two encoders are never compared, and one that is gone is not missed."""
    writer, reader = SearchEngine.open(served), SearchEngine.open(served)
    assert writer.encoder.version == 1  # loaded; the reader loads it when it is gone
    export_run(other_run, served, keep=1, progress=False)
    shutil.rmtree(served / "encoder" / "1")
    export_run(make_run(tmp_path / "third", seed=2), served, keep=1, progress=False)
    assert versions(served / "encoder")[-1] == 3 and versions(served / "index") == [3]
    assert writer.upsert([archive.read_image(0)], ["mine"]) == 0
    assert (writer.index.version, writer.encoder.version) == (3, 3)
    for engine in (writer, reader, SearchEngine.open(served)):
        found = engine.search(archive.read_image(0), k=1)[0].results[0]
        assert (found.id, engine.index.version) == ("mine", 3) and found.score == pytest.approx(1, abs=1e-5)


def test_a_refused_export_publishes_no_encoder(served, other_run, archive, capsys):
    SearchEngine.open(served).upsert([archive.read_image(0)], ["mine"])
    before = sorted(served.rglob("*"))
    assert macl("export", "--run-dir", other_run, "--output", served, "--quiet") == 2
    assert "1 upserts and deletes that a new one would not have" in capsys.readouterr().err
    assert sorted({*served.rglob("*")} - {*before}) == []
    with locked(served / "encoder" / ".publishing"):
        assert macl("export", "--run-dir", other_run, "--output", served, "--quiet", "--discard-changes") == 2
    assert "is being written by another `macl export` or `macl index`" in capsys.readouterr().err
    assert versions(served / "encoder") == [1]


def geotiff(path, west, day):
    """A GeoTIFF a degree wide, north of 45 degrees, with the day it was taken."""
    rasterio = pytest.importorskip("rasterio")
    from tests.test_footprints import write_geotiff

    write_geotiff(path, (1 / 64, 0, west, 0, -1 / 64, 46), "EPSG:4326")
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME=f"{day.replace('-', ':')} 10:15:00")
    return path


def box_of(west):
    return [[west, 46], [west + 1, 46], [west + 1, 45], [west, 45]]


def facts(engine, id_):
    item = engine.index.describe(id_)
    return item["labels"], item["date"], item["footprint"], item["split"], item["source"]


@pytest.mark.parametrize("way", [Path, Path.read_bytes])
def test_an_upsert_reads_date_and_place_and_keeps_what_is_not_given_anew(served, archive, tmp_path, way):
    engine, sea, sand = SearchEngine.open(served), *archive.label_names[:2]
    tile, other = geotiff(tmp_path / "t.tif", 8, "2021-07-03"), geotiff(tmp_path / "u.tif", 20, "2022-01-31")
    plain = picture(archive, 0, tmp_path / "plain.png")
    given = {"labels": [[sea]], "splits": ["test"], "sources": ["drone"]}
    assert engine.upsert([way(tile)], ["t"], **given) == 0
    assert facts(engine, "t") == ([sea], "2021-07-03", box_of(8), "test", "drone")
    for again in (way(tile), way(plain), archive.read_image(3)):
        assert engine.upsert([again], ["t"]) == 1
        assert facts(engine, "t") == ([sea], "2021-07-03", box_of(8), "test", "drone")
        found = engine.search(
            again, k=1, filter=f"bbox=8.5,45.2,8.6,45.3; since=2021-07-03; until=2021-07-03; any_of={sea}; split=test"
        )
        assert found[0].results[0].id == "t"
    engine.upsert([way(other)], ["t"])
    assert facts(engine, "t") == ([sea], "2022-01-31", box_of(20), "test", "drone")
    # What is given wins, for one of two and not the other; None is not given.
    new = {"labels": [None, [sand]], "dates": ["2020-02-29", None], "bboxes": [None, (179.5, 0, -179.5, 1)],
           "splits": ["train", None], "sources": [None, "plane"]}  # fmt: skip
    assert engine.upsert([way(other), way(tile)], ["t", "new"], **new) == 1
    assert facts(engine, "t") == ([sea], "2020-02-29", box_of(20), "train", "drone")
    crossing = [[179.5, 1], [-179.5, 1], [-179.5, 0], [179.5, 0]]
    assert facts(engine, "new") == ([sand], "2021-07-03", crossing, None, "plane")
    nothing = {"labels": [()], "dates": [""], "bboxes": [()], "splits": [""], "sources": [""]}
    engine.upsert([way(tile)], ["t"], **nothing)
    assert facts(engine, "t") == ([], None, None, None, None)
    # The same after a crash, and folded in.
    for index in (SearchEngine.open(served).index, engine.index):
        assert (index.describe("t"), index.describe("new")) == (
            engine.index.describe("t"),
            engine.index.describe("new"),
        )
        engine.index.compact(progress=False)
    engine.index.delete(["new"])
    engine.upsert([way(plain)], ["new"])  # of what was deleted nothing is kept
    assert facts(engine, "new") == ([], None, None, None, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dates": ["2021"]}, r"a date must be like 2020-06-01, got '2021'"),
        ({"dates": [7]}, r"a date must be like 2020-06-01, got 7"),
        ({"dates": "2021-01-01"}, "dates must have one entry for each of the 1 pictures, got the text '2021-01-01'"),
        ({"bboxes": [(0, 1, 2)]}, r"a box must be west, south, east, north .* got 0,1,2\."),
        ({"bboxes": [(0, 1, 190, 2)]}, r"longitudes in .* got 0,1,190,2\."),
        ({"splits": ["train", "test"]}, "splits must have one entry for each of the 1 pictures, got 2"),
        ({"labels": [["snad"]]}, "'snad'"),
    ],
)
def test_facts_that_cannot_be_change_nothing(served, archive, given, words):
    engine = SearchEngine.open(served)
    with pytest.raises(ValueError, match=words):
        engine.upsert([archive.read_image(0)], ["t"], **given)
    assert engine.index.num_changes == 0


def test_the_command_takes_facts_and_ids_as_cards_show_them(served, archive, tmp_path, capsys, monkeypatch):
    engine, sea = SearchEngine.open(served), archive.label_names[0]
    tile, plain = geotiff(tmp_path / "t.tif", 8, "2021-07-03"), picture(archive, 0, tmp_path / "plain.png")
    engine.upsert([tile, tile, tile], ["a/t.tif", "a/u.tif", "b/u.tif"], labels=[[sea]] * 3)

    def told(id_):
        engine.index.refresh()
        return facts(engine, id_)

    assert macl("upsert", served, plain, "--id", "t.tif") == 0
    said = capsys.readouterr()
    assert said.out == f"1 in the index, which holds {TILES + 3} tiles, 1 of them in the place of another.\n"
    assert said.err == "Note: 't.tif' is the tile 'a/t.tif'.\n"
    assert told("a/t.tif") == ([sea], "2021-07-03", box_of(8), None, None)
    words = ["--labels", "", "--date", "2020-02-29", "--bbox", "-5,45,-4,46", "--split", "test", "--source", "drone"]
    assert macl("upsert", served, plain, *words, "--id", "a/t.tif") == 0
    assert told("a/t.tif") == ([], "2020-02-29", box_of(-5), "test", "drone")
    assert macl("upsert", served, plain, "--id", "a/t.tif", "--date=", "--bbox", "", "--source=") == 0
    assert told("a/t.tif") == ([], None, None, "test", None)
    capsys.readouterr()
    for command in (["search", served, "--id", "u.tif"], ["delete", served, "a/t.tif", "u.tif"],
                    ["upsert", served, plain, "--id", "u.tif"]):  # fmt: skip
        assert macl(*command) == 2
        assert "'u.tif' is the end of 2: 'a/u.tif', 'b/u.tif'. Write the whole id." in capsys.readouterr().err
    assert macl("search", served, "--id", "t.tif", "-k", "1") == 0 and capsys.readouterr().out.startswith("a/t.tif")
    monkeypatch.chdir(tmp_path)
    assert macl("upsert", served, "t.tif") == 0  # a file's path is no name that was shown
    assert "'t.tif' is a new tile. To replace 'a/t.tif', name it: --id 'a/t.tif'" in capsys.readouterr().err
    assert told("t.tif")[1:3] == ("2021-07-03", box_of(8)) and told("a/t.tif")[2] is None
    assert macl("delete", served, "\u2026/t.tif") == 0  # as a contact sheet shows it
    assert "Note: '\u2026/t.tif' is the tile 'a/t.tif'." in capsys.readouterr().err
    assert macl("upsert", served, plain, "--bbox", "1,2,3") == 2
    assert "a box must be west, south, east, north" in capsys.readouterr().err


def test_folding_changes_in_keeps_them(served, archive, capsys):
    engine = SearchEngine.open(served)
    engine.upsert([archive.read_image(0)], ["mine"], labels=[[archive.label_names[1]]])
    engine.index.delete([archive.file_names[3]])
    assert macl("index", served) == 0
    assert f"{TILES} tiles, brute_force, exact" in capsys.readouterr().out
    again = SearchEngine.open(served)
    assert again.index.version == 2
    assert "mine" in again.index.items.ids and archive.file_names[3] not in again.index.items.ids
    # and they still are changes that an index of the archive alone would not have
    from macl_tf.export.exporting import check_changes

    with pytest.raises(ValueError, match="2 upserts and deletes"):
        check_changes(served / "index", discard=False)


def test_a_folder_becomes_an_index(served, archive, tmp_path, capsys):
    folder = tmp_path / "tiles" / "deep"
    folder.mkdir(parents=True)
    for index in range(9):
        picture(archive, index, folder / f"{index}.png")
    (folder / "bad.jpg").write_bytes(b"junk")
    arguments = ["embed", served, "--input", tmp_path / "tiles", "--output", tmp_path / "shards", "--quiet"]
    assert macl(*arguments, "--shard-size", "4") == 0
    assert "9" in capsys.readouterr().out
    assert "bad.jpg" in (tmp_path / "shards" / "bad_files.csv").read_text()
    assert macl("index", served, "--from", tmp_path / "shards") == 0
    found = SearchEngine.open(served).search(archive.read_image(4), k=2)[0].results
    assert found[0].id == "deep/4.png" and len(SearchEngine.open(served).index) == 9


def test_the_index_names_its_own_archive_and_not_the_encoder_s(served, archive, tmp_path):
    assert SearchEngine.open(served).index.info["archive"]["name"] == "synthetic"
    folder = tmp_path / "harbour, 2021"
    folder.mkdir()
    for index in range(3):
        picture(archive, index, folder / f"{index}.png")
    assert macl("embed", served, "--input", folder, "--output", tmp_path / "shards", "--quiet") == 0
    assert macl("index", served, "--from", tmp_path / "shards") == 0
    engine = SearchEngine.open(served)
    assert engine.index.info["archive"] == {"name": "harbour, 2021", "tiles": 3}
    assert engine.encoder.info["dataset"]["name"] == "synthetic"
    engine.index.delete(["0.png"])
    assert macl("index", served, "--quiet") == 0  # folds the change in
    assert SearchEngine.open(served).index.info["archive"]["name"] == "harbour, 2021"


def test_the_index_says_which_encoder_it_belongs_to(served, small_run, tmp_path):
    with publish(served / "encoder", "encoder") as staging:  # a newer one, of another run
        shutil.copytree(served / "encoder" / "1", staging.path, dirs_exist_ok=True)
    engine = SearchEngine.open(served)
    assert versions(served / "encoder") == [1, 2] and engine.encoder.version == 1
    shutil.rmtree(served / "encoder" / "1")
    (served / "encoder" / "2").rename(served / "encoder" / "1")
    with pytest.raises(ArtifactError, match="another encoder"):
        _ = SearchEngine.open(served).encoder


def test_the_table_json_and_sheet_of_the_command(served, archive, tmp_path, capsys):
    path = picture(archive, 7, tmp_path / "tile.png")
    sheet = tmp_path / "found.png"
    assert macl("search", served, path, "-k", "4", "--sheet", sheet) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path) and lines[1].split() == ["rank", "score", "id", "labels"]
    assert lines[2].split()[:3] == ["1", "1.000", archive.file_names[7]]
    with Image.open(sheet) as image:
        assert image.size[0] == 5 * 204 + 42
    assert macl("search", served, "--id", archive.file_names[4], "--json", "-k", "3") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["index"] == {"version": 1, "kind": "brute_force"} and answer["encoder"]["version"] == 1
    results = answer["answers"][0]["results"]
    assert [result["rank"] for result in results] == [1, 2, 3]
    assert all(set(result["shared"]) <= set(result["labels"]) for result in results)
    table = tmp_path / "found.geojson"
    ids = [word for place in (4, 5) for word in ("--id", archive.file_names[place])]
    assert macl("search", served, *ids, "-k", "2", "--output", table) == 0
    assert f"Results: {table}" in capsys.readouterr().out
    features = json.loads(table.read_text(encoding="utf-8"))["features"]
    assert [one["properties"]["query"] for one in features] == [archive.file_names[place] for place in (4, 4, 5, 5)]
    assert features[0]["id"] == results[0]["id"] and features[0]["properties"]["labels"] == results[0]["labels"]
    assert macl("search", served, *ids, "--output", tmp_path / "found.xlsx") == 2
    assert "a file of tiles is one of .csv, .geojson" in capsys.readouterr().err
    assert macl("search", served, "--id", archive.file_names[4], "-k", "2") == 0
    assert "shared labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{none}", "tile.png"], "is not there. `macl export"),
        (["{empty}", "tile.png"], "holds no index"),
        (["{served}"], "Give pictures or --id, one of them, or --positive"),
        (["{served}", "{tile}", "--id", "x"], "Give pictures or --id, one of them"),
        (["{served}", "--positive", "nobody"], "nobody"),
        (["{served}", "{tile}", "--offset", "-1"], "offset must be"),
        (["{served}", "none.png"], "'none.png' is not there"),
        (["{served}", "{text}"], "cannot be read as an image: not a known image format"),
        (["{served}", "{tile}", "-k", "0"], "k must be"),
        (["{served}", "{tile}", "--filter", "any_of=sae"], "sae"),
        (["{served}", "{tile}", "--filter", "nonsense"], "nonsense"),
        (["{served}", "--id", "nobody"], "nobody"),
    ],
)
def test_what_cannot_be_searched_is_said(small_served, archive, tmp_path, capsys, arguments, words):
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    (tmp_path / "empty").mkdir()
    places = {"none": tmp_path / "none", "empty": tmp_path / "empty", "served": small_served, "text": text,
              "tile": picture(archive, 0, tmp_path / "tile.png")}  # fmt: skip
    assert macl("search", *(argument.format(**places) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("macl search: ") and words in error and error.count("\n") == 1


def test_pictures_and_options_may_stand_in_any_order(small_served, archive, tmp_path, capsys):
    path = picture(archive, 7, tmp_path / "tile.png")
    assert macl("search", small_served, "--exact", "-k", "2", path) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["1", "1.000", archive.file_names[7]]
    with pytest.raises(SystemExit):
        macl("search", small_served, path, "--nonsense")
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        macl("evaluate", "--run-dir", "run", "more")


def test_an_index_of_an_older_encoder_keeps_its_encoder(served, other_run):
    export_run(other_run, served, keep=1, with_index=False, progress=False)  # a new encoder, and still the old index
    assert versions(served / "encoder") == [1, 2]
    assert SearchEngine.open(served).encoder.version == 1
    text = (served / "deploy" / "models.config").read_text()
    assert text.count("value: 1") == 1 and text.count("value: 2") == 1  # stable, canary


@pytest.mark.slow
def test_the_door_is_the_command(small_run, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "export", "--run-dir", small_run, "--output", tmp_path / "served", "--no-index"],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    assert f"encoder    {tmp_path / 'served' / 'encoder' / '1'}: {ROBUST_DIM} dimensions" in result.stdout
    assert {path.name for path in (tmp_path / "served").iterdir()} == {"encoder", "deploy"}


def test_an_unfinished_run_is_refused(tmp_path, capsys):
    assert macl("export", "--run-dir", tmp_path, "--output", tmp_path / "served") == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert not (tmp_path / "served").exists()


@pytest.mark.slow
def test_labels_with_commas_are_named_on_the_command_line(served, archive, tmp_path, capsys):
    beaches, rock = "Beaches, dunes, sands", "rock; gravel=grey"
    for index in range(3):
        picture(archive, index, tmp_path / f"{index}.png")
    table = tmp_path / "labels.csv"
    table.write_text(f'file,width,class\n0,32,"{beaches}"\n0,32,Sea\n1,32,{rock}\n2,32,sea\n2,32,shipp\n')
    words = ["embed", served, "--input", tmp_path, "--output", tmp_path / "shards", "--table", table]
    assert macl(*words) == 0
    said = capsys.readouterr().err
    for note in (
        "a row for each label: 5 rows of 3 images, which hold the labels of all their rows",
        f'images of each label: Sea 2, "{beaches}" 1, "{rock}" 1, shipp 1',
        "read as one label: Sea, sea",
        "shipp beside the encoder's ship: did you mean ship?",
    ):
        assert note in said
    assert macl("index", served, "--from", tmp_path / "shards", "--quiet", "--discard-changes") == 0

    def found(*words):
        capsys.readouterr()
        assert macl("search", served, tmp_path / "0.png", "--json", *words) == 0
        results = json.loads(capsys.readouterr().out)["answers"][0]["results"]
        return {result["id"]: result["shared"] for result in results}

    assert set(found("--filter", f"any_of={beaches}")) == {"0.png"}
    assert set(found("--filter", f"any_of={beaches},SEA; none_of=shipp")) == {"0.png"}
    assert set(found("--filter", f"any_of='{rock}','{beaches}'")) == {"0.png", "1.png"}
    assert found("--labels", f"sea,{beaches}")["0.png"] == [beaches, "Sea"]
    assert macl("upsert", served, tmp_path / "1.png", "--labels", f'{beaches},"{rock}",Bare Soil') == 0
    held = SearchEngine.open(served).search(ids=[str(tmp_path / "1.png")])[0].labels
    assert held == ("bare-soil", beaches, rock)
    assert macl("search", served, tmp_path / "0.png", "--labels", "Beaches, dunes, sandz") == 2
    assert f'Did you mean "{beaches}"?' in capsys.readouterr().err
