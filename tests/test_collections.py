"""Collections: marks that stay, whoever writes beside them, and files that give the same marks back."""

import csv
import json
import shutil
import sqlite3
import threading

import numpy as np
import pytest

from macl_tf import cli
from macl_tf.artifacts import ArtifactError
from macl_tf.datasets.label_names import UnknownLabelError
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.index.parquet import read_parquet
from macl_tf.search.engine import SearchEngine
from macl_tf.search.query import NotThereError, QueryError
from macl_tf.teaching import collections as teaching
from macl_tf.teaching.collection_files import export_collection, import_collection, read_marks
from macl_tf.teaching.collections import Collections, Mark

IDS = ["a/1.png", "a/2.png", 'comma, "quote".png', "ü नदी 🌊;\t", " blank ", "line\nbreak\r\n", "=1+1", "id", "-5"]
DIM = 4


@pytest.fixture
def served(tmp_path):
    generator = np.random.default_rng(0)
    west, south = generator.uniform(-170, 170, (2, len(IDS))) * [[1], [0.4]]
    west[1] = 179.3  # across the antimeridian
    corners = np.stack([west, south, west + 1, south, west + 1, south + 1, west, south + 1], axis=1).reshape(-1, 4, 2)
    corners[:, :, 0] -= 360 * (corners[:, :, 0] > 180)
    corners[3:5] = np.nan
    items = Items.of(("sea", "dock"), IDS, [[1, 0]] * len(IDS), footprints=corners, paths=["/home/me"] * len(IDS))
    build_index(
        tmp_path / "index", items, generator.normal(size=(len(IDS), DIM)), info={"encoder": None}, progress=False
    )
    return tmp_path


@pytest.fixture
def collections(served):
    return Collections(served)


@pytest.fixture
def index(served):
    return Index.open(served / "index")


