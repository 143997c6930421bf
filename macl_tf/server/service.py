"""What each route does, without HTTP: decode, encode, search, write. None of it holds up the event loop."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.tile_facts import day_of, read_header
from macl_tf.index.index import Index
from macl_tf.index.items import Items
from macl_tf.server import queries
from macl_tf.server.base_map import BaseMap
from macl_tf.server.engine import Engine, State
from macl_tf.server.errors import Refused, busy
from macl_tf.server.limits import Limits
from macl_tf.server.metrics import Metrics
from macl_tf.server.pictures import PREVIEW, Picture, read_picture
from macl_tf.server.recall import RecallSample
from macl_tf.server.schemas import Query

T = TypeVar("T")
_log = logging.getLogger(__name__)
_IN_WORK = 512  # requests that are worked on, or wait for it, at a time


@dataclass(frozen=True)
class Upload:
    """A tile to add to the index, or to put in the place of the one with its id.

    Attributes:
        read: Gives the file as it was sent. It may lie on disk: it is read when its turn comes.
        id: By default made of the SHA-256 of the file.
        labels: Names of its labels. Of this and all that follows, None where nothing was given: then it is what the
            file's header tells, or else what the tile that is replaced has. An empty value says that there is none.
        date: "2020-06-01".
        source: Where it comes from.
        footprint: (4, 2) its corners, NaN for none.
        split: Part of the archive that it is of.
    """

    read: Callable[[], bytes]
    id: str | None = None
    labels: Sequence[str] | None = None
    date: str | None = None
    source: str | None = None
    footprint: NDArray[np.float64] | None = None
    split: str | None = None


class Service:
    """Searches and writes of one served folder, asked from one event loop.

    Args:
        engine: The folder.
        limits: What a request may ask for.
        metrics: Where figures go.
        threads: For decoding, and as many for searching; by default one for each processor.
        base_map: What lies below the footprints on the page's map.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        metrics: Metrics,
        threads: int | None = None,
        base_map: BaseMap | None = None,
    ) -> None:
        self.engine, self.limits, self.metrics, self.base_map = engine, limits, metrics, base_map
        self.sample = RecallSample()
        count = threads or len(os.sched_getaffinity(0))
        self._decoding = ThreadPoolExecutor(count, "decode")
        self._searching = ThreadPoolExecutor(count, "search")
        self._writing = ThreadPoolExecutor(1, "write")
        self._opening = ThreadPoolExecutor(1, "open")  # of its own: opening a version takes seconds
        self._in_work = 0

    async def state(self, version: int | None = None) -> State:
        """A version of the index, the newest by default.

        Raises:
            Refused: 404 for one that is not there.
        """
        held = self.engine.held(version)
        if held is None and version is not None:
            held = await self._run(self._opening, lambda: self.engine.opened(version))
        return held or self.engine.newest

    async def search(self, query: Query, read: Callable[[], bytes] | None = None) -> dict[str, Any]:
        """Answers a query, whose positive examples an uploaded image joins; `read` gives its bytes.

        Raises:
            Refused: For what cannot be searched for.
        """
        begin = time.perf_counter()
        queries.check_query(query, self.limits, images=read is not None)
        ms = {"decode": 0.0, "encode": 0.0, "search": 0.0}
        with self._admitted():
            state = await self.state(query.index)
            vectors, preview = [], b""
            if read is not None:
                vector, picture = await self._embed(state, read, ms, small=PREVIEW if query.preview else 0)
                vectors, preview = [vector], picture.small
            answer = await self._run(self._searching, lambda: self._find(state, query, vectors, ms, preview))
        self.metrics.stage.labels("total").observe(time.perf_counter() - begin)
        return answer

    async def upsert(self, upload: Upload) -> dict[str, Any]:
        """Adds a tile; when it returns, that is on disk.

        Raises:
            Refused: For what cannot be added. Then nothing was changed.
        """
        with self._admitted():
            for _ in range(3):
                state = self.engine.newest
                try:
                    return await self._upsert(upload, state)
                except ValueError:  # another process has just published an index of another encoder, or other labels
                    await self._catch_up()
                    if self.engine.newest.snapshot.stored is state.snapshot.stored:
                        raise
        raise busy()

    async def _upsert(self, upload: Upload, state: State) -> dict[str, Any]:
        stored = state.snapshot.stored
        if upload.labels is not None:
            upload = replace(upload, labels=queries.chosen_labels(upload.labels, stored.items.label_names))
        vector, picture = await self._embed(state, upload.read, {}, small=stored.thumbnail_size)
        id_, items, missing = await self._run(self._decoding, lambda: _described(upload))
        known = {"encoder": state.made_with, "missing": missing}
        after, _ = await self._write(lambda index: index.upsert(items, vector[None], [picture.small], **known))
        return {"id": id_, **after.versions}

    async def delete(self, id_: str) -> dict[str, Any]:
        """Takes a tile away; when it returns, that is on disk."""
        with self._admitted():
            state, count = await self._write(lambda index: index.delete([id_]))
        return {"deleted": count, **state.versions}

    async def look(self, work: Callable[[], T]) -> T:
        """Does something that reads in the index."""
        with self._admitted():
            return await self._run(self._searching, work)

    def close(self) -> None:
        """Ends the threads after what they have begun."""
        for pool in (self._decoding, self._searching, self._writing, self._opening):
            pool.shutdown()
        self.engine.close()

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._in_work >= _IN_WORK:
            raise busy()
        self._in_work += 1
        try:
            yield
        finally:
            self._in_work -= 1

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def _embed(
        self, state: State, read: Callable[[], bytes], ms: dict[str, float], *, small: int = 0
    ) -> tuple[NDArray[np.float32], Picture]:
        size = state.encoder.image_size
        begin = time.perf_counter()
        with state.batcher.coming():
            picture = await self._run(self._decoding, lambda: read_picture(read(), size, self.limits, small=small))
            decoded = time.perf_counter()
            future = state.batcher.submit(picture.pixels)
        try:
            vector = await asyncio.wrap_future(future)
        except ConnectionError as error:
            remedy = "Retry in a moment; whether the encoder's server runs, whoever runs this one can see."
            raise Refused(503, "the encoder's server must answer", None, remedy) from error
        self._took(ms, decode=decoded - begin, encode=time.perf_counter() - decoded)
        return vector, picture

    async def _catch_up(self) -> None:
        try:
            await self._run(self._opening, self.engine.refresh)
        except (OSError, ValueError) as error:
            _log.warning("the newest index cannot be served: %s", error)
            raise busy() from error

    def _find(
        self, state: State, query: Query, vectors: list[NDArray[np.float32]], ms: dict[str, float], preview: bytes
    ) -> dict[str, Any]:
        begin = time.perf_counter()
        vector = queries.query_vector(state, query, vectors)
        labels = None if vectors else queries.query_labels(state, query)
        results, more = queries.search(state, query, vector, labels or ())
        self._took(ms, search=time.perf_counter() - begin)
        if state.newest:
            self.sample.add(vector)
        answer = {
            **state.versions,
            "k": query.k,
            "offset": query.offset,
            "more": more,
            "query": {
                "vector": vector.astype(np.float64).round(8).tolist(),
                "labels": labels,
                "preview": base64.b64encode(preview).decode() or None,
            },
            "ms": ms,
            "results": results,
        }
        return queries.as_geojson(state.snapshot, answer) if query.format == "geojson" else answer

    async def _write(self, change: Callable[[Index], T]) -> tuple[State, T]:
        try:
            return await self._run(self._writing, lambda: self.engine.write(change))
        except OSError as error:
            what = os.strerror(error.errno or 0)
            remedy = "Nothing was changed. Send it again once the server's disk can be written to."
            raise Refused(503, "the server's disk must take the change", what, remedy) from error

    def _took(self, ms: dict[str, float], **seconds: float) -> None:
        for stage, value in seconds.items():
            ms[stage] = round(1000 * value, 3)
            self.metrics.stage.labels(stage).observe(value)


def _described(upload: Upload) -> tuple[str, Items, dict[str, list[bool]]]:
    """The id of an upload whose picture is known to be whole, all that is known about it, and what is not."""
    data = upload.read()
    said = read_header(data)
    day = said.date if upload.date is None else day_of(upload.date)
    corners = said.footprint if upload.footprint is None else upload.footprint
    id_ = upload.id or f"sha256-{hashlib.sha256(data).hexdigest()[:32]}"
    names = tuple(dict.fromkeys(upload.labels or ()))
    items = Items.of(
        names,
        [id_],
        [[1] * len(names)],
        splits=[upload.split or ""],
        sources=[upload.source or ""],
        dates=[day],
        footprints=[corners],
    )
    return (
        id_,
        items,
        {
            "labels": [upload.labels is None],
            "splits": [upload.split is None],
            "sources": [upload.source is None],
            "dates": [upload.date is None and bool(np.isnat(day))],
            "footprints": [upload.footprint is None and bool(np.isnan(corners).any())],
        },
    )
