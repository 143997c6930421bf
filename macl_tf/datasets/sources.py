"""Finding things in an archive on disk: its folder, its pictures, its label table, and whether it has changed."""

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

from macl_tf.datasets.archives import bare_name, normalise_label, normalise_stem
from macl_tf.datasets.images import is_image_name
from macl_tf.datasets.tables import read_label_table

_NAMED_IN_NOTES = 5
# The mark of a folder of derived data (bford.info/cachedir): a cache in the archive's folder is no part of it.
CACHE_TAG = "CACHEDIR.TAG"
CACHE_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n"
# Folders inside an archive: given one of these, the archive is the folder around it.
_INNER_FOLDERS = ("images", "image", "imagespng", "labels", "imagestr", "imagestest")


@dataclass(frozen=True)
class Source:
    """An archive as published: what its folder is called, what it looks like and where it comes from.

    Args:
        name: short name ("dlrsd").
        title: what people call it.
        folders: parts of folder names by which the archive is found in a larger tree, as `bare_name` gives them.
        layout: what its folder looks like, as a line or several.
        origin: where to get it.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    layout: str
    origin: str

    def missing(self, looked_in: str | os.PathLike[str] | None, lacking: str) -> FileNotFoundError:
        """Return the one error for an archive that is not there: what was looked for, where, and where to get it."""
        where = "" if looked_in is None else f" (looked in {Path(looked_in).absolute()} and below)"
        layout = "\n".join(f"    {line}" for line in self.layout.splitlines())
        return FileNotFoundError(
            f"{self.title} was not found: {lacking}{where}.\nExpected is a folder, or one that contains it, like\n"
            f"{layout}\nGet it from {self.origin}"
        )

    def locate(self, data_dir: str | os.PathLike[str] | None) -> Path:
        """Return the archive's folder: `data_dir`, or the nearest folder below it that is called like the archive.

        Raises:
            FileNotFoundError: if there is no such folder, or no image in it.
        """
        if data_dir is None:
            raise self.missing(None, "its folder has to be given by --data-dir, as it cannot be downloaded by itself")
        given = Path(data_dir).expanduser()
        if not given.is_dir():
            raise self.missing(given, "there is no such folder")
        if bare_name(given.name) in _INNER_FOLDERS:
            given = given.resolve().parent
        root = self.named_folder(given) or given
        if not list_images(root):
            raise self.missing(given, "there is no image in the folder")
        return root

    def named_folder(self, given: Path) -> Path | None:
        """Return the folder called like the archive that is nearest to the given one, itself included, or None."""
        queue = deque([given])
        while queue:
            folder = queue.popleft()
            if not (folder / CACHE_TAG).exists() and any(part in bare_name(folder.name) for part in self.folders):
                return folder
            queue.extend(sorted(path for path in visible_entries(folder) if path.is_dir()))
        return None


def visible_entries(folder: Path) -> list[Path]:
    """Return what a folder holds, without hidden things, caches and the copies that macOS leaves in zip files."""
    try:
        paths = list(folder.iterdir())
    except PermissionError:
        return []
    if folder / CACHE_TAG in paths:
        return []
    return [path for path in paths if not path.name.startswith(".") and path.name != "__MACOSX"]


def list_files(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return all files below a folder with one of the suffixes (any case), sorted by their path; Thumbs.db is none."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        if CACHE_TAG in names:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        found += [
            Path(folder, name) for name in names if not name.startswith(".") and name.lower().endswith(tuple(suffixes))
        ]
    return sorted(found, key=lambda path: path.as_posix())


def list_images(root: Path) -> list[Path]:
    """Return all pictures below a folder, sorted by their path, and the rasters that are known and not read."""
    return [path for path in list_files(root, ("",)) if is_image_name(path.name)]


def fingerprint(paths: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits that change when a file comes, goes or changes its size or time of writing.

    Args:
        paths: files, and folders with all that is below them. Where they lie does not matter, only what is in them.
    """
    digest = hashlib.sha256()
    for place in paths:
        for path in [place] if place.is_file() else list_files(place, ("",)):
            status = path.stat()
            name = path.relative_to(place).as_posix()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def find_table(places: Iterable[Path], pattern: str) -> Path | None:
    """Return the first table whose file name matches a regular expression, from the first of the places that has one.

    Args:
        places: folders. Each is searched with all below it.
        pattern: full match of the lower-case file name.
    """
    for place in places:
        for path in list_files(place, (".txt", ".csv", ".tsv", ".mat")):
            if re.fullmatch(pattern, path.name.lower()):
                return path
    return None


