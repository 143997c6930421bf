"""Upserts and deletes over HTTP, who may make them, and versions that appear while requests are under way."""

import io
import threading
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.server.auth import Access
from macl_tf.server.settings import Options
from macl_tf.server.versions import Versions
from tests.serving_process import (
    COUNT,
    TOKEN,
    Client,
    items_of,
    load_stub,
    make_served,
    name_of,
    publish_encoder,
    publish_index,
    running,
    stub_versions,
    upload,
    uuid_of,
    vectors_of,
)


@pytest.fixture
def served(tmp_path):
    return make_served(tmp_path / "served")


@pytest.fixture(scope="module")
def one_for_all(tmp_path_factory):
    """A served folder and a client of its server, for tests after which all is as before."""
    served = make_served(tmp_path_factory.mktemp("unchanged") / "served")
    with running(served) as url, Client(url, served) as client:
        yield served, client


@pytest.fixture
def unchanged(one_for_all):
    """The client of a server whose index a test leaves as it is."""
    served, client = one_for_all

    def state():
        sizes = {path: path.stat().st_size for path in (served / "index").iterdir()}
        return sizes, Index.open(served / "index").snapshot.revision

    before = state()
    yield client
    assert state() == before


def test_what_was_written_is_found_at_once_and_after_a_restart(served):
    with running(served) as url, Client(url, served) as client:
        written = client.upsert(upload(90), id="new/north ü.png", labels=["sea", "snow"], date="2021-05-06",
                                source="drone", bbox="179.5,1,-179.5,2")  # fmt: skip
        assert written == {"id": "new/north ü.png", "new_labels": [], "model_version": 1, "index_version": 1}
        found = client.search_image(upload(90), k=1)["results"][0]
        assert found["id"] == "new/north ü.png" and found["score"] == pytest.approx(1, abs=1e-5)
        assert client.get("/api/v1/info").json()["index"]["count"] == COUNT + 1
        assert client.get("/api/v1/labels").json()["total"] == COUNT + 1
        assert client.delete("/api/v1/items", params={"id": name_of(3)}).json()["deleted"] == 1
        assert client.delete("/api/v1/items", params={"id": name_of(3)}).json()["deleted"] == 0
        assert client.get("/api/v1/items", params={"id": name_of(3)}).status_code == 404
    with running(served) as url, Client(url, served) as client:
        item = client.get("/api/v1/items", params={"id": "new/north ü.png"}).json()["item"]
        assert item["labels"] == ["sea", "snow"] and item["date"] == "2021-05-06" and item["source"] == "drone"
        assert item["bbox"] == [179.5, 1, -179.5, 2]
        assert client.get(f"/api/v1/{item['thumbnail']}").content[:2] == b"\xff\xd8"
        assert client.search({"id": name_of(3)}, status=404)
        assert client.search({"id": "new/north ü.png"}, k=50, filter={"bbox": [170, 0, 180, 3]})["results"]


def test_an_id_is_replaced_and_the_file_s_name_is_never_used(served):
    with running(served) as url, Client(url, served) as client:
        client.upsert(upload(90), id=name_of(3))
        assert client.search_image(upload(90), k=1)["results"][0]["id"] == name_of(3)
        made = client.upsert(upload(91))["id"]
        assert made.startswith("sha256-") and client.upsert(upload(91))["id"] == made
        assert client.get("/api/v1/info").json()["index"]["count"] == COUNT + 1
    items = Index.open(served / "index").items
    assert {items.paths[list(items.ids).index(id_)] for id_ in (name_of(3), made)} == {""}


