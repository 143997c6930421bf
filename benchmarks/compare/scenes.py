"""Single-label retrieval: DCL beside triplet, Multi-Similarity and Ranked List, all trained as DCL's authors train.

Every loss gets the same encoder (sums of the network's feature maps, SPoC), the same batches of several tiles from each
of several of the 21 scenes, the same epochs, and descriptors at several scales at test time: what
`python train.py --dataset ucm --set labels=scene --set loss=dcl` does. Tiles of the test blocks search each other.
Finished runs stay in the work folder, and the figures in the JSON file of the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.experiment import Experiment, texts
from benchmarks.compare.runs import at_once
from benchmarks.compare.runs import train as train_run
from benchmarks.environment import made_by
from benchmarks.tables import markdown, mean_and_spread
from macl_tf.files import read_json, write_json

FIGURES = {"map_any": "mAP", "precision@1": "P@1", "precision@10": "P@10", "recall@10": "R@10", "hit@10": "hit@10"}


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """Of a run: means over all queries for each descriptor, before and after, and by scene for the one compared."""
    values: dict[str, Any] = {}
    for state in ("untrained", "trained"):
        values[state] = {name: overall(report) for name, report in metrics[state].items()}
    by_scene = metrics["trained"][metrics["descriptor"]]["per_label"]
    keys = ("name", "queries", "ap", "precision@10", "recall@10", "hit@10")
    return {
        "best_epoch": metrics["best_epoch"],
        "split": metrics["split"],
        **values,
        "by_scene": [{key: entry[key] for key in keys} for entry in by_scene],
    }


def overall(report: dict[str, Any]) -> dict[str, float]:
    """Means over all queries; the hit rate, which a report has by label, from the labels, each query having one."""
    queries = np.array([entry["queries"] - entry["left_out"] for entry in report["per_label"]])
    hits = np.array([entry["hit@10"] or 0.0 for entry in report["per_label"]])
    return {key: report[key] for key in FIGURES if key in report} | {"hit@10": float(hits @ queries / queries.sum())}


def tables(summary: dict[str, Any]) -> str:
    """Means and standard deviations over seeds, and mean AP by scene, as Markdown."""
    runs, descriptor = summary["runs"], summary["descriptor"]
    of_loss = {name: list(by_seed.values()) for name, by_seed in runs.items()}
    first = next(iter(of_loss.values()))
    rows: list[tuple[str, list[dict[str, float]]]] = [("untrained", [run["untrained"][descriptor] for run in first])]
    rows += [(name, [run["trained"][descriptor] for run in found]) for name, found in of_loss.items()]
    rows += [(f"{name}, one scale", [run["trained"]["spoc"] for run in found]) for name, found in of_loss.items()]
    cells = [
        [name, *(mean_and_spread([one[key] for one in found]) for key in FIGURES)] for name, found in rows if found
    ]
    keys = {"ap": "mAP", "precision@10": "P@10", "hit@10": "hit@10"}
    by_scene = [
        [scene["name"], *(f"{np.mean([run['by_scene'][number][key] for run in found]):.2f}"
                          for found in of_loss.values() for key in keys)]
        for number, scene in enumerate(first[0]["by_scene"])
    ]  # fmt: skip
    head = [f"{name} {title}" for name in of_loss for title in keys.values()]
    return markdown(["loss", *FIGURES.values()], cells) + "\n\n" + markdown(["scene", *head], by_scene)


def train(experiment: Experiment, options: argparse.Namespace) -> None:
    """Trains what is missing, writes the JSON and prints the tables."""
    shared = [*texts({"dataset": experiment.dataset, "data_dir": options.data_dir}), *texts(experiment.set)]
    turns = [(name, seed) for seed in experiment.seeds for name in experiment.runs()]

    def folder(turn: tuple[str, int]) -> Path:
        return Path(options.work) / experiment.name / f"{turn[0]}-seed{turn[1]}"

    def work(turn: tuple[str, int]) -> dict[str, Any]:
        return train_run(folder(turn), [*shared, *experiment.runs()[turn[0]], f"seed={turn[1]}"])

    results = dict(at_once(options.jobs, work, turns, "runs"))
    runs = {name: {str(seed): summary(results[name, seed]) for seed in experiment.seeds} for name in experiment.runs()}
    versions = read_json(folder(turns[0]) / "versions.json")
    versions.pop("command")
    command = made_by("benchmarks.compare", [])["command"]
    found = {"command": command, "versions": versions, "descriptor": results[turns[0]]["descriptor"], "runs": runs}
    write_json(experiment.summary_file(options.out), found)
    print(tables(found))
