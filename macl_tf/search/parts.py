"""A box in a picture as an example, and where in tiles what was searched for is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.datasets.images import RGB, decode_image
from macl_tf.index.view import View
from macl_tf.search.encoders import Encoder
from macl_tf.search.query import Box, Part, QueryError, check_there, unit_vector


def check_box(box: Box) -> tuple[float, float, float, float]:
    """A box (left, top, right, bottom) in shares of width and height; a QueryError for one that is none."""
    try:
        edges = tuple(float(edge) for edge in box)
    except ValueError:
        edges = ()
    if len(edges) != 4 or not (0 <= edges[0] < edges[2] <= 1 and 0 <= edges[1] < edges[3] <= 1):
        raise QueryError(
            "a box is left, top, right, bottom in shares of width and height, left < right and top < bottom",
            ", ".join(map(str, box)),
            "The right half of a picture is 0.5, 0, 1, 1.",
        )
    left, top, right, bottom = edges
    return left, top, right, bottom


def part_of(snapshot: View, encoder: Encoder, id_: str, box: Box) -> Part:
    """The box of a tile of the index, by its small picture."""
    (vector,) = encoder.embed_images([small_picture(snapshot, encoder, id_)], [check_box(box)])
    return Part(id_, vector)


def matches(snapshot: View, encoder: Encoder, ids: Sequence[str], vector: ArrayLike) -> NDArray[np.float32]:
    """How well each part of tiles matches a vector (D,): (n, h, w), the cosine of each cell with it.

    By the small pictures of the index. What lies left and above comes first.
    """
    row = unit_vector(snapshot, vector).astype(np.float32)
    pictures = [small_picture(snapshot, encoder, id_) for id_ in ids]
    return encoder.matches(pictures, row)


def small_picture(snapshot: View, encoder: Encoder, id_: str) -> NDArray[Any]:
    """The pixels (H, W, 3) of a tile's small picture; a QueryError where its encoder cannot see it."""
    check_there(snapshot, id_)
    if encoder.reader is not RGB:
        remedy = "Give the tile's file, with a box, instead of its id."
        raise QueryError("the index keeps pictures for people, and its encoder sees bands", id_, remedy)
    data = snapshot.thumbnail(id_)
    if data is None:
        raise QueryError(
            "the index has no small picture of the tile", id_, "Give its file, with a box, instead of its id."
        )
    return decode_image(data, id_)
