"""The contract of every route that reads, over a real connection: what is asked, what is answered, what is refused."""

import base64
import csv
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from macl_tf.cli import main as macl
from macl_tf.datasets.label_lists import listed
from macl_tf.search.direction import direction
from macl_tf.server.app import PAGE
from macl_tf.server.schemas import PLOT_SIDE, InfoAnswer, ItemAnswer, LabelsAnswer, SearchAnswer
from macl_tf.server.service import PREVIEW
from tests.serving_process import (
    COUNT,
    LABELS,
    Client,
    items_of,
    make_served,
    name_of,
    running,
    tile,
    upload,
    vectors_of,
)
from tests.stub_encoder import DIM, SIZE

VECTORS = vectors_of(range(COUNT)).astype(np.float64)
ITEMS = items_of(range(COUNT))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return make_served(tmp_path_factory.mktemp("api") / "served")


@pytest.fixture(scope="module")
def client(served):
    with running(served) as url, Client(url, served) as client:
        yield client


def ids(answer):
    return [result["id"] for result in answer["results"]]


def ranked(vector, leave_out=()):
    """Ids by cosine with a vector, by NumPy in float64."""
    order = np.argsort(-(VECTORS @ vector), kind="stable")
    return [name_of(number) for number in order if number not in leave_out]


def test_info_says_what_is_served(client):
    info = InfoAnswer.model_validate(client.get("/api/v1/info").json(), strict=True, extra="forbid")
    assert (info.model.version, info.model.dim, info.model.image_size) == (1, DIM, SIZE)
    assert (info.index.version, info.index.count, info.index.kind) == (1, COUNT, "brute_force")
    assert info.index.archive.model_dump() == {"name": "harbour", "tiles": COUNT}  # which the encoder never saw:
    assert info.model.dataset == {"name": "stub", "licence": "Of the stub."}
    assert [version.model_dump() for version in info.versions] == [
        {
            "version": 1,
            "encoder_version": 1,
            "share": None,
            "descriptor": "projection",
            "count": COUNT,
            "archive": "harbour",
        }
    ]
    assert info.labels == len(LABELS) and info.has_places and info.writable and not info.has_parts
    assert info.limits.model_dump() == {
        "bytes": 200_000, "pixels": 250_000, "k": 50, "batch": 4,
        "formats": ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"],
    }  # fmt: skip


def test_labels_are_counted_and_the_rarest_third_is_marked(client):
    answer = LabelsAnswer.model_validate(client.get("/api/v1/labels").json(), strict=True)
    counts = ITEMS.labels.sum(axis=0)
    assert [(label.name, label.count) for label in answer.labels] == list(zip(LABELS, counts.tolist(), strict=True))
    assert {label.name for label in answer.labels if label.rare} == {LABELS[c] for c in np.argsort(counts)[:2]}
    assert answer.total == COUNT


def test_search_by_id_leaves_it_out_and_marks_shared_labels(client):
    answer = client.search({"id": name_of(7)}, k=50, vector=True)
    SearchAnswer.model_validate(answer, strict=True, extra="forbid")
    assert ids(answer) == ranked(VECTORS[7], [7]) and not answer["more"]
    own = ITEMS.describe(7)["labels"]
    assert answer["query"]["labels"] == own
    np.testing.assert_allclose(answer["query"]["vector"], VECTORS[7], atol=1e-7)
    for rank, result in enumerate(answer["results"], start=1):
        number = int(result["id"][-7:-4])
        known = ITEMS.describe(number)
        assert result["rank"] == rank
        assert result["score"] == pytest.approx(float(VECTORS[number] @ VECTORS[7]), abs=2e-6)
        assert {key: result[key] for key in ("labels", "split", "date")} == {
            key: known[key] for key in ("labels", "split", "date")
        }
        assert result["shared"] == [label for label in known["labels"] if label in own]
        assert (result["bbox"] is None) == (number % 2 == 1)
        assert set(result) == {"rank", "id", "score", "labels", "shared", "split", "date", "source", "bbox",
                               "thumbnail"}  # fmt: skip