def test_facts_of_the_header_are_read_and_what_is_not_sent_is_kept(served, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    from tests.test_footprints import write_geotiff

    path = write_geotiff(tmp_path / "t.tif", (1 / 64, 0, 8, 0, -1 / 64, 46), "EPSG:4326")
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2021:07:03 10:15:00")

    def told(id_):
        item = client.get("/api/v1/items", params={"id": id_}).json()["item"]
        return [item[name] for name in ("labels", "date", "bbox", "split", "source")]

    with running(served) as url, Client(url, served) as client:
        client.upsert(path.read_bytes(), id="t", labels=["sea", "dock"], split="test", source="drone")
        whole = [["sea", "dock"], "2021-07-03", [8, 45, 9, 46], "test", "drone"]
        assert told("t") == whole
        client.upsert(upload(90), id="t")
        assert told("t") == whole
        found = client.search_image(upload(90), filter={"bbox": [8.5, 45.2, 8.6, 45.3], "since": "2021-07-03"})[
            "results"
        ]
        assert [result["id"] for result in found] == ["t"]
        client.upsert(path.read_bytes(), id="t", date="2020-02-29", bbox="1,2,3,4")
        assert told("t") == [["sea", "dock"], "2020-02-29", [1, 2, 3, 4], "test", "drone"]
        client.upsert(upload(91), id="t", labels="", date="", split="")
        assert told("t") == [[], None, [1, 2, 3, 4], None, "drone"]
        client.upsert(path.read_bytes(), id="t", bbox="", source="")
        assert told("t") == [[], "2021-07-03", None, None, None]
        before = told(name_of(4))
        client.upsert(upload(92), id=name_of(4))
        assert told(name_of(4)) == before and before[1:4] == ["2020-05-01", before[2], "test"] and before[2]


@pytest.mark.parametrize(
    ("method", "path", "fields", "words"),
    [
        (
            "PUT",
            "items",
            {"label": "sea"},
            "the form's fields are among image, id, labels, date, source, bbox, split",
        ),
        ("PUT", "items", {"bounds": "1,2,3,4"}, "the form's fields are among image, id,"),
        ("PUT", "items", {"date": ["2020-01-01", "2021-01-01"]}, "date is given once"),
        ("POST", "search/image", {"k": "5"}, "the form's fields are among image, query"),
    ],
)
def test_a_misspelt_field_is_refused_and_not_passed_over(unchanged, method, path, fields, words):
    answer = unchanged.request(method, f"/api/v1/{path}", files={"image": ("x", upload(90))}, data=fields)
    assert answer.status_code == 422 and words in answer.json()["error"]["rule"], answer.text


def test_a_second_picture_is_refused(unchanged):
    files = [("image", ("x", upload(90))), ("image", ("y", upload(91)))]
    assert unchanged.put("/api/v1/items", files=files).json()["error"]["rule"] == "image is given once"


@pytest.mark.parametrize("size", [0, 5, 16])
def test_small_pictures_are_as_large_as_the_index_has_them(tmp_path, size):
    made_with = publish_encoder(tmp_path / "served", "a")
    info = {"encoder": made_with, "built": {"thumbnail_size": size}}
    build_index(tmp_path / "served" / "index", items_of([1]), vectors_of([1]), info=info, progress=False)
    with running(tmp_path / "served") as url, Client(url, tmp_path / "served") as client:
        client.upsert(upload(90), id="new")
        answer = client.get("/api/v1/thumbnail", params={"id": "new"})
        if size:
            with Image.open(io.BytesIO(answer.content)) as small:
                assert max(small.size) == size
        else:
            assert answer.status_code == 404 and "macl export --thumbnail 256" in answer.json()["error"]["remedy"]


def test_an_upsert_beside_an_index_with_other_labels_is_checked_against_these(served):
    with running(served, refresh=3600) as url, Client(url, served) as client:
        made_with = {"version": 1, "uuid": uuid_of(served, 1)}
        items = Items.of(("sea", "harbour"), ["a"], [[1, 1]])
        build_index(served / "index", items, vectors_of([1]), info={"encoder": made_with}, progress=False)
        error = client.upsert(upload(90), id="new", labels=["sea", "harbor"], status=422)["error"]
        assert "Did you mean harbour?" in error["remedy"]
        assert client.upsert(upload(90), id="new", labels=["sea"])["index_version"] == 2
    assert Index.open(served / "index").describe("new")["labels"] == ["sea"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "x" * 513}, "id: "),
        ({"id": "line\nbreak"}, "id has printable letters only"),
        ({"source": "\0"}, "source has printable letters only"),
        ({"split": "a\tb"}, "split has printable letters only"),
        ({"labels": ["sae"]}, "a label is one of those that there are, or unlike all of them"),
        ({"date": "soon"}, "date: "),
        ({"bbox": "1,2,3"}, "a box must be west, south, east, north"),
        ({"bbox": "0,10,1,5"}, "a box must be west, south, east, north"),
        ({"bbox": "-100,0,100,5"}, "less than 180 degrees"),
        ({"bbox": "nan,0,1,1"}, "a box must be west, south, east, north"),
    ],
)
def test_a_refused_upsert_changes_nothing(unchanged, fields, words):
    answer = unchanged.put("/api/v1/items", files={"image": ("x", upload(90))}, data=fields)
    assert answer.status_code == 422 and words in answer.json()["error"]["rule"], answer.text


