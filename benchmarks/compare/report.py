"""The report of a comparison: means, paired differences with intervals, labels, curves; Markdown and PNG.

    python -m benchmarks.compare.report --results FOLDER [--table macl-weighted:supcon-any-weighted,bce-weighted]
        [--table macl+bce20-weighted:bce-weighted] [--out FILE.json] [--png FILE.png]

A table holds the trainings named after the colon, and what the one before it leads them by; all of the folder, where
none is named.

Intervals are paired percentile bootstraps over test queries and seeds together: in each of the resamples, the same
queries and seeds are drawn for both sides of a difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.encoders import best_trial
from benchmarks.compare.evaluate_run import LEADING, leading_value, unpacked, unpacked_labels
from benchmarks.environment import circumstances
from macl_tf.files import read_json, write_json

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
        rare: (S, C), which labels are the rarest third; drawn archives, one a seed, may differ in it.
        runs: The JSON of each run.
    """

    name: str
    seeds: tuple[int, ...]
    descriptor: str
    ndcg: Floats
    jaccard50: Floats
    label_ap: Floats
    rare: NDArray[np.bool_]
    runs: list[dict[str, Any]]


def read(folder: Path) -> dict[str, Variant]:
    """All variants of a folder of results, without runs that left the test tiles alone."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*-seed*.json")):
        run = read_json(path)
        if all("test" in parts for parts in run["results"].values()):
            found.setdefault(run["variant"], []).append(run)
    return {name: variant(name, sorted(runs, key=lambda run: run["seed"])) for name, runs in found.items()}


def variant(name: str, runs: list[dict[str, Any]], descriptor: str | None = None) -> Variant:
    """Its runs as arrays, by a descriptor: the one named, that of the trials, or the best on validation tiles."""
    known = descriptors_of(runs)
    on_validation = {d: np.mean([leading_value(run["results"][d]) for run in runs]) for d in known}
    descriptor = descriptor or runs[0].get("searched_by") or max(known, key=lambda d: on_validation[d])
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
        np.array([np.isin(np.arange(labels), run["rarest"]) for run in runs]),
        runs,
    )


def descriptors_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What all runs were searched by."""
    return [name for name in runs[0]["results"] if all(name in run["results"] for run in runs)]


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
    return np.nanmean(labels, axis=0)


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


def summary(
    variants: Mapping[str, Variant], wanted: Sequence[tuple[str, Sequence[str]]], labels: Sequence[str], folder: Path
) -> dict[str, Any]:
    """All that the tables say: leads of each reference over others, floors, labels, trials."""
    trials = {path.stem: read_json(path)["trials"] for path in sorted((folder / "tuning").glob("*.json"))}
    return {
        "tables": [{"reference": one, "rows": rows(variants, one, others or list(variants))} for one, others in wanted],
        "descriptors": by_descriptor([variants[name] for name in tabled(wanted, variants)]),
        "floors": floors(folder, variants),
        "labels": by_label(variants, labels) if labels else [],
        "label_columns": list(labels),
        "trials": trials,
    }


def rows(variants: Mapping[str, Variant], reference: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """A reference and others, best NDCG first: figures of each seed, and the reference's lead."""
    order = sorted((variants[name] for name in {reference, *names}), key=lambda found: -by_seed(found, "ndcg").mean())
    found_rows = []
    for found in order:
        figures = {key: by_seed(found, key).tolist() for key in FIGURES}
        other = found.name != reference
        lead = {key: difference(variants[reference], found, key) for key in FIGURES} if other else {}
        found_rows.append(
            {"name": found.name, "descriptor": found.descriptor, "seeds": found.seeds} | figures | {"lead": lead}
        )
    return found_rows


def tabled(wanted: Sequence[tuple[str, Sequence[str]]], variants: Mapping[str, Variant]) -> list[str]:
    """The names in all tables, each once, in the order in which they are asked for."""
    return list(dict.fromkeys(name for one, others in wanted for name in (one, *(others or variants))))


def by_descriptor(variants: Sequence[Variant]) -> dict[str, dict[str, list[float]]]:
    """Figures on test tiles of each training by each descriptor, not only by the chosen one."""
    found: dict[str, dict[str, list[float]]] = {}
    for one in variants:
        searched = {name: variant(one.name, one.runs, name) for name in descriptors_of(one.runs)}
        found[one.name] = {
            name: [float(by_seed(other, key).mean()) for key in FIGURES] for name, other in searched.items()
        }
    return found


def floors(folder: Path, variants: Mapping[str, Variant]) -> dict[str, list[float]]:
    """Figures of the untrained encoder and of colour histograms, or of frozen features."""
    if (folder / "floors.json").is_file():
        known: dict[str, list[float]] = read_json(folder / "floors.json")
        return known
    untrained = [run["untrained"]["backbone"] for found in variants.values() for run in found.runs]
    unique = list({run["ndcg@100_jaccard"]: run for run in untrained}.values())
    found = {"untrained encoder, backbone": [float(np.mean([run[key] for run in unique])) for key in LEADING]}
    if histograms := [read_json(path)["test"] for path in sorted(folder.glob("histogram*.json"))]:
        found["colour histogram"] = [float(np.mean([one[key] for one in histograms])) for key in LEADING]
    return found


def by_label(variants: Mapping[str, Variant], names: Sequence[str]) -> list[dict[str, Any]]:
    """Mean AP of each label, rarest first, of some variants."""
    first = variants[names[0]].runs[0]
    return [
        {
            "name": first["labels"][c],
            "tiles": first["train_counts"][c],
            "rare": c in first["rarest"],
            "ap": [float(np.nanmean(variants[name].label_ap[:, :, c])) for name in names],
        }
        for c in np.argsort(first["train_counts"], kind="stable")
    ]


def tables(summary: dict[str, Any], *, short: bool = False) -> str:
    """A line for each training, the floors, all descriptors, the labels and the trials, as Markdown.

    If `short`, the first two.
    """
    lines: list[str] = []
    for table in summary["tables"]:
        lines += ["", *of_reference(table)]
    lines += ["", *of_floors(summary["floors"])]
    if not short:
        lines += [*of_descriptors(summary["descriptors"]), *of_labels(summary), *of_trials(summary["trials"])]
    return "\n".join(lines[1:])


def of_reference(table: dict[str, Any]) -> list[str]:
    """The lines of one reference and what it leads the others by."""
    titles, reference = list(FIGURES.values()), table["reference"]
    lines = [
        "| training | searched by | seeds | " + " | ".join(titles) + " | "
        + " | ".join(f"{reference} leads in {title}, points" for title in titles) + " |",
        "|---|---|---:|" + "---:|" * (2 * len(titles)),
    ]  # fmt: skip
    for row in table["rows"]:
        cells = []
        for key in FIGURES:
            values = np.array(row[key])
            cells.append(f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""))
        for key in FIGURES:
            mean, low, high = 100 * np.array(row["lead"].get(key, [0, 0, 0]))
            cells.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" if row["lead"] else "")
        name = f"**{row['name']}**" if row["name"] == reference else row["name"]
        lines.append(f"| {name} | {row['descriptor']} | {len(row['seeds'])} | " + " | ".join(cells) + " |")
    return lines


