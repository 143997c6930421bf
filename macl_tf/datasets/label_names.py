"""Matches names to known labels in any spelling, and suggests labels for misspelled names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from macl_tf.datasets.archives import bare_name, normalise_label
from macl_tf.datasets.label_lists import MARKS, STRONG, listed, marks_in, quoted, separators, unquoted, unwrapped

_SHOWN = 30  # known labels that an error lists
_LONGEST = 200  # letters of a new label


class UnknownLabelError(ValueError):
    """Labels that are not among those of an index or archive: rule, value and, where some are near, a remedy."""

    def __init__(self, unknown: Sequence[str], known: KnownLabels, *, may_be_new: bool = False) -> None:
        self.rule = f"labels must be among {listed(known.names, _SHOWN) or 'those of the index, which has none'}"
        self.value = ", ".join(map(repr, unknown))
        near = list(dict.fromkeys(name for text in unknown for name in known.near(text)))
        self.remedy = f"Did you mean {' or '.join(map(quoted, near))}?" if near else ""
        if may_be_new:
            self.remedy += f" If {listed(unknown)} is new, say so: --new-label, in Python and HTTP new_labels."
        super().__init__(f"{self.rule}; got {self.value}. {self.remedy}".rstrip())


class NewLabelError(UnknownLabelError):
    """A label that cannot be added to those of an index: rule, value and remedy."""

    def __init__(self, rule: str, name: str, remedy: str) -> None:
        self.rule, self.value, self.remedy = rule, repr(name), remedy
        ValueError.__init__(self, f"{rule}; got {self.value}. {remedy}")


class KnownLabels:
    """The labels that there are, of unique names, and which of them a name means.

    That is the one spelled so, or the only one spelled so but for case, blanks, hyphens and underscores.

    Example:
        >>> known = KnownLabels(("Beaches, dunes, sands", "bare-soil", "Sea"))
        >>> known.choose("Bare soil; Sea"), known.choose("beaches, dunes, sands, sea")
        (('bare-soil', 'Sea'), ('Beaches, dunes, sands', 'Sea'))
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._exact = {name: place for place, name in enumerate(self.names)}
        self._spelled: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            self._spelled.setdefault(normalise_label(name), []).append(place)
        # So many neighbouring parts of a list may be one label.
        self._most_parts = max((len(separators(name, MARKS)) for name in self.names), default=0) + 1

    def find(self, name: str) -> int | None:
        """The place of the label that a name means, or None."""
        if name in self._exact:
            return self._exact[name]
        places = self._spelled.get(normalise_label(name), [])
        return places[0] if len(places) == 1 else None

    def choose(self, given: str | Iterable[str]) -> tuple[str, ...]:
        """The labels that are meant, spelled as they are known, each once; see `places`."""
        return tuple(self.names[place] for place in self.places(given))

    def places(self, given: str | Iterable[str]) -> list[int]:
        """The places of the labels that are meant, each once.

        `given` is a list as one text, or names that are each a whole label; empty ones are left out. An
        UnknownLabelError lists the labels, and those that may be meant.
        """
        names = self._parted(given) if isinstance(given, str) else list(given)
        names = [name for name in names if name]
        places = [self.find(name) for name in names]
        if unknown := [name for name, place in zip(names, places, strict=True) if place is None]:
            raise UnknownLabelError(unknown, self)
        return list(dict.fromkeys(place for place in places if place is not None))

    def with_new(self, names: Iterable[str]) -> KnownLabels:
        """These labels and, behind them, those of `names` that are none of them yet.

        A NewLabelError is for a name that is spelled like a label but for case, blanks, hyphens and underscores, and
        for one that cannot be a label: those are printable, of at most 200 letters, without blanks around.
        """
        known = self
        for name in names:
            if name in known._exact:
                continue
            if (place := known.find(name)) is not None:
                like = known.names[place]
                rule = f"a new label must not be spelled like {quoted(like)}"
                raise NewLabelError(rule, name, f"Use {quoted(like)}, or another name.")
            if not 0 < len(name) <= _LONGEST or not name.isprintable() or name != name.strip():
                rule = f"a label is printable text of 1 to {_LONGEST} letters without blanks around"
                raise NewLabelError(rule, name, "Give it another name.")
            known = KnownLabels((*known.names, name))
        return known

    def open_to(self, given: str | Iterable[str], new: Iterable[str] = ()) -> tuple[tuple[str, ...], KnownLabels]:
        """The labels that are meant, as `choose` gives them, and all labels that there are with them.

        What none is becomes one, unless it is near to one, and so may be misspelled: then it must be among `new`.
        Else an UnknownLabelError says which is near; NewLabelError as of `with_new`.

        Example:
            >>> KnownLabels(("sea", "sand")).open_to("sea, harbor")[1].names
            ('sea', 'sand', 'harbor')
        """
        known = self.with_new(new)
        names = [name for name in (known._parted(given) if isinstance(given, str) else given) if name]
        unknown = [name for name in names if known.find(name) is None]
        if near := [name for name in unknown if known.near(name)]:
            raise UnknownLabelError(near, known, may_be_new=True)
        chosen = []
        for name in names:
            if known.find(name) is None:  # one before it may be spelled so
                known = known.with_new([name])
            chosen.append(known.names[known.find(name) or 0])
        return tuple(dict.fromkeys(chosen)), known

    def near(self, name: str, limit: int = 3, *, typo: bool = False) -> tuple[str, ...]:
        """Up to `limit` known labels that may be meant by an unknown name, best first.

        They differ by a third of its letters at most, or one of two, or hold it or are in it; with `typo`, by two
        letters at most.
        """
        key = bare_name(name) or normalise_label(name)
        keys = [bare_name(known) or normalise_label(known) for known in self.names]
        most = 2 if typo else max(len(key) // 3, int(len(key) == 2))
        ranked = sorted((edits(key, other, most), place) for place, other in enumerate(keys))
        near = [place for distance, place in ranked if distance <= most]
        if not near and not typo and len(key) > 2:
            near = [place for place, other in enumerate(keys) if key in other or (len(other) > 2 and other in key)]
        return tuple(self.names[place] for place in near[:limit])

    def _parted(self, text: str) -> list[str]:
        """The names in a list: of all ways to join neighbouring parts that with fewest unknown, then fewest names."""
        items, text = unwrapped(text)
        if items is not None:
            return items
        cuts = separators(text, MARKS)
        starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(text)]

        def name(first: int, last: int) -> str:
            part = text[starts[first] : ends[last]].strip()
            return unquoted(part) if first == last else part

        def is_unknown(first: int, last: int) -> bool:
            text = name(first, last)
            return bool(text) and self.find(text) is None

        # From the last part to the first: (unknown names, names, last part of the first name) of the best way.
        best = [(0, 0, 0)] * (len(starts) + 1)
        for first in reversed(range(len(starts))):
            ways = []
            for last in range(first, min(first + self._most_parts, len(starts))):
                unknown = is_unknown(first, last)
                if last == first or self.find(name(first, last)) is not None:
                    ways.append((best[last + 1][0] + unknown, best[last + 1][1] + 1, last))
            best[first] = min(ways)
        # Neighbouring unknown parts are said as the one name that they probably were.
        names, first = [], 0
        while first < len(starts):
            last = best[first][2]
            if is_unknown(first, last):
                loose = last
                while loose + 1 < len(starts) and is_unknown(loose + 1, best[loose + 1][2]):
                    loose += 1
                whole = name(first, loose)
                if loose > last and (self.near(whole, typo=True) or _is_one(whole, text)):
                    last = loose
            names.append(name(first, last))
            first = last + 1
        return names


@lru_cache(maxsize=8)
def known_labels(names: tuple[str, ...]) -> KnownLabels:
    """The labels of an index or archive, made once: a service asks for the same again and again."""
    return KnownLabels(names)


def edits(one: str, other: str, most: int) -> int:
    """How many letters must be put in, left out, changed or exchanged with the next; `most` + 1 where it is more."""
    far = most + 1
    if abs(len(one) - len(other)) > most:
        return far
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    if not one or not other:
        return min(len(one) + len(other), far)
    before: list[int] = []
    row = [min(place, far) for place in range(len(other) + 1)]
    for i, letter in enumerate(one, start=1):
        earlier, before, row = before, row, [far] * (len(other) + 1)
        row[0] = min(i, far)
        for j in range(max(1, i - most), min(len(other), i + most) + 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other[j - 1]), far)
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == other[j - 1]:
                row[j] = min(row[j], earlier[j - 2] + 1)
        if min(row) == far:
            return far
    return row[-1]


def _is_one(part: str, text: str) -> bool:
    """Whether commas in a part of a list are its own, since other marks separate there."""
    return bool(marks_in(text, STRONG)) and not marks_in(part, STRONG)
