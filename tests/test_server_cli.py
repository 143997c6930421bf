"""`macl serve` as a user starts it, with a real encoder: in its process, and in TensorFlow Serving's stead."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import uvicorn

from macl_tf import cli
from macl_tf.search.encoders import load_encoder
from macl_tf.search.engine import SearchEngine
from macl_tf.server.service import _IN_WORK
from macl_tf.server.settings import Limits, Options
from macl_tf.training.run_directory import open_archive
from macl_tf.training.settings import load_settings
from tests.conftest import ROOT
from tests.loopback import loopback_server
from tests.pictures import encoded
from tests.runs import TILES
from tests.serving_process import Client, make_served, running

TOKEN = "for-the-tests-of-the-command"


@pytest.fixture(scope="module")
def served(small_served, tmp_path_factory):
    return shutil.copytree(small_served, tmp_path_factory.mktemp("command") / "served")


@pytest.fixture(scope="module")
def tiles(small_run):
    archive = open_archive(load_settings(small_run / "settings.toml"))
    return [encoded(archive.read_image(number), "PNG") for number in range(TILES)]


class Served:
    """`macl serve` in a process of its own; `url` is where it says that it can be asked."""

    def __init__(self, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "macl_tf.cli", "serve", *map(str, arguments), "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert " at http" in line, self.process.communicate()
        self.url = re.search(r" at (http://127\.0\.0\.1:\d+/)", line)[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        _, self.errors = self.process.communicate(timeout=30)


@pytest.mark.slow
def test_the_command_serves_searches_and_writes_and_ends_in_order(served, tiles):
    engine = SearchEngine.open(served)
    with Served(served, MACL_TOKEN=TOKEN) as command, Client(command.url, served, TOKEN) as client:
        found = client.search_image(tiles[7], k=5)
        for result, wanted in zip(found["results"], engine.search(tiles[7], k=5)[0].results, strict=True):
            assert result["id"] == wanted.id and result["score"] == pytest.approx(wanted.score, abs=1e-5)
        assert client.upsert(tiles[0], id="mine")["id"] == "mine"
        info = client.get("/api/v1/info").json()
        assert info["index"]["count"] == TILES + 1 and info["model"]["dataset"]["name"] == "synthetic"
        if (ROOT / "macl_tf" / "server" / "page" / "index.html").is_file():
            page = client.get("/")
            assert page.headers["content-type"].startswith("text/html") and page.headers["cache-control"] == "no-cache"
    assert command.process.returncode == 0 and command.errors == ""
    assert SearchEngine.open(served).index.delete(["mine"]) == 1


@pytest.mark.slow
def test_an_encoder_elsewhere_gives_the_same_vectors(served, tiles):
    with loopback_server(served / "encoder", {}) as url:
        made_with = SearchEngine.open(served).index.info["encoder"]
        here, there = load_encoder(served, made_with), load_encoder(served, made_with, f"{url}/v1/models/encoder")
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        np.testing.assert_allclose(there.embed_pixels(pixels), here.embed_pixels(pixels), atol=1e-6)
        elsewhere = Options(encoder_url=f"{url}/v1/models/encoder")
        with running(served, options=elsewhere, load=load_encoder) as at, Client(at, served) as client:
            assert client.search_image(tiles[7], k=1)["results"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_an_encoder_that_went_away_is_said_and_found_again(served, tiles):
    made_with = SearchEngine.open(served).index.info["encoder"]
    gone = False

    def embed(pixels):
        if gone:
            raise ConnectionError("The encoder's server does not answer.")
        return encoder.embed_pixels(pixels)

    encoder = load_encoder(served, made_with)
    with running(served, load=lambda *_: replace(encoder, embed_pixels=embed)) as url, Client(url, served) as client:
        assert client.search_image(tiles[7])
        gone = True
        assert "encoder's server does not answer" in client.search_image(tiles[7], status=503)["error"]["rule"]
        gone = False
        assert client.search_image(tiles[7])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{none}"], "is not there. `macl export"),
        (["{empty}"], "holds no index"),
        (["{stub}", "--protect-reads"], "--protect-reads needs a token"),
        (["{stub}", "--token-file", "{short}"], "at least 16 letters"),
        (["{stub}", "--token-file", "{none}"], "No such file"),
        (["{stub}", "--max-pixels", "99999999"], "the limit pixels must be <= 64000000"),
        (["{stub}", "--max-k", "0"], "the limit k must be > 0"),
        (["{stub}", "--root-path", "tiles"], "--root-path must be like /tiles"),
        (["{stub}", "--encoder-url", "localhost"], "the encoder's URL must be like http://HOST:8501"),
        (["{stub}", "--encoder-url", "http://127.0.0.1:9/v1/models/encoder"], "does not answer"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").write_text("secret\n")
    places = {name: tmp_path / name for name in ("none", "empty", "short")}
    places["stub"] = make_served(tmp_path / "served")
    assert cli.main(["serve", *(argument.format(**places) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("macl serve: ") and words in error and error.count("\n") == 1


def test_an_address_that_is_taken_is_said_at_once(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(tmp_path), "--port", str(port)]) == 2
    assert f"127.0.0.1, port {port}, cannot be listened at" in capsys.readouterr().err
    assert cli.main(["serve", str(tmp_path), "--port", "99999"]) == 2


def test_what_the_page_on_deploying_says_is_so():
    """Options that there are, limits as they are, and a proxy that lets pass what the service takes."""
    text, limits = (ROOT / "docs" / "deploy.md").read_text(), Limits()
    options = cli.parser()._subparsers._group_actions[0].choices["serve"]._option_string_actions
    of_ours = re.sub(r"(?m)^(docker|kubectl|ENCODER_URL|macl index)\b.*$", "", text)
    named = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", of_ours))
    assert {"--allow-host", "--max-bytes"} <= named <= options.keys()
    for words in (
        f"64 examples: 422 | service |\n| seconds for a body to arrive | {limits.body_seconds:g}: 408",
        f"requests of one address at a time | {limits.per_client}: 429",
        f"connections of all clients | {limits.connections}: 503",
        f"{Options().backlog} pictures, {_IN_WORK} requests: 503",
    ):
        assert words in text
    assert limits.batch == 64 and uvicorn.Config(None).timeout_keep_alive == 5
    (size,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(size) << 20 > limits.bytes + (1 << 20)


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr("macl_tf.cli.serve.find_spec", lambda name: None if name == "uvicorn" else name)
    assert cli.main(["serve", "served"]) == 2
    assert capsys.readouterr().err == "macl serve: the service needs uvicorn: pip install 'macl_tf[cpu,serve]'\n"


def test_help_does_not_wait_for_the_framework(run_python):
    script = """
import sys
from macl_tf.cli import main
try:
    main(["serve", "--help"])
except SystemExit as stop:
    assert stop.code == 0
assert not {"fastapi", "uvicorn", "tensorflow", "keras"} & set(sys.modules)
"""
    assert "examples:" in run_python(script).stdout
