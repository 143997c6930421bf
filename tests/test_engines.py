"""One contract for all that hold an index: files with exact search or ScaNN, and Milvus with each kind of its own.

Random lives against a dictionary. Milvus is a file of milvus-lite, whose server runs in threads of this process.
"""

import numpy as np
import pytest

from macl_tf.artifacts import ArtifactError
from macl_tf.datasets.label_names import UnknownLabelError
from macl_tf.index.filters import Filter
from macl_tf.index.items import Items
from macl_tf.index.milvus import connection, filling, view
from macl_tf.index.milvus.index import MilvusIndex
from tests.engines import DIM, ENGINES, EXACT, LABELS, Made, Model, check_hits, id_of, some_filter, tiles


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes an index of a kind; all of Milvus lie in one file."""
    folder = tmp_path_factory.mktemp("engines")
    uri = str(folder / "lite.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "_QUERIES", 60)
        yield lambda kind, *content: Made(kind, folder, uri, *content)
    connection.release(uri)


def check(engine, model, generator, exact):
    """Everything that can be asked has the model's answer; the recall."""
    state = engine.snapshot
    assert len(engine) == len(state) == len(model.rows)
    counts = dict(zip(state.label_names, state.label_counts.tolist(), strict=True))
    assert counts == {name: sum(name in item["labels"] for item, *_ in model.rows.values()) for name in counts}
    ids = [*generator.choice(list(model.rows), 3, replace=False).tolist(), "none such"]
    assert state.present(ids) == set(ids[:3]) and not state.holds("it's")
    table = state.items_of(ids)
    for place, id_ in enumerate(ids[:3]):
        item, vector, picture = model.rows[id_]
        for found in (state.describe(id_), table.describe(place)):
            assert {**found, "labels": set(found["labels"])} == {**item, "labels": set(item["labels"])}
        assert state.thumbnail(id_) == picture and state.has_thumbnail(id_) == bool(picture)
        np.testing.assert_allclose(state.vectors_of([id_])[0], vector, atol=1e-6)
        end = id_.rpartition("/")[2]
        assert state.id_of(end) == id_
        like = state.ids_like(end[1:], 5)
        assert set(like) <= set(model.rows) and all(end[1:] in one for one in like)
        assert len(like) == min(5, sum(end[1:] in one for one in model.rows)) and state.ids_like(id_, 5)[0] == id_
    with pytest.raises(ValueError, match="'none such', which is not there"):
        state.vectors_of(ids)
    recalls = []
    for _ in range(3):
        queries, k, without = (
            generator.normal(size=(2, DIM)),
            int(generator.integers(1, 30)),
            ids[: generator.integers(3)],
        )
        condition = some_filter(generator, state.label_names)
        number, held = state.counts(condition)
        met = [model.rows[id_][0]["labels"] for id_ in model.matching(condition)]
        assert number == len(met)
        assert held.tolist() == [sum(name in labels for labels in met) for name in state.label_names]
        hits = engine.search(queries, k, filter=condition, without=without)
        for query, found in zip(queries, hits, strict=True):
            recalls.append(check_hits(model, found, query, k, condition, exact, without))
    return np.mean(recalls)


LONG = [pytest.param(kind, marks=pytest.mark.slow) if kind.startswith(("IVF", "HNSW")) else kind for kind in ENGINES]