def test_search_by_vector_of_any_norm(client):
    vector = np.random.default_rng(1).normal(size=DIM)
    answer = client.search({"vector": (17 * vector).tolist()}, k=5)
    assert ids(answer) == ranked(vector)[:5] and answer["more"]
    assert answer["query"]["labels"] is None and not any(result["shared"] for result in answer["results"])


def test_several_examples_are_weighed_as_documented(client):
    positive, negative, vector = (3, 4), (9, 11), np.random.default_rng(2).normal(size=DIM)
    unit = vector / np.linalg.norm(vector)
    answer = client.search(
        *({"id": name_of(number)} for number in positive),
        negative=[{"id": name_of(negative[0])}, {"vector": vector.tolist()}],
        k=50,
        vector=True,
    )
    usual = np.delete(VECTORS, [*positive, negative[0]], axis=0)
    wanted = direction(VECTORS[list(positive)], np.array([VECTORS[negative[0]], unit]), usual)
    np.testing.assert_allclose(answer["query"]["vector"], wanted / np.linalg.norm(wanted), atol=1e-6)
    assert ids(answer) == ranked(wanted, [*positive, negative[0]])


def test_search_by_picture_finds_it_and_says_where_the_time_went(client):
    answer = client.search_image(upload(5), k=3)
    assert ids(answer)[0] == name_of(5) and answer["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert set(answer["ms"]) == {"decode", "encode", "search"} and all(value > 0 for value in answer["ms"].values())
    assert (answer["query"]["preview"], answer["query"]["vector"]) == (None, None)  # most of the bytes of an answer
    preview = client.search_image(upload(5), k=3, preview=True)["query"]["preview"]
    with Image.open(io.BytesIO(base64.b64decode(preview))) as small:
        assert small.format == "JPEG" and max(small.size) == min(PREVIEW, max(tile(5).shape))
        difference = np.asarray(small, float) - np.asarray(Image.fromarray(tile(5)).resize(small.size), float)
    assert np.abs(difference).mean() < 16
    joined = client.search_image(upload(5), k=50, positive=[{"id": name_of(6)}], negative=[{"id": name_of(8)}])
    wanted = direction(VECTORS[[5, 6]], VECTORS[[8]], np.delete(VECTORS, [6, 8], axis=0))
    assert ids(joined) == ranked(wanted, [6, 8])


def test_pages_are_one_list(client):
    vector = {"vector": [1.0] * DIM}
    whole = client.search(vector, k=COUNT)
    pages = [client.search(vector, k=9, offset=offset) for offset in range(0, COUNT, 9)]
    assert [result for page in pages for result in page["results"]] == whole["results"]
    assert [page["more"] for page in pages] == [True] * 4 + [False]
    assert client.search(vector, offset=COUNT)["results"] == []
    assert client.search(vector, k=3.0)["results"] == whole["results"][:3]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"any_of": ["SNOW"], "none_of": ["S-ea"]}, lambda item: {"snow", "sea"} & set(item["labels"]) == {"snow"}),
        ({"any_of": ["snow", "wood"]}, lambda item: {"snow", "wood"} & set(item["labels"])),
        ({"all_of": ["sea", "sand"]}, lambda item: {"sea", "sand"} <= set(item["labels"])),
        ({"none_of": ["sea"]}, lambda item: "sea" not in item["labels"]),
        ({"split": ["test"], "any_of": ["sea"]}, lambda item: item["split"] == "test" and "sea" in item["labels"]),
        ({"since": "2020-04-01", "until": "2020-06-01"}, lambda item: "2020-04-01" <= item["date"] <= "2020-06-01"),
        ({"any_of": ["sea"], "since": "2020-09-01"}, lambda item: "sea" in item["labels"] and item["date"] > "2020-09"),
        ({"bbox": [-100, 0, -60, 5]}, lambda item: item["footprint"] and -101 <= item["footprint"][0][0] <= -60),
        ({"bbox": [179.8, 0, -179.9, 5]}, lambda item: item["id"] == name_of(0)),
        ({}, lambda item: True),
    ],
)  # fmt: skip
def test_filters_hold_and_lose_nothing(client, condition, holds):
    answer = client.search({"vector": [1.0] * DIM}, k=50, filter=condition)
    assert set(ids(answer)) == {name_of(n) for n in range(COUNT) if holds(ITEMS.describe(n))}
    assert answer["results"]


