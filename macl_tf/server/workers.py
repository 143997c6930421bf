"""Several processes that answer at one address: started, started again where one dies, ended together."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

_log = logging.getLogger(__name__)
_POLL = 0.2  # seconds between looks for workers that died
_YOUNG = 10.0  # seconds that a worker lives at least that is started again at once
_PATIENCE = 1.0  # seconds before another one is


class Workers:
    """Forks `count` processes, which call `work(number, ready)`; that returns when the process is told to end.

    `ready` tells that the worker answers, `started` is called once all do, and `died(number, pid)` for each that is
    gone. This process only watches: it has no threads.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[int, Callable[[], object]], object],
        started: Callable[[], object],
        died: Callable[[int, int], object] = lambda number, pid: None,
    ) -> None:
        self._count, self._work, self._started, self._died = count, work, started, died
        self._numbers: dict[int, int] = {}  # by process id
        self._ready: set[int] = set()
        self._begun: dict[int, float] = {}
        self._ending = self._all_ready = False
        self._said, self._error = b"", ""

    def run(self) -> None:
        """Returns when all have ended; a ValueError says why one could not begin, when all are ended, too."""
        self._reports, self._report = os.pipe()
        self._lifeline, self._alive = os.pipe()  # whose other end the system closes when this process is gone
        before = {kind: signal.signal(kind, self._end) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in range(self._count):
                self._start(number)
            while self._numbers:
                self._listen(_POLL)
                self._bury()
            if self._error and not self._all_ready:
                raise ValueError(self._error)
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
            for descriptor in (self._reports, self._report, self._lifeline, self._alive):
                os.close(descriptor)

    def _end(self, kind: int = 0, frame: FrameType | None = None) -> None:
        self._ending = True
        for pid in self._numbers:
            os.kill(pid, signal.SIGTERM)

    def _start(self, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if (pid := os.fork()) == 0:
            self._be(number)
        self._numbers[pid] = number
        self._begun[number] = time.monotonic()
        if self._ending:  # told while it was being made
            os.kill(pid, signal.SIGTERM)

    def _be(self, number: int) -> NoReturn:
        """What a worker does, from beginning to end."""
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self._alive)
            threading.Thread(target=self._end_with_the_parent, daemon=True).start()
            self._work(number, lambda: self._tell(number, ""))
            status = 0
        except KeyboardInterrupt:
            status = 0
        except (ValueError, OSError, ImportError) as error:
            if os.environ.get("MACL_TRACEBACK"):
                traceback.print_exc()
            self._tell(number, " ".join(str(error).split()) or type(error).__name__)
            status = 2
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _end_with_the_parent(self) -> None:
        os.read(self._lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _tell(self, number: int, error: str) -> None:
        os.write(self._report, f"{number} {error}".encode()[:4000] + b"\n")

    def _listen(self, seconds: float) -> None:
        """Takes in what workers say."""
        if select.select([self._reports], [], [], seconds)[0]:
            self._said += os.read(self._reports, 1 << 16)
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            number, _, error = line.decode().partition(" ")
            if error and self._all_ready:
                _log.error("worker %s: %s", number, error)
            elif error:
                self._error = self._error or error
            else:
                self._ready.add(int(number))
        if not self._all_ready and len(self._ready) == self._count:
            self._all_ready = True
            self._started()

    def _bury(self) -> None:
        """Looks for workers that are gone, and starts them again; all end where one cannot even begin."""
        for pid in [*self._numbers]:
            gone, how = os.waitpid(pid, os.WNOHANG)
            if not gone:
                continue
            number, status = self._numbers.pop(pid), os.waitstatus_to_exitcode(how)
            self._died(number, pid)
            if self._ending:
                continue
            if not self._all_ready:
                self._listen(0)
                self._error = self._error or f"a worker ended with {status} before it could begin. See above."
                self._end()
                continue
            _log.warning("worker %d ended with %d and is started again", number, status)
            if time.monotonic() - self._begun[number] < _YOUNG:
                time.sleep(_PATIENCE)
            self._start(number)
