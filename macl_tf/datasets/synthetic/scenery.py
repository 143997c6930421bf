"""Scenes of the synthetic tiles: how each label looks, and how roads, houses, harbours and the rest are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from macl_tf.datasets.synthetic.canvas import Canvas, Colour, Point, Points, blob, box, edge, half_plane, outline, shade


@dataclass(frozen=True)
class Cover:
    """How a label looks: the colours it comes in, how far they stray, its coarse and its fine texture."""

    colours: tuple[Colour, ...]
    spread: float = 10.0
    mottle: float = 0.0
    grain: float = 0.03


# Palettes overlap on purpose (roofs and pavement, sand and bare soil, courts and grass): colour alone must not do.
COVERS = {
    "airplane": Cover(((228, 230, 232), (205, 208, 212), (188, 190, 186)), 8),
    "bare-soil": Cover(((160, 132, 100), (132, 104, 80), (176, 150, 118), (120, 108, 92)), 12, 0.09, 0.05),
    "buildings": Cover(
        ((150, 84, 66), (128, 128, 130), (206, 204, 196), (104, 84, 70), (90, 96, 104), (172, 146, 112)), 14
    ),
    "cars": Cover(((214, 214, 216), (44, 44, 50), (150, 34, 34), (52, 72, 130), (120, 122, 124), (190, 184, 160)), 12),
    "court": Cover(((70, 116, 88), (152, 84, 66), (66, 98, 140), (100, 122, 82)), 10, 0.0, 0.02),
    "dock": Cover(((150, 138, 120), (176, 172, 164), (120, 104, 86)), 10, 0.02, 0.05),
    "field": Cover(((104, 124, 66), (150, 142, 86), (128, 104, 74), (82, 108, 60), (168, 156, 104)), 12, 0.04, 0.04),
    "grass": Cover(((100, 122, 72), (124, 130, 84), (82, 110, 66), (146, 140, 96)), 10, 0.07, 0.05),
    "pavement": Cover(((118, 118, 120), (92, 94, 98), (150, 148, 144), (136, 128, 118)), 10, 0.03, 0.03),
    "sand": Cover(((204, 184, 148), (184, 164, 130), (214, 202, 174)), 9, 0.04, 0.03),
    "ship": Cover(((222, 222, 220), (190, 196, 200), (146, 110, 84), (90, 96, 110)), 10),
    "tanks": Cover(((220, 220, 216), (184, 182, 174), (150, 154, 158), (170, 130, 106)), 9),
    "trees": Cover(((58, 82, 48), (72, 92, 56), (48, 70, 50), (88, 96, 58)), 8, 0.06, 0.09),
    "water": Cover(((58, 84, 100), (74, 100, 96), (44, 62, 80), (92, 104, 88), (62, 108, 124)), 9, 0.05, 0.02),
}
LABEL_NAMES = tuple(COVERS)
LABEL = {name: index for index, name in enumerate(LABEL_NAMES)}
LAND = frozenset(LABEL[name] for name in ("bare-soil", "field", "grass", "sand"))
BUILT = LAND | {LABEL["pavement"]}
PAVEMENT = frozenset({LABEL["pavement"]})
WATER = frozenset({LABEL["water"]})


class Scene(Canvas):
    """A canvas that knows the labels, and where cars may stand and ships may lie."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        super().__init__(size, rng)
        self.slots: list[tuple[Point, float]] = []
        self.berths: list[tuple[Point, float]] = []
        self.shore = 0.0  # where the sea begins, beside the middle of the tile

    def colour(self, name: str) -> Colour:
        """One of the label's colours, strayed in brightness and a little in hue."""
        cover = COVERS[name]
        stray = self.rng.standard_normal(4) * cover.spread
        base = cover.colours[self.rng.integers(len(cover.colours))]
        return shade(base, 1.0, (stray[0] + 0.25 * stray[1:]).tolist())

    def fill(self, name: str, points: Points) -> None:
        """A polygon of one cover."""
        self.polygon(points, LABEL[name], self.colour(name))


def ground(scene: Scene, name: str) -> None:
    """One cover over the whole tile."""
    scene.fill(name, [(0, 0), (1, 0), (1, 1), (0, 1)])


