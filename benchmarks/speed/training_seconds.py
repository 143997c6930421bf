"""Seconds of whole commands of the README: the built-in default, and UC Merced's head from a cold start and again.

    python -m benchmarks.speed.training_seconds --data-dir UCM --work DIR

Each command is a process of its own, timed from its start to its end: imports, archive, training, evaluation, figures.
The cache begins empty. The second head finds the features of all tiles and views there, the third too; its test tiles
are embedded four times, turned.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.compare.run_summary import FIGURES
from benchmarks.environment import without_places
from benchmarks.tables import markdown
from macl_tf.files import read_json

PACKAGES = ("tensorflow-cpu", "keras", "numpy")
SETS = ("backbone=efficientnet-lite0", "weights=imagenet", "image_size=128", "trainable=head")
HEAD = ["--dataset", "ucm", *(word for text in SETS for word in ("--set", text))]
COMMANDS = {
    "the default": [],
    "the head, cold": HEAD,
    "the head, features in the cache": HEAD,
    "the head, found by four turns": [*HEAD, "--set", "turns=4"],
}


def timed(words: list[str], run: Path, cache: Path) -> dict[str, Any]:
    """Seconds of `train.py` and the figures of its run by the descriptor that its search uses."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    begin = time.perf_counter()
    subprocess.run([sys.executable, "train.py", *words, "--run-dir", str(run), "--quiet"], check=True, env=environment)
    seconds, metrics = time.perf_counter() - begin, read_json(run / "metrics.json")
    figures = metrics["trained"][metrics["descriptor"]]
    return {"seconds": seconds, "descriptor": metrics["descriptor"], **{key: figures[key] for key in FIGURES}}


def table(summary: dict[str, Any]) -> str:
    """The documents' table."""
    rows = [
        [name, f"{found['seconds']:,.0f}", *(f"{found[key]:.3f}" for key in FIGURES)]
        for name, found in summary["commands"].items()
    ]
    return markdown(["python train.py", "seconds", *FIGURES.values()], rows)


def main() -> None:
    """Times, writes the JSON, prints the table."""
    parser = command.parser(__doc__, "training_seconds")
    parser.add_argument("--data-dir", required=True, help="UC Merced with its labels")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and cache, emptied first")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    found = {}
    for number, (name, words) in enumerate(COMMANDS.items()):
        given = [*words, "--data-dir", options.data_dir] if words else []
        found[name] = {
            "command": " ".join(["python train.py", *without_places(given, {"--data-dir": "UCM"})]),
            **timed(given, options.work / f"run{number}", options.work / "cache"),
        }
        print(name, f"{found[name]['seconds']:.0f} s", flush=True)
    command.record(options.out, "benchmarks.speed.training_seconds", PACKAGES, {"commands": found}, table)


if __name__ == "__main__":
    main()