def test_a_file_that_is_no_picture_changes_nothing(unchanged):
    assert unchanged.upsert(b"junk", status=415) and unchanged.upsert(upload(90)[:60], status=422)


def test_an_empty_field_is_one_that_was_not_filled_in(served):
    with running(served) as url, Client(url, served) as client:
        assert client.upsert(upload(90), id="")["id"].startswith("sha256-")


def test_writes_need_the_token_and_reads_only_if_so_set(served):
    reads = ["/api/v1/info", "/api/v1/labels", f"/api/v1/thumbnail?id={name_of(1)}", "/metrics"]
    with running(served) as url, Client(url, served, token=None) as client:
        assert [client.get(path).status_code for path in reads] == [200] * 4
        for header in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"},
                       {"Authorization": "Bearer \xff".encode("latin-1")}):  # fmt: skip
            for method in ("PUT", "DELETE"):
                answer = client.request(method, f"/api/v1/items?id={name_of(1)}", headers=header)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert len(Index.open(served / "index")) == COUNT
    with running(served, access=Access(TOKEN, protect_reads=True)) as url:
        with Client(url, served, token=None) as client:
            assert [client.get(path).status_code for path in reads] == [401] * 4
            assert client.search(status=401) and client.search_image(upload(1), status=401)
            assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200] * 2
        with Client(url, served) as client:
            assert [client.get(path).status_code for path in reads] == [200] * 4
            assert client.get("/api/v1/openapi.json").json()["paths"]["/api/v1/info"]["get"]["security"]
    with running(served, access=Access()) as url, Client(url, served) as client:
        assert not client.get("/api/v1/info").json()["writable"]
        assert client.upsert(upload(1), status=403)


def test_tokens_that_can_be_guessed_are_refused():
    for token in ("short", "with a blank in it", "ünïcödé-ünïcödé-ü"):
        with pytest.raises(ValueError, match="at least 16 letters"):
            Access(token)
    with pytest.raises(ValueError, match="--protect-reads needs a token"):
        Access(protect_reads=True)


def test_on_loopback_only_its_own_names_are_answered(served):
    with running(served) as url, Client(url, served) as client:
        for host, status in (("localhost:99", 200), ("127.0.0.1", 200), ("[::1]:8080", 200), ("evil.example", 400),
                             ("localhost.evil.example", 400), ("", 400)):  # fmt: skip
            assert client.get("/api/v1/info", headers={"Host": host}).status_code == status, host


@pytest.mark.parametrize("id_", ["a/b c#1~.-_jpg", "100 %", "é/ü", "".join(map(chr, range(33, 127)))])
def test_the_picture_of_a_tile_is_where_answers_say_whatever_its_id_holds(served, id_):
    with running(served) as url, Client(url, served) as client:
        client.upsert(upload(90), id=id_)
        found = client.search_image(upload(90), k=1)["results"][0]
        assert found["id"] == id_ and found["thumbnail"] == f"thumbnail?id={quote(id_, safe='')}"
        assert client.get(f"/api/v1/{found['thumbnail']}").content.startswith(b"\xff\xd8")


def test_a_new_version_is_taken_in_without_dropping_a_request(served):
    """Of another encoder: every answer is of one version or the other, never a mixture."""
    one, two = vectors_of([5], "a")[0], vectors_of([5], "b")[0]
    seen, failed, end = [], [], threading.Event()

    def ask():
        mine = []
        with Client(url, served) as own:
            while not end.is_set():
                try:
                    answer = own.search_image(upload(5), k=1, vector=True)
                    versions = answer["model_version"], answer["index_version"]
                    wanted = {(1, 1): one, (2, 2): two}[versions]
                    np.testing.assert_allclose(answer["query"]["vector"], wanted, atol=1e-6)
                    assert answer["results"][0]["id"] == name_of(5) and answer["results"][0]["score"] > 0.9999
                    mine.append(versions)
                    seen.append(versions)
                except Exception as error:
                    failed.append(error)
        if mine != sorted(mine):
            failed.append(AssertionError(f"back to an older version: {mine}"))

    with running(served, pause=0.01) as url, Client(url, served) as client:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(1200):  # of the old version somebody has an answer before there is a new one
            if seen or failed:
                break
            end.wait(0.05)
        made_with = publish_encoder(served, "b")
        publish_index(served, made_with, "b")
        for _ in range(1200):
            if (2, 2) in seen and client.get("/readyz").json()["index_version"] == 2:
                break
            end.wait(0.05)
        end.wait(0.2)
        end.set()
        for thread in threads:
            thread.join()
        assert not failed, failed[0]
        assert {(1, 1), (2, 2)} == set(seen)
        # both can be searched, side by side
        assert [v["version"] for v in client.get("/api/v1/info").json()["versions"]] == [1, 2]
        old = client.search_image(upload(5), k=1, index=1, vector=True)
        assert (old["model_version"], old["index_version"]) == (1, 1)
        np.testing.assert_allclose(old["query"]["vector"], one, atol=1e-6)
        assert old["results"][0]["thumbnail"].endswith("&index=1")
        assert client.get(f"/api/v1/{old['results'][0]['thumbnail']}").headers["x-index-version"] == "1"


