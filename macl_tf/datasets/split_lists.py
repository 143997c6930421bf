"""Published parts of an archive: texts with a name in each line (eurosat-train.txt), or folders train/ and val/."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from macl_tf.datasets.archives import bare_name
from macl_tf.datasets.delimited import text_lines
from macl_tf.datasets.images import is_image_name
from macl_tf.datasets.walk import list_files, shorten

SPLIT_VALUES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_TRAIN_AND_VALIDATION = "trainval"  # as PASCAL VOC has it
_HEAD = 1 << 16  # bytes that tell a list


class SplitLists(NamedTuple):
    """The lists of an archive: what they are called, and each name with its part and its line."""

    path: Path
    names: tuple[str, ...]
    parts: tuple[str, ...]
    lines: tuple[int, ...]
    notes: tuple[str, ...]


def part_in_name(name: str) -> tuple[str, str] | None:
    """The part that a file's name tells, and the rest of the name; None where it tells none or several.

    Example:
        >>> part_in_name("uc_merced-train.txt"), part_in_name("val2017.json"), part_in_name("labels.csv")
        (('train', 'uc merced txt'), ('validation', 'json'), None)
    """
    words = re.split(r"[\W_\d]+", PurePosixPath(name).name.casefold())
    known = {**SPLIT_VALUES, _TRAIN_AND_VALIDATION: _TRAIN_AND_VALIDATION}
    told = [word for word in words if word in known]
    return (known[told[0]], " ".join(word for word in words if word and word not in told)) if len(told) == 1 else None


def is_split_list(path: Path) -> bool:
    """Whether a text file lists the tiles of a part: a name in each line, perhaps with the number of its class."""
    if path.suffix.lower() not in (".txt", ".lst") or part_in_name(path.name) is None:
        return False
    try:
        lines = [line.split() for line in text_lines(path, _HEAD)[:1000] if line.strip()]
    except (OSError, ValueError):
        return False
    return bool(lines) and all(len(words) == 1 or is_image_name(words[-1]) or _numbered(words) for words in lines)


def read_split_lists(root: Path) -> SplitLists | None:
    """The lists below a folder that lie nearest to it; None where there are none, or no training and held-out ones.

    Where there is no test list, the validation list is the test part, as such archives are used. Several sets of lists,
    as for another way to divide, are used only where one bears the name of no set.
    """
    found: dict[int, dict[str, dict[str, Path]]] = {}
    for name in list_files(root):
        told = part_in_name(name)
        if told is not None and is_split_list(root / name):
            sets = found.setdefault(name.count("/"), {})
            sets.setdefault(told[1], {})[told[0]] = root / name
    if not found:
        return None
    sets = found[min(found)]
    if len(sets) > 1:
        plain = [names for rest, names in sets.items() if rest in ("txt", "lst")]
        if not plain:
            files = sorted(path.name for names in sets.values() for path in names.values())
            note = f"several sets of split lists, none used (leave one there): {shorten(files, 6)}"
            return SplitLists(root, (), (), (), (note,))
        sets = {"": plain[0]}
    (lists,) = sets.values()
    if _TRAIN_AND_VALIDATION in lists:
        both = lists.pop(_TRAIN_AND_VALIDATION)
        lists.setdefault("train", both) if "validation" not in lists else None
    if "train" not in lists or len(lists) < 2:
        return None
    notes = [f"the official split is that of {', '.join(path.name for path in lists.values())}"]
    parts = held_out(lists)
    if "test" not in lists:
        notes.append(f"there is no test list: {lists['validation'].name} is the test part")
    rows = [
        (_name(line), parts[part], number)
        for part, path in lists.items()
        for number, line in enumerate(text_lines(path), start=1)
        if line.strip()
    ]
    names, split, lines = zip(*rows, strict=True)
    called = root / " and ".join(path.name for path in lists.values())
    return SplitLists(called, names, split, lines, tuple(notes))


def held_out(parts: Iterable[str]) -> Mapping[str, str]:
    """What each part of an archive is used as: without a test part, the validation part is it."""
    known = set(parts)
    return {part: "test" if part == "validation" and "test" not in known else part for part in known}


def split_by_folders(names: Sequence[str]) -> list[str] | None:
    """The part that a folder above each image tells, train/beach/1.jpg; None unless all do, and more than one part."""
    parts = [next((SPLIT_VALUES[word] for word in _folders(name) if word in SPLIT_VALUES), "") for name in names]
    if "" in parts or "train" not in parts or len(set(parts)) < 2:
        return None
    used = held_out(parts)
    return [used[part] for part in parts]


def _folders(name: str) -> list[str]:
    return [bare_name(folder) for folder in PurePosixPath(name).parts[:-1]]


def _numbered(words: Sequence[str]) -> bool:
    """Whether it is a name and the number of a class: airport/airport_1.jpg 0."""
    return len(words) == 2 and words[1].isdigit()


def _name(line: str) -> str:
    words = line.split()
    return words[0] if _numbered(words) else line.strip()
