"""WHDLD: 4940 tiles of Wuhan with a mask of six labels each (Shao et al., 2018, 2020)."""

from __future__ import annotations

from pathlib import Path

from macl_tf.datasets.preparing import ArchiveBuilder
from macl_tf.datasets.records import Listing, masked_records
from macl_tf.datasets.sources import Source

# Name lists in the wild are alphabetical and do not match the raw values, so only the colours are believed.
COLOURS = {
    "building": (255, 0, 0), "road": (255, 255, 0), "pavement": (192, 192, 0), "vegetation": (0, 255, 0),
    "bare-soil": (128, 128, 128), "water": (0, 0, 255),
}  # fmt: skip
LABEL_NAMES = tuple(COLOURS)

SOURCE = Source(
    title="WHDLD",
    folders=("whdld",),
    layout="WHDLD/Images/wh0001.jpg (pictures)\nWHDLD/ImagesPNG/wh0001.png (masks in colour)",
    origin="https://sites.google.com/view/zhouwx/dataset (WHDLD.zip).",
    homepage="https://sites.google.com/view/zhouwx/dataset",
    description="""\
4940 tiles of 256 x 256 pixels, 2 m, from one large picture of Wuhan, with dense masks of six classes. An image has a
label where its mask has a pixel of it.
""",
    citation="""\
@article{shao2020multilabel,
  author={Shao, Zhenfeng and Zhou, Weixun and Deng, Xueqing and Zhang, Maoding and Cheng, Qimin},
  title={Multilabel Remote Sensing Image Retrieval Based on Fully Convolutional Network},
  journal={IEEE Journal of Selected Topics in Applied Earth Observations and Remote Sensing}, volume={13},
  pages={318--328}, year={2020}
}
""",
)


class Whdld(ArchiveBuilder):
    """WHDLD, its labels taken from the colours of the masks."""

    SOURCE = SOURCE
    LABEL_NAMES = LABEL_NAMES
    SCENES = False
    AREAS = True

    @classmethod
    def list_records(cls, *paths: Path) -> Listing:
        """Pair pictures and masks; without any mask, join the pictures with a label table, which must have a header."""
        return masked_records(
            SOURCE,
            paths,
            COLOURS,
            by_index=False,
            table=r"(?!~\$).*label.*\.(txt|csv|tsv|xlsx)",
            without_pictures="",
            without_masks="mask in the six colours (grey ones do not say which is which)",
        )