def patch(scene: Scene, name: str) -> None:
    """A blob or one side of the tile."""
    rng = scene.rng
    if rng.random() < 0.4:
        scene.fill(name, half_plane(rng, rng.uniform(0, 6.3), rng.uniform(0.0, 0.3), 0.04))
    else:
        scene.fill(name, blob(rng, (rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9)), rng.uniform(0.18, 0.36)))


def road(scene: Scene, lanes: tuple[int, int] = (1, 3)) -> None:
    """A straight road with one to several lanes, sometimes a crossing."""
    rng, colour, lane = scene.rng, scene.colour("pavement"), 0.085
    paint = shade(colour, 1.5)
    count = int(rng.integers(*lanes, endpoint=True))
    for turn in (0.0, math.pi / 2)[: 1 + (rng.random() < 0.3)]:
        angle = scene.angle + turn
        (middle,) = outline((0.5, 0.5), ((0, rng.uniform(-0.32, 0.32)),), angle)
        scene.polygon(box(middle, 3, lane * count, angle), LABEL["pavement"], colour)
        for line in range(1, count):  # the dashes between the lanes
            across = (line - count / 2) * lane
            for step in range(-6, 6):
                dash = outline(middle, ((step * 0.13, across), (step * 0.13 + 0.06, across)), angle)
                scene.line(dash, paint, 0.006)
        for line in range(count):
            shape = [(step * 0.12 + rng.uniform(-0.03, 0.03), (line + 0.5 - count / 2) * lane) for step in range(-6, 7)]
            scene.slots += [(spot, angle) for spot in outline(middle, shape, angle)]


def parking(scene: Scene) -> None:
    """A car park with marked rows."""
    rng, angle, colour = scene.rng, scene.angle, scene.colour("pavement")
    paint = shade(colour, 1.35)
    centre = (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
    rows, columns = int(rng.integers(2, 6)), int(rng.integers(9, 20))
    scene.polygon(box(centre, 0.062 * columns + 0.06, 0.15 * rows + 0.05, angle), LABEL["pavement"], colour)
    for row, column in np.ndindex(rows, columns):
        x, y = (column - columns / 2) * 0.062, (row + 0.5 - rows / 2) * 0.15
        spot, *mark = outline(centre, ((x + 0.031, y), (x, y - 0.05), (x, y + 0.05)), angle)
        scene.line(mark, paint, 0.005)
        scene.slots.append((spot, angle + math.pi / 2))


def cars(scene: Scene) -> None:
    """Cars on some of the places where cars may stand."""
    rng, share = scene.rng, scene.rng.uniform(0.15, 0.75)
    for centre, angle in scene.slots:
        if rng.random() < share and scene.lies_on(box(centre, 0.06, 0.03, angle), PAVEMENT):
            colour = scene.colour("cars")
            scene.polygon(box(centre, 0.078, 0.038, angle), LABEL["cars"], colour, height=0.012)
            scene.line(outline(centre, ((-0.015, -0.013), (-0.015, 0.013)), angle), shade(colour, 0.5), 0.012)


def buildings(scene: Scene, count: tuple[int, int], size: tuple[float, float], ground: frozenset[int] = LAND) -> None:
    """Houses with pitched or flat roofs, all in the direction of the tile."""
    rng, label = scene.rng, LABEL["buildings"]
    for _ in range(rng.integers(*count, endpoint=True)):
        length = rng.uniform(*size)
        width, centre = length * rng.uniform(0.55, 1), scene.find_place(ground, 0.55 * length, attempts=25)
        if centre is None:
            continue
        angle, colour = scene.angle + rng.choice((0.0, math.pi / 2)), scene.colour("buildings")
        scene.polygon(box(centre, length, width, angle), label, colour, height=rng.uniform(0.03, 0.07))
        if rng.random() < 0.6:  # a pitched roof: one side in the light, a ridge between
            a, b = length / 2, width / 2
            side = outline(centre, ((-a, 0), (a, 0), (a, b), (-a, b)), angle)
            scene.polygon(side, label, shade(colour, rng.uniform(0.72, 0.9)))
        else:  # a flat one, with something on top
            (spot,) = outline(centre, ((rng.uniform(-0.25, 0.25), rng.uniform(-0.15, 0.15)),), angle, length)
            scene.polygon(box(spot, 0.2 * length, 0.2 * length, angle), label, shade(colour, 0.75))


def _foliage(scene: Scene) -> list[tuple[Colour, Colour]]:
    """Shadow and sunlit colour of the crowns of one tile, in a few tones."""
    colour = scene.colour("trees")
    return [(shade(colour, 0.85 * tone), shade(colour, 1.12 * tone)) for tone in (0.8, 0.88, 0.96, 1.04, 1.12)]


def trees(scene: Scene, count: tuple[int, int] = (3, 14)) -> None:
    """Single trees on open ground."""
    rng, foliage = scene.rng, _foliage(scene)
    for radius in rng.uniform(0.025, 0.065, rng.integers(*count, endpoint=True)).tolist():
        centre = scene.find_place(LAND, 0.8 * radius, attempts=4)
        if centre is not None:
            scene.disc(centre, radius, LABEL["trees"], foliage[rng.integers(5)], height=0.5 * radius)


def wood(scene: Scene) -> None:
    """A blob full of crowns."""
    rng, foliage, label = scene.rng, _foliage(scene), LABEL["trees"]
    centre, radius = (rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95)), rng.uniform(0.25, 0.6)
    scene.polygon(blob(rng, centre, radius), label, foliage[0][0], height=0.03)
    crowns = int(150 * radius)
    spots = outline(centre, rng.normal(0, 0.55, (crowns, 2)).tolist(), 0.0, radius)
    for spot, crown, tone in zip(
        spots, rng.uniform(0.025, 0.055, crowns).tolist(), rng.integers(5, size=crowns).tolist(), strict=True
    ):
        if scene.lies_on([spot], {label}):
            scene.disc(spot, crown, label, foliage[tone])


