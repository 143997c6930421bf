"""The process: listens, answers, and ends in order."""

from __future__ import annotations

import socket

import uvicorn

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


def server_of(app: App, limits: Limits) -> uvicorn.Server:
    """What answers for an application: `run([listener])` does, until the process is told to end, and ends in order."""
    return uvicorn.Server(
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


def url_of(listener: socket.socket) -> str:
    """Where browsers find it."""
    name, port = listener.getsockname()[:2]
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"
