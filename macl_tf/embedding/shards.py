"""Embedded tiles on disk: a folder of Parquet shards that grows, survives a kill, and is read back as one table.

    SHARDS/part-00000.parquet ...   id, path, labels, split, source, date, geometry, embedding, thumbnail, and by what
                                    a change of the tile is noticed: stamp (of its file) and facts (what was said of it)
    SHARDS/part-00000.json ...      of which encoder and labels the shard is, the files found bad while it was made,
                                    the tiles gone since earlier ones were, and its size and SHA-256
    SHARDS/bad_files.csv            what could not be embedded, and why
    SHARDS/stac/                    the same for others (`embedding.stac`)

A shard is there as a whole or not at all: what stands beside it is written first, and holds from when the Parquet file
gets its name. No shard ever changes. A tile in a later one takes the place of that with the same id in an earlier one,
and what a later one calls gone is not read any more. What is finished is known from the finished shards alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.label_lists import listed
from macl_tf.datasets.picture_kinds import as_they_are
from macl_tf.files import is_partial, locked, sha256_of, write_text, written_whole
from macl_tf.index.items import Items
from macl_tf.index.parquet import read_parquet, read_texts, write_parquet
from macl_tf.index.thumbnails import THUMBNAIL_SIZE

BAD_FILES = "bad_files.csv"
LOCK = ".lock"  # held by who writes
_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])
_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("stamp", "<u8"), ("facts", "<u8"), ("there", "?")])
FORMAT = 2
_NAME = re.compile(r"part-(\d+)\.(parquet|json)")


class BadFile(NamedTuple):
    """A file that could not be embedded."""

    path: str  # relative to its source
    reason: str
    # Its size and time of change then; a file that has changed since is tried again. "" where it could not be opened:
    # then it is tried again each time.
    stamp: str = ""


@dataclass(frozen=True)
class Origin:
    """What all shards of one folder have in common."""

    encoder: str  # SHA-256 of the run's encoder
    descriptor: str  # which of its outputs was compared (`Settings.descriptors`)
    version: int  # its number in SERVED/encoder when the shard was made, for people: it may be exported twice
    label_names: tuple[str, ...]
    dim: int
    thumbnail_size: int = THUMBNAIL_SIZE  # longest side in pixels of the small pictures, 0 for none

    def check(self, other: Origin, path: Path | str) -> None:
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
    """What stands beside a shard."""

    origin: Origin  # of its tiles
    rows: int  # how many they are
    thumbnails: bool  # whether there are small pictures of them
    bad: tuple[BadFile, ...]  # what was found bad while it was made
    gone: tuple[str, ...] = ()  # ids of tiles, and paths of bad files, of earlier shards that are not there any more
    plan: str = ""  # digest of the list of tiles that it was planned for, where a pipeline made it


def write_record(path: Path, record: Record, content: Path) -> None:
    """Writes what stands beside the shard `path`, whose bytes still lie in the file `content`."""
    facts = {"format": FORMAT, **asdict(record.origin), **record._asdict(), "bytes": content.stat().st_size}
    del facts["origin"]
    # In ASCII: the name of a bad file may be made of bytes that are not UTF-8.
    write_text(path.with_suffix(".json"), json.dumps(facts | {"sha256": sha256_of(content)}, indent=1) + "\n")


def write_shard(
    path: Path,
    record: Record,
    items: Items,
    vectors: NDArray[np.float32],
    thumbnails: Sequence[bytes | None] | None,
    texts: Mapping[str, Sequence[str]],
) -> None:
    """Writes a shard and what stands beside it; arguments as of `ShardFolder.add`."""
    with written_whole(path) as temporary:
        digest, how = record.origin.encoder, f"descriptor {record.origin.descriptor}"
        model = {"id": f"{digest} {how}", "name": "macl_tf", "source": f"urn:sha256:{digest}", "config": how}
        write_parquet(temporary, items, vectors, thumbnails, texts, model)
        write_record(path, record, temporary)


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"part-{number:05}.parquet"


def shard_number(path: Path) -> int:
    """The number of a shard, or of what stands beside it."""
    found = _NAME.fullmatch(path.name)
    return int(found.group(1)) if found else -1


def remedy(path: Path) -> str:
    """What to do about a damaged shard."""
    beside = path.with_suffix(".json").name
    return f"Remove '{path.name}' and '{beside}', and run `macl embed` again: what was in them is embedded anew."


def shard_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The finished shards in a folder, as they were written; a FileNotFoundError if one between others is missing."""
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
    """Reads what stands beside a shard, and checks that the shard holds the bytes that were written."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ValueError(
            f"'{path}' is no shard of macl_tf: '{beside.name}' is not beside it. Use another folder, or copy both anew."
        )
    told, size, digest = parse_record(beside.read_bytes(), path)
    if path.stat().st_size != size:
        raise ValueError(f"'{path}' must have {size:,} bytes, got {path.stat().st_size:,}. {remedy(path)}")
    if sha256_of(path) != digest:
        raise ValueError(f"'{path}' does not hold the bytes that were written (SHA-256 differs). {remedy(path)}")
    return told


def parse_record(content: bytes, path: Path) -> tuple[Record, int, str]:
    """What stands beside the shard `path`, its bytes and their SHA-256; a ValueError where it is damaged."""
    beside = path.with_suffix(".json")
    try:
        record = json.loads(content)
        if (found := int(record["format"])) == FORMAT:
            identity = str(record["encoder"]), str(record["descriptor"]), int(record["version"])
            names, small = tuple(map(str, record["label_names"])), int(record["thumbnail_size"])
            bad = tuple(BadFile(*map(str, file)) for file in record["bad"])
            size, digest, rows = int(record["bytes"]), str(record["sha256"]), int(record["rows"])
            origin, gone = Origin(*identity, names, int(record["dim"]), small), tuple(map(str, record["gone"]))
            plan = str(record.get("plan", ""))
            told = Record(origin, rows, bool(record["thumbnails"]), bad, gone, plan)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{beside}' is damaged ({type(error).__name__}: {error}). {remedy(path)}") from error
    if found != FORMAT:
        raise ValueError(
            f"'{beside}' is of format {found}, where this macl_tf reads and writes {FORMAT}. Use another output "
            "folder, or the macl_tf that wrote it."
        )
    return told, size, digest


class ShardFolder:
    """The shards of a folder, which exists, to be added to by one process at a time; what is added is of `origin`.

    A ValueError says which shard is damaged or of another origin. `rows` are the tiles that there are now, and `bad`
    the files found bad so far, by path.
    """

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.folder, self.origin = folder, origin
        self.bad: dict[str, BadFile] = {}
        for left in folder.iterdir():
            if is_partial(left) and left.is_file():
                left.unlink()  # of a process that was killed
        self._paths = shard_paths(folder)
        self._next = 0
        rows = [np.empty(0, _ROW)]
        for path in self._paths:
            record = read_record(path)
            origin.check(record.origin, path)
            ids, stamps, facts = read_texts(path, ("id", "stamp", "facts"))
            rows += [_rows_of(record.gone, there=False), _rows_of(ids, stamps, facts)]
            for name in record.gone:
                self.bad.pop(name, None)
            self.bad.update({file.path: file for file in record.bad})
            self._next = shard_number(path) + 1
        told = np.concatenate(rows)
        told = told[np.lexsort((np.arange(len(told)), told["low"], told["high"]))]
        last = np.ones(len(told), bool)  # of all that was told of an id, the last holds
        last[:-1] = (told["high"][1:] != told["high"][:-1]) | (told["low"][1:] != told["low"][:-1])
        told = told[last & told["there"]]
        # 34 bytes for each tile, in one piece each, to be searched quickly.
        self._high, self._low = told["high"].copy(), told["low"].copy()
        self._stamp, self._facts = told["stamp"].copy(), told["facts"].copy()
        self._there, self._seen = np.ones(len(told), bool), np.zeros(len(told), bool)
        self.rows = len(told)
        self.bad = {name: file for name, file in self.bad.items() if not self.holds(name)}  # others were mended
        self._bad_seen: set[str] = set()

    def holds(self, id: str) -> bool:
        """Whether there is a tile that was embedded before this process began."""
        return self._place(id) is not None

    def changes(self, id: str, stamp: str, facts: str) -> bool:
        """Whether a tile that was embedded before is another now. A stamp that is "" says nothing."""
        place = self._place(id)
        if place is None:
            return True
        return bool((stamp and self._stamp[place] != _short([stamp])[0]) or self._facts[place] != _short([facts])[0])

    def see(self, id: str, path: str) -> None:
        """Notes that a tile, or a bad file, is still there."""
        if (place := self._place(id)) is not None:
            self._seen[place] = True
        if path in self.bad:
            self._bad_seen.add(path)

    def unseen(self, below: tuple[str, ...] = ()) -> Iterator[str]:
        """Ids of tiles, and paths of bad files, that were embedded or found before and not seen since.

        Left out are those that begin with one of `below`: folders that could not be looked into.
        """
        yield from [path for path in self.bad if path not in self._bad_seen and not path.startswith(below)]
        for path in self._paths if not self._seen.all() else ():
            for id in read_texts(path, ("id",))[0]:
                if (place := self._place(id)) is not None and not self._seen[place] and not id.startswith(below):
                    self._seen[place] = True  # not twice, where it is in two shards
                    yield id

    @property
    def left(self) -> int:
        """How many tiles that were embedded before are there, but were not seen again."""
        return int(np.count_nonzero(self._there & ~self._seen))

    def add(
        self,
        items: Items,
        vectors: NDArray[np.float32],
        thumbnails: Sequence[bytes | None] | None,
        bad: Sequence[BadFile],
        *,
        stamps: Sequence[str] | None = None,
        facts: Sequence[str] | None = None,
        gone: Sequence[str] = (),
    ) -> None:
        """Writes the next shard, and the list of bad files.

        The n items are new or changed tiles, with (n, D) vectors and n JPEG thumbnails or none. `bad` was found
        meanwhile. `stamps` change with a tile's file, "" where nothing is known, and `facts` with what was said of the
        tile. `gone` are ids of tiles, and paths of bad files, that are not there any more.
        """
        texts = {"stamp": stamps or [""] * len(items), "facts": facts or [""] * len(items)}
        record = Record(self.origin, len(items), thumbnails is not None, tuple(bad), tuple(gone))
        write_shard(self.folder / shard_name(self._next), record, items, vectors, thumbnails, texts)
        self._next += 1
        self.rows += len(items)
        for id in (*gone, *items.ids):
            if (place := self._place(id)) is not None:
                self._there[place] = False
                self.rows -= 1
        for name in gone:
            self.bad.pop(name, None)
        self.bad.update({file.path: file for file in bad})
        self._bad_seen.update(file.path for file in bad)
        for name in items.paths:
            self.bad.pop(name, None)
        self.write_bad_files()

    def write_bad_files(self) -> None:
        """Brings bad_files.csv up to date, which it may not be if a process was killed after its last shard."""
        content = bad_files_text(self.bad.values())
        path = self.folder / BAD_FILES
        if not path.is_file() or path.read_bytes() != content:
            with written_whole(path) as temporary:
                temporary.write_bytes(content)

    def _place(self, id: str) -> int | None:
        """Where a tile stands among those embedded before, if it is there."""
        digest = np.frombuffer(_digests([id], 16), _DIGEST)[0]
        first, last = (int(np.searchsorted(self._high, digest["high"], side)) for side in ("left", "right"))
        for place in range(first, last):
            if self._low[place] == digest["low"]:
                return place if self._there[place] else None
        return None


def bad_files_text(bad: Iterable[BadFile]) -> bytes:
    """The content of bad_files.csv."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([BadFile._fields[:2], *(file[:2] for file in bad)])
    return text.getvalue().encode("utf-8", "surrogateescape")  # whatever bytes a file name holds


