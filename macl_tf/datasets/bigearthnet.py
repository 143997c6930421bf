"""BigEarthNet: 590,326 Sentinel-2 patches of 1.2 km with CORINE land cover (Sumbul et al. 2019), and its v2.

Patches are read where they lie, nothing is prepared but a list of what each patch holds.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.bands import Bands, chosen_by_name
from macl_tf.datasets.sources import Source
from macl_tf.datasets.walk import shorten
from macl_tf.files import read_json, write_json

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
# The 43 labels of CORINE's third level by the 19 of the refined nomenclature; those of "" are in none of the 19.
NOMENCLATURE: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards", "Fruit trees and berry plantations", "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
    "": (
        "Road and rail networks and associated land", "Port areas", "Airports", "Mineral extraction sites",
        "Dump sites", "Construction sites", "Green urban areas", "Sport and leisure facilities", "Intertidal flats",
        "Bare rock", "Burnt areas",
    ),
}  # fmt: skip
_REFINED = {old: new for new, several in NOMENCLATURE.items() for old in several}
LABELS = {19: tuple(filter(None, NOMENCLATURE)), 43: tuple(_REFINED)}
LEFT_OUT = {"patches_with_seasonal_snow": "seasonal snow", "patches_with_cloud_and_shadow": "cloud or its shadow"}
PARTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_PART = 20_000  # patches whose labels are read before they are written down
_OPENERS: dict[str, Callable[..., Any]] = {".csv": open, ".csv.bz2": bz2.open, ".csv.gz": gzip.open, ".txt": open}

SOURCE = Source(
    title="BigEarthNet",
    folders=("bigearthnet",),
    layout="v1: BigEarthNet-v1.0/S2A_MSIL2A_.../S2A_MSIL2A_..._B01.tif and ..._labels_metadata.json, with train.csv,\n"
    "    val.csv, test.csv and the lists of snow and cloud beside or in it, if you have them\n"
    "v2: BigEarthNet-S2/S2A_MSIL2A_.../S2A_MSIL2A_..._26_57/S2A_MSIL2A_..._26_57_B01.tif, metadata.parquet beside it",
    origin="https://bigearth.net",
)


def load_bigearthnet(
    data_dir: str | os.PathLike[str] | None,
    *,
    cache_dir: str | os.PathLike[str],
    classes: int = 19,
    bands: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Archive:
    """Lists the patches of v1 or v2 with their labels; each is read when it is drawn.

    Args:
        data_dir: The folder around patches and lists, or that of the patches.
        cache_dir: Where the labels of v1 are noted, by parts, so that a call that was stopped goes on: they stand in
            one JSON file for each patch.
        classes: 19, the refined nomenclature, or 43, which v2 does not have.
        bands: `asked`, `rgb` and `scaling` of `bands.choose_bands`; None for all twelve.
        progress: Whether to show a bar.

    Returns:
        The archive, without patches of snow and cloud where the lists name them, and with the official split where
        there is one: metadata.parquet of v2, or train.csv, val.csv and test.csv.

    Raises:
        FileNotFoundError: If no patch is there.
        ValueError: For another number of classes, or bands that a patch does not have.
    """
    if classes not in LABELS:
        raise ValueError(f"classes must be 19 or 43, got {classes}.")
    root = Path(data_dir).expanduser() if data_dir else None
    if root is None or not root.is_dir():
        raise SOURCE.missing(root, "there is no such folder" if root else "its folder has to be given by --data-dir")
    places = [root, root.parent]
    table = next((found for place in places for found in sorted(place.glob("metadata*.parquet"))
                  if "snow" not in found.name), None)  # fmt: skip
    folders = dict(sorted(_patches(root)))  # names to folders relative to root
    if not folders:
        raise SOURCE.missing(root, "there is no patch, a folder of files that end in _B01.tif to _B12.tif")
    if table is not None:
        if classes != 19:
            raise ValueError(f"classes must be 19 for BigEarthNet v2, got {classes}: 43 are of v1.")
        held, parts, notes = _of_table(table, folders)
    else:
        held, parts, notes = _of_files(root, places, folders, Path(cache_dir), progress=progress)
    names, columns = sorted(held), {name: place for place, name in enumerate(LABELS[classes])}
    labels = np.zeros((len(names), classes), np.uint8)
    lost = 0
    for row, name in enumerate(names):
        called = [_REFINED.get(label, label) for label in held[name]] if classes == 19 else held[name]
        labels[row, [columns[label] for label in called if label in columns]] = 1
        lost += not labels[row].any()
    if lost:
        notes.append(f"patches with none of the {classes} labels, kept: {lost:,}")
    reader = _reader(bands)
    official = tuple(parts.get(name, "") for name in names)
    if parts and not all(official):
        keep = np.flatnonzero([part != "" for part in official])
        notes.append(f"patches in no part of the official split, left out: {len(names) - len(keep):,}")
        names, labels, official = [names[i] for i in keep], labels[keep], tuple(official[i] for i in keep)
    return Archive(
        name="bigearthnet",
        label_names=LABELS[classes],
        file_names=tuple(names),
        labels=labels,
        read_image=lambda index: reader.read(root / folders[names[index]] / names[index], names[index]),
        official_split=official if parts else None,
        default_split="official" if parts else "random",
        notes=(f"{len(names):,} patches, {'v2' if table else 'v1'}, {classes} labels", *notes),
        bands=reader,
    )


def _reader(bands: Mapping[str, str] | None) -> Bands:
    asked = dict(bands or {"asked": "all", "rgb": ""})
    if asked["asked"].strip() == "all":
        asked["asked"] = ",".join(BANDS)
    return chosen_by_name(**asked, known=BANDS, template="{tile}_{band}.tif")


def _patches(root: Path, below: str = "", levels: int = 3) -> Iterator[tuple[str, str]]:
    """Names of patches, and their folders relative to the root: folders of a file of band 1, at most so deep.

    Those of v1 lie in one folder, those of v2 in folders of their Sentinel-2 tiles; the folder around may be given.
    """
    for entry in os.scandir(root / below):
        if entry.is_dir():
            inside = os.path.join(below, entry.name)
            if os.path.isfile(os.path.join(entry.path, f"{entry.name}_B01.tif")):
                yield entry.name, inside
            elif levels > 1:
                yield from _patches(root, inside, levels - 1)


def _of_table(table: Path, folders: Mapping[str, str]) -> tuple[dict[str, Sequence[str]], dict[str, str], list[str]]:
    """Labels and parts of v2's patches, and notes."""
    from pyarrow import parquet

    held: dict[str, Sequence[str]] = {}
    parts: dict[str, str] = {}
    missing: list[str] = []
    for batch in parquet.ParquetFile(table).iter_batches(columns=["patch_id", "labels", "split"]):
        for row in batch.to_pylist():
            if row["patch_id"] in folders:
                held[row["patch_id"]], parts[row["patch_id"]] = row["labels"], PARTS[row["split"]]
            else:
                missing.append(row["patch_id"])
    if not held:
        raise ValueError(f"{table.name} must name the patches that are there, got {shorten(missing)}.")
    notes = (
        [f"rows of {table.name} without a patch, left out: {len(missing):,} ({shorten(missing)})"] if missing else []
    )
    if orphans := sorted(set(folders) - set(held)):
        notes.append(f"patches without a row in {table.name}, left out: {len(orphans):,} ({shorten(orphans)})")
    return held, parts, notes


