"""Filters, against conditions spelled out item by item."""

import datetime

import numpy as np
import pytest

from macl_tf.index.filters import Filter
from macl_tf.index.items import Items

NAMES = ("cars", "trees", "water")
NOWHERE = np.full((4, 2), np.nan)


def box(west, south, east, north):
    return np.array([[west, south], [east, south], [east, north], [west, north]], float)


ITEMS = Items.of(
    NAMES,
    list("abcde"),
    [[1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]],
    splits=["train", "test", "test", "", "validation"],
    footprints=[
        box(6, 46, 7, 47),
        box(179.5, -18, -179.5, -17),
        NOWHERE,
        box(-179, -18, -178, -17),
        box(-10, 0, 10, 5),
    ],
    dates=["2020-01-01", "2020-06-15", None, "2020-12-31", "2021-01-01"],
)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "abcde"),
        (" ; ", "abcde"),
        ("any_of=water", "cd"),
        ("any_of=water,cars", "acd"),
        ("all_of=water , trees", "cd"),
        ("all_of=water,trees,cars", "d"),
        ("none_of=cars", "bce"),
        ("none_of=cars,water,trees", "e"),
        ("any_of=water,trees; none_of=cars", "bc"),
        ("any_of=trees;all_of=water;none_of=cars", "c"),
        ("split=test", "bc"),
        ("split=train,validation", "ae"),
        ("split=none such", ""),
        ("since=2020-01-01; until=2020-12-31", "abd"),
        ("since=2020-06-15; until=2020-06-15", "b"),
        ("since=2020-06-16", "de"),
        ("until=2020-06-15", "ab"),
        ("bbox=5,45,10,50", "a"),
        ("bbox=7,47,8,48", "a"),  # it touches in a corner
        ("bbox=7.001,47,8,48", ""),
        ("bbox=5,45,6,46", "a"),  # in the opposite one
        ("bbox=5,45,5.999,46", ""),
        ("bbox=5,45,6,45.999", ""),
        ("bbox=6.4,46.4,6.6,46.6", "a"),  # inside
        ("bbox=-180,-90,180,90", "abde"),
        ("bbox=179,-18,179.4,-17", ""),
        ("bbox=179,-18,180,-17", "b"),
        ("bbox=-180,-18,-179.8,-17", "b"),  # the part beyond the antimeridian
        ("bbox=-179.4,-18,-178,-17", "d"),
        ("bbox=170,-20,-170,-10", "bd"),  # the box crosses, too
        ("bbox=179.9,-20,-179.2,-10", "b"),
        ("bbox=175,-20,179,-10", ""),
        ("bbox=20,-90,-20,90", "bd"),  # all but the middle
        ("bbox=-1,1,1,2; since=2021-01-01", "e"),
        ("bbox=-1,1,1,2; until=2020-01-01", ""),
    ],
)
def test_text_form(text, expected):
    assert "".join(ITEMS.ids[Filter.parse(text).mask(ITEMS)]) == expected


def test_the_text_form_says_the_same_as_the_arguments():
    text = "any_of=cars,water; all_of=trees; none_of=cars; bbox=1,-2.5,3e0,4; "
    text += "since=2020-01-01; until=2020-02-01; split=a,b"
    assert Filter.parse(text) == Filter(
        ["cars", "water"], "trees", ["cars"], [1, -2.5, 3, 4], "2020-01-01", datetime.date(2020, 2, 1), ["a", "b"]
    )
    assert Filter(until=np.datetime64("2020-02-01T10:00")) == Filter.parse("until=2020-02-01")


