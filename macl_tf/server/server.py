"""The process: listens, answers, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from macl_tf.server.guard import App
from macl_tf.server.settings import Limits
from macl_tf.server.shared import Shared

_HEAD_BYTES = 1 << 16  # of the lines before a body, and of what stands between its parts and behind it
_OTHERS = 0.002  # seconds in which workers with fewer connections may take the next one
_log = logging.getLogger(__name__)


class Protocol(HttpToolsProtocol):
    """HTTP by httptools, with an end to what is no body: it holds in memory whatever a client says there."""

    _beside = 0  # bytes since a message began or a part of its body came

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._beside += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            self._decline(data[offered.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._beside > _HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The lines before a body have at most {_HEAD_BYTES} bytes.")

    def _should_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade())  # the request waits for `_decline`

    def _decline(self, rest: bytes) -> None:
        """Reads a request that offers another protocol, whose body the parser passes over, as if it did not."""
        if self.scope["method"] == "CONNECT":
            self.send_400_response("Invalid HTTP request received.")
            return
        kept = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        line = b"%s %s HTTP/1.1" % (self.scope["method"].encode(), self.url)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([line, *kept, b"", rest]))

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._beside = 0
        super().on_message_complete()


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


def server_of(app: App, limits: Limits, shared: Shared | None = None) -> uvicorn.Server:
    """What answers for an application: `run([listener])` does, until the process is told to end, and ends in order.

    Workers that share `shared` take connections evenly, and each its part of those that there may be.
    """
    workers = 1 if shared is None else shared.workers
    server = uvicorn.Server if shared is None or workers == 1 else partial(_Worker, shared)
    return server(
        uvicorn.Config(
            app,
            http=Protocol,
            limit_concurrency=-(-limits.connections // workers) + 1,  # which uvicorn never reaches
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="error",  # not what clients do wrong
            server_header=False,
            timeout_graceful_shutdown=10,
        )
    )


class _Worker(uvicorn.Server):
    """One that takes connections one by one, and lets others go first that have fewer.

    The event loop's own way takes all that wait: of a few clients one worker gets all.
    """

    def __init__(self, shared: Shared, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._shared = shared

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets=[])
        self._takes = [asyncio.create_task(self._take(listener)) for listener in sockets or []]

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn."""
        self._shared.hold(len(self.server_state.connections))
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        for task in self._takes:
            task.cancel()
        await super().shutdown(sockets)

    async def _take(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
                await loop.connect_accepted_socket(self._protocol, connection)
            except OSError as error:  # the client is gone, or there are too many files
                _log.warning("a connection could not be taken: %s", error)
            self._shared.hold(len(self.server_state.connections))
            await asyncio.sleep(_OTHERS if self._shared.holds_more else 0)

    def _protocol(self) -> asyncio.Protocol:
        return Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def url_of(listener: socket.socket) -> str:
    """Where browsers find it."""
    name, port = listener.getsockname()[:2]
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"
