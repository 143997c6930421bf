"""The encoder as a SavedModel that TensorFlow alone serves: bytes or pixels in, unit-norm embeddings out.

The weights are constants of the graph, not variables, and batch normalisation is folded into the convolutions
(`models/inference.py`). OpenVINO can compute the same graph in TensorFlow's place (`models/runtimes.py`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from macl_tf.artifacts import ArtifactError, open_version, publish, versions
from macl_tf.datasets.bands import Bands, Reader, reader_of
from macl_tf.export.fitting import familiar_of
from macl_tf.export.image_graph import decode_batch, resize_bands, resize_batch
from macl_tf.export.regions import Regions, last_means
from macl_tf.export.warmup import write_warmup
from macl_tf.models.familiarity import FAMILIAR
from macl_tf.models.runtimes import RUNTIMES, check_runtime, openvino_function

KIND = "encoder"
FEATURES = "backbone_features"  # the node of a graph that a new head is set behind; without one it is the output
Tensor = Any


def export_encoder(
    run_dir: str | os.PathLike[str], served: str | os.PathLike[str], *, descriptor: str | None = None, keep: int = 0
) -> Path:
    """Writes a finished run's encoder as the next version of SERVED/encoder; the newest stays if it holds it already.

    Signatures of the SavedModel, each with a batch dimension B so that TensorFlow Serving can batch and REST can call:

    - `serving_default`: `image_bytes` (B,) string to `embedding` (B, D) float32 and `valid` (B,) bool. An image that
      cannot be decoded has `valid` False and an embedding of zeros, whose cosine with everything is 0.
    - `embed_pixels`: `pixels` (B, H, W, 3) uint8, resized where H or W is not S, to `embedding`. Of tiles of N bands
      (B, H, W, N) float32 in the units of their files, NaN where there is no data; it is the `serving_default` then,
      since no operation of TensorFlow decodes a GeoTIFF.
    - `model_info`: `request` (B,) string, ignored, to `json` (B,) string, the same for all.

    One that takes vectors from elsewhere has `embed_features`, `features` (B, F) float32 to `embedding`; in place of
    the two for pictures, whose `serving_default` it then is, or beside them.

    The descriptor is one that the run reported, None for what its settings say; `keep` is 0 for all versions.
    """
    from macl_tf.export.model_info import describe_encoder
    from macl_tf.models.descriptors import descriptor_model, turned
    from macl_tf.training.run_directory import read_encoder

    there = exported_version(run_dir, served, descriptor=descriptor)
    if there is not None:
        return there
    run = Path(run_dir)
    info = describe_encoder(run, descriptor)
    check_sees_pictures(run, info)
    model = turned(descriptor_model(read_encoder(run), info["descriptor"]), info["settings"]["turns"])
    return publish_encoder(model, info, served, familiar=familiar_of(run, info), keep=keep)


def export_backbone(settings: Any, served: str | os.PathLike[str], bands: Bands | None = None) -> Path:
    """As `export_encoder`, of a backbone with the weights that `settings` name and no training: its pooled features."""
    from macl_tf.export.model_info import describe_backbone
    from macl_tf.models.backbones import weights_digest
    from macl_tf.models.descriptors import descriptor_model, turned
    from macl_tf.models.encoders import build_encoder

    network = {"backbone": settings.backbone, "width": settings.width, "weights": settings.weights or None}
    encoder = build_encoder(settings.image_size, bands=bands, **network)
    features = descriptor_model(encoder, settings.descriptor)
    info = describe_backbone(settings, weights_digest(features.weights), bands)
    there = holding(served, info)
    return there or publish_encoder(turned(features, settings.turns), info, served)


def check_sees_pictures(run: str | os.PathLike[str], info: dict[str, Any]) -> None:
    """Raises a ValueError for a run on vectors from elsewhere, whose tiles no encoder can embed."""
    if not info["image_size"]:
        raise ValueError(
            f"'{run}' must see pictures, but was trained on vectors ({info['settings']['features']}). Index these with "
            f"its head: macl index VECTORS --head {run}"
        )


def publish_encoder(
    model: Any,
    info: dict[str, Any],
    served: str | os.PathLike[str],
    *,
    vectors: Any = None,
    familiar: Path | None = None,
    keep: int = 0,
) -> Path:
    """Writes a model as the next version of SERVED/encoder; arguments as of `save_encoder`.

    `familiar` is the file of `familiar_of`, to be kept beside it.
    """
    root = Path(served) / KIND
    info["dim"] = int(model.output_shape[-1])
    with publish(root, KIND, keep=keep) as staging:
        staging.info.update(info)
        save_encoder(model, info, staging.path, vectors)
        if familiar is not None:
            shutil.copyfile(familiar, staging.path / FAMILIAR)
        if info["image_size"] and not info["bands"]:
            write_warmup(staging.path, info["image_size"])
    return Path(staging.published or root)


def exported_version(
    run_dir: str | os.PathLike[str], served: str | os.PathLike[str], *, descriptor: str | None = None
) -> Path | None:
    """Folder of the newest version of SERVED/encoder if it holds a run's encoder already; arguments as above."""
    from macl_tf.export.model_info import describe_encoder

    return holding(served, describe_encoder(Path(run_dir), descriptor))


