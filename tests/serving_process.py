"""A service with a stub encoder, on a real port, over a folder like one that `macl export` writes."""

import contextlib
import json
import re
import sys
import tempfile
import threading
from pathlib import Path

import httpx
import numpy as np

from macl_tf.artifacts import open_encoder, publish
from macl_tf.datasets.images import resize_image, thumbnail
from macl_tf.index.index import build_index
from macl_tf.index.items import Items
from macl_tf.search.encoders import Encoder
from macl_tf.server.app import open_app
from macl_tf.server.auth import LOOPBACK, Access
from macl_tf.server.metrics import count_together, forget
from macl_tf.server.server import listen, server_of, url_of
from macl_tf.server.settings import Limits, Options
from macl_tf.server.shared import Shared
from macl_tf.server.versions import Versions
from macl_tf.server.workers import Workers
from tests.pictures import encoded
from tests.stub_encoder import DIM, SIZE, StubEncoder

LABELS = ("sea", "sand", "dock", "wood", "snow")
TOKEN = "a token for tests only".replace(" ", "-")
SMALL = Limits(bytes=200_000, pixels=250_000, k=50, batch=4)
COUNT = 40
ARCHIVE = "harbour"  # which is not what the encoder was trained on


def tile(number):
    """A tile of one colour and some noise, the same for a number."""
    generator = np.random.default_rng(number)
    noise = generator.integers(-20, 20, (16, 16, 3))
    return np.clip(generator.integers(30, 225, 3) + noise, 0, 255).astype(np.uint8)


def upload(number):
    return encoded(tile(number), "PNG")


def vectors_of(numbers, key="a", dim=DIM):
    """What the stub encoder of that key makes of tiles; keys differ in the order of dimensions."""
    pixels = np.stack([resize_image(tile(number), SIZE) for number in numbers])
    return embed_with(StubEncoder(), key, dim, pixels)


