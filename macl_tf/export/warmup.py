"""Warm-up requests, which TensorFlow Serving replays before a version takes its first real one.

They are protocol buffers of tensorflow-serving-api, a package that depends on another TensorFlow. The few fields
needed are written here in the wire format; a test reads them with a parser of its own, and with the package where it
is installed. Field numbers: prediction_log.proto, predict.proto and model.proto of tensorflow/serving 2.20.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

MODEL = "encoder"  # its name in models.config
# Shapes that the server will meet: single requests and batches up to max_execution_batch_size of batching.config.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def write_warmup(path: Path, image_size: int) -> None:
    """Writes the warm-up requests of a SavedModel: JPEGs of 2S x 2S pixels, so that resizing is warm too."""
    ramp = np.arange(2 * image_size, dtype=np.float64) * 255 / (2 * image_size - 1)
    tile = np.stack([*np.meshgrid(ramp, ramp), np.full((2 * image_size,) * 2, 128.0)], axis=-1).astype(np.uint8)
    jpeg = tf.io.encode_jpeg(tile).numpy()
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    with tf.io.TFRecordWriter(os.fspath(file)) as writer:
        for size in BATCH_SIZES:
            writer.write(prediction_log("serving_default", {"image_bytes": np.array([jpeg] * size, object)}))
        writer.write(prediction_log("embed_pixels", {"pixels": tile[None, :image_size, :image_size]}))


def prediction_log(signature: str, inputs: Mapping[str, Any]) -> bytes:
    """A serialised tensorflow.serving.PredictionLog of one predict request, of arrays by input name."""
    model_spec = _field(1, MODEL.encode()) + _field(3, signature.encode())  # name, signature_name
    request = _field(1, model_spec)
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))  # an entry of the map: key, value
    return _field(6, _field(1, request))  # predict_log, its request


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: tag, length, payload."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    septets = bytearray()
    while value > 0x7F:
        septets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*septets, value])
