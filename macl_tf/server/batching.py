"""Requests that come at the same time go through the encoder together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from macl_tf.search.encoders import Embed
from macl_tf.server.errors import overloaded
from macl_tf.server.settings import Options


class Batcher:
    """A thread that takes pictures from a queue, as many as there are, and embeds them in one call.

    While the encoder is at work the next batch gathers by itself. It waits only for pictures that were announced by
    `coming` and are still being decoded, as long as one comes every `batch_wait` seconds: a single client never waits.
    """

    def __init__(self, embed: Embed, options: Options) -> None:
        self._embed, self._options = embed, options
        self._queue: deque[tuple[NDArray[np.uint8], Future[NDArray[np.float32]]]] = deque()
        self._coming = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes pictures."""
        return self._thread.is_alive() and not self._closed

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Announces a picture for the time that it is being decoded; refused at once where the queue is full."""
        with self._changed:
            if len(self._queue) + self._coming >= self._options.backlog:
                raise overloaded()
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                if not self._coming:
                    self._changed.notify()

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """The embedding (D,) of pixels (S, S, 3), when it is there; refused where the queue is full or closed."""
        future: Future[NDArray[np.float32]] = Future()
        with self._changed:
            if self._closed or len(self._queue) >= self._options.backlog:
                raise overloaded()
            self._queue.append((pixels, future))
            if len(self._queue) in (1, self._options.batch_size):  # else the thread is at work, or waits for more
                self._changed.notify()
        return future

    def close(self) -> None:
        """Embeds what is in the queue and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _take(self) -> list[tuple[NDArray[np.uint8], Future[NDArray[np.float32]]]]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            size, before = self._options.batch_size, 0
            while self._coming and before < len(self._queue) < size:
                before = len(self._queue)
                self._changed.wait(self._options.batch_wait)
            return [self._queue.popleft() for _ in range(min(size, len(self._queue)))]

    def _work(self) -> None:
        while batch := self._take():
            batch = [(pixels, future) for pixels, future in batch if future.set_running_or_notify_cancel()]
            if not batch:
                continue
            begin = time.perf_counter()
            try:
                vectors = self._embed(np.stack([pixels for pixels, _ in batch]))
                if len(vectors) != len(batch):
                    raise ValueError(f"the encoder must give {len(batch)} vectors, got {len(vectors)}.")
            except BaseException as error:  # whoever waits must hear of it, and the next batch must be served
                for _, future in batch:
                    future.set_exception(error)
                continue
            self._options.observe(len(batch), time.perf_counter() - begin)
            for (_, future), vector in zip(batch, vectors, strict=True):
                future.set_result(vector)
