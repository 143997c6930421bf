"""HTTP as machines speak it: every method of every route, prefixes, health checks, and the lines as they go over it."""

import json
import re
import socket
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from macl_tf.server.app import PAGE
from macl_tf.server.auth import LOOPBACK, Access
from macl_tf.server.paths import Paths
from tests.serving_process import COUNT, SMALL, TOKEN, Client, make_served, name_of, running, upload

ITEM = f"id={name_of(1)}".replace(" ", "%20")
READ, SEARCH = {"GET", "HEAD", "OPTIONS"}, {"POST", "OPTIONS"}
ROUTES = {
    "/api/v1/info": READ,
    "/api/v1/labels": READ,
    "/api/v1/search": SEARCH,
    "/api/v1/search/image": SEARCH,
    "/api/v1/items": READ | {"PUT", "DELETE"},
    "/api/v1/thumbnail": READ,
    "/api/v1/openapi.json": READ,
    "/healthz": READ,
    "/readyz": READ,
    "/metrics": READ,
    "/": READ,
    "/app.js": READ,
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return make_served(tmp_path_factory.mktemp("http") / "served")


@pytest.fixture(scope="module")
def url(served):
    with running(served) as url:
        yield url


@pytest.fixture(scope="module")
def client(url, served):
    with Client(url, served) as client:
        yield client


@pytest.fixture(scope="module")
def nobody(url, served):
    """Without the token."""
    with Client(url, served, token=None) as client:
        yield client


@contextmanager
def talking(url):
    """A connection; what is sent is answered with (status, headers, body), of which only one is read."""
    parts = urlsplit(url)
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=10) as connection,
        connection.makefile("rb") as file,
    ):

        def talk(*lines, body=b"", **how):
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            return answer(**how)

        def answer(bodiless=False, closes=False):
            status = int(file.readline().split()[1])
            headers = {}
            while line := file.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            size = 0 if bodiless or status in (100, 204, 304) else -1 if closes else int(headers["content-length"])
            return status, headers, file.read(size)

        talk.send, talk.answer, talk.rest = connection.sendall, answer, file.read
        yield talk


def address(path):
    return f"{path}?{ITEM}" if path in ("/api/v1/items", "/api/v1/thumbnail") else path


@pytest.mark.parametrize("path", ROUTES)
def test_every_path_takes_the_methods_that_it_says_and_no_others(nobody, path):
    allow = ", ".join(sorted(ROUTES[path]))
    options = nobody.options(path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, allow, b"")
    for method in METHODS:
        answer = nobody.request(method, address(path))
        if method not in ROUTES[path]:  # which no token would change
            assert (answer.status_code, answer.headers["allow"]) == (405, allow), method
        else:
            assert answer.status_code != 405, method


@pytest.mark.parametrize("path", [path for path, methods in ROUTES.items() if "HEAD" in methods])
def test_head_is_get_without_the_body(client, path):
    get, head = client.get(address(path)), client.head(address(path))
    assert get.status_code == head.status_code == 200 and head.content == b"" and get.content
    moving = {"date"} | ({"content-length"} if path == "/metrics" else set())
    assert {k: v for k, v in head.headers.items() if k not in moving} == {
        k: v for k, v in get.headers.items() if k not in moving
    }
    assert int(head.headers["content-length"]) > 0


def test_head_of_what_is_refused_says_the_same(client):
    for path in ("/api/v1/items?id=nobody", "/api/v1/nothing", "/nothing", "/api/v1/items"):
        get, head = client.get(path), client.head(path)
        assert get.status_code == head.status_code >= 400 and head.content == b""
        assert get.headers["content-length"] == head.headers["content-length"]


def test_a_head_leaves_the_connection_usable(url):
    with talking(url) as talk:
        for _ in range(2):
            status, headers, _ = talk("HEAD /healthz HTTP/1.1", "Host: localhost", bodiless=True)
            assert status == 200 and headers["content-length"] == "15"
        assert talk("GET /healthz HTTP/1.1", "Host: localhost")[2] == b'{"status":"ok"}'


NOWHERE = ("/api", "/api/", "/api/v1", "/api/v1/nothing", "/api/v2/info", "/api/v1/x/3", "/api//v1/info", "/healthz/x",
           "/nothing", "/page/app.js", "/favicon.ico")  # fmt: skip


