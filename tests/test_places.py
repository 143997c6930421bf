"""Footprints in answers, by hand: boxes, rings and the antimeridian."""

from itertools import pairwise

import pytest

from macl_tf.datasets.tile_facts import footprint_of
from macl_tf.search.places import box_of, geometry_of


def area(ring):
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2


def test_a_turned_tile_keeps_its_corners_counterclockwise():
    diamond = [[0, 1], [1, 0], [0, -1], [-1, 0]]  # clockwise
    assert box_of(diamond) == [-1, -1, 1, 1]
    (ring,) = geometry_of(diamond)["coordinates"]
    assert ring == [[-1, 0], [0, -1], [1, 0], [0, 1], [-1, 0]] and area(ring) == 2
    assert geometry_of(diamond[::-1])["coordinates"] == [ring]


def test_a_turned_tile_is_cut_at_the_antimeridian():
    """A diamond around 180 degrees, 2 wide and 2 high: two triangles of area 1."""
    geometry = geometry_of([[180, 1], [-179, 0], [180, -1], [179, 0]])
    assert geometry["type"] == "MultiPolygon"
    (west,), (east,) = geometry["coordinates"]
    assert sorted(map(tuple, west[:-1])) == [(179, 0), (180, -1), (180, 1)] and area(west) == 1
    assert sorted(map(tuple, east[:-1])) == [(-180, -1), (-180, 1), (-179, 0)] and area(east) == 1


def test_a_tile_that_ends_at_the_antimeridian_is_not_cut():
    for corners in ([[179, 1], [180, 1], [180, 0], [179, 0]], [[-180, 1], [-179, 1], [-179, 0], [-180, 0]]):
        assert geometry_of(corners)["type"] == "Polygon"
    east = [[180, 1], [-179, 1], [-179, 0], [180, 0]]  # begins there
    assert geometry_of(east)["coordinates"] == geometry_of([[-180, 1], *east[1:3], [-180, 0]])["coordinates"]
    assert box_of([[179, 1], [-180, 1], [-180, 0], [179, 0]]) == [179, 0, 180, 1]
    assert geometry_of([[179, 1], [-180, 1], [-180, 0], [179, 0]])["type"] == "Polygon"


@pytest.mark.parametrize("box", [(5, 45, 6, 46), (179.5, -1, -179.5, 1), (-180, -90, -1, 90), (0, 0, 0, 0)])
def test_a_box_comes_back_from_its_footprint(box):
    assert box_of(footprint_of(box).tolist()) == list(box)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 1, 1, 0), "south <= north"),
        ((0, 0, 181, 1), r"\[-180, 180\]"),
        ((0, 0, 1, float("nan")), "in degrees"),
        ((0, 0, 180, 1), "less than 180 degrees wide"),
        ((10, 0, -10, 1), "less than 180 degrees wide"),
    ],
)
def test_boxes_that_cannot_be_are_refused(box, words):
    with pytest.raises(ValueError, match=words):
        footprint_of(box)