def embed_with(stub, key, dim, pixels):
    return np.tile(np.roll(stub.embed_pixels(pixels), ord(key), axis=1), dim // DIM) / (dim // DIM) ** 0.5


def name_of(number):
    return f"part {number % 3}/tile{number:03d}.png"


def items_of(numbers):
    """Tiles with labels, parts and dates; every second one has a place, one of them across the antimeridian."""
    generator = np.random.default_rng(0)
    labels = generator.random((max(numbers) + 1, len(LABELS))) < (0.6, 0.5, 0.4, 0.2, 0.12)
    corners = np.full((len(numbers), 4, 2), np.nan)
    for row, number in enumerate(numbers):
        if number % 2 == 0:
            west = -181 + number * 9 if number else 179.5
            box = [(west, 2), (west + 1, 2), (west + 1, 1), (west, 1)]
            corners[row] = [((x + 180) % 360 - 180, y) for x, y in box]
    return Items.of(
        LABELS,
        [name_of(number) for number in numbers],
        labels[list(numbers)].astype(np.uint8),
        paths=[f"/home/secret/{number}" for number in numbers],
        splits=["train" if number % 4 else "test" for number in numbers],
        footprints=corners,
        dates=[f"2020-{1 + number % 12:02d}-01" for number in numbers],
    )


def publish_encoder(served, key, image_size=SIZE, dim=DIM):
    """A version of the encoder that is only known by its key; without an image size, of vectors from elsewhere."""
    facts = {"descriptor": "projection", "dim": dim, "image_size": image_size, "sha256": key * 64,
             "dataset": {"name": "stub", "licence": "Of the stub."}, "figures": {},
             "settings": {"trainable": "all", "features": "", "embedding_dim": DIM}}  # fmt: skip
    with publish(served / "encoder", "encoder") as staging:
        staging.info.update(facts)
        (staging.path / "key").write_text(key)
    version = int(staging.published.name)
    return {"version": version, "uuid": uuid_of(served, version)}


def uuid_of(served, version):
    from macl_tf.export.exporting import encoder_identity

    return encoder_identity(served, version)["uuid"]


def publish_index(served, made_with, key, numbers=range(COUNT), keep=0, dim=DIM):
    small = [thumbnail(tile(number), 8) for number in numbers]
    build_index(
        served / "index",
        items_of(list(numbers)),
        vectors_of(numbers, key, dim),
        info={"encoder": made_with, "archive": {"name": ARCHIVE, "tiles": len(numbers), "sha256": "0" * 64}},
        thumbnails=small,
        keep=keep,
        progress=False,
    )


def make_served(folder):
    """A served folder with one version of each."""
    publish_index(folder, publish_encoder(folder, "a"), "a")
    return folder


def load_stub(served, made_with, url=None, *, pause=0.0, stub=None):
    """Loads the encoder of a folder of `make_served`."""
    facts = open_encoder(served, made_with)[1]["info"]
    stub, key = stub or StubEncoder(pause=pause), facts["sha256"][0]
    return Encoder(made_with["version"], facts, lambda pixels: embed_with(stub, key, facts["dim"], pixels))


def stub_versions(served, options=None, **how):
    return Versions(Path(served), options or Options(), lambda *arguments: load_stub(*arguments, **how))


@contextlib.contextmanager
def running(
    served,
    limits=SMALL,
    access=None,
    options=None,
    refresh=0.05,
    load=None,
    root_path="",
    base_map=None,
    tiles=None,
    index="",
    **how,
):
    """A server in threads of this process; yields its URL."""
    access = access or Access(TOKEN, hosts=LOOPBACK)
    started, listener = threading.Event(), listen("127.0.0.1", 0)
    app = open_app(Path(served), access, limits, options or Options(), refresh=refresh, root_path=root_path,
                   base_map=base_map, tiles=tiles, index=index,
                   load=load or (lambda *arguments: load_stub(*arguments, **how)),
                   started=started.set)  # fmt: skip
    server = server_of(app, limits)
    thread = threading.Thread(target=server.run, args=[[listener]])
    thread.start()
    try:
        assert started.wait(20), "the server does not start"
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join()


class Client(httpx.Client):
    """Looks at every answer: form of errors, headers, and that nothing of the machine is told."""

    def __init__(self, url, served, token=TOKEN, **options):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        options = {"timeout": 30, "trust_env": False} | options
        super().__init__(base_url=url, headers=headers, **options)
        self.secrets = [str(served), str(Path(served).parent), "/home/secret", "site-packages", "Traceback"]

    def request(self, *arguments, **options):
        answer = super().request(*arguments, **options)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        told = answer.text + str(answer.headers)
        assert not [secret for secret in self.secrets if secret in told]
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:;")
        assert answer.headers["x-content-type-options"] == "nosniff" and "server" not in answer.headers
        if answer.status_code >= 400:
            if not re.search(r"/(api(/.*)?|healthz/?|readyz/?|metrics/?)$", answer.url.path):  # where the page is
                assert answer.headers["content-type"] == "text/plain; charset=utf-8"
                return answer
            assert answer.headers["content-type"] == "application/json"
            if answer.request.method == "HEAD":
                assert not answer.content
                return answer
            assert list(answer.json()) == ["error"] and list(answer.json()["error"]) == ["rule", "value", "remedy"]
            assert answer.json()["error"]["rule"] and answer.json()["error"]["remedy"]
        return answer

    def search(self, *positive, status=200, **query):
        answer = self.post("/api/v1/search", json={"positive": list(positive), **query})
        assert answer.status_code == status, answer.text
        return answer.json()

    def search_image(self, data, status=200, **query):
        form = {"query": json.dumps(query)} if query else None
        answer = self.post("/api/v1/search/image", files={"image": ("../../etc/passwd", data)}, data=form)
        assert answer.status_code == status, answer.text
        return answer.json()

    def upsert(self, data, status=200, **fields):
        answer = self.put("/api/v1/items", files={"image": ("x", data)}, data=fields)
        assert answer.status_code == status, answer.text
        return answer.json()


def main():
    """Serves a folder of `make_served` in a process of its own, until it is ended; prints the URL.

    With a number behind it in so many workers, which look for what others wrote when they are told to; with an address
    the index there.
    """
    listener, workers = listen("127.0.0.1", 0), int(sys.argv[2]) if sys.argv[2:] and sys.argv[2].isdigit() else 1
    index = "".join(sys.argv[2:]) if workers == 1 else ""

    def serve(shared, ready):
        app = open_app(Path(sys.argv[1]), Access(TOKEN), SMALL, Options(), load=load_stub, shared=shared, started=ready,
                       index=index, refresh=3600 if shared else 2)  # fmt: skip
        server_of(app, SMALL, shared).run([listener])

    def told():
        print(url_of(listener), flush=True)

    if workers == 1:
        serve(None, told)
        return
    with tempfile.TemporaryDirectory() as folder:
        shared = Shared(workers, Path(folder))
        count_together(Path(folder))
        died = lambda number, pid: (shared.forget(number), forget(pid))  # noqa: E731
        Workers(workers, lambda number, ready: serve(shared.of(number), ready), told, died).run()
