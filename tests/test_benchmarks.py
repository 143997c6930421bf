"""What the benchmarks compute themselves: trials, variants, bootstrap intervals, command lines without places."""

import json
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from benchmarks.compare import encoders, evaluate_run, report, runs
from benchmarks.environment import circumstances, settings_without_places, without_places
from benchmarks.speed import losses
from macl_tf.training.settings import LOSSES, load_settings


def test_a_command_line_does_not_name_places(monkeypatch):
    words = ["--work", "/somewhere", "--rounds", "2", "--data-dir", "/else where"]
    assert without_places(words) == ["--work", "DIR", "--rounds", "2", "--data-dir", "UCM"]
    assert without_places(["--set", "table=/some/block.csv"]) == ["--set", "table=block.csv"]
    monkeypatch.setattr(sys, "argv", ["losses.py", *words])
    found = circumstances("benchmarks.speed.losses", ["numpy", "no-such-package"])
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


def test_the_classifier_stands_alone_and_others_in_every_form():
    words = "--work W --losses macl,bce --joint 0,20 --samplers weighted,uniform"
    options = encoders.arguments().parse_args(words.split())
    found = encoders.variants(options, {"macl": ("temperature=0.2", "backbone")})
    joint = ["macl-weighted", "macl-uniform", "macl+bce20-weighted", "macl+bce20-uniform"]
    assert sorted(found) == sorted([*joint, "bce-weighted", "bce-uniform"])
    assert "temperature=0.2" in found["macl+bce20-uniform"] and "temperature=0.2" not in found["bce-uniform"]
    assert "descriptor=backbone" in found["macl-uniform"]  # which the joint form has no trials for
    assert "descriptor=backbone" not in found["macl+bce20-uniform"]
    assert "classification_weight=20" in found["macl+bce20-uniform"] and "sampler=uniform" in found["macl-uniform"]


def test_of_several_weights_the_best_is_kept():
    options = encoders.arguments().parse_args(["--work", "W", "--losses", "macl,dcl", "--joint", "0,20,100"])
    found = encoders.variants(options, {"macl+bce": ("temperature=0.1,classification_weight=100", "probabilities")})
    said = {"temperature=0.1", "classification_weight=100", "descriptor=probabilities"}
    assert said < set(found["macl+bce100-weighted"])
    several = ["dcl+bce20-weighted", "dcl+bce100-weighted"]  # no trials, and so all of them
    assert sorted(found) == sorted(["macl-weighted", "macl+bce100-weighted", "dcl-weighted", *several])


def test_a_joint_form_has_trials_of_its_own(tmp_path, monkeypatch):
    tried = []

    def figures(run):
        best = 0.5 if "=0.2-" in run.name or "=0.1,classification_weight=100-" in run.name else 0.3
        return {"projection": [0.4, 0.2, 0.2], "backbone": [best, 0.4, None]}

    monkeypatch.setattr(encoders, "train", lambda run, words: tried.append((run.name, words)))
    monkeypatch.setattr(encoders, "validated", figures)
    monkeypatch.setattr(encoders, "finished", lambda *_: None)
    words = (
        f"--work {tmp_path} --out {tmp_path} --losses macl,bce --joint 0,20,100 --tune 2 --tune-set gap=0.1 --jobs 1"
    )
    options = encoders.arguments().parse_args(words.split())
    joint = "temperature=0.1,classification_weight=100"
    settings = {"macl": "temperature=0.2", "bce": "learning_rate=0.001", "macl+bce": joint}
    best = {name: (text, "backbone") for name, text in settings.items()}  # by the mean
    assert encoders.tune(options, []) == best
    said = set(dict(tried)[f"macl+bce@{joint}-seed1000"])
    assert len(tried) == 8 and {"loss=macl", "gap=0.1", *joint.split(",")} < said
    assert encoders.tune(options, []) == best and len(tried) == 8  # what was tried is not tried again


def test_a_variant_is_a_training_of_its_own():
    options = encoders.arguments().parse_args(["--work", "W", "--variant", "no-plr:loss=macl,reweighting_power=0"])
    assert encoders.variants(options, {}) == {"no-plr": ["--set", "loss=macl", "--set", "reweighting_power=0"]}
    options.variant.append("no-plr:loss=dcl")
    with pytest.raises(SystemExit, match="new name"):
        encoders.variants(options, {})


