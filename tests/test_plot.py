"""The plot of an index: what is alike lies together, the same each time, of any number of tiles."""

import numpy as np
import pytest

from macl_tf.artifacts import ArtifactError
from macl_tf.index import plot
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from tests.test_diverse import groups


def purity(places, of):
    """Share of the five nearest in the plot that are of the same group."""
    gaps = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(gaps, np.inf)
    nearest = np.argsort(gaps, axis=1)[:, :5]
    return (of[nearest] == of[:, None]).mean()


def test_what_is_alike_lies_together_also_what_is_placed_after_the_first(monkeypatch):
    """Eight groups along eight axes, of which two cannot tell them all apart."""
    rows, of = groups((40,) * 8, noise=0.1)
    places = plot.placed(rows)
    assert places.dtype == np.float32 and places.shape == (320, 2) and places.min() >= 0 and places.max() <= 1
    assert purity(plot._principal(rows)[:, :2], of) < 0.9 < 0.99 < purity(places, of)
    np.testing.assert_array_equal(plot.placed(rows), places)
    monkeypatch.setattr(plot, "ANCHORS", 120)
    assert purity(plot.placed(rows), of) > 0.97


@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101])
def test_any_number_of_tiles_has_places(count):
    rows, _ = groups((count,))
    places = plot.placed(rows)
    assert places.shape == (count, 2) and np.isfinite(places).all()
    assert np.ptp(places, axis=0).max() == (pytest.approx(1) if count > 1 else 0)
    np.testing.assert_array_equal(plot.placed(np.repeat(rows[:1], count, axis=0)), np.full((count, 2), 0.5))


def test_no_more_are_drawn_than_a_page_can_show(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "DRAWN", 50)
    rows, of = groups((60, 60))
    plot.write_plot(tmp_path / "plot.npy", rows)
    drawn, places = plot.read_plot(tmp_path / "plot.npy", 120)
    assert len(drawn) == 50 and (np.diff(drawn) > 0).all() and purity(places, of[drawn]) == 1


def test_an_index_has_a_plot_of_its_living_tiles_until_a_new_version_has_all(tmp_path):
    rows, _ = groups((12, 8))
    ids = [f"{number:02}" for number in range(20)]
    build_index(tmp_path, Items.of((), ids), rows, info={}, progress=False)
    index = Index.open(tmp_path)
    np.testing.assert_array_equal(index.snapshot.plot.places, plot.placed(rows))
    index.delete(["03"])
    index.upsert(Items.of((), ["05", "new"]), rows[:2])  # one replaced, one added
    assert index.snapshot.plot.ids.tolist() == [id_ for id_ in ids if id_ not in ("03", "05")]
    index.compact(progress=False)
    assert set(index.snapshot.plot.ids) == {*ids, "new"} - {"03"}
    build_index(tmp_path / "empty", Items.of((), []), np.empty((0, 4)), info={}, progress=False)
    assert Index.open(tmp_path / "empty").snapshot.plot is None


@pytest.mark.parametrize("wrong", [{"row": [0, 0]}, {"row": [0, 20]}, {"x": [0, 1.5]}, {"y": [np.nan, 0]}])
def test_a_plot_of_another_index_is_refused(tmp_path, wrong):
    path = tmp_path / "plot.npy"
    table = np.zeros(2, plot._KIND)
    table["row"] = 0, 1
    np.save(path, table)
    plot.read_plot(path, 20)
    for name, values in wrong.items():
        table[name] = values
    np.save(path, table)
    with pytest.raises(ValueError, match="ascending rows of 20 tiles"):
        plot.read_plot(path, 20)


def test_a_damaged_plot_is_told(tmp_path):
    build_index(tmp_path, Items.of((), ["a", "b"]), np.eye(2), info={}, progress=False)
    (tmp_path / "1" / "plot.npy").write_bytes(b"no plot")
    with pytest.raises(ArtifactError, match="must have 160 bytes, got 7"):
        Index.open(tmp_path, verify=False)


def test_a_box_has_its_middle_first():
    """By hand."""
    drawn = plot.Plot(np.array(list("abcd"), object), np.array([[0.5, 0.5], [0.1, 0.5], [0.6, 0.4], [0.55, 0.45]]))
    assert drawn.ids[drawn.within((0.5, 0.3, 0.7, 0.5))].tolist() == ["c", "d", "a"]
    assert drawn.within((0.7, 0, 1, 1)).size == 0
