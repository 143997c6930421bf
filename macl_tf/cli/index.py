"""`macl export`, `embed`, `index`, `search`, `upsert` and `delete`: from a finished run to answers."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from macl_tf.datasets.label_lists import listed
from macl_tf.models.runtimes import RUNTIME_HELP, RUNTIMES, check_runtime
from macl_tf.training.settings import Settings
from macl_tf.versions import need

if TYPE_CHECKING:
    from macl_tf.index.view import View
    from macl_tf.tiling.options import Options

EXPORT_HELP = """\
Turns a finished run into a folder that others deploy: the encoder as a SavedModel for TF Serving, an index of the run's
archive, both in one SavedModel, and the files that a server needs. What is already there and up to date is kept; a new
encoder or index appears beside the old one, whole or not at all.

examples:
  macl export --run-dir runs/synthetic-1a2b3c4d --output served
  macl export --run-dir RUN --output served --recall 0.99 --descriptor backbone
"""

EMBED_HELP = """\
Embeds every image of a folder, however many, into Parquet shards with metadata and a small picture of each. Killed and
started again, it goes on where it stopped. Later it embeds what came, anew what changed, its row in the table too, and
leaves out what went; `macl index` then builds the index from all of it. Files that cannot be read are listed in
bad_files.csv, with what is wrong with each: pictures are 8-bit RGB, grey or palette. GeoTIFF tiles bring their
footprint. SHARDS/stac/collection.json describes the shards in STAC, for other programs.

With --windows SIZE, FOLDER holds scenes: their windows are embedded as the tiles that `macl tile` would write, without
writing them. Windows without data are listed in bad_files.csv too.

With --runner it is a pipeline of Apache Beam (extra beam), for many machines: the same rows and report. SERVED, FOLDER
and SHARDS may then lie in gs:// or s3://, and FOLDER may have wildcards. The same command makes what is missing.

examples:
  macl embed served --input TILES --output shards && macl index served --from shards
  macl embed served --input TILES --output shards --runner DirectRunner --runner-option direct_num_workers=2
  macl embed served --input SCENES --windows 256 --bands 1,2,3 --output shards
"""

INDEX_HELP = """\
Builds a new version of the index: from the shards that `macl embed` wrote, or, without --from, from the present index
with its upserts and deletes folded in. One `macl index` or `macl export` works in SERVED at a time.

Tiles in the shards that are unlike those of the run's training are compared by less of what the run learned; a line
says so (descriptor robust).

With --backbone it makes a folder of images searchable by a pretrained network, without a label or any training; the
same command again adds what came since.

Vectors that another program computed are searchable too: a Parquet (GeoParquet with places, as Earth Index and Major
TOM publish it), NPZ or STAC file, or a folder of them. With --head through the head of a run that was trained on such
vectors. By picture only where --backbone names the network that made them.

examples:
  macl index TILES --backbone efficientnet-lite0 --output served && macl serve served
  macl index SENTINEL --backbone efficientnet-lite0 --bands B02,B03,B04,B08 --output served
  macl index VECTORS.parquet --output served
  macl index VECTORS.parquet --head RUN --table labels.csv --output served
  macl index served --from shards

With --to milvus the index goes into a Milvus instead, from the shards or from the present index: a file on this
machine, or a server. The version that is there answers until the new one is whole; killed and started again, it goes
on. A password or key stands in the environment variable MILVUS_TOKEN. Needs: pip install 'macl_tf[milvus]'
  macl index served --to milvus --uri tiles.db && macl search served tile.jpg --index milvus:tiles.db
  macl index served --from shards --to milvus --uri http://HOST:19530 --kind HNSW
"""

ADDRESS_HELP = (
    "an index in Milvus that `macl index --to milvus` made, instead of the files in SERVED: milvus:FILE.db or "
    "milvus:http://HOST:19530, with #NAME behind it for another collection than tiles"
)

SEARCH_HELP = """\
Finds the tiles most like a picture, or like a tile of the index, and least like others. Every picture and every --id is
a query of its own; --positive, --negative and the tiles of --collection are examples for all of them, or, alone, one
query.

