"""Tiles to begin with: unlike each other, none of them odd, and always the same."""

import numpy as np

from macl_tf.index.diverse import centres
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def groups(sizes, dim=8, noise=0.05):
    """Rows near axes, so many to each, and which axis each is near."""
    generator = np.random.default_rng(0)
    of = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return unit(np.eye(dim)[of] + noise * generator.normal(size=(len(of), dim))), of


def test_each_group_is_shown_by_the_one_in_its_middle():
    rows, of = groups((200, 50, 7, 3, 1))
    found = centres(rows, 5)
    assert sorted(of[found]) == [0, 1, 2, 3, 4]
    for place in found:
        members = rows[of == of[place]]
        assert rows[place] @ members.mean(axis=0) >= (members @ members.mean(axis=0)).max() - 1e-6
    assert found.tolist() == centres(rows, 5).tolist()


def test_equal_rows_are_shown_once_each():
    rows = unit(np.ones((4, 3)))
    assert sorted(centres(rows, 3)) == sorted({*centres(rows, 3)}) and sorted(centres(rows, 9)) == [0, 1, 2, 3]
    assert centres(rows[:0], 3).size == 0


def test_an_index_shows_living_items_the_same_whenever_it_is_opened(tmp_path):
    rows, of = groups((60, 30, 9))
    ids = [f"{number:02}" for number in range(len(rows))]
    build_index(tmp_path / "index", Items.of((), ids), rows, info={}, progress=False)
    index = Index.open(tmp_path / "index")
    first = index.snapshot.diverse(3)
    assert {of[int(id_)] for id_ in first} == {0, 1, 2} and Index.open(tmp_path / "index").snapshot.diverse(3) == first
    others = {index.snapshot.diverse(3, seed) for seed in range(8)}
    assert len(others) > 1 and all(len(ids) == 3 for ids in others)
    index.delete(first)
    index.upsert(Items.of((), ["new"]), -np.eye(8, dtype=np.float32)[:1])
    again = index.snapshot.diverse(4)
    assert "new" in again and not {*again} & {*first} and len(index.snapshot.diverse(500)) == len(rows) - 2
