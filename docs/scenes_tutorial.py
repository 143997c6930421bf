"""Walks docs/tutorial_scenes.md: makes its scenes, masks and vectors, runs its commands, and draws its pictures.

    python docs/scenes_tutorial.py DATA WORK

DATA holds `dubai-multilabel` and `multiband/naip`, WORK is where the commands run. Started again, it goes on. What the
commands print is for the page; pictures go to docs/. Needs Chromium for two of them.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from macl_tf.cli import main as macl

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "tutorial_scenes.md"
COLOURS = {"lake": "#3c6ee6", "pond": "#ff3fb4", "crops": "#2ca02c", "grassland": "#c5dd84", "bare soil": "#e0a860"}
POND = 30_000  # square metres; what is larger is a lake
ROAD = 625  # row of the scene in which it runs


def put_together(source: Path, target: Path) -> None:
    """Scenes and masks of Dubai out of the tiles that they were published as."""
    parts: dict[str, dict[tuple[int, int], Path]] = defaultdict(dict)
    for path in sorted((source / "images").iterdir()):
        scene, row, column = re.fullmatch(r"(.+)_y(\d+)_x(\d+)\.jpg", path.name).groups()  # type: ignore[union-attr]
        parts[scene][int(row), int(column)] = path
    for scene, tiles in parts.items():
        width, height = (256 + max(place[axis] for place in tiles) for axis in (1, 0))
        picture, mask = Image.new("RGB", (width, height)), Image.new("P", (width, height))
        for (row, column), path in tiles.items():
            codes = Image.open(source / "masks" / f"{path.stem}.png")
            mask.putpalette(codes.getpalette())
            mask.paste(codes, (column, row))
            picture.paste(Image.open(path), (column, row))
        for folder, image in (("scenes", picture), ("masks", mask)):
            (target / folder).mkdir(parents=True, exist_ok=True)
            image.save(target / folder / f"{scene}.png")


def kinds_of_ground(scene: Path) -> tuple[np.ndarray[Any, Any], Any]:
    """Water by NDWI, vegetation by NDVI: a number for each pixel, and the transform of the scene."""
    import rasterio
    from rasterio.features import sieve

    with rasterio.open(scene) as dataset:
        red, green, _, infrared = dataset.read().astype(np.float64)
        transform = dataset.transform
    ndvi = (infrared - red) / (infrared + red + 1e-9)
    kinds = np.select([(green - infrared) / (green + infrared + 1e-9) > 0.15, ndvi > 0.4, ndvi < 0.1], [1, 2, 3], 4)
    return sieve(kinds.astype(np.uint8), 60), transform


def draw_polygons(scene: Path, target: Path) -> None:
    """A GeoPackage of what the scene shows, in place of one drawn by people."""
    import pyogrio
    import shapely
    from rasterio.features import shapes

    kinds, transform = kinds_of_ground(scene)
    found = [(shapely.geometry.shape(outline), int(kind)) for outline, kind in shapes(kinds, transform=transform)]
    names = ["", "lake", "crops", "bare soil", "grassland"]
    labels = ["pond" if kind == 1 and shape.area < POND else names[kind] for shape, kind in found]
    road = shapely.LineString([transform * (0, ROAD), transform * (kinds.shape[1], ROAD)])
    bodies = shapely.to_wkb(np.array([*(shape for shape, _ in found), road]))
    pyogrio.raw.write(target, bodies, [np.array([*labels, "road"], object)], ["class"], geometry_type="Unknown",
                      crs="EPSG:26914", layer="landuse")  # fmt: skip


def prepare(data: Path) -> None:
    """What the page begins with, in the working folder."""
    put_together(data / "dubai-multilabel", Path("dubai"))
    for folder, year in (("scenes", "2020"), ("older", "2009")):
        Path(folder).mkdir(exist_ok=True)
        (source,) = (data / "multiband" / "naip").glob(f"*_{year}*.tif")
        shutil.copy2(source, Path(folder, f"naip_{year}.tif"))
    draw_polygons(Path("scenes", "naip_2020.tif"), Path("landuse.gpkg"))
    (table,) = re.findall(r"```text\n(value,name\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    Path("classes.csv").write_text(table)


def commands() -> Iterator[list[str]]:
    """Those of the page, in their order."""
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if (words := shlex.split(line, comments=True))[:1] == ["macl"]:
                yield words[1:]


def picture_of_the_scene() -> None:
    """The scene in natural colours, and in near infrared with the polygons and the tiles of one label."""
    import matplotlib.pyplot as plt
    import rasterio
    import shapely
    from matplotlib.patches import Patch, Rectangle

    from macl_tf.tiling.polygons import read_shapes

    with rasterio.open("scenes/naip_2020.tif") as dataset:
        values, to_pixels = dataset.read(), ~dataset.transform
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.1), dpi=100)
    left.imshow(values[:3].transpose(1, 2, 0))
    left.set_title("red, green, blue")
    right.imshow(values[[3, 0, 1]].transpose(1, 2, 0))
    right.set_title("near infrared, red, green; tiles with a pond")
    shapes = read_shapes(Path("landuse.gpkg"), "class")
    for shape, label in zip(shapes.geometries, shapes.labels, strict=True):
        name = shapes.names[label]
        if name in ("lake", "pond"):
            corners = shapely.get_coordinates(shape.exterior)
            columns, rows = to_pixels * corners.T
            right.plot(columns, rows, color=COLOURS[name], linewidth=1)
    with open("NAIP/labels.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if "pond" in row["labels"]:
                top, first = map(int, Path(row["image"]).stem.split("_")[-2:])
                right.add_patch(Rectangle((first, top), 64, 64, fill=False, color="white", linewidth=0.5))
    patches = [Patch(color=COLOURS[name], label=name) for name in ("lake", "pond")]
    right.legend(handles=patches, loc="lower right", framealpha=0.9)
    for axis in (left, right):
        axis.set_xlim(0, values.shape[2])
        axis.set_ylim(values.shape[1], 0)
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig("scene.png", bbox_inches="tight", pad_inches=0.05)
    keep("scene.png", "tutorial_scene.jpg")


@contextmanager
def browser(height: int) -> Iterator[Any]:
    """A page of Chromium."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path)
        page = chromium.new_page(viewport={"width": 1280, "height": height})
        page.set_default_timeout(180_000)  # milliseconds: a server answers when its encoder is loaded
        yield page
        chromium.close()


