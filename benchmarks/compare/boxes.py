"""Is a thing found better by a box around it than by the whole tile?  Mean average precision of its label.

    python -m benchmarks.compare.boxes --data-dir UCM --elsewhere DUBAI

UC Merced: 32 boxes drawn by hand (boxes.toml), against all other tiles. Dubai: of each label the box around the largest
piece of its mask, in at most 60 tiles of which it covers 2 to 30 %, against all tiles of other scenes.
EfficientNet-Lite0 at 256 px from ImageNet weights; no training.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from benchmarks import command
from benchmarks.tables import markdown, number
from macl_tf.metrics import average_precision

SIZE, TILES, COVERED, LARGEST = 256, 60, (0.02, 0.3), 0.5
BOXES = Path(__file__).with_name("boxes.toml")
WHOLE, POOLED, CUT = "whole tile", "box: mean of its cells", "box cut out"
Floats = NDArray[np.float32]


class Asked(NamedTuple):
    """A box that is searched for."""

    label: int
    tile: int
    box: tuple[float, float, float, float]


def of_masks(archive: Any, folder: Path) -> list[Asked]:
    """The boxes around the largest pieces of the labels' masks, 1 to C in the order of the labels."""
    rng, asked = np.random.default_rng(0), []
    masks = [np.asarray(Image.open(folder / "masks" / f"{Path(name).stem}.png")) for name in archive.file_names]
    for label in range(len(archive.label_names)):
        shares = np.array([(mask == label + 1).mean() for mask in masks])
        tiles = rng.permutation(np.flatnonzero((COVERED[0] < shares) & (shares < COVERED[1])))[:TILES]
        for tile in tiles.tolist():
            pieces, count = ndimage.label(masks[tile] == label + 1)
            largest = 1 + int(np.argmax(ndimage.sum_labels(pieces > 0, pieces, range(1, count + 1))))
            rows, columns = ndimage.find_objects(pieces)[largest - 1]
            height, width = pieces.shape
            box = columns.start / width, rows.start / height, columns.stop / width, rows.stop / height
            if 0.004 < (box[2] - box[0]) * (box[3] - box[1]) < LARGEST:
                asked.append(Asked(label, tile, box))
    return asked


def by_hand(archive: Any) -> list[Asked]:
    """The boxes of boxes.toml."""
    tiles = {name.rpartition(".")[0]: place for place, name in enumerate(archive.file_names)}
    drawn = tomllib.loads(BOXES.read_text())
    return [
        Asked(archive.label_names.index(label), tiles[name], tuple(box))
        for label, boxes in drawn.items()
        for name, box in boxes.items()
    ]


def cut(pixels: NDArray[np.uint8], box: Sequence[float]) -> NDArray[np.uint8]:
    """The part of a picture in a box, as large as the whole."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = (round(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True))
    return np.asarray(Image.fromarray(pixels[top:bottom, left:right]).resize((width, height), Image.Resampling.BICUBIC))


def measured(dataset: str, folder: Path) -> dict[str, Any]:
    """The mean average precision by label and way, and how many boxes there are of each label."""
    import macl_tf
    from macl_tf.datasets import load_archive
    from macl_tf.export.regions import Regions
    from macl_tf.models.descriptors import descriptor_model
    from macl_tf.models.inference import graph_encoder
    from macl_tf.pipeline.pipeline import load_images

    archive = load_archive(dataset, data_dir=str(folder))
    encoder = macl_tf.build_encoder(SIZE, backbone="efficientnet-lite0", weights="imagenet")
    graph = graph_encoder(descriptor_model(encoder, "backbone"), (SIZE, SIZE, 3)).get_concrete_function()
    regions, images = Regions(graph), load_images(archive, np.arange(len(archive)), SIZE)
    asked = by_hand(archive) if dataset == "ucm" else of_masks(archive, folder)
    places = range(0, len(images), 32)

    def embedded(pixels: NDArray[Any]) -> Floats:
        whole = np.array([[0, 0, 1, 1]] * len(pixels))
        return np.concatenate(
            [regions.embed(pixels[at : at + 32], whole[at : at + 32]) for at in range(0, len(pixels), 32)]
        )

    rows = np.concatenate(
        [embedded(images[at : at + 32].astype(np.float32)) for at in tqdm(places, dataset, unit="batch")]
    )
    of_tile = np.stack([images[one.tile] for one in asked]).astype(np.float32)
    boxes = [one.box for one in asked]
    queries = {
        WHOLE: rows[[one.tile for one in asked]],
        POOLED: np.concatenate([regions.embed(of_tile[[at]], [box]) for at, box in enumerate(boxes)]),
        CUT: embedded(np.stack([cut(images[one.tile], one.box) for one in asked]).astype(np.float32)),
    }
    scenes = np.array([name.split("_y")[0] for name in archive.file_names])
    found: dict[str, dict[str, list[float]]] = {}
    for name, vectors in queries.items():
        for one, vector in zip(asked, vectors, strict=True):
            others = scenes != scenes[one.tile]
            order = np.argsort(-(rows[others] @ vector), kind="stable")
            precision = float(average_precision(archive.labels[others][order, one.label].astype(bool)))
            found.setdefault(archive.label_names[one.label], {}).setdefault(name, []).append(precision)
    return {label: {"boxes": len(ways[WHOLE])} | {name: float(np.mean(each)) for name, each in ways.items()}
            for label, ways in found.items()}  # fmt: skip


def table(summary: Mapping[str, Any]) -> str:
    """A line for each label."""
    lines = []
    for archive, labels in summary["archives"].items():
        for label, found in labels.items():
            lines.append([archive, label, found["boxes"], *(number(found[way]) for way in (WHOLE, POOLED, CUT))])
        means = [number(float(np.mean([found[way] for found in labels.values()]))) for way in (WHOLE, POOLED, CUT)]
        lines.append([archive, "mean", sum(found["boxes"] for found in labels.values()), *means])
    return markdown(["archive", "label", "boxes", WHOLE, POOLED, CUT], lines, "ll")


def main(words: Sequence[str] | None = None) -> None:
    """Embeds both archives, measures, writes and prints."""
    parser = command.parser(__doc__, "boxes")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of UC Merced with its 17 labels")
    parser.add_argument(
        "--elsewhere", type=Path, required=True, help="folder of the 768 tiles of Dubai with labels.csv and masks"
    )
    options = parser.parse_args(words)
    archives = {"ucm": measured("ucm", options.data_dir), "dubai": measured("folder", options.elsewhere)}
    command.record(options.out, "benchmarks.compare.boxes", ["tensorflow", "keras"], {"archives": archives}, table)


if __name__ == "__main__":
    main()
