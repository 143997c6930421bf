"""UC Merced land use: 2100 aerial tiles of 21 scenes, with the 17 labels of Chaudhuri et al. (2018)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar
from urllib.request import Request, urlopen

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import UrlInfo

from macl_tf.datasets.preparing import ArchiveBuilder
from macl_tf.datasets.records import Listing, table_records
from macl_tf.datasets.sources import Source, choose_by_stem, first_table
from macl_tf.datasets.tables import LabelTable, read_label_table
from macl_tf.datasets.walk import image_paths

LABEL_NAMES = (
    "airplane", "bare-soil", "buildings", "cars", "chaparral", "court", "dock", "field", "grass", "mobile-home",
    "pavement", "sand", "sea", "ship", "tanks", "trees", "water",
)  # fmt: skip
SCENES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
    "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass", "parkinglot",
    "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip

IMAGES_URL = "http://weegee.vision.ucmerced.edu/datasets/UCMerced_LandUse.zip"
# The authors' own file, from the repository of their pages (bigearth.eu/assets/docs/multilabels.zip).
LABELS_URL = (
    "https://raw.githubusercontent.com/rsim-tu-berlin/bigearth.eu/a6617baba506644837865109ea3b80a3ab40fb31/"
    "assets/docs/multilabels.zip"
)

SOURCE = Source(
    title="UC Merced with 17 labels",
    folders=("ucm", "landuse"),
    layout=(
        "UCMerced_LandUse/Images/<scene>/<scene>NN.tif\n"
        "UCMerced_LandUse/LandUse_Multilabeled.txt (or .csv, .xlsx, .mat)"
    ),
    origin=f"{IMAGES_URL} (images) and {LABELS_URL} (labels).",
    homepage="https://bigearth.eu/datasets.html",
    description="""\
2100 aerial tiles of 256 x 256 pixels (44 of them a little larger or smaller), 0.3 m, 100 for each of 21 land-use
scenes, with 17 labels, 3.3 an image. Neighbouring numbers are crops of one picture: a random split leaks.
""",
    citation="""\
@article{chaudhuri2018multilabel,
  author={Chaudhuri, Bindita and Demir, Beg{\\"u}m and Chaudhuri, Subhasis and Bruzzone, Lorenzo},
  title={Multilabel Remote Sensing Image Retrieval Using a Semisupervised Graph-Theoretic Method},
  journal={IEEE Transactions on Geoscience and Remote Sensing}, volume={56}, number={1}, pages={1144--1158}, year={2018}
}
@inproceedings{yang2010bag,
  author={Yang, Yi and Newsam, Shawn},
  title={Bag-Of-Visual-Words and Spatial Extensions for Land-Use Classification},
  booktitle={ACM SIGSPATIAL GIS}, year={2010}
}
""",
)

_TEXT_TABLE = r"landuse_?multi.*\.(txt|csv|tsv)"
_EXCEL_TABLE = r"landuse_?multi.*\.xlsx"
_MAT_TABLE = r"landuse_?multi.*\.mat"


class Ucm(ArchiveBuilder):
    """UC Merced with 17 labels, from a folder or downloaded."""

    SOURCE = SOURCE
    LABEL_NAMES = LABEL_NAMES
    DEFAULT_SPLIT = "blocks"
    DOWNLOADS = True
    # The first is TFDS's own entry for uc_merced.
    url_infos: ClassVar = {
        IMAGES_URL: UrlInfo(
            332468434, "06c539ef28703a58fb07bd2837991ac7c48b813b00bb12ac197efd813a18daeb", "UCMerced_LandUse.zip"
        ),
        LABELS_URL: UrlInfo(
            82497, "65dcd64d619975ff28bbd15447c70df23a5ee9ebe40335b364af6b3e211943e6", "multilabels.zip"
        ),
    }

    @classmethod
    def source_paths(cls, data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
        """Return the folder of the images and the label table."""
        called = "LandUse_Multilabeled.txt, .csv, .tsv, .xlsx or .mat"
        return SOURCE.locate_table(data_dir, [_TEXT_TABLE, _EXCEL_TABLE, _MAT_TABLE], called)

    def download(self, dl_manager: tfds.download.DownloadManager) -> tuple[Path, ...]:
        """Fetch both files and return the folder of the images and the table."""
        try:
            # TFDS would try for three minutes before it says that there is no network.
            for url in (IMAGES_URL, LABELS_URL):
                urlopen(Request(url, method="HEAD"), timeout=20).close()
            places = dl_manager.download_and_extract({"images": IMAGES_URL, "labels": LABELS_URL})
        except Exception as error:  # The downloader raises whatever requests, urllib3 or the checksum check raise.
            reason = f"{type(error).__name__}: {error}"
            lacking = f"no folder was given by --data-dir, and it could not be downloaded ({reason})"
            raise SOURCE.missing(None, lacking) from error
        table = first_table([Path(places["labels"])], _TEXT_TABLE)
        if table is None:
            raise SOURCE.missing(places["labels"], "the downloaded labels hold no LandUse_Multilabeled.txt")
        return SOURCE.locate(places["images"]), table

    @classmethod
    def list_records(cls, *paths: Path) -> Listing:
        """Join the images below a folder with the rows of a table; of two images with one stem a PNG comes last."""
        root, table = paths
        images = choose_by_stem(image_paths(root), lambda path: path.suffix.lower() == ".png")
        if table.suffix.lower() != ".mat":
            return table_records(SOURCE, root, images, read_label_table(table).choose(LABEL_NAMES))
        listing = table_records(SOURCE, root, images, _read_mat(table))
        note = f"labels are from {table.name}, which differs from the published text table in one cell"
        return Listing(listing.records, [*listing.notes, note])


def _read_mat(path: Path) -> LabelTable:
    """The matrix without names: 17 x 2100, in the order of the scenes and of the numbers 00 to 99."""
    try:
        import scipy.io
    except ImportError as error:
        raise ImportError(
            f"Reading {path.name} needs SciPy: pip install 'macl_tf[mat]', or put LandUse_Multilabeled.txt beside it."
        ) from error
    labels = np.asarray(scipy.io.loadmat(path).get("labels", ()))
    if labels.shape == (len(LABEL_NAMES), 100 * len(SCENES)):
        labels = labels.T
    if labels.shape != (100 * len(SCENES), len(LABEL_NAMES)):
        raise ValueError(f"{path} must hold 'labels' of 17 x 2100, got an array of shape {labels.shape}.")
    names = tuple(f"{scene}{number:02d}" for scene in SCENES for number in range(100))
    return LabelTable(path, names, tuple(range(1, 2101)), LABEL_NAMES, labels, scenes=None, splits=None, notes=())