@pytest.mark.parametrize("path", NOWHERE)
def test_what_is_nowhere_is_not_found_whatever_is_done_there(nobody, path):
    for method in METHODS:
        answer = nobody.request(method, path)
        assert answer.status_code == 404, (method, path)
    answer = nobody.get(path)
    if path.startswith("/api"):
        assert answer.json()["error"] == {
            "rule": "Not found", "value": path, "remedy": "The API is described at /api/v1/openapi.json.",
        }  # fmt: skip
    else:
        assert answer.text == f"Not found: {path}. The page is at /.\n"


def test_where_reads_are_protected_a_wrong_path_or_method_is_told_before_the_token(served):
    with running(served, access=Access(TOKEN, protect_reads=True)) as url, Client(url, served, token=None) as client:
        assert client.get("/api/v1/nothing").status_code == 404
        assert client.post("/api/v1/info").status_code == 405
        for path in ("/api/v1/info", "/api/v1/info/", "/metrics", "/metrics/", "/api/v1/openapi.json"):
            assert client.get(path).status_code == client.head(path).status_code == 401, path
        for path in ("/", "/app.js", "/healthz", "/readyz"):
            assert client.get(path).status_code == client.head(path).status_code == 200, path


def test_a_slash_at_the_end_does_not_matter_to_programs(client, nobody):
    for path in ("/api/v1/info", "/api/v1/labels", "/healthz", "/readyz"):
        assert client.get(f"{path}/").json() == client.get(path).json()
    found = client.post("/api/v1/search/", json={"positive": [{"id": name_of(1)}]})
    assert found.status_code == 200 and found.json()["results"]
    assert client.get(f"/api/v1/items/?{ITEM}").json()["item"]["id"] == name_of(1)
    for method in ("PUT", "DELETE"):  # it is no way around the token
        assert nobody.request(method, f"/api/v1/items/?{ITEM}").status_code == 401
    assert client.get("/app.js/").status_code == 404  # links in it would lead elsewhere


@pytest.mark.parametrize("path", ["/%61pi/v1/items", "/api/v1/items%2F", "/api/v1/%69tems/"])
def test_an_escape_is_no_way_around_the_token(nobody, path):
    assert nobody.delete(f"{path}?{ITEM}").status_code == 401


def test_health_checks_are_answered_by_whatever_name_and_version(url):
    with talking(url) as talk:
        assert talk("GET /healthz HTTP/1.1", "Host: 10.1.2.3:8080")[0] == 200
        assert talk("HEAD /readyz HTTP/1.1", "Host: pod.cluster.local", bodiless=True)[0] == 200
        assert talk("GET /metrics HTTP/1.1", "Host: evil.example")[0] == 400
    for line in ("GET /healthz HTTP/1.0", "OPTIONS /healthz HTTP/1.0", "HEAD /readyz HTTP/1.0"):
        with talking(url) as talk:  # as load balancers do by default: without a Host, and the connection ends
            status, headers, _ = talk(line, bodiless=line.startswith("HEAD"))
            assert status == (204 if line.startswith("OPTIONS") else 200) and headers["connection"] == "close"
            assert talk.rest() == b""


def test_a_request_has_one_host(url):
    for lines in ([], ["Host: localhost", "Host: evil.example"], ["Host: evil.example", "Host: localhost"]):
        with talking(url) as talk:
            assert talk("GET /api/v1/info HTTP/1.1", *lines, closes=True)[0] == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]", "[::1]:8080"])
def test_the_server_s_own_names_in_every_spelling(client, host):
    assert client.get("/api/v1/info", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil-localhost", "localhost-evil", "evil.localhost", "localhost.evil", "ocalhost",
                                  "127.0.0.1.evil.example", "1127.0.0.1", "[::2]", "[::1", "localhost:80:80", "[]",
                                  ":80", "localhost@evil.example", "evil.example:localhost"])  # fmt: skip
def test_names_that_only_look_like_it_are_refused(client, host):
    answer = client.get("/api/v1/info", headers={"Host": host})
    assert answer.status_code == 400 and "Host must be one of" in answer.json()["error"]["rule"]


def test_what_the_message_about_a_name_says_helps(served):
    """The name is given as the message shows it, with its port."""
    with running(served) as url, Client(url, served) as client:
        refused = client.get("/api/v1/info", headers={"Host": "Tiles.example.org:8443"}).json()["error"]
        assert "--allow-host" in refused["remedy"]
    access = Access(hosts=(refused["value"], *LOOPBACK))
    with running(served, access=access) as url, Client(url, served) as client:
        assert client.get("/api/v1/info", headers={"Host": "tiles.example.org"}).status_code == 200


