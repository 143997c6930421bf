"""The search engine of a served folder: pictures, vectors or ids in, tiles out."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from macl_tf.artifacts import ArtifactError
from macl_tf.datasets.bands import Reader
from macl_tf.datasets.images import thumbnail
from macl_tf.index.engines import open_engine
from macl_tf.index.filters import Filter
from macl_tf.index.view import Engine, View
from macl_tf.search.encoders import Encoder, load_encoder
from macl_tf.search.parts import check_box, matches, part_of
from macl_tf.search.pictures import Picture, items_of, name_of, read_picture
from macl_tf.search.query import Answer, Box, Example, QueryError, find

_TRIES = 3  # to write what another export keeps making out of date


class SearchEngine:
    """Encoder and index of a folder that `macl export` wrote.

    The encoder, and so TensorFlow, is loaded at the first picture: searching by id or vector does without. Pictures are
    decoded and resized as in training, TIFF included. Searches may run in many threads, beside writes.

    Example:
        engine = SearchEngine.open("served")
        for result in engine.search("tile.jpg", k=5, filter="any_of=water")[0].results:
            print(result.rank, result.score, result.id)
    """

    def __init__(self, served: Path, index: Engine, *, verify: bool = True) -> None:
        self.served = served
        self.index = index
        self._verify = verify
        self._loading = threading.Lock()
        self._encoder: tuple[dict[str, Any], Encoder] | None = None  # and what the index says of it

    @classmethod
    def open(
        cls, served: str | os.PathLike[str], *, index: str = "", exact: bool = False, verify: bool = True
    ) -> SearchEngine:
        """Opens a served folder.

        Args:
            served: What `macl export` wrote.
            index: "milvus:URI" for an index in a Milvus; by default the files in the folder.
            exact: Whether to compare with every tile always, without ScaNN.
            verify: Whether to compare the SHA-256 of every file first.

        Raises:
            ArtifactError: If the index is missing or damaged.
            EngineError: If a Milvus does not answer, here and in all that follows.
        """
        path = Path(served)
        if not path.is_dir():
            raise ArtifactError(f"'{path}' is not there. `macl export --run-dir RUN --output {path}` makes it.")
        return cls(path, open_engine(path, index, exact=exact, verify=verify), verify=verify)

    @property
    def encoder(self) -> Encoder:
        """The encoder that the index was made with, which need not be the newest."""
        return self._encoder_of(self.index.snapshot)

    def search(
        self,
        images: Picture | Sequence[Picture] = (),
        *,
        vectors: Any = None,
        ids: Sequence[str] = (),
        positive: Sequence[str | Picture | ArrayLike] = (),
        negative: Sequence[str | Picture | ArrayLike] = (),
        k: int = 10,
        offset: int = 0,
        filter: Filter | str | None = None,
        labels: str | Sequence[str] | None = None,
        exact: bool = False,
        box: Box | None = None,
    ) -> list[Answer]:
        """The tiles most like each query, and least like the negative examples; see `macl_tf.search.query.find`.

        An example is the id of a tile (str), a picture (a Path, bytes, or pixels) or a vector. None of them is among
        the results.

        Args:
            images: Pictures, each a query: paths, encoded bytes, or (H, W, 3) uint8 RGB arrays.
            vectors: (Q, D) embeddings instead.
            ids: Ids of tiles of the index instead.
            positive: More examples that the results of each query should be like. Without images, vectors and ids they
                are the query.
            negative: Examples that they should not be like.
            k: Results for each query, >= 1; fewer only where no more tiles meet the filter.
            offset: Results to leave out, for the next page.
            filter: A `Filter`, or its text form: "any_of=water,trees; none_of=cars".
            labels: Labels of the queries, where known, to tell which ones results share: names, or a list as one text,
                as in `macl_tf.datasets.label_names`.
            exact: Whether to compare with every tile this time.
            box: The part that is meant of the one picture, or the one id: left, top, right, bottom in shares of its
                width and height. Of an id it is taken from the small picture in the index.

        Returns:
            One answer for each query, in order.

        Raises:
            FileNotFoundError: For a path that is not there.
            ValueError: For bytes that are no picture, an unknown id or label, k < 1, vectors of another width or with
                NaN, examples that cancel out, or not exactly one kind of query.
        """
        images, ids, positive, negative = map(_several, (images, ids, positive, negative))
        kinds = (len(images) > 0) + (vectors is not None) + (len(ids) > 0)
        if kinds > 1 or not kinds + len(positive):
            raise ValueError("search needs images, vectors or ids, exactly one of them, or positive examples.")
        if box is not None and len(images) + len(ids) != 1:
            remedy = "Search by one of them, or leave out the box."
            raise QueryError("a box is of one picture or one id", len(images) + len(ids), remedy)
        pictures = [image for image in (*positive, *negative) if _is_picture(image)]
        names = [name_of(image, number) for number, image in enumerate(images, start=1)]
        named = [*zip(images, names, strict=True)]
        named += [(image, name_of(image, place)) for place, image in enumerate(pictures, start=1)]
        # One state for everything below, whatever is written meanwhile.
        state, embedded = self.index.snapshot, np.empty((0, 0))
        if named:
            state, _, _, embedded = self._embedded(named, [check_box(box)] if box is not None and len(images) else ())
        of_pictures = iter(embedded[len(images) :])
        more, unlike = (
            [next(of_pictures) if _is_picture(one) else one for one in some] for some in (positive, negative)
        )
        heads: list[tuple[str, list[Example]]] = [("examples", [])]
        if vectors is not None:
            heads = [(f"vector {number}", [vector]) for number, vector in enumerate(np.asarray(vectors), start=1)]
        elif box is not None and ids:
            heads = [(ids[0], [part_of(state, self._encoder_of(state), ids[0], box)])]
        elif kinds:
            heads = [(id_, [id_]) for id_ in ids] or [(name, [row]) for name, row in zip(names, embedded, strict=False)]
        queries = [(name, [*examples, *more]) for name, examples in heads]
        return find(state, queries, negative=unlike, k=k, offset=offset, filter=filter, labels=labels, exact=exact)

    def matches(self, ids: Sequence[str], vector: ArrayLike) -> np.ndarray:
        """Where in tiles what was searched for is: (n, h, w), the cosine of each part of them with a vector.

        Args:
            ids: Tiles of the index, such as the results of an answer.
            vector: (D,), such as `Answer.vector`.

        Raises:
            QueryError: For an encoder that has no feature maps, or sees bands; for an unknown id.
        """
        state = self.index.snapshot
        return matches(state, self._encoder_of(state), ids, vector)

    def embed(self, images: Sequence[Picture]) -> np.ndarray:
        """Embeddings (B, D) of pictures, unit norm; errors as of `search`."""
        return self._embedded(_numbered(images))[3]

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
        new_labels: Sequence[str] = (),
    ) -> int:
        """Adds pictures to the index, or replaces those of the same id: all of them, durably, or none.

        What is given for a tile wins. Where nothing is given, which is None, its date and place are those that the
        header of the file tells; what that does not tell, and all else, stays as it is in the tile that is replaced.
        An empty value says that there is none: `labels=[()]`, `dates=[""]`, `bboxes=[()]`, `splits=[""]`.

        Args:
            images: Paths, encoded bytes, or (H, W, 3) uint8 RGB arrays.
            ids: One for each.
            labels: Label names of each, or a list of them as one text. What no label of the index is becomes one,
                unless it is so near to one that it may be misspelled.
            dates: Day that each was taken, "2020-06-01", a date or datetime64.
            bboxes: West, south, east, north of each in degrees (WGS 84), less than 180 degrees wide.
            splits: Part of the archive that each is of.
            sources: What each comes from.
            new_labels: Those of the labels that are new, and meant, however near to others they are.

        Returns:
            How many of them replaced another.

        Raises:
            FileNotFoundError: For a path that is not there.
            ValueError: For bytes that are no picture, a label that may be misspelled, a date or box that cannot be,
                or ids not unique. Then nothing changes.
        """
        if len(ids) != len(images):
            raise ValueError(f"Each picture needs one id, got {len(images)} pictures and {len(ids)} ids.")
        named = _numbered(images)
        found = self._embedded(named)  # what is no picture is refused before all else
        known = self.index.label_names
        items, missing = items_of(
            images, ids, known, new_labels,
            labels=labels, dates=dates, bboxes=bboxes, splits=splits, sources=sources,
        )  # fmt: skip
        new = [name for name in items.label_names if name not in known]
        for _ in range(_TRIES):
            state, reader, arrays, vectors = found
            size = state.thumbnail_size
            small = [thumbnail(reader.show(array), size) if size else None for array in arrays]
            made_with = state.info.get("encoder")
            try:
                return self.index.upsert(items, vectors, small, encoder=made_with, missing=missing, new_labels=new)
            except ArtifactError:
                if self.index.info.get("encoder") == made_with:
                    raise
                found = self._embedded(named)
        raise ArtifactError(f"'{self.served}' gets one new index after another. Wait for that to end, then try again.")

    def _embedded(
        self, named: Sequence[tuple[Picture, str]], boxes: Sequence[Box] = ()
    ) -> tuple[View, Reader, list[np.ndarray], np.ndarray]:
        """A state of the index, what has read the pictures for its encoder, their pixels, and embeddings (B, D).

        `boxes` are of the first pictures.
        """
        while True:
            state = self.index.snapshot
            try:
                encoder = self._encoder_of(state)
                arrays = [read_picture(image, name, reader=encoder.reader) for image, name in named]
                return state, encoder.reader, arrays, encoder.embed_images(arrays, boxes)
            except ArtifactError:  # an export may just have put another index and encoder in the place of these
                self.index.refresh()
                if self.index.snapshot.uuid == state.uuid:
                    raise

    def _encoder_of(self, state: View) -> Encoder:
        made_with = state.info["encoder"]
        with self._loading:
            if self._encoder is None or self._encoder[0] != made_with:
                self._encoder = dict(made_with), load_encoder(self.served, made_with, verify=self._verify)
            return self._encoder[1]


def _numbered(images: Sequence[Picture]) -> list[tuple[Picture, str]]:
    """Pictures with what errors call them."""
    return [(image, name_of(image, number)) for number, image in enumerate(images, start=1)]


def _several(examples: Any) -> list[Any]:
    """A list of one, where it was not given as a list."""
    return [examples] if isinstance(examples, str | bytes | os.PathLike | np.ndarray) else list(examples)


def _is_picture(example: Any) -> bool:
    return isinstance(example, os.PathLike | bytes) or np.ndim(example) == 3
