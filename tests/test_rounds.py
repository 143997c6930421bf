"""Rounds of a collection: what is asked for next, and how many right tiles are left, counted over many archives."""

import numpy as np
import pytest

from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.search.query import QueryError, find
from macl_tf.teaching.collections import Collection, Collections, Mark
from macl_tf.teaching.rounds import Left, Precision, next_round

COUNT, RIGHT_ONES, DIM = 800, 60, 8
AT = "2026-01-31T12:00:00.000Z"


def archive(folder, seed=0):
    """Tiles of which 60 are alike, in two groups of different size, and their ids."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(COUNT, DIM))
    vectors[:40] += [3, 0, *[0] * (DIM - 2)]
    vectors[40:RIGHT_ONES] += [1, 3, *[0] * (DIM - 2)]
    ids = [f"{seed}/{number:03}.png" for number in range(COUNT)]
    order = generator.permutation(COUNT)
    build_index(folder / "index", Items.of((), [ids[one] for one in order]), vectors[order], info={}, progress=False)
    return Index.open(folder / "index"), set(ids[:RIGHT_ONES])


def marked(marks):
    """A collection of these marks, as it would be read from disk."""
    return Collection("ships", "", AT, {id_: Mark(id_, mark, "", AT) for id_, mark in marks.items()})


def judged(marks, tiles, truth):
    """The marks with those of somebody who knows."""
    return marks | {tile.id: "right" if tile.id in truth else "wrong" for tile in tiles}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("rounds"))


def test_a_round_asks_for_what_nobody_has_looked_at(index):
    state, truth = index[0].snapshot, index[1]
    marks = {min(truth): "right"}
    for _ in range(6):
        before = marks
        found = next_round(marked(marks), state, best=10, uncertain=5, sampled=5)
        lists = [[tile.id for tile in tiles] for tiles in (found.best, found.uncertain, found.sampled)]
        shown = [id_ for ids in lists for id_ in ids]
        assert len(set(shown)) == len(shown) and not set(shown) & set(marks)
        assert [len(ids) for ids in lists[:2]] == [10, 5] and len(lists[2]) <= 5
        (answer,) = find(
            state,
            [("", [id_ for id_, mark in marks.items() if mark == "right"])],
            negative=[id_ for id_, mark in marks.items() if mark == "wrong"],
            k=COUNT,
        )
        expected = [result.id for result in answer.results if result.id not in marks]
        assert lists[0] == expected[:10], "the best are those that a search finds, without what was skipped"
        marks = judged(marks, [*found.best, *found.uncertain, *found.sampled], truth)
        marks[lists[0][-1]] = "skipped"
        assert set(before) < set(marks)
    assert found.found == sum(mark == "right" for mark in before.values())
    last = [mark.mark for mark in found.collection.marks[-50:]]
    assert found.precision == Precision(last.count("right"), 50)


def test_uncertain_tiles_lie_where_right_and_wrong_part(index):
    state, truth = index[0].snapshot, index[1]
    vectors = dict(zip(state.items.ids, np.concatenate(list(state.blocks())), strict=True))
    right, wrong = sorted(truth)[:10], sorted(set(state.items.ids) - truth)[:10]
    found = next_round(marked(dict.fromkeys(right, "right") | dict.fromkeys(wrong, "wrong")), state, best=30, sampled=0)
    (answer,) = find(state, [("", right)], negative=wrong, k=1)
    middle = np.mean([np.mean([vectors[id_] @ answer.vector for id_ in ids]) for ids in (right, wrong)])
    off = [abs(tile.score - middle) for tile in found.uncertain]
    assert len(off) == 8 and off == sorted(off) and not found.sampled
    rest = {*vectors} - {*right, *wrong} - {tile.id for tile in (*found.best, *found.uncertain)}
    assert max(off) <= min(abs(vectors[id_] @ answer.vector - middle) for id_ in rest) + 1e-6


def test_what_is_left_is_told_by_random_tiles_alone(index):
    state, truth = index[0].snapshot, index[1]
    marks = {min(truth): "right"}
    for _ in range(3):
        found = next_round(marked(marks), state, sampled=0)
        marks = judged(marks, [*found.best, *found.uncertain], truth)
        assert found.left is None, "candidates say nothing about the rest of the archive"
    before = next_round(marked(marks), state, best=0, uncertain=0, sampled=20)
    known = judged(marks, before.sampled, truth)
    found = next_round(marked(known), state, sampled=7)
    assert found.left.sample >= 20 and found.left.low <= len(truth) - found.found <= found.left.high
    # Asked from the start, without candidates, the blocks are the same. One that is not judged whole does not count.
    start = {min(truth): "right"}
    blocks = next_round(marked(start), state, best=0, uncertain=0, sampled=20).sampled
    assert {tile.id for tile in before.sampled} & {tile.id for tile in blocks}
    assert next_round(marked(judged(start, blocks[:14], truth)), state).left.sample == 10


def test_the_interval_holds_the_number_that_is_left(tmp_path):
    held, widths = [], {10: [], 60: []}
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        index, truth = archive(folder, seed)
        marks = {min(truth): "right"}
        for sampled in (10, 50):
            found = next_round(marked(marks), index.snapshot, sampled=sampled)
            marks = judged(marks, [*found.best, *found.uncertain, *found.sampled], truth)
            left = next_round(marked(marks), index.snapshot).left
            missing = len(truth) - sum(mark == "right" for mark in marks.values())
            held.append(left.low <= missing <= left.high)
            assert left.low <= left.estimate <= left.high
            widths[sampled + 10 * (sampled == 50)].append(left.high - left.low)
    assert np.mean(held) >= 0.95
    assert np.mean(widths[60]) < 0.6 * np.mean(widths[10]), "more random tiles say more"


def test_of_an_archive_that_is_judged_whole_nothing_is_left(index):
    state, truth = index[0].snapshot, index[1]
    marks = {id_: "right" if id_ in truth else "wrong" for id_ in state.items.ids}
    found = next_round(marked(marks), state)
    assert not found.best and not found.uncertain and not found.sampled and found.found == len(truth)
    assert (found.left.estimate, found.left.low, found.left.high) == (0, 0, 0)
    unknown = marks | dict.fromkeys(sorted(truth)[5:8], "skipped")
    left = next_round(marked(unknown), state).left
    assert left.low == 0 and left.high == 3, "of what was skipped nobody knows"


def test_tiles_that_come_later_and_lie_in_the_sample_are_asked_for_first(tmp_path):
    index, truth = archive(tmp_path)
    marks = {min(truth): "right", "gone": "right"}
    marks = judged(marks, next_round(marked(marks), index.snapshot, sampled=40).sampled, truth)
    index.delete([id_ for id_ in sorted(truth) if id_ not in marks][:5])
    index.upsert(Items.of((), ["new"]), index.snapshot.vectors_of([min(truth)]))
    found = next_round(marked(marks), index.snapshot)
    assert "new" in [tile.id for tile in found.best] and len(found.best) == 24
    assert found.found == sum(mark == "right" and index.snapshot.holds(id_) for id_, mark in marks.items())
    for _ in range(2):
        found = next_round(marked(marks), index.snapshot)
        marks = judged(marks, [*found.best, *found.sampled], truth | {"new"})
    assert next_round(marked(marks), index.snapshot).left.sample >= 30


def test_what_cannot_be_asked_for_is_refused(index, tmp_path):
    state = index[0].snapshot
    with pytest.raises(QueryError, match="has a tile of the index that is right"):
        next_round(marked({state.items.ids[0]: "wrong"}), state)
    with pytest.raises(QueryError, match=r"best must be in \[0, 200\], got 201"):
        next_round(marked({state.items.ids[0]: "right"}), state, best=201)


def test_skipped_tiles_are_remembered_and_neither_right_nor_wrong(tmp_path):
    collections = Collections(tmp_path)
    found = collections.mark("ships", right=["a"], wrong=["b"], skipped=["c", "d"])
    assert found.skipped == ("c", "d") and found.counts == {"right": 1, "wrong": 1}
    found = Collections(tmp_path).mark("ships", right=["c"], neither=["d"])
    assert found.skipped == () and found.right == ("a", "c") and len(found.seen) == 3


def test_a_few_tiles_are_enough(tmp_path):
    build_index(tmp_path / "index", Items.of((), ["a", "b", "c"]), np.eye(3), info={}, progress=False)
    state = Index.open(tmp_path / "index").snapshot
    found = next_round(marked({"a": "right"}), state)
    assert [tile.id for tile in found.best] == ["b", "c"] and found.left is None
    assert next_round(marked({"a": "right", "b": "wrong", "c": "wrong"}), state).left == Left(0, 0, 0, 3)
