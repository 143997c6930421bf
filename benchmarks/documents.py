"""The tables of README.md and docs/, made from the committed results: `python -m benchmarks.documents`.

A table stands between `<!-- benchmarks/results/NAME.json ... -->` and `<!-- end -->`. A test compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.compare import experiment, report, run_summary
from benchmarks.speed import (
    losses,
    losses_memory,
    metrics,
    pipeline,
    search_by_image,
    search_libraries,
    server_load,
    training_step,
)
from macl_tf.files import read_json, write_text

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
BLOCK = re.compile(r"(<!-- benchmarks/results/(\w+)\.json ?([^>]*?)-->\n)(.*?)\n?<!-- end -->", re.DOTALL)
DOCUMENTS = tuple(  # those that hold such tables
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if BLOCK.search(path.read_text(encoding="utf-8"))
)


def of_search(summary: dict[str, Any], data: str) -> str:
    """The table of one data set."""
    return search_libraries.table(next(result for result in summary["results"] if result["data"] == data))


# Name of the results to their table; the second argument is what else the comment says, such as "short".
TABLES: dict[str, Callable[[dict[str, Any], str], str]] = {
    "search_libraries": of_search,
    **{
        name: lambda summary, _, table=table: table(summary)
        for name, table in (
            ("losses", losses.table),
            ("losses_memory", losses_memory.table),
            ("metrics", metrics.table),
            ("pipeline", pipeline.table),
            ("pipeline_onednn_off", pipeline.table),
            ("search_by_image", search_by_image.table),
            ("server_load", server_load.table),
            ("server_load_256", server_load.table),
            ("training_step", training_step.table),
            ("ucm", run_summary.table),
        )
    },
    **{
        f"compare_{name}": lambda summary, rest: report.tables(summary, short=rest == "short")
        for name in experiment.names()
        if (RESULTS / f"compare_{name}.json").is_file()
    },
}


def made(name: str, rest: str = "") -> str:
    """The table of a results file."""
    return TABLES[name](read_json(RESULTS / f"{name}.json"), rest.strip())


def renewed(text: str) -> str:
    """A document with all its tables made anew."""
    return BLOCK.sub(lambda found: found[1] + made(found[2], found[3]) + "\n<!-- end -->", text)


def main() -> None:
    """Renews the tables of all documents."""
    for name in DOCUMENTS:
        write_text(ROOT / name, renewed((ROOT / name).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
