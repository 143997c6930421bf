"""Who may ask: a bearer token for writes and, if wanted, for reads; names under which the server may be asked."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from contextlib import suppress
from dataclasses import dataclass

from macl_tf.server.errors import Refused
from macl_tf.server.paths import HEALTH

_SHORTEST = 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Args:
        token: Without one, nothing can be written.
        protect_reads: Whether reads need it too; the page itself and the health checks never do.
        hosts: Names that a request may ask for, with or without a port; empty for any. A server on loopback answers to
            its own names only: else a web page anywhere could have its name point here and read along.

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
        object.__setattr__(self, "hosts", tuple(dict.fromkeys(map(_name_of, self.hosts))))

    def check(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Lets a request through.

        Raises:
            Refused: 401 without the token, 403 where the server has none.
        """
        writes = path == "/api/v1/items" and method not in ("GET", "HEAD", "OPTIONS")
        data = path.startswith("/api/") or path == "/metrics"
        if not writes and not (self.protect_reads and data and path not in HEALTH):
            return
        if self.token is None:
            raise Refused(
                403,
                "writes need a token, and this server has none",
                method,
                "Ask whoever runs it: `macl serve` takes one by --token-file, or from MACL_TOKEN.",
            )
        kind, _, given = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if kind.lower() != "bearer" or not _equal(given.strip(), self.token):
            raise Refused(
                401,
                "the request must carry the server's token",
                "no token" if kind.lower() != "bearer" or not given.strip() else "another token",
                "Send the header Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    def check_host(self, host: str) -> None:
        """Lets a request through that asks for one of the server's names; `host` is its header.

        Raises:
            Refused: 400 for another name.
        """
        if self.hosts and _name_of(host) not in self.hosts:
            raise Refused(
                400,
                f"Host must be one of {', '.join(self.hosts)}",
                host,
                "Ask by one of these names, or have `macl serve` started with --allow-host and this one.",
            )


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can ask at an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """A name or address as it is compared: without port, brackets, capitals and a dot at its end.

    Example:
        >>> [_name_of(host) for host in ("Tiles.Example.org.:8443", "[0:0::1]:8080", "::1", "localhost")]
        ['tiles.example.org', '::1', '::1', 'localhost']
    """
    name = host.strip().lower()
    if name.startswith("[") and "]" in name:
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:  # more of them are an IPv6 address
        name = name.partition(":")[0]
    with suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name.removesuffix(".")


def _equal(given: str, token: str) -> bool:
    """Compares digests, in the same time wherever they differ."""
    return hmac.compare_digest(*(hashlib.sha256(text.encode("latin-1", "replace")).digest() for text in (given, token)))