def picture_of_the_report() -> None:
    """The top of what `macl inspect` writes."""
    with browser(1280) as page:
        page.goto(Path("report", "index.html").resolve().as_uri())
        page.screenshot(path="report.png")
    keep("report.png", "tutorial_inspect.jpg", width=900)


def picture_of_the_page(words: list[str]) -> None:
    """The search page with its map, as people see it."""
    server = subprocess.Popen([sys.executable, "-m", "macl_tf.cli", *words, "--port", "8137"])
    try:
        with browser(1000) as page:
            for _ in range(60):
                time.sleep(1)
                with suppress(OSError), socket.create_connection(("127.0.0.1", 8137)):
                    break
            page.goto("http://127.0.0.1:8137/#like=tiles/naip_2020/naip_2020_192_384.tif&map")
            page.wait_for_timeout(6000)
            page.screenshot(path="page.png")
    finally:
        server.terminate()
        server.wait()
    keep("page.png", "tutorial_page.jpg", width=1100)


def keep(source: str, name: str, width: int = 0) -> None:
    """A picture for docs/, as JPEG."""
    picture = Image.open(source).convert("RGB")
    if width:
        picture = picture.resize((width, picture.height * width // picture.width), Image.Resampling.LANCZOS)
    picture.save(DOCS / name, quality=82, optimize=True)


def main() -> None:
    """Makes the inputs, runs the commands, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("work", type=Path, metavar="WORK")
    options = parser.parse_args()
    data = options.data.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    if not Path("classes.csv").exists():
        prepare(data)
    for words in commands():
        print("\n$ macl", *words, flush=True)
        if words[0] == "serve":
            picture_of_the_page(words)
        elif macl(words):
            raise SystemExit(f"failed: macl {' '.join(words)}")
    picture_of_the_scene()
    picture_of_the_report()
    keep("found.png", "tutorial_found.jpg", width=1100)


if __name__ == "__main__":
    main()
