"""Which scenes there are: rasters, folders of them, and STAC items with the rasters that they name."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from macl_tf.datasets.matching import Finding
from macl_tf.datasets.tile_facts import day_of
from macl_tf.datasets.walk import shorten, walk

# What is taken for a scene in a folder; a file that is named may be anything that GDAL reads.
SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k", ".img", ".png", ".jpg", ".jpeg", ".ecw", ".sid", ".nc", ".vrt")
_NO_PICTURE = {"thumbnail", "overview", "metadata"}  # roles of a STAC asset that is no data
_RASTERS = ("image/tiff", "image/jp2", "image/png", "image/jpeg", "image/vnd", "application/x-geotiff")


@dataclass(frozen=True)
class Source:
    """A scene: the rasters whose bands it joins, what to call it, and when it was taken."""

    name: str  # what messages call it: its path from the folder that was given, or the id of an item
    paths: tuple[Path, ...]
    datetime: str = ""  # as the item says

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return "|".join(os.path.realpath(path) for path in self.paths)

    @property
    def stem(self) -> str:
        """The last part of its name, without a suffix."""
        last = Path(self.name).name
        return last[: -len(Path(last).suffix)] if last.lower().endswith(SUFFIXES) else last


class Window(NamedTuple):
    """A window of a scene; made of what JSON holds."""

    scene: str  # what messages call it
    paths: tuple[str, ...]  # of its rasters
    datetime: str  # as a STAC item says
    row: int  # of the upper edge, in pixels
    column: int  # of the left edge


def find_sources(
    inputs: Sequence[Path], passed_over: Iterable[Path] = (), assets: Sequence[str] = ()
) -> tuple[list[Source], list[Finding]]:
    """The scenes that inputs name, sorted within each folder, and what cannot be one.

    Args:
        inputs: Rasters, folders, STAC items and item collections.
        passed_over: Folders inside them that hold no scenes: the masks, the archive itself.
        assets: Of STAC items the assets whose bands are joined, in this order.

    Raises:
        FileNotFoundError: Where an input is not there.
        ValueError: Where an input holds no scene, or an item is not as STAC has it.
    """
    found: list[Source] = []
    findings: list[Finding] = []
    away = [path.resolve() for path in passed_over]
    for given in inputs:
        if given.is_dir():
            there = list(_in_folder(given, away, findings))
            if not there:
                raise ValueError(f"'{given}' must hold rasters ({', '.join(SUFFIXES)}) at any depth, but holds none.")
            found += there
        elif not given.exists():
            raise FileNotFoundError(f"the scenes must be there, but there is no '{given}'.")
        elif given.suffix.lower() in (".json", ".geojson"):
            found += _items(given, assets, findings)
        else:
            found.append(Source(given.name, (given,)))
    return list({source.key: source for source in reversed(found)}.values())[::-1], findings


def names_of(sources: Sequence[Source], known: dict[str, str]) -> dict[str, str]:
    """A name for the folder of each scene's tiles, by its `Source.key`; `known` ones are kept.

    It is the scene's stem; of several with the same one, the folders before it too.
    """
    names = dict(known)
    taken = {name.casefold() for name in known.values()}
    stems = Counter(source.stem.casefold() for source in sources)
    for source in sources:
        if source.key in names:
            continue
        name = source.stem
        if stems[name.casefold()] > 1 or name.casefold() in taken:
            name = "_".join((*Path(source.name).parts[:-1], source.stem))
        base, number = name, 2
        while name.casefold() in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name.casefold())
        names[source.key] = name
    return names


def _in_folder(folder: Path, away: Collection[Path], findings: list[Finding]) -> Iterator[Source]:
    # A mosaic beside its parts would be cut twice.
    listed = list(walk(folder))
    rasters = [name for name, error in listed if error is None and name.lower().endswith(SUFFIXES)]
    rasters = [name for name in rasters if not any(path in (folder / name).resolve().parents for path in away)]
    virtual = [name for name in rasters if name.lower().endswith(".vrt")]
    findings += [Finding("unlisted", name, str(error)) for name, error in listed if error is not None]
    if len(virtual) < len(rasters):
        rasters = [name for name in rasters if name not in virtual]
        findings += [Finding("virtual", name, "a VRT beside other rasters") for name in virtual]
    for name in rasters:
        yield Source(name, (folder / name,))


def _items(path: Path, assets: Sequence[str], findings: list[Finding]) -> list[Source]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.get("type")
        items = content["features"] if kind == "FeatureCollection" else [content]
        if kind not in ("Feature", "FeatureCollection") or not all("assets" in item for item in items):
            raise ValueError(f"type {kind!r}" if kind in ("Catalog", "Collection") else "no assets")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' must be a STAC item or item collection, got another file ({error}). Give the items themselves, "
            "or their rasters; vectors are given by --vectors."
        ) from None
    found = []
    for item in items:
        try:
            found.append(_source(path.parent, item, assets))
        except ValueError as error:
            findings.append(Finding("unreadable", str(item.get("id") or path.name), str(error)))
    if not found:
        raise ValueError(f"'{path}' must have an item that can be used, but: {findings[-1].detail}")
    return found


def _source(folder: Path, item: dict[str, Any], wanted: Sequence[str]) -> Source:
    name, assets, said = str(item.get("id") or ""), item["assets"], item.get("properties") or {}
    if not name:
        raise ValueError("an item must have an id.")
    known = shorten(sorted(assets), 20)
    for asset in wanted:
        if asset not in assets:
            raise ValueError(f"item '{name}' must have the asset '{asset}', but has {known}. Choose by --assets.")
    if not wanted:
        data = [key for key, asset in assets.items() if _is_data(asset)]
        wanted = [key for key in data if "data" in (assets[key].get("roles") or ())] or data
        if len(wanted) != 1:
            raise ValueError(f"item '{name}' has {len(wanted)} rasters: {known}. Say which by --assets NAME,...")
    paths = tuple(_local(folder, str(assets[asset].get("href", ""))) for asset in wanted)
    taken = str(said.get("datetime") or said.get("start_datetime") or "")
    if taken:
        day_of(taken[:10])  # what is no date is said here
    return Source(name.replace("/", "_"), paths, taken)


def _is_data(asset: dict[str, Any]) -> bool:
    if set(asset.get("roles") or ()) & _NO_PICTURE:
        return False
    named = urlsplit(str(asset.get("href", ""))).path.lower().endswith(SUFFIXES)
    return str(asset.get("type", "")).startswith(_RASTERS) or named


def _local(folder: Path, href: str) -> Path:
    parts = urlsplit(href)
    if parts.scheme not in ("", "file"):
        raise ValueError(f"an asset must be a local file, got {href}. Download it and let the item name the copy.")
    path = folder / (unquote(parts.path) if parts.scheme else href)
    if not path.is_file():
        raise ValueError(f"an asset must be there, but there is no '{path}'.")
    return path
