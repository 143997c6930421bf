"""A tile while it is drawn: colours, labels and shadows, kept in step shape by shape."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 2  # drawn at twice the size, so that edges come out smooth
SHADOW = 120  # of 255: what is left of the light in a shadow

Colour = tuple[int, int, int]
Point = tuple[float, float]  # x to the right, y down; the tile is 0 to 1 in both. Tuples, because most shapes
Points = list[Point]  # have four corners and NumPy costs ten times as much on those


def outline(centre: Point, shape: Sequence[Point], angle: float, scale: float = 1.0) -> Points:
    """`shape`, given around (0, 0), turned by `angle` (radians), scaled and moved to `centre`."""
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return [(centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y) for x, y in shape]


def box(centre: Point, length: float, width: float, angle: float) -> Points:
    """The four corners of a rectangle whose length runs along `angle` (radians)."""
    a, b = length / 2, width / 2
    return outline(centre, ((-a, -b), (a, -b), (a, b), (-a, b)), angle)


def shade(colour: Colour, factor: float, shift: Sequence[float] = (0, 0, 0)) -> Colour:
    """A colour made lighter or darker by `factor`, then shifted channel by channel."""
    red, green, blue = (min(255, max(0, round(c * factor + s))) for c, s in zip(colour, shift, strict=True))
    return red, green, blue


def _wave(rng: np.random.Generator, turn: np.ndarray, scale: float) -> np.ndarray:
    """A smooth random function of `turn`: four harmonics, the higher the weaker."""
    order = np.array([[1], [2], [3], [5]])
    return np.sum(rng.normal(0, scale, (4, 1)) / order * np.cos(order * turn + rng.uniform(0, 6.3, (4, 1))), axis=0)


def blob(rng: np.random.Generator, centre: Point, radius: float) -> Points:
    """A closed, irregular outline of about this radius."""
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    reach = np.clip(1 + _wave(rng, turn, 0.32), 0.3, 2)
    return outline(centre, np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1).tolist(), 0.0, radius)


def edge(rng: np.random.Generator, offset: float, waviness: float) -> Points:
    """A wavy line from left to right, `offset` beside (0, 0); `outline` turns and moves it."""
    along = np.linspace(-1.1, 1.1, 30)
    return np.stack([along, offset + _wave(rng, 2.2 * along, waviness)], axis=1).tolist()


def half_plane(rng: np.random.Generator, angle: float, offset: float, waviness: float) -> Points:
    """Everything on one side of a wavy line through the tile."""
    return outline((0.5, 0.5), [*edge(rng, offset, waviness), (1.1, 2.0), (-1.1, 2.0)], angle)


class Canvas:
    """Three layers of one tile (colour, label index, light) of `size` pixels, drawn in unit coordinates.

    A shape covers what lies under it in every layer, so the label map is exactly what can be seen. Shadows darken the
    colours and leave the labels. Every random choice of the tile comes from `rng`.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self._scale = size * OVERSAMPLING
        self._colours, self._labels, self._light = (
            Image.new(mode, (self._scale, self._scale), fill) for mode, fill in (("RGB", 0), ("L", 0), ("L", 255))
        )
        self._paint, self._mark, self._lit = map(ImageDraw.Draw, (self._colours, self._labels, self._light))
        sun = rng.uniform(0, 2 * math.pi)
        self._sun = (math.cos(sun), math.sin(sun))
        self.angle = rng.uniform(0, math.pi)  # roads, houses and docks of one tile share a direction

    def polygon(self, points: Points, label: int, colour: Colour, height: float = 0.0) -> None:
        """Fill a polygon; with a height it throws a shadow that long."""
        if height:
            shadow = [(x + height * self._sun[0], y + height * self._sun[1]) for x, y in points]
            self._lit.polygon(self._pixels(shadow), fill=SHADOW)
        pixels = self._pixels(points)
        self._paint.polygon(pixels, fill=colour)
        self._mark.polygon(pixels, fill=label)
        self._lit.polygon(pixels, fill=255)

    def disc(
        self, centre: Point, radius: float, label: int, colours: tuple[Colour, Colour], height: float = 0.0
    ) -> None:
        """Fill a disc whose sunny side has the second colour, so that it looks round."""
        (x, y), (east, south) = centre, self._sun
        if height:
            self._lit.ellipse(self._bounds(x + height * east, y + height * south, radius), fill=SHADOW)
        bounds = self._bounds(x, y, radius)
        self._paint.ellipse(bounds, fill=colours[0])
        self._mark.ellipse(bounds, fill=label)
        self._lit.ellipse(bounds, fill=255)
        sunny = self._bounds(x - 0.3 * radius * east, y - 0.3 * radius * south, 0.6 * radius)
        self._paint.ellipse(sunny, fill=colours[1])

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """Paint on what is there already (road markings, ridges): the label stays."""
        self._paint.line(self._pixels(points), fill=colour, width=max(1, round(width * self._scale)))

    def stripes(self, points: Points, label: int, colours: tuple[Colour, Colour], angle: float, spacing: float) -> None:
        """Fill a polygon with rows of two colours along `angle`."""
        pattern, pixels = Image.new("RGB", self._colours.size, colours[0]), self._pixels(points)
        pen, stroke = ImageDraw.Draw(pattern), max(1, round(spacing * self._scale / 2))
        for row in range(-int(0.75 / spacing), int(0.75 / spacing) + 1):
            ends = outline((0.5, 0.5), ((-1, row * spacing), (1, row * spacing)), angle)
            pen.line(self._pixels(ends), fill=colours[1], width=stroke)
        cut = Image.new("1", self._colours.size, 0)
        ImageDraw.Draw(cut).polygon(pixels, fill=1)
        self._colours.paste(pattern, mask=cut)
        self._mark.polygon(pixels, fill=label)
        self._lit.polygon(pixels, fill=255)

    def lies_on(self, points: Points, labels: Collection[int]) -> bool:
        """Whether some of the points fall inside the tile, and all of those on one of `labels`."""
        scale = self._scale
        pixels = [(int(x * scale), int(y * scale)) for x, y in points if 0 <= x < 1 and 0 <= y < 1]
        return bool(pixels) and all(self._labels.getpixel(pixel) in labels for pixel in pixels)

    def find_place(self, labels: Collection[int], radius: float, attempts: int = 12) -> Point | None:
        """A random point whose surroundings within `radius` lie on `labels`; None if luck does not find one."""
        for x, y in self.rng.uniform(0.04, 0.96, (attempts, 2)).tolist():
            corners = box((x, y), 1.4 * radius, 1.4 * radius, self.angle)
            tips = [(x + radius, y), (x - radius, y), (x, y + radius), (x, y - radius)]
            if self.lies_on([(x, y), *corners, *tips], labels):
                return x, y
        return None

    def develop(self, mottle: np.ndarray, grain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Texture, light, haze and sensor noise: the photograph of what was drawn, and its labels, both uint8.

        `mottle` and `grain`, (C,) float32, are the relative strengths of the coarse and the fine texture of each label.
        """
        rng, size = self.rng, self.size
        labels = np.asarray(self._labels)[OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING].copy()
        light = np.asarray(self._light.reduce(OVERSAMPLING), np.float32) / 255
        texture = mottle[labels] * (self._clouds(5) + 0.6 * self._clouds(17)) + grain[labels] * self._clouds(size)
        slope = np.linspace(-0.5, 0.5, size, dtype=np.float32)
        tilt = rng.normal(0, 0.1, (2, 1)).astype(np.float32)
        light *= (1 + texture) * (1 + tilt[0] * slope[:, None] + tilt[1] * slope)
        haze = rng.uniform(0, 0.22)
        gain = (1 - haze) * rng.uniform(0.75, 1.22) * rng.normal(1, 0.03, 3)  # exposure and white balance
        image = np.asarray(self._colours.reduce(OVERSAMPLING), np.float32) * light[..., None]
        image *= gain.astype(np.float32)
        image += (haze * np.array([188, 196, 208])).astype(np.float32)
        image += (rng.uniform(1, 5) * self._clouds(size))[..., None]
        return image.clip(0, 255, out=image).astype(np.uint8), labels

    def _clouds(self, cells: int) -> np.ndarray:
        noise = self.rng.standard_normal((cells, cells), np.float32)
        if cells == self.size:
            return noise
        return np.asarray(Image.fromarray(noise).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def _pixels(self, points: Points) -> Points:
        return [(x * self._scale, y * self._scale) for x, y in points]

    def _bounds(self, x: float, y: float, radius: float) -> Points:
        return self._pixels([(x - radius, y - radius), (x + radius, y + radius)])
