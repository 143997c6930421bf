"""What a version of an index in a Milvus answers to one request."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.index.diverse import centres
from macl_tf.index.filters import Filter
from macl_tf.index.items import Items
from macl_tf.index.milvus import rows as of_rows
from macl_tf.index.milvus.connection import MOST, Connection
from macl_tf.index.vectors import cosines, unit_rows
from macl_tf.index.view import BACKGROUND, EngineError, Hit, View
from macl_tf.metrics.ranked import check_cutoff

KINDS = ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW")  # of the vectors' index, that milvus-lite has, too
KNOBS = {"IVF_FLAT": "nprobe", "IVF_SQ8": "nprobe", "HNSW": "ef"}  # what says how hard a search tries
_DIVERSE = 4_096  # items among which diverse ones are chosen
_AT_ONCE = 1_000  # ids in one question
_FILTERED = 4  # times as hard a search of milvus-lite tries with a condition: it drops what does not meet it at the end
_FRESH = 60.0  # seconds for which counts of labels hold


@dataclass(frozen=True)
class Live:
    """A version, and the labels that it has now."""

    number: int
    collection: str  # of its rows
    uuid: str
    info: dict[str, Any]
    label_names: tuple[str, ...]


class Counts:
    """How many items hold each label, kept for a minute: to count takes Milvus one question a label."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._kept: dict[tuple[str, str], tuple[float, int]] = {}

    def of(self, connection: Connection, live: Live) -> NDArray[np.int64]:
        """(C,) items by label."""
        with self._mutex:
            return np.array([self._one(connection, live, name) for name in live.label_names], np.int64)

    def forget(self) -> None:
        """Has them counted anew."""
        with self._mutex:
            self._kept.clear()

    def _one(self, connection: Connection, live: Live, name: str) -> int:
        when, count = self._kept.get((live.collection, name), (-math.inf, 0))
        if time.monotonic() - when > _FRESH:
            count = connection.count(live.collection, of_rows.holding(name, connection.is_lite))
            self._kept[live.collection, name] = time.monotonic(), count
        return count


