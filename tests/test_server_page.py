"""The page of the service, used in a real browser against a real server, whose encoder alone is a stub."""

import contextlib
import csv
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from PIL import Image

from macl_tf.datasets.images import thumbnail
from macl_tf.index.index import build_index
from macl_tf.index.items import Items
from macl_tf.server.auth import LOOPBACK, Access
from macl_tf.server.service import PREVIEW
from macl_tf.server.settings import BaseMap, Limits
from tests.browser import chromium, until
from tests.serving_process import (
    COUNT,
    TOKEN,
    Client,
    make_served,
    name_of,
    publish_encoder,
    publish_index,
    running,
    tile,
    upload,
    vectors_of,
)

pytestmark = pytest.mark.slow

FIRST, SECOND = (f"#like={name_of(number)}".replace(" ", "%20") for number in (0, 1))
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two versions of the index, made by two encoders."""
    folder = make_served(tmp_path_factory.mktemp("page") / "served")
    publish_index(folder, publish_encoder(folder, "b"), "b")
    return folder


@pytest.fixture(scope="module")
def api(served):
    with running(served) as url, Client(url, served, trust_env=False) as client:
        client.upsert(upload(COUNT), id=HOSTILE)
        yield client


STRANGE = ("Beaches, dunes, sands", "a;b", "x=y", "Q&A", "नदी", "🌊", "#1", "100%", "a+b", "<b>", '"quoted"', "it's",
           "عربي", "back\\slash", "a/b", "verylongwordwithoutablank" * 6, "held by none")  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """An archive with strange labels and long ids, in two places. The older of two versions lacks the first tile."""
    folder = tmp_path_factory.mktemp("own") / "served"
    made_with = publish_encoder(folder, "a")
    generator = np.random.default_rng(0)
    labels = (generator.random((COUNT, len(STRANGE))) < 0.25).astype(np.uint8)
    labels[:2] = 1
    labels[:, -1] = 0
    corner = generator.random((COUNT, 2)) * 0.5 + [(5 if number % 2 else 8, 45) for number in range(COUNT)]
    corners = [[(x, y + 0.02), (x + 0.02, y + 0.02), (x + 0.02, y), (x, y)] for x, y in corner]
    ids = ["first/tile.tif", "other/tile.tif", "first/alone.tif", "deep/" * 60 + "tile.png", "x" * 300, "एक/🌊 #1.png"]
    ids += [name_of(number) for number in range(len(ids), COUNT)]
    items = Items.of(STRANGE, ids, labels, footprints=corners, sources=["a source of a long name, and more"] * COUNT)
    for first in (1, 0):
        rows = list(range(first, COUNT))
        build_index(folder / "index", items.take(np.array(rows)), vectors_of(rows), keep=0, progress=False,
                    info={"encoder": made_with, "archive": {"name": "my tiles", "tiles": len(rows)}},
                    thumbnails=[thumbnail(tile(row), 16) for row in rows])  # fmt: skip
    with running(folder) as url, Client(url, folder, trust_env=False) as client:
        yield client


def picture(number, name="tile.png", data=None):
    return {"name": name, "mimeType": "image/png", "buffer": upload(number) if data is None else data}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, api):
    """Opens a server's page at a fragment. At the end nothing may have gone wrong, nor broken its content policy."""
    contexts, complaints = [], []

    def listen(message):
        if message.type == "error" and "Failed to load resource" not in message.text:  # that is how 4xx look
            complaints.append(message.text)

    def open_page(fragment="", at=api, **settings):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(f"{str(at.base_url).rstrip('/')}/{fragment}")
        return settled(page)

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def settled(page):
    """Waits until the page shows what its link says."""
    until(page, "lists.ariaBusy === 'false' && lists.dataset.shows === location.hash")
    return page


def moved(page, act):
    """Does something that leads to another search, and waits for it."""
    before = page.evaluate("location.hash")
    act()
    until(page, f"location.hash !== {json.dumps(before)}")
    return settled(page)


def unfold(page, menu="more", open_=True):
    """Opens a menu, or closes it."""
    page.evaluate(f"document.getElementById('{menu}').open = {json.dumps(open_)}")


def draw(page):
    """Opens the drawer of the filter."""
    if page.locator("#filters").is_hidden():
        page.click("#filter-toggle")
    return page


def pick(page, select, value):
    """Chooses in the menu, and waits for what follows."""
    unfold(page)
    moved(page, lambda: page.select_option(select, value))


def choose(page, *files):
    return moved(page, lambda: page.set_input_files("#file", files))


def shown(page, column=0):
    """Ids of the tiles of a list, in order."""
    tiles = page.locator(".tiles").nth(column).locator(".tile")
    return tiles.evaluate_all("tiles => tiles.map(tile => tile.dataset.id)")


def ids(answer):
    return [result["id"] for result in answer["results"]]


def examples(*names):
    return [{"id": id_} for id_ in names]


def texts(tile, selector):
    return {text.split()[-1] for text in tile.locator(selector).all_text_contents()}


def test_it_begins_with_a_tile_for_each_label_the_rarest_first(open_page, api):
    page = draw(open_page())
    labels = {label["name"]: label for label in api.get("/api/v1/labels").json()["labels"]}
    listed = page.locator(".labels li")
    assert listed.count() == len(labels)
    for row in listed.all():
        name = row.locator(".label").inner_text().removeprefix("★ ")
        assert int(row.locator(".count").inner_text()) == labels[name]["count"]
        assert (row.locator(".star").count() == 1) == labels[name]["rare"]
    by_count = sorted((label for label in labels.values() if label["count"]), key=lambda label: label["count"])
    stands = page.locator(".tile .stands bdi").all_text_contents()
    assert stands == [label["name"] for label in by_count] == page.locator("#quick bdi").all_text_contents()
    assert stands[0] in texts(page.locator(".tile").first, ".chip")
    until(page, "document.querySelector('.tile img').naturalWidth > 0")


