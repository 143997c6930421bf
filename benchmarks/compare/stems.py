"""What ImageNet's weights are worth to a stem of four bands, beside a random one: runs on NAIP tiles.

    python docs/scenes_tutorial.py DATA WORK
    python -m benchmarks.compare.stems --naip WORK/NAIP --work DIR

The archive of docs/tutorial_scenes.md: red, green, blue and near infrared of one scene, labels by polygons. Split by
blocks of ground; each seed draws other blocks, the same for all stems. A random stem is Keras's own initialisation in
the first convolution; all other weights are ImageNet's. A run that is finished is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tqdm import tqdm

from benchmarks import command
from benchmarks.compare.run_summary import FIGURES
from benchmarks.tables import markdown, mean_and_spread

SEEDS = (0, 1, 2)
STEMS = {
    "four bands, from ImageNet": ("all", False),
    "four bands, random stem": ("all", True),
    "red, green and blue alone": ("1,2,3", False),
}


def random_stem(values: Any, shape: Any, rgb: Any) -> Any:
    """In place of `of_channels`: what Keras begins a kernel with, where its channels are not three."""
    from keras import initializers

    from macl_tf.models.stems import of_channels

    if tuple(shape) == values.shape:
        return of_channels(values, shape, rgb)
    return np.asarray(initializers.GlorotUniform(seed=0)(shape))


def figures(folder: Path, work: Path, stem: str, trainable: str, seed: int) -> dict[str, dict[str, float]]:
    """Of a run: figures by the backbone before training, and by its own descriptor after it."""
    from macl_tf.models import efficientnet_lite
    from macl_tf.training.settings import load_settings
    from macl_tf.training.train import train

    bands, is_random = STEMS[stem]
    said = [f"bands={bands}", "split=geographic", "batch_size=64", f"trainable={trainable}", f"seed={seed}"]
    said += ["dropout=0", "learn_turns=false"]  # as it was when these were trained
    settings = load_settings(None, said, dataset="folder", data_dir=str(folder))
    with patch.object(efficientnet_lite, "of_channels", random_stem if is_random else efficientnet_lite.of_channels):
        found = train(settings, work / f"{list(STEMS).index(stem)}-{trainable}-{seed}", progress=False)
    before, after = found["untrained"]["backbone"], found["trained"][found["descriptor"]]
    return {name: {key: of[key] for key in FIGURES} for name, of in (("untrained", before), (trainable, after))}


def table(summary: Mapping[str, Any]) -> str:
    """A line for each stem and way to train: means and deviations over seeds."""
    rows = [
        [way, stem, *(mean_and_spread([seed[kind][key] for seed in summary["stems"][stem]]) for key in FIGURES)]
        for way, kind in (("none", "untrained"), ("head", "head"), ("everything", "all"))
        for stem in summary["stems"]
    ]
    return markdown(["training", "stem", *FIGURES.values()], rows, "ll")


def main() -> None:
    """Trains, evaluates, writes and prints."""
    parser = command.parser(__doc__, "stems")
    parser.add_argument("--naip", type=Path, required=True, help="the tutorial's archive NAIP")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    stems: dict[str, list[dict[str, Any]]] = {stem: [] for stem in STEMS}
    for seed, stem in tqdm([(seed, stem) for seed in SEEDS for stem in STEMS], "runs", unit="pair"):
        runs = [figures(options.naip, options.work, stem, trainable, seed) for trainable in ("head", "all")]
        stems[stem].append(runs[0] | runs[1])
    facts = {"seeds": SEEDS, "stems": stems}
    command.record(options.out, "benchmarks.compare.stems", ["tensorflow", "keras"], facts, table)


if __name__ == "__main__":
    main()
