"""Collections over HTTP: marks, files, labels and searches, who may write them, and what is refused."""

import csv
import io
import json
import threading

import pytest

from macl_tf import sqlite_files
from macl_tf.index.index import Index
from macl_tf.server.auth import Access
from macl_tf.server.settings import Limits
from macl_tf.teaching.collections import Collections
from macl_tf.teaching.rounds import next_round
from tests.serving_process import TOKEN, Client, make_served, name_of, running, upload

STRANGE = 'ships/“old”, #1 & 50% <b> ü🌊?"'
RIGHT, WRONG = [name_of(number) for number in (1, 3, 5)], [name_of(number) for number in (2, 4)]


@pytest.fixture
def served(tmp_path):
    return make_served(tmp_path / "served")


@pytest.fixture
def client(served):
    with running(served) as url, Client(url, served) as client:
        yield client


def asked(client, method, path, status=200, **sent):
    answer = client.request(method, f"/api/v1/collections{path}", **sent)
    assert answer.status_code == status, answer.text
    return answer.json()


def mark(client, status=200, **said):
    return asked(client, "POST", "/marks", status, json={"name": STRANGE} | said)


def test_marks_are_kept_listed_and_paged(client, served):
    assert asked(client, "GET", "") == {"collections": [], "total": 0, "offset": 0}
    made = mark(client, right=RIGHT, wrong=WRONG, by="Ada")
    assert {**made, "at": 0} == {
        "name": STRANGE,
        "label": None,
        "right": 3,
        "wrong": 2,
        "skipped": 0,
        "by": "Ada",
        "at": 0,
    }
    mark(client, neither=RIGHT[:1], right=WRONG[:1])
    mark(client, name="empty")
    listed = asked(client, "GET", "", params={"limit": 1, "offset": 1})
    assert listed["total"] == 2 and [one["name"] for one in listed["collections"]] == [STRANGE]
    assert (listed["collections"][0]["right"], listed["collections"][0]["by"]) == (3, "token")
    page = asked(client, "GET", "/marks", params={"name": STRANGE, "limit": 2})
    assert [(one["id"], one["mark"], one["by"]) for one in page["marks"]] == [
        (WRONG[0], "right", "token"), (WRONG[1], "wrong", "Ada"),
    ]  # fmt: skip
    assert page["more"] and page["marks"][0]["item"]["thumbnail"] and page["absent"] == {"count": 0, "first": []}
    page = asked(client, "GET", "/marks", params={"name": STRANGE, "offset": 2})
    assert [one["id"] for one in page["marks"]] == RIGHT[:0:-1] and not page["more"]
    assert Collections(served).get(STRANGE).right == (*RIGHT[1:], WRONG[0])


def test_a_round_asks_for_tiles_of_three_kinds_and_says_what_is_found(client, served):
    mark(client, right=RIGHT[:1], skipped=WRONG)
    found = asked(client, "GET", "/round", params={"name": STRANGE, "best": 4, "uncertain": 3, "sampled": 5})
    engine = next_round(Collections(served).get(STRANGE), Index.open(served / "index").snapshot, best=4, uncertain=3)
    for kind in ("best", "uncertain", "sampled"):
        assert [tile["id"] for tile in found[kind]] == [tile.id for tile in getattr(engine, kind)]
    assert (found["found"], found["skipped"], found["left"]) == (1, 2, None) and found["best"][0]["thumbnail"]
    assert found["precision"] == {"right": 1, "of": 1} and found["index_version"] == 1
    rest = [tile["id"] for tile in (*found["best"], *found["uncertain"], *found["sampled"])]
    assert mark(client, wrong=rest)["skipped"] == 2
    found = asked(client, "GET", "/round", params={"name": STRANGE})
    assert {"sample", "low", "high", "estimate"} == {*found["left"]} and not {*rest} & {
        tile["id"] for tile in found["best"]
    }
    listed = asked(client, "GET", "/marks", params={"name": STRANGE})["marks"]
    assert [one["id"] for one in listed if one["mark"] == "skipped"] == WRONG[::-1]
    asked(client, "GET", "/round", 422, params={"name": STRANGE, "best": 1000})
    assert asked(client, "GET", "/round", 404, params={"name": "nobody"})["error"]["value"] == "nobody"


