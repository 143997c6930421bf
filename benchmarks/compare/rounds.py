"""How many rounds of a collection find nine tenths of a rare label, from one tile, and whether the interval is right.

    python -m benchmarks.compare.rounds --data-dir UCM

For each label that at most a tenth of the tiles of UC Merced hold, and five tiles with it to begin from: rounds as
`macl collections SERVED round` gives them, each tile marked as the labels say. EfficientNet-Lite0 at 224 px from
ImageNet weights; no training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import command
from benchmarks.compare.marks import features
from benchmarks.tables import markdown
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.index.snapshot import Snapshot
from macl_tf.teaching.collections import RIGHT, WRONG, Collection, Mark
from macl_tf.teaching.rounds import next_round

SHARE, DRAWS, ROUNDS, ENOUGH = 0.1, 5, 10, 0.9
COUNTED = 5  # rounds after which is counted what is found


def one_course(state: Snapshot, held: NDArray[np.bool_], first: int) -> list[dict[str, int]]:
    """What stands after each round: right tiles found, and the estimate of those left."""
    ids = state.items.ids
    truth = {id_ for id_, holds in zip(ids, held, strict=True) if holds}
    said = {ids[first]: Mark(ids[first], RIGHT, "", "")}
    course = []
    for _ in range(ROUNDS + 1):
        found = next_round(Collection("asked", "", "", said), state)
        left = found.left
        course.append(
            {"found": found.found, **({"low": left.low, "high": left.high, "left": left.estimate} if left else {})}
        )
        for tile in (*found.best, *found.uncertain, *found.sampled):
            said[tile.id] = Mark(tile.id, RIGHT if tile.id in truth else WRONG, "", "")
        said = dict(said)
    return course[1:]


def measured(rows: NDArray[np.float64], labels: NDArray[np.bool_], names: Sequence[str]) -> dict[str, Any]:
    """By label: rounds to nine tenths, what five rounds find, and the intervals of all rounds."""
    rare = [int(label) for label in np.argsort(labels.sum(0)) if labels[:, label].mean() <= SHARE]
    played: dict[int, list[list[dict[str, int]]]] = {label: [] for label in rare}
    for draw in tqdm(range(DRAWS), unit="draw"):
        with tempfile.TemporaryDirectory() as folder:
            # Of other ids other tiles are drawn at random.
            ids = [f"{draw}/{number:04}" for number in range(len(rows))]
            build_index(Path(folder, "index"), Items.of((), ids), rows, info={}, progress=False)
            state = Index.open(Path(folder, "index"), exact=True).snapshot
            for label in rare:
                start = np.random.default_rng([draw, label]).choice(np.flatnonzero(labels[:, label]))
                played[label].append(one_course(state, labels[:, label], int(start)))
    found = {}
    for label, courses in played.items():
        total = int(labels[:, label].sum())
        needed = [
            next((number for number, one in enumerate(course, 1) if one["found"] >= ENOUGH * total), None)
            for course in courses
        ]
        told = [(one, total - one["found"]) for course in courses for one in course if "low" in one]
        after = [course[COUNTED - 1] for course in courses]
        found[names[label]] = {
            "tiles": total,
            "rounds": needed,
            "share": float(np.mean([one["found"] / total for one in after])),
            "left": float(np.mean([total - one["found"] for one in after])),
            "estimate": float(np.mean([one["left"] for one in after])),
            "high": float(np.mean([one["high"] for one in after])),
            "holds": float(np.mean([one["low"] <= left <= one["high"] for one, left in told])),
        }
    return found


def table(summary: Mapping[str, Any]) -> str:
    """A line for each label."""
    lines = []
    for name, one in summary["labels"].items():
        rounds = [f"over {ROUNDS}" if number is None else str(number) for number in one["rounds"]]
        lines.append(
            [
                name,
                str(one["tiles"]),
                ", ".join(rounds),
                f"{100 * one['share']:.0f} %",
                f"{one['left']:.0f}",
                f"{one['estimate']:.0f}",
                f"{one['high']:.0f}",
                f"{100 * one['holds']:.0f} %",
            ]
        )
    head = ["label", "tiles", "rounds to 90 %", "found in five", "left then", "estimate", "at most", "interval holds"]
    return markdown(head, lines, "l")


def main(words: Sequence[str] | None = None) -> None:
    """Embeds the archive, plays the rounds, writes and prints."""
    from macl_tf.datasets import load_archive

    parser = command.parser(__doc__, "rounds")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of UC Merced with its 17 labels")
    options = parser.parse_args(words)
    names = load_archive("ucm", data_dir=str(options.data_dir)).label_names
    found = measured(*features("ucm", options.data_dir), names)
    command.record(options.out, "benchmarks.compare.rounds", ["tensorflow", "keras"], {"labels": found}, table)


if __name__ == "__main__":
    main()