def of_floors(floors: dict[str, list[float]]) -> list[str]:
    """The lines of what needs no training."""
    lines = ["| without training | " + " | ".join(FIGURES.values()) + " |", "|---|" + "---:|" * len(FIGURES)]
    return [
        *lines,
        *(f"| {name} | " + " | ".join(f"{x:.3f}" for x in values) + " |" for name, values in floors.items()),
    ]


def of_descriptors(descriptors: dict[str, dict[str, list[float]]]) -> list[str]:
    """The lines of each training by each descriptor, after an empty one."""
    columns = list(dict.fromkeys(name for found in descriptors.values() for name in found))
    lines = ["", f"| {'/'.join(FIGURES.values())} by | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, found in descriptors.items():
        cells = ("/".join(f"{value:.3f}" for value in found.get(column, [])) for column in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def of_labels(summary: dict[str, Any]) -> list[str]:
    """The lines of each label, after an empty one; none if no labels were asked for."""
    if not summary["labels"]:
        return []
    columns = summary["label_columns"]
    lines = [
        "",
        "| AP by label | training tiles | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * (1 + len(columns)),
    ]
    for label in summary["labels"]:
        rare = " (rare)" if label["rare"] else ""
        values = " | ".join(f"{value:.3f}" for value in label["ap"])
        lines.append(f"| {label['name']}{rare} | {label['tiles']} | {values} |")
    return lines


def of_trials(trials: dict[str, dict[str, dict[str, list[float]]]]) -> list[str]:
    """The lines of what was tried for each loss, after an empty one; none if nothing was tried."""
    if not trials:
        return []
    lines = ["", f"| loss | trials, on validation tiles: {'/'.join(FIGURES.values())}, and searched by |", "|---|---|"]
    for loss, tried in trials.items():
        chosen, _ = best_trial(tried)
        said = []
        for text, figures in tried.items():
            _, by = best_trial({text: figures})
            one = f"{text}: {'/'.join(f'{value:.3f}' for value in figures[by])} {by}"
            said.append(f"**{one}**" if text == chosen else one)
        lines.append(f"| {loss} | {', '.join(said)} |")
    return lines


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
    right.set(xlabel="epoch", ylabel=FIGURES["ndcg"], title="Validation tiles, by what the run searches")
    picture.legend(loc="outside lower center", ncols=4, fontsize=8)
    picture.savefig(path, dpi=110)
    pyplot.close(picture)


def main() -> None:
    """Prints the tables and, with --out, writes them as JSON and draws them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, required=True, help="folder that benchmarks.compare.encoders wrote (--out)"
    )
    parser.add_argument(
        "--table", action="append", metavar="REFERENCE[:NAME,NAME]",
        help="trainings, and what the reference leads them by (macl-weighted: all)",
    )  # fmt: skip
    parser.add_argument("--labels", nargs="*", default=[], help="trainings of the table by label")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--png", type=Path, help="picture of figures and curves")
    options = parser.parse_args()
    wanted = [text.partition(":") for text in options.table or ["macl-weighted"]]
    asked = [(one, [name for name in names.split(",") if name]) for one, _, names in wanted]
    variants = read(options.results)
    if absent := {*options.labels, *(name for one, names in asked for name in (one, *names))} - set(variants):
        parser.error(f"'{options.results}' has no training {', '.join(sorted(absent))}; it has {', '.join(variants)}.")
    found = summary(variants, asked, options.labels, options.results)
    print(tables(found))
    if options.out:
        runs = [run for one in variants.values() for run in one.runs]
        made = {key: sorted({str(run.get(key)) for run in runs}) for key in ("command", "versions")}
        write_json(options.out, {**circumstances("benchmarks.compare.report", []), "made_from": made, **found})
    if options.png:
        draw(variants, options.png)


if __name__ == "__main__":
    main()
