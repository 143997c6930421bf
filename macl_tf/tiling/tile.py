"""Cuts scenes into an archive of tiles: several at once, in bounded memory, and going on after a kill."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from macl_tf.datasets.class_tables import IGNORE, TO_BE_NAMED, ClassTable
from macl_tf.datasets.matching import Finding
from macl_tf.datasets.walk import number_of, shorten
from macl_tf.tiling.encoding import Encoder, tag_of
from macl_tf.tiling.journal import TILES, Journal, Tile, heads, opened, put
from macl_tf.tiling.masks import Mask, Masks
from macl_tf.tiling.options import Options
from macl_tf.tiling.polygons import SceneShapes, Shapes, read_shapes
from macl_tf.tiling.scenes import Grid, Scene, bounded_cache, gdal
from macl_tf.tiling.sources import Source, find_sources, names_of
from macl_tf.tiling.tables import Summary, write_tables
from macl_tf.tiling.windows import Chunk, Held, chunks, together

_BESIDE_PIXELS = 24  # bytes a pixel of validity and classes while a part is cut
_KEPT_OPEN = 2  # scenes that each thread holds open


@dataclass(eq=False)
class _Plan:
    """A scene that is to be cut."""

    source: Source
    files: list[str]
    mask: Path | None
    classes: ClassTable | None
    shapes: Shapes | None
    grid: Grid
    head: dict[str, Any]
    bytes_a_pixel: int
    block: tuple[int, int]  # height and width of what the scene's file decodes at once
    name: str = ""  # of the folder of its tiles
    journal: Journal = field(init=False)
    done: set[int] = field(default_factory=set)
    left: int = 0  # parts that are not cut yet
    failed: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    on_scene: SceneShapes | None = None

    def parts(self, options: Options) -> list[list[Chunk]]:
        every = chunks(self.grid.height, self.grid.width, options.size, options.stride, self.bytes_a_pixel)
        return together((chunk for chunk in every if chunk.number not in self.done), self.block)


class _Open(NamedTuple):
    scene: Scene
    mask: Mask | None
    encoder: Encoder


class _Cut(NamedTuple):
    number: int
    tiles: list[Tile]
    nodata: int


def tile(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    options: Options | None = None,
    *,
    masks: str | os.PathLike[str] | None = None,
    vectors: str | os.PathLike[str] | None = None,
    classes: ClassTable | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Summary:
    """Cuts scenes into tiles, with a label table where there are masks or vectors.

    The same call goes on after a kill, adds scenes that are new, and cuts those anew that changed. What was cut of
    other scenes stays.

    Args:
        inputs: Rasters, folders of them, STAC items and item collections.
        output: The archive, a folder.
        options: How they are cut.
        masks: Folder of masks, by the names of the scenes.
        vectors: Vector file, whose column `options.label_column` has the labels.
        classes: What the values of masks or of that column are called.
        workers: Threads; 0 for one a processor.
        progress: Whether to show a progress bar.

    Returns:
        What was cut and what was left out.

    Raises:
        ValueError: Where nothing can be cut, or the output was begun otherwise.
        FileNotFoundError: Where an input is not there.
    """
    options = options or Options()
    output, scenes = Path(output), [Path(path) for path in inputs]
    if workers < 0:
        raise ValueError(f"workers must be >= 0, got {workers}. 0 is one a processor.")
    if masks is not None and vectors is not None:
        raise ValueError("labels must come from masks or from vectors, got both. Make two archives.")
    # Scenes and masks in one folder, 119_sat.jpg and 119_mask.png, are told apart by their names.
    mixed = masks is not None and any(_is_within(scene, Path(masks)) for scene in scenes)
    passed_over = [output, *([] if masks is None or mixed else [Path(masks)])]
    sources, findings = find_sources(scenes, passed_over, options.assets)
    with gdal():
        store = None if masks is None else Masks(Path(masks), sources, mixed=mixed)
        sources = sources if store is None else store.scenes
        if store is not None and classes is None:
            raise ValueError(
                f"masks need a class table. Save this as classes.csv, with names in place of '{TO_BE_NAMED}', or "
                f"'{IGNORE}' for what is no label, and give it by --classes classes.csv:\n\n{store.draft()}"
            )
        shapes = None
        if vectors is not None:
            shapes = read_shapes(Path(vectors), options.label_column, classes, options.layer)
    asked = options.to_json() | {
        "classes": None if classes is None else classes.to_json(),
        "masks": masks is not None,
        "vectors": None if vectors is None else _stamps([str(vectors)]),
    }
    labels = classes.names if classes is not None else () if shapes is None else shapes.names
    with opened(output, asked) as known:
        plans = _planned(sources, output, options, store, classes, shapes, known, findings)
        with bounded_cache():
            _cut_all(plans, options, workers or os.cpu_count() or 1, progress, findings)
        notes = _told(plans, store, shapes, findings)
        if not any(True for _ in heads(output)):
            shutil.rmtree(output / TILES, ignore_errors=True)
            reasons = [f"{found.name}: {found.detail.removeprefix(f'{found.name}: ')}" for found in findings]
            told = shorten(reasons, separator="; ")
            raise ValueError(f"a scene must be left to be cut, but of {len(sources)} none is: {told}")
        return write_tables(output, options, labels if masks or vectors else None, findings, notes)


def _is_within(path: Path, folder: Path) -> bool:
    return folder.resolve() in (path.resolve(), *path.resolve().parents)


def _planned(
    sources: Sequence[Source],
    output: Path,
    options: Options,
    masks: Masks | None,
    classes: ClassTable | None,
    shapes: Shapes | None,
    known: dict[str, str],
    findings: list[Finding],
) -> list[_Plan]:
    """The scenes that can be cut, each with what is left of it; what is wrong with the others goes to `findings`."""
    moved = {str(head["files"]): (head["key"], path.stem) for path, head in heads(output)}
    looked: list[_Plan] = []
    for source in tqdm(sources, "looking at scenes", unit="scene", leave=False, delay=2):
        try:
            with gdal():
                plan = _look(source, None if masks is None else masks.of(source), classes, shapes, options)
        except Exception as error:  # rasterio's and GDAL's have no public class in common
            findings.append(Finding("unreadable", source.name, str(error)))
            continue
        key, name = moved.get(str(plan.head["files"]), ("", ""))
        if key and source.key not in known and not all(Path(path).exists() for path in key.split("|")):
            known[source.key], plan.head["key"] = name, key
        looked.append(plan)
    names = names_of([plan.source for plan in looked], known)
    for plan in looked:
        plan.name = names[plan.source.key]
        plan.journal = Journal(output, plan.name, options.format)
        plan.done, changed = plan.journal.begin(plan.head)
        if changed:
            findings.append(Finding("changed", plan.source.name, "it or its mask is not as it was, and was cut anew"))
    return looked


def _look(
    source: Source, mask: Path | None, classes: ClassTable | None, shapes: Shapes | None, options: Options
) -> _Plan:
    """What a scene is, for its journal; an error where it cannot be cut."""
    scene = Scene(source, options.bands, options.resolution)
    files = list(scene.files)
    try:
        if options.format != "tif" and (scene.dtype != np.uint8 or len(scene.bands) not in (1, 3) or scene.palette):
            raise ValueError(
                f"{options.format} holds 1 or 3 bands of uint8, got {len(scene.bands)} of {scene.dtype}. Choose three "
                "by --bands, or use --format tif."
            )
        if mask is not None and classes is not None:
            opened_mask = Mask(mask, scene, classes)
            files += opened_mask.files
            opened_mask.close()
        if shapes is not None:
            shapes.near(scene.grid)
        grid = scene.grid
        head = {
            "key": source.key,
            "scene": source.name,
            "files": _stamps(files),
            "size": [grid.height, grid.width],
            "digits": len(str(max(grid.height, grid.width) - 1)),
            "transform": list(grid.transform[:6]),
            "crs": grid.crs.to_wkt() if grid.placed else "",
            "bands": len(scene.bands),
            "dtype": str(scene.dtype),
            "datetime": source.datetime,
        }
        held = scene.dtype.itemsize * len(scene.bands) + _BESIDE_PIXELS
        return _Plan(source, files, mask, classes, shapes, grid, head, held, scene.block)
    finally:
        scene.close()


def _cut_all(plans: Sequence[_Plan], options: Options, workers: int, progress: bool, findings: list[Finding]) -> None:
    """Cuts what is left. A scene that fails in between is left out as a whole, and tried again the next time."""
    work = [(plan, group) for plan in plans for group in plan.parts(options)]
    for plan, group in work:
        plan.left += len(group)
    local, stop = threading.local(), threading.Event()
    ended: SimpleQueue[tuple[_Plan, Chunk, _Cut | BaseException]] = SimpleQueue()

    def cut(plan: _Plan, group: list[Chunk]) -> None:
        for chunk in group:
            if stop.is_set():
                return
            try:
                ended.put((plan, chunk, _cut(plan, chunk, options, local)))
            except BaseException as error:  # whatever it is, somebody waits for it
                ended.put((plan, chunk, error))

    executor = ThreadPoolExecutor(workers)
    total = sum(len(chunk.columns) for _, group in work for chunk in group)
    bar = tqdm(total=total, desc="tiling", unit="tile", disable=not progress, delay=1)
    try:
        for job in work:
            executor.submit(cut, *job)
        for _ in range(sum(plan.left for plan in plans)):
            plan, chunk, found = ended.get()
            bar.update(len(chunk.columns))
            if isinstance(found, _SceneError):
                plan.failed = plan.failed or str(found)
            elif isinstance(found, BaseException):
                raise found
            else:
                plan.journal.add(*found)
            plan.left -= 1
            if not plan.left:
                plan.on_scene = None
                if not plan.failed and _stamps(plan.files) != plan.head["files"]:
                    plan.failed = "it changed while it was cut. Cut it again when it is whole."
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)
        bar.close()
    for plan in plans:
        if plan.failed:
            plan.journal.forget()
            findings.append(Finding("unreadable", plan.source.name, plan.failed))


class _SceneError(Exception):
    """What makes one scene unusable, and no other."""


def _cut(plan: _Plan, chunk: Chunk, options: Options, local: threading.local) -> _Cut:
    """Writes the tiles of a part of a scene, in a thread that keeps its files open in `local`."""
    if plan.failed:
        return _Cut(chunk.number, [], 0)
    size, first = options.size, chunk.columns[0]
    with gdal():
        try:
            held = _opened(plan, options, local)
            values, there = held.scene.read(chunk.row, first, size, chunk.columns[-1] - first + size)
            missing = [0.0] * len(chunk.columns)
            if not there.all():
                missing = [1 - float(there[:, column - first :][:, :size].mean()) for column in chunk.columns]
            kept = [place for place, share in enumerate(missing) if share <= options.max_nodata]
            labels: list[Held] = [Held({})] * len(chunk.columns)
            if kept and held.mask is not None:
                labels = held.mask.shares(chunk, size)
            if kept and plan.shapes is not None:
                labels = _shapes_on(plan).shares(chunk, size)
        except Exception as error:  # as above
            raise _SceneError(str(error)) from error
        tiles = []
        for place in kept:
            column = chunk.columns[place]
            pixels = values[:, :, column - first :][:, :, :size]
            pieces = held.encoder.encode(pixels, chunk.row, column)
            name = plan.journal.tile_name(chunk.row, column, plan.head["digits"])
            written = put(plan.journal.folder / name, pieces)
            shares = {str(label): round(share, 9) for label, share in labels[place].shares.items()}
            tiles.append(Tile(chunk.row, column, written, shares, [*labels[place].present]))
    return _Cut(chunk.number, tiles, len(chunk.columns) - len(kept))


def _opened(plan: _Plan, options: Options, local: threading.local) -> _Open:
    """The scene and its mask, open in this thread, which keeps a few: its jobs go from one scene to the next."""
    held: dict[str, _Open] = local.__dict__.setdefault("held", {})
    if plan.name not in held:
        while len(held) >= _KEPT_OPEN:
            oldest = held.pop(next(iter(held)))
            oldest.scene.close()
            if oldest.mask is not None:
                oldest.mask.close()
        scene = Scene(plan.source, options.bands, options.resolution)
        mask = None if plan.mask is None or plan.classes is None else Mask(plan.mask, scene, plan.classes)
        day = tag_of(plan.source.datetime) or scene.day
        held[plan.name] = _Open(scene, mask, Encoder(scene, options.format, options.size, day))
    return held[plan.name]


def _shapes_on(plan: _Plan) -> SceneShapes:
    with plan.lock:
        if plan.on_scene is None:
            assert plan.shapes is not None
            plan.on_scene = plan.shapes.on(plan.grid)
        return plan.on_scene


def _stamps(paths: Sequence[str]) -> list[list[Any]]:
    """What shows that a file changed: of each its name, size and time of writing."""
    found = []
    for path in paths:
        status = os.stat(path) if os.path.exists(path) else None  # a VRT may name what is no file
        found.append([os.path.basename(path), *((status.st_size, status.st_mtime_ns) if status else (0, 0))])
    return found


def _told(
    plans: Sequence[_Plan],
    masks: Masks | None,
    shapes: Shapes | None,
    findings: list[Finding],
) -> list[str]:
    """Notes on what masks and vectors there are beside those that were used."""
    notes = []
    kinds = Counter(f"{plan.head['bands']} of {plan.head['dtype']}" for plan in plans if not plan.failed)
    if len(kinds) > 1:
        told = "; ".join(f"{kind} in {number_of(count, 'scene')}" for kind, count in kinds.most_common())
        notes.append(f"the bands are not the same in all scenes: {told}")
    elif kinds and not kinds.keys() & {"1 of uint8", "3 of uint8"}:
        notes.append(f"bands: {next(iter(kinds))}. Read them with --set bands=all, in macl index with --bands all")
    if masks is not None:
        findings += [Finding("mask", name, "no scene has its name") for name in masks.strays()]
    if shapes is not None:
        near = np.zeros(len(shapes.features), bool)
        for plan in plans:
            near |= shapes.near(plan.grid)
        outside = np.setdiff1d(shapes.features, shapes.features[near])
        notes += shapes.notes()
        if outside.size:
            notes.append(f"features outside all scenes: {outside.size:,}")
    return notes
