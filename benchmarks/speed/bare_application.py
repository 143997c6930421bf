"""The floor of `server_load`: an ASGI application under uvicorn that does what a search cannot do without.

    python -m benchmarks.speed.bare_application SERVED

`POST /api/v1/search/image` takes the picture out of the form, decodes it and sends it through the same SavedModel,
together with those that came meanwhile; its answer is empty. `POST /api/v1/search` reads the first id, asks the same
index for the tiles next to it, and answers the same JSON as the service. Nothing is checked, counted or limited.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import uvicorn
from PIL import Image

from macl_tf.index.index import Index
from macl_tf.search.encoders import Encoder, load_encoder
from macl_tf.server.server import listen, url_of


class Pictures:
    """A thread that decodes and embeds whatever has come."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._changed = threading.Condition()
        encoder.embed_pixels(encoder.reader.blank(encoder.image_size)[None])
        threading.Thread(target=self._work, daemon=True).start()

    async def embed(self, picture: bytes) -> None:
        """Returns when the picture was embedded."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._waiting.append((picture, future))
            self._changed.notify()
        await future

    def _work(self) -> None:
        size = self._encoder.image_size
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                batch, self._waiting = self._waiting[:64], self._waiting[64:]
            pixels = [self._encoder.reader.resize(np.asarray(Image.open(io.BytesIO(data))), size) for data, _ in batch]
            self._encoder.embed_pixels(np.stack(pixels))
            batch[0][1].get_loop().call_soon_threadsafe(_answer, [future for _, future in batch])


def _answer(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def neighbours(index: Index, id_: str) -> bytes:
    """What the service answers to a search by id."""
    snapshot = index.snapshot
    (vector,) = snapshot.vectors_of([id_])
    results = []
    for hit in snapshot.search(vector[None], k=12)[0]:
        if hit.id == id_ or len(results) == 10:
            continue
        item = snapshot.describe(hit.id)
        told = {name: item[name] for name in ("id", "labels", "split", "source", "date")}
        where = {"bbox": None, "thumbnail": f"thumbnail?id={quote(hit.id, safe='')}"}
        results.append({"rank": len(results) + 1, "score": round(hit.score, 6), **told, **where, "shared": []})
    query = {"vector": None, "labels": [], "preview": None}
    versions = {"model_version": 1, "index_version": snapshot.version}
    ms = {"decode": 0.0, "encode": 0.0, "search": 0.0}
    told = {**versions, "more": True, "query": query, "results": results, "k": 10, "offset": 0, "ms": ms}
    return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)


def application(pictures: Pictures, index: Index) -> Callable[..., Awaitable[None]]:
    """The ASGI application."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"].endswith("image"):
            await pictures.embed(body[body.index(b"\r\n\r\n") + 4 : body.rindex(b"\r\n--", 0, len(body) - 2)])
            said = b"{}"
        else:
            said = neighbours(index, orjson.loads(body)["positive"][0]["id"])
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(said)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said})

    return answer


def main() -> None:
    """Serves a folder until it is ended; prints the URL."""
    served = Path(sys.argv[1])
    index = Index.open(served / "index", verify=False)
    index.snapshot.holds("")
    app = application(Pictures(load_encoder(served, index.snapshot.info["encoder"])), index)
    with listen("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0) as listener:
        print(f"Bare at {url_of(listener)}", flush=True)
        config = uvicorn.Config(app, http="httptools", access_log=False, log_level="error", lifespan="off")
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
