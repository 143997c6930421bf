"""Live recall: what it says is the share of true neighbours among those that were answered."""

import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.server.app import _stand_back
from macl_tf.server.recall import K, RecallSample

COUNT = 60


@pytest.fixture
def snapshot(tmp_path):
    items = Items.of(("a",), [str(number) for number in range(COUNT)])
    build_index(tmp_path, items, np.random.default_rng(0).normal(size=(COUNT, 8)), info={}, progress=False)
    return Index.open(tmp_path).snapshot


class Half:
    """A snapshot whose search, unless it is to be exact, misses every second neighbour."""

    dim, can_be_exact = 8, True

    def __init__(self, snapshot):
        self._snapshot = snapshot

    def __len__(self):
        return len(self._snapshot)

    def search(self, vectors, k, exact):
        return [hits if exact else hits[::2] for hits in self._snapshot.search(vectors, k=k)]


def queries(count):
    return np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)


def test_it_is_the_mean_over_a_window_of_the_latest_queries(snapshot):
    sample = RecallSample(waiting=4, window=6)
    recall, checked = sample.check(snapshot)
    assert math.isnan(recall) and checked == 0
    for query in queries(9):
        sample.add(query)
    assert sample.check(snapshot) == (1.0, 4)  # exact search misses nothing
    for query in queries(3):
        sample.add(query)
    recall, checked = sample.check(Half(snapshot))
    assert checked == 3 and K == 10
    assert recall == pytest.approx((3 * 1.0 + 3 * 0.5) / 6)


def test_what_cannot_be_searched_exactly_is_not_checked(snapshot):
    graph, sample = Half(snapshot), RecallSample()
    graph.can_be_exact = False
    sample.add(queries(1)[0])
    assert sample.check(graph)[1] == 0


def test_queries_of_another_width_and_an_empty_index_are_left_out(snapshot, tmp_path):
    sample = RecallSample()
    sample.add(np.ones(5, np.float32))
    assert sample.check(snapshot)[1] == 0
    build_index(tmp_path / "empty", Items.of(("a",), []), np.empty((0, 8)), info={}, progress=False)
    sample.add(queries(1)[0])
    assert sample.check(Index.open(tmp_path / "empty").snapshot)[1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a priority is of a whole process there")
def test_the_thread_that_checks_lets_others_go_first():
    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    with ThreadPoolExecutor(1, initializer=_stand_back) as pool:
        assert pool.submit(priority).result() >= 10
    assert priority() == os.getpriority(os.PRIO_PROCESS, os.getpid())
