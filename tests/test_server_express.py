"""The short way of plain searches answers as the framework's does, and leaves to it what is out of the ordinary."""

import json
import threading
from dataclasses import replace

import pytest

from macl_tf.server.express import form_of, json_of
from tests.serving_process import Client, load_stub, make_served, name_of, running, upload

KIND = b"multipart/form-data; boundary=x"
IMAGE = b'\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nJPEG'
QUERY = b'\r\nContent-Disposition: form-data; name="query"\r\n\r\n{"k": 3}'


def form(*parts, last=b"\r\n--x--\r\n", first=b"--x"):
    return first + b"\r\n--x".join(parts) + last


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return make_served(tmp_path_factory.mktemp("express") / "served")


@pytest.fixture(scope="module")
def client(served):
    with running(served) as url, Client(url, served) as client:
        yield client


def test_forms_as_clients_send_them_are_taken():
    typed = IMAGE.replace(b"\r\n\r\n", b"\r\nContent-Type: image/jpeg\r\n\r\n")
    for body in (form(IMAGE, QUERY), form(QUERY, typed), form(typed, QUERY, last=b"\r\n--x--")):
        query, picture = form_of(KIND, body)
        assert (query.k, picture) == (3, b"JPEG")
    assert form_of(b'multipart/form-data;boundary="x"', form(IMAGE))[0].k == 10
    assert json_of(b"application/json; charset=utf-8", b'{"k": 4}')[0].k == 4


@pytest.mark.parametrize(
    "body",
    [
        form(QUERY), form(IMAGE, IMAGE), form(IMAGE, QUERY, QUERY), form(IMAGE, last=b""), form(IMAGE, last=b"\r\n--x"),
        form(IMAGE, first=b"y--x"), form(IMAGE, QUERY.replace(b"3", b"0")), form(IMAGE, QUERY.replace(b"k", b"j")),
        form(IMAGE.replace(b"image", b"IMAGE")), form(IMAGE.replace(b"image", b"picture")),
        form(IMAGE.replace(b'"a"', b'""')),
        form(IMAGE.replace(b'; filename="a"', b"")), form(IMAGE, QUERY.replace(b'"query"', b'"query"; filename="q"')),
        form(IMAGE + b"\r\n--xy\r\n"), form(IMAGE, last=b"\r\n--x--\r\nmore"),
        form(IMAGE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n")), b"", b"--x--",
    ],
)  # fmt: skip
def test_other_forms_are_left_to_the_framework(body):
    assert form_of(KIND, body) is None and form_of(b"multipart/form-data", form(IMAGE)) is None
    for kind, text in ((b"text/plain", b"{}"), (b"application/json", b"{"), (b"application/json", b'{"k": 1.5}')):
        assert json_of(kind, text) is None


def test_both_ways_answer_the_same(client):
    def answer(body, kind):
        told = client.post(
            f"/api/v1/search{'' if 'json' in kind else '/image'}", content=body, headers={"Content-Type": kind}
        )
        assert told.status_code == 200, told.text
        return {key: value for key, value in told.json().items() if key != "ms"}, told.headers["content-type"]

    asked = json.dumps({"positive": [{"id": name_of(1)}], "k": 7}).encode()
    assert answer(asked, "application/json") == answer(asked, "application/json; charset=UTF-8; a=b")
    picture = IMAGE.replace(b"JPEG", upload(5))
    odd = picture.replace(b"\r\n\r\n", b"\r\nX-More: 1\r\n\r\n", 1)
    assert form_of(KIND, form(picture, QUERY)) and form_of(KIND, form(odd, QUERY)) is None
    assert answer(form(picture, QUERY), KIND.decode()) == answer(form(odd, QUERY), KIND.decode())


def test_searches_that_wait_together_get_their_own_answers_and_errors(served):
    """While the first is held up others gather; of these one asks for what is not there."""
    entered, open_ = threading.Event(), threading.Event()

    with running(served) as url, Client(url, served) as client:
        from macl_tf.server import service

        find, answers = service.find, {}

        def held_up(*arguments, **how):
            entered.set()
            assert open_.wait(10)
            return find(*arguments, **how)

        def ask(number, id_):
            answers[number] = client.post("/api/v1/search", json={"positive": [{"id": id_}], "k": 2 + number % 2})

        asked = [name_of(number) for number in range(8)] + ["nobody"]
        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(asked)]
        service.find = held_up
        try:
            for thread in threads:
                thread.start()
            assert entered.wait(10)
            open_.set()
            for thread in threads:
                thread.join()
        finally:
            service.find = find
    assert answers.pop(8).status_code == 404
    for number, answer in answers.items():
        told = answer.json()
        assert told["k"] == 2 + number % 2 and len(told["results"]) == told["k"]
        assert name_of(number) not in [result["id"] for result in told["results"]]


def test_ids_are_answered_while_the_encoder_is_being_loaded(served):
    loaded = threading.Event()

    def load(*arguments):
        encoder = load_stub(*arguments)

        def embed(pixels):
            assert loaded.wait(20)
            return encoder.embed_pixels(pixels)

        return replace(encoder, embed_pixels=embed, ready=loaded.is_set)

    with running(served, load=load) as url, Client(url, served) as client:
        assert client.search({"id": name_of(1)})["results"] and client.get("/healthz").status_code == 200
        refused = client.get("/readyz")
        assert refused.status_code == 503 and "encoder is not ready" in refused.json()["error"]["rule"]
        loaded.set()
        assert client.search_image(upload(1))["results"] and client.get("/readyz").status_code == 200
