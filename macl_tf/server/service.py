"""What each route does: decode, encode, search, write. None of it holds up the event loop."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from macl_tf.artifacts import ArtifactError
from macl_tf.datasets.bands import Reader
from macl_tf.datasets.images import RGB, thumbnail
from macl_tf.datasets.label_names import known_labels
from macl_tf.datasets.picture_kinds import PictureError
from macl_tf.index.items import Items
from macl_tf.index.view import Engine, EngineError, View
from macl_tf.search.encoders import Encoder
from macl_tf.search.parts import check_box, matches, part_of
from macl_tf.search.pictures import items_of
from macl_tf.search.query import Answer, Box, QueryError, check_there, find
from macl_tf.search.tile_files import write_results
from macl_tf.server import answers
from macl_tf.server.batching import Picture
from macl_tf.server.errors import of_picture, overloaded, refusing, too_many_bytes, unavailable
from macl_tf.server.metrics import Metrics
from macl_tf.server.originals import Originals
from macl_tf.server.recall import RecallSample
from macl_tf.server.schemas import Example, Query, ToMatch
from macl_tf.server.searching import Found, Search, Searches, deliver
from macl_tf.server.settings import DEPTH, BaseMap, Limits
from macl_tf.server.shared import Shared
from macl_tf.server.teaching import Teaching
from macl_tf.server.versions import State, Versions
from macl_tf.teaching.collections import Collections

PREVIEW = 40  # longest side of the small picture in an answer; about 1 kB
T = TypeVar("T")
_log = logging.getLogger(__name__)
_IN_WORK = 512  # requests that are worked on, or wait for it, at a time


def decode(
    data: bytes, size: int, limits: Limits, *, small: int = 0, reader: Reader = RGB
) -> tuple[NDArray[Any], bytes]:
    """Decodes an uploaded picture, after everything that its header says was checked; its name is never looked at.

    Gives what `reader` has read, (S, S, N) with S = `size`, and a JPEG of at most `small` pixels a side, b"" for 0.
    """
    if len(data) > limits.bytes:
        raise too_many_bytes(len(data), limits)
    try:
        if not small:
            return reader.read_resized(data, "The image", size, max_pixels=limits.pixels), b""
        pixels = reader.read(data, "The image", max_pixels=limits.pixels)
    except PictureError as error:
        raise of_picture(error, len(data), limits) from None
    return reader.resize(pixels, size), thumbnail(reader.show(pixels), small)


class Service:
    """Searches and writes of one served folder, asked from one event loop."""

    def __init__(
        self,
        versions: Versions,
        limits: Limits,
        metrics: Metrics,
        base_map: BaseMap | None = None,
        tiles: Path | None = None,
        shared: Shared | None = None,
    ) -> None:
        shared = shared or Shared()
        self.versions, self.limits, self.metrics, self.base_map = versions, limits, metrics, base_map
        self.originals = Originals(tiles)
        self.sample = RecallSample()
        self.collections = Collections(versions.served)
        self.teaching = Teaching(versions.served, shared.folder)
        self._processors = -(-len(os.sched_getaffinity(0)) // shared.workers)
        self._decoding = ThreadPoolExecutor(self._processors, "decode")
        self._searching = ThreadPoolExecutor(self._processors, "search")
        self._writing = ThreadPoolExecutor(1, "write")
        self._opening = ThreadPoolExecutor(1, "open")  # of its own: opening a version takes seconds
        self._searches = Searches(self._found)
        self._in_work = 0

    async def state(self, version: int | None = None) -> State:
        """A version of the index, the newest by default, with what any worker wrote; refused where it is not there."""
        if self.versions.behind:
            await self._catch_up()
        held = self.versions.held(version)
        if held is None and version is not None:
            held = await self._run(self._opening, lambda: self.versions.opened(version))
        return held or self.versions.newest

    async def search(self, query: Query, read: Callable[[], bytes] | None = None) -> Found:
        """Answers a query, whose positive examples an uploaded image joins; `read` gives its bytes."""
        begin = time.perf_counter()
        self._check(query, images=read is not None)
        with self._admitted():
            search = Search(await self.state(query.index), query)
            if read is None:
                self._hand_on(search)
            elif query.box is not None:  # few are sent: they do not wait for each other
                small, box = PREVIEW if query.preview else 0, check_box(query.box)
                vector, search.preview = await self._embed(search.state, read, search.ms, small=small, box=box)
                search.examples.append(vector)
                self._hand_on(search)
            else:
                self._look_at(search, read)
            found = await search.answer
        self.metrics.total.observe(time.perf_counter() - begin)
        return found

    def _look_at(self, search: Search, read: Callable[[], bytes]) -> None:
        """Has a picture decoded and embedded, and handed on: from thread to thread, without the event loop."""
        encoder, small = search.state.encoder, PREVIEW if search.query.preview else 0
        encoder.check_sees_pictures()

        def pixels() -> NDArray[Any]:
            begin = time.perf_counter()
            decoded, search.preview = decode(
                read(), encoder.image_size, self.limits, small=small, reader=encoder.reader
            )
            self._took(search.ms, decode=time.perf_counter() - begin)
            return decoded

        ahead = None if self._one_by_one(encoder) else self._decoding
        search.state.batcher.put(Picture(pixels, self._looked_at, search), ahead)

    def _looked_at(self, pictures: Sequence[Picture]) -> None:
        plain = list[Search]()
        for picture in pictures:
            search: Search = picture.of
            if picture.error is not None:
                try:
                    with _answering():
                        raise picture.error
                except BaseException as error:  # whatever it is, who waits must hear of it
                    deliver([(search, error)])
                continue
            search.examples.append(picture.vector)
            self._took(search.ms, encode=time.perf_counter() - search.begin - search.ms["decode"] / 1000)
            if search.plain:
                plain.append(search)
            else:
                self._hand_on(search)
        if plain and self._one_by_one(plain[0].state.encoder):
            self._searches.answer(plain)
        else:
            for search in plain:
                self._searches.put(search)

    def _one_by_one(self, encoder: Encoder) -> bool:
        """Whether one thread decodes, embeds and searches: several would only take one processor from each other."""
        return self._processors == 1 and encoder.here

    def _hand_on(self, search: Search) -> None:
        if search.plain:
            self._searches.put(search)
        else:
            self._searching.submit(lambda: deliver(zip([search], self._found([search]), strict=True)))

    def _found(self, searches: Sequence[Search]) -> list[Found | Exception]:
        """Answers to searches with the same key; several are plain ones."""
        try:
            return list(self._find(searches))
        except Exception as error:
            return [error] if len(searches) == 1 else [self._found([search])[0] for search in searches]

    async def matches(self, given: ToMatch) -> dict[str, Any]:
        """Where in items what was searched for is."""
        with self._admitted():
            state = await self.state(given.index)
            asked = state.snapshot, state.encoder, given.ids, given.vector
            found = await self._run(self._searching, lambda: matches(*asked))
        return {**state.versions, "matches": found.astype(np.float64).round(4).tolist()}

    async def upsert(self, read: Callable[[], bytes], id_: str | None = None, **given: list[Any]) -> dict[str, Any]:
        """Adds a tile, or replaces the one with its id; when it returns, that is on disk; after an error nothing is.

        `read` gives the file as it was sent. It may lie on disk: it is read when its turn comes. `id_` is made of the
        SHA-256 of the file by default. `given` are labels, dates, bboxes, splits and sources, as far as given, of one
        tile each, and new_labels; see `SearchEngine.upsert`.
        """
        with self._admitted():
            for _ in range(3):
                state = self.versions.newest
                try:
                    return await self._upsert(state, read, id_, given)
                except ValueError:  # another process has just published an index of another encoder, or other labels
                    await self._look_again()
                    before, now = state.snapshot, self.versions.newest.snapshot
                    if (now.uuid, now.label_names) == (before.uuid, before.label_names):
                        raise
        raise overloaded()

    async def _upsert(
        self, state: State, read: Callable[[], bytes], id_: str | None, given: dict[str, list[Any]]
    ) -> dict[str, Any]:
        snapshot = state.snapshot
        vector, small = await self._embed(state, read, {}, small=snapshot.thumbnail_size)

        def describe() -> tuple[str, Items, dict[str, list[bool]]]:
            data = read()
            name = id_ or f"sha256-{hashlib.sha256(data).hexdigest()[:32]}"
            with refusing({key: values[0] for key, values in given.items() if values}):
                return name, *items_of([data], [name], snapshot.label_names, **given)

        name, items, missing = await self._run(self._decoding, describe)
        new = [label for label in items.label_names if label not in snapshot.label_names]
        known: dict[str, Any] = {"encoder": state.made_with, "missing": missing, "new_labels": new}
        known["meant"] = given.get("new_labels", ())
        after, _ = await self._write(lambda index: index.upsert(items, vector[None], [small or None], **known))
        return {"id": name, "new_labels": new, **after.versions}

    async def delete(self, id_: str) -> dict[str, Any]:
        """Takes a tile away; when it returns, that is on disk."""
        with self._admitted():
            state, count = await self._write(lambda index: index.delete([id_]))
        return {"deleted": count, **state.versions}

    async def look(self, work: Callable[[], T]) -> T:
        """Does something that reads in the index."""
        with self._admitted():
            return await self._run(self._searching, work)

    async def picture(self, state: State, id_: str) -> bytes:
        """A JPEG of a tile in large."""
        reader, most = state.encoder.reader, self.limits.pixels
        with self._admitted():
            return await self._run(self._decoding, lambda: self.originals.picture(state.snapshot, id_, reader, most))

    async def look_at_collections(self, work: Callable[[Collections, View], T]) -> T:
        """Does something that reads in the collections, beside the newest state of the index."""
        with self._admitted(), _whole():
            snapshot = (await self.state()).snapshot
            return await self._run(self._searching, lambda: work(self.collections, snapshot))

    async def change_collections(self, work: Callable[[Collections, View], T]) -> T:
        """Does something that writes to the collections; when it returns, that is on disk, after an error nothing."""
        with self._admitted(), _whole(), _writable():
            snapshot = (await self.state()).snapshot
            return await self._run(self._writing, lambda: work(self.collections, snapshot))

    async def to_label(self, name: str, label: str, new_labels: list[str]) -> dict[str, Any]:
        """Makes a collection a label of the index, which is on disk when this returns."""
        absent: list[str] = []

        def change(index: Engine) -> dict[str, bool]:
            changed, absent[:] = self.collections.to_label(name, index, label, new_labels=new_labels)
            return changed

        with _whole():
            return {**await self._relabelled(label or name, change), "absent": answers.some(absent)}

    async def relabel(self, label: str, holds: dict[str, bool], new_labels: list[str]) -> dict[str, Any]:
        """Gives tiles a label, or takes it from them; when it returns, that is on disk."""

        def change(index: Engine) -> dict[str, bool]:
            index.refresh()
            for id_ in holds:
                check_there(index.snapshot, id_)
            return index.relabel(label, holds, new_labels=new_labels)

        return await self._relabelled(label, change)

    async def _relabelled(self, label: str, change: Callable[[Engine], dict[str, bool]]) -> dict[str, Any]:
        before = self.versions.newest.snapshot.label_names
        with self._admitted():
            state, changed = await self._write(change)
        gained = sum(changed.values())
        names = state.snapshot.label_names
        new, place = [name for name in names if name not in before], known_labels(names).find(label)
        label = label if place is None else names[place]
        return {**state.versions, "label": label, "new_labels": new, "gained": gained, "lost": len(changed) - gained}

    def close(self) -> None:
        """Ends the threads after what they have begun, and a teaching before it is published."""
        self.teaching.close()
        for pool in (self._decoding, self._searching, self._writing, self._opening):
            pool.shutdown()
        self.versions.close()
        self._searches.close()

    def _check(self, query: Query, images: int) -> None:
        """Refuses what asks for too much."""
        if query.format == "json":
            most, remedy = self.limits.k, "Use offset for the next page."
        else:
            most, remedy = max(self.limits.k, DEPTH - query.offset), "What lies deeper is found by another query."
        if query.k > most:
            raise QueryError(f"k is at most {most}", query.k, remedy)
        examples = len(query.positive) + len(query.negative) + images
        if examples > self.limits.batch:
            raise QueryError(f"a query has at most {self.limits.batch} examples", examples, "Leave some out.")

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._in_work >= _IN_WORK:
            raise overloaded()
        self._in_work += 1
        try:
            yield
        finally:
            self._in_work -= 1

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def _embed(
        self, state: State, read: Callable[[], bytes], ms: dict[str, float], *, small: int = 0, box: Box | None = None
    ) -> tuple[NDArray[np.float32], bytes]:
        state.encoder.check_sees_pictures()
        size = state.encoder.image_size
        begin, reader = time.perf_counter(), state.encoder.reader
        pixels, jpeg = await self._run(
            self._decoding, lambda: decode(read(), size, self.limits, small=small, reader=reader)
        )
        decoded = time.perf_counter()
        encoded: Awaitable[NDArray[np.float32]]
        if box is None:
            encoded = asyncio.wrap_future(state.batcher.submit(pixels))
        else:  # few are sent: they do not wait for each other
            encoded = self._run(self._searching, lambda: state.encoder.embed_images([pixels], [box])[0])
        with _answering():
            vector = await encoded
        self._took(ms, decode=decoded - begin, encode=time.perf_counter() - decoded)
        return vector, jpeg

    async def _catch_up(self) -> None:
        with suppress(OSError, ValueError):  # what was there before is still served, and the next look says why
            await self._run(self._searching, self.versions.catch_up)

    async def _look_again(self) -> None:
        try:
            await self._run(self._opening, self.versions.refresh)
        except (OSError, ValueError) as error:
            _log.warning("the newest index cannot be served: %s", error)
            raise overloaded() from error

    def _find(self, searches: Sequence[Search]) -> Iterator[Found]:
        begin, first = time.perf_counter(), searches[0]
        state, query, marked = first.state, first.query, dict[str, list[str]]()
        if query.collection is not None:
            with _whole():
                marked = self.collections.get(query.collection).examples(state.snapshot)
        right, wrong = marked.get("positive", ()), marked.get("negative", ())
        like = [
            ("", [*one.examples, *right, *(_value(state, given) for given in one.query.positive)]) for one in searches
        ]
        found = find(
            state.snapshot,
            like,
            negative=[*wrong, *(_value(state, example) for example in query.negative)],
            k=query.k,
            offset=query.offset,
            filter=query.filter.to_filter(),
            labels=query.labels,
            exact=query.exact,
        )
        took = time.perf_counter() - begin
        for search, answer in zip(searches, found, strict=True):
            self._took(search.ms, search=took)
            if state.newest:
                self.sample.add(answer.vector)
            yield Found(self._said(search, answer), search.query.format)

    def _said(self, search: Search, answer: Answer) -> bytes:
        state, query = search.state, search.query
        if query.format in ("csv", "parquet"):
            return answers.file(f"results.{query.format}", lambda path: write_results([answer], path, state.snapshot))
        told = answers.found(state, answer, geojson=query.format == "geojson", vector=query.vector)
        said = told.get("search", told)
        said |= {"k": query.k, "offset": query.offset, "ms": search.ms}
        said["query"]["preview"] = base64.b64encode(search.preview).decode() or None
        return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)

    async def _write(self, change: Callable[[Engine], T]) -> tuple[State, T]:
        with _writable():
            return await self._run(self._writing, lambda: self.versions.write(change))

    def _took(self, ms: dict[str, float], **seconds: float) -> None:
        for stage, value in seconds.items():
            ms[stage] = round(1000 * value, 3)
            self.metrics.stages[stage].observe(value)


def _value(state: State, example: Example) -> str | Any:
    """The id, the part of a tile or the vector of the index that an example stands for."""
    if example.box is not None:
        return part_of(state.snapshot, state.encoder, str(example.id), example.box)
    return example.value if example.features is None else state.encoder.of_features(example.features)


@contextmanager
def _answering() -> Iterator[None]:
    """Says of errors of the way to the encoder that another try may do."""
    try:
        yield
    except ConnectionError as error:
        remedy = "Retry after 1 s, or see the server log."
        raise unavailable("The encoder's server does not answer", None, remedy) from error


@contextmanager
def _writable() -> Iterator[None]:
    """Says of errors of the disk that nothing was written."""
    try:
        yield
    except EngineError:  # of a disk elsewhere, with words of its own
        raise
    except OSError as error:
        remedy = "Retry once there is space; see the server log."
        if error.errno == errno.EROFS:
            remedy = "Write through a server whose folder is not mounted read-only."
        raise unavailable(
            "The server cannot write to its disk", os.strerror(error.errno or 0), f"Nothing was changed. {remedy}"
        ) from error


@contextmanager
def _whole() -> Iterator[None]:
    """Says of collections that do not hold what was written, or may not be read, that they cannot be used."""
    try:
        yield
    except (ArtifactError, PermissionError) as error:
        _log.warning("the collections cannot be used: %s", error)
        what = "are damaged" if isinstance(error, ArtifactError) else "may not be read by it"
        raise unavailable(f"The collections of this server {what}", None, "See the server log.") from error