def fields(scene: Scene) -> None:
    """One to three fields with rows."""
    rng = scene.rng
    for part in range(rng.integers(1, 4)):
        colour, angle = scene.colour("field"), scene.angle + rng.choice((0.0, math.pi / 2))
        points = half_plane(rng, scene.angle + part * math.pi / 2, rng.uniform(-0.25, 0.1), 0.0)
        scene.stripes(
            points, LABEL["field"], (colour, shade(colour, rng.uniform(0.72, 0.88))), angle, rng.uniform(0.03, 0.07)
        )


def river(scene: Scene) -> None:
    """A winding band of water."""
    rng, half = scene.rng, scene.rng.uniform(0.06, 0.15)
    middle = edge(rng, rng.uniform(-0.2, 0.2), 0.09)
    banks = [(x, y - half) for x, y in middle] + [(x, y + half) for x, y in reversed(middle)]
    scene.fill("water", outline((0.5, 0.5), banks, rng.uniform(0, 6.3)))


def sea(scene: Scene, beach: float = 0.0) -> None:
    """Water from one side of the tile, with a beach in between by this probability."""
    rng, angle, offset = scene.rng, scene.angle, scene.rng.uniform(-0.25, 0.2)
    if rng.random() < beach:
        scene.fill("sand", half_plane(rng, angle, offset - rng.uniform(0.12, 0.3), 0.03))
    scene.shore = offset
    colour, shore = scene.colour("water"), half_plane(rng, angle, offset, 0.03)
    scene.polygon(shore, LABEL["water"], colour)
    if beach:  # surf
        scene.line(shore[:-2], shade(colour, 1.2, (45, 40, 35)), rng.uniform(0.005, 0.025))


def docks(scene: Scene) -> None:
    """A pier into the sea, with fingers and berths."""
    rng, angle, colour = scene.rng, scene.angle + math.pi / 2, scene.colour("dock")
    length = rng.uniform(0.5, 0.95)
    (spine,) = outline((0.5, 0.5), ((scene.shore + length / 2 - 0.08, rng.uniform(-0.25, 0.25)),), angle)
    scene.polygon(box(spine, length, 0.045, angle), LABEL["dock"], colour, height=0.012)
    pitch = rng.uniform(0.13, 0.19)
    for step, side in np.ndindex(int((length - 0.15) / pitch) + 1, 2):
        along, across = length / 2 - 0.02 - step * pitch, 2 * side - 1
        finger, berth = outline(spine, ((along, across * 0.1), (along - pitch / 2, across * 0.12)), angle)
        if scene.lies_on([finger], WATER):
            scene.polygon(box(finger, 0.025, 0.18, angle), LABEL["dock"], colour, height=0.008)
            scene.berths.append((berth, angle + math.pi / 2))