def test_geojson_has_the_results_with_places(client):
    response = client.post("/api/v1/search", json={"positive": [{"vector": [1.0] * DIM}], "k": 50, "format": "geojson"})
    answer = response.json()
    assert response.headers["content-type"] == "application/geo+json" and answer["type"] == "FeatureCollection"
    assert {feature["id"] for feature in answer["features"]} == {name_of(n) for n in range(0, COUNT, 2)}
    for feature in answer["features"]:
        geometry = feature["geometry"]
        assert geometry["type"] == ("MultiPolygon" if feature["id"] == name_of(0) else "Polygon")
        for polygon in geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]:
            (ring,) = polygon
            assert ring[0] == ring[-1] and len(ring) == 5 and all(abs(x) <= 180 for x, _ in ring)
            assert sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) > 0
        assert {"rank", "score", "labels", "thumbnail"} <= set(feature["properties"])
    assert answer["search"]["index_version"] == 1 and answer["search"]["k"] == 50


def test_results_are_a_file_where_asked_for(client):
    query = {"positive": [{"id": name_of(1)}], "k": 7, "offset": 2}
    found = client.search(*query["positive"], k=7, offset=2)["results"]
    for kind in ("csv", "parquet"):
        response = client.post("/api/v1/search", json={**query, "format": kind})
        assert response.headers["content-disposition"] == f'attachment; filename="results.{kind}"'
        if kind == "csv":
            rows = list(csv.DictReader(io.StringIO(response.text)))
            assert [row["labels"] for row in rows] == [listed(one["labels"]) for one in found]
            east = [one["bbox"] and (one["bbox"][0] + one["bbox"][2]) / 2 for one in found if one["id"] != name_of(0)]
            places = [row["lon"] and float(row["lon"]) for row in rows if row["id"] != name_of(0)]
            assert places == [pytest.approx(lon) if lon is not None else "" for lon in east]
        else:
            table = pq.read_table(io.BytesIO(response.content))
            assert b"geo" in table.schema.metadata and set(table["path"].to_pylist()) == {""}
            rows = table.to_pylist()
        said = [(row["id"], int(row["rank"]), float(row["score"])) for row in rows]
        assert said == [(one["id"], one["rank"], one["score"]) for one in found]
    # It holds more than an answer, as deep as pages go.
    assert client.post("/api/v1/search", json={**query, "k": 9998, "format": "csv"}).status_code == 200


def test_items_and_their_small_pictures(client):
    answer = ItemAnswer.model_validate(client.get("/api/v1/items", params={"id": name_of(2)}).json(), strict=True)
    assert answer.item.labels == ITEMS.describe(2)["labels"] and answer.item.date == "2020-03-01"
    west, south, east, north = answer.item.bbox
    assert (west, south, east, north) == pytest.approx((-163, 1, -162, 2))
    assert client.get("/api/v1/items", params={"id": name_of(0)}).json()["item"]["bbox"] == [179.5, 1, -179.5, 2]
    address = f"/api/v1/{answer.item.thumbnail}"
    picture = client.get(address)
    assert picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"
    assert "max-age" in picture.headers["cache-control"] and picture.headers["x-index-version"] == "1"


def test_every_answer_says_which_versions_gave_it(client):
    for answer in (
        client.search({"id": name_of(1)}),
        client.search({"id": name_of(1)}, format="geojson")["search"],
        client.search_image(upload(1)),
        client.get("/api/v1/labels").json(),
        client.get("/api/v1/items", params={"id": name_of(1)}).json(),
    ):
        assert (answer["model_version"], answer["index_version"]) == (1, 1)


def test_health_and_figures(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "model_version": 1, "index_version": 1}
    client.search_image(upload(1))
    lines = client.get("/metrics").text.splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(figures["macl_index_items"]) == COUNT and float(figures["macl_index_version"]) == 1
    for stage in ("decode", "encode", "search", "total"):
        assert float(figures[f'macl_stage_seconds_count{{stage="{stage}"}}']) >= 1
    assert float(figures['macl_requests_total{method="POST",route="/api/v1/search/image",status="200"}']) >= 1
    assert "macl_live_recall_at_10" in figures and float(figures["process_resident_memory_bytes"]) > 0


