"""The page of an inspection: one HTML file with its pictures inside, readable without a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.inspection import Copies, Inspection
from macl_tf.datasets.near_copies import BITS, MOST_BITS
from macl_tf.datasets.splits import PARTS
from macl_tf.figures.archive import plot_cooccurrence, plot_label_counts, plot_values, tile_rows
from macl_tf.files import write_text

_SHOWN_TILES, _SHOWN_LABELS, _SHOWN_ROWS, _SHOWN_ROWS_OF_COPIES, _SHOWN_PIXELS = 6, 6, 60, 8, 128
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd }
img { max-width: 100%; height: auto } ul { padding-left: 1.2rem }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .15rem .7rem; border-bottom: 1px solid #eee }
th { text-align: left } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.look { background: #fcebdd; border-left: 4px solid #d55e00; padding: .5rem 1rem } .more { color: #767676 }
"""


def write_inspection(found: Inspection, folder: Path) -> Path:
    """Writes the tables, the pictures and index.html of an inspection into a folder, and returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    found.write_tables(folder)
    archive = found.archive
    parts = [part for part in (*PARTS, "") if part in found.parts]
    warnings = found.warnings()
    body = [f"<h1>{_text(found.name)}</h1>", _summary(found)]
    looks = "".join(f"<li>{_text(line)}</li>" for line in warnings)
    if looks:
        body.append(f'<div class="look"><b>To look at before training</b><ul>{looks}</ul></div>')
    else:
        body.append("<p>Nothing was found that deserves a look before training.</p>")
    if archive.label_names:
        counts = {part: found.counts_of(part) for part in parts}
        body += [
            _section(
                "Labels", "labels.csv", _picture(plot_label_counts(archive.label_names, counts, folder / "labels.png"))
            ),
            _section(
                "Labels together",
                "cooccurrence.csv",
                _picture(plot_cooccurrence(archive.label_names, found.together, folder / "cooccurrence.png")),
            ),
        ]
        if rows := _rare_rows(found):
            picture = tile_rows(rows, folder / "rare.png", columns=_SHOWN_TILES)
            body.append(_section("Tiles of the rarest labels", "labels.csv", _picture(picture)))
    body.append(_copies_section(found, folder))
    called = archive.bands.names if archive.bands is not None else ()
    samples = {
        f"band {called[band] if called else band + 1}, {dtype}": values
        for (dtype, band), values in sorted(found.samples.items())
    }
    values = _picture(plot_values(samples, folder / "values.png")) if samples else ""
    header = ["type", "band", "minimum", "1 %", "median", "99 %", "maximum", "mean", "deviation"]
    body.append(_section("Bands and values", "bands.csv", values + _table(header, found.band_rows())))
    sizes = [[*shape, count] for shape, count in found.shapes.most_common()]
    body.append(_section("Sizes", "sizes.csv", _table(["width", "height", "bands", "type", "tiles"], sizes)))
    problems = [[finding.problem, finding.name, finding.detail] for finding in found.findings]
    if problems:
        body.append(_section("Problems", "problems.csv", _table(["problem", "image", "detail"], problems)))
    notes = "".join(f"<li>{_text(note)}</li>" for note in archive.notes)
    body.append(f"<h2>How the archive was read</h2><ul>{notes}</ul>")
    page = folder / "index.html"
    write_text(
        page,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(found.name)}</title>'
        f"<style>{_STYLE}</style>{''.join(body)}</html>\n",
    )
    return page


def _summary(found: Inspection) -> str:
    archive = found.archive
    held = archive.labels.sum(axis=1)
    lines = [f"{len(archive):,} tiles, {len(archive.label_names)} labels"]
    if archive.label_names:
        lines[0] += f", {held.mean():.2f} of them a tile, {len(np.unique(archive.labels, axis=0)):,} different sets"
    if any(found.parts):
        lines.append(", ".join(f"{found.parts.count(part):,} {part}" for part in PARTS if part in found.parts))
    return "".join(f"<p>{_text(line)}</p>" for line in [*lines, found.split])


def _rare_rows(found: Inspection) -> list[list[tuple[NDArray[np.uint8], str]]]:
    """Tiles of the rarest labels that there are, a row each."""
    counts, labels = found.counts, found.archive.labels
    rare = [label for label in np.argsort(counts, kind="stable") if counts[label] > 0][:_SHOWN_LABELS]
    rows = []
    for label in rare:
        tiles = [int(tile) for tile in np.flatnonzero(labels[:, label]) if int(tile) in found.facts][:_SHOWN_TILES]
        rows.append(
            [(_shown(found, tile), f"{found.archive.label_names[label]}\n{_short(found, tile)}") for tile in tiles]
        )
    return [row for row in rows if row]


def _copies_section(found: Inspection, folder: Path) -> str:
    near = sum("near" in group.kinds for group in found.copies)
    text = (
        f"<p>{len(found.copies):,} groups of copies, {near:,} with near ones (at most {MOST_BITS} of {BITS} bits of a "
        f"perceptual hash differ); {len(found.leaks):,} lie in several parts. Turned, mirrored and shifted copies are "
        "not found.</p>"
    )
    if not found.copies:
        return _section("Copies", "copies.csv", "<p>No copies were found.</p>")
    rows: list[list[tuple[NDArray[np.uint8], str]]] = [[]]
    shown = 0
    for number, group in enumerate(found.copies, start=1):
        cells = _copy_cells(found, group, number)
        if len(rows[-1]) + len(cells) > _SHOWN_TILES:
            rows.append([])
        if len(rows) > _SHOWN_ROWS_OF_COPIES:
            rows.pop()
            break
        rows[-1] += cells
        shown = number
    more = len(found.copies) - shown
    text += _picture(tile_rows(rows, folder / "copies.png", columns=_SHOWN_TILES))
    more_text = f'<p class="more">and {more:,} more groups in the table</p>' if more > 0 else ""
    return _section("Copies", "copies.csv", text + more_text)


def _copy_cells(found: Inspection, group: Copies, number: int) -> list[tuple[NDArray[np.uint8], str]]:
    """The tiles of a group, as many as a row shows."""
    cells = []
    for tile, kind, bits, part in zip(group.tiles, group.kinds, group.bits, group.parts, strict=True):
        told = ", ".join(filter(None, (f"group {number}", part, kind, f"{bits} of 128" if kind == "near" else "")))
        cells.append((tile, f"{_short(found, tile)}\n{told}"))
    return [(_shown(found, tile), caption) for tile, caption in cells[:_SHOWN_TILES]]


def _shown(found: Inspection, tile: int) -> NDArray[np.uint8]:
    """A tile as people can see it: three bands of 8 bits."""
    image = found.archive.read_image(tile)
    if found.archive.bands is not None:
        image = image[:, :, list(found.archive.bands.rgb)]
    if image.shape[2] < 3:
        image = image[:, :, :1].repeat(3, axis=2)
    step = max(max(image.shape[:2]) // _SHOWN_PIXELS, 1)
    image = image[::step, ::step, :3]
    if image.dtype == np.uint8:
        return image
    values = image.astype(np.float64)
    low, high = np.nanpercentile(values, (2, 98))
    return (255 * np.clip(np.nan_to_num((values - low) / max(high - low, 1e-12)), 0, 1)).astype(np.uint8)


def _short(found: Inspection, tile: int) -> str:
    name = PurePosixPath(found.archive.file_names[tile]).name.encode(errors="backslashreplace").decode()
    return name if len(name) <= 26 else f"{name[:12]}\u2026{name[-12:]}"


def _section(title: str, table: str, content: str) -> str:
    return f'<h2>{_text(title)} <a class="more" href="{table}" style="font-size:.8rem">{table}</a></h2>{content}'


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{_text(path.stem)}" src="data:image/png;base64,{data}">'


def _table(header: Sequence[str], rows: Sequence[Iterable[Any]]) -> str:
    def cell(value: Any, tag: str = "td") -> str:
        number = isinstance(value, int | float | np.number)
        shown = f"{value:,.6g}" if isinstance(value, float | np.floating) else f"{value:,}" if number else _text(value)
        return f"<{tag}{' class=n' if number else ''}>{shown}</{tag}>"

    lines = ["".join(cell(name, "th") for name in header), *("".join(map(cell, row)) for row in rows[:_SHOWN_ROWS])]
    more = len(rows) - _SHOWN_ROWS
    end = f'<p class="more">and {more:,} more in the table</p>' if more > 0 else ""
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>{end}"


def _text(value: object) -> str:
    return html.escape(str(value).encode(errors="backslashreplace").decode())
