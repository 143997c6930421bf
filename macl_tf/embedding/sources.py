"""Where tiles to embed come from, as streams: a folder of any size, or an archive with its labels and splits."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.bands import Bands, Reader, tiles_listed
from macl_tf.datasets.folder import FolderReport
from macl_tf.datasets.images import RGB
from macl_tf.datasets.label_notes import describe_labels
from macl_tf.datasets.matching import match_images
from macl_tf.datasets.splits import PARTS, Splits
from macl_tf.datasets.table_files import find_table, tables_beside
from macl_tf.datasets.tables import LabelTable, read_label_table
from macl_tf.datasets.tile_facts import NOWHERE, UNKNOWN_DAY, HeaderFacts, read_header
from macl_tf.datasets.tile_places import read_footprints
from macl_tf.datasets.walk import list_images, shorten
from macl_tf.tiling.sources import Window


@dataclass(frozen=True)
class Tile:
    """A tile that is still to be read."""

    id: str  # unique within the source
    path: str  # of its file, relative to the source
    # Gives the (H, W, 3) picture, or the (H, W, N) bands; a ValueError or OSError says why there is none. It may be
    # called from any thread.
    read: Callable[[], NDArray[Any]]
    labels: tuple[str, ...] = ()
    split: str = ""  # "train", "validation", "test" or "", unknown
    source: str = ""  # what it comes from
    date: np.datetime64 = UNKNOWN_DAY  # it was taken, where the source knows better than the file; NaT otherwise
    file: Path | None = None  # whose size and time tell a change, and which may be out of reach
    header: Callable[[], HeaderFacts] | None = None  # reads the date and the footprint, after `read`
    # (4, 2) corners in degrees, where the source knows them and the header does not; NaN otherwise.
    footprint: NDArray[np.float64] = field(default_factory=lambda: NOWHERE, compare=False)
    contents: str = ""  # a digest of its picture, where the source knows one and no file tells a change
    window: Window | None = None  # of a scene, whose tile it is
    unlisted: bool = False  # stands for a folder that cannot be looked into: what was below it may still be there


class TileSource(Protocol):
    """What can be embedded: iterated anew each time, always in the same order."""

    name: str  # what messages call it
    label_names: tuple[str, ...]  # that its tiles may hold

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about it."""

    def __iter__(self) -> Iterator[Tile]:
        """The tiles."""

    def count(self) -> int:
        """How many there are, if nothing changes."""


class TableRows:
    """What a label table says of images; nothing where there is none. `notes` tell how it was read.

    Args:
        path: The table, or None.
        images: Gives the names of all images, which is asked where there is a table.
        where: What messages call the place of the images.
    """

    def __init__(self, path: Path | None, images: Callable[[], list[str]], where: str | os.PathLike[str]) -> None:
        self.label_names: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._table: LabelTable | None = None
        if path is None:
            return
        label_table, names = read_label_table(path), images()
        self.label_names = label_table.label_names
        self._table, self._rows, findings = match_images(label_table, names)
        if not self._rows:
            raise ValueError(
                f"no row of {self._table.path} names one of the {len(names):,} images in '{where}'. Names "
                "must agree, with or without extension and folders."
            )
        self._days = self._table.days
        # An image without a row is nothing to report here: it is embedded all the same.
        report = FolderReport(tuple(found for found in findings if found.problem != "orphan"))
        labels = self._table.labels[list(self._rows.values())]
        self.notes = (
            f"{len(labels):,} images with {len(self.label_names):,} labels, table {self._table.path.name}",
            *self._table.notes,
            *describe_labels(self.label_names, labels),
            *report.notes,
        )

    def of(self, tile: Tile) -> Tile:
        """A tile with its row's labels, split and date."""
        if self._table is None or (row := self._rows.get(tile.path)) is None:
            return tile
        return replace(
            tile,
            labels=tuple(self.label_names[held] for held in np.flatnonzero(self._table.labels[row])),
            split=self._table.splits[row] if self._table.splits else "",
            date=UNKNOWN_DAY if self._days is None else self._days[row],
        )


