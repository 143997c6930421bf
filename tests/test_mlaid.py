"""ML-AID on generated archives. Why plain pytest: see test_ucm."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from macl_tf.datasets import load_archive
from tests.generated import MLAID_FILES, photo, save, write_mlaid

FILES = ("Airport/airport_10.jpg", "Airport/airport_2.jpg", "BareLand/bareland_1.jpg", "BareLand/bareland_7.jpg",
         "Park/park_101.jpg")  # fmt: skip
# Where each of them stands in MLAID_FILES, and in which folder.
ROWS = [1, 0, 4, 3, 2]
SPLITS = ("train", "test", "train", "test", "train")


@pytest.mark.parametrize(
    ("delimiter", "table"), [(",", "multilabel.csv"), ("\t", "multlabel.csv"), (";", "multilabel.csv")]
)
def test_rows_are_matched_by_name_and_the_split_is_kept(delimiter: str, table: str, tmp_path: Path) -> None:
    labels = write_mlaid(tmp_path / "AID_multilabel", delimiter=delimiter, table=table)
    archive = load_archive("mlaid", tmp_path, cache_dir=tmp_path / "cache")
    assert archive.file_names == FILES
    np.testing.assert_array_equal(archive.labels, labels[ROWS])
    assert archive.official_split == SPLITS and archive.default_split == "official"
    assert archive.scenes == ("Airport", "Airport", "BareLand", "BareLand", "Park")
    assert archive.numbers.tolist() == [10, 2, 1, 7, 101] and archive.notes == ()
    for index, row in enumerate(ROWS):  # JPEG of noise is far from the original, but nearest to its own
        errors = [np.abs(archive.read_image(index).astype(int) - photo(seed, 30, 30)).mean() for seed in range(5)]
        assert np.argmin(errors) == row


def test_the_official_split_is_a_tfds_split(tmp_path: Path) -> None:
    write_mlaid(tmp_path / "AID_multilabel")
    train, test = tfds.load(
        "mlaid", split=["train", "test"], data_dir=tmp_path / "d", builder_kwargs={"source_dir": tmp_path}
    )
    names = [sorted(example["file_name"].decode() for example in part.as_numpy_iterator()) for part in (train, test)]
    assert names == [[FILES[0], FILES[2], FILES[4]], [FILES[1], FILES[3]]]


def test_without_the_two_folders_there_is_no_official_split(tmp_path: Path) -> None:
    write_mlaid(tmp_path / "AID_multilabel")
    for split in ("images_tr", "images_test"):
        shutil.copytree(tmp_path / "AID_multilabel" / split, tmp_path / "AID_multilabel/images", dirs_exist_ok=True)
        shutil.rmtree(tmp_path / "AID_multilabel" / split)
    archive = load_archive("mlaid", tmp_path, cache_dir=tmp_path / "cache")
    assert len(archive) == 5 and archive.official_split is None and archive.default_split == "random"
    assert archive.notes == ("5 images lie neither in images_tr nor in images_test: the official split is not known",)


def test_images_of_aid_itself_are_counted_and_its_copies_not_preferred(tmp_path: Path) -> None:
    write_mlaid(tmp_path / "AID_multilabel")
    save(tmp_path / "AID_multilabel/AID/Airport/airport_10.jpg", photo(8, 30, 30))
    save(tmp_path / "AID_multilabel/AID/Airport/airport_300.jpg", photo(9, 30, 30))
    archive = load_archive("mlaid", tmp_path, cache_dir=tmp_path / "cache")
    assert archive.file_names == FILES and archive.official_split == SPLITS
    assert archive.notes == ("1 image has no row in multilabel.csv and was left out: airport_300.jpg",)


def test_a_matrix_alone_is_no_table(tmp_path: Path) -> None:
    write_mlaid(tmp_path / "AID_multilabel")
    (tmp_path / "AID_multilabel/multilabel.csv").rename(tmp_path / "AID_multilabel/multilabel.mat")
    with pytest.raises(FileNotFoundError, match=r"no label table multilabel\.csv"):
        load_archive("mlaid", tmp_path, cache_dir=tmp_path / "cache")
    assert len(MLAID_FILES) == 5
