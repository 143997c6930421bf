"""Searching on the page of the service: by pictures, ids and marks, with filters, in two versions."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from macl_tf.server.service import PREVIEW
from macl_tf.server.settings import Limits
from tests.browser import until
from tests.page import (
    FIRST,
    STRANGE,
    api,
    browser,
    choose,
    draw,
    examples,
    ids,
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
    make_served,
    name_of,
    publish_encoder,
    publish_index,
    running,
    tile,
    upload,
)
from tests.stub_encoder import DIM

__all__ = ["api", "browser", "open_page", "own", "served"]
pytestmark = pytest.mark.slow


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
    # One answer of this server holds no more; a file of the results holds all that are shown.
    page.route(
        "**/info",
        lambda route: route.fulfill(json={**(info := route.fetch().json()), "limits": {**info["limits"], "k": 12}}),
    )
    page.reload()
    settled(page)
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


def test_what_is_published_meanwhile_is_learnt_and_nothing_comes_of_two_versions(open_page, tmp_path):
    folder = make_served(tmp_path / "served")
    with running(folder) as url, Client(url, folder, trust_env=False) as client:

        def publish(version, key, dim=DIM):
            publish_index(folder, publish_encoder(folder, key, dim=dim), key, dim=dim)
            while client.get("/api/v1/info").json()["index"]["version"] < version:
                continue

        def expected(number, **query):
            return ids(client.search_image(upload(number), **query))

        first, second, start = (open_page("#k=12", at=client) for _ in range(3))
        choose(first, picture(50)), choose(second, picture(50))
        before = expected(50, k=24)
        publish(2, "b")
        first.click("text=Show more")  # of the version that is shown
        until(first, "document.querySelectorAll('.tile').length === 24")
        assert shown(first) == before
        unfold(first)
        with first.expect_download() as download:
            first.locator("#download").get_by_role("button", name="CSV").click()
        with open(download.value.path(), encoding="utf-8", newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == before
        label = second.locator("#quick button").first
        name = label.locator("bdi").inner_text()
        moved(second, label.click)  # the picture is embedded anew, by the encoder of the new version
        assert shown(second) == expected(50, k=12, filter={"any_of": [name]})
        choose(first, picture(51))
        assert "#picture=2.projection~" in first.url and shown(first) == expected(51, k=12)
        publish(3, "c", 2 * DIM)
        for page in (start, first):
            moved(page, page.locator("#quick button").first.click)
            assert shown(page) and page.get_by_role("alert").inner_text() == ""
        assert "index 3" in start.locator("#archive").get_attribute("title")


# What a drop or a paste brings: the file's bytes.
HAND_OVER = """([event, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "tile.png", {type: "image/png"}));
    const options = {bubbles: true, cancelable: true};
    document.body.dispatchEvent(event === "drop" ? new DragEvent(event, {...options, dataTransfer: transfer})
        : new ClipboardEvent(event, {...options, clipboardData: transfer}));
}"""


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
