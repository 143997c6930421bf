"""The short way of a search, past the framework, which costs as much as a search by id itself.

What is in any way out of the ordinary goes the framework's way, body and all, and is answered or refused there.
"""

from __future__ import annotations

import re
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from macl_tf.server.routes import found
from macl_tf.server.schemas import Query, query_of
from macl_tf.server.service import Service

_ROUTES = ("/api/v1/search", "/api/v1/search/image")
_PLAIN = 1 << 20  # bytes of a body; the framework writes larger pictures to disk
_SHORT = 256  # bytes of a query that is kept
_FORM = re.compile(rb"multipart/form-data; ?boundary=\"?([\w'()+,./:=?-]{1,70})\"?", re.ASCII | re.IGNORECASE)
_JSON = re.compile(rb"application/json(; ?charset=utf-8)?", re.IGNORECASE)
_PART = re.compile(
    rb'\r\n(?i:content-disposition): form-data; name="(image|query)"(; filename="[^"\\\r\n]+")?'
    rb"(\r\n(?i:content-type): [\w/.+-]+)?(\r\n(?i:content-length): \d+)?\r\n\r\n"
)
Asked = tuple[Query, bytes | None]  # and the picture, where there is one


class Express:
    """An ASGI application around another, that of a service; `Guard` stands before it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        headers = dict(scope["headers"]) if scope["type"] == "http" and scope["method"] == "POST" else {}
        length = headers.get(b"content-length", b"")
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if path not in _ROUTES or not length.isdigit() or int(length[:20]) > _PLAIN:
            await self._app(scope, receive, send)
            return
        parts, more = list[bytes](), True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        asked = None
        if message["type"] == "http.request":
            read = form_of if path.endswith("/image") else json_of
            asked = read(headers.get(b"content-type", b""), body)
        if asked is None:
            await self._app(scope, _again(body, message, receive), send)
            return
        query, picture = asked
        answer = await self._service.search(query, None if picture is None else lambda: picture)
        if answer.format != "json":
            await found(answer)(scope, receive, send)
            return
        head = [(b"content-length", b"%d" % len(answer.body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": answer.body})


def json_of(kind: bytes, body: bytes) -> Asked | None:
    """What a body in JSON asks for; None where it is not as most clients send it."""
    query = query_of(body) if _JSON.fullmatch(kind) else None
    return None if query is None else (query, None)


def form_of(kind: bytes, body: bytes) -> Asked | None:
    r"""What a form asks for; None where it is not as most clients send it.

    Example:
        >>> head = b'Content-Disposition: form-data; name="image"; filename="a"'
        >>> body = b"\r\n".join([b"--x", head, b"", b"JPEG", b"--x--", b""])
        >>> form_of(b"multipart/form-data; boundary=x", body)[1]
        b'JPEG'
    """
    if (form := _FORM.fullmatch(kind)) is None:
        return None
    line = b"--" + form[1]
    parts = (b"\r\n" + body).split(b"\r\n" + line)
    if parts[0] or parts[-1] not in (b"--", b"--\r\n"):
        return None
    fields: dict[bytes, bytes] = {}
    for part in parts[1:-1]:
        head = _PART.match(part)
        if head is None or head[1] in fields or bool(head[2]) != (head[1] == b"image"):
            return None
        fields[head[1]] = part[head.span()[1] :]
    asked = fields.get(b"query", b"{}")
    query = _same_query(asked) if len(asked) <= _SHORT else query_of(asked)
    return None if query is None or b"image" not in fields else (query, fields[b"image"])


@lru_cache(256)
def _same_query(body: bytes) -> Query | None:
    """As `query_of`: beside pictures most clients send the same again and again, or nothing."""
    return query_of(body)


def _again(body: bytes, last: Message, receive: Receive) -> Receive:
    """What gives a body that was read, or says that the client was gone, before all that comes later."""
    first: list[Message] = [last if last["type"] != "http.request" else {"type": "http.request", "body": body}]

    async def read() -> Message:
        return first.pop() if first else await receive()

    return read
