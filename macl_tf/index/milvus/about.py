"""What a Milvus must remember beside the vectors: the versions of an index, their labels, and who may write.

It stands in a small collection of its own, NAME__about, one JSON text a row, so that several processes that add to it
never write over each other:

    000000003               of version 3: its collection, source, facts, how many rows are in, whether it is whole
    000000003/label/NAME    a label that it has, and at which place
    000000003/changed       it was written to since it was filled
    000000003/closed        another version takes its place: it is written to no more
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from macl_tf.index.milvus.connection import Connection
from macl_tf.index.milvus.rows import both

_LONGEST = {"id": 2048, "text": 65_535}
_LABEL = "label/"
CHANGED, CLOSED = "changed", "closed"


@dataclass(frozen=True)
class Noted:
    """What is noted of a version beside its facts."""

    label_names: tuple[str, ...]  # in their order
    changed: bool
    closed: bool


class About:
    """The notes of the index of this name."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self._collection = connection, f"{name}__about"

    def make(self) -> None:
        """Makes the collection, where it is not there."""
        texts = {name: {"datatype": "VARCHAR", "max_length": longest} for name, longest in _LONGEST.items()}
        texts["id"]["is_primary"] = True
        # A collection must have a vector.
        fields = {**texts, "vector": {"datatype": "FLOAT_VECTOR", "dim": 2}}
        if not self._connection.call("has_collection", self._collection):
            self._connection.create(self._collection, fields, "Strong")
        self._connection.build_index(self._collection, {"vector": ("FLAT", {})})

    def versions(self) -> dict[int, dict[str, Any]]:
        """The facts of every version, also of those that are not whole; none where nothing was ever made."""
        if not self._connection.call("has_collection", self._collection):
            return {}
        found = self._read('not (id like "%/%")')
        return {int(key): found[key] for key in sorted(found)}

    def put(self, version: int, facts: Mapping[str, Any]) -> None:
        """Writes the facts of a version."""
        self._write({_key(version): facts})

    def noted(self, version: int) -> Noted:
        """What is noted of a version."""
        start = f"{_key(version)}/"
        found = {key.removeprefix(start): value for key, value in self._read(f'id like "{start}%"').items()}
        labels = {key.removeprefix(_LABEL): value for key, value in found.items() if key.startswith(_LABEL)}
        names = tuple(sorted(labels, key=lambda name: (labels[name], name)))
        return Noted(names, CHANGED in found, CLOSED in found)

    def note(self, version: int, what: str) -> None:
        """Notes that a version is `CHANGED` or `CLOSED`."""
        self._write({f"{_key(version)}/{what}": True})

    def open(self, version: int) -> None:
        """Takes back that a version is closed."""
        self._delete(f'id == "{_key(version)}/{CLOSED}"')

    def add_labels(self, version: int, names: tuple[str, ...], first: int) -> None:
        """Gives a version more labels, from the place `first` on."""
        self._write({f"{_key(version)}/{_LABEL}{name}": first + place for place, name in enumerate(names)})

    def forget(self, version: int) -> None:
        """Takes away all that is known of a version."""
        self._delete(f'id like "{_key(version)}%"')

    def _read(self, condition: str) -> dict[str, Any]:
        rows = self._connection.rows(self._collection, both(condition), ("id", "text"))
        return {row["id"]: json.loads(row["text"]) for row in rows}

    def _write(self, texts: Mapping[str, Any]) -> None:
        rows = [{"id": key, "text": json.dumps(value), "vector": [1.0, 0.0]} for key, value in texts.items()]
        if rows:
            self._connection.change("upsert", self._collection, rows)

    def _delete(self, condition: str) -> None:
        self._connection.change("delete", self._collection, filter=condition)


def _key(version: int) -> str:
    return f"{version:09d}"
