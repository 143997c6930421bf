"""From examples to results: the query vector, the search, and what an answer says about each tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.label_names import UnknownLabelError, known_labels
from macl_tf.index.filters import Filter
from macl_tf.index.index import Snapshot
from macl_tf.search.places import box_of, geometry_of
from macl_tf.server.errors import SEE, Refused
from macl_tf.server.limits import Limits
from macl_tf.server.schemas import Condition, Example, Query
from macl_tf.server.versions import State

NEGATIVE = 0.5  # weight of the negative examples' mean, the positive ones' having 1


def check_query(query: Query, limits: Limits, images: int = 0) -> None:
    """Refuses what asks for too much, or for nothing.

    Raises:
        Refused: 422.
    """
    if query.k > limits.k:
        raise Refused(422, f"k is at most {limits.k}", query.k, "Use offset for the next page.")
    examples = len(query.positive) + len(query.negative) + images
    if examples > limits.batch:
        raise Refused(422, f"a query has at most {limits.batch} examples", examples, "Leave some out.")
    if not len(query.positive) + images:
        raise Refused(422, "a query has at least one positive example", 0, "Give the id of an item, or a vector.")


def query_vector(state: State, query: Query, images: Sequence[NDArray[np.float32]] = ()) -> NDArray[np.float32]:
    """The unit vector (D,) to search with: Rocchio's, from unit vectors.

    Raises:
        Refused: 404 for an unknown id; 422 for a vector of another width or zero, or examples that cancel out.
    """
    positive = [*images, *(_vector(state, example) for example in query.positive)]
    mean = np.mean(positive, axis=0, dtype=np.float64)
    if query.negative:
        mean -= NEGATIVE * np.mean([_vector(state, example) for example in query.negative], axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-6:
        raise Refused(422, "positive and negative examples must not cancel out", norm, "Leave out one of them.")
    return np.asarray(mean / norm, np.float32)


def search(
    state: State, query: Query, vector: NDArray[np.float32], labels: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], bool]:
    """One page of results as answers show them, and whether there are more. Examples are not among the results.

    Args:
        state: Where to search.
        query: What was asked.
        vector: (D,) what to search with.
        labels: Labels of the query, to tell which ones results share.

    Raises:
        Refused: 422 for a label that the index does not have, or a box or dates that cannot be.
    """
    snapshot = state.snapshot
    condition = filter_of(query.filter, snapshot)
    examples = {example.id for example in [*query.positive, *query.negative] if example.id is not None}
    wanted = query.offset + query.k + 1
    (hits,) = snapshot.search(vector[None], k=wanted + len(examples), filter=condition)
    page = [hit for hit in hits if hit.id not in examples][query.offset : wanted]
    results = []
    for rank, hit in enumerate(page[: query.k], start=query.offset + 1):
        item = describe(state, hit.id)
        shared = [label for label in item["labels"] if label in labels]
        results.append({"rank": rank, "score": round(hit.score, 6), **item, "shared": shared})
    return results, len(page) > query.k


def query_labels(state: State, query: Query) -> list[str] | None:
    """Labels of the query, where it is a single item."""
    if len(query.positive) != 1 or query.negative or query.positive[0].id is None:
        return None
    return list(state.snapshot.describe(query.positive[0].id)["labels"])


def filter_of(condition: Condition, snapshot: Snapshot) -> Filter | None:
    """The index's filter; None where there is no condition."""
    if not any(value for _, value in condition):
        return None
    names = snapshot.stored.items.label_names
    try:
        return Filter(
            any_of=chosen_labels(condition.any_of, names),
            all_of=chosen_labels(condition.all_of, names),
            none_of=chosen_labels(condition.none_of, names),
            bbox=None if condition.box is None else tuple(condition.box),  # type: ignore[arg-type]
            since=condition.since,  # type: ignore[arg-type]
            until=condition.until,  # type: ignore[arg-type]
        )
    except ValueError as error:  # of the box or the dates; it names no file
        raise Refused(422, str(error), condition.model_dump(mode="json", exclude_unset=True), SEE) from error


def chosen_labels(labels: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The index's labels that are meant, in its spelling; refuses those that it does not have, and lists its own."""
    known = known_labels(names)
    for label in labels:
        if known.find(label) is None:
            error = UnknownLabelError([label], known)
            raise Refused(422, error.rule, label, error.remedy or "GET api/v1/labels lists them with their counts.")
    return known.choose(labels)


def describe(state: State, id_: str) -> dict[str, Any]:
    """What answers say about an item: never its path.

    Raises:
        Refused: 404 for an unknown id.
    """
    snapshot = state.snapshot
    try:
        item = snapshot.describe(id_)
    except ValueError:
        raise unknown(id_) from None
    where = f"id={quote(id_, safe='')}" + ("" if state.newest else f"&index={state.index_version}")
    footprint = item["footprint"]
    return {
        "id": id_,
        "labels": item["labels"],
        "split": item["split"],
        "source": item["source"],
        "date": item["date"],
        "bounds": None if footprint is None else box_of(footprint),
        "thumbnail": f"thumbnail?{where}" if snapshot.thumbnail(id_) else None,
    }


def as_geojson(snapshot: Snapshot, answer: dict[str, Any]) -> dict[str, Any]:
    """The same answer as a FeatureCollection of the results that have places, the rest of it under "search"."""
    features = []
    for result in answer["results"]:
        if (footprint := snapshot.describe(result["id"])["footprint"]) is None:
            continue
        properties = {key: value for key, value in result.items() if key not in ("id", "bounds")}
        features.append(
            {
                "type": "Feature",
                "id": result["id"],
                "bbox": result["bounds"],
                "geometry": geometry_of(footprint),
                "properties": properties,
            }
        )
    rest = {key: value for key, value in answer.items() if key != "results"}
    return {"type": "FeatureCollection", "features": features, "search": rest}


def unknown(id_: str) -> Refused:
    """For an id that is not there."""
    remedy = "Ids are those of search results in this index, whole: with their folders."
    return Refused(404, "the id must be of an item in the index", id_, remedy)


def _vector(state: State, example: Example) -> NDArray[np.float32]:
    snapshot = state.snapshot
    if example.id is not None:
        if not snapshot.holds(example.id):
            raise unknown(example.id)
        place = snapshot.added_rows.get(example.id)
        if place is not None:
            return snapshot.added_vectors[place]
        return np.asarray(snapshot.stored.vectors[snapshot.stored.rows[example.id]])
    vector = np.asarray(example.vector, np.float64)
    if len(vector) != snapshot.dim:
        raise Refused(
            422, f"a vector has {snapshot.dim} numbers", len(vector), "Take query.vector of an answer of this index."
        )
    largest = float(np.abs(vector).max())
    if not 1e-30 < largest < 1e30:
        raise Refused(422, "a vector is not zero and has numbers below 1e30", largest, "Bring it to norm 1.")
    return (vector / np.linalg.norm(vector)).astype(np.float32)