def test_values_of_queries_are_packed_to_thousandths():
    values = np.array([0.0, 0.12345, np.nan, 1.0])
    assert evaluate_run.packed(values) == "0 123 - 1000"
    np.testing.assert_array_equal(evaluate_run.unpacked(evaluate_run.packed(values)), [0, 0.123, np.nan, 1])
    found = evaluate_run.unpacked_labels("0:1:500 2:0:250", 3, 2)
    np.testing.assert_array_equal(found, [[np.nan, 0.5], [np.nan, np.nan], [0.25, np.nan]])


def test_a_finished_run_is_judged_as_it_judged_itself(tmp_path):
    words = "--set num_tiles=60 --set epochs=1 --set image_size=32 --set batch_size=16"
    sets = [*words.split(), "--set", "classification_weight=5"]
    metrics = runs.train(tmp_path / "run", sets)
    judged = evaluate_run.judge(tmp_path / "run")
    beside = ["projection+probabilities", "backbone+probabilities"]
    assert list(judged) == ["projection", "backbone", "probabilities", *beside]
    for name, parts in judged.items():
        for key in evaluate_run.MEANS:
            expected = metrics["trained"][name][key]
            assert parts["test"][key] == (expected if expected is None else pytest.approx(expected, abs=2e-3))
        ndcg = evaluate_run.unpacked(parts["test"]["per_query"]["ndcg"])
        assert np.nanmean(ndcg) == pytest.approx(parts["test"]["ndcg@100_jaccard"], abs=5e-4)
    found = evaluate_run.facts(tmp_path / "run")
    assert found["best_epoch"] == 1 and len(found["history"].split()) == 1 and "data_dir" not in found["settings"]
    floor = evaluate_run.histogram_floor(tmp_path / "run")
    assert 0 < floor["ndcg@100_jaccard"] < 1


def run(name, seed, ndcg, label_ap, validation):
    """Results of a run as `compare` writes them: projection as given, backbone half of it."""
    held = [(q, c, value) for q, row in enumerate(label_ap) for c, value in enumerate(row) if value is not None]
    labels = " ".join(f"{q}:{c}:{evaluate_run.thousandths(value)}" for q, c, value in held)
    ndcg = np.array(ndcg)
    results = {
        descriptor: {
            "validation": {"ndcg@100_jaccard": validation * factor, "map_rarest_third": 0.2, "map_jaccard50": None},
            "test": {
                "per_query": {
                    "ndcg": evaluate_run.packed(ndcg * factor),
                    "jaccard50": evaluate_run.packed(ndcg),
                    "label_ap": labels,
                }
            },
        }
        for descriptor, factor in (("projection", 1.0), ("backbone", 0.5))
    }
    untrained = {"backbone": {"ndcg@100_jaccard": 0.1 + seed, "map_rarest_third": 0.2, "map_jaccard50": 0.3}}
    archive = {"labels": ["sea", "sand"], "train_counts": [9, 4], "rarest": [1], "untrained": untrained}
    return {"variant": name, "seed": seed, "history": "0.1 0.2", **archive, "results": results}


def variants(tmp_path, lead=0.1, seeds=3, queries=60):
    rng = np.random.default_rng(0)
    base = rng.random(queries) / 2
    for seed in range(seeds):
        for name, more in (("macl", lead), ("supcon", 0.0)):
            values = base + more + 0.01 * rng.normal(size=queries)
            found = run(name, seed, values.tolist(), [[v, v / 2 if q % 3 else None] for q, v in enumerate(values)], 0.5)
            (tmp_path / f"{name}-seed{seed}.json").write_text(json.dumps(found))
    return report.read(tmp_path)


def test_a_lead_has_the_interval_of_its_spread(tmp_path):
    found = variants(tmp_path)
    assert found["macl"].descriptor == "projection" and found["macl"].seeds == (0, 1, 2)
    mean, low, high = report.difference(found["macl"], found["supcon"], "ndcg")
    each = found["macl"].ndcg.mean() - found["supcon"].ndcg.mean()
    assert mean == pytest.approx(each) and low < mean < high
    # 180 paired differences of standard deviation 0.014, over seeds and queries: 1.96 * 0.014 / sqrt(180) = 0.002
    assert 0.001 < (high - low) / 2 < 0.004 and low > 0.09
    rare, *_ = report.difference(found["macl"], found["supcon"], "rarest")
    assert rare == pytest.approx(0.05, abs=0.002)


