"""Does all of BigEarthNet open in bounded memory, and go on after a kill?  `python -m benchmarks.speed.bigearthnet`.

As many patches as v1 has are generated: folders with their labels and, in place of pictures, an empty file of band 1,
since opening reads no picture. Needs 5 GB of disk and 1.2 million inodes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import command
from benchmarks.tables import markdown

LINKS = 50_000  # names of one file, fewer than any file system takes


def make(root: Path, patches: int) -> None:
    """The patches: one to five labels each."""
    from macl_tf.datasets.bigearthnet import LABELS

    rng, names = np.random.default_rng(0), np.array(LABELS[43])
    for number in tqdm(range(patches), "patches", unit="patch"):
        name = f"S2A_MSIL2A_2017{number // 90_000:04}T101031_{number // 300 % 300}_{number % 300}"
        folder = root / name
        folder.mkdir(parents=True)
        held = rng.choice(names, rng.integers(1, 6), replace=False).tolist()
        facts = {
            "labels": held,
            "coordinates": {"ulx": 0, "uly": 0, "lrx": 0, "lry": 0},
            "projection": "",
            "tile_source": "",
        }
        (folder / f"{name}_labels_metadata.json").write_text(json.dumps(facts))
        if number % LINKS == 0:
            empty = folder / f"{name}_B01.tif"
            empty.touch()
        else:
            os.link(empty, folder / f"{name}_B01.tif")


def measure(root: Path, cache: Path) -> dict[str, float]:
    """Opens it in this process: seconds, patches, peak resident memory in bytes."""
    from macl_tf.datasets import load_archive

    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.perf_counter()
    archive = load_archive("bigearthnet", root, cache_dir=cache)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "patches": len(archive), "before": before, "peak": peak}


def table(summary: dict[str, Any]) -> str:
    """The documents' table."""
    rows = [
        [name, f"{found['patches']:,}", f"{found['seconds']:.0f}", f"{(found['peak'] - found['before']) / 2**20:,.0f}"]
        for name, found in summary["measured"].items()
    ]
    return markdown(["", "patches", "seconds", "MiB more than before"], rows)


def main() -> None:
    """Measures, prints and writes the result."""
    parser = command.parser(__doc__, "bigearthnet")
    parser.add_argument("--patches", type=int, default=590_326)
    parser.add_argument("--work", type=Path, help="where the patches are made (a temporary folder)")
    parser.add_argument("--measure", nargs=2, metavar=("ROOT", "CACHE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*map(Path, arguments.measure))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        root, cache = Path(folder) / "BigEarthNet-v1.0", Path(folder) / "cache"
        make(root, arguments.patches)
        words = ("--measure", root, cache)
        # Killed when half of the labels are noted.
        half = subprocess.Popen([sys.executable, "-m", "benchmarks.speed.bigearthnet", *map(str, words)])
        while half.poll() is None and len(list(cache.rglob("*.json"))) < arguments.patches // 40_000:
            time.sleep(0.2)
        half.send_signal(signal.SIGKILL)
        if half.wait() != -signal.SIGKILL:
            raise SystemExit("it ended before it could be killed: give more --patches.")
        noted = len(list(cache.rglob("*.json")))
        measured = {
            name: json.loads(command.in_process("benchmarks.speed.bigearthnet", *words))
            for name in (f"going on after a kill, with {noted * 20_000:,} noted", "again")
        }
    facts = {"settings": {"patches": arguments.patches}, "measured": measured}
    command.record(arguments.out, "benchmarks.speed.bigearthnet", ("numpy",), facts, table)


if __name__ == "__main__":
    main()
