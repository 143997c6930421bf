"""Live recall: some of the queries that come are searched again exactly, in the background."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from macl_tf.index.view import View

K = 10


class RecallSample:
    """The last `waiting` queries, which wait to be checked, and what the last `window` checks found.

    Queries may come from any thread; one thread checks them.
    """

    def __init__(self, waiting: int = 16, window: int = 256) -> None:
        self._waiting: deque[NDArray[np.float32]] = deque(maxlen=waiting)
        self._found: deque[float] = deque(maxlen=window)

    def add(self, vector: NDArray[np.float32]) -> None:
        """Takes a query in."""
        self._waiting.append(vector)

    def check(self, snapshot: View) -> tuple[float, int]:
        """Searches the waiting queries both ways: recall@10 over the window, NaN while empty, and how many they are."""
        checked = 0
        while self._waiting:
            vector = self._waiting.popleft()
            if len(vector) != snapshot.dim or not len(snapshot) or not snapshot.can_be_exact:
                continue
            near, true = (
                {hit.id for hit in snapshot.search(vector[None], k=K, exact=exact)[0]} for exact in (False, True)
            )
            checked += 1
            self._found.append(len(near & true) / len(true))
        return (float(np.mean(self._found)) if self._found else float("nan")), checked
