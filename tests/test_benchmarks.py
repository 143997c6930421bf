"""What the benchmarks compute themselves: trials, runs, bootstrap intervals, command lines without places."""

import argparse
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

from benchmarks.command import RESULTS, in_process
from benchmarks.compare import __main__ as compare
from benchmarks.compare import encoders, evaluate_run, experiment, figures, heads, report, results_file, runs, shares
from benchmarks.compare.experiment import Experiment
from benchmarks.environment import made_by, settings_without_places, without_places
from benchmarks.speed import __main__ as speed_experiments
from benchmarks.speed import losses
from benchmarks.speed.__main__ import EXPERIMENTS
from macl_tf.training.settings import LOSSES, load_settings
from macl_tf.training.train import train
from tests.generated import write_ucm


def test_a_command_line_does_not_name_places(monkeypatch):
    words = ["--work", "/somewhere", "--rounds", "2", "--data-dir", "/else where"]
    assert without_places(words) == ["--work", "DIR", "--rounds", "2", "--data-dir", "UCM"]
    assert without_places(["--set", "table=/some/block.csv"]) == ["--set", "table=block.csv"]
    monkeypatch.setattr(sys, "argv", ["losses.py", *words])
    found = made_by("benchmarks.speed.losses", ["numpy", "no-such-package"])
    assert found["command"] == "python -m benchmarks.speed.losses --work DIR --rounds 2 --data-dir UCM"
    assert list(found["versions"]) == ["numpy"] and found["machine"]["cores"] >= 1


def test_weights_are_known_by_what_they_hold_not_where_they_lie(tmp_path):
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    found = []
    for folder, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / folder).mkdir()
        encoder.layers[-1].kernel.assign([[1.0], [value]])
        encoder.save(tmp_path / folder / "encoder.keras")
        places = {"data_dir": "here", "table": "there", "weights": str(tmp_path / folder / "encoder.keras")}
        found.append(settings_without_places({**places, "seed": 3}))
    assert found[0] == found[1] != found[2] and set(found[0]) == {"weights", "seed"}
    assert found[0]["weights"].startswith("encoder.keras, sha256 of its numbers ")
    encoder.save_weights(tmp_path / "same.weights.h5")
    assert (
        settings_without_places({"weights": tmp_path / "same.weights.h5"})["weights"][-12:] == found[2]["weights"][-12:]
    )
    for kept in ("", "imagenet"):
        assert settings_without_places({"weights": kept}) == {"weights": kept}
    assert without_places(["--set", f"weights={tmp_path}/encoder.keras"]) == ["--set", "weights=encoder.keras"]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_gets_as_many_trials(name):
    tried = encoders.grid(name, 3)
    assert len(set(tried)) == 3 and len({text.split("=")[0] for text in tried}) == 1


def test_trials_are_of_the_loss_s_own_number():
    assert encoders.grid("macl", 2) == ["temperature=0.1", "temperature=0.2"]
    assert encoders.grid("dcl", 1)[0].startswith("margin=") and encoders.grid("bce", 1) == ["learning_rate=0.001"]


def asked(**keys):
    said = {"what": "losses", "why": "to test", "expected": "nothing", "train": "encoders", "dataset": "synthetic"}
    return Experiment("name", **said | keys)


def test_the_classifier_stands_alone_and_others_in_every_form():
    both = asked(losses=("macl", "bce"), joint=(0, 20), samplers=("weighted", "uniform"))
    found = both.runs({"macl": ("temperature=0.2", "backbone")})
    joint = ["macl-weighted", "macl-uniform", "macl+bce20-weighted", "macl+bce20-uniform"]
    assert sorted(found) == sorted([*joint, "bce-weighted", "bce-uniform"])
    assert "temperature=0.2" in found["macl+bce20-uniform"] and "temperature=0.2" not in found["bce-uniform"]
    assert "descriptor=backbone" in found["macl-uniform"]  # which the joint form has no trials for
    assert "descriptor=backbone" not in found["macl+bce20-uniform"]
    assert "classification_weight=20" in found["macl+bce20-uniform"] and "sampler=uniform" in found["macl-uniform"]


