"""Teaching over HTTP: begun with the token, one at a time, followed to its end, ended with the server."""

import json
import sys
import time

import pytest

from macl_tf.server.auth import Access
from macl_tf.server.teaching import Teaching
from tests.serving_process import TOKEN, Client, make_served, running

# Instead of `macl_tf.teaching.job`, which tests/test_teaching.py runs: it waits for a file before it goes on.
JOB = """
import json, sys, time
from pathlib import Path
asked = json.loads(sys.argv[1])
print("a library's word", flush=True)
print(json.dumps({"stage": "training", "share": 0.4}), flush=True)
end = Path(asked["served"]) / "end"
while not end.is_file():
    time.sleep(0.02)
print(end.read_text().replace("LOSS", asked["loss"]), flush=True)
"""
RESULT = {"published": 2, "better": True, "tiles": 9, "seconds": 3.5, "figures": [], "labels": [
    {"name": "LOSS", "tiles": 4, "collection": True, "before": None, "after": 0.5}]}  # fmt: skip


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr("macl_tf.server.teaching.COMMAND", (sys.executable, "-c", JOB))
    return make_served(tmp_path / "served")


@pytest.fixture
def client(served):
    with running(served, access=Access(TOKEN)) as url, Client(url, served, TOKEN) as client:
        yield client


def until(client, holds):
    for _ in range(1000):
        if holds(found := client.get("/api/v1/teach").json()):
            return found
        time.sleep(0.02)
    pytest.fail(f"it stays {found}")


def test_it_is_begun_once_followed_and_says_what_came_of_it(client, served):
    assert client.get("/api/v1/teach").json()["state"] == "none"
    begun = client.post("/api/v1/teach", json={"loss": "supcon-any"})
    assert begun.status_code == 200 and begun.json()["state"] == "running"
    assert until(client, lambda found: found["share"])["stage"] == "training"
    again = client.post("/api/v1/teach", json={"loss": "bce"}).json()  # the first goes on
    assert (again["state"], again["share"]) == ("running", 0.4)
    (served / "end").write_text(json.dumps({"done": RESULT}))
    done = until(client, lambda found: found["state"] != "running")
    assert (done["state"], done["share"], done["error"]) == ("done", 1, None)
    assert done["result"]["published"] == 2 and done["result"]["labels"][0]["name"] == "supcon-any"


@pytest.mark.parametrize(
    ("said", "error"), [('{"failed": "Mark more."}', "Mark more."), ("junk", "before it was done")]
)
def test_what_went_wrong_is_told_and_it_can_be_begun_again(client, served, said, error, monkeypatch):
    if said == "junk":
        monkeypatch.setattr("macl_tf.server.teaching.COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    (served / "end").write_text(said)
    client.post("/api/v1/teach", json={})
    failed = until(client, lambda found: found["state"] == "failed")
    assert error in failed["error"] and failed["result"] is None
    assert client.post("/api/v1/teach", json={}).json()["state"] == "running"


def test_only_who_has_the_token_may_begin(served):
    with running(served, access=Access(TOKEN)) as url, Client(url, served, "") as client:
        assert client.post("/api/v1/teach", json={}).status_code == 401
        assert client.get("/api/v1/teach").json()["state"] == "none"
    with running(served, access=Access(None)) as url, Client(url, served, "") as client:
        assert client.post("/api/v1/teach", json={}).status_code == 403


def test_a_server_that_ends_ends_it(served):
    teaching = Teaching(served, served)
    teaching.begin("macl", "better")
    other, begin = Teaching(served, served), time.monotonic()  # of another worker
    assert other.state()["state"] == "running" and other.begin("bce", "never")["state"] == "running"
    teaching.close()
    assert time.monotonic() - begin < 10 and other.state()["state"] == "failed"