class FolderSource:
    """A folder of images at any depth, of any number, which are listed while they are read.

    Ids are paths relative to the folder, with forward slashes. Hidden files and what operating systems leave behind are
    passed over. Rasters of a kind that is not read, such as .jp2, are tiles that cannot be read, unless the picture
    that was made of one lies beside it. Symbolic links are followed, but not into a folder that holds them.

    Images without a row in the label table (`macl_tf.datasets.tables`; a path from the folder or from the working
    directory) are embedded without labels. Its column `split` becomes the split, its column `date` (2021-07-31) the
    date; `notes` tell how it was read. A `footprints.parquet` in the folder has the places of tiles whose files do not
    tell them. With either all names are held in memory.
    """

    def __init__(
        self, folder: str | os.PathLike[str], table: str | os.PathLike[str] | None = None, *, reader: Reader = RGB
    ) -> None:
        self.reader = reader
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"what is embedded must be a folder of images, but '{self.folder}' is none.")
        self.name = self.folder.resolve().name
        self._places = read_footprints(self.folder)
        path = None if table is None else find_table(self.folder, table)
        self._said = TableRows(path, lambda: [name for name, error in self._listed() if error is None], self.folder)
        self.label_names, self._unlabelled = self._said.label_names, table is None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """How the table was read, or that there is one which is not."""
        if self._unlabelled and (unread := tables_beside(self.folder)):
            return (f"no labels: {shorten(unread)} is not read unless you say --table {shlex.quote(unread[0])}",)
        return self._said.notes

    def __iter__(self) -> Iterator[Tile]:
        """The tiles, sorted within each folder; a folder that cannot be listed is a tile that cannot be read."""
        for name, error in self._listed():
            if error is not None and name == ".":
                raise error  # all of it: nothing is known of what is there
            tile_at = self.folder / name
            file = self.reader.files(tile_at)[0] if error is None else tile_at
            read = partial(_read, self.reader, tile_at, name, error)
            place = self._places.get(name, NOWHERE)
            yield self._said.of(
                Tile(
                    name,
                    name,
                    read,
                    source=self.name,
                    file=file,
                    header=partial(read_header, file),
                    footprint=place,
                    unlisted=error is not None,
                )
            )

    def count(self) -> int:
        """The number of images there are now."""
        return sum(1 for _ in self._listed())

    def _listed(self) -> Iterator[tuple[str, OSError | None]]:
        listed = list_images(self.folder)
        return tiles_listed(listed, self.reader) if isinstance(self.reader, Bands) else listed


class ArchiveSource:
    """The tiles of an archive, with its labels, places and days, and its parts, where known. File names are ids."""

    def __init__(self, archive: Archive, splits: Splits | None = None) -> None:
        self.archive = archive
        self.name = archive.name
        self.label_names = archive.label_names
        self.notes: tuple[str, ...] = ()
        self._contents: Sequence[str] = getattr(archive, "contents", None) or [""] * len(archive)
        self._places: NDArray[np.float64] | None = None
        self._splits = [""] * len(archive)
        for part in PARTS if splits is not None else ():
            for index in getattr(splits, part):
                self._splits[index] = part

    def __iter__(self) -> Iterator[Tile]:
        """The tiles, in the order of their file names."""
        if self._places is None and self.archive.places is not None:
            self._places = self.archive.places(np.arange(len(self.archive)))
        for index, name in enumerate(self.archive.file_names):
            yield Tile(
                id=name,
                path=name,
                read=partial(self.archive.read_image, index),
                labels=tuple(self.label_names[held] for held in np.flatnonzero(self.archive.labels[index])),
                split=self._splits[index],
                source=self.name,
                contents=self._contents[index] or "",
                date=UNKNOWN_DAY if self.archive.days is None else self.archive.days[index],
                header=self.archive.file_day and partial(self._header, index),
                footprint=NOWHERE if self._places is None else self._places[index],
            )

    def _header(self, index: int) -> HeaderFacts:
        assert self.archive.file_day is not None  # for the type checker
        return HeaderFacts(self.archive.file_day(index), NOWHERE)  # places are those of the archive

    def count(self) -> int:
        """The number of images."""
        return len(self.archive)


def _read(reader: Reader, file: Path, name: str, error: OSError | None) -> NDArray[Any]:
    if error is not None:
        raise error
    return read_tile(reader, file, name)


def read_tile(reader: Reader, data: bytes | Path, name: str) -> NDArray[Any]:
    """A tile's picture or bands; a ValueError or OSError says why there is none, and tells nobody where it lay."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not UTF-8 and cannot be written down: rename it.") from None
    try:
        return reader.read(data, name)
    except ValueError as problem:
        raise ValueError(str(problem).replace(f": '{data!s}'", "")) from problem
