"""Collections on the page of the service: marks that are saved, opened again, downloaded and made a label."""

import csv
import json
import os
import re
import sys
from urllib.parse import unquote

import numpy as np
import pytest

from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.server.auth import Access
from macl_tf.teaching.collections import Collections
from macl_tf.teaching.rounds import next_round
from tests.browser import until
from tests.page import (
    CONTRAST,
    FIRST,
    HOSTILE,
    STICKING_OUT,
    UNNAMED,
    api,
    browser,
    holding,
    moved,
    open_page,
    pick,
    picture,
    served,
    settled,
    shown,
    unfold,
)
from tests.serving_process import TOKEN, Client, make_served, name_of, running, upload, uuid_of
from tests.stub_encoder import DIM

__all__ = ["api", "browser", "open_page", "served"]
pytestmark = pytest.mark.slow
NAME = "harbors & “docks” <b>#1?"


@pytest.fixture
def folder(tmp_path):
    return make_served(tmp_path / "served")


@pytest.fixture
def own(folder):
    with running(folder) as url, Client(url, folder, trust_env=False) as client:
        yield client


def judge(page, place, how):
    page.locator(".tile").nth(place).get_by_role("button", name=how).click()


def press(page, name):
    page.locator("dialog[open]").get_by_role("button", name=name, exact=True).click()


def give_token(page):
    page.wait_for_selector("#token-dialog[open]")
    page.fill("#token", TOKEN)
    page.get_by_role("button", name="Continue").click()


def test_marks_are_saved_and_opened_again_and_changed(open_page, own, folder):
    page = open_page(FIRST, own)
    assert page.locator("#collections a").count() == 0 and page.inner_text("#collection-count") == ""
    before = shown(page)
    judge(page, 0, "Right"), judge(page, 1, "Wrong"), judge(page, 2, "Right")
    page.click("#save")
    page.fill("#collection-name", f"  {NAME} ")
    page.fill("#author", "Ada")
    assert "2 right, 1 wrong" in page.inner_text("dialog[open]")
    assert "with the tiles of the query: 1 right, 0 wrong" in page.inner_text("dialog[open]")
    moved(page, lambda: (press(page, "Save"), give_token(page)))
    saved = Collections(folder).get(NAME)
    assert {*saved.right} == {name_of(0), before[0], before[2]} and saved.wrong == (before[1],)
    assert {mark.by for mark in saved.marks} == {"Ada"}
    page.reload()
    settled(page)
    assert {*shown(page)} == {*saved.right, *saved.wrong} and page.inner_text("#found-title") == f"Marked in {NAME}"
    marks = page.locator(".tile").evaluate_all(
        "all => Object.fromEntries(all.map(t => [t.dataset.id, t.dataset.mark]))"
    )
    assert marks == {mark.id: mark.mark for mark in saved.marks}
    assert f"Ada, {saved.changed[1][:10]}" in page.locator(".tile").first.text_content()
    assert page.locator(".collection").get_attribute("title") == "3 right, 1 wrong"
    unfold(page, "collections")
    assert "✓ 3 ✕ 1" in page.inner_text("#collections")
    unfold(page, "collections", open_=False)
    # What is pressed again is taken back; what was not saved can be left as it was.
    place = shown(page).index(name_of(0))
    judge(page, place, "Right")
    assert "1 taken back" in page.inner_text("#marks")
    judge(page, place, "Right")
    assert page.locator("#marks").is_hidden()
    judge(page, place, "Right"), judge(page, shown(page).index(before[1]), "Right")
    page.click("#save")
    until(page, "document.getElementById('status').textContent.startsWith('Saved: ')")
    assert "has 3 right, 0 wrong" in page.inner_text("#status") and page.locator("#marks").is_hidden()
    assert {*Collections(folder).get(NAME).right} == {before[0], before[1], before[2]} == {*shown(page)}
    # A search from it goes on with the marks.
    moved(page, lambda: page.click("#like-these"))
    hits = [hit["id"] for hit in own.search(collection=NAME, k=48)["results"]]
    assert shown(page) == hits and not {*hits} & {before[0], before[1], before[2]}
    judge(page, 0, "Wrong")
    page.keyboard.press("s")
    until(page, "document.getElementById('status').textContent.includes('3 right, 1 wrong')")
    assert Collections(folder).get(NAME).wrong == (hits[0],) and hits[0] not in shown(page)
    assert shown(page) == [hit["id"] for hit in own.search(collection=NAME, k=48)["results"]]
    moved(page, page.get_by_role("button", name=f"Close {NAME}").click)
    assert page.evaluate("location.hash") in ("", "#")


