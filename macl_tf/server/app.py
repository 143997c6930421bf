"""The application: opens the folder, keeps up with what others publish; routes, health checks, figures, the page."""

from __future__ import annotations

import asyncio
import gc
import logging
import mimetypes
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from threadpoolctl import threadpool_limits

from macl_tf.search.encoders import load_encoder
from macl_tf.server.auth import Access
from macl_tf.server.errors import handle_errors, unavailable
from macl_tf.server.express import Express
from macl_tf.server.guard import App, Guard
from macl_tf.server.metrics import CONTENT_TYPE, Metrics
from macl_tf.server.paths import Paths, check_prefix
from macl_tf.server.routes import api
from macl_tf.server.service import Service
from macl_tf.server.settings import BaseMap, Limits, Options
from macl_tf.server.shared import Shared
from macl_tf.server.versions import Load, Versions

PAGE = Path(__file__).parent / "page"
_SWAGGER = Path(str(files("fastapi_offline"))) / "static"  # Swagger UI, as a package brings it
_DOCS = ("docs", "swagger/swagger-ui-bundle.js", "swagger/swagger-ui.css")
_log = logging.getLogger(__name__)
_LOW = 10  # the priority of what nobody waits for, about a tenth of a processor that others want, too
_REFRESH, _CHECK = 2.0, 60.0  # seconds between looks for what others wrote, and between checks of the recall


def open_app(
    served: Path,
    access: Access,
    limits: Limits,
    options: Options,
    *,
    refresh: float = _REFRESH,
    load: Load = load_encoder,
    root_path: str = "",
    base_map: BaseMap | None = None,
    tiles: Path | None = None,
    index: str = "",
    shared: Shared | None = None,
    started: Callable[[], object] = lambda: None,
) -> App:
    """Opens a served folder, which `macl export` wrote, and builds the application that answers for it.

    It looks every `refresh` seconds for what other processes wrote or published. `load` loads the encoder that an index
    was made with; `index` is "milvus:URI" for an index in a Milvus. A proxy shows it under the prefix `root_path`,
    like /tiles. `tiles` is the folder of the tiles themselves. Workers of one server have the same `shared`. `started`
    is called once it can be asked.
    """
    check_prefix(root_path)  # before anything is loaded
    metrics, shared = Metrics(), shared or Shared()
    versions = Versions(served, replace(options, observe=metrics.observe_batch), load, index, shared)
    service = Service(versions, limits, metrics, base_map, tiles, shared)

    def check() -> None:
        metrics.observe_recall(*service.sample.check(versions.newest.snapshot))

    checking = ThreadPoolExecutor(1, "recall", _stand_back)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        jobs = [(refresh, versions.refresh, None), (_CHECK, check, checking)]
        tasks = [asyncio.create_task(_again_and_again(*job, metrics)) for job in jobs]
        tasks.append(asyncio.create_task(_warm(versions)))
        started()
        with threadpool_limits(1, user_api="blas"):  # requests run side by side, and OpenBLAS's idle threads spin
            yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(checking.shutdown)
        await asyncio.to_thread(service.close)

    return _routed(service, access, lifespan, root_path, shared)


async def _warm(versions: Versions) -> None:
    try:
        await asyncio.to_thread(versions.warm)
        gc.freeze()  # what is loaded stays: nobody is answered while it is looked through for what may go
    except Exception as error:  # /readyz tells it, and what needs no encoder is answered
        _log.error("the encoder cannot be loaded: %s", error)


def _stand_back() -> None:
    """Lets all other threads go before this one, where the system gives threads priorities of their own."""
    if sys.platform == "linux":
        me = os.PRIO_PROCESS, threading.get_native_id()
        os.setpriority(*me, max(_LOW, os.getpriority(*me)))


async def _again_and_again(seconds: float, job: Callable[[], None], pool: Executor | None, metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.get_running_loop().run_in_executor(pool, job)
        except Exception as error:  # what was there before is still served
            metrics.failures.inc()
            _log.warning("%s: %s", job.__name__, error)


def _routed(
    service: Service,
    access: Access,
    lifespan: Callable[[Any], AbstractAsyncContextManager[None]],
    root_path: str,
    shared: Shared,
) -> App:
    app = FastAPI(
        title="macl_tf search",
        version="1",
        description="Finds tiles like these ones. Vectors are of unit norm, scores are cosines.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    handle_errors(app)
    router = api(service, access)
    app.router.routes.extend(router.routes)  # as they are: `include_router` makes each anew at the first request

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        state = service.versions.newest
        if not (state.batcher.alive and state.encoder.ready()):
            raise unavailable("The encoder is not ready", None, "Retry after 1 s, or see the server log.")
        return JSONResponse({"status": "ready", **state.versions})

    @app.get("/metrics", include_in_schema=False)
    async def figures() -> Response:
        state, metrics = service.versions.newest, service.metrics
        metrics.show(len(state.snapshot), state.snapshot.num_changes, **state.versions)
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html")

    page = [path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file()]
    if page:
        kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json"}
        for suffix, kind in kinds.items():
            mimetypes.add_type(kind, suffix)  # whatever the machine's own table says
        app.mount("/swagger", StaticFiles(directory=_SWAGGER), name="swagger")
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    # From the routes: their description in OpenAPI takes as long to make as all else here.
    taken: dict[str, dict[str, set[str]]] = {}
    for route in (route for route in router.routes if isinstance(route, APIRoute)):
        known = {parameter.alias for parameter in route.dependant.query_params}
        taken.setdefault(route.path, {}).update(dict.fromkeys(route.methods or (), known))
    paths = Paths(taken, [*page, *_DOCS], root_path)
    images = service.base_map.origin if service.base_map else ""
    dim = lambda: service.versions.newest.snapshot.dim  # noqa: E731
    return Guard(Express(app, service), paths, access, service.limits, service.metrics, dim, images, shared)