def test_what_other_processes_write_is_seen(served):
    with running(served) as url, Client(url, served) as client:
        assert Index.open(served / "index").delete([name_of(7)]) == 1
        for _ in range(200):
            if client.get("/api/v1/items", params={"id": name_of(7)}).status_code == 404:
                break
            threading.Event().wait(0.02)
        assert client.search({"id": name_of(7)}, status=404)
        Index.open(served / "index").compact(progress=False)
        for _ in range(200):
            if client.get("/readyz").json()["index_version"] == 2:
                break
            threading.Event().wait(0.02)
        assert client.search({"id": name_of(7)}, status=404) and client.search({"id": name_of(8)})["index_version"] == 2


def test_an_upsert_never_brings_a_vector_of_the_old_encoder_into_a_new_index(served):
    """The new index appears between embedding and writing: the write is refused, and made again with its encoder."""
    with running(served, refresh=3600) as url, Client(url, served) as client:
        made_with = publish_encoder(served, "b")
        publish_index(served, made_with, "b")
        assert client.upsert(upload(90), id="new")["index_version"] == 2
    index = Index.open(served / "index")
    assert index.search(vectors_of([90], "b"), k=1)[0][0] == ("new", pytest.approx(1, abs=1e-5), COUNT)


def test_a_damaged_new_version_leaves_the_old_one_serving(served):
    versions = stub_versions(served)
    publish_index(served, publish_encoder(served, "b"), "b")
    (served / "index" / "2" / "vectors.npy").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="must have"):
        versions.refresh()
    assert versions.newest.index_version == 1 and versions.newest.batcher.alive
    versions.close()


def test_old_versions_are_let_go_and_so_are_their_encoders(served, monkeypatch):
    versions = stub_versions(served)
    publish_index(served, publish_encoder(served, "b"), "b")
    versions.refresh()
    assert versions.opened(1).index_version == 1 and versions.held(1) is not None
    first = versions.held(1).batcher
    publish_index(served, {"version": 2, "uuid": versions.newest.made_with["uuid"]}, "b", keep=1)
    monkeypatch.setattr("macl_tf.server.versions._RETIRED", -1.0)
    versions.refresh()
    assert versions.held(1) is None and not first.alive and versions.newest.batcher.alive
    versions.close()


def test_a_full_disk_is_said_and_changes_nothing(served, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", str(served))

    with running(served) as url, Client(url, served) as client:
        monkeypatch.setattr("macl_tf.index.index.append", full)
        error = client.upsert(upload(90), id="new", status=503)["error"]
        assert error["value"] == "No space left on device"
        assert client.get("/api/v1/items", params={"id": "new"}).status_code == 404
        monkeypatch.undo()
        assert client.upsert(upload(90), id="new")


def test_while_a_new_encoder_is_loaded_the_version_before_it_answers_whole(served):
    """Never the new version's tiles with the old version's encoder: their vectors cannot be compared."""
    loading, loaded = threading.Event(), threading.Event()

    def load(folder, made_with, url=None):
        if made_with["version"] == 2:
            loading.set()
            assert loaded.wait(20)
        return load_stub(folder, made_with, url)

    versions = Versions(served, Options(), load)
    publish_index(served, publish_encoder(served, "b"), "b", numbers=range(9))
    thread = threading.Thread(target=versions.refresh)
    thread.start()
    try:
        assert loading.wait(20)
        state = versions.newest
        assert (state.index_version, state.encoder.version, len(state.snapshot)) == (1, 1, COUNT)
        assert versions.write(lambda index: None)[0].versions == {"model_version": 1, "index_version": 1}
    finally:
        loaded.set()
        thread.join()
    state = versions.newest
    assert (state.index_version, state.encoder.version, len(state.snapshot)) == (2, 2, 9)
    versions.close()
