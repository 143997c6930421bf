"""Tiles of any number of bands: which are read, how they are scaled for an encoder, and how people see them.

A tile is one raster that holds all bands, or one file for each (Sentinel-2, Landsat). It is read as it is, in the
units of its file, as float32 with NaN where there is no data. Without `Bands` a tile is a picture of 8-bit RGB
(`datasets/images.py`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from macl_tf.datasets.band_names import SCALINGS
from macl_tf.datasets.images import MAX_PIXELS, RGB, Rgb
from macl_tf.datasets.picture_kinds import PictureError, broken, too_many_pixels
from macl_tf.datasets.tiff import open_raster

Floats = NDArray[np.float32]
LOW, HIGH = 2.0, 98.0  # percentiles of the training tiles: what is drawn black and white, and the scaling by them
# Mean and deviation that a band gets by "deviation": those of ImageNet's pixels, which pretrained networks expect.
PIXEL_MEAN, PIXEL_DEVIATION = 114.4, 57.6
_SAMPLED_TILES, _SAMPLED_PIXELS = 2000, 4096
# How bands are called, of the colours red, green and blue; those of Sentinel-2, then those of Landsat 8 and 9.
_COLOURS = (("red", "r"), ("green", "g"), ("blue", "b"))
_OF_SATELLITES = (("B04", "B03", "B02"), ("SR_B4", "SR_B3", "SR_B2"))
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Bands:
    """The bands of a tile.

    Args:
        names: Of the N bands that are read, in their order: numbers from 1 as GDAL counts, or what a file calls them,
            or the ends of the names of its files.
        rgb: Positions among them of red, green and blue, for pictures and for networks that know three; of one or two
            bands the first stands for all.
        template: Of tiles with a file for each band, "{tile}_{band}.tif" with its folder; "" for one file.
        mean: Of the training tiles, by band, in the units of the files. Empty until `measured`.
        deviation: The same, > 0.
        low: 2nd percentile by band.
        high: 98th.
        scaling: Of `SCALINGS`.
    """

    names: tuple[str, ...]
    rgb: tuple[int, ...]
    template: str = ""
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    scaling: str = SCALINGS[0]

    @property
    def channels(self) -> int:
        """N."""
        return len(self.names)

    @property
    def dtype(self) -> type:
        """Of the values of a tile."""
        return np.float32

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Bands:
        """The opposite of `to_dict`."""
        given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**given)

    # Reading

    def files(self, tile: Path) -> list[Path]:
        """Of a tile: itself, or one for each band."""
        if not self.template or tile.is_file():
            return [tile]
        return [Path(self.template.format(tile=tile, band=band)) for band in self.names]

    def read(self, data: bytes | Path, name: str, *, max_pixels: int = MAX_PIXELS) -> Floats:
        """A tile (H, W, N) float32, NaN where a band has no data; a PictureError that calls it `name` says why not.

        With a file for each band `data` is the path without band and suffix; all are resampled to the finest. Or it is
        one raster that holds just these bands, in their order where they have no names.
        """
        if not self.template:
            return _read(data, name, self.names, max_pixels)
        if isinstance(data, bytes) or data.is_file():
            try:
                return _read(data, name, self.names, max_pixels, in_order=True)
            except PictureError as error:
                if error.problem == "pixels":
                    raise
                rule = f"{name} must be one file of the bands {', '.join(self.names)}"
                got = error.got or "another file"
                raise PictureError(f"{rule}. {_remedy(self.names)}", "bands", got, _remedy(self.names)) from error
        files = self.files(data)
        if absent := [file.name for file in files if not file.is_file()]:
            raise broken(name, f"{len(absent)} of its {len(files)} bands are not there ({absent[0]})")
        read = [_read(file, f"{name} ({file.name})", (), max_pixels)[..., :1] for file in files]
        height, width = (max(one.shape[axis] for one in read) for axis in (0, 1))
        return np.concatenate([_resampled(one, height, width) for one in read], axis=2)

    def read_resized(self, data: bytes | Path, name: str, size: int, *, max_pixels: int = MAX_PIXELS) -> Floats:
        """What `resize` makes of what `read` reads."""
        return self.resize(self.read(data, name, max_pixels=max_pixels), size)

    def resize(self, tile: Floats, size: int) -> Floats:
        """(H, W, N) resampled to a square, antialiased by a triangle filter; what is mostly no data is NaN."""
        if size <= 0:
            raise ValueError(f"size must be > 0, got {size}.")
        return _resampled(tile, size, size)

    def show(self, tile: Floats) -> NDArray[np.uint8]:
        """The picture (H, W, 3) uint8 that people see: red, green and blue from 2nd percentile to 98th, NaN black.

        255 (x - low) / (high - low), clipped
        """
        low, high = (np.asarray(values)[list(self.rgb)] for values in (self.low, self.high))
        shown = 255 * (tile[..., list(self.rgb)] - low) / (high - low)
        return np.clip(np.nan_to_num(shown), 0, 255).astype(np.uint8)

    def blank(self, size: int) -> Floats:
        """A tile without content."""
        return np.zeros((size, size, self.channels), np.float32)

    # Scaling

    def measured(
        self, read: Callable[[int], Floats], rows: Sequence[int] | NDArray[Any], *, progress: bool = True
    ) -> Bands:
        """The same with the statistics of tiles, of 2,000 of them at most, evenly spread; unreadable ones are left out.

        Raises:
            ValueError: If a band holds no data, or the same value everywhere.
        """
        chosen = np.asarray(rows)[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED_TILES)).astype(int)]
        rng, samples = np.random.default_rng(0), []
        for row in tqdm(chosen, "statistics of bands", unit="tile", disable=not progress, delay=1):
            with suppress(PictureError):
                pixels = read(int(row)).reshape(-1, self.channels)
                samples.append(pixels[rng.integers(0, len(pixels), min(len(pixels), _SAMPLED_PIXELS))])
        if not samples:
            raise ValueError(f"a tile must be readable to measure bands, but none of {len(chosen)} that were tried is.")
        values = np.concatenate(samples).astype(np.float64)
        for name, column in zip(self.names, values.T, strict=True):
            known = column[~np.isnan(column)]
            if not len(known) or known.min() == known.max():
                got = f"{known[0]:g} everywhere" if len(known) else "no data"
                raise ValueError(f"band {name} must differ among the training tiles, got {got}. Leave it out of bands.")
        low, high = np.nanpercentile(values, (LOW, HIGH), axis=0)
        wide = high > low  # a band that is nearly constant has a range of its own
        low, high = np.where(wide, low, np.nanmin(values, 0)), np.where(wide, high, np.nanmax(values, 0))
        mean, deviation, low, high = (
            tuple(map(float, found)) for found in (np.nanmean(values, 0), np.nanstd(values, 0), low, high)
        )
        return dataclasses.replace(self, mean=mean, deviation=deviation, low=low, high=high)

    def to_pixels(self) -> tuple[list[float], list[float], list[float]]:
        """Mean m, factor a and shift c by band of (x - m) a + c, what a network for pixels of 0 to 255 gets.

        By "deviation" the mean and deviation of ImageNet's pixels; by "percentiles" 0 at the 2nd and 255 at the 98th.
        Between them stands 0 for what has no data, the mean of its band.
        """
        mean, deviation, low, high = (np.asarray(v) for v in (self.mean, self.deviation, self.low, self.high))
        if self.scaling == "percentiles":
            factor = 255 / (high - low)
            shift = (mean - low) * factor
        else:
            factor, shift = PIXEL_DEVIATION / deviation, np.full(self.channels, PIXEL_MEAN)
        return mean.tolist(), factor.tolist(), shift.tolist()


Reader = Rgb | Bands


def reader_of(values: dict[str, Any] | None) -> Reader:
    """What reads tiles as a run or an encoder says it: `Bands.to_dict`, or None for 8-bit RGB."""
    return RGB if values is None else Bands.from_dict(values)


def choose_bands(asked: str, rgb: str, files: Iterable[Path], *, scaling: str = SCALINGS[0]) -> Bands:
    """The bands that are asked for, by what the first file that can be read says it has.

    Args:
        asked: "all", or numbers from 1 or names with commas between: "4,3,2", "B04,B03,B02,B08".
        rgb: Those of them that are red, green and blue, in the same way; "" for what the file or the names say, else
            the first three.
        files: Of the archive.
        scaling: Of `SCALINGS`.

    Raises:
        ValueError: For a band that is not there, or is asked for twice.
    """
    files = list(files)
    wanted = [word.strip() for word in asked.split(",") if word.strip()]
    if template := _template(wanted, files):
        return chosen_by_name(asked, rgb, known=wanted, template=template, scaling=scaling)
    known, colours = _header(files)
    return chosen_by_name(asked, rgb, known=known, colours=colours, scaling=scaling)


def chosen_by_name(
    asked: str,
    rgb: str,
    *,
    known: Sequence[str],
    colours: Sequence[str] = (),
    template: str = "",
    scaling: str = SCALINGS[0],
) -> Bands:
    """As `choose_bands`, of bands with known names, of which files declare those colours."""
    wanted = [word.strip() for word in asked.split(",") if word.strip()]
    names = tuple(known) if asked.strip() == "all" else tuple(_named(word, known, "bands") for word in wanted)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"bands must be 'all' or different bands of {', '.join(known)}, got '{asked}'.")
    declared = dict(zip(known, colours or [""] * len(known), strict=True))
    return Bands(names, _rgb_of(rgb, names, declared), template, scaling=scaling)


def tiles_listed(listed: Iterable[tuple[str, OSError | None]], bands: Bands) -> Iterator[tuple[str, OSError | None]]:
    """The tiles among an archive's images, as `walk.list_images` gives them: what is before their first band."""
    if not bands.template:
        yield from listed
        return
    inside = re.escape(bands.template).replace(r"\{tile\}", "(.+)")
    form = re.compile(inside.replace(r"\{band\}", f"({'|'.join(map(re.escape, bands.names))})"))
    last, before = "", set[str]()
    for name, error in listed:
        match = form.fullmatch(name)
        if error is not None:
            yield name, error
        elif match:
            folder = name.rpartition("/")[0]
            if folder != last:  # what a folder holds comes together
                last, before = folder, set()
            if match[1] not in before:
                before.add(match[1])
                yield match[1], None


