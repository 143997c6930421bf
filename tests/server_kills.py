"""Servers that are killed at random moments while they are written to, and a look at what is left.

As in `index_kills`, everything is imported once and each server is a fork: a kill costs milliseconds. This process
never opens an index and has no threads.
"""

import http.client
import json
import os
import random
import signal
from pathlib import Path
from urllib.parse import quote, urlsplit

from macl_tf.index.index import Index
from macl_tf.server.app import open_app
from macl_tf.server.auth import Access
from macl_tf.server.server import listen, server_of, url_of
from macl_tf.server.settings import Options
from tests.index_kills import Child, acknowledged, run
from tests.serving_process import SMALL, TOKEN, load_stub, make_served, upload

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def serve(say, served):
    listener = listen("127.0.0.1", 0)
    app = open_app(served, Access(TOKEN), SMALL, Options(), load=load_stub, started=lambda: say(url_of(listener)))
    server_of(app, SMALL).run([listener])


def look(say, served):
    """What the index holds: the source of each item that was written here."""
    index = Index.open(served / "index")
    sources = dict(zip(index.items.ids, index.items.sources, strict=True))
    say({id_: source for id_, source in sources.items() if source})


def put(connection, id_, value):
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, text.encode())
        for name, text in ((b"id", id_), (b"source", str(value)))
    )
    body += b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + upload(value % 50)
    headers = HEADERS | {"Content-Type": "multipart/form-data; boundary=x"}
    connection.request("PUT", "/api/v1/items", body + b"\r\n--x--\r\n", headers)


def write_until_killed(child, generator, first):
    """Upserts and deletes, each noted before it is sent, and again when it was acknowledged."""
    parts = urlsplit(json.loads(child.text))
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    said, value = [], first
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child.pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, generator.uniform(0.01, 0.25))
    try:
        while True:
            id_ = f"item {generator.randrange(12)}"
            if generator.random() < 0.65:
                value += 1
                said.append({"upsert": [id_], "value": value})
                put(connection, id_, value)
            else:
                said.append({"delete": [id_]})
                connection.request("DELETE", f"/api/v1/items?id={quote(id_)}", headers=HEADERS)
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer
            said.append("done")
    except (OSError, http.client.HTTPException):
        return said, value
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.close()


def kill_servers(served, kills, seed):
    """After each kill every acknowledged write is there, and at most the one that was under way besides."""
    served, generator = Path(served), random.Random(seed)
    run(lambda say: make_served(served))
    held, writes, unfinished, value = {}, 0, 0, 0
    for round_ in range(kills):
        child = Child(serve, served)
        child.wait_for()
        said, value = write_until_killed(child, generator, value)
        child.end()
        sure, possible = acknowledged(held, said)
        (state,) = run(look, served)
        assert state in (sure, possible), (round_, said[-3:])
        writes += said.count("done")
        unfinished += said[-1:] != ["done"]
        held = state
    print(json.dumps({"writes": writes, "unfinished": unfinished, "held": len(held)}))
