"""From examples to ranked tiles: the one search that Python, the command line and HTTP ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.datasets.label_names import known_labels
from macl_tf.index.filters import Filter
from macl_tf.index.plot import Plot
from macl_tf.index.view import View
from macl_tf.metrics.ranked import check_cutoff
from macl_tf.search.direction import MOST, NEGATIVE, beside_classifier
from macl_tf.search.places import box_of

_FEW = 100  # examples that are tiles
_AT_ONCE = 4096  # examples whose vectors are held at a time
Box = Sequence[float]  # left, top, right, bottom in shares of a picture's width and height


class QueryError(ValueError):
    """What cannot be searched for, or written: what must hold, what was given instead (or None), and what to do."""

    def __init__(self, rule: str, value: Any = None, remedy: str = "") -> None:
        self.rule, self.value, self.remedy = rule, value, remedy
        got = "" if value is None else f", got {value!r}"
        super().__init__(f"{rule}{got}. {remedy}".rstrip())


@dataclass(frozen=True)
class Part:
    """A part of a tile: it is searched for by its own vector, and the tile is no result."""

    id: str
    vector: ArrayLike  # (D,) of the encoder


Example = str | Part | ArrayLike  # the id of a tile, a part of one, or a vector (D,) of the encoder


class NotThereError(QueryError, LookupError):
    """A tile, or a version of an index, that there is not."""


@dataclass(slots=True)  # not frozen, which takes longer to make: a batch of answers holds hundreds
class Result:
    """One tile that was found."""

    rank: int  # from 1
    score: float  # cosine similarity in [-1, 1]
    id: str
    item: dict[str, Any]  # what the index knows about it: path, labels, split, bbox, footprint, date, source
    shared: tuple[str, ...] = ()  # its labels that the query holds; empty where the query's are not known


@dataclass(frozen=True)
class Answer:
    """What was found for one query."""

    query: str  # name of the picture, or id
    labels: tuple[str, ...] | None  # of the query; None where they are not known
    results: tuple[Result, ...]  # best first
    more: bool  # whether there are more tiles after these
    vector: NDArray[np.float32]  # (D,) what was searched with, of unit norm


def plot_of(snapshot: View) -> Plot:
    """The plot of an index; a NotThereError where it has none."""
    if snapshot.plot is None:
        remedy = "Build a new version from it: macl index SERVED. An index in a Milvus never has one."
        raise NotThereError("the index has no plot: it is empty, or was built before there were plots", None, remedy)
    return snapshot.plot


def find(
    snapshot: View,
    queries: Sequence[tuple[str, Sequence[Example]]],
    *,
    negative: Sequence[Example] = (),
    k: int = 10,
    offset: int = 0,
    filter: Filter | str | None = None,
    labels: str | Sequence[str] | None = None,
    exact: bool = False,
) -> list[Answer]:
    """The tiles most like the positive and least like the negative examples, which are not among them.

    One example ranks tiles by their cosine with it, several by their cosine with `macl_tf.search.direction`: half
    normalise(mean(positive) - 0.5 mean(negative)) of unit vectors (Rocchio), half the weights of a logistic regression
    of the positive examples against the negative ones and 300 tiles of the index, drawn at random.
    Each query has a name and its own positive examples, at least one. `labels` are by default those of the tile, where
    that is all of a query. All else is as for `SearchEngine.search`, and so are the errors, of which QueryError and
    NotThereError say rule, value and remedy.
    """
    check_cutoff(k, optional=False)
    if not isinstance(offset, int | np.integer) or offset < 0:
        raise QueryError("offset must be an integer >= 0", offset, "0 is the first page.")
    if exact and not snapshot.can_be_exact:
        rule = f"an exact search needs an index that can be searched exactly, and a {snapshot.info['kind']} cannot"
        raise QueryError(rule, None, "Leave out exact, or build the index with --kind IVF_FLAT or FLAT.")
    condition = Filter.parse(filter, snapshot.label_names) if isinstance(filter, str) else filter
    known = known_labels(snapshot.label_names).choose(labels) if labels else None
    unlike = _mean(snapshot, negative) if negative else None
    wrong = _some(snapshot, negative)
    own = [_named((*positive, *negative)) for _, positive in queries]
    vectors = [
        _direction(snapshot, positive, unlike, wrong, marked)
        for (_, positive), marked in zip(queries, own, strict=True)
    ]
    end = offset + k
    stacked = np.stack(vectors) if vectors else np.empty((0, snapshot.dim), np.float32)
    # A few examples are searched for and left out after it; the many of a collection are not searched for.
    in_all = set.intersection(*own) if own else set[str]()
    apart = in_all if len(in_all) > _FEW else set[str]()
    depth = end + 1 + max((len(examples - apart) for examples in own), default=0)
    found = snapshot.search(stacked, k=depth, filter=condition, exact=exact, without=apart)
    others = [[hit for hit in hits if hit.id not in examples] for examples, hits in zip(own, found, strict=True)]
    items = map(_with_box, snapshot.describe_all([hit for hits in others for hit in hits[offset:end]]))
    answers = []
    for (name, positive), vector, hits in zip(queries, vectors, others, strict=True):
        held = known
        if known is None and len(positive) == 1 and isinstance(positive[0], str) and not negative:
            held = tuple(snapshot.describe(positive[0])["labels"])
        results = []
        for rank, hit in enumerate(hits[offset:end], start=offset + 1):
            item = next(items)
            shared = tuple(label for label in item["labels"] if label in held) if held else ()
            results.append(Result(rank, hit.score, hit.id, item, shared))
        answers.append(Answer(name, held, tuple(results), len(hits) > end, vector))
    return answers


def describe(snapshot: View, id_: str) -> dict[str, Any]:
    """What the index knows about a tile: id, path, labels, split, source, date, footprint and the bbox around it."""
    check_there(snapshot, id_)
    return _with_box(snapshot.describe(id_))


def _with_box(item: dict[str, Any]) -> dict[str, Any]:
    item["bbox"] = None if item["footprint"] is None else box_of(item["footprint"])
    return item


def check_there(snapshot: View, id_: str) -> None:
    """Lets the id of a tile through; a NotThereError is for any other."""
    if not snapshot.holds(id_):
        remedy = "Ids are those of search results in this index, whole: with their folders."
        raise NotThereError("the id must be of a tile in the index", id_, remedy)


def _check_all_there(snapshot: View, ids: Sequence[str]) -> None:
    there = snapshot.present(ids)
    for id_ in ids:
        if id_ not in there:
            check_there(snapshot, id_)


def unit_vector(snapshot: View, example: Example) -> NDArray[np.float64]:
    """The vector (D,) of norm 1 that an example stands for; a QueryError where it is none."""
    if isinstance(example, str):
        check_there(snapshot, example)
        return snapshot.vectors_of([example])[0].astype(np.float64)
    vector = np.asarray(example.vector if isinstance(example, Part) else example)
    if vector.shape != (snapshot.dim,) or vector.dtype.kind not in "fiu":
        got = len(vector) if vector.ndim == 1 else f"{vector.dtype} of shape {vector.shape}"
        rule = f"a vector has {snapshot.dim} numbers, as the index's encoder makes them"
        raise QueryError(rule, got, "Take the vector of an answer of this index.")
    vector = vector.astype(np.float64)
    with np.errstate(over="ignore"):
        if abs(float(vector @ vector) - 1) < 1e-6:  # as it mostly is
            return vector
    largest = float(np.abs(vector).max())
    if not 1e-30 < largest < 1e30:
        raise QueryError("a vector is finite, not zero, and has numbers below 1e30", largest, "Bring it to norm 1.")
    return vector / float(np.linalg.norm(vector))


def _direction(
    snapshot: View,
    positive: Sequence[Example],
    unlike: NDArray[np.float64] | None,
    wrong: NDArray[np.float64],
    marked: set[str],
) -> NDArray[np.float32]:
    """The unit vector (D,) to search with; `unlike` is the mean of the negative examples, `wrong` some of them."""
    if not positive:
        remedy = "Give the id of a tile, a vector or a picture."
        raise QueryError("a query has at least one positive example", 0, remedy)
    if len(positive) == 1 and unlike is None:
        return unit_vector(snapshot, positive[0]).astype(np.float32)  # as it is, within rounding
    mean = _mean(snapshot, positive)
    if unlike is not None:
        mean = mean - NEGATIVE * unlike
    norm = float(np.linalg.norm(mean))
    if norm < 1e-6:
        raise QueryError("positive and negative examples must not cancel out", norm, "Leave out one of them.")
    usual = snapshot.vectors_of([id_ for id_ in snapshot.background if id_ not in marked]).astype(np.float64)
    return beside_classifier(mean / norm, _some(snapshot, positive), np.concatenate([wrong, usual])).astype(np.float32)


def vector_of(snapshot: View, positive: Sequence[Example], negative: Sequence[Example]) -> NDArray[np.float32]:
    """The unit vector (D,) that `find` would search with."""
    unlike = _mean(snapshot, negative) if negative else None
    return _direction(snapshot, positive, unlike, _some(snapshot, negative), _named((*positive, *negative)))


def _named(examples: Sequence[Example]) -> set[str]:
    """The tiles that examples are, or are parts of."""
    return {*_ids(examples), *(example.id for example in examples if isinstance(example, Part))}


def _ids(examples: Sequence[Example]) -> list[str]:
    return [example for example in examples if isinstance(example, str)]


def _some(snapshot: View, examples: Sequence[Example]) -> NDArray[np.float64]:
    """The unit vectors (n, D) of the examples; of many, of some that are drawn at random, always the same."""
    if len(examples) > MOST:
        chosen = np.random.default_rng(0).choice(len(examples), MOST, replace=False)
        examples = [examples[place] for place in np.sort(chosen)]
    ids = _ids(examples)
    _check_all_there(snapshot, ids)
    of_ids = iter(snapshot.vectors_of(ids).astype(np.float64))
    rows = [next(of_ids) if isinstance(example, str) else unit_vector(snapshot, example) for example in examples]
    return np.array(rows).reshape(len(examples), snapshot.dim)


def _mean(snapshot: View, examples: Sequence[Example]) -> NDArray[np.float64]:
    """The mean (D,) of the examples' unit vectors."""
    ids = _ids(examples)
    rest = [unit_vector(snapshot, one) for one in examples if not isinstance(one, str)]
    total = np.sum(rest, axis=0, dtype=np.float64)
    _check_all_there(snapshot, ids)
    for start in range(0, len(ids), _AT_ONCE):
        total = total + snapshot.vectors_of(ids[start : start + _AT_ONCE]).sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(examples))
