"""The process: listens, answers, and ends in order."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from threadpoolctl import threadpool_limits

from macl_tf.server.guard import App
from macl_tf.server.settings import Limits

_HEAD_BYTES = 1 << 16  # of the lines before a body


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
