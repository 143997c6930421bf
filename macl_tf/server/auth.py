"""Who may ask: a bearer token for writes and, if wanted, for reads; names under which the server may be asked."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass

from macl_tf.server.errors import forbidden, unknown
from macl_tf.server.paths import HEALTH

_SHORTEST = 16
# These have a body, and change nothing.
_QUESTIONS = tuple(f"/api/v1/{name}" for name in ("search", "search/image", "matches", "count", "plot/tiles"))
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Access:
    """The rules of one server. A ValueError is for a token that can be guessed, or protected reads without one."""

    token: str | None = None  # without one, nothing can be written
    protect_reads: bool = False  # whether reads need it too; the page itself and the health checks never do
    # Names that a request may ask for, with or without a port; empty for any. A server on loopback answers to its own
    # names only: else a web page anywhere could have its name point here and read along.
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is not None and (len(self.token) < _SHORTEST or not self.token.isascii() or " " in self.token):
            raise ValueError(
                f"a token must have at least {_SHORTEST} letters of ASCII without blanks, got {len(self.token)}. "
                "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if self.protect_reads and self.token is None:
            raise ValueError("--protect-reads needs a token: give --token-file, or set MACL_TOKEN.")
        if wrong := [name for name in self.hosts if "*" in name and not name.startswith("*.")]:
            raise ValueError(f"a host with a star must be like *.example.org, got {wrong[0]!r}.")
        object.__setattr__(self, "hosts", tuple(dict.fromkeys(map(_name_of, self.hosts))))

    def check(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Lets a request through that shows the token where one is needed; without a token nothing can be written."""
        writes = path.startswith("/api/") and path not in _QUESTIONS and method not in ("GET", "HEAD", "OPTIONS")
        data = path.startswith("/api/") or path == "/metrics"
        if not writes and not (self.protect_reads and data and path not in HEALTH):
            return
        if self.token is None:
            remedy = "Start `macl serve` with --token-file or MACL_TOKEN to allow them."
            raise forbidden("This server takes no writes", method, remedy)
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        given = given.strip() if kind.lower() == b"bearer" else b""
        if not secrets.compare_digest(given, self.token.encode()):
            got, remedy = "another token" if given else "no token", "Send the header Authorization: Bearer TOKEN."
            raise unknown("A token is needed", got, remedy, {"WWW-Authenticate": "Bearer"})


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can ask at an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """A name or address as the header Host has it, in small letters and without a port.

    Example:
        >>> [_name_of(host) for host in ("Tiles.Example.org:8443", "[::1]:8080", "::1", "localhost")]
        ['tiles.example.org', '[::1]', '[::1]', 'localhost']
    """
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0] if name.count(":") <= 1 else f"[{name}]"
