"""The search service under load: 1, 8 and 64 clients, beside what the bare encoder does on the same processors.

    python -m benchmarks.speed.server_load --served SERVED [--pictures FOLDER]

`macl serve` runs in a process of its own; the clients, which share its processors, send pictures one after the other
over connections that stay open, each as soon as the last answer is there. The pictures are those of a folder, as JPEG,
or the small ones in the index. The bare encoder gets decoded pictures in batches of 64 in a third process, before the
service and after it, since machines have moods: the mean counts. Searches by id show what is left without an encoder.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.tables import markdown

_WARM = 2.0  # seconds that are not counted
_PACKAGES = ("fastapi", "uvicorn", "tensorflow-cpu", "numpy", "pillow")


def bare_encoder(served: Path, seconds: float) -> dict[str, float]:
    """Images a second through the encoder alone, in batches of 64 and one by one."""
    from macl_tf.export.saved_model import ExportedEncoder

    encoder = ExportedEncoder.load(served)
    size, rates = encoder.image_size, {}
    for batch in (64, 8, 1):
        pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        for _ in range(3):
            encoder.embed_pixels(pixels)
        begin, busy, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() < begin + seconds:
            encoder.embed_pixels(pixels)
            count += batch
        rates[f"batch_{batch}"] = count / (time.perf_counter() - begin)
        rates[f"batch_{batch}_processor_ms"] = 1000 * (time.process_time() - busy) / count
    return rates


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
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    kind = "multipart/form-data; boundary=x"
    return [request("/api/v1/search/image", host, kind, head + data + b"\r\n--x--\r\n") for data in files]


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


def load(url: str, pid: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """So many clients for so many seconds."""
    parts = urlsplit(url)
    log: list[tuple[float, float, int]] = []
    begin = time.perf_counter() + _WARM

    async def all_clients() -> list[BaseException | None]:
        jobs = [client(str(parts.hostname), parts.port or 80, requests, 17 * number, begin + seconds, log)
                for number in range(clients)]  # fmt: skip
        return await asyncio.gather(*jobs, return_exceptions=True)

    before, busy = memory_mb(pid), processor_seconds(pid)
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
        "processor_ms": 1000 * (processor_seconds(pid) - busy) / len(log),
        "errors": len(failed) + sum(status != 200 for _, _, status in log),
        "memory_mb": memory_mb(pid),
        "memory_growth_mb": memory_mb(pid) - before,
    }


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor_seconds(pid: int) -> float:
    """What a process has used of its processors."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(served: Path) -> Iterator[tuple[str, int]]:
    """`macl serve` in a process of its own: its URL and process id."""
    words = [sys.executable, "-m", "macl_tf.cli", "serve", str(served), "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if " at http" not in line:
            raise RuntimeError("macl serve did not start; it said why above.")
        yield line.split(" at ")[1].split()[0], process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def in_process_of_its_own(served: Path, seconds: float) -> dict[str, float]:
    """`bare_encoder`, without leaving TensorFlow's threads here."""
    return dict(json.loads(in_process("benchmarks.speed.server_load", "--served", served, "--bare", seconds)))


def table(summary: dict[str, Any]) -> str:
    """The documents' table."""
    head = ["search by", "clients", "requests/s", "of the bare encoder", "p50 ms", "p95 ms", "p99 ms", "errors", "MB"]
    rows = []
    for row in summary["results"]:
        share = f"{100 * row['of_bare']:.0f} %" if "of_bare" in row else ""
        rate = row["search_by"], row["clients"], f"{row['requests_per_second']:,.0f}", share
        times = [f"{row[name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms")]
        rows.append([*rate, *times, row["errors"], f"{row['memory_mb']:,.0f}"])
    return markdown(head, rows)


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = command.parser(__doc__, "server_load")
    parser.add_argument("--served", type=Path, required=True, help="what `macl export` wrote")
    parser.add_argument("--pictures", type=Path, help="folder of pictures to search with")
    parser.add_argument(
        "--by", nargs="+", choices=["picture", "id"], default=["picture", "id"], help="what to search by"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=60, help="for each number of clients")
    parser.add_argument("--bare", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.bare:
        print(json.dumps(bare_encoder(options.served, options.bare)))
        return

    bare = [in_process_of_its_own(options.served, min(options.seconds, 15))]
    results = []
    with serving(options.served) as (url, pid):
        host = urlsplit(url).netloc
        kinds = {
            "picture": picture_requests(options.pictures, options.served, host),
            "id": id_requests(options.served, host),
        }
        for kind in options.by:
            requests = kinds[kind]
            for clients in options.clients:
                results.append({"search_by": kind, **load(url, pid, requests, clients, options.seconds)})
    bare.append(in_process_of_its_own(options.served, min(options.seconds, 15)))
    rates = {key: (bare[0][key] + bare[1][key]) / 2 for key in bare[0]}
    for row in results:
        if row["search_by"] == "picture":
            row["of_bare"] = row["requests_per_second"] / rates["batch_1" if row["clients"] == 1 else "batch_64"]
    print(f"bare encoder: {rates['batch_64']:.0f} images/s in batches of 64, {rates['batch_1']:.0f} one by one\n")
    facts = {"bare_images_per_second": rates, "results": results}
    command.record(options.out, "benchmarks.speed.server_load", _PACKAGES, facts, table)


if __name__ == "__main__":
    main()