def test_the_token_is_the_token(client, nobody):
    """In any case of the scheme; neither a part of it nor nothing."""
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer  "):
        answer = nobody.delete("/api/v1/items?id=nobody", headers={"Authorization": f"{scheme} {TOKEN}"})
        assert answer.json()["deleted"] == 0
    wrong = [TOKEN[:-1], TOKEN[:1], TOKEN[1:], TOKEN * 2, TOKEN.upper(), "''"]
    for given in (*(f"Bearer {token}" for token in wrong), TOKEN, "Bearer", "", f"Basic {TOKEN}", f"Bearer{TOKEN}"):
        answer = nobody.delete("/api/v1/items?id=nobody", headers={"Authorization": given})
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", given


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", f"/api/v1/items?{ITEM}&idx=1", "takes the query parameters id, index"),
        ("GET", f"/api/v1/items?{ITEM}&{ITEM}", "id is given once"),
        ("GET", f"/api/v1/thumbnail?{ITEM}&index=1&index=2", "index is given once"),
        ("GET", f"/api/v1/items?{ITEM}&index=", "index: "),
        ("GET", f"/api/v1/items?{ITEM}&=", "takes the query parameters"),
        ("GET", "/api/v1/info?verbose", "takes no query parameters"),
        ("HEAD", "/api/v1/labels?sort=name", ""),
        ("POST", "/api/v1/search?k=5", "takes no query parameters"),
        ("PUT", f"/api/v1/items?{ITEM}", "takes no query parameters"),
        ("DELETE", f"/api/v1/items?{ITEM}&index=1", "takes the query parameters id"),
    ],
)
def test_a_query_parameter_is_never_passed_over_in_silence(client, method, path, words):
    answer = client.request(method, path)
    assert answer.status_code == 422 and (method == "HEAD" or words in answer.json()["error"]["rule"]), answer.text
    assert client.get("/api/v1/info").json()["index"]["count"] == COUNT


