"""Processes that write to an index and are killed at random moments, and others that look at what is left.

Run in a process of its own, which imports everything once and then forks: a kill costs milliseconds, not an import of
everything. That process itself never opens an index, so what it forks is always fresh.
"""

import json
import os
import random
import resource
import select
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow

from macl_tf.artifacts import versions
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.index.searchers.scann import scann_pybind

# What is slow to import is imported before the forks: pyarrow's array() imports pandas where that is installed.
pyarrow.array([1])
scann_pybind()
DIM = 16
PICTURE = bytes(range(256)) * 400  # 100 kB, so that a record takes a while to write


class Child:
    """A forked process whose `say` lines can be read."""

    def __init__(self, work, *arguments):
        sys.stdout.flush()
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            self.text = b""
            return
        os.close(self.reading)
        status = 1
        try:
            work(lambda value: os.write(writing, json.dumps(value).encode() + b"\n"), *arguments)
            status = 0
        except BaseException as error:
            os.write(writing, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        finally:
            os._exit(status)

    def wait_for(self, what=b"\n", seconds=60):
        """Until it has said something, any line by default."""
        while what not in self.text:
            assert select.select([self.reading], [], [], seconds)[0], "the process says nothing"
            part = os.read(self.reading, 65536)
            assert part, "the process ended without a word"
            self.text += part

    def kill(self):
        """SIGKILL, and everything it said."""
        os.kill(self.pid, signal.SIGKILL)
        return self.end()

    def end(self):
        while part := os.read(self.reading, 65536):
            self.text += part
        os.close(self.reading)
        self.status = os.waitpid(self.pid, 0)[1]
        said = [json.loads(line) for line in self.text.split(b"\n")[:-1]]
        assert not any("error" in value for value in said if isinstance(value, dict)), said[-1]
        return said


def run(work, *arguments):
    """What a process that is left alone says."""
    child = Child(work, *arguments)
    said = child.end()
    assert child.status == 0
    return said


def vectors_of(values):
    """A vector for each number, by which it can be recognised."""
    return np.array([np.random.default_rng(value).normal(size=DIM) for value in values]).reshape(len(values), DIM)


def label_of(value):
    """What some of the writes bring that the index did not have; none of the others does."""
    return (f"new {value}",) if value >= 100_000 and value % 7 == 0 else ()


def rows(ids, value):
    names = ("a", "b", *label_of(value))
    labels = [[0, 0, 1][: len(names)]] * len(ids)
    return Items.of(names, ids, labels, paths=[str(value)] * len(ids)), vectors_of([value] * len(ids))


def build(root, value, count=40, kind="auto", say=None):
    ids = [f"item {n}" for n in range(count)]
    items = Items.of(("a", "b"), ids, paths=[str(value)] * count)
    vectors = np.random.default_rng(value).normal(size=(count, DIM))
    thumbnails = [PICTURE[: n % 200] for n in range(count)]
    path = build_index(root, items, vectors, info={"value": value}, thumbnails=thumbnails, kind=kind, progress=False)
    if say:
        say({"built": int(path.name), "value": value})


def look(say, root):
    """Opens the index, compares every byte, and tells what it holds. Vector and description must be of one write."""
    index = Index.open(root, verify=True)
    items = index.items
    added = index.snapshot.added_alive
    for row in np.flatnonzero(added):
        value = int(index.snapshot.added.paths[row])
        wanted = vectors_of([value])[0]
        assert abs(index.snapshot.added_vectors[row] @ wanted / np.linalg.norm(wanted) - 1) < 1e-6
        assert index.snapshot.added_thumbnails[row] == PICTURE[: value % 100_000]
    for row, path in enumerate(items.paths):
        assert tuple(items.describe(row)["labels"]) == label_of(int(path)), "a label is there with its item"
    if len(index):
        assert len(index.search(np.ones((1, DIM)), k=3)[0]) == min(3, len(index))
    say(
        {"version": index.version, "value": index.info["value"], "held": dict(zip(items.ids, items.paths, strict=True))}
    )


def write_on(say, root, seed, name):
    """Upserts and deletes without end, each announced before and acknowledged after."""
    generator = random.Random(seed)
    index = Index.open(root, verify=False)
    number = seed * 100_000
    while True:
        number += 1
        ids = [f"{name} {generator.randrange(30)}" for _ in range(generator.randint(1, 3))]
        ids = list(dict.fromkeys(ids))
        if generator.random() < 0.6:
            say({"upsert": ids, "value": number})
            pictures = [PICTURE[: number % 100_000]] * len(ids)
            index.upsert(*rows(ids, number), pictures, new_labels=label_of(number))
        else:
            say({"delete": ids})
            index.delete(ids)
        say("done")


def compact_on(say, root):
    while True:
        index = Index.open(root, verify=False)
        say("begin")
        path = index.compact(progress=False)
        say({"compacted": int(path.name)})


def build_on(say, root, first, kind):
    value = first
    while True:
        say({"begin": value})
        build(root, value, kind=kind, count=300, say=say)
        value += 1


def apply(held, change):
    """What is held after a change, as (id, value)."""
    held = dict(held)
    for id_ in change.get("upsert", ()):
        held[id_] = str(change["value"])
    for id_ in change.get("delete", ()):
        held.pop(id_, None)
    return held


def acknowledged(held, said):
    """What must be held, and what may be instead: the write that was not acknowledged is made or not."""
    for before, after in zip(said, [*said[1:], None], strict=True):
        if before == "done":
            continue
        if after is None:
            return held, apply(held, before)
        held = apply(held, before)
    return held, held


def kill_writers(root, kills, seed):
    """After each kill every acknowledged write is there, and at most the one that was being made besides."""
    generator = random.Random(seed)
    run(lambda say: build(root, 1))
    (state,) = run(look, root)
    held, writes, unfinished = state["held"], 0, 0
    for round_ in range(kills):
        writer = Child(write_on, root, seed * 1000 + round_, "item" if round_ % 2 else "new")
        writer.wait_for()
        time.sleep(generator.uniform(0, 0.2))
        said = writer.kill()
        sure, possible = acknowledged(held, said)
        (state,) = run(look, root)
        assert state["held"] in (sure, possible), (round_, said[-3:])
        writes += said.count("done")
        unfinished += said[-1] != "done"
        held = state["held"]
    print(json.dumps({"writes": writes, "unfinished": unfinished}))


def kill_builds(root, kills, seed):
    """After each kill what was published is whole and the newest; the next build leaves nothing behind."""
    generator = random.Random(seed)
    began = time.monotonic()
    run(lambda say: build(root, 0, count=300, kind="hashing"))
    lasts = time.monotonic() - began
    value, cut = 0, 0
    for round_ in range(kills):
        builder = Child(build_on, root, 100 * (round_ + 1), ("hashing", "brute_force")[round_ % 2])
        builder.wait_for()
        time.sleep(generator.uniform(0, lasts))
        said = builder.kill()
        built = [line["value"] for line in said if "built" in line]
        begun = [line["begin"] for line in said if "begin" in line]
        (state,) = run(look, root)
        value = built[-1] if built else value
        # The kill may have come between the publishing and its acknowledgement.
        assert state["value"] in (value, begun[-1]), (state["value"], said)
        assert set(state["held"].values()) == {str(state["value"])}
        cut += state["value"] != begun[-1]
        value = state["value"]
    run(lambda say: build(root, 1))
    names = {path.name for path in Path(root).iterdir()}
    assert names == {*map(str, versions(root)), ".lock", "journal.lock"} and len(versions(root)) == 2, names
    print(json.dumps({"cut": cut}))


def kill_compactions(root, kills, seed):
    """While a process writes and others compact and are killed, nothing that was acknowledged is lost or comes back."""
    generator = random.Random(seed)
    run(lambda say: build(root, 1))
    began = time.monotonic()
    run(lambda say: Index.open(root).compact(progress=False))
    lasts = time.monotonic() - began
    (state,) = run(look, root)
    held, writes, compacted = state["held"], 0, 0
    for round_ in range(kills):
        writer = Child(write_on, root, seed * 1000 + round_, "item" if round_ % 2 else "new")
        compactor = Child(compact_on, root)
        writer.wait_for()
        compactor.wait_for()
        if round_ % 5 == 4:
            compactor.wait_for(b"compacted")  # where the disk is busy, none would come to its end by chance
        time.sleep(generator.uniform(0, 2 * lasts))
        compacted += sum("compacted" in line for line in compactor.kill())
        time.sleep(generator.uniform(0, 0.03))
        said = writer.kill()
        sure, possible = acknowledged(held, said)
        (state,) = run(look, root)
        assert state["held"] in (sure, possible), (round_, said[-3:])
        writes += said.count("done")
        held = state["held"]
    run(lambda say: Index.open(root).compact(progress=False))
    (state,) = run(look, root)
    assert state["held"] == held
    names = {path.name for path in Path(root).iterdir()}
    journal = f"journal-{versions(root)[0]}.sqlite"  # a killed writer's log may lie beside it: nobody writes there now
    assert names - {f"{journal}-wal"} == {*map(str, versions(root)), journal, ".lock", "journal.lock"}, names
    print(json.dumps({"writes": writes, "compacted": compacted}))


def limited(say, root, size, work):
    """Does its work on a disk where no file can be longer than `size`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        work()
        say("made")
    except OSError as error:
        say({"refused": str(error)})


def fill_the_disk(root, kind):
    """On a full disk a build and a write are refused, and all is as it was."""
    run(lambda say: build(root, 1, count=300, kind=kind))
    run(lambda say: Index.open(root).upsert(*rows(["new"], 7), [PICTURE[:7]]))
    (before,) = run(look, root)
    made = 0
    for size in (0, 100, 3000, 10_000, 19_000, 19_300, 22_000, 29_000, 31_000):
        (outcome,) = run(limited, root, size, lambda: build(root, 2, count=300, kind=kind))
        names = {path.name for path in Path(root).iterdir()}
        assert not any(name.startswith(".part-") for name in names), (size, names)
        if outcome == "made":
            made += 1
        else:
            assert "Free some space" in outcome["refused"], outcome
            assert run(look, root) == [before] or made, size
    assert made, "the largest limit should do"
    run(lambda say: build(root, 1, count=300, kind=kind))
    run(lambda say: Index.open(root).upsert(*rows(["new"], 7), [PICTURE[:7]]))
    (before,) = run(look, root)
    journal = max(Path(root).glob("journal-*.sqlite"), key=lambda path: path.stat().st_mtime_ns)
    length = journal.stat().st_size

    def index_write():
        Index.open(root).upsert(*rows(["big"], 99_999), [PICTURE[:99_999]])

    for size in (length, length + 1, length + 50_000):
        (outcome,) = run(limited, root, size, index_write)
        assert "Free some space" in outcome["refused"], outcome
        assert run(look, root) == [before] and journal.stat().st_size == length
    run(lambda say: Index.open(root).upsert(*rows(["big"], 99_999), [PICTURE[:99_999]]))
    (after,) = run(look, root)
    assert after["held"] == before["held"] | {"big": "99999"}
    print(json.dumps({"made": made}))
