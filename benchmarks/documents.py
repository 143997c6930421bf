"""The tables of docs/, made from the committed results: `python -m benchmarks.documents`.

A table stands between `<!-- benchmarks/results/NAME.json ... -->` and `<!-- end -->`. A test compares.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from benchmarks.command import RESULTS
from benchmarks.compare import boxes, marks, report, rounds, run_summary, stems
from macl_tf.files import read_json, write_text

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- benchmarks/results/(\w+)\.json ?([^>]*?)-->\n)(.*?)\n?<!-- end -->", re.DOTALL)
DOCUMENTS = tuple(  # those that hold such tables
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if BLOCK.search(path.read_text(encoding="utf-8"))
)
OWN_TABLES = {"boxes": boxes, "marks": marks, "rounds": rounds, "stems": stems}
SPEED = sorted((path.stem for path in (Path(__file__).parent / "speed").glob("*.py")), key=len, reverse=True)


def made(name: str, rest: str = "") -> str:
    """The table of a results file: by the module of `speed` whose name it begins with, or by the report.

    Args:
        name: Of the file.
        rest: What else the comment says: the parts of a comparison, the data set of a search.
    """
    summary, rest = read_json(RESULTS / f"{name}.json"), rest.strip()
    if name.startswith("compare_"):
        return report.tables(summary, rest.split())
    if name.startswith("search_libraries"):
        summary = next(result for result in summary["results"] if result["data"] == rest)
    if name in OWN_TABLES:
        return OWN_TABLES[name].table(summary)
    of_speed = [module for module in SPEED if name.startswith(module)]
    found: str = (import_module(f"benchmarks.speed.{of_speed[0]}") if of_speed else run_summary).table(summary)
    return found


def renewed(text: str) -> str:
    """A document with all its tables made anew."""
    return BLOCK.sub(lambda found: found[1] + made(found[2], found[3]) + "\n<!-- end -->", text)


def main() -> None:
    """Renews the tables of all documents."""
    for name in DOCUMENTS:
        write_text(ROOT / name, renewed((ROOT / name).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