def _template(wanted: Sequence[str], files: Sequence[Path]) -> str:
    """As {tile}_{band}.tif, if the names that are asked for are those of files, each of one band; "" if not."""
    if not wanted or all(map(_DIGITS.fullmatch, wanted)):
        return ""
    for file in files:
        for band in wanted:
            match = re.fullmatch(rf"(.+[_.-]){re.escape(band)}(\.\w+)", file.name)
            if match and all(file.with_name(f"{match[1]}{other}{match[2]}").is_file() for other in wanted):
                return f"{{tile}}{match[1][-1]}{{band}}{match[2]}"
    return ""


def _header(files: Sequence[Path]) -> tuple[tuple[str, ...], list[str]]:
    """Names and colours of the bands of the first file that can be read."""
    reason = "there is none"
    for file in files:
        try:
            with open_raster(file) as dataset:
                described = [text or "" for text in dataset.descriptions]
                numbers = [str(number) for number in range(1, dataset.count + 1)]
                unique = len(set(described)) == len(described) and all(described)
                return tuple(described if unique else numbers), [one.name for one in dataset.colorinterp]
        except Exception as error:  # rasterio's, GDAL's own, which have no public class, and the system's
            reason = reason if reason != "there is none" else f"{file.name}: {error}"
    raise ValueError(f"bands are those of a file that can be read, but {reason}.")


