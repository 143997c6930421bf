"""What only GPUs can show: steps of training by precision, with and without XLA, and on all GPUs of a machine.

    python -m benchmarks.speed.gpu [--backbones resnet18 efficientnet-lite0] [--size 224] [--batch 256]

Images per second of steps as `macl train` takes them (forward, MACL, backward, AdamW) on batches that lie in memory,
the fastest of several epochs, each case in a process of its own. With several GPUs each has --batch rows, so what N
of them lack of N times one is what gathering embeddings and adding gradients costs; XLA, which takes no variables of
several devices, is for one. --logical N tries the command where there is no GPU, on so many logical devices of the
processor: those rates mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import product
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.tables import markdown

LABELS = 17
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy")


def devices(logical: int) -> list[Any]:
    """The GPUs that this process sees, or `logical` parts of the processor."""
    import tensorflow as tf

    if not logical:
        return list(tf.config.list_logical_devices("GPU"))
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * logical)
    return list(tf.config.list_logical_devices("CPU"))


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Images per second of a case over all devices that this process sees, and the peak of one's memory in MB."""
    import keras
    import tensorflow as tf

    from macl_tf.labels import LabelStatistics
    from macl_tf.pipeline.pipeline import TrainingData
    from macl_tf.training import build
    from macl_tf.training.loop import fit
    from macl_tf.training.settings import Settings
    from macl_tf.training.workers import Workers

    used = devices(case["logical"])[: case["replicas"]]
    keras.config.set_dtype_policy(case["precision"])
    keras.utils.set_random_seed(0)
    rows, size = case["batch"], case["size"]
    settings = Settings(backbone=case["backbone"], weights="", image_size=size, batch_size=rows * len(used),
                        epochs=case["epochs"])  # fmt: skip
    rng = np.random.default_rng(0)
    labels = (rng.random((len(used), rows, LABELS)) < 0.2).astype(np.float32)
    pixels = rng.integers(0, 256, (rows, size, size, 3)).astype(np.float32)
    strategy = Workers().strategy if len(used) > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = build.trained_model(build.make_encoder(settings), settings, LABELS)
        statistics = LabelStatistics.from_labels(labels.reshape(-1, LABELS))
        build.compile_model(model, settings, case["steps"], statistics, jit_compile=case["xla"])
    parts = tf.data.Dataset.from_tensor_slices(labels).map(lambda known: (pixels, known)).cache().repeat()
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    fit(model, TrainingData(parts, case["steps"], True, np.empty(0), 0), settings, [clock])
    memory = 0.0 if case["logical"] else tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
    return {"images_per_second": case["steps"] * settings.batch_size / np.diff(ends).min(), "peak_mb": memory}


def visible(replicas: int, logical: int) -> dict[str, str]:
    """The environment of a process that sees so many GPUs."""
    if logical:
        return {}
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[:replicas] if names[0] else map(str, range(replicas)))}


def table(summary: dict[str, Any]) -> str:
    """A line for each case, and how many times the backbone's first, one GPU in float32 without XLA, it is."""
    rows, first = [], dict[str, float]()  # of each backbone, the rate in float32 on one GPU
    for case in summary["results"]:
        rate = case["images_per_second"]
        times = rate / first.setdefault(case["backbone"], rate)
        words = [case["backbone"], case["precision"], "yes" if case["xla"] else "no", case["replicas"]]
        rows.append([*words, f"{rate:,.0f}", f"{times:.2f}", f"{case['peak_mb']:,.0f}"])
    return markdown(["backbone", "precision", "XLA", "GPUs", "images/s", "times the first", "peak MB of one"], rows)


def main() -> None:
    """Measures every case, writes the JSON, prints the table."""
    parser = command.parser(__doc__, "gpu")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "efficientnet-lite0"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS])
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=256, help="rows on each GPU")
    parser.add_argument("--steps", type=int, default=20, help="in an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="of which the first, which compiles, is not counted")
    parser.add_argument("--logical", type=int, default=0, help="try the command on so many parts of the processor")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        print(len(devices(options.logical)))
        return
    if options.measure:
        print(json.dumps(measure(json.loads(options.measure))))
        return
    if options.epochs < 2:
        parser.error(f"--epochs must be at least 2, since the first is not counted, got {options.epochs}.")
    there = int(in_process("benchmarks.speed.gpu", "--count", "--logical", options.logical))
    if not there:
        parser.error("TensorFlow sees no GPU. Install the extra gpu, or try the command by --logical 2.")
    asked = {name: getattr(options, name) for name in ("size", "batch", "steps", "epochs", "logical")}
    ways = [(False, 1), (True, 1), *([(False, there)] if there > 1 else [])]
    results = []
    for backbone, precision, way in tqdm([*product(options.backbones, options.precisions, ways)], unit="process"):
        xla, replicas = way
        case = {"backbone": backbone, "precision": precision, "xla": xla, "replicas": replicas, **asked}
        words, seen = ("--measure", json.dumps(case)), visible(replicas, options.logical)
        results.append(case | json.loads(in_process("benchmarks.speed.gpu", *words, env=seen)))
    command.record(options.out, "benchmarks.speed.gpu", _PACKAGES, {"results": results}, table)


if __name__ == "__main__":
    main()
