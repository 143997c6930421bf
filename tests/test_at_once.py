"""Two processes at once in one folder: each works, or is refused before it writes anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from macl_tf.artifacts import publish, versions
from macl_tf.embedding.embedding import embed_images
from macl_tf.embedding.sources import FolderSource
from macl_tf.export import exporting
from macl_tf.export.exporting import compact_index, index_shards
from macl_tf.files import is_partial, locked, write_text, written_whole
from macl_tf.index.index import Index
from macl_tf.index.items import Items
from tests.conftest import ROOT
from tests.generated import photo, save
from tests.stub_encoder import DIM, StubEncoder

pytestmark = pytest.mark.slow

TILES = 20


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A served folder whose encoder is only known by name, with an index of shards that lie beside it."""
    with publish(tmp_path / "served" / "encoder", "encoder") as staging:
        staging.info |= {"encoder_sha256": "a" * 64, "descriptor": "projection"}
    for number in range(TILES):
        save(tmp_path / "tiles" / f"{number:02}.png", photo(number, 12, 12))
    embed_images(StubEncoder(), FolderSource(tmp_path / "tiles"), tmp_path / "shards", progress=False)
    index_shards(tmp_path / "served", tmp_path / "shards", progress=False)
    return tmp_path / "served"


def upsert(served: Path, *ids: str, **columns: object) -> None:
    items = Items.of(("sea", "sand"), ids, **columns)
    Index.open(served / "index").upsert(items, np.ones((len(ids), DIM)))


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below, its size and time of change; locks, which hold nothing, left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


class Process:
    """A script in a process of its own, whose lines can be waited for."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> tuple[int, str, str]:
        """Lets it read a line, and waits for its end: status, the rest of its output, its errors."""
        output, errors = self.process.communicate("go on\n", timeout=120)
        return self.process.returncode, output, errors


@pytest.fixture
def start() -> Iterator[type]:
    """Starts processes, and ends those that a test that fails leaves."""
    started: list[Process] = []

    class Started(Process):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            started.append(self)

    yield Started
    for one in started:
        with one.process as process:  # which closes its pipes
            if process.poll() is None:
                process.kill()


EMBED = """
import sys
from macl_tf.embedding.embedding import embed_images
from macl_tf.embedding.sources import FolderSource
from tests.stub_encoder import StubEncoder

class Waiting(StubEncoder):
    def embed_pixels(self, pixels):
        if len(self.batches) == 1:  # the first shard is there
            print("embedding", flush=True)
            sys.stdin.readline()
        return super().embed_pixels(pixels)

try:
    print(embed_images(Waiting(), FolderSource(sys.argv[1]), sys.argv[2], shard_size=4, batch_size=4, progress=False))
except BlockingIOError as error:
    print(error, flush=True)
"""


def test_shards_that_are_being_written_are_neither_indexed_nor_written_by_another(
    served: Path, tmp_path: Path, start: type[Process]
) -> None:
    save(tmp_path / "tiles" / "new.png", photo(99))
    for number in range(8):
        (tmp_path / "tiles" / f"{number:02}.png").write_bytes((tmp_path / "tiles" / "new.png").read_bytes())
    first = start(EMBED, tmp_path / "tiles", tmp_path / "shards")
    assert first.line() == "embedding"
    before = contents(tmp_path)
    with pytest.raises(BlockingIOError, match=r"shards' is being written by `macl embed`\. Wait for it to end"):
        index_shards(served, tmp_path / "shards", progress=False)
    assert "is being written by another process" in start(EMBED, tmp_path / "tiles", tmp_path / "shards").line()
    assert contents(tmp_path) == before
    status, output, errors = first.go_on()
    assert status == 0 and "9 images embedded" in output, errors
    index_shards(served, tmp_path / "shards", progress=False)  # as the message says
    assert len(Index.open(served / "index")) == TILES + 1


INDEX = """
import sys
from pathlib import Path
from macl_tf.export import exporting

read = exporting.read_shards
def slow(folder):
    print("indexing", flush=True)
    sys.stdin.readline()
    return read(folder)
exporting.read_shards = slow
try:
    print(Path(exporting.index_shards(sys.argv[1], sys.argv[2], progress=False)).name)
except BlockingIOError as error:
    print(error)
