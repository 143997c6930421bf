"""MLRSNet: 109,161 tiles of 46 categories with 60 labels (Qi et al., 2020)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from macl_tf.datasets.archives import bare_name, normalise_stem
from macl_tf.datasets.preparing import ArchiveBuilder
from macl_tf.datasets.records import Listing, table_records
from macl_tf.datasets.sources import Source, choose_by_stem, count_note
from macl_tf.datasets.table_files import read_rows
from macl_tf.datasets.tables import LabelTable, label_table_of
from macl_tf.datasets.walk import image_paths, list_files

# As published, in the order of the alphabet; habor is what the authors call it.
LABEL_NAMES = (
    "airplane", "airport", "bare soil", "baseball diamond", "basketball court", "beach", "bridge", "buildings", "cars",
    "chaparral", "cloud", "containers", "crosswalk", "dense residential area", "desert", "dock", "factory", "field",
    "football field", "forest", "freeway", "golf course", "grass", "greenhouse", "gully", "habor", "intersection",
    "island", "lake", "mobile home", "mountain", "overpass", "park", "parking lot", "parkway", "pavement", "railway",
    "railway station", "river", "road", "roundabout", "runway", "sand", "sea", "ships", "snow", "snowberg",
    "sparse residential area", "stadium", "swimming pool", "tanks", "tennis court", "terrace", "track", "trail",
    "transmission tower", "trees", "water", "wetland", "wind turbine",
)  # fmt: skip
_ALIASES = {"harbor": "habor", "harbour": "habor"}
# In the labels of June 2020 no tile has more labels, nor so many that follow each other in the alphabet. Those of May
# 2021 have thousands of such rows: a one was drawn over the cells beside it in a spreadsheet.
_MOST_LABELS, _MOST_IN_A_ROW = 13, 3
# Files of 2021 in which the column that all their tiles hold is empty.
_OWN_LABELS = {"stadium": "stadium", "storagetank": "tanks"}
_WHOLE = "the labels of commit cd5ca1c of github.com/cugbrs/MLRSNet (June 2020) are whole"

SOURCE = Source(
    title="MLRSNet",
    folders=("mlrsnet",),
    layout=(
        "MLRSNet/Images/<category>/<category>_NNNNN.jpg (each .rar unpacked)\nMLRSNet/Labels/<category>.csv (46 files)"
    ),
    origin="https://github.com/cugbrs/MLRSNet or https://data.mendeley.com/datasets/7j9bv9vwsx.",
    homepage="https://github.com/cugbrs/MLRSNet",
    description="""\
109,161 tiles of 256 x 256 pixels, 0.1 to 10 m, of 46 categories, with 60 labels, up to 13 a tile; 10 tiles have none.
""",
    citation="""\
@article{qi2020mlrsnet,
  author={Qi, Xiaoman and Zhu, Panpan and Wang, Yuebin and Zhang, Liqiang and Peng, Junhuan and Wu, Mengfan and
          Chen, Jialong and Zhao, Xudong and Zang, Ning and Mathiopoulos, P. Takis},
  title={MLRSNet: A Multi-label High Spatial Resolution Remote Sensing Dataset for Semantic Scene Understanding},
  journal={ISPRS Journal of Photogrammetry and Remote Sensing}, volume={169}, pages={337--350}, year={2020}
}
""",
)


class Mlrsnet(ArchiveBuilder):
    """MLRSNet, its labels from a table for each category."""

    SOURCE = SOURCE
    LABEL_NAMES = LABEL_NAMES

    @classmethod
    def list_records(cls, *paths: Path) -> Listing:
        """Join images and the rows of all tables by name; rows that a spreadsheet damaged are left out and counted."""
        (root,) = paths
        table, notes = _read_tables(root)
        kept, damaged = _whole_rows(table)
        images = choose_by_stem(image_paths(root), lambda path: 0)
        lost = {normalise_stem(name) for name in damaged}
        images = {stem: path for stem, path in images.items() if stem not in lost}
        listing = table_records(SOURCE, root, images, kept)
        if damaged:
            left = "damaged, a label filled in over its neighbours, and left out with the image"
            told = count_note(damaged, f"row is {left}", f"rows are {left}")
            notes = [*notes, *told, f"some 500 more damaged rows cannot be told from others; {_WHOLE}"]
        return Listing(listing.records, [*notes, *listing.notes])


def _read_tables(root: Path) -> tuple[LabelTable, list[str]]:
    """The tables of all categories as one, with the labels as published, and notes on what was mended."""
    tables: list[LabelTable] = []
    notes: list[str] = []
    for name in list_files(root):
        if not name.lower().endswith(".csv"):
            continue
        found = read_rows(root / name)
        header, rows = found.header, found.rows
        if len(header) != len(LABEL_NAMES) + 1:
            continue
        mended, how = _mended_header(header)
        table = label_table_of(root / name, found._replace(header=mended)).choose(LABEL_NAMES)
        notes += [f"{Path(name).name}: {how}"] if how else []
        own = _OWN_LABELS.get(bare_name(Path(name).stem))
        if own is not None and not table.labels[:, LABEL_NAMES.index(own)].any():
            table.labels[:, LABEL_NAMES.index(own)] = 1
            notes.append(f"{Path(name).name}: no row had the label {own!r}, which all {len(rows):,} tiles hold")
        tables.append(table)
    if not tables:
        raise SOURCE.missing(root, "images are there, but no label table <category>.csv with 60 labels")
    joined = replace(
        tables[0],
        path=root / f"the {len(tables)} label tables",
        image_names=tuple(name for table in tables for name in table.image_names),
        lines=tuple(line for table in tables for line in table.lines),
        labels=np.concatenate([table.labels for table in tables]),
    )
    return joined, notes


def _mended_header(header: list[str]) -> tuple[list[str], str]:
    """A header with the published names, and what was changed: one label's name is blank in storage_tank.csv."""
    names = [_ALIASES.get(bare_name(name), name) for name in header]
    absent = {bare_name(name): name for name in LABEL_NAMES}
    for name in names:
        absent.pop(bare_name(name), None)
    blank = [place for place, name in enumerate(names) if place and not name.strip()]
    if len(blank) == len(absent) == 1:
        (names[blank[0]],) = absent.values()
        return names, f"the column without a name was taken for {names[blank[0]]!r}"
    return names, ""


def _whole_rows(table: LabelTable) -> tuple[LabelTable, list[str]]:
    """The table without the rows that a spreadsheet damaged, and the names of these."""
    run = np.zeros(len(table.labels), np.int64)
    longest = run.copy()
    for column in table.labels.T:
        run = (run + 1) * column
        longest = np.maximum(longest, run)
    damaged = (table.labels.sum(axis=1, dtype=np.int64) > _MOST_LABELS) | (longest > _MOST_IN_A_ROW)
    return table.take(np.flatnonzero(~damaged).tolist()), [table.image_names[row] for row in np.flatnonzero(damaged)]
