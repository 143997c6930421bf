"""The tables of README.md and docs/, made from the committed results: `python -m benchmarks.documents`.

A table stands between `<!-- benchmarks/results/NAME.json ... -->` and `<!-- end -->`. A test compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.compare import frozen_features, report, run_summary, scenes
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
DOCUMENTS = ("README.md", "docs/losses.md", "docs/results.md")
BLOCK = re.compile(r"(<!-- benchmarks/results/(\w+)\.json ?([^>]*?)-->\n)(.*?)\n?<!-- end -->", re.DOTALL)


def of_search(summary: dict[str, Any], data: str) -> str:
    """The table of one data set."""
    return search_libraries.table(next(result for result in summary["results"] if result["data"] == data))


def of_comparison(summary: dict[str, Any], short: str) -> str:
    """The tables of a comparison; "short" leaves descriptors, labels and trials out."""
    return report.tables(summary, short=bool(short))


# Name of the results to their table; the second argument is what else the comment says.
TABLES: dict[str, Callable[[dict[str, Any], str], str]] = {
    "ucm": lambda summary, _: run_summary.markdown(summary),
    "metrics": lambda summary, _: metrics.table(summary),
    "pipeline": lambda summary, _: pipeline.table(summary),
    "pipeline_onednn_off": lambda summary, _: pipeline.table(summary),
    "search_libraries": of_search,
    "search_by_image": lambda summary, _: search_by_image.table(summary["results"]),
    "scenes": lambda summary, _: scenes.tables(summary["runs"], summary["descriptor"]),
    "losses": lambda summary, _: losses.tables(summary["results"]),
    "losses_memory": lambda summary, _: losses_memory.table(summary),
    "server_load": lambda summary, _: server_load.table(summary),
    "server_load_256": lambda summary, _: server_load.table(summary),
    "compare_synthetic": of_comparison,
    "compare_ucm_nothing": of_comparison,
    "compare_ucm": of_comparison,
    "compare_heads": of_comparison,
    "compare_block_20_35": of_comparison,
    "compare_block_52_63": of_comparison,
    "compare_choice_synthetic": of_comparison,
    "heads": lambda summary, _: frozen_features.table(summary["rows"]),
    "training_step": lambda summary, _: training_step.table(summary),
}


def made(name: str, rest: str = "") -> str:
    """The table of a results file."""
    return TABLES[name](read_json(ROOT / "benchmarks" / "results" / f"{name}.json"), rest.strip())


def renewed(text: str) -> str:
    """A document with all its tables made anew."""
    return BLOCK.sub(lambda found: found[1] + made(found[2], found[3]) + "\n<!-- end -->", text)


def main() -> None:
    """Renews the tables of all documents."""
    for name in DOCUMENTS:
        path = ROOT / name
        if path.is_file():
            write_text(path, renewed(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