def test_the_page_is_served_with_its_types_and_nothing_else(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
             ".json": "application/json",
             ".html": "text/html; charset=utf-8", ".txt": "text/plain; charset=utf-8"}  # fmt: skip
    for path in filter(Path.is_file, PAGE.rglob("*")):
        name = path.relative_to(PAGE).as_posix()
        answer = client.get(f"/{name}")
        assert answer.status_code == 200 and answer.headers["content-type"] == kinds[path.suffix]
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(f"/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


def test_a_plot_has_all_tiles_and_tells_which_lie_where(client):
    answer = client.get("/api/v1/plot")
    drawn = answer.json()
    assert drawn["ids"] == [name_of(number) for number in range(COUNT)] and drawn["count"] == COUNT
    places = np.array([drawn["x"], drawn["y"]]).T
    assert (places.min(), places.max()) == (0, PLOT_SIDE)
    again = client.get("/api/v1/plot", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content

    def tiles(status=200, **asked):
        found = client.post("/api/v1/plot/tiles", json=asked)
        assert found.status_code == status, found.text
        return found.json()

    box = [0.0, 0.0, 0.5, 0.7]
    inside = {place for place, (x, y) in enumerate(places / PLOT_SIDE) if x <= 0.5 and y <= 0.7}
    found = tiles(box=box, k=3)
    assert set(found["places"]) == inside and found["more"] == (len(inside) > 3)
    assert [item["id"] for item in found["items"]] == [drawn["ids"][place] for place in found["places"][:3]]
    rest = tiles(box=box, offset=3)
    assert [item["id"] for item in rest["items"]] == [drawn["ids"][place] for place in found["places"][3:]]
    held = tiles(filter={"all_of": ["sea"]}, k=0)
    assert held["places"] == np.flatnonzero(ITEMS.labels[:, LABELS.index("sea")]).tolist() and held["items"] == []
    assert tiles(box=[0, 0, 2, 1], status=422)["error"]["rule"]
    assert tiles(index=9, status=404)["error"]["rule"].startswith("index must be one of")


def test_an_index_without_a_plot_says_how_to_get_one(tmp_path):
    with pytest.MonkeyPatch.context() as before_there_were_plots:
        before_there_were_plots.setattr("macl_tf.index.version.write_plot", lambda *_: None)
        folder = make_served(tmp_path / "served")
    with running(folder) as url, Client(url, folder) as client:
        refused = [client.get("/api/v1/plot"), client.post("/api/v1/plot/tiles", json={})]
        assert all(answer.status_code == 404 and "no plot" in answer.json()["error"]["rule"] for answer in refused)
        assert "macl index SERVED" in refused[0].json()["error"]["remedy"]
    assert macl(["index", str(folder)]) == 0  # that remedy
    with running(folder) as url, Client(url, folder) as client:
        assert client.get("/api/v1/plot").status_code == 200


def test_the_description_names_every_route(client):
    paths = client.get("/api/v1/openapi.json").json()["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == {
        "/api/v1/info": {"get"},
        "/api/v1/labels": {"get"},
        "/api/v1/search": {"post"},
        "/api/v1/search/image": {"post"},
        "/api/v1/matches": {"post"},
        "/api/v1/items": {"get", "put", "delete"},
        "/api/v1/thumbnail": {"get"},
        "/api/v1/collections": {"get", "delete"},
        "/api/v1/collections/marks": {"get", "post"},
        "/api/v1/collections/round": {"get"},
        "/api/v1/diverse": {"get"},
        "/api/v1/ids": {"get"},
        "/api/v1/plot": {"get"},
        "/api/v1/plot/tiles": {"post"},
        "/api/v1/count": {"post"},
        "/api/v1/picture": {"get"},
        "/api/v1/file": {"get"},
        "/api/v1/suggestions": {"get"},
        "/api/v1/items/labels": {"post"},
        "/api/v1/teach": {"get", "post"},
        "/api/v1/collections/rename": {"post"},
        "/api/v1/collections/label": {"post"},
        "/api/v1/collections/file": {"get", "post"},
    }


VECTOR = {"vector": [1.0] * DIM}


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({}, 422, "at least one positive example"),
        ({"positive": [], "negative": [VECTOR]}, 422, "at least one positive example"),
        ({"positive": [{}]}, 422, "an id, a vector or features"),
        ({"positive": [{"id": "a", **VECTOR}]}, 422, "an id, a vector or features"),
        ({"positive": [{"id": "nobody"}]}, 404, "a tile in the index"),
        ({"positive": [VECTOR], "negative": [{"id": "nobody"}]}, 404, "a tile in the index"),
        ({"positive": [{"vector": [1.0] * (DIM + 1)}]}, 422, f"a vector has {DIM} numbers"),
        ({"positive": [{"vector": [0.0] * DIM}]}, 422, "not zero"),
        ({"positive": [{"vector": [1e300] * DIM}]}, 422, "below 1e30"),
        ({"positive": [VECTOR, {"vector": [-1.0] * DIM}]}, 422, "must not cancel out"),
        ({"positive": [VECTOR] * 5}, 422, "at most 4 examples"),
        ({"positive": [VECTOR], "k": 0}, 422, "k: "),
        ({"positive": [VECTOR], "k": 51}, 422, "k is at most 50"),
        ({"positive": [VECTOR], "k": 9999, "offset": 2, "format": "csv"}, 422, "k is at most 9998"),
        ({"positive": [VECTOR], "k": "5"}, 422, "k: "),
        ({"positive": [VECTOR], "k": True}, 422, "k: "),
        ({"positive": [VECTOR], "k": 1.5}, 422, "k: "),
        ({"positive": [VECTOR], "offset": -1}, 422, "offset: "),
        ({"positive": [VECTOR], "offset": 10_001}, 422, "offset: "),
        ({"positive": [{"features": [1e300]}]}, 422, "features are for an index of vectors from elsewhere"),
        ({"positive": [VECTOR], "index": 9}, 404, "index must be one of 1"),
        ({"positive": [VECTOR], "index": 10**40}, 404, "index must be one of 1"),
        ({"positive": [VECTOR], "format": "xml"}, 422, "format: "),
        ({"positive": [VECTOR], "sort": "date"}, 422, "sort: Extra inputs"),
        ({"positive": [VECTOR], "filter": {"any_of": ["sae"]}}, 422, "labels must be among sea, sand"),
        ({"positive": [VECTOR], "filter": {"since": "2020-13-01"}}, 422, "since must be a date like"),
        ({"positive": [VECTOR], "filter": {"since": "yesterday"}}, 422, "filter.since"),
        ({"positive": [VECTOR], "filter": {"since": "2020-02-01", "until": "2020-01-01"}}, 422, "not be after until"),
        ({"positive": [VECTOR], "filter": {"bbox": [0, 2, 1, 1]}}, 422, "a box must be"),
        ({"positive": [VECTOR], "filter": {"bbox": [0, 1, 2]}}, 422, "filter.bbox"),
        ({"positive": [VECTOR], "filter": {"box": [0, 1, 2, 3]}}, 422, "filter.box: Extra inputs"),
        ({"positive": [VECTOR], "filter": {"split": [""]}}, 422, "filter.split"),
        ({"positive": [VECTOR], "filter": {"split": "test"}}, 422, "filter.split"),
        ({"positive": [VECTOR], "labels": ["sae"]}, 422, "labels must be among sea, sand"),
        ({"positive": [VECTOR], "exact": "yes"}, 422, "exact: "),
        ([], 422, ""),
        ("text", 422, ""),
    ],
)
def test_what_cannot_be_searched_is_refused_with_its_rule(client, query, status, words):
    answer = client.post("/api/v1/search", json=query)
    assert answer.status_code == status and words in answer.json()["error"]["rule"], answer.text


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"{", "application/json", 400),
        (b'{"positive": [{"id": "\\ud800"}]}', "application/json", 422),
        (b'{"positive": [{"vector": [NaN]}]}', "application/json", 422),
        (b'{"positive": [{"vector": [1e999]}]}', "application/json", 422),
        (b'{"k": ' + b"9" * 5000 + b"}", "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b'{"a":' * 10_000, "application/json", 400),
        (b"\xff\xfe\x00", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
    ],
)
def test_malformed_bodies_are_refused(client, body, kind, status):
    answer = client.post("/api/v1/search", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text


def test_the_query_beside_a_picture_is_checked_as_well(client):
    for query, status, words in (
        ("{", 400, "query must be JSON"),
        ('{"k": 99}', 422, "k is at most"),
        ('{"nonsense": 1}', 422, "nonsense"),
        ('{"positive": [{"id": "nobody"}]}', 404, "a tile"),
        ("[]", 422, ""),
    ):
        answer = client.post("/api/v1/search/image", files={"image": ("a", upload(1))}, data={"query": query})
        assert answer.status_code == status and words in answer.json()["error"]["rule"], answer.text
    for options, status in (
        ({"files": {"picture": ("a", upload(1))}}, 422),
        ({"data": {"image": "text"}}, 415),
        ({"json": {"image": "text"}}, 415),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400),
    ):
        answer = client.post("/api/v1/search/image", **options)
        assert answer.status_code == status, answer.text


