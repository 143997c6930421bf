"""What is refused, in three parts: rule, value and remedy. The one file that knows HTTP's numbers for errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from macl_tf.datasets.label_names import UnknownLabelError
from macl_tf.datasets.picture_kinds import IMAGE_FORMATS, RULE, PictureError
from macl_tf.index.view import EngineError
from macl_tf.search.query import NotThereError, QueryError
from macl_tf.server.settings import Limits

_log = logging.getLogger(__name__)
SEE = "The API is described at api/v1/openapi.json of this server."
_SHOWN = 120  # letters of a value that an answer repeats
# What the API's description says of each status.
WORDS = {
    400: "The request cannot be read.",
    401: "The token is missing or wrong.",
    403: "The server takes no writes.",
    404: "There is no such item, collection or version.",
    405: "The path does not take the method.",
    408: "The request came too slowly.",
    413: "Too many bytes or pixels.",
    415: "Not an image of a known format, or another type of body.",
    422: "The request breaks a rule.",
    429: "Too many requests of one client at a time.",
    500: "Internal server error.",
    503: "Try again in a moment.",
}
FAILED = 500  # a fault of ours
# Of the search's errors, which know no HTTP; the first that an error is an instance of holds.
_STATUSES: dict[type[Exception], int] = {NotThereError: 404, QueryError: 422, UnknownLabelError: 422}


class Refused(HTTPException):
    """A request that is answered with an error: what must hold, what was given instead (shortened), and what to do.

    An HTTPException of the framework, since that is what it lets through while it reads a body.
    """

    def __init__(
        self, status: int, rule: str, value: Any = None, remedy: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, rule, headers)
        self.rule, self.value, self.remedy = rule, shown(value), remedy

    def answer(self, *, text: bool = False) -> Response:
        """JSON for programs, or the same as a line for people."""
        given = "" if self.value is None else f": {self.value}"
        error = {"rule": self.rule, "value": self.value, "remedy": self.remedy}
        body = f"{self.rule}{given}. {self.remedy}\n" if text else json.dumps({"error": error})
        return Response(body, self.status_code, self.headers, "text/plain" if text else "application/json")


# Errors of the server's own, named for what is wrong. Each takes rule, value, remedy and headers.
unreadable = partial(Refused, 400)
unknown = partial(Refused, 401)  # who does not show the token
forbidden = partial(Refused, 403)
wrong_method = partial(Refused, 405)
too_slow = partial(Refused, 408)
too_large = partial(Refused, 413)
wrong_kind = partial(Refused, 415)  # another type of body or picture
too_many = partial(Refused, 429)  # of one client at a time
unavailable = partial(Refused, 503)  # what may be done a moment later


def overloaded() -> Refused:
    """For more than the server can do at a time."""
    return unavailable("Server overloaded", None, "Retry after 1 s.", {"Retry-After": "1"})


@contextmanager
def refusing(value: Any) -> Iterator[None]:
    """Says what a date or box breaks as an error of the query or upsert; `value` is what was given."""
    try:
        yield
    except (QueryError, UnknownLabelError):
        raise
    except ValueError as error:
        raise QueryError(str(error).rstrip("."), value, SEE) from error


def handle_errors(app: FastAPI) -> None:
    """Makes every error of an application a JSON of rule, value and remedy."""

    async def handle(request: Request, error: Exception) -> Response:
        return refusal_of(error, request).answer()

    for kind in (RequestValidationError, HTTPException, EngineError, *_STATUSES):
        app.add_exception_handler(kind, handle)


def refusal_of(error: Exception, request: Request | None = None) -> Refused:
    """What an error is answered with; one that nobody foresaw is ours."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, RequestValidationError):
        return (request and _wrong_type(request)) or invalid_input(error.errors())
    if isinstance(error, HTTPException):  # of the framework; paths and methods it never sees unless they are right
        status = error.status_code if error.status_code in WORDS else 400
        return Refused(status, "The request cannot be read", str(error.detail), SEE, dict(error.headers or {}))
    if isinstance(error, EngineError):
        _log.warning("%s", error)  # whose words name addresses
        return unavailable("The index of this server cannot be asked now", None, "Retry in a moment; see its log.")
    if isinstance(error, QueryError | UnknownLabelError):
        status = next(_STATUSES[kind] for kind in _STATUSES if isinstance(error, kind))
        listed = "GET api/v1/labels lists them with their counts." if isinstance(error, UnknownLabelError) else SEE
        return Refused(status, error.rule, error.value, error.remedy or listed)
    return Refused(FAILED, "Internal server error", None, "See the server log.")


def invalid_input(errors: Any, part: str = "") -> Refused:
    """The first thing that is wrong with a request."""
    first = errors[0]
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", "it ends too early")
        return unreadable(f"{part or 'the body'} must be JSON: {why}", None, "Mind quotes and brackets.")
    where = ".".join(str(name) for name in first["loc"] if name not in ("body", "query")) or part or "the body"
    message = first["msg"].removeprefix("Value error, ")
    return Refused(422, f"{where}: {message}", first.get("input"), SEE)


def of_picture(error: PictureError, size: int, limits: Limits) -> Exception:
    """Why a picture of `size` bytes is not read."""
    if error.problem == "pixels":
        rule = f"an image has at most {limits.pixels} pixels"
        return too_large(rule, error.got, "Cut it into tiles, or make it smaller.")
    if error.problem == "bands":
        return QueryError(
            "an image must have the bands of the tiles that the index was made of", error.got, error.remedy
        )
    if error.problem == "kind":
        kind: Callable[..., Exception] = QueryError if error.format in IMAGE_FORMATS else wrong_kind
        return kind(f"an image {RULE}", error.got, error.remedy)
    if error.problem == "format":
        rule = f"an image must be one of {', '.join(IMAGE_FORMATS)}"
        return wrong_kind(rule, f"{size} bytes", "Convert it, or check that the file is an image.")
    return QueryError("an image must be whole", f"{size} bytes", "It is broken, or of a rare kind: save it anew.")


def too_many_bytes(size: int, limits: Limits, of_request: int | None = None) -> Refused:
    """For an image of so many bytes, or for the request that it comes in, which has so many at most."""
    rule = f"an image has at most {limits.bytes} bytes ({round(limits.bytes / (1 << 20), 1):g} MiB)"
    rule += f", and a request has at most {of_request} bytes" if of_request else ""
    return too_large(rule, size, "Make the image smaller: scale it down, or cut it into tiles.")


def _wrong_type(request: Request) -> Refused | None:
    """For a body of another type than the route reads."""
    form = request.url.path.endswith(("/items", "/search/image", "/collections/file"))
    wanted = "multipart/form-data" if form else "application/json"
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method not in ("POST", "PUT") or given == wanted:
        return None
    remedy = {
        "application/json": "Send JSON with the header Content-Type: application/json.",
        "multipart/form-data": "Send a form with the picture in the field image, as curl -F image=@tile.jpg does.",
    }
    if request.url.path.endswith("/collections/file"):
        remedy["multipart/form-data"] = "Send a form with the file in the field file, as curl -F file=@ships.csv does."

    return wrong_kind(f"the body must be {wanted}", given or "no Content-Type", remedy[wanted])


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
