"""Map and plot of the page: linked with the results, moved about in, searched by what they show."""

import json
import re

import numpy as np
import pytest

from tests.browser import until
from tests.page import (
    FIRST,
    HOSTILE,
    api,
    at_rest,
    browser,
    draw,
    examples,
    holding,
    ids,
    middle,
    moved,
    open_page,
    own,
    served,
    settled,
    shown,
)
from tests.serving_process import COUNT, Client, make_served, running

__all__ = ["api", "browser", "open_page", "own", "served"]
pytestmark = pytest.mark.slow


def drawn_on(page, number):
    """Waits until the plot shows so many of the results."""
    until(page, f"document.querySelector('#plot canvas')?.dataset.found === '{number}'")


def spots(page, api):
    """Where on the screen each tile of the plot lies, while all of it is shown."""
    plot = api.get("/api/v1/plot").json()
    box = page.locator("#plot canvas").bounding_box()
    side = 0.88 * min(box["width"], box["height"])
    corner = np.array([box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2])
    places = np.array([plot["x"], plot["y"]]).T / 65535
    return dict(zip(plot["ids"], corner + side * places, strict=True))


def apart(places, ids):
    """The one of the ids that lies farthest from all others."""
    gap = {id_: min(np.hypot(*(places[id_] - places[other])) for other in places if other != id_) for id_ in ids}
    return max(gap, key=gap.get)


def test_the_plot_is_linked_with_the_results(open_page, api):
    page = open_page(f"{FIRST}&k=12")
    moved(page, lambda: page.click("#plot-toggle"))
    found = [id_ for id_ in shown(page) if id_ != HOSTILE]  # which came after the index was built
    drawn_on(page, len(found))
    assert page.locator("#plot .legend").inner_text().split("\n") == [
        f"{COUNT} of {COUNT + 1} tiles",
        f"{len(found)} shown",
        "query",
    ]
    places = spots(page, api)
    pointed = apart(places, found)
    page.mouse.move(*places[pointed])
    assert page.locator("#plot .tip b").inner_text() == pointed.split("/")[-1]
    assert page.locator(".tile.looked-at").get_attribute("data-id") == pointed
    until(page, "document.querySelector('#plot .tip img').naturalWidth > 0")
    page.mouse.move(5, 5)
    assert page.locator("#plot .tip").is_hidden() and page.locator(".tile.looked-at").count() == 0
    other = apart(places, [id_ for id_ in places if id_ not in found])
    moved(page, lambda: page.mouse.click(*places[other]))
    assert shown(page) == ids(api.search(*examples(other), k=12)) and "&plot" in page.url


def test_a_box_of_the_plot_shows_its_tiles(open_page, api):
    page = open_page("#plot&k=12")
    drawn_on(page, len(shown(page)))
    places = spots(page, api)
    page.click("#plot-box")
    box = page.locator("#plot canvas").bounding_box()
    across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(across, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, down, steps=3)
    moved(page, page.mouse.up)
    inside = {id_ for id_, (x, y) in places.items() if x > across and y < down}
    assert set(shown(page)) <= inside and len(shown(page)) == min(12, len(inside)) > 0
    assert page.inner_text("#found-title") == "In the box of the plot"
    status = f"12 of {len(inside)} tiles" if len(inside) > 12 else f"{len(inside)} tile{'s' * (len(inside) > 1)}"
    assert page.inner_text("#status") == status
    before = shown(page)
    page.reload()
    assert shown(settled(page)) == before
    # Within it a filter holds, and the plot says how many tiles of all meet it.
    draw(page)
    moved(page, lambda: page.check('[data-key="with sea"]'))
    held = api.post("/api/v1/plot/tiles", json={"filter": {"any_of": ["sea"]}, "k": 200}).json()
    sea = {item["id"] for item in held["items"]}
    assert set(shown(page)) == inside & sea or len(shown(page)) == 12
    until(page, f"document.querySelector('#plot .legend').innerText.includes('{len(sea)} meet the filter')")
    moved(page, lambda: page.click("text=Clear the filter"))
    moved(page, lambda: page.click("#unbox"))
    assert len(page.locator(".stands").all()) > 0