"""


def test_of_two_that_publish_into_one_served_folder_one_is_refused(
    served: Path, tmp_path: Path, start: type[Process]
) -> None:
    first = start(INDEX, served, tmp_path / "shards")
    assert first.line() == "indexing"
    upsert(served, "new")  # nothing of the served folder is shut to those that do not publish
    assert Index.open(served / "index").delete(["new"]) == 1
    before = contents(served)
    second = start(INDEX, served, tmp_path / "shards")
    assert "served' is being written by another `macl export` or `macl index`. Wait for its end" in second.line()
    with pytest.raises(BlockingIOError, match="is being written by another `macl export`"):
        compact_index(served, progress=False)
    assert contents(served) == before
    assert first.go_on()[:2] == (0, "2\n") and versions(served / "index") == [1, 2]
    assert Path(compact_index(served, progress=False)).name == "3"


@pytest.mark.parametrize("write", ["upsert", "delete", "compact"])
def test_what_is_written_while_a_new_index_is_built_is_not_lost(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    read = exporting.read_shards

    def meanwhile(folder: Path) -> object:
        found = read(folder)
        if write == "delete":
            Index.open(served / "index").delete(["03.png"])
        else:
            upsert(served, "new")
        if write == "compact":
            Index.open(served / "index").compact(progress=False)  # past the lock of the commands
        return found

    monkeypatch.setattr(exporting, "read_shards", meanwhile)
    with pytest.raises(ValueError, match=r"has 1 upserts and deletes that a new one would not have\. Add --discard-ch"):
        index_shards(served, tmp_path / "shards", progress=False)
    index = Index.open(served / "index")
    assert index.version == (2 if write == "compact" else 1)
    assert "03.png" not in index.items.ids if write == "delete" else "new" in index.items.ids
    assert not [path for path in (served / "index").iterdir() if is_partial(path)]
    index_shards(served, tmp_path / "shards", discard_changes=True, progress=False)  # as the message says
    assert len(Index.open(served / "index")) == TILES


WRITE = """
import sys
from macl_tf.files import write_text

print("begin", flush=True)
sys.stdin.readline()
for number in range(60):
    write_text(sys.argv[1], sys.argv[2] * 30_000)
"""


def test_a_file_that_several_write_at_once_is_always_whole(tmp_path: Path, start: type[Process]) -> None:
    path = tmp_path / "file.json"
    write_text(path, "a" * 30_000)
    writers = [start(WRITE, path, letter) for letter in "abc"]
    for writer in writers:
        assert writer.line() == "begin"
    for writer in writers:
        assert writer.process.stdin is not None
        writer.process.stdin.write("go on\n")
        writer.process.stdin.flush()
    while any(writer.process.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == 30_000 and len(set(text)) == 1
    assert [writer.process.wait() for writer in writers] == [0, 0, 0]
    assert [left.name for left in tmp_path.iterdir()] == ["file.json"]


DIE = """
import os, signal, sys
from macl_tf.files import written_whole
with written_whole(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_writer_left_goes_with_the_next_and_what_others_write_stays(
    tmp_path: Path, start: type[Process]
) -> None:
    path = tmp_path / "a.tar.gz"
    dead, alive = start(DIE, path), start(DIE, path)
    names = {dead.line(), alive.line()}
    assert len(names) == 2 and all(is_partial(Path(name)) and name.endswith("-a.tar.gz") for name in names)
    dead.process.kill()
    dead.process.wait()
    others = [tmp_path / name for name in (".part-x-a.tar.gz", "b-a.tar.gz", ".part-00000000-1-2-c.tar.gz")]
    for other in others:
        other.touch()
    with written_whole(path) as mine, written_whole(path) as mine_too:
        mine.write_text("whole")
        mine_too.write_text("first")
    assert path.read_text() == "whole"  # the last to end wins
    left = {name.name for name in tmp_path.iterdir()} - {other.name for other in others}
    assert left == {"a.tar.gz", *names} - {name for name in names if f"-{dead.process.pid}-" in name}
    assert alive.go_on()[0] == 0 and path.read_text() == "half"
    foreign = tmp_path / ".part-00000000-1-2-a.tar.gz"  # of another machine: whether that lives nobody knows here
    foreign.touch()
    write_text(path, "new")
    assert foreign.exists()
    os.utime(foreign, (0, 0))
    write_text(path, "new")
    assert not foreign.exists()


def test_a_reader_s_lock_lets_readers_in_and_makes_no_file(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", shared=True):
        assert not (tmp_path / "lock").exists()
    (tmp_path / "lock").touch()
    refused = pytest.raises(BlockingIOError, match="taken")
    first, second = (locked(tmp_path / "lock", shared=True, busy="taken") for _ in range(2))
    with first, second, refused, locked(tmp_path / "lock", busy="taken"):
        pass
    with locked(tmp_path / "lock"), refused, locked(tmp_path / "lock", shared=True, busy="taken"):
        pass
