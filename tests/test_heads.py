"""The bench of heads: what it trains, what it leaves out, and how its table reads."""

import dataclasses
import sys

import keras
import numpy as np
import pytest

from benchmarks.compare import __main__ as compare
from benchmarks.compare import heads, held_out, report, results_file
from benchmarks.compare.evaluate_run import LEADING
from macl_tf.pipeline.features import FeatureViews
from macl_tf.training.settings import Settings
from tests.generated import write_ucm

NAMES = ("sea", "sand", "sky")


@pytest.fixture
def tiles():
    """Features that tell the labels apart."""
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 3)) < 0.5).astype(np.uint8)
    labels[~labels.any(axis=1), 0] = 1
    features = rng.normal(size=(3, 80, 8)) + 2 * labels @ rng.normal(size=(3, 8))
    parts = {"validation": slice(40, 60), "test": slice(60, 80)}
    searched = {part: (features[0, rows].astype(np.float32), labels[rows]) for part, rows in parts.items()}
    return heads.Tiles(FeatureViews((features[:, :40].astype(np.float16),)), labels[:40], NAMES, searched)


def encoder():
    """From features, in place of pixels."""
    given = keras.Input((8,))
    x = keras.layers.Activation("linear", name="features")(given)
    x = keras.layers.Dense(4, name="projection_2")(x)
    return keras.Model(given, keras.layers.UnitNormalization(name="embedding")(x), name="encoder")


def test_a_share_of_the_labels_is_kept_in_training_and_validation_and_not_in_the_test(tiles):
    few = heads.labelled(tiles, 0.25, seed=1)
    assert len(few.labels) == few.train.parts[0].shape[1] == 10 and few.train.views == 3
    assert len(few.searched["validation"][1]) == 5 and few.searched["test"] is tiles.searched["test"]
    place = [np.flatnonzero((tiles.train.unchanged() == row).all(axis=1))[0] for row in few.train.unchanged()]
    np.testing.assert_array_equal(few.labels, tiles.labels[place])
    assert heads.labelled(tiles, 1.0, seed=1) is tiles


def test_a_share_may_have_more_tiles_than_a_part_of_features(tiles):
    many = np.arange(2400, dtype=np.float32).reshape(1, 2400, 1)
    labels = np.arange(2400)[:, None]
    few = heads.labelled(tiles._replace(train=FeatureViews.of(many), labels=labels), 0.5, seed=1)
    last = len(few.labels) - 1
    assert last == 1199 and few.train.read(np.array([0]), np.array([last])) == few.labels[last]


def test_runs_share_features_but_not_the_width_of_a_head(monkeypatch):
    settings = Settings(backbone="resnet18", weights="", width=8, image_size=32, embedding_dim=4)
    monkeypatch.setattr(heads, "read_tiles", lambda settings, encoder, elsewhere: None)
    worker = heads._Worker(settings, "")
    assert worker.encoder(settings) is worker.encoder(dataclasses.replace(settings, batch_size=8))
    assert worker.encoder(dataclasses.replace(settings, embedding_dim=6)).output_shape == (None, 6)
    with pytest.raises(ValueError, match="image_size=32, got 64"):
        worker.encoder(dataclasses.replace(settings, image_size=64))


@pytest.mark.slow
def test_a_head_has_every_descriptor_and_other_shares_of_robust(tiles):
    settings = Settings(loss="macl", classification_weight=1.0, batch_size=16, epochs=2, embedding_dim=4)
    found, again = (heads.trained(settings, tiles, encoder(), 3, test=True) for _ in range(2))
    assert found["results"] == again["results"]
    shares = {"robust", "robust 0.25", "robust 0.75", "robust, as indexed"}
    assert set(found["results"]) >= {"projection", "backbone", "probabilities"} | shares
    assert len(found["results"]["robust"]["test"]["per_query"]["ndcg"]) == 20
    assert 1 <= found["best_epoch"] <= 2 and len(found["history"].split()) == 2
    other = heads.trained(Settings(**vars(settings) | {"seed": 1}), tiles, encoder(), 3, test=False)["results"]
    assert all(set(parts) == {"validation"} for parts in other.values())
    assert other["projection"]["validation"] != found["results"]["projection"]["validation"]


