"""Does the pipeline feed faster than the encoder eats?  `python -m benchmarks.pipeline`.

Both run on the same cores, so besides the two rates it measures the CPU time that the pipeline takes per image,
and the rate of training with the pipeline against training on one batch that is already there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from macl_tf import MACL
from macl_tf.datasets.archives import Archive, decode_image
from macl_tf.encoders import build_encoder
from macl_tf.pipeline import TrainingData, training_dataset

TILE = 256  # pixels, as in UC Merced and WHDLD
LABELS = 17


def jpeg_archive(folder: Path, num_images: int, seed: int) -> Archive:
    """Archive of generated JPEG tiles on disk, as detailed as photographs (about 25 kB each)."""
    generator = np.random.default_rng(seed)
    paths = [folder / f"{number:05d}.jpg" for number in range(num_images)]
    for path in paths:
        octaves = [
            generator.normal(128, 60, (side, side, 3)).clip(0, 255).astype(np.uint8) for side in (4, 16, 64)
        ]
        tiles = [np.asarray(Image.fromarray(octave).resize((TILE, TILE)), np.float32) for octave in octaves]
        Image.fromarray(np.mean(tiles, axis=0).astype(np.uint8)).save(path, quality=90)
    labels = generator.random((num_images, LABELS)) < np.geomspace(0.5, 0.02, LABELS)
    labels[:, 0] |= ~labels.any(axis=1)
    names = tuple(path.name for path in paths)
    label_names = tuple(f"label{number}" for number in range(LABELS))
    return Archive(
        "generated", label_names, names, labels, lambda index: decode_image(paths[index], names[index])
    )


def pipeline_rate(data: TrainingData, batch_size: int, seconds: float) -> dict[str, float]:
    """Images per second and CPU milliseconds per image (all threads), after a warm-up of a quarter of the time."""
    batches: Iterator[object] = iter(data.dataset)
    for duration in (seconds / 4, seconds):
        images, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < duration:
            next(batches)
            images += batch_size
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"images_per_second": images / wall, "cpu_ms_per_image": 1000 * cpu / images}


def training_rates(
    encoder: keras.Model, datasets: list[tf.data.Dataset], batch_size: int, steps: int
) -> list[float]:
    """Images per second of `fit` on each data set: median of three rounds, in turn, the compilation left out."""
    rates: list[list[float]] = [[] for _ in datasets]
    encoder.fit(datasets[0], epochs=1, steps_per_epoch=2, shuffle=False, verbose=0)
    for _ in range(3):
        for dataset, measured in zip(datasets, rates, strict=True):
            start = time.perf_counter()
            encoder.fit(dataset, epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0)
            measured.append(steps * batch_size / (time.perf_counter() - start))
    return [float(np.median(measured)) for measured in rates]


def processor() -> str:
    """Model name of the CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=64, help="side of the training images in pixels")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step")
    parser.add_argument("--num-images", type=int, default=1024, help="JPEG tiles to generate")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="time for each measurement of the pipeline"
    )
    parser.add_argument("--steps", type=int, default=8, help="training steps in each round")
    parser.add_argument("--seed", type=int, default=0, help="of the tiles, the draws and the encoder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pipeline.json")
    arguments = parser.parse_args()
    size, batch_size = arguments.image_size, arguments.batch_size
    keras.utils.set_random_seed(arguments.seed)

    with tempfile.TemporaryDirectory() as folder:
        archive = jpeg_archive(Path(folder), arguments.num_images, arguments.seed)
        settings = {"image_size": size, "batch_size": batch_size, "seed": arguments.seed, "epochs": 10**6}
        indices = np.arange(len(archive))
        cached = training_dataset(archive, indices, **settings)
        rates = {
            "cached": pipeline_rate(cached, batch_size, arguments.seconds),
            "decoding": pipeline_rate(
                training_dataset(archive, indices, **settings, cache_bytes=0), batch_size, arguments.seconds
            ),
        }

    encoder = build_encoder(size)
    encoder.compile("adamw", loss=MACL())
    one_batch = cached.dataset.take(1).cache().repeat()
    encoder_rate, together_rate = training_rates(
        encoder, [one_batch, cached.dataset], batch_size, arguments.steps
    )

    print(f"{'':24}{'images/s':>10}{'CPU ms/image':>14}{'x encoder':>11}")
    for name, rate in rates.items():
        speed = rate["images_per_second"]
        print(
            f"pipeline, {name:14}{speed:10,.0f}{rate['cpu_ms_per_image']:14.3f}{speed / encoder_rate:11.1f}"
        )
    print(f"{'training, one batch':24}{encoder_rate:10,.0f}")
    print(f"{'training, cached':24}{together_rate:10,.0f}{'':14}{together_rate / encoder_rate:11.2f}")
    packages = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "pillow")
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.pipeline", *sys.argv[1:]]),
        "settings": {name: value for name, value in vars(arguments).items() if name != "out"},
        "versions": {"python": platform.python_version()} | installed(packages),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "pipeline": rates,
        "training_one_batch_images_per_second": encoder_rate,
        "training_with_pipeline_images_per_second": together_rate,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {arguments.out}")


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those packages that are there: `tensorflow` comes under two names."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except ImportError:
            continue
    return versions


if __name__ == "__main__":
    main()
