"""Too much, too slow, too many: refused or closed, and nobody else notices."""

import io
import socket
import struct
import threading
import time
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest

from macl_tf.datasets.images import decode_image
from macl_tf.datasets.picture_kinds import RULE, PictureError
from macl_tf.server.auth import Access
from macl_tf.server.errors import Refused
from macl_tf.server.service import decode
from macl_tf.server.settings import Limits
from tests.pictures import blank_png, encoded, good_pictures, pictures_of_other_kinds, pixels, png
from tests.serving_process import SMALL, Client, make_served, name_of, running, upload
from tests.tiffs import read_tiffs, refused_tiffs

pytestmark = pytest.mark.slow

HURRIED = replace(SMALL, body_seconds=0.6)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return make_served(tmp_path_factory.mktemp("limits") / "served")


@pytest.fixture(scope="module")
def url(served):
    with running(served) as url:
        yield url


@pytest.fixture
def client(url, served):
    with Client(url, served) as client:
        yield client


@pytest.fixture(scope="module")
def hurried(served):
    with running(served, HURRIED) as url:
        yield url


def connect(url):
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    return connection


def read_all(connection):
    """Everything until the server closes the connection."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def test_every_kind_of_picture_is_read(client):
    for name, data in good_pictures().items():
        assert client.search_image(data)["results"], name
    for kind in ("TIFF", "WEBP"):
        assert client.search_image(encoded(pixels(), kind))["results"], kind


def bombs():
    tiff = bytearray(encoded(pixels(height=8, width=8), "TIFF"))
    ifd = struct.unpack_from("<I", tiff, 4)[0]
    for entry in range(struct.unpack_from("<H", tiff, ifd)[0]):
        tag = struct.unpack_from("<H", tiff, ifd + 2 + 12 * entry)[0]
        if tag in (256, 257):  # width, length
            struct.pack_into("<HII", tiff, ifd + 2 + 12 * entry + 2, 4, 1, 60_000)
    return {
        "png over the limit": blank_png(501, 500),
        "png of 100 million pixels": blank_png(10_000, 10_000),
        "png that only says so": png(2**31 - 1, 2**31 - 1, 8, 2, b""),
        "tiff that only says so": bytes(tiff),
        "gif of 4 billion pixels": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pixels_are_counted_before_decoding(client):
    assert client.search_image(blank_png(500, 500))
    for name, data in bombs().items():
        error = client.search_image(data, status=413)["error"]
        assert "at most 250000 pixels" in error["rule"], name


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG"])
def test_a_picture_over_the_limit_is_never_decoded(monkeypatch, kind):
    """It is what decoding costs that the limit is for."""

    def load(*_):
        raise AssertionError("it was decoded")

    data = encoded(np.zeros((501, 500, 3), np.uint8), kind)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(Refused, match="at most 250000 pixels") as refused:
        decode(data, 8, replace(SMALL, bytes=len(data)))
    assert refused.value.status_code == 413


def test_bytes_are_counted_before_they_are_kept(client):
    large = encoded(np.random.default_rng(0).integers(0, 256, (270, 270, 3), np.uint8), "BMP")
    assert len(large) > 200_000
    assert "at most 200000 bytes" in client.search_image(large, status=413)["error"]["rule"]
    assert "a request has at most" in client.search_image(large * 3, status=413)["error"]["rule"]

    answer = client.post("/api/v1/search", content=(b"[" * 10_000 for _ in range(30)),
                         headers={"Content-Type": "application/json"})  # fmt: skip
    assert answer.status_code == 413  # without a Content-Length
    assert client.get("/healthz").status_code == 200


def test_junk_is_refused(client):
    for data in (b"", b"text", b"\x00" * 1000, b"%PDF-1.4", b"<svg onload='alert(1)'/>", b"PK\x03\x04" * 50):
        assert "an image must be one of JPEG" in client.search_image(data, status=415)["error"]["rule"]
    floats = io.BytesIO()
    from PIL import Image

    Image.fromarray(np.zeros((4, 4), np.float32)).save(floats, "TIFF")
    assert client.search_image(floats.getvalue(), status=422)
    assert client.search_image(upload(1)[:-30], status=422)


def test_pictures_of_other_kinds_are_refused_with_the_sentence_of_all_others(client):
    """By both ways in, with what they are and what to do; those of a format that is never read with 415."""
    kinds = {name: data for name, (data, _) in refused_tiffs().items()} | pictures_of_other_kinds()
    for name, data in kinds.items():
        if len(data) > 200_000:  # 65,536 colours; more bytes than this service takes
            continue
        with pytest.raises(PictureError) as caught:
            decode_image(data, "x")
        error = client.search_image(data, status=422)["error"]
        assert error == client.upsert(data, status=422, id="x")["error"], name
        assert error == {"rule": f"an image {RULE}", "value": caught.value.got, "remedy": caught.value.remedy}, name
    jp2 = encoded(pixels(), "JPEG2000")
    error = client.search_image(jp2, status=415)["error"]
    assert error["rule"] == f"an image {RULE}" and error["value"] == "3 bands of 8-bit integers (JPEG 2000)"


def test_tiffs_of_every_layout_are_taken_for_what_they_are(client):
    planar, _ = read_tiffs()["black is zero, planar"]
    results = client.search_image(planar, k=5)["results"]
    assert results == client.search_image(encoded(pixels(), "PNG"), k=5)["results"]


def test_a_body_that_does_not_come_is_given_up(hurried, served):
    head = b"POST /api/v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(hurried) as slow, Client(hurried, served) as client:
        slow.sendall(head + b"Content-Length: 1000\r\n\r\n{")
        begin = time.monotonic()
        assert client.search({"id": name_of(1)})["results"]  # nobody else waits
        answer = read_all(slow)
        assert b" 408 " in answer.splitlines()[0] and b"must arrive within 0.6 seconds" in answer
        assert time.monotonic() - begin < 5


def test_headers_without_end_are_cut(url):
    with connect(url) as connection, pytest.raises(OSError):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        for number in range(10_000):
            connection.sendall(b"X-%d: " % number + b"y" * 8192 + b"\r\n")


IN_CHUNKS = b"POST /api/v1/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "begin",
    [b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", IN_CHUNKS + b"2\r\n{}\r\n0\r\nX: ", IN_CHUNKS + b"2;"],
)
def test_a_line_without_end_is_cut_wherever_it_stands(url, begin):
    with connect(url) as connection, pytest.raises(OSError):
        connection.sendall(begin)
        for _ in range(10_000):
            connection.sendall(b"y" * 8192)


def test_one_client_has_so_many_requests_at_most(served):
    """Where a proxy makes many clients of one address, whom its header tells apart."""
    import asyncio

    import httpx

    from macl_tf.server.app import open_app
    from macl_tf.server.settings import Options
    from tests.serving_process import load_stub

    app = open_app(served, Access(), replace(SMALL, per_client=2), Options(),
                   load=lambda *arguments: load_stub(*arguments, pause=0.2))  # fmt: skip

    async def ask():
        asking = {name: httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(name, 1)), base_url="http://x")
                  for name in ("one", "two")}  # fmt: skip
        answers = await asyncio.gather(
            *(
                asking[name].post("/api/v1/search/image", files={"image": ("a", upload(1))})
                for name in ("one", "one", "one", "two")
            )
        )
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200, 200, 429, 200]


def test_one_client_announces_so_many_bytes_at_most(served):
    """What is announced may come to lie on disk, so it is counted before it comes."""
    head = b"POST /api/v1/search/image HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with running(served) as url:
        waiting = [connect(url) for _ in range(64)]
        for connection in waiting:
            connection.sendall(head + b"Content-Length: 200000\r\n\r\n--x")
        with Client(url, served) as client:
            for _ in range(100):  # until the last of them has been counted
                answer = client.post("/api/v1/search/image", files={"image": ("a", upload(1))})
                if answer.status_code == 429:
                    break
                time.sleep(0.02)
            assert "bytes in uploads" in answer.json()["error"]["rule"] and answer.headers["retry-after"] == "1"
            assert client.search({"id": name_of(1)})["results"]  # which is no upload
            for connection in waiting:
                connection.close()
            for _ in range(100):
                answer = client.post("/api/v1/search/image", files={"image": ("a", upload(1))})
                if answer.status_code == 200:
                    break
                time.sleep(0.02)
            assert answer.status_code == 200


def test_more_work_than_can_be_done_is_refused_and_what_was_begun_is_done(served):
    from concurrent.futures import ThreadPoolExecutor

    from macl_tf.server.settings import Options

    with (
        running(served, options=Options(batch_size=1, backlog=3), pause=0.1) as url,
        Client(url, served) as client,
        ThreadPoolExecutor(16) as pool,
    ):

        def ask(_):
            answer = client.post("/api/v1/search/image", files={"image": ("a", upload(1))})
            assert answer.status_code == 200 or answer.headers["retry-after"] == "1"
            return answer.status_code

        statuses = list(pool.map(ask, range(16)))
        assert set(statuses) == {200, 503} and client.search_image(upload(1))


def test_a_request_under_way_is_answered_when_the_server_ends(served):
    answers = []

    def ask(url):
        with Client(url, served) as client:
            answers.append(client.search_image(upload(1)))

    with running(served, pause=0.5) as url:
        thread = threading.Thread(target=ask, args=[url])
        thread.start()
        time.sleep(0.25)
    thread.join()
    assert answers[0]["results"]


def test_limits_must_make_sense():
    with pytest.raises(ValueError, match="the limit k must be > 0, got 0"):
        Limits(k=0)
    with pytest.raises(ValueError, match="the limit pixels must be <= 64000000, got 64000001"):
        Limits(pixels=64_000_001)
