"""Where the time of a search by picture goes, by the size of the encoder's images: the encoder, and all around it.

    python -m benchmarks.speed.search_by_image --work DIR --data-dir UCM [--sizes 64 128 256] [--tiles 100000]

Each encoder is exported and served from an index of --tiles generated vectors of 128 dimensions; its weights do not
matter to the time, so it is trained for one epoch on a few synthetic tiles. Pictures are asked for one after the other.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import command
from benchmarks.compare.runs import train
from benchmarks.speed.search_vectors import Data, clustered
from benchmarks.tables import markdown

_PICTURES = 200
STEPS = ("decoding_ms", "resizing_ms", "encoder_ms", "index_ms")


def served_folder(work: Path, size: int, data: Data) -> Path:
    """An exported encoder for images of a size, and an index of the vectors beside it."""
    from macl_tf.export.exporting import encoder_identity
    from macl_tf.export.saved_model import export_encoder
    from macl_tf.index.index import build_index
    from macl_tf.index.items import Items

    served = work / "served" / f"{data.name}-{size}px"
    if not (served / "index").exists():
        run = work / f"run-{size}px"
        few = ["num_tiles=40", "batch_size=16", "epochs=1", "backbone=resnet18", f"image_size={size}"]
        train(run, few)
        version = int(export_encoder(run, served).name)
        ids = [f"{number:06d}" for number in range(len(data.vectors))]
        labels = np.random.default_rng(0).random((len(ids), 17)) < 0.2
        items = Items.of([f"label {c}" for c in range(17)], ids, labels.astype(np.uint8))
        build_index(served / "index", items, data.vectors, info={"encoder": encoder_identity(served, version)})
    return served


def picture_path(served: Path, files: list[Path]) -> dict[str, Any]:
    """Times searches for one picture after the other.

    Returns:
        Medians over pictures, in milliseconds: `total_ms` of SearchEngine.search, and of its steps `decoding_ms` (file
        to pixels), `resizing_ms`, `encoder_ms` and `index_ms` (search, and what is known of the results). `rest_share`
        is the share of the steps that are not the encoder.
    """
    from macl_tf.datasets.images import resize_image
    from macl_tf.search.engine import SearchEngine
    from macl_tf.search.pictures import read_picture

    engine = SearchEngine.open(served, verify=False)
    size = engine.encoder.image_size

    def resize(array: np.ndarray) -> np.ndarray:
        return resize_image(array, size)[None]

    def search(vector: np.ndarray) -> Any:
        return engine.search(vectors=vector, k=10)

    steps: dict[str, list[float]] = {name: [] for name in (*STEPS, "total_ms")}
    warm = files[:20]
    for path in tqdm(warm + files, f"{size} px", unit="picture"):
        value: Any = path
        for name, do in zip(STEPS, (read_picture, resize, engine.encoder.embed_pixels, search), strict=True):
            begin = time.perf_counter()
            value = do(value)
            steps[name].append(1000 * (time.perf_counter() - begin))
        begin = time.perf_counter()
        engine.search(path, k=10)
        steps["total_ms"].append(1000 * (time.perf_counter() - begin))
    medians = {name: statistics.median(times[len(warm) :]) for name, times in steps.items()}
    rest = 1 - medians["encoder_ms"] / sum(medians[name] for name in STEPS)
    return {"image_size": size, "kind": engine.index.info["kind"], **medians, "rest_share": rest}


def table(summary: dict[str, Any]) -> str:
    """A line for each size, as Markdown."""
    head = ["image size", "decoding, ms", "resizing, ms", "encoder, ms", "index, ms", "all but the encoder"]
    rows = [
        [f"{row['image_size']} px", *(f"{row[name]:.2f}" for name in STEPS), f"{100 * row['rest_share']:.1f} %"]
        for row in summary["results"]
    ]
    return markdown(head, rows)


def main() -> None:
    """Measures each size, writes the JSON and prints the table."""
    parser = command.parser(__doc__, "search_by_image")
    parser.add_argument("--work", type=Path, required=True, help="folder for vectors, encoders and indexes")
    parser.add_argument("--data-dir", type=Path, required=True, help="where JPEG or TIFF tiles are to ask with")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="side of the images, pixels")
    parser.add_argument("--tiles", type=int, default=100_000, help="in the index")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    data = clustered(options.work, options.tiles)
    suffixes = (".jpg", ".jpeg", ".tif", ".tiff", ".png")
    files = sorted(path for path in options.data_dir.rglob("*") if path.suffix.lower() in suffixes)
    files = files[:: max(1, len(files) // _PICTURES)][:_PICTURES]
    results = [picture_path(served_folder(options.work, size, data), files) for size in options.sizes]
    packages = ("tensorflow-cpu", "tensorflow", "scann", "numpy", "pillow")
    facts = {"index": len(data.vectors), "results": results}
    command.record(options.out, "benchmarks.speed.search_by_image", packages, facts, table)


if __name__ == "__main__":
    main()
