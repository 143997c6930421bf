"""In an archive unlike the training tiles, "robust" takes less of what was learned: index and queries alike."""

import json
import shutil

import httpx
import numpy as np
import pytest
from PIL import Image

from macl_tf import cli
from macl_tf.artifacts import versions
from macl_tf.embedding.embedding import embed_images
from macl_tf.embedding.sources import FolderSource
from macl_tf.export.exporting import export_run, index_shards, index_to_milvus
from macl_tf.export.saved_model import ExportedEncoder
from macl_tf.index.index import Index
from macl_tf.index.vectors import unit_rows
from macl_tf.labels import LabelStatistics
from macl_tf.models.familiarity import (
    FAMILIAR,
    LEAST,
    SAMPLE,
    familiar_share,
    learned_share,
    reweighted,
    sample,
    shares,
)
from macl_tf.search.encoders import load_encoder
from macl_tf.search.engine import SearchEngine
from macl_tf.teaching.teach import teach
from macl_tf.training.evaluate import evaluate_encoder
from macl_tf.training.run_directory import read_encoder
from tests.runs import DIM, ROBUST_DIM, SIZE
from tests.serving_process import running

F = ROBUST_DIM - DIM
RNG = np.random.default_rng(0)


def around(centre, count, seed):
    """Rows near a direction."""
    return np.eye(32)[centre] + 0.05 * np.random.default_rng(seed).normal(size=(count, 32))


def test_tiles_like_those_of_the_training_are_familiar_and_others_are_not():
    training = around(0, 200, 1)
    assert familiar_share(training, around(0, 300, 2)) == pytest.approx(0.95, abs=0.04)
    assert familiar_share(training, around(1, 300, 3)) == 0.0
    mixed = np.concatenate([around(0, 100, 4), around(1, 300, 5)])
    assert familiar_share(training, mixed) == pytest.approx(0.24, abs=0.02)
    assert familiar_share(7 * training, mixed) == familiar_share(training, mixed)  # whatever their norms
    assert familiar_share(training, training) > 0.95  # each finds itself


def test_its_definition_on_numbers_that_one_can_follow():
    """Three tiles in a plane, each with two neighbours."""
    degrees = np.radians([0, 10, 40])
    training = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    near = [np.cos(np.radians(pair)).mean() for pair in ([10, 40], [10, 30], [40, 30])]
    least = np.quantile(near, 0.05)
    asked = np.radians([20, 75, 90])
    a = [np.sort(np.cos(one - degrees))[-2:].mean() for one in asked]
    expected = np.mean([one >= least for one in a])
    assert expected == pytest.approx(1 / 3)
    assert familiar_share(training, np.stack([np.cos(asked), np.sin(asked)], axis=1)) == pytest.approx(expected)


def test_a_sample_stands_for_many_tiles():
    assert sample(5).tolist() == [0, 1, 2, 3, 4]
    chosen = sample(1_000_000)
    assert len(chosen) == SAMPLE == len(set(chosen.tolist())) and (chosen[0], chosen[-1]) == (0, 999_999)


@pytest.mark.parametrize(("familiar", "share"), [(1, 0.5), (2 / 3, 0.5), (1 / 3, 0.25), (0, 0)])
def test_the_share_falls_from_two_thirds_on(familiar, share):
    assert learned_share(familiar) == pytest.approx(share)


def test_reweighted_similarity_is_the_weighted_mean_of_two():
    f, z = unit_rows(RNG.normal(size=(6, 8))), unit_rows(RNG.normal(size=(6, 4)))
    half = np.sqrt(0.5) * np.concatenate([f, z], axis=1)
    found = reweighted(half, 8, 0.2)
    np.testing.assert_allclose(found @ found.T, 0.8 * f @ f.T + 0.2 * z @ z.T, atol=1e-6)
    np.testing.assert_allclose(reweighted(half, 8, 0.5), half, atol=1e-6)
    assert not reweighted(np.zeros((1, 12)), 8, 0.2).any()  # of an image that cannot be decoded


@pytest.mark.parametrize(
    ("training", "features"), [((2, 8), (5, 8)), ((5, 8), (0, 8)), ((5, 8), (5, 7)), ((5, 8, 1), (5, 8))]
)
def test_what_cannot_be_compared_is_refused(training, features):
    with pytest.raises(ValueError, match=r"3 training tiles or more and .* of one tile or more"):
        familiar_share(np.ones(training), np.ones(features))


def test_too_few_tiles_say_nothing():
    many, few = around(0, 40, 1), around(1, LEAST - 1, 2)
    assert shares(many, few) == shares(few, many) == (1.0, 0.5)
    assert shares(many, around(1, LEAST, 2)) == (0.0, 0.0)