def test_of_several_weights_the_best_is_kept():
    several = asked(losses=("macl", "dcl"), joint=(0, 20, 100))
    found = several.runs({"macl+bce": ("temperature=0.1,classification_weight=100", "probabilities")})
    said = {"temperature=0.1", "classification_weight=100", "descriptor=probabilities"}
    assert said < set(found["macl+bce100"])
    assert sorted(found) == sorted(["macl", "macl+bce100", "dcl", "dcl+bce20", "dcl+bce100"])  # dcl had no trials


def options_of(tmp_path, **more):
    places = {"data_dir": "", "encoder": None, "work": tmp_path / "work", "out": tmp_path / "results.parquet"}
    return argparse.Namespace(jobs=1, keep_runs=False, **places | more)


def test_a_joint_form_has_trials_of_its_own(tmp_path, monkeypatch):
    tried = []

    def validated(run):
        best = 0.5 if "=0.2-" in run.name or "=0.1,classification_weight=100-" in run.name else 0.3
        return {"projection": [0.4, 0.2, 0.2], "backbone": [best, 0.4, None]}

    monkeypatch.setattr(encoders, "train_run", lambda run, settings: tried.append((run.name, settings)))
    monkeypatch.setattr(encoders, "validated", validated)
    monkeypatch.setattr(encoders, "finished", lambda *_: None)
    both = asked(losses=("macl", "bce"), joint=(0, 20, 100), tune=2, tune_set={"gap": 0.1})
    joint = "temperature=0.1,classification_weight=100"
    settings = {"macl": "temperature=0.2", "bce": "learning_rate=0.001", "macl+bce": joint}
    best = {name: (text, "backbone") for name, text in settings.items()}  # by the mean
    assert encoders.tune(both, options_of(tmp_path), []) == best
    said = set(dict(tried)[f"macl+bce@{joint}-seed1000"])
    assert len(tried) == 8 and {"loss=macl", "gap=0.1", *joint.split(",")} < said
    assert encoders.tune(both, options_of(tmp_path), []) == best and len(tried) == 8  # nothing is tried again


def test_a_variant_is_a_run_of_its_own():
    own = {"loss": "macl", "reweighting_power": 0}
    assert asked(variants={"no-plr": own}).runs() == {"no-plr": ["loss=macl", "reweighting_power=0"]}
    with pytest.raises(ValueError, match="a variant must have a name of its own, got 'macl'"):
        asked(losses=("macl",), variants={"macl": own}).runs()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ('lossen = ["macl"]', "unknown key lossen; known are what, why, "),
        ('losses = ["macl"]\ntrain = "heads"', "Cannot overwrite a value"),
        ("", "needs losses or variants"),
        ('losses = ["macl"]\ntune = 6', "tune must be 0 to 5, got 6"),
        ('losses = ["macl"]\nheld_out = "20-35"\ndataset = "folder"', "held_out is of the numbers of ucm"),
    ],
)
def test_an_experiment_that_means_nothing_is_refused(tmp_path, change, why):
    path = tmp_path / "mine.toml"
    path.write_text(f'what = "a"\nwhy = "b"\nexpected = "c"\ntrain = "encoders"\n{change}\n')
    with pytest.raises(ValueError, match=f"mine.toml' is no experiment: .*{why}"):
        experiment.read(str(path))


