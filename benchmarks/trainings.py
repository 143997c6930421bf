"""Many trainings under one budget: each a run directory of its own, resumed where it stopped, with the time left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from macl_tf.files import read_json


def run_directory(work: Path, name: str, seed: int) -> Path:
    """Where a variant's run with a seed lies."""
    return work / f"{name}-seed{seed}"


def train_all(
    work: Path, variants: Mapping[str, Sequence[str]], seeds: Iterable[int], common: Sequence[str]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Trains every variant with every seed, one after the other: each uses all cores.

    Args:
        work: Folder for the runs. Finished ones in it are taken as they are, half-finished ones go on.
        variants: Name to words for `macl train` ("--set", "loss=dcl").
        seeds: Seeds of the runs.
        common: Words for all of them.

    Returns:
        What `metrics.json` holds, by variant and seed.

    Raises:
        RuntimeError: If a training fails, with what it said.
    """
    turns = [(name, seed) for seed in seeds for name in variants]  # whole comparisons first, then further seeds
    results = {}
    for name, seed in (bar := tqdm(turns, "trainings", unit="run")):
        bar.set_postfix_str(f"{name}, seed {seed}")
        run = run_directory(work, name, seed)
        words = [*common, *variants[name], "--set", f"seed={seed}", "--run-dir", str(run), "--quiet"]
        if not (run / "metrics.json").is_file():
            done = subprocess.run(
                [sys.executable, "-m", "macl_tf.cli", "train", *words],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            )
            if done.returncode:
                raise RuntimeError(f"{name}, seed {seed}: macl train {' '.join(words)} failed:\n{done.stderr[-2000:]}")
        results[name, seed] = read_json(run / "metrics.json")
    return results
