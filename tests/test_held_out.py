"""The table that holds out a block of UC Merced, for choices."""

import pytest

from benchmarks.compare import held_out
from macl_tf.datasets import load_archive
from macl_tf.datasets.splits import split_archive
from tests.generated import write_ucm


def test_a_held_out_block_is_the_test_and_its_neighbours_are_nowhere(tmp_path, monkeypatch):
    numbers = (0, 15, 16, 19, 20, 35, 36, 39, 40, 63, 64, 79)
    write_ucm(tmp_path / "ucm", stems=[f"{scene}{number:02d}" for scene in ("airplane", "beach") for number in numbers])
    table = tmp_path / "block.csv"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    held_out.write_block(table, str(tmp_path / "ucm"), "20-35")

    whole = load_archive("ucm", tmp_path / "ucm")
    archive = load_archive("folder", tmp_path / "ucm", table=table)
    parts = split_archive(archive, validation=0.0)
    held = dict(zip(whole.file_names, map(names_of, [whole] * len(whole), whole.labels), strict=True))
    for indices, expected in ((parts.train, [0, 15, 40, 63]), (parts.test, [20, 35])):
        names = [archive.file_names[index].removeprefix("Images/") for index in indices]
        assert sorted(int(name[-6:-4]) for name in names) == sorted(2 * expected)
        assert [held[name] for name in names] == [names_of(archive, archive.labels[index]) for index in indices]


def names_of(archive, labels):
    return {name for name, has in zip(archive.label_names, labels, strict=True) if has}


def test_a_block_does_not_reach_the_test(tmp_path, monkeypatch):
    write_ucm(tmp_path / "ucm", stems=[f"airplane{number:02d}" for number in range(0, 80, 4)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="below the test tiles, from 64 on, got 60-64"):
        held_out.write_block(tmp_path / "block.csv", str(tmp_path / "ucm"), "60-64")
    assert not (tmp_path / "block.csv").exists()


@pytest.mark.parametrize("text", ["20", "35-20", "a-b", ""])
def test_a_block_is_a_range(text):
    with pytest.raises(ValueError, match="held_out must be FIRST-LAST"):
        held_out.numbers_of(text)