def test_a_training_that_is_not_finite_is_refused():
    training = around(0, 40, 1)
    training[3, 3] = np.nan
    with pytest.raises(ValueError, match=r"must be finite.*Train and export again"):
        familiar_share(training, around(0, 40, 2))


def test_a_report_of_a_strange_archive_is_of_what_an_index_of_it_has(small_run):
    encoder = read_encoder(small_run)
    images, labels = RNG.integers(0, 256, (20, SIZE, SIZE, 3), np.uint8), RNG.integers(0, 2, (20, 3))
    statistics = LabelStatistics.from_labels(labels)
    at_home = evaluate_encoder(encoder, images, labels, statistics, progress=False)
    strange = evaluate_encoder(
        encoder, images, labels, statistics, familiar=-1 - RNG.random((LEAST, F)), progress=False
    )
    for name in ("map_per_label", "ndcg@100_jaccard"):  # nothing of it is familiar
        assert strange["robust"][name] == pytest.approx(at_home["backbone"][name])
        assert strange["robust"][name] != pytest.approx(at_home["robust"][name])
    assert strange["projection"].to_dict() == at_home["projection"].to_dict()


@pytest.fixture(scope="module")
def strange_run(small_run, small_served, tmp_path_factory):
    """A run that was trained on tiles like few of its archive."""
    run = shutil.copytree(small_run, tmp_path_factory.mktemp("strange") / "run")
    features = unit_rows(np.asarray(Index.open(small_served / "index").snapshot.stored.vectors)[:, :F])
    nearest = np.argsort(features @ features[0])[-LEAST:]
    np.save(run / FAMILIAR, features[nearest].astype(np.float16))
    return run


@pytest.fixture(scope="module")
def served(strange_run, tmp_path_factory):
    return export_run(strange_run, tmp_path_factory.mktemp("fitted") / "served", progress=False)


def pictures(count=3):
    return np.random.default_rng(3).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)


def test_the_index_says_its_share_and_holds_such_vectors(served, small_served):
    index, at_home = Index.open(served / "index").snapshot, Index.open(small_served / "index").snapshot
    assert "share" not in at_home.info["encoder"]
    made_with = index.info["encoder"]
    assert 0 < made_with["share"] < 0.45 and made_with["features"] == F
    expected = reweighted(np.asarray(at_home.stored.vectors), F, made_with["share"])
    np.testing.assert_allclose(np.asarray(index.stored.vectors), expected, atol=1e-5)
    assert np.abs(expected - np.asarray(at_home.stored.vectors)).max() > 0.01


def test_queries_are_as_the_index_whatever_gives_them(served):
    index, encoder = Index.open(served / "index").snapshot, ExportedEncoder.load(served)
    made_with = index.info["encoder"]
    expected = reweighted(encoder.embed_pixels(pictures()), F, made_with["share"])
    engine = SearchEngine.open(served)
    np.testing.assert_allclose(engine.embed([*pictures()]), expected, atol=1e-5)
    later = load_encoder(served, made_with, later=True)
    np.testing.assert_allclose(later.embed_pixels(pictures()), expected, atol=1e-5)
    whole = later.regions.embed(pictures().astype(np.float32), [(0, 0, 1, 1)] * 3)
    np.testing.assert_allclose(whole, expected, atol=1e-4)
    # The map's middle cell is the mean of the cells around it: that of the part of the picture, but for the edges.
    part = later.regions.embed(pictures(1).astype(np.float32), [(2 / 7, 2 / 7, 5 / 7, 5 / 7)])[0]
    assert later.regions.grid == (7, 7)
    np.testing.assert_allclose(later.matches([*pictures(1)], part)[0, 3, 3], 1, atol=1e-5)
    plain = encoder.regions.embed(pictures(1).astype(np.float32), [(2 / 7, 2 / 7, 5 / 7, 5 / 7)])
    np.testing.assert_allclose(part, reweighted(plain, F, made_with["share"])[0], atol=1e-5)


def test_the_retriever_finds_what_the_index_finds(served, tmp_path):
    tf, _ = pytest.importorskip("tensorflow"), pytest.importorskip("scann")
    (path,) = (served / "retriever").glob("1")
    found = tf.saved_model.load(str(path)).signatures["serving_default"](
        image_bytes=tf.stack([tf.io.encode_png(one) for one in pictures()]), k=tf.constant(5)
    )
    for row, answer in enumerate(SearchEngine.open(served).search([*pictures()], k=5)):
        assert [id_.decode() for id_ in found["ids"][row].numpy()] == [result.id for result in answer.results]
        np.testing.assert_allclose(found["scores"][row], [result.score for result in answer.results], atol=1e-4)


