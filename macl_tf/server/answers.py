"""What answers say: about the served versions, their labels and tiles, and what was found."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from macl_tf.datasets.label_names import known_labels
from macl_tf.datasets.picture_kinds import IMAGE_FORMATS
from macl_tf.index.filters import Filter
from macl_tf.index.view import View
from macl_tf.labels import rarest
from macl_tf.search.places import geometry_of
from macl_tf.search.query import Answer, describe, plot_of
from macl_tf.server.schemas import PLOT_SIDE, ToPlot
from macl_tf.server.settings import BaseMap, Limits
from macl_tf.server.versions import State, Versions
from macl_tf.teaching.collections import Collection
from macl_tf.teaching.rounds import KINDS, Round, figures
from macl_tf.teaching.suggestions import DOUBTFUL, MISSING, Suggestion

_FIGURES = ("sha256", "dim", "image_size", "features", "descriptor", "dataset", "figures")
_FIRST = 5  # ids that stand for many
_PLAIN = re.compile(r"[\w./~# -]*", re.ASCII)  # in which slashes, "#" and spaces are all that is quoted
_LIMITS = ("bytes", "pixels", "k", "batch")


def info(
    versions: Versions, limits: Limits, writable: bool, base_map: BaseMap | None = None, files: bool = False
) -> dict[str, Any]:
    """Everything that /info tells."""
    state = versions.newest
    facts, snapshot = state.encoder.info, state.snapshot
    archive = snapshot.info.get("archive")
    return {
        "model": {"version": state.encoder.version, **{name: facts.get(name) for name in _FIGURES}},
        "index": {
            "version": state.index_version,
            "count": len(snapshot),
            # What it was built from, which need not be what its encoder was trained on; None where it is not known.
            "archive": {name: archive[name] for name in ("name", "tiles")} if archive else None,
            "kind": snapshot.info["kind"],
            "recall": snapshot.info["recall"],
        },
        "versions": versions.searchable(),
        "labels": int(np.count_nonzero(snapshot.label_counts)),
        "has_places": snapshot.has_places,
        "has_parts": state.encoder.sees_parts,
        "has_files": files,
        "writable": writable,
        "base_map": None if base_map is None else asdict(base_map),
        "limits": {**{name: getattr(limits, name) for name in _LIMITS}, "formats": IMAGE_FORMATS},
    }


def labels(state: State) -> dict[str, Any]:
    """All labels that a tile may hold, and how many tiles do. Rare is the third with the fewest, as in the figures."""
    names, held = state.snapshot.label_names, state.snapshot.label_counts
    rare = set(rarest(held).tolist())
    counts = [
        {"name": name, "count": int(count), "rare": place in rare}
        for place, (name, count) in enumerate(zip(names, held, strict=True))
    ]
    return {**state.versions, "labels": counts, "total": len(state.snapshot)}


def counted(state: State, condition: Filter | None) -> dict[str, Any]:
    """How many tiles meet a filter, and how many of these hold each label."""
    count, held = state.snapshot.counts(condition)
    labels = [{"name": name, "count": int(one)} for name, one in zip(state.snapshot.label_names, held, strict=True)]
    return {**state.versions, "count": count, "labels": labels}


def item(state: State, id_: str, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """What answers say about a tile: never its path. `known` is what `describe` says of it, if it was asked already."""
    known = known or describe(state.snapshot, id_)
    where = f"id={_quoted(id_)}" + ("" if state.newest else f"&index={state.index_version}")
    return {
        "id": id_,
        "labels": known["labels"],
        "split": known["split"],
        "source": known["source"],
        "date": known["date"],
        "bbox": known["bbox"],
        "thumbnail": f"thumbnail?{where}" if state.snapshot.has_thumbnail(id_) else None,
    }


def _quoted(id_: str) -> str:
    """An id as a part of an address; of most ids several times as fast as by the library."""
    if not _PLAIN.fullmatch(id_):
        return quote(id_, safe="")
    return id_.replace("/", "%2F").replace("#", "%23").replace(" ", "%20")


def diverse(state: State, k: int, seed: int) -> dict[str, Any]:
    """Tiles to begin with."""
    return {**state.versions, "items": [item(state, id_) for id_ in state.snapshot.diverse(k, seed)]}


def named(state: State, text: str, limit: int) -> dict[str, Any]:
    """Tiles whose ids hold a text."""
    return {**state.versions, "items": [item(state, id_) for id_ in state.snapshot.ids_like(text, limit)]}


def plot(state: State) -> dict[str, Any]:
    """Where tiles lie in two dimensions, as columns."""
    drawn = plot_of(state.snapshot)
    x, y = (drawn.places.T * PLOT_SIDE).round().astype(int).tolist()
    return {**state.versions, "count": len(state.snapshot), "ids": drawn.ids.tolist(), "x": x, "y": y}


def in_plot(state: State, given: ToPlot) -> dict[str, Any]:
    """Which of the drawn tiles lie in a box and meet a filter, and a page of them."""
    drawn, condition = plot_of(state.snapshot), given.filter.to_filter()
    places = np.arange(len(drawn.ids)) if given.box is None else drawn.within(given.box)
    if condition is not None:
        places = places[condition.mask(state.snapshot.items_of(drawn.ids[places].tolist()))]
    end = given.offset + given.k
    items = [item(state, id_) for id_ in drawn.ids[places[given.offset : end]]]
    return {**state.versions, "places": places.tolist(), "items": items, "more": len(places) > end}


def suggested(state: State, label: str, found: Sequence[Suggestion]) -> dict[str, Any]:
    """Tiles of one label that are worth a look, of each kind the surest first."""
    tiles = {
        kind: [{"score": round(one.score, 6), **item(state, one.id)} for one in found if one.kind == kind]
        for kind in (MISSING, DOUBTFUL)
    }
    return {**state.versions, "label": label, **tiles}


def found(state: State, answer: Answer, *, geojson: bool = False, vector: bool = False) -> dict[str, Any]:
    """Results as answers show them, and what was searched with; as GeoJSON, those that have places.

    `vector`, which is most of the bytes of an answer, is told where it is wanted.
    """
    results = [
        {
            "rank": result.rank,
            "score": round(result.score, 6),
            **item(state, result.id, result.item),
            "shared": list(result.shared),
        }
        for result in answer.results
    ]
    labels = None if answer.labels is None else list(answer.labels)
    query = {"vector": answer.vector if vector else None, "labels": labels}
    rest = {**state.versions, "more": answer.more, "query": query}
    if not geojson:
        return {**rest, "results": results}
    features = [
        {
            "type": "Feature",
            "id": shown["id"],
            "bbox": shown["bbox"],
            "geometry": geometry_of(result.item["footprint"]),
            "properties": {key: value for key, value in shown.items() if key not in ("id", "bbox")},
        }
        for shown, result in zip(results, answer.results, strict=True)
        if shown["bbox"] is not None
    ]
    return {"type": "FeatureCollection", "features": features, "search": rest}


def collection(one: Collection, known: View) -> dict[str, Any]:
    """A collection in short: name and label, how many tiles are of each kind, by whom and when it was last changed."""
    (by, at), place = one.changed, known_labels(known.label_names).find(one.name)
    label = None if place is None else known.label_names[place]
    return {"name": one.name, "label": label, **one.counts, "skipped": len(one.skipped), "by": by or None, "at": at}


def marks(state: State, one: Collection, offset: int, limit: int) -> dict[str, Any]:
    """A page of a collection's marks, the last ones first, with what is known about their tiles."""
    known = state.snapshot
    page = one.seen[::-1][offset : offset + limit]
    there = known.present([mark.id for mark in page])
    shown = [
        {**mark._asdict(), "by": mark.by or None, "item": item(state, mark.id) if mark.id in there else None}
        for mark in page
    ]
    more = offset + limit < len(one.seen)
    absent = some(one.absent(known))
    return {
        **state.versions,
        **collection(one, known),
        "absent": absent,
        "marks": shown,
        "offset": offset,
        "more": more,
    }


def round_of(state: State, found: Round) -> dict[str, Any]:
    """The tiles to judge next, of each kind, and the figures of the collection."""
    tiles = {
        kind: [{"score": round(one.score, 6), **item(state, one.id, one.item)} for one in getattr(found, kind)]
        for kind in KINDS
    }
    return {**state.versions, **collection(found.collection, state.snapshot), **figures(found), **tiles}


def file(name: str, write: Callable[[Path], None]) -> bytes:
    """What `write` writes to a file of that name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()


def some(ids: list[str]) -> dict[str, Any]:
    """How many ids these are, and the first of them."""
    return {"count": len(ids), "first": ids[:_FIRST]}
