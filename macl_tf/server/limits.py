"""What a request may ask for at most."""

from __future__ import annotations

from dataclasses import dataclass

from macl_tf.datasets.images import IMAGE_FORMATS, MAX_PIXELS

DEPTH = 10_000  # results that can be paged through: what lies deeper is found by another query


@dataclass(frozen=True)
class Limits:
    """Limits of one service, each positive."""

    bytes: int = 16 << 20  # of an image file
    pixels: int = 32_000_000  # of an image, read from its header before it is decoded; at most MAX_PIXELS
    k: int = 200  # results in one answer
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

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of the image formats that are read."""
        return IMAGE_FORMATS
