"""Dividing an archive into training, validation and test images.

A random split of tiles that were cut from the same picture puts near copies on both sides: the figures are
then optimistic. `split_archive` therefore knows blocks of neighbouring numbers and official splits, and says
which was used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from macl_tf.datasets.stratification import stratify
from macl_tf.files import written_whole

if TYPE_CHECKING:
    from macl_tf.datasets.archives import Archive

KINDS = ("auto", "random", "blocks", "official")
PARTS = ("train", "validation", "test")
GAP = len(PARTS)  # where their numbers stand


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of an archive, as sorted, disjoint int64 indices: all its images, but for those of a gap.

    Attributes:
        kind: How the archive was divided: `"random"`, `"blocks"` or `"official"`.
        train: Indices of the training images.
        validation: Indices of the validation images.
        test: Indices of the test images.
        leaks: True if neighbouring crops of one picture may lie in different parts, so that figures are
            optimistic.
        note: A sentence to be shown beside every figure that was measured on this split.
    """

    kind: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    leaks: bool
    note: str

    def write(self, directory: str | os.PathLike[str], archive: Archive) -> Path:
        """Writes `splits.json`, the file names of each part, into `directory`, and returns its path.

        The file is replaced as a whole, so a run that is killed leaves the old or the new one.
        """
        content: dict[str, object] = {
            "archive": archive.name,
            "kind": self.kind,
            "leaks": self.leaks,
            "note": self.note,
        }
        for part in PARTS:
            content[part] = [archive.file_names[index] for index in getattr(self, part)]
        path = Path(directory) / "splits.json"
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        with written_whole(path) as temporary:
            # Whatever bytes a file name holds, they can be written and read back.
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        return path

    @classmethod
    def read(cls, directory: str | os.PathLike[str], archive: Archive) -> Splits:
        """Reads back what `write` wrote, as indices into `archive`.

        Images that the archive gained since then belong to no part.

        Raises:
            FileNotFoundError: If `directory` holds no `splits.json`.
            ValueError: If the archive no longer has an image that the file names.
        """
        path = Path(directory) / "splits.json"
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        position = {name: index for index, name in enumerate(archive.file_names)}
        gone = [name for part in PARTS for name in content[part] if name not in position]
        if gone:
            raise ValueError(
                f"{path} must name images of the archive {archive.name!r}, but {len(gone)} of them are not in it, "
                f"{gone[0]!r} first. Give the archive that the split was made from, or remove the file to split anew."
            )
        train, validation, test = (_indices(position[name] for name in content[part]) for part in PARTS)
        return cls(content["kind"], train, validation, test, content["leaks"], content["note"])


def split_archive(
    archive: Archive,
    kind: str = "auto",
    *,
    validation: float = 0.15,
    test: float = 0.2,
    gap: float = 0.0,
    seed: int = 0,
) -> Splits:
    """Divides an archive into training, validation and test images.

    * `"random"`: drawn by `seed`, with the shares of each label kept as equal as whole images allow
      (iterative stratification, rarest label first), so that a label with few images is not missing from a
      part by chance.
    * `"blocks"`: of the N running numbers of each scene, the last `round(test * N)` are test, the
      `round(validation * N)` before them validation. Neighbouring numbers, crops of one picture, stay
      together, but for those on a border: validation lies beside training, test does not, and what was chosen on
      validation may therefore disappoint. A gap of `round(gap * N)` numbers between the two belongs to no part.
    * `"official"`: the archive's own test part, and validation as a share of its own training part: by
      blocks if that is the archive's default, else by seed. `test` is not used.
    * `"auto"`: the archive's `default_split`.

    Args:
        archive: The archive to divide.
        kind: One of the kinds above.
        validation: Share of the validation images, in [0, 1); 0 for none.
        test: Share of the test images, in [0, 1); 0 for none.
        gap: Share left out between training and validation, in [0, 1), where the parts are blocks.
        seed: Seed of the random kinds, >= 0. The same archive and seed give the same split.

    Returns:
        The split, with every image in exactly one part, or in the gap.

    Raises:
        ValueError: If `kind` is unknown or the archive lacks what it needs, a share is outside [0, 1), the
            shares leave no training image, or a share > 0 gives a part without an image.

    Example:
        >>> from macl_tf.datasets import load_archive
        >>> splits = split_archive(load_archive("synthetic", num_tiles=40), test=0.25, seed=1)
        >>> splits.kind, len(splits.test)
        ('random', 10)
    """
    _check_arguments(kind, validation, test, gap, seed)
    kind = archive.default_split if kind == "auto" else kind
    if gap and (kind == "random" or archive.default_split != "blocks" != kind):
        raise ValueError(f"gap must be 0 where the parts are no blocks of neighbouring numbers, got {gap}.")
    everything = np.arange(len(archive))
    if kind == "official":
        parts, note = _official(archive, validation, gap, seed)
    elif kind == "blocks":
        numbers = _numbers(archive)
        parts = _blocks(archive, numbers, everything, validation, test, gap)
        note = _describe_blocks(numbers, parts, validation, test)
    else:
        parts = _stratified(archive.labels, validation, test, seed)
        note = f"random split by seed {seed}, labels balanced over the parts"
    if gap:
        note += f"; {np.sum(parts == GAP)} images before validation left out"
    leaks = kind == "random" and archive.default_split == "blocks"
    if leaks:
        note = "random split of an archive with neighbouring crops: figures are optimistic"
    train, validation_part, test_part = (np.flatnonzero(parts == part) for part in range(len(PARTS)))
    wanted = {"train": True, "validation": validation > 0, "test": test > 0 or kind == "official"}
    sizes = dict(zip(PARTS, (len(train), len(validation_part), len(test_part)), strict=True))
    for part, size in sizes.items():
        if wanted[part] and size == 0:
            remedy = {"train": "Lower the two shares.", "validation": "Raise validation, or set it to 0."}
            remedy["test"] = "Use split 'random'." if kind == "official" else "Raise test, or set it to 0."
            raise ValueError(
                f"each part of a split must hold an image, but the {kind} split of {len(archive)} images with "
                f"validation={validation} and test={test} has no {part} image. {remedy[part]}"
            )
    return Splits(kind, train, validation_part, test_part, leaks, note)


