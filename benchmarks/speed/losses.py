"""Time and memory of a loss and its gradient by batch size, beside bare matrix products and pytorch-metric-learning.

    pip install '.[peers]'
    python -m benchmarks.speed.losses [--rows 256 1024 4096 16384] [--only NAME ...]

The batch is D = 128 and C = 17: labels from frequent to rare in sets that repeat as in UC Merced, or, as "distinct",
drawn one by one, so that few sets repeat.
pytorch-metric-learning gets one of 17 classes for each row, since its losses take no label sets. Bare products are
Z Z^T and the two products of a gradient (S Z and S^T Z), which no loss over all pairs can do without.

Every figure comes from processes of its own, in rounds that take all contenders in turn; a time is the median of the
processes' medians, memory the peak of the process beyond the same process before its first step. Up to B = 1,024, where
processes differ by a fifth, the times of ours and of the bare products come from processes that take steps of each in
turn. A process may hold 18 GiB, and fails beyond. Stopped and started again with the same words, it goes on where it
was.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.tables import markdown
from macl_tf.files import read_json, write_json

WIDTH, LABELS, SEED = 128, 17, 0
ROWS = (256, 1024, 4096, 16384)
SECONDS = 2.0  # of repeats in a process, at least three; two where each takes more than ten
MOST_BYTES = 18 * 2**30  # of a process: an error in it is better than the end of another one
# Name: class of macl_tf.losses, its arguments, whether XLA compiles it, whether label sets hardly repeat.
OURS: dict[str, tuple[str, dict[str, Any], bool, bool]] = {
    "SupCon": ("SupCon", {}, False, False),
    "MACL": ("MACL", {}, False, False),
    "MACL, one tile": ("MACL", {"tile_size": 0}, False, False),
    "MACL, tiled": ("MACL", {"tile_size": 256}, False, False),
    "MACL, XLA": ("MACL", {}, True, False),
    "SupCon, distinct": ("SupCon", {}, False, True),
    "MACL, distinct": ("MACL", {}, False, True),
}
PEERS = {"PML SupConLoss": "SupConLoss", "PML MultiSimilarityLoss": "MultiSimilarityLoss"}
BARE = "matrix products"
CONTENDERS = (BARE, *OURS, *PEERS)
RATIOS = {  # what we aim at
    ("MACL", "SupCon"): "1.25 or less",
    ("MACL", BARE): "2 or less from 4,096",
    ("PML SupConLoss", "MACL"): "3 or more from 1,024",
}
NOISY_ROWS, MORE = 1024, 3  # up to so many rows, so many times the processes


def batch(rows: int, distinct: bool) -> tuple[np.ndarray, np.ndarray]:
    """Multi-hot labels (B, 17) and unit-norm embeddings (B, 128).

    An archive repeats its label sets: the 1,680 tiles of UC Merced have 181 of them. Sets drawn by rank^-1.4 from a
    pool repeat about as often. `distinct` draws every label of every row by itself.
    """
    rng = np.random.default_rng(SEED)
    share = np.linspace(0.5, 0.02, LABELS)
    pool = rng.random((rows if distinct else 8000, LABELS)) < share
    if not distinct:
        chance = np.arange(1, len(pool) + 1) ** -1.4
        pool = pool[rng.choice(len(pool), rows, p=chance / chance.sum())]
    labels = pool.astype("float32")
    z = rng.standard_normal((rows, WIDTH)).astype("float32")
    return labels, z / np.linalg.norm(z, axis=1, keepdims=True)


def tensorflow_step(name: str, rows: int) -> Callable[[], Any]:
    """One value and gradient of a loss of ours, or the bare products, in a tf.function as in `fit`."""
    import tensorflow as tf

    from macl_tf import losses

    kind, arguments, xla, distinct = OURS.get(name, ("", {}, False, False))
    labels, z = map(tf.constant, batch(rows, distinct))
    if name == BARE:

        @tf.function
        def step() -> Any:
            similarities = tf.matmul(z, z, transpose_b=True)
            return tf.matmul(similarities, z), tf.matmul(similarities, z, transpose_a=True)

        return lambda: [part.numpy() for part in step()]

    loss = getattr(losses, kind)(**arguments)

    @tf.function(jit_compile=xla)
    def value_and_gradient(labels: Any, z: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(labels, z)
        return value, tape.gradient(value, z)

    return lambda: [part.numpy() for part in value_and_gradient(labels, z)]


def torch_step(name: str, rows: int) -> Callable[[], Any]:
    """One value and gradient of a loss of pytorch-metric-learning."""
    import torch
    from pytorch_metric_learning import losses

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    _, numbers = batch(rows, False)
    z = torch.tensor(numbers, requires_grad=True)
    classes = torch.tensor(np.random.default_rng(SEED).integers(0, LABELS, rows))
    loss = getattr(losses, PEERS[name])()

    def step() -> Any:
        z.grad = None
        loss(z, classes).backward()
        return z.grad.numpy()

    return step


def measure(names: list[str], rows: int) -> dict[str, Any]:
    """Median seconds by contender, which take their steps in turn, how many, and the peak memory in bytes.

    Memory is what the process holds beyond what it held before its first step.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    steps = [(torch_step if name in PEERS else tensorflow_step)(name, rows) for name in names]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rounds: list[list[float]] = []
    warm = 2  # tracing, compiling, filling caches
    while len(rounds) < warm + 3 or sum(map(sum, rounds[warm:])) < SECONDS * len(names):
        rounds.append([])
        for step in steps:
            begin = time.perf_counter()
            step()
            rounds[-1].append(time.perf_counter() - begin)
        if len(rounds) == 1 and min(rounds[0]) > 10:  # three such steps are enough
            warm = 1
        if len(rounds) > 2 and min(rounds[-1]) > 10:
            break
    medians = map(statistics.median, zip(*rounds[warm:], strict=True))
    return {
        "seconds": dict(zip(names, medians, strict=True)),
        "repeats": len(rounds) - warm,
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
    }


