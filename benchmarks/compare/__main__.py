"""Trains and evaluates what an experiment compares: all runs alike, with the same tiles, budget and trials.

    python -m benchmarks.compare EXPERIMENT --work DIR [--data-dir DIR] [--encoder PRE/encoder.keras]
    python -m benchmarks.compare.report EXPERIMENT

An experiment is a TOML file: what is compared, why, what is expected, and the settings. Each run's figures go into one
Parquet file as soon as it is done; stopped at any time and started again, the command goes on where it was.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.compare import encoders, experiment, heads, scenes

KINDS = {"encoders": encoders, "heads": heads, "scenes": scenes}


def main() -> None:
    """Does what is missing of an experiment."""
    parser = experiment.parser("benchmarks.compare", __doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and features while they are needed")
    parser.add_argument("--data-dir", default="", help="the archive's folder, as of macl train")
    parser.add_argument("--encoder", type=Path, help="the encoder.keras to start from, if the experiment asks for one")
    parser.add_argument("--elsewhere", help="a folder archive that encoders, which never saw it, search too")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="runs at a time (%(default)s)")
    parser.add_argument("--keep-runs", action="store_true", help="leave finished runs in the work folder")
    options, asked = experiment.parsed(parser)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}.")
    if bool(asked.encoder) != bool(options.encoder):
        named = f"an encoder: name it with --encoder. Make it by: {asked.encoder}"
        start = named if asked.encoder else "what its settings say: leave --encoder out."
        parser.error(f"{asked.name} starts from {start}")
    if options.encoder and not options.encoder.is_file():
        parser.error(f"--encoder must be a file, '{options.encoder}' is none. Make it by: {asked.encoder}")
    if asked.dataset != "synthetic" and not options.data_dir:
        parser.error(f"{asked.name} needs the tiles of '{asked.dataset}': name their folder with --data-dir.")
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        KINDS[asked.train].train(asked, options)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
