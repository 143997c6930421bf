"""The process: opens the folder, listens, keeps up with what others publish, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from threadpoolctl import threadpool_limits

from macl_tf.search.encoders import load_encoder
from macl_tf.server.app import build_app
from macl_tf.server.auth import Access
from macl_tf.server.base_map import BaseMap
from macl_tf.server.guard import App
from macl_tf.server.limits import Limits
from macl_tf.server.metrics import Metrics
from macl_tf.server.paths import check_prefix
from macl_tf.server.service import Service
from macl_tf.server.versions import Load, Options, Versions

_log = logging.getLogger(__name__)
_HEAD_BYTES = 1 << 16  # of the lines before a body
_REFRESH, _CHECK = 2.0, 15.0  # seconds between looks for what others wrote, and between checks of the recall


def open_app(
    served: Path,
    access: Access,
    limits: Limits,
    options: Options,
    *,
    refresh: float = _REFRESH,
    load: Load = load_encoder,
    root_path: str = "",
    base_map: BaseMap | None = None,
) -> App:
    """Opens a served folder, which `macl export` wrote, and builds the application that answers for it.

    It looks every `refresh` seconds for what other processes wrote or published. `load` loads the encoder that an index
    was made with. All else is as for `build_app` and `Service`.
    """
    check_prefix(root_path)  # before anything is loaded
    metrics = Metrics()
    versions = Versions(served, replace(options, observe=metrics.observe_batch), load)
    service = Service(versions, limits, metrics, base_map)

    def check() -> None:
        metrics.observe_recall(*service.sample.check(versions.newest.snapshot))

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        jobs = [(refresh, versions.refresh), (_CHECK, check)]
        tasks = [asyncio.create_task(_again_and_again(seconds, job, metrics)) for seconds, job in jobs]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(service.close)

    return build_app(service, access, lifespan, root_path)


async def _again_and_again(seconds: float, job: Callable[[], None], metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(job)
        except Exception as error:  # what was there before is still served
            metrics.failures.inc()
            _log.warning("%s: %s", job.__name__, error)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 is a free one. Made before all that takes time: it may be taken."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port must be in [0, 65535], got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            f"{host}, port {port}, cannot be listened at: {error}. Choose others by --host and --port."
        ) from error


class Server(uvicorn.Server):
    """Answers at the socket that `listen` gave, and tells `said` the URL once it can be asked.

    `run` does so until the process is told to end, and then ends what has begun.
    """

    def __init__(self, app: App, listener: socket.socket, limits: Limits, said: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",  # whose lines before a body end somewhere
                h11_max_incomplete_event_size=_HEAD_BYTES,
                limit_concurrency=limits.connections + 1,  # which uvicorn never reaches
                ws="none",
                lifespan="on",
                access_log=False,
                log_level="error",  # not what clients do wrong
                server_header=False,
                timeout_graceful_shutdown=10,
            )
        )
        self._listener, self._said = listener, said

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers until the process is told to end.

        BLAS gets one thread meanwhile: requests are what runs side by side, and OpenBLAS's idle threads spin.
        """
        with threadpool_limits(1, user_api="blas"):
            super().run(sockets or [self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it listens, once it does."""
        name, port = self._listener.getsockname()[:2]
        await super().startup(sockets)
        if self.started:
            self._said(f"http://{f'[{name}]' if ':' in name else name}:{port}/")