def in_process_of_its_own(names: list[str], rows: int) -> dict[str, Any]:
    """`measure`, or {"failed": why}."""
    try:
        return json.loads(in_process("benchmarks.speed.losses", "--measure", *names, rows))
    except RuntimeError as error:
        return {"failed": str(error).splitlines()[-1][:200]}


def processes(names: list[str], rows: int, rounds: int) -> list[list[str]]:
    """Who is measured in each process."""
    if rows > NOISY_ROWS:
        return [[name] for _ in range(rounds) for name in names]
    ours, peers = [name for name in names if name not in PEERS], [[name] for name in names if name in PEERS]
    together = [ours] if ours else []
    memory = [[name] for name in ours] if len(ours) > 1 else []
    return [*memory, *(process for _ in range(MORE * rounds) for process in [*together, *peers])]


def run(names: list[str], sizes: list[int], rounds: int, part: Path) -> dict[str, dict[str, Any]]:
    """Median milliseconds, and peak memory in MiB, by contender and batch size; `part` keeps what there is so far."""
    turns = [[process, rows] for rows in sizes for process in processes(names, rows, rounds)]
    measured = read_json(part)["measured"] if part.is_file() and read_json(part)["turns"] == turns else []
    for process, rows in tqdm(turns[len(measured) :], "losses", unit="process"):
        measured.append(in_process_of_its_own(process, rows))
        write_json(part, {"turns": turns, "measured": measured})
    results: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        for size in sizes:
            shared = [(process, one) for (process, rows), one in zip(turns, measured, strict=True)
                      if rows == size and name in process]  # fmt: skip
            results[name][str(size)] = figures(name, shared)
    return results


def figures(name: str, measured: list[tuple[list[str], dict[str, Any]]]) -> dict[str, Any]:
    """What processes that took steps of a contender say of it: times where it took turns, memory where it was alone."""
    failed = next((one["failed"] for _, one in measured if "failed" in one), None)
    if failed:
        return {"failed": failed}
    alone = [one for process, one in measured if len(process) == 1]
    in_turns = [one for process, one in measured if len(process) > 1] or alone
    return {
        "ms": round(1000 * statistics.median(one["seconds"][name] for one in in_turns), 3),
        "processes": len(in_turns),
        "repeats": sum(one["repeats"] for one in in_turns),
        "peak_mib": round(statistics.median(one["memory"] for one in alone) / 2**20),
    }


def table(summary: dict[str, Any]) -> str:
    """Three tables in Markdown: time with its ratio to the bare products, the ratios that we aim at, and memory."""
    results = summary["results"]
    sizes = list(next(iter(results.values())))
    head = [f"B = {int(size):,}" for size in sizes]

    def cell(name: str, size: str, key: str) -> str:
        entry = results[name][size]
        if "failed" in entry:
            return "failed"
        if key == "peak_mib":
            return f"{entry[key]:,}"
        bare = results.get(BARE, {}).get(size, {}).get("ms")
        ratio = f" ({entry['ms'] / bare:.2f})" if bare and name != BARE else ""
        return f"{entry['ms']:,.1f}{ratio}" if entry["ms"] < 100 else f"{entry['ms']:,.0f}{ratio}"

    parts = [
        markdown([title, *head], [[name, *(cell(name, size, key) for size in sizes)] for name in results])
        for title, key in (("ms", "ms"), ("peak MiB", "peak_mib"))
    ]
    lines = []
    for (name, other), aim in RATIOS.items():
        if name in results and other in results:
            pairs = [(results[name][size].get("ms"), results[other][size].get("ms")) for size in sizes]
            cells = [f"{one / two:.2f}" if one and two else "" for one, two in pairs]
            lines.append([f"{name} / {other}", *cells, aim])
    if lines:
        parts.insert(1, markdown(["ratio of times", *head, "aim"], lines, "l" + "r" * len(head) + "l"))
    return "\n\n".join(parts)


def main() -> None:
    """Measures all contenders, writes the JSON and prints the tables."""
    parser = command.parser(__doc__, "losses")
    parser.add_argument("--rows", type=int, nargs="+", default=[*ROWS], help="batch sizes")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], help="contenders")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each time; more up to B = 1,024")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[:-1], int(options.measure[-1]))))
        return
    part = options.out.with_suffix(".partial.json")
    results = run(options.only, options.rows, options.rounds, part)
    packages = ("tensorflow-cpu", "keras", "numpy", "torch", "pytorch-metric-learning")
    facts = {
        "width": WIDTH,
        "labels": LABELS,
        "seed": SEED,
        "distinct_label_sets": {
            str(rows): [len(np.unique(batch(rows, distinct)[0], axis=0)) for distinct in (False, True)]
            for rows in options.rows
        },
        "results": results,
    }
    command.record(options.out, "benchmarks.speed.losses", packages, facts, table)
    part.unlink()


if __name__ == "__main__":
    main()
