"""Labels of tiles from masks: rasters whose values or colours are classes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window

from macl_tf.datasets.archives import normalise_stem
from macl_tf.datasets.walk import shorten
from macl_tf.tiling.classes import IGNORE, TO_BE_NAMED, ClassTable, hex_of
from macl_tf.tiling.scenes import Grid, Scene, open_raster
from macl_tf.tiling.sources import SUFFIXES, Source, find_sources
from macl_tf.tiling.windows import Chunk, Held

# What sets add to the names of scenes and masks: 119_sat.jpg and 119_mask.png.
_BESIDE = re.compile(r"[ _-](sat|image|img|rgb|(mask|masks|label|labels|gt|seg|lbl))$")
_NOTHING, _UNKNOWN, _FIRST = 0, 1, 2  # pixels without a label, of no class in the table, of the first class
_MOST = 20  # values that a message names
_LOOKED_AT = 8  # masks, for a draft of the class table


class Masks:
    """The masks of a folder, by the scenes that they belong to.

    Args:
        folder: Where they are, at any depth.
        marked: Whether scenes lie there as well, so that only what is called so (a_mask.png) is a mask.
    """

    def __init__(self, folder: Path, *, marked: bool = False) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"the masks must be in a folder, but '{folder}' is none.")
        found, _ = find_sources([folder])
        if not any(not marked or is_mask(mask) for mask in found):
            raise ValueError(f"'{folder}' must hold masks; beside scenes they are called like a_mask.png.")
        self._by_key: dict[str, list[Source]] = defaultdict(list)
        for mask in (mask for mask in found if not marked or is_mask(mask)):
            self._by_key[_key(mask)].append(mask)

    def of(self, source: Source) -> Path:
        """The mask of a scene: that of the same name; a ValueError where there is none, or several."""
        found = self._by_key.get(_key(source), [])
        if len(found) > 1:  # folders tell them apart
            folder = Path(source.name).parent
            found = [mask for mask in found if Path(mask.name).parent == folder] or found
        if len(found) != 1:
            names = shorten([mask.name for mask in found])
            raise ValueError(f"no mask has its name '{source.stem}'" if not found else f"several masks fit: {names}")
        return found[0].paths[0]

    def strays(self, sources: Sequence[Source]) -> list[str]:
        """Masks that belong to none of the scenes."""
        keys = {_key(source) for source in sources}
        return sorted(mask.name for key, masks in self._by_key.items() if key not in keys for mask in masks)

    def draft(self) -> str:
        """A class table of the values that the first masks hold, to be completed: CSV with a column of hints."""
        counts: Counter[tuple[int, ...]] = Counter()
        hints: dict[tuple[int, ...], str] = {}
        for masks in [*self._by_key.values()][:_LOOKED_AT]:
            with open_raster(masks[0].paths[0]) as dataset:
                shrunk = [max(1, side // max(1, max(dataset.shape) // 1024)) for side in dataset.shape]
                bands = [1] if dataset.count < 3 else [1, 2, 3]
                pixels = dataset.read(bands, out_shape=(len(bands), *shrunk)).reshape(len(bands), -1)
                found, times = np.unique(pixels, axis=1, return_counts=True)
                counts.update(dict(zip(map(tuple, found.T.tolist()), times.tolist(), strict=True)))
                if dataset.colorinterp[0] is ColorInterp.palette:
                    hints |= {(value,): hex_of(colour[:3]) for value, colour in dataset.colormap(1).items()}
        rows = ["colour,name,seen" if len(next(iter(counts))) == 3 else "value,name,seen"]
        for value, count in counts.most_common(_MOST):
            said = hex_of(value) if len(value) == 3 else str(value[0])
            rows.append(f"{said},{TO_BE_NAMED},{count / counts.total():.1%} {hints.get(value, '')}".rstrip())
        return "\n".join([*rows, *([f"({len(counts) - _MOST} more values)"] if len(counts) > _MOST else [])])


class Mask:
    """An open mask, for one thread.

    Args:
        path: The mask.
        scene: Its scene.
        table: The classes.

    Raises:
        ValueError: Where it is of another size than the scene and one of them has no place, or the table does not
            speak of what it holds.
    """

    def __init__(self, path: Path, scene: Scene, table: ClassTable) -> None:
        with ExitStack() as stack:
            self._dataset = dataset = stack.enter_context(open_raster(path))
            self._grid, self.files = scene.grid, tuple(dataset.files)
            own = Grid(dataset.width, dataset.height, dataset.transform, dataset.crs)
            # Without a place it lies on the scene's own pixels, which may be cut in another resolution.
            original = scene.original
            if not (own.placed and scene.grid.placed):
                if dataset.shape != original.shape:
                    raise ValueError(
                        f"its mask must have its size, {original.width} x {original.height}, or both a coordinate "
                        f"system, got {dataset.width} x {dataset.height}. Georeference both, or resize the mask."
                    )
                own = Grid(dataset.width, dataset.height, original.transform, original.crs)
            self._own, self._same = own, own == scene.grid
            self._names = table.names
            self._codes = _Codes(dataset, table)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Closes its file."""
        self._stack.close()

    def shares(self, chunk: Chunk, size: int) -> list[Held]:
        """What each tile holds.

        A ValueError names values that the class table does not.
        """
        width = chunk.columns[-1] - chunk.columns[0] + size
        codes = self._read(chunk.row, chunk.columns[0], size, width)
        found = []
        for column in chunk.columns:
            part = codes[:, column - chunk.columns[0] :][:, :size]
            counts = np.bincount(part.ravel(), minlength=_FIRST)
            if counts[_UNKNOWN]:
                raise ValueError(self._codes.complaint())
            held = np.flatnonzero(counts[_FIRST:]).tolist()
            found.append(Held({label: float(counts[_FIRST + label]) / size**2 for label in held}))
        return found

    def _read(self, row: int, column: int, height: int, width: int) -> NDArray[np.int16]:
        """Codes of classes (height, width), `_NOTHING` where the mask does not reach."""
        codes = np.zeros((height, width), np.int16)
        if self._same:
            inside = (min(height, self._own.height - row), min(width, self._own.width - column))
            codes[: inside[0], : inside[1]] = self._codes.read(Window(column, row, inside[1], inside[0]))
            return codes
        part = self._grid.part(row, column, height, width)
        if self._own.crs == part.crs or not part.placed:
            corners = part.corners()
        else:
            x, y = part.corners().T
            west, south, east, north = transform_bounds(part.crs, self._own.crs, x.min(), y.min(), x.max(), y.max())
            corners = np.array([[west, north], [east, north], [east, south], [west, south]])
        pixels = self._own.pixels(corners)
        first = np.maximum(np.floor(pixels.min(axis=0)) - 2, 0).astype(int)
        last = np.minimum(np.ceil(pixels.max(axis=0)) + 2, [self._own.width, self._own.height]).astype(int)
        if (first >= last).any():
            return codes
        window = Window(first[0], first[1], *(last - first))
        beneath = self._own.part(first[1], first[0], last[1] - first[1], last[0] - first[0])
        # Of two rasters without a coordinate system only the ratio of their pixels counts.
        reproject(
            self._codes.read(window), codes,
            src_transform=beneath.transform, src_crs=beneath.crs or "EPSG:3857",
            dst_transform=part.transform, dst_crs=part.crs or "EPSG:3857",
            src_nodata=_NOTHING, dst_nodata=_NOTHING, resampling=Resampling.nearest,
        )  # fmt: skip
        return codes


