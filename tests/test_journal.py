"""The journal: changes that are whole or not there, and damage that is never taken for the end."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from macl_tf import sqlite_files
from macl_tf.artifacts import ArtifactError
from macl_tf.index.items import Items
from macl_tf.index.journal import (
    Delete,
    NewLabels,
    Relabel,
    Upsert,
    append,
    begin,
    journal_path,
    lock_path,
    read_changes,
    remove,
    remove_others,
)

NAMES = ("sea", "sand")
UUID = "0123456789abcdef" * 2
FOOTPRINT = [[0.1, 1 / 3], [2.5, 0.0], [2.5, 1.0], [0.1, 1.0]]


def upsert(seed, count=2):
    generator = np.random.default_rng(seed)
    items = Items.of(
        NAMES,
        [f"{seed}-{n}-ü\n\0" for n in range(count)],
        generator.integers(0, 2, (count, 2)),
        paths=["p"] * count,
        splits=["train", ""] * (count // 2),
        footprints=[FOOTPRINT, np.full((4, 2), np.nan)] * (count // 2),
        dates=["2020-02-29", None] * (count // 2),
    )
    vectors = generator.normal(size=(count, 3))
    return Upsert.of(items, vectors, [b"\x00jpeg", None] * (count // 2), NAMES, 3)


CHANGES = [upsert(0), Delete(("0-0-ü\n\0",)), upsert(1, 4), Delete(("0",)), Delete(("x", "y"))]
ENDS = [0, 2, 3, 7, 8, 10]


def assert_same(read, written):
    assert [type(change) for change in read] == [type(change) for change in written]
    for a, b in zip(read, written, strict=True):
        if isinstance(b, Delete):
            assert a == b
        else:
            np.testing.assert_array_equal(a.vectors, b.vectors)
            assert a.vectors.dtype == np.float32 and a.thumbnails == b.thumbnails
            assert [a.items.describe(n) for n in range(len(a.items))] == [
                b.items.describe(n) for n in range(len(b.items))
            ]


@pytest.fixture
def journal(tmp_path):
    """A journal of all changes."""
    path = journal_path(tmp_path, 3)
    for change, start, end in zip(CHANGES, ENDS, ENDS[1:], strict=False):
        assert append(path, UUID, [change], start) == end
    return path


def read(path, start=0):
    return read_changes(path, UUID, NAMES, start)


def test_what_is_written_is_read(journal):
    assert [path.name for path in journal.parent.iterdir()] == ["journal-3.sqlite"], "at rest it is one file"
    changes, end = read(journal)
    assert end == ENDS[-1]
    assert_same(changes, CHANGES)
    assert_same(read(journal, ENDS[2])[0], CHANGES[2:])
    assert read(journal, end) == ([], end)
    assert read(journal.with_name("none.sqlite")) == ([], 0)


def test_a_change_is_on_disk_before_it_is_acknowledged(journal, monkeypatch):
    """SIGKILL cannot show it: of a log that is written ahead, a commit is synced at FULL, and not at NORMAL."""
    settings, closing = [], sqlite_files.closing

    def close(database):
        settings.extend(database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous"))
        return closing(database)

    monkeypatch.setattr(sqlite_files, "closing", close)
    append(journal, UUID, [Delete(("z",))], ENDS[-1])
    assert settings == ["wal", 2]


def test_a_new_journal_is_on_disk_before_it_is_acknowledged(tmp_path, disk_order):
    append(journal_path(tmp_path, 1), UUID, [CHANGES[0]], 0)
    assert disk_order == [("sync", "journal-1.new"), ("name", "journal-1.sqlite"), ("sync", tmp_path.name)]


def killed_at(path, end):
    """What a process leaves that dies when its change is committed and not yet in the file, or not committed."""
    script = """
