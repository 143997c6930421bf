"""Whole encoders, trained by each loss under one budget, tuned alike, evaluated on tiles that none of them saw.

Every loss is trained with every seed, sampler and weight of classification: same encoder, augmentation, epochs and
batches. `bce` is classification alone. With `tune` each loss first gets so many trials of the one number that it has
(temperature or margin; the learning rate where it has neither), by retrieval among validation tiles (the mean of
NDCG, mAP of the rarest third and mAP at Jaccard >= 0.5); the best is then used in all its runs, and so is the
descriptor that was best then (projection, backbone or probabilities). `tune_set` are settings of the trials alone:
gap=0.1 keeps their validation tiles away from training's. Where `joint` has several weights of classification, the
joint form of each loss gets trials of its own, each with each weight. Without trials, the descriptor of a run is chosen
on its own validation tiles, unless the experiment sets one. With `--elsewhere` each encoder also searches all tiles of
another archive, which it has not seen.

A run's figures, and its test queries' own values, for intervals, are added to the results as soon as it is done, and
its folder is then removed. Runs share the processors.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.command import in_process
from benchmarks.compare import held_out, results_file
from benchmarks.compare.evaluate_run import FROZEN, LEADING, leading_mean
from benchmarks.compare.experiment import Experiment, of_loss, split, texts
from benchmarks.compare.results_file import FLOOR, RUN, TRIALS, Row
from benchmarks.compare.runs import at_once
from benchmarks.compare.runs import train as train_run
from benchmarks.environment import made_by, settings_without_places, without_places
from macl_tf.files import read_json
from macl_tf.losses.registry import OF_MACL
from macl_tf.training.settings import load_settings

TUNING_SEED = 1000  # of trials, which no compared run has
TEMPERATURES, RATES = (0.1, 0.2, 0.05, 0.3, 0.07), (1e-3, 3e-3, 3e-4, 2e-3, 5e-4)
MARGIN_FACTORS, STRENGTHS = (1.0, 0.5, 2.0, 0.25, 1.5), (0.01, 0.1, 0.001, 1.0, 0.03)
LOGISTIC = "logistic-regression"  # of heads: for each label, by scikit-learn


def grid(loss: str, trials: int) -> list[str]:
    """The settings that are tried for a loss: as many for each."""
    from macl_tf.training.build import own_number

    setting, own = ("C", None) if loss == LOGISTIC else own_number(loss) or ("learning_rate", None)
    values = {
        "C": STRENGTHS,
        "temperature": TEMPERATURES,
        "margin": [factor * (own or 1.0) for factor in MARGIN_FACTORS],
        "learning_rate": RATES,
    }
    return [f"{setting}={value:g}" for value in values[setting][:trials]]


def trials_of(experiment: Experiment) -> dict[str, list[str]]:
    """The settings that are tried for each loss and for its joint form, by name ("macl", "macl+bce")."""
    wanted = {loss: grid(loss, experiment.tune) for loss in experiment.losses if experiment.tune}
    weights = [f"classification_weight={weight:g}" for weight in experiment.joint if weight]
    if len(weights) > 1:
        joint = {loss: product(tried, weights) for loss, tried in wanted.items() if loss not in ("bce", LOGISTIC)}
        wanted |= {f"{loss}+bce": [",".join(pair) for pair in pairs] for loss, pairs in joint.items()}
    return wanted


def trials_asked(
    experiment: Experiment, options: argparse.Namespace, shared: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, Row], list[tuple[str, str]]]:
    """What is to be tried by name, the rows of what was, and what is missing."""
    wanted = trials_of(experiment)
    weights = [text for text in shared if text.startswith("weights=")]
    asked = without_places([*texts(experiment.set), *weights, *texts(experiment.tune_set)])
    known: dict[str, Row] = {row["name"]: row for row in results_file.read(options.out) if row["kind"] == TRIALS}
    for name in wanted:
        new = {"kind": TRIALS, "name": name, "seed": TUNING_SEED, "settings": asked, "trials": {}}
        found = known.setdefault(name, new)["settings"]
        if sorted(found) != sorted(asked):
            raise ValueError(f"the trials in '{options.out}' are of {found}, not {asked}: choose another --out.")
    missing = [(name, text) for name, tried in wanted.items() for text in tried if text not in known[name]["trials"]]
    return wanted, known, missing


def best_of(wanted: Mapping[str, Sequence[str]], known: Mapping[str, Row]) -> dict[str, tuple[str, str]]:
    """The best settings and descriptor of each loss and joint form, by what was tried."""
    return {name: best_trial({text: known[name]["trials"][text] for text in wanted[name]}) for name in wanted}


def tune(experiment: Experiment, options: argparse.Namespace, shared: list[str]) -> dict[str, tuple[str, str]]:
    """The best settings and descriptor of each loss and joint form on validation tiles; tries what was not tried."""
    wanted, known, turns = trials_asked(experiment, options, shared)

    def trial(turn: tuple[str, str]) -> dict[str, list[float]]:
        name, text = turn
        run = folder(experiment, options, f"{name}@{text}", TUNING_SEED)
        own = [*of_loss(name.removesuffix("+bce")), *split(text), *texts(experiment.tune_set)]
        train_run(run, [*shared, *own, f"seed={TUNING_SEED}"])
        return validated(run)

    for (name, text), value in at_once(options.jobs, trial, turns, "tuning"):
        known[name]["trials"][text] = value
        results_file.add(options.out, known[name])
        finished(folder(experiment, options, f"{name}@{text}", TUNING_SEED), options)
        tqdm.write(f"{name}, {text}: {', '.join(f'{by} {leading_mean(found):.3f}' for by, found in value.items())}")
    return best_of(wanted, known)


def validated(run: Path) -> dict[str, list[float]]:
    """The figures of a run's validation tiles, for each descriptor."""
    found = evaluated(run, "--parts", "validation")["results"]
    return {by: [parts["validation"][key] for key in LEADING] for by, parts in found.items()}


