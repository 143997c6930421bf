"""Divides an archive into training, validation and test images.

A random split of tiles that were cut from the same picture puts near copies on both sides: the figures are
then optimistic. `split_archive` therefore knows blocks of neighbouring numbers and official splits, and says
which was used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from macl_tf.datasets.archives import normalise_label
from macl_tf.datasets.group_splits import deal, ground_blocks, overlapped
from macl_tf.datasets.walk import shorten
from macl_tf.files import read_json, write_json

if TYPE_CHECKING:
    from macl_tf.datasets.archives import Archive

KINDS = ("auto", "random", "blocks", "groups", "geographic", "official")
PARTS = ("train", "validation", "test")
GAP = len(PARTS)  # where their numbers stand
SPLITS = "splits.json"
_LOOKED_AT = 5000  # tiles whose places are compared, for a warning
UNKNOWN = "-"  # the digest of pixels that nobody looked at


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of an archive, as sorted, disjoint int64 indices: all its images, but for those left out."""

    kind: str  # one of `KINDS`, but "auto"
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    leaks: bool  # whether neighbouring crops of one picture may lie in different parts, so that figures are optimistic
    note: str  # a sentence to be shown beside every figure that was measured on this split
    changes: tuple[str, ...] = ()  # of parts that were read back: what is no longer as it was when they were made

    def write(self, directory: str | os.PathLike[str], archive: Archive) -> Path:
        """Writes `splits.json` whole: file names of each part, and what tells each tile from others. Gives its path."""
        parts = {part: getattr(self, part) for part in PARTS}
        parts["left_out"] = np.setdiff1d(np.arange(len(archive)), np.concatenate(list(parts.values())))
        content = {
            "archive": archive.name,
            "kind": self.kind,
            "leaks": self.leaks,
            "note": self.note,
            **{part: [archive.file_names[index] for index in images] for part, images in parts.items()},
            "digests": dict(zip(archive.file_names, _digests(archive), strict=True)),
        }
        path = Path(directory) / SPLITS
        write_json(path, content)
        return path

    @classmethod
    def read(cls, directory: str | os.PathLike[str], archive: Archive) -> Splits:
        """Reads back what `write` wrote, as indices into `archive`, wherever that lies now.

        Images that the archive gained since then belong to no part, and those that it lost are missing from theirs;
        `changes` says how many, and names the first. A ValueError says that it is another archive: fewer than half of
        the images are there with the same labels or pixels.
        """
        content = _read(directory)
        before: dict[str, str] = content["digests"]
        position = {name: index for index, name in enumerate(archive.file_names)}
        now = dict(zip(archive.file_names, _digests(archive), strict=True))
        there = [name for name in before if name in now]
        alike = [name for name in there if any(map(_same, before[name].split(), now[name].split()))]
        if 2 * len(alike) < len(before):
            raise ValueError(
                f"the archive must be the one that '{Path(directory) / SPLITS}' was made from, but of its "
                f"{len(before):,} images {len(alike):,} are in {archive.name!r} with the same labels or pixels. Give "
                "that archive by --data-dir, or use another --run-dir for this one."
            )
        train, validation, test = (
            _indices(position[name] for name in content[part] if name in position) for part in PARTS
        )
        changes = _changes(content, now)
        return cls(content["kind"], train, validation, test, content["leaks"], content["note"], changes)


def seen_before(directory: str | os.PathLike[str], archive: Archive) -> np.ndarray:
    """Indices of the images of any archive that are, pixel for pixel, training or validation images of a run.

    Of an archive whose `contents` are not known nothing is found. `directory` holds the run's `splits.json`.
    """
    content = _read(directory)
    held = {content["digests"][name].split()[1] for part in PARTS[:2] for name in content[part]} - {UNKNOWN}
    return _indices(index for index, digest in enumerate(_digests(archive)) if digest.split()[1] in held)


