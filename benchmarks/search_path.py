"""Where the time of one search by picture goes: the encoder, and everything around it."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_vectors import Data

_PICTURES = 100


def picture_path(work: Path, run: Path, data_dir: Path, data: Data) -> dict[str, Any]:
    """Times searches for one picture after the other in an index of the embedded tiles.

    Args:
        work: Folder for what is served.
        run: A finished run, whose encoder is served.
        data_dir: Where JPEG or TIFF tiles are to ask with.
        data: What is in the index.

    Returns:
        Medians over pictures, in milliseconds: `total_ms` of SearchEngine.search, and of its steps `decoding_ms` (file
        to pixels), `resizing_ms`, `encoder_ms` and `index_ms` (search, and what is known of the results). `rest_share`
        is the share of the steps that are not the encoder, `index_share` that of the index alone.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from macl_tf.datasets.archives import resize_image
    from macl_tf.serving.exporting import encoder_identity
    from macl_tf.serving.index import build_index
    from macl_tf.serving.items import Items
    from macl_tf.serving.saved_model import export_encoder
    from macl_tf.serving.search import SearchEngine, read_picture

    served = work / "served" / data.name
    version = int(export_encoder(run, served).name)
    if not (served / "index").exists():
        ids = [f"{number:06d}" for number in range(len(data.vectors))]
        labels = np.random.default_rng(0).random((len(ids), 4)) < 0.3
        items = Items.of(("a", "b", "c", "d"), ids, labels.astype(np.uint8))
        build_index(served / "index", items, data.vectors, info={"encoder": encoder_identity(served, version)})
    engine = SearchEngine.open(served, verify=False)
    files = sorted(path for path in data_dir.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".tif", ".png"))
    files = files[:: max(1, len(files) // _PICTURES)][:_PICTURES]
    size = engine.encoder.image_size
    steps: dict[str, list[float]] = {
        "decoding_ms": [],
        "resizing_ms": [],
        "encoder_ms": [],
        "index_ms": [],
        "total_ms": [],
    }
    for path in files[:10] + files:  # a few to warm up
        value: Any = path
        for name, do in (
            ("decoding_ms", read_picture),
            ("resizing_ms", lambda array: resize_image(array, size)[None]),
            ("encoder_ms", engine.encoder.embed_pixels),
            ("index_ms", lambda vector: engine.search(vectors=vector, k=10)),
        ):
            begin = time.perf_counter()
            value = do(value)
            steps[name].append(1000 * (time.perf_counter() - begin))
        begin = time.perf_counter()
        engine.search(path, k=10)
        steps["total_ms"].append(1000 * (time.perf_counter() - begin))
    medians = {name: statistics.median(times[10:]) for name, times in steps.items()}
    whole = sum(medians.values()) - medians["total_ms"]
    shares = {"rest_share": 1 - medians["encoder_ms"] / whole, "index_share": medians["index_ms"] / whole}
    return {"index": len(data.vectors), "kind": engine.index.kind, "image_size": size, **medians, **shares}
