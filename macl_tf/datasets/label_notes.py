"""Notes on the labels of an archive: how often each occurs, and which look like typos of another."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from macl_tf.datasets.archives import normalise_label
from macl_tf.datasets.label_lists import listed, quoted
from macl_tf.datasets.label_names import edits

_ALL_COUNTS = 30  # up to so many labels, the count of each is told
_MOST_FREQUENT = 10
_NAMED = 10
_TWINS = 5
_LONG = 10  # letters from which a name may have two slips
_FEW = 3  # a slip is near so many labels at most; what is near more is one of a family of names that are alike
_CROWD = 64  # so many names that may be near are such a family, too, which is not worth the time to look at
_BINS = 32  # letters are counted in so many bins, to find pairs of names that may be near each other
_BLOCK = 256
# Digits, single letters and Roman numerals: what tells the members of a numbered family apart.
_NUMBERING = re.compile(r"\d+|(?<![^\W\d_])(?:[^\W\d_]|[ivxlcdm]{2,})(?![^\W\d_])")


def describe_labels(label_names: Sequence[str], labels: ArrayLike) -> tuple[str, ...]:
    """Notes on the labels of an archive, of C names and (N, C) labels.

    They say how many images hold each (of many labels, the most frequent), which occur once or never, and which are
    near twins, the likeliest typos first: "airplnae (1) beside airplane (6): did you mean airplane?"
    """
    if not label_names:
        return ()
    counts = np.asarray(labels).sum(axis=0, dtype=np.int64)
    order = sorted(range(len(label_names)), key=lambda label: (-counts[label], label))
    shown = order if len(order) <= _ALL_COUNTS else order[:_MOST_FREQUENT]
    told = ", ".join(f"{quoted(label_names[label])} {counts[label]:,}" for label in shown)
    if len(shown) < len(order):
        least, most = counts[order[-1]], counts[order[len(shown)]]
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        notes = [f"images of the most frequent of {len(order):,} labels: {told}; of the others {each} each"]
    else:
        notes = [f"images of each label: {told}"]
    for number, words in ((1, "of one image only"), (0, "of no image")):
        names = [label_names[label] for label in order if counts[label] == number]
        if names:
            many = f"label {words}" if len(names) == 1 else f"{len(names):,} labels {words}"
            notes.append(f"{many}: {listed(names, _NAMED)}")
    twins = near_twins(label_names, counts)
    for rare, frequent in twins[:_TWINS]:
        one, other = quoted(label_names[rare]), quoted(label_names[frequent])
        asked = f"did you mean {other}?" if counts[rare] < counts[frequent] else "are they one label?"
        notes.append(f"{one} ({counts[rare]:,}) beside {other} ({counts[frequent]:,}): {asked}")
    if len(twins) > _TWINS:
        pairs = [f"{quoted(label_names[one])} beside {quoted(label_names[two])}" for one, two in twins[_TWINS:]]
        more = f" and {len(pairs) - _NAMED:,} more" if len(pairs) > _NAMED else ""
        notes.append(f"{len(pairs):,} more pairs look alike: {'; '.join(pairs[:_NAMED])}{more}")
    return tuple(notes)


def near_twins(label_names: Sequence[str], counts: ArrayLike) -> list[tuple[int, int]]:
    """Pairs of labels, (the rarer, the more frequent) by place, of which one is probably a misspelling of the other.

    They differ by one letter (two in names of ten or more): left out, put in, changed, or exchanged with its
    neighbour; names of three letters by an exchange, or by a letter written twice. Names that differ in numbers, or in
    single letters and Roman numerals that stand for numbers, are none. Nor are two that are both frequent, unless they
    differ by a plural's s, an exchange of letters, a letter written twice or accents alone. The likeliest come first;
    each label is the rarer of one pair at most.
    """
    held = np.asarray(counts, np.int64)
    families: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for place, name in enumerate(label_names):
        spaced = re.sub(r"[-_\s]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).casefold()
        letters = normalise_label(_NUMBERING.sub("", spaced))
        families[tuple(_NUMBERING.findall(spaced))].append((letters, place))
    found: list[tuple[tuple[int, int, int], int, int]] = []
    alike: Counter[int] = Counter()
    for family in families.values():
        for one, other in _candidates([letters for letters, _ in family]):
            (a, first), (b, second) = sorted((family[one], family[other]), key=lambda item: (held[item[1]], -item[1]))
            rare, frequent = int(held[first]), int(held[second])
            distance = edits(a, b, 2)
            plain = _is_plain(a, b, distance)
            length = min(len(a), len(b))
            allowed = 0 if length < 4 else 1 if length < _LONG else 2
            if not plain and not 0 < distance <= allowed and not _are_swapped(a, b, distance):
                continue
            alike.update((first, second))
            if plain or (rare < frequent and (rare <= 2 or rare * 5 <= frequent)):
                found.append(((distance, rare, -frequent), first, second))
    best: dict[int, int] = {}
    for _, first, second in sorted(found):
        if alike[first] <= _FEW:
            best.setdefault(first, second)
    return list(best.items())


def _is_plain(one: str, other: str, distance: int) -> bool:
    """Whether names differ as no two labels would: by a plural's s, an exchange, a letter twice, or accents."""
    short, long = sorted((one, other), key=len)
    if one == other or len(short) < 3:
        return False
    return (
        long == short + "s"
        or re.sub(r"(.)\1+", r"\1", one) == re.sub(r"(.)\1+", r"\1", other)
        or _without_accents(one) == _without_accents(other)
        or (len(short) > 4 and _are_swapped(one, other, distance))
    )


def _are_swapped(one: str, other: str, distance: int) -> bool:
    """Whether two letters of a name changed places."""
    return distance == 1 and len(one) == len(other) > 2 and sorted(one) == sorted(other)


def _without_accents(name: str) -> str:
    """A name without the accents on Latin letters; those of other scripts are letters."""
    return re.sub(r"([a-z])[\u0300-\u036f]+", r"\1", unicodedata.normalize("NFD", name))


def _candidates(names: list[str]) -> list[tuple[int, int]]:
    """Pairs of names that may differ by two letters or less: near in length, and in how often each letter occurs."""
    if len(names) < 2:
        return []
    letters = np.zeros((len(names), _BINS), np.int16)
    for row, name in zip(letters, names, strict=True):
        np.add.at(row, [ord(letter) % _BINS for letter in name], 1)
    lengths = letters.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    letters, lengths = letters[order], lengths[order]
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(names), _BLOCK):
        block = letters[start : start + _BLOCK]
        end = int(np.searchsorted(lengths, lengths[start + len(block) - 1] + 2, side="right"))
        difference = np.abs(block[:, None] - letters[None, start:end]).sum(axis=2)
        # A changed letter counts twice. The block's names are the shorter ones, which allow fewer.
        most = np.where(lengths[start : start + len(block)] < _LONG, 2, 4)[:, None]
        near = (difference <= most) & (np.arange(end - start) > np.arange(len(block))[:, None])
        near[near.sum(axis=1) > _CROWD] = False
        pairs += [(int(order[start + one]), int(order[start + other])) for one, other in np.argwhere(near)]
    return pairs
