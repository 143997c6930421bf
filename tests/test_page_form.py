"""How the page can be read and used: by key, on a phone, in both schemes, by links, with any archive."""

import pytest

from macl_tf.index.index import build_index
from macl_tf.index.items import Items
from tests.browser import until
from tests.page import (
    CONTRAST,
    FIRST,
    HOSTILE,
    STICKING_OUT,
    UNNAMED,
    api,
    browser,
    draw,
    moved,
    open_page,
    own,
    pick,
    picture,
    served,
    settled,
    shown,
    unfold,
)
from tests.serving_process import (
    COUNT,
    Client,
    name_of,
    publish_encoder,
    running,
    vectors_of,
)

__all__ = ["api", "browser", "open_page", "own", "served"]
pytestmark = pytest.mark.slow


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
