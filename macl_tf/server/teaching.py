"""Teaching a served folder: in a process of its own, one at a time, while searches go on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from macl_tf.files import locked, read_json, write_json

COMMAND = (sys.executable, "-m", "macl_tf.teaching.job")
_NOTHING: dict[str, Any] = {"stage": None, "share": 0.0, "error": None, "result": None}
_ENDED = "The process ended before it was done. See the server log."
_log = logging.getLogger(__name__)


class Teaching:
    """What was last asked to be taught, and how far it is: a file in `folder`, which all workers of a server share.

    Any number of threads may ask.
    """

    def __init__(self, served: Path, folder: Path) -> None:
        self._served = served
        self._file, self._lock = folder / "teaching.json", folder / "teaching.lock"
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def state(self) -> dict[str, Any]:
        """How far it is: none, running, done or failed."""
        try:
            state = read_json(self._file)
        except FileNotFoundError:
            return {"state": "none", **_NOTHING}
        follower = state.pop("follower")
        if state["state"] == "running" and not _lives(follower):
            return {"state": "failed", **_NOTHING, "error": _ENDED}
        return state

    def begin(self, loss: str, publish: str) -> dict[str, Any]:
        """Begins, where nothing is taught just now; how far it is."""
        with locked(self._lock):
            state = self.state()
            if state["state"] != "running":
                asked = json.dumps({"served": str(self._served), "loss": loss, "publish": publish})
                self._process = subprocess.Popen(
                    [*COMMAND, asked],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                state = {"state": "running", **_NOTHING, "stage": "starting"}
                self._keep(state)
                self._thread = threading.Thread(target=self._follow, args=(self._process,), daemon=True)
                self._thread.start()
            return state

    def close(self) -> None:
        """Ends what is running; the index is as it was then."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stderr is not None  # for the type checker: both are pipes
        said: list[str] = []
        errors = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        errors.start()
        for line in process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # what a library prints
            if isinstance(told, dict):
                self._take(told)
        errors.join()
        process.stdout.close()
        process.stderr.close()
        if process.wait() and self.state()["state"] == "running":
            _log.warning("teaching ended with %s: %s", process.returncode, "".join(said[-20:]))
            self._take({"failed": _ENDED})
        elif self.state()["state"] == "running":
            self._take({"done": None})

    def _take(self, told: dict[str, Any]) -> None:
        if "failed" in told:
            self._keep({"state": "failed", **_NOTHING, "error": str(told["failed"])})
        elif "done" in told:
            self._keep({"state": "done", **_NOTHING, "share": 1.0, "result": told["done"]})
        elif "stage" in told:
            self._keep(self.state() | {"stage": str(told["stage"]), "share": float(told["share"])})

    def _keep(self, state: dict[str, Any]) -> None:
        write_json(self._file, {**state, "follower": os.getpid()})


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