def read_rows(path: Path, label_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read a label table with a header and return its rows in the order of the label names given.

    Args:
        path: text with tab, comma, semicolon or blanks between the cells.
        label_names: the C labels; the table may spell them otherwise (baresoil) and order them otherwise.

    Returns:
        Normalised stem -> (C,) uint8.

    Raises:
        ValueError: if a label has no column, or one image has two rows that differ.
    """
    table = read_label_table(path)
    # R writes bare.soil where others write bare-soil; among the known names nothing else can be meant.
    columns: dict[str, int] = {}
    for spell in (bare_name, normalise_label):
        columns |= {spell(name): column for column, name in enumerate(table.label_names)}
    absent = [name for name in label_names if bare_name(name) not in columns]
    if absent:
        raise ValueError(
            f"{path} must have a column for each of {', '.join(label_names)}, but has none for {', '.join(absent)}."
        )
    chosen = [columns[bare_name(name)] for name in label_names]
    labels = table.labels[:, chosen]
    rows: dict[str, np.ndarray] = {}
    for place, (name, line, row) in enumerate(zip(table.image_names, table.lines, labels, strict=True)):
        stem = normalise_stem(name)
        before = rows.setdefault(stem, row)
        denied = table.denied.get(place, frozenset())
        if any(table.labels[place, label] for label in denied):
            raise ValueError(
                f"{path}, line {line}: {name} has rows that say both that it holds a label and not. Remove one of them."
            )
        if table.adds_up:
            rows[stem] = np.maximum(before, row)
        elif not np.array_equal(before, row):
            raise ValueError(f"{path}, line {line}: {name} has a second row with other labels. Remove one of the two.")
    return rows


def choose_by_stem(paths: Iterable[Path], preference: Callable[[Path], object]) -> tuple[dict[str, Path], int]:
    """Return one file for each normalised stem, and how many others there were.

    It is the one of the smallest preference; a raster of a kind that is not read comes after all that are.
    """
    chosen: dict[str, Path] = {}
    others = 0

    def order(path: Path) -> tuple[bool, Any, str]:
        return not is_image_name(path.name, others=False), preference(path), path.as_posix()

    for path in sorted(paths, key=order):
        others += normalise_stem(path.name) in chosen
        chosen.setdefault(normalise_stem(path.name), path)
    return chosen, others


def scene_and_number(stem: str) -> tuple[str, int]:
    """Split a stem into scene and running number; the number is -1 where there is none.

    Example:
        >>> scene_and_number("agricultural07"), scene_and_number("airport_12")
        (('agricultural', 7), ('airport', 12))
    """
    match = re.fullmatch(r"(.*?)[ _-]*(\d+)", stem)
    return (match[1], int(match[2])) if match else (stem, -1)


def count_note(names: Sequence[str], one: str, many: str) -> list[str]:
    """Return a note that counts and names files, or none for no file.

    Example:
        >>> count_note(["a.png", "b.png"], "image has no row", "images have no row")
        ['2 images have no row: a.png, b.png']
    """
    if not names:
        return []
    listed = ", ".join(names[:_NAMED_IN_NOTES]) + (", ..." if len(names) > _NAMED_IN_NOTES else "")
    return [f"{len(names)} {one if len(names) == 1 else many}: {listed}"]


def match_rows(
    images: Mapping[str, Path], rows: Mapping[str, np.ndarray], table: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Join images and table rows by their stems.

    Returns:
        The rows that have an image, and notes that count the images and the rows left out.
    """
    matched = {stem: rows[stem] for stem in images if stem in rows}
    strays = sorted(images[stem].name for stem in images.keys() - rows.keys())
    notes = count_note(
        strays, f"image has no row in {table} and was left out", f"images have no row in {table} and were left out"
    )
    orphans = sorted(rows.keys() - images.keys())
    notes += count_note(orphans, f"row of {table} has no image", f"rows of {table} have no image")
    return matched, notes
