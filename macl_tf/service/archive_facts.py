"""What there is to know before searching: versions, figures, labels with their counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from macl_tf.labels import LabelStatistics
from macl_tf.service.engine import Engine, State
from macl_tf.service.limits import Limits

_FIGURES = ("sha256", "dim", "image_size", "descriptor", "dataset", "figures")


def info(engine: Engine, limits: Limits, writable: bool) -> dict[str, Any]:
    """Everything that /info tells."""
    state = engine.newest
    facts, snapshot = state.encoder.info, state.snapshot
    return {
        "model": {"version": state.encoder.version, **{name: facts[name] for name in _FIGURES}},
        "index": {
            "version": state.index_version,
            "count": len(snapshot),
            "kind": snapshot.stored.info["kind"],
            "recall": snapshot.stored.info["recall"],
        },
        "versions": engine.searchable(),
        "labels": len(snapshot.stored.items.label_names),
        "has_places": has_places(state),
        "writable": writable,
        "limits": {
            "bytes": limits.bytes,
            "pixels": limits.pixels,
            "k": limits.k,
            "batch": limits.batch,
            "formats": list(limits.formats),
        },
    }


def labels(state: State) -> dict[str, Any]:
    """All labels with the number of tiles that hold each; rare is the third with the fewest, as in the figures."""
    snapshot = state.snapshot
    names = snapshot.stored.items.label_names
    held = np.concatenate([snapshot.stored.items.labels[snapshot.alive], snapshot.added.labels[snapshot.added_alive]])
    statistics = LabelStatistics.from_labels(held, names)
    rare = set(statistics.rarest().tolist()) if len(held) else set()
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