@pytest.mark.parametrize(
    "text, message",
    [
        ("water", "got 'water'.*reads like 'any_of=water"),
        ("some=water", "must be one of any_of, all_of, none_of, bbox, since, until, split"),
        ("any_of=", "got 'any_of='"),
        ("any_of=a,,b", "non-empty"),
        ("any_of=a; any_of=b", "given once"),
        ("bbox=1,2,3", "west, south, east, north"),
        ("bbox=1,2,3,x", "west, south, east, north"),
        ("bbox=1,2,3,nan", "degrees"),
        ("bbox=1,50,3,40", "south <= north"),
        ("bbox=1,2,181,3", r"\[-180, 180\], got|longitudes"),
        ("since=2020", "date like 2020-01-01, got '2020'"),
        ("until=2020-13-01", "date like"),
        ("since=", "got 'since='"),
        ("since=2020-01-01..2020-02-01", "date like"),
        ("any=water", "got 'any=water'"),  # the words are those of the arguments
        ("since=2021-01-01; until=2020-01-01", "since must not be after until"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Filter.parse(text)


def test_unknown_labels_list_the_known():
    with pytest.raises(ValueError, match="cars, trees, water; got 'harbour'"):
        Filter(none_of=["harbour"]).mask(ITEMS)


def test_random_filters_against_a_loop():
    generator = np.random.default_rng(0)
    count = 400
    footprints = np.empty((count, 4, 2))
    for n in range(count):
        west, south = generator.uniform(-180, 180), generator.uniform(-90, 60)
        width, height = generator.uniform(0, 60), generator.uniform(0, 30)
        east = west + width if west + width <= 180 else west + width - 360
        footprints[n] = box(west, south, east, south + height) if generator.random() < 0.9 else NOWHERE
    days = generator.integers(0, 100, count).astype("datetime64[D]")
    days[::7] = "NaT"
    labels = generator.integers(0, 2, (count, 3))
    splits = generator.choice(["a", "b", ""], count)
    items = Items.of(NAMES, list(map(str, range(count))), labels, splits=splits, footprints=footprints, dates=days)
    matched = 0
    for _ in range(150):
        chosen = {field: tuple(generator.choice(NAMES, generator.integers(0, 2))) for field in ("any_of", "all_of")}
        west, east = generator.uniform(-180, 180, 2)
        south, north = sorted(generator.uniform(-90, 90, 2))
        first, last = sorted(generator.integers(0, 100, 2))
        condition = Filter(
            **chosen, bbox=(west, south, east, north), since=np.datetime64(int(first), "D"),
            until=np.datetime64(int(last), "D"), split=("a",) if generator.random() < 0.5 else (),
        )  # fmt: skip
        expected = []
        for n in range(count):
            held = {name for name, value in zip(NAMES, labels[n], strict=True) if value}
            corners = footprints[n]
            # Points of the box on a circle of degrees: an interval from its west eastwards.
            meets = not np.isnan(corners[0, 0]) and (
                (corners[0, 0] - west) % 360 <= (east - west) % 360
                or (west - corners[0, 0]) % 360 <= (corners[1, 0] - corners[0, 0]) % 360
            )
            expected.append(
                (not chosen["any_of"] or bool(held & set(chosen["any_of"])))
                and held >= set(chosen["all_of"])
                and meets and corners[0, 1] <= north and corners[2, 1] >= south
                and not np.isnat(days[n]) and first <= days[n].astype(int) <= last
                and (not condition.split or splits[n] == "a")
            )  # fmt: skip
        assert condition.mask(items).tolist() == expected
        matched += sum(expected)
    assert matched > 100  # the test met both outcomes


def test_a_million_items_are_filtered_as_independent_columns_say():
    count = 1_000_000
    generator = np.random.default_rng(0)
    blank = np.full(count, "", object)
    corners = np.repeat(generator.uniform(-90, 90, (count, 1, 2)), 4, axis=1)
    splits = np.array(["train", "test"], object)[generator.integers(0, 2, count)]
    items = Items(NAMES, blank, blank, splits, blank, generator.integers(0, 2, (count, 3), np.uint8), corners,
                  generator.integers(0, 100, count).astype("datetime64[D]"))  # fmt: skip
    condition = Filter.parse(
        "any_of=water,cars; none_of=trees; bbox=0,0,90,90; since=1970-01-01; until=1970-02-01; split=test"
    )
    share = condition.mask(items).mean()
    # independent columns: 3/4 hold one of two, 1/2 no third, 1/4 of the square, 32 of 100 days, 1/2 of the splits
    assert share == pytest.approx(0.75 * 0.5 * 0.25 * 0.32 * 0.5, rel=0.05)


@pytest.mark.parametrize(
    "text",
    [
        "any_of=\"Beaches, dunes, sands\";none_of='rock; x=y'",
        "any_of = 'Beaches, dunes, sands' ; none_of = \"rock; x=y\"",
        'none_of="rock; x=y"; any_of="Beaches, dunes, sands"',
    ],
)
def test_quotes_keep_a_label_whole(text):
    assert Filter.parse(text) == Filter(any_of=["Beaches, dunes, sands"], none_of=["rock; x=y"])
    assert Filter.parse("any_of='a,b',c; split=\"x;y\",z") == Filter(any_of=["a,b", "c"], split=["x;y", "z"])


def test_known_labels_need_no_quotes_and_no_exact_spelling():
    names = ("Beaches, dunes, sands", "Sea", "bare-soil", "नदी", "x=y")
    items = Items.of(names, list("abc"), [[1, 0, 0, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 1, 0]])
    for text, expected in (
        ("any_of=Beaches, dunes, sands", "a"),
        ("any_of=beaches,dunes,sands,Sea", "ab"),
        ("all_of=Bare Soil,sea; none_of=Beaches, dunes, sands", "b"),
        ("any_of=नदी", "c"),
        ("any_of=x=y", "b"),
    ):
        assert "".join(items.ids[Filter.parse(text, names).mask(items)]) == expected
    assert items.ids[Filter(any_of="Bare soil").mask(items)] == ["b"]
    with pytest.raises(ValueError, match=r"got 'Beaches, dunes, sandz'\. Did you mean \"Beaches, dunes, sands\"\?"):
        Filter.parse("any_of=Beaches, dunes, sandz", names)
    with pytest.raises(ValueError, match="any_of must be non-empty names"):
        Filter.parse("any_of=,", names)