def test_rounds_lead_from_one_tile_to_the_others_by_keys(open_page, api, served):
    page = open_page(FIRST)
    judge(page, 0, "Wrong")
    first = shown(page)[0]
    page.click("#begin")
    page.fill("#collection-name", NAME)
    moved(page, lambda: (press(page, "Save"), give_token(page)))
    kept, state = Collections(served), Index.open(served / "index").snapshot
    assert (kept.get(NAME).right, kept.get(NAME).wrong) == ((name_of(0),), (first,))
    expected = next_round(kept.get(NAME), state)
    groups = ("Best candidates", "Uncertain", "At random")
    for title, tiles in zip(groups, (expected.best, expected.uncertain, expected.sampled), strict=True):
        listed = page.locator(f"section[aria-label='{title}'] .tile").evaluate_all("all => all.map(t => t.dataset.id)")
        assert listed == [tile.id for tile in tiles]
    assert page.inner_text("#figures").split("\n")[:5] == ["Found", "1", "right tile", "Last marks right", "50 %"]
    # A mark leads to the next tile, whatever the key.
    page.keyboard.press("g")
    for key in "ynk":
        page.keyboard.press(key)
    ids = [tile.id for tile in expected.best]
    assert page.evaluate("document.activeElement.closest('.tile').dataset.id") == ids[3]
    for title in groups:
        page.locator(f"section[aria-label='{title}']").get_by_role("button", name="Rest wrong").click()
    assert "1 right" in page.inner_text("#marks") and "1 skipped" in page.inner_text("#marks")
    page.keyboard.press("s")
    until(page, "document.getElementById('status').textContent.startsWith('Saved: ')")
    found = kept.get(NAME)
    assert found.right == (name_of(0), ids[0]) and found.skipped == (ids[2],) and ids[1] in found.wrong
    left = next_round(found, Index.open(served / "index").snapshot).left
    assert f"{left.low} to {left.high}, 95 % confidence, by {left.sample} random tiles" in page.inner_text("#figures")
    moved(page, lambda: page.click("#marked"))
    assert page.locator(".tile[data-mark=skipped]").count() == 1
    moved(page, lambda: page.click("#round"))
    pick(page, "#random", "50")
    page.reload()
    assert settled(page).locator("#random").input_value() == "50"
    kept.delete(NAME)


def test_marks_stay_with_what_they_were_made_for_until_they_are_saved(open_page, own, folder):
    kept = Collections(folder)
    for name, number in (("ships", 1), ("docks", 2)):
        kept.mark(name, right=[name_of(number)])
    page = open_page("#collection=ships&round", own)
    page.evaluate(f"sessionStorage.setItem('macl-token', '{TOKEN}')")
    judge(page, 0, "Right"), judge(page, 1, "Wrong")
    right, wrong = shown(page)[:2]
    for key in "mp":
        moved(page, lambda key=key: page.keyboard.press(key))
    assert page.locator("#map .below").is_hidden()  # a round is of the whole archive
    pick(page, "#random", "20")
    assert page.inner_text("#marks p") == "1 right, 1 wrong"
    moved(page, page.locator(".tile a").first.click)
    assert page.locator("#marks").is_hidden()
    assert page.evaluate("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")
    moved(page, page.go_back)
    assert page.inner_text("#marks p") == "1 right, 1 wrong"
    assert page.locator(f".tile[data-id='{right}']").get_attribute("data-mark") == "right"
    # Until another collection is there, what is marked is of the one before.
    unfold(page, "collections")
    with holding(page, "**/collections/marks?name=docks*"):
        page.get_by_role("link", name="docks").click()
        until(page, "location.hash.includes('docks')")
        third = shown(page)[2]
        judge(page, 2, "Right")
        page.keyboard.press("s")
        page.locator("#marks").wait_for(state="hidden")
    until(page, "document.getElementById('found-title').textContent === 'Marked in docks'")
    settled(page)
    assert {*kept.get("ships").right} == {name_of(1), right, third} and kept.get("ships").wrong == (wrong,)
    assert kept.get("docks").right == (name_of(2),)
    assert not page.evaluate("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")
    # What is marked while others are saved is still to be saved.
    moved(page, lambda: page.click("#round"))
    judge(page, 0, "Right")
    with holding(page, "**/collections/marks"):
        with page.expect_request("**/collections/marks"):
            page.keyboard.press("s")
        judge(page, 1, "Wrong")
    until(page, "document.getElementById('status').textContent.startsWith('Saved: ')")
    assert page.inner_text("#marks p") == "1 wrong" and kept.get("docks").wrong == ()


