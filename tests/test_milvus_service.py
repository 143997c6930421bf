"""The commands and the server on an index in Milvus: the same answers as on files, in the same form."""

import json
import threading

import numpy as np
import pytest

from macl_tf.cli import main
from macl_tf.export.exporting import index_to_milvus
from macl_tf.index.engines import open_engine
from macl_tf.index.milvus import connection
from macl_tf.search.engine import SearchEngine
from tests.milvus_process import Proxy, Server
from tests.serving_process import (
    COUNT,
    Client,
    items_of,
    make_served,
    name_of,
    publish_index,
    running,
    upload,
    vectors_of,
)

FILTERS = [
    {},
    {"any_of": ["dock", "snow"]},
    {"all_of": ["sea", "sand"], "none_of": ["wood"]},
    {"split": ["test"], "since": "2020-03-01", "until": "2020-09-01"},
    {"bbox": [170, 0, -170, 5]},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder, and an index in a file made of it."""
    served = make_served(tmp_path_factory.mktemp("milvus") / "served")
    index_to_milvus(served, str(served.parent / "lite.db"), progress=False)
    yield served
    connection.release(served.parent / "lite.db")


def plain(answer):
    """An answer, without what takes time and what rounding may change."""
    answer = json.loads(json.dumps(answer), parse_float=lambda text: round(float(text), 5))
    if isinstance(answer, dict):
        (answer.get("search") or answer).pop("ms", None)
    return answer


def test_the_server_gives_the_answers_that_it_gives_of_files(served):
    address = f"milvus:{served.parent / 'lite.db'}"
    with (
        running(served) as one,
        running(served, index=address) as other,
        Client(one, served) as files,
        Client(other, served) as milvus,
    ):

        def same(ask):
            expected, found = (plain(ask(client)) for client in (files, milvus))
            assert found == expected
            return found

        for condition in FILTERS:
            for example in ({"id": name_of(3)}, {"vector": vectors_of([5])[0].tolist()}):
                answer = same(lambda client: client.search(example, k=12, filter=condition))  # noqa: B023
                assert answer["results"]
            same(lambda client: client.search({"id": name_of(4)}, k=5, offset=5, filter=condition))  # noqa: B023
        same(lambda client: client.search({"id": name_of(8)}, k=50, format="geojson"))
        same(lambda client: client.search_image(upload(7), k=6))
        for path in ("labels", f"items?id={name_of(6)}", "info"):
            answer = same(lambda client: {**client.get(f"/api/v1/{path}").json(), "index": None})  # noqa: B023
        assert milvus.get("/api/v1/info").json()["index"]["kind"] == "FLAT"
        pictures = [client.get(f"/api/v1/thumbnail?id={name_of(6)}").content for client in (files, milvus)]
        assert pictures[0] == pictures[1]
        # Marks: the tiles drawn at random are others, and so is the direction, a little.
        marks = [{"id": name_of(1)}, {"id": name_of(2)}], {"negative": [{"id": name_of(9)}], "k": 50}
        ranked = [[one["id"] for one in client.search(*marks[0], **marks[1])["results"]] for client in (files, milvus)]
        assert set(ranked[0]) == set(ranked[1]) and ranked[0][:5] == ranked[1][:5]
        for words, query in (("labels must be among", {"filter": {"any_of": ["harbour"]}}),
                             ("must be of a tile", {"positive": [{"id": "none"}]})):  # fmt: skip
            said = [
                client.post("/api/v1/search", json={"positive": [{"id": name_of(1)}], **query})
                for client in (files, milvus)
            ]
            assert said[0].json() == said[1].json() and words in said[1].text
            assert said[0].status_code == said[1].status_code
        assert milvus.get("/readyz").status_code == milvus.get("/metrics").status_code == 200
        assert len(milvus.get("/api/v1/diverse?k=5").json()["items"]) == 5


def test_marks_collections_and_what_needs_files(served):
    address = f"milvus:{served.parent / 'lite.db'}"
    with running(served, index=address) as url, Client(url, served) as client:
        marked = {"name": "docks", "right": [name_of(1), name_of(2)], "wrong": [name_of(3)], "by": "Ada"}
        assert client.post("/api/v1/collections/marks", json=marked).status_code == 200
        found = client.post("/api/v1/search", json={"collection": "docks", "k": 50}).json()["results"]
        assert not {one["id"] for one in found} & {*marked["right"], *marked["wrong"]}
        page = client.get("/api/v1/collections/marks?name=docks").json()
        assert [mark["item"]["id"] for mark in page["marks"]] == [name_of(3), name_of(2), name_of(1)]
        unplotted = client.get("/api/v1/plot")
        assert unplotted.status_code == 404 and "Milvus never has one" in unplotted.json()["error"]["remedy"]
        for refused in (client.get("/api/v1/collections/round?name=docks"), client.post("/api/v1/teach", json={})):
            assert refused.status_code == 422 and "need an index of files" in refused.text
        exact = client.search({"id": name_of(1)}, k=3, exact=True)
        assert exact["results"] == client.search({"id": name_of(1)}, k=3)["results"]


def test_the_commands(served, tmp_path, capsys):
    uri = str(tmp_path / "own.db")
    address = f"milvus:{uri}#harbour"
    folder = str(served)

    def said(*words):
        assert main([*words]) == 0
        return capsys.readouterr().out

    assert "40 tiles, FLAT, exact" in said("index", folder, "--to", "milvus", "--uri", uri, "--collection", "harbour")
    arguments = ("search", folder, "--id", "tile003.png", "-k", "5", "--filter", "none_of=dock; split=train", "--json")
    of_files, of_milvus = json.loads(said(*arguments)), json.loads(said(*arguments, "--index", address))
    assert plain(of_milvus["answers"]) == plain(of_files["answers"]) and of_milvus["index"]["kind"] == "FLAT"
    assert "1 taken out of the index, which holds 39" in said("delete", folder, "tile003.png", "--index", address)
    assert main(["index", folder, "--to", "milvus", "--uri", uri, "--collection", "harbour", "--quiet"]) == 2
    assert "--discard-changes" in capsys.readouterr().err
    for words, message in (
        (["index", folder, "--to", "milvus"], "--to milvus and --uri must be given together"),
        (["index", folder, "--uri", uri], "--to milvus and --uri must be given together"),
        (["index", folder, "--to", "milvus", "--uri", uri, "--kind", "tree"], "kind must be one of auto, FLAT"),
        (["search", folder, "--id", "a", "--index", f"milvus:{tmp_path}/none.db"], "makes it"),
        (["search", folder, "--id", "a", "--index", f"milvus:{uri}"], "holds no index 'tiles'"),
        (["delete", folder, "a", "--index", "milvus:http://127.0.0.1:1"], "must be there"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    connection.release(uri)


def test_the_engine_upserts_what_a_picture_says(served, tmp_path, monkeypatch):
    from tests.serving_process import load_stub

    monkeypatch.setattr("macl_tf.search.engine.load_encoder", lambda *given, **_: load_stub(*given))
    uri = str(tmp_path / "own.db")
    engine = SearchEngine.open(served, index=index_to_milvus(served, uri, progress=False))
    assert engine.upsert([upload(90)], ["new.png"], labels=["sea,quay"], dates=["2021-01-01"], new_labels=["quay"]) == 0
    (answer,) = engine.search([upload(90)], k=1, filter="any_of=quay")
    assert [result.id for result in answer.results] == ["new.png"] and answer.results[0].score > 0.9999
    assert answer.results[0].item["labels"] == ["sea", "quay"] and engine.index.label_names[-1] == "quay"
    connection.release(uri)


def test_servers_that_share_a_milvus_see_each_other_and_switch_without_a_wrong_answer(tmp_path, monkeypatch):
    """Reads and writes on two of them while a new version, of other vectors, goes live."""
    engines = []
    monkeypatch.setattr(
        "macl_tf.server.versions.open_engine", lambda *to: engines.append(open_engine(*to)) or engines[-1]
    )
    served, server = make_served(tmp_path / "served"), Server(tmp_path / "lite")
    proxy = Proxy(server.port)
    try:
        address = index_to_milvus(served, proxy.uri, progress=False)
        with (
            running(served, index=address) as one,
            running(served, index=address) as other,
            Client(one, served) as first,
            Client(other, served) as second,
        ):
            id_ = first.upsert(upload(77), labels="sea", id="written")["id"]
            assert [hit["id"] for hit in second.search_image(upload(77), k=1)["results"]] == [id_]
            assert second.delete("/api/v1/items?id=written").json()["deleted"] == 1
            assert first.get("/api/v1/items?id=written").status_code == 404
            made_with = {"version": 1, "uuid": json.loads((served / "encoder/1/manifest.json").read_text())["uuid"]}
            publish_index(served, made_with, "a", numbers=range(10, COUNT))
            stop, wrong, seen = threading.Event(), [], set()

            def read(client):
                while not stop.is_set():
                    answer = client.search({"vector": vectors_of([12])[0].tolist()}, k=50)
                    size = {1: COUNT, 2: COUNT - 10}[answer["index_version"]]
                    seen.add(answer["index_version"])
                    if len(answer["results"]) != size:
                        wrong.append(answer)

            threads = [threading.Thread(target=read, args=[client]) for client in (first, second)]
            for thread in threads:
                thread.start()
            index_to_milvus(served, proxy.uri, progress=False, discard_changes=True)
            while 2 not in {client.get("/readyz").json()["index_version"] for client in (first, second)}:
                pass
            stop.set()
            for thread in threads:
                thread.join()
            assert not wrong and 1 in seen
            while any(client.get("/readyz").json()["index_version"] == 1 for client in (first, second)):
                pass
            old = first.search({"id": name_of(1)}, k=50, index=1)
            assert old["index_version"] == 1 and len(old["results"]) == COUNT - 1
            first.upsert(upload(78), labels="sea", id="later")
            assert second.get("/api/v1/items?id=later").json()["item"]["labels"] == ["sea"]
            server.kill()
            for engine in engines:
                engine._connection.read = 0.5
            put = {"files": {"image": ("x", upload(1))}, "data": {"id": "x"}}
            asked = {"positive": [{"id": name_of(12)}]}
            for refused in (first.post("/api/v1/search", json=asked), second.put("/api/v1/items", **put)):
                assert refused.status_code == 503 and "cannot be asked now" in refused.text
            assert first.get("/healthz").status_code == 200
    finally:
        server.kill()
        proxy.close()


def test_what_items_say_comes_back_as_it_was(served):
    engine = SearchEngine.open(served, index=f"milvus:{served.parent / 'lite.db'}")
    items = items_of(list(range(COUNT)))
    for place in range(0, COUNT, 7):
        assert engine.index.describe(name_of(place)) == items.describe(place)
    found = engine.index.snapshot.items_of([name_of(place) for place in range(5)])
    np.testing.assert_array_equal(found.footprints, items.footprints[:5])
