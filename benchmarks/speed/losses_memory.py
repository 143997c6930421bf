"""Peak memory of a loss at a large batch: value and gradient, against the same run at 256 rows.

python -m benchmarks.speed.losses_memory [--rows 65536] [--loss MACL] [--tile-size N]

Each run is a process of its own. The figure is the peak resident memory of the large run, less that of the
small one (the framework), less what the large run's labels, embeddings and gradient take.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from typing import Any

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.tables import markdown

SMALL = 256


def measure(name: str, rows: int, width: int, labels: int, tile_size: int | None) -> dict[str, Any]:
    """One value and gradient in this process: seconds, peak resident memory and size of inputs and gradient, bytes."""
    import numpy as np
    import tensorflow as tf

    from macl_tf import losses

    rng = np.random.default_rng(0)
    # Labels from frequent to rare, as archives have them; the sets of a batch are few beside its rows.
    y = tf.constant((rng.random((rows, labels), np.float32) < np.linspace(0.5, 0.02, labels)).astype("float32"))
    z = rng.standard_normal((rows, width), np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    z = tf.constant(z)
    loss = getattr(losses, name)(tile_size=tile_size)
    begin = time.perf_counter()
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(y, z)
    gradient = tape.gradient(value, z)
    if not np.isfinite(float(value)) or not np.isfinite(gradient.numpy()).all():
        raise RuntimeError(f"{name} at {rows} rows gave a value or gradient that is not finite.")
    return {
        "seconds": time.perf_counter() - begin,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "tensors": 4 * rows * (2 * width + labels),
        "distinct_label_sets": len(np.unique(np.packbits(y.numpy() > 0, axis=1), axis=0)),
        "value": float(value),
    }


def run(rows: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    return json.loads(in_process("benchmarks.speed.losses_memory", *sys.argv[1:], "--measure", rows))


def main() -> None:
    """Measures the large and the small run and prints the difference."""
    parser = command.parser(__doc__, "losses_memory")
    parser.add_argument("--rows", type=int, default=65536, help="rows of the batch")
    parser.add_argument("--width", type=int, default=128, help="dimensions of the embeddings")
    parser.add_argument("--labels", type=int, default=17, help="labels")
    parser.add_argument("--loss", default="MACL", help="name of a class of macl_tf.losses")
    parser.add_argument("--tile-size", type=int, help="rows per tile; 0: all at once; default: chosen by size")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measured = measure(options.loss, options.measure, options.width, options.labels, options.tile_size)
        print(json.dumps(measured))
        return
    small, large = run(SMALL), run(options.rows)
    beyond = (large["peak"] - large["tensors"]) - (small["peak"] - small["tensors"])
    keys = ("loss", "rows", "width", "labels", "tile_size")
    facts = {key: getattr(options, key) for key in keys} | {"small": small, "large": large, "beyond": beyond}
    packages = ("tensorflow-cpu", "tensorflow", "keras", "numpy")
    command.record(options.out, "benchmarks.speed.losses_memory", packages, facts, table)


def table(summary: dict[str, Any]) -> str:
    """The documents' table."""
    head = ["loss", "B", "D", "C", "MiB beyond inputs, gradient and framework", "a B x B matrix, MiB", "seconds"]
    mib = f"{summary['beyond'] / 2**20:,.0f}", f"{4 * summary['rows'] ** 2 / 2**20:,.0f}"
    sizes = f"{summary['rows']:,}", summary["width"], summary["labels"]
    return markdown(head, [[summary["loss"], *sizes, *mib, f"{summary['large']['seconds']:.0f}"]])


if __name__ == "__main__":
    main()
