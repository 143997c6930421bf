"""Several workers are one server: what one wrote all see, one that dies is started again, all end together."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from macl_tf.index.index import Index
from tests.conftest import ROOT
from tests.serving_process import COUNT, TOKEN, make_served, name_of, publish_index, upload

HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


class Server:
    """Two workers in processes of their own."""

    def __init__(self, served):
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests.serving_process import main; main()", str(served), "2"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.connections = []
        self.url = urlsplit(self.process.stdout.readline().strip())
        assert self.url.port, self.process.communicate()

    @property
    def workers(self):
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def connect(self):
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=30)
        connection.connect()
        self.connections.append(connection)
        ask(connection, "GET", "/healthz")
        return connection

    def one_of_each(self):
        """A connection to each of the workers."""
        found = {}
        for _ in range(1000):
            before = {pid: sockets(pid) for pid in self.workers}
            connection = self.connect()
            taken = [pid for pid in before if sockets(pid) > before[pid]]
            if len(taken) == 1 and taken[0] not in found:
                found[taken[0]] = connection
            else:
                connection.close()
            if len(found) == 2:
                return list(found.values())
            time.sleep(0.02)  # another worker is still beginning
        pytest.fail("one worker takes all connections")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        for connection in self.connections:
            connection.close()
        _, self.errors = self.process.communicate(timeout=30)


def sockets(pid):
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += "socket" in os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def ask(connection, method, path, body=None, headers=HEADERS):
    connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    return json.loads(text) if answer.headers["content-type"] == "application/json" else text.decode()


def figures_at_rest(connection):
    """The answer of /metrics when no other request is at work: one is counted off after its answer was sent."""
    for _ in range(500):
        told = ask(connection, "GET", "/metrics")
        if "macl_requests_in_flight 1.0" in told:
            break
        time.sleep(0.02)
    return told


def gone(pid):
    """Whether a process is gone, waited for."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def served(tmp_path):
    return make_served(tmp_path / "served")


def test_what_one_worker_was_told_all_know(served):
    with Server(served) as server:
        one, other = server.one_of_each()
        for number, (writes, reads) in enumerate([(one, other), (other, one)] * 5):
            label = f"new label {chr(97 + number) * 5}"
            ask(writes, "POST", "/api/v1/items/labels", {"label": label, "holds": [name_of(1)], "new_labels": [label]})
            assert label in ask(reads, "GET", f"/api/v1/items?id={quote(name_of(1))}")["item"]["labels"]
            ask(writes, "POST", "/api/v1/collections/marks", {"name": "some", "right": [name_of(number)]})
            assert ask(reads, "GET", "/api/v1/collections")["collections"][0]["right"] == number + 1
        form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + upload(77) + b"\r\n--x"
        named = form + b'\r\nContent-Disposition: form-data; name="id"\r\n\r\nmine\r\n--x--\r\n'
        of_a_form = HEADERS | {"Content-Type": "multipart/form-data; boundary=x"}
        ask(one, "PUT", "/api/v1/items", named, of_a_form)
        assert ask(other, "POST", "/api/v1/search/image", form + b"--\r\n", of_a_form)["results"][0]["id"] == "mine"
        assert ask(other, "DELETE", "/api/v1/items?id=mine")["deleted"] == 1
        assert ask(one, "GET", "/api/v1/labels")["total"] == COUNT
        told = figures_at_rest(one)
        (count,) = re.findall(r'requests_total{method="POST",route="/api/v1/items/labels",status="200"} (\S+)', told)
        assert float(count) == 10
        assert "macl_index_items 40.0" in told
        assert "macl_requests_in_flight 1.0" in told


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_and_all_end_together(served):
    with Server(served) as server:
        first = server.workers
        os.kill(first[0], signal.SIGKILL)
        ask(server.connect(), "POST", "/api/v1/search", {"positive": [{"id": name_of(1)}]})
        for _ in range(500):
            if len(now := server.workers) == 2 and first[0] not in now:
                break
            time.sleep(0.02)
        assert first[1] in now and first[0] not in now
        one, other = server.one_of_each()
        ask(one, "POST", "/api/v1/collections/marks", {"name": "some", "right": [name_of(1)]})
        assert ask(other, "GET", "/api/v1/collections")["total"] == 1
        assert "macl_requests_in_flight 1.0" in figures_at_rest(other)  # not what the dead one was at
    assert server.process.returncode == 0 and server.errors.count("started again") == 1
    assert all(map(gone, now))


def test_workers_end_with_the_process_that_watches_them(served):
    with Server(served) as server:
        workers = server.workers
        server.process.kill()
        server.process.wait()
    assert len(workers) == 2 and all(map(gone, workers))


def test_what_no_worker_can_serve_is_said_once(run_python, tmp_path):
    script = "import sys; from macl_tf import cli; sys.exit(cli.main(['serve', *sys.argv[1:], '--port', '0']))"
    done = run_python(script, tmp_path / "none", "--workers", 2, check=False)
    assert done.returncode == 2
    assert done.stderr.count("is not there. `macl export") == 1 and done.stderr.startswith("macl serve: ")


@pytest.mark.slow
def test_a_new_version_under_load_drops_nothing(served):
    """Published again and again, and taken in by each worker when it is told to."""
    made_with = Index.open(served / "index").info["encoder"]
    with Server(served) as server:
        statuses, ending = [], threading.Event()

        def load():
            connection = server.connect()
            while not ending.is_set():
                found = ask(connection, "POST", "/api/v1/search", {"positive": [{"id": name_of(1)}]})
                statuses.append(found["index_version"])

        one, other = server.one_of_each()
        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            publish_index(served, made_with, "a")
            for connection in (one, other):  # a write takes the newest version in
                ask(connection, "POST", "/api/v1/items/labels", {"label": "sea", "holds": [name_of(2)]})
        ending.set()
        for thread in threads:
            thread.join()
    assert server.process.returncode == 0 and set(statuses) <= {1, 2, 3, 4} and len(statuses) > 8
