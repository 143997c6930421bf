"""The report of an experiment: means, paired differences with intervals, labels, curves; Markdown, JSON and PNG.

    python -m benchmarks.compare.report EXPERIMENT

The experiment's `report.tables` says who is compared with whom: `["macl", "jaccard", "bce"]` lists jaccard and bce with
their difference to macl; `["macl"]` lists all runs. An experiment that leaves the test tiles alone gets a table of all
its runs on validation tiles. The figures go into a JSON file beside the results, from which the documents' tables are
made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import experiment, heads, results_file, scenes, shares
from benchmarks.compare.encoders import best_trial
from benchmarks.compare.evaluate_run import LEADING, best_descriptor
from benchmarks.compare.figures import FIGURES, Floats, Variant, by_seed, difference, variant, variants_of
from benchmarks.compare.results_file import FLOOR, RUN, TRIALS, Row
from benchmarks.environment import made_by
from benchmarks.tables import markdown, mean_and_spread, number
from macl_tf.files import read_json, write_json

ROOT = Path(__file__).parent.parent.parent


def summary(
    results: Sequence[Row], variants: Mapping[str, Variant], wanted: Sequence[Sequence[str]], labels: Sequence[str] = ()
) -> dict[str, Any]:
    """All that the tables say: leads of each reference over others, floors, labels, trials.

    Raises:
        ValueError: If a run is asked for that is not among the results.
    """
    if absent := {*labels, *(name for names in wanted for name in names)} - set(variants):
        raise ValueError(f"there are no results of {', '.join(sorted(absent))}; there are of {', '.join(variants)}.")
    tabled = dict.fromkeys(name for one, *others in wanted for name in (one, *(others or variants)))
    return {
        "tables": [
            {"reference": one, "rows": rows(variants, one, others or list(variants))} for one, *others in wanted
        ],
        "descriptors": by_descriptor([variants[name] for name in tabled]),
        "floors": floors(results, variants),
        "elsewhere": heads.elsewhere_rows([run for name in tabled for run in variants[name].runs]),
        "labels": by_label(variants, labels) if labels else [],
        "label_columns": list(labels),
        "trials": dict(sorted((row["name"], row["trials"]) for row in results if row["kind"] == TRIALS)),
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


def by_descriptor(variants: Sequence[Variant]) -> dict[str, dict[str, list[float]]]:
    """Figures on test tiles of each variant by each descriptor that all its runs have, not only by the chosen one."""
    found: dict[str, dict[str, list[float]]] = {}
    for one in variants:
        names = [name for name in one.runs[0]["results"] if all(name in run["results"] for run in one.runs)]
        by = {name: variant(one.name, one.runs, name) for name in names}
        found[one.name] = {name: [float(by_seed(by[name], key).mean()) for key in FIGURES] for name in names}
    return found


def floors(results: Sequence[Row], variants: Mapping[str, Variant]) -> dict[str, list[float]]:
    """Figures of the untrained encoder and of colour histograms, of heads those of frozen features."""
    known = [row for row in results if row["kind"] == FLOOR]
    features = {row["name"]: row["figures"] for row in known if "figures" in row}
    untrained = [run["untrained"]["backbone"] for one in variants.values() for run in one.runs if "untrained" in run]
    if not untrained:
        return features
    unique = list({run["ndcg@100_jaccard"]: run for run in untrained}.values())
    found = {"untrained encoder, backbone": [float(np.mean([run[key] for run in unique])) for key in LEADING]}
    if histograms := [row["results"]["histogram"]["test"] for row in known if "results" in row]:
        found["colour histogram"] = [float(np.mean([one[key] for one in histograms])) for key in LEADING]
    return found | features


def on_validation(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Validation figures in points, best NDCG first, and what the first run of the list leads each by.

    A lead has half of its 95 % interval by Student's t over the seeds that both have; none for a single seed.
    """
    from scipy.stats import t

    grouped: dict[str, dict[int, Any]] = {}
    for run in runs:
        grouped.setdefault(run["name"], {})[run["seed"]] = run["results"]
    best = {name: best_descriptor(list(found.values())) for name, found in grouped.items()}
    reference = runs[0]["name"]

    def figures(name: str, seeds: Sequence[int]) -> Floats:
        """(figures, seeds), NaN where undefined."""
        found = [grouped[name][seed][best[name]]["validation"] for seed in seeds]
        return np.array([[100 * (np.nan if one[key] is None else one[key]) for one in found] for key in LEADING])

    found = []
    for name, own in grouped.items():
        row: dict[str, Any] = {"name": name, "descriptor": best[name], "seeds": len(own), "lead": {}}
        row |= dict(zip(LEADING, figures(name, list(own)).mean(axis=1).round(3).tolist(), strict=True))
        common = [seed for seed in own if seed in grouped[reference]]
        if name != reference and common:
            lead = figures(reference, common) - figures(name, common)
            spread = lead.std(axis=1, ddof=1) if len(common) > 1 else np.full(len(lead), np.nan)
            half = t.ppf(0.975, max(len(common) - 1, 1)) * spread / np.sqrt(len(common))
            leads = np.stack([lead.mean(axis=1), half], axis=1).round(3).tolist()
            row["lead"] = dict(zip(LEADING, leads, strict=True))
        found.append(row)
    return sorted(found, key=lambda row: -row["ndcg@100_jaccard"])


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