def macl(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_marks_are_there_for_others_and_after_a_restart(collections, served):
    other = Collections(served)
    assert other.all() == []
    collections.mark("ships", right=["a", "b"], wrong=["c"], by="Ada")
    found = other.mark("ships", right="c", neither=["b", "x"], by="Grace")
    assert found.right == ("a", "c") and found.wrong == () and found.counts == {"right": 2, "wrong": 0}
    for reader in (collections, other, Collections(served)):
        assert reader.get("ships") == found
        assert [mark[:3] for mark in reader.history("ships")] == [
            ("a", "right", "Ada"), ("b", "right", "Ada"), ("c", "wrong", "Ada"),
            ("c", "right", "Grace"), ("b", "none", "Grace"), ("x", "none", "Grace"),
        ]  # fmt: skip
    assert found.changed[0] == "Grace" and found.by == "Ada"
    assert [path.name for path in sorted(served.iterdir())] == ["collections.lock", "collections.sqlite", "index"]


def test_a_state_that_was_given_away_never_changes(collections):
    before = collections.mark("ships", right=["a"])
    collections.mark("ships", wrong=["a"])
    collections.mark("docks", right=["b"])
    assert before.right == ("a",) and collections.get("ships").wrong == ("a",)


def test_collections_are_renamed_and_deleted(collections, served):
    collections.mark("ships", right=["a"], by="Ada")
    collections.make("empty")
    collections.rename("ships", "boats")
    assert [one.name for one in collections.all()] == ["boats", "empty"]
    with pytest.raises(NotThereError, match=r"a collection must be there, got 'boat'\. Did you mean 'boats'"):
        collections.get("boat")
    collections.mark("boats", right=["b"])
    collections.rename("boats", "Boats")
    collections.rename("Boats", "Boats")
    assert [mark.id for mark in collections.history("Boats")] == ["a", "b"]
    collections.delete("Boats")
    for act in (collections.delete, collections.get, collections.history, lambda name: collections.rename(name, "x")):
        with pytest.raises(NotThereError):
            act("Boats")
    again = collections.mark("Boats", right=["c"])
    assert again.right == ("c",) == Collections(served).get("Boats").right, "what was deleted does not come back"


@pytest.mark.parametrize("name", ["", " ships", "two\nlines", "x" * 201, "\ud800"])
def test_names_and_authors_that_cannot_be_are_refused(collections, name):
    with pytest.raises(QueryError, match="printable text of 1 to 200"):
        collections.mark(name, right=["a"])
    with pytest.raises(QueryError, match="the name of a collection is printable"):
        collections.make(name)
    if name:
        with pytest.raises(QueryError, match="an author is printable"):
            collections.mark("ships", right=["a"], by=name)
    assert collections.all() == []


def test_what_contradicts_itself_is_refused_and_changes_nothing(collections):
    collections.mark("ships", right=["a"])
    with pytest.raises(QueryError, match="right, wrong, skipped or none, one of them"):
        collections.mark("ships", right=["b", "c"], wrong=["c"])
    with pytest.raises(QueryError, match="there is a collection 'ships' already"):
        collections.make("ships")
    with pytest.raises(QueryError, match="there is a collection 'ships' already"):
        collections.rename(collections.make("other").name, "Ships")
    for id_ in ("", "x" * 513, "\ud800"):
        with pytest.raises(QueryError, match="an id is a text of 1 to 512"):
            collections.mark("ships", right=["b", id_])
    assert collections.get("ships").right == ("a",) and len(collections.history("ships")) == 1


def test_a_collection_is_the_same_in_any_spelling_as_a_label_is(collections, index, tmp_path):
    collections.mark("mobile-home", right=["a"])
    assert collections.mark("Mobile home", wrong=["b"]).name == "mobile-home" == collections.get("MOBILE_HOME").name
    assert [mark.id for mark in collections.history("mobile home")] == ["a", "b"]
    (tmp_path / "more.csv").write_text("id,mark\na,wrong\nc,right\n")
    done = import_collection(collections, tmp_path / "more.csv", index.snapshot, name="mobile home")
    assert (done.collection.name, done.changed, len(collections.all())) == ("mobile-home", 2, 1)
    assert collections.rename("Mobile Home", "mobile home").right == ("c",)
    collections.delete("mobilehome")
    assert collections.all() == []


def test_the_newest_mark_counts_whatever_clocks_say(collections):
    collections.take_in("ships", [Mark("a", "right", "Ada", "2999-01-01T00:00:00Z")])
    collections.take_in("ships", [Mark("a", "wrong", "old", "2020-01-01"), Mark("b", "wrong", "old", "2020-01-01")])
    assert collections.get("ships").said["a"] == Mark("a", "right", "Ada", "2999-01-01T00:00:00.000Z")
    assert collections.mark("ships", wrong=["a"]).wrong == ("b", "a"), "who marks now is the newest"
    collections.take_in("ships", [Mark("b", "right", "", "2020-01-01T01:00:00+01:00")])
    assert collections.get("ships").right == ("b",), "of equals the one written last"


def test_an_id_must_be_of_the_index_or_of_the_collection(collections, index):
    collections.mark("ships", right=IDS[:2], snapshot=index.snapshot)
    with pytest.raises(NotThereError, match="the id must be of a tile in the index, got 'typo'"):
        collections.mark("ships", right=[IDS[2], "typo"], snapshot=index.snapshot)
    index.delete([IDS[0]])
    found = collections.mark("ships", wrong=[IDS[0]], snapshot=index.snapshot)
    assert found.wrong == (IDS[0],) and found.absent(index.snapshot) == [IDS[0]]


def test_two_processes_and_many_threads_lose_no_mark(collections, served, run_python):
    script = """
import sys
from macl_tf.teaching.collections import Collections
collections = Collections(sys.argv[1])
for number in range(30):
    collections.mark("ships", right=[f"{sys.argv[2]} {number}"], by=sys.argv[2])
"""

    def write(name):
        for number in range(10):
            collections.mark("ships", wrong=[f"{name} {number}"])

    threads = [threading.Thread(target=write, args=[f"thread {number}"]) for number in range(3)]
    threads += [threading.Thread(target=run_python, args=[script, served, name]) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collections.get("ships").counts == {"right": 60, "wrong": 30} == Collections(served).get("ships").counts


def test_a_version_that_is_published_meanwhile_changes_no_mark(collections, index):
    index.delete([IDS[8]])
    marking = threading.Thread(target=lambda: [collections.mark("ships", right=[id_]) for id_ in IDS * 5])
    marking.start()
    for _ in range(3):
        index.compact(progress=False)
    marking.join()
    found = collections.get("ships")
    assert sorted(found.right) == sorted(IDS) and found.absent(index.snapshot) == [IDS[8]]


def test_damage_is_refused_and_told_and_never_read_as_less(collections, served):
    collections.mark("ships", right=["aaaa", "bbbb"], by="Ada")
    collections.mark("ships", wrong=["cccc"], by="Ada")
    path = served / "collections.sqlite"
    whole, marks = path.read_bytes(), collections.get("ships").marks
    generator = np.random.default_rng(0)
    known = [whole.index(part) for part in (b"aaaa", b"Ada", b"ships", b"cccc", b"wrong")]
    refused = 0
    for place in sorted({*range(0, len(whole), 17), *known}):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped)
        try:
            assert Collections(served).get("ships").marks == marks and place not in known
        except ArtifactError as error:
            refused += 1
            assert "collections.sqlite'" in str(error) and ("is damaged (" in str(error) or "of format" in str(error))
    assert refused > 20
    for damaged in (b"short", whole[:4096], bytes(len(whole))):
        path.write_bytes(damaged)
        for act in (Collections(served).all, lambda: Collections(served).mark("ships", right=["d"])):
            with pytest.raises(ArtifactError, match="damaged"):
                act()
        assert path.read_bytes() == damaged, "what is damaged is not written to"
    path.write_bytes(whole)
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM events WHERE number = 4")
    database.close()
    with pytest.raises(ArtifactError, match=r"damaged \(event 4\)"):
        Collections(served).all()
    path.unlink()  # as the message says
    assert Collections(served).all() == []
    with pytest.raises(ArtifactError, match=r"was removed while it was open\. Open it again"):
        collections.all()


def test_another_file_in_its_place_is_noticed(collections, served):
    path = served / "collections.sqlite"
    collections.mark("ships", right=["a"])
    earlier = path.read_bytes()
    collections.mark("ships", right=["b"])
    path.write_bytes(earlier)
    with pytest.raises(ArtifactError, match="damaged"):
        collections.mark("ships", right=["c"])
    Collections(served).mark("ships", right=["other"])
    with pytest.raises(ArtifactError, match="was replaced while it was open"):
        collections.all()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(ArtifactError, match="must be of format 1, got 9"):
        Collections(served).all()


def test_a_change_that_fails_on_the_way_is_not_there(collections, served, monkeypatch):
    before = collections.mark("ships", right=["a"])
    whole = (served / "collections.sqlite").read_bytes()
    real = teaching.crc_of

    def crc_of(*values):
        if values[0] == 4:  # when all rows are in
            raise OSError("the disk is full")
        return real(*values)

    with monkeypatch.context() as patch:
        patch.setattr(teaching, "crc_of", crc_of)
        with pytest.raises(OSError, match="full"):
            collections.mark("ships", right=["b", "c"])
    assert (served / "collections.sqlite").read_bytes() == whole
    assert collections.get("ships") == before == Collections(served).get("ships")
    assert collections.mark("ships", right=["b"]).right == ("a", "b")


def test_a_first_mark_is_on_disk_before_it_is_acknowledged(collections, served, disk_order):
    collections.mark("ships", right=["a"])
    assert disk_order == [("sync", "collections.new"), ("name", "collections.sqlite"), ("sync", served.name)]


def test_who_may_not_write_reads_the_same_and_is_told(collections, served, run_python):
    collections.mark("ships", right=["a"])
    script = """
import os, sys
from macl_tf.teaching.collections import Collections
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
collections = Collections(sys.argv[1])
print(*collections.get("ships").right, *(mark.id for mark in collections.history("ships")))
try:
    collections.mark("ships", right=["b"])
except PermissionError as error:
    print("refused", error.filename.rpartition("/")[2])
"""
    modes = {path: path.stat().st_mode for path in (*served.parents, served, served / "collections.lock")}
    try:
        for path, mode in modes.items():
            if str(path).startswith("/tmp/"):
                path.chmod(mode | 0o555)
        (served / "collections.lock").chmod(0o444)
        served.chmod(0o555)
        result = run_python(script, served)
    finally:
        served.chmod(0o755)
        for path, mode in modes.items():
            if str(path).startswith("/tmp/"):
                path.chmod(mode)
    assert result.stdout.splitlines() == ["a a", "refused collections.lock"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_full_disk_leaves_the_marks_as_they_were(collections, served, run_python, begun):
    """RLIMIT_FSIZE stands in for the disk: a write is cut short there, and the next one fails."""
    if begun:
        collections.mark("ships", right=["a"])
    script = """
import resource, signal, sys
from macl_tf.teaching.collections import Collections
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
collections = Collections(sys.argv[1])
try:
    collections.mark("ships", right=map(str, range(10_000)))
except OSError as error:
    print(error)
print(collections.mark("ships", wrong=["small"]).counts)
"""
    said = run_python(script, served).stdout
    assert "is not made. Free some space" in said and f"{{'right': {int(begun)}, 'wrong': 1}}" in said
    found = collections.get("ships")
    assert (found.right, found.wrong) == ((("a",) if begun else ()), ("small",))
    names = {path.name for path in served.iterdir()}
    assert names == {"collections.lock", "collections.sqlite", "index"}


@pytest.mark.slow
def test_no_acknowledged_mark_is_lost_by_a_kill(run_python, served):
    script = "from tests.collection_kills import *; kill_markers(sys.argv[1], 12, 1)"
    counts = json.loads(run_python(script, served, OPENBLAS_NUM_THREADS="1").stdout)
    assert counts["marks"] >= 12 and counts["unfinished"] >= 3


# Files


@pytest.fixture
def ships(collections):
    """Marks of all odd ids, one of a tile that is not there, by several and at several times."""
    marks = [
        Mark(
            id_,
            ("right", "wrong")[number % 3 == 1],
            ("Ada", 'Grace, "Cobol"', "")[number % 3],
            f"2024-01-0{number + 1}",
        )
        for number, id_ in enumerate([*IDS[:8], "gone.png"])
    ]
    return collections.take_in("ships", marks)


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".json", ".parquet"])
def test_an_export_gives_the_same_marks_back(collections, ships, index, tmp_path, suffix):
    path = tmp_path / f"other ships{suffix}"
    export_collection(ships, path, index.snapshot)
    done = import_collection(collections, path, index.snapshot)
    assert done.collection.name == "other ships" and done.collection.marks == ships.marks
    assert (done.read, done.changed, done.absent) == (9, 9, ["gone.png"])
    again = import_collection(collections, path, index.snapshot)
    assert (again.changed, len(collections.history("other ships"))) == (0, 9)
    empty = collections.make("none yet")
    export_collection(empty, path, index.snapshot)
    assert read_marks(path) == []


