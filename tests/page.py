"""The page of the service in a real browser against a real server, whose encoder alone is a stub."""

import json
from contextlib import contextmanager

import numpy as np
import pytest

from macl_tf.datasets.images import thumbnail
from macl_tf.index.index import build_index
from macl_tf.index.items import Items
from tests.browser import chromium, until
from tests.serving_process import (
    COUNT,
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


@contextmanager
def holding(page, pattern):
    """Holds requests to the server back until the end."""
    held, over = [], []
    page.route(pattern, lambda route: route.continue_() if over else held.append(route))
    yield
    over.append(True)
    for route in held:
        route.continue_()


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