def _check_arguments(kind: str, validation: float, test: float, gap: float, seed: int) -> None:
    if kind not in KINDS:
        raise ValueError(f"split must be one of {', '.join(KINDS)}, got {kind!r}.")
    for name, share in (("validation", validation), ("test", test), ("gap", gap)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be a share in [0, 1), got {share}. For a fifth of the images give 0.2.")
    if kind != "official" and validation + test + gap >= 1:
        raise ValueError(
            f"validation + test + gap must be < 1, got {validation} + {test} + {gap}: no image is left to train on."
        )
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")


def _indices(values: Iterable[int]) -> np.ndarray:
    return np.array(sorted(values), np.int64)


def _count(share: float, total: int) -> int:
    """The nearest whole number, halves upwards (Python's round sends them to the even side)."""
    return int(share * total + 0.5)


def _stratified(labels: np.ndarray, validation: float, test: float, seed: int) -> np.ndarray:
    held_back = (_count(validation, len(labels)), _count(test, len(labels)))
    return stratify(labels, (len(labels) - sum(held_back), *held_back), seed)


def _numbers(archive: Archive) -> np.ndarray:
    if archive.numbers is None:
        raise ValueError(
            f"a split by blocks needs running numbers, and the archive {archive.name!r} has none. Use split 'random'"
            + (" or 'official'." if archive.official_split is not None else ".")
        )
    return archive.numbers


def _blocks(
    archive: Archive, numbers: np.ndarray, images: np.ndarray, validation: float, test: float, gap: float
) -> np.ndarray:
    """The part (0, 1, 2, or GAP) of each of `images`; two images of one scene with the same number stay together."""
    scenes = np.array(archive.scenes)[images] if archive.scenes is not None else np.zeros(len(images), np.int64)
    parts = np.zeros(len(images), np.int64)
    for scene in np.unique(scenes):
        members = scenes == scene
        known, rank = np.unique(numbers[images][members], return_inverse=True)
        first_test = len(known) - _count(test, len(known))
        first_validation = first_test - _count(validation, len(known))
        parts[members] = (rank >= first_validation).astype(np.int64) + (rank >= first_test)
        parts[members] += GAP * ((rank < first_validation) & (rank >= first_validation - _count(gap, len(known))))
    return parts


def _describe_blocks(numbers: np.ndarray, parts: np.ndarray, validation: float, test: float) -> str:
    ranges = [np.unique(numbers[parts == part]) for part in range(len(PARTS))]
    if (np.diff(np.concatenate(ranges)) > 0).all():  # the same numbers in every scene
        spans = [f"{held[0]}-{held[-1]} {part}" for held, part in zip(ranges[1:], PARTS[1:], strict=True) if len(held)]
        return "split by blocks of neighbouring numbers: " + ", ".join(spans or ["all train"])
    return (
        f"split by blocks of neighbouring numbers: the last {test:.0%} of each scene test, "
        f"the {validation:.0%} before them validation"
    )


def _official(archive: Archive, validation: float, gap: float, seed: int) -> tuple[np.ndarray, str]:
    if archive.official_split is None:
        raise ValueError(
            f"an official split needs an archive that has one, and {archive.name!r} has none. Use split 'random'"
            + (" or 'blocks'." if archive.numbers is not None else ".")
        )
    parts = np.array([PARTS.index(part) for part in archive.official_split], np.int64)
    train = np.flatnonzero(parts == PARTS.index("train"))
    if archive.default_split == "blocks" and archive.numbers is not None:
        parts[train] = _blocks(archive, archive.numbers, train, validation, 0.0, gap)
        way = "by blocks of neighbouring numbers"
    else:
        parts[train] = _stratified(archive.labels[train], validation, 0.0, seed)
        way = f"by seed {seed}, labels balanced"
    return parts, f"official split; validation is {validation:.0%} of its training part, {way}"
