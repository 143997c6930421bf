"""Heads on frozen features: blocks that do not leak, one beginning for all, figures of the tiles held out."""

import json
import sys

import numpy as np
import pytest

from benchmarks.compare import frozen_features, report
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


@pytest.mark.parametrize(
    "words",
    [["loss=macl"], ["loss=macl", "views=2"], ["loss=supcon-any", "classification_weight=5"], ["loss=bce"],
     ["loss=proxy-anchor", "sampler=uniform"]],
)  # fmt: skip
def test_every_head_begins_alike(quick, tiles, words):
    trained = frozen_features.Heads(settings(*words), tiles)
    found = [trained.judged(block) for block in (0, 1, 0)]
    assert found[0] == found[2] != found[1]
    assert ("probabilities" in found[0]) == any("bce" in word or "classification" in word for word in words)
    assert all("per_query" not in figures for figures in found[0].values())
    assert len(trained.judged(frozen_features.FOLDS)["backbone"]["per_query"]["ndcg"].split()) == 12


def test_what_is_held_out_is_not_trained_on(quick, tiles):
    rows = np.flatnonzero(tiles.block == 2)
    changed = tiles.features.copy()
    changed[1:, rows] = 100.0  # the views, which only training sees
    for spoilt in (tiles._replace(features=changed), tiles._replace(labels=tiles.labels.copy())):
        if spoilt.features is tiles.features:
            spoilt.labels[tiles.block == frozen_features.FOLDS] = True
        one, other = (frozen_features.Heads(settings("loss=macl"), given).judged(2) for given in (tiles, spoilt))
        assert one == other
    assert frozen_features.Heads(settings("loss=macl"), tiles._replace(features=changed)).judged(
        1
    ) != frozen_features.Heads(settings("loss=macl"), tiles).judged(1)


def test_the_table_says_what_the_first_leads_by():
    def run(name, seed, values):
        validation = dict.fromkeys(frozen_features.LED_BY, float(np.mean(values)))
        folds = dict.fromkeys(frozen_features.LED_BY, values)
        return {"variant": name, "seed": seed, "results": {"projection": {"validation": validation, "folds": folds}}}

    macl, supcon = np.array([0.5, 0.6, 0.7, 0.6, 0.6]), [0.4, 0.5, 0.5, 0.5, 0.5]
    runs = [run("macl", 0, [*(macl + 0.05)]), run("macl", 1, [*(macl - 0.05)])]
    runs += [run("supcon", seed, supcon) for seed in (0, 1, 7)]  # 7 counts for its own figures alone
    lines = frozen_features.table(frozen_features.summary(runs)).splitlines()
    assert lines[2] == "| **macl** | projection | 2 | 0.600 | 0.600 | 0.600 |  |  |  |"
    # Leads 10, 10, 20, 10, 10 points: mean 12, standard deviation 4.47, times 2.776 / sqrt(5) is 5.55.
    assert lines[3] == "| supcon | projection | 3 | 0.480 | 0.480 | 0.480 |" + " +12.0 ± 5.6 |" * 3


def test_the_command_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run")
    write_ucm(tmp_path / "ucm", stems=[f"{scene}{number:02d}" for scene in ("beach", "forest") for number in range(30)])
    words = ["heads.py", "--dataset", "ucm", "--data-dir", str(tmp_path / "ucm"), "--run-dir", str(tmp_path / "run")]
    words += ["--out", str(tmp_path / "out"), "--losses", "macl,bce", "--seeds", "0", "--jobs", "1"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [*words, "--set", "batch_size=8", "--set", "embedding_dim=4", "--set", "epochs=1"])
    frozen_features.main()
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "macl-seed0.json").read_text())
    assert result["settings"]["epochs"] == 1 and set(result["results"]) == {"projection", "backbone"}
    assert printed.count("| **macl** |") == 1 and "bce" in printed
    monkeypatch.setattr(frozen_features, "work", lambda _: pytest.fail("what is there was done again"))
    frozen_features.main()
    again = capsys.readouterr().out
    assert again.count("|") > 20 and printed.endswith(again)
    found = report.read(tmp_path / "out")
    assert found["macl"].ndcg.shape == (1, 12)
