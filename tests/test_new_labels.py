"""Labels that an index did not have: they come with upserts, are there at once and for all, and are not misspelled."""

import numpy as np
import pytest

from macl_tf.artifacts import ArtifactError
from macl_tf.datasets.label_names import KnownLabels, NewLabelError, UnknownLabelError
from macl_tf.index import journal
from macl_tf.index.filters import Filter
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.index.journal import journal_path
from macl_tf.index.snapshot import Snapshot
from tests.serving_process import Client, make_served, name_of, running, stub_versions, upload

NAMES = ("sea", "Beaches, dunes, sands")
STRANGE = ('pier, "old"', "a;b|c", "ü नदी 🌊", "it's", "[x]")


@pytest.fixture
def index(tmp_path):
    items = Items.of(NAMES, ["a", "b", "c"], [[1, 0], [0, 1], [0, 0]])
    build_index(tmp_path, items, np.eye(3), info={}, progress=False)
    return Index.open(tmp_path)


def put(index, id_, labels, new=()):
    """An upsert of one item; `labels` are names."""
    return index.upsert(Items.of(labels, [id_], [[1] * len(labels)]), np.ones((1, 3)), new_labels=new)


def held(index):
    return {id_: index.describe(id_)["labels"] for id_ in index.items.ids}


def found(index, condition):
    hits = index.search(np.ones((1, 3)), filter=Filter.parse(condition, index.label_names))[0]
    return sorted(hit.id for hit in hits)


@pytest.mark.parametrize("name", ["harbor", *STRANGE])
def test_a_new_label_is_known_at_once_to_filters_to_others_and_for_all(index, tmp_path, name):
    other = Index.open(tmp_path)
    put(index, "d", ("sea", name), [name])
    quoted = '"' + name.replace('"', '""') + '"'
    expected = {"a": ["sea"], "b": [NAMES[1]], "c": [], "d": ["sea", name]}
    for reader in (index, other, Index.open(tmp_path)):
        reader.refresh()
        assert reader.label_names == (*NAMES, name) and held(reader) == expected
        assert found(reader, f"any_of={quoted}") == ["d"] == found(reader, f"all_of=sea,{quoted}")
        assert found(reader, f"none_of={quoted}") == ["a", "b", "c"]
        assert reader.snapshot.labels.sum(axis=0).tolist() == [2, 1, 1]
    assert put(other, "e", (name,)) == 0, "for the other it is a label of the index now"
    index.compact(progress=False)
    for reader in (index, other, Index.open(tmp_path)):
        reader.refresh()
        assert reader.version == 2 and reader.info["label_names"] == [*NAMES, name]
        assert held(reader) == expected | {"e": [name]} and found(reader, f"any_of={quoted}") == ["d", "e"]


def test_labels_that_come_while_a_version_is_made_are_in_it(index, tmp_path, monkeypatch):
    put(index, "d", ("dock",), ["dock"])
    real = Snapshot.blocks

    def blocks(self, *arguments):
        other = Index.open(tmp_path)
        put(other, "e", ("wood", "dock"), ["wood"])
        other.relabel("wood", {"a": True})
        yield from real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "blocks", blocks)
        index.compact(progress=False)
    for reader in (index, Index.open(tmp_path)):
        assert reader.info["label_names"] == [*NAMES, "dock"] and reader.label_names == (*NAMES, "dock", "wood")
        assert held(reader) == {"a": ["sea", "wood"], "b": [NAMES[1]], "c": [], "d": ["dock"], "e": ["dock", "wood"]}


def test_two_who_add_the_same_label_have_one_and_one_spelled_otherwise_is_refused(index, tmp_path):
    other = Index.open(tmp_path)
    put(index, "d", ("harbor",), ["harbor"])
    put(other, "e", ("harbor", "wood"), ["harbor", "wood"])
    assert other.label_names == (*NAMES, "harbor", "wood")
    with pytest.raises(NewLabelError, match=r"must not be spelled like harbor; got 'Harbor'\. Use harbor, or another"):
        put(index, "f", ("Harbor",), ["Harbor"])
    with pytest.raises(UnknownLabelError, match="got 'snow'"):  # whoever does not say that it is new
        put(index, "f", ("snow",))
    index.refresh()
    assert "f" not in held(index) and index.label_names == other.label_names


def test_items_get_and_lose_a_label_and_keep_all_else(index, tmp_path):
    put(index, "d", ("sea",))
    before = {id_: index.describe(id_) for id_ in "abcd"}
    vectors = index.snapshot.vectors_of("abcd")
    index.delete(["b"])
    changed = index.relabel("dock", {"a": True, "b": True, "c": False, "d": True, "none": True})
    assert changed == {"a": True, "d": True}
    assert index.relabel("SEA", {"a": False, "c": True}) == {"a": False, "c": True}
    assert index.relabel("dock", {"a": True}) == {} and index.label_names == (*NAMES, "dock")
    expected = {"a": ["dock"], "c": ["sea"], "d": ["sea", "dock"]}
    for reader in (index, Index.open(tmp_path)):
        assert held(reader) == expected
        assert {id_: reader.describe(id_) | {"labels": 0} for id_ in "acd"} == {
            id_: before[id_] | {"labels": 0} for id_ in "acd"
        }
        np.testing.assert_array_equal(reader.snapshot.vectors_of("acd"), vectors[[0, 2, 3]])
        assert reader.num_changes == 4, "two relabelled, one deleted, one added"
        assert found(reader, "any_of=dock") == ["a", "d"]
    index.compact(progress=False)
    assert held(index) == expected and index.num_changes == 0


