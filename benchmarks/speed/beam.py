"""What does Apache Beam cost beside the local command?  `python -m benchmarks.speed.beam`.

`macl embed` of the same tiles, alone and with --runner DirectRunner in its own process, in one worker process and in
two, each as a user would run it; at two numbers of tiles: their difference is the cost of a tile, the rest that of a
start. The tiles are those of an archive, repeated by links, or are generated. The encoder is EfficientNet-Lite0 with
ImageNet weights at 224 pixels. From the rate of two workers follows what many tiles take.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import command
from benchmarks.tables import markdown
from macl_tf.datasets.walk import image_paths

PROCESSES = "--runner-option", "direct_running_mode=multi_processing", "--runner-option"
WAYS: dict[str, tuple[str, ...]] = {
    "macl embed": (),
    "DirectRunner in its own process": ("--runner", "DirectRunner"),
    "DirectRunner, 1 worker process": ("--runner", "DirectRunner", *PROCESSES, "direct_num_workers=1"),
    "DirectRunner, 2 worker processes": ("--runner", "DirectRunner", *PROCESSES, "direct_num_workers=2"),
}
MANY, AGAIN = tuple(WAYS)[-1], "the same again, nothing to do"
COUNTS = (10**6, 10**7, 10**8, 10**9)


def make_tiles(folder: Path, count: int, archive: Path | None, side: int) -> None:
    """So many tiles, linked from an archive again and again, or drawn."""
    folder.mkdir()
    there = [] if archive is None else image_paths(archive)
    rng = np.random.default_rng(0)
    for number in range(count):
        if there:
            (folder / f"{number:07}{there[0].suffix}").symlink_to(there[number % len(there)].resolve())
        else:
            ground = np.kron(rng.integers(0, 255, (side // 16, side // 16, 3)), np.ones((16, 16, 1), int))
            pixels = (ground + rng.integers(0, 30, ground.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:07}.jpg", quality=90)


def embed(served: Path, tiles: Path, output: Path, shard_size: int, words: tuple[str, ...]) -> dict[str, float]:
    """One command: seconds, of processors too, and the tiles that it embedded."""
    asked = [sys.executable, "-m", "macl_tf.cli", "embed", served, "--input", tiles, "--output", output, "--quiet"]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*map(str, asked), "--shard-size", str(shard_size), *words], capture_output=True, text=True)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = re.match(r"([\d,]+) images embedded", done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, "tiles": int(found[1].replace(",", "")) if found else 0}


def costs(summary: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each way the seconds and processor seconds of a tile, and of all that does not depend on their number."""
    few, many = summary["settings"]["few"], summary["settings"]["many"]
    found = {}
    for name, (small, large) in summary["measured"].items():
        a_tile = {key: (large[key] - small[key]) / (many - few) for key in ("seconds", "cpu")}
        found[name] = {**a_tile, "start": small["seconds"] - few * a_tile["seconds"]}
    return found


def table(summary: dict[str, Any]) -> str:
    """The documents' tables."""
    cost = costs(summary)
    rows = []
    for name in WAYS:
        rate, cpu, start = 1 / cost[name]["seconds"], 1000 * cost[name]["cpu"], cost[name]["start"]
        large = summary["measured"][name][1]
        rows.append([name, f"{rate:.1f}", f"{cpu:.1f}", f"{start:.0f}", f"{large['seconds']:.0f}"])
    seconds, listing, size = cost[MANY]["seconds"], cost[AGAIN]["seconds"], summary["bytes_a_tile"]
    scaled = []
    for count in COUNTS:
        hours = count * seconds / 3600
        planned = f"{count * listing / 3600:,.2f}"
        scaled.append(
            [
                f"{count:,}",
                f"{hours:,.0f}",
                f"{hours / 24:,.1f}",
                planned,
                f"{count * size / 1e12:,.3f}",
                f"{count / 4096:,.0f}",
            ]
        )
    heads = ["", "tiles/s", "CPU ms a tile", "start, s", f"{summary['settings']['many']:,} tiles, s"]
    scale = ["tiles", "machine hours", "machines for a day", "driver, h", "shards, TB", "shards"]
    return f"{markdown(heads, rows)}\n\n{markdown(scale, scaled)}"


def main() -> None:
    """Measures, prints and writes the result."""
    parser = command.parser(__doc__, "beam")
    parser.add_argument("--data-dir", type=Path, help="an archive whose tiles are repeated (generated ones)")
    parser.add_argument("--few", type=int, default=256, help="tiles")
    parser.add_argument("--many", type=int, default=2304, help="tiles")
    parser.add_argument("--side", type=int, default=256, help="of generated tiles, pixels")
    parser.add_argument("--shards", type=int, default=8, help="into which they are parted")
    parser.add_argument("--work", type=Path, help="where to keep tiles and shards (a temporary folder)")
    arguments = parser.parse_args()
    from macl_tf.export.saved_model import export_backbone
    from macl_tf.training.settings import Settings

    measured: dict[str, list[dict[str, float]]] = {name: [] for name in (*WAYS, AGAIN)}
    with tempfile.TemporaryDirectory(dir=arguments.work) as place:
        folder, size = Path(place), 0.0
        network = {"backbone": "efficientnet-lite0", "weights": "imagenet", "image_size": 224}
        export_backbone(Settings(dataset="folder", descriptor="backbone", **network), folder / "served")
        for count in (arguments.few, arguments.many):
            make_tiles(folder / f"tiles{count}", count, arguments.data_dir, arguments.side)
            for number, (name, words) in enumerate(WAYS.items()):
                output = folder / f"shards{count}-{number}"
                asked = folder / "served", folder / f"tiles{count}", output, -(-count // arguments.shards), words
                measured[name].append(embed(*asked))
                if measured[name][-1]["tiles"] != count:
                    raise RuntimeError(f"{name} embedded {measured[name][-1]['tiles']} tiles of {count}")
            measured[AGAIN].append(embed(*asked))
            size = sum(os.path.getsize(path) for path in output.iterdir()) / count
    said = {name: str(value) for name, value in vars(arguments).items() if name not in ("out", "work", "data_dir")}
    settings = {name: int(value) for name, value in said.items()}
    facts = {"settings": settings, "measured": measured, "bytes_a_tile": size}
    command.record(arguments.out, "benchmarks.speed.beam", ("apache-beam", "tensorflow-cpu", "numpy"), facts, table)


if __name__ == "__main__":
    main()
