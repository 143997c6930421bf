"""What there is to know before searching: versions, figures, labels with their counts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.labels import LabelStatistics
from macl_tf.server.base_map import BaseMap
from macl_tf.server.engine import Engine, State
from macl_tf.server.limits import Limits

_FIGURES = ("sha256", "dim", "image_size", "descriptor", "dataset", "figures")


def info(engine: Engine, limits: Limits, writable: bool, base_map: BaseMap | None = None) -> dict[str, Any]:
    """Everything that /info tells."""
    state = engine.newest
    facts, snapshot = state.encoder.info, state.snapshot
    return {
        "model": {"version": state.encoder.version, **{name: facts[name] for name in _FIGURES}},
        "index": {
            "version": state.index_version,
            "count": len(snapshot),
            "archive": _archive(snapshot.stored.info),
            "kind": snapshot.stored.info["kind"],
            "recall": snapshot.stored.info["recall"],
        },
        "versions": engine.searchable(),
        "labels": int(np.count_nonzero(_held(state).any(axis=0))),
        "has_places": has_places(state),
        "writable": writable,
        "base_map": None if base_map is None else asdict(base_map),
        "limits": {
            "bytes": limits.bytes,
            "pixels": limits.pixels,
            "k": limits.k,
            "batch": limits.batch,
            "formats": list(limits.formats),
        },
    }


def labels(state: State) -> dict[str, Any]:
    """All labels that a tile may hold with the number of tiles that do.

    Rare is the third with the fewest, as in the figures.
    """
    names = state.snapshot.stored.items.label_names
    held = _held(state)
    rare = set(LabelStatistics.from_labels(held, names).rarest().tolist()) if held.size else set()
    counts = [
        {"name": name, "count": int(count), "rare": place in rare}
        for place, (name, count) in enumerate(zip(names, held.sum(axis=0, dtype=np.int64), strict=True))
    ]
    return {**state.versions, "labels": counts, "total": len(held)}


def has_places(state: State) -> bool:
    """Whether any tile has a footprint."""
    snapshot = state.snapshot
    parts = [(snapshot.stored.items.footprints, snapshot.alive), (snapshot.added.footprints, snapshot.added_alive)]
    return any(bool((~np.isnan(footprints[:, 0, 0]) & alive).any()) for footprints, alive in parts)


def _held(state: State) -> NDArray[np.uint8]:
    """(N, C) multi-hot labels of the living tiles."""
    snapshot = state.snapshot
    return np.concatenate([snapshot.stored.items.labels[snapshot.alive], snapshot.added.labels[snapshot.added_alive]])


def _archive(info: dict[str, Any]) -> dict[str, Any] | None:
    """What the index was built from, which need not be what its encoder was trained on; None where it is not known."""
    archive = info.get("archive")
    return {"name": archive["name"], "tiles": archive["tiles"]} if archive else None
