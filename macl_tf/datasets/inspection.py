"""What is in an archive, before anything is trained: labels, copies, leaks, sizes, bands and values."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.folder import PROBLEMS
from macl_tf.datasets.images import content_digest
from macl_tf.datasets.matching import Finding
from macl_tf.datasets.near_copies import near_copies, small_grey
from macl_tf.datasets.splits import PARTS, Splits
from macl_tf.datasets.walk import number_of, shorten
from macl_tf.files import written_whole

COOCCURRENCE = "cooccurrence.csv"
RARE = 10  # images of a label below which its figures mean little
_AT_ONCE = 256  # tiles whose pictures may wait in memory
_SAMPLE = 64  # pixels kept of each tile, for the spread of values
_KEPT_ELSEWHERE = np.zeros(0, np.float32)
_FLAT = 1.0  # deviation of 8-bit values below which a tile shows nothing


class TileFacts(NamedTuple):
    """What a picture (H, W, bands) is."""

    shape: tuple[int, int, int]
    dtype: str
    low: NDArray[np.float64]  # (bands,)
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    sample: NDArray[Any]  # (pixels, bands), evenly spread
    small: NDArray[np.float32]  # (16, 16)
    content: str


class Copies(NamedTuple):
    """Tiles that are copies of each other."""

    tiles: tuple[int, ...]  # indices, the first one first
    kinds: tuple[str, ...]  # of each: "" for the first, then "exact" or "near"
    bits: tuple[int, ...]  # of 128, by which each differs from the one it was found by
    parts: tuple[str, ...]  # of each, "" where it is in none
    same_labels: bool

    @property
    def leaks(self) -> bool:
        """Whether they lie in several parts."""
        return len(set(self.parts) - {""}) > 1


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found in an archive of N tiles with C labels; B bands at most."""

    name: str
    archive: Archive
    parts: tuple[str, ...]  # of each tile: "train", "validation", "test", or ""
    split: str  # how the tiles are divided, in words, or why they are not
    facts: Mapping[int, TileFacts]  # of the tiles that could be read; without samples and small pictures
    copies: tuple[Copies, ...]
    findings: tuple[Finding, ...]  # what is wrong, name by name
    samples: Mapping[tuple[str, int], NDArray[Any]] = field(default_factory=dict)  # values by type and band, from 0

    @property
    def counts(self) -> NDArray[np.int64]:
        """(C,) tiles that hold each label."""
        return self.archive.labels.sum(axis=0, dtype=np.int64)

    def counts_of(self, part: str) -> NDArray[np.int64]:
        """(C,) the same of a part."""
        return self.archive.labels[[own == part for own in self.parts]].sum(axis=0, dtype=np.int64)

    @property
    def together(self) -> NDArray[np.int64]:
        """(C, C) tiles that hold both of two labels."""
        labels = self.archive.labels.astype(np.int64)
        return labels.T @ labels

    @property
    def leaks(self) -> tuple[Copies, ...]:
        """Copies that lie in several parts."""
        return tuple(group for group in self.copies if group.leaks)

    @property
    def flat(self) -> list[int]:
        """Tiles of 8 bits that show nothing: one colour, or nearly so."""
        return [tile for tile, facts in self.facts.items()
                if facts.dtype == "uint8" and facts.deviation.max() < _FLAT]  # fmt: skip

    def warnings(self) -> tuple[str, ...]:
        """What deserves a look before training, in lines, the worst first."""
        names, counts = self.archive.label_names, self.counts
        lines = []
        if self.leaks:
            tiles = sum(len(group.tiles) for group in self.leaks)
            lines.append(
                f"copies that lie in several parts: {number_of(len(self.leaks), 'group')} of {tiles:,} tiles. Figures "
                "would be too good: remove all but one of each, or divide the archive by scenes or by place"
            )
        problems = Counter(finding.problem for finding in self.findings)
        del problems["unlabelled"]  # which is told below, whoever found it
        lines += [f"{PROBLEMS[problem]}: {count:,} (problems.csv)" for problem, count in problems.items()]
        if differing := sum(not group.same_labels for group in self.copies):
            lines.append(f"copies with different labels, of which some are wrong: {number_of(differing, 'group')}")
        if inside := len(self.copies) - len(self.leaks):
            where = " within one part" if any(self.parts) else ""
            lines.append(f"copies{where}, which count more often than others: {number_of(inside, 'group')}")
        if not names:
            lines.append("no labels: the tiles can be indexed and searched, not trained on")
        if rare := [label for label in np.argsort(counts, kind="stable") if counts[label] < RARE]:
            shown = shorten([f"{names[label]} {counts[label]}" for label in rare], 10)
            lines.append(f"labels of fewer than {RARE} tiles: {len(rare)} ({shown})")
        for part in (part for part in PARTS if part in self.parts):
            none = [names[label] for label in np.flatnonzero((self.counts_of(part) == 0) & (counts > 0))]
            if none:
                lines.append(f"labels without a {part} tile: {len(none)} ({shorten(none, 10)})")
        if names and (bare := int((self.archive.labels.sum(axis=1) == 0).sum())):
            lines.append(f"tiles without a label: {bare:,}")
        if self.flat:
            names_of = [self.archive.file_names[tile] for tile in self.flat]
            lines.append(f"tiles of one colour: {len(names_of):,} ({shorten(names_of)})")
        if len(self.shapes) > 1:
            lines.append(f"sizes and kinds of tiles: {len(self.shapes)}; all are resized to one")
        return tuple(lines)

    @property
    def shapes(self) -> Counter[tuple[int, int, int, str]]:
        """Tiles of each width, height, number of bands and type."""
        return Counter((facts.shape[1], facts.shape[0], facts.shape[2], facts.dtype) for facts in self.facts.values())

    def write_tables(self, folder: Path) -> None:
        """Writes labels.csv, cooccurrence.csv, copies.csv, problems.csv, sizes.csv, bands.csv and tiles.csv."""
        names = self.archive.label_names
        parts = [part for part in PARTS if part in self.parts]
        by_part = [self.counts_of(part) for part in parts]
        rows = zip(names, self.counts, *by_part, strict=True)
        size = max(len(self.archive), 1)
        _write(
            folder / "labels.csv",
            ["label", "images", *parts, "share", "rare"],
            ([name, count, *own, f"{count / size:.4f}", "yes" if count < RARE else "no"] for name, count, *own in rows),
        )
        _write(
            folder / COOCCURRENCE,
            ["label", *names],
            ([name, *row] for name, row in zip(names, self.together.tolist(), strict=True)),
        )
        _write(
            folder / "copies.csv",
            ["group", "image", "part", "kind", "bits", "several_parts", "same_labels"],
            (
                [number, self.archive.file_names[tile], part, kind, bits, group.leaks, group.same_labels]
                for number, group in enumerate(self.copies, start=1)
                for tile, kind, bits, part in zip(group.tiles, group.kinds, group.bits, group.parts, strict=True)
            ),
        )
        _write(folder / "problems.csv", Finding._fields, self.findings)
        _write(
            folder / "sizes.csv",
            ["width", "height", "bands", "type", "images"],
            ([*shape, count] for shape, count in self.shapes.most_common()),
        )
        _write(folder / "bands.csv", ["type", "band", "minimum", "percentile_1", "median", "percentile_99", "maximum",
                                      "mean", "deviation"], self.band_rows())  # fmt: skip
        _write(folder / "tiles.csv", ["image", "part", "width", "height", "bands", "type", "minimum", "maximum", "mean",
                                      "deviation", "labels"], self._tile_rows())  # fmt: skip

    def band_rows(self) -> list[list[Any]]:
        """Of each type and band: minimum, percentiles of sampled pixels, maximum, mean and deviation of all pixels."""
        rows: list[list[Any]] = []
        for (dtype, band), sample in sorted(self.samples.items()):
            facts = [one for one in self.facts.values() if one.dtype == dtype and one.shape[2] > band]
            pixels = np.array([one.shape[0] * one.shape[1] for one in facts], np.float64)
            means = np.array([one.mean[band] for one in facts])
            mean = np.average(means, weights=pixels)
            square = np.average([one.deviation[band] ** 2 for one in facts] + (means - mean) ** 2, weights=pixels)
            spread = (
                np.percentile(sample[np.isfinite(sample)], (1, 50, 99)) if np.isfinite(sample).any() else [np.nan] * 3
            )
            low, high = min(one.low[band] for one in facts), max(one.high[band] for one in facts)
            rows.append([dtype, band + 1, low, *spread, high, round(mean, 4), round(float(np.sqrt(square)), 4)])
        return rows

    def _tile_rows(self) -> Iterator[list[Any]]:
        labels = self.archive.labels
        for tile, facts in self.facts.items():
            height, width, bands = facts.shape
            held = ";".join(self.archive.label_names[label] for label in np.flatnonzero(labels[tile]))
            mean, deviation = round(float(facts.mean.mean()), 2), round(float(facts.deviation.max()), 2)
            values = [facts.low.min(), facts.high.max(), mean, deviation]
            yield [self.archive.file_names[tile], self.parts[tile], width, height, bands, facts.dtype, *values, held]


