"""Building one index, and finding its fastest settings: the steps of `search_libraries`, each in its own process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.libraries import LIBRARIES, Library
from benchmarks.speed.search_vectors import Data, K

TARGETS = (0.90, 0.95, 0.99)
_SINGLE = 100  # queries one by one
_SECONDS = 0.6  # of passes for a setting that counts
_CANDIDATES = 3  # settings that are timed again for each recall


def index_folder(work: Path, data_name: str, name: str) -> Path:
    """Where the index of a data set is kept."""
    return work / "indexes" / data_name / name.replace(" ", "-")


def resident_mb(entry: str = "VmRSS") -> float:
    """Memory of this process: in use now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1e3


def build(data: Data, name: str, work: Path, threads: int) -> dict[str, Any]:
    """Builds an index and keeps it."""
    folder = index_folder(work, data.name, name)
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.array(data.vectors)
    import_module(LIBRARIES[name].module)
    before, wall, cpu = resident_mb(), time.perf_counter(), time.process_time()
    LIBRARIES[name].build(vectors, folder, threads)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "threads": threads,
        "peak_mb_over_vectors": max(resident_mb("VmHWM") - before, 0.0),
        "disk_mb": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        "load_average": os.getloadavg()[0],  # above `threads`, other work ran beside
    }


def measure(data: Data, name: str, work: Path, threads: int) -> dict[str, Any]:
    """Memory of an index, and its fastest setting for each recall."""
    library = LIBRARIES[name]
    import_module(library.module)
    before = resident_mb()
    index = library.load(index_folder(work, data.name, name), data.vectors, threads)
    first = next(library.settings(index))[0]
    library.searching(index, first)(data.queries, K)
    memory = resident_mb() - before

    points = sweep(library, index, data)
    at_recall: dict[str, Any] = {}
    for target in TARGETS:
        good = sorted((point for point in points if point["recall"] >= target), key=lambda point: -point["qps"])
        for point in good[:_CANDIDATES]:
            if "seconds" not in point:
                timed(point, library.searching(index, point["setting"]), data, _SECONDS)
        if good:
            best = max(good[:_CANDIDATES], key=lambda point: point["qps"])
            at_recall[f"{target:.2f}"] = {key: best[key] for key in ("setting", "recall", "qps", "cpu_ms_per_query")}
    result = {"memory_mb": memory, "settings_tried": len(points), "at_recall": at_recall}
    if name == "macl_tf scann":
        timed(points[0], library.searching(index, {}), data, _SECONDS)
        result["as_tuned"] = {key: points[0][key] for key in ("recall", "qps", "cpu_ms_per_query")}
        result["parameters"] = index.parameters  # their recall is the one that was measured when it was built
    if "0.95" in at_recall:
        search = library.searching(index, at_recall["0.95"]["setting"])
        result["single_query_p50_ms"] = 1000 * single_latency(search, data.queries)
    return result | {"load_average": os.getloadavg()[0]}


def sweep(library: Library, index: Any, data: Data) -> list[dict[str, Any]]:
    """Recall and a first time of all settings that could count."""
    points: list[dict[str, Any]] = []
    for run in library.settings(index):
        recalls: list[float] = []
        for setting in run:
            point: dict[str, Any] = {"setting": setting}
            timed(point, library.searching(index, setting), data, 0.0)
            points.append(point)
            recalls.append(point["recall"])
            enough = max((p["qps"] for p in points if p["recall"] >= TARGETS[-1]), default=0.0)
            # Recall grows along a run, or has stopped growing; speed falls.
            stalled = len(recalls) > 2 and recalls[-1] < recalls[-3] + 0.001
            if stalled or recalls[-1] >= TARGETS[-1] + 0.004 or point["qps"] < 0.8 * enough:
                break
    for point in points:
        del point["seconds"]
    return points


def timed(point: dict[str, Any], search: Callable[..., NDArray[Any]], data: Data, seconds: float) -> None:
    """Recall, and the best pass within so many seconds; at least one pass after a short one to warm up."""
    search(data.queries[:50], K)
    passes: list[tuple[float, float]] = []
    while not passes or sum(wall for wall, _ in passes) < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        found = search(data.queries, K)
        passes.append((time.perf_counter() - wall, time.process_time() - cpu))
    hits = [np.isin(row, line).sum() for row, line in zip(data.neighbours, found, strict=True)]
    point |= {
        "recall": float(np.sum(hits) / data.neighbours.size),
        "qps": len(data.queries) / min(wall for wall, _ in passes),
        "cpu_ms_per_query": 1000 * min(cpu for _, cpu in passes) / len(data.queries),
        "seconds": seconds,
    }


def single_latency(search: Callable[..., NDArray[Any]], queries: NDArray[np.float32]) -> float:
    """Median seconds of a query that comes alone."""
    seconds = []
    for query in queries[:_SINGLE]:
        begin = time.perf_counter()
        search(query[None], K)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))
