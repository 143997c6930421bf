"""What stands before the routes: who may ask, how much and how slowly; headers of every answer; counting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from macl_tf.server import errors
from macl_tf.server.auth import Access
from macl_tf.server.errors import Refused, refusal_of
from macl_tf.server.metrics import METHODS, Metrics
from macl_tf.server.paths import HEALTH, Paths, Place
from macl_tf.server.settings import Limits
from macl_tf.server.shared import Shared

App = ASGIApp

_log = logging.getLogger(__name__)
_AROUND = 1 << 16  # bytes of a body beside the image and the vectors
_UPLOADS = 64  # images of full size that one client may send at a time
_NUMBER = 32  # bytes of a number in JSON, generously
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:{images}; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """An ASGI application around another.

    What holds for every route is said here once: a HEAD is answered as a GET without the body, OPTIONS with what the
    path takes, and paths and methods that there are not with 404 and 405, whoever asks. D, which `dim` says anew
    each time since another index may come, tells how large queries in JSON may be; the page may load pictures from the
    server `images`, too.
    """

    def __init__(
        self,
        app: App,
        paths: Paths,
        access: Access,
        limits: Limits,
        metrics: Metrics,
        dim: Callable[[], int],
        images: str = "",
        shared: Shared | None = None,
    ) -> None:
        policy = _POLICY.format(images=f" {images}" if images else "").encode()
        self._headers = [(b"content-security-policy", policy), *_HEADERS]
        self._app, self._paths, self._access, self._limits, self._metrics = app, paths, access, limits, metrics
        self._hosts = TrustedHostMiddleware(_let_through, list(access.hosts) or ["*"], www_redirect=False)
        self._asked: list[bytes] | None = None
        self._dim = dim
        self._shared = shared or Shared()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, method = dict(scope["headers"]), scope["method"]
        place = self._paths.place(scope["path"], headers.get(b"x-forwarded-prefix", b"").decode("latin-1"))

        def count(status: int) -> None:
            self._metrics.requests(method if method in METHODS else "other", place.route, status).inc()

        waiting = headers.get(b"expect", b"").lower() == b"100-continue"
        answer = _Answer(send, count, self._headers, head=method == "HEAD", waiting=waiting)
        self._metrics.in_flight.inc()
        try:
            asked = [value for name, value in scope["headers"] if name == b"host"]
            if asked != self._asked:  # else as the request before, which was let through
                _check_hosts(scope, asked)
                if place.path not in HEALTH:  # whoever checks its health may call it anything
                    await self._check_host(scope, receive, asked)
            place.check(method)
            if place.to_folder and method in ("GET", "HEAD"):
                query = "?" + scope["query_string"].decode("latin-1") if scope["query_string"] else ""
                await Response(None, 308, {"location": f"{place.prefix}/{query}"})(scope, receive, answer)
            elif method == "OPTIONS":
                await Response(None, 204, {"allow": place.allowed})(scope, receive, answer)
            else:
                self._access.check(method, place.path, headers)
                place.check_query(method, scope["query_string"])
                await self._pass_on(scope, place, headers, receive, answer)
        except Exception as error:
            refused = refusal_of(error)
            if refused.status_code == errors.FAILED:
                _log.exception("%s %s failed", method, scope["path"])
            if not answer.begun:  # JSON to programs, a line of text where the page would be
                await refused.answer(text=not place.for_machines)(scope, receive, answer)
        finally:
            self._metrics.in_flight.dec()
            if not answer.begun:
                count(0)  # the client is gone

    async def _check_host(self, scope: Scope, receive: Receive, asked: list[bytes]) -> None:
        """Lets a request through that asks for one of the server's names: the framework decides, we say what helps."""
        answered: list[Message] = []

        async def note(message: Message) -> None:
            answered.append(message)

        await self._hosts(scope, receive, note)
        if answered:
            names = b", ".join(asked).decode("latin-1")
            remedy = "Ask by one of these names, or start `macl serve` with --allow-host and this one."
            raise errors.unreadable(f"Host must be one of {', '.join(self._access.hosts)}", names, remedy)
        self._asked = asked or None  # without one it depends on more

    async def _pass_on(
        self, scope: Scope, place: Place, headers: dict[bytes, bytes], receive: Receive, answer: _Answer
    ) -> None:
        client = str((scope.get("client") or ("",))[0])
        kind = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        if kind != "identity" and scope["method"] in ("POST", "PUT"):
            remedy = "Leave out compression and the header Content-Encoding."
            raise errors.wrong_kind("a body is sent as it is", kind, remedy)
        upload = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        most = _AROUND + self._limits.batch * self._dim() * _NUMBER + (self._limits.bytes if upload else 0)
        answer.body = body = _Body(receive, most, self._limits, headers, place.path if upload else "")
        full_path = place.prefix + place.path
        inner = {
            **scope,
            "method": "GET" if scope["method"] == "HEAD" else scope["method"],
            "path": full_path,
            "raw_path": full_path.encode("utf-8", "surrogateescape"),
            "root_path": place.prefix,
            # Everything is small: a part of it is nothing that anybody needs, and all of it is a right answer.
            "headers": [(name, value) for name, value in scope["headers"] if name != b"range"],
        }
        size = body.announced if upload else 0  # which may come to lie on disk
        self._check_client(client, size)
        self._shared.add(client, 1, size)
        try:
            await self._app(inner, body, answer)
        finally:
            self._shared.add(client, -1, -size)

    def _check_client(self, client: str, size: int) -> None:
        """Refuses a request, and so many bytes of an upload, of a client that waits for many."""
        requests, uploads = self._shared.held(client)
        for there, more, most, what in (
            (requests, 1, self._limits.per_client, "requests"),
            (uploads, size, _UPLOADS * self._limits.bytes, "bytes in uploads"),
        ):
            if there + more > most:
                rule = f"a client has at most {most} {what} at a time"
                remedy = "Wait for answers before asking more."
                raise errors.too_many(rule, there + more, remedy, {"Retry-After": "1"})


