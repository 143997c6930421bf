"""What does Apache Beam cost beside the local command?  `python -m benchmarks.speed.beam`.

`macl embed` of the same tiles, alone and with --runner DirectRunner in its own process, in one worker process and in
two, each as a user would run it, in rounds, of which the fastest counts; at two numbers of tiles: their difference is
the cost of a tile, the rest that of a start. Beside it the planning of many names alone. The tiles are those of an
archive, repeated by links, or are generated. The encoder is EfficientNet-Lite0 with ImageNet weights at 224 pixels.
From the rate of two workers follows what many tiles take.
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
MANY = tuple(WAYS)[-1]
COUNTS, SHARD = (10**6, 10**7, 10**8, 10**9), 4096


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


def plan(tiles: Path, output: Path) -> float:
    """Seconds of a tile to list and write down, as the command does before the pipeline begins."""
    from macl_tf.datasets.images import RGB
    from macl_tf.embedding.beam import Job, plan_shards
    from macl_tf.embedding.shards import Origin
    from macl_tf.embedding.sources import FolderSource
    from macl_tf.export.encoder_anywhere import load_encoder

    job = Job(load_encoder, Origin("", "", 1, (), 1), str(output), str(tiles), tiles.name)  # type: ignore[arg-type]
    source, begin = FolderSource(tiles), time.perf_counter()
    plan_shards(job, source, SHARD, {}, RGB)
    return (time.perf_counter() - begin) / source.count()


def costs(summary: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each way the seconds and processor seconds of a tile, and of all that does not depend on their number."""
    few, many = summary["settings"]["few"], summary["settings"]["many"]
    found = {}
    for name in WAYS:
        small, large = (min(rounds, key=lambda done: done["seconds"]) for rounds in summary["measured"][name])
        a_tile = {key: (large[key] - small[key]) / (many - few) for key in ("seconds", "cpu")}
        found[name] = {**a_tile, "start": small["seconds"] - few * a_tile["seconds"]}
    return found


def table(summary: dict[str, Any]) -> str:
    """The documents' tables."""
    cost = costs(summary)
    rows = []
    for name in WAYS:
        rate, cpu, start = 1 / cost[name]["seconds"], 1000 * cost[name]["cpu"], cost[name]["start"]
        whole = [done["seconds"] for done in summary["measured"][name][1]]
        rows.append([name, f"{rate:.1f}", f"{cpu:.1f}", f"{start:.0f}", f"{min(whole):.0f} to {max(whole):.0f}"])
    seconds, listing, size = cost[MANY]["seconds"], summary["plan_a_tile"], summary["bytes_a_tile"]
    scaled = []
    for count in COUNTS:
        hours, terabytes = count * seconds / 3600, count * size / 1e12
        planned = count * listing / 3600
        numbers = f"{hours:,.0f}", f"{hours / 24:,.1f}", f"{planned:,.2f}", f"{terabytes:,.3f}", f"{count / SHARD:,.0f}"
        scaled.append([f"{count:,}", *numbers])
    heads = ["", "tiles/s", "CPU ms a tile", "start, s", f"{summary['settings']['many']:,} tiles, s"]
    scale = ["tiles", "machine hours", "machines for a day", "driver, h", "shards, TB", "shards"]
    billion = 10**9
    hours, planning, bytes_ = (billion * value for value in (seconds / 3600, listing / 3600, size))
    arithmetic = (
        f"{billion:,} tiles x {seconds:.5f} s / 3,600 = {hours:,.0f} hours of such a machine, at the rate of two "
        f"worker processes; / 24 = {hours / 24:,.0f} machines for a day. Listing and planning: "
        f"x {1000 * listing:.3f} ms / 3,600 = {planning:,.0f} hours of one process. Shards: x {size:,.0f} bytes = "
        f"{bytes_ / 1e12:,.1f} TB, in {billion / SHARD:,.0f} of {SHARD:,} tiles."
    )
    return f"{markdown(heads, rows)}\n\n{arithmetic}\n\n{markdown(scale, scaled)}"


def main() -> None:
    """Measures, prints and writes the result."""
    parser = command.parser(__doc__, "beam")
    parser.add_argument("--data-dir", type=Path, help="an archive whose tiles are repeated (generated ones)")
    parser.add_argument("--few", type=int, default=256, help="tiles")
    parser.add_argument("--many", type=int, default=1536, help="tiles")
    parser.add_argument("--names", type=int, default=50_000, help="that are planned")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=256, help="of generated tiles, pixels")
    parser.add_argument("--shards", type=int, default=8, help="into which they are parted")
    parser.add_argument("--work", type=Path, help="where to keep tiles and shards (a temporary folder)")
    arguments = parser.parse_args()
    from macl_tf.export.saved_model import export_backbone
    from macl_tf.training.settings import Settings

    sizes = arguments.few, arguments.many
    measured: dict[str, list[list[dict[str, float]]]] = {name: [[] for _ in sizes] for name in WAYS}
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        folder, size = Path(temporary), 0.0
        network = {"backbone": "efficientnet-lite0", "weights": "imagenet", "image_size": 224}
        export_backbone(Settings(dataset="folder", descriptor="backbone", **network), folder / "served")
        for count in sizes:
            make_tiles(folder / f"tiles{count}", count, arguments.data_dir, arguments.side)
        make_tiles(folder / "names", arguments.names, folder / f"tiles{arguments.few}", arguments.side)
        plan_a_tile = plan(folder / "names", folder / "planned")
        for turn in range(arguments.rounds):
            for place, count in enumerate(sizes):
                for number, (name, words) in enumerate(WAYS.items()):
                    output = folder / f"shards{count}-{number}-{turn}"
                    parts = -(-count // arguments.shards)
                    done = embed(folder / "served", folder / f"tiles{count}", output, parts, words)
                    if done["tiles"] != count:
                        raise RuntimeError(f"{name} embedded {done['tiles']} tiles of {count}")
                    measured[name][place].append(done)
                    size = sum(os.path.getsize(path) for path in output.iterdir()) / count
    said = {name: str(value) for name, value in vars(arguments).items() if name not in ("out", "work", "data_dir")}
    settings = {name: int(value) for name, value in said.items()}
    facts = {"settings": settings, "measured": measured, "bytes_a_tile": size, "plan_a_tile": plan_a_tile}
    command.record(arguments.out, "benchmarks.speed.beam", ("apache-beam", "tensorflow-cpu", "numpy"), facts, table)


if __name__ == "__main__":
    main()
