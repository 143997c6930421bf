"""Servers that share one Milvus, behind a balancer: nginx with deploy/nginx.conf where there is one, else a proxy."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest

from macl_tf.datasets.images import thumbnail
from macl_tf.index.milvus.connection import Address
from macl_tf.index.milvus.filling import Source, fill
from tests.conftest import ROOT
from tests.milvus_process import Proxy, Server
from tests.serving_process import COUNT, TOKEN, items_of, name_of, publish_encoder, tile, upload, vectors_of

SERVE = "from tests.serving_process import main; main()"
ALL = {name_of(number) for number in range(COUNT)}
WAIT = 60  # seconds for what takes one


@contextlib.contextmanager
def nginx(folder, *ports):
    """nginx with our file, but for the names of Docker's network and places that only root may write to."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder};\n" for kind in kinds)
    for found, put in {
        r" *resolver .*\n": "",
        r"server search:8080 resolve;": " ".join(f"server 127.0.0.1:{port};" for port in ports),
        r"listen 8080;": f"listen 127.0.0.1:{port};",
        r"http {\n": f"http {{\n{temporary}access_log off;\n",
        r"\A": f"pid {folder}/pid; daemon off; error_log stderr;\n",
    }.items():
        text, count = re.subn(found, put, text)
        assert count == 1, found
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(["nginx", "-e", "stderr", "-c", folder / "nginx.conf"])
    try:
        for _ in range(WAIT * 20):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert process.poll() is None
            threading.Event().wait(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def balanced(folder, *ports):
    """The URL of a balancer of servers at ports of this machine."""
    if shutil.which("nginx"):
        folder.mkdir()
        with nginx(folder, *ports) as url:
            yield url
    else:
        proxy = Proxy(*ports)
        try:
            yield proxy.uri
        finally:
            proxy.close()


@contextlib.contextmanager
def servers(served, index, count):
    """Processes that serve, and their URLs."""
    command = [sys.executable, "-c", SERVE, served, index]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        yield processes, [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.terminate()
            process.wait()
            process.stdout.close()


def source_of(numbers, made_with, key):
    vectors, small = vectors_of(numbers, "a"), [thumbnail(tile(number), 8) for number in numbers]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Source(items_of(list(numbers)), vectors, small, {"encoder": made_with}, key)


@pytest.mark.slow
def test_reads_and_writes_go_on_while_a_version_takes_the_place_of_another_and_a_server_dies(tmp_path):
    served, milvus = tmp_path / "served", Server(tmp_path / "lite")
    made_with = publish_encoder(served, "a")
    address = Address(f"http://127.0.0.1:{milvus.port}", "tiles")
    fill(address, source_of(range(COUNT), made_with, "first"), progress=False)
    seen, written, failures, over = {1: 0, 2: 0}, {}, [], threading.Event()
    more = threading.Condition()

    def read(client):
        number = 0
        while not over.is_set():
            number = (number + 1) % COUNT
            query = {"positive": [{"id": name_of(number)}], "k": 50, "filter": {"split": ["train", "test"]}}
            answer = asked(client.post, "/api/v1/search", json=query)
            found = answer.json() if answer.status_code == 200 else {"index_version": 0}
            with more:
                if found["index_version"] in seen and {name_of(number), *named(found)} >= ALL:
                    seen[found["index_version"]] += 1
                else:
                    failures.append(answer.text)
                more.notify()

    def write(client):
        number = 100
        while not over.is_set():
            number += 1
            tile = {"files": {"image": ("x", upload(number))}, "data": {"id": f"new {number}"}}
            answer = asked(client.put, "/api/v1/items", **tile)
            with more:
                if answer.status_code == 200:
                    written[f"new {number}"] = answer.json()["index_version"]
                elif answer.status_code != 503:
                    failures.append(answer.text)
                more.notify()

    def until(condition):
        with more:
            assert more.wait_for(lambda: condition() or failures, WAIT)
            assert not failures

    def last(version):
        return sum(found == version for found in written.values())

    try:
        with (
            servers(served, str(address), 2) as (processes, urls),
            balanced(tmp_path / "nginx", *[url.rstrip("/").rpartition(":")[2] for url in urls]) as url,
        ):
            how = {"headers": {"Authorization": f"Bearer {TOKEN}"}, "timeout": WAIT, "trust_env": False}
            how["limits"] = httpx.Limits(max_keepalive_connections=0)  # each request may come to another server
            clients = [httpx.Client(base_url=url, **how) for _ in range(3)]
            threads = [threading.Thread(target=guarded(work, failures), args=[client])
                       for work, client in zip((read, read, write), clients, strict=True)]  # fmt: skip
            for thread in threads:
                thread.start()
            until(lambda: seen[1] > 20 and last(1) > 3)
            fill(address, source_of(range(COUNT + 5), made_with, "second"), discard_changes=True, progress=False)
            until(lambda: seen[2] > 20 and last(2) > 3)
            os.kill(processes[0].pid, signal.SIGKILL)
            processes[0].wait()
            seen[2] = 0
            after = last(2)
            until(lambda: seen[2] > 20 and last(2) > after + 3)
            over.set()
            for thread in threads:
                thread.join()
            assert not failures
            there = httpx.Client(base_url=urls[1], **how)
            for id_ in [id_ for id_, version in written.items() if version == 2]:
                assert there.get("/api/v1/items", params={"id": id_}).status_code == 200, id_
            for client in [*clients, there]:
                client.close()
    finally:
        over.set()
        milvus.kill()


def named(answer):
    return [result["id"] for result in answer["results"]]


def asked(ask, *arguments, **options):
    """An answer; nginx asks another server by itself, where a proxy of bytes leaves that to the client."""
    try:
        return ask(*arguments, **options)
    except httpx.TransportError:
        if shutil.which("nginx"):
            raise
        return ask(*arguments, **options)


def guarded(work, failures):
    """What goes wrong in a thread is told."""

    def run(client):
        try:
            work(client)
        except BaseException as error:
            failures.append(error)

    return run