def read_origin(folder: str | os.PathLike[str]) -> Origin:
    """Which encoder and which labels the shards of a folder are of."""
    return _survey(Path(folder))[1][-1].origin


def read_shards(folder: str | os.PathLike[str]) -> tuple[Items, NDArray[np.float32], Iterator[bytes | None] | None]:
    """Reads a folder of shards as one table: N items, their (N, D) float32 embeddings, and N thumbnails or None.

    Thumbnails are read shard by shard when they are gone through. Beside the result, one shard at a time is in memory.
    Raises FileNotFoundError if there is no shard, or none with a tile, ValueError if a shard is damaged or shards are
    of different origins, and BlockingIOError if `macl embed` is writing there.
    """
    folder = Path(folder)
    busy = f"'{folder}' is being written by `macl embed`. Wait for it to end, then run this again."
    with locked(folder / LOCK, busy=busy, shared=True):
        paths, records = _survey(folder)
        count, dim = sum(record.rows for record in records), records[0].origin.dim
        vectors = np.empty((count, dim), np.float32)
        parts: list[Items] = []
        start = 0
        for path, record in zip(paths, records, strict=True):
            rows = read_parquet(path, thumbnails=False)
            told = (record.rows, dim), record.origin.label_names
            if rows.vectors is None or (rows.vectors.shape, rows.items.label_names) != told:
                raise ValueError(f"'{path}' does not hold what '{path.with_suffix('.json').name}' says. {remedy(path)}")
            if len(set(rows.items.ids)) != record.rows:
                raise ValueError(f"ids must be unique, but '{path}' holds one twice. {remedy(path)}")
            vectors[start : start + record.rows] = rows.vectors
            start += record.rows
            parts.append(rows.items)
        living = _living([part.ids for part in parts], records)
        left = sum(map(len, living))
        if left == 0:
            raise FileNotFoundError(f"'{folder}' must hold embedded tiles, but {_why_none(count, records)}")
        if left < count:
            end = start = 0
            for number, rows_of in enumerate(living):  # moved together in place: a copy would need the memory twice
                vectors[end : end + len(rows_of)] = vectors[start + rows_of]
                start, end = start + len(parts[number]), end + len(rows_of)
                parts[number] = parts[number].take(rows_of)
            vectors = vectors[:left]
        thumbnails = _thumbnails(paths, living) if any(record.thumbnails for record in records) else None
        return Items.concatenate(parts), vectors, thumbnails


