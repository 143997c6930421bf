"""A new version of an index in a Milvus: filled, indexed, tuned, and live at once or not at all.

It is filled into a collection of its own, NAME_vN, which nobody searches. When all of it is there the alias NAME is
switched, in one call. A filling that was ended goes on after the last block that was noted, if it is of the same
source.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from macl_tf.index.items import Items
from macl_tf.index.milvus import rows as of_rows
from macl_tf.index.milvus.about import CLOSED, About
from macl_tf.index.milvus.connection import Address, Connection
from macl_tf.index.milvus.view import KINDS, KNOBS, Counts, Live, MilvusView
from macl_tf.index.searchers.tuning import Setting, cheapest, grid, sample_queries
from macl_tf.index.vectors import unit_rows
from macl_tf.index.view import EngineError

_K, _QUERIES = 10, 500  # recall is measured at this depth, on so many queries
_FLAT_BELOW = 20_000  # items; fewer are all compared
_BYTES, _ROWS = 16 << 20, 5_000  # of a block, at most; Milvus takes 64 MiB in one call
_OF_A_ROW = 8192  # bytes beside the vector, most of them of a small picture
_OF_A_LIST = 39  # items a list at least: fewer do not place its centre (FAISS)
_GRAPH = {"M": 16, "efConstruction": 200}


@dataclass(frozen=True)
class Source:
    """What a version is made of."""

    items: Items  # N
    vectors: NDArray[np.float32]  # (N, D) of unit norm within rounding, an array or a memory map
    thumbnails: Iterable[bytes | None] | None  # N JPEG pictures
    info: Mapping[str, Any]  # JSON facts to keep: {"encoder": {...}, ...}
    key: str  # what tells it from every other source


def kind_for(kind: str, count: int) -> str:
    """The kind of index that "auto" stands for; a ValueError for one that there is not."""
    known = {name.lower(): name for name in KINDS} | {"brute_force": "FLAT"}
    if kind == "auto":
        return "FLAT" if count < _FLAT_BELOW else "HNSW"
    if kind.lower() not in known:
        raise ValueError(f"kind must be one of auto, {', '.join(KINDS)} in Milvus, got {kind!r}.")
    return known[kind.lower()]


def fill(
    address: Address,
    source: Source,
    *,
    kind: str = "auto",
    recall_target: float = 0.95,
    keep: int = 2,
    discard_changes: bool = False,
    progress: bool = True,
    **seconds: float,
) -> dict[str, Any]:
    """Makes a new version of an index live, and returns its facts: number, collection and info.

    The same call again goes on where one was ended. Two at once for one name are not foreseen.

    Args:
        address: Where to; a file is made where there is none.
        source: What of.
        kind: "FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", or "auto": FLAT for fewer than 20,000 items, else HNSW.
        recall_target: Recall@10 against exact search that an approximate kind is tuned to, in (0, 1].
        keep: How many versions to keep, the newest; 0 for all.
        discard_changes: Whether upserts and deletes of the live version may be left behind.
        progress: Whether to show progress bars.
        **seconds: `read` and `write`, as of `Connection`.

    Raises:
        ValueError: If the live version was written to since it was filled, and that is not to be discarded.
        EngineError: If Milvus does not answer, or does not hold what was written.
    """
    if not 0 < recall_target <= 1:
        raise ValueError(f"recall_target must be in (0, 1], got {recall_target}.")
    count, dim = source.vectors.shape
    kind = kind_for(kind, count)
    connection = Connection(address.uri, make=True, **seconds)
    about = About(connection, address.collection)
    live = connection.target(address.collection)
    about.make()
    known = about.versions()
    before = next((number for number, facts in known.items() if facts["collection"] == live), None)
    if before is not None:
        _check_changes(about, address, before, discard_changes)
    number, facts = _begun(connection, about, address, known, f"{source.key} {kind}", live)
    collection = facts["collection"]
    if not connection.call("has_collection", collection):
        # "Session": a process sees what it wrote itself at once.
        connection.create(collection, of_rows.fields(dim, connection.is_lite), "Session")
    _insert(connection, about, number, facts, source, progress)
    names = source.items.label_names
    parameters: dict[str, Any] = {}
    if kind == "HNSW":
        parameters = dict(_GRAPH)
    elif kind != "FLAT":
        parameters = {"nlist": int(np.clip(round(4 * math.sqrt(count)), 1, max(count // _OF_A_LIST, 1)))}
    with tqdm(total=3, desc=f"building {kind} index", unit="step", disable=not progress, leave=False) as bar:
        connection.change("flush", collection)
        scalars: dict[str, tuple[str, dict[str, Any]]] = {
            name: ("INVERTED", {}) for name in of_rows.indexed(connection.is_lite)
        }
        connection.build_index(collection, {"vector": (kind, parameters), **scalars})
        if (held := connection.count(collection)) != count:
            raise EngineError(
                f"'{collection}' of {address.uri} must hold the {count:,} items that were written", held,
                "The same command again writes what is missing.",
            )  # fmt: skip
        bar.update()
        recall = {"target": recall_target, "measured": 1.0, "k": _K, "queries": 0}
        info = {**source.info, "dim": dim, "count": count, "kind": kind, "parameters": parameters, "recall": recall}
        facts |= {"info": info, "uuid": facts["uuid"]}
        if kind in KNOBS and count > 2:
            bar.set_description("tuning the search")
            view = MilvusView(connection, Live(number, collection, facts["uuid"], info, names), Counts())
            _tune(view, source, recall_target)
        bar.update()
        bar.set_description("going live")
        about.add_labels(number, names, 0)
        about.put(number, facts | {"whole": True})
        if before is not None:
            about.note(before, CLOSED)
            try:
                _check_changes(about, address, before, discard_changes)
            except ValueError:
                about.open(before)
                raise
        switch, name = "create_alias" if live is None else "alter_alias", address.collection
        connection.change(switch, collection, name, done=lambda: connection.target(name) == collection)
        bar.update()
    _prune(connection, about, keep)
    return {"number": number, "collection": collection, "info": info}


def _check_changes(about: About, address: Address, number: int, discard: bool) -> None:
    if not discard and about.noted(number).changed:
        raise ValueError(
            f"Version {number} of '{address}' was written to since it was filled, which a new one would not have. Add "
            "--discard-changes if that is not needed any more (it stays beside the new one)."
        )


def _begun(
    connection: Connection, about: About, address: Address, known: dict[int, dict[str, Any]], key: str, live: str | None
) -> tuple[int, dict[str, Any]]:
    """The version that is filled: one of the same source that was begun, or a new one. Others that were begun go."""
    last = max(known, default=0)
    found = None
    for number, facts in known.items():
        if facts["whole"] and (facts["collection"] == live or number < last or facts["source"] != key):
            continue
        if facts["source"] == key and found is None:
            found = number, facts
        elif not facts["whole"]:
            _drop(connection, about, number, facts)
    if found is None:
        number = last + 1
        found = number, {
            "collection": f"{address.collection}_v{number}", "source": key, "uuid": uuid.uuid4().hex,
            "done": 0, "whole": False, "info": {},
        }  # fmt: skip
        about.put(*found)
    return found


def _insert(
    connection: Connection, about: About, number: int, facts: dict[str, Any], source: Source, progress: bool
) -> None:
    """Writes what is not noted as written, block by block."""
    count, dim = source.vectors.shape
    size = int(np.clip(_BYTES // (4 * dim + _OF_A_ROW), 1, _ROWS))
    done = facts["done"]
    pictures: Iterator[bytes | None] = iter(source.thumbnails if source.thumbnails is not None else [None] * count)
    pictures = islice(pictures, done, None)
    shown: dict[str, Any] = {"unit": "item", "unit_scale": True, "disable": not progress, "leave": False}
    with tqdm(total=count, initial=done, desc="writing to Milvus", **shown) as bar:
        for start in range(done, count, size):
            part = np.arange(start, min(start + size, count))
            vectors = unit_rows(source.vectors[start : start + size], first=start)
            rows = of_rows.rows_of(
                source.items.take(part), vectors, list(islice(pictures, len(part))), connection.is_lite
            )
            if len(rows) != len(part):
                raise ValueError(f"thumbnails must have one entry for each of the {count} items.")
            connection.change("upsert", facts["collection"], rows)
            facts["done"] = start + len(part)
            about.put(number, facts)
            bar.update(len(part))


def _tune(view: MilvusView, source: Source, target: float) -> None:
    """Finds the least effort whose recall reaches the target, and writes it and the recall into the view's facts."""
    info, kind = view.info, view.info["kind"]
    places = {id_: place for place, id_ in enumerate(source.items.ids)}
    tuning, held_out = sample_queries(source.vectors, _K, _QUERIES)

    def search(queries: NDArray[np.float32], k: int, setting: Setting) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        found = view.nearest(queries, k, setting.reorder)
        positions = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for place, (query, ids) in enumerate(zip(queries, found, strict=True)):
            rows = [places[id_] for id_ in ids]
            positions[place, : len(rows)] = rows
            scores[place, : len(rows)] = source.vectors[rows].astype(np.float64) @ query
        return scores, positions

    knobs = grid(_K + 1, 1000) if kind == "HNSW" else grid(1, info["parameters"]["nlist"])
    chosen = cheapest(search, tuning, held_out, target, [Setting(1, knob) for knob in knobs])
    if chosen is None:
        raise ValueError(
            f"no setting of a {kind} index of these {len(places):,} vectors reaches recall@{_K} {target}. Lower "
            "--recall, or compare all: --kind FLAT."
        )
    info["parameters"][KNOBS[kind]] = chosen.setting.reorder
    info["recall"] |= {"measured": chosen.recall, "queries": len(held_out.rows)}


def _prune(connection: Connection, about: About, keep: int) -> None:
    """Removes the oldest versions but for so many that are whole."""
    whole = {number: facts for number, facts in about.versions().items() if facts["whole"]}
    for number in sorted(whole)[:-keep] if keep else []:
        _drop(connection, about, number, whole[number])


def _drop(connection: Connection, about: About, number: int, facts: Mapping[str, Any]) -> None:
    connection.change("drop_collection", facts["collection"])
    about.forget(number)
