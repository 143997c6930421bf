"""What the service refuses, said in three parts: the rule, the value that broke it, and what to do."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException

SEE = "The API is described at api/v1/openapi.json of this server."
_SHOWN = 120  # letters of a value that an answer repeats


class Refused(HTTPException):
    """A request that is answered with an error.

    An HTTPException of the framework, since that is what it lets through while it reads a body.

    Args:
        status: HTTP status, 4xx or 503.
        rule: What must hold.
        value: What was given instead; shortened.
        remedy: What to do.
        headers: More headers of the answer.
    """

    def __init__(
        self, status: int, rule: str, value: Any = None, remedy: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, rule, headers)
        self.status, self.rule, self.value, self.remedy = status, rule, shown(value), remedy

    def body(self) -> bytes:
        """The JSON of the answer."""
        error = {"rule": self.rule, "value": self.value, "remedy": self.remedy}
        return json.dumps({"error": error}).encode()

    def text(self) -> bytes:
        """The same as a line for people."""
        given = "" if self.value is None else f": {self.value}"
        return f"{self.rule}{given}. {self.remedy}\n".encode()


def shown(value: Any) -> str | int | float | bool | None:
    """A value as an answer may repeat it: numbers as they are, all else as a short text that any reader can take."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=lambda _: "...")
    except (ValueError, RecursionError):
        text = type(value).__name__
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[: _SHOWN + 1])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def busy(headers: dict[str, str] | None = None) -> Refused:
    """For work that cannot be done now and can be a moment later; `headers` go beside Retry-After."""
    return Refused(503, "Server overloaded", None, "Retry after 1 s.", {"Retry-After": "1", **(headers or {})})


def mebibytes(size: int) -> str:
    """A size as people say it: "16 MiB", "0.2 MiB"."""
    return f"{round(size / (1 << 20), 1):g} MiB"
