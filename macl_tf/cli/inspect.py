"""`macl inspect`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from macl_tf.training.settings import Settings, load_settings

INSPECT_HELP = """\
Reads every tile of an archive once and reports what is there before anything is trained: labels and which occur
together, rare ones, copies (exact, and near by a perceptual hash), those that lie in several parts and would make
figures too good, what cannot be read, sizes, bands and values. Writes CSV files and a page, index.html.

examples:
  macl inspect TILES                                       # your own folder, with a table, masks, class folders or none
  macl inspect ucm --data-dir UCMerced_LandUse --output report
  macl inspect TILES --table labels.csv --set split=random
"""


def add_commands(commands: Any) -> None:
    """Adds `inspect` to the subcommands of `macl`."""
    inspect = commands.add_parser("inspect", help="report what an archive holds", description=INSPECT_HELP)
    option = inspect.add_argument
    option("archive", metavar="ARCHIVE", help="folder of the archive, or the name of a dataset with --data-dir")
    option("--data-dir", metavar="DIR", help="folder of the dataset that ARCHIVE names")
    option("--dataset", help="synthetic, ucm, dlrsd, whdld, mlaid, mlrsnet, bigearthnet or folder (default)")
    option(
        "--table", metavar="FILE", help="its label table, or class table of masks, if it is a folder that holds several"
    )
    option("--output", metavar="FOLDER", help="folder of the report; default inspection-<name of the archive>")
    option("--config", metavar="FILE", help="TOML file of settings, as of `macl train`: they say how tiles are divided")
    option("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be given many times")
    option("--quiet", action="store_true", help="no progress bars")
    inspect.set_defaults(run=run_inspect)


def run_inspect(options: argparse.Namespace) -> int:
    """`macl inspect`."""
    from macl_tf.datasets import NAMES, load_archive
    from macl_tf.datasets.archives import Archive, by_scene
    from macl_tf.datasets.inspection import COOCCURRENCE, inspect_archive
    from macl_tf.datasets.inspection_page import write_inspection
    from macl_tf.datasets.splits import Splits, split_archive
    from macl_tf.datasets.walk import CACHE_SIGNATURE, CACHE_TAG

    dataset, folder = options.dataset or "folder", options.archive
    if options.dataset is None and options.archive in NAMES and not Path(options.archive).is_dir():
        dataset, folder = options.archive, options.data_dir
    elif options.data_dir is not None:
        raise ValueError(f"ARCHIVE is the folder itself, {options.archive}: leave out --data-dir {options.data_dir}.")
    source = Path(folder).resolve() if folder else None
    output = Path(options.output or f"inspection-{source.name if source else dataset}")
    if output.is_dir() and any(output.iterdir()) and not (output / COOCCURRENCE).is_file():
        raise ValueError(
            f"--output must be a new folder, or of an inspection before, but '{output}' holds other files, which might "
            "be overwritten. Name another."
        )
    given = {"dataset": dataset, "data_dir": folder, "table": options.table}
    given = {key: value for key, value in given.items() if value is not None}
    settings: Settings = load_settings(options.config, options.set, **given)
    archive: Archive = load_archive(
        settings.dataset,
        settings.data_dir or None,
        seed=settings.seed,
        num_tiles=settings.num_tiles if dataset == "synthetic" else None,
        table=settings.table or None,
        min_area=settings.min_area,
        bands={"asked": settings.bands, "rgb": settings.rgb, "scaling": settings.scaling} if settings.bands else None,
        classes=int(settings.classes),
    )
    if settings.labels == "scene":
        archive = by_scene(archive)
    splits: Splits | None = None
    try:
        shares = {"validation": settings.validation, "test": settings.test, "gap": settings.gap}
        splits = split_archive(archive, settings.split, **shares, block=settings.split_block, seed=settings.seed)
        told = splits.note
    except ValueError as error:
        told = f"not divided: {error}"
    name = source.name if source else archive.name
    found = inspect_archive(archive, splits, told, name=name, progress=not options.quiet)
    if source and output.resolve().is_relative_to(source):
        # What lies in the archive's own folder would be taken for its tables and tiles the next time.
        output.mkdir(parents=True, exist_ok=True)
        (output / CACHE_TAG).write_text(CACHE_SIGNATURE)
    page = write_inspection(found, output)
    print(f"{len(archive):,} tiles, {len(archive.label_names)} labels; {told}\n")
    for line in found.warnings() or ("Nothing was found that deserves a look.",):
        print(f"- {line}")
    print(f"\n{page} shows it; the tables beside it name every tile.")
    return 0
