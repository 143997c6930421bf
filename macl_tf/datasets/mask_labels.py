"""Labels by area from masks beside the tiles and a class table: LoveDA, DeepGlobe, any set for segmentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.class_tables import ClassTable, Colour, hex_of, is_class_table
from macl_tf.datasets.images import MAX_PIXELS
from macl_tf.datasets.picture_kinds import PictureError, broken, too_many_pixels
from macl_tf.datasets.tiff import open_raster
from macl_tf.datasets.walk import list_files, shorten

_MOST = 256  # different values or colours of a mask that are told apart: more than these are no classes
NO_DATA = "nodata"
_OTHER, _NOT_A_NUMBER = -(2**40), -(2**41)  # codes of what is no whole number
_NEEDED = "its mask holds {} pixels, of which the class table must name the {}."

Histogram = dict[str, int]  # pixels of each raw value ("7"), colour ("#ff0000"), or both ("7 #ff0000")


def find_class_table(root: Path) -> Path | None:
    """The class table nearest to a folder, None where there is none; a ValueError where it may be one of several."""
    names = [name for name in list_files(root) if name.lower().endswith((".toml", ".csv", ".tsv"))]
    for depth in sorted({name.count("/") for name in names}):
        found = [name for name in names if name.count("/") == depth and is_class_table(root / name)]
        if len(found) > 1:
            raise ValueError(
                f"{root} must hold one class table of masks, got {len(found)}: {shorten(found)}. Name the right one "
                f"by --table {found[0]}"
            )
        if found:
            return root / found[0]
    return None


class MaskPixels:
    """What an open mask holds, as whole numbers: its values, or its colours as 0xrrggbb.

    A mask of three bands or more holds colours; any other the values of its first band, of any type, which a palette
    or grey of 8 bits or less gives colours too.

    Args:
        dataset: As rasterio opens it.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        dtype, first = dataset.dtypes[0], dataset.colorinterp[0].name
        self.kind = "RGB" if dataset.count >= 3 else "palette" if first == "palette" else "index"
        if (self.kind == "RGB" and np.dtype(dtype).kind not in "ui") or "complex" in dtype:
            raise ValueError(f"its mask must hold {'8-bit colours' if self.kind == 'RGB' else 'numbers'}, got {dtype}.")
        self.dtype = np.dtype(dtype)
        self._bands = [1, 2, 3] if self.kind == "RGB" else [1]
        bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        self._step = 255 // (2**bits - 1) if self.kind == "index" and dtype == "uint8" else 0
        self.colours: dict[int, Colour] = {}  # of values
        if self.kind == "palette":
            self.colours = {value: colour[:3] for value, colour in dataset.colormap(1).items()}
            if bits == 1 and {*self.colours.values()} == {(0, 0, 0), (255, 255, 255)}:  # GDAL's, of a TIFF of two greys
                self._step = 255
        elif self._step:
            self.colours = {value: (value * self._step,) * 3 for value in range(2**bits)}
        self._nodata: int | None = None
        if self.kind != "RGB" and dataset.nodata is not None:
            self._nodata = _NOT_A_NUMBER if np.isnan(dataset.nodata) else int(dataset.nodata)

    def read(self, **how: Any) -> NDArray[Any]:
        """Codes (H, W); `how` is what rasterio's `read` takes."""
        pixels = self._dataset.read(self._bands, **how)
        if self.kind == "RGB":
            red, green, blue = pixels.astype(np.int64)
            return np.where((pixels > 255).any(axis=0), _OTHER, red << 16 | green << 8 | blue)
        if self.dtype.kind in "ui":
            codes: NDArray[Any] = pixels[0]
            return codes
        whole = np.isfinite(pixels[0]) & (pixels[0] == np.floor(pixels[0]))
        codes = np.where(whole, pixels[0], _OTHER).astype(np.int64)
        codes[np.isnan(pixels[0])] = _NOT_A_NUMBER
        return codes

    def known(self, table: ClassTable) -> dict[int, int]:
        """The label of each code that a table names, -1 for none; a ValueError where it cannot name any."""
        values, named = table.codes, table.colours
        # Of a table that says both, values count unless the palette denies them and has all the colours.
        agree = all(named.get(self.colours.get(value, (-1, -1, -1))) == number for value, number in values.items())
        by_colour = bool(named) and (not values or (not agree and {*named} <= {*self.colours.values()}))
        if self.kind == "RGB":
            if not named:
                raise ValueError(_NEEDED.format("RGB", "colours (name,colour)"))
            found = {red << 16 | green << 8 | blue: number for (red, green, blue), number in named.items()}
        elif by_colour and self.colours:
            found = {value: named[colour] for value, colour in self.colours.items() if colour in named}
        elif values:
            # Grey of 1, 2 or 4 bits is shown as 0 to 255, by which a table may call it.
            shown = {value * self._step: value for value in self.colours} if self._step > 1 else {}
            found = {shown[value]: number for value, number in values.items() if value in shown} | values
        else:
            raise ValueError(_NEEDED.format(self.kind, "values (name,value)"))
        if self._nodata is not None:
            found.setdefault(self._nodata, -1)
        return found

    def marks(self, code: int) -> list[str]:
        """All that a class table may call a code: its value, the grey that it is shown as, its colour."""
        if code in (_OTHER, _NOT_A_NUMBER):
            marks = ["other" if code == _OTHER else "nan"]
        elif self.kind == "RGB":
            marks = [f"#{code:06x}"]
        else:
            grey = [str(code * self._step)] if self._step > 1 else []
            marks = [str(code), *grey, *([hex_of(self.colours[code])] if code in self.colours else [])]
        return [*marks, *([NO_DATA] if code == self._nodata else [])]