examples:
  macl search served tile.jpg
  macl search served --positive harbor07.jpg --positive harbor12.jpg --negative pier03.jpg -k 20 --offset 20
  macl search served a.tif b.png -k 20 --sheet found.png
  macl search served tile.jpg --box 0.1,0.6,0.3,0.9
  macl search served --collection ships -k 500 --output ships.geojson
  macl search served --id harbor/harbor07.jpg --filter "any_of=ship,dock; none_of=airplane"
  macl search served tile.jpg --filter "any_of=Beaches, dunes, sands, Inland waters"
  macl search served tile.jpg --filter "bbox=5.9,45.8,10.5,47.8; since=2020-01-01; until=2021-12-31" --json
"""

QUOTES_HELP = (
    "a label that holds commas itself is found as a whole, and quotes keep any label whole: "
    "\"Beaches, dunes, sands,'rock; gravel'\""
)
LABELS_HELP = f"separated by commas; {QUOTES_HELP}"

FILTER_HELP = (
    "conditions that results meet, separated by ';': any_of=LABEL,... all_of=LABEL,... none_of=LABEL,... "
    "bbox=WEST,SOUTH,EAST,NORTH (degrees) since=DAY until=DAY (inclusive) split=PART,...; " + QUOTES_HELP
)

UPSERT_HELP = """\
Adds pictures to the index, or replaces those of the same id, at once and durably: when the command returns, they
survive a crash. The id is the file's path as given, unless --id says otherwise.

Date and place are those that the file's header tells, unless given here. What is neither given nor told stays as it is
in the tile that is replaced; an empty value ('') says that there is none. What is given is of all the pictures.

A label that the index does not have becomes one of its labels. Where it is so near to another that it may be
misspelled, it is refused, unless --new-label says that it is meant.

examples:
  macl upsert served new/tile7.tif --labels water,trees
  macl upsert served new/tile8.tif --labels "Beaches, dunes, sands, Inland waters"
  macl upsert served mended.png --id harbor/harbor07.jpg --date 2021-07-31 --bbox=-5.2,48.3,-5.1,48.4