@pytest.mark.parametrize("kind", LONG)
def test_random_lives_against_a_dictionary(made, kind):
    generator = np.random.default_rng(ENGINES.index(kind))
    content = tiles(range(60), 0)
    one, model, recalls = made(kind, *content), Model(*content), []
    engine = other = one.again()
    new = iter(("new one", "ça", "x'y", 'z"w', "last"))
    for step in range(16 if kind in EXACT else 8):
        numbers = generator.choice(90, int(generator.integers(1, 9)), replace=False).tolist()
        action = generator.choice(["upsert", "upsert", "delete", "relabel", "label", "other", "publish"])
        if action in ("upsert", "label"):
            more = (next(new, "last"),) if action == "label" else ()
            content = tiles(numbers, 100 + step, labels=(*LABELS, *more))
            there = sum(id_of(number) in model.rows for number in numbers)
            assert engine.upsert(*content, new_labels=more) == there
            model.upsert(*content)
        elif action == "delete":
            ids = {id_of(number) for number in numbers}
            assert engine.delete(ids) == len(ids & set(model.rows))
            model.rows = {id_: row for id_, row in model.rows.items() if id_ not in ids}
        elif action == "relabel":
            label = str(generator.choice(LABELS))
            holds = {id_of(number): bool(generator.integers(2)) for number in numbers}
            assert engine.relabel(label, holds) == model.relabel(label, holds)
        elif action == "other":
            engine, other = other, engine
            engine.refresh()
        elif one.files:
            engine.compact(progress=False)
        else:
            state = engine.snapshot
            ids = list(model.rows)
            before, size, labels = engine.version, len(ids), state.label_names
            one.publish(state.items_of(ids), state.vectors_of(ids), [state.thumbnail(id_) for id_ in ids])
            assert engine.version == before and len(state.anew()) == size, "what a request works on stays"
            engine.refresh()
            assert engine.version == before + 1 and engine.label_names == labels
        recalls.append(check(engine, model, generator, kind in EXACT))
    other.refresh()
    check(other, model, generator, kind in EXACT)
    check(one.again(), model, generator, kind in EXACT)
    assert np.mean(recalls) > 0.9


@pytest.fixture(scope="module")
def larger():
    items, vectors, pictures = tiles(range(800), 5, dim=DIM)
    return (items, vectors, pictures), Model(items, vectors, pictures)


@pytest.mark.parametrize("kind", [kind for kind in ENGINES if kind not in EXACT])
def test_recall_against_exact_search(made, larger, kind):
    """Also behind filters that one tile in many meets, where an approximate index finds none by itself."""
    content, model = larger
    engine = made(kind, *content).again()
    queries = tiles(range(25), 6)[1]
    facts = engine.info["recall"]
    assert facts["measured"] >= facts["target"] == 0.95 and facts["queries"] > 0
    conditions = [None, *(Filter.parse(text) for text in ("any_of=sea", "since=1971-01-30", "bbox=0,0,3,3"))]
    for condition in conditions:
        hits = engine.search(queries, 10, filter=condition)
        pairs = zip(queries, hits, strict=True)
        recall = np.mean([check_hits(model, found, query, 10, condition, False) for query, found in pairs])
        assert recall >= 0.9
    if engine.snapshot.can_be_exact:
        for query, found in zip(queries[:5], engine.search(queries[:5], 10, exact=True), strict=True):
            check_hits(model, found, query, 10, None, True)
    else:
        with pytest.raises(ValueError, match=r"must not be searched exactly: it is a .*--kind IVF_FLAT or FLAT"):
            engine.search(queries, exact=True)
    assert len({hit.id for hit in engine.search(queries[:1], 700)[0]}) == 700


@pytest.mark.parametrize("kind", EXACT)
def test_equal_vectors_tie_and_pages_are_one_list(made, kind):
    items, vectors, pictures = tiles(range(40), 2)
    vectors[20:] = vectors[:20]
    engine = made(kind, items, vectors, pictures).again()
    whole = engine.search(vectors[:3], 40)
    for depth in (1, 7, 39):
        for page, all_ in zip(engine.search(vectors[:3], depth), whole, strict=True):
            assert [hit.score for hit in page] == [hit.score for hit in all_[:depth]]
            if kind == "files":  # Milvus decides among equals
                assert page == all_[:depth]
    for hits in whole:
        for first, second in zip(hits[::2], hits[1::2], strict=True):
            assert first.score == second.score


@pytest.mark.parametrize("kind", EXACT)
def test_what_is_usual_and_unlike_is_drawn_and_stays_the_same(made, kind):
    engine = made(kind, *tiles(range(400), 3)).again()
    ids = {id_of(number) for number in range(400)}
    one, other = engine.snapshot, engine.snapshot.anew()
    assert one.background == other.background and len(set(one.background)) == 300 and set(one.background) <= ids
    assert one.diverse(5) == other.diverse(5) != one.diverse(5, seed=1) and len(set(one.diverse(5))) == 5
    positions = [int(id_.strip('"_%.tif').rpartition(" ")[2].rpartition('"')[2]) for id_ in one.background]
    assert abs(np.mean(positions) - 199.5) < 30, "from everywhere"
    assert one.has_places and not made(kind, *_nowhere()).again().snapshot.has_places