class _Codes:
    """From what an open mask holds to codes: `_NOTHING`, `_UNKNOWN`, and from `_FIRST` on the classes."""

    def __init__(self, dataset: Any, table: ClassTable) -> None:
        self._dataset = dataset
        self._unknown: dict[tuple[int, ...], int] = {}
        kind = "RGB" if dataset.count >= 3 else "palette" if dataset.colorinterp[0] is ColorInterp.palette else "index"
        self._bands = [1, 2, 3] if kind == "RGB" else [1]
        if np.dtype(dataset.dtypes[0]).kind not in "ui" and kind == "RGB":
            raise ValueError(f"its mask must hold 8-bit colours, got {dataset.dtypes[0]}.")
        if kind == "RGB" and table.colours:
            known = {r << 16 | g << 8 | b: number for (r, g, b), number in table.colours.items()}
        elif kind != "RGB" and table.values:
            known = {int(value): number for value, number in table.values.items() if re.fullmatch(r"-?\d+", value)}
        elif kind == "palette" and table.colours:
            palette = {value: tuple(colour[:3]) for value, colour in dataset.colormap(1).items()}
            known = {value: table.colours[colour] for value, colour in palette.items() if colour in table.colours}
        else:
            needed = "colours (name,colour)" if kind == "RGB" else "values (name,value)"
            raise ValueError(f"its mask holds {kind} pixels, of which the class table must name the {needed}.")
        if kind != "RGB" and dataset.nodata is not None:
            known.setdefault(int(dataset.nodata), -1)
        self._known = np.array(sorted(known), np.int64)
        self._code = np.array([known[value] + _FIRST if known[value] >= 0 else _NOTHING for value in sorted(known)])
        self._code = self._code.astype(np.int16)
        self._kind = kind
        small = kind != "RGB" and dataset.dtypes[0] in ("uint8", "uint16")
        self._table = self._of(np.arange(1 << 8 * np.dtype(dataset.dtypes[0]).itemsize)) if small else None

    def read(self, window: Window) -> NDArray[np.int16]:
        pixels = self._dataset.read(self._bands, window=window)
        if self._table is not None:
            codes = self._table[pixels[0]]
        elif self._kind == "RGB":
            red, green, blue = pixels.astype(np.int64)
            codes = self._of(red << 16 | green << 8 | blue)
        else:
            whole = pixels[0] if pixels.dtype.kind in "ui" else np.nan_to_num(pixels[0], nan=-(2**40))
            codes = self._of(whole.astype(np.int64))
        if (unknown := codes == _UNKNOWN).any():
            found, counts = np.unique(pixels[:, unknown], axis=1, return_counts=True)
            for value, count in zip(found.T.tolist(), counts.tolist(), strict=True):
                self._unknown[tuple(value)] = self._unknown.get(tuple(value), 0) + count
        return codes

    def complaint(self) -> str:
        most = sorted(self._unknown, key=lambda value: -self._unknown[value])
        shown = [hex_of(value) if self._kind == "RGB" else str(value[0]) for value in most]
        if self._kind == "palette":
            colours = self._dataset.colormap(1)
            shown = [f"{value[0]} ({hex_of(colours[int(value[0])][:3])})" for value in most]
        lossy = " JPEG blurs the colours of a mask: use masks in PNG or TIFF." if self._dataset.driver == "JPEG" else ""
        return (
            f"its mask must hold values of the class table only, but holds {shorten(shown, _MOST)}. Add them to the "
            f"table, or call them '{IGNORE}' there.{lossy}"
        )

    def _of(self, values: NDArray[np.int64]) -> NDArray[np.int16]:
        if not len(self._known):
            return np.full(values.shape, _UNKNOWN, np.int16)
        place = np.minimum(np.searchsorted(self._known, values), len(self._known) - 1)
        return np.where(self._known[place] == values, self._code[place], np.int16(_UNKNOWN))


def is_mask(source: Source) -> bool:
    """Whether a raster is called a mask."""
    found = _BESIDE.search(source.stem.lower())
    return found is not None and found[2] is not None


def _key(source: Source) -> str:
    """What a scene and its mask have in common."""
    stem = normalise_stem(source.stem) if source.stem.lower().endswith(SUFFIXES) else source.stem.lower()
    return _BESIDE.sub("", stem) or stem
