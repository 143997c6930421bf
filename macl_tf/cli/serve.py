"""`macl serve`: the search service and its page."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from macl_tf.cli.index import ADDRESS_HELP
from macl_tf.models.runtimes import RUNTIME_HELP, RUNTIMES, check_runtime

SERVE_HELP = """\
Serves a folder that `macl export` wrote: a page, and an HTTP API that /docs describes. Listens on this
machine only unless --host says otherwise. Needs: pip install 'macl_tf[cpu,serve]'

Reading is free; writing needs a token, from --token-file or the environment variable MACL_TOKEN:
  python -c "import secrets; print(secrets.token_urlsafe())" > token

examples:
  macl serve served
  macl serve served --token-file token --protect-reads --host 0.0.0.0 --allow-host tiles.example.org
  macl serve served --root-path /tiles                    # behind a proxy at https://example.org/tiles/: docs/deploy.md
"""
_MODULES = (
    "fastapi", "fastapi_offline", "httptools", "orjson", "prometheus_client", "python_multipart", "threadpoolctl",
    "uvicorn",
)  # fmt: skip


def add_commands(commands: Any) -> None:
    """Adds `serve` to the subcommands of `macl`."""
    serve = commands.add_parser("serve", help="serve an HTTP API and a page", description=SERVE_HELP)
    serve.set_defaults(run=run_serve)
    option = serve.add_argument
    option("served", metavar="SERVED", help="what `macl export` wrote")
    option("--index", default="", metavar="ADDRESS", help=ADDRESS_HELP)
    option("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    option("--port", type=int, default=8080, help="its port (8080); 0 for a free one")
    option("--token-file", metavar="FILE", help="holds the token that writes need; or set MACL_TOKEN")
    option("--protect-reads", action="store_true", help="reads need the token too")
    names = "name that clients may ask for, or *.example.org; by default any, and on loopback only its own"
    option("--allow-host", action="append", default=[], metavar="NAME", help=names)
    option("--root-path", default="", metavar="PREFIX", help="path under which a proxy shows it, like /tiles")
    option("--encoder-url", metavar="URL", help="the encoder in TensorFlow Serving: http://HOST:8501/v1/models/encoder")
    option("--runtime", choices=RUNTIMES, default=RUNTIMES[0], help=RUNTIME_HELP)
    option(
        "--base-map", metavar="URL", help="pictures below the page's map: https://HOST/{z}/{x}/{y}.png; none by default"
    )
    option("--base-map-attribution", default="", metavar="TEXT", help="whom they are from")
    option(
        "--tiles", metavar="FOLDER", help="of the tiles that are indexed: who may read may then see and load them whole"
    )
    option("--workers", type=int, default=1, metavar="N", help="processes that answer (1): docs/deploy.md")
    option("--max-bytes", type=int, default=16 << 20, help="of an uploaded image (16 MiB)")
    option("--max-pixels", type=int, default=32_000_000, help="of an uploaded image (32 million)")
    option("--max-k", type=int, default=200, help="results in one answer (200)")
    option("--batch-size", type=int, default=64, help="images that are embedded together (64)")
    option(
        "--batch-wait",
        type=float,
        default=5,
        help="milliseconds that a batch waits for each client that got an answer a moment ago (5)",
    )


def run_serve(options: argparse.Namespace) -> int:
    """`macl serve`."""
    if missing := [module.replace("_", "-") for module in _MODULES if find_spec(module) is None]:
        raise ImportError(f"the service needs {', '.join(missing)}: pip install 'macl_tf[cpu,serve]'")
    check_runtime(options.runtime)
    if options.workers < 1:
        raise ValueError(f"--workers must be >= 1, got {options.workers}.")
    from macl_tf.search.encoders import load_encoder
    from macl_tf.server.app import open_app
    from macl_tf.server.auth import LOOPBACK, Access, is_loopback
    from macl_tf.server.memory import keep_freed
    from macl_tf.server.metrics import count_together, forget
    from macl_tf.server.server import listen, server_of, url_of
    from macl_tf.server.settings import BaseMap, Limits, Options
    from macl_tf.server.shared import Shared
    from macl_tf.server.workers import Workers

    hosts = tuple(name.lower() for name in options.allow_host)
    if is_loopback(options.host):
        hosts += (*LOOPBACK, options.host)
    elif hosts:
        hosts += (options.host,)
    file = options.token_file
    token = Path(file).read_text(encoding="utf-8").strip() if file else os.environ.get("MACL_TOKEN") or None
    access = Access(token, options.protect_reads, hosts)
    limits = Limits(options.max_bytes, options.max_pixels, options.max_k)
    encoder = Options(options.encoder_url or None, options.batch_size, options.batch_wait / 1000)
    base_map = BaseMap(options.base_map, options.base_map_attribution) if options.base_map else None

    def told() -> None:
        print(f"Serving {options.served} at {url_of(listener)} (Ctrl-C ends it)", flush=True)

    def serve(shared: Shared | None, ready: Callable[[], object]) -> None:
        app = open_app(
            Path(options.served),
            access,
            limits,
            encoder,
            root_path=options.root_path,
            base_map=base_map,
            tiles=Path(options.tiles) if options.tiles else None,
            index=options.index,
            load=partial(load_encoder, runtime=options.runtime, later=True),
            shared=shared,
            started=ready,
        )
        with suppress(KeyboardInterrupt):
            server_of(app, limits, shared).run([listener])

    keep_freed()
    with listen(options.host, options.port) as listener:
        if options.workers == 1:
            serve(None, told)
            return 0
        with tempfile.TemporaryDirectory(prefix="macl-serve-") as folder:
            shared = Shared(options.workers, Path(folder))

            def died(number: int, pid: int) -> None:
                shared.forget(number)
                forget(pid)

            cores = len(os.sched_getaffinity(0))
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(-(-cores // options.workers)))
            count_together(Path(folder))
            Workers(options.workers, lambda number, ready: serve(shared.of(number), ready), told, died).run()
    return 0