def evaluated(run: Path, *words: str) -> dict[str, Any]:
    """What `evaluate_run` finds, in a process of its own."""
    in_process("benchmarks.compare.evaluate_run", run, "--out", run / "evaluated.json", *words)
    found: dict[str, Any] = read_json(run / "evaluated.json")
    return found


def best_trial(trials: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[str, str]:
    """The settings and the descriptor with the best mean of figures; the first among equals."""
    tried = [(text, by) for text in trials for by in trials[text]]
    return max(tried, key=lambda trial: leading_mean(trials[trial[0]][trial[1]]))


def folder(experiment: Experiment, options: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a run is while it is needed."""
    return Path(options.work) / experiment.name / f"{name}-seed{seed}"


def finished(run: Path, options: argparse.Namespace) -> None:
    """A run takes 200 MB, and all that is asked of it stands in the results."""
    if not options.keep_runs:
        shutil.rmtree(run)


def settings_of_all(experiment: Experiment, options: argparse.Namespace) -> list[str]:
    """The settings of all runs, with the places of archive and encoder."""
    found = texts({"dataset": experiment.dataset, "data_dir": options.data_dir})
    if experiment.held_out:
        table = Path(options.work) / f"held_out_{experiment.held_out}.csv"
        held_out.write_block(table, options.data_dir, experiment.held_out)
        found += ["dataset=folder", f"table={table}"]
    if experiment.parts:
        table = Path(options.work) / f"parts_{experiment.name}.csv"
        held_out.write_parts(table, options.data_dir, experiment.parts)
        found += [f"table={table}"]
    return [*found, *texts(experiment.set), *([f"weights={options.encoder}"] if options.encoder else [])]


def train(experiment: Experiment, options: argparse.Namespace) -> None:
    """Tunes, trains and evaluates what is missing."""
    shared = settings_of_all(experiment, options)
    named = experiment.runs(tune(experiment, options, shared))
    turns = [(name, seed) for seed in experiment.seeds for name in named]  # whole comparisons first, then more seeds
    known = results_file.read(options.out)
    there = {(row["name"], row["seed"]): row["settings"] for row in known if row["kind"] == RUN}
    floors = {row["seed"] for row in known if row["kind"] == FLOOR}
    for turn in turns:
        if turn in there:
            refuse_others(turn, there[turn], [*shared, *named[turn[0]]])

    def work(turn: tuple[str, int]) -> dict[str, Any]:
        name, seed = turn
        run = folder(experiment, options, name, seed)
        train_run(run, [*shared, *named[name], f"seed={seed}"])
        words = ["--histogram"] if seed not in floors else []
        return evaluated(run, *words, *(["--elsewhere", options.elsewhere] if options.elsewhere else []))

    command = made_by("benchmarks.compare", [])["command"]
    for (name, seed), found in at_once(options.jobs, work, [turn for turn in turns if turn not in there], "runs"):
        rows = [{"kind": RUN, "name": name, "seed": seed, "command": command, **found}]
        if frozen := rows[0].pop("frozen", None):
            figures = [frozen["elsewhere"][key] for key in LEADING]
            rows.append({"kind": FLOOR, "name": f"{FROZEN}, elsewhere", "figures": figures})
        if floor := rows[0].pop("floor", None):  # a seed may make the archive, or its parts
            results = {"histogram": {"test": floor}}
            rows.append({"kind": FLOOR, "name": "colour histogram", "seed": seed, "results": results})
            floors.add(seed)
        if any(text.startswith("descriptor=") for text in [*shared, *named[name]]):  # the experiment says it, or trials
            rows[0]["searched_by"] = found["settings"]["descriptor"]
        results_file.add(options.out, *rows)
        finished(folder(experiment, options, name, seed), options)
        leading = (f"{by} {validation(parts)}" for by, parts in found["results"].items())
        tqdm.write(f"{name}, seed {seed}: {', '.join(leading)}")


def validation(parts: Mapping[str, Any]) -> str:
    """The leading figures on validation tiles: those of the test are for the report."""
    values = [parts["validation"][key] for key in LEADING]
    return "/".join("-" if value is None else f"{value:.3f}" for value in values)


def refuse_others(turn: tuple[str, int], found: Mapping[str, Any], asked: Sequence[str]) -> None:
    """Raises: ValueError: If a run's result is one of other settings under the same name and seed.

    What other losses do not read, MACL's own settings, may differ: its defaults may change.
    """
    wanted = settings_without_places(vars(load_settings(assignments=[*asked, f"seed={turn[1]}"])))
    unread = () if wanted["loss"] in ("macl", "wmacl") else OF_MACL
    if other := [key for key in found if key in wanted and key not in unread and found[key] != wanted[key]]:
        differences = "; ".join(f"{key}={found[key]}, not {wanted[key]}" for key in other)
        raise ValueError(f"the result of {turn[0]}, seed {turn[1]}, was made with {differences}: choose another --out.")
