"""How long it takes to teach an index: training and judging, projecting and indexing, at a size of archive.

    python -m benchmarks.speed.teaching --tiles 100000

Features are generated, 1,280 of unit norm in overlapping clusters; a tenth of the tiles hold one or two of 20 labels.
The encoder is EfficientNet-Lite0 with random weights, since no picture is embedded.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.tables import markdown
from macl_tf.index.items import Items

LABELS, FEATURES, LABELLED = 20, 1280, 0.1


def make_index(served: Path, tiles: int) -> None:
    """A served folder with an encoder that was not trained, and an index of generated features."""
    from macl_tf.export.exporting import encoder_identity
    from macl_tf.export.saved_model import export_backbone
    from macl_tf.index.index import build_index
    from macl_tf.training.settings import Settings

    (served / "encoder").mkdir(parents=True)
    settings = Settings(dataset="folder", weights="", image_size=64, descriptor="backbone")
    export_backbone(settings, served)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((LABELS, FEATURES)).astype(np.float32)
    cluster = rng.integers(0, LABELS, tiles)
    vectors = np.empty((tiles, FEATURES), np.float32)
    for start in range(0, tiles, 8192):
        rows = cluster[start : start + 8192]
        vectors[start : start + 8192] = centres[rows] + 3 * rng.standard_normal((len(rows), FEATURES), np.float32)
    labels = np.zeros((tiles, LABELS), np.uint8)
    told = rng.random(tiles) < LABELLED
    labels[np.flatnonzero(told), cluster[told]] = 1
    labels[np.flatnonzero(told), rng.integers(0, LABELS, int(told.sum()))] = 1
    items = Items.of([f"label {number}" for number in range(LABELS)], [f"{n:07}" for n in range(tiles)], labels)
    info = {"encoder": encoder_identity(served, 1), "built": {"kind": "auto", "recall_target": 0.95}}
    build_index(served / "index", items, vectors, info=info, kind="brute_force", progress=False)


def measured(served: Path) -> dict[str, float]:
    """Seconds of one teaching, by stages."""
    from macl_tf.teaching.teach import teach

    begin, seen = time.perf_counter(), dict[str, float]()

    def note(stage: str, share: float) -> None:
        seen.setdefault(stage, time.perf_counter() - begin)

    done = teach(served, publish="always", on_progress=note)
    return {
        "labelled": float(done.lessons.held.sum()),
        "reading": seen["training"],
        "training and judging": seen["indexing"] - seen["training"],
        "projecting and indexing": time.perf_counter() - begin - seen["indexing"],
        "all": time.perf_counter() - begin,
    }


def table(summary: Mapping[str, Any]) -> str:
    """A line for each size."""
    stages = ["reading", "training and judging", "projecting and indexing", "all"]
    lines = [
        [f"{int(tiles):,}", f"{found['labelled']:,.0f}", *(f"{found[stage]:.1f}" for stage in stages)]
        for tiles, found in summary["sizes"].items()
    ]
    return markdown(["tiles", "labelled", *(f"{stage}, s" for stage in stages)], lines, "r")


def main(words: Sequence[str] | None = None) -> None:
    """Makes an index of each size, teaches it, writes and prints."""
    parser = command.parser(__doc__, "teaching")
    parser.add_argument("--tiles", type=int, nargs="+", default=[10_000, 100_000], help="sizes of archives")
    options = parser.parse_args(words)
    sizes = {}
    for tiles in options.tiles:
        with tempfile.TemporaryDirectory() as folder:
            make_index(Path(folder) / "served", tiles)
            sizes[str(tiles)] = measured(Path(folder) / "served")
    command.record(options.out, "benchmarks.speed.teaching", ["tensorflow", "keras", "scann"], {"sizes": sizes}, table)


if __name__ == "__main__":
    main()