def test_an_experiment_says_what_why_and_what_is_expected(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('what = "a"\ntrain = "encoders"\nlosses = ["macl"]\n')
    with pytest.raises(ValueError, match="why, expected must be given"):
        experiment.read(str(path))
    with pytest.raises(ValueError, match=r"there is no experiment 'mine'\. Name a TOML file, or one of .*ucm"):
        experiment.read("mine")


@pytest.mark.parametrize(
    "name", [name for name in experiment.names() if experiment.read(name).results_file().is_file()]
)
def test_the_committed_results_are_those_that_the_experiment_asks_for(name):
    one = experiment.read(name)
    rows = results_file.read(one.results_file())
    tried = {row["name"]: row["trials"] for row in rows if row["kind"] == results_file.TRIALS}
    wanted = encoders.trials_of(one)
    chosen = {loss: encoders.best_trial({text: tried[loss][text] for text in texts}) for loss, texts in wanted.items()}
    found = {(row["name"], row["seed"]): row["settings"] for row in rows if row["kind"] == results_file.RUN}
    shared = [f"dataset={'folder' if one.held_out else one.dataset}", "data_dir=D", *experiment.texts(one.set)]
    turns = [(run, seed, share) for run in one.runs(chosen) for seed in one.seeds for share in one.labelled or (1,)]
    for run, seed, share in turns:
        settings = found.pop((run if share == 1 else f"{run} {share:.0%}", seed))
        settings = {key: value for key, value in settings.items() if key != "weights"}
        asked = [*shared, *one.runs(chosen)[run]]
        if share < 1:  # batches that fewer tiles can fill
            settings.pop("batch_size")
        if f"loss={encoders.LOGISTIC}" not in asked:
            encoders.refuse_others((run, seed), settings, asked)
    assert turns and (not found or "heads" in name)  # which share a file


def test_values_of_queries_are_kept_to_thousandths(tmp_path):
    values = np.array([0.0, 0.12345, np.nan, 1.0])
    assert evaluate_run.thousandths(values) == [0, 123, None, 1000]
    np.testing.assert_array_equal(evaluate_run.fractions([0, 123, None, 1000]), [0, 0.123, np.nan, 1])
    triples = {"ndcg": [1, 2, 3], "query": [0, 2], "label": [1, 0], "label_ap": [500, 250]}
    found = evaluate_run.label_aps(triples, 2)
    np.testing.assert_array_equal(found, [[np.nan, 0.5], [np.nan, np.nan], [0.25, np.nan]])


def test_a_results_file_gives_back_what_was_added(tmp_path):
    path = tmp_path / "results.parquet"
    first, other = (run("macl", seed, [0.5, np.nan], [[0.2, 0.4], [0.6, None]], 0.5) for seed in (0, 1))
    floor = {"kind": "floor", "name": "frozen features", "seed": None, "figures": [0.1, None, 0.3]}
    results_file.add(path, first, floor)
    results_file.add(path, other)
    changed = first | {"history": "0.3"}
    results_file.add(path, changed)
    assert results_file.read(path) == [floor, other, changed]
    assert results_file.read(tmp_path / "none.parquet") == []


def test_several_processes_add_to_one_results_file(tmp_path):
    path = tmp_path / "results.parquet"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: results_file.add(path, {"kind": "floor", "name": "f", "seed": seed}), range(24)))
    assert sorted(row["seed"] for row in results_file.read(path)) == list(range(24))


def test_settings_that_were_renamed_are_read_by_their_names_of_today(tmp_path, monkeypatch):
    results_file.add(
        tmp_path / "a.parquet", {"kind": "run", "name": "macl", "seed": 0, "settings": {"old": 1, "same": 2}}
    )
    monkeypatch.setattr(results_file, "RENAMED", {"old": "new"})
    (row,) = results_file.read(tmp_path / "a.parquet")
    assert row["settings"] == {"new": 1, "same": 2}


@pytest.mark.slow
def test_a_finished_run_is_evaluated_as_it_evaluated_itself(tmp_path, small_encoder):
    sets = [
        "num_tiles=60",
        "epochs=1",
        "image_size=32",
        "batch_size=16",
        "backbone=resnet18",
        "width=8",
        "classification_weight=5",
    ]
    metrics = train(load_settings(assignments=sets), tmp_path / "run", progress=False)
    found_by = evaluate_run.evaluate_run(tmp_path / "run")
    beside = ["projection+probabilities", "backbone+probabilities"]
    assert list(found_by) == ["projection", "backbone", "robust", "probabilities", *beside]
    for name, parts in found_by.items():
        for key in evaluate_run.MEANS:
            expected = metrics["trained"][name][key]
            assert parts["test"][key] == (expected if expected is None else pytest.approx(expected, abs=2e-3))
        ndcg = evaluate_run.fractions(parts["test"]["per_query"]["ndcg"])
        assert np.nanmean(ndcg) == pytest.approx(parts["test"]["ndcg@100_jaccard"], abs=5e-4)
    found = evaluate_run.facts(tmp_path / "run")
    assert found["best_epoch"] == 1 and len(found["history"].split()) == 1 and "data_dir" not in found["settings"]
    floor = evaluate_run.histogram_floor(tmp_path / "run")
    assert 0 < floor["ndcg@100_jaccard"] < 1


