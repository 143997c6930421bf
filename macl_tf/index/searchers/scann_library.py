"""How ScaNN is met: imported without TensorFlow where that will do, with its C++ log kept off the terminal."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from macl_tf.versions import check_for_scann

_HELP = (
    "ScaNN could not be loaded ({error}). It needs Linux, a processor with AVX and FMA (or Arm), and for its "
    "TensorFlow ops TensorFlow 2.20: pip install 'scann~=1.4.2' 'tensorflow-cpu~=2.20.0'. Exact search does without."
)
_LOG_LINE = re.compile(
    rb"([IW]\d{4} [\d:. ]+\S+\.(cc|h):\d+\]|[IW]0000 [\d:. ]+|WARNING: All log messages before absl::)"
)
_END = b"\0 end of ScaNN \0"
_lock = threading.Lock()
_blocks = 0  # of `native_log_hidden` that are running
_filter: _Filter | None = None


def scann_pybind() -> Any:
    """ScaNN's module for NumPy arrays.

    `import scann` imports TensorFlow for its ops, seconds that a search of vectors has no use for. So the module is
    imported past the package's `__init__`, in some 30 ms; `import scann` works as ever before and after.

    Returns:
        scann.scann_ops.py.scann_ops_pybind.

    Raises:
        ImportError: If ScaNN is not there or does not fit this machine, saying what to do.
    """
    name = "scann.scann_ops.py.scann_ops_pybind"
    with _lock:
        if name in sys.modules:
            return sys.modules[name]
        try:
            spec = importlib.util.find_spec("scann")
            if spec is None or not spec.submodule_search_locations:
                raise ImportError("not installed")
            if "scann" in sys.modules:
                return importlib.import_module(name)
            bare = ModuleType("scann")
            bare.__path__ = list(spec.submodule_search_locations)
            sys.modules["scann"] = bare
            try:
                return importlib.import_module(name)
            finally:
                del sys.modules["scann"]  # the next `import scann` runs its __init__
        except (ImportError, OSError) as error:
            raise ImportError(_HELP.format(error=error)) from error


def scann_tensorflow() -> Any:
    """ScaNN's TensorFlow ops; a process that loads a SavedModel with them must have called this or `import scann`.

    Returns:
        scann.scann_ops.py.scann_ops.

    Raises:
        ImportError: If ScaNN or TensorFlow is not there, or they do not fit each other, saying what to do.
    """
    check_for_scann()
    try:
        return importlib.import_module("scann.scann_ops.py.scann_ops")
    except Exception as error:  # an undefined symbol comes as TensorFlow's NotFoundError
        raise ImportError(_HELP.format(error=error)) from error


@contextmanager
def native_log_hidden() -> Iterator[None]:
    """Keeps ScaNN's C++ log lines, which no setting silences, out of standard error while the block runs.

    They are written to file descriptor 2 itself, so that is where they are caught: its lines pass through a pipe, and
    all but ScaNN's go on to where they were going, other threads' messages and progress bars included. Blocks may
    overlap in several threads.
    """
    global _blocks, _filter
    with _lock:
        if not _blocks:
            _filter = _Filter()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks and _filter is not None:
                _filter.end()
                _filter = None


class _Filter:
    """Stands between file descriptor 2 and where it led."""

    def __init__(self) -> None:
        sys.stderr.flush()
        self._original = os.dup(2)
        self._reading, self._writing = os.pipe()
        os.dup2(self._writing, 2)
        self._ended = threading.Event()
        threading.Thread(target=self._forward, daemon=True).start()

    def end(self) -> None:
        """Puts it back, when all that was written has gone on."""
        sys.stderr.flush()
        os.dup2(self._original, 2)
        os.write(self._writing, _END)
        os.close(self._writing)
        self._ended.wait()

    def _forward(self) -> None:
        """Goes on after the end for programs that were started meanwhile and have the pipe as their standard error."""
        left = b""
        while chunk := os.read(self._reading, 65536):
            before, end, after = (left + chunk).partition(_END)
            *lines, left = (before + after).splitlines(keepends=True) or [b""]
            # A line that is not whole is held back only while it could be one of ScaNN's: progress bars are not.
            if end or left.endswith((b"\n", b"\r")) or not left.startswith((b"I", b"W")):
                lines, left = [*lines, left], b""
            for line in lines:
                if not _LOG_LINE.match(line):
                    os.write(self._original, line)
            if end:
                self._ended.set()
        os.close(self._reading)
        os.close(self._original)
