"""Shards as others find them: a STAC collection with the extension for embeddings, and an item for each shard.

    SHARDS/stac/collection.json     what made the vectors, how wide they are, where and when the tiles are
    SHARDS/stac/part-00000.json     of a shard: where and when its tiles are; the asset `embeddings` is the shard

Of the extension (github.com/geo-embeddings/embeddings-stac-specification) it is version 0.0.1, whose schema asks for
STAC 1.0.0. The collection is written last, and names items that are there. What is as it should be is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from macl_tf.embedding.shards import Origin, parse_record, shard_paths
from macl_tf.files import read_json, write_json
from macl_tf.index.items import extent_of
from macl_tf.index.parquet import read_items

STAC = "stac"
COLLECTION = "collection.json"
_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
_EMBEDDINGS = _EXTENSION.format("embeddings/v0.0.1")
_VERSION = "1.0.0"
_ASSET = {"type": "application/vnd.apache.parquet", "roles": ["data"], "title": "Embeddings, a row for each tile"}
_SOURCE = "emb:source-data"
_NAMED = 20  # sources that are linked


def write_stac(folder: Path, origin: Origin) -> None:
    """Describes the shards of a folder that hold tiles, which are of `origin`; nothing where none does."""
    name, items = f"macl_tf-{origin.encoder[:12]}-{origin.descriptor}", []
    for path in shard_paths(folder):
        if (item := _item(path, name)) is not None:
            items.append(item)
    path = folder / STAC / COLLECTION
    if items and _read(path) != (collection := _collection(name, origin, items)):
        write_json(path, collection)


def _read(path: Path) -> Any:
    """What a file holds; None where it is not there or damaged."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return None


def _item(path: Path, collection: str) -> dict[str, Any] | None:
    """The item of a shard, as it is there or made now; None of a shard without tiles."""
    record, size, digest = parse_record(path.with_suffix(".json").read_bytes(), path)
    if not record.rows:
        return None
    beside, checksum = path.parent / STAC / f"{path.stem}.json", f"1220{digest}"  # multihash: SHA-256, of 32 bytes
    asset = {"href": f"../{path.name}", **_ASSET, "file:size": size, "file:checksum": checksum}
    there = _read(beside)
    if isinstance(there, dict) and there.get("assets") == {"embeddings": asset}:
        return there
    tiles = read_items(path)
    made = datetime.fromtimestamp(int(path.stat().st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    days = tiles.dates[~np.isnat(tiles.dates)]
    when: dict[str, Any] = {"datetime": made}  # STAC asks for one
    if days.size:
        first, last = f"{days.min()}T00:00:00Z", f"{days.max()}T23:59:59Z"
        when = {"datetime": None, "start_datetime": first, "end_datetime": last}
    box = extent_of(tiles.bounds)
    names = [name for name in dict.fromkeys(tiles.sources.tolist()) if name][:_NAMED]
    item = {
        "type": "Feature",
        "stac_version": _VERSION,
        "stac_extensions": [_EMBEDDINGS, _EXTENSION.format("file/v2.1.0"), _EXTENSION.format("processing/v1.2.0")],
        "id": path.stem,
        "collection": collection,
        **({"bbox": box} if box else {}),
        "geometry": _geometry(*box) if box else None,
        "properties": {
            **when,
            "processing:datetime": made,
            "emb:runtime_parameters": {"descriptor": record.origin.descriptor},
        },
        "links": [*({"rel": rel, "href": f"./{COLLECTION}"} for rel in ("root", "parent", "collection"))]
        + [{"rel": _SOURCE, "href": f"urn:macl-tf:source:{quote(name, safe='')}", "title": name} for name in names],
        "assets": {"embeddings": asset},
    }
    write_json(beside, item)
    return item


def _geometry(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    """A box, counterclockwise; cut in two at the antimeridian where west is greater than east."""
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    boxes = [[[[a, south], [b, south], [b, north], [a, north], [a, south]]] for a, b in spans]
    if len(boxes) == 1:
        return {"type": "Polygon", "coordinates": boxes[0]}
    return {"type": "MultiPolygon", "coordinates": boxes}


def _collection(name: str, origin: Origin, items: list[dict[str, Any]]) -> Mapping[str, Any]:
    boxes = [item["bbox"] for item in items if "bbox" in item]
    bounds = np.array([[w, s, e + 360 * (w > e), n] for w, s, e, n in boxes]).reshape(-1, 4)
    told = [item["properties"] for item in items]
    first = min((one["start_datetime"] for one in told if "start_datetime" in one), default=None)
    last = max((one["end_datetime"] for one in told if "end_datetime" in one), default=None)
    sources = {link["href"]: link for item in items for link in item["links"] if link["rel"] == _SOURCE}
    unknown = {"rel": _SOURCE, "href": "urn:macl-tf:source", "title": "not known"}  # the extension asks for one
    model = f"encoder of macl_tf, descriptor {origin.descriptor}"
    return {
        "type": "Collection",
        "stac_version": _VERSION,
        "stac_extensions": [_EMBEDDINGS, _EXTENSION.format("item-assets/v1.0.0")],
        "id": name,
        "title": "Embeddings of tiles",
        "description": "Embeddings of tiles by macl_tf. A tile of which several items have a row is that of the last.",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [extent_of(bounds) or [-180.0, -90.0, 180.0, 90.0]]},
            "temporal": {"interval": [[first, last]]},
        },
        "emb:type": "chip",
        "emb:dimensions": origin.dim,
        "data_type": "float32",
        "item_assets": {"embeddings": _ASSET},
        "links": [
            {"rel": "root", "href": f"./{COLLECTION}"},
            {"rel": "emb:model", "href": f"urn:sha256:{origin.encoder}", "title": model},
            *(list(sources.values())[:_NAMED] or [unknown]),
            *({"rel": "item", "href": f"./{item['id']}.json", "type": "application/geo+json"} for item in items),
        ],
    }
