"""The encoder that an index was made with: in this process, or in a TensorFlow Serving elsewhere."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from macl_tf.artifacts import open_encoder
from macl_tf.datasets.bands import Reader, reader_of
from macl_tf.models.familiarity import reweighted
from macl_tf.models.runtimes import RUNTIMES
from macl_tf.search.query import Box, QueryError

if TYPE_CHECKING:
    from macl_tf.export.regions import Regions
    from macl_tf.export.saved_model import ExportedEncoder

_BATCH = 64  # pictures that are embedded together
Embed = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class Encoder:
    """An encoder that answers."""

    version: int  # of SERVED/encoder
    info: dict[str, Any]  # what its manifest says: descriptor, dim, image_size, dataset, figures, sha256
    embed_pixels: Embed  # from pixels (B, S, S, 3) uint8 to (B, D) of unit norm; fails where it takes vectors only
    embed_features: Embed | None = None  # from vectors from elsewhere (B, F), where it takes such, to the same
    open_regions: Callable[[], Regions] | None = None  # what embeds parts of pictures; None where it is not here
    has_regions: Callable[[], bool] = lambda: False  # whether that is there
    ready: Callable[[], bool] = lambda: True  # whether it is loaded: what is asked of it before takes seconds
    here: bool = True  # whether it computes in this process

    @property
    def dim(self) -> int:
        """D."""
        return int(self.info["dim"])

    @property
    def image_size(self) -> int:
        """S; 0 where it takes vectors only."""
        return int(self.info["image_size"] or 0)

    @property
    def reader(self) -> Reader:
        """What reads the pictures that it sees."""
        return reader_of(self.info.get("bands"))

    @property
    def sees_parts(self) -> bool:
        """Whether it embeds parts of the index's small pictures."""
        return self.has_regions() and not self.info.get("bands")

    def check_sees_pictures(self) -> None:
        """Raises a QueryError where it takes vectors only."""
        if not self.image_size:
            raise QueryError(
                "a picture needs an encoder of pictures, and this index was made of vectors from elsewhere without one",
                remedy="Search by id, by vector or by features; or name the network that made the vectors: macl index "
                "VECTORS --backbone NAME.",
            )

    def of_features(self, features: ArrayLike) -> NDArray[np.float32]:
        """The vector (D,) of the index of one (F,) from elsewhere; a QueryError where it takes none, or it is bad."""
        width, row = self.info.get("features"), np.asarray(features, np.float64)  # float32 has no 1e300
        if width is None or self.embed_features is None:
            rule = "features are for an index of vectors from elsewhere, and this one was made of pictures"
            raise QueryError(rule, remedy="Give a picture, or a vector of an answer of this index.")
        largest = float(np.abs(row).max(initial=0))
        if row.shape != (width,) or not 1e-30 < largest < 1e30:
            rule = f"features are {width} numbers, finite and not all zero, as the vectors that the index was made of"
            got = len(row) if row.shape != (width,) and row.ndim == 1 else largest
            raise QueryError(rule, got, "Compute them by the same model.")
        return self.embed_features(row[None].astype(np.float32))[0]

    def embed_images(self, images: Sequence[NDArray[Any]], boxes: Sequence[Box | None] = ()) -> NDArray[np.float32]:
        """Embeddings (B, D) of what `reader` has read, of any sizes, resized as in training.

        Of the first of them `boxes` are meant, where one is not None.
        """
        self.check_sees_pictures()
        rows = np.empty((len(images), self.dim), np.float32)
        parts = {place: box for place, box in enumerate(boxes) if box is not None}
        whole = np.setdiff1d(np.arange(len(images)), [*parts])
        for start in range(0, len(whole), _BATCH):
            chosen = whole[start : start + _BATCH]
            rows[chosen] = self.embed_pixels(self._resized([images[place] for place in chosen]))
        for place, box in parts.items():
            rows[place] = self.regions.embed(self._resized([images[place]]), [box])[0]
        return rows

    def matches(self, images: Sequence[NDArray[Any]], vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """How well each part of pictures matches a vector (D,): (B, h, w), cosines."""
        regions = self.regions
        found = [np.empty((0, *regions.grid), np.float32)]
        for start in range(0, len(images), _BATCH):
            found.append(regions.matches(self._resized(images[start : start + _BATCH]), vector))
        return np.concatenate(found)

    @property
    def regions(self) -> Regions:
        """What embeds parts of pictures; a QueryError where the encoder has none."""
        self.check_sees_pictures()
        if self.open_regions is None:
            raise QueryError(
                "a part of a picture needs the encoder in this process, and it is behind TensorFlow Serving",
                remedy="Cut the part out and search by that picture, or leave out --encoder-url.",
            )
        try:
            return self.open_regions()
        except ValueError as error:
            raise QueryError(str(error)) from None

    def _resized(self, images: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.stack([self.reader.resize(image, self.image_size) for image in images])


def load_encoder(
    served: Path,
    made_with: Mapping[str, Any],
    url: str | None = None,
    *,
    verify: bool = True,
    runtime: str = RUNTIMES[0],
    later: bool = False,
) -> Encoder:
    """The encoder that an index was made with, whose manifest says of it what `made_with` is, as that has its vectors.

    It is loaded here, into a runtime, or asked in a TensorFlow Serving at `url`, the model's "http://HOST:8501/v1/models/encoder".
    `verify` compares the SHA-256 of every file first; `later` loads it when it is first needed, which takes seconds,
    and raises there what goes wrong. Raises ArtifactError if it is missing, damaged, or another one
    under the same number, ConnectionError if the server does not answer, and ValueError if that holds another one.
    """
    encoder = _as_exported(served, made_with, url, verify=verify, runtime=runtime, later=later)
    if "share" not in made_with:
        return encoder
    features, share = int(made_with["features"]), float(made_with["share"])

    def fitted(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return reweighted(rows, features, share)

    of_features, regions = encoder.embed_features, encoder.open_regions
    return replace(
        encoder,
        embed_pixels=lambda pixels: fitted(encoder.embed_pixels(pixels)),
        embed_features=None if of_features is None else lambda rows: fitted(of_features(rows)),
        open_regions=None if regions is None else lambda: regions().followed_by(fitted),
    )


def _as_exported(
    served: Path, made_with: Mapping[str, Any], url: str | None, *, verify: bool, runtime: str, later: bool
) -> Encoder:
    """The same with the vectors that the encoder gives."""
    _, manifest = open_encoder(served, made_with, verify=verify)
    facts, version = dict(manifest["info"]), int(made_with["version"])
    if url is None:

        def load() -> ExportedEncoder:
            from macl_tf.export.saved_model import ExportedEncoder

            return ExportedEncoder.load(served, version, runtime)

        if later:
            return _loaded_later(version, facts, load)
        loaded = load()
        parts = lambda: loaded.regions, lambda: loaded.has_regions
        return Encoder(version, facts, loaded.embed_pixels, loaded.embed_features, *parts)
    if facts.get("bands"):
        raise ValueError(f"an encoder of bands is asked here, not by REST, which has no NaN: leave out {url}.")
    remote = RemoteEncoder(url, version)
    if (held := remote.info().get("sha256")) != facts["sha256"]:
        raise ValueError(
            f"the encoder at {url} must be version {version} of this export, got another (sha256 {held}). Give "
            "the server the same folder."
        )
    return Encoder(version, facts, remote.embed_pixels, remote.embed_features, here=False)


def _loaded_later(version: int, facts: dict[str, Any], load: Callable[[], ExportedEncoder]) -> Encoder:
    """An encoder that is loaded when it is first needed."""
    loaded: list[ExportedEncoder] = []
    loading = threading.Lock()

    def there() -> ExportedEncoder:
        with loading:
            if not loaded:
                loaded.append(load())
        return loaded[0]

    return Encoder(
        version,
        facts,
        lambda pixels: there().embed_pixels(pixels),
        lambda features: there().embed_features(features),
        lambda: there().regions,
        lambda: bool(loaded) and loaded[0].has_regions,  # who asks does not wait
        lambda: bool(loaded),
    )


class RemoteEncoder:
    """A version of the encoder behind the REST of a TensorFlow Serving; `timeout` is in seconds. One call at a time."""

    def __init__(self, url: str, version: int, timeout: float = 30.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or not parts.path.strip("/"):
            raise ValueError(f"the encoder's URL must be like http://HOST:8501/v1/models/encoder, got {url!r}.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._path = f"{parts.path.rstrip('/')}/versions/{version}:predict"

    def info(self) -> dict[str, Any]:
        """What the encoder says about itself."""
        (text,) = self._predict({"signature_name": "model_info", "instances": [""]})
        return dict(json.loads(text))

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (B, D) of pixels (B, S, S, 3), which travel as PNG: smaller than JSON's numbers, and as exact."""
        instances = [{"image_bytes": {"b64": base64.b64encode(_png(image)).decode()}} for image in pixels]
        rows = self._predict({"instances": instances})
        if len(rows) != len(pixels) or not all(row["valid"] for row in rows):
            raise ConnectionError(f"The encoder's server must answer {len(pixels)} valid rows, got others.")
        return np.array([row["embedding"] for row in rows], np.float32)

    def embed_features(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (B, D) of vectors from elsewhere (B, F)."""
        rows = self._predict({"signature_name": "embed_features", "instances": features.tolist()})
        return np.array(rows, np.float32)

    def _predict(self, request: dict[str, Any]) -> list[Any]:
        body = json.dumps(request)
        for again in (True, False):
            try:
                self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                data = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()  # it may have been closed for idleness: the next try opens it anew
                if not again:
                    raise ConnectionError(f"The encoder's server does not answer: {error}.") from error
        if response.status != 200:
            raise ConnectionError(f"The encoder's server answered {response.status}: {data[:200]!r}.")
        return list(json.loads(data)["predictions"])


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
