"""A scene of any size, opened through GDAL and read window by window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from macl_tf.datasets.tiff import ignore_missing_places
from macl_tf.tiling.sources import Source

CACHE = 384 << 20  # bytes of decoded blocks that GDAL keeps, of all threads together
_METRES_A_DEGREE = 111_320.0
_LOOKS = 5  # windows along each side in which an alpha band is looked at


class Grid(NamedTuple):
    """The pixels of a scene as they are cut, and where they are."""

    width: int
    height: int
    transform: Any  # affine, from (column, row) to the coordinate system
    crs: Any  # None where the scene says none

    @property
    def placed(self) -> bool:
        """Whether it is known where its pixels are."""
        return self.crs is not None and not self.transform.is_identity

    def part(self, row: int, column: int, height: int, width: int) -> Grid:
        """The grid of a window."""
        a, b, _, d, e, _ = self.transform[:6]
        x, y = self.points([[column, row]])[0]
        return Grid(width, height, type(self.transform)(a, b, x, d, e, y), self.crs)

    def points(self, pixels: Any) -> NDArray[np.float64]:
        """(N, 2) coordinates of (N, 2) columns and rows."""
        # The two versions of the package affine have different operators.
        a, b, x, d, e, y = self.transform[:6]
        columns, rows = np.asarray(pixels, np.float64).T
        return np.stack([a * columns + b * rows + x, d * columns + e * rows + y], axis=1)

    def pixels(self, points: Any) -> NDArray[np.float64]:
        """(N, 2) columns and rows of (N, 2) coordinates: a pixel's centre is at a half."""
        return Grid(0, 0, ~self.transform, None).points(points)

    def corners(self) -> NDArray[np.float64]:
        """(4, 2) coordinates of the outer corners, from the upper left one clockwise."""
        return self.points([[0, 0], [self.width, 0], [self.width, self.height], [0, self.height]])


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL as it is used here, in this thread."""
    ignore_missing_places()
    with rasterio.Env(GDAL_NUM_THREADS="1", VRT_SHARED_SOURCE="0"):
        yield


@contextmanager
def bounded_cache() -> Iterator[None]:
    """A cache of blocks of `CACHE` bytes, for all threads of the process."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        yield