def _nowhere():
    return Items.of(("a",), ["one", "two"]), np.eye(2, DIM, dtype=np.float32), [None, None]


@pytest.mark.parametrize("kind", EXACT)
def test_what_does_not_fit_is_refused_and_changes_nothing(made, kind):
    content = tiles(range(10), 4)
    engine = made(kind, *content).again()
    items, vectors, pictures = tiles(range(8, 12), 5)
    for wrong, words in (
        ((items, vectors[:, :3], pictures), "dimensions"),
        ((items, vectors * np.nan, pictures), "finite"),
        ((items, vectors, pictures[:2]), "for each of 4 items"),
        ((Items.of(("see",), ["a"]), vectors[:1]), "labels must be among"),
    ):
        with pytest.raises(ValueError, match=words):
            engine.upsert(*wrong)
    with pytest.raises(ArtifactError, match="newest index's encoder"):
        engine.upsert(items, vectors, pictures, encoder={"version": 7})
    with pytest.raises(UnknownLabelError, match="say so: --new-label"):
        engine.relabel("seas", {id_of(1): True})
    with pytest.raises(UnknownLabelError):
        engine.search(vectors, filter=Filter(any_of=["harbour"]))
    with pytest.raises(ValueError, match="k must be"):
        engine.search(vectors, k=0)
    assert len(engine) == 10 and engine.search([]) == [] and engine.delete([]) == 0
    check(engine, Model(*content), np.random.default_rng(0), True)


@pytest.mark.parametrize("kind", EXACT)
def test_what_is_not_given_stays_as_it_was(made, kind):
    content = tiles(range(6), 6)
    engine, id_ = made(kind, *content).again(), id_of(1)
    before = engine.describe(id_)
    given = Items.of(LABELS, [id_], splits=["else"], dates=["1999-01-01"])
    missing = {"labels": [True], "footprints": [True], "sources": [True], "dates": [False], "splits": [False]}
    engine.upsert(given, [[1.0] * DIM], [b"small"], missing=missing)
    kept = {name: before[name] for name in ("labels", "footprint", "source")}
    assert engine.describe(id_) == {"id": id_, "path": None, "split": "else", "date": "1999-01-01", **kept}
    assert engine.thumbnail(id_) == b"small"


def test_milvus_says_what_it_cannot_take(made):
    content = tiles(range(5), 7)
    one = made("FLAT", *content)
    engine = one.again()
    for items, words in (
        (Items.of(LABELS, ["i" * 2049]), "id must have at most 2048 bytes in Milvus, got 2049"),
        (Items.of(LABELS, ["a"], splits=["ü" * 200]), "split must have at most 256 bytes in Milvus, got 400"),
    ):
        with pytest.raises(ValueError, match=words):
            engine.upsert(items, [[1.0] * DIM])
    with pytest.raises(ValueError, match="a small picture must have at most 49,151 bytes"):
        engine.upsert(Items.of(LABELS, ["a"]), [[1.0] * DIM], [b"x" * 60_000])
    with pytest.raises(ValueError, match=r"k and offset together must be at most 16,384 in Milvus, got 20,000"):
        engine.search([[1.0] * DIM], 20_000)
    assert len(engine) == 5
    with pytest.raises(ArtifactError, match=r"holds no index 'none_such'. Make it: .* --collection none_such"):
        MilvusIndex.open(f"milvus:{one.address.uri}#none_such")


def test_more_than_can_be_read_behind_a_filter_is_searched_harder(made, larger, monkeypatch):
    """Where an approximate search finds too few, and too many match to look at all of them."""
    content, model = larger
    engine = made("IVF_FLAT", *content).again()
    engine.info["parameters"]["nprobe"] = 1
    monkeypatch.setattr(view, "MOST", 200)
    monkeypatch.setattr(view, "_FILTERED", 1)
    query, condition = np.ones(DIM), Filter(none_of=["sea"])
    hits = engine.search([query], 150, filter=condition)[0]
    assert check_hits(model, hits, query, 150, condition, False) == 1.0