def ships(scene: Scene) -> None:
    """Ships at the berths, or on open water where there are none."""
    rng, hull = scene.rng, ((-0.5, -0.16), (0.2, -0.17), (0.5, 0), (0.2, 0.17), (-0.5, 0.16))
    ships = [(*berth, rng.uniform(0.11, 0.17)) for berth in scene.berths if rng.random() < 0.6]
    for _ in range(0 if ships else rng.integers(1, 5)):
        length = rng.uniform(0.12, 0.28)
        if (centre := scene.find_place(WATER, 0.5 * length)) is not None:
            ships.append((centre, rng.uniform(0, 6.3), length))
    for centre, angle, length in ships:
        if scene.lies_on([centre], WATER):
            colour = scene.colour("ship")
            scene.polygon(outline(centre, hull, angle, length), LABEL["ship"], colour, height=0.015)
            scene.polygon(box(centre, 0.35 * length, 0.2 * length, angle), LABEL["ship"], shade(colour, 0.7))


def tanks(scene: Scene) -> None:
    """Round tanks in rows."""
    rng, radius, colour = scene.rng, scene.rng.uniform(0.06, 0.13), scene.colour("tanks")
    left, top = rng.uniform(0.15, 0.45), rng.uniform(0.15, 0.45)
    for row, column in np.ndindex(int(rng.integers(1, 4)), int(rng.integers(2, 4))):
        if rng.random() < 0.85:
            scene.disc(
                (left + 2.5 * radius * column, top + 2.5 * radius * row),
                radius,
                LABEL["tanks"],
                (shade(colour, 0.88), shade(colour, 1.06)),
                height=0.6 * radius,
            )


def court(scene: Scene) -> None:
    """One to three courts side by side."""
    rng, angle, inner, outer = scene.rng, scene.angle, scene.colour("court"), scene.colour("court")
    middle, size = (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)), rng.uniform(0.28, 0.42)
    for column in range(rng.integers(1, 4)):
        (centre,) = outline(middle, ((0, (column - 0.5) * 0.62 * size),), angle)
        scene.polygon(box(centre, 1.25 * size, 0.62 * size, angle), LABEL["court"], outer)
        frame, sides = box(centre, size, 0.42 * size, angle), box(centre, size, 0.3 * size, angle)
        scene.polygon(frame, LABEL["court"], inner)
        for line in ([*frame, frame[0]], sides[:2], sides[2:], box(centre, 0.0, 0.42 * size, angle)[1:3]):
            scene.line(line, (222, 222, 218), 0.008)


def apron(scene: Scene) -> None:
    """Concrete from one side of the tile, with a taxi line."""
    offset = scene.rng.uniform(-0.35, -0.05)
    scene.fill("pavement", half_plane(scene.rng, scene.angle, offset, 0.0))
    scene.line(outline((0.5, 0.5), ((-1, offset + 0.25), (1, offset + 0.25)), scene.angle), (190, 170, 90), 0.008)


def airplanes(scene: Scene) -> None:
    """One to three airplanes on pavement."""
    rng, label = scene.rng, LABEL["airplane"]
    body = ((0.5, 0), (0.42, 0.05), (-0.4, 0.04), (-0.5, 0), (-0.4, -0.04), (0.42, -0.05))
    wings = ((0.14, 0), (-0.12, 0.5), (-0.2, 0.5), (-0.06, 0), (-0.2, -0.5), (-0.12, -0.5))
    tail = ((-0.34, 0), (-0.46, 0.18), (-0.52, 0.18), (-0.46, 0), (-0.52, -0.18), (-0.46, -0.18))
    angle = scene.angle + rng.choice((math.pi / 2, -math.pi / 2)) + rng.normal(0, 0.15)
    for _ in range(rng.integers(1, 4)):
        length = rng.uniform(0.26, 0.42)
        centre = scene.find_place(PAVEMENT, 0.4 * length, attempts=30)
        if centre is not None:
            colour = scene.colour("airplane")
            for part in (wings, tail, body):
                scene.polygon(outline(centre, part, angle, length), label, colour, height=0.02)
