"""The report of a comparison: means, paired differences with intervals, labels, curves; Markdown and PNG.

    python -m benchmarks.compare_report [--results benchmarks/results/compare] [--reference macl-weighted] [--out docs]

Intervals are paired percentile bootstraps over test queries and seeds together: in each of the resamples, the same
queries and seeds are drawn for both sides of a difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.judging import unpacked, unpacked_labels
from macl_tf.files import read_json, write_text

Floats = NDArray[np.float64]
RESAMPLES = 4000
FIGURES = {"ndcg": "NDCG@100, Jaccard gain", "rarest": "mAP, rarest third", "jaccard50": "mAP, Jaccard >= 0.5"}


@dataclass(frozen=True)
class Variant:
    """The runs of one way to train, by the descriptor that validation chose.

    Args:
        name: "macl-weighted".
        seeds: S of them, ascending.
        descriptor: What is compared.
        ndcg: (S, Q), NaN where undefined.
        jaccard50: (S, Q).
        label_ap: (S, Q, C), NaN where a query does not hold the label.
        rarest: Columns of the rarest third of labels.
        runs: The JSON of each run.
    """

    name: str
    seeds: tuple[int, ...]
    descriptor: str
    ndcg: Floats
    jaccard50: Floats
    label_ap: Floats
    rarest: list[int]
    runs: list[dict[str, Any]]


def read(folder: Path) -> dict[str, Variant]:
    """All variants of a folder of results."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*-seed*.json")):
        run = read_json(path)
        found.setdefault(run["variant"], []).append(run)
    return {name: variant(name, sorted(runs, key=lambda run: run["seed"])) for name, runs in found.items()}


def variant(name: str, runs: list[dict[str, Any]], descriptor: str | None = None) -> Variant:
    """Its runs as arrays; the descriptor with the best mean validation NDCG unless one is named."""
    known = list(runs[0]["results"])
    on_validation = {d: np.mean([run["results"][d]["validation"]["ndcg@100_jaccard"] for run in runs]) for d in known}
    descriptor = descriptor or max(known, key=lambda d: on_validation[d])
    tests = [run["results"][descriptor]["test"]["per_query"] for run in runs]
    ndcg = np.array([unpacked(test["ndcg"]) for test in tests])
    labels = len(runs[0]["labels"])
    return Variant(
        name,
        tuple(run["seed"] for run in runs),
        descriptor,
        ndcg,
        np.array([unpacked(test["jaccard50"]) for test in tests]),
        np.array([unpacked_labels(test["label_ap"], ndcg.shape[1], labels) for test in tests]),
        runs[0]["rarest"],
        runs,
    )


def weighted_mean(values: Floats, by_seed: Floats, by_query: Floats) -> Floats:
    """Mean over seeds and queries (R,) of values (S, Q) under weights (R, S) and (R, Q); NaN values are left out."""
    defined = ~np.isnan(values)
    total = np.einsum("rs,sq,rq->r", by_seed, np.where(defined, values, 0.0), by_query, optimize=True)
    return total / np.maximum(np.einsum("rs,sq,rq->r", by_seed, defined, by_query, optimize=True), 1e-12)


def figure(found: Variant, key: str, by_seed: Floats, by_query: Floats) -> Floats:
    """A figure of a variant (R,) under weights of seeds (R, S) and queries (R, Q)."""
    if key != "rarest":
        return weighted_mean(getattr(found, key), by_seed, by_query)
    labels = [weighted_mean(found.label_ap[:, :, c], by_seed, by_query) for c in found.rarest]
    return np.mean(labels, axis=0)


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