import os, signal, sqlite3, sys
from pathlib import Path
from macl_tf import sqlite_files
from macl_tf.index import journal
path, uuid, end, committed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
database = sqlite_files.connected(path)
database.execute("PRAGMA cache_size = 1")  # pages are spilled into the log before the commit
database.execute("BEGIN IMMEDIATE")
journal._insert(database, uuid, [journal.Delete(tuple(f"{n}" * 500 for n in range(200)))], end)
if committed:
    database.execute("COMMIT")
os.kill(os.getpid(), signal.SIGKILL)
"""
    for committed in ("0", "1"):
        here = path.parent / f"killed {committed}"
        here.mkdir()
        shutil.copy(path, here)
        subprocess.run([sys.executable, "-c", script, here / path.name, UUID, str(end), committed])
        assert (here / f"{path.name}-wal").stat().st_size > 100_000
        yield here / path.name, committed == "1"


def test_what_a_killed_writer_left_is_whole_or_not_there(journal):
    for path, committed in killed_at(journal, ENDS[-1]):
        changes, end = read(path)
        assert (len(changes), end) == (len(CHANGES) + committed, ENDS[-1] + 200 * committed)
        append(path, UUID, [Delete(("after",))], end)
        assert read(path)[0][-1] == Delete(("after",)) and len(read(path)[0]) == len(changes) + 1
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_who_may_not_write_reads_the_same(journal):
    """Also what a killed process left beside the file, which SQLite cannot take in without writing there."""
    script = """
import os, sys
from pathlib import Path
from macl_tf.index.journal import read_changes
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
for folder in sys.argv[2:]:
    path = Path(folder, "journal-3.sqlite")
    assert not os.access(folder, os.W_OK)
    print(*(len(read_changes(path, sys.argv[1], ("sea", "sand"), start)[0]) for start in (0, 10)))
"""
    folders = [journal.parent, *(path.parent for path, _ in killed_at(journal, ENDS[-1]))]
    lock_path(folders[0]).touch()
    modes = {path: path.stat().st_mode for path in (*journal.parent.parents, journal.parent)}
    try:
        for path, mode in modes.items():
            if path.stat().st_uid == os.geteuid():
                path.chmod(mode | 0o555)
        for folder in folders:
            folder.chmod(0o555)
        result = subprocess.run(
            [sys.executable, "-c", script, UUID, *folders], stdout=subprocess.PIPE, text=True, check=True
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
        for path, mode in modes.items():
            if path.stat().st_uid == os.geteuid():
                path.chmod(mode)
    assert result.stdout.splitlines() == ["5 0", "5 0", "6 1"]


def test_a_folder_may_be_copied_while_no_writer_holds_the_lock(journal, tmp_path_factory):
    """As the module's docstring says."""
    copy = tmp_path_factory.mktemp("copies") / "copy"
    subprocess.run(["flock", lock_path(journal.parent), "cp", "-r", journal.parent, copy], check=True)
    assert_same(read(copy / journal.name)[0], CHANGES)


def test_any_flipped_bit_is_refused_or_changes_nothing(journal):
    """Never read as other data, and never as a shorter journal; the message names the file and the change."""
    whole = journal.read_bytes()
    generator = np.random.default_rng(0)
    data = [whole.index(part) for part in (b"0-0-", b'"split": "train"', b"\x00jpeg", UUID.encode())]
    refused = 0
    for place in sorted({*range(0, len(whole), 31), *range(110), *data, data[0] + 1}):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(generator.integers(8))
        journal.write_bytes(flipped)
        try:
            changes, end = read(journal)
        except ArtifactError as error:
            refused += 1
            assert "journal-3.sqlite' " in str(error) and ("is damaged (" in str(error) or "in a format" in str(error))
        else:
            assert place not in data and end == ENDS[-1]
            assert_same(changes, CHANGES)
    assert refused > 30
    flipped = bytearray(whole)
    flipped[whole.index(b"1-2-")] ^= 4
    journal.write_bytes(flipped)
    with pytest.raises(ArtifactError, match=r"is damaged \(change 6\): what stands there is not what was written"):
        read(journal)