def test_a_picture_finds_what_the_api_finds_and_its_link_restores_it(open_page, api):
    page = choose(open_page(), picture(50))
    expected = api.search_image(upload(50), k=48)
    assert shown(page) == ids(expected)
    scores = page.locator(".score b").all_text_contents()
    assert scores == [f"{result['score']:.3f}" for result in expected["results"]]
    assert page.inner_text("#status") == f"{len(scores)} tiles"
    assert page.locator(".example .name").inner_text() == "tile.png"
    bars = page.locator(".bar-of-score").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert bars == sorted(bars, reverse=True) and (bars[0], bars[-1]) == (100, 4)

    again = open_page(page.url[page.url.index("#") :])  # another browser, which never saw the picture
    assert shown(again) == ids(expected) and again.locator(".example .name").inner_text() == "tile.png"
    until(again, "document.querySelector('.example img').naturalWidth === 40")


def test_several_pictures_are_searched_for_together(open_page, api):
    page = choose(open_page(), picture(50), picture(51))
    vectors = [api.search_image(upload(number), k=1, vector=True)["query"]["vector"] for number in (50, 51)]
    expected = ids(api.search(*({"vector": vector} for vector in vectors), k=48))
    assert shown(page) == expected and page.locator(".example").count() == 2
    page.locator("#add").click()  # one more, beside those that are there
    choose(page, picture(52))
    assert page.locator(".example").count() == 3


def test_a_picture_can_be_dropped_or_pasted(open_page, api):
    page = open_page()
    for event, number in (("drop", 50), ("paste", 51)):
        moved(page, lambda event=event, number=number: page.evaluate(HAND_OVER, [event, list(upload(number))]))
        assert shown(page) == ids(api.search_image(upload(number), k=48))


def test_without_an_encoder_of_pictures_there_is_no_upload(open_page, tmp_path):
    publish_index(tmp_path, publish_encoder(tmp_path, "a", image_size=None), "a")
    with running(tmp_path) as url, Client(url, tmp_path, trust_env=False) as client:
        page = open_page(at=client)
        assert page.locator("#drop").is_hidden() and page.locator("#id").is_visible()
        page.set_input_files("#file", picture(3))
        page.get_by_text("no picture can be searched for").wait_for()
        moved(page, page.locator(".tile a").first.click)
        assert page.locator(".tile").count() > 1


def test_a_tiff_is_searched_with_and_drawn_by_the_server(open_page, api):
    data = io.BytesIO()
    Image.fromarray(tile(50)).save(data, "TIFF")
    page = choose(open_page(), picture(50, "tile.tif", data.getvalue()))
    assert shown(page) == ids(api.search_image(upload(50), k=48))
    for at in (page, open_page(page.url[page.url.index("#") :])):  # a link keeps it
        width = min(PREVIEW, tile(50).shape[1])
        until(at, f"document.querySelector('.example img').naturalWidth === {width}")
        assert at.locator(".example img").get_attribute("src").startswith("data:image/jpeg")


def test_a_click_searches_from_the_tile_and_marks_what_is_shared(open_page, api):
    page = open_page()
    begin = shown(page)
    moved(page, lambda: page.locator(".tile a").nth(2).click())
    answer = api.search(*examples(begin[2]), k=48)
    assert shown(page) == ids(answer)
    rare = {label["name"] for label in api.get("/api/v1/labels").json()["labels"] if label["rare"]}
    for card, result in zip(page.locator(".tile").all(), answer["results"], strict=True):
        assert texts(card, ".chip") == set(result["labels"])
        assert texts(card, ".chip.shared") == set(result["shared"])
        assert texts(card, ".chip.rare") == rare & set(result["labels"])
    moved(page, page.go_back)
    assert shown(page) == begin


def test_labels_filter_with_their_counts(open_page, api):
    page = draw(open_page(f"{FIRST}&k=48"))
    labels = sorted(api.get("/api/v1/labels").json()["labels"], key=lambda label: -label["count"])
    wanted, other = labels[0]["name"], labels[1]["name"]

    def expected(**condition):
        return ids(api.search(*examples(name_of(0)), k=48, filter=condition))

    moved(page, lambda: page.check(f'[data-key="with {wanted}"]'))
    found = shown(page)
    assert found == expected(any_of=[wanted]) and page.inner_text("#filter-count") == "1 on"
    assert len(found) in (labels[0]["count"], labels[0]["count"] - 1)  # the query itself is not found
    assert page.inner_text("#left") == f"{labels[0]['count']} of {COUNT + 1} tiles"
    held = [set(result["labels"]) for result in api.search(*examples(name_of(1)), k=48)["results"]]
    held.append(set(api.get("/api/v1/items", params={"id": name_of(1)}).json()["item"]["labels"]))
    both = sum({wanted, other} <= some for some in held)
    assert page.locator(f'[data-label="{other}"] .count').inner_text() == str(both)
    moved(page, lambda: page.check(f'[data-key="with {other}"]'))
    assert shown(page) == expected(any_of=[wanted, other])
    moved(page, lambda: page.check('[data-key="mode all"]'))
    assert shown(page) == expected(all_of=[wanted, other])
    moved(page, lambda: page.click(f'[data-key="without {other}"]'))
    assert shown(page) == expected(all_of=[wanted], none_of=[other])
    moved(page, page.go_back)
    assert shown(page) == expected(all_of=[wanted, other])
    moved(page, lambda: page.click("text=Clear the filter"))
    assert len(shown(page)) == COUNT


def test_dates_filter_and_a_filter_that_nothing_meets_says_so(open_page, api):
    page = draw(open_page(f"{FIRST}&k=48"))
    for key, day in (("since", "2020-06-01"), ("until", "2020-08-31")):
        moved(page, lambda key=key, day=day: page.fill(f'[data-key="{key}"]', day))
    condition = {"since": "2020-06-01", "until": "2020-08-31"}
    assert shown(page) == ids(api.search(*examples(name_of(0)), k=48, filter=condition))
    moved(page, lambda: page.fill('[data-key="until"]', "2020-06-02"))
    moved(page, lambda: page.fill('[data-key="since"]', "2020-06-02"))
    assert "No tile meets the filter." in page.inner_text("#lists")
    moved(page, page.locator("#lists").get_by_role("button", name="Clear the filter").click)
    assert shown(page)