"""

ID_HELP = "an id of the index, or the end of one as a card shows it (harbor07.jpg), if only one tile has it"


def add_commands(commands: Any) -> None:
    """Adds the subcommands of serving to those of `macl`."""

    def command(name: str, words: str, description: str, run: Any, **defaults: str) -> Callable[..., Any]:
        added = commands.add_parser(name, help=words, description=description)
        added.set_defaults(run=run, **defaults)
        if name != "export":
            folder = "; with --backbone, the folder of images; or a file of vectors" if name == "index" else ""
            added.add_argument("served", metavar="SERVED", help=f"what `macl export` wrote{folder}")
        return added.add_argument

    def add_build(option: Callable[..., Any], more: str = "") -> None:
        kinds = f"auto (default: by size), brute_force, hashing or tree{more}"
        option("--recall", type=float, default=0.95,
               help="recall@10 against exact search that the index is tuned to (0.95)")  # fmt: skip
        option("--kind", default="auto", help=kinds)
        option("--keep", type=int, default=2, help="versions to keep (2); 0 keeps all")
        option("--quiet", action="store_true", help="no progress")

    def add_runtime(option: Callable[..., Any]) -> None:
        option("--runtime", choices=RUNTIMES, default=RUNTIMES[0], help=RUNTIME_HELP)

    option = command("export", "turn a run into a SavedModel, an index and what serves them", EXPORT_HELP, run_export,
                     after_interrupt="What was published is whole; the same command goes on.")  # fmt: skip
    option("--run-dir", metavar="RUN", required=True, help="a finished run")
    option("--output", metavar="SERVED", required=True, help="folder to write to, new or of an export")
    option("--data-dir", metavar="DIR", default="", help="the run's archive, if it lies elsewhere than at the training")
    option("--table", metavar="FILE", default="", help="its label table, if that lies elsewhere too")
    descriptors = next(field.metadata["one_of"] for field in fields(Settings) if field.name == "descriptor")
    option("--descriptor", choices=descriptors,
           help="what is compared, one of those that the run reported; by default as its settings say")  # fmt: skip
    option("--no-index", action="store_true", help="only the encoder and the server's files")
    option("--thumbnail", type=int, default=256, help="longest side of the small pictures in the index (256); 0: none")
    option("--discard-changes", action="store_true", help="also where upserts and deletes are lost by a new index")
    add_build(option)
    add_runtime(option)

    option = command("embed", "embed a folder of images into Parquet shards", EMBED_HELP, run_embed,
                     after_interrupt="The same command goes on after the last finished shard.")  # fmt: skip
    what = "images of any common kind, in any subfolders; with --runner also a pattern: 'gs://bucket/**.tif'"
    option("--input", metavar="FOLDER", required=True, help=what)
    option("--output", metavar="SHARDS", required=True, help="folder for the shards")
    option("--table", metavar="FILE", help="label table of the images, CSV or TSV, if they have one")
    option("--shard-size", type=int, default=4096, help="images in a shard (4096)")
    option("--thumbnail", type=int, default=256, help="longest side of the small pictures (256); 0: none")
    option("--workers", type=int, default=2, help="threads that read images (2), in each process")
    option("--runner", help="run as a pipeline of Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, ...")
    option("--runner-option", action="append", default=[], metavar="KEY=VALUE",
           help="option of the pipeline, as Beam and the runner call it; may be repeated")  # fmt: skip
    option("--windows", type=int, default=0, metavar="SIZE", help="FOLDER holds scenes; their windows are the tiles")
    of_windows = "with --windows, as of `macl tile`: "
    option("--stride", type=int, default=0, help=f"{of_windows}pixels from one to the next (SIZE)")
    option("--resolution", type=float, default=0.0, metavar="M_PER_PX", help=f"{of_windows}metres a pixel")
    option("--bands", default="", metavar="N,N,...", help=f"{of_windows}bands of the scenes, from 1 (all)")
    option("--assets", default="", metavar="NAME,...", help=f"{of_windows}assets of STAC items")
    option("--max-nodata", type=float, default=0.5, help=f"{of_windows}share without data (0.5)")
    option("--quiet", action="store_true", help="no progress")
    add_runtime(option)

    option = command("index", "build an index from shards, or fold its changes in", INDEX_HELP, run_index,
                     after_interrupt="The index is as it was; with --to milvus the same command goes on.")  # fmt: skip
    option("--from", dest="shards", metavar="SHARDS", help="what `macl embed` wrote")
    option("--discard-changes", action="store_true", help="also where upserts and deletes are lost by a new index")
    option("--head", metavar="RUN", help="with vectors: a run that was trained on such, whose descriptor is compared")
    option("--backbone", help="index a folder of images by this network: as of `macl train --set backbone=...`")
    option(
        "--weights",
        help="its weights: imagenet (default; a .keras file has its own), encoder.keras of a run, or a file",
    )
    option("--image-size", type=int, default=224, help="side at which it sees an image, pixels (224)")
    option("--turns", type=int, default=1, help="quarter turns to average over (1); 4 costs four times the time")
    option("--bands", default="", help="with --backbone: bands of the tiles, as of `macl train --set bands=...`: all")
    option("--rgb", default="", help="which of them are red, green and blue; found by name where it can be")
    option("--table", metavar="FILE", help="label table of the images, to show and filter by")
    option(
        "--output", metavar="SERVED", default="served", help="with --backbone or vectors: folder to write to (served)"
    )
    option("--to", choices=("files", "milvus"), default="files", help="what holds the index: files in SERVED (default)")
    option("--uri", help="with --to milvus: a file, made where there is none, or http://HOST:19530")
    option("--collection", metavar="NAME", default="", help="with --to milvus: what the index is called there (tiles)")
    add_build(option, "; with --to milvus FLAT, IVF_FLAT, IVF_SQ8 or HNSW")
    add_runtime(option)

    option = command("search", "find the tiles most like a picture", SEARCH_HELP, run_search, more="images")
    option("images", metavar="IMAGE", nargs="*", help="pictures of any common kind")
    option("--id", action="append", default=[], metavar="ID", help=f"search from a tile: {ID_HELP}")
    example = f"{ID_HELP}; or a picture"
    option("--positive", action="append", default=[], metavar="ID", help=f"find more like it: {example}")
    option("--negative", action="append", default=[], metavar="ID", help=f"find less like it: {example}")
    option("--collection", metavar="NAME", help="find more like its right tiles, and less like its wrong ones")
    option("--index", default="", metavar="ADDRESS", help=ADDRESS_HELP)
    option("-k", type=int, default=10, help="results for each (10)")
    option("--offset", type=int, default=0, help="results to leave out, for the next page (0)")
    option("--box", metavar="LEFT,TOP,RIGHT,BOTTOM", help="part of the one picture, or --id, that is meant, in "
           "shares of its width and height: 0.5,0,1,1 is its right half")  # fmt: skip
    option("--filter", default="", help=FILTER_HELP)
    option("--labels", default="", help=f"labels of the pictures, to mark which ones results share, {LABELS_HELP}")
    option("--exact", action="store_true", help="compare with every tile instead of using ScaNN")
    option("--json", action="store_true", help="print JSON for programs")
    option("--sheet", metavar="PNG", help="also draw a contact sheet")
    option("--output", metavar="FILE", help="also write the results: .csv, .geojson or .parquet (GeoParquet)")

    option = command("upsert", "add or replace pictures in the index", UPSERT_HELP, run_upsert, more="images")
    option("images", metavar="IMAGE", nargs="+", help="pictures of any common kind")
    option("--id", action="append", default=[], metavar="ID",
           help=f"instead of the paths, one for each: a new id, {ID_HELP}")  # fmt: skip
    option("--index", default="", metavar="ADDRESS", help=ADDRESS_HELP)
    option("--labels", help=f"labels that all of them hold, {LABELS_HELP}")
    option("--new-label", action="append", default=[], metavar="LABEL", dest="new_labels",
           help="one of the labels that is new, and meant, however near it is to another")  # fmt: skip
    option("--date", help="day that they were taken, like 2021-07-31")
    option("--bbox", metavar="WEST,SOUTH,EAST,NORTH", help="where they lie, in degrees (WGS 84)")
    option("--split", help="part of the archive that they are of: train, validation, test or another")
    option("--source", help="what they come from: a sensor, a product, a campaign")

    option = command("delete", "take tiles out of the index", "Takes tiles out of the index, at once and durably.",
                     run_delete)  # fmt: skip
    option("--index", default="", metavar="ADDRESS", help=ADDRESS_HELP)
    option("ids", metavar="ID", nargs="+", help=ID_HELP)


def run_export(options: argparse.Namespace) -> int:
    """`macl export`."""
    from macl_tf.export.exporting import export_run

    export_run(
        options.run_dir,
        options.output,
        data_dir=options.data_dir,
        table=options.table,
        descriptor=options.descriptor,
        with_index=not options.no_index,
        kind=options.kind,
        recall_target=options.recall,
        keep=options.keep,
        thumbnail_size=options.thumbnail,
        discard_changes=options.discard_changes,
        runtime=options.runtime,
        progress=not options.quiet,
    )
    return 0


def run_embed(options: argparse.Namespace) -> int:
    """`macl embed`."""
    if options.runner:
        return _embed_on_beam(options)
    if options.runner_option:
        raise ValueError("--runner-option is for --runner, which is not given: --runner DirectRunner")
    from macl_tf.embedding.embedding import embed_images
    from macl_tf.embedding.scenes import SceneSource
    from macl_tf.embedding.sources import FolderSource
    from macl_tf.export.saved_model import ExportedEncoder

    windows = _windows(options)
    if windows is None and not Path(options.input).expanduser().is_dir():  # first, since an encoder takes seconds
        raise FileNotFoundError(f"what is embedded must be a folder of images, but '{options.input}' is none.")
    encoder = ExportedEncoder.load(options.served, runtime=options.runtime)
    source: FolderSource | SceneSource
    if windows is not None:
        source = SceneSource([options.input], windows, reader=encoder.reader)
    else:
        source = FolderSource(options.input, options.table or None, reader=encoder.reader)
    _check_takes_pictures(options.served, encoder.image_size)
    report = embed_images(
        encoder,
        source,
        Path(options.output),
        shard_size=options.shard_size,
        thumbnail_size=options.thumbnail,
        workers=options.workers,
        progress=not options.quiet,
    )
    print(report)
    return 0


def _windows(options: argparse.Namespace) -> Options | None:
    """How scenes are cut; None where tiles are files."""
    from macl_tf.tiling.options import Options, numbers_in, words_in

    asked = {
        "stride": options.stride,
        "resolution": options.resolution,
        "bands": numbers_in(options.bands, "bands"),
        "assets": words_in(options.assets),
        "max_nodata": options.max_nodata,
    }
    if not options.windows:
        if others := [name for name, value in asked.items() if value != getattr(Options, name)]:
            raise ValueError(f"--{others[0].replace('_', '-')} is for windows of scenes: give --windows SIZE too.")
        return None
    if options.table:
        raise ValueError("--table is for tiles that are files. Cut the scenes, with their labels: macl tile.")
    return Options(size=options.windows, **asked)


def _embed_on_beam(options: argparse.Namespace) -> int:
    """`macl embed --runner`."""
    need("beam")
    check_runtime(options.runtime)
    from macl_tf.datasets.bands import reader_of
    from macl_tf.embedding.beam import beam_options, embed_on_beam
    from macl_tf.embedding.remote import PatternSource, is_remote
    from macl_tf.embedding.scenes import SceneSource
    from macl_tf.embedding.sources import FolderSource
    from macl_tf.export.encoder_anywhere import encoder_info, load_encoder

    windows = _windows(options)
    pipeline = beam_options(options.runner, options.runner_option)  # first: Beam's file systems need them too
    served = options.served if is_remote(options.served) else os.path.abspath(options.served)
    version, info = encoder_info(served)
    _check_takes_pictures(served, info["image_size"])
    reader, table = reader_of(info.get("bands")), options.table or None
    source: FolderSource | PatternSource | SceneSource
    if windows is not None:
        if is_remote(options.input):
            raise ValueError(
                f"scenes must lie where all workers see them as files, got {options.input}. Copy or mount them."
            )
        source, root = SceneSource([options.input], windows, reader=reader), ""
    elif is_remote(options.input) or glob.has_magic(options.input):
        pattern = options.input if is_remote(options.input) else os.path.abspath(options.input)
        source = PatternSource(pattern, table, reader=reader)
        root = source.root
    else:
        source, root = FolderSource(options.input, table, reader=reader), os.path.abspath(options.input)
    report = embed_on_beam(
        partial(load_encoder, served, version, options.runtime),
        info,
        version,
        source,
        root,
        options.output,
        pipeline,
        shard_size=options.shard_size,
        thumbnail_size=options.thumbnail,
        workers=options.workers,
        windows=windows,
    )
    print(report)
    return 0


def _check_takes_pictures(served: str, image_size: int | None) -> None:
    if not image_size:
        raise ValueError(
            f"'{served}' must hold an encoder of pictures, but takes vectors from elsewhere. Compute those of the new "
            "tiles as you did the others, and run `macl index VECTORS` again."
        )


def run_index(options: argparse.Namespace) -> int:
    """`macl index`."""
    from macl_tf.datasets.vectors import holds_vectors
    from macl_tf.export.exporting import compact_index, index_shards, index_to_milvus, index_untrained
    from macl_tf.export.vector_index import index_vectors

    build = {"kind": options.kind, "recall_target": options.recall, "keep": options.keep}
    made = {"table": options.table, "discard_changes": options.discard_changes, "progress": not options.quiet, **build}
    own = "" if str(options.backbone).endswith(".keras") else "imagenet"
    settings = options.backbone and Settings(
        dataset="folder",
        backbone=options.backbone,
        weights=own if options.weights is None else options.weights,
        image_size=options.image_size,
        turns=options.turns,
        bands=options.bands,
        rgb=options.rgb,
        descriptor="backbone",
    )
    vectors = holds_vectors(options.served)
    if (options.to == "milvus") != bool(options.uri):
        raise ValueError(
            "--to milvus and --uri must be given together: --to milvus --uri FILE.db or http://HOST:19530."
        )
    if options.uri:
        if settings or vectors:
            raise ValueError(
                "--to milvus takes a served folder. Make one first: the same command without --to and --uri."
            )
        given = {"collection": options.collection, "discard_changes": options.discard_changes}
        index_to_milvus(options.served, options.uri, options.shards, progress=not options.quiet, **given, **build)
        return 0
    if options.shards and (settings or vectors):
        raise ValueError(
            "--backbone embeds a folder of images, --from takes shards, a file holds vectors: give one of them."
        )
    if options.head and not vectors:
        raise ValueError(
            f"--head is for vectors, but '{options.served}' is no file of them, nor a folder of such files."
        )
    if vectors:
        index_vectors(options.served, options.output, head=options.head, backbone=settings or None, **made)
    elif settings:
        index_untrained(options.served, options.output, settings, runtime=options.runtime, **made)
    elif options.shards:
        index_shards(
            options.served, options.shards, discard_changes=options.discard_changes, progress=not options.quiet, **build
        )
    else:
        compact_index(options.served, progress=not options.quiet, **build)
    return 0


def run_search(options: argparse.Namespace) -> int:
    """`macl search`."""
    given = options.images or options.id or options.positive or options.collection
    if (options.images and options.id) or not given:
        raise ValueError(
            "Give pictures or --id, one of them, or --positive or --collection: macl search SERVED tile.jpg"
        )
    from macl_tf.search.engine import SearchEngine
    from macl_tf.search.showing import as_json, as_table, draw_sheet
    from macl_tf.search.tile_files import write_results

    engine = SearchEngine.open(options.served, index=options.index, exact=options.exact)
    state = engine.index.snapshot

    def example(name: str) -> str | Path:
        id_ = state.id_of(name)
        return Path(name) if id_ is None and Path(name).is_file() else id_ or name

    marked: dict[str, list[str]] = {}
    if options.collection:
        from macl_tf.teaching.collections import Collections

        marked = Collections(options.served).get(options.collection).examples(state)
    answers = engine.search(
        [Path(name) for name in options.images],
        ids=[state.id_of(name) or name for name in options.id],
        positive=[*marked.get("positive", ()), *map(example, options.positive)],
        negative=[*marked.get("negative", ()), *map(example, options.negative)],
        k=options.k,
        offset=options.offset,
        filter=options.filter,
        labels=options.labels,
        box=options.box and options.box.split(","),
        exact=options.exact,
    )
    if options.sheet:
        draw_sheet(engine, answers, options.sheet)
    if options.output:
        write_results(answers, options.output, state)
    if options.json:
        print(json.dumps(as_json(engine, answers), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print(as_table(answers))
        if options.sheet:
            print(f"\nPictures: {options.sheet}")
        if options.output:
            print(f"\nResults: {options.output}")
    return 0


def run_upsert(options: argparse.Namespace) -> int:
    """`macl upsert`."""
    from macl_tf.search.engine import SearchEngine

    engine = SearchEngine.open(options.served, index=options.index)
    state, notes = engine.index.snapshot, []
    ids = ids_of(state, options.id)
    if not ids:
        ids = [Path(name).as_posix() for name in options.images]
        for id_ in ids:
            name = PurePosixPath(id_).name
            if not state.holds(id_) and (like := [other for other in state.ids_ending(name) if other not in ids]):
                notes.append(f"'{id_}' is a new tile. To replace '{like[0]}', name it: --id '{like[0]}'")
    of_all = {"labels": options.labels, "dates": options.date, "splits": options.split, "sources": options.source}
    of_all["bboxes"] = options.bbox and options.bbox.split(",")
    given: dict[str, Any] = {name: [value] * len(ids) for name, value in of_all.items() if value is not None}
    replaced = engine.upsert([Path(name) for name in options.images], ids, new_labels=options.new_labels, **given)
    if new := [name for name in engine.index.label_names if name not in state.label_names]:
        notes.append(f"New in the index: {listed(new)}.")
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
    words = f", {replaced} of them in the place of another" if replaced else ""
    print(f"{len(ids)} in the index, which holds {len(engine.index):,} tiles{words}.")
    return 0


def run_delete(options: argparse.Namespace) -> int:
    """`macl delete`."""
    from macl_tf.search.engine import SearchEngine

    engine = SearchEngine.open(options.served, index=options.index)
    ids = set(ids_of(engine.index.snapshot, options.ids))
    there = engine.index.delete(ids)
    unknown = f"; {len(ids) - there} were not in it" if there < len(ids) else ""
    print(f"{there} taken out of the index, which holds {len(engine.index):,} tiles{unknown}.")
    return 0


def ids_of(state: View, names: Sequence[str]) -> list[str]:
    """Ids of tiles that are named as results show them; names of none stay. Says what it took for what."""
    ids = [state.id_of(name) or name for name in names]
    for name, id_ in zip(names, ids, strict=True):
        if name != id_:
            print(f"Note: '{name}' is the tile '{id_}'.", file=sys.stderr)
    return ids
