"""What is said about the labels of an archive: counts, labels that occur once, near twins."""

from __future__ import annotations

import numpy as np
import pytest

from macl_tf.datasets.label_notes import describe_labels, near_twins


def labels_of(counts: dict[str, int]) -> tuple[tuple[str, ...], np.ndarray]:
    rows = max(counts.values())
    return tuple(counts), np.array([[row < count for count in counts.values()] for row in range(rows)], np.uint8)


def twins_of(counts: dict[str, int]) -> list[tuple[str, str]]:
    names = tuple(counts)
    return [(names[rare], names[frequent]) for rare, frequent in near_twins(names, list(counts.values()))]


def test_counts_single_labels_and_a_typo_are_told() -> None:
    assert describe_labels(*labels_of({"airplane": 40, "airplnae": 1, "Beaches, dunes, sands": 7, "tanks": 0})) == (
        'images of each label: airplane 40, "Beaches, dunes, sands" 7, airplnae 1, tanks 0',
        "label of one image only: airplnae",
        "label of no image: tanks",
        "airplnae (1) beside airplane (40): did you mean airplane?",
    )
    assert describe_labels((), np.zeros((3, 0))) == ()


def test_hundreds_of_labels_stay_readable() -> None:
    names, labels = labels_of({f"label {number}": 1 + number for number in range(600)})
    notes = describe_labels(names, labels)
    assert notes[0].startswith("images of the most frequent of 600 labels: label 599 600, label 598 599, ")
    assert notes[0].endswith(", label 590 591; of the others 1 to 590 each")
    assert notes[1:] == ("label of one image only: label 0",)
    names, labels = labels_of({f"label {number}": 1 for number in range(600)})
    assert describe_labels(names, labels)[1].endswith("label 9 and 590 more")


@pytest.mark.parametrize(
    ("rare", "frequent"),
    [
        ({"airplnae": 1}, {"airplane": 40}),  # exchanged
        ({"aiplane": 3}, {"airplane": 40}),  # left out
        ({"airpplane": 30}, {"airplane": 40}),  # twice: no word of its own, however often
        ({"airplames": 1}, {"airplanes": 40}),
        ({"agricultrual fild": 2}, {"agricultural field": 40}),  # two slips in a long name
        ({"sae": 1}, {"sea": 9}),
        ({"seaa": 1}, {"sea": 9}),
        ({"building": 40}, {"buildings": 50}),
        ({"trees": 1}, {"tree": 1}),
        ({"foret": 8}, {"forêt": 10}),
        ({"Beaches, dune, sands": 1}, {"Beaches, dunes, sands": 10}),
    ],
)
def test_near_twins(rare: dict[str, int], frequent: dict[str, int]) -> None:
    assert twins_of({**frequent, "other": 5, **rare}) == [(*rare, *frequent)]


@pytest.mark.parametrize(
    "counts",
    [
        {"class1": 1, "class2": 40, "class 12": 1},
        {"zone A": 1, "zone B": 40, "zone-c": 2},
        {"typeA": 1, "typeB": 40},
        {"type I": 1, "type II": 40, "type IV": 1},
        {"1.1": 1, "11": 40, "1.2": 1},
        {"C": 40, "C++": 1, "C#": 1},
        {"नदी": 40, "नाद": 1, "नद": 1},
        {"😀": 40, "😃": 1},
        {"court": 40, "count": 50},  # both frequent
        {"sea": 40, "tea": 1, "pea": 1},  # short
        {"dense residential": 1, "sparse residential": 40},
        {f"zone {a}{b}": 1 + 9 * (a == b) for a in "abcdef" for b in "abcdef"},  # a family of names that are alike
    ],
)
def test_what_only_looks_alike(counts: dict[str, int]) -> None:
    assert twins_of(counts) == []


def test_many_twins_are_counted() -> None:
    words = ["airplane", "harbour", "chaparral", "pavement", "intersection", "baseball", "overpass"]
    notes = describe_labels(*labels_of({name: 9 for name in words} | {name[:-1] + "x": 1 for name in words}))
    assert sum("did you mean" in note for note in notes) == 5
    assert notes[-1].startswith("2 more pairs look alike: ") and " beside " in notes[-1]


def test_thousands_of_labels_are_compared() -> None:
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefghijklmnop"), 7)) for _ in range(300)]
    names = list(dict.fromkeys(" ".join(generator.choice(words, 3)) for _ in range(3000)))
    alike = [f"{a}{b}{c}zone" for a in "abcdefghij" for b in "abcdefghij" for c in "abcdefghij"]
    counts = generator.choice([1, 1, 50], len(names) + len(alike) + 1)
    counts[7], counts[-1] = 50, 1
    typo = names[7][:5] + names[7][6:]
    found = near_twins([*names, *alike, typo], counts)
    assert (len(counts) - 1, 7) in found