def run(name, seed, ndcg, label_ap, validation):
    """A run as `encoders` adds it to the results: projection as given, backbone half of it."""
    aps = np.array(label_ap, float)
    query, label = np.nonzero(~np.isnan(aps))
    held = {"query": query.tolist(), "label": label.tolist(), "label_ap": evaluate_run.thousandths(aps[query, label])}
    ndcg, of_both = np.array(ndcg), {}
    for descriptor, factor in (("projection", 1.0), ("backbone", 0.5)):
        values = {"ndcg": evaluate_run.thousandths(ndcg * factor), "jaccard50": evaluate_run.thousandths(ndcg), **held}
        of_both[descriptor] = {
            "validation": {"ndcg@100_jaccard": validation * factor, "map_rarest_third": 0.2, "map_jaccard50": None},
            "test": {"per_query": values},
        }
    untrained = {"backbone": {"ndcg@100_jaccard": 0.1 + seed, "map_rarest_third": 0.2, "map_jaccard50": 0.3}}
    archive = {"labels": ["sea", "sand"], "train_counts": [9, 4], "rarest": [1], "untrained": untrained}
    own = {"kind": "run", "name": name, "seed": seed, "settings": {}, "history": "0.1 0.2"}
    return {**own, **archive, "results": of_both}


def results(lead=0.1, seeds=3, queries=60):
    rng = np.random.default_rng(0)
    base, found = rng.random(queries) / 2, []
    for seed in range(seeds):
        for name, more in (("macl", lead), ("supcon", 0.0)):
            values = base + more + 0.01 * rng.normal(size=queries)
            aps = [[v, v / 2 if q % 3 else None] for q, v in enumerate(values)]
            found.append(run(name, seed, values.tolist(), aps, 0.5))
    return found


def variants(**given):
    return figures.variants_of(results(**given))


def test_a_lead_has_the_interval_of_its_spread():
    found = variants()
    assert found["macl"].descriptor == "projection" and found["macl"].seeds == (0, 1, 2)
    mean, low, high = figures.difference(found["macl"], found["supcon"], "ndcg")
    each = found["macl"].ndcg.mean() - found["supcon"].ndcg.mean()
    assert mean == pytest.approx(each) and low < mean < high
    # 180 paired differences of standard deviation 0.014, over seeds and queries: 1.96 * 0.014 / sqrt(180) = 0.002
    assert 0.001 < (high - low) / 2 < 0.004 and low > 0.09
    rare, *_ = figures.difference(found["macl"], found["supcon"], "rarest")
    assert rare == pytest.approx(0.05, abs=0.002)


