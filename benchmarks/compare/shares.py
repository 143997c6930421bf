"""Figures by the share of tiles that are labelled: table, leads of the first loss, curves.

What is rare is so in the whole archive, whichever tiles were drawn. Each loss goes by its default descriptor: few
validation tiles choose none well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.figures import FIGURES, Variant, by_seed, difference, variant
from benchmarks.tables import markdown, number

WHOLE = "100%"


def split(name: str) -> tuple[str, str]:
    """Loss and share of a run's name: "macl 5%", "macl" where all tiles are labelled."""
    loss, _, share = name.rpartition(" ")
    return (loss, share) if share.endswith("%") else (name, WHOLE)


def by_share(variants: Mapping[str, Variant]) -> dict[str, dict[str, Any]]:
    """Of each loss its descriptor, and by share the figures of each seed and MACL's lead with its interval."""
    runs = [run for found in variants.values() for run in found.runs]
    whole = next((run["rarest"] for run in runs if split(run["name"])[1] == WHOLE), None)
    if whole is None:
        raise ValueError("labelled must hold 1, so that it is known which labels of the archive are rare.")
    same = {}
    for name, found in variants.items():
        results = found.runs[0]["results"]
        asked = "backbone+probabilities" if split(name)[0] == "bce" else "robust"
        by = asked if asked in results else next(iter(results))
        same[split(name)] = variant(name, [{**run, "rarest": whole} for run in found.runs], by)
    losses = list(dict.fromkeys(loss for loss, _ in same))
    shares = sorted({share for _, share in same}, key=lambda share: float(share[:-1]))
    told: dict[str, dict[str, Any]] = {}
    first = "macl" if "macl" in losses else losses[0]
    for loss in sorted(losses, key=lambda loss: loss != first):
        told[loss] = {"descriptor": same[loss, shares[0]].descriptor, "shares": {}}
        for share in shares:
            found, reference = same[loss, share], same[first, share]
            told[loss]["shares"][share] = {
                **{key: by_seed(found, key).tolist() for key in FIGURES},
                "lead": {} if loss == first else {key: difference(reference, found, key) for key in FIGURES},
            }
    return told


def tables(told: Mapping[str, Mapping[str, Any]], floors: Mapping[str, Sequence[float]]) -> str:
    """The figures' means by share, those without training, and what the first loss leads by."""
    first, shares = next(iter(told)), list(next(iter(told.values()))["shares"])
    titles = list(FIGURES.values())
    lines, leads = [], []
    for loss, found in told.items():
        of = [found["shares"][share] for share in shares]
        means = ["/".join(number(float(np.mean(one[key]))) for key in FIGURES) for one in of]
        lines.append([loss, found["descriptor"], *means])
        if loss != first:
            leads.append([loss, *("; ".join(lead(one["lead"][key]) for key in (*FIGURES,)[::2]) for one in of)])
    for name, figures in floors.items():
        if "elsewhere" not in name:
            lines.append([name, "no label", *["/".join(map(number, figures))] * len(shares)])
    columns = [f"{share} of the labels" for share in shares]
    return "\n\n".join(
        [
            markdown(["/".join(titles), "descriptor", *columns], lines, "l" * (2 + len(columns))),
            markdown(
                [f"{first} leads in {titles[0]}; in {titles[2]}, points", *columns], leads, "l" * (1 + len(columns))
            ),
        ]
    )


def lead(found: Sequence[float]) -> str:
    """A lead and its interval, in points."""
    return "{} [{}, {}]".format(*(number(100 * value, "+.1f") for value in found))


def draw(told: Mapping[str, Mapping[str, Any]], floor: Sequence[float], path: Path) -> None:
    """A panel for each figure: means over seeds by share of labelled tiles, and the figure without training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, panels = pyplot.subplots(1, len(FIGURES), figsize=(14, 5), layout="constrained")
    alone = [loss for loss in told if "+" not in loss]
    for panel, (key, title), untrained in zip(panels, FIGURES.items(), floor, strict=True):
        for place, loss in enumerate(alone):
            shares = told[loss]["shares"]
            values = np.array([np.mean(one[key]) for one in shares.values()])
            x = [float(share[:-1]) for share in shares]
            thick, colour = (3, "black") if place == 0 else (1.5, pyplot.get_cmap("tab10")((place - 1) % 10))
            style = {"marker": "o"} if place <= 10 else {"marker": "s", "ls": ":"}  # of the same ten colours
            panel.plot(x, values, **style, ms=4, lw=thick, color=colour, label=loss)
        panel.axhline(untrained, color="grey", ls="--", label="frozen features, no label")
        panel.set(xscale="log", xlabel="labelled share of the training tiles, %", title=f"{title}, test tiles")
        panel.set_xticks(x, [f"{share:g}" for share in x])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=5)
    picture.savefig(path, dpi=110)
    pyplot.close(picture)
