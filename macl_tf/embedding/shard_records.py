"""What stands beside each shard, and makes it one: of which encoder it is, what was bad, its size and SHA-256."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from macl_tf.datasets.label_lists import listed
from macl_tf.files import read_json, sha256_of, write_text
from macl_tf.index.thumbnails import THUMBNAIL_SIZE

FORMAT = 2
_NAME = re.compile(r"part-(\d+)\.(parquet|json)")


class _OtherFormat(ValueError):
    """Of shards that another macl_tf wrote."""


class BadFile(NamedTuple):
    """A file that could not be embedded.

    Attributes:
        path: Relative to its source.
        reason: Why.
        stamp: Its size and time of change then; a file that has changed since is tried again. "" where it could not
            be opened: then it is tried again each time.
    """

    path: str
    reason: str
    stamp: str = ""


@dataclass(frozen=True)
class Origin:
    """What all shards of one folder have in common.

    Attributes:
        encoder: SHA-256 of the run's encoder.
        descriptor: Which of its outputs was compared (`Settings.descriptors`).
        version: Its number in SERVED/encoder when the shard was made, for people: it may be exported twice.
        label_names: The label columns.
        dim: D, the width of the embeddings.
        thumbnail_size: Longest side in pixels of the small pictures, 0 for none.
    """

    encoder: str
    descriptor: str
    version: int
    label_names: tuple[str, ...]
    dim: int
    thumbnail_size: int = THUMBNAIL_SIZE

    def check(self, other: Origin, path: Path) -> None:
        """Raises a ValueError if `other`, found in the shard `path`, cannot stand beside this one."""
        if (other.encoder, other.descriptor, other.dim) != (self.encoder, self.descriptor, self.dim):
            raise ValueError(
                f"'{path}' was made with another encoder: {other}; now {self}. Embeddings of two encoders cannot be "
                "compared. Use another output folder."
            )
        if other.label_names != self.label_names:
            raise ValueError(
                f"'{path}' has other labels, {listed(other.label_names) or 'none'}; "
                f"now {listed(self.label_names) or 'none'}. Use another output folder."
            )
        if other.thumbnail_size != self.thumbnail_size:
            raise ValueError(
                f"'{path}' has small pictures of {other.thumbnail_size} pixels, now {self.thumbnail_size}. Use "
                f"--thumbnail {other.thumbnail_size}, or another output folder."
            )

    def __str__(self) -> str:
        """The encoder, for messages."""
        return f"version {self.version} ({self.descriptor}, {self.dim} dimensions, SHA-256 {self.encoder[:12]})"


class Record(NamedTuple):
    """What stands beside a shard.

    Attributes:
        origin: Of its tiles.
        rows: How many they are.
        thumbnails: Whether there are small pictures of them.
        bad: What was found bad while it was made.
        gone: Ids of tiles, and paths of bad files, that earlier shards tell of and that are not there any more.
    """

    origin: Origin
    rows: int
    thumbnails: bool
    bad: tuple[BadFile, ...]
    gone: tuple[str, ...] = ()


def write_record(path: Path, record: Record, content: Path) -> None:
    """Writes what stands beside the shard `path`, whose bytes still lie in the file `content`."""
    facts = {"format": FORMAT, **asdict(record.origin), **record._asdict(), "bytes": content.stat().st_size}
    del facts["origin"]
    # In ASCII: the name of a bad file may be made of bytes that are not UTF-8.
    write_text(path.with_suffix(".json"), json.dumps(facts | {"sha256": sha256_of(content)}, indent=1) + "\n")


def shard_path(folder: Path, number: int) -> Path:
    """Where the shard of a number stands."""
    return folder / f"part-{number:05}.parquet"


def shard_number(path: Path) -> int:
    """The number of a shard, or of what stands beside it."""
    found = _NAME.fullmatch(path.name)
    return int(found.group(1)) if found else -1


def remedy(path: Path) -> str:
    """What to do about a damaged shard."""
    beside = path.with_suffix(".json").name
    return f"Remove '{path.name}' and '{beside}', and run `macl embed` again: what was in them is embedded anew."


def shard_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The finished shards in a folder, in the order in which they were written.

    Raises:
        FileNotFoundError: If one between others is missing.
    """
    names = [path for path in Path(folder).iterdir() if _NAME.fullmatch(path.name)]
    paths = sorted((path for path in names if path.suffix == ".parquet"), key=shard_number)
    there = {shard_number(path) for path in paths}
    for path in names:
        # Behind the last shard it is what a killed process left.
        if shard_number(path) not in there and shard_number(path) < max(there, default=0):
            missing = path.with_suffix(".parquet")
            raise FileNotFoundError(f"'{missing}' is missing, which '{path.name}' is of. {remedy(missing)}")
    return paths


def read_record(path: Path) -> Record:
    """Reads what stands beside a shard, and checks that the shard holds the bytes that were written.

    Raises:
        ValueError: If it is damaged, or no shard.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ValueError(
            f"'{path}' is no shard of macl_tf: '{beside.name}' is not beside it. Use another folder, or copy both anew."
        )
    try:
        record = read_json(beside)
        if (found := int(record["format"])) != FORMAT:
            raise _OtherFormat(
                f"'{beside}' is of format {found}, where this macl_tf reads and writes {FORMAT}. Use another output "
                "folder, or the macl_tf that wrote it."
            )
        names = tuple(map(str, record["label_names"]))
        encoder, descriptor = str(record["encoder"]), str(record["descriptor"])
        small = int(record["thumbnail_size"])
        origin = Origin(encoder, descriptor, int(record["version"]), names, int(record["dim"]), small)
        bad = tuple(BadFile(*map(str, file)) for file in record["bad"])
        size, digest, rows = int(record["bytes"]), record["sha256"], int(record["rows"])
        thumbnails, gone = bool(record["thumbnails"]), tuple(map(str, record["gone"]))
    except _OtherFormat:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{beside}' is damaged ({type(error).__name__}: {error}). {remedy(path)}") from error
    if path.stat().st_size != size:
        raise ValueError(f"'{path}' must have {size:,} bytes, got {path.stat().st_size:,}. {remedy(path)}")
    if sha256_of(path) != digest:
        raise ValueError(f"'{path}' does not hold the bytes that were written (SHA-256 differs). {remedy(path)}")
    return Record(origin, rows, thumbnails, bad, gone)
