"""The routes of collections: from HTTP to `macl_tf.teaching` and back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Body, File, Form, Query, Request, Response, UploadFile
from fastapi.params import Depends

from macl_tf.index.view import View
from macl_tf.search.query import QueryError
from macl_tf.search.tile_files import TYPES
from macl_tf.server import answers, schemas
from macl_tf.server.service import Service
from macl_tf.teaching.collection_files import export_collection, import_collection
from macl_tf.teaching.collections import MARKS, Collections
from macl_tf.teaching.rounds import BEST, MOST, SAMPLED, UNCERTAIN, next_round, whole
from macl_tf.teaching.suggestions import suggest_in

_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES.values()},
        "description": "The marks, and where tiles lie.",
    }
}
# Whose mark it is, where the client does not say it: whoever holds the token.
_UNNAMED = "token"

Name = Annotated[str, Query(min_length=1, max_length=200, description="Of a collection.")]
Format = Annotated[Literal["csv", "geojson", "parquet"], Query(description="parquet is GeoParquet.")]
Offset = Annotated[int, Query(ge=0, le=1 << 40, description="Entries to leave out, for the next page.")]
Tiles = Annotated[int, Query(ge=0, le=MOST, description="Tiles of this kind.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Entries in the answer.")]


def add_collections(router: APIRouter, service: Service, reads: list[Depends], writes: list[Depends]) -> None:
    """Adds the routes to those of the API; `reads` and `writes` are what the two kinds depend on."""

    @router.get("/collections", response_model=schemas.CollectionsAnswer, dependencies=reads)
    async def collections(offset: Offset = 0, limit: Limit = 100) -> Response:
        """The collections by name, with how many tiles are right, wrong and skipped."""

        def work(kept: Collections, snapshot: View) -> dict[str, Any]:
            found = kept.all()
            shown = [answers.collection(one, snapshot) for one in found[offset : offset + limit]]
            return {"collections": shown, "total": len(found), "offset": offset}

        return _json(await service.look_at_collections(work))

    @router.delete("/collections", response_model=schemas.CollectionAnswer, dependencies=writes)
    async def delete(name: Name) -> Response:
        """Takes a collection away. That is on disk when this returns."""

        def work(kept: Collections, snapshot: View) -> dict[str, Any]:
            found = kept.get(name)
            kept.delete(name, by=_UNNAMED)
            return answers.collection(found, snapshot)

        return _json(await service.change_collections(work))

    @router.get("/collections/marks", response_model=schemas.MarksAnswer, dependencies=reads)
    async def marks(name: Name, offset: Offset = 0, limit: Limit = 100) -> Response:
        """The marks of a collection, the last ones first, with what is known about their tiles."""
        state = await service.state()

        def work(kept: Collections, _: View) -> dict[str, Any]:
            return answers.marks(state, kept.get(name), offset, limit)

        return _json(await service.look_at_collections(work))

    @router.post("/collections/marks", response_model=schemas.CollectionAnswer, dependencies=writes)
    async def mark(given: Annotated[schemas.Marks, Body()]) -> Response:
        """Marks tiles as right, wrong, skipped or neither; makes the collection where there is none, on disk then."""
        said = {how: getattr(given, how) for how in (*MARKS, "neither")}

        def work(kept: Collections, snapshot: View) -> dict[str, Any]:
            done = kept.mark(given.name, **said, by=given.by or _UNNAMED, snapshot=snapshot)
            return answers.collection(done, snapshot)

        return _json(await service.change_collections(work))

    @router.get("/collections/round", response_model=schemas.RoundAnswer, dependencies=reads)
    async def round_(
        name: Name, best: Tiles = BEST, uncertain: Tiles = UNCERTAIN, sampled: Tiles = SAMPLED
    ) -> Response:
        """The tiles to judge next: best candidates, uncertain and random ones, and how many right ones are left."""
        state = await service.state()
        numbers = {"best": best, "uncertain": uncertain, "sampled": sampled}

        def work(kept: Collections, _: View) -> dict[str, Any]:
            return answers.round_of(state, next_round(kept.get(name), whole(state.snapshot), **numbers))

        return _json(await service.look_at_collections(work))

    @router.post("/collections/rename", response_model=schemas.CollectionAnswer, dependencies=writes)
    async def rename(given: Annotated[schemas.NewName, Body()]) -> Response:
        """Gives a collection another name, which no other has."""

        def work(kept: Collections, snapshot: View) -> dict[str, Any]:
            return answers.collection(kept.rename(given.name, given.new, by=_UNNAMED), snapshot)

        return _json(await service.change_collections(work))

    @router.post("/collections/label", response_model=schemas.LabelledAnswer, dependencies=writes)
    async def label(given: Annotated[schemas.ToLabel, Body()]) -> Response:
        """Makes a collection a label of the index: right tiles hold it from now on, wrong ones do not."""
        return _json(await service.to_label(given.name, given.label or "", given.new_labels))

    @router.get("/collections/file", response_class=Response, responses=_FILE, dependencies=reads)
    async def export(name: Name, format_: Annotated[Format, Query(alias="format")] = "csv") -> Response:
        """The marks of a collection as a file that other programs open, and that can be imported."""

        def work(kept: Collections, snapshot: View) -> bytes:
            found = kept.get(name)
            return answers.file(f"collection.{format_}", lambda path: export_collection(found, path, snapshot))

        data = await service.look_at_collections(work)
        called = quote(f"{name}.{format_}", safe="")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{called}"}
        return Response(data, headers=headers, media_type=TYPES[format_])

    @router.post("/collections/file", response_model=schemas.ImportedAnswer, dependencies=writes)
    async def import_(
        request: Request,
        file: Annotated[UploadFile, File(description="CSV, GeoJSON or GeoParquet, or ids, one in each line.")],
        name: Annotated[str, Form(min_length=1, max_length=200, description="Of the collection, made if need be.")],
        mark: Annotated[Literal["right", "wrong"], Form(description="Where the file says none.")] = "right",
        by: Annotated[str, Form(max_length=200, description="Where the file does not say by whom.")] = "",
    ) -> Response:
        """Takes the marks of a file into a collection: all of them or, where one cannot be a mark, none."""
        form = await request.form()
        if unknown := [key for key in form if key not in ("file", "name", "mark", "by")]:
            raise QueryError("the form's fields are among file, name, mark, by", unknown[0], "Leave it out.")

        def work(kept: Collections, snapshot: View) -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "file")
                file.file.seek(0)
                path.write_bytes(file.file.read())
                done = import_collection(kept, path, snapshot, name=name, mark=mark, by=by or _UNNAMED)
            found = answers.collection(done.collection, snapshot)
            return {**found, "read": done.read, "changed": done.changed, "absent": answers.some(done.absent)}

        return _json(await service.change_collections(work))

    @router.get("/suggestions", response_model=schemas.SuggestionsAnswer, dependencies=reads)
    async def suggestions(
        label: Annotated[str, Query(min_length=1, max_length=200, description="A label, or a collection.")],
        k: Annotated[int, Query(ge=1, le=MOST, description="Tiles of each kind.")] = 24,
    ) -> Response:
        """Tiles that probably hold a label and do not have it, and those that have it and probably do not."""
        state = await service.state()

        def work(kept: Collections, _: View) -> dict[str, Any]:
            found = suggest_in(whole(state.snapshot), kept.all(), state.encoder.info, labels=[label], most=k)
            return answers.suggested(state, label, found)

        return _json(await service.look_at_collections(work))

    @router.post("/teach", response_model=schemas.TeachingAnswer, dependencies=writes)
    async def teach(given: Annotated[schemas.ToTeach, Body()]) -> Response:
        """Begins to teach the index all labels and collections, in the background; one at a time."""
        whole(service.versions.newest.snapshot)
        return _told(await service.look(lambda: service.teaching.begin(given.loss, given.publish)))

    @router.get("/teach", response_model=schemas.TeachingAnswer, dependencies=reads)
    async def taught() -> Response:
        """How far the last teaching is, and what came of it."""
        return _told(service.teaching.state())

    def _told(state: dict[str, Any]) -> Response:
        return _json(state | {"losses": schemas.TAUGHT_BY})


def _json(answer: dict[str, Any]) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")
