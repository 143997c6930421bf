"""DLRSD: the 2100 tiles of UC Merced with a mask of 17 labels each (Shao et al., 2018).

Directly with TFDS; `labels` counts any pixel, `label_areas` holds the shares for a stricter rule:

    import tensorflow_datasets as tfds
    import macl_tf.datasets.dlrsd  # registers "dlrsd"

    dataset = tfds.load("dlrsd", split="train", builder_kwargs={"source_dir": "DLRSD"})
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from macl_tf.datasets.archives import bare_name
from macl_tf.datasets.preparing import ArchiveBuilder
from macl_tf.datasets.records import Listing, Record, mask_records, match_masks
from macl_tf.datasets.sources import Source, find_table, match_table
from macl_tf.datasets.tables import read_label_table
from macl_tf.datasets.walk import visible_entries

# The colour of each label in the masks; label i has the raw value i + 1.
COLOURS = {
    "airplane": (166, 202, 240), "bare-soil": (128, 128, 0), "buildings": (0, 0, 128), "cars": (255, 0, 0),
    "chaparral": (0, 128, 0), "court": (128, 0, 0), "dock": (255, 233, 233), "field": (160, 160, 164),
    "grass": (0, 128, 128), "mobile-home": (90, 87, 255), "pavement": (255, 255, 0), "sand": (255, 192, 0),
    "sea": (0, 0, 255), "ship": (255, 0, 192), "tanks": (128, 0, 128), "trees": (0, 255, 0), "water": (0, 255, 255),
}  # fmt: skip
LABEL_NAMES = tuple(COLOURS)

SOURCE = Source(
    name="dlrsd",
    title="DLRSD",
    folders=("dlrsd",),
    layout=(
        "DLRSD/Images/<scene>/<scene>NN.png (masks), with the pictures in UCMerced_LandUse beside or inside DLRSD\n"
        "or DLRSD/Images/<scene>/*.tif and DLRSD/Labels/<scene>/*.png\n"
        "or DLRSD/full_images and DLRSD/full_masks or full_1cmasks"
    ),
    origin=(
        "https://sites.google.com/view/zhouwx/dataset (DLRSD.zip); its pictures are those of "
        "http://weegee.vision.ucmerced.edu/datasets/UCMerced_LandUse.zip."
    ),
)
_PICTURE_FOLDERS = ("ucm", "landuse")

_DESCRIPTION = """\
The 2100 tiles of UC Merced (256 x 256 pixels, 0.3 m, 21 scenes) with dense masks of 17 classes. An image has a label
where its mask has a pixel of it. These labels are not the UC Merced table's: 148 images differ.
"""
_CITATION = """\
@article{shao2018performance,
  author={Shao, Zhenfeng and Yang, Ke and Zhou, Weixun},
  title={Performance Evaluation of Single-Label and Multi-Label Remote Sensing Image Retrieval Using a Dense
         Labeling Dataset},
  journal={Remote Sensing}, volume={10}, number={6}, pages={964}, year={2018}
}
"""


class Dlrsd(ArchiveBuilder):
    """DLRSD in any of its three layouts."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {
        "1.1.0": "Pictures of other kinds than 8-bit RGB, grey and palette are left out; each one's digest.",
        "1.0.0": "First release.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put one of these into the manual directory, or name it as source_dir:\n{SOURCE.layout}"
    )

    SOURCE = SOURCE
    LABEL_NAMES = LABEL_NAMES
    DEFAULT_SPLIT = "blocks"

    @classmethod
    def source_paths(cls, data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
        """Return the archive's folder, then the folders beside it that may hold the pictures of UC Merced."""
        root = cls.SOURCE.locate(data_dir)
        given = Path(data_dir or root).expanduser().resolve()
        beside = [
            place / name
            for place in {given, root.resolve().parent}
            for name, is_folder in visible_entries(place)
            if is_folder
        ]
        named = {path for path in beside if any(part in bare_name(path.name) for part in _PICTURE_FOLDERS)}
        return root, *sorted(path for path in named if not root.resolve().is_relative_to(path))

    def _info(self) -> tfds.core.DatasetInfo:
        return self.example_info(
            description=_DESCRIPTION,
            homepage="https://sites.google.com/view/zhouwx/dataset",
            citation=_CITATION,
            areas=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        listing = list_records(self.source_paths(self.archive_dir(dl_manager)))
        self.keep_notes(listing)
        return {"train": self._generate_examples(listing.records)}

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self.examples(records)


def list_records(roots: Sequence[Path]) -> Listing:
    """Pair pictures and masks; without any mask, join the pictures with the table multilabels.csv."""
    images, masks, notes = match_masks(roots, tuple(COLOURS.values()), by_index=True)
    if masks:
        listing = mask_records(images, masks, notes)
        if not listing.records:
            raise SOURCE.missing(
                roots[0],
                f"{len(masks)} masks are there, but not their pictures; put UCMerced_LandUse beside or inside it",
            )
        return listing
    table = find_table(roots[:1], r"multi_?labels?\.(txt|csv|tsv)")
    if table is None:
        raise SOURCE.missing(
            roots[0], f"{len(images)} pictures are there, but no mask of 17 labels and no multilabels.csv"
        )
    matched, more_notes = match_table(images, read_label_table(table).choose(LABEL_NAMES))
    if not matched:
        raise SOURCE.missing(roots[0], f"no picture has a row in {table.name}")
    records = [Record(images[stem], row) for stem, row in sorted(matched.items())]
    return Listing(records, [*notes, f"there are no masks: labels are from {table.name}", *more_notes])