def test_marks_refine_the_search(open_page, api):
    page = open_page(FIRST)
    before = shown(page)
    for place in (0, 2):
        page.locator(".tile").nth(place).get_by_role("button", name="Right").click()
    wrong = page.locator(".tile").nth(1).get_by_role("button", name="Wrong")
    wrong.click()
    assert wrong.get_attribute("aria-pressed") == "true"
    assert "2 right, 1 wrong" in page.inner_text("#marks")
    moved(page, lambda: page.click("#again"))
    positive, negative = [name_of(0), before[0], before[2]], [before[1]]
    assert shown(page) == ids(api.search(*examples(*positive), negative=examples(*negative), k=48))
    assert not set(shown(page)) & {*positive, *negative} and page.locator("#marks").is_hidden()
    # Taking the wrong one out of the query searches without it.
    moved(page, page.locator(".example.wrong button").click)
    assert shown(page) == ids(api.search(*examples(*positive), k=48))


def test_more_results_follow_on_the_same_page(open_page, api):
    page = open_page(f"{FIRST}&k=12")
    page.click("text=Show more")
    until(page, "document.querySelectorAll('.tile').length === 24")
    assert shown(page) == ids(api.search(*examples(name_of(0)), k=24))
    assert page.locator(".score .rank").all_text_contents() == [str(rank) for rank in range(1, 25)]
    unfold(page)
    with page.expect_download() as download:
        page.locator("#download").get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "results.csv"
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == shown(page)
    assert page.locator("#download").is_hidden()


def test_what_is_no_picture_is_refused_well_and_nothing_is_lost(open_page):
    page = open_page(FIRST)
    before = shown(page)
    page.set_input_files("#file", picture(0, "notes.jpg", b"not a picture"))
    notice = page.get_by_role("alert")
    notice.get_by_role("button", name="Close").wait_for()
    assert "JPEG" in notice.inner_text() and "notes.jpg" in notice.inner_text()
    assert shown(page) == before
    page.keyboard.press("Escape")
    assert notice.inner_text() == ""
    page.set_input_files("#file", picture(0, "empty.png", b""))
    notice.get_by_text("must not be empty").wait_for()
    page.set_input_files("#file", picture(0, "large.png", bytes(300_000)))
    notice.get_by_text("at most 0.2 MB").wait_for()


def test_an_unknown_id_and_a_lost_server_are_told_with_a_remedy(open_page):
    page = open_page()
    page.fill("#id", "nowhere.png")
    moved(page, lambda: page.keyboard.press("Enter"))
    assert "nowhere.png" in page.get_by_role("alert").inner_text()
    page.context.set_offline(True)
    page.fill("#id", name_of(0))
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("The server does not answer").wait_for()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".score")
    assert page.get_by_role("alert").inner_text() == ""


def test_two_versions_stand_side_by_side(open_page, api):
    page = open_page(f"{FIRST}&k=12")
    pick(page, "#versus", "1")
    answers = [api.search(*examples(name_of(0)), k=12, index=version) for version in (2, 1)]
    assert [shown(page, 0), shown(page, 1)] == [ids(answer) for answer in answers]
    both = set(ids(answers[0])) & set(ids(answers[1]))
    assert f"{len(both)} of 12" in page.inner_text("#status")
    assert page.locator(".lonely").count() == 2 * (12 - len(both))
    # A picture is embedded by each version's own encoder.
    choose(page, picture(50))
    expected = [ids(api.search_image(upload(50), k=12, index=version)) for version in (2, 1)]
    assert [shown(page, 0), shown(page, 1)] == expected
    # From a link alone that cannot be done, and is said where the other list would be.
    again = open_page(page.url[page.url.index("#") :])
    assert "Vectors of two encoders cannot be compared" in again.locator("#lists > section").nth(1).inner_text()
    assert shown(again, 0) == expected[0] and again.get_by_role("alert").inner_text() == ""


def test_footprints_lie_on_a_map(open_page):
    page = open_page(f"{FIRST}&k=48")
    moved(page, lambda: page.click("#map-toggle"))
    assert page.locator("#map a.found").count() == COUNT / 2 - 1 and page.locator("#map a.asked").count() == 1
    page.locator("#map .map").focus()
    for key in ("+", "ArrowLeft", "-", "ArrowRight"):
        page.keyboard.press(key)
    at_rest(page)
    moved(page, page.locator("#map a.found:has(.number)").last.click)  # nearer to those that it counts
    assert "view=" in page.url and page.locator(".example .name").get_attribute("title") == name_of(0)
    at_rest(page)
    alone = page.locator("#map a.found:not(.behind, :has(.number))").first
    wanted = alone.get_attribute("data-id")
    moved(page, alone.click)
    assert page.locator(".example .name").get_attribute("title") == wanted and "view=" not in page.url

    # On both sides of the antimeridian, 17 degrees from each other: from 179.5 and from -163 degrees on.
    moved(page, lambda: page.goto(f"{page.url.split('#')[0]}{SECOND}&map&k=48&bbox=170,0,-150,3"))
    assert set(shown(page)) == {name_of(0), name_of(2)}
    left = {id_: page.locator(f'#map [data-id="{id_}"]').bounding_box()["x"] for id_ in shown(page)}
    assert 0 < left[name_of(2)] - left[name_of(0)] < 500
    moved(page, lambda: page.click("text=Search this area"))
    assert set(shown(page)) == {name_of(0), name_of(2)}
    draw(page)
    moved(page, lambda: page.click("text=Anywhere"))
    assert len(shown(page)) == COUNT


