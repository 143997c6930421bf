"""Measures what an experiment asks for, and keeps its results.

    python -m benchmarks.speed EXPERIMENT [OPTION ...]

An experiment is a TOML file in experiments/: what is measured, why, what is expected, and the module that does it,
whose further options (--help shows them) may follow.
"""

import argparse
import os
import sys
import tomllib
from pathlib import Path

from benchmarks.command import RESULTS

EXPERIMENTS = {path.stem: path for path in sorted((Path(__file__).parent / "experiments").glob("*.toml"))}


def main() -> None:
    """Says what is asked, and becomes the module that answers it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    name, options = sys.argv[1:2], sys.argv[2:]
    name = parser.parse_args(name).experiment
    asked = tomllib.loads(EXPERIMENTS[name].read_text(encoding="utf-8"))
    print(f"{asked['what']}\n{asked['why']}\nExpected: {asked['expected']}\n", flush=True)
    module, out = f"benchmarks.speed.{asked['module']}", ["--out", str(RESULTS / f"{name}.json")]
    command = [sys.executable, "-m", module, *out, *asked["arguments"], *options]
    os.execve(sys.executable, command, {**os.environ, **asked.get("environment", {})})


if __name__ == "__main__":
    main()