def split_archive(
    archive: Archive,
    kind: str = "auto",
    *,
    validation: float = 0.15,
    test: float = 0.2,
    gap: float = 0.0,
    block: float = 0.0,
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
    * `"groups"`: whole groups, the scenes that tiles were cut from, so that tiles and labels are spread by the shares
      as evenly as whole groups allow.
    * `"geographic"`: the same of square blocks of ground with sides of `block` metres. Tiles that show ground which a
      tile held back shows too belong to no part, nor do those whose place is not known.
    * `"official"`: the archive's own parts; where it has no validation part, that is a share of its training part: by
      blocks if that is the archive's default, else by seed. `test` is not used.
    * `"auto"`: the archive's `default_split`.

    Exact copies, where the archive knows them (`Archive.contents`), lie in one part: a random split deals them out
    together; in the other two, a copy of a test image is left out of training and validation, and one of a validation
    image out of training. The note counts and names them.

    Args:
        archive: The archive to divide.
        kind: One of the kinds above.
        validation: Share of the validation images, in [0, 1); 0 for none.
        test: Share of the test images, in [0, 1); 0 for none.
        block: Side of the blocks of a geographic split in metres, at least that of a tile; 0 is four times that.
        gap: Share left out between training and validation, in [0, 1), where the parts are blocks.
        seed: Seed of the random kinds, >= 0. The same archive and seed give the same split.

    Returns:
        The split, with every image in exactly one part, or left out.

    Raises:
        ValueError: If `kind` is unknown or the archive lacks what it needs, a share is outside [0, 1), the
            shares leave no training image, or a share > 0 gives a part without an image.

    Example:
        >>> from macl_tf.datasets import load_archive
        >>> splits = split_archive(load_archive("synthetic", num_tiles=40), test=0.25, seed=1)
        >>> splits.kind, len(splits.test)
        ('random', 10)
    """
    _check_arguments(kind, validation, test, gap, block, seed)
    kind = archive.default_split if kind == "auto" else kind
    if block and kind != "geographic":
        raise ValueError(f"split_block must be 0 unless split=geographic, got {block:g}.")
    if gap and (kind in ("random", "groups", "geographic") or archive.default_split != "blocks" != kind):
        raise ValueError(f"gap must be 0 where the parts are no blocks of neighbouring numbers, got {gap}.")
    first = _first_copies(archive)
    if kind == "official":
        parts, note = _official(archive, first, validation, gap, seed)
    elif kind == "blocks":
        parts = _blocks(archive, np.arange(len(archive)), validation, test, gap)
        note = _describe_blocks(np.asarray(archive.numbers), parts, validation, test)
    elif kind == "groups":
        parts, note = _groups(archive, validation, test, seed)
    elif kind == "geographic":
        parts, note = _geographic(archive, validation, test, block, seed)
    else:
        parts = _stratified(archive.labels, first, validation, test, seed)
        note = f"random split by seed {seed}, labels balanced over the parts"
    if gap:
        note += f"; {np.sum(parts == GAP)} images before validation left out"
    leaks = kind == "random" and archive.default_split == "blocks"
    if leaks:
        note = "random split of an archive with neighbouring crops: figures are optimistic"
    if kind in ("random", "groups") and (told := _ground_in_common(archive, kind, parts)):
        leaks, note = True, f"{note}; {told}: figures are optimistic"
    parts, told = _copies_in_one_part(archive, first, parts)
    held = {part: np.flatnonzero(parts == number) for number, part in enumerate(PARTS)}
    wanted = {"train": True, "validation": validation > 0, "test": test > 0 or kind == "official"}
    for part, images in held.items():
        if wanted[part] and len(images) == 0:
            remedy = _remedy(part, kind, len(archive), sum(wanted.values()))
            raise ValueError(
                f"each part of a split must hold an image, but the {kind} split of {len(archive)} images with "
                f"validation={validation} and test={test} has no {part} image. {remedy}"
            )
    return Splits(kind, held["train"], held["validation"], held["test"], leaks, note + told)


def _remedy(part: str, kind: str, images: int, parts: int) -> str:
    if kind == "official":
        if part == "validation":
            return "Raise validation."
        missing = "test" if part == "test" else "train"
        return f"Mark some images as {missing} in the table's column 'split', or use split=random."
    if images < parts:
        return f"{parts} parts need {parts} images that differ, at least: add some."
    raised = "Lower validation and test" if part == "train" else f"Raise {part}"
    return f"{raised}, or use split=random." if kind == "blocks" else f"{raised}."


def _groups(archive: Archive, validation: float, test: float, seed: int) -> tuple[np.ndarray, str]:
    if archive.groups is None:
        raise ValueError(
            f"a split by groups needs to know what tiles were cut from, and {archive.name!r} does not say. Add a "
            "column 'group' to its label table, or a table groups.csv (image,group)."
        )
    names, group = np.unique(np.array(archive.groups), return_inverse=True)
    try:
        parts = deal(archive.labels, group, (1 - validation - test, validation, test), seed)
    except ValueError as error:
        raise ValueError(f"{error} Use split=geographic where places are known, or split=random.") from None
    counts = [len(set(group[parts == part])) for part in range(len(PARTS))]
    told = ", ".join(f"{count} {part}" for count, part in zip(counts, PARTS, strict=True))
    return parts, f"split by whole groups, {len(names)}: {told}"


def _geographic(archive: Archive, validation: float, test: float, block: float, seed: int) -> tuple[np.ndarray, str]:
    places = None if archive.places is None else archive.places(np.arange(len(archive)))
    known = np.zeros(len(archive), bool) if places is None else np.isfinite(places).all(axis=(1, 2))
    if places is None or not known.any():
        raise ValueError(
            f"a geographic split needs places, and no tile of {archive.name!r} has one. Use GeoTIFF tiles, or cut the "
            "scenes by macl tile; or use split=groups or random."
        )
    blocks, side = ground_blocks(places[known], block)
    try:
        dealt = deal(archive.labels[known], blocks, (1 - validation - test, validation, test), seed)
    except ValueError as error:
        raise ValueError(f"{error} These are blocks of {side:.0f} metres: lower split_block.") from None
    parts = np.full(len(archive), GAP, np.int64)
    parts[known] = dealt
    shared = overlapped(places, np.where(known, parts, -1))
    parts[shared] = GAP
    note = f"split by {int(blocks.max()) + 1:,} blocks of ground of {side:,.0f} m"
    if shared.any():
        note += f"; {int(shared.sum()):,} tiles left out that overlap tiles held back"
    if not known.all():
        note += f"; {int((~known).sum()):,} tiles without a place left out"
    return parts, note


def _ground_in_common(archive: Archive, kind: str, parts: np.ndarray) -> str:
    """What tiles of different parts have in common, as far as groups and places tell; "" for nothing."""
    if kind == "random" and archive.groups is not None and len(set(archive.groups)) < len(archive):
        return "tiles of one group lie in several parts (split=groups keeps them together)"
    if archive.places is None:
        return ""
    # Neighbours have neighbouring names: a part of a large archive tells.
    looked = np.arange(min(len(archive), _LOOKED_AT))
    count = int(overlapped(archive.places(looked), parts[looked], touching=kind == "random").sum())
    where = "overlap or touch" if kind == "random" else "overlap"
    more = "" if len(looked) == len(archive) else f" of the first {len(looked):,}"
    return f"{count:,} tiles{more} {where} tiles held back (split=geographic keeps them apart)" if count else ""


def _check_arguments(kind: str, validation: float, test: float, gap: float, block: float, seed: int) -> None:
    if kind not in KINDS:
        raise ValueError(f"split must be one of {', '.join(KINDS)}, got {kind!r}.")
    if not 0 <= block < float("inf"):
        raise ValueError(f"split_block must be >= 0 metres, got {block}.")
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


def _stratified(labels: np.ndarray, first: np.ndarray, validation: float, test: float, seed: int) -> np.ndarray:
    """The part of each image; those with the same `first` copy are dealt out as one image with the labels of all."""
    groups, group = np.unique(first, return_inverse=True)
    held = np.zeros((len(groups), labels.shape[1]), labels.dtype)
    np.maximum.at(held, group, labels)
    held_back = (_count(validation, len(groups)), _count(test, len(groups)))
    return stratify(held, (len(groups) - sum(held_back), *held_back), seed)[group]


def stratify(labels: np.ndarray, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Deals images out to parts of exactly the given sizes, so that each label is spread in proportion: (N,) int64.

    The label with the fewest images left is dealt out first. Each of its images goes to the part that still wants most
    of that label; among equals to the part with the most room, and then by chance. Images without a label fill what is
    left. A label with fewer images than parts goes to the largest parts.

    Reference:
        Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011, figure 2;
        the fixed sizes are this project's addition.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels, np.int64)
    room = np.array(sizes, np.int64)
    if (room < 0).any() or room.sum() != len(labels):
        raise ValueError(f"sizes must be >= 0 and add up to the {len(labels)} images, got {list(sizes)}.")
    wanted = np.outer(room / max(len(labels), 1), labels.sum(axis=0))
    parts = np.full(len(labels), -1, np.int64)
    order = rng.permutation(len(labels))
    while len(order):
        left = labels[order].sum(axis=0)
        if left.any():
            label = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
            need, holders = wanted[:, label], order[labels[order, label] > 0]
        else:
            need, holders = room, order
        for image in holders:
            # The last of the sorted parts: one with room, then by need, by room, by chance.
            part = np.lexsort((rng.random(len(room)), room, need, room > 0))[-1]
            parts[image] = part
            room[part] -= 1
            wanted[part] -= labels[image]  # `need` is a view of it, or of `room`
        order = order[parts[order] < 0]
    return parts


def _first_copies(archive: Archive) -> np.ndarray:
    """(N,) for each image the first one with the same pixels, as far as is known."""
    if archive.contents is None:
        return np.arange(len(archive))
    _, first, group = np.unique(np.array(archive.contents), return_index=True, return_inverse=True)
    return first[group]


def _copies_in_one_part(archive: Archive, first: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, str]:
    """The parts without copies of images that are held back further on, and what to say of copies."""
    copies = np.flatnonzero(first != np.arange(len(first)))
    if not len(copies):
        return parts, ""
    rank = np.where(parts == GAP, -1, parts)
    furthest = np.full(len(first), -1)
    np.maximum.at(furthest, first, rank)
    stray = (rank >= 0) & (rank < furthest[first])
    pairs = [f"{archive.file_names[image]} = {archive.file_names[first[image]]}" for image in copies]
    what = "image is an exact copy" if len(copies) == 1 else "images are exact copies"
    out = f"{np.sum(stray)} of them left out, since their copies are held back" if stray.any() else "in the same part"
    return np.where(stray, GAP, parts), f"; {len(copies)} {what} of another, {out} ({shorten(pairs)})"


def _read(directory: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(directory) / SPLITS
    if not path.is_file():
        raise FileNotFoundError(
            f"'{path}' is not there, which says which tiles the run trained on. Put it back, or train again with "
            "another --run-dir."
        )
    try:
        content: dict[str, Any] = read_json(path)
        if not all(name in content["digests"] for part in PARTS for name in content[part]):
            raise ValueError("a tile without a digest")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' is damaged or of an older macl_tf ({type(error).__name__}: {error}). Put the file back as the "
            "run wrote it, or train again with another --run-dir."
        ) from error
    return content


def _digests(archive: Archive) -> list[str]:
    """What tells each image from others: 8 digits for its labels, a blank, 16 for its pixels, or `UNKNOWN`."""
    keys = [normalise_label(name) for name in archive.label_names]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    names = [keys[label].encode("utf-8", "surrogateescape") for label in order]
    rows, which = np.unique(archive.labels[:, order], axis=0, return_inverse=True)
    sets = [b"\0".join(names[label] for label in np.flatnonzero(row)) for row in rows]
    labels = [hashlib.blake2b(held, digest_size=4).hexdigest() for held in sets]
    contents = archive.contents or [UNKNOWN] * len(archive)
    return [f"{labels[held]} {content[:16]}" for held, content in zip(which.reshape(-1), contents, strict=True)]


def _same(before: str, now: str) -> bool:
    return UNKNOWN not in (before, now) and before == now


def _changes(content: dict[str, Any], now: dict[str, str]) -> tuple[str, ...]:
    """What differs between the images of a written split and those of an archive, in lines."""
    before: dict[str, str] = content["digests"]
    lines: list[str] = []

    def tell(names: Sequence[str], what: str) -> None:
        if names:
            lines.append(f"{what}: {len(names)} ({shorten(names)})")  # as the archive's own notes are

    for part in PARTS:
        gone = [name for name in content[part] if name not in now]
        tell(gone, f"{part} tiles of the run that are not in the archive now")
    tell([name for name in now if name not in before], "new tiles, in no part of the run")
    both = [(name, before[name].split(), now[name].split()) for name in before if name in now]
    tell([name for name, old, new in both if old[0] != new[0]], "tiles with other labels than when the run began")
    known = [(name, old[1], new[1]) for name, old, new in both if UNKNOWN not in (old[1], new[1])]
    tell([name for name, old, new in known if old != new], "tiles with other pixels than when the run began")
    return tuple(lines)


def _blocks(archive: Archive, images: np.ndarray, validation: float, test: float, gap: float) -> np.ndarray:
    """The part (0, 1, 2, or GAP) of each of `images`; two images of one scene with the same number stay together."""
    if archive.numbers is None:
        raise ValueError(
            f"a split by blocks needs running numbers, and the archive {archive.name!r} has none. Use split 'random'"
            + (" or 'official'." if archive.official_split is not None else ".")
        )
    scenes = np.array(archive.scenes)[images] if archive.scenes is not None else np.zeros(len(images), np.int64)
    parts = np.zeros(len(images), np.int64)
    for scene in np.unique(scenes):
        members = scenes == scene
        known, rank = np.unique(archive.numbers[images][members], return_inverse=True)
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


def _official(archive: Archive, first: np.ndarray, validation: float, gap: float, seed: int) -> tuple[np.ndarray, str]:
    if archive.official_split is None:
        raise ValueError(
            f"an official split needs an archive that has one, and {archive.name!r} has none. Use split 'random'"
            + (" or 'blocks'." if archive.numbers is not None else ".")
        )
    parts = np.array([PARTS.index(part) for part in archive.official_split], np.int64)
    if PARTS.index("validation") in parts:
        return parts, "official split, with its own validation part"
    train = np.flatnonzero(parts == PARTS.index("train"))
    if archive.default_split == "blocks" and archive.numbers is not None:
        parts[train] = _blocks(archive, train, validation, 0.0, gap)
        way = "by blocks of neighbouring numbers"
    else:
        parts[train] = _stratified(archive.labels[train], first[train], validation, 0.0, seed)
        way = f"by seed {seed}, labels balanced"
    return parts, f"official split; validation is {validation:.0%} of its training part, {way}"
