"""Versions appear whole or not at all, and what is damaged is refused."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from macl_tf.artifacts import ArtifactError, open_version, prune, publish, versions
from macl_tf.files import locked
from tests.conftest import ROOT


def make(root, text="hello", **options):
    with publish(root, "note", **options) as staging:
        (staging.path / "sub").mkdir()
        (staging.path / "sub" / "text.txt").write_text(text)
        (staging.path / "empty").touch()
        staging.info["words"] = len(text.split())
    return staging.published


def test_versions_are_numbered_and_opened_newest_first(tmp_path):
    assert versions(tmp_path / "none") == []
    assert make(tmp_path) == tmp_path / "1" and make(tmp_path, "two words") == tmp_path / "2"
    (tmp_path / "notes").mkdir()  # what is no number is not a version
    assert versions(tmp_path) == [1, 2]
    path, manifest = open_version(tmp_path, "note")
    assert path == tmp_path / "2" and manifest["info"] == {"words": 2}
    assert manifest["files"]["empty"]["bytes"] == 0
    assert open_version(tmp_path, "note", 1)[1]["info"] == {"words": 1}
    assert open_version(tmp_path, "note", 1)[1]["uuid"] != manifest["uuid"]


def test_all_of_a_version_is_on_disk_before_its_name_is(tmp_path, disk_order):
    make(tmp_path)
    assert disk_order.index(("name", "1")) < disk_order.index(("sync", tmp_path.name))
    before = disk_order[: disk_order.index(("name", "1"))]
    assert {("sync", name) for name in ("text.txt", "empty", "sub")} <= set(before)
    assert [kind for kind, name in before if name.endswith("manifest.json")] == ["sync", "name"]
    last = before[before.index(("name", "manifest.json")) + 1 :]
    assert any(kind == "sync" and name.startswith(".part-") for kind, name in last), "the folder, with its names"


def test_old_versions_go_by_the_setting_and_numbers_are_not_used_again(tmp_path):
    for text in "abcd":
        make(tmp_path, text, keep=2)
    assert versions(tmp_path) == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "3", "4"]
    with pytest.raises(ValueError, match="keep must be >= 0"):
        make(tmp_path, keep=-1)


def test_versions_that_others_need_are_kept(tmp_path):
    for text in "abcd":
        make(tmp_path, text)
    prune(tmp_path, 1, protected=[2])
    assert versions(tmp_path) == [2, 4]
    prune(tmp_path, 0)
    assert versions(tmp_path) == [2, 4]


def test_others_may_read_what_is_published(tmp_path):
    assert make(tmp_path).stat().st_mode & 0o777 == 0o755


def test_a_folder_can_be_moved(tmp_path):
    make(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert open_version(tmp_path / "there", "note")[0] == tmp_path / "there" / "1"


def test_after_an_error_there_is_nothing_new(tmp_path):
    make(tmp_path)
    with pytest.raises(RuntimeError, match="disk"), publish(tmp_path, "note") as staging:
        (staging.path / "half").write_text("x")
        raise RuntimeError("disk")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "1"]


def test_one_publisher_at_a_time(tmp_path):
    refused = pytest.raises(BlockingIOError, match="written by another process")
    with publish(tmp_path, "note"), refused, publish(tmp_path, "note"):
        pass
    assert versions(tmp_path) == [1]


def test_the_rename_happens_inside_the_given_context(tmp_path):
    seen = []

    class Around:
        def __init__(self, number):
            self.number = number

        def __enter__(self):
            seen.append((self.number, versions(tmp_path)))

        def __exit__(self, *error):
            seen.append((self.number, versions(tmp_path)))

    make(tmp_path, around_rename=Around)
    assert seen == [(1, []), (1, [1])]


def test_a_lock_waits_or_refuses(tmp_path):
    refused = pytest.raises(BlockingIOError, match="taken")
    with locked(tmp_path / "lock"), refused, locked(tmp_path / "lock", busy="taken"):
        pass
    with locked(tmp_path / "lock", busy="taken"):
        pass


def truncate(path):
    file = path / "sub" / "text.txt"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(path):
    file = path / "sub" / "text.txt"
    data = bytearray(file.read_bytes())
    data[2] ^= 1
    file.write_bytes(bytes(data))


def change_manifest(**changes):
    def change(path):
        file = path / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, r"text.txt' must have 5 bytes, got 4\..*Copy it anew"),
        (flip_a_bit, r"text.txt' does not hold the bytes that were written"),
        (lambda path: (path / "empty").unlink(), r"empty' is missing"),
        (lambda path: (path / "manifest.json").unlink(), r"has no manifest.json: it was not made by macl_tf"),
        (lambda path: (path / "manifest.json").write_text("{"), r"manifest.json' is damaged"),
        (lambda path: (path / "manifest.json").write_text("[]"), r"manifest.json' is damaged"),
        (change_manifest(info=None), r"manifest.json' is damaged"),
        (change_manifest(files={"a": 3}), r"manifest.json' is damaged"),
        (change_manifest(created="2001-01-01T00:00:00Z"), r"manifest.json' does not say what was written"),
        (change_manifest(kind="encoder"), r"must be of kind note, format 1, got encoder"),
        (change_manifest(format=2), r"got note, format 2"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path, damage, words):
    damage(make(tmp_path))
    with pytest.raises(ArtifactError, match=words):
        open_version(tmp_path, "note")


def test_a_flipped_bit_is_not_looked_for_unless_asked(tmp_path):
    flip_a_bit(make(tmp_path))
    assert open_version(tmp_path, "note", verify=False)[0] == tmp_path / "1"


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no note.*macl export"):
        open_version(tmp_path / "none", "note")
    make(tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no version 7 of the note; there is 1"):
        open_version(tmp_path, "note", 7)


KILLED = """
import sys
from macl_tf.artifacts import publish
print("ready", flush=True)
while True:
    with publish(sys.argv[1], "note", keep=3) as staging:
        for number in range(4):
            (staging.path / str(number)).write_bytes(bytes(200_000))
"""


@pytest.mark.slow
def test_killed_at_random_moments_every_version_is_whole(tmp_path):
    choose = random.Random(0)
    highest = 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        process.stdout.readline()
        time.sleep(choose.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = versions(tmp_path)
        assert not there or there[-1] >= highest
        highest = max([highest, *there])
        for version in there:
            assert len(open_version(tmp_path, "note", version)[1]["files"]) == 4
    assert highest > 1, "the processes were killed before they did anything"
    published = make(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", published.name]


FULL = """
import resource, signal, sys
from macl_tf.artifacts import publish
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as if the disk were full
try:
    with publish(sys.argv[1], "note") as staging:
        (staging.path / "large").write_bytes(bytes(100_000))
except OSError as error:
    print(type(error).__name__)
"""


def test_a_full_disk_leaves_the_old_version(tmp_path, run_python):
    make(tmp_path)
    assert run_python(FULL, tmp_path).stdout.strip() == "OSError"
    assert versions(tmp_path) == [1] and open_version(tmp_path, "note")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "1"]