def table(variants: Mapping[str, Variant], reference: str) -> str:
    """A line for each variant, best NDCG first: figures over seeds, and the reference's lead over it."""
    order = sorted(variants.values(), key=lambda found: -by_seed(found, "ndcg").mean())
    titles = list(FIGURES.values())
    lines = [
        "| training | searched by | seeds | " + " | ".join(titles) + " | "
        + " | ".join(f"{reference} leads in {title}" for title in titles[:2]) + " |",
        "|---|---|---:|" + "---:|" * (len(titles) + 2),
    ]  # fmt: skip
    for found in order:
        cells = []
        for key in FIGURES:
            values = by_seed(found, key)
            cells.append(f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""))
        for key in ("ndcg", "rarest"):
            if found.name == reference:
                cells.append("")
                continue
            mean, low, high = difference(variants[reference], found, key)
            cells.append(f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        lines.append(f"| {found.name} | {found.descriptor} | {len(found.seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def floors(folder: Path, variants: Mapping[str, Variant]) -> str:
    """The untrained encoder and colour histograms, by the same figures."""
    lines = ["| floor | NDCG@100, Jaccard gain | mAP, rarest third | mAP, Jaccard >= 0.5 |", "|---|---:|---:|---:|"]
    rows = {}
    if (folder / "histogram.json").is_file():
        rows["colour histogram"] = read_json(folder / "histogram.json")["test"]
    untrained = [run["untrained"]["backbone"] for found in variants.values() for run in found.runs]
    unique = list({run["ndcg@100_jaccard"]: run for run in untrained}.values())
    keys = ("ndcg@100_jaccard", "map_rarest_third", "map_jaccard50")
    rows["untrained encoder, backbone"] = {key: float(np.mean([run[key] for run in unique])) for key in keys}
    for name, values in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{values[key]:.3f}" for key in keys) + " |")
    return "\n".join(lines)


def label_table(variants: Mapping[str, Variant], names: list[str]) -> str:
    """Mean AP of each label, rarest first, of some variants."""
    first = variants[names[0]].runs[0]
    order = np.argsort(first["train_counts"], kind="stable")
    lines = ["| label | training tiles | " + " | ".join(names) + " |", "|---|---:|" + "---:|" * len(names)]
    for c in order:
        cells = [f"{np.nanmean(variants[name].label_ap[:, :, c]):.3f}" for name in names]
        rare = " (rare)" if c in first["rarest"] else ""
        lines.append(f"| {first['labels'][c]}{rare} | {first['train_counts'][c]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(variants: Mapping[str, Variant], path: Path) -> None:
    """Two panels: NDCG against the rarest third, and validation by epoch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    order = sorted(variants.values(), key=lambda found: -by_seed(found, "ndcg").mean())
    for number, found in enumerate(order):
        colour = pyplot.get_cmap("tab20")(number % 20)
        x, y = by_seed(found, "rarest"), by_seed(found, "ndcg")
        left.scatter(x, y, s=14, color=colour, alpha=0.6)
        left.scatter(x.mean(), y.mean(), s=70, color=colour, edgecolor="black", label=found.name, zorder=3)
        curve = np.mean([[float(value) for value in run["history"].split()] for run in found.runs], axis=0)
        right.plot(np.arange(1, len(curve) + 1), curve, color=colour, lw=1.5)
    left.set(xlabel=FIGURES["rarest"], ylabel=FIGURES["ndcg"], title="Test tiles; large: mean over seeds")
    right.set(xlabel="epoch", ylabel=FIGURES["ndcg"], title="Validation tiles, by the projection")
    picture.legend(loc="outside lower center", ncols=4, fontsize=8)
    picture.savefig(path, dpi=110)
    pyplot.close(picture)


def main() -> None:
    """Prints the tables and, with --out, writes results.md and compare.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "compare")
    parser.add_argument("--reference", default="macl-weighted", help="variant whose lead is tabled")
    parser.add_argument("--labels", nargs="*", default=[], help="variants of the table by label")
    parser.add_argument("--out", type=Path, help="folder for compare.md and compare.png")
    options = parser.parse_args()
    variants = read(options.results)
    if options.reference not in variants:
        parser.error(f"--reference must be one of {', '.join(variants)}, got {options.reference}.")
    parts = [table(variants, options.reference), floors(options.results, variants)]
    parts += [label_table(variants, options.labels)] if options.labels else []
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.out:
        write_text(options.out / "compare.md", text)
        draw(variants, options.out / "compare.png")


if __name__ == "__main__":
    main()
