"""Does `macl tile` keep up with reading?  `python -m benchmarks.speed.tiling`.

A generated scene (deflate with predictor, blocks of 512 px, as COGs are) is cut into tiles of 256 px, beside rasterio
that only reads the same windows, and that writes their bytes to files too, the least that cutting can cost: with as
many threads, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.tables import markdown

TILE, BLOCK = 256, 512


def make_scene(path: Path, side: int, bands: int, compress: str) -> None:
    """A scene of uint16 with edges and noise, about as compressible as reflectances are."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(300, 3000, (bands, 64, 64)), np.ones((1, 16, 16), int))  # pieces of it are drawn
    kind = {"driver": "GTiff", "width": side, "height": side, "count": bands, "dtype": "uint16", "BIGTIFF": "IF_SAFER"}
    packed = {} if compress == "none" else {"compress": compress, "predictor": 2, "zlevel": 1}
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    blocks = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "pixel"}
    with rasterio.open(path, "w", **kind, **packed, **place, **blocks) as file:
        for row in range(0, side, BLOCK):
            for column in range(0, side, BLOCK):
                y, x = rng.integers(0, 512, 2)
                values = ground[:, y : y + BLOCK, x : x + BLOCK] + rng.integers(0, 60, (bands, BLOCK, BLOCK))
                height, width = min(BLOCK, side - row), min(BLOCK, side - column)
                file.write(values[:, :height, :width].astype(np.uint16), window=Window(column, row, width, height))


def read_windows(path: Path, side: int, workers: int, output: Path | None = None) -> int:
    """Reads all windows, a part of the rows in each thread, and writes their bytes to files; returns how many."""

    def read(rows: list[int]) -> int:
        with rasterio.open(path, sharing=False) as file:
            for row in rows:
                for column in range(0, side, TILE):
                    values = file.read(window=Window(column, row, min(TILE, side - column), min(TILE, side - row)))
                    if output is not None:
                        with open(output / f"{row}_{column}", "wb", buffering=0) as tile:
                            tile.write(values.data)
        return len(rows) * len(range(0, side, TILE))

    rows = list(range(0, side, TILE))
    parts = np.array_split(rows, workers)  # neighbouring rows share blocks
    with ThreadPoolExecutor(workers) as executor:
        return sum(executor.map(read, [part.tolist() for part in parts]))


def measure(what: str, scene: Path, output: Path, side: int, workers: int) -> dict[str, float]:
    """One of the three in this process: seconds, of processors too, windows and peak resident memory in bytes."""
    from macl_tf.tiling.tile import tile

    begin, cpu = time.perf_counter(), time.process_time()
    if what == "read":
        windows = read_windows(scene, side, workers)
    elif what == "write":
        output.mkdir()
        windows = read_windows(scene, side, workers, output)
    else:
        windows = tile([scene], output, workers=workers, progress=False).tiles
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu": cpu, "windows": windows, "peak": peak}


def table(summary: dict[str, Any]) -> str:
    """The documents' table."""
    rows = []
    for name, found in summary["measured"].items():
        rate = found["windows"] / found["seconds"]
        cpu = 1000 * found["cpu"] / found["windows"]
        rows.append([name, f"{found['seconds']:.0f}", f"{rate:,.0f}", f"{cpu:.1f}", f"{found['peak'] / 2**20:,.0f}"])
    return markdown(["", "seconds", "windows/s", "CPU ms a window", "peak MiB"], rows)


def main() -> None:
    """Measures, prints and writes the result."""
    parser = command.parser(__doc__, "tiling")
    parser.add_argument("--side", type=int, default=20_000, help="of the scene, pixels")
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--compress", default="deflate", help="of the scene; none for none")
    parser.add_argument("--work", type=Path, help="where to keep the scene (a temporary folder)")
    parser.add_argument("--measure", nargs=4, metavar=("WHAT", "SCENE", "OUTPUT", "WORKERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, scene, output, workers = arguments.measure
        print(json.dumps(measure(what, Path(scene), Path(output), arguments.side, int(workers))))
        return
    measured = {}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        scene = Path(folder) / "scene.tif"
        make_scene(scene, arguments.side, arguments.bands, arguments.compress)
        for workers in (1, 2):
            for what, name in (
                ("read", "rasterio, reading"),
                ("write", "rasterio, reading, and files written"),
                ("tile", "macl tile"),
            ):
                place = ("--measure", what, scene, Path(folder) / f"{what}{workers}", workers)
                said = in_process("benchmarks.speed.tiling", *sys.argv[1:], *place)
                measured[f"{name}, {workers} thread{'s' * (workers > 1)}"] = json.loads(said)
    settings = {name: str(value) for name, value in vars(arguments).items() if name not in ("out", "measure", "work")}
    facts = {"settings": settings, "measured": measured}
    command.record(arguments.out, "benchmarks.speed.tiling", ("rasterio", "numpy"), facts, table)


if __name__ == "__main__":
    main()