@pytest.fixture
def tiles():
    """A server of base map tiles; who asked, for what."""
    asked = []

    class Tiles(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Referer"]))
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(upload(0))

        def log_message(self, *_):
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tiles)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_base_map_lies_below_where_the_server_names_one(open_page, api, served, tiles):
    origin, asked = tiles
    base_map = BaseMap(f"{origin}/{{z}}/{{x}}/{{y}}.png", "© <b>Nobody</b>")
    with running(served, base_map=base_map) as url, Client(url, served, trust_env=False) as own:
        assert (
            f"img-src 'self' blob: data: {origin};"
            in httpx.get(url, trust_env=False).headers["content-security-policy"]
        )
        page = open_page(f"{FIRST}&map", at=own)
        until(page, "document.querySelector('.leaflet-tile-loaded')?.naturalWidth > 0")
        assert page.locator(".leaflet-control-attribution").inner_text() == "© <b>Nobody</b>"
        assert page.locator("#map path.graticule").count() == 0
        path, referer = asked[0]
        assert re.fullmatch(r"/\d+/\d+/\d+\.png", path) and referer == url
    assert "img-src 'self' blob: data:;" in api.get("/").headers["content-security-policy"]
    assert api.get("/api/v1/info").json()["base_map"] is None
    page = open_page(f"{FIRST}&map")
    assert page.locator("#map path.graticule").count() > 2 and page.locator(".leaflet-tile").count() == 0


@pytest.mark.parametrize("url", ["tiles.example.org/{z}/{x}/{y}.png", "https://a.org/{z}/{x}.png", "", "/{z}/{x}/{y};",
                                 "https://{s}.a.org/{z}/{x}/{y}.png", "https://a.org *;/{z}/{x}/{y}"])  # fmt: skip
def test_a_base_map_that_cannot_be_is_refused(url):
    with pytest.raises(ValueError, match=r"--base-map must be like https://tiles\.example\.org/\{z\}/\{x\}/\{y\}\.png"):
        BaseMap(url, "somebody")
    with pytest.raises(ValueError, match="--base-map-attribution must say whom"):
        BaseMap("/tiles/{z}/{x}/{y}", " ")
    assert BaseMap("/tiles/{z}/{x}/{y}", "us").origin == ""
    assert BaseMap("http://localhost:8000/{z}/{x}/{y}?key=1", "us").origin == "http://localhost:8000"


def test_the_keyboard_is_enough(open_page):
    page = open_page(FIRST)
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    assert "search again with the marks" in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "y", "ArrowRight", "n"):
        page.keyboard.press(key)
    marked = page.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.mark)")
    assert marked[:4] == ["", "right", "wrong", ""]
    moved(page, lambda: page.keyboard.press("s"))
    assert page.locator(".example.wrong").count() == 1
    assert page.evaluate("document.activeElement.className") == "picture"  # still among the tiles
    moved(page, lambda: page.keyboard.press("Enter"))
    assert page.locator(".example").count() == 1
    # Switched off, single keys do nothing.
    page.keyboard.press("?")
    page.get_by_label("Single keys are shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.get_by_role("dialog").count() == 0


def test_what_ids_say_is_text(open_page):
    page = open_page(f"{FIRST}&k=48")
    card = page.locator(f'.tile[data-id="{HOSTILE}"]')
    assert card.locator(".name").text_content() == HOSTILE
    moved(page, card.locator("a").click)
    assert page.locator(".example .name").text_content() == HOSTILE
    page.fill("#id", "onerror")
    page.wait_for_selector("#completions li")
    assert page.locator("#completions li bdi").text_content() == HOSTILE


def test_a_protected_server_is_asked_with_a_token(browser, served):
    with running(served, access=Access(TOKEN, protect_reads=True, hosts=LOOPBACK)) as url:
        page = browser.new_page()
        page.goto(url)
        page.fill("#token", "not-the-token-at-all")
        page.click("text=Continue")
        page.get_by_text("was not accepted").wait_for()
        page.fill("#token", TOKEN)
        page.click("text=Continue")
        page.wait_for_selector(".tile")
        until(page, "document.querySelector('.tile img').naturalWidth > 0")  # pictures too
        page.close()


# What a drop or a paste brings: the file's bytes.
HAND_OVER = """([event, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "tile.png", {type: "image/png"}));
    const options = {bubbles: true, cancelable: true};
    document.body.dispatchEvent(event === "drop" ? new DragEvent(event, {...options, dataTransfer: transfer})
        : new ClipboardEvent(event, {...options, clipboardData: transfer}));
}"""


CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].reduce((sum, value, place) => {
        const part = value / 255;
        const linear = part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        return sum + [0.2126, 0.7152, 0.0722][place] * linear;
    }, 0);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const colour = rgba(getComputedStyle(node).backgroundColor);
            if (colour[3] === 255) return colour;
        }
    };
    const poor = [];
    for (const node of document.querySelectorAll("body *")) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!own || !node.checkVisibility() || node.matches(":disabled") || node.closest("svg")) continue;
        const [a, b] = [light(rgba(getComputedStyle(node).color)), light(ground(node))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push(`${node.className || node.tagName}: ${ratio.toFixed(2)}`);
    }
    return [...new Set(poor)];
}"""
UNNAMED = """() => [...document.querySelectorAll("button, input, select, a, img")]
    .filter((node) => node.checkVisibility())
    .filter((node) => !(node.getAttribute("aria-label") || node.labels?.length || node.textContent.trim()
        || node.hasAttribute("alt"))).map((node) => node.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_and_has_a_name(open_page, scheme):
    """WCAG 2.2: contrast of at least 4.5 (1.4.3), a name for each control (4.1.2)."""
    page = draw(open_page(f"{FIRST}&none_of=sand&map&plot", color_scheme=scheme))
    until(page, "document.querySelector('#plot canvas')?.dataset.found")
    page.locator(".tile .right").first.click()
    page.locator(".tile .wrong").nth(1).click()
    page.set_input_files("#file", picture(0, "notes.jpg", b"not a picture"))
    page.wait_for_selector(".notice")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNNAMED) == []
    assert page.locator("main").count() == page.locator("h1").count() == 1
    page.keyboard.press("?")
    assert page.evaluate(CONTRAST) == []


