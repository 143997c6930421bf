"""Lists of labels as people write them, and which known label is meant."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macl_tf.datasets.label_lists import listed, quoted, separators, split_names
from macl_tf.datasets.label_names import KnownLabels, UnknownLabelError, edits

# Deterministic, and without a clock: what hypothesis finds today it finds in every run.
quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)
BEACHES = "Beaches, dunes, sands"
FARMED = "Land principally occupied by agriculture, with significant areas of natural vegetation"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sea,sand", ["sea", "sand"]),
        (f"{BEACHES};Sea", [BEACHES, "Sea"]),
        (f"{BEACHES} | {FARMED}", [BEACHES, FARMED]),
        (f'"{BEACHES}","Sea"', [BEACHES, "Sea"]),
        (f"'{BEACHES}', Sea", [BEACHES, "Sea"]),
        ('"a ""b"", c"; d', ['a "b", c', "d"]),
        ("'rock; gravel', x=y", ["rock; gravel", "x=y"]),
        ("farmer's field, children's playground", ["farmer's field", "children's playground"]),
        ("'farmer's field, or not', b", ["farmer's field, or not", "b"]),
        ("'tis, 5\" pipe", ["'tis", '5" pipe']),
        (f"['{BEACHES}', 'Sea']", [BEACHES, "Sea"]),
        (f'["{BEACHES}"]', [BEACHES]),
        (f"['{BEACHES}' 'Sea'\n 'x']", [BEACHES, "Sea", "x"]),  # NumPy
        (f"[np.str_('{BEACHES}'), np.str_('Sea')]", [BEACHES, "Sea"]),
        ("('a, b',)", ["a, b"]),
        ("{'a, b'}", ["a, b"]),
        ("[\"farmer's\", 'x']", ["farmer's", "x"]),
        (r"['farmer\'s']", ["farmer's"]),
        (r'["\u0928\u0926\u0940", "\ud83d\ude00"]', ["नदी", "😀"]),  # JSON in ASCII
        ("[sea, bare soil]", ["sea", "bare soil"]),
        (f'{{sea,"{BEACHES}"}}', ["sea", BEACHES]),  # PostgreSQL
        ("[]", []),
        ("Arable land (non-irrigated)", ["Arable land (non-irrigated)"]),
        ("(other)", ["(other)"]),
        ("(a) and (b)", ["(a) and (b)"]),
        ("a,,b", ["a", "", "b"]),
        ("sea,\nbare soil,\n", ["sea", "bare soil"]),
    ],
)
def test_what_was_written_as_one_label_stays_one(text: str, names: list[str]) -> None:
    assert split_names(text) == names


# No blanks at the ends, which quotes do not keep, and no line ends.
NAMES = st.text(st.sampled_from("ab ,;|=\"'()[]{}न\u093f😀"), min_size=1).filter(lambda name: name == name.strip())


@quick
@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_what_is_listed_is_read_back(names: list[str]) -> None:
    text = listed(names)
    if len(names) > 1 or quoted(names[0]) != names[0]:  # a single name may stand there as it is
        assert KnownLabels(names).choose(text) == tuple(names)
    assert KnownLabels(names).choose(names) == tuple(names)


KNOWN = KnownLabels((BEACHES, "Sea", "bare-soil", FARMED, "rock; gravel", "water", "trees", "water, trees", "C", "C++"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (BEACHES, [BEACHES]),
        (f"{BEACHES},Sea", [BEACHES, "Sea"]),
        (f"Sea,{FARMED},{BEACHES}", ["Sea", FARMED, BEACHES]),
        ("beaches,dunes,sands; SEA", [BEACHES, "Sea"]),
        ("Bare Soil,bare_soil", ["bare-soil"]),
        ("rock; gravel,Sea", ["rock; gravel", "Sea"]),
        ("water, trees", ["water, trees"]),
        ('"water","trees"', ["water", "trees"]),
        ("trees,water", ["trees", "water"]),
        ("c++,C", ["C++", "C"]),
        (f"['{BEACHES}']", [BEACHES]),
        ("Sea,", ["Sea"]),
        ("", []),
    ],
)
def test_known_labels_are_found_in_a_list(text: str, names: list[str]) -> None:
    assert KNOWN.choose(text) == tuple(names)


def test_of_two_ways_to_part_a_list_the_one_that_is_all_known_is_taken() -> None:
    assert KnownLabels(("a, b", "b, c", "a")).choose("a, b, c") == ("a", "b, c")


def test_names_given_one_by_one_are_not_parted() -> None:
    assert KNOWN.choose([BEACHES, "sea"]) == (BEACHES, "Sea")
    with pytest.raises(UnknownLabelError, match="got 'Sea,bare-soil'"):
        KNOWN.choose(["Sea,bare-soil"])


def test_a_name_that_fits_two_labels_means_neither() -> None:
    known = KnownLabels(("Sea", "sea"))
    assert known.choose(["sea", "Sea"]) == ("sea", "Sea")
    with pytest.raises(UnknownLabelError, match=r"got 'SEA'\. Did you mean Sea or sea\?"):
        known.choose(["SEA"])


@pytest.mark.parametrize(
    ("text", "value", "remedy"),
    [
        ("sae", "'sae'", "Did you mean Sea?"),
        ("Sea;bare-sole", "'bare-sole'", "Did you mean bare-soil?"),
        (f"{BEACHES}s,Sea", f"'{BEACHES}s'", f'Did you mean "{BEACHES}"?'),
        ("Sea;Beaches, dunes", "'Beaches, dunes'", f'Did you mean "{BEACHES}"?'),
        ("agriculture", "'agriculture'", f'Did you mean "{FARMED}"?'),
        ("harbour,zoo", "'harbour', 'zoo'", ""),
        ("C+", "'C+'", "Did you mean C or C++?"),
    ],
)
def test_unknown_labels_are_named_with_what_may_be_meant(text: str, value: str, remedy: str) -> None:
    with pytest.raises(UnknownLabelError) as caught:
        KNOWN.choose(text)
    assert (caught.value.value, caught.value.remedy) == (value, remedy)
    assert str(caught.value).startswith(
        f'labels must be among "{BEACHES}", Sea, bare-soil, "{FARMED}", "rock; gravel", '
    )
    if remedy:  # and what is proposed works
        meant = remedy.removeprefix("Did you mean ").removesuffix("?").split(" or ")
        assert all(KNOWN.choose(name) for name in meant)


def test_of_hundreds_of_labels_a_few_are_listed() -> None:
    with pytest.raises(UnknownLabelError) as caught:
        KnownLabels(f"label {number}" for number in range(600)).choose("lable 7")
    assert "label 29 and 570 more; got 'lable 7'. Did you mean label 7" in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(UnknownLabelError, match="which has none; got 'sea'"):
        KnownLabels(()).choose("sea")


def test_separators_stand_outside_quotes() -> None:
    assert separators("a;'b;c';d", ";") == [1, 7]
    assert separators("any='b;c';none=d", ";", "=") == [9]
    assert separators("any=farmer's;none=d's", ";", "=") == [12]


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("sea", "sea", 0), ("", "ab", 2), ("airplane", "airplnae", 1), ("kitten", "sitting", 3), ("ca", "abc", 3)],
)
def test_edits_by_hand(one: str, other: str, distance: int) -> None:
    for most in range(5):
        assert edits(one, other, most) == edits(other, one, most) == min(distance, most + 1)


@quick
@given(st.text("abc", max_size=7), st.text("abc", max_size=7), st.integers(0, 4))
def test_edits_against_the_recursion(one: str, other: str, most: int) -> None:
    def distance(a: str, b: str) -> int:
        table = {}
        for i in range(len(a) + 1):
            for j in range(len(b) + 1):
                ways = [i + j] if not i or not j else [
                    table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
                ]  # fmt: skip
                if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                    ways.append(table[i - 2, j - 2] + 1)
                table[i, j] = min(ways)
        return table[len(a), len(b)]

    assert edits(one, other, most) == min(distance(one, other), most + 1)
