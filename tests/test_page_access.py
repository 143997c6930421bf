"""Who may open the page and from where: tokens, proxies, prefixes."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from macl_tf.server.auth import LOOPBACK, Access
from tests.browser import until
from tests.page import (
    FIRST,
    api,
    browser,
    choose,
    examples,
    ids,
    moved,
    open_page,
    own,
    picture,
    served,
    settled,
    shown,
)
from tests.serving_process import (
    TOKEN,
    Client,
    name_of,
    running,
    upload,
)

__all__ = ["api", "browser", "open_page", "own", "served"]
pytestmark = pytest.mark.slow


def test_a_protected_server_is_asked_with_a_token(browser, served):
    with running(served, access=Access(TOKEN, protect_reads=True, hosts=LOOPBACK)) as url:
        page = browser.new_page(viewport={"width": 390, "height": 300})
        page.goto(url)
        page.fill("#token", "not-the-token-at-all")
        page.click("text=Continue")
        page.get_by_text("was not accepted").wait_for()
        page.fill("#token", TOKEN)
        page.click("text=Continue")
        page.wait_for_selector(".tile")
        until(page, "document.querySelector('.tile img').naturalWidth > 0")  # pictures too
        # Those that are nearly seen, as without a token; one that is not given looks as there.
        asked = []
        page.on("request", lambda request: "/thumbnail" in request.url and asked.append(request.url))
        page.route(lambda url: "tile001" in url, lambda route: route.fulfill(status=500, body=""))
        moved(page, lambda: page.evaluate(f"location.hash = {json.dumps(FIRST)}"))
        missing = page.locator(f".tile[data-id='{name_of(1)}']")
        until(page, "document.querySelector('.tile img').naturalWidth > 0")
        assert 0 < len(asked) < page.locator(".tile").count() and missing.locator(".blank").count() == 0
        missing.scroll_into_view_if_needed()
        missing.locator(".blank").wait_for()
        page.close()


def test_what_a_proxy_says_by_itself_is_told_as_it_is_meant(open_page, own):
    """By nginx's default 1 MB is the most that it lets through, and its answer is a page of HTML."""
    page = open_page(at=own)
    for status, words, buttons in ((413, "too large", ["Close"]), (502, "proxy", ["Try again", "Close"])):
        page.route("**/search/image", lambda route, request, status=status: route.fulfill(status=status, body="<html>"))
        page.set_input_files("#file", picture(50))
        notice = page.get_by_role("alert")
        notice.get_by_text(words).first.wait_for()
        assert notice.get_by_role("button").all_text_contents() == buttons


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
