"""Many runs under one budget: each in a run directory of its own, resumed where it stopped, with the time left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from tqdm import tqdm

from benchmarks.command import in_process
from macl_tf.files import read_json

Turn = TypeVar("Turn")
Result = TypeVar("Result")


def at_once(
    jobs: int, work: Callable[[Turn], Result], turns: Sequence[Turn], title: str
) -> Iterator[tuple[Turn, Result]]:
    """Works on all turns, so many at a time, each on its own share of this process's processors; with a bar.

    What a run does on one processor (imports, tracing, Python between steps) then leaves no other one idle.

    Args:
        jobs: Turns at a time, >= 1.
        work: Called with a turn in a thread; processes that it starts have the thread's processors.
        turns: What is to be done.
        title: Of the bar.

    Yields:
        A turn and its result, in the order in which they end.

    Raises:
        RuntimeError: At the end, if some turns failed. Why is said at once, and the others go on.
    """
    shares: SimpleQueue[set[int]] = SimpleQueue()
    if hasattr(os, "sched_setaffinity"):  # of Linux alone: elsewhere the system shares its processors out
        cores = sorted(os.sched_getaffinity(0))
        for number in range(jobs):
            shares.put({*cores[number::jobs]} or {cores[number % len(cores)]})

    def share_out() -> None:
        if not shares.empty():
            os.sched_setaffinity(0, shares.get())  # of this thread, and of the processes that it starts

    failed = []
    with ThreadPoolExecutor(jobs, initializer=share_out) as pool:
        begun = {pool.submit(work, turn): turn for turn in turns}
        try:
            for done in tqdm(as_completed(begun), title, len(turns), unit="run"):
                if error := done.exception():
                    tqdm.write(f"{begun[done]} failed; the others go on.\n{error}")
                    failed.append(begun[done])
                else:
                    yield begun[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(turns)} failed, as said above: {failed}. The same command tries again."
        )


def train(run: Path, settings: Sequence[str]) -> dict[str, Any]:
    """What a run's `metrics.json` holds: a finished run is taken as it is, a half-finished one goes on.

    Args:
        run: Its directory.
        settings: For `macl train --set`: "loss=dcl".
    """
    if not (run / "metrics.json").is_file():
        sets = [word for text in settings for word in ("--set", text)]
        in_process("macl_tf.cli", "train", *sets, "--run-dir", run, "--quiet")
    result: dict[str, Any] = read_json(run / "metrics.json")
    return result