def test_a_damaged_journal_is_not_written_to(journal):
    whole = journal.read_bytes()
    for damaged in (b"short", whole[:4096], bytes(len(whole)), whole[: len(whole) // 2]):
        journal.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="damaged"):
            append(journal, UUID, [Delete(("z",))], ENDS[-1])
        with pytest.raises(ArtifactError, match="damaged"):
            read(journal)
        assert journal.read_bytes() == damaged


def test_a_journal_of_another_index_or_format_is_refused(journal):
    with pytest.raises(ArtifactError, match="another index"):
        read_changes(journal, "f" * 32, NAMES)
    old = journal.with_suffix(".log")
    old.write_bytes(b"MACLJRN1")
    with pytest.raises(ArtifactError, match=r"journal-3\.log' holds changes in a format .* remove this file"):
        read(journal)
    old.unlink()  # as the message says
    assert_same(read(journal)[0], CHANGES)
    database = sqlite3.connect(journal)
    database.execute("PRAGMA user_version = 4")
    database.close()
    with pytest.raises(ArtifactError, match=r"journal-3\.sqlite' holds changes in a format"):
        read(journal)


def test_a_journal_from_before_labels_could_change_is_read_and_written_to(journal):
    def format_of(path):
        with closing(sqlite3.connect(path)) as database:
            return database.execute("PRAGMA user_version").fetchone()[0]

    with closing(sqlite3.connect(journal)) as database:
        database.execute("PRAGMA user_version = 2")
    assert_same(read(journal)[0], CHANGES)
    assert format_of(journal) == 2
    change = NewLabels(('pier, "old"', "ü"))
    assert append(journal, UUID, [change], ENDS[-1]) == ENDS[-1] + 1
    assert format_of(journal) == 3, "an older macl_tf refuses what it does not know"
    assert read(journal, ENDS[-1]) == ([change], ENDS[-1] + 1)


def test_changes_of_labels_are_read_with_what_follows_them(journal):
    names = (*NAMES, "pier, old")
    items = Items.of(names, ["p"], [[0, 1, 1]])
    changes = [
        NewLabels(names[2:]),
        Upsert.of(items, np.ones((1, 3)), None, names, 3),
        Relabel("pier, old", {"p": False, "q\n": True}),
    ]
    assert append(journal, UUID, changes, ENDS[-1]) == ENDS[-1] + 4
    found = read(journal)[0][len(CHANGES) :]
    assert [found[0], found[2]] == [changes[0], changes[2]]
    assert found[1].items.describe(0)["labels"] == ["sand", "pier, old"]
    assert read_changes(journal, UUID, names, ENDS[-1] + 1)[0][1] == changes[2]
    with pytest.raises(ArtifactError, match=r"damaged \(a label that the index does not have"):
        read_changes(journal, UUID, NAMES, ENDS[-1] + 2)


def test_a_label_that_the_index_does_not_have_is_damage(journal):
    with pytest.raises(ArtifactError, match=r"damaged \(a label that the index does not have"):
        read_changes(journal, UUID, ("sky",))


def test_a_journal_that_became_shorter_is_noticed(journal):
    with pytest.raises(ArtifactError, match="damaged"):
        read(journal, ENDS[-1] + 1)
    with pytest.raises(ArtifactError, match="damaged"):
        append(journal, UUID, [Delete(("z",))], ENDS[-2])
    database = sqlite3.connect(journal)
    database.execute("DELETE FROM changes WHERE number = 10")
    database.commit()
    database.close()
    with pytest.raises(ArtifactError, match=r"damaged \(change 10\)"):
        read(journal)
    remove(journal)
    assert read(journal, ENDS[-1]) == ([], ENDS[-1])  # gone with a version that is not kept
    with pytest.raises(ArtifactError, match="was removed while this index was open"):
        append(journal, UUID, [Delete(("z",))], ENDS[-1])


def test_changes_are_handed_over_to_another_version(journal, tmp_path):
    other = journal_path(tmp_path, 4)
    left = [f"{name}{suffix}" for name in (other.name, "journal-4.new") for suffix in ("", "-wal", "-shm")]
    for name in left:
        (tmp_path / name).write_bytes(b"what a killed process left")
    assert begin(other, "f" * 32, read(journal, ENDS[1])[0]) == 8
    assert_same(read_changes(other, "f" * 32, NAMES)[0], CHANGES[1:])
    begin(other, "f" * 32, CHANGES)
    assert_same(read_changes(other, "f" * 32, NAMES)[0], CHANGES)
    begin(other, "f" * 32, [])
    assert [path.name for path in tmp_path.iterdir()] == ["journal-3.sqlite"]


def test_journals_of_versions_that_are_gone_are_removed(journal, tmp_path):
    for name in ("journal-2.sqlite", "journal-2.sqlite-wal", "journal-3.new", "journal-4.new-shm", "journal.lock"):
        (tmp_path / name).touch()
    (tmp_path / "journal-4.new").touch()
    remove_others(tmp_path, [3, 5])
    assert {path.name for path in tmp_path.iterdir()} == {"journal-3.sqlite", "journal.lock"}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"vectors": np.ones((2, 4))}, "3 dimensions of the index, got 4"),
        ({"vectors": np.ones(3)}, "shape"),
        ({"vectors": np.ones((3, 3))}, "each of 2 items, got 3 and 2"),
        ({"vectors": [[1, 1, 1], [1, np.nan, 1]]}, "finite and not zero, got row 1"),
        ({"vectors": [[1, 1, 1], [1, np.inf, 1]]}, "row 1"),
        ({"vectors": [[0, 0, 0], [1, 1, 1]]}, r"row 0: zero, .*cannot be decoded"),
        ({"vectors": [["a"] * 3] * 2}, "numbers"),
        ({"thumbnails": [b"a"]}, "got 2 and 1"),
        ({"thumbnails": ["a", "b"]}, "bytes or None"),
        ({"items": Items.of(("harbour", "sea"), ["a", "b"])}, "among sea, sand; got 'harbour'"),
        ({"items": Items.concatenate([Items.of(NAMES, ["a"])] * 2)}, "unique"),
    ],
)
def test_an_upsert_that_does_not_fit_is_refused(wrong, message):
    good = {"items": Items.of(NAMES, ["a", "b"]), "vectors": np.ones((2, 3)), "thumbnails": None}
    with pytest.raises(ValueError, match=message):
        Upsert.of(**good | wrong, label_names=NAMES, dim=3)