def test_the_plot_is_moved_and_zoomed_without_a_pointer(open_page, api):
    page = open_page(f"{FIRST}&plot&k=12")
    drawn_on(page, len([id_ for id_ in shown(page) if id_ != HOSTILE]))
    places = spots(page, api)
    box = page.locator("#plot canvas").bounding_box()
    centre = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    page.locator("#plot canvas").focus()
    for key in ("+", "+", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    zoomed = {id_: centre + 1.6**2 * (place - centre) + 60 for id_, place in places.items()}
    seen = [id_ for id_, (x, y) in zoomed.items() if box["x"] + 20 < x < box["x"] + box["width"] - 20
            and box["y"] + 60 < y < box["y"] + box["height"] - 60]  # fmt: skip
    pointed = apart(zoomed, seen)
    page.mouse.move(*zoomed[pointed])
    assert page.locator("#plot .tip b").inner_text() == pointed.split("/")[-1]
    page.locator("#plot").get_by_role("button", name="Show all").click()
    page.mouse.move(*places[apart(places, places)])
    assert page.locator("#plot .tip b").inner_text() == apart(places, places).split("/")[-1]


def test_an_index_without_a_plot_says_what_to_do_and_all_else_goes_on(open_page, tmp_path):
    with pytest.MonkeyPatch.context() as before_there_were_plots:
        before_there_were_plots.setattr("macl_tf.index.version.write_plot", lambda *_: None)
        folder = make_served(tmp_path / "served")
    with running(folder) as url, Client(url, folder, trust_env=False) as client:
        page = open_page(f"{FIRST}&plot&k=12", at=client)
        page.locator("#plot .notice").wait_for()
        assert "macl index SERVED" in page.inner_text("#plot") and len(shown(page)) == 12
        assert page.get_by_role("alert").inner_text() == ""


def test_map_and_results_point_at_each_other_and_the_link_keeps_the_view(open_page, own):
    page = open_page("#like=first/tile.tif&k=48&map", at=own)
    until(page, "document.querySelectorAll('#map path.land, #map path.border').length === 2")
    counted = page.locator("#map a.pin:has(.number)").last
    pin = page.locator(f'#map [data-id="{counted.get_attribute("data-id")}"]')
    card = page.locator(".tile").first
    card.hover()
    # In two places: the pin of that place.
    assert page.locator("#map a.looked-at").count() == 1
    moved(page, counted.click)
    assert "&view=" in page.url
    pin.hover()
    assert page.locator(".tile.looked-at").get_attribute("data-id") == pin.get_attribute("data-id")
    at = middle(pin)
    page.reload()
    settled(page)
    assert middle(pin) == pytest.approx(at, abs=1.5)
    for _ in range(6):
        page.get_by_role("button", name="Zoom in").click()
    settled(page)
    until(page, "document.querySelector('#map .leaflet-pictures-pane img')?.naturalWidth > 0")
    assert page.locator("#map .near").count() == 1  # nearer than the outline is right


def test_the_view_of_the_map_is_searched(open_page, own):
    page = open_page("#like=first/tile.tif&k=48&map", at=own)
    everything = shown(page)
    moved(page, page.locator("#map a.pin:has(.number)").last.click)
    moved(page, lambda: page.click("text=Search this area"))
    bbox = [float(edge) for edge in page.evaluate("new URLSearchParams(location.hash.slice(1)).get('bbox')").split(",")]
    expected = ids(own.search(*examples("first/tile.tif"), k=48, filter={"bbox": bbox}))
    assert shown(page) == expected and 0 < len(expected) < len(everything)
    # Or as it is moved.
    page.get_by_label("as I move").check()
    settled(page)
    before = json.dumps(page.evaluate("document.getElementById('lists').dataset.shows"))
    canvas = page.locator("#map .map").bounding_box()
    page.mouse.move(canvas["x"] + 30, canvas["y"] + 200)
    page.mouse.down()
    page.mouse.move(canvas["x"] + 230, canvas["y"] + 230, steps=4)
    page.mouse.up()
    until(page, f"lists.dataset.shows !== {before} && /bbox=/.test(lists.dataset.shows)")
    at_rest(page)
    moved_to = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('bbox')")
    assert [float(edge) for edge in moved_to.split(",")] != bbox
    asked = [float(edge) for edge in moved_to.split(",")]
    settled(page)
    assert set(shown(page)) == set(ids(own.search(*examples("first/tile.tif"), k=48, filter={"bbox": asked})))
    # While another search is on its way, the view is of that one.
    page.get_by_label("as I move").uncheck()
    other, before = shown(page)[0], json.dumps(page.evaluate("location.hash"))
    with holding(page, re.compile("/api/v1/(search|count)$")):
        page.locator(".tile a").first.click()
        until(page, f"location.hash !== {before}")
        page.click("#map >> text=Search this area")
        until(page, "location.hash.includes('bbox')")
    settled(page)
    asked = page.evaluate("['like', 'bbox'].map((key) => new URLSearchParams(location.hash.slice(1)).get(key))")
    bbox = [float(edge) for edge in asked[1].split(",")]
    assert asked[0] == other and shown(page) == ids(own.search(*examples(other), k=48, filter={"bbox": bbox}))


def test_an_outline_over_the_antimeridian_has_no_line_around_the_world():
    """No step of the outline is longer than its land is wide."""
    from macl_tf.server.app import PAGE

    outline = json.loads((PAGE / "vendor/natural-earth/outline.json").read_text())
    for line in (*outline["land"], *outline["borders"]):
        x, y = np.cumsum(np.reshape(line, (-1, 2)), axis=0).T / outline["steps"]
        assert np.abs(np.diff(x)).max(initial=0) < 60 and np.abs(x).max() <= 360 and np.abs(y).max() <= 90
