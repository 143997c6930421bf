"""WHDLD on generated archives. Why plain pytest: see test_ucm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from macl_tf.datasets import load_archive
from tests.generated import WHDLD_COLOURS, WHDLD_MASKS, half_and_half, save, write_whdld

NAMES = ("building", "road", "pavement", "vegetation", "bare-soil", "water")
# By hand from WHDLD_MASKS: the first half of each mask covers a quarter.
AREAS = [[0.25, 0.75, 0, 0, 0, 0], [0, 0, 0, 0.25, 0, 0.75], [0, 0, 0.75, 0, 0.25, 0]]


@pytest.mark.parametrize("order", [tuple(WHDLD_COLOURS), tuple(sorted(WHDLD_COLOURS))])
def test_masks_are_decoded_by_colour_whatever_the_order_of_the_palette(order: tuple[str, ...], tmp_path: Path) -> None:
    write_whdld(tmp_path / "WHDLD", order=order)
    archive = load_archive("whdld", tmp_path, cache_dir=tmp_path / "cache")
    assert archive.label_names == NAMES
    assert archive.file_names == ("wh0001.jpg", "wh0002.jpg", "wh0003.jpg")
    assert archive.label_areas.tolist() == AREAS
    np.testing.assert_array_equal(archive.labels, np.array(AREAS) > 0)
    assert archive.scenes is None and archive.numbers is None and archive.default_split == "random"
    assert archive.read_image(0).shape == (24, 24, 3) and archive.notes == ()


def test_folders_may_be_called_otherwise(tmp_path: Path) -> None:
    write_whdld(tmp_path / "WHDLD", images="image/Images", masks="imagesPNG/ImagesPNG")
    (tmp_path / "WHDLD/image/Images/Thumbs.db").touch()
    assert load_archive("whdld", tmp_path / "WHDLD", cache_dir=tmp_path / "cache").label_areas.tolist() == AREAS


def test_grey_masks_do_not_say_which_label_is_which(tmp_path: Path) -> None:
    write_whdld(tmp_path / "WHDLD")
    for path in (tmp_path / "WHDLD/ImagesPNG").iterdir():
        save(path, half_and_half(1, 2).astype(np.uint8))
    with pytest.raises(FileNotFoundError, match="no mask in the six colours"):
        load_archive("whdld", tmp_path, cache_dir=tmp_path / "cache")


def test_a_table_is_read_by_its_header_and_refused_without(tmp_path: Path) -> None:
    write_whdld(tmp_path / "WHDLD")
    for path in (tmp_path / "WHDLD/ImagesPNG").iterdir():
        path.unlink()
    table = tmp_path / "WHDLD/labels.txt"
    table.write_text("".join(f"{stem} 0 1 0 1 0 1\n" for stem in WHDLD_MASKS))
    with pytest.raises(ValueError, match="must begin with a row that names its columns"):
        load_archive("whdld", tmp_path, cache_dir=tmp_path / "cache")
    header = "image,bare soil,building,pavement,road,vegetation,water\n"
    table.write_text(header + "".join(f"{stem},0,1,0,1,0,1\n" for stem in WHDLD_MASKS))
    archive = load_archive("whdld", tmp_path, cache_dir=tmp_path / "cache")
    assert archive.labels.tolist() == [[1, 1, 0, 0, 0, 1]] * 3  # building, road, water
    assert archive.notes == ("there are no masks: labels are from labels.txt",)
