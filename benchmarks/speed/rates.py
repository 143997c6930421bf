"""Rates of training and of embedding, beside PyTorch on the same cores: both backbones, float32 and bfloat16.

    pip install -e '.[cpu,bench,peers,openvino]'
    python -m benchmarks.speed.rates --data-dir UCM

Images per second. Training is one optimizer step (forward, backward, AdamW) on a batch that lies in memory: ResNet-18
or EfficientNet-Lite0 with the projection head and SupCon, here as `macl train` compiles it, there as nn.Module with
pytorch-metric-learning's SupConLoss. "Keras's layers" is the same without `macl_tf.models.fast_layers`, "cached
gradients" one step on four such batches by microbatches of one. Embedding gives the pooled features of batches of 64,
here by each runtime as `macl embed` calls it. bf16 is `--set precision=mixed_bfloat16` and `--runtime openvino-bf16`
here, autocast there. Every figure is of the fastest call in a process of its own, the best of `--rounds` of them;
ratios are of one run. The floor is what the multiply-adds take at the rate of a large matrix product in float32 on the
same cores, NumPy's or TensorFlow's. NDCG is that of EfficientNet-Lite0's features with ImageNet's weights, all tiles
of UCM among themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.tables import markdown

BATCH, LABELS, SECONDS = 128, 17, 8.0
SIZES = {"resnet18": (64, 128), "efficientnet-lite0": (128, 224)}
PLAIN, CACHED, FLOOR = "macl_tf, Keras's layers", "macl_tf, cached gradients", "floor"
TRAINING = ("macl_tf", PLAIN, CACHED, "macl_tf bf16", "torch", "torch bf16")
EMBEDDING = ("tensorflow", "openvino", "openvino-bf16", "torch", "torch bf16")
MICROBATCHES, EMBEDDED = 4, 64
_PACKAGES = ("tensorflow-cpu", "keras", "openvino", "numpy", "torch", "efficientnet-lite-pytorch")


def batch(size: int, rows: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (B, S, S, 3) of 0 to 255 and the number of each image's class."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (rows, size, size, 3)).astype("float32"), rng.integers(0, LABELS, rows)


def keras_step(backbone: str, size: int, name: str) -> Callable[[], Any]:
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
        backbone=backbone,
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


def keras_embedding(backbone: str, size: int, runtime: str) -> Callable[[], Any]:
    """A batch of pictures through an encoder, as `macl embed` has it."""
    from macl_tf.models.descriptors import descriptor_model
    from macl_tf.models.encoders import build_encoder
    from macl_tf.models.inference import embedding_function

    embed = embedding_function(descriptor_model(build_encoder(size, backbone=backbone), "backbone"), runtime)
    pixels = batch(size, EMBEDDED)[0].astype(np.uint8)
    return lambda: embed(pixels)


def torch_network(backbone: str, size: int) -> tuple[Any, int]:
    """From pixels of -1 to 1 to pooled features in PyTorch, and their number; EfficientNet-Lite0 is its publisher's."""
    from torch import nn
    from torch.nn import functional

    if backbone == "efficientnet-lite0":
        from efficientnet_lite_pytorch import EfficientNet

        class Features(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                network = EfficientNet.from_name(backbone, drop_connect_rate=0.0)
                network._fc = nn.Identity()
                self.network = network

            def forward(self, x: Any) -> Any:
                return self.network.extract_features(x).mean((2, 3))

        return Features(), 1280

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
    stem = convolution(3, 64, 3 if size < 96 else 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 512


def torch_pixels(size: int, rows: int = BATCH) -> Any:
    """The same batch, channels last, which is PyTorch's faster layout for convolutions."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    pixels = batch(size, rows)[0].transpose(0, 3, 1, 2) / 127.5 - 1
    return torch.tensor(pixels).to(memory_format=torch.channels_last)


def torch_step(backbone: str, size: int, autocast: bool) -> Callable[[], Any]:
    """The same training step in PyTorch."""
    import torch
    from pytorch_metric_learning.losses import SupConLoss
    from torch import nn
    from torch.nn import functional

    x, y = torch_pixels(size), torch.tensor(batch(size)[1])
    network, width = torch_network(backbone, size)
    head = nn.Linear(width, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128)
    model = nn.Sequential(network, *head).to(memory_format=torch.channels_last)
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


def torch_embedding(backbone: str, size: int, autocast: bool) -> Callable[[], Any]:
    """The same features in PyTorch."""
    import torch

    x = torch_pixels(size, EMBEDDED)
    model = torch_network(backbone, size)[0].to(memory_format=torch.channels_last).eval()

    def embed() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return model(x)

    return embed


def measure(backbone: str, task: str, size: int, name: str) -> float:
    """Images per second, the best of the calls in some seconds."""
    if name.startswith("torch"):
        run = (torch_step if task == "training" else torch_embedding)(backbone, size, name.endswith("bf16"))
    else:
        run = (keras_step if task == "training" else keras_embedding)(backbone, size, name)
    rows = EMBEDDED if task == "embedding" else (MICROBATCHES if name == CACHED else 1) * BATCH
    times: list[float] = []
    while len(times) < 5 or sum(times) < SECONDS:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
        if len(times) > 1 and sum(times) > 4 * SECONDS:  # half precision that the processor has to emulate
            break
    return rows / min(times)


def floor(backbone: str, task: str, size: int) -> float:
    """Images per second if the multiply-adds (of training, forward once and backward twice) cost as a product's."""
    import keras
    import tensorflow as tf

    from macl_tf.models.descriptors import descriptor_model
    from macl_tf.models.encoders import build_encoder

    encoder = build_encoder(size, backbone=backbone)
    model = descriptor_model(encoder, "backbone") if task == "embedding" else encoder
    products = 0
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            products += int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Dense):
            products += int(np.prod(layer.kernel.shape))
    a = np.ones((4096, 4096), np.float32)
    t = tf.constant(a)
    seconds = []
    for product in (lambda: a @ a, lambda: tf.matmul(t, t).numpy()):  # of which oneDNN's is twice as fast on some
        for _ in range(4):
            begin = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - begin)
    return 4096**3 / min(seconds) / (products * (3 if task == "training" else 1))