def test_health_checks_may_bear_anything(client):
    assert client.get("/healthz?t=123").status_code == client.get("/app.js?v=2").status_code == 200


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
)
def test_json_may_say_its_charset(client, kind):
    body = json.dumps({"positive": [{"id": name_of(1)}]}).encode()
    assert client.post("/api/v1/search", content=body, headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html", "image/png", "application/xml;q=0.1", ""])
def test_what_a_client_accepts_does_not_change_the_answer(client, accept):
    for path, kind in (("/api/v1/info", "application/json"), (f"/api/v1/thumbnail?{ITEM}", "image/jpeg"),
                       ("/healthz", "application/json")):  # fmt: skip
        answer = client.get(path, headers={"Accept": accept})
        assert answer.status_code == 200 and answer.headers["content-type"] == kind


def test_compressed_bodies_are_refused_for_what_they_are(client):
    for path in ("/api/v1/search", "/api/v1/search/image"):
        answer = client.post(path, content=b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415 and answer.json()["error"]["value"] == "gzip"
    headers = {"Content-Encoding": "identity", "Content-Type": "application/json"}
    body = json.dumps({"positive": [{"id": name_of(1)}]}).encode()
    assert client.post("/api/v1/search", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("path", [f"/api/v1/thumbnail?{ITEM}", "/api/v1/labels", "/app.js"])
def test_what_is_known_is_not_sent_again(client, path):
    whole = client.get(path)
    etag = whole.headers["etag"]
    assert re.fullmatch(r'"[\w-]+"', etag)
    for known in (etag, f"W/{etag}", f'"other", {etag}', f'W/"other",W/{etag}', "*"):
        for method in ("GET", "HEAD"):
            answer = client.request(method, path, headers={"If-None-Match": known})
            assert answer.status_code == 304 and not answer.content, known
            assert answer.headers["etag"] == etag and answer.headers["cache-control"] == whole.headers["cache-control"]
    for known in ('"other"', etag.strip('"'), f'{etag[:-2]}"', ""):
        answer = client.get(path, headers={"If-None-Match": known})
        assert answer.status_code == 200 and answer.content == whole.content, known


def test_labels_are_sent_again_once_they_changed(served):
    with running(served) as url, Client(url, served) as client:
        etag = client.get("/api/v1/labels").headers["etag"]
        client.upsert(upload(77), id="changed")
        answer = client.get("/api/v1/labels", headers={"If-None-Match": etag})
        assert answer.status_code == 200 and answer.json()["total"] == COUNT + 1
        assert client.delete("/api/v1/items?id=changed").json()["deleted"] == 1


@pytest.mark.parametrize("part", ["bytes=0-3", "bytes=-1", "bytes=5-2", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2",
                                  "bytes=999999-", ""])  # fmt: skip
def test_a_part_is_answered_with_the_whole(client, part):
    for path in ("/app.js", f"/api/v1/thumbnail?{ITEM}", "/api/v1/info"):
        answer = client.get(path, headers={"Range": part})
        assert answer.status_code == 200 and answer.content == client.get(path).content
        assert "accept-ranges" not in answer.headers


def test_nothing_is_kept_by_caches_unless_it_says_so(client):
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/info", "/api/v1/nothing", "/nothing", "/", "/app.js"):
        assert client.get(path).headers["cache-control"] == "no-cache", path


def test_a_body_that_would_be_refused_is_not_asked_for(url):
    head = ["Host: localhost", "Expect: 100-continue"]
    for lines, status in (
        (["POST /api/v1/search/image HTTP/1.1", "Content-Type: multipart/form-data; boundary=x",
          "Content-Length: 17000000"], 413),
        (["PUT /api/v1/items HTTP/1.1", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 9"], 401),
        (["POST /api/v1/nothing HTTP/1.1", "Content-Length: 9"], 404),
        (["POST /api/v1/info HTTP/1.1", "Content-Length: 9"], 405),
    ):  # fmt: skip
        with talking(url) as talk:
            got, headers, body = talk(*lines, *head)
            # Whether the body follows all the same, the server cannot know: what comes next may be no request.
            assert got == status and headers["connection"] == "close" and json.loads(body)["error"]
    body = json.dumps({"positive": [{"id": name_of(1)}]}).encode()
    with talking(url) as talk:
        lines = "POST /api/v1/search HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}"
        assert talk(*lines, *head)[0] == 100
        talk.send(body)
        assert talk.answer()[0] == 200


def test_a_large_picture_is_told_its_limit_and_what_to_do(client):
    error = client.search_image(bytes(17 << 20), status=413)["error"]
    assert "an image has at most 200000 bytes (0.2 MiB)" in error["rule"] and "smaller" in error["remedy"]
    error = client.search_image(bytes(200_001), status=413)["error"]
    assert "at most 200000 bytes (0.2 MiB)" in error["rule"] and "smaller" in error["remedy"]


def test_a_connection_is_kept_after_every_answer(url):
    with talking(url) as talk:
        for line, status in (("OPTIONS *", 204), ("GET /api/v1/nothing", 404), ("DELETE /api/v1/items?id=x", 401),
                             ("OPTIONS /", 204), ("GET /api/v1/items?id=nobody", 404), ("PATCH /", 405),
                             ("GET /healthz", 200)):  # fmt: skip
            got, headers, _ = talk(f"{line} HTTP/1.1", "Host: localhost")
            assert got == status and "connection" not in headers
    with talking(url) as talk:
        assert talk("GET /healthz HTTP/1.1", "Host: localhost", "Connection: close")[1]["connection"] == "close"
        assert talk.rest() == b""


@pytest.mark.parametrize("lines", [["\x16\x03\x01\x02\x00"], ["nonsense"], ["GET / HTTP/1.1", "no header"]])
def test_what_is_no_http_is_refused_and_the_connection_ends(url, lines, capfd):
    with talking(url) as talk:
        status, headers, _ = talk(*lines, closes=True)
        assert status == 400 and headers["connection"] == "close"
    assert not capfd.readouterr().err  # what clients do wrong is not for the server's log


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_who_offers_another_protocol_is_answered_in_this_one(url, upgrade, capfd):
    body = json.dumps({"positive": [{"id": name_of(1)}]}).encode()
    with talking(url) as talk:
        status, _, found = talk(
            "POST /api/v1/search HTTP/1.1", "Host: localhost", "Connection: Upgrade, HTTP2-Settings",
            f"Upgrade: {upgrade}", "HTTP2-Settings: AAEAAEAA", "Content-Type: application/json",
            f"Content-Length: {len(body)}", body=body,
        )  # fmt: skip
        assert status == 200 and json.loads(found)["results"]
        assert talk("GET /healthz HTTP/1.1", "Host: localhost")[0] == 200
    assert not capfd.readouterr().err


def test_a_tunnel_is_not_dug(url, capfd):
    with talking(url) as talk:
        status, headers, _ = talk("CONNECT evil.example:443 HTTP/1.1", "Host: evil.example:443", closes=True)
        assert status == 400 and headers["connection"] == "close"
    assert not capfd.readouterr().err


def test_more_connections_than_there_may_be_are_refused(served):
    with running(served, replace(SMALL, connections=3)) as url:
        parts = urlsplit(url)
        others = [socket.create_connection((parts.hostname, parts.port)) for _ in range(3)]
        with talking(url) as talk:
            status, headers, _ = talk("GET /api/v1/info HTTP/1.1", "Host: localhost", closes=True)
        assert (status, headers["connection"]) == (503, "close")
        for other in others:
            other.close()
        for _ in range(100):
            with talking(url) as talk:
                if talk("GET /healthz HTTP/1.1", "Host: localhost", "Connection: close", closes=True)[0] == 200:
                    return
        raise AssertionError("the server stays overloaded")


def test_figures_count_every_kind_of_request(client):
    def counted(method, route, status):
        found = re.search(rf'macl_requests_total{{method="{method}",route="{route}",status="{status}"}} (\S+)',
                          client.get("/metrics").text)  # fmt: skip
        return float(found[1]) if found else 0.0

    for method, path, route, status in (
        ("HEAD", "/healthz", "/healthz", 200),
        ("OPTIONS", "/api/v1/items", "/api/v1/items", 204),
        ("PATCH", "/api/v1/items/", "/api/v1/items", 405),
        ("TRACE", "/api/v1/info", "/api/v1/info", 405),
        ("GET", "/app.js", "page", 200),
        ("GET", "/somewhere", "other", 404),
        ("GET", "/api/v1/nothing", "other", 404),
    ):
        shown = "other" if method == "TRACE" else method
        before = counted(shown, route, status)
        client.request(method, path)
        assert counted(shown, route, status) == before + 1, (method, path)


@pytest.mark.parametrize("how", ["kept", "taken off", "forwarded"])
def test_everything_works_under_a_prefix(served, how):
    """Whether the proxy keeps the prefix, takes it off, or takes it off and says so."""
    root = "" if how == "forwarded" else "/our/tiles"
    said = {"X-Forwarded-Prefix": "/our/tiles"} if how == "forwarded" else {}
    inside = "/our/tiles" if how == "kept" else ""
    with running(served, root_path=root) as url, Client(url, served) as client:
        client.headers.update(said)
        assert client.get(f"{inside}/").text == (PAGE / "index.html").read_text()
        assert client.get(f"{inside}/app.js").status_code == client.get(f"{inside}/healthz").status_code == 200
        assert client.get(f"{inside}/api/v1/info/").json()["index"]["count"] == COUNT
        found = client.post(f"{inside}/api/v1/search", json={"positive": [{"id": name_of(1)}]}).json()
        picture = client.get(f"{inside}/api/v1/{found['results'][0]['thumbnail']}")
        assert picture.headers["content-type"] == "image/jpeg"
        description = client.get(f"{inside}/api/v1/openapi.json").json()
        assert description["servers"] == [{"url": "/our/tiles"}]
        assert " /our/tiles/api/v1/openapi.json" in client.get(f"{inside}/api/v1/nothing").json()["error"]["remedy"]
        text = client.post(f"{inside}/api/v1/search", content=b"{}", headers={"Content-Type": "text/plain"})
        assert text.status_code == 415 and "application/json" in text.json()["error"]["remedy"]
        assert client.put(f"{inside}/api/v1/items", headers={"Authorization": "none"}).status_code == 401
        assert client.options(f"{inside}/api/v1/items").headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PUT"
        if how == "kept":
            moved = client.get("/our/tiles?x=1")
            assert moved.status_code == 308 and moved.headers["location"] == "/our/tiles/?x=1"
            assert client.get("/our/tilesapi/v1/info").status_code == client.get("/tiles/").status_code == 404


def test_a_prefix_may_be_the_name_of_something_inside():
    paths = Paths({"/api/v1/info": {"GET": set()}}, ["index.html"], "/api/")
    for path in ("/api/api/v1/info", "/api/v1/info", "/api/healthz", "/healthz"):
        assert paths.place(path).methods, path
    assert paths.place("/api").to_folder and paths.place("/api/").path == "/"


@pytest.mark.parametrize(
    "forwarded", ["//evil.example", "https://evil.example", "/a b", "/a\\b", "/a//b", "/%0d", "evil"]
)
def test_a_forwarded_prefix_that_cannot_be_one_is_not_believed(forwarded):
    paths = Paths({}, [])
    assert paths.place("/", forwarded).prefix == "" and paths.place(forwarded, forwarded).to_folder is False


@pytest.mark.parametrize("root", ["tiles", "/a b", "//a", "/a?b", "http://x/tiles", "/ä"])
def test_a_prefix_that_cannot_be_is_refused(root):
    with pytest.raises(ValueError, match="--root-path must be like /tiles"):
        Paths({}, [], root)
