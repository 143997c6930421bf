"""The application: routes, health checks, figures, and the page."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from macl_tf.server.auth import Access
from macl_tf.server.errors import handle_errors, unavailable
from macl_tf.server.guard import App, Guard
from macl_tf.server.metrics import CONTENT_TYPE
from macl_tf.server.paths import Paths
from macl_tf.server.routes import api
from macl_tf.server.service import Service

PAGE = Path(__file__).parent / "page"


def build_app(
    service: Service,
    access: Access,
    lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None,
    root_path: str = "",
) -> App:
    """The ASGI application with what runs beside it, shown by a proxy under the prefix `root_path`, like /tiles."""
    app = FastAPI(
        title="macl_tf search",
        version="1",
        description="Finds tiles like these ones. Vectors are of unit norm, scores are cosines.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    handle_errors(app)
    app.include_router(api(service, access))

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        if not service.versions.ready:
            raise unavailable("The encoder is not ready", None, "Retry after 1 s, or see the server log.")
        return JSONResponse({"status": "ready", **service.versions.newest.versions})

    @app.get("/metrics", include_in_schema=False)
    async def figures() -> Response:
        state, metrics = service.versions.newest, service.metrics
        metrics.show(len(state.snapshot), state.snapshot.num_changes, **state.versions)
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    page = [path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file()]
    if page:
        for suffix, kind in {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}.items():
            mimetypes.add_type(kind, suffix)  # whatever the machine's own table says
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    paths = Paths(app.openapi(), page, root_path)
    images = service.base_map.origin if service.base_map else ""
    return Guard(app, paths, access, service.limits, service.metrics, service.versions.newest.snapshot.dim, images)