def mask_histogram(path: Path, name: str) -> Histogram:
    """How many pixels of a mask have each raw value or colour; a ValueError says why it cannot be read."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ValueError(f"{name} must be a lossless mask, got a JPEG, whose colours are not exact. Save it as PNG.")
    try:
        with open_raster(path) as dataset:
            if dataset.width * dataset.height > MAX_PIXELS:
                raise too_many_pixels(name, f"{dataset.width} x {dataset.height}", MAX_PIXELS)
            pixels = MaskPixels(dataset)
            values, counts = np.unique(pixels.read(), return_counts=True)
    except PictureError:
        raise
    except Exception as error:  # rasterio's, GDAL's own, which have no public class, and the system's
        told = isinstance(error, ValueError) or (isinstance(error, OSError) and error.strerror)
        raise broken(name, str(error) if told else "it is damaged or cut off") from error
    order = np.argsort(-counts, kind="stable")
    found = {" ".join(pixels.marks(int(values[place]))): int(counts[place]) for place in order[:_MOST]}
    if rest := int(counts[order[_MOST:]].sum()):
        found["other"] = found.get("other", 0) + rest
    return found


def areas_by_class(
    histograms: Mapping[str, Histogram], table: ClassTable
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Labels and their shares of each mask, and notes on values and colours that no class has.

    Args:
        histograms: of each mask (`mask_histogram`).
        table: of classes.

    Returns:
        C label names; (N, C) float32 shares of all pixels of a tile, ignored ones and unknown ones included; notes.
    """

    def decoded(known: Mapping[str, int], which: int) -> tuple[int, np.ndarray, Counter[str]]:
        """Pixels of no class, the shares, and the values or colours that the table does not name."""
        areas = np.zeros((len(histograms), len(table.names)), np.float64)
        unknown: Counter[str] = Counter()
        for row, histogram in zip(areas, histograms.values(), strict=True):
            for held, count in histogram.items():
                number = next((known[mark] for mark in held.split() if mark in known), None)
                if number is None:
                    unknown[held.split()[which]] += count
                elif number >= 0:
                    row[number] += count
            row /= max(sum(histogram.values()), 1)
        return unknown.total(), areas, unknown

    # A table may say both; what the masks hold decides.
    values = {str(value): number for value, number in table.codes.items()} | {NO_DATA: -1}
    colours = {hex_of(colour): number for colour, number in table.colours.items()} | {NO_DATA: -1}
    ways = [(values, 0)] * bool(table.codes) + [(colours, -1)] * bool(table.colours)
    lost, areas, unknown = min((decoded(*way) for way in ways or [(values, 0)]), key=lambda found: found[0])
    share = lost / max(sum(sum(histogram.values()) for histogram in histograms.values()), 1)
    marks = shorten([mark for mark, _ in unknown.most_common()], 5)
    if share > 0.5:
        raise ValueError(
            f"the class table must name the values or colours of the masks, but {share:.0%} of their pixels have "
            f"others: {marks}. Add them to it, with ignore=true where they are no label."
        )
    notes = (f"in the masks, but not in the class table: {marks} ({share:.2%} of all pixels), no label",)
    return table.names, areas.astype(np.float32), notes if lost else ()
