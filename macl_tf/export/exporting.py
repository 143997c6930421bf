"""A finished run in, a served folder out: encoder, index, retriever, and the files of a server."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from macl_tf.artifacts import open_encoder, open_version, prune, versions
from macl_tf.datasets.archives import Archive
from macl_tf.datasets.bands import Bands, choose_bands, tiles_listed
from macl_tf.datasets.images import RGB
from macl_tf.datasets.splits import Splits
from macl_tf.datasets.walk import list_images, shorten
from macl_tf.embedding.embedding import embed_images
from macl_tf.embedding.shards import BAD_FILES, read_origin, read_shards, shards_digest
from macl_tf.embedding.sources import ArchiveSource, FolderSource
from macl_tf.export.deployment import stable_version, write_deployment
from macl_tf.export.fitting import fit, fitted
from macl_tf.export.model_info import describe_encoder
from macl_tf.export.retriever import EmptyIndexError, build_retriever
from macl_tf.export.saved_model import (
    ExportedEncoder,
    check_sees_pictures,
    export_backbone,
    export_encoder,
    exported_version,
)
from macl_tf.files import PARTIAL, locked
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.index.journal import lock_path
from macl_tf.index.snapshot import Snapshot
from macl_tf.index.thumbnails import THUMBNAIL_SIZE
from macl_tf.index.vectors import read_vectors, write_vectors
from macl_tf.index.version import Stored
from macl_tf.models.runtimes import RUNTIMES, check_runtime
from macl_tf.training.run_directory import archive_of, finished_run
from macl_tf.training.settings import Settings

_NAMED = 3  # sources that stand in the name of an archive


def export_run(
    run_dir: str | os.PathLike[str],
    served: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] = "",
    table: str | os.PathLike[str] = "",
    descriptor: str | None = None,
    with_index: bool = True,
    kind: str = "auto",
    recall_target: float = 0.95,
    keep: int = 2,
    thumbnail_size: int = THUMBNAIL_SIZE,
    discard_changes: bool = False,
    runtime: str = RUNTIMES[0],
    progress: bool = True,
) -> Path:
    """Writes everything that serves a run: `encoder/`, `index/`, `retriever/` and `deploy/`.

    What is there already and made from the same run, archive and settings is kept, so the same command after an
    interruption goes on; embedded tiles are not embedded again. Each part appears whole or not at all.

    Args:
        run_dir: A finished run.
        served: Folder to write to.
        data_dir: Where the run's archive lies, if not where it lay when the run was trained. What became of its tiles
            since is counted and named on standard error.
        table: Its label table, if it is a folder and the table lies elsewhere too.
        descriptor: What retrieval compares, one that the run reported; None for what its settings say.
        with_index: Whether to embed and index the run's archive.
        kind: Of the index: "auto", "brute_force", "hashing" or "tree".
        recall_target: Recall@10 against exact search that the index is tuned to, in (0, 1].
        keep: Versions to keep of each part, 0 for all.
        thumbnail_size: Longest side in pixels of the small pictures that the index holds; 0 for none.
        discard_changes: Whether a new index may leave out upserts and deletes made on the old one.
        runtime: What computes the embeddings, one of `models.runtimes.RUNTIMES`.
        progress: Whether to show bars and what was written.

    Returns:
        `served`.

    Raises:
        FileNotFoundError: If the run is not finished, or its archive is not there.
        ValueError: If the archive is another one, upserts or deletes would be lost, those included that are made while
            this works, or a setting is out of range.
        BlockingIOError: If another process exports to `served` or indexes there. Then nothing was written.
    """
    check_runtime(runtime)
    run, served = finished_run(run_dir), Path(served).expanduser()
    check_sees_pictures(run, describe_encoder(run, descriptor))
    say: Callable[[str], None] = print if progress else lambda *_: None
    archive = archive_of(run, data_dir, table)[0] if with_index else None
    splits = None if archive is None else Splits.read(run, archive)
    for line in splits.changes if splits else ():
        print(line, file=sys.stderr)
    (served / "encoder").mkdir(parents=True, exist_ok=True)
    with publishing_alone(served):
        if archive is not None and exported_version(run, served, descriptor=descriptor) is None:
            check_taught(served, discard_changes)
            check_changes(served / "index", discard_changes)  # the index will be new: before a new encoder shows
        # Old ones go at the end, when it is known who needs them.
        path = export_encoder(run, served, descriptor=descriptor)
        encoder = ExportedEncoder.load(served, int(path.name), runtime)
        say(f"encoder    {path}: {encoder.dim} dimensions, {encoder.image_size} px, {encoder.info['descriptor']}")
        if archive is not None:
            info = {
                "encoder": encoder_identity(served, encoder.version),
                "archive": {"name": archive.name, "tiles": len(archive), "sha256": archive_digest(archive)},
                "built": {"kind": kind, "recall_target": recall_target, "thumbnail_size": thumbnail_size},
            }
            root = served / "index"
            # Beside the index and not in it: a build that is killed leaves them, and the next one goes on.
            key = f"{info['encoder']['uuid'][:8]}-{info['archive']['sha256'][:8]}-{thumbnail_size}"
            shards = served / f"{PARTIAL}shards-{key}"
            if is_up_to_date(root, info):
                say(f"index      {root / str(versions(root)[-1])}: up to date")
            else:
                check_changes(root, discard_changes)
                source = ArchiveSource(archive, splits)
                report = embed_images(encoder, source, shards, thumbnail_size=thumbnail_size, progress=progress)
                if report.bad:  # the shards, with their list of bad files, are removed when the index is there
                    lines = (shards / BAD_FILES).read_text(encoding="utf-8", errors="surrogateescape").splitlines()[1:]
                    lost = f"{report.bad:,} tiles cannot be read and are not in the index: {shorten(lines)}"
                    print(lost, file=sys.stderr)
                say(describe_index(build_from(shards, root, info, keep, discard_changes, progress)))
            shutil.rmtree(shards, ignore_errors=True)  # also what an export left that was killed at this very place
            write_retriever(served, keep, say)
        finish(served, keep, say)
    return served


def index_untrained(
    folder: str | os.PathLike[str],
    served: str | os.PathLike[str],
    settings: Settings,
    *,
    table: str | None = None,
    kind: str = "auto",
    recall_target: float = 0.95,
    keep: int = 2,
    thumbnail_size: int = THUMBNAIL_SIZE,
    discard_changes: bool = False,
    runtime: str = RUNTIMES[0],
    progress: bool = True,
) -> Path:
    """Makes a folder of images searchable by a pretrained backbone, without a label or any training.

    Writes what `export_run` writes. The same call again goes on where one was interrupted, and later embeds what came
    or changed; the shards stay in `served`. Arguments and errors as of `export_run`; `settings` say which backbone,
    weights, image size and turns; `table` may name labels to show and filter by.
    """
    from macl_tf.models.backbones import check_backbone

    check_runtime(runtime)
    check_backbone(settings.backbone, imagenet=settings.weights == "imagenet")
    served = Path(served).expanduser()
    bands = bands_of_folder(Path(folder).expanduser(), settings, served, progress=progress)
    source = FolderSource(folder, table, reader=bands or RGB)
    say: Callable[[str], None] = print if progress else lambda *_: None
    (served / "encoder").mkdir(parents=True, exist_ok=True)
    with publishing_alone(served):
        root = served / "index"
        check_taught(served, discard_changes)
        check_changes(root, discard_changes)
        path = export_backbone(settings, served, bands)
        encoder = ExportedEncoder.load(served, int(path.name), runtime)
        say(f"encoder    {path}: {settings.backbone}, {encoder.dim} dimensions, {encoder.image_size} px")
        shards = served / f"shards-{encoder.info['sha256'][:8]}-{thumbnail_size}"
        print(embed_images(encoder, source, shards, thumbnail_size=thumbnail_size, progress=progress))
        info = {
            "encoder": encoder_identity(served, encoder.version),
            "built": {"kind": kind, "recall_target": recall_target, "thumbnail_size": thumbnail_size},
        }
        say(describe_index(build_from(shards, root, info, keep, discard_changes, progress)))
        write_retriever(served, keep, say)
        finish(served, keep, say)
    return served


def bands_of_folder(folder: Path, settings: Settings, served: Path, *, progress: bool) -> Bands | None:
    """The bands that the settings ask for of a folder, with the statistics of its tiles; None for 8-bit RGB.

    Statistics that the newest encoder there has of the same bands stay, so that tiles that came since change nothing.
    """
    if not settings.bands:
        return None
    names = [name for name, error in list_images(folder) if error is None]
    chosen = choose_bands(settings.bands, settings.rgb, (folder / name for name in names), scaling=settings.scaling)
    for version in versions(served / "encoder")[-1:]:
        held = open_version(served / "encoder", "encoder", version, verify=False)[1]["info"].get("bands")
        known = Bands.from_dict(held) if held else chosen
        if held and (known.names, known.rgb, known.scaling) == (chosen.names, chosen.rgb, chosen.scaling):
            return dataclasses.replace(known, template=chosen.template)
    tiles = [name for name, _ in tiles_listed(((name, None) for name in names), chosen)]

    def read(row: int) -> Any:
        return chosen.read(folder / tiles[row], tiles[row])

    return chosen.measured(read, np.arange(len(tiles)), progress=progress)


def finish(served: Path, keep: int, say: Callable[[str], None], *, pictures: bool = True) -> None:
    """Writes the files of a server, where it takes pictures, and removes encoders that nobody needs."""
    if pictures:
        say(f"deploy     {write_deployment(served)}: compose file, server configurations, client")
    used = {open_version(served / "index", "index", version, verify=False)[1]["info"]["encoder"]["version"]
            for version in versions(served / "index")}  # fmt: skip
    prune(served / "encoder", keep, {*used, stable_version(served)})


def index_shards(
    served: str | os.PathLike[str],
    shards: str | os.PathLike[str],
    *,
    kind: str = "auto",
    recall_target: float = 0.95,
    keep: int = 2,
    discard_changes: bool = False,
    progress: bool = True,
) -> Path:
    """Builds a new version of the index from shards that `embed_images` wrote, and returns its folder.

    Arguments and errors as of `export_run`; shards must be of an encoder of `served`, and nobody may embed into them.
    """
    served, root = Path(served), Path(served) / "index"
    with publishing_alone(served):
        check_changes(root, discard_changes)
        thumbnail_size = read_origin(shards).thumbnail_size
        info = {
            "encoder": encoder_of_shards(served, Path(shards)),
            "built": {"kind": kind, "recall_target": recall_target, "thumbnail_size": thumbnail_size},
        }
        return after_build(
            served, build_from(Path(shards), root, info, keep, discard_changes, progress), keep, progress
        )


def index_to_milvus(
    served: str | os.PathLike[str],
    uri: str,
    shards: str | os.PathLike[str] | None = None,
    *,
    collection: str = "",
    kind: str = "auto",
    recall_target: float = 0.95,
    keep: int = 2,
    discard_changes: bool = False,
    progress: bool = True,
) -> str:
    """Makes a new version of an index in a Milvus live, and returns its address, as `SearchEngine.open` takes it.

    Of the present index of the folder with its upserts and deletes or, where they are given, of shards. All else is as
    for `macl_tf.index.milvus.filling.fill`.
    """
    from macl_tf.index.milvus.connection import NAME, Address
    from macl_tf.index.milvus.filling import Source, fill

    served, address = Path(served), Address(uri, collection or NAME)
    how: dict[str, Any] = {"kind": kind, "recall_target": recall_target, "keep": keep, "progress": progress}
    with publishing_alone(served), tempfile.TemporaryDirectory(dir=served, prefix=PARTIAL) as folder:
        if shards is None:
            state = Index.open(served / "index", exact=True).snapshot
            vectors = state.published_vectors
            if vectors is None:
                write_vectors(Path(folder) / "vectors.npy", state.blocks(), len(state), state.dim)
                vectors = read_vectors(Path(folder) / "vectors.npy")
            names = ("encoder", "archive", "built")
            facts = {name: state.info[name] for name in names if name in state.info}
            source = Source(state.items, vectors, map(state.thumbnail, range(len(state))), facts, state.revision)
        else:
            items, vectors, thumbnails = read_shards(shards)
            small = {"thumbnail_size": read_origin(shards).thumbnail_size}
            made_with = fitted(served, encoder_of_shards(served, Path(shards)), vectors)
            fit(made_with, vectors)
            facts = {"encoder": made_with, "built": small}
            if archive := archive_of_items(items):
                facts["archive"] = archive
            source = Source(items, vectors, thumbnails, facts, f"{shards_digest(shards)} {made_with}")
        made = fill(address, source, discard_changes=discard_changes, **how)
    if progress:
        recall, info = made["info"]["recall"], made["info"]
        measured = "exact" if info["kind"] == "FLAT" else f"recall@{recall['k']} {recall['measured']:.3f}"
        print(f"index      {address}, version {made['number']}: {info['count']:,} tiles, {info['kind']}, {measured}")
    return str(address)


def build_from(
    shards: Path, root: Path, info: dict[str, Any], keep: int, discard_changes: bool, progress: bool
) -> Path:
    """A new version of the index from shards, built as `info` says, which is kept in its manifest."""
    items, vectors, thumbnails = read_shards(shards)
    info = {**info, "encoder": fitted(root.parent, info["encoder"], vectors)}
    fit(info["encoder"], vectors)
    if "archive" not in info and (archive := archive_of_items(items)):
        info = {**info, "archive": archive}
    return build_index(
        root,
        items,
        vectors,
        info=info,
        thumbnails=thumbnails,
        kind=info["built"]["kind"],
        recall_target=info["built"]["recall_target"],
        keep=keep,
        progress=progress,
        check=lambda: check_changes(root, discard_changes, holding=True),
    )


def compact_index(
    served: str | os.PathLike[str],
    *,
    kind: str = "auto",
    recall_target: float = 0.95,
    keep: int = 2,
    progress: bool = True,
) -> Path:
    """Builds a new version of the index with its upserts and deletes folded in; arguments as in `export_run`."""
    served = Path(served)
    with publishing_alone(served):
        index = Index.open(served / "index")
        path = index.compact(kind=kind, recall_target=recall_target, keep=keep, progress=progress)
        return after_build(served, path, keep, progress)


def publishing_alone(served: Path) -> AbstractContextManager[None]:
    """Held by the one process that exports to a served folder or indexes there, from its beginning to its end.

    Each part has a lock of its own, but an export is made of many parts: two at once would embed twice, and leave a
    retriever or a list of versions that is of neither.
    """
    folder = served / "encoder"
    who = f"'{served}' is being written by another `macl export` or `macl index`."
    busy = f"{who} Wait for its end, then run this again."
    return locked(folder / ".publishing", busy=busy) if folder.is_dir() else nullcontext()


def after_build(served: Path, path: Path, keep: int, progress: bool) -> Path:
    """Brings the retriever, where there is one, up to a new index, and says what there is."""
    say: Callable[[str], None] = print if progress else lambda *_: None
    say(describe_index(path))
    if versions(served / "retriever"):
        write_retriever(served, keep, say)
    return path


def write_retriever(served: Path, keep: int, say: Callable[[str], None]) -> None:
    """Brings the retriever up to the newest index, where there is ScaNN to do it with and a tile in it."""
    _, manifest = open_version(served / "index", "index", verify=False)
    made_with = manifest["info"]["encoder"]["version"]
    if open_version(served / "encoder", "encoder", made_with, verify=False)[1]["info"].get("bands"):
        say("retriever  left out: no operation of TensorFlow decodes tiles of bands")
        return
    try:
        say(f"retriever  {build_retriever(served, keep=keep)}: pictures in, ids and scores out")
    except (ImportError, EmptyIndexError) as error:  # the index is whole without it
        say(f"retriever  left out: {error}")


def encoder_identity(served: Path, version: int) -> dict[str, Any]:
    """What tells an encoder from all others, for the index that is made with it."""
    _, manifest = open_version(served / "encoder", "encoder", version, verify=False)
    return {"version": version, "uuid": manifest["uuid"]}


def encoder_of_shards(served: Path, shards: Path) -> dict[str, Any]:
    """The version of the encoder that shards were made with, of those that `served` holds."""
    origin = read_origin(shards)
    for version in reversed(versions(served / "encoder")):
        _, manifest = open_version(served / "encoder", "encoder", version, verify=False)
        info = manifest["info"]
        if (info["encoder_sha256"], info["descriptor"]) == (origin.encoder, origin.descriptor):
            return encoder_identity(served, version)
    raise ValueError(
        f"'{shards}' was made with an encoder that '{served}' does not hold: {origin}. Embed the folder again with "
        "`macl embed`, into another folder."
    )


def archive_digest(archive: Archive) -> str:
    """A hash over names, labels and, where known, pixels and days."""
    digest = hashlib.sha256("\0".join((*archive.label_names, *archive.file_names)).encode("utf-8", "surrogateescape"))
    digest.update(archive.labels.tobytes())
    digest.update("".join(archive.contents or ()).encode())
    if archive.days is not None:
        digest.update(archive.days.tobytes())
    return digest.hexdigest()


def archive_of_items(items: Items) -> dict[str, Any] | None:
    """What embedded tiles tell of their archive: the folders that they come from, by name and never by path."""
    names = [name for name in dict.fromkeys(items.sources.tolist()) if name]
    if not names:
        return None
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return {"name": ", ".join(names[:_NAMED]) + more, "tiles": len(items)}


def is_up_to_date(root: Path, info: dict[str, Any]) -> bool:
    """Whether the newest index was built from the same encoder and archive, with the same settings."""
    if not versions(root):
        return False
    _, manifest = open_version(root, "index", verify=False)
    told = manifest["info"]
    made_with = {key: value for key, value in told.get("encoder", {}).items() if key in info["encoder"]}
    return all({**told, "encoder": made_with}.get(key) == value for key, value in info.items())


def check_changes(root: Path, discard: bool, holding: bool = False) -> None:
    """Raises a ValueError if a new index would leave out upserts and deletes of the present one, unless to discard.

    `holding` is whether the caller holds the journal's lock.
    """
    if discard or not versions(root):
        return
    stored = Stored.open(root, None, exact=True, verify=False)
    with nullcontext() if holding else locked(lock_path(root), shared=True):
        state = Snapshot.of(stored).caught_up(root)
    if changes := state.num_changes + state.info.get("folded_changes", 0):
        raise ValueError(
            f"The index in '{root}' has {changes:,} upserts and deletes that a new one would not have. Add "
            "--discard-changes if they are not needed any more (the present version stays beside the new one)."
        )


def check_taught(served: Path, discard: bool) -> None:
    """Raises a ValueError if a new index of another encoder would leave out what the present one was taught."""
    if discard or not versions(served / "index"):
        return
    made_with = open_version(served / "index", "index", verify=False)[1]["info"].get("encoder")
    if made_with and "taught" in open_encoder(served, made_with, verify=False)[1]["info"]:
        raise ValueError(
            f"The index in '{served}' was taught by `macl teach`, which a new one of this encoder would not be. Add "
            "tiles with `macl upsert`, or add --discard-changes if what was taught is not needed any more (the present "
            "version stays beside the new one)."
        )


def describe_index(path: Path) -> str:
    """One line about a version of the index."""
    _, manifest = open_version(path.parent, "index", int(path.name), verify=False)
    info = manifest["info"]
    recall = info["recall"]
    measured = "exact" if info["kind"] == "brute_force" else f"recall@{recall['k']} {recall['measured']:.3f}"
    return f"index      {path}: {info['count']:,} tiles, {info['kind']}, {measured}"