def _of_files(
    root: Path, places: Sequence[Path], folders: dict[str, str], cache: Path, *, progress: bool
) -> tuple[dict[str, Sequence[str]], dict[str, str], list[str]]:
    """Labels of v1's patches from their JSON files, parts from lists, and notes."""
    notes = []
    for name, what in LEFT_OUT.items():
        if listed := _list(places, name):
            gone = [patch for patch in listed if folders.pop(patch, None)]
            notes.append(f"patches with {what}, left out: {len(gone):,}")
    parts = {patch: part for name, part in PARTS.items() for patch in _list(places, name)}
    names, held = list(folders), dict[str, Sequence[str]]()
    digest = hashlib.sha256("\0".join([os.path.realpath(root), *names]).encode()).hexdigest()[:16]
    with tqdm(desc="labels of bigearthnet", total=len(names), unit="patch", disable=not progress, delay=1) as bar:
        for start in range(0, len(names), _PART):
            noted = cache / f"bigearthnet-{digest}" / f"{start:09}.json"
            found: dict[str, Sequence[str]] | None = None
            with suppress(OSError, ValueError):
                found = read_json(noted)
            if found is None:
                part = names[start : start + _PART]
                with ThreadPoolExecutor(8) as pool:
                    read = pool.map(lambda name: _labels(root / folders[name], name), part)
                    found = {name: labels for name, labels in zip(part, read, strict=True) if labels is not None}
                with suppress(OSError):  # a cache that cannot be written costs time in the next run, not this run
                    write_json(noted, found)
            held |= found
            bar.update(len(names[start : start + _PART]))
    if damaged := [name for name in names if name not in held]:
        notes.append(f"patches whose labels cannot be read, left out: {len(damaged):,} ({shorten(damaged)})")
    if not held:
        raise ValueError(f"no patch in {root} has labels that can be read, in a file ..._labels_metadata.json.")
    return held, parts, notes


def _labels(folder: Path, name: str) -> list[str] | None:
    try:
        content = json.loads((folder / f"{name}_labels_metadata.json").read_text(encoding="utf-8"))
        labels: list[str] = content["labels"]
        return labels if set(labels) <= set(_REFINED) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _list(places: Sequence[Path], name: str) -> list[str]:
    """The patches of a published list, a name in each line, if it is there."""
    for place in places:
        for suffix, opener in _OPENERS.items():
            if (file := place / f"{name}{suffix}").is_file():
                with opener(file, "rt", encoding="utf-8", newline="") as lines:
                    return [row[0].strip() for row in csv.reader(lines) if row]
    return []