def test_exports_say_where_tiles_lie(ships, index, tmp_path):
    for suffix in ("csv", "geojson", "parquet"):
        export_collection(ships, tmp_path / f"f.{suffix}", index.snapshot)
    with (tmp_path / "f.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    features = json.loads((tmp_path / "f.geojson").read_text(encoding="utf-8"))["features"]
    items = read_parquet(tmp_path / "f.parquet").items
    assert not any(items.paths), "of the machine nothing is told"
    assert list(items.ids) == [row["id"] for row in rows] == [feature["id"] for feature in features]
    for number, mark in enumerate(ships.marks):
        known = number not in (3, 4, 8)
        assert bool(rows[number]["lon"]) == known == (features[number]["geometry"] is not None)
        assert known == (not np.isnan(items.footprints[number]).any())
        assert items.describe(number)["labels"] == (["sea"] if number < 8 else [])
        if known:
            west, south, east, north = index.snapshot.items_of([mark.id]).bounds[0]
            middle = ((west + east) / 2 + 180) % 360 - 180, (south + north) / 2
            np.testing.assert_allclose([float(rows[number][name]) for name in ("lon", "lat")], middle, atol=1e-6)
            np.testing.assert_allclose(features[number]["bbox"][1::2], (south, north), atol=1e-9)
    assert features[1]["geometry"]["type"] == "MultiPolygon", "cut where it crosses the antimeridian"
    with pytest.raises(QueryError, match=r"one of \.csv, \.geojson, \.json, \.parquet"):
        export_collection(ships, tmp_path / "f.shp", index.snapshot)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("a\nb b\n\nc,d\n", [("a", "wrong"), ("b b", "wrong"), ("c,d", "wrong")]),
        ("\ufeffa\r\nb\r\n", [("a", "wrong"), ("b", "wrong")]),
        ("id;Mark\na;RIGHT\nb;0\n", [("a", "right"), ("b", "wrong")]),
        ("mark\tid\tnote\nright\ta\tx\n", [("a", "right")]),
        ('id\n"a,b"\n', [("a,b", "wrong")]),
        ('{"features": [{"id": 7}, {"properties": {"id": "b", "mark": "right"}}]}', [("7", "wrong"), ("b", "right")]),
        ("", []),
    ],
)
def test_lists_and_tables_of_others_are_read(tmp_path, text, marks):
    path = tmp_path / "f"
    path.write_text(text, encoding="utf-8", newline="")
    found = read_marks(path, mark="wrong", by="me")
    assert [mark[:3] for mark in found] == [(*mark, "me") for mark in marks]
    assert all(mark.at[:2] == "20" and mark.at.endswith("Z") for mark in found)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id,mark\na,right\nb,maybe\n", r"row 3: a mark is one of right, wrong, skipped, got 'maybe'"),
        (b"id,mark\na,\n", r"row 2: a mark is one of"),
        (b"id,mark\na,right,1\n", r"row 2: each row has as many cells as the header, 2, got 3"),
        (b"id,at\na,soon\n", r"row 2: a time is like"),
        (b"id,mark\n,right\n", r"row 2: each row has an id"),
        (b"id,mark\na,right\na,wrong\n", r"a tile has one mark, got 'a'"),
        (b"name,mark\na,right\n", r"has the column id"),
        (b'id\n"a\n', r"is CSV throughout"),
        (b"\xff\xfe", r"as UTF-8"),
        (b"a\nb\0c\n", r"line 2: a file of a collection is CSV"),
        (b"{", r"a FeatureCollection"),
        (b'{"features": [{}]}', r"feature 1: each row has an id"),
        (b"PAR1junk", r"a Parquet file is whole"),
    ],
)
def test_a_file_is_taken_whole_or_not_at_all(collections, index, tmp_path, data, words):
    (tmp_path / "f.csv").write_bytes(data)
    with pytest.raises(QueryError, match=words):
        import_collection(collections, tmp_path / "f.csv", index.snapshot)
    assert collections.all() == []