def open_raster(path: Path) -> Any:
    """The rasterio dataset of any raster that GDAL reads; an OSError or a ValueError says why it cannot be opened."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError("its name must be UTF-8 text for GDAL. Rename it.") from None
    dataset = rasterio.open(path.absolute(), sharing=False)
    if dataset.count == 0:
        held = len(dataset.subdatasets)
        dataset.close()
        raise ValueError(
            f"it must hold bands, but holds {held} rasters. Write the one that is meant as GeoTIFF: gdal_translate."
        )
    return dataset


class Scene:
    """An open scene, for one thread: its bands, on one grid; `block` (height, width) is decoded at once.

    Args:
        source: The rasters; several are laid on the finest one's grid.
        bands: Numbers of the bands that are read, from 1, through all rasters; empty for all but a mask of alpha.
        resolution: Metres a pixel, 0 for the scene's own.

    Raises:
        ValueError: Where a band or a place is missing that is asked for.
    """

    def __init__(self, source: Source, bands: Sequence[int] = (), resolution: float = 0.0) -> None:
        with ExitStack() as stack:
            originals = [stack.enter_context(open_raster(path)) for path in source.paths]
            self.files = tuple(sorted({name for dataset in originals for name in dataset.files}))
            self.original = _finest(originals)
            self.grid = _grid(self.original, resolution)
            self._datasets = [_on_grid(dataset, self.grid, stack) for dataset in originals]
            alphas = [_mask_of_alpha(dataset) for dataset in originals]
            every = [(place, band) for place, dataset in enumerate(originals) for band in dataset.indexes]
            if unknown := [band for band in bands if not 1 <= band <= len(every)]:
                raise ValueError(f"bands must be from 1 to {len(every)} here, got {unknown[0]}.")
            usual = [(place, band) for place, band in every if band != alphas[place]]
            self.bands = [every[band - 1] for band in bands] if bands else usual
            self._alphas = [(place, band) for place, band in enumerate(alphas) if band is not None]
            read = [(originals[place], band) for place, band in self.bands]
            self.dtype = np.result_type(*(dataset.dtypes[band - 1] for dataset, band in read))
            self.descriptions = [dataset.descriptions[band - 1] or "" for dataset, band in read]
            self.colours = [dataset.colorinterp[band - 1] for dataset, band in read]
            # Of the bands' own type: a whole array is compared with it. One that the type cannot hold marks nothing.
            said = [dataset.nodatavals[band - 1] for dataset, band in read]
            self._nodata = [self.dtype.type(value) if _fits(value, self.dtype) else None for value in said]
            one = None if len({str(value) for value in self._nodata}) > 1 else self._nodata[0]
            self.nodata = None if one is None else one.item()
            # Resampled, an internal mask is a band of its own.
            resampled = [place for place, laid in enumerate(self._datasets) if laid.count > originals[place].count]
            self._alphas += [(place, self._datasets[place].count) for place in resampled]
            self._masked = _masked([dataset.mask_flag_enums[band - 1] for dataset, band in read]) and not resampled
            self.palette = len(read) == 1 and self.colours[0] is ColorInterp.palette
            self.colourmap = self.original.colormap(1) if self.palette else {}
            self._held = np.empty(0, self.dtype)
            self.block = _finest(self._datasets).block_shapes[0]
            self.day = str(self.original.tags().get("TIFFTAG_DATETIME", ""))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Closes its files."""
        self._stack.close()

    def read(self, row: int, column: int, height: int, width: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Bands (B, height, width) from a pixel on, and where there is something (height, width).

        Beyond the scene's edge there is nothing: nodata, or 0 where the scene has none. The arrays are the scene's own,
        until it is read again: fresh ones cost as much as a fifth of decoding.
        """
        inside = (min(height, self.grid.height - row), min(width, self.grid.width - column))
        window = Window(column, row, inside[1], inside[0])
        pixels = len(self.bands) * inside[0] * inside[1]
        if self._held.size < pixels:
            self._held = np.empty(pixels, self.dtype)
        values = self._held[:pixels].reshape(len(self.bands), *inside)
        if len(self._datasets) == 1:
            self._datasets[0].read([band for _, band in self.bands], window=window, out=values)
        else:
            for number, (place, band) in enumerate(self.bands):
                self._datasets[place].read(band, window=window, out=values[number])
        there = self._there(values, window)
        if inside != (height, width):
            values = _padded(values, (len(values), height, width), self.nodata or 0)
            there = _padded(there, (height, width), False)
        return values, there

    def _there(self, values: NDArray[Any], window: Window) -> NDArray[np.bool_]:
        if self.dtype.kind != "f" and not self._alphas and not self._masked and None in self._nodata:
            return np.broadcast_to(np.True_, values.shape[1:])
        there = np.zeros(values.shape[1:], bool)
        for band, nodata in zip(values, self._nodata, strict=True):
            found = ~np.isnan(band) if self.dtype.kind == "f" else np.ones(band.shape, bool)
            if nodata is not None:  # of not a number this says nothing, and is said above
                found &= band != nodata
            there |= found
            if there.all():
                break
        for place, band in self._alphas:
            there &= self._datasets[place].read(band, window=window) > 0
        if self._masked:
            for dataset in self._datasets:
                there &= dataset.dataset_mask(window=window) > 0
        return there


def _finest(datasets: Sequence[Any]) -> Any:
    if len(datasets) > 1 and any(dataset.crs is None for dataset in datasets):
        raise ValueError("rasters of one scene must have coordinate systems, to be laid on one grid.")
    return min(datasets, key=lambda dataset: abs(dataset.transform.determinant))


def _grid(dataset: Any, resolution: float) -> Grid:
    own = Grid(dataset.width, dataset.height, dataset.transform, dataset.crs)
    if not resolution:
        return own
    if not own.placed:
        raise ValueError(
            "resolution needs a scene with a coordinate system, which this one does not have. Leave it out."
        )
    a, b, left, d, e, top = own.transform[:6]
    x_metres, y_metres = _metres_a_unit(own)
    pixel = (math.hypot(a * x_metres, d * y_metres), math.hypot(b * x_metres, e * y_metres))
    x, y = (resolution / side for side in pixel)
    if abs(x - 1) < 1e-6 and abs(y - 1) < 1e-6:
        return own
    width, height = max(1, round(own.width / x)), max(1, round(own.height / y))
    x, y = own.width / width, own.height / height
    return Grid(width, height, type(own.transform)(a * x, b * y, left, d * x, e * y, top), own.crs)


def _metres_a_unit(grid: Grid) -> tuple[float, float]:
    if grid.crs.is_geographic:
        _, latitude = grid.points([[grid.width / 2, grid.height / 2]])[0]
        return _METRES_A_DEGREE * math.cos(math.radians(latitude)), _METRES_A_DEGREE
    factor = float(grid.crs.linear_units_factor[1])
    return factor, factor


def _on_grid(dataset: Any, grid: Grid, stack: ExitStack) -> Any:
    """The dataset, or it resampled where its grid is another one."""
    if (dataset.width, dataset.height, dataset.transform, dataset.crs) == grid:
        return dataset
    shrinks = abs(dataset.transform.determinant) < abs(grid.transform.determinant)
    way = Resampling.average if shrinks else Resampling.bilinear
    if len(dataset.indexes) == 1 and dataset.colorinterp[0] is ColorInterp.palette:
        way = Resampling.nearest
    place = {"crs": grid.crs, "transform": grid.transform, "width": grid.width, "height": grid.height}
    masked = dataset.nodata is None and _masked(dataset.mask_flag_enums)
    return stack.enter_context(WarpedVRT(dataset, **place, resampling=way, add_alpha=masked))


def _masked(flags: Sequence[Sequence[Any]]) -> bool:
    """Whether a mask beside the bands says where there is something."""
    found = {flag for band in flags for flag in band}
    return MaskFlags.per_dataset in found and MaskFlags.alpha not in found


def _mask_of_alpha(dataset: Any) -> int | None:
    """The last band where it is declared alpha and is one, 0 or 255: near infrared is called alpha by many programs."""
    last = dataset.count
    if last < 2 or dataset.colorinterp[-1] is not ColorInterp.alpha:
        return None
    highest = np.iinfo(dataset.dtypes[-1]).max if np.dtype(dataset.dtypes[-1]).kind in "ui" else 1
    for row in np.linspace(0, dataset.height - 1, _LOOKS).astype(int):
        for column in np.linspace(0, dataset.width - 1, _LOOKS).astype(int):
            window = Window(column, row, min(64, dataset.width - column), min(64, dataset.height - row))
            if not np.isin(dataset.read(last, window=window), (0, highest)).all():
                return None
    return int(last)


def _fits(value: float | None, dtype: np.dtype[Any]) -> bool:
    if value is None or dtype.kind == "f":
        return value is not None
    return math.isfinite(value) and value == int(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _padded(values: NDArray[Any], shape: tuple[int, ...], value: Any) -> NDArray[Any]:
    whole = np.full(shape, value, values.dtype)
    whole[tuple(slice(0, side) for side in values.shape)] = values
    return whole
