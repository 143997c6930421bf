"""How long `macl serve` takes to begin: until it answers searches by id, and until its encoder is loaded.

    python -m benchmarks.speed.cold_start --served SERVED

Each start is a process of its own; the files lie in the system's memory, as those do that were just written or served.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.tables import markdown
from macl_tf.artifacts import open_version

_PACKAGES = ("tensorflow-cpu", "scann", "fastapi", "numpy")


def start(served: Path) -> tuple[float, float]:
    """Seconds until the service says that it can be asked, and until it is ready."""
    begin = time.perf_counter()
    words = [sys.executable, "-m", "macl_tf.cli", "serve", str(served), "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split(" at ")[1].split()[0]
        serving = time.perf_counter() - begin
        while not _ready(url):
            time.sleep(0.05)
        return serving, time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}readyz") as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def table(summary: dict[str, Any]) -> str:
    """The documents' table."""
    head = ["tiles", "MB", "searches by id after s", "pictures after s"]
    return markdown(head, [[f"{summary['tiles']:,}", f"{summary['mb']:,.0f}",
                            f"{summary['serving']:.1f}", f"{summary['ready']:.1f}"]])  # fmt: skip


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = command.parser(__doc__, "cold_start")
    parser.add_argument("--served", type=Path, required=True, help="what `macl export` wrote")
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    _, manifest = open_version(options.served / "index", "index", verify=False)
    serving, ready = zip(*(start(options.served) for _ in range(options.starts)), strict=True)
    facts = {
        "tiles": manifest["info"]["count"],
        "mb": sum(entry["bytes"] for entry in manifest["files"].values()) / 1e6,
        "serving": statistics.median(serving),
        "ready": statistics.median(ready),
        "starts": {"serving": serving, "ready": ready},
    }
    command.record(options.out, "benchmarks.speed.cold_start", _PACKAGES, facts, table)


if __name__ == "__main__":
    main()