def test_a_tile_is_shown_in_large_labelled_and_deleted(open_page, api):
    api.upsert(upload(3), id="twin.png", labels=["sea"])
    page = open_page(f"#like={name_of(3)}".replace(" ", "%20"))
    order = shown(page)
    assert order[0] == "twin.png"
    page.keyboard.press("g")
    page.keyboard.press("o")
    title = page.locator("#tile-title")
    assert title.inner_text() == "twin.png" and page.locator("#tile .before").count() == 0
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == order[1]
    page.keyboard.press("y")
    assert page.locator("#tile .right").get_attribute("aria-pressed") == "true"
    page.keyboard.press("ArrowLeft")
    # Only a refusal that says that a label is near to another lets it through.
    page.fill("#new-label", "seas")
    add = page.locator("#tile").get_by_role("button", name="Add", exact=True)
    add.click()
    page.wait_for_selector("#token-dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#tile .notice:has-text('A token is needed')")
    add.dblclick()
    give_token(page)
    page.wait_for_selector("#tile .notice:has-text('If it is new, add it again.')")
    second = "new MouseEvent('click', {detail: 2, bubbles: true, cancelable: true})"  # of a double click
    assert not add.evaluate(f"button => button.dispatchEvent({second})")
    assert "seas" not in [label["name"] for label in api.get("/api/v1/labels").json()["labels"]]
    add.click()
    page.wait_for_selector("#tile .chip:has-text('seas')")
    page.get_by_role("button", name="Take away sea", exact=True).click()
    until(page, "document.querySelectorAll('#tile .chip').length === 1")
    assert api.get("/api/v1/items", params={"id": "twin.png"}).json()["item"]["labels"] == ["seas"]
    assert page.evaluate(UNNAMED) == [] and page.evaluate(STICKING_OUT) == [] and page.evaluate(CONTRAST) == []
    page.keyboard.press("Escape")
    until(page, "document.querySelector('.tile .chip').textContent.includes('seas')")
    assert page.evaluate("document.activeElement.closest('.tile')?.dataset.id") == "twin.png"
    page.locator(".tile").first.hover()
    page.locator(".tile .details").first.click()
    page.keyboard.press("y")
    assert page.inner_text("#marks p") == "2 right"
    page.get_by_role("button", name="Delete…").dblclick()  # which says it once
    page.get_by_role("button", name="Really delete it?").click()
    until(page, "document.querySelector('.tile').dataset.id !== 'twin.png'")
    assert api.get("/api/v1/items", params={"id": "twin.png"}).status_code == 404 and shown(page)[:3] == order[1:4]
    assert page.inner_text("#marks p") == "1 right"  # what is gone is not saved


def test_the_tiles_of_a_query_are_saved_without_new_marks(open_page, own, folder):
    page = open_page(f"{FIRST}&like={name_of(2)}&unlike={name_of(3)}".replace(" ", "%20"), own)
    page.get_by_role("button", name="Save…").click()
    page.fill("#collection-name", "two\tlines")
    press(page, "Save")
    give_token(page)
    page.wait_for_selector("dialog[open] .notice")
    assert "The name of a collection is printable" in page.inner_text("dialog[open]")
    page.fill("#collection-name", "ships")
    moved(page, lambda: press(page, "Save"))
    assert Collections(folder).get("ships").right == (name_of(0), name_of(2))
    assert Collections(folder).get("ships").wrong == (name_of(3),)


