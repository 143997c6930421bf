"""What stands before the routes: who may ask, how much and how slowly; headers of every answer; counting."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from macl_tf.service.auth import Access
from macl_tf.service.errors import Refused
from macl_tf.service.limits import Limits
from macl_tf.service.metrics import Metrics
from macl_tf.service.refusals import failure

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
_AROUND = 1 << 16  # bytes of a body beside the image and the vectors
_UPLOADS = 64  # images of full size that one client may send at a time
_NUMBER = 32  # bytes of a number in JSON, generously
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """An ASGI application around another.

    Args:
        app: What answers the requests that are let through.
        access: Who may ask.
        limits: How much, and how slowly.
        metrics: Where requests are counted.
        dim: D, for the size of queries in JSON.
    """

    def __init__(self, app: App, access: Access, limits: Limits, metrics: Metrics, dim: int) -> None:
        self._app, self._access, self._limits, self._metrics = app, access, limits, metrics
        self._json_bytes = _AROUND + limits.batch * dim * _NUMBER
        self._of_client: Counter[str] = Counter()
        self._bytes_of_client: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = str((scope.get("client") or ("",))[0])
        answer = _Answer(send, page=not scope["path"].startswith("/api/"))
        self._metrics.in_flight.inc()
        try:
            headers = dict(scope["headers"])
            self._access.check(scope["method"], scope["path"], headers)
            upload = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
            most = self._json_bytes + (self._limits.bytes if upload else 0)
            body = _Body(receive, most, headers, self._limits.body_seconds)
            with self._counted(client, body.announced if upload else 0):
                await self._app(scope, body, answer)
        except Refused as refused:
            await answer.refuse(refused)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            await answer.refuse(failure())
        finally:
            self._metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "DELETE") else "other"
            self._metrics.requests.labels(method, route, answer.status).inc()

    @contextmanager
    def _counted(self, client: str, size: int) -> Iterator[None]:
        """Counts a request and the bytes of its upload, which may come to lie on disk."""
        for counter, more, most, what in (
            (self._of_client, 1, self._limits.per_client, "requests"),
            (self._bytes_of_client, size, _UPLOADS * self._limits.bytes, "bytes in uploads"),
        ):
            if counter[client] + more > most:
                rule = f"a client has at most {most} {what} at a time"
                remedy = "Wait for answers before asking more."
                raise Refused(429, rule, counter[client] + more, remedy, {"Retry-After": "1"})
        self._of_client[client] += 1
        self._bytes_of_client[client] += size
        try:
            yield
        finally:
            self._bytes_of_client[client] -= size
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client], self._bytes_of_client[client]


class _Body:
    """The body of a request, as long as it keeps to the limits."""

    def __init__(self, receive: Receive, most: int, headers: dict[bytes, bytes], seconds: float) -> None:
        self._receive, self._most, self._seconds = receive, most, seconds
        self._read, self._whole = 0, False
        self._until = asyncio.get_running_loop().time() + seconds
        length = headers.get(b"content-length", b"0")[:20]
        self.announced = most if b"transfer-encoding" in headers or not length.isdigit() else int(length)
        if self.announced > most:
            raise self._too_large(self.announced)

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()  # says when the client is gone
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            rule = f"a request must arrive within {self._seconds:g} seconds"
            raise Refused(408, rule, None, "Send less, or over a faster line.", {"Connection": "close"}) from None
        self._whole = not message.get("more_body", False)
        self._read += len(message.get("body", b""))
        if self._read > self._most:
            raise self._too_large(self._read)
        return message

    def _too_large(self, got: int) -> Refused:
        rule = f"a request has at most {self._most} bytes"
        return Refused(413, rule, got, "Send a smaller image, or fewer examples.")


class _Answer:
    """The way back, with our headers, and what was answered."""

    def __init__(self, send: Send, *, page: bool) -> None:
        self._send, self._begun = send, False
        self._headers = [*HEADERS, (b"cache-control", b"no-cache")] if page else HEADERS  # a new page at once
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._begun = message["status"], True
            message = {**message, "headers": [*message.get("headers", []), *self._headers]}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Sends an error, if nothing was sent yet."""
        if self._begun:
            return
        body = refused.body()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in (refused.headers or {}).items()]
        await self({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})
