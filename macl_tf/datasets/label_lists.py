"""Lists of labels as people write them.

One way to write a list holds everywhere, in tables, on the command line and in filters: `;` or `|` separates where one
of them occurs, else commas do. Quotes keep a name whole, "Beaches, dunes, sands",Sea, with a quote inside written
twice. So do the quotes of a Python or JSON list, ['Beaches, dunes, sands', 'Sea']. Where it is known which labels there
are, neighbouring parts that together are one of them are that label, quoted or not: see `label_names.KnownLabels`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from functools import lru_cache

STRONG = ";|\n"  # they separate alone where one of them occurs; a cell of a spreadsheet may hold several lines
MARKS = STRONG + ","
_QUOTES = "\"'"
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
# A quoted item of a list as Python, NumPy or JSON write it.
_ITEM = r"""(?:np\.str_\(|u)?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\)?"""
_ITEMS = re.compile(rf"(?:[\s,;|]*{_ITEM})+[\s,;|]*", re.DOTALL)


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

    A quote begins behind a mark, or one of `starts`, and ends before the next or at the end: the ' of farmer's field is
    none.
    """
    if not any(quote in text for quote in _QUOTES):
        return [place for place, character in enumerate(text) if character in marks]
    found, place, beginning = [], 0, True
    quoted_item = _quoted_before(MARKS + marks + starts)
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
    """A list in brackets as Python, NumPy or JSON write it: its items if all are in quotes, or None, and its text.

    That is without the brackets around a list. What only stands in parentheses, (other), is no list.
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