def test_a_collection_is_downloaded_made_a_label_and_deleted(open_page, own, folder, tmp_path):
    Collections(folder).mark(NAME, right=[name_of(1), name_of(2)], wrong=[name_of(5)], by="Ada")
    page = open_page("", own)
    page.evaluate("sessionStorage.setItem('macl-token', '" + TOKEN + "')")
    page.fill("#id", NAME.upper())
    moved(page, lambda: page.keyboard.press("Enter"))
    unfold(page, "collections")
    for kind, suffix in (("CSV", "csv"), ("GeoJSON", "geojson"), ("GeoParquet", "parquet")):
        with page.expect_download() as download:
            page.locator("#collections").get_by_role("button", name=kind).click()
        download.value.save_as(tmp_path / suffix)
        assert download.value.suggested_filename.endswith(f".{suffix}")
    with (tmp_path / "csv").open(encoding="utf-8", newline="") as file:
        assert [row["mark"] for row in csv.DictReader(file)] == ["right", "right", "wrong"]
    assert len(json.loads((tmp_path / "geojson").read_text(encoding="utf-8"))["features"]) == 3
    page.get_by_role("button", name="Make it a label…").click()
    assert page.input_value("#label-name") == NAME
    page.fill("#label-name", "docks")
    page.route("**/collections/label", lambda route: route.fulfill(status=503, body="{}"))
    press(page, "Make it a label")
    page.wait_for_selector("dialog[open] .notice:has-text('503')")
    page.unroute("**/collections/label")
    press(page, "Make it a label")
    page.wait_for_selector("dialog[open] .notice:has-text('dock')")
    assert "Did you mean dock? If it is new, press again." in page.inner_text("dialog[open]")
    press(page, "Make it a label")
    until(page, "document.getElementById('status').textContent.includes('got the label docks')")
    assert Index.open(folder / "index").describe(name_of(1))["labels"][-1] == "docks"
    moved(page, lambda: page.click("#like-these"))
    assert page.locator('[data-label="docks"] .count').text_content() == "2"
    unfold(page, "collections")
    page.get_by_role("button", name="Delete…").click()
    press(page, "Cancel")
    assert Collections(folder).get(NAME).right
    unfold(page, "collections")
    page.get_by_role("button", name="Delete…").click()
    moved(page, lambda: press(page, "Delete"))
    assert Collections(folder).all() == [] and page.locator("#collections a").count() == 0


def test_a_collection_is_imported_and_renamed(open_page, own, folder, tmp_path):
    (tmp_path / "harbors.csv").write_text(f"id,mark\n{name_of(1)},right\n{name_of(2)},perhaps\n")
    page = open_page("", own)
    unfold(page, "collections")
    page.get_by_role("button", name="Import…").click()
    page.set_input_files("#marks-file", tmp_path / "harbors.csv")
    assert page.input_value("#collection-name") == "harbors"
    press(page, "Import")
    give_token(page)
    page.wait_for_selector("dialog[open] .notice:has-text('Row 3: a mark is one of right, wrong, skipped.')")
    assert Collections(folder).all() == [] and page.evaluate(STICKING_OUT) == []
    (tmp_path / "list.txt").write_text(f"{name_of(1)}\n{name_of(2)}\n")
    page.set_input_files("#marks-file", tmp_path / "list.txt")
    page.locator("dialog[open] select").select_option("wrong")
    page.fill("#author", "Ada")
    moved(page, lambda: press(page, "Import"))
    found = Collections(folder).get("harbors")
    assert found.wrong == (name_of(1), name_of(2)) == tuple(shown(page)[::-1]) and found.marks[0].by == "Ada"
    Collections(folder).make("docks")
    unfold(page, "collections")
    page.get_by_role("button", name="Rename…").click()
    page.fill("#new-name", "Docks")
    press(page, "Rename")
    page.wait_for_selector("dialog[open] .notice:has-text('There is a collection')")
    page.fill("#new-name", "ports")
    moved(page, lambda: press(page, "Rename"))
    assert page.inner_text("#found-title") == "Marked in ports" and len(shown(page)) == 2
    assert [one.name for one in Collections(folder).all()] == ["docks", "ports"]
    assert page.evaluate(UNNAMED) == []


def test_a_dropped_picture_is_added_to_the_archive(open_page, own, folder):
    page = open_page("", own)
    page.evaluate("sessionStorage.setItem('macl-token', '" + TOKEN + "')")
    moved(page, lambda: page.set_input_files("#file", picture(50, name_of(3))))
    page.get_by_role("button", name=f"Show {name_of(3)} in large").click()
    assert page.input_value("#tile-id") == name_of(3)
    add = page.get_by_role("button", name="Add to the archive")
    add.dblclick()
    page.wait_for_selector("#tile .notice:has-text('A tile of the archive has this id.')")
    page.fill("#tile-id", "new/ship.png")
    for label in ("sea", "docks"):
        page.fill("#tile-label", label)
        page.keyboard.press("Enter")
    add.click()
    page.wait_for_selector("#tile .notice:has-text('Did you mean dock? If it is new, press again.')")
    assert own.get("/api/v1/items", params={"id": "new/ship.png"}).status_code == 404
    assert page.evaluate(UNNAMED) == [] and page.evaluate(STICKING_OUT) == [] and page.evaluate(CONTRAST) == []
    page.get_by_role("button", name="Take away docks").click()
    page.fill("#tile-label", "harbour")  # what was typed counts too
    moved(page, add.click)
    assert page.evaluate("location.hash") == "#like=new/ship.png" and page.locator("#tile[open]").count() == 0
    there = Index.open(folder / "index").snapshot
    assert there.describe("new/ship.png")["labels"] == ["sea", "harbour"]
    assert shown(page) == [hit["id"] for hit in own.search({"id": "new/ship.png"}, k=48)["results"]]
    assert f"{len(there)} tiles" in page.inner_text("#archive")
    assert own.get("/api/v1/items", params={"id": name_of(3)}).json()["item"]["labels"] != ["sea", "harbour"]