def inspect_archive(
    archive: Archive, splits: Splits | None, split: str, *, name: str = "", progress: bool = True
) -> Inspection:
    """Reads every tile of an archive once and says what is there.

    Tiles are read in threads, a few hundred at a time; of each, numbers and a picture of 16 x 16 are kept:
    100,000 tiles take 0.7 GB in all.

    Args:
        archive: Any archive.
        splits: Its parts; None where it is not divided.
        split: How it is divided, or why it is not, in words.
        name: What people call it; the archive's own name by default.
        progress: Whether to show a bar.

    Returns:
        What was found.
    """
    parts = [""] * len(archive)
    for part in PARTS if splits is not None else ():
        for tile in getattr(splits, part):
            parts[tile] = part
    facts: dict[int, TileFacts] = {}
    findings = [*getattr(getattr(archive, "report", None), "findings", ())]
    samples: dict[tuple[str, int], list[NDArray[Any]]] = {}
    small = np.zeros((len(archive), 16, 16), np.float32)
    for tile, found in _read_all(archive, progress=progress):
        if isinstance(found, str):
            findings.append(Finding("unreadable", archive.file_names[tile], found))
            continue
        small[tile] = found.small
        for band in range(found.shape[2]):
            samples.setdefault((found.dtype, band), []).append(found.sample[:, band])
        facts[tile] = found._replace(sample=_KEPT_ELSEWHERE, small=_KEPT_ELSEWHERE)
    return Inspection(
        name=name or archive.name,
        archive=archive,
        parts=tuple(parts),
        split=split,
        facts=facts,
        copies=_copies(archive, parts, facts, small),
        findings=tuple(findings),
        samples={key: np.concatenate(values) for key, values in samples.items()},
    )


