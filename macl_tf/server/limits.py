"""What a request may ask for at most."""

from __future__ import annotations

from dataclasses import dataclass

from macl_tf.datasets.images import IMAGE_FORMATS, MAX_PIXELS

DEPTH = 10_000  # results that can be paged through: what lies deeper is found by another query


@dataclass(frozen=True)
class Limits:
    """Limits of one service.

    Args:
        bytes: Of an image file, >= 1.
        pixels: Of an image, read from its header before it is decoded; at most MAX_PIXELS.
        k: Results in one answer.
        batch: Examples in one query, positive and negative together.
        connections: Open at once, of all clients together.
        per_client: Requests of one address at once.
        body_seconds: For the body of a request to arrive; its first lines are the proxy's (docs/deploy.md).

    Raises:
        ValueError: For a limit that is not positive, or more pixels than can be decoded.
    """

    bytes: int = 16 << 20
    pixels: int = 32_000_000
    k: int = 200
    batch: int = 64
    connections: int = 1024
    per_client: int = 256
    body_seconds: float = 60.0

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
