"""Figures for Prometheus. The one file that meets its client."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")  # others are counted together
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # which its client reads when it is imported


def count_together(folder: Path) -> None:
    """Has processes that are forked from this one count together, in files; called before any figure is there."""
    os.environ[_FOLDER] = str(folder)
    values.ValueClass = values.get_value_class()


def forget(pid: int) -> None:
    """Takes the present figures of a process away that is dead; what it counted stays."""
    multiprocess.mark_process_dead(pid)


class Metrics:
    """All figures of one service; of all its workers, where these count together."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        if _FOLDER not in os.environ:
            ProcessCollector(registry=registry)

        def gauge(name: str, words: str, mode: Literal["livesum", "livemostrecent"] = "livemostrecent") -> Gauge:
            return Gauge(f"macl_{name}", words, registry=registry, multiprocess_mode=mode)

        stage = Histogram(
            "macl_stage_seconds", "Seconds of a search or upsert by stage.", ["stage"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.stages = {name: stage.labels(name) for name in ("decode", "encode", "search")}
        self.total = stage.labels("total")
        requests = Counter("macl_requests", "Requests answered.", ["method", "route", "status"], registry=registry)
        self.requests = cache(requests.labels)  # there are few: of each method, route and status
        self.in_flight = gauge("requests_in_flight", "Requests that are being answered.", "livesum")
        self._batch = Histogram(
            "macl_encoder_batch_size", "Pictures embedded together.", buckets=_SIZES, registry=registry
        )
        self._encoder = Histogram(
            "macl_encoder_batch_seconds", "Seconds of such a batch.", buckets=_SECONDS, registry=registry
        )
        self._items = gauge("index_items", "Items in the index.")
        self._changes = gauge("index_changes", "Items written since its version was published.")
        self._index_version = gauge("index_version", "Version of the index.")
        self._model_version = gauge("model_version", "Version of the encoder.")
        self._recall = gauge("live_recall_at_10", "Recall@10 of recent queries against exact search; NaN before any.")
        self._recall.set(float("nan"))
        self._checked = Counter("macl_live_recall_queries", "Queries that were checked for it.", registry=registry)
        self.failures = Counter("macl_background_failures", "Looks for new versions that failed.", registry=registry)

    def observe_batch(self, size: int, seconds: float) -> None:
        """A batch went through the encoder."""
        self._batch.observe(size)
        self._encoder.observe(seconds)

    def observe_recall(self, recall: float, checked: int) -> None:
        """So many queries more were checked against exact search, and this is the figure now."""
        self._recall.set(recall)
        self._checked.inc(checked)

    def show(self, items: int, changes: int, *, index_version: int, model_version: int) -> None:
        """What is being served."""
        self._items.set(items)
        self._changes.set(changes)
        self._index_version.set(index_version)
        self._model_version.set(model_version)

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        registry = self._registry
        if folder := os.environ.get(_FOLDER):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, folder)
        return generate_latest(registry)
