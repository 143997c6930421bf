"""Files wherever Apache Beam reads and writes: on this machine's disks, gs://, s3://, hdfs:// where their packages are.

Tiles are read from there, for a pipeline's workers, and listed; shards are put there.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from macl_tf.datasets.bands import Bands, Reader
from macl_tf.datasets.images import RGB
from macl_tf.datasets.picture_kinds import broken
from macl_tf.datasets.tile_facts import NOWHERE, HeaderFacts, read_header
from macl_tf.datasets.tile_places import FOOTPRINTS, read_footprints
from macl_tf.datasets.walk import images_among, is_hidden
from macl_tf.embedding.rows import stamp_of_file
from macl_tf.embedding.sources import TableRows, Tile, read_tile
from macl_tf.files import PARTIAL

_RAW = {"compression_type": CompressionTypes.UNCOMPRESSED}  # whatever a name ends with


def is_remote(place: str) -> bool:
    """Whether a place has a scheme, as gs://bucket/folder."""
    return FileSystems.get_scheme(place) is not None


def fetch(place: str) -> bytes:
    """The bytes of a file; an OSError with a number says why there are none."""
    try:
        with FileSystems.open(place, **_RAW) as file:
            return bytes(file.read())
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.EIO, f"{error}") from error


def put(file: Path, folder: str) -> None:
    """Copies a file into a folder, where it is there as a whole or not at all."""
    whole, part = f"{folder}/{file.name}", f"{folder}/{PARTIAL}{uuid.uuid4().hex}-{file.name}"
    try:
        with open(file, "rb") as content, FileSystems.create(part, **_RAW) as copy:
            shutil.copyfileobj(content, copy, 1 << 20)
        FileSystems.rename([part], [whole])
    except BaseException:
        if FileSystems.exists(part):
            FileSystems.delete([part])
        raise


def sizes_in(folder: str) -> dict[str, int]:
    """The files that a folder holds, by name, and their bytes; none where it is not there."""
    if is_remote(folder):
        (found,) = FileSystems.match([f"{folder}/*"])
        return {file.path.rpartition("/")[2]: file.size_in_bytes for file in found.metadata_list}
    there = os.scandir(folder) if os.path.isdir(folder) else ()  # Beam has no way to quote a folder called [a]
    return {entry.name: entry.stat().st_size for entry in there if entry.is_file()}


def names_below(folder: str, pattern: str = "**") -> list[str]:
    """Names of the files below a folder elsewhere that match, relative to it."""
    (found,) = FileSystems.match([f"{folder}/{pattern}"])
    return [file.path.removeprefix(f"{folder}/") for file in found.metadata_list]


def copy_folder(folder: str, to: Path) -> None:
    """Copies all that is below a folder elsewhere to this machine."""
    for name in names_below(folder):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(fetch(f"{folder}/{name}"))


@dataclass
class Fetched:
    """A tile's file, which is read once, for its pixels and then for its header."""

    reader: Reader
    root: str  # folder of the tiles
    name: str  # of this one, below it
    lost: str = ""  # why it cannot be listed, where it stands for a folder
    _data: bytes | Path = field(default=b"", repr=False)

    def read(self) -> NDArray[Any]:
        """Its pixels; as `Tile.read`."""
        if self.lost:
            raise OSError(errno.EIO, self.lost)
        place = f"{self.root}/{self.name}"
        if isinstance(self.reader, Bands) and self.reader.template and not os.path.isfile(place):
            self._data = Path(place)  # a file for each band
        else:
            try:
                self._data = fetch(place)
            except OSError as error:
                raise broken(self.name, str(error).replace(f": '{place}'", "")) from error
        return read_tile(self.reader, self._data, self.name)

    def opens(self) -> bool:
        """Whether it can be opened now."""
        try:
            with FileSystems.open(f"{self.root}/{self.name}", **_RAW) as file:
                file.read(1)
        except OSError:
            return False
        return True

    def header(self) -> HeaderFacts:
        """What its header says; the bytes are let go."""
        data, self._data = self._data, b""
        return read_header(self.reader.files(data)[0] if isinstance(data, Path) else data)


