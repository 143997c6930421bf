"""Requests that come at the same time go through the encoder together."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.search.encoders import Embed
from macl_tf.server.errors import overloaded
from macl_tf.server.settings import Options

_log = logging.getLogger(__name__)
_ENOUGH = 16  # pictures, beyond which an encoder takes hardly less time for each
_LONG = 0.1  # seconds after which a batch takes no more


@dataclass(eq=False)
class Picture:
    """A picture on its way through the encoder."""

    pixels: Callable[[], NDArray[Any]]  # gives (S, S, N), or raises why not
    then: Callable[[Sequence[Picture]], None]  # told in the encoder's thread, of all in a batch that have it at once
    of: Any = None  # what it belongs to
    vector: NDArray[np.float32] | None = None  # (D,), or why there is none:
    error: BaseException | None = None


class Batcher:
    """A thread that takes pictures from a queue, as many as come while it decodes them, and embeds them in one call.

    While the encoder is at work the next batch gathers by itself. Whoever got an answer a moment ago may ask again:
    up to 16 pictures are waited for that way, each `batch_wait` seconds at most. A single client never waits.
    """

    def __init__(self, embed: Embed, options: Options) -> None:
        self._embed, self._options = embed, options
        self._queue: deque[Picture] = deque()
        self._expected = 1
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes pictures."""
        return self._thread.is_alive() and not self._closed

    def put(self, picture: Picture, ahead: Executor | None = None) -> None:
        """Takes a picture in, or refuses it where the queue is full or closed.

        `ahead` makes its pixels as soon as it can; without one the encoder's thread makes those of a whole batch.
        """
        with self._changed:
            if self._closed or len(self._queue) >= self._options.backlog:
                raise overloaded()
            if ahead is not None:
                picture.pixels = ahead.submit(picture.pixels).result
            self._queue.append(picture)
            self._changed.notify()

    def submit(self, pixels: NDArray[Any]) -> Future[NDArray[np.float32]]:
        """The embedding (D,) of pixels (S, S, N), when it is there; refused as by `put`."""
        future: Future[NDArray[np.float32]] = Future()

        def wanted() -> NDArray[Any]:
            if not future.set_running_or_notify_cancel():
                raise CancelledError
            return pixels

        self.put(Picture(wanted, _settle, future))
        return future

    def close(self) -> None:
        """Embeds what is in the queue and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _next(self, patience: float | None) -> Picture | None:
        """The next picture, waited for so many seconds; None where there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed, patience)
            return self._queue.popleft() if self._queue else None

    def _work(self) -> None:
        while (first := self._next(None)) is not None:
            batch, pixels = self._gather(first)
            if pixels:
                self._look_at([picture for picture in batch if picture.error is None], pixels)
            with self._changed:
                self._expected = min(len(batch) + len(self._queue), _ENOUGH)
            for then, pictures in groupby(batch, key=lambda picture: picture.then):
                try:
                    then(list(pictures))
                except Exception:
                    _log.exception("embedded pictures could not be handed on")

    def _gather(self, picture: Picture | None) -> tuple[list[Picture], list[NDArray[Any]]]:
        """Pictures from this one on, and the pixels of those that could be decoded; the others have their errors."""
        batch, pixels, until = list[Picture](), list[NDArray[Any]](), time.perf_counter() + _LONG
        while picture is not None:
            batch.append(picture)
            try:
                pixels.append(picture.pixels())
            except BaseException as error:  # of this picture alone
                picture.error = error
            if len(batch) == self._options.batch_size or time.perf_counter() > until:
                break
            picture = self._next(self._options.batch_wait if len(batch) < self._expected else 0)
        return batch, pixels

    def _look_at(self, batch: Sequence[Picture], pixels: Sequence[NDArray[Any]]) -> None:
        """Gives each its vector or error."""
        begin = time.perf_counter()
        try:
            vectors = self._embed(np.stack(pixels))
            if len(vectors) != len(batch):
                raise ValueError(f"the encoder must give {len(batch)} vectors, got {len(vectors)}.")
        except BaseException as error:  # whoever waits must hear of it, and the next batch must be served
            for picture in batch:
                picture.error = error
            return
        self._options.observe(len(batch), time.perf_counter() - begin)
        for picture, vector in zip(batch, vectors, strict=True):
            picture.vector = vector


def _settle(pictures: Sequence[Picture]) -> None:
    """Tells those who wait for a future."""
    for picture in pictures:
        if picture.error is None:
            picture.of.set_result(picture.vector)
        elif not picture.of.cancelled():
            picture.of.set_exception(picture.error)
