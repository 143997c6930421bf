"""Walks docs/tutorial_loop.md in a browser: from one airplane among tiles without labels to an index that learned them.

    python docs/loop_tutorial.py UCM WORK

UCM holds UC Merced's tiles with their labels, which stand in for the person who marks: nothing else is told of them.
WORK is where the commands of the page run. Prints what the page says; pictures go to docs/. Needs Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from macl_tf.cli import main as macl

DOCS = Path(__file__).resolve().parent
LABEL, NAME, MOST_ROUNDS, SHARE = "airplane", "airplanes", 5, 0.9
PORT, WIDTH, HEIGHT = 8138, 1280, 860
FRAME = 720  # width of the animation
INDEX = ["index", "tiles", "--backbone", "efficientnet-lite0", "--output", "served"]
# Whether the pictures that can be seen are there.
_DRAWN = """[...document.images].every((picture) => {
  const { top, bottom, width } = picture.getBoundingClientRect();
  return picture.complete || !width || top > innerHeight || bottom < 0;
})"""
SERVE = ["serve", "served", "--token-file", "token", "--port", str(PORT)]


def without_labels(source: Path) -> set[str]:
    """Copies the tiles to `tiles`, by numbers drawn at random; gives the names of those with the label."""
    from macl_tf.datasets import load_archive

    archive = load_archive("ucm", data_dir=str(source))
    Path("tiles").mkdir()
    held = archive.labels[:, archive.label_names.index(LABEL)].astype(bool)
    names = [f"{number:04}.jpg" for number in np.random.default_rng(0).permutation(len(archive))]
    for place, name in enumerate(names):
        shutil.copy2(source / "Images" / archive.file_names[place], Path("tiles", name))
    return {name for name, holds in zip(names, held, strict=True) if holds}


@contextmanager
def serving() -> Iterator[None]:
    """The server, until the end of the block."""
    server = subprocess.Popen([sys.executable, "-m", "macl_tf.cli", *SERVE])
    try:
        for _ in range(120):
            time.sleep(0.5)
            with suppress(OSError), socket.create_connection(("127.0.0.1", PORT)):
                break
        yield
    finally:
        server.terminate()
        server.wait()


class Person:
    """Who looks for airplanes on the page, with pictures of what they see."""

    def __init__(self, page: Any, right: set[str]) -> None:
        self.page, self.right, self.frames = page, right, list[tuple[Image.Image, int]]()

    def settled(self) -> None:
        """Waits until the results and their pictures are there."""
        self.page.wait_for_selector("#lists[aria-busy=false]")
        self.page.wait_for_load_state("networkidle")
        while not self.page.evaluate(_DRAWN):
            self.page.wait_for_timeout(50)

    def see(self, name: str = "", seconds: float = 1.2) -> None:
        """Keeps what is on the screen: for the animation, and under a name for the page."""
        self.page.screenshot(path="screen.png")
        with Image.open("screen.png") as screen:
            picture = screen.convert("RGB")
        if name:
            picture.resize((1000, 1000 * HEIGHT // WIDTH), Image.Resampling.LANCZOS).save(
                DOCS / f"loop_{name}.jpg", quality=80, optimize=True
            )
        small = picture.resize((FRAME, FRAME * HEIGHT // WIDTH), Image.Resampling.LANCZOS)
        self.frames.append((small, int(1000 * seconds)))

    def judge(self, *, few: int | None = None) -> tuple[int, int]:
        """Marks the tiles that are shown, or the first few, by y and n; says how many were right and wrong."""
        said = [0, 0]
        for tile in self.page.locator(".tile").all()[:few]:
            right = tile.get_attribute("data-id") in self.right
            tile.locator("[data-how=right]" if right else "[data-how=wrong]").evaluate("button => button.click()")
            said[not right] += 1
        return said[0], said[1]

    def animate(self) -> None:
        """The animation, of all that was seen."""
        first, *rest = [frame for frame, _ in self.frames]
        durations = [duration for _, duration in self.frames]
        options = {"duration": durations, "loop": 0, "quality": 55, "method": 6}
        first.save(DOCS / "loop.webp", save_all=True, append_images=rest, **options)


def until(page: Any, script: str) -> None:
    """Waits: Playwright's own way is against the page's content policy."""
    for _ in range(1800):
        with suppress(Exception):  # while it goes from one address to the next
            if page.evaluate(script):
                return
        time.sleep(0.1)
    raise TimeoutError(script)


def give_token(page: Any) -> None:
    """The server asks for it once."""
    page.fill("#token-dialog input", Path("token").read_text().strip())
    page.locator("#token-dialog").get_by_role("button").first.click()


def find_all(person: Person) -> int:
    """From one airplane to nine tenths of all, in rounds; gives how many it took."""
    page = person.page
    page.goto(f"http://127.0.0.1:{PORT}/")
    person.settled()
    person.see("start")
    one = min(person.right)
    page.fill("#id", one)
    person.see(seconds=0.8)
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('like')")
    person.settled()
    person.see()
    print("first search:", person.judge(few=12))
    person.see("marked")
    page.click("#begin")
    page.fill("#collection-name", NAME)
    page.locator("#collection-dialog").get_by_role("button", name="Save").click()
    give_token(page)
    page.wait_for_selector("#figures")
    for number in range(1, MOST_ROUNDS + 1):
        person.settled()
        person.see(f"round{number}" if number == 1 else "")
        print(f"round {number}:", person.judge())
        person.see(seconds=0.8)
        page.evaluate("document.getElementById('status').textContent = ''")
        page.click("#save")
        until(page, "document.getElementById('status').textContent.startsWith('Saved: ')")
        person.settled()
        told = page.inner_text("#figures").split("\n")
        print(" ", told)
        if int(told[1].replace(",", "")) >= SHARE * len(person.right):
            return number
    raise SystemExit(f"{SHARE:.0%} of {len(person.right)} were not found in {MOST_ROUNDS} rounds.")


def teach(person: Person) -> None:
    """The collection becomes a label, and the index learns it."""
    page = person.page
    page.click("#marked")
    person.settled()
    page.click("#collections summary")
    person.see("collection")
    page.get_by_role("button", name="Make it a label").click()
    page.locator("#collection-dialog").get_by_role("button", name="Make it a label").click()
    until(page, "!document.querySelector('#collection-dialog[open]')")
    page.goto(f"http://127.0.0.1:{PORT}/#like={min(person.right)}")
    person.settled()
    page.click("#more summary")
    page.click("#teach")
    page.locator("#teach-dialog").get_by_role("button", name="Teach", exact=True).click()
    page.wait_for_selector("#teach-dialog progress")
    person.see(seconds=0.8)
    page.wait_for_selector("#teach-dialog table", timeout=1_200_000)
    person.see("taught", seconds=2)
    print(page.inner_text("#teach-dialog"))
    page.get_by_role("button", name="Compare with before").click()
    until(page, "location.hash.includes('versus')")
    person.settled()
    person.see("compared", seconds=2.5)


def wander(person: Person) -> None:
    """The whole archive in the plot, with what is found, and back."""
    page = person.page
    page.goto(f"http://127.0.0.1:{PORT}/#like={min(person.right)}&plot")
    person.settled()
    until(page, "Number(document.querySelector('#plot canvas')?.dataset.found) > 0")
    page.wait_for_timeout(1500)  # until its pictures are there
    person.see("plot", seconds=2.5)
    page.go_back()
    person.settled()


def main() -> None:
    """Makes the archive, runs the commands, walks, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="UCM")
    parser.add_argument("work", type=Path, metavar="WORK", help="a folder that is not there yet")
    options = parser.parse_args()
    from scenes_tutorial import browser  # beside this file

    data = options.data.resolve()
    options.work.mkdir(parents=True)
    os.chdir(options.work)
    right = without_labels(data)
    Path("token").write_text("a-token-for-the-tutorial")
    if macl(INDEX):
        raise SystemExit("the index was not made")
    with serving(), browser(HEIGHT) as page:
        person = Person(page, right)
        print("rounds:", find_all(person))
        wander(person)
        teach(person)
        person.animate()
    with serving(), browser(HEIGHT) as page:  # what was told is still there
        page.goto(f"http://127.0.0.1:{PORT}/")
        page.wait_for_selector("#lists[aria-busy=false]")
        page.click("#collections summary")
        print("after a restart:", page.inner_text("#collections"), "|", page.inner_text("#status"))


if __name__ == "__main__":
    main()
