"""Heads on frozen features: blocks that do not leak, one beginning for all, figures of the tiles held out."""

import sys
from functools import partial

import numpy as np
import pytest

from benchmarks.compare import __main__ as compare
from benchmarks.compare import frozen_features, report, results_file
from macl_tf.models.resnet import resnet18
from macl_tf.training.settings import load_settings
from tests.generated import write_ucm
from tests.runs import make_run


@pytest.fixture
def quick(monkeypatch):
    """Epochs of three steps."""
    monkeypatch.setattr(frozen_features, "STEPS", 3)


@pytest.fixture
def tiles():
    """Features that tell the two labels apart, in five blocks of 12 and a test of 12."""
    rng = np.random.default_rng(0)
    labels = rng.random((72, 3)) < 0.5
    labels[:, 0] |= ~labels.any(axis=1)
    features = rng.normal(size=(1 + frozen_features.VIEWS, 72, 8)) + 2 * labels @ rng.normal(size=(3, 8))
    return frozen_features.Tiles(
        features.astype(np.float32), labels, ("sea", "sand", "sky"), np.repeat(np.arange(6), 12)
    )


def settings(*words):
    return load_settings(assignments=["batch_size=16", "embedding_dim=4", "epochs=1", *words])


def test_blocks_are_of_neighbouring_numbers_of_a_scene():
    scenes = ["sea"] * 10 + ["town"] * 6
    numbers = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 20, 21, 22, 23, 24, 25])
    test = np.isin(np.arange(16), [15])
    assert frozen_features.blocks(scenes, numbers, test).tolist() == [
        4,
        4,
        3,
        3,
        2,
        2,
        1,
        1,
        0,
        0,
        0,
        1,
        2,
        3,
        4,
        frozen_features.FOLDS,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["loss=macl", "views=2"], ["loss=supcon-any", "classification_weight=5"], ["loss=bce"],
     ["loss=proxy-anchor", "sampler=uniform"]],
)  # fmt: skip
def test_every_head_begins_alike(quick, tiles, words):
    trained = frozen_features.Heads(settings(*words), tiles)
    found = [trained.evaluated(block) for block in (0, 1, 0)]
    assert found[0] == found[2] != found[1]
    assert ("probabilities" in found[0]) == any("bce" in word or "classification" in word for word in words)
    assert all("per_query" not in figures for figures in found[0].values())
    assert len(trained.evaluated(frozen_features.FOLDS)["backbone"]["per_query"]["ndcg"]) == 12


@pytest.mark.slow
def test_what_is_held_out_is_not_trained_on(quick, tiles):
    rows = np.flatnonzero(tiles.block == 2)
    changed = tiles.features.copy()
    changed[1:, rows] = 100.0  # the views, which only training sees
    for spoilt in (tiles._replace(features=changed), tiles._replace(labels=tiles.labels.copy())):
        if spoilt.features is tiles.features:
            spoilt.labels[tiles.block == frozen_features.FOLDS] = True
        one, other = (frozen_features.Heads(settings("loss=macl"), given).evaluated(2) for given in (tiles, spoilt))
        assert one == other
    assert frozen_features.Heads(settings("loss=macl"), tiles._replace(features=changed)).evaluated(
        1
    ) != frozen_features.Heads(settings("loss=macl"), tiles).evaluated(1)


def test_the_table_says_what_the_first_leads_by():
    def run(name, seed, values):
        validation = dict.fromkeys(frozen_features.LED_BY, float(np.mean(values)))
        folds = dict.fromkeys(frozen_features.LED_BY, values)
        return {"name": name, "seed": seed, "results": {"projection": {"validation": validation, "folds": folds}}}

    macl, supcon = np.array([0.5, 0.6, 0.7, 0.6, 0.6]), [0.4, 0.5, 0.5, 0.5, 0.5]
    runs = [run("macl", 0, [*(macl + 0.05)]), run("macl", 1, [*(macl - 0.05)])]
    runs += [run("supcon", seed, supcon) for seed in (0, 1, 7)]  # 7 counts for its own figures alone
    table = frozen_features.table(frozen_features.summary(runs)).splitlines()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert lines[2] == ["**macl**", "projection", "2", "0.600", "0.600", "0.600", "", "", ""]
    # Leads 10, 10, 20, 10, 10 points: mean 12, standard deviation 4.47, times 2.776 / sqrt(5) is 5.55.
    assert lines[3] == ["supcon", "projection", "3", "0.480", "0.480", "0.480", *["+12.0 ± 5.6"] * 3]


@pytest.mark.slow
def test_the_command_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run", backbone=partial(resnet18, small_stem=True, width=8))  # whose stages are the features
    write_ucm(tmp_path / "ucm", stems=[f"{scene}{number:02d}" for scene in ("beach", "forest") for number in range(30)])
    out, path = tmp_path / "results.parquet", tmp_path / "small.toml"
    path.write_text("""
what = "two heads"
why = "to test the command"
expected = "some figures"
train = "heads"
encoder = "python train.py"
losses = ["macl", "bce"]
set = {batch_size = 8, embedding_dim = 4, epochs = 1}
""")
    words = [str(path), "--data-dir", str(tmp_path / "ucm"), "--encoder", str(tmp_path / "run" / "encoder.keras")]
    words += ["--work", str(tmp_path / "work"), "--out", str(out), "--jobs", "1"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    compare.main()
    rows = results_file.read(out)
    result = next(row for row in rows if row["name"] == "macl")
    assert result["settings"]["epochs"] == 1 and set(result["results"]) == {"projection", "backbone", "robust"}
    assert [row["name"] for row in rows if row["kind"] == "floor"] == ["frozen features"]
    assert [path.name.startswith("features-") for path in (tmp_path / "work").iterdir()] == [True]
    monkeypatch.setattr(frozen_features, "work", lambda _: pytest.fail("what is there was done again"))
    compare.main()
    assert results_file.read(out) == rows
    found = report.variants_of(rows)
    assert found["macl"].ndcg.shape == (1, 12)
    monkeypatch.setattr(sys, "argv", ["report", str(path), "--out", str(out)])
    report.main()
    assert "frozen features" in capsys.readouterr().out
    path.write_text(path.read_text() + "test = false\n")  # on blocks of training tiles
    report.main()
    assert capsys.readouterr().out.count("**macl**") == 1
    path.write_text(path.read_text().replace("epochs = 1", "epochs = 2"))
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    with pytest.raises(SystemExit):
        compare.main()
    assert "epochs=1, not 2: choose another --out" in capsys.readouterr().err
