"""The contact sheet of a search: names under the pictures, and queries whose labels nobody knows."""

import numpy as np

from macl_tf.figures.neighbours import CELL, GAP, HEADER, LINE
from tests.test_figures import BLUE, ORANGE, changed, has, sheet


def names(changes=()):
    rows = [["query.png", "a.png", "b.png", "c.png"], ["query2.png", "d.png", "e.png", "f.png"]]
    for row, column, name in changes:
        rows[row][column] = name
    return rows


def test_names_take_a_line_under_every_image(tmp_path):
    without, with_names = sheet(tmp_path / "a.png"), sheet(tmp_path / "b.png", names=names())
    assert with_names.shape[0] == without.shape[0] + 2 * LINE
    other = sheet(tmp_path / "c.png", names=names([(0, 2, "other.png")]))
    top, bottom, left, right = changed(with_names, other)
    first = GAP + 2 * (CELL + GAP) + 2 * GAP
    assert top > HEADER + CELL and bottom < HEADER + CELL + LINE + 8
    assert first <= left and right < first + CELL


def test_a_long_name_keeps_its_end_and_its_place(tmp_path):
    short = sheet(tmp_path / "a.png", names=names([(0, 1, "")]))
    long = sheet(tmp_path / "b.png", names=names([(0, 1, "a/very/long/path/" * 5 + "tile.png")]))
    _, _, left, right = changed(short, long)
    first = GAP + (CELL + GAP) + 2 * GAP
    assert first <= left and right < first + CELL
    other_end = sheet(tmp_path / "c.png", names=names([(0, 1, "a/very/long/path/" * 5 + "else.png")]))
    assert (long != other_end).any(), "the end of the name is what tells paths apart"


def test_where_the_labels_of_the_query_are_unknown_nothing_is_said_to_be_shared(tmp_path):
    known, unknown = sheet(tmp_path / "a.png"), sheet(tmp_path / "b.png", query_labels=None)
    assert unknown.shape == known.shape
    assert has(known, BLUE) > 100 and has(unknown, BLUE) == 0
    assert has(known, ORANGE) > 100 and has(unknown, ORANGE) == 0
    # the labels of what was found are still there
    below = unknown[HEADER + CELL + LINE : HEADER + CELL + 2 * LINE + GAP, GAP + CELL + 3 * GAP :]
    assert (np.ptp(below, axis=2) == 0).all() and below.min() < 150
