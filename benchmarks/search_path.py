"""Where the time of one search by picture goes: the encoder, and everything around it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        Medians in milliseconds: `total_ms` of SearchEngine.search, `encoder_ms` of the network, and of the rest
        `decoding_ms` (file to pixels), `resizing_ms` and `index_ms` (search, and what is known of the results);
        `rest_share` is what of the total is not the encoder, `rest_share_decoded` the same without decoding.
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
    arrays = [read_picture(path) for path in files]
    pixels = [resize_image(array, size)[None] for array in arrays]
    embeddings = [engine.encoder.embed_pixels(block) for block in pixels]
    medians = {
        "total_ms": median_ms(lambda path: engine.search(path, k=10), files),
        "encoder_ms": median_ms(engine.encoder.embed_pixels, pixels),
        "decoding_ms": median_ms(read_picture, files),
        "resizing_ms": median_ms(lambda array: resize_image(array, size), arrays),
        "index_ms": median_ms(lambda vector: engine.search(vectors=vector, k=10), embeddings),
    }
    total, encoder, decoding = (medians[name] for name in ("total_ms", "encoder_ms", "decoding_ms"))
    shares = {"rest_share": 1 - encoder / total, "rest_share_decoded": 1 - encoder / max(total - decoding, encoder)}
    return {"index": len(data.vectors), "kind": engine.index.kind, "image_size": size, **medians, **shares}


def median_ms(do: Callable[[Any], Any], inputs: list[Any] | list[NDArray[Any]]) -> float:
    """Median time of a call, over the inputs one by one, after a few to warm up."""
    for value in inputs[:10]:
        do(value)
    times = []
    for value in inputs:
        begin = time.perf_counter()
        do(value)
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)
