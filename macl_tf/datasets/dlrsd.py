"""DLRSD: the 2100 tiles of UC Merced with a mask of 17 labels each (Shao et al., 2018)."""

from __future__ import annotations

import os
from pathlib import Path

from macl_tf.datasets.archives import bare_name
from macl_tf.datasets.preparing import ArchiveBuilder
from macl_tf.datasets.records import Listing, masked_records
from macl_tf.datasets.sources import Source
from macl_tf.datasets.walk import subfolders

# The colour of each label in the masks; label i has the raw value i + 1.
COLOURS = {
    "airplane": (166, 202, 240), "bare-soil": (128, 128, 0), "buildings": (0, 0, 128), "cars": (255, 0, 0),
    "chaparral": (0, 128, 0), "court": (128, 0, 0), "dock": (255, 233, 233), "field": (160, 160, 164),
    "grass": (0, 128, 128), "mobile-home": (90, 87, 255), "pavement": (255, 255, 0), "sand": (255, 192, 0),
    "sea": (0, 0, 255), "ship": (255, 0, 192), "tanks": (128, 0, 128), "trees": (0, 255, 0), "water": (0, 255, 255),
}  # fmt: skip
LABEL_NAMES = tuple(COLOURS)

SOURCE = Source(
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
    homepage="https://sites.google.com/view/zhouwx/dataset",
    description="""\
The 2100 tiles of UC Merced (256 x 256 pixels, 0.3 m, 21 scenes) with dense masks of 17 classes. An image has a label
where its mask has a pixel of it. These labels are not the UC Merced table's: 148 images differ.
""",
    citation="""\
@article{shao2018performance,
  author={Shao, Zhenfeng and Yang, Ke and Zhou, Weixun},
  title={Performance Evaluation of Single-Label and Multi-Label Remote Sensing Image Retrieval Using a Dense
         Labeling Dataset},
  journal={Remote Sensing}, volume={10}, number={6}, pages={964}, year={2018}
}
""",
)
_PICTURE_FOLDERS = ("ucm", "landuse")


class Dlrsd(ArchiveBuilder):
    """DLRSD in any of its three layouts."""

    SOURCE = SOURCE
    LABEL_NAMES = LABEL_NAMES
    AREAS = True
    DEFAULT_SPLIT = "blocks"

    @classmethod
    def source_paths(cls, data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
        """Return the archive's folder, then the folders beside it that may hold the pictures of UC Merced."""
        root = cls.SOURCE.locate(data_dir)
        given = Path(data_dir or root).expanduser().resolve()
        beside = [path for place in {given, root.resolve().parent} for path in subfolders(place)]
        named = {path for path in beside if any(part in bare_name(path.name) for part in _PICTURE_FOLDERS)}
        return root, *sorted(path for path in named if not root.resolve().is_relative_to(path))

    @classmethod
    def list_records(cls, *roots: Path) -> Listing:
        """Pair pictures and masks; without any mask, join the pictures with the table multilabels.csv."""
        return masked_records(
            SOURCE,
            roots,
            COLOURS,
            by_index=True,
            table=r"multi_?labels?\.(txt|csv|tsv|xlsx)",
            without_pictures="; put UCMerced_LandUse beside or inside it",
            without_masks="mask of 17 labels and no multilabels.csv",
        )
