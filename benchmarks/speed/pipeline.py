"""Does the pipeline feed faster than the encoder eats?  `python -m benchmarks.speed.pipeline`.

Both run on the same cores, so besides the rates it measures the CPU time that each takes per image.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from PIL import Image

from benchmarks import command
from benchmarks.tables import markdown
from macl_tf import MACL
from macl_tf.datasets.archives import Archive
from macl_tf.datasets.images import decode_image
from macl_tf.models.encoders import build_encoder
from macl_tf.models.fast_layers import fast
from macl_tf.pipeline.pipeline import TrainingData, training_dataset

TILE = 256  # pixels, as in UC Merced and WHDLD
LABELS = 17


def jpeg_archive(folder: Path, num_images: int, seed: int) -> Archive:
    """Archive of generated JPEG tiles on disk, as detailed as photographs (about 25 kB each)."""
    generator = np.random.default_rng(seed)
    paths = [folder / f"{number:05d}.jpg" for number in range(num_images)]
    for path in paths:
        octaves = [generator.normal(128, 60, (side, side, 3)).clip(0, 255).astype(np.uint8) for side in (4, 16, 64)]
        tiles = [np.asarray(Image.fromarray(octave).resize((TILE, TILE)), np.float32) for octave in octaves]
        Image.fromarray(np.mean(tiles, axis=0).astype(np.uint8)).save(path, quality=90)
    labels = generator.random((num_images, LABELS)) < np.geomspace(0.5, 0.02, LABELS)
    labels[:, 0] |= ~labels.any(axis=1)
    names = tuple(path.name for path in paths)
    label_names = tuple(f"label{number}" for number in range(LABELS))
    return Archive("generated", label_names, names, labels, lambda index: decode_image(paths[index], names[index]))


def rate(images: int, wall: float, cpu: float) -> dict[str, float]:
    """Images per second, and CPU milliseconds of all threads per image, which a busy machine changes little."""
    return {"images_per_second": images / wall, "cpu_ms_per_image": 1000 * cpu / images}


def pipeline_rate(data: TrainingData, batch_size: int, seconds: float) -> dict[str, float]:
    """Rate of the batches alone, after a warm-up of a quarter of the time."""
    batches: Iterator[object] = iter(data.dataset)
    for duration in (seconds / 4, seconds):
        images, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < duration:
            next(batches)
            images += batch_size
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return rate(images, wall, cpu)


def encoder_rate(encoder: keras.Model, data: TrainingData, batch_size: int, steps: int) -> dict[str, float]:
    """Rate of `fit` on one batch that is already there, the compilation left out."""
    encoder.compile("adamw", loss=MACL())
    batch = data.dataset.take(1).cache().repeat()
    for number in (2, steps):
        wall, cpu = time.perf_counter(), time.process_time()
        encoder.fit(batch, epochs=1, steps_per_epoch=number, shuffle=False, verbose=0)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return rate(steps * batch_size, wall, cpu)


def table(summary: dict[str, Any]) -> str:
    """The documents' table."""
    rows = [
        [name, f"{measured['images_per_second']:,.0f}", f"{measured['cpu_ms_per_image']:.2f}"]
        for name, measured in summary["rates"].items()
    ]
    return markdown(["", "images/s", "CPU ms an image"], rows)


def main() -> None:
    """Measures, prints and writes the result."""
    parser = command.parser(__doc__, "pipeline")
    parser.add_argument("--image-size", type=int, default=64, help="side of the training images in pixels")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step")
    parser.add_argument("--num-images", type=int, default=1024, help="JPEG tiles to generate")
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each measurement of the pipeline")
    parser.add_argument("--steps", type=int, default=12, help="training steps to time")
    parser.add_argument("--seed", type=int, default=0, help="of the tiles, the draws and the encoder")
    arguments = parser.parse_args()
    size, batch_size = arguments.image_size, arguments.batch_size
    keras.utils.set_random_seed(arguments.seed)

    with tempfile.TemporaryDirectory() as folder:
        archive = jpeg_archive(Path(folder), arguments.num_images, arguments.seed)
        settings = {"image_size": size, "batch_size": batch_size, "seed": arguments.seed, "epochs": 10**6}
        indices = np.arange(len(archive))
        cached = training_dataset(archive, indices, **settings)
        decoding = training_dataset(archive, indices, **settings, cache_bytes=0)
        rates = {
            "pipeline, cached": pipeline_rate(cached, batch_size, arguments.seconds),
            "pipeline, decoding": pipeline_rate(decoding, batch_size, arguments.seconds),
            "training the encoder": encoder_rate(fast(build_encoder(size)), cached, batch_size, arguments.steps),
        }
    packages = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "pillow")
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    command.record(arguments.out, "benchmarks.speed.pipeline", packages, {"settings": settings, "rates": rates}, table)


if __name__ == "__main__":
    main()