def shards_digest(folder: str | os.PathLike[str]) -> str:
    """What tells the shards of a folder, as they are now, from all others."""
    told = [path.with_suffix(".json").read_bytes() for path in shard_paths(folder)]
    return hashlib.sha256(b"".join(told)).hexdigest()


def _why_none(count: int, records: Sequence[Record]) -> str:
    bad = [file for record in records for file in record.bad]
    if count or not bad:
        return "all that were embedded are gone since."
    return f"its shards list bad files only. The first: {bad[0].path} {bad[0].reason}{as_they_are(bad[0].reason)}"


def _living(ids: Sequence[NDArray[np.object_]], records: Sequence[Record]) -> list[NDArray[np.intp]]:
    """Rows of each shard that no later one replaces or calls gone."""
    home: dict[str, int] = {}
    for number, (there, record) in enumerate(zip(ids, records, strict=True)):
        for id in record.gone:
            home.pop(id, None)
        home.update(dict.fromkeys(there, number))
    return [
        np.array([row for row, id in enumerate(there) if home.get(id) == number], np.intp)
        for number, there in enumerate(ids)
    ]


def _thumbnails(paths: Sequence[Path], living: Sequence[NDArray[np.intp]]) -> Iterator[bytes | None]:
    """The thumbnails of what lives in each shard, of which one shard's are in memory at a time."""
    for path, rows in zip(paths, living, strict=True):
        found = read_parquet(path, vectors=False).thumbnails
        yield from (found[row] if found else None for row in rows)