def test_other_paths_and_methods_are_refused(client):
    for method, path, status in (
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v2/info", 404),
        ("GET", "/api/v1/../../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("POST", "/api/v1/info", 405),
        ("PATCH", "/api/v1/items", 405),
        ("GET", "/api/v1/items", 422),
        ("GET", "/api/v1/items?id=", 422),
        ("GET", "/api/v1/items?id=nobody", 404),
        ("GET", "/api/v1/thumbnail?id=nobody", 404),
        ("GET", "/api/v1/thumbnail?id=" + "a" * 600, 422),
        ("GET", "/api/v1/thumbnail?id=%ff%00", 404),
        ("GET", f"/api/v1/items?id={name_of(1)}&index=7", 404),
    ):
        assert client.request(method, path).status_code == status, path


def test_long_and_strange_values_are_repeated_shortly(client):
    for value in ("x" * 512, "\u202e\0\n" * 20, "日本"):
        error = client.search({"id": value}, status=404)["error"]
        assert len(error["value"]) < 130 and error["value"].isprintable()
    assert json.dumps(client.search({"id": "日本"}, status=404)["error"]["value"]) == '"\\u65e5\\u672c"'


def test_what_a_refusal_advises_works(client):
    """Each remedy is followed as it stands."""

    def refused(status, *positive, **query):
        return client.search(*positive, status=status, **query)["error"]["remedy"]

    assert refused(422, VECTOR, filter={"any_of": ["sae"]}) == "Did you mean sea?"
    assert client.search(VECTOR, filter={"any_of": ["sea"]})["results"]
    assert "GET api/v1/labels" in refused(422, VECTOR, filter={"any_of": ["quite another"]})
    name = client.get("/api/v1/labels").json()["labels"][0]["name"]
    assert client.search(VECTOR, filter={"any_of": [name]})["results"]

    assert "vector of an answer" in refused(422, {"vector": [1.0, 2.0]})
    vector = client.search_image(upload(5), k=1, vector=True)["query"]["vector"]
    assert ids(client.search({"vector": vector}, k=1)) == [name_of(5)]

    assert "offset" in refused(422, VECTOR, k=51)
    assert client.search(VECTOR, k=COUNT - 5, offset=5)["results"]
    assert "one of these" in refused(404, VECTOR, index=9)
    assert client.search(VECTOR, index=1)["results"]
    assert "search results" in refused(404, {"id": name_of(1).split("/")[1]})
    assert client.search({"id": client.search(VECTOR)["results"][0]["id"]})["results"]

    body = json.dumps({"positive": [VECTOR]})
    for path, good in (
        ("/api/v1/search", {"content": body, "headers": {"Content-Type": "application/json"}}),
        ("/api/v1/search/image", {"files": {"image": ("a", upload(1))}}),
    ):
        remedy = client.post(path, content=b"x", headers={"Content-Type": "text/plain"}).json()["error"]["remedy"]
        assert ("application/json" if "content" in good else "in the field image") in remedy
        assert client.post(path, **good).status_code == 200
    told = client.get("/api/v1/nothing").json()["error"]["remedy"]
    assert client.get(told.split()[-1].rstrip(".")).json()["openapi"]
    told = client.get("/nothing").text
    assert client.get(told.split()[-1].rstrip(".")).headers["content-type"].startswith("text/html")
