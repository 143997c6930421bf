"""Which engine holds the index of a served folder."""

from __future__ import annotations

from pathlib import Path

from macl_tf.index.index import Index
from macl_tf.index.view import Engine


def open_engine(served: Path, address: str = "", *, exact: bool = False, verify: bool = True) -> Engine:
    """Opens the index in a served folder or, where an address is given, in a Milvus ("milvus:URI").

    `exact` compares with every item always, and `verify` compares the SHA-256 of every file first; both are for files.
    An ArtifactError says that it is missing or damaged, an EngineError that what holds it does not answer.
    """
    if not address:
        return Index.open(served / "index", exact=exact, verify=verify)
    from macl_tf.index.milvus.index import MilvusIndex

    return MilvusIndex.open(address)