def test_each_synthetic_archive_has_rare_labels_of_its_own():
    """The mean over labels, each over the seeds in which it is rare; a resample without such a seed leaves it out."""
    both = [run("macl", seed, [0.5, 0.5], [[0.2, 0.4], [0.6, None]], 0.5) for seed in (0, 1)]
    both[1]["rarest"] = [0]
    found = figures.variant("macl", both)
    assert figures.by_seed(found, "rarest").tolist() == pytest.approx([0.4, 0.4])
    aps = {"query": [0, 0, 1], "label": [0, 1, 0], "label_ap": [800, 100, 900]}
    both[1]["results"]["projection"]["test"]["per_query"] |= aps
    found = figures.variant("macl", both)
    assert figures.by_seed(found, "rarest").tolist() == pytest.approx([0.4, 0.85])
    both = figures.figure(found, "rarest", np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert both.tolist() == pytest.approx([(0.4 + 0.85) / 2, 0.4])


def test_by_share_of_labels_what_is_rare_is_so_in_the_whole_archive(tmp_path):
    rows = [
        one | {"name": one["name"] + share, "rarest": [1] if share else [0]}
        for share, lead in (("", 0.1), (" 5%", 0.3))
        for one in results(lead)
    ]
    found = shares.by_share(figures.variants_of(rows))
    assert list(found) == ["macl", "supcon"] and list(found["macl"]["shares"]) == ["5%", "100%"]
    leads = [found["supcon"]["shares"][share]["lead"]["ndcg"][0] for share in ("5%", "100%")]
    assert leads == pytest.approx([0.3, 0.1], abs=0.01)
    own = figures.variants_of([row for row in rows if row["name"] == "macl"])["macl"]
    assert found["macl"]["shares"]["100%"]["rarest"] == figures.by_seed(own, "rarest").tolist()
    whole = [figures.variant("macl", [row | {"rarest": [0]} for row in rows if row["name"] == "macl 5%"])]
    assert found["macl"]["shares"]["5%"]["rarest"] == figures.by_seed(whole[0], "rarest").tolist()
    told = shares.tables(found, {"frozen features": [0.2, 0.3, 0.4], "frozen features, elsewhere": [0.1, 0.1, 0.1]})
    assert "| supcon" in told and "+30.0 [" in told
    assert "| 0.200/0.300/0.400" in told and "elsewhere" not in told
    shares.draw(found, [0.2, 0.3, 0.4], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="labelled must hold 1"):
        shares.by_share(figures.variants_of([row for row in rows if "%" in row["name"]]))


def test_no_lead_has_an_interval_around_zero():
    found = variants(lead=0.0)
    _, low, high = figures.difference(found["macl"], found["supcon"], "ndcg")
    assert low < 0 < high
    backwards = figures.difference(found["supcon"], found["macl"], "ndcg")
    assert backwards[1:] == pytest.approx((-high, -low))


def cells(printed):
    """The rows of all tables, without the rules under their heads."""
    lines = [line for line in printed.splitlines() if line.startswith("|") and not line.startswith("|:-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_report_says_what_was_found(tmp_path, monkeypatch, capsys):
    trials = {
        "temperature=0.1": {"backbone": [0.5, 0.1, 0.1]},
        "temperature=0.2": {"backbone": [0.4, 0.1, 0.1], "spoc": [0.6, 0.1, 0.1]},
    }
    path, png = tmp_path / "results.parquet", tmp_path / "report.png"
    results_file.add(path, *results(), {"kind": "trials", "name": "macl", "seed": 1000, "trials": trials})

    def reported(tables, labels='["supcon", "macl"]'):
        head = 'what = "a"\nwhy = "b"\nexpected = "c"\ntrain = "encoders"\nlosses = ["macl"]\n'
        keys = f'[report]\ntables = {tables}\nlabels = {labels}\npicture = "{png}"\n'
        (tmp_path / "mine.toml").write_text(head + keys)
        monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "mine.toml"), "--out", str(path)])
        report.main()
        return capsys.readouterr().out

    printed = reported('[["macl"]]')
    summary = json.loads((tmp_path / "compare_mine.json").read_text())
    assert printed.strip() == report.tables(summary) and png.stat().st_size > 10_000
    assert summary["command"] == "python -m benchmarks.compare.report mine.toml --out OUT"
    lines = cells(printed)
    assert lines[1][:3] == ["**macl**", "projection", "3"] and lines[1][3].startswith("0.3")
    assert lines[2][:3] == ["supcon", "projection", "3"] and lines[2][3].startswith("0.2")
    leads = [cell.split(" ")[0] for cell in lines[2][6:]]
    assert leads == ["+10.0", "+5.0", "+10.0"]  # the rare label's values are halved
    assert ["untrained encoder, backbone", "1.100", "0.200", "0.300"] in lines
    start = next(place for place, line in enumerate(lines) if line[1:] == ["projection", "backbone"])
    assert [row[0] for row in lines[start + 1 : start + 3]] == ["macl", "supcon"]
    for row, seen in zip(lines[start + 1 : start + 3], lines[1:3], strict=True):
        whole, half = ([float(value) for value in cell.split("/")] for cell in row[1:])
        assert [f"{value:.3f}" for value in whole] == [cell.split(" ")[0] for cell in seen[3:6]]
        assert half == pytest.approx([whole[0] / 2, *whole[1:]], abs=1e-3)
    assert [line[:2] for line in lines if line[0].startswith("sand")] == [["sand (rare)", "4"]]
    tried = "temperature=0.1: 0.500/0.100/0.100 backbone, **temperature=0.2: 0.600/0.100/0.100 spoc**"
    assert lines[-1] == ["macl", tried]
    more = cells(reported('[["macl"], ["supcon", "macl"]]'))  # one more table
    assert more[:3] == lines[:3] and more[3][0] == "run" and more[4][0] == "macl" and more[5][0] == "**supcon**"
    assert [cell.split(" ")[0] for cell in more[4][6:]] == ["-10.0", "-5.0", "-10.0"]
    with pytest.raises(SystemExit):
        reported('[["macl"]]', '["dcl"]')
    assert "there are no results of dcl; there are of macl, supcon" in capsys.readouterr().err


def test_differences_need_common_seeds():
    found = variants(seeds=1)
    other = figures.variant("other", [dict(found["supcon"].runs[0], seed=7)])
    with pytest.raises(ValueError, match="no seed in common"):
        figures.difference(found["macl"], other, "ndcg")


