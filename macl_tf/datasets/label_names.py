"""Names of labels as people write them: lists of them, which known label a name means, and names that look like typos.

One way to write a list holds everywhere, in tables, on the command line and in filters: `;` or `|` separates where one
of them occurs, else commas do. Quotes keep a name whole, "Beaches, dunes, sands",Sea, with a quote inside written
twice. So do the quotes of a Python or JSON list, ['Beaches, dunes, sands', 'Sea']. Where it is known which labels there
are, neighbouring parts that together are one of them are that label, quoted or not.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from macl_tf.datasets.archives import bare_name, normalise_label

STRONG = ";|\n"  # they separate alone where one of them occurs; a cell of a spreadsheet may hold several lines
MARKS = STRONG + ","
_QUOTES = "\"'"
_SHOWN = 30  # known labels that an error lists
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
# A quoted item of a list as Python, NumPy or JSON write it.
_ITEM = r"""(?:np\.str_\(|u)?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\)?"""
_ITEMS = re.compile(rf"(?:[\s,;|]*{_ITEM})+[\s,;|]*", re.DOTALL)


class UnknownLabelError(ValueError):
    """Labels that are not among those of an index or archive.

    Attributes:
        rule: What labels must be.
        value: What was given instead.
        remedy: Known labels that may be meant; "" where none is near.
    """

    def __init__(self, unknown: Sequence[str], known: KnownLabels) -> None:
        self.rule = f"labels must be among {listed(known.names, _SHOWN) or 'those of the index, which has none'}"
        self.value = ", ".join(map(repr, unknown))
        near = list(dict.fromkeys(name for text in unknown for name in known.near(text)))
        self.remedy = f"Did you mean {' or '.join(map(quoted, near))}?" if near else ""
        super().__init__(f"{self.rule}; got {self.value}. {self.remedy}".rstrip())


class KnownLabels:
    """The labels that there are, and which of them a name means: the one spelled so, or the only one spelled so but for
    case, blanks, hyphens and underscores.

    Args:
        names: Unique names.

    Example:
        >>> known = KnownLabels(("Beaches, dunes, sands", "bare-soil", "Sea"))
        >>> known.choose("Bare soil; Sea"), known.choose("beaches, dunes, sands, sea")
        (('bare-soil', 'Sea'), ('Beaches, dunes, sands', 'Sea'))
    """  # noqa: D205

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
        """The labels that are meant, spelled as they are known, each once.

        Args:
            given: A list as one text, or names, each of which is a whole label. Empty ones are left out.

        Raises:
            UnknownLabelError: If a name is none of the labels. It lists these, and those that may be meant.
        """
        names = self._parted(given) if isinstance(given, str) else list(given)
        names = [name for name in names if name]
        places = [self.find(name) for name in names]
        if unknown := [name for name, place in zip(names, places, strict=True) if place is None]:
            raise UnknownLabelError(unknown, self)
        return tuple(dict.fromkeys(self.names[place] for place in places if place is not None))

    def near(self, name: str, limit: int = 3, *, typo: bool = False) -> tuple[str, ...]:
        """Known labels that may be meant by an unknown name, best first.

        Args:
            name: What was written.
            limit: How many at most.
            typo: Only those that differ by two letters at most; else by a third of them, or that hold the name or are
                in it.
        """
        key = bare_name(name) or normalise_label(name)
        keys = [bare_name(known) or normalise_label(known) for known in self.names]
        most = 2 if typo else max(1, len(key) // 3)
        ranked = sorted((edits(key, other, most), place) for place, other in enumerate(keys))
        near = [place for distance, place in ranked if distance <= most]
        if not near and not typo and len(key) > 2:
            near = [place for place, other in enumerate(keys) if key in other or (len(other) > 2 and other in key)]
        return tuple(self.names[place] for place in near[:limit])

    def _parted(self, text: str) -> list[str]:
        """The names in a list: of all ways to join neighbouring parts, the one with the fewest unknown names, and of
        these the one with the fewest names.
        """  # noqa: D205
        items, text = unwrapped(text)
        if items is not None:
            return items
        cuts = separators(text, MARKS)
        starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(text)]

        def name(first: int, last: int) -> str:
            part = text[starts[first] : ends[last]].strip()
            return unquoted(part) if first == last else part

        # From the last part to the first: (unknown names, names, last part of the first name) of the best way.
        best = [(0, 0, 0)] * (len(starts) + 1)
        for first in reversed(range(len(starts))):
            ways = []
            for last in range(first, min(first + self._most_parts, len(starts))):
                unknown = self.find(name(first, last)) is None
                if last == first or not unknown:
                    ways.append((best[last + 1][0] + unknown, best[last + 1][1] + 1, last))
            best[first] = min(ways)
        # Neighbouring unknown parts are said as the one name that they probably were.
        names, first = [], 0
        while first < len(starts):
            last = best[first][2]
            if self.find(name(first, last)) is None:
                loose = last
                while loose + 1 < len(starts) and self.find(name(loose + 1, best[loose + 1][2])) is None:
                    loose += 1
                whole = name(first, loose)
                if loose > last and (self.near(whole, typo=True) or _is_one(whole, text)):
                    last = loose
            names.append(name(first, last))
            first = last + 1
        return names


def split_names(text: str) -> list[str]:
    """The names in a list of which it is not known which there are; empty ones too.

    Example:
        >>> split_names("Beaches, dunes, sands; Sea"), split_names("'Beaches, dunes, sands', Sea")
        (['Beaches, dunes, sands', 'Sea'], ['Beaches, dunes, sands', 'Sea'])
    """
    items, text = unwrapped(text)
    return split_at(text, marks_in(text, STRONG) or ",") if items is None else items


def split_at(text: str, marks: str) -> list[str]:
    """The parts of a text between marks outside quotes, without these quotes; empty ones too."""
    cuts = separators(text, marks)
    parts = [
        text[start:end].strip() for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)
    ]
    if "\n" in marks:  # a label in each line, perhaps with a comma at its end
        parts = [part.rstrip(", ") for part in parts]
    return [unquoted(part) for part in parts]


def marks_in(text: str, marks: str) -> str:
    """Those of the marks that stand in a text outside quotes."""
    return "".join(sorted({text[cut] for cut in separators(text, marks)}))


def separators(text: str, marks: str, starts: str = "") -> list[int]:
    """Where marks stand outside quotes.

    A quote begins behind a mark, and ends before the next or at the end: the ' of farmer's field is none.

    Args:
        text: What to look through.
        marks: Characters that separate.
        starts: Other characters behind which a quote may begin.
    """
    if not any(quote in text for quote in _QUOTES):
        return [place for place, character in enumerate(text) if character in marks]
    found, place, beginning = [], 0, True
    quoted_item = _quoted_before(marks + starts)
    while place < len(text):
        character = text[place]
        if beginning and character in _QUOTES and (item := quoted_item.match(text, place)):
            place, beginning = item.end(), False
            continue
        if character in marks:
            found.append(place)
        beginning = character in marks or character in starts or (beginning and character.isspace())
        place += 1
    return found


def unquoted(text: str) -> str:
    """What stands in the quotes around a text, with quotes inside that were written twice; else the text itself."""
    if len(text) > 1 and text[0] in _QUOTES and text[0] == text[-1]:
        return text[1:-1].replace(text[0] * 2, text[0]).strip()
    return text


def unwrapped(text: str) -> tuple[list[str] | None, str]:
    """Reads a list in brackets as Python, NumPy or JSON write it.

    Returns:
        Its items, where all of them are in quotes, and else None; and the text without the brackets around a list. What
        only stands in parentheses, (other), is no list.
    """
    text = text.strip()
    closing = _BRACKETS.get(text[:1])
    if closing is None or text[-1] != closing or len(text) < 2:
        return None, text
    inner = text[1:-1].strip()
    if not inner:
        return [], ""
    if _ITEMS.fullmatch(inner):
        return [_literal(item).strip() for item in re.findall(_ITEM, inner, re.DOTALL)], inner
    depth = 0
    for character in inner:
        depth += (character == text[0]) - (character == closing)
        if depth < 0:  # (a) and (b): the last does not close the first
            return None, text
    return None, inner if text[0] != "(" or separators(inner, MARKS) else text


def quoted(name: str) -> str:
    """A name as it may stand in a list: in quotes where it holds what would separate it or is in quotes itself."""
    if separators(name, MARKS) or name[:1] in _QUOTES or unwrapped(name) != (None, name):
        return '"' + name.replace('"', '""') + '"'
    return name


def listed(names: Sequence[str], most: int = 0) -> str:
    """Names with commas between them, each kept whole; with `most`, so many of them and how many more there are."""
    shown = names[:most] if most else names
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return ", ".join(map(quoted, shown)) + more


def edits(one: str, other: str, most: int) -> int:
    """How many letters must be put in, left out, changed or exchanged with the next; `most` + 1 where it is more.

    Example:
        >>> edits("airplnae", "airplane", 2), edits("sea", "sand", 1)
        (1, 2)
    """
    far = most + 1
    if abs(len(one) - len(other)) > most:
        return far
    start = _alike(one, other)
    one, other = one[start:], other[start:]
    end = _alike(one[::-1], other[::-1])
    one, other = one[: len(one) - end], other[: len(other) - end]
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


def _alike(one: str, other: str) -> int:
    """How many letters two names begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


@lru_cache(maxsize=8)
def _quoted_before(marks: str) -> re.Pattern[str]:
    """A text in quotes, twice written ones inside, with one of the marks or the end behind it."""
    end = rf"(?=\s*(?:[{re.escape(marks)}]|$))"
    kinds = (
        rf"{quote}(?:{quote}{quote}|[^{quote}]|{quote}(?!\s*(?:[{re.escape(marks)}]|$)))*{quote}{end}"
        for quote in _QUOTES
    )
    return re.compile("|".join(kinds))


def _literal(item: str) -> str:
    """A text as JSON or Python writes it."""
    for read in (json.loads, ast.literal_eval):
        try:
            return str(read(item))
        except (ValueError, SyntaxError):
            pass
    return item[1:-1]


def _is_one(part: str, text: str) -> bool:
    """Whether commas in a part of a list are its own, since other marks separate there."""
    return bool(marks_in(text, STRONG)) and not marks_in(part, STRONG)
