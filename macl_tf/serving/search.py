"""The search engine of a served folder: pictures, vectors or ids in, tiles out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from macl_tf.datasets.images import decode_image, thumbnail
from macl_tf.datasets.label_names import known_labels
from macl_tf.serving.artifacts import ArtifactError, open_version
from macl_tf.serving.filters import Filter
from macl_tf.serving.index import Index
from macl_tf.serving.items import Items

if TYPE_CHECKING:
    from macl_tf.serving.saved_model import ExportedEncoder

Picture = str | os.PathLike[str] | bytes | np.ndarray


@dataclass(frozen=True)
class Result:
    """One tile that was found.

    Attributes:
        rank: From 1.
        score: Cosine similarity in [-1, 1].
        id: Of the tile.
        item: What the index knows about it: path, labels, split, place, date, source.
        shared: Its labels that the query holds; empty where the query's labels are not known.
    """

    rank: int
    score: float
    id: str
    item: dict[str, Any]
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What was found for one query.

    Attributes:
        query: Name of the picture, or id.
        labels: Labels of the query; None where they are not known.
        results: Best first.
    """

    query: str
    labels: tuple[str, ...] | None
    results: tuple[Result, ...]


class SearchEngine:
    """Encoder and index of a folder that `macl export` wrote.

    The encoder, and so TensorFlow, is loaded at the first picture: searching by id or vector does without. Pictures are
    decoded and resized as in training, TIFF included. Searches may run in many threads, beside writes.

    Example:
        engine = SearchEngine.open("served")
        for result in engine.search("tile.jpg", k=5, filter="any=water")[0].results:
            print(result.rank, result.score, result.id)
    """

    def __init__(self, served: Path, index: Index, *, verify: bool = True) -> None:
        self.served = served
        self.index = index
        self._verify = verify

    @classmethod
    def open(cls, served: str | os.PathLike[str], *, exact: bool = False, verify: bool = True) -> SearchEngine:
        """Opens a served folder.

        Args:
            served: What `macl export` wrote.
            exact: Whether to compare with every tile always, without ScaNN.
            verify: Whether to compare the SHA-256 of every file first.

        Raises:
            ArtifactError: If the index is missing or damaged.
        """
        path = Path(served)
        if not path.is_dir():
            raise ArtifactError(f"'{path}' is not there. `macl export --run-dir RUN --output {path}` makes it.")
        return cls(path, Index.open(path / "index", exact=exact, verify=verify), verify=verify)

    @cached_property
    def encoder(self) -> ExportedEncoder:
        """The encoder that the index was made with, which need not be the newest."""
        from macl_tf.serving.saved_model import ExportedEncoder

        made_with = self.index.info["encoder"]
        _, manifest = open_version(self.served / "encoder", "encoder", made_with["version"], verify=self._verify)
        if manifest["uuid"] != made_with["uuid"]:
            raise ArtifactError(
                f"The index of '{self.served}' was made with another encoder than its version {made_with['version']} "
                "is: vectors of two encoders cannot be compared. Copy both from one export, or export again."
            )
        return ExportedEncoder.load(self.served, made_with["version"])

    def search(
        self,
        images: Picture | Sequence[Picture] = (),
        *,
        vectors: Any = None,
        ids: Sequence[str] = (),
        k: int = 10,
        filter: Filter | str | None = None,
        labels: str | Sequence[str] | None = None,
        exact: bool = False,
    ) -> list[Answer]:
        """The k tiles most like each query.

        Args:
            images: Pictures: paths, encoded bytes, or (H, W, 3) uint8 RGB arrays.
            vectors: (Q, D) embeddings instead.
            ids: Ids of tiles of the index instead; a tile is not found for itself.
            k: Results for each, >= 1; fewer only where no more tiles meet the filter.
            filter: A `Filter`, or its text form: "any=water,trees; none=cars".
            labels: Labels of the pictures, where known, to tell which ones results share: names, or a list as one text,
                as in `macl_tf.datasets.label_names`.
            exact: Whether to compare with every tile this time.

        Returns:
            One answer for each query, in order.

        Raises:
            FileNotFoundError: For a path that is not there.
            ValueError: For bytes that are no picture, an unknown id or label, k < 1, vectors of another width or with
                NaN, or not exactly one kind of query.
        """
        if isinstance(images, str | bytes | os.PathLike | np.ndarray):
            images = [images]
        if (len(images) > 0) + (vectors is not None) + (len(ids) > 0) != 1:
            raise ValueError("search needs images, vectors or ids, exactly one of them.")
        state = self.index.snapshot  # one state for everything below, whatever is written meanwhile
        label_names = state.stored.items.label_names
        condition = Filter.parse(filter, label_names) if isinstance(filter, str) else filter
        known = known_labels(label_names).choose(labels) if labels else None
        if len(ids):
            names = list(ids)
            hits = state.search(ids=names, k=k, filter=condition, exact=exact)
        else:
            if vectors is None:
                names = [name_of(image, number) for number, image in enumerate(images, start=1)]
                vectors = self.embed(images)
            else:
                names = [f"vector {number}" for number in range(1, len(vectors) + 1)]
            hits = state.search(vectors, k=k, filter=condition, exact=exact)
        answers = []
        for name, found in zip(names, hits, strict=True):
            own = tuple(state.describe(name)["labels"]) if len(ids) else known
            results = []
            for rank, hit in enumerate(found, start=1):
                item = state.describe(hit.id)
                shared = tuple(label for label in item["labels"] if own and label in own)
                results.append(Result(rank, hit.score, hit.id, item, shared))
            answers.append(Answer(name, own, tuple(results)))
        return answers

    def embed(self, images: Sequence[Picture]) -> np.ndarray:
        """Embeddings (B, D) of pictures, unit norm.

        Raises:
            FileNotFoundError: For a path that is not there.
            ValueError: For bytes that are no picture, naming it.
        """
        return self.encoder.embed_images([read_picture(image, number) for number, image in enumerate(images, start=1)])

    def upsert(
        self,
        images: Sequence[Picture],
        ids: Sequence[str],
        *,
        labels: Sequence[str | Sequence[str]] | None = None,
        thumbnail_size: int = 128,
    ) -> None:
        """Adds pictures to the index, or replaces those of the same id: all of them, durably, or none.

        Args:
            images: Paths, encoded bytes, or (H, W, 3) uint8 RGB arrays.
            ids: One for each.
            labels: Label names of each, or a list of them as one text; none by default.
            thumbnail_size: Longest side of the small picture that is kept, in pixels; 0 for none.

        Raises:
            FileNotFoundError: For a path that is not there.
            ValueError: For bytes that are no picture, an unknown label, or ids not unique. Then nothing changes.
        """
        if len(ids) != len(images):
            raise ValueError(f"Each picture needs one id, got {len(images)} pictures and {len(ids)} ids.")
        arrays = [read_picture(image, number) for number, image in enumerate(images, start=1)]
        names = self.index.label_names
        known = known_labels(names)
        rows = np.zeros((len(ids), len(names)), np.uint8)
        for row, held in zip(rows, labels or [()] * len(ids), strict=True):
            row[known.places(held)] = 1
        paths = [str(image) if isinstance(image, str | os.PathLike) else "" for image in images]
        items = Items.of(names, list(ids), rows, paths=paths)
        small = [thumbnail(array, thumbnail_size) if thumbnail_size else b"" for array in arrays]
        self.index.upsert(items, self.encoder.embed_images(arrays), small)


def read_picture(image: Picture, number: int = 1) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of a picture given as a path, encoded bytes or pixels."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"A picture must be (H, W, 3) uint8, got {image.shape} {image.dtype}.")
        return image
    if isinstance(image, bytes):
        return decode_image(image, name_of(image, number))
    if not Path(image).is_file():
        raise FileNotFoundError(f"The picture '{image}' is not there.")
    return decode_image(Path(image), str(image))


def name_of(image: Picture, number: int) -> str:
    """How answers and errors call a picture."""
    return str(image) if isinstance(image, str | os.PathLike) else f"picture {number}"
