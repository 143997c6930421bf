"""The journal: records that are whole or not there, and damage that is never taken for the end."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from macl_tf.artifacts import ArtifactError
from macl_tf.index.items import Items
from macl_tf.index.journal import (
    HEADER_BYTES,
    Delete,
    Upsert,
    append,
    begin,
    encode,
    journal_path,
    read_changes,
    records_between,
)

NAMES = ("sea", "sand")
UUID = "0123456789abcdef" * 2
FOOTPRINT = [[0.1, 1 / 3], [2.5, 0.0], [2.5, 1.0], [0.1, 1.0]]


def upsert(seed, count=2):
    generator = np.random.default_rng(seed)
    items = Items.of(
        NAMES,
        [f"{seed}-{n}-ü\n" for n in range(count)],
        generator.integers(0, 2, (count, 2)),
        paths=["p"] * count,
        splits=["train", ""] * (count // 2),
        footprints=[FOOTPRINT, np.full((4, 2), np.nan)] * (count // 2),
        dates=["2020-02-29", None] * (count // 2),
    )
    vectors = generator.normal(size=(count, 3))
    return Upsert.of(items, vectors, [b"\x00jpeg", None] * (count // 2), NAMES, 3)


CHANGES = [upsert(0), Delete(("0-0-ü\n",)), upsert(1, 4), upsert(2, 0), Delete(("x", "y"))]


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
    """A journal of all changes, and where each record ends."""
    path, ends = journal_path(tmp_path, 3), [0]
    for change in CHANGES:
        ends.append(append(path, UUID, encode(change), ends[-1]))
    return path, ends


def read(path, start=0):
    return read_changes(path, UUID, NAMES, start)


def test_what_is_written_is_read(journal):
    path, ends = journal
    assert path.name == "journal-3.log" and path.stat().st_size == ends[-1]
    changes, end = read(path)
    assert end == ends[-1]
    assert_same(changes, CHANGES)
    assert_same(read(path, ends[2])[0], CHANGES[2:])
    assert read(path, end) == ([], end)
    assert read(path.with_name("none.log")) == ([], 0)


def test_a_torn_tail_is_passed_over_wherever_it_ends(journal):
    path, ends = journal
    whole = path.read_bytes()
    for size in sorted({*range(0, len(whole), 5), *ends, *(end - 1 for end in ends[1:]), *(end + 1 for end in ends)}):
        size = min(size, len(whole))
        path.write_bytes(whole[:size])
        changes, end = read(path)
        held = sum(stop <= size for stop in ends[1:])
        assert len(changes) == held
        assert end == (ends[held] if held else HEADER_BYTES if size >= HEADER_BYTES else 0)


def test_the_next_writer_cuts_the_torn_tail_off(journal):
    path, ends = journal
    whole = path.read_bytes()
    for size in (3, HEADER_BYTES, HEADER_BYTES + 1, ends[1] + 5, ends[3] - 1, ends[4] + 20):
        path.write_bytes(whole[:size])
        changes, end = read(path)
        append(path, UUID, encode(CHANGES[1]), end)
        assert_same(read(path)[0], [*changes, CHANGES[1]])


def test_any_flipped_bit_is_refused(journal):
    """Never read as other data, and never as a shorter journal; the message names the file and the byte."""
    path, ends = journal
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in sorted({*range(0, len(whole), 5), *range(HEADER_BYTES + 20), *range(ends[1], ends[1] + 20)}):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"journal-3\.log.* (is damaged at byte [\d,]+|another index)") as error:
            read(path)
        record = max(end for end in [0, HEADER_BYTES, *ends[1:]] if end <= place)
        if "damaged" in str(error.value):
            assert f"byte {record:,}:" in str(error.value)


def test_zeros_after_a_power_cut_are_a_torn_tail(journal):
    path, ends = journal
    path.write_bytes(path.read_bytes() + bytes(5000))
    changes, end = read(path)
    assert (len(changes), end) == (len(CHANGES), ends[-1])
    path.write_bytes(path.read_bytes() + b"\x01")
    with pytest.raises(ArtifactError, match="damaged"):
        read(path)


def test_a_journal_of_another_index_is_refused(journal):
    with pytest.raises(ArtifactError, match="another index"):
        read_changes(journal[0], "f" * 32, NAMES)


def test_a_label_that_the_index_does_not_have_is_damage(journal):
    with pytest.raises(ArtifactError, match="damaged at byte"):
        read_changes(journal[0], UUID, ("sky",))


def test_a_journal_that_became_shorter_is_noticed(journal):
    path, ends = journal
    path.write_bytes(path.read_bytes()[: ends[2]])
    with pytest.raises(ArtifactError, match="damaged"):
        read(path, ends[3])


def test_records_are_handed_over_to_another_version(journal, tmp_path):
    path, ends = journal
    other = journal_path(tmp_path, 4)
    other.write_bytes(b"what a killed process left")
    begin(other, "f" * 32, records_between(path, ends[2], ends[4]))
    assert_same(read_changes(other, "f" * 32, NAMES)[0], CHANGES[2:4])
    begin(other, "f" * 32, records_between(path, 0, ends[-1]))
    assert_same(read_changes(other, "f" * 32, NAMES)[0], CHANGES)
    begin(other, "f" * 32, records_between(path, ends[-1], ends[-1]))
    assert not other.exists()
    assert records_between(tmp_path / "none", 0, 0) == b""


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


def test_a_full_disk_leaves_the_journal_as_it_was(journal):
    """RLIMIT_FSIZE stands in for the disk: a write is cut short there, and the next one fails."""
    path, ends = journal
    before = path.read_bytes()
    script = """
import resource, signal, sys
from pathlib import Path
from macl_tf.index.journal import Delete, append, encode, read_changes
path, uuid, end = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (end + 100, end + 100))
try:
    append(path, uuid, encode(Delete(tuple(map(str, range(1000))))), end)
except OSError as error:
    print(error)
append(path, uuid, encode(Delete(("small",))), end)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, path, UUID, str(ends[-1])], capture_output=True, text=True, check=True
    )
    assert "is not made. Free some space" in result.stdout and str(path) in result.stdout
    assert path.read_bytes()[: ends[-1]] == before
    assert_same(read(path)[0], [*CHANGES, Delete(("small",))])
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # ours was never touched
