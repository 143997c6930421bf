"""Plain searches that wait at the same time are one search of the index."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from macl_tf.server.schemas import Query
from macl_tf.server.versions import State

_TOGETHER = 64


class Found(NamedTuple):
    """An answer as it is sent."""

    body: bytes
    format: str  # json, geojson, csv or parquet


@dataclass(eq=False)
class Search:
    """A search on its way, and who waits for it."""

    state: State
    query: Query
    examples: list[Any] = field(default_factory=list)  # vectors of uploaded pictures
    preview: bytes = b""
    ms: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "encode": 0.0, "search": 0.0})
    begin: float = field(default_factory=time.perf_counter)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    answer: asyncio.Future[Found] = field(init=False)

    def __post_init__(self) -> None:
        self.answer = self.loop.create_future()

    @property
    def plain(self) -> bool:
        """Whether it may be searched together with others: one example, and nothing to look up or leave out."""
        query = self.query
        return (
            len(self.examples) + len(query.positive) == 1
            and not (query.negative or query.exact or query.labels or query.collection)
            and query.format == "json"
            and all(example.id is not None and example.box is None for example in query.positive)
            and not query.filter.model_fields_set
        )

    @property
    def key(self) -> tuple[int, int, int, bool]:
        """The same for searches that may be one."""
        return id(self.state.snapshot), self.query.k, self.query.offset, self.state.newest


class Searches:
    """A thread that answers searches: `answer` gives, of those with the same key, an answer or error for each."""

    def __init__(self, answer: Callable[[Sequence[Search]], Sequence[Found | Exception]]) -> None:
        self._answer = answer
        self._queue: queue.SimpleQueue[Search | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="searches", daemon=True)
        self._thread.start()

    def put(self, search: Search) -> None:
        """Takes a search in."""
        self._queue.put(search)

    def answer(self, searches: Sequence[Search]) -> None:
        """Answers searches here and now, those with the same key as one."""
        for _, group in groupby(sorted(searches, key=lambda search: search.key), key=lambda search: search.key):
            together = list(group)
            deliver(zip(together, self._answer(together), strict=True))

    def close(self) -> None:
        """Answers those that wait, and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            waiting: list[Search | None] = [first]
            while waiting[-1] is not None and len(waiting) < _TOGETHER and not self._queue.empty():
                waiting.append(self._queue.get())
            self.answer([search for search in waiting if search is not None])
            if waiting[-1] is None:
                return


def deliver(answers: Iterable[tuple[Search, Found | BaseException]]) -> None:
    """Tells those who wait, in their event loop."""
    told = list(answers)

    def tell() -> None:
        for search, answer in told:
            if search.answer.done():
                continue  # the client is gone
            if isinstance(answer, BaseException):
                search.answer.set_exception(answer)
            else:
                search.answer.set_result(answer)

    told[0][0].loop.call_soon_threadsafe(tell)
