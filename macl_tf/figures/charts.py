"""Charts of a run: training curves, label frequencies and per-label precision."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from macl_tf.figures.png import BLUE, GREEN, GREY, INK, ORANGE, PLAIN, PURPLE, RULE, STAR, blank_figure, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SERIES = ((GREY, "o"), (BLUE, "D"), (GREEN, "s"), (PURPLE, "^"))


def plot_history(
    history: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, monitor: str | None = None
) -> Path:
    """Draw the curves of a training run: loss, temperature, learning rate and every validation figure.

    `history` has values an epoch for each name, NaN or None where there is none. `monitor` is the "val_..." whose
    highest value marks the best epoch, the first one by default.
    """
    from matplotlib.ticker import MaxNLocator

    scores = [key for key in history if key.startswith("val_") and key != "val_loss"]
    keys = [key for key in ("loss", *scores, "temperature", "learning_rate") if len(history.get(key, ()))]
    if not keys:
        known = "'loss', 'temperature', 'learning_rate' or 'val_...'"
        raise ValueError(f"history must hold values of {known}, got keys {sorted(history)}.")
    if monitor is not None and monitor not in scores:
        raise ValueError(f"monitor must be one of {scores}, got {monitor!r}.")
    monitor = monitor or next((key for key in keys if key in scores), None)
    watched = np.asarray(history[monitor], float) if monitor else np.array([])
    watched = np.where(np.isfinite(watched), watched, -np.inf)
    best = int(watched.argmax()) + 1 if np.isfinite(watched).any() else 0  # from 1; 0 where nothing tells it

    columns = min(3 if len(keys) < 7 else 4, len(keys))
    rows = -(-len(keys) // columns)
    figure = blank_figure(3.7 * columns + 0.3, 2.5 * rows + 0.7)
    for place, key in enumerate(keys, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _curve(axes, history[key], BLUE if key in scores else INK, "training" if key == "loss" else None)
        if key == "loss" and len(history.get("val_loss", ())):
            _curve(axes, history["val_loss"], ORANGE, "validation")
            axes.legend(frameon=False, fontsize=8)
        _style(axes, _caption(key))
        axes.set_xlabel("epoch", fontsize=9, color=GREY)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        if key == "learning_rate":
            axes.yaxis.set_major_formatter("{x:g}")
        if best:
            axes.axvline(best, color=ORANGE, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        reached = np.asarray(history[key], float)[best - 1 : best]
        if best and key in scores and np.isfinite(reached).any():
            axes.plot([best], reached, "o", color=ORANGE, markersize=5)
            axes.set_title(f"{reached[0]:.3f}", loc="right", fontsize=10, color=ORANGE)
    title = "Training history"
    if best and monitor:
        title += f" \u2013 best epoch {best}, by {_caption(monitor).removeprefix('Validation ')}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, **PLAIN)
    return write_png(figure, path)


def plot_label_frequencies(
    label_names: Sequence[str],
    before: ArrayLike,
    after: ArrayLike,
    path: str | os.PathLike[str],
    *,
    rarest: Iterable[int] = (),
) -> Path:
    """Draw the share (C,) of images that hold each label, as the archive is and as training draws it."""
    percent = 100 * np.asarray(before, float)
    series = {"in the archive": percent, "as drawn for training": 100 * np.asarray(after, float)}
    title, unit = "Label frequencies before and after label-aware resampling", "share of images (%)"
    return _label_dots(label_names, percent, series, path, rarest, title=title, unit=unit)


def plot_per_label(
    label_names: Sequence[str],
    counts: ArrayLike,
    average_precision: Mapping[str, ArrayLike],
    path: str | os.PathLike[str],
    *,
    rarest: Iterable[int] = (),
) -> Path:
    """Draw the average precision of each label for one to four encoders, the most frequent label first.

    `average_precision` is (C,) for each encoder ("untrained", "trained"), NaN where no query holds the label, which is
    said beside it; `counts` (C,) are of the training set.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(label_names),):
        raise ValueError(f"counts must have shape ({len(label_names)},), one a label name, got {counts.shape}.")
    names = [f"{name}  ({count:,})" for name, count in zip(label_names, counts.tolist(), strict=True)]
    series = {name: np.asarray(values, float) for name, values in average_precision.items()}
    title, unit = "Retrieval of each label (images in the training set)", "average precision"
    return _label_dots(names, counts, series, path, rarest, title=title, unit=unit, top=1.0)


