"""Labels of tiles from masks: rasters whose values or colours are classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window

from macl_tf.datasets.class_tables import IGNORE, TO_BE_NAMED, ClassTable
from macl_tf.datasets.mask_labels import MaskPixels
from macl_tf.datasets.mask_pairs import masks_among, pair_masks
from macl_tf.datasets.walk import shorten
from macl_tf.tiling.scenes import Grid, Scene, open_raster
from macl_tf.tiling.sources import Source, find_sources
from macl_tf.tiling.windows import Chunk, Held

_NOTHING, _UNKNOWN, _FIRST = 0, 1, 2  # pixels without a label, of no class in the table, of the first class
_MOST = 20  # values that a message names
_LOOKED_AT = 8  # masks, for a draft of the class table


class Masks:
    """The masks of a folder, by the scenes that they belong to.

    Args:
        folder: Where they are, at any depth.
        sources: The scenes.
        mixed: Whether scenes lie there as well, so that only what is called so (a_mask.png, masks/a.png) is a mask.
    """

    def __init__(self, folder: Path, sources: Sequence[Source], *, mixed: bool = False) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"the masks must be in a folder, but '{folder}' is none.")
        found = {mask.name: mask for mask in find_sources([folder])[0]}
        if mixed:
            found = {name: found[name] for name in sorted(masks_among(found))}
            called = masks_among(source.name for source in sources)
            paths = {mask.key for mask in found.values()}
            sources = [source for source in sources if source.key not in paths and source.name not in called]
        if not found:
            raise ValueError(f"'{folder}' must hold masks; beside scenes they are called like a_mask.png, masks/a.png.")
        self.scenes, self._masks = list(sources), found
        self._pairs, self._doubtful = pair_masks([source.name for source in sources], found, shared=True)

    def of(self, source: Source) -> Path:
        """The mask of a scene: that of the same name; a ValueError where there is none, or several."""
        name = source.name
        if name in self._pairs:
            return self._masks[self._pairs[name]].paths[0]
        fitting = shorten(self._doubtful.get(name, ()))
        raise ValueError(f"several masks fit: {fitting}" if fitting else f"no mask has its name '{source.stem}'")

    def strays(self) -> list[str]:
        """Masks that belong to none of the scenes."""
        used = {*self._pairs.values(), *(mask for masks in self._doubtful.values() for mask in masks)}
        return sorted(self._masks.keys() - used)

    def draft(self) -> str:
        """A class table of the values that the first masks hold, to be completed: CSV with a column of hints."""
        counts: Counter[str] = Counter()
        for mask in [*self._masks.values()][:_LOOKED_AT]:
            with open_raster(mask.paths[0]) as dataset:
                shrunk = tuple(max(1, side // max(1, max(dataset.shape) // 1024)) for side in dataset.shape)
                pixels = MaskPixels(dataset)
                found, times = np.unique(
                    pixels.read(out_shape=(3 if pixels.kind == "RGB" else 1, *shrunk)), return_counts=True
                )
                for code, count in zip(found.tolist(), times.tolist(), strict=True):
                    value, *hints = pixels.marks(code)
                    counts[f"{value},{TO_BE_NAMED},{{}} {hints[-1] if pixels.kind == 'palette' else ''}".rstrip()] += (
                        count
                    )
        rows = ["colour,name,seen" if next(iter(counts)).startswith("#") else "value,name,seen"]
        rows += [row.format(f"{count / counts.total():.1%}") for row, count in counts.most_common(_MOST)]
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
        self._lossy = dataset.driver == "JPEG"
        self._pixels = MaskPixels(dataset)
        self._unknown: Counter[int] = Counter()
        known = sorted(self._pixels.known(table).items())
        self._known = np.array([value for value, _ in known], np.int64)
        self._code = np.array([number + _FIRST if number >= 0 else _NOTHING for _, number in known], np.int16)
        small = self._pixels.kind != "RGB" and self._pixels.dtype in (np.uint8, np.uint16)
        self._table = self._of(np.arange(1 << 8 * self._pixels.dtype.itemsize)) if small else None

    def read(self, window: Window) -> NDArray[np.int16]:
        pixels = self._pixels.read(window=window)
        codes = self._of(pixels.astype(np.int64)) if self._table is None else self._table[pixels]
        if (unknown := codes == _UNKNOWN).any():
            found, counts = np.unique(pixels[unknown], return_counts=True)
            self._unknown.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        return codes

    def complaint(self) -> str:
        marks = [self._pixels.marks(value) for value, _ in self._unknown.most_common()]
        shown = [f"{held[0]} ({held[-1]})" if self._pixels.kind == "palette" else held[0] for held in marks]
        lossy = " JPEG blurs the colours of a mask: use masks in PNG or TIFF." if self._lossy else ""
        return (
            f"its mask must hold values of the class table only, but holds {shorten(shown, _MOST)}. Add them to the "
            f"table, or call them '{IGNORE}' there.{lossy}"
        )

    def _of(self, values: NDArray[np.int64]) -> NDArray[np.int16]:
        if not len(self._known):
            return np.full(values.shape, _UNKNOWN, np.int16)
        place = np.minimum(np.searchsorted(self._known, values), len(self._known) - 1)
        return np.where(self._known[place] == values, self._code[place], np.int16(_UNKNOWN))
