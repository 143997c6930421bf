"""Reads CSV, TSV and other text tables; detects delimiter, encoding, line ends and quoting."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

# What a cell of a column that says yes or no may hold.
BINARY = {
    **dict.fromkeys(("0", "0.0", "0,0", "false", "falsch", "faux", "falso"), 0),
    **dict.fromkeys(("1", "1.0", "1,0", "true", "wahr", "vrai", "verdadero", "vero"), 1),
}
_SEPARATOR = re.compile(r'"?sep=.?"?\s*')  # what Excel may write above the header
_SAMPLE = 100  # rows by which the delimiter is found
_NUMBER = re.compile(r"[-+.\deE]*")


def read_delimited(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a text table, UTF-8 or with a byte order mark UTF-16, and its rows, each with its line from 1.

    Each row has as many cells as the header. A cell that holds several texts in quotes, "a, b","c", keeps these quotes.
    A ValueError, where it is no table, names the line.
    """
    lines = text_lines(path)
    if lines and _SEPARATOR.fullmatch(lines[0]):
        lines[0] = "\n"
    first = next((line for line in lines if line.strip()), "").rstrip("\r\n")
    delimiter = _delimiter(lines)
    rows = [(line, [cell.strip() for cell in cells]) for line, cells in _rows(path, lines, delimiter)]
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if len(rows) < 2 or len(rows[0][1]) < 2:
        raise ValueError(
            f"{path} must be a table with a header, at least two columns and a row per image, separated by tab, comma "
            f"or semicolon. Its first line is {first[:80]!r}, and it has {max(len(rows) - 1, 0)} rows below it."
        )
    header = [_plain(cell) for cell in rows[0][1]]
    if all(cell.casefold() in BINARY for cell in header[1:]):
        raise ValueError(
            f"{path} must begin with a row that names its columns, but begins with an image's row, {first[:80]!r}. "
            "Put a header such as 'image,<label>,<label>' above it."
        )
    return header, [(line, _fit(path, line, cells, header)) for line, cells in rows[1:]]


def text_lines(path: Path, most: int = -1) -> list[str]:
    """The lines of a text, with their ends, or of its first `most` bytes; UTF-8, or UTF-16 with a byte order mark.

    A ValueError where it is no such text.
    """
    with open(path, "rb") as file:
        content = file.read(most)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        # What was read in part may end within a character.
        return content.decode(encoding, "strict" if most < 0 else "ignore").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, but is not ({error}). Save the table as 'CSV UTF-8'.") from error


def has_columns(path: Path) -> bool:
    """Whether the beginning of a text looks like a table's: not prose, not a list of names, nothing but numbers."""
    lines = [line for line in text_lines(path, 1 << 16) if line.strip() and not _SEPARATOR.fullmatch(line)]
    lines = lines[: _SAMPLE + 1]
    if len(lines) < 2:
        return False
    mark = _delimiter(lines)
    header, *rows = (_cells(line, mark) if mark else _words(line) for line in lines)
    fitting = sum(len(cells) >= len(header) and not any(cells[len(header) :]) for cells in rows)
    needed = len(rows) / 2 if mark else len(rows)  # words of a text may be as many in some lines
    return len(header) > 1 and fitting >= needed and not all(_NUMBER.fullmatch(cell) for cell in header)


def _delimiter(lines: Sequence[str]) -> str:
    """The mark that parts most rows as it parts the header, and that into the most cells; "" for runs of blanks."""
    sample = [line for line in lines if line.strip()][: _SAMPLE + 1]
    if not sample or "\t" in sample[0]:
        return "\t"
    best = (-1, 0, "")
    for mark in ",;|":
        header, *rows = (_cells(line, mark) for line in sample)
        fitting = sum(len(cells) >= len(header) and not any(cells[len(header) :]) for cells in rows)
        if len(header) > 1 and (fitting, len(header)) > best[:2]:
            best = (fitting, len(header), mark)
    return best[2]


def _rows(path: Path, lines: Sequence[str], delimiter: str) -> list[tuple[int, list[str]]]:
    if not delimiter:
        return [(number, _words(line)) for number, line in enumerate(lines, start=1)]
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[tuple[int, list[str]]] = []
    begin = 1
    try:
        for cells in reader:
            rows.append((begin, cells))
            begin = reader.line_num + 1
        return rows
    except csv.Error as error:
        if "expected after" not in str(error):
            reason = "a quote is never closed" if "unexpected end" in str(error) else error
            raise ValueError(
                f"{path}, line {begin}: not a readable table ({reason}). A cell that begins with a quote must end with "
                "one; quotes inside it are written twice."
            ) from error
    # Cells that go on behind a closing quote: "a, b","c" between tabs is one cell, a list of two labels in quotes.
    rows = [(number, _cells(line, delimiter)) for number, line in enumerate(lines, start=1)]
    kept = {place for _, cells in rows for place, cell in enumerate(cells) if cell[:1] == '"' and _plain(cell) == cell}
    return [
        (number, [cell if place in kept else _plain(cell) for place, cell in enumerate(cells)])
        for number, cells in rows
    ]


def _cells(line: str, delimiter: str) -> list[str]:
    """The cells of a line as they are written, quotes included; a delimiter inside quotes separates nothing."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    marks = re.escape(delimiter)
    # A quote begins behind the delimiter or a mark that separates labels, as in "a, b","c" or "a, b";c
    found = re.finditer(rf'(?:(?<![^{marks},;|\[\s])"(?:[^"]|"")*"|[^{marks}])*', line.strip("\r\n"))
    cells, end = [], -1
    for cell in found:
        if cell.start() > end:  # finditer also finds the nothing between a cell and the delimiter behind it
            cells.append(cell.group().strip())
            end = cell.end()
    return cells


def _plain(cell: str) -> str:
    """What stands in the quotes around a whole cell; a cell that is not in quotes from end to end is itself."""
    whole = re.fullmatch(r'"((?:[^"]|"")*)"', cell)
    return whole[1].replace('""', '"') if whole else cell


def _words(line: str) -> list[str]:
    """The cells of a line with blanks between them; a text in quotes is one."""
    return [_plain(cell) for cell in re.findall(r'(?:(?<!\S)"(?:[^"]|"")*"|\S)+', line)]


def _fit(path: Path, line: int, cells: list[str], header: list[str]) -> list[str]:
    """The cells of a row, without the empty ones that a spreadsheet leaves behind the last column."""
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise ValueError(
            f"{path}, line {line}: a row must have as many cells as the header, {len(header)}, got {len(cells)}. "
            "A cell that holds the delimiter must be in double quotes; labels of a list can be separated by ';'."
        )
    return cells[: len(header)]
