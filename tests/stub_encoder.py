"""An encoder for tests of what stands around it: NumPy only, the same for a picture in whatever batch it comes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from macl_tf.datasets.images import RGB

DIM, SIZE = 6, 8


class StubEncoder:
    """Means and deviations of the colours, as a unit vector; what `ExportedEncoder` has besides."""

    dim, image_size, version, reader = DIM, SIZE, 1, RGB

    def __init__(self, key: str = "a", label_names: Sequence[str] = ("sea", "sand"), pause: float = 0.0) -> None:
        self.info: dict[str, Any] = {"encoder_sha256": key * 64, "descriptor": "projection"}
        self.label_names = tuple(label_names)
        self.batches: list[int] = []
        self._pause = pause

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(self._pause)
        self.batches.append(len(pixels))
        values = pixels.astype(np.float64).reshape(len(pixels), -1, 3)
        vectors = np.concatenate([values.mean(axis=1), values.std(axis=1)], axis=1) + 1
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