def _named(word: str, known: Sequence[str], setting: str) -> str:
    """The band that a word means, by name or by number."""
    found = {name.casefold(): name for name in known}.get(word.casefold())
    if found is None and _DIGITS.fullmatch(word) and 1 <= int(word) <= len(known):
        found = known[int(word) - 1]
    if found is None:
        raise ValueError(
            f"{setting} must name bands of the tiles, {', '.join(known)} or their numbers from 1, got '{word}'."
        )
    return found


def _rgb_of(asked: str, names: tuple[str, ...], colours: dict[str, str]) -> tuple[int, ...]:
    if asked:
        words = [word.strip() for word in asked.split(",")]
        if len(words) != 3:
            raise ValueError(f"rgb must be three bands, those for red, green and blue, got '{asked}'.")
        return tuple(names.index(_named(word, names, "rgb")) for word in words)
    declared = [next((n for n in names if colours.get(n) == colour[0]), None) for colour in _COLOURS]
    called = [next((n for n in names if n.casefold() in colour), None) for colour in _COLOURS]
    of_satellite = [[name if name in names else None for name in known] for known in _OF_SATELLITES]
    for found in (declared, called, *of_satellite):
        if all(found):
            return tuple(names.index(str(name)) for name in found)
    return (0, 1, 2) if len(names) >= 3 else (0, 0, 0)