def tile_facts(image: NDArray[Any], content: str = "") -> TileFacts:
    """What a picture (H, W, bands) is; `content` is the digest of its pixels, where it is known."""
    pixels = image.reshape(-1, image.shape[2])
    step = max(len(pixels) // _SAMPLE, 1)
    low, high, mean, deviation = np.array([_moments(pixels[:, band]) for band in range(pixels.shape[1])]).T
    return TileFacts(
        shape=(image.shape[0], image.shape[1], image.shape[2]),
        dtype=str(image.dtype),
        low=low,
        high=high,
        mean=mean,
        deviation=deviation,
        sample=pixels[step // 2 :: step].copy(),
        small=small_grey(image),
        content=content or content_digest(image),
    )


def _moments(values: NDArray[Any]) -> tuple[float, float, float, float]:
    """Smallest, largest, mean and deviation of the values that are finite; NaN where there are none."""
    if values.dtype == np.uint8:  # ten times faster than the general way
        counts = np.bincount(values, minlength=256)
        there = np.flatnonzero(counts)
        mean = float(counts @ np.arange(256)) / len(values)
        square = float(counts @ (np.arange(256) - mean) ** 2) / len(values)
        return float(there[0]), float(there[-1]), mean, square**0.5
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return np.nan, np.nan, np.nan, np.nan
    return float(known.min()), float(known.max()), float(known.mean()), float(known.std())


def _read_all(archive: Archive, *, progress: bool) -> Iterator[tuple[int, TileFacts | str]]:
    """Each tile with its facts, or with the reason why it cannot be read."""

    def read(tile: int) -> TileFacts | str:
        try:
            return tile_facts(archive.read_image(tile), archive.contents[tile] if archive.contents else "")
        except (OSError, ValueError) as error:
            return str(error)

    bar = tqdm(total=len(archive), desc="reading tiles", unit="tile", leave=False, disable=not progress)
    executor = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for start in range(0, len(archive), _AT_ONCE):
            tiles = range(start, min(start + _AT_ONCE, len(archive)))
            for tile, found in zip(tiles, executor.map(read, tiles), strict=True):
                bar.update()
                yield tile, found
    finally:
        executor.shutdown(cancel_futures=True)
        bar.close()


def _copies(
    archive: Archive, parts: Sequence[str], facts: Mapping[int, TileFacts], small: NDArray[np.float32]
) -> tuple[Copies, ...]:
    """Groups of exact and near copies, those in several parts first."""
    tiles = list(facts)
    contents = [facts[tile].content for tile in tiles]
    first: dict[str, int] = {}
    like: dict[int, tuple[int, str, int]] = {}  # of each tile but the first of a group: the one before, kind, bits
    for tile, content in zip(tiles, contents, strict=True):
        if content in first:
            like[tile] = (first[content], "exact", 0)
        else:
            first[content] = tile
    links: dict[int, list[tuple[int, str, int]]] = {}
    near = near_copies(small[tiles], contents)
    for one, two, kind, bits in [
        *((before, tile, kind, bits) for tile, (before, kind, bits) in like.items()),
        *((tiles[one], tiles[two], "near", int(bits)) for one, two, bits in near.tolist()),
    ]:
        links.setdefault(one, []).append((two, kind, bits))
        links.setdefault(two, []).append((one, kind, bits))
    groups: list[Copies] = []
    seen: set[int] = set()
    for start in sorted(links):
        if start in seen:
            continue
        members, queue = {start: ("", 0)}, [start]
        while queue:
            for other, kind, bits in links[queue.pop()]:
                if other not in members:
                    members[other] = (kind, bits)
                    queue.append(other)
        seen.update(members)
        order = sorted(members)
        groups.append(
            Copies(
                tiles=tuple(order),
                kinds=tuple(members[tile][0] for tile in order),
                bits=tuple(members[tile][1] for tile in order),
                parts=tuple(parts[tile] for tile in order),
                same_labels=len({archive.labels[tile].tobytes() for tile in order}) == 1,
            )
        )
    return tuple(sorted(groups, key=lambda group: (not group.leaks, -len(group.tiles), group.tiles)))


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with (
        written_whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
