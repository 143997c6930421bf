"""Who may ask: a bearer token for writes and, if wanted, for reads; names under which the server may be asked."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from macl_tf.service.errors import Refused

_SHORTEST = 16
_OPEN = ("/healthz", "/readyz")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Args:
        token: Without one, nothing can be written.
        protect_reads: Whether reads need it too; the page itself and the health checks never do.
        hosts: Names that a request may ask for, without port; empty for any. A server on loopback answers to its own
            names only: else a web page anywhere could have its name point here and read along.

    Raises:
        ValueError: For a token that can be guessed, or protected reads without one.
    """

    token: str | None = None
    protect_reads: bool = False
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is not None and (len(self.token) < _SHORTEST or not self.token.isascii() or " " in self.token):
            raise ValueError(
                f"a token must have at least {_SHORTEST} letters of ASCII without blanks, got {len(self.token)}. "
                "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if self.protect_reads and self.token is None:
            raise ValueError("--protect-reads needs a token: give --token-file, or set MACL_TOKEN.")

    def check(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Lets a request through.

        Raises:
            Refused: 400 for a name that is not the server's, 401 without the token, 403 where there is none.
        """
        self._check_host(headers.get(b"host", b"").decode("latin-1"))
        writes = path == "/api/v1/items" and method not in ("GET", "HEAD", "OPTIONS")
        data = path.startswith("/api/") or path == "/metrics"
        if not writes and not (self.protect_reads and data and path not in _OPEN):
            return
        if self.token is None:
            raise Refused(
                403,
                "writes need a token, and this server has none",
                method,
                "Start it with --token-file or MACL_TOKEN.",
            )
        kind, _, given = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if kind.lower() != "bearer" or not _equal(given.strip(), self.token):
            raise Refused(
                401,
                "the request must carry the server's token",
                "another token" if given else "no token",
                "Send the header Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    def _check_host(self, host: str) -> None:
        if not self.hosts:
            return
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if name.lower() not in self.hosts:
            raise Refused(
                400, f"Host must be one of {', '.join(self.hosts)}", host, "Start the server with --allow-host NAME."
            )


def _equal(given: str, token: str) -> bool:
    """Compares digests, in the same time wherever they differ."""
    return hmac.compare_digest(*(hashlib.sha256(text.encode("latin-1", "replace")).digest() for text in (given, token)))
