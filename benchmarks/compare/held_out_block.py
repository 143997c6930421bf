"""A table of UC Merced that holds out one block of numbers of its training tiles, for choices about whole encoders.

The test tiles are not in it, nor are the tiles beside the block: they are crops of the same pictures. What is trained
on it is evaluated on the block, which stands in the table as the test.
"""

from __future__ import annotations

import csv
import re
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


def write(table: Path, data_dir: str, block: str) -> None:
    """Writes the table of a block."""
    numbers = numbers_of(block)
    found = rows(load_archive("ucm", data_dir=data_dir), *numbers)
    with written_whole(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels", "split"), *found])
