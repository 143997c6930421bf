"""The search engine of a served folder: pictures, vectors or ids in, tiles out."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from macl_tf.artifacts import ArtifactError, open_version
from macl_tf.datasets.images import decode_image, thumbnail
from macl_tf.datasets.label_names import known_labels
from macl_tf.datasets.tile_facts import NOWHERE, UNKNOWN_DAY, day_of, footprint_of, read_header
from macl_tf.index.filters import Filter
from macl_tf.index.index import Index, Snapshot
from macl_tf.index.items import Items

if TYPE_CHECKING:
    from macl_tf.export.saved_model import ExportedEncoder

Picture = str | os.PathLike[str] | bytes | np.ndarray
_TRIES = 3  # to write what another export keeps making out of date


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
        for result in engine.search("tile.jpg", k=5, filter="any_of=water")[0].results:
            print(result.rank, result.score, result.id)
    """

    def __init__(self, served: Path, index: Index, *, verify: bool = True) -> None:
        self.served = served
        self.index = index
        self._verify = verify
        self._loading = threading.Lock()
        self._encoder: tuple[str, ExportedEncoder] | None = None  # and the uuid of its version

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

    @property
    def encoder(self) -> ExportedEncoder:
        """The encoder that the index was made with, which need not be the newest."""
        return self._encoder_of(self.index.snapshot)

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
            filter: A `Filter`, or its text form: "any_of=water,trees; none_of=cars".
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
                arrays = [read_picture(image, number) for number, image in enumerate(images, start=1)]
                state, vectors = self._embedded(arrays)
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
        return self._embedded([read_picture(image, number) for number, image in enumerate(images, start=1)])[1]

    def upsert(
        self,
        images: Sequence[Picture],
        ids: Sequence[str],
        *,
        labels: Sequence[str | Sequence[str] | None] | None = None,
        dates: Sequence[Any] | None = None,
        bboxes: Sequence[Sequence[float] | None] | None = None,
        splits: Sequence[str | None] | None = None,
        sources: Sequence[str | None] | None = None,
        thumbnail_size: int | None = None,
    ) -> int:
        """Adds pictures to the index, or replaces those of the same id: all of them, durably, or none.

        What is given for a tile wins. Where nothing is given, which is None, its date and place are those that the
        header of the file tells; what that does not tell, and all else, stays as it is in the tile that is replaced.
        An empty value says that there is none: `labels=[()]`, `dates=[""]`, `bboxes=[()]`, `splits=[""]`.

        Args:
            images: Paths, encoded bytes, or (H, W, 3) uint8 RGB arrays.
            ids: One for each.
            labels: Label names of each, or a list of them as one text.
            dates: Day that each was taken, "2020-06-01", a date or datetime64.
            bboxes: West, south, east, north of each in degrees (WGS 84), less than 180 degrees wide.
            splits: Part of the archive that each is of.
            sources: What each comes from.
            thumbnail_size: Longest side of the small picture that is kept, in pixels; 0 for none. By default as in the
                index.

        Returns:
            How many of them replaced another.

        Raises:
            FileNotFoundError: For a path that is not there.
            ValueError: For bytes that are no picture, an unknown label, a date or box that cannot be, or ids not
                unique. Then nothing changes.
        """
        count = len(images)
        if len(ids) != count:
            raise ValueError(f"Each picture needs one id, got {count} pictures and {len(ids)} ids.")
        given = {"labels": labels, "dates": dates, "bboxes": bboxes, "splits": splits, "sources": sources}
        for name, values in given.items():
            if values is not None and (isinstance(values, str) or len(values) != count):
                got = f"the text {values!r}" if isinstance(values, str) else len(values)
                raise ValueError(f"{name} must have one entry for each of the {count} pictures, got {got}.")
        nothing: list[Any] = [None] * count
        known = known_labels(self.index.label_names)
        held = [None if names is None else known.choose(names) for names in labels or nothing]
        days = [None if day is None else day_of(day) for day in dates or nothing]
        corners = [None if box is None else footprint_of(box) for box in bboxes or nothing]
        parts, origins = list(splits or nothing), list(sources or nothing)
        arrays = [read_picture(image, number) for number, image in enumerate(images, start=1)]
        for place, image in enumerate(images):
            if (days[place] is None or corners[place] is None) and not isinstance(image, np.ndarray):
                said = read_header(image if isinstance(image, bytes) else Path(image))
                if days[place] is None and not np.isnat(said.date):
                    days[place] = said.date
                if corners[place] is None and not np.isnan(said.footprint).any():
                    corners[place] = said.footprint
        names = tuple(dict.fromkeys(label for names in held for label in names or ()))
        items = Items.of(
            names,
            list(ids),
            [[name in (labels or ()) for name in names] for labels in held],
            paths=[str(image) if isinstance(image, str | os.PathLike) else "" for image in images],
            splits=[part or "" for part in parts],
            sources=[origin or "" for origin in origins],
            footprints=[NOWHERE if footprint is None else footprint for footprint in corners],
            dates=[UNKNOWN_DAY if day is None else day for day in days],
        )
        columns: dict[str, list[Any]] = {
            "labels": held,
            "dates": days,
            "footprints": corners,
            "splits": parts,
            "sources": origins,
        }
        missing = {name: [value is None for value in values] for name, values in columns.items()}
        for _ in range(_TRIES):
            state, vectors = self._embedded(arrays)
            size = state.stored.thumbnail_size if thumbnail_size is None else thumbnail_size
            small = [thumbnail(array, size) if size else None for array in arrays]
            made_with = state.stored.info.get("encoder")
            try:
                return self.index.upsert(items, vectors, small, encoder=made_with, missing=missing)
            except ArtifactError:
                if self.index.info.get("encoder") == made_with:
                    raise
        raise ArtifactError(f"'{self.served}' gets one new index after another. Wait for that to end, then try again.")

    def _embedded(self, arrays: list[np.ndarray]) -> tuple[Snapshot, np.ndarray]:
        """A state of the index and embeddings (B, D) of its encoder."""
        while True:
            state = self.index.snapshot
            try:
                return state, self._encoder_of(state).embed_images(arrays)
            except ArtifactError:  # an export may just have put another index and encoder in the place of these
                self.index.refresh()
                if self.index.snapshot.stored.uuid == state.stored.uuid:
                    raise

    def _encoder_of(self, state: Snapshot) -> ExportedEncoder:
        from macl_tf.export.saved_model import ExportedEncoder

        made_with = state.stored.info["encoder"]
        with self._loading:
            if self._encoder is None or self._encoder[0] != made_with["uuid"]:
                _, manifest = open_version(
                    self.served / "encoder", "encoder", made_with["version"], verify=self._verify
                )
                if manifest["uuid"] != made_with["uuid"]:
                    raise ArtifactError(
                        f"The index of '{self.served}' was made with another encoder than its version "
                        f"{made_with['version']} is: vectors of two encoders cannot be compared. Copy both from one "
                        "export, or export again."
                    )
                self._encoder = made_with["uuid"], ExportedEncoder.load(self.served, made_with["version"])
            return self._encoder[1]


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
