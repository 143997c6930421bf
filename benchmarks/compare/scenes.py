"""Single-label retrieval: DCL beside triplet, Multi-Similarity and Ranked List, all trained as DCL's authors train.

    python -m benchmarks.compare.scenes --data-dir UCM --work DIR [--seeds 0 1 2] [--set epochs=30]

Every loss gets the same encoder (sums of ResNet-18's feature maps, SPoC), the same batches of several tiles from each
of several of the 21 scenes, the same epochs, and descriptors at several scales at test time: what
`python train.py --dataset ucm --set labels=scene --set loss=dcl` does. Tiles of the test blocks search each other.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.runs import run_directory, train_all
from benchmarks.environment import circumstances
from macl_tf.files import read_json, write_json

LOSSES = ("dcl", "triplet-semi-hard", "multi-similarity", "ranked-list")
FIGURES = {
    "map_any": "mAP",
    "precision@1": "P@1",
    "precision@10": "P@10",
    "recall@10": "R@10",
    "hit@10": "hit@10",
}


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


def tables(runs: dict[str, dict[str, Any]], descriptor: str) -> str:
    """Means and standard deviations over seeds, and mean AP by scene, as Markdown."""

    def cell(values: list[float]) -> str:
        spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
        return f"{np.mean(values):.3f}{spread}"

    names = list(runs)
    lines = ["| loss | " + " | ".join(FIGURES.values()) + " |", "|---|" + "---:|" * len(FIGURES)]
    first = list(next(iter(runs.values())).values())
    rows: list[tuple[str, list[dict[str, float]]]] = [("untrained", [run["untrained"][descriptor] for run in first])]
    rows += [(name, [run["trained"][descriptor] for run in runs[name].values()]) for name in names]
    rows += [("dcl, one scale", [run["trained"]["spoc"] for run in runs["dcl"].values()])] if "dcl" in runs else []
    for name, figures in rows:
        lines.append(f"| {name} | " + " | ".join(cell([one[key] for one in figures]) for key in FIGURES) + " |")
    scenes = [entry["name"] for entry in first[0]["by_scene"]]
    keys = {"ap": "mAP", "precision@10": "P@10", "hit@10": "hit@10"}
    head = [f"{name} {title}" for name in names for title in keys.values()]
    lines += ["", "| scene | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for number, scene in enumerate(scenes):
        cells = [
            f"{np.mean([run['by_scene'][number][key] for run in runs[name].values()]):.2f}"
            for name in names
            for key in keys
        ]
        lines.append(f"| {scene} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Trains what is missing, writes the JSON and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="UC Merced, or a folder with one label a tile")
    parser.add_argument("--dataset", default="ucm", help="the archive (ucm)")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; finished ones are kept")
    parser.add_argument("--losses", nargs="+", default=[*LOSSES], help="of macl train --set loss=")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "scenes.json")
    options = parser.parse_args()
    common = ["--dataset", options.dataset, "--data-dir", options.data_dir, "--set", "labels=scene"]
    common += [word for text in options.set for word in ("--set", text)]
    variants = {name: ["--set", f"loss={name}"] for name in options.losses}
    results = train_all(options.work, variants, options.seeds, common)
    runs = {name: {str(seed): summary(results[name, seed]) for seed in options.seeds} for name in options.losses}
    descriptor = results[options.losses[0], options.seeds[0]]["descriptor"]
    versions = read_json(run_directory(options.work, options.losses[0], options.seeds[0]) / "versions.json")
    versions.pop("command")
    command = circumstances("benchmarks.compare.scenes", [])["command"]
    write_json(options.out, {"command": command, "versions": versions, "descriptor": descriptor, "runs": runs})
    print(tables(runs, descriptor))


if __name__ == "__main__":
    main()
