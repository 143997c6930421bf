"""Published archives on disk: folder, label table and its rows, and a fingerprint that shows changes."""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from macl_tf.datasets.archives import bare_name, normalise_stem
from macl_tf.datasets.images import is_image_name
from macl_tf.datasets.matching import match_rows
from macl_tf.datasets.tables import LabelTable
from macl_tf.datasets.walk import CACHE_TAG, find_tables, list_files, list_images, shorten, subfolders

# Folders inside an archive: given one of these, the archive is the folder around it.
_INNER_FOLDERS = ("images", "image", "imagespng", "labels", "imagestr", "imagestest")


@dataclass(frozen=True)
class Source:
    """An archive as published: what its folder is called, what it looks like and where it comes from."""

    title: str  # what people call it
    folders: tuple[str, ...]  # parts of names, as `bare_name` gives them, of its folder in a larger tree
    layout: str  # what its folder looks like, as a line or several
    origin: str  # where to get it
    homepage: str = ""  # this and the next for TFDS
    description: str = ""
    citation: str = ""  # BibTeX

    def missing(self, looked_in: str | os.PathLike[str] | None, lacking: str) -> FileNotFoundError:
        """The one error for an archive that is not there: what was looked for, where, and where to get it."""
        where = "" if looked_in is None else f" (looked in {Path(looked_in).absolute()} and below)"
        layout = "\n".join(f"    {line}" for line in self.layout.splitlines())
        return FileNotFoundError(
            f"{self.title} was not found: {lacking}{where}.\nExpected is a folder, or one that contains it, like\n"
            f"{layout}\nGet it from {self.origin}"
        )

    def locate(self, data_dir: str | os.PathLike[str] | None) -> Path:
        """The archive's folder, with images: `data_dir`, or the nearest below it that is called like the archive."""
        if data_dir is None:
            raise self.missing(None, "its folder has to be given by --data-dir, as it cannot be downloaded by itself")
        given = Path(data_dir).expanduser()
        if not given.is_dir():
            raise self.missing(given, "there is no such folder")
        if bare_name(given.name) in _INNER_FOLDERS:
            given = given.resolve().parent
        root = self.named_folder(given) or given
        if all(error is not None for _, error in list_images(root)):
            raise self.missing(given, "there is no image in the folder")
        return root

    def locate_table(
        self, data_dir: str | os.PathLike[str] | None, patterns: Sequence[str], called: str
    ) -> tuple[Path, Path]:
        """The archive's folder and its label table, in it or below the given one: one of the first pattern found."""
        root = self.locate(data_dir)
        found = (first_table((root, Path(data_dir or root)), pattern) for pattern in patterns)
        if table := next(filter(None, found), None):
            return root, table
        raise self.missing(data_dir, f"images are there, but no label table {called}")

    def named_folder(self, given: Path) -> Path | None:
        """The folder called like the archive that is nearest to the given one, itself included, or None."""
        queue, seen = deque([given]), set()
        while queue:
            folder = queue.popleft()
            real = os.path.realpath(folder)  # of a link in a circle no end would be found
            if real in seen:
                continue
            seen.add(real)
            if not (folder / CACHE_TAG).exists() and any(part in bare_name(folder.name) for part in self.folders):
                return folder
            queue.extend(subfolders(folder))
        return None


def fingerprint(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits that change when a file comes, goes or changes its size or time of writing.

    The paths are files, and folders with all that is below them; where they lie does not matter.
    """
    digest = hashlib.sha256()
    for place in paths:
        names = ["."] if place.is_file() else list_files(place)
        for name in names:
            path = place / name
            status = path.stat() if path.exists() else path.lstat()  # a link that leads nowhere
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def choose_by_stem(paths: Iterable[Path], preference: Callable[[Path], object]) -> dict[str, Path]:
    """One file for each normalised stem: that of the smallest preference, a raster of a kind that is not read last."""
    chosen: dict[str, Path] = {}

    def order(path: Path) -> tuple[bool, Any, str]:
        return not is_image_name(path.name, others=False), preference(path), path.as_posix()

    for path in sorted(paths, key=order):
        chosen.setdefault(normalise_stem(path.name), path)
    return chosen


def scene_and_number(stem: str) -> tuple[str, int]:
    """Splits a stem into scene and running number; airport_12 are airport and 12, and without one the number is -1."""
    match = re.fullmatch(r"(.*?)[ _-]*(\d+)", stem)
    return (match[1], int(match[2])) if match else (stem, -1)


def count_note(names: Sequence[str], one: str, many: str) -> list[str]:
    """A note that counts and names files, or none for no file: `2 images have no row: a.png, b.png`."""
    if not names:
        return []
    return [f"{len(names)} {one if len(names) == 1 else many}: {shorten(names, 5)}"]


def first_table(places: Iterable[Path], pattern: str) -> Path | None:
    """The first table whose lower-case file name matches a regular expression, in the first place that has one."""
    return next((place / name for place in places for name in find_tables(place, pattern)), None)


def match_table(images: Mapping[str, Path], table: LabelTable) -> tuple[dict[str, np.ndarray], list[str]]:
    """Joins the images of a published archive, one for each stem, with the rows of its table.

    The labels (C,) of each stem that has a row, and notes that count the images and the rows left out. Rows of an image
    that contradict each other are a ValueError.
    """
    stems = {path.as_posix(): stem for stem, path in images.items()}
    joined, matched, findings = match_rows(table, list(stems))
    if found := next((found for found in findings if found.problem == "conflicting"), None):
        raise ValueError(f"{table.path}: the rows of {found.name} contradict each other, {found.detail}. Remove one.")
    strays = sorted(Path(found.name).name for found in findings if found.problem == "orphan")
    orphans = sorted({normalise_stem(found.name) for found in findings if found.problem == "missing"})
    left_out = f"no row in {table.path.name} and"
    return {stems[name]: joined.labels[row] for name, row in matched.items()}, [
        *count_note(strays, f"image has {left_out} was left out", f"images have {left_out} were left out"),
        *count_note(orphans, f"row of {table.path.name} has no image", f"rows of {table.path.name} have no image"),
    ]
