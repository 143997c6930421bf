"""What `tile` is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FORMATS = ("tif", "png", "jpg")


@dataclass(frozen=True)
class Options:
    """How scenes are cut.

    Args:
        size: Side of a tile, pixels.
        stride: Pixels from one tile to the next; 0 is `size`, less overlaps.
        resolution: Metres a pixel to which scenes are resampled; 0 keeps their own.
        min_area: Share of a tile in [0, 1] that a label must cover to count; 0 is any pixel.
        bands: Numbers of the bands, from 1, in the order of the tile's; empty for all.
        max_nodata: Share of a tile in [0, 1] that may be without data.
        format: One of `FORMATS`.
        assets: Of STAC items the assets whose bands are joined.
        label_column: Column of a vector file that holds the labels.
        layer: Its layer, where it has several.

    Raises:
        ValueError: For a value that breaks its rule.
    """

    size: int = 256
    stride: int = 0
    resolution: float = 0.0
    min_area: float = 0.01
    bands: tuple[int, ...] = ()
    max_nodata: float = 0.5
    format: str = "tif"
    assets: tuple[str, ...] = ()
    label_column: str = ""
    layer: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stride", self.stride or self.size)
        for name, least in (("size", 8), ("stride", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least} pixels, got {getattr(self, name)}.")
        if not 0 <= self.resolution < float("inf"):
            raise ValueError(f"resolution must be > 0 metres a pixel, got {self.resolution}.")
        for name in ("min_area", "max_nodata"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {getattr(self, name)}.")
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}.")
        if any(band < 1 for band in self.bands):
            raise ValueError(f"bands must be numbers from 1, got {','.join(map(str, self.bands))}.")

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def words_in(text: str) -> tuple[str, ...]:
    """What stands between the commas of an option."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers_in(text: str, name: str) -> tuple[int, ...]:
    """The same of numbers."""
    try:
        return tuple(map(int, words_in(text)))
    except ValueError:
        raise ValueError(f"{name} must be numbers like 4,3,2, got {text}.") from None