def test_it_fits_a_phone(open_page):
    page = open_page(FIRST, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    first = page.locator(".tile").nth(5).bounding_box()
    assert first["y"] + first["height"] < 740  # closed, so that pictures come first
    page.locator("#filter-toggle").tap()
    moved(page, page.locator(".labels input").first.tap)
    page.locator("#filter-close").tap()
    assert page.locator(".tile .right").first.is_hidden()
    page.locator("#judging").tap()
    page.locator(".tile .right").first.tap()
    moved(page, page.locator("#again").tap)
    assert page.locator(".example").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_theme_is_kept(open_page):
    page = open_page(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    unfold(page)
    for _ in range(2):  # auto, light, dark
        page.click("#theme")
    assert "dark" in page.inner_text("#theme") and page.evaluate(ground) != light
    page.reload()
    assert "dark" in settled(page).locator("#theme").text_content() and page.evaluate(ground) != light


def test_links_survive_what_people_do_to_them(open_page):
    """Each search comes back from its link as it was; a cut or wrong link loses a part, and never the page."""
    page = open_page()
    same = page.evaluate(
        """async () => {
            const link = await import("./link.js");
            const vector = link.encodeVector([0.5, -0.25, 1e-3]);
            const search = {...link.EMPTY,
                like: [{encoder: "1.projection", vector, picture: "_-A", name: "a~b é.tif"},
                       {id: "a/b~c&=#%é+x y.jpg"}],
                unlike: [{id: "z,z"}], any_of: ["a,b", "c;d"], none_of: ["e"], bbox: [170, -10.5, -170, 3],
                since: "2020-02-29", k: 48, index: 1, versus: 2, map: true,
                view: [48.25, -11.5, 9.5], plot: true, within: [0.25, 0, 1, 0.5], seed: 3};
            const back = link.fromFragment(link.toFragment(search));
            return JSON.stringify(back) === JSON.stringify(search) && link.decodeVector(vector)[1] === -0.25;
        }"""
    )
    assert same
    for wrong in (
        "#picture=1~AA",
        "#picture=1~%00~",
        "#bbox=1,2,3",
        "#bbox=0,9,1,-9",
        "#k=-1",
        "#since=x&until=",
        "#=&&%",
        "#index=a",
        "#view=99,0,3",
        "#within=0.5,0,0.5,1",
    ):
        moved(page, lambda wrong=wrong: page.evaluate("fragment => { location.hash = fragment; }", wrong))
        assert page.locator(".tile").count() and page.get_by_role("alert").inner_text() == ""


def test_the_map_is_right_about_degrees(open_page):
    """By hand: 179 E and 179 W are near each other, in what is shown and in what is asked for."""
    page = open_page()
    seen = page.evaluate(
        """async () => {
            const map = await import("./geography.js");
            const near = map.unrolled([[179, 0, 179.5, 1], [-179.5, 0, -179, 1]]);
            const lines = map.graticule([160, -10, 200, 10], 10);
            const names = Object.values(lines).map((some) => some.map((line) => line.name));
            return {gap: near[1][0] - near[0][2], names, at: lines.meridians.map((line) => line.at),
                    boxes: [[160, -10, 200, 10], [-190, -95, -170, 95], [-300, 0, 100, 1]].map(map.boxOf),
                    fine: map.graticule([0.0011, 0, 0.0031, 0.0001], 1e5).meridians.map((line) => line.name)};
        }"""
    )
    assert seen["gap"] == pytest.approx(1.0)
    assert seen["boxes"] == [[160, -10, -160, 10], [170, -90, -170, 90], [-180, 0, 180, 1]]
    assert seen["names"] == [["160°E", "170°E", "180°", "170°W", "160°W"], ["10°S", "0°", "10°N"]]
    assert seen["at"] == [160, 170, 180, 190, 200]
    assert seen["fine"] == ["0.002°E", "0.003°E"]


def test_it_names_what_is_searched_and_not_what_the_encoder_learnt_from(open_page):
    page = open_page()
    assert page.inner_text("#archive") == f"{COUNT + 1} tiles of harbour"
    page.keyboard.press("?")
    rows = dict(zip(*(page.locator(f".facts-of-archive {part}").all_text_contents() for part in ("dt", "dd")),
                    strict=True))  # fmt: skip
    assert rows["Archive"] == f"harbour, {COUNT + 1} tiles" and rows["Trained on"] == "stub. Of the stub."
    assert not [name for name, text in rows.items() if "stub" in text.lower() and name != "Trained on"]


def test_an_archive_without_labels_lists_none(open_page, tmp_path):
    folder = tmp_path / "served"
    info = {"encoder": publish_encoder(folder, "a"), "archive": {"name": "tiles", "tiles": 9}}  # which says nothing
    ids = [name_of(number) for number in range(9)]
    build_index(folder / "index", Items.of(("sea", "sand"), ids), vectors_of(range(9)), info=info, progress=False)
    with running(folder) as url, Client(url, folder) as client:
        assert client.get("/api/v1/info").json()["labels"] == 0
        assert [label["count"] for label in client.get("/api/v1/labels").json()["labels"]] == [0, 0]
        page = open_page(at=client)
        assert page.inner_text("#archive") == "9 tiles" and page.inner_text("#status").startswith("As unlike each")
        assert page.locator(".labels li").count() == 0 and page.locator("#filters").is_hidden()
        begun = [item["id"] for item in client.get("/api/v1/diverse").json()["items"]]
        assert page.locator("#filter-toggle").is_hidden() and shown(page) == begun and len(begun) == 9
        assert page.locator(".chips").count() == 0
        # What a link asks for can be taken back.
        page = draw(open_page("#any_of=sea", at=client))
        assert page.locator(".labels li").count() == 1 and "No tile meets the filter" in page.inner_text("#lists")
        moved(page, lambda: page.click('[data-key="with sea"]'))
        assert len(shown(page)) == 9


def test_the_other_version_may_lack_the_tile_and_the_list_stays(open_page, own):
    page = open_page("#like=first/tile.tif&k=12&versus=1", at=own)
    expected = ids(own.search(*examples("first/tile.tif"), k=12))
    sides = page.locator("#lists > section")
    assert shown(page) == expected and page.locator(".tiles").count() == 1 and sides.count() == 2
    assert "Index 1" in sides.nth(1).inner_text() and "first/tile.tif" in sides.nth(1).inner_text()
    assert page.inner_text("#status") == "12 tiles" and page.get_by_role("alert").inner_text() == ""
    # The other way round as well; and a filter that the one has and the other has not.
    page = open_page("#like=first/tile.tif&k=12&index=1&versus=2&map", at=own)
    assert "first/tile.tif" in page.locator("#lists > section").nth(0).inner_text() and shown(page) == expected
    assert page.locator("#map a.found").count() == 12
    # Where neither can answer, that is all there is to say.
    page = open_page("#like=nobody&versus=1", at=own)
    assert "nobody" in page.get_by_role("alert").inner_text() and page.locator("#lists > section").count() == 0


def test_labels_are_whole_on_cards_in_filters_and_in_links(open_page, own):
    page = draw(open_page("#like=first/tile.tif&k=48", at=own))
    held = {label["name"]: label for label in own.get("/api/v1/labels").json()["labels"] if label["count"]}
    assert set(held) == set(STRANGE[:-1])
    assert set(page.locator(".labels .label bdi").all_text_contents()) == set(held)
    cards = page.locator(".tile")
    for card, result in zip(cards.all(), own.search(*examples("first/tile.tif"), k=48)["results"], strict=True):
        assert set(card.locator(".chip bdi").all_text_contents()) == set(result["labels"])
        assert card.locator(".name").get_attribute("title") == result["id"]
    for name in held:
        row = page.locator(".labels li", has=page.get_by_text(name, exact=True))
        moved(page, row.locator("input").check)
        expected = ids(own.search(*examples("first/tile.tif"), k=48, filter={"any_of": [name]}))
        assert shown(page) == expected and expected, name
        page.reload()
        assert shown(settled(page)) == expected, name
        moved(page, lambda: page.click("text=Clear the filter"))
    moved(page, lambda: page.locator(".tile a").nth(0).click())
    assert page.locator(".example .name").get_attribute("title") == expected_first(own)


def expected_first(own):
    return ids(own.search(*examples("first/tile.tif"), k=1))[0]


def test_an_id_can_be_typed_as_a_card_shows_it(open_page, own):
    page = open_page("#like=first/tile.tif&k=48", at=own)

    def typed(text):
        page.fill("#id", text)
        page.keyboard.press("Enter")

    wanted = shown(page)[3]
    moved(page, lambda: typed(wanted))
    assert page.locator(".example .name").get_attribute("title") == wanted
    page.goto(f"{page.url.split('#')[0]}")
    moved(settled(page), lambda: typed("alone.tif"))  # as its card shows it, and no other's
    assert page.locator(".example .name").get_attribute("title") == "first/alone.tif"
    typed("tile.tif")
    told = page.get_by_role("alert")
    told.get_by_text("Several tiles").wait_for()
    assert "first/tile.tif or other/tile.tif" in told.inner_text() or "other/tile.tif or first/tile.tif" in (
        told.inner_text()
    )
    moved(page, lambda: typed("nobody.tif"))
    assert "nobody.tif" in page.get_by_role("alert").inner_text()


STICKING_OUT = """() => {
    const poor = [];
    for (const node of document.querySelectorAll("body *")) {
        if (!node.checkVisibility() || node.closest("svg, .map") || node.matches(".unseen, option")) continue;
        const style = getComputedStyle(node), box = node.getBoundingClientRect();
        const said = `${node.tagName}.${node.className} ${node.textContent.trim().slice(0, 30)}`;
        const scrolls = ["auto", "scroll"].includes(style.overflowX) || style.display === "inline";
        if (node.clientWidth && node.scrollWidth > node.clientWidth && !scrolls) poor.push(`too wide: ${said}`);
        const around = node.parentElement.closest(".tile, .example, aside > *, .notice, dialog, .top, .bar, .chip");
        const outer = around?.getBoundingClientRect();
        const out = outer && box.width && (box.right > outer.right + 0.5 || box.left < outer.left - 0.5);
        if (out) poor.push(`out: ${said}`);
    }
    if (document.documentElement.scrollWidth > innerWidth) poor.push("the page");
    return [...new Set(poor)];
}"""


@pytest.mark.parametrize(
    ("width", "scheme"), [*((width, "light") for width in (360, 390, 768, 1024, 1440, 2560)), (390, "dark")]
)
def test_nothing_sticks_out(open_page, own, width, scheme):
    views = ("", "#like=first/tile.tif&k=48&map&plot", "#like=other/tile.tif&k=48&versus=1", "#like=nobody",
             "#like=first/tile.tif&versus=1&none_of=a%3Bb",
             f"#like={'deep/' * 60}tile.png&unlike={'x' * 300}")  # fmt: skip
    page = open_page(at=own, viewport={"width": width, "height": 900}, color_scheme=scheme)
    draw(page)
    for view in views:
        page.goto(f"{page.url.split('#')[0]}{view}")
        settled(page)
        if page.locator(".tile").count():
            page.locator(".tile .wrong").first.evaluate("button => button.click()")  # a sheet may lie over it
        assert page.evaluate(STICKING_OUT) == [], view
    page.keyboard.press("?")
    assert page.evaluate(STICKING_OUT) == []


def test_zooming_keeps_tiles_in_sight(open_page, own):
    """Two heaps of tiles with nothing between them, where the middle of the map is."""
    page = open_page("#like=first/tile.tif&k=48&map", at=own)
    canvas = page.locator("#map .map").bounding_box()

    def seen():
        """Tiles whose pins, or pins that count them, lie on the map."""
        x, y, found = canvas["x"], canvas["y"], 0
        for pin in page.locator("#map a.found:not(.behind)").all():
            across, down = middle(pin)
            if x <= across <= x + canvas["width"] and y <= down <= y + canvas["height"]:
                found += int(pin.locator(".number").inner_text()) if pin.locator(".number").count() else 1
        return found

    pins = "[...document.querySelectorAll('#map a.found.pin')]"
    places = f"{pins}.map((pin) => pin.getBoundingClientRect()).map((box) => [box.x, box.y])"
    assert seen() == COUNT - 1
    before = page.evaluate(places)
    for _ in range(6):
        page.get_by_role("button", name="Zoom in").click()
        assert seen() >= 1
    assert seen() < COUNT - 1
    for _ in range(6):
        page.get_by_role("button", name="Zoom out").click()
    np.testing.assert_allclose(page.evaluate(places), before, atol=1)  # "-" takes "+" back, in whole pixels
    # By the wheel what is under the pointer stays there; by key what has the focus.
    pin = page.locator("#map a.found:not(.behind)").nth(0)
    pin = page.locator(f'#map [data-id="{pin.get_attribute("data-id")}"]')
    at = middle(pin)
    page.mouse.move(*at)
    before = json.dumps(json.dumps(page.evaluate(places)))
    page.mouse.wheel(0, -400)
    until(page, f"JSON.stringify({places}) !== {before}")
    # Drawn at whole pixels: what was half a pixel off before is four off when all is eight times as large.
    assert middle(pin) == pytest.approx(at, abs=5.5)
    page.click("#map >> text=All")
    last = page.locator("#map a.found:not(.behind)").last
    last = page.locator(f'#map [data-id="{last.get_attribute("data-id")}"]')
    at = middle(last)
    last.focus()
    page.keyboard.press("+")
    assert middle(last) == pytest.approx(at, abs=1.5)


def at_rest(page):
    """Waits until the map has slid to where an arrow key sends it: who clicks before may hit what lay there."""
    places = (
        "JSON.stringify([...document.querySelectorAll('#map a.found')].map((found) => found.getBoundingClientRect()))"
    )
    before = None
    while (now := page.evaluate(places)) != before:
        before = now
        page.wait_for_timeout(150)


def middle(node):
    box = node.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_what_is_typed_is_completed(open_page, own):
    page = open_page(at=own)
    options = page.locator("#completions li")
    page.fill("#id", "TILE.tif")
    options.first.wait_for()
    assert options.locator("bdi").all_text_contents() == ["first/tile.tif", "other/tile.tif"]
    assert page.locator("#id").get_attribute("aria-expanded") == "true"
    for key in ("ArrowUp", "ArrowDown", "ArrowDown"):  # around
        page.keyboard.press(key)
    assert page.locator("#id").get_attribute("aria-activedescendant") == options.nth(1).get_attribute("id")
    moved(page, lambda: page.keyboard.press("Enter"))
    assert page.locator(".example .name").get_attribute("title") == "other/tile.tif" and page.input_value("#id") == ""
    page.fill("#id", "dunes")
    options.first.wait_for()
    moved(page, options.first.click)  # a label: results hold it
    assert "any_of=Beaches" in page.url and page.locator(".example").count() == 1
    page.fill("#id", "tile")
    options.first.wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#completions").is_hidden() and page.input_value("#id") == "tile"


def test_a_link_to_what_is_gone_can_be_mended_where_it_is_told(open_page, own):
    page = open_page("#like=first/tile.tif&index=9&k=999", at=own)
    notice = page.get_by_role("alert").inner_text()
    assert "index must be one of 1, 2" in notice.lower() and "Choose one of these" in notice
    assert page.input_value("#index") == "9" and page.input_value("#number") == "50"
    pick(page, "#index", "")
    assert len(shown(page)) == COUNT - 1
    page = open_page("#like=first/tile.tif&versus=9&k=12", at=own)
    assert len(shown(page)) == 12 and "Choose one of these" in page.locator("#lists > section").nth(1).inner_text()
    pick(page, "#versus", "")
    assert page.locator("#lists > section").count() == 1


def test_a_picture_that_is_too_large_is_made_smaller_or_told(open_page, own):
    """Of 250,000 pixels and 200,000 bytes at most; what the browser cannot draw it cannot make smaller."""
    noise = np.random.default_rng(0).integers(0, 255, (600, 400, 3), dtype=np.uint8)
    for pixels in (np.full((600, 600, 3), 90, np.uint8), noise):
        page, data = open_page(at=own), io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        choose(page, picture(0, "large.png", data.getvalue()))
        assert page.locator(".example .name").inner_text() == "large.png" and shown(page)
    page.set_input_files("#file", picture(0, "large.tif", bytes(own.get("/api/v1/info").json()["limits"]["bytes"] + 1)))
    notice = page.get_by_role("alert")
    notice.get_by_text("at most 0.2 MB").wait_for()
    assert "large.tif" in notice.inner_text() and "scale" in notice.inner_text()
    assert notice.get_by_role("button").all_text_contents() == ["Close"]


def test_what_a_proxy_says_by_itself_is_told_as_it_is_meant(open_page, own):
    """By nginx's default 1 MB is the most that it lets through, and its answer is a page of HTML."""
    page = open_page(at=own)
    for status, words, buttons in ((413, "too large", ["Close"]), (502, "proxy", ["Try again", "Close"])):
        page.route("**/search/image", lambda route, request, status=status: route.fulfill(status=status, body="<html>"))
        page.set_input_files("#file", picture(50))
        notice = page.get_by_role("alert")
        notice.get_by_text(words).first.wait_for()
        assert notice.get_by_role("button").all_text_contents() == buttons


def test_a_picture_of_17_megabytes_is_refused_before_and_by_the_server(open_page, served, tmp_path):
    (tmp_path / "large.tif").write_bytes(bytes(17 << 20))
    with running(served, limits=Limits()) as url, Client(url, served) as client:
        page = open_page(at=client)
        page.set_input_files("#file", tmp_path / "large.tif")
        notice = page.get_by_role("alert")
        notice.get_by_text("at most 16.0 MB").wait_for()
        assert notice.get_by_role("button").all_text_contents() == ["Close"]
        status, error = page.evaluate(
            """async () => {
                const form = new FormData();
                form.append("image", new File([new Uint8Array(17 << 20)], "large.tif"));
                const response = await fetch("api/v1/search/image", {method: "POST", body: form});
                return [response.status, (await response.json()).error];
            }"""
        )
        assert status == 413 and "(16 MiB)" in error["rule"] and "smaller" in error["remedy"]


@contextlib.contextmanager
def proxied(upstream, prefix):
    """A reverse proxy that shows a server under a prefix, which it takes off; its URL, and what was asked beside it."""
    beside = []
    with httpx.Client(trust_env=False, timeout=30) as client:

        class Proxy(BaseHTTPRequestHandler):
            def pass_on(self):
                if not self.path.startswith(f"{prefix}/"):
                    beside.append(self.path)
                    return self.send_error(404)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kept = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
                target = upstream.rstrip("/") + self.path.removeprefix(prefix)
                kept["X-Forwarded-Prefix"] = prefix
                answer = client.request(self.command, target, content=body, headers=kept)
                self.send_response_only(answer.status_code)
                for name, value in answer.headers.items():
                    if name not in ("connection", "transfer-encoding", "content-encoding", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = do_PUT = do_DELETE = pass_on

            def log_message(self, *_):
                """Not on the terminal."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{prefix}", beside
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.mark.parametrize("how", ["said by --root-path", "said by the proxy"])
def test_it_works_behind_a_proxy_under_a_prefix(open_page, served, how):
    """The page, its pictures, a search by picture and the API's description; nothing is asked beside the prefix."""
    root = "/our/tiles" if "root-path" in how else ""
    with running(served, root_path=root) as inner, proxied(inner, "/our/tiles") as (url, beside):
        with Client(url, served) as client:
            page = open_page(f"{FIRST}&k=12", at=client)
            assert shown(page) == ids(client.search(*examples(name_of(0)), k=12))
            until(page, "document.querySelector('.tile img').naturalWidth > 0")
            until(page, "document.querySelector('#choose svg').getBoundingClientRect().width > 0")
            choose(page, picture(50))
            assert shown(page) == ids(client.search_image(upload(50), k=12))
            page.goto(f"{url}/docs")
            page.wait_for_selector(".opblock")
            assert page.locator(".opblock").count() == page.evaluate(OPERATIONS)
            assert page.locator(".servers option").get_attribute("value") == "/our/tiles"
        assert beside == []


OPERATIONS = """async () => Object.values((await (await fetch("api/v1/openapi.json")).json()).paths)
    .reduce((sum, methods) => sum + Object.keys(methods).length, 0)"""


def test_a_server_itself_knows_its_prefix(open_page, served):
    with running(served, root_path="/our/tiles") as url:
        page = open_page(at=httpx.Client(base_url=f"{url}our/tiles"))
        page.goto(f"{url}our/tiles")  # without the slash that its links need
        settled(page)
        assert page.url.startswith(f"{url}our/tiles/") and page.locator(".tile").count()


def test_who_is_right_is_no_longer_wrong_and_the_other_way_round(open_page):
    """By hand, from a query like a and b, unlike c and d."""
    page = open_page()
    refined = page.evaluate(
        """async () => {
            const link = await import("./link.js");
            const example = (id) => ({id});
            const search = {...link.EMPTY, like: ["a", "b"].map(example), unlike: ["c", "d"].map(example)};
            const names = ({like, unlike}) => [like, unlike].map((side) => side.map(({id}) => id).join(""));
            const examples = (text) => [...text].map(example);
            const asked = (right, wrong) => names(link.refined(search, examples(right), examples(wrong)));
            const marks = [["c", ""], ["", "a"], ["c", "a"], ["a", "c"], ["e", "f"], ["cd", "ab"]];
            return marks.map(([right, wrong]) => asked(right, wrong));
        }"""
    )
    assert refined == [["abc", "d"], ["b", "cda"], ["bc", "da"], ["ba", "dc"], ["abe", "cdf"], ["cd", "ab"]]


@pytest.mark.parametrize(
    ("boxes", "wide"),
    [
        ([[-5, 0, -4, 1], [2, 0, 3, 1]], [-5, 3]),  # beside the prime meridian: 8 degrees wide, not 354
        ([[2, 0, 3, 1], [-5, 0, -4, 1]], [-5, 3]),
        ([[179, 0, 179.5, 1], [-179.5, 0, -179, 1]], [-181, -179]),
        ([[170, 0, -170, 1], [-160, 0, -150, 1]], [-190, -150]),
        ([[0, 0, 1, 1], [120, 0, 121, 1], [-130, 0, -129, 1]], [0, 231]),
        ([[0, 0, 170, 1], [175, 0, 176, 1], [-160, 0, -159, 1]], [0, 201]),  # of wide boxes the ends count
        ([[170, 0, -100, 1], [175, 0, 176, 1], [-110, 0, -90, 1]], [-190, -90]),
        ([[-180, -90, 180, 90], [5, 0, 6, 1]], [-180, 180]),
        ([[10, 0, 12, 1]], [10, 12]),
    ],
)
def test_the_widest_empty_stretch_is_left_outside(open_page, boxes, wide):
    """By hand; whole turns do not matter."""
    page = open_page()
    flat = page.evaluate("async (boxes) => (await import('./geography.js')).unrolled(boxes)", boxes)
    west, east = min(box[0] for box in flat), max(box[2] for box in flat)
    assert east - west == pytest.approx(wide[1] - wide[0]) and (west - wide[0]) % 360 == pytest.approx(0)
    for (w, s, e, n), (west_, south, east_, north) in zip(boxes, flat, strict=True):
        assert (s, n) == (south, north) and (west_ - w) % 360 == (east_ - e) % 360 == 0