def test_robust_of_a_half_is_the_product_s(tiles):
    rng = np.random.default_rng(0)
    f, z = rng.normal(size=(2, 5, 4))
    both = heads.beside({"backbone": f, "projection": z}, heads.OTHER_SHARES)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(both["robust 0.75"][:, 4:], np.sqrt(0.75) * unit)
    np.testing.assert_allclose([np.linalg.norm(one, axis=1) for one in both.values()], 1.0)


def test_logistic_regression_finds_what_is_linear(tiles):
    found = heads.logistic_regression(Settings(), tiles, 1.0, test=True)
    assert found["results"]["probabilities"]["test"]["map_per_label"] > 0.8
    one = tiles._replace(labels=np.ones_like(tiles.labels))  # labels that nothing can be learned about
    assert heads.logistic_regression(Settings(), one, 1.0, test=True)["results"]["probabilities"]["test"]


def test_parts_are_told_by_how_names_begin(tmp_path):
    write_ucm(tmp_path / "ucm", stems=["beach00", "beach01", "forest00"])
    held_out.write_parts(tmp_path / "table.csv", str(tmp_path / "ucm"), {"test": ["forest"], "validation": ["beach01"]})
    rows = [line.split(",") for line in (tmp_path / "table.csv").read_text().splitlines()[1:]]
    assert {row[0].rpartition("/")[2][:-4]: row[-1] for row in rows} == {
        "beach00": "train", "beach01": "validation", "forest00": "test"
    }  # fmt: skip


def test_the_table_says_what_the_first_leads_by():
    def run(name, seed, value):
        return {"name": name, "seed": seed, "results": {"projection": {"validation": dict.fromkeys(LEADING, value)}}}

    runs = [run("macl", seed, value) for seed, value in enumerate((0.5, 0.6, 0.7, 0.6, 0.6))]
    runs += [run("supcon", seed, value) for seed, value in enumerate((0.4, 0.5, 0.5, 0.5, 0.5))]
    table = report.of_validation(report.on_validation([*runs, run("supcon", 7, 0.48)])).splitlines()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert lines[2] == ["**macl**", "projection", "5", "0.600", "0.600", "0.600", "", "", ""]
    # Leads 10, 10, 20, 10, 10 points: mean 12, standard deviation 4.47, times 2.776 / sqrt(5) is 5.55.
    assert lines[3] == ["supcon", "projection", "6", "0.480", "0.480", "0.480", *["+12.0 ± 5.6"] * 3]


@pytest.mark.slow
def test_the_command_goes_on_where_it_was(tmp_path, monkeypatch):
    pixels = keras.Input((32, 32, 3))
    keras.Model(pixels, keras.layers.Conv2D(8, 5, strides=4)(pixels)).save(tmp_path / "mine.keras")
    stems = [f"{scene}{number:02d}" for scene in ("beach", "forest") for number in range(30)]
    write_ucm(tmp_path / "ucm", stems=stems)
    out, path = tmp_path / "results.parquet", tmp_path / "small.toml"
    path.write_text(f"""
what = "two heads and a regression"
why = "to test the command"
expected = "some figures"
train = "heads"
losses = ["macl", "bce", "logistic-regression"]
labelled = [1, 0.5]
tune = 1

[set]
trainable = "head"
backbone = "{tmp_path / "mine.keras"}"
image_size = 32
batch_size = 8
embedding_dim = 4
epochs = 1
""")
    words = [str(path), "--data-dir", str(tmp_path / "ucm"), "--elsewhere", str(tmp_path / "ucm")]
    words += ["--work", str(tmp_path / "work"), "--out", str(out), "--jobs", "1"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    compare.main()
    rows = results_file.read(out)
    runs = {row["name"]: row for row in rows if row["kind"] == "run"}
    assert len(runs) == 6 and {"macl", "macl 50%", "logistic-regression 50%"} < set(runs)
    assert set(runs["macl"]["results"]["robust"]) == {"validation", "test", "elsewhere"}
    assert {row["name"] for row in rows if row["kind"] == "floor"} == {"frozen features", "frozen features, elsewhere"}
    monkeypatch.setattr(heads, "work", lambda _: pytest.fail("what is there was done again"))
    compare.main()
    assert len(results_file.read(out)) == len(rows)
    monkeypatch.setattr(sys, "argv", ["report", str(path), "--out", str(out)])
    report.main()
    assert (tmp_path / "compare_small.json").is_file()
