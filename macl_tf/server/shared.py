"""What the workers of a server know of each other: a memory map that they inherit, and a folder for files."""

from __future__ import annotations

import mmap
from pathlib import Path

_SLOTS = 1 << 14
_WRITES, _CONNECTIONS, _FIRST = 0, 1, 8  # where they stand among the counts of a worker
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
        size = 8 * (2 * _SLOTS + 8)
        counts = memoryview(mmap.mmap(-1, workers * size))
        # Of each worker: its writes, its connections, and behind them requests and bytes of each slot.
        self._counts = [counts[number * size : (number + 1) * size].cast("q") for number in range(workers)]
        for number in range(workers):
            self.forget(number)
        self._number = 0

    def of(self, number: int) -> Shared:
        """The same for the worker of a number."""
        mine = object.__new__(Shared)
        mine.__dict__.update(self.__dict__, _number=number)
        return mine

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._counts)

    @property
    def writes(self) -> int:
        """How many writes there were, of all workers."""
        return sum(counts[_WRITES] for counts in self._counts)

    def wrote(self) -> None:
        """Says that this worker's write is on disk."""
        self._counts[self._number][_WRITES] += 1

    def held(self, client: str) -> tuple[int, int]:
        """Requests of a client that are being answered, and bytes in its uploads."""
        place, requests, size = _place(client), 0, 0
        for counts in self._counts:
            requests += counts[place]
            size += counts[place + 1]
        return requests, size

    def add(self, client: str, requests: int, size: int) -> None:
        """More requests of a client, or less."""
        mine, place = self._counts[self._number], _place(client)
        mine[place] += requests
        mine[place + 1] += size

    def hold(self, connections: int) -> None:
        """Says how many connections this worker has."""
        self._counts[self._number][_CONNECTIONS] = connections

    @property
    def holds_more(self) -> bool:
        """Whether another worker has fewer connections than this one."""
        return min(counts[_CONNECTIONS] for counts in self._counts) < self._counts[self._number][_CONNECTIONS]

    def forget(self, number: int) -> None:
        """Takes back what a worker counted that is dead."""
        self._counts[number][_FIRST:] = memoryview(bytes(16 * _SLOTS)).cast("q")
        self._counts[number][_CONNECTIONS] = _NONE


def _place(client: str) -> int:
    return _FIRST + 2 * (hash(client) % _SLOTS)