def holding(served: str | os.PathLike[str], info: dict[str, Any]) -> Path | None:
    """Folder of the newest version of SERVED/encoder if it is the one that `info` describes."""
    root = Path(served) / KIND
    if versions(root):
        with suppress(ArtifactError):  # one that is damaged is no reason not to write a whole one
            path, manifest = open_version(root, KIND)
            if manifest["info"].get("sha256") == info["sha256"]:
                return path
    return None


def save_encoder(model: Any, info: dict[str, Any], path: Path, vectors: Any = None) -> None:
    """Writes Keras models as a SavedModel with the signatures above.

    `model` is from pixels (B, S, S, 3) to (B, D), `vectors` from vectors (B, F) to (B, D); the former is not looked at
    where `info` tells no image size.
    """
    from macl_tf.models.inference import graph_encoder

    bands, size = info.get("bands"), info["image_size"]
    encode = graph_encoder(model, (size, size, len(bands["names"]) if bands else 3)) if size else None
    save_graphs(encode, info, path, None if vectors is None else graph_encoder(vectors, vectors.input_shape[1:]))


def save_graphs(encode: Any, info: dict[str, Any], path: Path, encode_vectors: Any = None) -> None:
    """As `save_encoder`, of functions of TensorFlow, from float32 pixels or vectors, without variables."""
    size, dim = info["image_size"], info["dim"]
    module, signatures = tf.Module(name="encoder"), dict[str, Any]()
    if size:
        bands = info.get("bands")
        channels, kind = (len(bands["names"]), tf.float32) if bands else (3, tf.uint8)
        module.encode = encode  # what another runtime takes: pixels of its size in, without decoding and resizing

        @tf.function(autograph=False, input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
        def serving_default(image_bytes: Tensor) -> dict[str, Tensor]:
            embedding, valid = embed_bytes(encode, image_bytes, size)
            return {"embedding": tf.ensure_shape(embedding, (None, dim)), "valid": valid}

        @tf.function(
            autograph=False, input_signature=[tf.TensorSpec((None, None, None, channels), kind, name="pixels")]
        )
        def embed_pixels(pixels: Tensor) -> dict[str, Tensor]:
            count = tf.shape(pixels)[0]
            # At least one row: convolutions of none crash under oneDNN.
            black = tf.zeros((tf.maximum(1 - count, 0), size, size, channels))
            resized = resize_bands(pixels, size) if bands else tf.cast(resize_batch(pixels, size), tf.float32)
            embedding = encode(tf.concat([resized, black], axis=0))[:count]
            return {"embedding": tf.ensure_shape(embedding, (None, dim))}

        signatures |= {"serving_default": embed_pixels if bands else serving_default, "embed_pixels": embed_pixels}
    if encode_vectors is not None:
        width = encode_vectors.input_signature[0].shape[1]
        module.encode_vectors = encode_vectors

        @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, width), tf.float32, name="features")])
        def embed_features(features: Tensor) -> dict[str, Tensor]:
            return {"embedding": tf.ensure_shape(encode_vectors(features), (None, dim))}

        signatures |= {"embed_features": embed_features}
        signatures.setdefault("serving_default", embed_features)
    text = json.dumps(info, sort_keys=True, ensure_ascii=False, allow_nan=False)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None,), tf.string, name="request")])
    def model_info(request: Tensor) -> dict[str, Tensor]:
        return {"json": tf.fill(tf.shape(request), tf.constant(text))}

    signatures["model_info"] = model_info
    module.signatures_ = list(signatures.values())
    tf.saved_model.save(module, os.fspath(path), signatures=signatures)


