"""The search service under load, beside a bare application: 1, 8 and 64 clients, by picture and by id.

    python -m benchmarks.speed.server_load --served SERVED [--served SERVED ...] [--pictures FOLDER]

`macl serve` and `benchmarks.speed.bare_application`, which decodes the same pictures and calls the same SavedModel in
batches, and answers the same JSON to searches by id, run in processes of their own on all processors but one, which is
the clients'. These send requests one after the other over connections that stay open, each as soon as the last answer
is there: to the one and the other in turn. Pictures are those of a folder, as JPEG, or the small ones in the
index. Each SERVED has its own encoder; searches by id are of the first. With --together nothing has processors of its
own. What --workers says is for the service alone: the bare application is one process.

How much longer than the median the slowest of 100 answers takes is also the machine's doing, which other machines may
share: before each folder the same computation of a millisecond is timed again and again on the servers' processor.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks import command
from benchmarks.tables import markdown
from macl_tf.artifacts import open_version

WARM = 2.0  # seconds that are not counted
BOUNDARY = "0123456789abcdef" * 2  # of the parts of a form: as long as clients in Python send it
PACKAGES = ("fastapi", "uvicorn", "httptools", "tensorflow-cpu", "numpy", "pillow")


def picture_requests(pictures: Path | None, served: Path, host: str) -> list[bytes]:
    """Whole HTTP requests that search by picture."""
    if pictures is None:
        from macl_tf.index.index import Index

        index = Index.open(served / "index")
        step = max(1, len(index) // 200)
        files = [data for position in range(0, len(index), step) if (data := index.thumbnail(position))][:200]
    else:
        found = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".tif"))
        files = [as_jpeg(path) for path in found[:: max(1, len(found) // 200)][:200]]
    if not files:
        raise ValueError("there are no pictures: name a folder with --pictures.")
    line = f"--{BOUNDARY}".encode()
    head = line + b'\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return [request("/api/v1/search/image", host, kind, b"%b%b\r\n%b--\r\n" % (head, data, line)) for data in files]


def request(path: str, host: str, kind: str, body: bytes) -> bytes:
    """A whole HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def as_jpeg(path: Path) -> bytes:
    """A picture as a client would send it."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()


def id_requests(served: Path, host: str) -> list[bytes]:
    """Whole HTTP requests that search by id."""
    from macl_tf.index.index import Index

    ids = Index.open(served / "index").items.ids
    bodies = [json.dumps({"positive": [{"id": id_}]}).encode() for id_ in ids[:: max(1, len(ids) // 200)][:200]]
    return [request("/api/v1/search", host, "application/json", body) for body in bodies]


async def client(host: str, port: int, requests: list[bytes], first: int, until: float, log: list[Any]) -> None:
    """One client: asks, waits for the answer, asks again; notes when each ended, how long it took, and its status."""
    reader, writer = await asyncio.open_connection(host, port)
    number = first
    while time.perf_counter() < until:
        begin = time.perf_counter()
        writer.write(requests[number % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        end = time.perf_counter()
        log.append((end, end - begin, int(head[9:12])))
        number += 1
    writer.close()


def load(url: str, pids: list[int], requests: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """So many clients for so many seconds."""
    parts = urlsplit(url)
    log: list[tuple[float, float, int]] = []
    begin = time.perf_counter() + WARM

    async def all_clients() -> list[BaseException | None]:
        jobs = [client(str(parts.hostname), parts.port or 80, requests, 17 * number, begin + seconds, log)
                for number in range(clients)]  # fmt: skip
        return await asyncio.gather(*jobs, return_exceptions=True)

    before, busy = memory_mb(pids), processor_seconds(pids)
    failed = [error for error in asyncio.run(all_clients()) if error is not None]
    counted = [entry for entry in log if entry[0] >= begin]
    milliseconds = 1000 * np.array([took for _, took, _ in counted])
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
    return {
        "clients": clients,
        "requests_per_second": len(counted) / (max(end for end, _, _ in counted) - begin),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "processor_ms": 1000 * (processor_seconds(pids) - busy) / len(log),
        "errors": len(failed) + sum(status != 200 for _, _, status in log),
        "memory_mb": memory_mb(pids),
        "memory_growth_mb": memory_mb(pids) - before,
    }


def memory_mb(pids: list[int]) -> float:
    """Resident memory of processes, what they share counted once in each."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor_seconds(pids: list[int]) -> float:
    """What processes have used of their processors."""
    used = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(user) + int(system) for user, system in used) / os.sysconf("SC_CLK_TCK")


