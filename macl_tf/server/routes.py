"""The routes of the API: from HTTP to `Service` and back."""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, File, Form, Query, Request, Response, Security, UploadFile
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from pydantic import Field, ValidationError

from macl_tf.search.query import NotThereError, QueryError, check_there
from macl_tf.search.tile_files import TYPES
from macl_tf.server import answers, schemas
from macl_tf.server.auth import Access
from macl_tf.server.collection_routes import add_collections
from macl_tf.server.errors import SEE, WORDS, invalid_input
from macl_tf.server.searching import Found
from macl_tf.server.service import Service
from macl_tf.server.versions import State

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": words} for status, words in WORDS.items()
}
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "A JPEG."},
    304: {"description": "The one that If-None-Match names."},
}
_TILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The file.",
    }
}
_LABELS: dict[int | str, dict[str, Any]] = {304: {"description": "Those that If-None-Match names."}}
_PLOT: dict[int | str, dict[str, Any]] = {304: {"description": "The one that If-None-Match names."}}
_FILES = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES.values()}
_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {**_FILES, TYPES["geojson"]: {"schema": {"type": "object"}}},
        "description": "Results, best first.",
    }
}

Id = Annotated[str, Query(alias="id", min_length=1, max_length=512, description="Of an item in the index.")]
Version = Annotated[int | None, Query(ge=1, description="A version of the index; the newest by default.")]
Image = Annotated[UploadFile, File(description="A picture: JPEG, PNG, TIFF, BMP, GIF or WebP.")]


# Of an upsert, and what the search calls them for several tiles.
_COLUMNS = {"labels": "labels", "date": "dates", "source": "sources", "bbox": "bboxes", "split": "splits"}


