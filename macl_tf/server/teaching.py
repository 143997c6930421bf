"""Teaching a served folder: in a process of its own, one at a time, while searches go on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from macl_tf.files import locked, read_json, write_json

COMMAND = (sys.executable, "-m", "macl_tf.teaching.job")
_NOTHING: dict[str, Any] = {"stage": None, "share": 0.0, "error": None, "result": None}
_ENDED = "The process ended before it was done. See the server log."
_FILE = "teaching.json"
_begins = threading.Lock()
_log = logging.getLogger(__name__)


class Teaching:
    """What was last asked to be taught, and how far it is: a file in `folder`, which all workers of a server share.

    Without it the file is where nobody else looks. Any number of threads may ask.
    """

    def __init__(self, served: Path, folder: Path | None = None) -> None:
        self._served, self._folder = served, folder
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def state(self) -> dict[str, Any]:
        """How far it is: none, running, done or failed."""
        if self._folder is None or not (file := self._folder / _FILE).is_file():
            return {"state": "none", **_NOTHING}
        state: dict[str, Any] = read_json(file)
        follower = state.pop("follower")
        if state["state"] == "running" and not _lives(follower):
            return {"state": "failed", **_NOTHING, "error": _ENDED}
        return state

    def begin(self, loss: str, publish: str) -> dict[str, Any]:
        """Begins, where nothing is taught just now; how far it is."""
        with _begins:
            if self._folder is None:
                self._own = tempfile.TemporaryDirectory(prefix="macl-serve-")
                self._folder = Path(self._own.name)
        with locked(self._folder / "teaching.lock"):
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
        if self._own is not None:
            self._folder = None
            self._own.cleanup()

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
        assert self._folder is not None  # for the type checker: it has begun
        write_json(self._folder / _FILE, {**state, "follower": os.getpid()})


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