def test_an_item_that_comes_back_does_not_bring_its_label(index, tmp_path):
    index.relabel("dock", {"a": True})
    index.delete(["a"])
    put(index, "a", ("sea",))
    assert index.describe("a")["labels"] == ["sea"] == Index.open(tmp_path).describe("a")["labels"]


def test_a_label_that_no_item_gets_is_none(index, tmp_path):
    assert index.relabel("dock", {"none": True, "a": False}) == {}
    put(index, "d", ("sea",))
    assert index.label_names == NAMES == Index.open(tmp_path).label_names
    with pytest.raises(ValueError, match="must not be empty"):
        index.relabel("", {"a": True})


def test_a_label_and_its_item_are_written_together_or_not_at_all(index, tmp_path, monkeypatch):
    put(index, "d", ("sea",))
    whole = journal_path(tmp_path, 1).read_bytes()
    real = journal._encoded

    def fails(change):
        if isinstance(change, journal.Upsert):
            raise OSError("the disk is full")
        return real(change)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_encoded", fails)
        with pytest.raises(OSError, match="full"):
            put(index, "e", ("dock",), ["dock"])
    assert journal_path(tmp_path, 1).read_bytes() == whole
    assert index.label_names == NAMES == Index.open(tmp_path).label_names
    put(index, "e", ("dock",), ["dock"])
    assert Index.open(tmp_path).label_names == (*NAMES, "dock")


def test_a_flipped_bit_in_a_label_is_damage(index, tmp_path):
    index.relabel("dock", {"a": True})
    path = journal_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[data.index(b"dock")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="is damaged"):
        Index.open(tmp_path)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("harbor", ("harbor",)),
        ("sea;harbor;wood", ("sea", "harbor", "wood")),
        ("SEA, Harbor, harbor", ("sea", "Harbor")),  # the second is spelled like the first
        ("beaches, dunes, sands, harbor", (NAMES[1], "harbor")),
        (["harbor, old"], ("harbor, old",)),
        ("", ()),
    ],
)
def test_what_is_near_to_no_label_becomes_one(given, names):
    chosen, known = KnownLabels(NAMES).open_to(given)
    assert chosen == names and known.names == (*NAMES, *(name for name in names if name not in NAMES))


@pytest.mark.parametrize("given", ["seas", "sae", "se", "Beaches, dunes, sand", "dunes", "open sea", "harbor, seas"])
def test_what_is_near_to_a_label_is_refused_unless_it_is_meant(given):
    known = KnownLabels(NAMES)
    with pytest.raises(UnknownLabelError, match=r"Did you mean .* is new, say so: --new-label") as caught:
        known.open_to(given)
    meant = [name.strip() for name in ([given] if "dunes" in given else given.split(","))]
    chosen, grown = known.open_to(given, meant)
    assert chosen == tuple(meant) and grown.names == (*NAMES, *meant)
    assert "harbor'" not in caught.value.value


@pytest.mark.parametrize("name", ["", " x", "x\n", "\0", "x" * 201, "\ud800"])
def test_what_cannot_be_a_label_is_refused(name):
    with pytest.raises(NewLabelError, match="printable text of 1 to 200 letters"):
        KnownLabels(NAMES).open_to([], [name])


def test_over_http(tmp_path):
    served = make_served(tmp_path / "served")
    with running(served) as url, Client(url, served) as client:

        def counts():
            return {label["name"]: label["count"] for label in client.get("/api/v1/labels").json()["labels"]}

        before = counts()
        assert client.upsert(upload(90), id="n", labels=["sea", STRANGE[0]])["new_labels"] == [STRANGE[0]]
        assert client.upsert(upload(91), id="m", labels=[STRANGE[0]])["new_labels"] == []
        assert counts() == before | {"sea": before["sea"] + 1, STRANGE[0]: 2}
        hits = client.search({"id": name_of(1)}, filter={"all_of": [STRANGE[0]]})["results"]
        assert sorted(hit["id"] for hit in hits) == ["m", "n"]
        assert client.search({"id": "n"})["query"]["labels"] == ["sea", STRANGE[0]]
        error = client.upsert(upload(92), id="o", labels=["docks"], status=422)["error"]
        assert "Did you mean dock?" in error["remedy"] and "new_labels" in error["remedy"]
        assert client.upsert(upload(92), id="o", labels=["docks"], new_labels=["docks"])["new_labels"] == ["docks"]
        error = client.upsert(upload(92), id="o", labels=["sea"], new_labels=["SNOW"], status=422)["error"]
        assert error["rule"] == "a new label must not be spelled like snow"
        error = client.upsert(upload(92), id="o", labels=["sea"], new_labels=["ice"], status=422)["error"]
        assert error["rule"] == "new labels must be among the labels of the tiles"
        etag = client.get("/api/v1/labels").headers["etag"]
        Index.open(served / "index").relabel("ice", {name_of(2): True})  # another process
        for _ in range(200):
            if "ice" in counts():
                break
            client.get("/healthz")
        assert counts()["ice"] == 1 and client.get("/api/v1/labels").headers["etag"] != etag
        # a label that has just come elsewhere is known, in whatever spelling
    with running(served, refresh=3600) as url, Client(url, served) as client:
        Index.open(served / "index").relabel("lagoon", {name_of(3): True})
        client.upsert(upload(93), id="p", labels=["Lagoon"])
        assert client.get("/api/v1/items", params={"id": "p"}).json()["item"]["labels"] == ["lagoon"]
    versions = stub_versions(served)
    assert "lagoon" in versions.newest.snapshot.label_names
    versions.close()