def _check_hosts(scope: Scope, asked: list[bytes]) -> None:
    """Lets a request through that names one host: of two, a proxy may have looked at the other."""
    if len(asked) > 1 or (not asked and scope["http_version"] != "1.0"):
        raise errors.unreadable("a request has one header Host", len(asked), "Send one.", {"Connection": "close"})


class _Body:
    """The body of a request, as long as it keeps to the limits."""

    def __init__(self, receive: Receive, most: int, limits: Limits, headers: dict[bytes, bytes], upload: str) -> None:
        self._receive, self._most, self._limits = receive, most, limits
        self._upload = upload  # where a file is sent to, "" where none is
        self._read, self._whole = 0, False
        self.begun = False
        self._until = asyncio.get_running_loop().time() + limits.body_seconds
        length = headers.get(b"content-length", b"0")[:20]
        self.announced = most if b"transfer-encoding" in headers or not length.isdigit() else int(length)
        if self.announced > most:
            raise self._too_large(self.announced)

    async def __call__(self) -> Message:
        self.begun = True
        if self._whole:
            return await self._receive()  # says when the client is gone
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            rule = f"a request must arrive within {self._limits.body_seconds:g} seconds"
            raise errors.too_slow(rule, None, "Send less, or over a faster line.", {"Connection": "close"}) from None
        self._whole = not message.get("more_body", False)
        self._read += len(message.get("body", b""))
        if self._read > self._most:
            raise self._too_large(self._read)
        return message

    def _too_large(self, got: int) -> Refused:
        if self._upload and not self._upload.endswith("/collections/file"):
            return errors.too_many_bytes(got, self._limits, self._most)
        rule = f"a request has at most {self._most} bytes"
        remedy = "Send fewer examples or ids, or shorter ones: an id instead of a vector."
        if self._upload:
            remedy = "Import the file where the server runs: macl collections SERVED import FILE."
        return errors.too_large(rule, got, remedy)


async def _let_through(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers nothing."""


class _Answer:
    """The way back, with our headers; `count` is told the status."""

    def __init__(
        self, send: Send, count: Callable[[int], None], headers: list[tuple[bytes, bytes]], *, head: bool, waiting: bool
    ) -> None:
        self._send, self._count, self._headers, self._head, self._waiting = send, count, headers, head, waiting
        self.begun = False
        self.body: _Body | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self._count(message["status"])  # before the client can look
            headers = [header for header in message.get("headers", []) if header[0] != b"accept-ranges"]
            headers += self._headers
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-cache"))  # a new page at once; what is missing may come
            if self._waiting and not (self.body and self.body.begun):
                headers.append((b"connection", b"close"))  # whether the body follows all the same, nobody knows
            message = {**message, "headers": headers}
        elif self._head:
            message = {**message, "body": b""}
        await self._send(message)
