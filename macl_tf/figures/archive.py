"""Pictures of an archive: how often labels occur, alone and together, values of bands, and rows of tiles."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.figures.png import BLUE, GREEN, GREY, INK, ORANGE, PLAIN, PURPLE, RULE, blank_figure, write_png

_PART_COLOURS = {"train": BLUE, "validation": GREEN, "test": ORANGE, "": GREY}
_MOST_LABELS = 60
_NUMBERED = 20  # so many labels leave room for numbers in the squares


def plot_label_counts(
    label_names: Sequence[str], counts: Mapping[str, ArrayLike], path: str | os.PathLike[str]
) -> Path:
    """Draw how many images hold each of C labels, as a bar of its parts, the most frequent on top.

    Args:
        label_names: C names.
        counts: (C,) numbers of each part, "" for images in none.
        path: The PNG file to write.

    Returns:
        The path. Of more than 60 labels, the 30 most frequent and the 30 rarest are drawn.
    """
    from matplotlib.ticker import MaxNLocator

    total = sum((np.asarray(values) for values in counts.values()), np.zeros(len(label_names), np.int64))
    order = np.argsort(-total, kind="stable")
    if len(order) > _MOST_LABELS:
        order = np.concatenate([order[: _MOST_LABELS // 2], order[-_MOST_LABELS // 2 :]])
    rows = np.arange(len(order))
    figure = blank_figure(8.4, 1.2 + 0.24 * len(order))
    axes = figure.add_subplot()
    left = np.zeros(len(order))
    for part, values in counts.items():
        own = np.asarray(values)[order]
        axes.barh(rows, own, left=left, color=_PART_COLOURS.get(part, PURPLE), height=0.72, label=part or "in no part")
        left += own
    for row, count in enumerate(total[order].tolist()):
        axes.text(count, row, f" {count:,}", va="center", fontsize=8, color=INK)
    axes.set_yticks(rows, [label_names[label].replace("$", r"\$") for label in order], fontsize=9)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(0, max(float(left.max(initial=0)), 1) * 1.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("images", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(counts) > 1:
        figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=len(counts))
    return write_png(figure, path)


def plot_cooccurrence(label_names: Sequence[str], together: ArrayLike, path: str | os.PathLike[str]) -> Path:
    """Draw of the images with a label (row) which share holds another (column), the most frequent labels first.

    Args:
        label_names: C names.
        together: (C, C) images that hold both labels.
        path: The PNG file to write.

    Returns:
        The path. Of more than 60 labels the 60 most frequent are drawn.
    """
    together = np.asarray(together, np.float64)
    order = np.argsort(-together.diagonal(), kind="stable")[:_MOST_LABELS]
    held = together.diagonal()[order, None]
    share = np.divide(together[np.ix_(order, order)], held, out=np.zeros((len(order), len(order))), where=held > 0)
    side = 2.2 + (0.36 if len(order) <= _NUMBERED else 0.21) * len(order)
    figure = blank_figure(side + 0.8, side)
    axes = figure.add_subplot()
    picture = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    names = [label_names[label].replace("$", r"\$") for label in order]
    size = 9 if len(order) <= _NUMBERED else 11
    axes.set_xticks(range(len(order)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(order)), names, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(*share.shape) if len(order) <= _NUMBERED else ():
        colour = "white" if share[row, column] > 0.6 else INK
        axes.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(picture, ax=axes, shrink=0.6)
    bar.set_label("% of the row's images", fontsize=9)
    return write_png(figure, path)


def plot_values(samples: Mapping[str, ArrayLike], path: str | os.PathLike[str]) -> Path:
    """Draw how the values of each band are spread: `samples` has pixels of each, by the band's name."""
    figure = blank_figure(8.4, 2.8)
    axes = figure.add_subplot()
    values = {name: np.asarray(sample, np.float64) for name, sample in samples.items()}
    known = [sample[np.isfinite(sample)] for sample in values.values()]
    low = min((sample.min() for sample in known if sample.size), default=0.0)
    high = max((sample.max() for sample in known if sample.size), default=1.0)
    edges = np.linspace(low, high if high > low else low + 1, 65)
    colours = (ORANGE, GREEN, BLUE, PURPLE, INK, GREY)
    for place, (name, sample) in enumerate(zip(values, known, strict=True)):
        heights, _ = np.histogram(sample, edges)
        axes.stairs(100 * heights / max(sample.size, 1), edges, color=colours[place % len(colours)], label=name)
    axes.set_xlabel("value", fontsize=9)
    axes.set_ylabel("share of pixels (%)", fontsize=9)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return write_png(figure, path)


def tile_rows(
    rows: Sequence[Sequence[tuple[NDArray[np.uint8], str]]], path: str | os.PathLike[str], *, columns: int = 6
) -> Path:
    """Draw rows of tiles (H, W, 3) uint8, each with a caption of a line or several below it."""
    figure = blank_figure(1.6 * columns + 0.2, 2.1 * max(len(rows), 1))
    for place, row in enumerate(rows):
        for column, (image, caption) in enumerate(row[:columns]):
            axes = figure.add_subplot(len(rows), columns, place * columns + column + 1)
            axes.imshow(image)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_xlabel(caption, fontsize=6.5, color=INK, **PLAIN)
    return write_png(figure, path)
