"""Parts of pictures: searched for in place of the whole, and found in tiles."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from macl_tf import cli
from macl_tf.datasets.images import decode_image, resize_image
from macl_tf.export.exporting import encoder_identity
from macl_tf.export.regions import Regions, shares
from macl_tf.export.saved_model import ExportedEncoder
from macl_tf.models.descriptors import descriptor_model, turned
from macl_tf.models.encoders import build_encoder
from macl_tf.models.inference import graph_encoder
from macl_tf.search.encoders import load_encoder
from macl_tf.search.engine import SearchEngine
from macl_tf.search.query import QueryError
from tests.browser import chromium, until
from tests.generated import photo
from tests.runs import ROBUST_DIM, SIZE, one_layer
from tests.serving_process import Client, running

BOX = (0.1, 0.3, 0.55, 0.8)


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    return build_encoder(SIZE, embedding_dim=5, hidden_dim=8, backbone=one_layer)


@pytest.fixture(scope="module")
def engine(small_served):
    return SearchEngine.open(small_served)


def seen(picture):
    return resize_image(picture, SIZE).astype(np.float32)


def regions(model, turns=1):
    return Regions(graph_encoder(model, model.input_shape[1:]).get_concrete_function(), turns)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def by_hand(encoder, pixels, inside, descriptor):
    """The descriptor of the mean of the maps weighted by `inside` (h, w), layer by layer."""
    maps = keras.Model(encoder.input, encoder.get_layer("conv").output).predict_on_batch(pixels)
    features = (maps * inside[..., None]).sum(axis=(1, 2)) / inside.sum()
    x = features
    for name in ("projection_1", "projection_norm", "re_lu", "projection_2"):
        layer = next(layer for layer in encoder.layers if layer.name.startswith(name))
        x = np.asarray(layer(x))
    learned = unit(x)
    beside = np.concatenate([unit(features), learned], axis=1) * 0.5**0.5
    return {"projection": learned, "backbone": unit(features), "robust": beside}[descriptor]


def test_the_shares_of_cells_are_those_of_a_fine_grid():
    edges = np.round(np.array(BOX) * 400).astype(int)
    fine = np.zeros((400, 400))
    fine[edges[1] : edges[3], edges[0] : edges[2]] = 1
    expected = fine.reshape(8, 50, 5, 80).sum(axis=(1, 3)) / fine.sum()
    np.testing.assert_allclose(shares(BOX, 8, 5), expected, atol=1e-12)


@pytest.mark.parametrize("descriptor", ["projection", "backbone", "robust"])
def test_a_box_is_the_mean_over_its_cells(encoder, descriptor):
    pixels = np.stack([seen(photo(seed)) for seed in range(2)])
    found = regions(descriptor_model(encoder, descriptor))
    height, width = found.grid
    inside = shares(BOX, height, width)
    np.testing.assert_allclose(found.embed(pixels, [BOX, BOX]), by_hand(encoder, pixels, inside, descriptor), atol=1e-5)
    whole = by_hand(encoder, pixels, np.ones(found.grid), descriptor)
    np.testing.assert_allclose(found.embed(pixels, [(0, 0, 1, 1)] * 2), whole, atol=1e-5)


def test_a_cell_matches_by_itself_and_its_neighbours(encoder):
    pixels = seen(photo(3))[None]
    found = regions(descriptor_model(encoder))
    vector = found.embed(pixels, [BOX])[0]
    cosines = found.matches(pixels, vector)
    assert cosines.shape == (1, *found.grid)
    for row, column in ((0, 0), (3, 4), (found.grid[0] - 1, 2)):
        inside = np.zeros(found.grid)
        inside[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 1
        expected = by_hand(encoder, pixels, inside, "projection")[0] @ vector
        assert cosines[0, row, column] == pytest.approx(expected, abs=1e-5)


def test_turns_and_what_has_no_maps_are_refused(encoder):
    with pytest.raises(ValueError, match="this one has turns=4"):
        regions(turned(encoder, 4), turns=4)
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.UnitNormalization()])
    with pytest.raises(ValueError, match="this one has 0 kinds of maps"):
        regions(flat)


def test_who_asks_whether_there_are_parts_is_told_before(encoder, small_served, client, monkeypatch):
    """One scale; several, as of `multi-scale`; no maps, as of tokens; an older export."""
    exported = load_encoder(small_served, encoder_identity(small_served, 1))
    assert exported.sees_parts and client.get("/api/v1/info").json()["has_parts"]
    pixels = keras.Input((SIZE, SIZE, 3))
    other = build_encoder(2 * SIZE, embedding_dim=5, hidden_dim=8, backbone=one_layer)
    other = keras.Model(other.input, other.output, name="larger")
    large = keras.layers.Resizing(2 * SIZE, 2 * SIZE)(pixels)
    two = keras.Model(pixels, keras.layers.Add()([encoder(pixels), other(large)]))
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.UnitNormalization()])
    for model in (two, flat):
        graph = graph_encoder(model, model.input_shape[1:]).get_concrete_function()
        monkeypatch.setattr(ExportedEncoder, "graphs", lambda *_, graph=graph: {"encode": graph})
        assert not load_encoder(small_served, encoder_identity(small_served, 1)).sees_parts
    monkeypatch.setattr(ExportedEncoder, "graphs", lambda *_: {})
    assert not load_encoder(small_served, encoder_identity(small_served, 1)).sees_parts


def test_an_engine_searches_by_a_part(engine, small_served, tmp_path):
    state = engine.index.snapshot
    id_ = state.items.ids[7]
    small = decode_image(state.thumbnail(id_), id_)
    (answer,) = engine.search(ids=[id_], box=BOX, k=100)
    expected = ExportedEncoder.load(small_served).regions.embed(seen(small)[None], [BOX])[0]
    np.testing.assert_allclose(answer.vector, expected, atol=1e-6)
    assert id_ not in [result.id for result in answer.results] and len(answer.results) == len(state) - 1
    path = tmp_path / "small.png"
    Image.fromarray(small).save(path)
    (by_file,) = engine.search([path], box=BOX, k=100)
    assert len(by_file.results) == len(state)
    np.testing.assert_allclose(by_file.vector, expected, atol=1e-6)
    (whole,) = engine.search([path], k=100)
    assert np.abs(whole.vector - expected).max() > 1e-3
    found = engine.matches([id_, state.items.ids[8]], answer.vector)
    assert found.shape[0] == 2 and np.abs(found).max() <= 1 + 1e-6
    assert answer.vector.shape == (ROBUST_DIM,)


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0, 0, 1, 1.2), (-0.1, 0, 1, 1), (0, 0, 1), ["a", "b", "c", "d"]])
def test_a_box_that_is_none_is_refused(engine, box):
    with pytest.raises(QueryError, match="a box is left, top, right, bottom in shares") as error:
        engine.search(ids=[engine.index.items.ids[0]], box=box)
    assert "The right half of a picture is 0.5, 0, 1, 1." in str(error.value)


def test_a_box_is_of_one_picture(engine):
    with pytest.raises(QueryError, match="a box is of one picture or one id, got 2"):
        engine.search(ids=list(engine.index.items.ids[:2]), box=BOX)
    with pytest.raises(QueryError, match="the id must be of a tile in the index"):
        engine.search(ids=["nowhere.png"], box=BOX)


def test_the_command_line_takes_a_box(engine, small_served, capsys):
    id_ = engine.index.items.ids[7]
    words = ["search", str(small_served), "--id", id_, "-k", "3"]
    assert cli.main([*words, "--box", ",".join(map(str, BOX))]) == 0
    said = capsys.readouterr().out
    (answer,) = engine.search(ids=[id_], box=BOX, k=3)
    assert [result.id in said for result in answer.results] == [True] * 3
    assert cli.main([*words, "--box", "0,0,2,1"]) == 2
    assert "got '0, 0, 2, 1'. The right half" in capsys.readouterr().err


@pytest.fixture(scope="module")
def client(small_served):
    with (
        running(small_served, load=load_encoder) as url,
        Client(url, small_served, token=None) as client,
    ):  # nobody needs a token for it
        yield client


def test_the_server_searches_by_a_part_and_says_where_it_is(client, engine):
    items = engine.index.items.ids
    (expected,) = engine.search(ids=[items[7]], box=BOX, k=5)
    answer = client.post(
        "/api/v1/search", json={"positive": [{"id": items[7], "box": BOX}], "k": 5, "vector": True}
    ).json()
    assert [result["id"] for result in answer["results"]] == [result.id for result in expected.results]
    np.testing.assert_allclose(answer["query"]["vector"], expected.vector, atol=1e-6)
    upload = {"image": ("part.jpg", engine.index.snapshot.thumbnail(items[7]))}
    by_file = client.post(
        "/api/v1/search/image", files=upload, data={"query": json.dumps({"box": BOX, "k": 5, "vector": True})}
    ).json()
    np.testing.assert_allclose(by_file["query"]["vector"], expected.vector, atol=1e-6)
    chosen = {"ids": [str(items[8]), str(items[9])], "vector": answer["query"]["vector"]}
    found = client.post("/api/v1/matches", json=chosen).json()["matches"]
    np.testing.assert_allclose(found, engine.matches(chosen["ids"], expected.vector), atol=1e-4)


def test_the_server_refuses_what_is_no_part(client, engine):
    id_, vector = str(engine.index.items.ids[0]), [1.0] * ROBUST_DIM
    for path, body, status, words in (
        ("search", {"positive": [{"id": id_, "box": [0.5, 0, 0.5, 1]}]}, 422, "a box is left, top, right, bottom"),
        ("search", {"positive": [{"id": id_, "box": [0, 0, 1, 2]}]}, 422, "less than or equal to 1"),
        ("search", {"positive": [{"vector": vector, "box": BOX}]}, 422, "a box is of an item"),
        ("search", {"positive": [{"id": "nobody", "box": BOX}]}, 404, "the id must be of a tile"),
        ("matches", {"ids": [id_], "vector": [1.0]}, 422, f"a vector has {ROBUST_DIM} numbers"),
        ("matches", {"ids": ["nobody"], "vector": vector}, 404, "the id must be of a tile"),
    ):
        answer = client.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == status and words in answer.json()["error"]["rule"], answer.text


def test_an_encoder_elsewhere_has_no_parts(small_served):
    with running(small_served) as url, Client(url, small_served) as client:  # the stub, as one behind REST, has none
        id_ = client.get("/api/v1/diverse", params={"k": 1}).json()["items"][0]["id"]
        answer = client.post("/api/v1/search", json={"positive": [{"id": id_, "box": BOX}]})
        assert answer.status_code == 422
        assert "needs the encoder in this process" in answer.json()["error"]["rule"]


SHOWN = "[...document.querySelectorAll('.tile')].map((tile) => tile.dataset.id)"


def draw_box(page):
    """Draws 0.5, 0.25, 0.75, 0.625 on the picture in large, and searches by it."""
    picture = page.locator("#tile .large img").bounding_box()
    side = min(picture["width"], picture["height"])
    middle = picture["x"] + picture["width"] / 2, picture["y"] + picture["height"] / 2
    page.mouse.move(middle[0], middle[1] - side / 4)
    page.mouse.down()
    page.mouse.move(middle[0] + side / 4, middle[1] + side / 8, steps=3)
    page.mouse.up()
    page.get_by_role("button", name="Find this part").click()


@pytest.mark.slow
def test_a_box_is_drawn_on_the_page(small_served, engine, tmp_path):
    id_ = str(engine.index.items.ids[7])
    with running(small_served, load=load_encoder) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(f"{url}#like={id_}")
        page.wait_for_selector("#lists[aria-busy=false] .tile")
        first = page.locator(".tile").first.get_attribute("data-id")
        page.locator(".tile .details").first.evaluate("button => button.click()")
        page.get_by_role("button", name="Where it matches").click()
        page.wait_for_selector("#tile canvas.matches")
        draw_box(page)
        until(page, "location.hash.startsWith('#part=')")
        page.wait_for_selector("#lists[aria-busy=false] .tile")
        box, _, of = page.evaluate("decodeURIComponent(location.hash)").removeprefix("#part=").partition("~")
        edges = [float(edge) for edge in box.split(",")]
        np.testing.assert_allclose(edges, [0.5, 0.25, 0.75, 0.625], atol=0.01)
        (expected,) = engine.search(ids=[of], box=edges, k=48)
        shown = page.locator(".tile").evaluate_all("all => all.map(tile => tile.dataset.id)")
        assert of == first and shown == [result.id for result in expected.results]
        page.reload()
        page.wait_for_selector("#lists[aria-busy=false] .tile")
        assert page.locator(".example .name").inner_text() == f"part of {of}"
        # The same on a picture that is dropped, whose part stands in the link.
        dropped = tmp_path / "small.jpg"
        dropped.write_bytes(engine.index.snapshot.thumbnail(of))
        page.set_input_files("#file", dropped)
        page.get_by_role("button", name="A part of it…").click()
        until(page, "document.querySelector('#tile .large img')?.naturalWidth > 0")
        draw_box(page)
        until(page, "decodeURIComponent(location.hash).endsWith('~part of small.jpg')")
        (expected,) = engine.search([dropped], box=edges, k=48)
        until(page, f"lists.ariaBusy === 'false' && lists.dataset.shows === location.hash && {SHOWN}[0]")
        assert page.evaluate(SHOWN) == [result.id for result in expected.results]
        assert page.locator("#tile[open]").count() == 0
        page.reload()  # the file is gone, what the encoder made of it is not
        until(page, f"lists.ariaBusy === 'false' && {SHOWN}[0]")
        assert page.evaluate(SHOWN) == [result.id for result in expected.results]
        assert page.get_by_role("button", name="A part of it…").count() == 0
