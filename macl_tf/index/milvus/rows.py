"""Items as rows of a Milvus collection, and filters as its conditions.

id        the primary key                   labels    ARRAY of names
vector    D float32 of unit norm            day       days since 1970-01-01, -2^40 where unknown
path, split, source                         west, south, east, north     bounds in degrees; where unknown,
corners   8 longitudes and latitudes, or none         nothing lies between south 1000 and north -1000
draw      a number drawn from the id, in [0, 2^62)    pictured, thumbnail (JPEG in base64)
keys      milvus-lite only: the labels once more, as one text of hashes: it filters arrays 30 times as slowly
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.label_names import known_labels
from macl_tf.index.filters import Filter
from macl_tf.index.items import Items

DRAWN = 1 << 62
_NO_DAY, _NOWHERE = -(1 << 40), (1000.0, 1000.0, -1000.0, -1000.0)
# The longest that a text may be, in bytes of UTF-8, and how many labels an item may hold: Milvus asks for a limit.
_LONGEST = {"id": 2048, "path": 4096, "split": 256, "source": 1024}
_ON_DISK = {"mmap_enabled": True}
_LABEL, _LABELS = 1024, 4096
_TEXT = 65_535  # the longest text that Milvus takes
PICTURE = "thumbnail"
ANY = f"day >= {_NO_DAY}"  # a condition that every row meets
KNOWN = ("id", "path", "labels", "split", "source", "day", "corners", "pictured")  # all that `item_of` reads
_TEXTS = tuple(_LONGEST)


def fields(dim: int, lite: bool) -> dict[str, dict[str, Any]]:
    """The fields of a collection, by name: their type as pymilvus calls it, and limits."""
    texts: dict[str, dict[str, Any]] = {
        name: {"datatype": "VARCHAR", "max_length": longest} for name, longest in _LONGEST.items()
    }
    texts["id"]["is_primary"] = True
    # Left on the disk are those that are never searched by.
    texts["path"] |= _ON_DISK
    texts["source"] |= _ON_DISK
    labels = {"datatype": "ARRAY", "element_type": "VARCHAR", "max_capacity": _LABELS, "max_length": _LABEL}
    return {
        **texts,
        "vector": {"datatype": "FLOAT_VECTOR", "dim": dim},
        "labels": labels,
        "day": {"datatype": "INT64"},
        **{name: {"datatype": "DOUBLE"} for name in ("west", "south", "east", "north")},
        "corners": {"datatype": "ARRAY", "element_type": "DOUBLE", "max_capacity": 8, **_ON_DISK},
        "draw": {"datatype": "INT64"},
        "pictured": {"datatype": "BOOL"},
        PICTURE: {"datatype": "VARCHAR", "max_length": _TEXT, **_ON_DISK},
        **({"keys": {"datatype": "VARCHAR", "max_length": _TEXT}} if lite else {}),
    }


def indexed(lite: bool) -> list[str]:
    """Fields that conditions look at, each with an index of its own."""
    return ["split", "day", "draw"] if lite else ["split", "day", "draw", "labels"]


def rows_of(
    items: Items, vectors: NDArray[np.float32], thumbnails: Iterable[bytes | None], lite: bool
) -> list[dict[str, Any]]:
    """N items with their (N, D) unit vectors and N pictures as rows; a ValueError for a text that is too long."""
    days = np.where(np.isnat(items.dates), _NO_DAY, items.dates.astype(np.int64)).tolist()
    bounds, corners = items.bounds, items.footprints.reshape(len(items), 8)
    held: list[list[str]] = [[] for _ in range(len(items))]
    for line, column in np.argwhere(items.labels).tolist():
        held[line].append(items.label_names[column])
    rows: list[dict[str, Any]] = []
    for place, picture in enumerate(thumbnails):
        known = not np.isnan(bounds[place, 0])
        west, south, east, north = bounds[place].tolist() if known else _NOWHERE
        row = {
            "id": items.ids[place],
            "vector": vectors[place],
            "path": items.paths[place],
            "labels": held[place],
            "split": items.splits[place],
            "source": items.sources[place],
            "day": days[place],
            "west": west, "south": south, "east": east, "north": north,
            "corners": corners[place].tolist() if known else [],
            "draw": drawn(items.ids[place]),
            "pictured": bool(picture),
            PICTURE: base64.b64encode(picture or b"").decode("ascii"),
            **({"keys": _keys(held[place])} if lite else {}),
        }  # fmt: skip
        _check(row)
        rows.append(row)
    return rows


def set_labels(row: dict[str, Any], labels: Sequence[str]) -> None:
    """Gives a row other labels."""
    row["labels"] = list(labels)
    if "keys" in row:
        row["keys"] = _keys(labels)
    _check(row)


def item_of(row: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, Any]:
    """What a row says of its item, as `Items.describe` says it; labels that are not among the names come last."""
    labels, corners = set(row["labels"]), row["corners"]
    return {
        "id": row["id"],
        "path": row["path"] or None,
        "labels": [name for name in label_names if name in labels] + sorted(labels.difference(label_names)),
        "split": row["split"] or None,
        "source": row["source"] or None,
        "date": None if row["day"] == _NO_DAY else str(np.datetime64(row["day"], "D")),
        "footprint": [list(map(float, corners[at : at + 2])) for at in range(0, 8, 2)] if len(corners) else None,
    }


def items_of(items: Sequence[Mapping[str, Any]], label_names: Sequence[str]) -> Items:
    """The table of what `item_of` says of some items."""
    names = tuple(dict.fromkeys([*label_names, *(label for item in items for label in item["labels"])]))
    return Items.of(
        names,
        [item["id"] for item in items],
        [[name in item["labels"] for name in names] for item in items],
        **{f"{name}s": [item[name] or "" for item in items] for name in ("path", "split", "source")},
        footprints=[item["footprint"] or [[np.nan, np.nan]] * 4 for item in items],
        dates=[item["date"] for item in items],
    )


def condition_of(filter: Filter, label_names: tuple[str, ...], lite: bool) -> str:
    """A filter as a condition of Milvus, "" for one that all items pass; an UnknownLabelError as of `Filter.mask`."""
    known = known_labels(label_names)
    known.places((*filter.any_of, *filter.all_of, *filter.none_of))  # all that are unknown, in one error

    def held(names: tuple[str, ...], how: str) -> str:
        wanted = [label_names[place] for place in known.places(names)]
        if lite:
            return f" {'and' if how == 'all' else 'or'} ".join(f'keys like "%{_key(name)}%"' for name in wanted)
        return f"array_contains_{how}(labels, {quoted(wanted)})"

    parts = []
    if filter.any_of:
        parts.append(held(filter.any_of, "any"))
    if filter.all_of:
        parts.append(held(filter.all_of, "all"))
    if filter.none_of:
        parts.append(f"not ({held(filter.none_of, 'any')})")
    if filter.split:
        parts.append(f"split in {quoted(filter.split)}")
    if filter.since is not None:
        parts.append(f"day >= {filter.since.astype(int)}")
    if filter.until is not None:
        parts.append(f"day > {_NO_DAY} and day <= {filter.until.astype(int)}")
    if filter.bbox is not None:
        west, south, east, north = filter.bbox
        east += 360.0 * (west > east)
        turns = [f"(west <= {east + turn!r} and east >= {west + turn!r})" for turn in (0.0, -360.0, 360.0)]
        parts.append(f"south <= {north!r} and north >= {south!r} and ({' or '.join(turns)})")
    return both(*parts)


def both(*conditions: str) -> str:
    """What meets all of the conditions; "" is met by all."""
    return " and ".join(f"({condition})" for condition in conditions if condition)


def holding(label: str, lite: bool) -> str:
    """The condition that an item holds a label."""
    return condition_of(Filter(any_of=(label,)), (label,), lite)


def among(ids: Iterable[str], column: str = "id") -> str:
    """The condition that a row is one of these."""
    return f"{column} in {quoted(ids)}"


def quoted(texts: Iterable[str]) -> str:
    """Texts as a list in a condition: JSON's escapes are Milvus's. pymilvus's own quotes break at the first quote."""
    return json.dumps(list(texts), ensure_ascii=False)


