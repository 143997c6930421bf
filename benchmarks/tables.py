"""Tables as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]], align: str = "l") -> str:
    """A table.

    Args:
        head: Title of each column.
        rows: Cells, shown as they are.
        align: A letter for each column, l or r; columns beyond are numbers, and stand right.
    """
    sides = {"l": "left", "r": "right"}
    return tabulate(
        [[str(cell) for cell in row] for row in rows],
        head,
        tablefmt="pipe",
        colalign=[sides[letter] for letter in align.ljust(len(head), "r")],
        disable_numparse=True,
    )


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or "-" where it is undefined: NaN, or None as JSON has it."""
    return "-" if value is None or np.isnan(value) else format(value, form)


def mean_and_spread(values: Sequence[float | None]) -> str:
    """The mean over seeds, with the standard deviation where there are several."""
    found = np.array(values, float)
    return number(found.mean()) + (f" ± {number(found.std(ddof=1))}" if len(found) > 1 else "")
