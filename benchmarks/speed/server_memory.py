"""Memory of the search service over minutes of searches by picture.

    python -m benchmarks.speed.server_memory --served SERVED [--pictures FOLDER] [--minutes 10]

`macl serve` on all processors but one, which is the clients': 8 of them ask all the time. Its resident memory is noted
each half minute, with the requests answered in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.speed.server_load import PACKAGES, WARM, load, on_processors, picture_requests, running
from benchmarks.tables import markdown

_STEP = 30.0  # seconds


def table(summary: dict[str, Any]) -> str:
    """The documents' table: the first half minute, and each second minute."""
    rows = [
        [f"{row['minutes']:g}", f"{row['memory_mb']:,.0f}", f"{row['requests_per_second']:,.0f}",
         f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", row["errors"]]
        for row in summary["results"] if row["minutes"] == _STEP / 60 or row["minutes"] % 2 == 0
    ]  # fmt: skip
    return markdown(["minutes", "MB", "requests/s", "p50 ms", "p99 ms", "errors"], rows)


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = command.parser(__doc__, "server_memory")
    parser.add_argument("--served", type=Path, required=True, help="what `macl export` wrote")
    parser.add_argument("--pictures", type=Path, help="folder of pictures to search with")
    parser.add_argument("--minutes", type=float, default=10, help="of searches")
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    there = sorted(os.sched_getaffinity(0))
    ours, theirs = (set(there[:1]), set(there[1:])) if len(there) > 1 else (set(there), set(there))
    results = []
    with (
        running(["macl_tf.cli", "serve", options.served, "--port", 0], theirs) as (url, pids),
        on_processors(ours),
    ):
        asked = picture_requests(options.pictures, options.served, "localhost")
        for number in range(1, round(60 * options.minutes / _STEP) + 1):
            row = {"minutes": number * _STEP / 60, **load(url, pids, asked, options.clients, _STEP - WARM)}
            print({name: round(value, 1) for name, value in row.items()}, flush=True)
            results.append(row)
    facts = {"clients": options.clients, "results": results}
    command.record(options.out, "benchmarks.speed.server_memory", PACKAGES, facts, table)


if __name__ == "__main__":
    main()
