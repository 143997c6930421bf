"""What the workers of a server know of each other: a memory map that they inherit, and a folder for files."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

_SLOTS = 1 << 14
_NONE = 1 << 40  # connections of a worker that takes none


class Shared:
    """Counts of each of `workers` processes, made before they are: each adds to its own, and all see the sums.

    Clients are counted in 16,384 slots, by a hash that nobody outside knows: two of them seldom share one.

    Example:
        >>> shared = Shared(2)
        >>> one, other = shared.of(0), shared.of(1)
        >>> one.add("10.0.0.1", 1, 500)
        >>> other.held("10.0.0.1"), one.writes
        ((1, 500), 0)
    """

    def __init__(self, workers: int = 1, folder: Path | None = None) -> None:
        self.folder = folder  # where there are several; it lasts as long as they do
        counts = np.frombuffer(mmap.mmap(-1, 8 * workers * (2 * _SLOTS + 8)), np.int64).reshape(workers, -1)
        self._writes, self._connections = counts[:, 0], counts[:, 1]
        self._clients = counts[:, 8:].reshape(workers, _SLOTS, 2)
        self._connections[:] = _NONE
        self._number = 0

    def of(self, number: int) -> Shared:
        """The same for the worker of a number."""
        mine = object.__new__(Shared)
        mine.__dict__.update(self.__dict__, _number=number)
        return mine

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._writes)

    @property
    def writes(self) -> int:
        """How many writes there were, of all workers."""
        return int(self._writes.sum())

    def wrote(self) -> None:
        """Says that this worker's write is on disk."""
        self._writes[self._number] += 1

    def held(self, client: str) -> tuple[int, int]:
        """Requests of a client that are being answered, and bytes in its uploads."""
        requests, size = self._clients[:, hash(client) % _SLOTS].sum(axis=0).tolist()
        return requests, size

    def add(self, client: str, requests: int, size: int) -> None:
        """More requests of a client, or less."""
        self._clients[self._number, hash(client) % _SLOTS] += (requests, size)

    def hold(self, connections: int) -> None:
        """Says how many connections this worker has."""
        self._connections[self._number] = connections

    @property
    def holds_more(self) -> bool:
        """Whether another worker has fewer connections than this one."""
        return bool(self._connections.min() < self._connections[self._number])

    def forget(self, number: int) -> None:
        """Takes back what a worker counted that is dead."""
        self._clients[number], self._connections[number] = 0, _NONE
