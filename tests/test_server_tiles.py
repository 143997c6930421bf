"""Tiles over HTTP: found by parts of their ids, counted, seen and loaded whole, and those whose labels are doubtful."""

import io

import numpy as np
import pytest
from PIL import Image

from macl_tf.index.index import build_index
from macl_tf.index.items import Items
from macl_tf.server.originals import Originals
from macl_tf.teaching.collections import Collections
from tests.serving_process import COUNT, LABELS, Client, make_served, name_of, publish_encoder, running
from tests.stub_encoder import DIM

IDS = ("sea/one.png", "sea/two.png", "land/two.png", "gone.png", "../secret.png", "TWO", "junk.png")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """A folder of tiles: of the ids above the first three are there, one lies beside the folder, one is no picture."""
    folder = tmp_path_factory.mktemp("tiles")
    for number, name in enumerate(("in/sea/one.png", "in/sea/two.png", "in/land/two.png", "secret.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 2000 if number == 0 else 20, 3), 40 * number, np.uint8)).save(path)
    (folder / "in" / "junk.png").write_bytes(b"no picture")
    return folder / "in"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    made_with = publish_encoder(folder, "a")
    items = Items.of(("sea",), list(IDS), paths=[*IDS[:5], "", IDS[6]])
    vectors = np.random.default_rng(0).normal(size=(len(IDS), DIM))
    build_index(folder / "index", items, vectors, info={"encoder": made_with}, progress=False)
    return folder


@pytest.fixture(scope="module")
def client(served, tiles):
    with running(served, tiles=tiles) as url, Client(url, served) as client:
        yield client


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = make_served(tmp_path_factory.mktemp("labelled") / "served")
    with running(folder) as url, Client(url, folder) as client:
        yield client


@pytest.mark.parametrize(
    ("like", "found"),
    [("two", ["sea/two.png", "land/two.png", "TWO"]), ("TWO", ["TWO", "sea/two.png", "land/two.png"]),
     ("two.png", ["sea/two.png", "land/two.png"]), ("SEA/", ["sea/one.png", "sea/two.png"]), ("nothing", [])],
)  # fmt: skip
def test_ids_are_found_by_a_part_of_them(client, like, found):
    answer = client.get("/api/v1/ids", params={"like": like}).json()
    assert [item["id"] for item in answer["items"]] == found
    assert len(client.get("/api/v1/ids", params={"like": like, "limit": 1}).json()["items"]) == min(1, len(found))


def test_what_a_filter_leaves_is_counted(labelled):
    found = labelled.search({"id": name_of(0)}, k=50)["results"]
    held = [
        set(one["labels"]) for one in (*found, labelled.get("/api/v1/items", params={"id": name_of(0)}).json()["item"])
    ]
    for filter_, fits in (({}, lambda labels: True), ({"any_of": ["sea"]}, lambda labels: "sea" in labels),
                          ({"none_of": ["sea", "sand"]}, lambda labels: not labels & {"sea", "sand"})):  # fmt: skip
        answer = labelled.post("/api/v1/count", json={"filter": filter_}).json()
        left = [labels for labels in held if fits(labels)]
        assert answer["count"] == len(left) and len(held) == COUNT
        assert answer["labels"] == [{"name": name, "count": sum(name in labels for labels in left)} for name in LABELS]


def test_questions_with_a_body_need_no_token(labelled):
    for path in ("search", "matches", "count"):
        answer = labelled.post(f"/api/v1/{path}", json={"nothing": 1}, headers={"Authorization": ""})
        assert answer.status_code == 422, path


def test_a_tile_is_seen_and_loaded_whole(client, tiles):
    answer = client.get("/api/v1/picture", params={"id": IDS[0]})
    assert answer.headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(answer.content)).size == (1024, 15)
    assert client.get("/api/v1/info").json()["has_files"]
    again = client.get("/api/v1/picture", params={"id": IDS[0]}, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    answer = client.get("/api/v1/file", params={"id": IDS[1]})
    assert answer.content == (tiles / IDS[1]).read_bytes()
    assert answer.headers["content-disposition"] == 'attachment; filename="two.png"'
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("id_", ["gone.png", "../secret.png", "TWO", "nobody"])
def test_what_is_no_file_below_the_folder_is_none(client, id_):
    for route in ("picture", "file"):
        answer = client.get(f"/api/v1/{route}", params={"id": id_})
        assert answer.status_code == 404 and answer.json()["error"]["remedy"]
    assert client.get("/api/v1/picture", params={"id": "junk.png"}).status_code == 404


def test_without_a_folder_there_are_no_files(labelled, tiles):
    assert labelled.get("/api/v1/info").json()["has_files"] is False
    error = labelled.get("/api/v1/file", params={"id": name_of(0)}).json()["error"]
    assert "--tiles FOLDER" in error["remedy"]
    with pytest.raises(ValueError, match="--tiles must be the folder of the tiles"):
        Originals(tiles / "no")


def test_labels_that_are_worth_a_look(tmp_path):
    """Two clouds of tiles: one of the first lost its label, one of the second has it."""
    folder, rng = tmp_path / "served", np.random.default_rng(0)
    vectors = np.eye(DIM)[[0] * 20 + [1] * 20] + 0.05 * rng.normal(size=(40, DIM))
    held = np.array([[1]] * 20 + [[0]] * 20, np.uint8)
    held[3], held[30] = 0, 1
    items = Items.of(("sea",), [f"t{number:02d}" for number in range(40)], held)
    build_index(folder / "index", items, vectors, info={"encoder": publish_encoder(folder, "a")}, progress=False)
    with running(folder) as url, Client(url, folder) as client:
        found = client.get("/api/v1/suggestions", params={"label": "sea"}).json()
        assert [one["id"] for one in found["missing"]] == ["t03"] and found["missing"][0]["score"] > 0.75
        assert [(one["id"], one["labels"]) for one in found["doubtful"]] == [("t30", ["sea"])]
        Collections(folder).mark("sea", wrong=["t03"], right=["t30"])  # who looked at them says that all is well
        found = client.get("/api/v1/suggestions", params={"label": "sea"}).json()
        assert found["missing"] == found["doubtful"] == []
        refused = client.get("/api/v1/suggestions", params={"label": "seas"})
        assert refused.status_code == 422 and "must be one of sea" in refused.json()["error"]["rule"]
