"""Your own archive: a folder of images with a label table, masks, or a folder for each class; or without labels.

Everything that can be wrong with it is found while it is loaded, before anything is trained. Such images are left out,
counted in `Archive.notes` and named one by one in the report.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from macl_tf.datasets.archives import Archive, bare_name
from macl_tf.datasets.bands import Reader, choose_bands, tiles_listed
from macl_tf.datasets.folder_labels import find_labels, published_parts
from macl_tf.datasets.images import IMAGE_SUFFIXES, RGB, Rgb, content_digest
from macl_tf.datasets.label_notes import describe_labels
from macl_tf.datasets.mask_pairs import masks_among
from macl_tf.datasets.matching import Finding, match_images, match_rows
from macl_tf.datasets.picture_kinds import RULE, as_they_are
from macl_tf.datasets.remembering import remembered
from macl_tf.datasets.tile_facts import read_day
from macl_tf.datasets.tile_places import read_groups, read_places
from macl_tf.datasets.walk import list_images, shorten
from macl_tf.files import written_whole

_ENOUGH_GROUPS = 3  # for training, validation and test
PROBLEMS = {
    "missing": "rows without an image, left out",
    "ambiguous": "rows that fit several images (write the path in the table), left out",
    "conflicting": "images with rows that contradict each other, left out",
    "unreadable": "unreadable images, left out",
    "unlisted": "folders that cannot be listed, left out",
    "orphan": "images without a row, left out",
    "unmasked": "images without a mask, left out",
    "loose": "images beside the class folders, left out",
    "unassigned": "images in none of the split lists, left out",
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
    bands: Mapping[str, str] | None = None,
    min_area: float = 0.0,
) -> FolderArchive:
    """Reads a folder of images and its labels.

    Where the labels come from is the first of these that is there:

    * a label table (`macl_tf.datasets.table_files` finds it, `macl_tf.datasets.tables` says what it may look like), or
      one for each part, train.csv and test.csv;
    * masks beside the images and a class table (`class_tables`): labels by area;
    * a folder for each class (`class_folders`), which become the scenes too;
    * else there are none, which is fine for an index.

    Images may lie at any depth and be of the kinds that `decode_image` reads; others, JPEG 2000 among them, are
    reported as unreadable. Every image is decoded once, so that a damaged file is found now and not after an hour.
    `macl_tf.datasets.matching` says how rows and images are joined by name. A column `split`, published lists
    (train.txt and test.txt, see `split_lists`), or folders train/ and test/ of an archive without a table become the
    official split, and then the default one; a column `scene` becomes the scenes. A column `group`, or a table
    `groups.csv` (image, group) in the folder, says what each tile was cut from; of three groups or more the default
    split takes whole ones. Places are those of a `footprints.parquet` in the folder, or of GeoTIFFs; days those of a
    column `date`, or of the files.

    Args:
        data_dir: The folder.
        table: The label table, or the class table of masks, as a path from `data_dir` or from the working directory.
        cache_dir: Where to remember which files were decoded (by path, size and time of change), for the next run.
        names: Tiles that have no pictures here, where the folder holds none at all.
        bands: `asked`, `rgb` and `scaling` of `choose_bands`; None for pictures of 8-bit RGB.
        min_area: Share of a tile in [0, 1] below which a label of a mask does not count; 0 takes any pixel.

    Returns:
        The archive of the usable images, sorted by name. `notes` holds the counts, of labels too, which spellings were
        joined, and which labels look like typos; `report` holds all names.
    """
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"the folder of an own archive must exist, but {root} is none. Give it by --data-dir.")
    if not 0 <= min_area <= 1:
        raise ValueError(f"min_area must be in [0, 1], got {min_area}.")
    listed = list(list_images(root))
    images = [name for name, error in listed if error is None]
    pictures, images = bool(images), images or list(names)
    if not images:
        raise FileNotFoundError(
            f"{root} must hold images ({', '.join(IMAGE_SUFFIXES)}) at any depth, but none was found. Check --data-dir."
        )
    # The header of a mask is not a tile's.
    masks = masks_among(images)
    shown = [name for name in images if name not in masks] or images
    chosen = choose_bands(files=(root / name for name in shown), **bands) if bands and pictures else None
    reader = chosen or RGB
    if chosen:
        images = [name for name, _ in tiles_listed(((name, None) for name in images), chosen)]
    given = find_labels(root, table, images, cache_dir, min_area)
    label_table = given.table
    label_table, matched, findings = (match_images if pictures else match_rows)(label_table, given.images)
    if sum(finding.problem == "missing" for finding in findings) == len(label_table.image_names):
        raise ValueError(
            f"no row of {label_table.path} names an image in {root}. The table names "
            f"{shorten(label_table.image_names)}; the images are {shorten(images)}. "
            "Names must agree, with or without extension and folders."
        )
    findings += given.findings
    assigned, told, astray = published_parts(root, label_table, matched)
    findings += astray
    contents, broken = read_all(root, sorted(assigned), cache_dir, reader) if pictures else ({}, {})
    findings += [Finding("unreadable", name, error) for name, error in broken.items()]
    findings += [Finding("unlisted", name, str(error)) for name, error in listed if error is not None]
    matched = {name: row for name, row in matched.items() if name in assigned and name not in broken}
    other_kinds = [error for error in broken.values() if RULE in error]
    kinds = (f"of a kind that is not read: {len(other_kinds)}; {other_kinds[0]}",) if other_kinds else ()
    names = tuple(sorted(matched))
    rows = [matched[name] for name in names]
    labels = label_table.labels[rows]
    empty = np.flatnonzero(labels.sum(axis=1) == 0) if label_table.label_names else np.zeros(0, np.int64)
    findings += [Finding("unlabelled", names[index], "") for index in empty]
    splits = tuple(assigned[name] for name in names) if any(assigned.values()) else None
    days, undated = None, list[str]()
    try:
        days = label_table.days
    except ValueError as error:  # training has no use for them
        undated.append(f"without dates: {error}")
    groups = read_groups(root, names)
    if label_table.groups is not None:
        groups = tuple(label_table.groups[row] or name for name, row in zip(names, rows, strict=True))
    order = list(PROBLEMS).index
    report = FolderReport(tuple(sorted(findings, key=lambda finding: (order(finding.problem), finding.name))))
    if len(empty) == len(names):
        first = "".join(f" The first: {error}{as_they_are(error)}" for error in [*broken.values()][:1])
        with_label = " with a label" if label_table.label_names else ""
        raise ValueError(f"{root} must hold a readable image{with_label}, but: {'; '.join(report.notes)}.{first}")
    count = f"{len(names)} images with {len(label_table.label_names)} labels"
    return FolderArchive(
        name="folder",
        label_names=label_table.label_names,
        file_names=names,
        labels=labels,
        read_image=lambda index: reader.read(root / names[index], names[index]),
        bands=chosen,
        label_areas=None if given.areas is None else given.areas[rows],
        scenes=tuple(label_table.scenes[row] for row in rows) if label_table.scenes else None,
        official_split=splits,
        default_split="official" if splits else "groups" if len(set(groups or ())) >= _ENOUGH_GROUPS else "random",
        groups=groups,
        places=(lambda indices: read_places(root, [names[index] for index in indices])) if pictures else None,
        days=None if days is None else days[rows],
        file_day=(lambda index: read_day(reader.files(root / names[index])[0])) if pictures else None,
        notes=(
            f"{count}, table {label_table.path.name}" if given.has_table else count,
            *label_table.notes,
            *told,
            *undated,
            *describe_labels(label_table.label_names, labels),
            *report.notes,
            *kinds,
        ),
        contents=tuple(contents[name] for name in names) if pictures else None,
        report=report,
    )


def read_all(
    root: Path, names: Sequence[str], cache_dir: str | os.PathLike[str] | None = None, reader: Reader = RGB
) -> tuple[dict[str, str], dict[str, str]]:
    """The digest of each image's pixels below `root` (`images.content_digest`), and the error of each that is not read.

    They are decoded in threads; with `cache_dir`, only those whose size or time of change differ from when they were.
    """

    def digest(path: Path, name: str) -> str:
        return content_digest(reader.read(path, name))

    of_bands = "" if isinstance(reader, Rgb) else f"bands-{'-'.join(map(bare_name, reader.names))}-"

    found, errors = remembered(
        root, names, cache_dir, digest, f"{of_bands}contents", "checking images", files=reader.files
    )
    return {name: str(content) for name, content in found.items()}, errors
