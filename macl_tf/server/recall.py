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
        vectors = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not len(snapshot) or not snapshot.can_be_exact:
            vectors = []
        vectors = [vector for vector in vectors if len(vector) == snapshot.dim]
        if vectors:
            near, true = (snapshot.search(np.stack(vectors), k=K, exact=exact) for exact in (False, True))
            for some, best in zip(near, true, strict=True):
                self._found.append(len({hit.id for hit in some} & {hit.id for hit in best}) / len(best))
        return (float(np.mean(self._found)) if self._found else float("nan")), len(vectors)