def stalls(seconds: float = 5.0) -> float:
    """The 99 % quantile over the median of the time that the same millisecond of computation takes."""
    took, end = [], time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        sum(number * number for number in range(20_000))
        took.append(time.perf_counter() - begin)
    return float(np.percentile(took, 99) / np.median(took))


@contextmanager
def on_processors(ours: set[int]) -> Iterator[None]:
    """Has this process on some processors meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, ours)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(words: list[object], theirs: set[int]) -> Iterator[tuple[str, list[int]]]:
    """A server in a process of its own, on those processors: its URL, its process id and its workers'."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        preexec_fn=lambda: os.sched_setaffinity(0, theirs),
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if " at http" not in line:
            raise RuntimeError(f"{words[0]} did not start; it said why above.")
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield line.split(" at ")[1].split()[0], [process.pid, *map(int, workers)]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def beside(served: Path, kinds: list[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The service and the bare application over one folder: a row for each kind of search and number of clients."""
    size = int(open_version(served / "encoder", "encoder", verify=False)[1]["info"]["image_size"])
    there = sorted(os.sched_getaffinity(0))
    apart = not options.together and len(there) > 1
    ours, theirs = (set(there[:1]), set(there[1:])) if apart else (set(there), set(there))
    with on_processors({min(theirs)}):
        stalled = stalls()
    service = ["macl_tf.cli", "serve", served, "--port", 0, "--workers", options.workers]
    with (
        running(service, theirs) as (url, pids),
        running(["benchmarks.speed.bare_application", served], theirs) as (bare, bare_pids),
        on_processors(ours),
    ):
        for kind in kinds:
            if kind == "picture":
                asked = picture_requests(options.pictures, served, "localhost")
            else:
                asked = id_requests(served, "localhost")
            for where in ((url, pids), (bare, bare_pids)):  # until all is loaded
                load(*where, asked, 8, 3)
            for clients in options.clients:
                turns = [
                    [load(*where, asked, clients, options.seconds) for where in ((url, pids), (bare, bare_pids))]
                    for _ in range(options.rounds)
                ]
                found, floor = map(mean, zip(*turns, strict=True))
                share = found["requests_per_second"] / floor["requests_per_second"]
                facts = {"search_by": kind, "pixels": size, "clients": clients}
                yield {**facts, "service": found, "bare": floor, "share": share, "stalls": stalled}


def mean(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure; errors and growth of memory are added."""
    added = ("errors", "memory_growth_mb")
    return {name: sum(one[name] for one in rounds) / (1 if name in added else len(rounds)) for name in rounds[0]}


def table(summary: dict[str, Any]) -> str:
    """The documents' table."""
    head = ["search by", "clients", "requests/s", "bare", "share", "p50 ms", "p99 ms", "bare p99 ms", "errors", "MB"]
    rows = []
    for row in summary["results"]:
        ours, bare = row["service"], row["bare"]
        what = f"picture, {row['pixels']} px" if row["search_by"] == "picture" else "id"
        rates = [f"{one['requests_per_second']:,.0f}" for one in (ours, bare)]
        times = [f"{ours['p50_ms']:.1f}", f"{ours['p99_ms']:.1f}", f"{bare['p99_ms']:.1f}"]
        errors = f"{ours['errors'] + bare['errors']:.0f}"
        rows.append([what, row["clients"], *rates, f"{row['share']:.0%}", *times, errors, f"{ours['memory_mb']:,.0f}"])
    return markdown(head, rows)


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = command.parser(__doc__, "server_load")
    parser.add_argument("--served", type=Path, action="append", required=True, help="what `macl export` wrote")
    parser.add_argument("--pictures", type=Path, help="folder of pictures to search with")
    parser.add_argument(
        "--by", nargs="+", choices=["picture", "id"], default=["picture", "id"], help="what to search by"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=30, help="for each number of clients, in each round")
    parser.add_argument("--rounds", type=int, default=2, help="in which the two take turns")
    parser.add_argument("--workers", type=int, default=1, help="of the service")
    parser.add_argument("--together", action="store_true", help="clients and servers share all processors")
    options = parser.parse_args()
    results = []
    for number, served in enumerate(options.served):
        kinds = [kind for kind in options.by if kind == "picture" or number == 0]
        for row in beside(served, kinds, options):
            results.append(row)
            rates = [f"{row[who]['requests_per_second']:.0f}" for who in ("service", "bare")]
            print(row["search_by"], row["pixels"], row["clients"], *rates, f"{row['share']:.0%}", flush=True)
    facts = {"workers": options.workers, "results": results}
    command.record(options.out, "benchmarks.speed.server_load", PACKAGES, facts, table)


if __name__ == "__main__":
    main()
