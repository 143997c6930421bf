"""Your own archive: a folder of images and a label table.

Everything that can be wrong with it is found while it is loaded, before anything is trained. Such images are left out,
counted in `Archive.notes` and named one by one in the report.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.images import IMAGE_SUFFIXES, content_digest, decode_image
from macl_tf.datasets.label_notes import describe_labels
from macl_tf.datasets.matching import Finding, match_images, match_rows
from macl_tf.datasets.picture_kinds import READER, RULE
from macl_tf.datasets.tables import read_label_table
from macl_tf.datasets.tile_places import read_groups, read_places
from macl_tf.datasets.walk import find_table, list_images, shorten
from macl_tf.files import read_json, write_json, written_whole

_ENOUGH_GROUPS = 3  # for training, validation and test
PROBLEMS = {
    "missing": "rows without an image, left out",
    "ambiguous": "rows that fit several images (write the path in the table), left out",
    "conflicting": "images with rows that contradict each other, left out",
    "unreadable": "unreadable images, left out",
    "unlisted": "folders that cannot be listed, left out",
    "orphan": "images without a row, left out",
    "duplicate": "images with several rows, all the same, kept once",
    "unlabelled": "images without a label, kept",
}


@dataclass(frozen=True)
class FolderReport:
    """What is wrong with a folder, name by name; the problem of each finding is a key of `PROBLEMS`."""

    findings: tuple[Finding, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each problem that occurs: how many, and the first few names."""
        named = {problem: [f.name for f in self.findings if f.problem == problem] for problem in PROBLEMS}
        return tuple(
            f"{PROBLEMS[problem]}: {len(names)} ({shorten(names)})" for problem, names in named.items() if names
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes every finding as CSV with the columns problem, name and detail, replacing the file as a whole."""
        path = Path(path)
        with (
            written_whole(path) as temporary,
            # Whatever bytes a file name holds, they can be written.
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            csv.writer(file).writerows([Finding._fields, *self.findings])
        return path


@dataclass(frozen=True, eq=False)
class FolderArchive(Archive):
    """An `Archive` that also knows every image and row of its folder that was left out or deserves a look."""

    report: FolderReport = FolderReport()


def load_folder(
    data_dir: str | os.PathLike[str],
    table: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    names: Iterable[str] = (),
) -> FolderArchive:
    """Reads a folder of images and its label table; without `table` that is the only .csv, .tsv or .txt file there is.

    Images may lie at any depth and be of the kinds that `decode_image` reads; others, JPEG 2000 among them, are
    reported as unreadable. Every image is decoded once, so that a damaged file is found now and not after an hour.
    `macl_tf.datasets.matching` says how rows and images are joined by name, and
    `macl_tf.datasets.tables` what a table may look like. A column `split` becomes the official split, and then the
    default one; a column `scene` becomes the scenes. A column `group`, or a table `groups.csv` (image, group) in the
    folder, says what each tile was cut from; of three groups or more the default split takes whole ones. Places are
    those of a `footprints.parquet` in the folder, or of GeoTIFFs.

    Args:
        data_dir: The folder.
        table: The label table, as a path from `data_dir` or from the working directory.
        cache_dir: Where to remember which files were decoded (by path, size and time of change), for the next run.
        names: Tiles that have no pictures here, where the folder holds none at all.

    Returns:
        The archive of the usable images, sorted by name. `notes` holds the counts, of labels too, which spellings were
        joined, and which labels look like typos; `report` holds all names.
    """
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"the folder of an own archive must exist, but {root} is none. Give it by --data-dir.")
    listed = list(list_images(root))
    images = [name for name, error in listed if error is None]
    pictures, images = bool(images), images or list(names)
    if not images:
        raise FileNotFoundError(
            f"{root} must hold images ({', '.join(IMAGE_SUFFIXES)}) at any depth, but none was found. Check --data-dir."
        )
    label_table = read_label_table(find_table(root, table))
    label_table, matched, findings = (match_images if pictures else match_rows)(label_table, images)
    if sum(finding.problem == "missing" for finding in findings) == len(label_table.image_names):
        raise ValueError(
            f"no row of {label_table.path} names an image in {root}. The table names "
            f"{shorten(label_table.image_names)}; the images are {shorten(images)}. "
            "Names must agree, with or without extension and folders."
        )
    contents, broken = read_all(root, sorted(matched), cache_dir) if pictures else ({}, {})
    findings += [Finding("unreadable", name, error) for name, error in broken.items()]
    findings += [Finding("unlisted", name, str(error)) for name, error in listed if error is not None]
    matched = {name: row for name, row in matched.items() if name not in broken}
    other_kinds = [error for error in broken.values() if RULE in error]
    kinds = (f"of a kind that is not read: {len(other_kinds)}; {other_kinds[0]}",) if other_kinds else ()
    names = tuple(sorted(matched))
    rows = [matched[name] for name in names]
    labels = label_table.labels[rows]
    empty = np.flatnonzero(labels.sum(axis=1) == 0)
    findings += [Finding("unlabelled", names[index], "") for index in empty]
    groups = read_groups(root, names)
    if label_table.groups is not None:
        groups = tuple(label_table.groups[row] or name for name, row in zip(names, rows, strict=True))
    splits = None if label_table.splits is None else tuple(label_table.splits[row] for row in rows)
    order = list(PROBLEMS).index
    report = FolderReport(tuple(sorted(findings, key=lambda finding: (order(finding.problem), finding.name))))
    if len(empty) == len(names):
        first = f" The first: {next(iter(broken.values()))}" if broken else ""
        raise ValueError(f"{root} must hold a readable image with a label, but: {'; '.join(report.notes)}.{first}")
    return FolderArchive(
        name="folder",
        label_names=label_table.label_names,
        file_names=names,
        labels=labels,
        read_image=lambda index: decode_image(root / names[index], names[index]),
        scenes=tuple(label_table.scenes[row] for row in rows) if label_table.scenes else None,
        official_split=splits,
        default_split="official" if splits else "groups" if len(set(groups or ())) >= _ENOUGH_GROUPS else "random",
        groups=groups,
        places=(lambda indices: read_places(root, [names[index] for index in indices])) if pictures else None,
        notes=(
            f"{len(names)} images with {len(label_table.label_names)} labels, table {label_table.path.name}",
            *label_table.notes,
            *describe_labels(label_table.label_names, labels),
            *report.notes,
            *kinds,
        ),
        contents=tuple(contents[name] for name in names) if pictures else None,
        report=report,
    )


def read_all(
    root: Path, names: Sequence[str], cache_dir: str | os.PathLike[str] | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """The digest of each image's pixels below `root` (`images.content_digest`), and the error of each that is not read.

    They are decoded in threads; with `cache_dir`, only those whose size or time of change differ from when they were.
    """
    digest = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:12]
    memory = None if cache_dir is None else Path(cache_dir) / f"folder-{digest}-contents{READER}.json"
    known = _recall(memory)
    errors: dict[str, str] = {}
    found: dict[str, list[int | str]] = {}

    def check(name: str) -> None:
        try:
            status = (root / name).stat()
            stamp = [status.st_size, status.st_mtime_ns]
            before = known.get(name, [])
            content = before[2] if before[:2] == stamp else content_digest(decode_image(root / name, name))
            found[name] = [*stamp, content]
        except (OSError, ValueError) as error:
            errors[name] = str(error)

    executor = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        list(tqdm(executor.map(check, names), "checking images", len(names), unit="image", leave=False, delay=1))
    finally:
        executor.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for all that is left
    if memory is not None and found != known:
        with suppress(OSError):  # a cache that cannot be written costs time in the next run, not this run
            write_json(memory, found)
    return {name: str(row[2]) for name, row in found.items()}, dict(sorted(errors.items()))


def _recall(memory: Path | None) -> dict[str, list[int | str]]:
    try:
        known = read_json(memory) if memory else {}
        return {name: row for name, row in known.items() if len(row) == 3}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # nothing remembered yet, or a damaged file: everything is decoded again