def api(service: Service, access: Access) -> APIRouter:
    """All routes under /api/v1. Who may ask stands in the API's description; `Guard` sees to it."""
    bearer = [Security(HTTPBearer(auto_error=False, description="The server's token."))]
    reads = bearer if access.protect_reads else []
    router = APIRouter(prefix="/api/v1", responses=_REFUSALS)

    @router.get("/info", response_model=schemas.InfoAnswer, dependencies=reads)
    async def info() -> Response:
        """What is served: versions, figures of the encoder, limits."""
        writable = access.token is not None
        found = service.versions, service.limits, writable, service.base_map, service.originals.folder is not None
        return _json(await service.look(lambda: answers.info(*found)))

    @router.get("/labels", response_model=schemas.LabelsAnswer, responses=_LABELS, dependencies=reads)
    async def labels(request: Request) -> Response:
        """All labels that a tile may hold with the number of tiles that do, and which are rare."""
        state = await service.state()
        return await _unless_known(request, state, lambda: answers.labels(state))

    @router.post("/search", response_model=schemas.SearchAnswer, responses=_RESULTS, dependencies=reads)
    async def search(query: Annotated[schemas.Query, Body()]) -> Response:
        """The tiles most like the positive and least like the negative examples."""
        return found(await service.search(query))

    @router.post("/search/image", response_model=schemas.SearchAnswer, responses=_RESULTS, dependencies=reads)
    async def search_image(
        request: Request,
        image: Image,
        query: Annotated[str, Form(description="JSON as for /search. The image is one more positive example.")] = "{}",
    ) -> Response:
        """The tiles most like an uploaded picture."""
        await _sent_fields(request, ("image", "query"))
        try:
            parsed = schemas.Query.model_validate_json(query)
        except ValidationError as error:
            raise invalid_input(error.errors(include_url=False), "query") from None
        return found(await service.search(parsed, _reader(image)))

    @router.post("/matches", response_model=schemas.MatchesAnswer, dependencies=reads)
    async def matches(given: Annotated[schemas.ToMatch, Body()]) -> Response:
        """Where in items what was searched for is: how well each part of their small pictures matches a vector."""
        return _json(await service.matches(given))

    @router.get("/items", response_model=schemas.ItemAnswer, dependencies=reads)
    async def item(id_: Id, index: Version = None) -> Response:
        """What is known about a tile."""
        state = await service.state(index)
        return _json({**state.versions, "item": answers.item(state, id_)})

    @router.get("/diverse", response_model=schemas.ItemsAnswer, dependencies=reads)
    async def diverse(
        k: Annotated[int, Query(ge=1, le=200, description="Tiles in the answer.")] = 24,
        seed: Annotated[int, Query(ge=0, le=1 << 31, description="Another number gives other tiles.")] = 0,
    ) -> Response:
        """Tiles that are unlike each other, to begin with: the same ones for the same index."""
        state = await service.state()
        return _json(await service.look(lambda: answers.diverse(state, k, seed)))

    @router.get("/ids", response_model=schemas.ItemsAnswer, dependencies=reads)
    async def ids(
        like: Annotated[str, Query(min_length=1, max_length=512, description="A part of the id, in any case.")],
        limit: Annotated[int, Query(ge=1, le=50, description="Tiles in the answer.")] = 10,
    ) -> Response:
        """Tiles whose ids hold a text: the one that is it, those that end so after a slash, then others."""
        state = await service.state()
        return _json(await service.look(lambda: answers.named(state, like, limit)))

    @router.post("/count", response_model=schemas.CountAnswer, dependencies=reads)
    async def count(given: Annotated[schemas.ToCount, Body()]) -> Response:
        """How many tiles a filter leaves, and how many of these hold each label."""
        state = await service.state(given.index)
        return _json(await service.look(lambda: answers.counted(state, given.filter.to_filter())))

    @router.get("/plot", response_model=schemas.PlotAnswer, responses=_PLOT, dependencies=reads)
    async def plot(request: Request, index: Version = None) -> Response:
        """Where tiles lie in a plot, those that are alike near each other. It is drawn when a version is built."""
        state = await service.state(index)
        return await _unless_known(request, state, lambda: answers.plot(state))

    @router.post("/plot/tiles", response_model=schemas.PlottedAnswer, dependencies=reads)
    async def plotted(given: Annotated[schemas.ToPlot, Body()]) -> Response:
        """Which tiles of the plot lie in a box and meet a filter, and what is known about them."""
        state = await service.state(given.index)
        return _json(await service.look(lambda: answers.in_plot(state, given)))

    @router.get("/picture", response_class=Response, responses=_JPEG, dependencies=reads)
    async def picture(request: Request, id_: Id, index: Version = None) -> Response:
        """A tile in large, as the encoder's pictures are drawn: at most 1024 pixels a side."""
        state = await service.state(index)
        return _jpeg(await service.picture(state, id_), state, request, private=access.protect_reads)

    @router.get("/file", response_class=FileResponse, responses=_TILE, dependencies=reads)
    async def file(id_: Id, index: Version = None) -> Response:
        """The file of a tile as it was indexed."""
        state = await service.state(index)
        path = await service.look(lambda: service.originals.file(state.snapshot, id_))
        return FileResponse(path, filename=id_.split("/")[-1], media_type="application/octet-stream")

    @router.get("/thumbnail", response_class=Response, responses=_JPEG, dependencies=reads)
    async def thumbnail(request: Request, id_: Id, index: Version = None) -> Response:
        """The small picture of a tile."""
        state = await service.state(index)
        return _thumbnail(state, id_, request, private=access.protect_reads)

    @router.put("/items", response_model=schemas.WrittenAnswer, dependencies=bearer)
    async def upsert(
        request: Request,
        image: Image,
        id_: Annotated[
            str | None,
            Form(alias="id", min_length=1, max_length=512, description="By default made of the file's SHA-256."),
        ] = None,
        labels: Annotated[
            list[Annotated[str, Field(max_length=200)]] | None, Form(max_length=1000, description="One field for each.")
        ] = None,
        new_labels: Annotated[
            list[Annotated[str, Field(max_length=200)]] | None,
            Form(max_length=1000, description="Labels that are new, and meant, however near to others."),
        ] = None,
        date: Annotated[datetime.date | None, Form()] = None,
        source: Annotated[str, Form(max_length=200)] = "",
        bbox: Annotated[str | None, Form(max_length=200, description="west,south,east,north in degrees")] = None,
        split: Annotated[str, Form(max_length=200)] = "",
    ) -> Response:
        """Adds a tile, or replaces the one with that id. It is on disk when this returns.

        Date and place that are not given are read from the file's header. What is neither given nor told there stays
        as it is in the tile that is replaced; an empty field says that there is none. A label that the index does not
        have becomes one of its labels; where it is so near to another that it may be misspelled, it is refused, unless
        new_labels has it.
        """
        lists = ("labels", "new_labels")
        sent = await _sent_fields(request, ("image", "id", *_COLUMNS, "new_labels"), several=lists)
        for name, text in (("id", id_ or ""), ("source", source), ("split", split)):
            if not text.isprintable():
                raise QueryError(f"{name} has printable letters only", text, "Leave out line breaks and the like.")
        given: dict[str, list[Any]] = {
            "labels": [[label for label in labels or () if label]],
            "date": [date or ""],
            "source": [source],
            "bbox": [bbox.split(",") if bbox else ()],
            "split": [split],
        }
        facts = {_COLUMNS[name]: value for name, value in given.items() if name in sent}
        facts["new_labels"] = [label for label in new_labels or () if label]
        return _json(await service.upsert(_reader(image), id_, **facts))

    @router.delete("/items", response_model=schemas.DeletedAnswer, dependencies=bearer)
    async def delete(id_: Id) -> Response:
        """Takes a tile away. That is on disk when this returns."""
        return _json(await service.delete(id_))

    @router.post("/items/labels", response_model=schemas.RelabelledAnswer, dependencies=bearer)
    async def relabel(given: Annotated[schemas.NewLabels, Body()]) -> Response:
        """Gives tiles a label, or takes it from them: all of them, or none. It is on disk when this returns."""
        if both := {*given.holds} & {*given.lacks}:
            raise QueryError("a tile holds a label or lacks it", min(both), "Leave it out of one of the lists.")
        holds = dict.fromkeys(given.holds, True) | dict.fromkeys(given.lacks, False)
        return _json(await service.relabel(given.label, holds, given.new_labels))

    async def _unless_known(request: Request, state: State, answer: Callable[[], dict[str, Any]]) -> Response:
        """What holds for one state of the index, where If-None-Match does not name it."""
        headers = {"ETag": f'"{state.snapshot.revision}"', "Cache-Control": "no-cache"}
        if _knows(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        found = _json(await service.look(answer))
        found.headers.update(headers)
        return found

    add_collections(router, service, reads, bearer)
    return router


def _reader(image: UploadFile) -> Callable[[], bytes]:
    """Reads an uploaded file, in whatever thread it is called in."""

    def read() -> bytes:
        image.file.seek(0)
        return image.file.read()

    return read


def _json(answer: dict[str, Any]) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")


def found(answer: Found) -> Response:
    """An answer to a search."""
    headers = {}
    if answer.format in ("csv", "parquet"):
        headers["Content-Disposition"] = f'attachment; filename="results.{answer.format}"'
    return Response(answer.body, headers=headers, media_type=TYPES.get(answer.format, "application/json"))


def _knows(request: Request, etag: str) -> bool:
    """Whether If-None-Match names the answer: in a list, as a weak one, or by a star."""
    tags = [tag.strip() for line in request.headers.getlist("if-none-match") for tag in line.split(",")]
    return "*" in tags or etag in [tag.removeprefix("W/") for tag in tags]


def _thumbnail(state: State, id_: str, request: Request, *, private: bool) -> Response:
    check_there(state.snapshot, id_)
    picture = state.snapshot.thumbnail(id_)
    if picture is None:
        remedy = "Send its image by PUT to /api/v1/items: it gets one."
        if not state.snapshot.thumbnail_size:
            remedy = "The index was made without; make one with: macl export --thumbnail 256"
        raise NotThereError("the item has no small picture", id_, remedy)
    return _jpeg(picture, state, request, private=private)


def _jpeg(picture: bytes, state: State, request: Request, *, private: bool) -> Response:
    headers = {
        "ETag": f'"{zlib.crc32(picture):08x}{len(picture):x}"',
        "Cache-Control": f"{'private' if private else 'public'}, max-age=60",
        "X-Model-Version": str(state.encoder.version),
        "X-Index-Version": str(state.index_version),
    }
    if _knows(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(picture, headers=headers, media_type="image/jpeg")


async def _sent_fields(request: Request, known: Sequence[str], several: Sequence[str] = ()) -> set[str]:
    """Names of the fields of a form, the empty ones among them; refused where one is not known, or sent twice."""
    form = await request.form()
    names = [name for name, _ in form.multi_items()]
    for name in names:
        if name not in known:
            raise QueryError(f"the form's fields are among {', '.join(known)}", name, SEE)
        if names.count(name) > 1 and name not in several:
            raise QueryError(f"{name} is given once", names.count(name), "Send one request for each tile.")
    return set(names)