def test_without_a_token_collections_are_looked_at_only(open_page, folder):
    Collections(folder).mark(HOSTILE, right=[name_of(1), "gone/away.png"], wrong=[name_of(4)])
    with running(folder, access=Access()) as url, Client(url, folder, trust_env=False) as client:
        page = open_page("", client)
        unfold(page, "collections")
        moved(page, page.get_by_role("link", name=HOSTILE).click)
        assert {*shown(page)} == {name_of(1), "gone/away.png", name_of(4)}
        gone = page.locator(".tile[data-id='gone/away.png']")
        assert "not in the index now" in gone.text_content() and gone.get_attribute("data-mark") == "right"
        judge(page, 0, "Wrong")
        assert page.locator("#save").count() == 0 and page.get_by_text("Make it a label").count() == 0
        moved(page, lambda: page.click("#map-toggle"))
        assert page.locator("#map").is_visible() and len(shown(page)) == 3
        moved(page, lambda: page.click("#like-these"))
        assert shown(page) and name_of(1) not in shown(page)


def test_a_collection_that_is_gone_or_cannot_be_read_is_told_and_all_else_goes_on(open_page, own, folder):
    page = open_page("#collection=nothing", own)
    assert "A collection must be there" in page.inner_text("#notice")
    (folder / "collections.sqlite").write_bytes(b"junk")
    page = open_page(FIRST, own)
    assert shown(page) and page.locator("#collections a").count() == 0
    page = open_page("#collection=nothing", own)
    assert "collections of this server are damaged" in page.inner_text("#notice")


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_sticks_out(open_page, folder, width):
    names = ["x" * 200, "long name of a collection " * 7 + "end", "ships"]
    for name in names:
        Collections(folder).mark(name, right=[name_of(1), name_of(2)], wrong=[name_of(4)])
    with running(folder) as url, Client(url, folder, trust_env=False) as client:
        for name in names:
            page = open_page(
                f"#collection={name}&marks".replace(" ", "%20"), client, viewport={"width": width, "height": 800}
            )
            judge(page, 0, "Right")
            unfold(page, "collections")
            out = page.evaluate(
                f"""[...document.querySelectorAll('main *, aside *, #marks, #marks *')]
                .filter((node) => node.checkVisibility() && !node.closest('.unseen'))
                .filter((node) => node.getBoundingClientRect().right > {width}).map((node) => node.outerHTML)"""
            )
            assert out == [] and page.evaluate("document.documentElement.scrollWidth") <= width


def test_suggested_labels_are_accepted_and_rejected_by_keys(open_page, own, folder):
    """Two clouds of tiles: one of the first lost its label, one of the second has it."""
    made_with = own.get("/api/v1/info").json()["model"]["version"]
    rng, held = np.random.default_rng(0), np.array([[1]] * 20 + [[0]] * 20, np.uint8)
    held[[3, 30]] = [[0], [1]]
    Collections(folder).mark("S-ea", right=["t00"])  # the label's, by another spelling
    vectors = np.eye(DIM)[[0] * 20 + [1] * 20] + 0.05 * rng.normal(size=(40, DIM))
    items = Items.of(("sea",), [f"t{number:02d}" for number in range(40)], held)
    build_index(folder / "index", items, vectors, info={"encoder": {"version": 1, "uuid": uuid_of(folder, made_with)}},
                progress=False)  # fmt: skip
    while own.get("/api/v1/info").json()["index"]["version"] == 1:
        continue
    page = open_page("", own)
    unfold(page)
    moved(page, lambda: page.click("#suggestions"))
    assert page.inner_text("#found-title") == "Suggestions for sea" and shown(page) == ["t03"]
    assert page.locator("#suggest option").all_inner_texts() == ["sea"]
    page.keyboard.press("g")
    for key in "yn":  # it holds the label; the next one does not
        page.keyboard.press(key)
    assert "1 right, 1 wrong" in page.inner_text("#marks") and page.inner_text("#save") == "Save labels"
    page.keyboard.press("s")
    give_token(page)
    page.get_by_text("all labels fit").wait_for()
    labels = {name: Index.open(folder / "index").describe(name)["labels"] for name in ("t03", "t30")}
    assert labels == {"t03": ["sea"], "t30": []}
    (kept,) = Collections(folder).all()
    assert (kept.name, kept.wrong, kept.right) == ("S-ea", ("t30",), ("t00", "t03"))


