"""Walks through a folder of tiles and finds its images and its label table."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from macl_tf.datasets.archives import normalise_stem
from macl_tf.datasets.images import is_image_name

# The mark of a folder of derived data (bford.info/cachedir): a cache in the archive's folder is no part of it.
CACHE_TAG = "CACHEDIR.TAG"
CACHE_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n"
_CLUTTER = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}  # what operating systems leave behind


Identity = tuple[int, int]  # device and inode


def walk(
    root: Path, chosen: Callable[[Sequence[str]], Collection[str]] | None = None
) -> Iterator[tuple[str, OSError | None]]:
    """The files below a folder, one by one; only one folder's names are held at a time.

    Hidden files, what operating systems leave behind and folders of derived data (CACHEDIR.TAG) are passed over.
    Symbolic links are followed, but not into a folder that holds them, nor into one that holds `root`. Of the names of
    the files of one folder, `chosen` gives those that are wanted.

    Yields:
        The path relative to `root`, with forward slashes, and None; or the path of a folder, with a slash at its end
        ("." is `root` itself), and the reason why it cannot be listed. A link that leads nowhere is such a folder
        where its name is not an image's: on a disk that is not mounted there may be one. Sorted within each folder.
    """

    def visit(folder: Path, prefix: str, above: frozenset[Identity]) -> Iterator[tuple[str, OSError | None]]:
        try:
            identity = _identity(folder)
            if identity in above:
                return
            entries = visible_entries(folder)
        except OSError as error:
            yield prefix or ".", error
            return
        files = [name for name, is_folder in entries if not is_folder]
        if prefix and CACHE_TAG in files:
            return
        wanted = set(files if chosen is None else chosen(files))
        for name, is_folder in entries:
            if is_folder:
                yield from visit(folder / name, f"{prefix}{name}/", above | {identity})
            elif name in wanted:
                yield prefix + name, None

    return visit(root, "", frozenset(_identity(parent) for parent in root.resolve().parents))


def visible_entries(folder: Path) -> list[tuple[str, bool]]:
    """What a folder holds, sorted: each name, and whether it is a folder; no pipes and devices, which never end."""
    with os.scandir(folder) as entries:
        visible = (entry for entry in entries if not is_hidden(entry.name))
        kinds = ((entry.name, _is_folder(entry)) for entry in visible)
        return sorted((name, is_folder) for name, is_folder in kinds if is_folder is not None)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted; none where it cannot be listed or holds derived data (CACHEDIR.TAG)."""
    try:
        entries = visible_entries(folder)
    except OSError:
        return []
    return [] if (CACHE_TAG, False) in entries else [folder / name for name, is_folder in entries if is_folder]


def list_files(root: Path) -> list[str]:
    """Sorted paths of all files below a folder that can be listed, relative to it; see `walk`."""
    return sorted(name for name, error in walk(root) if error is None)


def list_images(root: Path) -> Iterator[tuple[str, OSError | None]]:
    """The images below a folder, as `walk` yields them, rasters of a kind that is not read, such as .jp2, among them.

    Such a raster is not, where the picture that was made of it lies beside it.
    """
    return walk(root, images_among)


def images_among(names: Sequence[str]) -> set[str]:
    """Those of the files of one folder that `list_images` takes."""
    read = {name for name in names if is_image_name(name, others=False)}
    stems = {normalise_stem(name) for name in read}
    others = {name for name in names if is_image_name(name)} - read
    return read | {name for name in others if normalise_stem(name) not in stems}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over: hidden, or what operating systems leave behind."""
    return name[0] == "." or name.casefold() in _CLUTTER


def image_paths(root: Path) -> list[Path]:
    """The images below a folder that can be listed, sorted within each folder."""
    return [root / name for name, error in list_images(root) if error is None]


def find_tables(root: Path, pattern: str = r"(?!readme|licen[cs]e).*\.(csv|tsv|txt)") -> list[str]:
    """Paths of the files below a folder whose lower-case name matches, relative to it: those nearest to it only.

    A table above folders of side files (one .txt per image, say) is the one that is meant.
    """
    found = [name for name in list_files(root) if re.fullmatch(pattern, PurePosixPath(name).name.lower())]
    depth = min((name.count("/") for name in found), default=0)
    return [name for name in found if name.count("/") == depth]


def number_of(count: int, what: str) -> str:
    """A count, for a message: `1 scene`, `1,200 scenes`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def shorten(names: Sequence[str], limit: int = 3, separator: str = ", ") -> str:
    """The first names, for a message: `a.jpg, b.jpg, c.jpg and 12 more`."""
    # A file name that is no UTF-8 must not make the message unprintable.
    shown = [name.encode(errors="backslashreplace").decode() for name in names[:limit]]
    return separator.join(shown) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def _identity(folder: Path) -> Identity:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool | None:
    """Whether an entry is a folder, or else a file; None for what is neither."""
    try:
        if entry.is_dir():
            return True
        if entry.is_file():
            return False
        lost = entry.is_symlink() and not os.path.exists(entry.path)
    except OSError:  # as of a link in a circle
        lost = True
    # What cannot be followed is reported as what it seems to be: visiting it tells why.
    return not is_image_name(entry.name) if lost else None
