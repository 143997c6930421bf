"""What the web framework refuses by itself, said in our form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from macl_tf.server.errors import SEE, Refused


def handle_errors(app: FastAPI) -> None:
    """Makes every error of an application a JSON of rule, value and remedy."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(wrong_type(request) or invalid_input(error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return answer(error if isinstance(error, Refused) else of_framework(error))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return answer(failure())


def answer(refused: Refused) -> Response:
    """The answer to a request that was refused."""
    return Response(refused.body(), refused.status, refused.headers, "application/json")


def failure() -> Refused:
    """For an error of ours."""
    return Refused(500, "Internal server error", None, "See the server log.")


def invalid_input(errors: Sequence[Any], part: str = "") -> Refused:
    """The first thing that is wrong with a request."""
    first = errors[0]
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", "it ends too early")
        return Refused(400, f"{part or 'the body'} must be JSON: {why}", None, "Mind quotes and brackets.")
    where = ".".join(str(name) for name in first["loc"] if name not in ("body", "query")) or part or "the body"
    message = first["msg"].removeprefix("Value error, ")
    return Refused(422, f"{where}: {message}", first.get("input"), SEE)


def wrong_type(request: Request) -> Refused | None:
    """For a body of another type than the route reads."""
    wanted = "application/json" if request.url.path.endswith("/search") else "multipart/form-data"
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method not in ("POST", "PUT") or given == wanted:
        return None
    remedy = {
        "application/json": "Send JSON with the header Content-Type: application/json.",
        "multipart/form-data": "Send a form with the picture in the field image, as curl -F image=@tile.jpg does.",
    }
    return Refused(415, f"the body must be {wanted}", given or "no Content-Type", remedy[wanted])


def of_framework(error: HTTPException) -> Refused:
    """An error that the framework raised. Paths and methods it never sees unless they are right."""
    return Refused(error.status_code, "the request must be readable", str(error.detail), SEE, dict(error.headers or {}))