def test_means_leave_out_what_is_undefined():
    values = np.array([[0.2, np.nan, 0.4]])
    every = figures.weighted_mean(values, np.ones((1, 1)), np.ones((1, 3)))
    twice = figures.weighted_mean(values, np.ones((1, 1)), np.array([[2.0, 5.0, 1.0]]))
    assert every[0] == pytest.approx(0.3) and twice[0] == pytest.approx(0.8 / 3)


@pytest.mark.slow
def test_the_times_of_losses_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    calls = []

    def measured(names, rows):
        calls.append((names, rows))
        if len(calls) == 4:
            raise KeyboardInterrupt
        seconds = 0.001 * rows * (1 if len(names) == 1 else 2)
        return {"seconds": dict.fromkeys(names, seconds), "repeats": 3, "memory": rows * 2**20}

    monkeypatch.setattr(losses, "in_process_of_its_own", measured)
    names = ["SupCon", "MACL", "PML SupConLoss"]
    arguments = (names, [4, 2000], 1, tmp_path / "part.json")
    with pytest.raises(KeyboardInterrupt):
        losses.run(*arguments)
    results = losses.run(*arguments)
    small = [["SupCon"], ["MACL"], *[["SupCon", "MACL"], ["PML SupConLoss"]] * 3]
    turns = [*((process, 4) for process in small), *(([name], 2000) for name in names)]
    assert calls == [*turns[:4], *turns[3:]]  # the fourth was interrupted
    assert results["MACL"]["4"] == {"ms": 8.0, "processes": 3, "repeats": 9, "peak_mib": 4}
    assert results["MACL"]["2000"] == {"ms": 2000.0, "processes": 1, "repeats": 3, "peak_mib": 2000}
    shown = cells(losses.table({"results": results}))
    assert ["MACL", "8.0", "2,000"] in shown
    assert ["PML SupConLoss / MACL", "0.50", "1.00", "3 or more from 1,024"] in shown


def test_a_loss_measured_alone_gets_as_many_processes():
    assert losses.processes(["MACL"], 4, 2) == [["MACL"]] * 6
    assert losses.processes(["MACL"], 2000, 2) == [["MACL"]] * 2


def test_the_ratios_that_are_aimed_at_are_those_of_the_times():
    results = {name: {"256": {"ms": ms, "peak_mib": 1}} for name, ms in (("SupCon", 4.0), ("MACL", 5.0))}
    results["PML SupConLoss"] = {"256": {"failed": "out of memory"}}
    shown = cells(losses.table({"results": results}))
    assert ["MACL / SupCon", "1.25", "1.25 or less"] in shown
    assert ["PML SupConLoss / MACL", "", "3 or more from 1,024"] in shown
    assert not any(row[0] == "MACL / matrix products" for row in shown)


def test_turns_at_a_time_share_the_processors():
    mine, met = os.sched_getaffinity(0), threading.Barrier(2, timeout=60)

    def work(turn):
        met.wait()  # which two at a time alone get over
        code = "import os; print(*os.sched_getaffinity(0))"
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        return turn, {int(word) for word in seen.split()}

    found = list(runs.at_once(2, work, [3, 4, 5, 6], "test"))
    assert sorted(turn for turn, _ in found) == [3, 4, 5, 6] and all(turn == result[0] for turn, result in found)
    shares = {frozenset(result[1]) for _, result in found}
    assert set().union(*shares) == mine and os.sched_getaffinity(0) == mine
    assert len(shares) == min(2, len(mine)) and sum(map(len, shares)) == len(mine)


