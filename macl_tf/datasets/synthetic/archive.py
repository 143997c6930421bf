"""The built-in archive: synthetic land-cover tiles with labels and label masks; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from tqdm import tqdm

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.synthetic import scenery as draw
from macl_tf.datasets.synthetic.scenery import BUILT, COVERS, LABEL_NAMES, Scene

MIN_AREA = 0.001  # share of the tile below which a label does not count: nobody would see it

_MOTTLE = np.array([cover.mottle for cover in COVERS.values()], np.float32)
_GRAIN = np.array([cover.grain for cover in COVERS.values()], np.float32)

_Step = Callable[[Scene], None]
_grass, _soil, _sand, _paving, _lake = (
    partial(draw.patch, name=name) for name in ("grass", "bare-soil", "sand", "pavement", "water")
)
_houses = partial(draw.buildings, count=(4, 10), size=(0.11, 0.2))
_farms = partial(draw.buildings, count=(1, 3), size=(0.12, 0.24))
_halls = partial(draw.buildings, count=(1, 4), size=(0.25, 0.45), ground=BUILT)
_highway, _beach = partial(draw.road, lanes=(3, 5)), partial(draw.sea, beach=0.85)

# Weight of the scene, what the ground may be, and what is drawn on it, each with its probability, in this order.
SCENES: tuple[tuple[float, tuple[str, ...], tuple[tuple[_Step, float], ...]], ...] = (
    (19, ("grass", "grass", "bare-soil"),
     ((_grass, 0.4), (draw.road, 0.85), (_houses, 0.95), (draw.cars, 0.6), (draw.trees, 0.8))),
    (13, ("grass", "bare-soil", "pavement"), ((draw.parking, 1), (_halls, 0.6), (draw.cars, 0.9), (draw.trees, 0.55))),
    (11, ("grass", "bare-soil"), ((_soil, 0.4), (_highway, 1), (draw.cars, 0.75), (draw.trees, 0.6))),
    (13, ("grass", "bare-soil"),
     ((draw.fields, 1), (draw.road, 0.4), (_farms, 0.12), (draw.wood, 0.25), (draw.trees, 0.25))),
    (10, ("grass", "bare-soil"), ((_soil, 0.3), (draw.wood, 1), (draw.wood, 0.5), (draw.road, 0.3), (draw.trees, 0.5))),
    (8, ("grass", "bare-soil"),
     ((_sand, 0.2), (draw.river, 0.9), (draw.road, 0.3), (draw.wood, 0.45), (draw.trees, 0.5))),
    (7, ("grass", "bare-soil"), ((_beach, 1), (draw.ships, 0.2), (draw.road, 0.1), (draw.trees, 0.45))),
    (6, ("pavement", "grass"),
     ((draw.sea, 1), (draw.docks, 0.8), (draw.ships, 0.75), (_halls, 0.35), (draw.trees, 0.2))),
    (6, ("grass", "grass", "pavement"),
     ((_paving, 0.4), (draw.road, 0.3), (draw.court, 1), (draw.cars, 0.4), (draw.trees, 0.7))),
    (3.6, ("bare-soil", "pavement", "grass"),
     ((_soil, 0.3), (draw.road, 0.4), (draw.tanks, 1), (_halls, 0.4), (draw.cars, 0.4))),
    (2.7, ("grass", "pavement", "bare-soil"), ((draw.apron, 1), (draw.airplanes, 1), (_halls, 0.3), (_grass, 0.15))),
    (4, ("sand", "bare-soil"), ((_sand, 0.6), (_soil, 0.5), (draw.road, 0.45), (_lake, 0.15), (draw.trees, 0.3))),
)  # fmt: skip
_CHANCES = np.array([weight for weight, _, _ in SCENES]) / sum(weight for weight, _, _ in SCENES)


def draw_tile(index: int, image_size: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw one tile. It depends on its arguments alone, so it is the same in an archive of any length.

    Another `image_size`, >= 16, shows the same scene, up to details that hang on single pixels (is this parking place
    still free?). Later shapes cover earlier ones in image and mask.

    Returns:
        image (image_size, image_size, 3) uint8 RGB, and mask (image_size, image_size) uint8: for each
        pixel the position of its label in `LABEL_NAMES`.
    """
    for name, value, least in (("index", index, 0), ("image_size", image_size, 16), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}.")
    rng = np.random.default_rng([seed, index])
    _, grounds, steps = SCENES[rng.choice(len(SCENES), p=_CHANCES)]
    scene = Scene(image_size, rng)
    draw.ground(scene, grounds[rng.integers(len(grounds))])
    for step, probability in steps:
        if rng.random() < probability:
            step(scene)
    return scene.develop(_MOTTLE, _GRAIN)


def areas_of(mask: np.ndarray) -> np.ndarray:
    """(C,) float32: each label's share of the mask; 0 for a label that covers less than `MIN_AREA` of it."""
    shares = np.bincount(mask.ravel(), minlength=len(LABEL_NAMES)) / mask.size
    return np.where(shares >= MIN_AREA, shares, 0).astype(np.float32)


def make_synthetic(num_tiles: int = 1200, image_size: int = 96, seed: int = 0) -> Archive:
    """Draw the synthetic archive: tiles of `image_size`, >= 16, from a seed, >= 0. Tile i is the same in any number.

    Fourteen labels, 1 to 6 a tile, long-tailed: the most frequent is in about 63 % of the tiles, the rarest in 3 %.
    Labels and areas are read off the masks, so a label that ended up covered by others is not there. All images are in
    memory (28 kB a tile at 96 pixels), and are read as read-only views.
    """
    if num_tiles < 1:
        raise ValueError(f"num_tiles must be >= 1, got {num_tiles}.")
    images = np.empty((num_tiles, max(image_size, 0), max(image_size, 0), 3), np.uint8)
    areas = np.empty((num_tiles, len(LABEL_NAMES)), np.float32)
    for index in tqdm(range(num_tiles), desc="Drawing tiles", unit="tile", delay=1, leave=False, disable=None):
        images[index], mask = draw_tile(index, image_size, seed)
        areas[index] = areas_of(mask)
    images.setflags(write=False)
    return Archive(
        name="synthetic",
        label_names=LABEL_NAMES,
        file_names=tuple(f"tile{index:07d}" for index in range(num_tiles)),
        labels=(areas > 0).astype(np.uint8),
        read_image=images.__getitem__,
        label_areas=areas,
        notes=(f"Drawn by a program from seed {seed}: no real place is shown.",),
    )