def test_tiles_get_and_lose_a_label(client, served):
    def labelled(status=200, **given):
        answer = client.post("/api/v1/items/labels", json=given)
        assert answer.status_code == status, answer.text
        return answer.json()

    done = labelled(label="ferry", holds=RIGHT, lacks=WRONG)
    assert (done["new_labels"], done["gained"], done["lost"]) == (["ferry"], 3, 0)
    done = labelled(label="ferry", holds=RIGHT, lacks=RIGHT[:0])
    assert (done["new_labels"], done["gained"]) == ([], 0)
    assert labelled(label="ferry", lacks=RIGHT[:1])["lost"] == 1
    assert "ferry" in Index.open(served / "index").describe(RIGHT[1])["labels"]
    assert "ferry" not in Index.open(served / "index").describe(RIGHT[0])["labels"]
    assert labelled(404, label="ferry", holds=[*RIGHT, "nobody"])["error"]["value"] == "nobody"
    assert "Did you mean ferry" in labelled(422, label="ferri", holds=RIGHT)["error"]["remedy"]
    assert labelled(label="ferri", holds=RIGHT, new_labels=["ferri"])["new_labels"] == ["ferri"]
    assert labelled(422, label="ferry", holds=RIGHT, lacks=RIGHT)["error"]["value"] == min(RIGHT)
    with Client(client.base_url, served, None) as stranger:
        assert stranger.post("/api/v1/items/labels", json={"label": "x"}).status_code == 401


def test_a_tile_that_is_deleted_keeps_its_mark(client):
    mark(client, right=RIGHT)
    client.delete("/api/v1/items", params={"id": RIGHT[0]})
    page = asked(client, "GET", "/marks", params={"name": STRANGE})
    assert page["absent"] == {"count": 1, "first": [RIGHT[0]]} and page["marks"][-1]["item"] is None
    mark(client, wrong=RIGHT[:1])  # it may be changed, too
    client.upsert(upload(1), id=RIGHT[0])
    page = asked(client, "GET", "/marks", params={"name": STRANGE})
    assert page["marks"][0]["mark"] == "wrong" and page["marks"][0]["item"]["id"] == RIGHT[0]


def test_a_search_from_a_collection(client, served):
    mark(client, right=RIGHT, wrong=WRONG)
    by_hand = client.search(*({"id": id_} for id_ in RIGHT), negative=[{"id": WRONG[0]}], k=5, status=200)
    mark(client, neither=WRONG[1:])
    found = client.search(collection=STRANGE, k=5)
    assert [one["id"] for one in found["results"]] == [one["id"] for one in by_hand["results"]]
    mark(client, right=[name_of(number) for number in range(6, 20)])
    found = client.search({"id": name_of(30)}, collection=STRANGE, k=30, offset=0)
    assert len(found["results"]) == 40 - 19 and name_of(30) not in [one["id"] for one in found["results"]]
    assert client.search_image(upload(90), collection=STRANGE, k=3)["results"]
    assert client.search(collection=STRANGE, filter={"any_of": ["sea"]})["results"]
    error = client.search(collection="none", status=404)["error"]
    assert error["rule"] == "a collection must be there" and error["value"] == "none"
    mark(client, name="wrong only", wrong=WRONG)
    assert (
        "has a tile of the index that is right" in client.search(collection="wrong only", status=422)["error"]["rule"]
    )


@pytest.mark.parametrize("kind", ["csv", "geojson", "parquet"])
def test_what_is_downloaded_can_be_sent_again(client, kind):
    mark(client, right=RIGHT, wrong=WRONG, by="Ada, B.")
    answer = client.get("/api/v1/collections/file", params={"name": STRANGE, "format": kind})
    assert answer.status_code == 200 and answer.headers["content-type"].partition(";")[0] in (
        "text/csv", "application/geo+json", "application/vnd.apache.parquet",
    )  # fmt: skip
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''ships%2F")
    if kind == "geojson":
        assert [feature["id"] for feature in answer.json()["features"]] == [*RIGHT, *WRONG]
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert [bool(row["lon"]) for row in rows] == [False, False, False, True, True]
    sent = {"files": {"file": ("../../x", answer.content)}, "data": {"name": "copy"}}
    done = asked(client, "POST", "/file", **sent)
    assert (done["name"], done["read"], done["changed"], done["absent"]["count"]) == ("copy", 5, 5, 0)
    assert asked(client, "POST", "/file", **sent)["changed"] == 0
    one, other = (asked(client, "GET", "/marks", params={"name": name})["marks"] for name in (STRANGE, "copy"))
    assert one == other