def _read(data: bytes | Path, name: str, names: Sequence[str], max_pixels: int, *, in_order: bool = False) -> Floats:
    """Bands of a raster (H, W, N), all where no names are given.

    With `in_order` those of a raster that has as many, and names none of them, are taken as they come.
    """
    try:
        with open_raster(data) as dataset:
            if dataset.width * dataset.height > max_pixels:
                raise too_many_pixels(name, f"{dataset.width} x {dataset.height}", max_pixels)
            described = [text or "" for text in dataset.descriptions]
            numbers = list(range(1, dataset.count + 1))
            if in_order and dataset.count == len(names) and not set(names) & set(described):
                names = ()
            try:
                chosen = [described.index(one) + 1 if one in described else int(one) for one in names] or numbers
            except ValueError:
                chosen = [0]
            if not set(chosen) <= set(numbers) or any("complex" in dataset.dtypes[number - 1] for number in chosen):
                got = f"{dataset.count} band{'s' * (dataset.count != 1)} of {dataset.dtypes[0]}"
                told = f" ({', '.join(filter(None, described))})" if any(described) else ""
                rule = f"{name} must have the bands {', '.join(names)}, real numbers"
                raise PictureError(f"{rule}, got {got}{told}.", "bands", f"{got}{told}", _remedy(names))
            values = dataset.read(chosen).astype(np.float32)
            for place, number in enumerate(chosen):
                values[place][_without_data(dataset, number, values[place])] = np.nan
            return np.ascontiguousarray(np.moveaxis(values, 0, 2))
    except PictureError:
        raise
    except Exception as error:  # as above
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or cut off"
        raise broken(name, reason) from error


def _remedy(names: Sequence[str]) -> str:
    """What a tile must be."""
    return f"Give one raster of the bands {', '.join(names)}: gdalbuildvrt -separate, then gdal_translate, stacks them."


def _without_data(dataset: Any, number: int, values: Floats) -> NDArray[np.bool_]:
    """Where a band has no data: by its nodata value or a mask; never by an alpha band, which may be near infrared."""
    flags = {flag.name for flag in dataset.mask_flag_enums[number - 1]}
    missing = ~np.isfinite(values)
    if "nodata" in flags or ("per_dataset" in flags and "alpha" not in flags):
        missing |= dataset.read_masks(number) == 0
    return missing


def _resampled(tile: Floats, height: int, width: int) -> Floats:
    """(H, W, N) to (height, width, N); NaN takes no part, and is where it has more than half of the weight."""
    if tile.shape[:2] == (height, width):
        return tile
    known = ~np.isnan(tile)
    whole = bool(known.all())
    result = _triangle(tile if whole else np.where(known, tile, 0), height, width)
    if whole:
        return result
    weight = _triangle(known.astype(np.float32), height, width)
    return np.where(weight >= 0.5, result / np.maximum(weight, 0.5), np.float32(np.nan))


def _triangle(tile: Floats, height: int, width: int) -> Floats:
    bands = [np.ascontiguousarray(tile[..., band], np.float32) for band in range(tile.shape[2])]
    resized = [Image.fromarray(band).resize((width, height), Image.Resampling.BILINEAR) for band in bands]
    return np.stack([np.asarray(band) for band in resized], axis=2)
