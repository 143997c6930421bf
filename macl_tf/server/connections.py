"""Connections that send no request, or one without end, or take no answer, are closed: uvicorn would wait for ever.

What cannot be read, and what there are too many connections for, is refused in the form of all other errors.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from macl_tf.server.errors import Refused
from macl_tf.server.guard import HEADERS
from macl_tf.server.limits import Limits

_HEAD_BYTES = 1 << 16  # of the lines before a body; what is read at once may be more
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_LAST_BYTES = 5.0  # seconds for what is on its way when a connection is closed


def guarded_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol that uvicorn is to speak.

    Args:
        limits: Of these `head_seconds` for the lines before a body, `body_seconds` for taking an answer, and
            `connections` and `per_client` connections, of all and of one address.
    """
    open_by: Counter[str] = Counter()

    class GuardedProtocol(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _head = 0  # bytes since the deadline was set
        _in_message = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._address = str((self.client or ("",))[0])
            open_by[self._address] += 1
            self._expect(limits.head_seconds)
            if open_by[self._address] > limits.per_client:
                self._close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expected()
            open_by[self._address] -= 1
            if not open_by[self._address]:
                del open_by[self._address]
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
                # Either this has to become a request, or it is the rest of one that was answered already.
                self._expect(limits.body_seconds if self._in_message else limits.head_seconds)
            if not self._in_message:
                self._head += len(data)
                data = _without_upgrade(data)
            super().data_received(data)
            if not self._in_message and self._head > _HEAD_BYTES:
                self._refuse(_too_long(self._head))
                self._close()

        def on_headers_complete(self) -> None:
            self._in_message = True
            self._expected()
            # The guard says so: by uvicorn's own limit the answer would be a bare text, without Retry-After.
            self.scope["overloaded"] = max(len(self.connections), len(self.tasks)) > limits.connections  # type: ignore[typeddict-unknown-key]
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_message = False
            self._head = 0
            super().on_message_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect(limits.body_seconds)

        def resume_writing(self) -> None:
            self._expected()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            long = max(self._head, len(getattr(self, "url", b"")))  # the parser takes no address of so many bytes
            remedy = "Begin the address with http:// and not https://, and write other letters as %C3%A4."
            refused = Refused(400, "a request must be HTTP/1.1 or HTTP/1.0, with an address in ASCII", None, remedy)
            self._refuse(_too_long(long) if long > _HEAD_BYTES else refused)
            self.transport.close()

        def _unsupported_upgrade_warning(self) -> None:
            """Nothing that who runs the server need hear of."""

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._close()

        def _refuse(self, refused: Refused) -> None:
            """Answers what is no request, where nothing else is being answered."""
            if self.cycle is not None and not self.cycle.response_complete:
                return
            body = refused.body()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                       (b"connection", b"close"), *HEADERS]  # fmt: skip
            lines = [b"%s: %s\r\n" % header for header in headers]
            self.transport.write(b"".join([STATUS_LINE[refused.status], *lines, b"\r\n", body]))

        def _expect(self, seconds: float) -> None:
            self._expected()
            self._deadline = self.loop.call_later(seconds, self._close)

        def _expected(self) -> None:
            self._head = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _close(self) -> None:
            self._expected()
            self.transport.close()
            self.loop.call_later(_LAST_BYTES, self.transport.abort)

    return GuardedProtocol


def _without_upgrade(data: bytes) -> bytes:
    """Lines before a body without the offer of another protocol.

    Clients that offer HTTP/2 (Java's do by default) take HTTP/1.1 as well, but the parser would take what follows for
    the other protocol, and lose the body.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nX-Offered:", head) + blank + rest


def _too_long(size: int) -> Refused:
    rule = f"the lines before a body have at most {_HEAD_BYTES} bytes"
    return Refused(431, rule, size, "Shorten the address or the headers, or send the query by POST.")