def test_a_turn_that_fails_is_named_and_the_others_go_on(capsys):
    def work(turn):
        if turn == 2:
            raise RuntimeError("two is too much")
        return -turn

    turns = runs.at_once(1, work, [1, 2, 3, 4], "test")
    assert sorted(next(turns) for _ in range(3)) == [(1, -1), (3, -3), (4, -4)]  # in the order in which they end
    with pytest.raises(RuntimeError, match=r"1 of 4 failed, as said above: \[2\]"):
        next(turns)
    assert "two is too much" in capsys.readouterr().out


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    pixels = keras.Input((32, 32, 3))
    keras.Model(pixels, keras.layers.Conv2D(8, 5, strides=4)(pixels)).save(tmp_path / "mine.keras")
    write_ucm(tmp_path / "ucm", stems=[f"{scene}{number:02d}" for scene in ("beach", "forest") for number in range(12)])
    out, path = tmp_path / "results.parquet", tmp_path / "small.toml"
    words = [str(path), "--work", str(tmp_path / "work"), "--out", str(out), "--elsewhere", str(tmp_path / "ucm")]
    monkeypatch.setattr(sys, "argv", ["compare", *words])

    def compared(**changes):
        keys = {"tune": 1, "epochs": 1, "temperature": 0.1} | changes
        sets = f"epochs = {keys['epochs']}, temperature = {keys['temperature']}"
        path.write_text(f"""
what = "MACL on a few synthetic tiles"
why = "to test the command"
expected = "some figures"
train = "encoders"
dataset = "synthetic"
losses = ["macl"]
samplers = ["weighted"]
tune = {keys["tune"]}
set = {{num_tiles = 60, image_size = 32, batch_size = 16, backbone = "{tmp_path / "mine.keras"}", {sets}}}
""")
        compare.main()
        return {"frozen" if "figures" in row else row["kind"]: row for row in results_file.read(out)}

    rows = compared()
    found, trials = rows["run"], rows["trials"]
    shared = {"projection", "backbone", "robust"}
    assert found["name"] == "macl-weighted" and set(found["results"]) == {*shared, "robust, as indexed"}
    assert found["command"] == "python -m benchmarks.compare small.toml --work DIR --out OUT --elsewhere DUBAI"
    assert all(parts.keys() == {"validation", "test", "elsewhere"} for parts in found["results"].values())
    assert rows["frozen"]["name"] == "frozen features, elsewhere" and 0 < rows["frozen"]["figures"][0] < 1
    assert set(heads.elsewhere_rows([found])["macl-weighted"]) == set(found["results"])
    ((text, tried),) = trials["trials"].items()
    assert text == "temperature=0.1" and set(tried) == shared
    assert found["searched_by"] == max(tried, key=lambda by: evaluate_run.leading_mean(tried[by]))
    assert 0 < rows["floor"]["results"]["histogram"]["test"]["ndcg@100_jaccard"] < 1
    assert not list((tmp_path / "work" / "small").iterdir())  # what is asked of a run stands in the results

    monkeypatch.setattr(runs, "in_process", lambda *_: pytest.fail("what is there was done again"))
    monkeypatch.setattr(encoders, "in_process", lambda *_: pytest.fail("what is there was evaluated again"))
    assert compared() == rows
    for changes, why in (({"epochs": 2}, "epochs=2"), ({"tune": 0, "temperature": 0.2}, "temperature=0.1, not 0.2")):
        with pytest.raises(SystemExit):
            compared(**changes)
        said = capsys.readouterr().err
        assert why in said and "choose another --out" in said