def retrieval(folder: Path, size: int, runtime: str) -> dict[str, float]:
    """NDCG@100 by Jaccard of features by a runtime, and their smallest cosine with TensorFlow's."""
    from macl_tf.datasets import load_archive
    from macl_tf.evaluation.retrieval import evaluate
    from macl_tf.models.descriptors import descriptor_model
    from macl_tf.models.encoders import build_encoder
    from macl_tf.models.inference import embedding_function
    from macl_tf.pipeline.pipeline import load_images

    archive = load_archive("ucm", data_dir=str(folder))
    model = descriptor_model(build_encoder(size, backbone="efficientnet-lite0", weights="imagenet"), "backbone")
    images = load_images(archive, np.arange(len(archive)), size, progress=False)
    rows = []
    for name in (runtime, "tensorflow"):
        function = embedding_function(model, name)
        parts = [function(images[start : start + EMBEDDED]) for start in range(0, len(images), EMBEDDED)]
        rows.append(np.concatenate(parts))
    found, true = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in rows)
    ndcg = evaluate(found, archive.labels)["ndcg@100_jaccard"]
    return {"ndcg": ndcg, "smallest_cosine": float((found * true).sum(axis=1).min())}


def main() -> None:
    """Measures all contenders in turn, writes the JSON and prints tables."""
    parser = command.parser(__doc__, "rates")
    parser.add_argument("--backbones", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--tasks", nargs="+", choices=["training", "embedding"], default=["training", "embedding"])
    parser.add_argument("--rounds", type=int, default=1, help="processes for each figure")
    parser.add_argument("--data-dir", type=Path, help="folder of UC Merced with its 17 labels, for NDCG")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--retrieval", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        backbone, task, size, name = options.measure
        print(floor(backbone, task, int(size)) if name == FLOOR else measure(backbone, task, int(size), name))
        return
    if options.retrieval:
        print(json.dumps(retrieval(options.data_dir, int(options.retrieval[0]), options.retrieval[1])))
        return
    module = "benchmarks.speed.rates"
    names = {"training": (*TRAINING, FLOOR), "embedding": (*EMBEDDING, FLOOR)}
    cases = [(name, task, size) for name in options.backbones for task in options.tasks for size in SIZES[name]]
    turns = [(*case, name) for case in cases for _ in range(options.rounds) for name in names[case[1]]]
    found: dict[tuple[Any, ...], list[float]] = {}
    for turn in tqdm(turns, "rates", unit="process"):
        found.setdefault(turn, []).append(float(in_process(module, "--measure", *turn)))
    rates = []
    for case in cases:
        by_name = {name: found[(*case, name)] for name in names[case[1]]}
        rates.append(dict(zip(("backbone", "task", "pixels"), case, strict=True)) | {"images_per_second": by_name})
    quality: dict[str, Any] = {}
    if options.data_dir:
        for size in SIZES["efficientnet-lite0"]:
            for runtime in EMBEDDING[:3]:
                words = ("--data-dir", options.data_dir, "--retrieval", size, runtime)
                quality.setdefault(str(size), {})[runtime] = json.loads(in_process(module, *words))
    facts = {"batch": BATCH, "rates": rates, "retrieval": quality}
    command.record(options.out, module, _PACKAGES, facts, table)


def table(summary: dict[str, Any]) -> str:
    """Of each task a line for each contender: its best round, what that is of PyTorch's in float32 and of the floor."""
    parts = []
    for task in dict.fromkeys(case["task"] for case in summary["rates"]):
        cases = [case for case in summary["rates"] if case["task"] == task]
        best = [{name: max(several) for name, several in case["images_per_second"].items()} for case in cases]
        head = [f"{case['backbone']}, {case['pixels']} px" for case in cases]
        lines = [
            [name, *(f"{of[name]:,.0f} ({of[name] / of['torch']:.2f}; {of[name] / of[FLOOR]:.2f})" for of in best)]
            for name in best[0]
        ]
        parts.append(markdown([f"{task}, images/s (of torch; of the floor)", *head], lines))
    if summary["retrieval"]:
        lines = [
            [runtime, *(words for found in summary["retrieval"].values()
                        for words in (f"{found[runtime]['ndcg']:.4f}", f"{found[runtime]['smallest_cosine']:.5f}"))]
            for runtime in EMBEDDING[:3]
        ]  # fmt: skip
        head = [words for size in summary["retrieval"] for words in (f"NDCG@100, {size} px", "smallest cosine")]
        parts.append(markdown(["runtime", *head], lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
