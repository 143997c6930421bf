"""The figures of runs, and paired differences with intervals.

Intervals are paired percentile bootstraps over test queries and seeds together: in each of the resamples, the same
queries and seeds are drawn for both sides of a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.evaluate_run import best_descriptor, fractions, label_aps
from benchmarks.compare.results_file import RUN, Row

Floats = NDArray[np.float64]
RESAMPLES = 4000
FIGURES = {"ndcg": "NDCG@100, Jaccard gain", "rarest": "mAP, rarest third", "jaccard50": "mAP, Jaccard >= 0.5"}


@dataclass(frozen=True)
class Variant:
    """The runs of one way to train, by one descriptor.

    Args:
        name: "macl-weighted".
        seeds: S of them, ascending.
        descriptor: What is compared.
        ndcg: (S, Q), NaN where undefined.
        jaccard50: (S, Q).
        label_ap: (S, Q, C), NaN where a query does not hold the label.
        rare: (S, C), which labels are the rarest third; synthetic archives, one a seed, may differ in it.
        runs: The facts of each run.
    """

    name: str
    seeds: tuple[int, ...]
    descriptor: str
    ndcg: Floats
    jaccard50: Floats
    label_ap: Floats
    rare: NDArray[np.bool_]
    runs: list[dict[str, Any]]


def variants_of(results: Sequence[Row]) -> dict[str, Variant]:
    """All variants among results, without runs that left the test tiles alone."""
    found: dict[str, list[Row]] = {}
    for row in sorted(results, key=lambda row: row["name"]):
        if row["kind"] == RUN and all("test" in parts for parts in row["results"].values()):
            found.setdefault(row["name"], []).append(row)
    return {name: variant(name, sorted(runs, key=lambda run: run["seed"])) for name, runs in found.items()}


def variant(name: str, runs: list[dict[str, Any]], descriptor: str | None = None) -> Variant:
    """Its runs as arrays, by a descriptor: the one named, that of the trials, or the best on validation tiles."""
    descriptor = descriptor or runs[0].get("searched_by") or best_descriptor([run["results"] for run in runs])
    tests = [run["results"][descriptor]["test"]["per_query"] for run in runs]
    ndcg = np.array([fractions(test["ndcg"]) for test in tests])
    labels = len(runs[0]["labels"])
    return Variant(
        name,
        tuple(run["seed"] for run in runs),
        descriptor,
        ndcg,
        np.array([fractions(test["jaccard50"]) for test in tests]),
        np.array([label_aps(test, labels) for test in tests]),
        np.array([np.isin(np.arange(labels), run["rarest"]) for run in runs]),
        runs,
    )


def weighted_mean(values: Floats, by_seed: Floats, by_query: Floats) -> Floats:
    """Mean over seeds and queries (R,) of values (S, Q) under weights (R, S) and (R, Q); NaN values are left out.

    NaN where nothing is defined.
    """
    defined = ~np.isnan(values)
    total = np.einsum("rs,sq,rq->r", by_seed, np.where(defined, values, 0.0), by_query, optimize=True)
    weight = np.einsum("rs,sq,rq->r", by_seed, defined, by_query, optimize=True)
    return np.where(weight > 0, total, np.nan) / np.where(weight > 0, weight, 1.0)


def figure(found: Variant, key: str, by_seed: Floats, by_query: Floats) -> Floats:
    """A figure of a variant (R,) under weights of seeds (R, S) and queries (R, Q)."""
    if key != "rarest":
        return weighted_mean(getattr(found, key), by_seed, by_query)
    rare_ap = np.where(found.rare[:, None], found.label_ap, np.nan)
    labels = [weighted_mean(rare_ap[:, :, c], by_seed, by_query) for c in np.flatnonzero(found.rare.any(axis=0))]
    known = np.array(labels)
    count = (~np.isnan(known)).sum(axis=0)
    return np.where(count > 0, np.nansum(known, axis=0) / np.maximum(count, 1), np.nan)


def by_seed(found: Variant, key: str) -> Floats:
    """The figure of each seed (S,)."""
    return figure(found, key, np.eye(len(found.seeds)), np.ones((len(found.seeds), found.ndcg.shape[1])))


def difference(one: Variant, other: Variant, key: str, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of a figure, and its 95 % interval, over the seeds that both have."""
    common = [s for s in one.seeds if s in other.seeds]
    if not common:
        raise ValueError(f"{one.name} and {other.name} have no seed in common.")
    one, other = (variant(v.name, [r for r in v.runs if r["seed"] in common], v.descriptor) for v in (one, other))
    rng, queries = np.random.default_rng(seed), one.ndcg.shape[1]
    seeds = rng.multinomial(len(common), [1 / len(common)] * len(common), RESAMPLES).astype(float)
    drawn = rng.multinomial(queries, [1 / queries] * queries, RESAMPLES).astype(float)
    spread = figure(one, key, seeds, drawn) - figure(other, key, seeds, drawn)
    whole = np.ones((1, len(common))), np.ones((1, queries))
    mean = figure(one, key, *whole) - figure(other, key, *whole)
    low, high = np.percentile(spread, [2.5, 97.5])
    return float(mean[0]), float(low), float(high)