def test_each_drawn_archive_has_rare_labels_of_its_own():
    """The mean over labels, each over the seeds in which it is rare; a resample without such a seed leaves it out."""
    both = [run("macl", seed, [0.5, 0.5], [[0.2, 0.4], [0.6, None]], 0.5) for seed in (0, 1)]
    both[1]["rarest"] = [0]
    found = report.variant("macl", both)
    assert report.by_seed(found, "rarest").tolist() == pytest.approx([0.4, 0.4])
    both[1]["results"]["projection"]["test"]["per_query"]["label_ap"] = "0:0:800 0:1:100 1:0:900"
    found = report.variant("macl", both)
    assert report.by_seed(found, "rarest").tolist() == pytest.approx([0.4, 0.85])
    both = report.figure(found, "rarest", np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert both.tolist() == pytest.approx([(0.4 + 0.85) / 2, 0.4])


def test_no_lead_has_an_interval_around_zero(tmp_path):
    found = variants(tmp_path, lead=0.0)
    _, low, high = report.difference(found["macl"], found["supcon"], "ndcg")
    assert low < 0 < high
    backwards = report.difference(found["supcon"], found["macl"], "ndcg")
    assert backwards[1:] == pytest.approx((-high, -low))


def test_the_report_says_what_was_found(tmp_path, monkeypatch, capsys):
    variants(tmp_path)
    (tmp_path / "tuning").mkdir()
    trials = {
        "temperature=0.1": {"backbone": [0.5, 0.1, 0.1]},
        "temperature=0.2": {"backbone": [0.4, 0.1, 0.1], "spoc": [0.6, 0.1, 0.1]},
    }
    (tmp_path / "tuning" / "macl.json").write_text(json.dumps({"trials": trials}))
    out, png = tmp_path / "report.json", tmp_path / "report.png"
    words = ["report", "--results", str(tmp_path), "--table", "macl", "--out", str(out), "--png", str(png)]
    monkeypatch.setattr(sys, "argv", [*words, "--labels", "supcon", "macl"])
    report.main()
    printed = capsys.readouterr().out
    assert printed.strip() == report.tables(json.loads(out.read_text())) and png.stat().st_size > 10_000
    lines = printed.splitlines()
    assert lines[2].startswith("| **macl** | projection | 3 | 0.3") and lines[3].startswith(
        "| supcon | projection | 3 | 0.2"
    )
    assert lines[3].count("| +10.0 [+") == 2 and "| +5.0 [+" in lines[3]  # the rare label's values are halved
    assert "| untrained encoder, backbone | 1.100 | 0.200 | 0.300 |" in printed
    start = next(place for place, line in enumerate(lines) if line.endswith(" by | projection | backbone |"))
    both = [line.split(" | ") for line in lines[start + 2 : start + 4]]
    assert [row[0] for row in both] == ["| macl", "| supcon"]
    for row, seen in zip(both, (lines[2], lines[3]), strict=True):
        whole, half = ([float(value) for value in cell.strip(" |").split("/")] for cell in row[1:])
        assert [f"{value:.3f}" for value in whole] == [cell.split(" ")[0] for cell in seen.split(" | ")[3:6]]
        assert half == pytest.approx([whole[0] / 2, *whole[1:]], abs=1e-3)
    assert [line.split(" | ")[:2] for line in lines if "| sand" in line] == [["| sand (rare)", "4"]]
    assert (
        "| macl | temperature=0.1: 0.500/0.100/0.100 backbone, **temperature=0.2: 0.600/0.100/0.100 spoc** |" in printed
    )
    monkeypatch.setattr(sys, "argv", [*words, "--table", "supcon:macl"])  # one more table
    report.main()
    more = capsys.readouterr().out.splitlines()
    assert more[:5] == lines[:5] and more[5].startswith("| training") and more[7].startswith("| macl ")
    assert more[7].count("| -10.0 [-") == 2 and more[8].startswith("| **supcon** ")
    monkeypatch.setattr(sys, "argv", [*words, "--labels", "dcl"])
    with pytest.raises(SystemExit):
        report.main()
    assert "has no training dcl; it has macl, supcon" in capsys.readouterr().err


def test_differences_need_common_seeds(tmp_path):
    found = variants(tmp_path, seeds=1)
    other = report.variant("other", [dict(found["supcon"].runs[0], seed=7)])
    with pytest.raises(ValueError, match="no seed in common"):
        report.difference(found["macl"], other, "ndcg")


def test_means_leave_out_what_is_undefined():
    values = np.array([[0.2, np.nan, 0.4]])
    every = report.weighted_mean(values, np.ones((1, 1)), np.ones((1, 3)))
    twice = report.weighted_mean(values, np.ones((1, 1)), np.array([[2.0, 5.0, 1.0]]))
    assert every[0] == pytest.approx(0.3) and twice[0] == pytest.approx(0.8 / 3)


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
    assert "| MACL | 8.0 | 2,000 |" in losses.tables(results)
    assert "| PML SupConLoss / MACL | 0.50 | 1.00 |" in losses.tables(results)


def test_a_loss_measured_alone_gets_as_many_processes():
    assert losses.processes(["MACL"], 4, 2) == [["MACL"]] * 6
    assert losses.processes(["MACL"], 2000, 2) == [["MACL"]] * 2


def test_the_ratios_that_are_aimed_at_are_those_of_the_times():
    results = {name: {"256": {"ms": ms, "peak_mib": 1}} for name, ms in (("SupCon", 4.0), ("MACL", 5.0))}
    results["PML SupConLoss"] = {"256": {"failed": "out of memory"}}
    shown = losses.tables(results)
    assert "| MACL / SupCon | 1.25 | 1.25 or less |" in shown
    assert "| PML SupConLoss / MACL |  | 3 or more from 1,024 |" in shown
    assert "MACL / matrix products" not in shown


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
    assert [next(turns) for _ in range(3)] == [(1, -1), (3, -3), (4, -4)]
    with pytest.raises(RuntimeError, match=r"1 of 4 failed, as said above: \[2\]"):
        next(turns)
    assert "two is too much" in capsys.readouterr().out


def test_a_comparison_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    sets = "--set num_tiles=60 --set epochs=1 --set image_size=32 --set batch_size=16"
    places = f"--dataset synthetic --work {tmp_path / 'work'} --out {tmp_path / 'out'}"
    words = f"{places} --losses macl --tune 1 --seeds 0 {sets}".split()
    monkeypatch.setattr(sys, "argv", ["compare.py", *words])
    encoders.main()
    result, trials = tmp_path / "out" / "macl-weighted-seed0.json", tmp_path / "out" / "tuning" / "macl.json"
    found = json.loads(result.read_text())
    assert found["variant"] == "macl-weighted" and set(found["results"]) == {"projection", "backbone"}
    ((text, figures),) = json.loads(trials.read_text())["trials"].items()
    assert text == "temperature=0.1" and set(figures) == {"projection", "backbone"}
    assert found["searched_by"] == max(figures, key=lambda by: evaluate_run.leading_mean(figures[by]))
    assert 0 < json.loads((tmp_path / "out" / "histogram_0.json").read_text())["test"]["ndcg@100_jaccard"] < 1
    assert not list((tmp_path / "work").iterdir())  # what is asked of a run stands in its JSON

    monkeypatch.setattr(runs, "in_process", lambda *_: pytest.fail("what is there was done again"))
    monkeypatch.setattr(encoders, "in_process", lambda *_: pytest.fail("what is there was judged again"))
    encoders.main()
    assert json.loads(result.read_text()) == found
    for tune, why in (("1", "epochs=2"), ("0", "with .*temperature=0.1, not 0.2")):
        more = ["--tune", tune, "--set", "epochs=2" if tune == "1" else "temperature=0.2"]
        monkeypatch.setattr(sys, "argv", ["compare.py", *words, *more])
        with pytest.raises(SystemExit, match=f"{why}.*another --out"):
            encoders.main()


def test_only_macl_reads_its_own_settings(tmp_path):
    options = encoders.arguments().parse_args(["--work", "W", "--dataset", "synthetic", "--out", str(tmp_path)])
    for loss in ("jaccard", "macl"):
        made = settings_without_places(vars(load_settings(assignments=[f"loss={loss}", "overlap_power=7"])))
        (tmp_path / f"{loss}-seed0.json").write_text(json.dumps({"settings": made}))
    assert encoders.is_there(options, "jaccard", 0, ["--set", "loss=jaccard"])
    with pytest.raises(SystemExit, match=r"overlap_power=7.0, not"):
        encoders.is_there(options, "macl", 0, ["--set", "loss=macl"])
