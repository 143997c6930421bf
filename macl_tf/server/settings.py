"""What somebody sets who starts a server: limits of a request, how the encoder is asked, the page's map."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from macl_tf.datasets.images import MAX_PIXELS

_URL = re.compile(r"(?P<origin>https?://[A-Za-z0-9.-]+(:\d+)?)?/[^\s;,'\"<>]*")
DEPTH = 10_000  # results that can be paged through: what lies deeper is found by another query


@dataclass(frozen=True)
class Limits:
    """Limits of one service, each positive."""

    bytes: int = 16 << 20  # of an image file
    pixels: int = 32_000_000  # of an image, read from its header before it is decoded; at most MAX_PIXELS
    k: int = 200  # results in one answer; a file of results holds up to DEPTH
    batch: int = 64  # examples in one query, positive and negative together
    connections: int = 1024  # open at once, of all clients together
    per_client: int = 256  # requests of one address at once
    body_seconds: float = 60.0  # for a body to arrive; the lines before it are the proxy's (docs/deploy.md)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"the limit {name} must be > 0, got {value}.")
        if self.pixels > MAX_PIXELS:
            raise ValueError(f"the limit pixels must be <= {MAX_PIXELS}, got {self.pixels}: more is never decoded.")


@dataclass(frozen=True)
class Options:
    """How the encoder is asked."""

    encoder_url: str | None = None  # of the model in a TensorFlow Serving; None for the encoder in this process
    batch_size: int = 64  # pictures that go through the encoder together, at most
    batch_wait: float = 0.005  # seconds that a batch waits for each of those who asked a moment ago
    backlog: int = 256  # pictures that may wait
    observe: Callable[[int, float], None] = lambda size, seconds: None  # told the size and seconds of each batch

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.backlog < 1 or self.batch_wait < 0:
            given = f"{self.batch_size}, {self.backlog} and {self.batch_wait}"
            raise ValueError(f"batch_size and backlog must be >= 1 and batch_wait >= 0, got {given}.")


@dataclass(frozen=True)
class BaseMap:
    """Pictures of the Earth below footprints, from a server of somebody's choice: square tiles in web Mercator.

    Example:
        >>> BaseMap("https://tiles.example.org/{z}/{x}/{y}.png", "© Example").origin
        'https://tiles.example.org'
    """

    url: str  # where a tile lies: https://tiles.example.org/{z}/{x}/{y}.png, or a path of this server
    attribution: str  # whom it is from, as its licence asks for; shown as text

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url) or not all(part in self.url for part in ("{z}", "{x}", "{y}")):
            raise ValueError(
                f"--base-map must be like https://tiles.example.org/{{z}}/{{x}}/{{y}}.png, got {self.url!r}. It needs "
                "{z}, {x} and {y}, and one host."
            )
        if not self.attribution.strip():
            raise ValueError(
                "--base-map-attribution must say whom the base map is from, got none. For OpenStreetMap it is "
                "'© OpenStreetMap contributors'."
            )

    @property
    def origin(self) -> str:
        """The one host, besides this server, that the page may load pictures from; "" for none."""
        found = _URL.fullmatch(self.url)
        return (found["origin"] or "") if found else ""