def drawn(id_: str) -> int:
    """A number in [0, 2^62) that looks drawn at random, always the same for an id."""
    return int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=8).digest(), "big") >> 2


def _key(label: str) -> str:
    """What stands for a label in `keys`, without letters that mean something to `like`: 64 bits of a hash."""
    return hashlib.blake2b(label.encode(), digest_size=8).hexdigest() + ";"


def _keys(labels: Sequence[str]) -> str:
    return "".join(map(_key, labels))


def _check(row: Mapping[str, Any]) -> None:
    for name in _TEXTS:
        if len(row[name]) * 4 > _LONGEST[name] and (size := len(row[name].encode())) > _LONGEST[name]:
            most = f"{name} must have at most {_LONGEST[name]} bytes in Milvus"
            raise ValueError(f"{most}, got {size}: {row[name][:80]}…")
    if len(row["labels"]) > _LABELS or any(len(label.encode()) > _LABEL for label in row["labels"]):
        raise ValueError(f"an item must hold at most {_LABELS} labels of {_LABEL} bytes in Milvus: '{row['id']}'.")
    if len(row[PICTURE]) > _TEXT:
        raise ValueError(
            f"a small picture must have at most {_TEXT * 3 // 4:,} bytes in Milvus, got more for '{row['id']}'. Make "
            "the index with smaller ones: --thumbnail 128."
        )