def embed_bytes(encode: Any, image_bytes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Embeddings (B, D), zeros for a bad image, and `valid` (B,) of images as bytes (B,), inside a tf.function."""
    pixels, valid = decode_batch(image_bytes, size)
    embedding = encode(tf.cast(pixels, tf.float32))[: tf.shape(valid)[0]]
    return tf.where(valid[:, None], embedding, 0.0), valid


class ExportedEncoder:
    """An encoder that `export_encoder` wrote. Needs TensorFlow, not Keras; any number of threads may use it at once.

    `info` is what `model_info` says: labels, preprocessing, data set, figures, versions and more; `image_size` is the
    side in pixels at which it sees an image, 0 where it takes vectors only, `label_names` are those that it was trained
    with.
    """

    def __init__(self, loaded: Any, version: int, runtime: str = RUNTIMES[0]) -> None:
        self._loaded = loaded  # the functions live as long as it does
        self._signatures = loaded.signatures
        self.version = version
        said = self._signatures["model_info"](request=tf.constant([""]))
        self.info: dict[str, Any] = json.loads(said["json"].numpy()[0])
        self.dim: int = self.info["dim"]
        self.image_size: int = self.info["image_size"] or 0
        self.reader: Reader = reader_of(self.info.get("bands"))
        self.label_names: tuple[str, ...] = tuple(self.info["labels"] or ())
        if not self.image_size:
            runtime = "tensorflow"  # others are for pictures: a head alone takes no time
        if runtime != "tensorflow" and not hasattr(loaded, "encode"):
            raise ValueError(
                f"runtime={runtime} needs an encoder that this macl_tf exported, but this one is older. Export it "
                "again, with another --output, or take runtime=tensorflow."
            )
        self._run = None if runtime == "tensorflow" else openvino_function(loaded.encode.concrete_functions[0], runtime)

    @classmethod
    def load(
        cls, served: str | os.PathLike[str], version: int | None = None, runtime: str = RUNTIMES[0]
    ) -> ExportedEncoder:
        """Loads a version of SERVED/encoder, the newest by default, into one of `runtimes.RUNTIMES`.

        Raises:
            ArtifactError: If it is missing or damaged.
            ImportError: If OpenVINO is not installed.
            ValueError: For another runtime, or an encoder that OpenVINO cannot run.
        """
        check_runtime(runtime)
        path, _ = open_version(Path(served) / KIND, KIND, version)
        return cls(tf.saved_model.load(os.fspath(path)), int(path.name), runtime)

    def embed_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Images of one size, (B, H, W, 3) uint8 RGB, resized in the graph, to (B, D) float32 of unit norm.

        Or tiles of N bands, (B, H, W, N) float32 in the units of their files.
        """
        pixels, (channels, kind) = np.asarray(pixels), (self.reader.channels, np.dtype(self.reader.dtype))
        if pixels.ndim != 4 or pixels.shape[3] != channels or pixels.dtype != kind or 0 in pixels.shape[1:]:
            raise ValueError(f"pixels must be (B, H, W, {channels}) {kind}, got {pixels.shape} {pixels.dtype}.")
        if self._run is not None:
            resize = resize_bands if isinstance(self.reader, Bands) else resize_batch
            return self._run(resize(tf.constant(pixels), self.image_size).numpy())
        return self._signatures["embed_pixels"](pixels=tf.constant(pixels))["embedding"].numpy()

    @cached_property
    def regions(self) -> Regions:
        """The same for parts of pictures; a ValueError for an encoder that has none."""
        if not self.image_size or "encode" not in (graphs := self.graphs()):
            raise ValueError("a part of a picture needs an encoder of pictures that this macl_tf exported. Cut it out.")
        return Regions(graphs["encode"], self._turns)

    @cached_property
    def has_regions(self) -> bool:
        """Whether it has `regions`, which are not made for that."""
        try:
            return bool(self.image_size) and bool(last_means(self.graphs()["encode"].graph, self._turns))
        except (KeyError, ValueError):
            return False

    @property
    def _turns(self) -> int:
        return int(self.info.get("settings", {}).get("turns", 1))

    def graphs(self) -> dict[str, Any]:
        """Its functions from float32 pixels (B, S, S, N), "encode", or vectors (B, F), "encode_vectors", to (B, D)."""
        names = [name for name in ("encode", "encode_vectors") if hasattr(self._loaded, name)]
        return {name: getattr(self._loaded, name).concrete_functions[0] for name in names}

    def embed_features(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors from elsewhere (B, F), where it takes such, to (B, D) float32 of unit norm."""
        rows = np.asarray(features, np.float32)
        return self._signatures["embed_features"](features=tf.constant(rows))["embedding"].numpy()

    def embed_bytes(
        self, images: Sequence[bytes], batch_size: int = 64
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Images as they lie on disk, JPEG, PNG, BMP or GIF, to (N, D) float32 of unit norm.

        And (N,) bool, whether an image could be decoded; its embedding is zeros where it could not.
        """
        if isinstance(images, bytes | str):
            raise ValueError("images must be a sequence of bytes, got one image. Put it into a list.")
        if isinstance(self.reader, Bands):  # no operation of TensorFlow decodes them
            return self.embed_images([self.reader.read(data, "the tile") for data in images]), np.ones(
                len(images), bool
            )
        embeddings, valid = [np.empty((0, self.dim), np.float32)], [np.empty(0, bool)]
        for start in _starts(len(images), batch_size):
            part = tf.constant(list(images[start : start + batch_size]), tf.string)
            if self._run is None:
                output = self._signatures["serving_default"](image_bytes=part)
                found, decoded = output["embedding"].numpy(), output["valid"].numpy()
            else:
                pixels, decoded = (tensor.numpy() for tensor in decode_batch(part, self.image_size))
                found = np.where(decoded[:, None], self._run(pixels), np.float32(0))
            embeddings.append(found)
            valid.append(decoded)
        return np.concatenate(embeddings), np.concatenate(valid)

    def embed_images(self, images: Sequence[NDArray[Any]], batch_size: int = 64) -> NDArray[np.float32]:
        """Images (H, W, 3) uint8 RGB of any sizes, or bands, resized as in training, to (N, D) float32 of unit norm."""
        embeddings = [np.empty((0, self.dim), np.float32)]
        for start in _starts(len(images), batch_size):
            part = [self.reader.resize(image, self.image_size) for image in images[start : start + batch_size]]
            embeddings.append(self.embed_pixels(np.stack(part)))
        return np.concatenate(embeddings)


def _starts(count: int, batch_size: int) -> range:
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}.")
    return range(0, count, batch_size)
