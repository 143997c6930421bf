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


def train(run: Path, words: Sequence[str]) -> dict[str, Any]:
    """A finished run is taken as it is, a half-finished one goes on.

    Args:
        run: Its directory.
        words: For `macl train`: "--set", "loss=dcl".

    Returns:
        What `metrics.json` holds.

    Raises:
        RuntimeError: If the training fails, with what it said.
    """
    if not (run / "metrics.json").is_file():
        command = [*words, "--run-dir", str(run), "--quiet"]
        done = subprocess.run(
            [sys.executable, "-m", "macl_tf.cli", "train", *command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        if done.returncode:
            raise RuntimeError(f"macl train {' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = read_json(run / "metrics.json")
    return result


def train_all(
    work: Path, variants: Mapping[str, Sequence[str]], seeds: Iterable[int], common: Sequence[str]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Trains every variant with every seed, one after the other: each uses all cores.

    Args:
        work: Folder for the runs.
        variants: Name to words for `macl train`.
        seeds: Seeds of the runs.
        common: Words for all of them.

    Returns:
        What `metrics.json` holds, by variant and seed.
    """
    turns = [(name, seed) for seed in seeds for name in variants]  # whole comparisons first, then further seeds
    results = {}
    for name, seed in (bar := tqdm(turns, "trainings", unit="run")):
        bar.set_postfix_str(f"{name}, seed {seed}")
        words = [*common, *variants[name], "--set", f"seed={seed}"]
        results[name, seed] = train(run_directory(work, name, seed), words)
    return results
