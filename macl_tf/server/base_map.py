"""The pictures of the Earth that lie below footprints on the page's map, from a server of somebody's choice."""

from __future__ import annotations

import re
from dataclasses import dataclass

_URL = re.compile(r"(?P<origin>https?://[A-Za-z0-9.-]+(:\d+)?)?/[^\s;,'\"<>]*")


@dataclass(frozen=True)
class BaseMap:
    """A base map of square tiles in web Mercator.

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
