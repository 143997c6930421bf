"""A real headless Chromium for the tests of the page."""

import os
import shutil
import time
from contextlib import contextmanager

import pytest

# Set where the browser must be there, as in .ci/run: then its absence is a failure and no reason to skip.
REQUIRED = "MACL_BROWSER_REQUIRED"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def chromium():
    """Chromium as Playwright installs it, or the system's."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        absent("pip install playwright")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch()
        except Error:
            path = next(filter(None, map(shutil.which, NAMES)), None)
            if path is None:
                absent("playwright install --with-deps --only-shell chromium, or apt-get install chromium")
            browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def absent(remedy):
    reason = f"there is no Chromium here: {remedy}"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


def until(page, expression, seconds=15):
    """Waits for what the page says. Playwright's own wait is code in a string, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        if time.monotonic() > end:
            pytest.fail(f"never came true: {expression}")
        page.wait_for_timeout(20)