# Labels and searches


def test_a_collection_becomes_a_label(collections, index):
    collections.mark("harbor, old", right=[*IDS[:3], "gone"], wrong=[IDS[3]])
    changed, absent = collections.to_label("harbor, old", index)
    assert changed == dict.fromkeys(IDS[:3], True) and absent == ["gone"]
    assert index.label_names == ("sea", "dock", "harbor, old")
    assert index.describe(IDS[0])["labels"] == ["sea", "harbor, old"]
    collections.mark("harbor, old", right=[IDS[3]], wrong=[IDS[0]], neither=[IDS[1]])
    changed, _ = collections.to_label("harbor, old", index)
    assert changed == {IDS[3]: True, IDS[0]: False}, "what is no longer marked stays as it is"
    assert collections.to_label("harbor, old", index, "SEA")[0] == {IDS[0]: False}
    with pytest.raises(UnknownLabelError, match="Did you mean dock"):
        collections.to_label("harbor, old", index, "docks")
    assert collections.to_label("harbor, old", index, "docks", new_labels=["docks"])[0]
    collections.mark("none", wrong=IDS[:2])
    with pytest.raises(QueryError, match="has a tile of the index that is right, and 'none' has none"):
        collections.to_label("none", index)
    assert index.label_names[2:] == ("harbor, old", "docks")