def _label_dots(
    names: Sequence[str],
    order_by: np.ndarray,
    series: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    rarest: Iterable[int],
    *,
    title: str,
    unit: str,
    top: float | None = None,
) -> Path:
    """One line a label, one dot a series, the largest of `order_by` on top."""
    size = len(names)
    if not size or not 0 < len(series) <= len(_SERIES) or any(values.shape != (size,) for values in series.values()):
        shapes = {name: values.shape for name, values in series.items()}
        raise ValueError(f"{size} labels need 1 to {len(_SERIES)} series of shape ({size},), got {shapes}.")
    order, rare = np.argsort(-order_by, kind="stable"), set(rarest)
    figure = blank_figure(8.4, 1.5 + 0.27 * size)
    axes = figure.add_subplot()
    values = np.stack([series[name][order] for name in series])
    rows = np.arange(size)
    seen = np.isfinite(values).any(axis=0)
    shown = values[:, seen]
    axes.hlines(rows[seen], np.nanmin(shown, axis=0), np.nanmax(shown, axis=0), color="#BBBBBB", linewidth=2, zorder=1)
    for name, row_values, (colour, marker) in zip(series, values, _SERIES, strict=False):
        axes.scatter(row_values, rows, color=colour, marker=marker, s=34, label=name, zorder=2)
    for row in rows[~seen]:
        axes.text(0, row, " no query holds it", fontsize=8, color=GREY, va="center", **PLAIN)
    marked = [row for row in rows if order[row] in rare]
    for row in marked:
        axes.axhspan(row - 0.5, row + 0.5, color="#FCEBDD", zorder=0, linewidth=0)
    axes.set_yticks(rows, [f"{STAR} " * (row in marked) + names[order[row]].replace("$", r"\$") for row in rows])
    axes.set_ylim(size - 0.5, -0.5)
    largest = top or (float(np.nanmax(values)) if seen.any() else 1.0) or 1.0
    axes.set_xlim(0, largest * 1.04)
    axes.set_xlabel(unit + (f"      {STAR} rarest third of the labels" if marked else ""), fontsize=9, color=INK)
    axes.grid(axis="x", color=RULE, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    _style(axes, title)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=len(series), handletextpad=0.2)
    return write_png(figure, path)


def _curve(axes: Axes, values: Sequence[float], colour: str, label: str | None) -> None:
    heights = np.asarray(values, float)
    known = np.isfinite(heights)
    marker = "o" if known.sum() < 15 else None
    epochs = np.flatnonzero(known) + 1
    axes.plot(epochs, heights[known], color=colour, linewidth=1.6, label=label, marker=marker, markersize=3.5)
    axes.set_xlim(0.5, max(len(values), 2) + 0.5)


def _caption(key: str) -> str:
    """The words for a name from the history: "val_ndcg@100_jaccard" is "Validation NDCG@100 (Jaccard)"."""
    known = {"loss": "Loss", "temperature": "Temperature", "learning_rate": "Learning rate"}
    words = key.removeprefix("val_")
    for name, meaning in (
        ("map_any", "mAP, any shared label"),
        ("map_jaccard50", "mAP, J \u2265 0.5"),
        ("map_", "mAP, "),
        ("ndcg", "NDCG"),
        ("_jaccard", " (Jaccard)"),
        ("_", " "),
    ):
        words = words.replace(name, meaning)
    return known.get(key, f"Validation {words}")


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=9, color="#999999", labelcolor="#444444")
