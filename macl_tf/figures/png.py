"""What every figure shares: colours, a blank figure in this package's style, and writing it to disk whole."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from macl_tf.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From Okabe and Ito's palette, told apart with every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, GREY, RULE = "#222222", "#767676", "#DDDDDD"
STAR = "\u2605"  # marks what is rare
PLAIN: dict[str, Any] = {"family": "DejaVu Sans", "parse_math": False}  # comes with matplotlib; "$" is no formula


def blank_figure(
    width: float, height: float, *, dpi: int = 120, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """An empty white figure of that many inches, unknown to pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout=layout)


def write_png(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the picture whole or not at all, and return its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with written_whole(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        FigureCanvasAgg(figure).print_png(temporary, pil_kwargs={"compress_level": 4})  # of 6: half the time
    return Path(path)