def test_a_search_from_a_collection_is_the_search_from_its_tiles(collections, served):
    engine = SearchEngine(served, Index.open(served / "index"))
    collections.mark("ships", right=[*IDS[:2], "gone"], wrong=[IDS[2]])
    found = collections.get("ships").examples(engine.index.snapshot)
    assert found == {"positive": IDS[:2], "negative": [IDS[2]]}
    hits = [result.id for result in engine.search(**found, k=20)[0].results]
    assert sorted(hits) == sorted(IDS[3:])
    with pytest.raises(QueryError, match="to search with has a tile of the index that is right"):
        collections.mark("ships", neither=IDS[:2]).examples(engine.index.snapshot)


def test_many_examples_are_searched_with_as_few_are(tmp_path):
    """None of them is found, whether they lie in the version or were added, and all else is, in its order."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(700, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"t{number}" for number in range(700)]
    build_index(tmp_path / "index", Items.of((), ids[:600]), vectors[:600], info={}, progress=False)
    engine = SearchEngine(tmp_path, Index.open(tmp_path / "index"))
    engine.index.upsert(Items.of((), ids[600:]), vectors[600:])
    for count in (20, 300):  # of each, and 40 that were added
        right, wrong = ids[: 2 * count : 2] + ids[601:640:2], ids[1 : 2 * count : 2] + ids[600:640:2]
        (answer,) = engine.search(positive=right, negative=wrong, k=700)
        left = [id_ for id_ in ids if id_ not in {*right, *wrong}]
        order = sorted(left, key=lambda id_: -answer.vector @ vectors[ids.index(id_)])
        assert sorted(result.id for result in answer.results) == sorted(left)
        assert [result.id for result in answer.results][:20] == order[:20]
        first, second = engine.search(ids=["t650", "t651"], positive=right, k=5)
        assert {"t650", *right}.isdisjoint(result.id for result in first.results)
        assert {"t651", *right}.isdisjoint(result.id for result in second.results)


# The command line


def test_the_command_line(served, tmp_path, capsys):
    def said(*arguments):
        assert macl("collections", served, *arguments) == 0
        return capsys.readouterr().out.strip()

    def refused(*arguments):
        assert macl("collections", served, *arguments) == 2
        return capsys.readouterr().err

    assert said().startswith("No collections yet.")
    assert said("mark", "ships", "--right", "1.png", IDS[2], "--wrong", "2.png", "--by", "Ada") == (
        "New collection ships: 2 right, 1 wrong."
    )
    more = ["--neither", "1.png", "--wrong", IDS[4], "--wrong", IDS[6]]
    assert said("mark", "ships", *more) == "ships: 1 right, 3 wrong."
    assert "the id must be of a tile in the index, got 'typo'" in refused("mark", "ships", "--right", "typo")
    assert said("list").splitlines()[1].split()[:3] == ["ships", "1", "3"]
    assert json.loads(said("list", "--json"))[0]["right"] == 1
    assert [mark["id"] for mark in json.loads(said("show", "ships", "--json"))] == [IDS[6], IDS[4], IDS[1], IDS[2]]
    shown = said("show", "ships", "-n", "1")
    assert shown.startswith("ships: 1 right, 3 wrong.") and "3 before these: -n 0 shows all" in shown
    first, second, *rows = said("round", "ships").splitlines()
    assert first == "ships: 1 right tiles are found; 1 of the last 4 marks are right."
    assert second.startswith("How many are left nobody knows") and len(rows) == 8
    path = tmp_path / "ships.geojson"
    assert said("export", "ships", path) == f"4 marks in {path}."
    assert said("import", path, "copy") == "copy: 4 marks read, 4 of them new. It has 1 right, 3 wrong."
    listed = tmp_path / "more.txt"
    listed.write_text("a/1.png\nnobody.png\n")
    assert said("import", listed, "--as", "wrong") == (
        "more: 2 marks read, 2 of them new; 1 not in the index now: nobody.png. It has 0 right, 2 wrong."
    )
    assert said("rename", "copy", "Dock works") == "copy is called Dock works now."
    assert "Did you mean dock? If Dock works is new, say so: --new-label" in refused("to-label", "Dock works")
    done = said("to-label", "Dock works", "--new-label", "Dock works")
    assert done == "New in the index: Dock works. 1 tiles got it."
    assert said("to-label", "Dock works", "sea") == "sea. 0 tiles got it, 3 hold it no more."
    assert macl("search", served, "--collection", "ships", "-k", 20, "--json") == 0
    hits = json.loads(capsys.readouterr().out)["answers"][0]["results"]
    assert {hit["id"] for hit in hits} == {*IDS} - {IDS[1], IDS[2], IDS[4], IDS[6]}
    assert macl("search", served, "--collection", "boats") == 2
    assert "a collection must be there, got 'boats'" in capsys.readouterr().err
    assert said("delete", "more") == "more is deleted; it had 0 right, 2 wrong."
    assert "a collection must be there, got 'more'" in refused("show", "more")
    assert "export takes 2 names, got 1" in refused("export", "ships")
    assert (
        said("mark", "few", "--right", IDS[0], "--skipped", IDS[1])
        == "New collection few: 1 right, 0 wrong, 1 skipped."
    )
    found = json.loads(said("round", "few", "--json", "--best", "2", "--sampled", "0"))
    assert len(found["best"]) == 2 and found["skipped"] == 1 and not found["sampled"]
    assert "best must be in [0, 200], got -1" in refused("round", "few", "--best", "-1")
    assert said("mark", "few", "--wrong", *[id_ for id_ in IDS[2:] if id_.isprintable() and id_.strip() == id_])
    more = [one["id"] for one in json.loads(said("round", "few", "--json"))["best"]]
    Collections(served).mark("few", wrong=more)
    assert "About 0 are left: 0 to 1 with 95 % confidence" in said("round", "few")
    assert "All tiles are marked." in said("round", "few")
    assert "are for mark, not for list" in refused("list", "--right", "1.png")
    assert "is not there" in refused("import", tmp_path / "nothing.csv")
    shutil.rmtree(served / "index")
    assert "holds no index" in refused()
