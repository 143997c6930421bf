"""A table of UC Merced that holds out one block of numbers of its training tiles, for choices about whole trainings.

    python -m benchmarks.compare.held_out_block --data-dir UCM --block 20-35 --out TABLE.csv
    python -m benchmarks.compare.encoders --dataset folder --data-dir UCM --set table=TABLE.csv --set validation=0.05 ...

The test tiles are not in it, nor are the tiles beside the block: they are crops of the same pictures. What is trained
on it is judged on the block, which stands in the table as the test.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import numpy as np

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.splits import split_archive
from macl_tf.files import written_whole


def rows(archive: Archive, first: int, last: int, gap: int) -> list[tuple[str, str, str]]:
    """Name, labels and part of each tile that is used.

    Raises:
        ValueError: If the archive has no numbers, or test tiles are in the block.
    """
    test = np.zeros(len(archive), bool)
    test[split_archive(archive, "blocks").test] = True
    numbers = np.asarray(archive.numbers)
    if ((first <= numbers) & (numbers <= last) & test).any():
        raise ValueError(f"a block must lie below the test tiles, from {numbers[test].min()} on, got {first}-{last}.")
    found = []
    for name, number, labels, tested in zip(archive.file_names, numbers, archive.labels, test, strict=True):
        held_out = first <= number <= last
        if tested or (not held_out and first - gap <= number <= last + gap):
            continue
        held = ";".join(label for label, has in zip(archive.label_names, labels, strict=True) if has)
        found.append((name, held, "test" if held_out else "train"))
    return found


def block(text: str) -> tuple[int, int]:
    """The first and the last number of "20-35"."""
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"a block is FIRST-LAST, such as 20-35, got '{text}'.")
    return int(match[1]), int(match[2])


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="UC Merced, as of macl train")
    parser.add_argument("--block", type=block, required=True, metavar="FIRST-LAST", help="numbers that are held out")
    parser.add_argument("--gap", type=int, default=4, help="numbers left out on both sides (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    options = parser.parse_args()
    from macl_tf.datasets import load_archive

    archive = load_archive("ucm", data_dir=options.data_dir)
    try:
        found = rows(archive, *options.block, options.gap)
    except ValueError as error:
        parser.error(str(error))
    with written_whole(options.out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels", "split"), *found])
    held_out = sum(part == "test" for *_, part in found)
    print(f"{options.out}: {len(found) - held_out} tiles to train on, {held_out} held out.")


if __name__ == "__main__":
    main()
