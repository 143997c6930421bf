"""The contact sheet: queries beside their nearest neighbours, with every image's labels written out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from macl_tf.figures.png import BLUE, GREY, INK, ORANGE, PLAIN, STAR, blank_figure, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 140
CELL, GAP, LINE = 190, 14, 22  # pixels: side of an image, space between two, height of a line of 8-point text
HEADER = 6 * LINE + GAP


class _Word(NamedTuple):
    text: str
    shared: bool
    x: float  # pixels from the left of its cell
    line: int


class _Cell(NamedTuple):
    left: int
    top: int
    image: np.ndarray
    caption: list[_Word]
    name: str
    similarity: float | None  # None for a query
    overlap: float | None  # None where the labels of the query are not known


def contact_sheet(
    query_images: Sequence[np.ndarray],
    query_labels: ArrayLike | None,
    neighbour_images: Sequence[Sequence[np.ndarray]] | np.ndarray,
    neighbour_labels: ArrayLike,
    scores: ArrayLike,
    path: str | os.PathLike[str],
    *,
    label_names: Sequence[str],
    rare: Iterable[int] = (),
    names: Sequence[Sequence[str]] | None = None,
) -> Path:
    """Draw queries and their nearest neighbours, one query a row, with the labels of every image under it.

    Labels shared with the query are bold and blue, rare ones carry a star. The frame tells the Jaccard overlap J with
    the query: orange where no label is shared, then from light to dark blue, darkest for the same set.

    Args:
        query_images: Q images, (H, W, 3) uint8 or floating point in [0, 1]; sizes may differ.
        query_labels: (Q, C) multi-hot, or None where they are not known: then there is no overlap to show.
        neighbour_images: Q sequences of K images, nearest first.
        neighbour_labels: (Q, K, C) multi-hot.
        scores: (Q, K) similarities.
        path: the PNG file to write.
        label_names: C names; none where nothing is labelled.
        rare: positions of the rare labels.
        names: Q sequences of K + 1 names, the query's first, to be written under the images; none by default.

    Returns:
        The path. The picture is (K + 1) x 204 + 42 pixels wide; its height grows with the longest list of labels.

    Raises:
        ValueError: if the shapes do not fit together, or an image is neither uint8 nor within [0, 1].
    """
    neighbours, scores = np.asarray(neighbour_labels), np.asarray(scores, float)
    expected = (len(query_images), len(neighbour_images[0]) if len(neighbour_images) else 0, len(label_names))
    queries = np.zeros(expected[::2]) if query_labels is None else np.asarray(query_labels)
    fit = (neighbours.shape, queries.shape, scores.shape) == (expected, expected[::2], expected[:2])
    if not fit or 0 in expected[:2] or [len(row) for row in neighbour_images] != [expected[1]] * expected[0]:
        raise ValueError(
            "contact_sheet needs Q > 0 queries with K > 0 neighbours each and C >= 0 label names; with (Q, K, C) = "
            f"{expected} from the images and names, query_labels must be (Q, C), neighbour_labels (Q, K, C) and scores "
            f"(Q, K), got {queries.shape}, {neighbours.shape} and {scores.shape}."
        )
    starred = set(rare)
    texts = [f"{STAR} {name}" if label in starred else name for label, name in enumerate(label_names)]
    measure = _text_widths()
    cells: list[_Cell] = []
    top = HEADER
    for query in range(expected[0]):
        own, row = queries[query] > 0, []
        for column in range(expected[1] + 1):  # the query itself comes first
            image = neighbour_images[query][column - 1] if column else query_images[query]
            held = neighbours[query, column - 1] > 0 if column else own
            words = [(texts[label], bool(column and own[label])) for label in np.flatnonzero(held).tolist()]
            unknown = not label_names or (query_labels is None and not column)
            words = words or [("" if unknown else "no label", False)]
            name = _shorten(names[query][column], measure) if names else ""
            similarity = float(scores[query, column - 1]) if column else None
            overlap = None if query_labels is None else float((held & own).sum() / max((held | own).sum(), 1))
            left = GAP + column * (CELL + GAP) + 2 * GAP * (column > 0)
            row.append(_Cell(left, top, image, _wrap(words, measure), name, similarity, overlap))
        cells += row
        lines = 1 + max(word.line for cell in row for word in cell.caption)
        top += CELL + (lines + 1 + (names is not None)) * LINE + 2 * GAP
    return write_png(_sheet((expected[1] + 1) * (CELL + GAP) + 3 * GAP, top, cells, labelled=bool(label_names)), path)


def _sheet(width: int, height: int, cells: list[_Cell], *, labelled: bool) -> Figure:
    """Everything laid out in pixels: one set of axes over the whole figure, y pointing down."""
    from matplotlib.patches import Rectangle

    figure = blank_figure(width / DPI, height / DPI, dpi=DPI, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()

    def write(x: float, y: float, text: str, size: float = 8, color: Any = INK, bold: bool = False) -> None:
        axes.text(x, y, text, fontsize=size, color=color, fontweight="bold" if bold else "normal", **PLAIN)

    write(GAP, 1.4 * LINE, "Queries and their nearest neighbours", size=11)
    if labelled and cells[0].overlap is None:
        write(GAP, 2.6 * LINE, f"{STAR} rare label", color=GREY)
    elif labelled:
        write(GAP, 2.6 * LINE, "shared with query", color=BLUE, bold=True)
        write(GAP + 185, 2.6 * LINE, f"not shared     {STAR} rare label", color=GREY)
        write(GAP, 3.7 * LINE, "frame: overlap J", color=GREY)
        for step, share in enumerate((0, 0.25, 0.5, 0.75, 1)):
            axes.add_patch(Rectangle((GAP + 140 + 58 * step, 3.08 * LINE), 14, 14, color=_frame(share)))
            write(GAP + 158 + 58 * step, 3.7 * LINE, f"{share:g}", color=GREY)
    write(GAP, 5.9 * LINE, "query", size=9, bold=True)
    write(CELL + 4 * GAP, 5.9 * LINE, "nearest neighbours \u2192", size=9, bold=True)
    for left, top, image, caption, name, similarity, overlap in cells:
        axes.imshow(_as_bytes(image), extent=(left, left + CELL, top + CELL, top), interpolation="antialiased")
        below, colour, stroke = top + CELL + LINE, INK, 1.0
        if name:
            write(left, below, name, size=7)
            below += LINE
        if similarity is not None:
            shared_share = "" if overlap is None else f"   J {overlap:.2f}"
            write(left, below, f"similarity {similarity:.2f}{shared_share}", size=7, color=GREY)
            below, colour, stroke = below + LINE, GREY, 1.0 if overlap is None else 4.0
        edge = INK if similarity is None or overlap is None else _frame(overlap)
        axes.add_patch(Rectangle((left, top), CELL, CELL, fill=False, linewidth=stroke, edgecolor=edge))
        for text, shared, x, line in caption:
            write(left + x, below + line * LINE, text, color=BLUE if shared else colour, bold=shared)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")  # after imshow, which sets its own
    return figure


def _wrap(words: Sequence[tuple[str, bool]], measure: Callable[[str, bool], float]) -> list[_Word]:
    """Break the labels into lines that are no wider than a cell."""
    placed: list[_Word] = []
    x, line = 0.0, 0
    for place, (word, shared) in enumerate(words, start=1):
        text = word + "," * (place < len(words))
        width = measure(text, shared)
        if x and x + width > CELL:
            x, line = 0.0, line + 1
        placed.append(_Word(text, shared, x, line))
        x += width + 6
    return placed


def _shorten(name: str, measure: Callable[[str, bool], float]) -> str:
    """The end of a name, which tells paths apart, no wider than a cell."""
    start = 0
    while measure(name[start:], False) > CELL - 10:
        start += 1
    return name if not start else f"\u2026{name[start:]}"


def _text_widths() -> Callable[[str, bool], float]:
    """A function that measures 8-point text in pixels, bold or not."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import FontProperties

    renderer = FigureCanvasAgg(blank_figure(1, 1, dpi=DPI)).get_renderer()
    fonts = [FontProperties(family="DejaVu Sans", size=8, weight=weight) for weight in ("normal", "bold")]

    @cache
    def measure(text: str, bold: bool) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # as where the picture is written
            return float(renderer.get_text_width_height_descent(text, fonts[bold], False)[0])

    return measure


def _frame(overlap: float) -> Any:
    """Orange for no overlap, then from light to dark blue."""
    if overlap <= 0:
        return ORANGE
    light, dark = np.array([0.80, 0.88, 0.95]), np.array([0.0, 0.22, 0.42])
    return tuple((light + (dark - light) * min(overlap, 1.0)).tolist())


def _as_bytes(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    if (largest := np.nanmax(image)) > 1:
        raise ValueError(f"images must be uint8 or floating point in [0, 1], got {image.dtype} up to {largest:g}.")
    return np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