class MilvusView(View):
    """A version as one request sees it: a row that was read is not read again."""

    def __init__(self, connection: Connection, live: Live, counts: Counts) -> None:
        self._connection, self._live, self._counts = connection, live, counts
        self._rows: dict[str, dict[str, Any]] = {}
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._absent: set[str] = set()

    @cached_property
    def _size(self) -> int:
        return self._connection.count(self._live.collection)

    def __len__(self) -> int:
        return self._size

    @property
    def dim(self) -> int:
        """See `View`; so are the next ones."""
        return int(self.info["dim"])

    @property
    def version(self) -> int:
        """See `View`."""
        return self._live.number

    @property
    def uuid(self) -> str:
        """See `View`."""
        return self._live.uuid

    @cached_property
    def revision(self) -> str:
        """Another each time: nobody knows what other processes wrote."""
        return uuid.uuid4().hex

    @property
    def info(self) -> dict[str, Any]:
        """See `View`."""
        return self._live.info

    @property
    def label_names(self) -> tuple[str, ...]:
        """See `View`."""
        return self._live.label_names

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """See `View`; those that others changed are up to a minute old."""
        return self._counts.of(self._connection, self._live)

    def counts(self, filter: Filter | None = None) -> tuple[int, NDArray[np.int64]]:
        """See `View`; one question a label."""
        if filter is None:
            return len(self), self.label_counts
        lite, count = self._connection.is_lite, self._connection.count
        condition = of_rows.condition_of(filter, self.label_names, lite)
        held = [of_rows.both(condition, of_rows.holding(name, lite)) for name in self.label_names]
        numbers = [count(self._live.collection, one) for one in (condition, *held)]
        return numbers[0], np.array(numbers[1:], np.int64)

    @cached_property
    def has_places(self) -> bool:
        """See `View`."""
        return bool(self._connection.rows(self._live.collection, "south <= 90.0", ("id",), most=1, strong=False))

    @property
    def num_changes(self) -> int:
        """0: what is written goes into the version itself."""
        return 0

    @property
    def can_be_exact(self) -> bool:
        """A graph cannot be searched exactly; lists can, all of them."""
        return bool(self.info["kind"] in ("FLAT", "IVF_FLAT"))

    @cached_property
    def background(self) -> tuple[str, ...]:
        """See `View`."""
        return tuple(self._drawn(BACKGROUND, 0))

    def diverse(self, count: int, seed: int = 0) -> tuple[str, ...]:
        """See `View`; chosen among 4,096 drawn at random, other ones for another seed."""
        ids = self._drawn(max(count, _DIVERSE if seed == 0 else min(_DIVERSE, len(self)) // 2), seed)
        return tuple(ids[place] for place in centres(self.vectors_of(ids), count))

    def anew(self) -> MilvusView:
        """See `View`."""
        return MilvusView(self._connection, self._live, self._counts)

    def present(self, ids: Collection[str]) -> set[str]:
        """See `View`."""
        self._read([id_ for id_ in ids if id_ not in self._rows and id_ not in self._absent])
        return {id_ for id_ in ids if id_ in self._rows}

    def vectors_of(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """See `View`."""
        self._read([id_ for id_ in ids if id_ not in self._vectors and id_ not in self._absent], vectors=True)
        self._check_there(ids)
        return np.array([self._vectors[id_] for id_ in ids], np.float32).reshape(len(ids), self.dim)

    def items_of(self, ids: Sequence[str]) -> Items:
        """See `View`."""
        there = self.present(ids)
        known = of_rows.items_of([self.describe(id_) for id_ in ids if id_ in there], self.label_names)
        absent = [id_ for id_ in ids if id_ not in there]
        both = Items.concatenate([known, Items.of(known.label_names, absent)])
        place = {id_: at for at, id_ in enumerate(both.ids)}
        return both.take([place[id_] for id_ in ids])

    def describe(self, item: str) -> dict[str, Any]:
        """See `View`."""
        self.present([item])
        self._check_there([item])
        return of_rows.item_of(self._rows[item], self.label_names)

    def has_thumbnail(self, item: str) -> bool:
        """See `View`."""
        self.present([item])
        self._check_there([item])
        return bool(self._rows[item]["pictured"])

    def thumbnail(self, item: str) -> bytes | None:
        """See `View`."""
        if not self.has_thumbnail(item):
            return None
        found = self._connection.rows(self._live.collection, of_rows.among([item]), (of_rows.PICTURE,))
        return base64.b64decode(found[0][of_rows.PICTURE]) if found else None

    def whole_rows(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of those of the ids that are there, with all that they hold, to be written back."""
        names = tuple(of_rows.fields(self.dim, self._connection.is_lite))
        return [row for part in _parts(ids) for row in self._query(of_rows.among(part), names)]

    def ids_like(self, text: str, most: int) -> list[str]:
        """See `View`; letters as they are written."""
        first = [*sorted(self.present([text])), *self.ids_ending(text)]
        pattern = json.dumps(f"%{text}%".replace("\\", "_"), ensure_ascii=False)
        rows = self._connection.rows(self._live.collection, f"id like {pattern}", ("id",), most=2 * most + len(first))
        others = sorted(row["id"] for row in rows if text in row["id"])
        return list(dict.fromkeys([*first, *others]))[:most]

    def ids_ending(self, name: str) -> list[str]:
        """See `View`."""
        end = name[1:] if name.startswith("…") else f"/{name}"
        if not name.strip("…/"):
            return []
        # What `like` takes for more than itself stands for any letter; those that are not meant go below.
        pattern = json.dumps("%" + end.replace("\\", "_"), ensure_ascii=False)
        found = self._query(f"id like {pattern}", ("id",))
        if len(found) == MOST:
            raise ValueError(f"an id must be of one tile, but {name!r} is like {MOST:,} or more. Write the whole id.")
        return sorted(row["id"] for row in found if row["id"].endswith(end))

    def search(
        self,
        vectors: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        exact: bool = False,
        without: Collection[str] = (),
    ) -> list[list[Hit]]:
        """See `View`; ties as Milvus has them. Cosines are computed here, from the vectors that come with results."""
        check_cutoff(k, optional=False)
        if k > MOST:
            raise ValueError(f"k and offset together must be at most {MOST:,} in Milvus, got {k:,}. Narrow the search.")
        if exact and not self.can_be_exact:
            raise ValueError(
                f"an index of the kind {self.info['kind']} must not be searched exactly: it is a graph. Build it with "
                "--kind IVF_FLAT or FLAT."
            )
        given = np.asarray(vectors)
        queries = unit_rows(given if given.size else np.empty((0, self.dim)), self.dim, "queries")
        condition = of_rows.both(
            of_rows.condition_of(filter, self.label_names, self._connection.is_lite) if filter else "",
            f"not ({of_rows.among(without)})" if without else "",
        )
        step, found = max(1, MOST // k), list[list[Hit]]()
        for start in range(0, len(queries), step):
            found += self._nearest(queries[start : start + step], k, condition, exact)
        return found

    def nearest(self, queries: NDArray[np.float32], k: int, knob: int) -> list[list[str]]:
        """Ids that an approximate search finds at a setting of its own; queries (Q, D) of unit norm."""
        step = max(1, MOST // k)
        return [
            [row["id"] for row in found]
            for start in range(0, len(queries), step)
            for found in self._asked(queries[start : start + step], k, "", knob)
        ]

    def _nearest(self, queries: NDArray[np.float32], k: int, condition: str, exact: bool) -> list[list[Hit]]:
        kind, parameters = self.info["kind"], self.info["parameters"]
        knob, depth = 0, k
        if kind in KNOBS:
            more = max(1.0, k / self.info["recall"]["k"])
            knob = math.ceil(parameters[KNOBS[kind]] * (more if kind == "HNSW" else math.sqrt(more)))
            if condition and self._connection.is_lite:
                knob *= _FILTERED
            if exact:
                knob = parameters["nlist"]
        if kind == "IVF_SQ8":  # whose own order is that of rounded vectors
            depth = min(2 * k + 10, MOST)
        found = self._asked(queries, depth, condition, knob)
        short = [place for place, rows in enumerate(found) if len(rows) < k]
        if short and kind in KNOBS:
            for place, rows in zip(short, self._missing(queries[short], k, condition, found, short), strict=True):
                found[place] = rows
        return [self._ranked(query, rows)[:k] for query, rows in zip(queries, found, strict=True)]

    def _missing(
        self, queries: NDArray[np.float32], k: int, condition: str, found: list[list[dict[str, Any]]], short: list[int]
    ) -> list[list[dict[str, Any]]]:
        """All that meets a condition few rows meet; else what the hardest search finds."""
        names = (*of_rows.KNOWN, "vector")
        rows = self._connection.rows(self._live.collection, condition or of_rows.ANY, names, most=MOST)
        if len(rows) < MOST:
            self._keep(rows)
            return [rows] * len(queries)
        parameters, kind = self.info["parameters"], self.info["kind"]
        harder = self._asked(queries, k, condition, parameters["nlist"] if kind != "HNSW" else 2 * MOST)
        if any(len(rows) < k for rows in harder):
            raise EngineError(
                f"the Milvus at {self._connection.uri} must find {k} of more than {MOST:,} tiles that meet the filter",
                min(map(len, harder)),
                "Ask for fewer, narrow the filter, or build the index with --kind IVF_FLAT or FLAT.",
            )
        return harder

    def _asked(self, queries: NDArray[np.float32], k: int, condition: str, knob: int) -> list[list[dict[str, Any]]]:
        """Rows with their vectors that Milvus finds."""
        kind = self.info["kind"]
        knobs = {}
        if kind in KNOBS:
            knobs = {KNOBS[kind]: max(knob, k) if kind == "HNSW" else min(knob, self.info["parameters"]["nlist"])}
        answer = self._connection.call(
            "search",
            self._live.collection,
            data=list(queries),
            anns_field="vector",
            limit=k,
            filter=condition,
            search_params={"metric_type": "IP", "params": knobs},
            output_fields=[*of_rows.KNOWN, "vector"],
        )
        if len(answer) != len(queries):
            said = f"the Milvus at {self._connection.uri} must answer each of {len(queries)} queries"
            raise EngineError(said, len(answer), "See its log.")
        found = [[{**hit["entity"], "id": hit["id"]} for hit in hits] for hits in answer]
        for rows in found:
            self._keep(rows)
        return found

    def _ranked(self, query: NDArray[np.float32], rows: list[dict[str, Any]]) -> list[Hit]:
        """Rows by their cosine with the query, which is summed in float64, as exact search sums it."""
        ids = [row["id"] for row in rows]
        if not ids:
            return []
        places = np.arange(len(ids))
        found = np.stack([self._vectors[id_] for id_ in ids])
        scores = cosines(query[None], np.zeros(len(ids), np.int64), found, places)
        return [Hit(ids[place], float(scores[place])) for place in np.argsort(-scores, kind="stable")]

    def _drawn(self, count: int, seed: int) -> list[str]:
        """Ids of so many items, or of all, by a number that was drawn from each: the same ones for a seed."""
        share = min(1.0, (1.3 * count + 50) / max(len(self), 1))
        while True:
            width = of_rows.DRAWN if share >= 1 else int(share * of_rows.DRAWN)
            begin = int(np.random.default_rng(seed).random() * (of_rows.DRAWN - width)) if seed else 0
            where = f"draw >= {begin} and draw < {begin + width}"
            rows = self._query(where, (*of_rows.KNOWN, "vector", "draw"))
            if len(rows) >= count or width == of_rows.DRAWN:
                self._keep(rows)
                return [row["id"] for row in sorted(rows, key=lambda row: (row["draw"], row["id"]))[:count]]
            share *= 2

    def _read(self, ids: Iterable[str], vectors: bool = False) -> None:
        """Reads rows; those that are not there are noted, too."""
        for part in _parts(list(dict.fromkeys(ids))):
            self._keep(self._query(of_rows.among(part), (*of_rows.KNOWN, *(["vector"] * vectors))))
            self._absent.update(id_ for id_ in part if id_ not in self._rows)

    def _query(self, condition: str, names: Sequence[str]) -> list[dict[str, Any]]:
        return self._connection.rows(self._live.collection, condition, names)

    def _keep(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._rows[row["id"]] = {name: row[name] for name in of_rows.KNOWN}
            if "vector" in row:
                self._vectors[row["id"]] = np.asarray(row["vector"], np.float32)

    def _check_there(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            if id_ not in self._rows:
                raise ValueError(f"ids must be of items in the index, got {id_!r}, which is not there.")


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE))
