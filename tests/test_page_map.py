"""The map of the page: footprints, base maps, what is in sight."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest

from macl_tf.server.settings import BaseMap
from tests.browser import until
from tests.page import (
    FIRST,
    SECOND,
    api,
    at_rest,
    browser,
    draw,
    middle,
    moved,
    open_page,
    own,
    served,
    shown,
)
from tests.serving_process import (
    COUNT,
    Client,
    name_of,
    running,
    upload,
)

__all__ = ["api", "browser", "open_page", "own", "served"]
pytestmark = pytest.mark.slow


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


def settled(page, places):
    """Waits until nothing moves any more: the browser may split one turn of the wheel in two, the second much later."""
    before = None
    while (now := page.evaluate(places)) != before:
        before = now
        page.wait_for_timeout(400)


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
    settled(page, places)
    # Drawn at whole pixels: what was half a pixel off before is four off when all is eight times as large.
    assert middle(pin) == pytest.approx(at, abs=5.5)
    page.click("#map >> text=All")
    last = page.locator("#map a.found:not(.behind)").last
    last = page.locator(f'#map [data-id="{last.get_attribute("data-id")}"]')
    at = middle(last)
    last.focus()
    page.keyboard.press("+")
    assert middle(last) == pytest.approx(at, abs=1.5)


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
