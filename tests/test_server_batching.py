"""Pictures that come together are embedded together, each gets its own vector, and one failure harms nobody else."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from macl_tf.server.batching import Batcher, Picture
from macl_tf.server.errors import Refused
from macl_tf.server.settings import Options
from tests.serving_process import Client, make_served, name_of, running, upload, vectors_of
from tests.stub_encoder import StubEncoder


def one(value):
    return np.full((2, 2, 3), value, np.uint8)


class Gate:
    """An encoder that waits to be let through, and notes its batches."""

    def __init__(self):
        self.open, self.entered, self.batches = threading.Semaphore(0), threading.Semaphore(0), []

    def __call__(self, pixels):
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        self.entered.release()
        assert self.open.acquire(timeout=10)
        if 255 in self.batches[-1]:
            raise RuntimeError("white is not embedded")
        return pixels[:, 0, 0].astype(np.float32)


@pytest.fixture
def gate():
    return Gate()


def test_what_comes_while_the_encoder_works_is_the_next_batch(gate):
    batcher = Batcher(gate, Options(batch_size=4))
    first = batcher.submit(one(1))
    gate.entered.acquire(timeout=10)
    others = [batcher.submit(one(value)) for value in range(2, 8)]
    gate.open.release(3)
    assert [future.result(10)[0] for future in [first, *others]] == [1, 2, 3, 4, 5, 6, 7]
    batcher.close()
    assert gate.batches == [[1], [2, 3, 4, 5], [6, 7]]


@pytest.mark.parametrize(("patience", "last"), [(30, [2, 3, 4]), (0.01, [2, 3])])
def test_who_got_an_answer_a_moment_ago_is_waited_for_and_not_for_ever(gate, patience, last):
    batcher = Batcher(gate, Options(batch_wait=patience))
    found = [batcher.submit(one(1))]
    gate.entered.acquire(timeout=10)
    found += [batcher.submit(one(2)), batcher.submit(one(3))]
    gate.open.release(2)
    assert found[0].result(10)[0] == 1
    if 4 in last:
        assert not gate.entered.acquire(timeout=0.1)
        found.append(batcher.submit(one(4)))
    assert [future.result(10)[0] for future in found] == [1, *last] and gate.batches == [[1], last]
    batcher.close()


def test_a_batch_that_is_full_waits_for_nobody(gate):
    batcher = Batcher(gate, Options(batch_wait=30, batch_size=3))
    gate.open.release(2)
    found = [batcher.submit(one(1))]
    assert gate.entered.acquire(timeout=10)
    found += [batcher.submit(one(value)) for value in (2, 3, 4)]
    assert [future.result(10)[0] for future in found] == [1, 2, 3, 4]
    batcher.close()


@pytest.mark.parametrize("ahead", [None, ThreadPoolExecutor(1)])
def test_what_is_no_picture_is_told_alone_and_all_of_a_batch_are_told_at_once(gate, ahead):
    told, done = [], threading.Semaphore(0)

    def broken():
        raise ValueError("no picture")

    def then(pictures):
        told.append([str(picture.error) if picture.error else picture.vector[0] for picture in pictures])
        done.release()
        raise RuntimeError("and so what")

    batcher = Batcher(gate, Options())
    for pixels in (lambda: one(9), lambda: one(3), broken):
        batcher.put(Picture(pixels, then), ahead)
        if not told:
            gate.entered.acquire(timeout=10)
            told.append(None)
    gate.open.release(2)
    assert done.acquire(timeout=10) and done.acquire(timeout=10) and batcher.alive
    assert told == [None, [9], [3, "no picture"]]
    batcher.close()


def test_a_single_client_does_not_wait():
    batcher = Batcher(lambda pixels: pixels[:, 0, 0].astype(np.float32), Options(batch_wait=30))
    begin = time.monotonic()
    batcher.submit(one(1)).result(10)
    assert time.monotonic() - begin < 5
    batcher.close()


def test_a_failure_is_told_to_those_in_the_batch_only(gate):
    batcher = Batcher(gate, Options())
    gate.open.release(2)
    with pytest.raises(RuntimeError, match="white"):
        batcher.submit(one(255)).result(10)
    assert batcher.submit(one(4)).result(10)[0] == 4 and batcher.alive
    batcher.close()
    assert not batcher.alive
    with pytest.raises(Refused, match="overloaded"):
        batcher.submit(one(1))


def test_a_wrong_number_of_vectors_is_a_failure():
    batcher = Batcher(lambda pixels: np.zeros((3, 2), np.float32), Options())
    with pytest.raises(ValueError, match="1 vectors, got 3"):
        batcher.submit(one(1)).result(10)
    batcher.close()


def test_a_full_queue_refuses_and_a_cancelled_picture_is_left_out(gate):
    batcher = Batcher(gate, Options(backlog=2))
    first = batcher.submit(one(1))
    gate.entered.acquire(timeout=10)
    waiting = [batcher.submit(one(2)), batcher.submit(one(3))]
    with pytest.raises(Refused) as refused:
        batcher.submit(one(4))
    assert refused.value.status_code == 503 and refused.value.headers == {"Retry-After": "1"}
    waiting[0].cancel()
    gate.open.release(2)
    assert first.result(10)[0] == 1 and waiting[1].result(10)[0] == 3
    batcher.close()
    assert gate.batches == [[1], [3]]


def test_settings_must_make_sense():
    with pytest.raises(ValueError, match="batch_size and backlog must be >= 1"):
        Options(batch_size=0)


@pytest.mark.parametrize("processors", [1, 2])
def test_concurrent_uploads_are_embedded_together_and_not_mixed_up(tmp_path, monkeypatch, processors):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    served, stub = make_served(tmp_path / "served"), StubEncoder(pause=0.02)
    with running(served, stub=stub) as url, Client(url, served) as client, ThreadPoolExecutor(16) as pool:
        warm = len(stub.batches)
        answers = list(pool.map(lambda number: client.search_image(upload(number % 40), k=1, vector=True), range(96)))
    for number, answer in enumerate(answers):
        assert answer["results"][0]["id"] == name_of(number % 40)
        np.testing.assert_allclose(answer["query"]["vector"], vectors_of([number % 40])[0], atol=1e-6)
    assert sum(stub.batches[warm:]) == 96 and len(stub.batches[warm:]) <= 48
