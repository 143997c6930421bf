"""A finished run as a small JSON file, and as a table of the documents.

python -m benchmarks.compare.run_summary RUN benchmarks/results/ucm.json
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
    "map_rarest_third": "mAP per label, rarest third of labels",
    "map_per_label": "mAP per label, mean over labels",
    "map_jaccard50": "mAP, Jaccard >= 0.5",
    "map_any": "mAP, shares a label",
    "wap@100": "WAP@100, shared labels",
}


def summary(run: Path) -> dict[str, Any]:
    """What made the figures of a run, and the figures."""
    metrics, versions = read_json(run / "metrics.json"), read_json(run / "versions.json")
    command = versions.pop("command")
    words = command[1:] if command[:1] == ["train"] else command
    words = [word for before, word in zip(["", *words], words, strict=False) if "--run-dir" not in (before, word)]
    settings = tomllib.loads((run / "settings.toml").read_text(encoding="utf-8"))
    return {
        "command": "python train.py " + " ".join(without_places(words, {"--data-dir": "DIR"})),
        "versions": versions,
        "settings": settings_without_places(settings),
        "split": metrics["split"],
        "best_epoch": metrics["best_epoch"],
        "num_queries": metrics["trained"]["projection"]["num_queries"],
        "figures": {
            descriptor: {
                state: {key: metrics[state][descriptor][key] for key in FIGURES} for state in ("untrained", "trained")
            }
            for descriptor in ("projection", "backbone")
        },
    }


def table(result: dict[str, Any]) -> str:
    """The documents' table of a summary."""
    columns = [(state, descriptor) for descriptor in ("projection", "backbone") for state in ("untrained", "trained")]
    rows = [
        [title, *(f"{result['figures'][descriptor][state][key]:.3f}" for state, descriptor in columns)]
        for key, title in FIGURES.items()
    ]
    return markdown(["metric", *(f"{descriptor}, {state}" for state, descriptor in columns)], rows)


def main() -> None:
    """Writes the JSON file and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    result = summary(options.run)
    write_json(options.output, result)
    print(table(result))


if __name__ == "__main__":
    main()