def test_only_macl_reads_its_own_settings():
    made = {}
    for loss in ("jaccard", "macl"):
        changed = load_settings(assignments=[f"loss={loss}", "overlap_power=7"])
        made[loss] = settings_without_places(vars(changed))
    encoders.refuse_others(("jaccard", 0), made["jaccard"], ["loss=jaccard"])
    with pytest.raises(ValueError, match=r"overlap_power=7.0, not"):
        encoders.refuse_others(("macl", 0), made["macl"], ["loss=macl"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["ucm"], "needs|starts from an encoder: name it with --encoder. Make it by: python train.py"),
        (["ucm_random_start"], "needs the tiles of 'ucm': name their folder with --data-dir"),
        (["ucm_random_start", "--encoder", "x"], "starts from what its settings say: leave --encoder out"),
        (["synthetic", "--encoder", "no.keras"], "--encoder must be a file, 'no.keras' is none"),
        (["ucm_random_start", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["ucm_random_start", "--out", "x.json"], "--out must be a .parquet file"),
    ],
)
def test_what_an_experiment_needs_is_asked_for(tmp_path, monkeypatch, capsys, words, why):
    monkeypatch.setattr(sys, "argv", ["compare", *words, "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit):
        compare.main()
    assert re.search(why, capsys.readouterr().err)
    assert not (tmp_path / "work").exists()


def test_every_speed_result_is_of_an_experiment():
    for path in sorted(RESULTS.glob("*.json")):
        command = json.loads(path.read_text(encoding="utf-8"))["command"]
        if command.startswith("python -m benchmarks.speed."):
            asked = tomllib.loads(EXPERIMENTS[path.stem].read_text(encoding="utf-8"))
            assert {"what", "why", "expected"} <= set(asked)
            assert importlib.util.find_spec(f"benchmarks.speed.{asked['module']}") is not None
            assert command.split()[2] == f"benchmarks.speed.{asked['module']}"
            assert shlex.join(asked["arguments"]) in command
    assert all((RESULTS / f"{name}.json").is_file() for name in EXPERIMENTS)


def test_a_speed_experiment_says_what_it_asks_and_becomes_its_module(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(os, "execve", lambda path, words, environment: ran.append((words, environment)))
    monkeypatch.setattr(sys, "argv", ["-m", "pipeline_onednn_off", "--images", "64"])
    speed_experiments.main()
    assert "Expected:" in capsys.readouterr().out
    words, environment = ran[0]
    assert words[1:4] == ["-m", "benchmarks.speed.pipeline", "--out"] and words[-2:] == ["--images", "64"]
    assert words[4].endswith("results/pipeline_onednn_off.json") and environment["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_gpus_are_asked_alone_and_together(tmp_path, monkeypatch, capsys):
    from benchmarks.speed import gpu

    asked = []

    def answer(module, option, case, *words, env=None):
        if option == "--count":
            return str(there)
        asked.append((json.loads(case), env))
        return json.dumps({"images_per_second": 100.0 * json.loads(case)["replicas"] ** 0.5, "peak_mb": 1.0})

    monkeypatch.setattr(gpu, "in_process", answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = ["gpu", "--backbones", "resnet18", "--precisions", "float32", "--out", str(tmp_path / "gpu.json")]
    monkeypatch.setattr(sys, "argv", words)
    there = 0
    with pytest.raises(SystemExit):
        gpu.main()
    assert "TensorFlow sees no GPU" in capsys.readouterr().err and not asked
    there = 4
    gpu.main()
    used = [(case["xla"], case["replicas"], env["CUDA_VISIBLE_DEVICES"]) for case, env in asked]
    assert used == [(False, 1, "0"), (True, 1, "0"), (False, 4, "0,1,2,3")]
    rates = [row[-3:-1] for row in cells(capsys.readouterr().out)[-3:]]
    assert rates == [["100", "1.00"], ["100", "1.00"], ["200", "2.00"]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpu.visible(1, 0) == {"CUDA_VISIBLE_DEVICES": "3"} and gpu.visible(2, 2) == {}


@pytest.mark.slow
def test_the_benchmark_of_gpus_trains_on_all_devices(tmp_path):
    pixels, backbone = keras.Input((32, 32, 3)), str(tmp_path / "mine.keras")
    keras.Model(pixels, keras.layers.Conv2D(8, 5, strides=4)(pixels)).save(backbone)
    tiny = {"backbone": backbone, "size": 32, "batch": 4, "steps": 2, "epochs": 2, "logical": 2, "replicas": 2}
    case = json.dumps(tiny | {"precision": "float32", "xla": False})
    assert json.loads(in_process("benchmarks.speed.gpu", "--measure", case))["images_per_second"] > 0


@pytest.mark.slow
def test_files_and_milvus_are_asked_the_same(tmp_path, monkeypatch):
    from benchmarks.speed import milvus, search_vectors
    from macl_tf.index.milvus import connection

    monkeypatch.setattr(search_vectors, "QUERIES", 20)
    monkeypatch.setattr(milvus, "_SECONDS", 0.0)
    data, found = search_vectors.clustered(tmp_path, 300, dimensions=8), []
    for kind in ("files exact", "milvus IVF_FLAT"):
        folder = tmp_path / kind.replace(" ", "-")
        steps = {"build": milvus.build(folder, data, kind), "search": milvus.search(folder, data, kind)}
        found.append({"size": 300, "kind": kind, **steps})
    connection.release(folder / "lite.db")
    exact, lists = (one["search"]["at"] for one in found)
    assert exact["0.99"]["recall"] == 1.0 and lists["0.99"]["recall"] >= 0.99
    assert lists["0.99"]["effort"]["nprobe"] <= 7
    shown = cells(milvus.table({"results": found}))
    assert [row[0] for row in shown[-2:]] == ["files exact", "milvus IVF_FLAT"]
