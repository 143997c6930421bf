"""What all benchmarks' commands do: read options, measure in processes of their own, write a JSON file and a table."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.environment import made_by
from macl_tf.files import write_json

RESULTS = Path(__file__).parent / "results"


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Options of a command whose results are kept under a name."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="file of the results")
    return found


def in_process(module: str, *words: object, env: Mapping[str, str] | None = None, **options: Any) -> str:
    """Runs a module in a process of its own, and returns the last line that it printed.

    `env` are further environment variables, `options` others of subprocess.run. A RuntimeError holds what it said last.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(env or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)
    if done.returncode:
        said = done.stderr[-2000:].strip() or f"exit {done.returncode}"
        raise RuntimeError(f"python {shlex.join(command[1:])} failed:\n{said}")
    return (done.stdout.splitlines() or [""])[-1]


def record(
    out: Path, module: str, packages: Iterable[str], facts: dict[str, Any], table: Callable[[dict[str, Any]], str]
) -> None:
    """Writes what was measured, with the command, the machine and versions, and prints its table."""
    summary = {**made_by(module, packages), **facts}
    write_json(out, summary)
    print(table(summary))
