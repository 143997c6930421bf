"""ML-AID: 3000 aerial tiles of 30 scenes with 17 labels, 2400 to train and 600 to test (Hua et al., 2019)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from macl_tf.datasets.archives import bare_name
from macl_tf.datasets.preparing import ArchiveBuilder
from macl_tf.datasets.records import Listing, table_records
from macl_tf.datasets.sources import Source, choose_by_stem
from macl_tf.datasets.tables import read_label_table
from macl_tf.datasets.ucm import LABEL_NAMES
from macl_tf.datasets.walk import image_paths

SOURCE = Source(
    title="ML-AID (AID with 17 labels)",
    folders=("aidmultilabel", "multilabelaid", "mlaid", "aidml"),
    layout=(
        "AID_multilabel/images_tr/<Scene>/<scene>_N.jpg\nAID_multilabel/images_test/<Scene>/<scene>_N.jpg\n"
        "AID_multilabel/multilabel.csv (or multlabel.csv)"
    ),
    origin="https://github.com/Hua-YS/AID-Multilabel-Dataset.",
    homepage="https://github.com/Hua-YS/AID-Multilabel-Dataset",
    description="""\
3000 aerial tiles of 600 x 600 pixels from the 30 scenes of AID, with the 17 labels of UC Merced, 2400 to train and 600
to test. mobile-home has two images: a split may have none.
""",
    citation="""\
@article{hua2020relation,
  author={Hua, Yuansheng and Mou, Lichao and Zhu, Xiao Xiang},
  title={Relation Network for Multilabel Aerial Image Classification},
  journal={IEEE Transactions on Geoscience and Remote Sensing}, volume={58}, number={7}, pages={4558--4572}, year={2020}
}
""",
)
_SPLITS = {"imagestr": "train", "imagestrain": "train", "imagestest": "test", "imageste": "test"}


class Mlaid(ArchiveBuilder):
    """ML-AID with its official split."""

    SOURCE = SOURCE
    LABEL_NAMES = LABEL_NAMES
    DEFAULT_SPLIT = "official"

    @classmethod
    def source_paths(cls, data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
        """Return the folder of the images and the label table."""
        # multilabel.mat is of no use here: it names no image, and its rows follow no rule that is written down.
        pattern = r"mult(i[-_ ]?)?labels?\.(txt|csv|tsv|xlsx)"
        return SOURCE.locate_table(data_dir, [pattern], "multilabel.csv or multlabel.csv")

    @classmethod
    def list_records(cls, *paths: Path) -> Listing:
        """Join images and rows by name; of two images with one stem, one from images_tr or images_test is taken."""
        root, table = paths
        images = choose_by_stem(image_paths(root), lambda path: _split_of(path, root) is None)
        listing = table_records(SOURCE, root, images, read_label_table(table).choose(LABEL_NAMES))
        splits = [_split_of(record.path, root) for record in listing.records]
        if unknown := splits.count(None):
            lying = "images lie neither in images_tr nor in images_test"
            return Listing(listing.records, [*listing.notes, f"{unknown} {lying}: the official split is not known"])
        pairs = zip(listing.records, splits, strict=True)
        return Listing([replace(record, split=str(split)) for record, split in pairs], listing.notes)


def _split_of(path: Path, root: Path) -> str | None:
    folders = (bare_name(part) for part in path.relative_to(root).parts[:-1])
    return next((_SPLITS[folder] for folder in folders if folder in _SPLITS), None)
