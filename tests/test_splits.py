"""Splits: whole, disjoint, repeatable; blocks by hand-counted numbers; official parts kept; errors that help."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.splits import PARTS, Splits, seen_before, split_archive, stratify

TILE = np.zeros((4, 4, 3), np.uint8)


def make_archive(labels: np.ndarray, **fields: Any) -> Archive:
    names = tuple(f"{index:05d}.png" for index in range(len(labels)))
    label_names = tuple(f"label{index}" for index in range(labels.shape[1]))
    return Archive("made", label_names, names, labels, lambda index: TILE, **fields)


def numbered(per_scene: dict[str, range], **fields: Any) -> Archive:
    pairs = [(scene, number) for scene, numbers in per_scene.items() for number in numbers]
    labels = np.ones((len(pairs), 2), np.uint8)
    scenes = tuple(scene for scene, _ in pairs)
    return make_archive(labels, scenes=scenes, numbers=np.array([n for _, n in pairs]), **fields)


def long_tailed(images: int = 400) -> np.ndarray:
    rng = np.random.default_rng(3)
    labels = (rng.random((images, 6)) < [0.7, 0.4, 0.2, 0.05, 0.0, 0.0]).astype(np.uint8)
    labels[:3, 4] = 1  # three images: one for each part
    labels[7, 5] = 1
    return labels


def assert_whole(splits: Splits, total: int) -> None:
    everything = np.concatenate([splits.train, splits.validation, splits.test])
    np.testing.assert_array_equal(np.sort(everything), np.arange(total))
    for part in PARTS:
        indices = getattr(splits, part)
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()


@pytest.mark.parametrize(
    "total, validation, test", [(80, range(52, 64), range(64, 80)), (100, range(65, 80), range(80, 100))]
)
def test_blocks_are_the_last_numbers_of_each_scene(total: int, validation: range, test: range) -> None:
    archive = numbered({"a": range(total), "b": range(total)}, default_split="blocks")
    splits = split_archive(archive)
    assert_whole(splits, 2 * total)
    for offset in (0, total):
        assert set(validation) == {i - offset for i in splits.validation.tolist() if 0 <= i - offset < total}
        assert set(test) == {i - offset for i in splits.test.tolist() if 0 <= i - offset < total}
    assert splits.kind == "blocks"
    assert not splits.leaks
    spans = f"{validation[0]}-{validation[-1]} validation, {test[0]}-{test[-1]} test"
    assert splits.note == f"split by blocks of neighbouring numbers: {spans}"


def test_a_gap_keeps_validation_away_from_training() -> None:
    archive = numbered({"a": range(80), "b": range(80)}, default_split="blocks")
    splits, without = split_archive(archive, gap=0.1), split_archive(archive)
    assert archive.numbers is not None
    assert np.unique(archive.numbers[splits.train]).tolist() == list(range(44))  # 52 less 8
    for part in ("validation", "test"):
        np.testing.assert_array_equal(getattr(splits, part), getattr(without, part))
    assert splits.note == (
        "split by blocks of neighbouring numbers: 52-63 validation, 64-79 test; 16 images before validation left out"
    )
    with pytest.raises(ValueError, match=r"gap must be 0 where the parts are no blocks .* got 0.1"):
        split_archive(archive, "random", gap=0.1)
    with pytest.raises(ValueError, match=r"validation \+ test \+ gap must be < 1, got 0.15 \+ 0.2 \+ 0.7"):
        split_archive(archive, gap=0.7)


def test_blocks_of_scenes_numbered_differently() -> None:
    # 10 numbers each: 2 test, round(1.5) = 2 validation; the park begins at 101, as in ML-AID.
    archive = numbered({"farm": range(1, 11), "park": range(101, 111)}, default_split="blocks")
    splits = split_archive(archive)
    assert archive.numbers is not None
    assert archive.numbers[splits.test].tolist() == [9, 10, 109, 110]
    assert archive.numbers[splits.validation].tolist() == [7, 8, 107, 108]
    # Every number lies in one part only, but 7-108 would say that 101 is validation: shares are told instead.
    assert splits.note == (
        "split by blocks of neighbouring numbers: the last 20% of each scene test, the 15% before them validation"
    )


def test_blocks_keep_images_of_one_number_together_whatever_their_order() -> None:
    numbers = np.array([4, 0, 1, 4, 2, 3, 3, 0, 1, 2])
    archive = make_archive(np.ones((10, 1), np.uint8), numbers=numbers)
    splits = split_archive(archive, "blocks", validation=0.2, test=0.2)  # 5 numbers: one each
    assert splits.test.tolist() == [0, 3]
    assert splits.validation.tolist() == [5, 6]


def test_random_has_exact_sizes_and_follows_the_seed() -> None:
    archive = make_archive(long_tailed())
    first, again, other = (split_archive(archive, seed=seed) for seed in (5, 5, 6))
    assert_whole(first, 400)
    assert (len(first.train), len(first.validation), len(first.test)) == (260, 60, 80)
    np.testing.assert_array_equal(first.test, again.test)
    np.testing.assert_array_equal(first.validation, again.validation)
    assert first.test.tolist() != other.test.tolist()
    assert first.kind == "random"
    assert not first.leaks
    assert "seed 5" in first.note


@pytest.mark.parametrize("seed", range(5))
def test_random_keeps_the_share_of_every_label(seed: int) -> None:
    labels = long_tailed()
    splits = split_archive(make_archive(labels), seed=seed)
    counts = labels.sum(axis=0)
    for part, share in (("train", 0.65), ("validation", 0.15), ("test", 0.2)):
        held = labels[getattr(splits, part)].sum(axis=0)
        # Dealt out rarest first: the rare label is within 1.5 of its share, the common ones pay for it a little.
        assert abs(held[3] - share * counts[3]) <= 1.5
        assert np.abs(held[:3] - share * counts[:3]).max() <= 4
    # Three images, 1.95 wanted in train, 0.6 in test, 0.45 in validation: 1.95 > 0.95 > 0.6, so two train and one test.
    assert [int(labels[getattr(splits, part), 4].sum()) for part in PARTS] == [2, 0, 1]
    assert labels[splits.train, 5].sum() == 1


def test_stratify_is_the_hand_dealt_case() -> None:
    # Four images with the label, sizes 4:2:2, so 2, 1 and 1 of them are wanted; the four without fill up.
    labels = np.array([[1], [1], [1], [1], [0], [0], [0], [0]])
    parts = stratify(labels, (4, 2, 2), seed=1)
    assert np.bincount(parts[:4]).tolist() == [2, 1, 1]
    assert np.bincount(parts[4:]).tolist() == [2, 1, 1]
    with pytest.raises(ValueError, match=r"sizes must be >= 0 and add up to the 8 images, got \[4, 2, 1\]"):
        stratify(labels, (4, 2, 1), seed=1)


def test_random_on_neighbouring_crops_says_that_it_leaks() -> None:
    archive = numbered({"a": range(40)}, default_split="blocks")
    splits = split_archive(archive, "random")
    assert splits.leaks
    assert splits.note == "random split of an archive with neighbouring crops: figures are optimistic"


def test_official_test_part_is_kept_and_validation_is_drawn_from_train() -> None:
    official = tuple("test" if index % 4 == 0 else "train" for index in range(400))
    archive = make_archive(long_tailed(), official_split=official, default_split="official")
    splits = split_archive(archive, test=0.5, seed=2)  # the share of test is not used
    assert_whole(splits, 400)
    assert splits.test.tolist() == list(range(0, 400, 4))
    assert len(splits.validation) == 45  # 15 % of 300
    assert not splits.leaks
    assert splits.note == "official split; validation is 15% of its training part, by seed 2, labels balanced"


def test_official_validation_by_blocks_where_that_is_the_default() -> None:
    # Ten official training numbers 10..19: round(0.15 * 10 + half up) = 2, the last of them.
    official = ("test",) * 10 + ("train",) * 10
    archive = numbered({"a": range(20)}, official_split=official, default_split="blocks")
    splits = split_archive(archive, "official")
    assert splits.test.tolist() == list(range(10))
    assert splits.validation.tolist() == [18, 19]


def test_shares_of_zero_leave_a_part_out_on_purpose() -> None:
    splits = split_archive(make_archive(long_tailed()), validation=0, test=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (400, 0, 0)
    blocks = split_archive(numbered({"a": range(10)}), "blocks", validation=0, test=0)
    assert blocks.note == "split by blocks of neighbouring numbers: all train"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "blcks"}, "must be one of auto, random, blocks, groups, geographic, official, got 'blcks'"),
        ({"kind": "official"}, "'made' has none. Use split 'random'"),
        ({"kind": "blocks"}, "'made' has none. Use split 'random'"),
        ({"test": 1.0}, r"test must be a share in \[0, 1\), got 1.0"),
        ({"test": 20}, r"test must be a share in \[0, 1\), got 20"),
        ({"validation": -0.1}, r"validation must be a share in \[0, 1\), got -0.1"),
        ({"validation": float("nan")}, "validation must be a share"),
        ({"validation": 0.5, "test": 0.5}, r"validation \+ test \+ gap must be < 1"),
        ({"validation": 0.01}, r"has no validation image\. Raise validation\.$"),
        ({"test": 0.01}, r"has no test image\. Raise test\.$"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_errors_name_rule_value_and_remedy(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_archive(make_archive(long_tailed(20)), **arguments)


def test_official_without_a_test_image() -> None:
    archive = make_archive(long_tailed(20), official_split=("train",) * 20)
    with pytest.raises(ValueError, match=r"no test image\. Mark some images as test in .* or use split=random"):
        split_archive(archive, "official")


def test_too_few_images_for_a_training_part() -> None:
    with pytest.raises(ValueError, match=r"has no train image\. 3 parts need 3 images that differ, at least: add some"):
        split_archive(make_archive(np.ones((2, 1), np.uint8)), validation=0.45, test=0.45)


def test_written_splits_are_read_back_as_names(tmp_path) -> None:
    archive = numbered({"a": range(20)}, default_split="blocks")
    splits = split_archive(archive)
    path = splits.write(tmp_path, archive)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name] == ["splits.json"]
    # The archive gained an image in front: the same names are other indices.
    grown = make_archive(np.ones((21, 2)))
    grown = dataclasses.replace(grown, file_names=("00000 0.png", *archive.file_names))
    read = Splits.read(tmp_path, grown)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(read, part), getattr(splits, part) + 1)
    assert (read.kind, read.leaks, read.note) == (splits.kind, splits.leaks, splits.note)
    assert read.changes == ("new tiles, in no part of the run: 1 (00000 0.png)",)


def test_what_became_of_an_archive_is_counted_and_named(tmp_path) -> None:
    labels = long_tailed(40)
    archive = make_archive(labels, contents=tuple(f"{i:032d}"[::-1] for i in range(40)))
    splits = split_archive(archive)
    splits.write(tmp_path, archive)
    assert Splits.read(tmp_path, archive).changes == ()
    gone, unlike = int(splits.test[0]), int(splits.train[3])
    other = labels.copy()
    other[unlike] = 1 - other[unlike]
    contents = tuple("f" * 32 if i == unlike else f"{i:032d}"[::-1] for i in range(40))
    kept = [i for i in range(40) if i != gone]
    # The columns of the labels stand in another order, which changes no tile.
    changed = Archive(
        "made",
        archive.label_names[::-1],
        tuple(archive.file_names[i] for i in kept),
        other[kept][:, ::-1],
        archive.read_image,
        contents=tuple(contents[i] for i in kept),
    )
    read = Splits.read(tmp_path, changed)
    assert read.changes == (
        f"test tiles of the run that are not in the archive now: 1 ({archive.file_names[gone]})",
        f"tiles with other labels than when the run began: 1 ({archive.file_names[unlike]})",
        f"tiles with other pixels than when the run began: 1 ({archive.file_names[unlike]})",
    )
    assert [changed.file_names[i] for i in read.test] == [archive.file_names[i] for i in splits.test[1:]]
    assert [changed.file_names[i] for i in read.train] == [archive.file_names[i] for i in splits.train]


def test_another_archive_is_not_taken_for_the_one_of_the_run(tmp_path) -> None:
    archive = make_archive(long_tailed(40), contents=tuple(f"{i:032d}"[::-1] for i in range(40)))
    splits = split_archive(archive)
    splits.write(tmp_path, archive)
    # The same names, as tile00.png and so on are everywhere, but other labels and other pixels.
    other = make_archive(1 - long_tailed(40), contents=tuple(f"{i + 99:032d}"[::-1] for i in range(40)))
    with pytest.raises(ValueError, match=r"of its 40 images \d+ are in 'made' with the same labels or pixels"):
        Splits.read(tmp_path, other)
    # All labels mended at once: it is the same archive still, by its pixels.
    relabelled = make_archive(1 - long_tailed(40), contents=archive.contents)
    assert len(Splits.read(tmp_path, relabelled).changes) == 1
    assert seen_before(tmp_path, other).tolist() == []
    renamed = dataclasses.replace(archive, file_names=tuple(f"x{name}" for name in archive.file_names))
    np.testing.assert_array_equal(seen_before(tmp_path, renamed), np.union1d(splits.train, splits.validation))


@pytest.mark.parametrize("text", ["{", "{}", '{"train": ["a"], "digests": {}}', None])
def test_a_lost_or_damaged_list_of_parts_says_what_to_do(tmp_path, text) -> None:
    if text is not None:
        (tmp_path / "splits.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=r"splits\.json.*train again with another --run-dir"):
        Splits.read(tmp_path, make_archive(long_tailed(20)))


@pytest.mark.parametrize("seed", range(3))
def test_exact_copies_lie_in_one_part(seed: int) -> None:
    """A tenth of the tiles stand in the archive two to four times under other names, some with other labels."""
    rng = np.random.default_rng(seed)
    contents = np.arange(200)
    contents[rng.permutation(200)[:60]] = rng.integers(0, 20, 60)
    archive = make_archive(long_tailed(200), contents=tuple(f"{i:032d}"[::-1] for i in contents))
    splits = split_archive(archive, seed=seed)
    assert_whole(splits, 200)
    parts = {part: set(contents[getattr(splits, part)]) for part in PARTS}
    assert not parts["train"] & parts["test"] and not parts["train"] & parts["validation"]
    assert not parts["validation"] & parts["test"]
    copies = 200 - len(np.unique(contents))
    assert f"; {copies} images are exact copies of another, in the same part (000" in splits.note
    assert not splits.leaks


def test_copies_of_held_back_tiles_leave_training_where_the_parts_are_given() -> None:
    contents = [f"{i:032d}"[::-1] for i in range(20)]
    contents[2] = contents[19]  # training and test
    contents[3] = contents[4]  # both training
    archive = numbered({"a": range(20)}, default_split="blocks", contents=tuple(contents))
    splits = split_archive(archive)
    assert set(splits.test) == {16, 17, 18, 19} and 2 not in {*splits.train, *splits.validation}
    assert {3, 4} <= set(splits.train)
    assert "; 2 images are exact copies of another, 1 of them left out" in splits.note
    given = tuple("test" if i > 15 else "train" for i in range(20))
    official = make_archive(np.ones((20, 1)), official_split=given, contents=tuple(contents), default_split="official")
    parts = split_archive(official)
    assert set(parts.test) == {16, 17, 18, 19} and 2 not in {*parts.train, *parts.validation}
    home = {image: part for part in PARTS for image in getattr(parts, part).tolist()}
    assert home[3] == home[4]


def test_a_table_whose_tiles_are_all_test_is_told_what_helps() -> None:
    archive = make_archive(np.ones((9, 1)), official_split=("test",) * 9, default_split="official")
    with pytest.raises(ValueError, match="Mark some images as train in the table's column 'split'"):
        split_archive(archive)
    assert len(split_archive(archive, "random").train)  # the other remedy


def test_a_file_name_that_is_no_utf8_survives_the_round_trip(tmp_path) -> None:
    archive = dataclasses.replace(
        make_archive(long_tailed(20)), file_names=(*make_archive(long_tailed(19)).file_names, "\udcff.png")
    )
    splits = split_archive(archive)
    splits.write(tmp_path, archive)
    np.testing.assert_array_equal(Splits.read(tmp_path, archive).train, splits.train)
