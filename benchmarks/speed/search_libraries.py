"""ScaNN as macl_tf tunes it beside FAISS, hnswlib and usearch: building, memory, and speed at a given recall.

    pip install faiss-cpu hnswlib usearch
    python -m benchmarks.speed.search_libraries --work DIR [--run-dir RUN --data-dir UCM]

All search the same unit vectors for the 10 nearest by inner product: a million generated ones, and, with --run-dir and
--data-dir, embeddings of UC Merced tiles under augmentation by that run's encoder. Each library is swept over its
search settings, and the fastest setting counts whose recall@10, over 1,000 queries that are not in the index, reaches
0.90, 0.95 and 0.99. Queries are handed over all at once, through the library's own interface for batches; the time is
the best of several passes. Every measurement runs in a process of its own that has as many processors as threads.

Vectors, built indexes and finished measurements stay in the work folder: the same command after an interruption goes
on, and --fresh measures again what has been built. Where the time of one search by picture goes is
`benchmarks.speed.search_by_image`'s to say.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.speed.fastest_settings import TARGETS, build, index_folder, measure
from benchmarks.speed.libraries import LIBRARIES
from benchmarks.speed.search_vectors import QUERIES, Data, clustered, embedded, load
from benchmarks.tables import markdown
from macl_tf.files import read_json, write_json


def step_in_process(step: str, options: argparse.Namespace, *words: str, threads: int, limit: float) -> Any:
    """Runs one step with as many processors as threads; its JSON, or what went wrong as {"failed": ...}."""
    processors = sorted(os.sched_getaffinity(0))[:threads]
    said = ["--work", options.work, "--step", step, *words, threads]
    env = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    share = {"env": env, "preexec_fn": lambda: os.sched_setaffinity(0, processors)}
    try:
        return json.loads(in_process("benchmarks.speed.search_libraries", *said, timeout=limit, **share))
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {limit:.0f} s"}
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return {"failed": "an error", "error": str(error)[-300:]}


def data_sets(options: argparse.Namespace) -> list[Data]:
    """The vectors to search, made if they are not there yet."""
    sets = []
    if options.run_dir and options.data_dir:
        sets.append(embedded(options.work, options.tiles, options.run_dir, options.data_dir))
    return sets + [clustered(options.work, size) for size in options.sizes]


def run(options: argparse.Namespace, sets: list[Data]) -> list[dict[str, Any]]:
    """Everything, data set by data set; what is in the work folder already is not done again."""
    results = []
    for data in sets:
        rows = {}
        for name in tqdm(options.libraries, data.name, unit="index"):
            rows[name] = {"library": LIBRARIES[name].package, "note": LIBRARIES[name].note}
            rows[name]["build"] = kept(options, "build", data.name, name, 2, options.build_limit)
            if "failed" not in rows[name]["build"]:
                for threads in (1, 2):
                    part = f"threads_{threads}"
                    rows[name][part] = kept(options, "measure", data.name, name, threads, 600)
        results.append({"data": data.name, **data.facts, "rivals": rows})
    return results


def kept(options: argparse.Namespace, step: str, data_name: str, name: str, threads: int, limit: float) -> Any:
    """What a step has left in the work folder, or leaves there now."""
    folder = index_folder(options.work, data_name, name)
    path = folder.with_name(f"{folder.name}.{step}-{threads}.json")
    if not path.exists() or (options.fresh and step == "measure"):
        row = step_in_process(step, options, data_name, name, threads=threads, limit=limit)
        if "error" in row:
            return row  # to be tried again next time
        write_json(path, row)
    return read_json(path)


def tables(summary: dict[str, Any]) -> str:
    """The tables of all data sets, each under its name."""
    title = "{data}: {size:,} vectors, queries per second at recall@10\n\n"
    return "\n\n".join(title.format(**one) + table(one) for one in summary["results"])


def table(result: dict[str, Any]) -> str:
    """The table of a data set."""
    reached = [(threads, f"{target:.2f}") for threads in (1, 2) for target in TARGETS]
    head = ["index", "build s", "MB", *(f"{recall}, {n} thread{'s'[: n - 1]}" for n, recall in reached)]
    rows = []
    for name, row in result["rivals"].items():
        if "failed" in row["build"]:
            rows.append([name, row["build"]["failed"], *[""] * (len(head) - 2)])
            continue
        points = [row[f"threads_{threads}"].get("at_recall", {}).get(recall) for threads, recall in reached]
        memory = row["threads_1"].get("memory_mb", np.nan)
        speeds = [f"{point['qps']:,.0f}" if point else "-" for point in points]
        rows.append([name, f"{row['build']['seconds']:.0f}", f"{memory:.0f}", *speeds])
    return markdown(head, rows)


def main() -> None:
    """Runs what is missing and prints the tables."""
    parser = command.parser(__doc__, "search_libraries")
    parser.add_argument("--work", type=Path, required=True, help="folder for vectors and indexes, some 10 GB")
    parser.add_argument("--run-dir", type=Path, help="a finished run, to embed tiles with")
    parser.add_argument("--data-dir", type=Path, help="UC Merced, to embed")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000_000], help="of the generated vectors")
    parser.add_argument("--tiles", type=int, default=100_000, help="embeddings of tiles")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=[*LIBRARIES], help="which ones")
    parser.add_argument("--fresh", action="store_true", help="measure again; indexes are kept")
    parser.add_argument("--build-limit", type=float, default=1800, help="seconds for one index")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, data_name, name, threads = options.step
        do = {"build": build, "measure": measure}[step]
        print(json.dumps(do(load(options.work, data_name), name, options.work, int(threads))))
        return

    sets = data_sets(options)
    results = run(options, sets)
    packages = sorted({library.package for library in LIBRARIES.values()})
    facts = {"queries": QUERIES, "results": results}
    command.record(options.out, "benchmarks.speed.search_libraries", packages, facts, tables)


if __name__ == "__main__":
    main()
