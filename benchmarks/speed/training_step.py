"""Training rate of the encoder, beside PyTorch's own ResNet-18 of the same shape on the same cores.

    pip install '.[peers]'
    python -m benchmarks.speed.training_step [--sizes 64 128]

Images per second of one optimizer step (forward, backward, AdamW) on a batch that lies in memory: ResNet-18 with the
projection head and SupCon, here as `python train.py` compiles it, there as nn.Module with pytorch-metric-learning's
SupConLoss. "Keras's layers" is the same without `macl_tf.models.fast_layers`. "Cached gradients" is one step on four
such batches by microbatches of one. bf16 is `--set precision=mixed_bfloat16` here and autocast there. Every figure is
the best of several rounds, each in a process of its own that takes its turn; ratios are of one run. The floor is what
the step's multiply-adds take at the rate of a large matrix product in float32 on the same cores.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.tables import markdown

BATCH, LABELS, SECONDS = 128, 17, 8.0
PLAIN, CACHED = "macl_tf, Keras's layers", "macl_tf, cached gradients"
CONTENDERS = ("macl_tf", PLAIN, CACHED, "macl_tf bf16", "torch", "torch bf16")
MICROBATCHES, FLOOR = 4, "floor"


def batch(size: int, rows: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (B, S, S, 3) of 0 to 255 and the number of each image's class."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (rows, size, size, 3)).astype("float32"), rng.integers(0, LABELS, rows)


def keras_step(size: int, name: str) -> Callable[[], Any]:
    """A training step as `macl_tf.training.train.train` compiles it."""
    import keras
    import tensorflow as tf

    from macl_tf.labels import LabelStatistics
    from macl_tf.models.fast_layers import plain
    from macl_tf.training.build import make_encoder, make_loss, make_optimizer, trained_model
    from macl_tf.training.settings import Settings

    parts = MICROBATCHES if name == CACHED else 1
    if name.endswith("bf16"):
        keras.config.set_dtype_policy("mixed_bfloat16")
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    settings = Settings(
        backbone="resnet18",
        weights="",
        loss="supcon-any",
        image_size=size,
        batch_size=parts * BATCH,
        microbatch=BATCH if parts > 1 else 0,
    )
    encoder = make_encoder(settings)
    model = trained_model(plain(encoder) if name == PLAIN else encoder, settings, LABELS)
    pixels, classes = batch(size, parts * BATCH)
    labels = np.eye(LABELS, dtype="float32")[classes]
    model.compile(make_optimizer(settings, 10), loss=make_loss(settings, LabelStatistics.from_labels(labels)))
    data = tf.data.Dataset.from_tensors((pixels, labels)).cache().repeat()
    iterator = iter(data)
    model.make_train_function()
    return lambda: float(model.train_function(iterator)["loss"])


def torch_step(size: int, autocast: bool) -> Callable[[], Any]:
    """The same step in PyTorch, channels last, which is its faster layout for convolutions."""
    import torch
    from pytorch_metric_learning.losses import SupConLoss
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def convolution(inputs: int, outputs: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, width, stride, width // 2, bias=False), nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first, self.second = convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, 3, 1)
            same = stride == 1 and inputs == outputs
            self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)

        def forward(self, x: Any) -> Any:
            return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))

    widths = (64, 64, 128, 256, 512)
    blocks = [
        Block(widths[stage] if block == 0 else widths[stage + 1], widths[stage + 1], 2 if stage and not block else 1)
        for stage in range(4)
        for block in range(2)
    ]
    model = nn.Sequential(
        convolution(3, 64, 3 if size < 96 else 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    pixels, classes = batch(size)
    x = torch.tensor(pixels.transpose(0, 3, 1, 2) / 127.5 - 1).to(memory_format=torch.channels_last)
    y = torch.tensor(classes)
    loss_function = SupConLoss(temperature=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=1e-4)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            z = model(x)
        loss = loss_function(functional.normalize(z.float()), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def measure(name: str, size: int) -> float:
    """Images per second, the best of the steps in some seconds."""
    step = torch_step(size, name.endswith("bf16")) if name.startswith("torch") else keras_step(size, name)
    times: list[float] = []
    while len(times) < 5 or sum(times) < SECONDS:
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
        if len(times) > 1 and sum(times) > 4 * SECONDS:  # half precision that the processor has to emulate
            break
    return (MICROBATCHES if name == CACHED else 1) * BATCH / min(times)


def floor(size: int) -> dict[str, float]:
    """Multiply-adds of a step (forward once, backward twice), and what they take at a matrix product's rate."""
    import keras

    from macl_tf.training.build import make_encoder
    from macl_tf.training.settings import Settings

    products = 0
    for layer in make_encoder(Settings(backbone="resnet18", weights="", image_size=size)).layers:
        if isinstance(layer, keras.layers.Conv2D):
            products += int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Dense):
            products += int(np.prod(layer.kernel.shape))
    a = np.ones((4096, 4096), np.float32)
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begin)
    rate = 4096**3 / min(seconds)
    return {"multiply_adds_per_image": 3 * products, "images_per_second": rate / (3 * products)}


def main() -> None:
    """Measures all contenders in turn, writes the JSON and prints a table."""
    parser = command.parser(__doc__, "training_step")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="side of the images, pixels")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], help="contenders")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure[0], int(options.measure[1])))
        return
    turns = [(size, name) for size in options.sizes for _ in range(options.rounds) for name in options.only]
    rates: dict[str, dict[str, list[float]]]
    rates = {str(size): {name: [] for name in options.only} for size in options.sizes}
    for size, name in tqdm(turns, "training", unit="process"):
        rates[str(size)][name].append(float(in_process("benchmarks.speed.training_step", "--measure", name, size)))
    floors = {str(size): floor(size) for size in options.sizes}
    packages = ("tensorflow-cpu", "keras", "numpy", "torch")
    facts = {"batch": BATCH, "images_per_second": rates, "floor": floors}
    command.record(options.out, "benchmarks.speed.training_step", packages, facts, table)


def table(summary: dict[str, Any]) -> str:
    """A line for each contender, its best round, and what that is of PyTorch's in float32 and of the floor."""
    rates, floors = summary["images_per_second"], summary["floor"]
    head = [title for size in rates for title in (f"{size} px", "of torch", "of the floor")]
    rows = []
    for name in [*next(iter(rates.values())), FLOOR]:
        cells: list[str] = []
        for size, found in rates.items():
            best = {other: max(several) for other, several in found.items()}
            best[FLOOR] = floors[size]["images_per_second"]
            share = f"{best[name] / best['torch']:.2f}" if "torch" in best else ""
            cells += [f"{best[name]:.0f}", share, f"{best[name] / best[FLOOR]:.2f}"]
        rows.append([name, *cells])
    return markdown(["images per second", *head], rows)


if __name__ == "__main__":
    main()
