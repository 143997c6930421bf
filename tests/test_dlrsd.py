"""DLRSD on generated archives in its three layouts. Why plain pytest: see test_ucm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from macl_tf.datasets import load_archive
from tests.generated import DLRSD_MASKS, UCM_LABELS, photo, save, write_dlrsd, write_ucm

STEMS = tuple(DLRSD_MASKS)


def expected_areas(share: float = 0.5) -> np.ndarray:
    areas = np.zeros((len(STEMS), 17), np.float32)
    for row, (first, second) in zip(areas, DLRSD_MASKS.values(), strict=True):
        row[[first - 1, second - 1]] = share, 1 - share  # raw value i is label i - 1
    return areas


@pytest.mark.parametrize("layout", ["a, pictures beside", "a, pictures inside", "b", "c"])
def test_layouts(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "DLRSD"
    write_dlrsd(folder, layout[0], mask_share=0.25)
    if layout.startswith("a"):
        write_ucm((folder if "inside" in layout else folder.parent) / "UCMerced_LandUse", stems=STEMS)
    for number, given in enumerate((tmp_path / "data", folder)):
        archive = load_archive("dlrsd", given, cache_dir=tmp_path / f"cache{number}")
        suffix = ".png" if layout == "c" else ".tif"
        assert archive.file_names == tuple(f"{stem[:-2]}/{stem}{suffix}" for stem in STEMS)
        assert archive.label_names == tuple(UCM_LABELS)
        np.testing.assert_array_equal(archive.labels, expected_areas() > 0)
        np.testing.assert_array_equal(archive.label_areas, expected_areas(0.25))
        assert archive.scenes == ("agricultural", "airplane", "beach") and archive.numbers.tolist() == [0, 3, 10]
        assert archive.default_split == "blocks" and archive.notes == ()
        for index in range(3):
            np.testing.assert_array_equal(archive.read_image(index), photo(index))


def test_masks_without_pictures_ask_for_uc_merced(tmp_path: Path) -> None:
    write_dlrsd(tmp_path / "DLRSD", "a")
    with pytest.raises(
        FileNotFoundError, match="3 masks are there, but not their pictures; put UCMerced_LandUse beside"
    ):
        load_archive("dlrsd", tmp_path, cache_dir=tmp_path / "cache")


def test_index_masks_alone_serve(tmp_path: Path) -> None:
    write_dlrsd(tmp_path, "c")
    for path in (tmp_path / "full_masks").iterdir():
        path.unlink()
    np.testing.assert_array_equal(
        load_archive("dlrsd", tmp_path, cache_dir=tmp_path / "cache").labels, expected_areas() > 0
    )


def test_the_table_serves_only_where_there_are_no_masks(tmp_path: Path) -> None:
    write_dlrsd(tmp_path, "b")
    table = tmp_path / "multilabels.csv"
    lines = table.read_text().splitlines()
    table.write_text(
        "\n".join([lines[0], *(line.replace("1", "0", 3) if "00" in line else line for line in lines[1:])])
    )
    from_masks = load_archive("dlrsd", tmp_path, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(from_masks.labels, expected_areas() > 0)

    for path in (tmp_path / "Labels").rglob("*.png"):
        path.unlink()
    write = "\n".join(lines)
    table.write_text(write)
    from_table = load_archive("dlrsd", tmp_path, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(from_table.labels, expected_areas() > 0)
    assert from_table.label_areas is None
    assert from_table.notes == ("there are no masks: labels are from multilabels.csv",)
    with pytest.raises(ValueError, match="min_area must be 0 for dlrsd without masks"):
        load_archive("dlrsd", tmp_path, cache_dir=tmp_path / "cache", min_area=0.1)


@pytest.mark.parametrize(("min_area", "kept"), [(0.0, 2), (0.25, 2), (0.26, 1), (0.8, 0)])
def test_a_label_below_the_smallest_area_does_not_count(min_area: float, kept: int, tmp_path: Path) -> None:
    write_dlrsd(tmp_path, "b", mask_share=0.25)
    archive = load_archive("dlrsd", tmp_path, cache_dir=tmp_path / "cache", min_area=min_area)
    assert archive.labels.sum(axis=1).tolist() == [kept] * 3
    unlabelled = [note for note in archive.notes if "no label" in note]
    assert len(unlabelled) == (kept == 0)


def test_pictures_without_mask_and_broken_masks_are_named(tmp_path: Path) -> None:
    write_dlrsd(tmp_path, "b")
    save(tmp_path / "Images/beach/beach11.tif", photo(5))
    (tmp_path / "Labels/airplane/airplane03.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    archive = load_archive("dlrsd", tmp_path, cache_dir=tmp_path / "cache")
    assert [Path(name).stem for name in archive.file_names] == ["agricultural00", "beach10"]
    assert archive.notes == (
        "1 image or mask cannot be read: airplane03.png",
        "2 images have no mask and were left out: airplane03.tif, beach11.tif",
    )
