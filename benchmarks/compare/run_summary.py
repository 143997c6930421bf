"""Finished runs of one archive as a small JSON file, and as a table of the documents.

python -m benchmarks.compare.run_summary RUN [RUN ...] benchmarks/results/ucm.json
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.environment import settings_without_places, without_places
from benchmarks.tables import markdown
from macl_tf.files import read_json, write_json

FIGURES = {
    "ndcg@100_jaccard": "NDCG@100, Jaccard gain",
    "map_rarest_third": "mAP, rarest third",
    "map_jaccard50": "mAP, Jaccard >= 0.5",
}


def summary(run: Path) -> dict[str, Any]:
    """What made the figures of a run, and the figures."""
    metrics, versions = read_json(run / "metrics.json"), read_json(run / "versions.json")
    command = versions.pop("command")
    words = command[1:] if command[:1] == ["train"] else command
    words = [word for before, word in zip(["", *words], words, strict=False) if "--run-dir" not in (before, word)]
    words = [word for word in words if word != "--quiet"]
    settings = tomllib.loads((run / "settings.toml").read_text(encoding="utf-8"))
    return {
        "command": "python train.py " + " ".join(without_places(words, {"--data-dir": "DIR"})),
        "versions": versions,
        "settings": settings_without_places(settings),
        "split": metrics["split"],
        "best_epoch": metrics["best_epoch"],
        "num_queries": metrics["trained"]["backbone"]["num_queries"],
        "descriptor": metrics["descriptor"],
        "figures": {
            state: {by: {key: found[key] for key in FIGURES} for by, found in metrics[state].items()}
            for state in ("untrained", "trained")
        },
    }


def table(result: dict[str, Any]) -> str:
    """The documents' table: no training, then each run by the descriptor that its search uses and by the others."""
    first = result["runs"][0]
    rows = [["none", "backbone", first["figures"]["untrained"]["backbone"]]]
    for run in result["runs"]:
        chosen, found = run["descriptor"], run["figures"]["trained"]
        kind = {"head": "the head, on features computed once"}.get(run["settings"]["trainable"], "everything")
        for by in (chosen, *(name for name in found if name != chosen)):
            rows.append([kind, f"**{by}**" if by == chosen else by, found[by]])
    cells = [[kind, by, *(f"{found[key]:.3f}" for key in FIGURES)] for kind, by, found in rows]
    return markdown(["training", "descriptor", *FIGURES.values()], cells, "ll")


def main() -> None:
    """Writes the JSON file and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs")
    parser.add_argument("output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    runs = [summary(run) for run in options.runs]
    result = {"command": runs[0]["command"], "num_queries": runs[0].pop("num_queries"), "runs": runs}
    write_json(options.output, result)
    print(table(result))


if __name__ == "__main__":
    main()