LESSON = """
import json, sys
print(json.dumps({"stage": "training", "share": 0.4}), flush=True)
open(sys.argv[1]).read()
assert json.loads(sys.argv[2])["loss"] == "jaccard"
figures = [{"name": "NDCG@100", "before": 0.5, "after": 0.75}]
labels = [{"name": "sea", "before": 0.4, "after": 0.3, "tiles": 5, "collection": False}]
done = {"published": 2, "better": True, "tiles": 30, "seconds": 61.2, "figures": figures, "labels": labels}
print(json.dumps({"done": done}))
"""


def test_the_archive_is_taught_and_compared_with_before(open_page, api, served, tmp_path, monkeypatch):
    """The teaching alone is played: it waits until its progress was seen."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setattr("macl_tf.server.teaching.COMMAND", (sys.executable, "-c", LESSON, str(gate)))
    page = open_page(f"{FIRST}&k=12")
    unfold(page)
    page.click("#teach")
    dialog = page.locator("#teach-dialog")
    dialog.get_by_text("Settings").click()
    assert dialog.get_by_label("Loss").input_value() == "macl"
    dialog.get_by_label("Loss").select_option("jaccard")
    assert page.evaluate(UNNAMED) == [] and page.evaluate(CONTRAST) == [] and page.evaluate(STICKING_OUT) == []
    dialog.get_by_role("button", name="Teach").click()
    give_token(page)
    until(page, "document.querySelector('#teach-dialog progress')?.value === 0.4")
    assert "training, 40 %" in dialog.inner_text()
    gate.write_text("go on")
    dialog.get_by_text("Version 2 of the index is published.").wait_for()
    rows = dialog.locator("tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [
        ["NDCG@100", "0.500", "0.750"],
        ["sea", "label,", "5", "tiles", "0.400", "0.300"],
    ]
    assert dialog.locator(".gain").inner_text() == "0.750" and dialog.locator(".less").inner_text() == "0.300"
    assert page.evaluate(UNNAMED) == [] and page.evaluate(CONTRAST) == [] and page.evaluate(STICKING_OUT) == []
    moved(page, dialog.get_by_role("button", name="Compare with before").click)
    assert "versus=1" in page.url and page.locator(".tiles").count() == 2
    assert page.url.partition("#")[2].startswith(f"like={name_of(0)}".replace(" ", "%20"))
    held = [len(page.locator(".tiles").nth(side).locator(".chip.shared").all()) for side in (0, 1)]
    assert all(held) and re.search(r"· \d+ of 12 \w+$", page.locator("#lists h3").first.inner_text())
    # Without a query, from one tile of what gained most.
    moved(page, lambda: page.click("#home"))
    unfold(page)
    page.click("#teach")
    moved(page, dialog.get_by_role("button", name="Compare with before").click)
    (like,) = re.findall("#like=([^&]+)&versus=1", page.url)
    assert "sea" in api.get("/api/v1/items", params={"id": unquote(like)}).json()["item"]["labels"]
    # Of a collection, from a right tile, however many marks came after it.
    kept = Collections(served)
    kept.mark("sea", right=[name_of(1)])
    kept.mark("sea", wrong=[f"gone/{number}" for number in range(1000)])
    told = api.get("/api/v1/teach").json()
    told["result"]["labels"][0]["collection"] = True
    page.route("**/api/v1/teach", lambda route: route.fulfill(json=told))
    moved(page, lambda: page.click("#home"))
    unfold(page)
    page.click("#teach")
    moved(page, dialog.get_by_role("button", name="Compare with before").click)
    assert re.findall("#like=([^&]+)&versus=1", page.url) == [name_of(1).replace(" ", "%20")]
    kept.delete("sea")