def test_a_list_of_ids_is_taken_whole_or_not_at_all(client):
    def send(data, status=200, **fields):
        return asked(client, "POST", "/file", status, files={"file": ("x", data)}, data={"name": "list", **fields})

    done = send(f"{RIGHT[0]}\nnobody\nno one\n", mark="wrong", by="Grace")
    assert done["wrong"] == 2 + 1 and done["absent"] == {"count": 2, "first": ["nobody", "no one"]}
    assert done["by"] == "Grace"
    error = send("id,mark\na,right\nb,perhaps\n", 422)["error"]
    assert error["rule"] == "row 3: a mark is one of right, wrong, skipped" and error["value"] == "perhaps"
    assert send("a", 422, who="me")["error"]["value"] == "who"
    assert asked(client, "GET", "")["collections"][0]["wrong"] == 3
    answer = client.post("/api/v1/collections/file", json={"name": "x"})
    assert answer.status_code == 415 and "-F file=@ships.csv" in answer.json()["error"]["remedy"]
    assert client.post("/api/v1/collections/marks", data={"name": "x"}).status_code == 415


def test_what_is_too_large_is_told_what_helps(client):
    answer = client.post("/api/v1/collections/file", files={"file": ("x", b"x" * 400_000)}, data={"name": "x"})
    assert answer.status_code == 413 and "macl collections SERVED import FILE" in answer.json()["error"]["remedy"]
    answer = client.post("/api/v1/collections/marks", json={"name": "x", "right": ["x" * 500] * 400})
    assert answer.status_code == 413 and "fewer examples or ids" in answer.json()["error"]["remedy"]
    assert asked(client, "GET", "")["total"] == 0


def test_a_collection_becomes_a_label(client, served):
    mark(client, name="harbor", right=RIGHT, wrong=WRONG)
    client.delete("/api/v1/items", params={"id": RIGHT[0]})
    done = asked(client, "POST", "/label", json={"name": "harbor"})
    assert done == {
        "model_version": 1, "index_version": 1, "label": "harbor", "new_labels": ["harbor"], "gained": 2, "lost": 0,
        "absent": {"count": 1, "first": [RIGHT[0]]},
    }  # fmt: skip
    labels = {one["name"]: one["count"] for one in client.get("/api/v1/labels").json()["labels"]}
    assert labels["harbor"] == 2 and client.get("/api/v1/info").json()["labels"] == len(labels)
    found = client.search(collection="harbor", filter={"any_of": ["harbor"]})
    assert found["results"] == [], "all that hold it are examples"
    mark(client, name="harbor", wrong=[RIGHT[1]])
    assert asked(client, "POST", "/label", json={"name": "harbor"})["lost"] == 1
    error = asked(client, "POST", "/label", 422, json={"name": "harbor", "label": "docks"})["error"]
    assert "Did you mean dock?" in error["remedy"]
    asked(client, "POST", "/label", json={"name": "harbor", "label": "docks", "new_labels": ["docks"]})
    assert asked(client, "POST", "/label", json={"name": "harbor", "label": "Dock"})["gained"] <= 1
    assert asked(client, "POST", "/label", 404, json={"name": "harbors"})["error"]["remedy"].startswith("Did you mean")
    assert Index.open(served / "index").label_names[-2:] == ("harbor", "docks")


def test_rename_and_delete(client):
    mark(client, right=RIGHT)
    mark(client, name="other")
    error = asked(client, "POST", "/rename", 422, json={"name": STRANGE, "new": "Other"})["error"]
    assert error["rule"] == "there is a collection 'other' already"
    assert asked(client, "POST", "/rename", json={"name": STRANGE, "new": "ships"})["right"] == 3
    assert asked(client, "DELETE", "", params={"name": "ships"})["name"] == "ships"
    assert asked(client, "DELETE", "", 404, params={"name": "ships"})
    assert [one["name"] for one in asked(client, "GET", "")["collections"]] == ["other"]


@pytest.fixture(scope="module")
def one_for_all(tmp_path_factory):
    """A served folder with a collection of one tile, and a client of its server."""
    served = make_served(tmp_path_factory.mktemp("unchanged") / "served")
    with running(served, limits=Limits()) as url, Client(url, served) as client:
        mark(client, right=[name_of(9)])
        yield served, client


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ({"right": ["nobody"]}, 404, "the id must be of a tile in the index"),
        ({"right": RIGHT, "wrong": RIGHT[:1]}, 422, "a tile is marked right, wrong, skipped or none, one of them"),
        ({"name": "two\nlines", "right": RIGHT}, 422, "the name of a collection is printable"),
        ({"name": "", "right": RIGHT}, 422, "name: "),
        ({"by": "a\tb", "right": RIGHT}, 422, "an author is printable"),
        ({"right": "a"}, 422, "right: "),
        ({"left": []}, 422, "left: Extra inputs"),
        ({"right": [name_of(1)] * 10_001}, 422, "right: "),
    ],
)
def test_what_cannot_be_marked_is_refused_and_changes_nothing(one_for_all, said, status, words):
    served, client = one_for_all
    answer = client.post("/api/v1/collections/marks", json={"name": STRANGE} | said)
    if answer.status_code == 413:  # of so many ids, the body is too large before anybody reads it
        assert len(said["right"]) > 1000
    else:
        assert (answer.status_code, words in answer.json()["error"]["rule"]) == (status, True), answer.text
    assert Collections(served).get(STRANGE).right == (name_of(9),) and len(Collections(served).all()) == 1