def test_vectors_are_normalised_and_left_alone_where_they_are():
    vectors = np.array([[3.0, 0.0, 4.0], [0.6, 0.8, 0.0]])
    change = Upsert.of(Items.of(("sand",), ["a", "b"], [[1], [0]]), vectors, None, NAMES, 3)
    np.testing.assert_array_equal(change.vectors, np.array([[0.6, 0.0, 0.8], [0.6, 0.8, 0.0]], np.float32))
    assert change.items.describe(0)["labels"] == ["sand"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_full_disk_leaves_the_journal_as_it_was(journal, begun):
    """RLIMIT_FSIZE stands in for the disk: a write is cut short there, and the next one fails."""
    if not begun:
        remove(journal)
    script = """
import resource, signal, sys
from pathlib import Path
from macl_tf.index.journal import Delete, append
path, uuid, end = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    append(path, uuid, [Delete(tuple(map(str, range(10_000))))], end)
except OSError as error:
    print(error)
append(path, uuid, [Delete(("small",))], end)
"""
    end = ENDS[-1] if begun else 0
    result = subprocess.run(
        [sys.executable, "-c", script, journal, UUID, str(end)], capture_output=True, text=True, check=True
    )
    assert "is not made. Free some space" in result.stdout and str(journal) in result.stdout
    assert_same(read(journal)[0], [*(CHANGES if begun else []), Delete(("small",))])
    assert [path.name for path in journal.parent.iterdir()] == [journal.name]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # ours was never touched
