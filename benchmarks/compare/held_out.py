"""Tables that divide an archive otherwise than `macl train` would: by what is held out.

Of UC Merced a block of numbers of its training tiles, for choices: the test tiles are not in the table, nor are the
tiles beside the block, which are crops of the same pictures. What is trained on it is evaluated on the block, which
stands in the table as the test. Of a folder the tiles of other places, told by how their names begin.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from macl_tf.datasets import load_archive
from macl_tf.datasets.archives import Archive
from macl_tf.datasets.splits import split_archive
from macl_tf.files import written_whole

GAP = 4  # numbers that are left out on both sides


def rows(archive: Archive, first: int, last: int) -> list[tuple[str, str, str]]:
    """Name, labels and part of each tile that is used.

    Raises:
        ValueError: If test tiles are in the block.
    """
    test = np.zeros(len(archive), bool)
    test[split_archive(archive, "blocks").test] = True
    numbers = np.asarray(archive.numbers)
    if ((first <= numbers) & (numbers <= last) & test).any():
        raise ValueError(f"held_out must lie below the test tiles, from {numbers[test].min()} on, got {first}-{last}.")
    found = []
    for name, number, labels, tested in zip(archive.file_names, numbers, archive.labels, test, strict=True):
        held_out = first <= number <= last
        if tested or (not held_out and first - GAP <= number <= last + GAP):
            continue
        held = ";".join(label for label, has in zip(archive.label_names, labels, strict=True) if has)
        found.append((name, held, "test" if held_out else "train"))
    return found


def numbers_of(block: str) -> tuple[int, int]:
    """The first and the last number of "20-35".

    Raises:
        ValueError: If it is no block.
    """
    match = re.fullmatch(r"(\d+)-(\d+)", block)
    if not match or int(match[1]) > int(match[2]):
        raise ValueError(f"held_out must be FIRST-LAST, such as 20-35, got '{block}'.")
    return int(match[1]), int(match[2])


def write_block(table: Path, data_dir: str, block: str) -> None:
    """Writes the table of a block of UC Merced."""
    write(table, rows(load_archive("ucm", data_dir=data_dir), *numbers_of(block)))


def write_parts(table: Path, data_dir: str, parts: Mapping[str, Sequence[str]]) -> None:
    """Writes the table of a folder whose tiles belong to a part by how their names begin, and else to training."""
    archive = load_archive("folder", data_dir=data_dir)
    found = []
    for path, held in zip(archive.file_names, archive.labels, strict=True):
        name = path.rpartition("/")[2]
        part = next((part for part, begin in parts.items() if name.startswith(tuple(begin))), "train")
        found.append((path, ";".join(np.array(archive.label_names)[held > 0]), part))
    write(table, found)


def write(table: Path, found: Sequence[tuple[str, str, str]]) -> None:
    """Writes name, labels and part of tiles, whole or not at all."""
    with written_whole(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels", "split"), *found])