def test_writes_need_the_token_and_reads_only_if_so_set(served):
    writes = [("POST", "/marks"), ("POST", "/file"), ("POST", "/rename"), ("POST", "/label"), ("DELETE", "?name=x")]
    reads = ["", f"/marks?name={RIGHT[0]}", f"/file?name={RIGHT[0]}"]
    Collections(served).mark(RIGHT[0], right=RIGHT)

    def statuses(client):
        return [client.request(method, f"/api/v1/collections{path}").status_code for method, path in writes]

    with running(served) as url, Client(url, served, token=None) as client:
        assert [client.request(method, f"/api/v1/collections{path}").status_code for method, path in writes] == [
            401
        ] * 5
        assert [client.get(f"/api/v1/collections{path}").status_code for path in reads] == [200] * 3
        assert client.search(collection=RIGHT[0])["results"]
    with running(served, access=Access(TOKEN, protect_reads=True)) as url:
        with Client(url, served, token=None) as client:
            assert [client.get(f"/api/v1/collections{path}").status_code for path in reads] == [401] * 3
        with Client(url, served) as client:
            assert [client.get(f"/api/v1/collections{path}").status_code for path in reads] == [200] * 3
    with running(served, access=Access()) as url, Client(url, served) as client:
        assert [client.request(method, f"/api/v1/collections{path}").status_code for method, path in writes] == [
            403
        ] * 5
        assert client.get("/api/v1/collections").json()["total"] == 1
    assert Collections(served).get(RIGHT[0]).right == tuple(RIGHT)


def test_what_others_write_is_seen_and_damage_is_told(client, served):
    mark(client, right=RIGHT)
    Collections(served).mark(STRANGE, wrong=WRONG)
    assert asked(client, "GET", "")["collections"][0]["wrong"] == 2
    (served / "collections.sqlite").write_bytes(b"junk")
    for path, sent in (("", None), ("/marks", {"name": "x"}), ("search", {"collection": "x"})):
        where = f"/api/v1/{path}" if path == "search" else f"/api/v1/collections{path}"
        answer = client.post(where, json=sent) if sent else client.get(where)
        assert answer.status_code == 503 and answer.json()["error"]["rule"].endswith("server are damaged")
    assert client.search({"id": RIGHT[0]})["results"], "all else goes on"
    assert (served / "collections.sqlite").read_bytes() == b"junk"


def test_what_the_server_may_not_read_is_told_and_all_else_goes_on(client, monkeypatch):
    mark(client, right=RIGHT)
    connected = sqlite_files.connected
    monkeypatch.setattr(sqlite_files, "connected", lambda path, mode="rw": connected(path / "as of another user", mode))
    for answer in (client.get("/api/v1/collections"), client.post("/api/v1/search", json={"collection": STRANGE})):
        assert answer.status_code == 503 and answer.json()["error"]["rule"].endswith("may not be read by it")
    assert client.search({"id": RIGHT[0]})["results"]


def test_a_collection_belongs_to_the_label_that_is_spelled_so(client):
    assert mark(client, name="Se-A", right=RIGHT[:1])["label"] == "sea"
    assert mark(client, name="SEA", wrong=WRONG[:1])["name"] == "Se-A"
    assert asked(client, "GET", "")["collections"][0]["label"] == "sea"
    assert [one["id"] for one in asked(client, "GET", "/marks", params={"name": "sea"})["marks"]] == [
        WRONG[0],
        RIGHT[0],
    ]
    done = asked(client, "POST", "/label", json={"name": "s ea"})
    assert (done["label"], done["new_labels"]) == ("sea", [])


def test_marks_that_are_made_while_a_version_is_published_are_all_there(client, served):
    failed = []

    def write():
        try:
            with Client(client.base_url, served) as own:
                for number in range(40):
                    mark(own, right=[name_of(number)])
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(3):
        Index.open(served / "index").compact(progress=False)
    thread.join()
    assert not failed and asked(client, "GET", "")["collections"][0]["right"] == 40
    with running(served) as url, Client(url, served) as again:
        page = asked(again, "GET", "/marks", params={"name": STRANGE, "limit": 1000})
        assert len(page["marks"]) == 40 and page["index_version"] == 4
        assert json.dumps(page).count("thumbnail") >= 40