class PatternSource:
    """The images that a pattern means, wherever Beam lists files: gs://bucket/tiles, or one with wildcards.

    `*` is any name, `**` any path. Without either it is a folder, with all that is below. Ids are paths relative to the
    folder before the first wildcard, whose `footprints.parquet` is read. Hidden files are passed over and rasters of a
    kind that is not read are bad ones, as for `FolderSource`. The names of all images are in memory.

    Args:
        pattern: What to embed.
        table: Label table, a file on this machine.
        reader: Of the tiles.

    Raises:
        ValueError: For tiles with a file for each band, and a table that names none of the images.
    """

    def __init__(self, pattern: str, table: str | os.PathLike[str] | None = None, *, reader: Reader = RGB) -> None:
        if isinstance(reader, Bands) and reader.template:
            raise ValueError(
                f"tiles with a file for each band ({reader.template}) are read from a folder on disk, got {pattern}. "
                "Copy them there, or stack them: gdalbuildvrt -separate."
            )
        fixed = re.match(r"[^*?\[]*", pattern)
        assert fixed
        wild = fixed[0] != pattern
        self.root = fixed[0].rpartition("/")[0] if wild else pattern.rstrip("/")
        self._pattern, self.reader = pattern if wild else f"{self.root}/**", reader
        self.name = self.root.rpartition("/")[2]
        self._found: dict[str, str] | None = None
        with tempfile.TemporaryDirectory() as here:
            if FileSystems.exists(footprints := f"{self.root}/{FOOTPRINTS}"):
                (Path(here) / FOOTPRINTS).write_bytes(fetch(footprints))
            self._places = read_footprints(Path(here))
        self._said = TableRows(None if table is None else Path(table), lambda: list(self._stamps()), pattern)
        self.label_names, self.notes = self._said.label_names, self._said.notes

    def _stamps(self) -> dict[str, str]:
        """Size and time of each image, by name, in the order in which `FolderSource` walks."""
        if self._found is None:
            (found,) = FileSystems.match([self._pattern])
            stamps, folders = {}, dict[str, list[str]]()
            for file in found.metadata_list:
                name = file.path.removeprefix(f"{self.root}/")
                if not any(map(is_hidden, name.split("/"))):
                    stamps[name] = _stamp_of(file)
                    folders.setdefault(name.rpartition("/")[0], []).append(name)
            images = {name for names in folders.values() for name in images_among(names)}
            self._found = {name: stamps[name] for name in sorted(images, key=lambda name: name.split("/"))}
        return self._found

    def __iter__(self) -> Iterator[Tile]:
        """The tiles, sorted within each folder."""
        for name, stamp in self._stamps().items():
            file = Fetched(self.reader, self.root, name)
            place = self._places.get(name, NOWHERE)
            told = Tile(name, name, file.read, source=self.name, header=file.header, contents=stamp, footprint=place)
            yield self._said.of(told)

    def count(self) -> int:
        """How many they are."""
        return len(self._stamps())


def _stamp_of(file: Any) -> str:
    """What changes when a file does: of this machine's as `FolderSource` has it, which Beam rounds."""
    if not is_remote(file.path):
        return stamp_of_file(file.path)
    return f"{file.size_in_bytes}:{round(1e9 * file.last_updated_in_seconds)}"


def tile_of(said: list[Any], reader: Reader, root: str, source: str) -> Tile:
    """A tile of a plan, to be read from where the worker finds it."""
    name, labels, split, day, corners, stamp, lost = said
    file = Fetched(reader, root, name, lost)
    return Tile(
        name,
        name,
        file.read,
        tuple(labels),
        split,
        source,
        np.datetime64(day, "D"),
        header=file.header,
        footprint=NOWHERE if corners is None else np.array(corners, np.float64),
        contents=stamp,
        unlisted=bool(lost),
    )