PARTS = ("leads", "floors", "descriptors", "elsewhere", "labels", "trials", "shares")


def tables(summary: dict[str, Any], wanted: Sequence[str] = ()) -> str:
    """What a reference leads by, the floors, all descriptors, labels and trials, as Markdown.

    Of an experiment without tests or with one label a tile, its own tables.

    Args:
        summary: A comparison's.
        wanted: Of `PARTS`. None for all.
    """
    if "tables" not in summary:
        return of_validation(summary["rows"]) if "rows" in summary else scenes.tables(summary)
    titles = list(FIGURES.values())
    floors = [[name, *map(number, values)] for name, values in summary["floors"].items()]
    elsewhere = summary.get("elsewhere")
    found = {
        "leads": [of_reference(table) for table in summary["tables"]],
        "floors": [markdown(["without training", *titles], floors)],
        "descriptors": [of_descriptors(summary["descriptors"])],
        "elsewhere": [of_descriptors(elsewhere, ", elsewhere")] if elsewhere else [],
        "labels": of_labels(summary),
        "trials": of_trials(summary["trials"]),
        "shares": [shares.tables(summary["shares"], summary["floors"])] if "shares" in summary else [],
    }
    return "\n\n".join(table for part in wanted or PARTS for table in found[part])


def of_validation(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each run of an experiment that leaves the test tiles alone."""
    reference = next(row["name"] for row in rows if not row["lead"])
    lines = []
    for row in rows:
        name = f"**{row['name']}**" if row["name"] == reference else row["name"]
        own = [number(row[key] and row[key] / 100) for key in LEADING]
        leads = [row["lead"].get(key) for key in LEADING]
        by = [f"{number(lead[0], '+.1f')} ± {number(lead[1], '.1f')}" if lead else "" for lead in leads]
        lines.append([name, row["descriptor"], row["seeds"], *own, *by])
    titles = list(FIGURES.values())
    leading = [f"{reference} leads in {title}, points" for title in titles]
    return markdown(["run", "descriptor", "seeds", *titles, *leading], lines, "ll")


def of_reference(table: dict[str, Any]) -> str:
    """One reference and what it leads the others by."""
    titles, reference, lines = list(FIGURES.values()), table["reference"], []
    for row in table["rows"]:
        name = f"**{row['name']}**" if row["name"] == reference else row["name"]
        leads = [[number(one, "+.1f") for one in 100 * np.array(row["lead"].get(key, []), float)] for key in FIGURES]
        by = ["{} [{}, {}]".format(*lead) if lead else "" for lead in leads]
        figures = [mean_and_spread(row[key]) for key in FIGURES]
        lines.append([name, row["descriptor"], len(row["seeds"]), *figures, *by])
    leading = [f"{reference} leads in {title}, points" for title in titles]
    return markdown(["run", "descriptor", "seeds", *titles, *leading], lines, "ll")


def of_descriptors(descriptors: dict[str, dict[str, list[float]]], where: str = "") -> str:
    """Each variant by each descriptor."""
    columns = list(dict.fromkeys(name for found in descriptors.values() for name in found))
    lines = [
        [name, *("/".join(map(number, found.get(column, []))) for column in columns)]
        for name, found in descriptors.items()
    ]
    return markdown([f"{'/'.join(FIGURES.values())}{where}, by", *columns], lines, "l" * (1 + len(columns)))


def of_labels(summary: dict[str, Any]) -> list[str]:
    """The table of each label; none if no labels were asked for."""
    lines = [
        [f"{one['name']}{' (rare)' if one['rare'] else ''}", one["tiles"], *map(number, one["ap"])]
        for one in summary["labels"]
    ]
    return [markdown(["AP by label", "training tiles", *summary["label_columns"]], lines)] if lines else []


def of_trials(trials: dict[str, dict[str, dict[str, list[float]]]]) -> list[str]:
    """The table of what was tried for each loss; none if nothing was tried."""
    lines = []
    for loss, tried in trials.items():
        chosen, _ = best_trial(tried)
        said = []
        for text, figures in tried.items():
            _, by = best_trial({text: figures})
            one = f"{text}: {'/'.join(map(number, figures[by]))} {by}"
            said.append(f"**{one}**" if text == chosen else one)
        lines.append([loss, ", ".join(said)])
    head = f"trials, on validation tiles: {'/'.join(FIGURES.values())}, and descriptor"
    return [markdown(["loss", head], lines, "ll")] if lines else []


def draw(variants: Mapping[str, Variant], path: Path) -> None:
    """Two panels: NDCG against the rarest third, and validation by epoch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    order = sorted(variants.values(), key=lambda found: -by_seed(found, "ndcg").mean())
    for place, found in enumerate(order):
        colour, joint, again = pyplot.get_cmap("tab20")(place % 20), "+" in found.name, place >= 20
        x, y = by_seed(found, "rarest"), by_seed(found, "ndcg")
        shape = ("v" if again else "^") if joint else ("s" if again else "o")  # beside classification, or alone
        left.scatter(x, y, s=14, marker=shape, color=colour, alpha=0.6)
        left.scatter(
            x.mean(), y.mean(), s=70, marker=shape, color=colour, edgecolor="black", label=found.name, zorder=3
        )
        curve = np.mean([[float(value) for value in run["history"].split()] for run in found.runs], axis=0)
        right.plot(
            np.arange(1, len(curve) + 1), curve, color=colour, lw=1.5, ls="--" if joint else ":" if again else "-"
        )
    left.set(xlabel=FIGURES["rarest"], ylabel=FIGURES["ndcg"], title="Test tiles; large: mean over seeds")
    right.set(xlabel="epoch", ylabel=FIGURES["ndcg"], title="Validation tiles, by the run's descriptor")
    picture.legend(loc="outside lower center", ncols=4, fontsize=8)
    picture.savefig(path, dpi=110)
    pyplot.close(picture)


def defined(found: Any) -> Any:
    """The same with None in place of NaN, which JSON does not have."""
    if isinstance(found, dict):
        return {key: defined(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [defined(value) for value in found]
    return None if isinstance(found, float) and np.isnan(found) else found


def main() -> None:
    """Prints the tables, writes them as JSON and draws them."""
    parser = experiment.parser("benchmarks.compare.report", __doc__)
    options, asked = experiment.parsed(parser)
    if asked.train == "scenes":  # whose figures need no further computing
        print(tables(read_json(asked.summary_file(options.out))))
        return
    results = results_file.read(options.out)
    if not results:
        parser.error(f"there is no '{options.out}': python -m benchmarks.compare {asked.name} makes it.")
    variants = variants_of(results)
    try:
        if asked.test:
            default = [[next(iter(asked.runs()))]]
            found = summary(results, variants, asked.report.get("tables", default), asked.report.get("labels", ()))
            if asked.labelled:
                found["shares"] = shares.by_share(variants)
            runs = [run for one in variants.values() for run in one.runs]
        else:
            place = {(row["name"], row["seed"]): row for row in results if row["kind"] == RUN}
            turns = [(name, seed) for seed in asked.seeds for name in asked.runs()]
            if absent := [f"{name}, seed {seed}" for name, seed in turns if (name, seed) not in place]:
                raise ValueError(f"there are no results of {'; '.join(absent)} in '{options.out}'.")
            runs = [place[turn] for turn in turns]
            found = {"rows": on_validation(runs)}
    except ValueError as error:
        parser.error(str(error))
    made = {key: sorted({str(run.get(key)) for run in runs}) for key in ("command", "versions")}
    told = {**made_by("benchmarks.compare.report", []), "made_from": made, **defined(found)}
    write_json(asked.summary_file(options.out), told)
    print(tables(found))
    if (picture := asked.report.get("picture")) and asked.labelled:
        shares.draw(found["shares"], found["floors"]["frozen features"], ROOT / picture)
    elif picture:
        draw(variants, ROOT / picture)


if __name__ == "__main__":
    main()