def test_the_same_export_again_changes_nothing(strange_run, served, capsys):
    export_run(strange_run, served)
    assert "up to date" in capsys.readouterr().out and versions(served / "index") == [1]


def test_pictures_that_are_added_and_a_head_that_is_taught_stand_on_the_same_vectors(served, tmp_path):
    served = shutil.copytree(served, tmp_path / "served")
    engine = SearchEngine.open(served)
    engine.upsert([*pictures()], ["a", "b", "c"])
    (answer,) = engine.search(pictures()[1], k=1)
    assert answer.results[0].id == "b" and answer.results[0].score == pytest.approx(1, abs=1e-5)
    done = teach(served, settings=("epochs=2", "batch_size=16", "embedding_dim=4"), publish="always")
    assert done.published == served / "index" / "2"
    engine = SearchEngine.open(served)
    assert "share" not in engine.index.info["encoder"]  # it learned from this archive
    found = engine.index.snapshot.vectors_of(["a", "b", "c"])
    np.testing.assert_allclose(engine.embed([*pictures()]), found, atol=1e-4)


def test_shards_of_a_strange_folder_make_such_an_index_and_the_command_says_so(strange_run, tmp_path, capsys):
    served = export_run(strange_run, tmp_path / "served", with_index=False, progress=False)
    (tmp_path / "tiles").mkdir()
    for number, one in enumerate(pictures(LEAST)):
        Image.fromarray(one).save(tmp_path / "tiles" / f"{number}.png")
    shards = tmp_path / "shards"
    asked = ["embed", str(served), "--input", str(tmp_path / "tiles"), "--output", str(shards), "--quiet"]
    assert cli.main(asked) == 0
    assert cli.main(["index", str(served), "--from", str(shards)]) == 0
    said = capsys.readouterr().err
    share = Index.open(served / "index").info["encoder"]["share"]
    assert f"has a share of {share:.2f} instead of 0.5" in said
    (answer,) = SearchEngine.open(served).search(pictures(LEAST)[5], k=1)
    assert answer.results[0].id == "5.png" and answer.results[0].score == pytest.approx(1, abs=1e-5)
    again = index_shards(served, shards, progress=False)  # the shards are as the encoder gives them: not twice
    info = json.loads((again / "manifest.json").read_text())["info"]
    assert info["encoder"]["share"] == share
    np.testing.assert_allclose(
        np.load(again / "vectors.npy"), np.load(served / "index" / "1" / "vectors.npy"), atol=1e-6
    )


def test_a_server_of_two_shares_embeds_for_each(served, strange_run, tmp_path):
    """One encoder, two versions of the index: a vector of one is not of the other, and `/info` tells them apart."""
    served = shutil.copytree(served, tmp_path / "served")
    for number, one in enumerate(pictures(LEAST)):
        (tmp_path / "tiles").mkdir(exist_ok=True)
        Image.fromarray(one).save(tmp_path / "tiles" / f"{number}.png")
    encoder = ExportedEncoder.load(served)
    embed_images(encoder, FolderSource(tmp_path / "tiles"), tmp_path / "shards", progress=False)
    index_shards(served, tmp_path / "shards", progress=False)
    with running(served, load=load_encoder) as url:
        told = {one["version"]: one["share"] for one in httpx.get(f"{url}api/v1/info").json()["versions"]}
        assert set(told) == {1, 2} and told[1] != told[2]
        for version, share in told.items():
            asked = {"k": 1, "vector": True, "index": version}
            picture = {"image": ("one.png", (tmp_path / "tiles" / "5.png").read_bytes(), "image/png")}
            answer = httpx.post(f"{url}api/v1/search/image", files=picture, data={"query": json.dumps(asked)}).json()
            assert "query" in answer, answer
            expected = reweighted(encoder.embed_pixels(pictures(LEAST)[5:6]), F, share)[0]
            np.testing.assert_allclose(answer["query"]["vector"], expected, atol=1e-5)


def test_an_index_in_milvus_has_its_share_too(strange_run, tmp_path, served):
    pytest.importorskip("milvus_lite")
    address = index_to_milvus(served, str(tmp_path / "tiles.db"), progress=False)
    engine = SearchEngine.open(served, index=address)
    (answer,) = engine.search(pictures(1)[0], k=5)
    (expected,) = SearchEngine.open(served).search(pictures(1)[0], k=5)
    assert [result.id for result in answer.results] == [result.id for result in expected.results]


def test_who_loads_an_exported_encoder_needs_nothing_of_training(run_python):
    script = "import sys, macl_tf.export.saved_model\nassert not [m for m in sys.modules if 'macl_tf.training' in m]"
    run_python(script)