def _survey(folder: Path) -> tuple[list[Path], list[Record]]:
    paths = shard_paths(folder) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"'{folder}' holds no shards (part-00000.parquet, ...). `macl embed` writes them.")
    records = [read_record(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        records[-1].origin.check(record.origin, path)
    return paths, records


def _digests(texts: Iterable[str], size: int) -> bytes:
    """A digest of so many bytes of each: of millions they fit into memory; 16 are never the same for two texts."""
    coded = (text.encode("utf-8", "surrogateescape") for text in texts)
    return b"".join(hashlib.blake2b(text, digest_size=size).digest() for text in coded)


def _short(texts: Iterable[str]) -> NDArray[Any]:
    """64 bits of each."""
    return np.frombuffer(_digests(texts, 8), "<u8")


def _rows_of(
    ids: Sequence[str] | NDArray[np.object_], stamps: Iterable[str] = (), facts: Iterable[str] = (), there: bool = True
) -> NDArray[Any]:
    """What is remembered of tiles; of those that are gone nothing but that."""
    rows = np.zeros(len(ids), _ROW)
    rows[["high", "low"]] = np.frombuffer(_digests(ids, 16), _DIGEST)
    rows["there"] = there
    if there:
        rows["stamp"], rows["facts"] = _short(stamps), _short(facts)
    return rows
