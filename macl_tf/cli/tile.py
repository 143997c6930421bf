"""`macl tile`: scenes to an archive of labelled tiles."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

TILE_HELP = """\
Cuts scenes of any size into a folder of tiles that every other command takes. SCENES are rasters, folders of them, STAC
items or item collections with local files: GeoTIFF, COG, VRT, JPEG 2000, PNG and what else GDAL reads. Killed and
started again, it goes on where it stopped; later it adds new scenes and cuts anew what changed.

  tiles/SCENE/SCENE_ROW_COLUMN.tif   with place, nodata and the names of the bands
  labels.csv, areas.csv              labels of each tile, and the share of it that each covers
  groups.csv, footprints.parquet     its scene, and where it is (GeoParquet; QGIS opens it)
  left_out.csv                       what was left out, and why

Labels come from masks of the same names as the scenes, or from vectors: polygons by area, points and lines by presence.
A class table says what the values or colours of masks are called; without one, the command shows which there are.
classes.csv: value,name (or colour,name with #ff8000, or name,r,g,b); what is called 'ignore' is no label.

Windows begin every --stride pixels. At the right and lower edge they are filled up with nodata; --max-nodata 0 keeps
whole tiles only.

examples:
  macl tile scene.tif --output ARCHIVE
  macl tile SCENES --masks MASKS --classes classes.csv --output ARCHIVE
  macl tile SCENES --vectors landuse.gpkg --label-column class --output ARCHIVE      # pip install 'macl_tf[gis]'
  macl tile naip.tif --bands 4,1,2 --resolution 1 --size 224 --output ARCHIVE
  macl tile ITEM.json --assets visual --format jpg --output ARCHIVE
  macl train --dataset folder --data-dir ARCHIVE --set split=groups
"""


def add_commands(commands: Any) -> None:
    """Adds `tile` to the subcommands of `macl`."""
    tile = commands.add_parser("tile", help="cut scenes into an archive of labelled tiles", description=TILE_HELP)
    tile.set_defaults(run=run_tile, more="scenes", after_interrupt="The same command goes on where it stopped.")
    option = tile.add_argument
    option("scenes", metavar="SCENES", nargs="+", help="rasters, folders of them, STAC items")
    option("--output", metavar="ARCHIVE", required=True, help="folder to write to, new or of the same command")
    option("--masks", metavar="FOLDER", help="masks with the names of the scenes (a.tif: a.png or a_mask.png)")
    option("--vectors", metavar="FILE", help="GeoPackage, GeoJSON, shapefile or GeoParquet, in any coordinate system")
    option("--label-column", metavar="NAME", default="", help="its column with the label of each feature")
    option("--layer", metavar="NAME", default="", help="its layer, if it has several")
    option("--classes", metavar="FILE", help="class table, CSV or TOML: what values or colours are called")
    option("--min-area", type=float, default=0.01, help="share of a tile that a label must cover (0.01)")
    option("--size", type=int, default=256, help="side of a tile, pixels (256)")
    option("--stride", type=int, default=0, help="pixels from one tile to the next (as size); less overlaps")
    option("--resolution", type=float, default=0.0, metavar="M_PER_PX", help="resample to so many metres a pixel")
    option("--bands", metavar="N,N,...", default="", help="bands of the tiles, from 1, in this order (all)")
    option("--assets", metavar="NAME,...", default="", help="of STAC items, the assets whose bands are joined")
    option("--max-nodata", type=float, default=0.5, help="leave out tiles with a larger share of nodata (0.5)")
    option("--format", choices=("tif", "png", "jpg"), default="tif", help="of the tiles (tif); png, jpg: 8-bit only")
    option("--workers", type=int, default=0, help="threads (0: one a processor)")
    option("--quiet", action="store_true", help="no progress")


def run_tile(options: argparse.Namespace) -> int:
    """`macl tile`."""
    from macl_tf.datasets.class_tables import read_class_table
    from macl_tf.tiling.options import Options, numbers_in, words_in
    from macl_tf.tiling.tile import tile

    names = ("size", "stride", "resolution", "min_area", "max_nodata", "format", "label_column", "layer")
    asked = Options(
        **{name: getattr(options, name) for name in names},
        bands=numbers_in(options.bands, "bands"),
        assets=words_in(options.assets),
    )
    summary = tile(
        options.scenes,
        options.output,
        asked,
        masks=options.masks,
        vectors=options.vectors,
        classes=read_class_table(Path(options.classes)) if options.classes else None,
        workers=options.workers,
        progress=not options.quiet,
    )
    print(f"{options.output}: {summary}")
    if summary.left_out:
        print(f"What was left out stands in {Path(options.output) / 'left_out.csv'}.")
    return 0
