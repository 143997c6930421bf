"""A published version of an index: what its folder holds, how it is opened, written and published with its journal.

vectors.npy                                 float32 (N, D), unit norm
items.parquet                               the id table
thumbnails.bin, thumbnail_offsets.npy       where the archive has small pictures
scann/                                      where the kind is hashing or tree
plot.npy                                    tiles in two dimensions, where there is a tile
manifest.json                               sizes, SHA-256, and facts: dim, count, label_names, kind, parameters, recall
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from macl_tf.artifacts import MANIFEST, ArtifactError, Staging, open_version, publish, verify_file, versions
from macl_tf.files import locked, read_json
from macl_tf.index.items import Items
from macl_tf.index.journal import Change, begin, journal_path, lock_path, read_changes, remove_others
from macl_tf.index.parquet import read_items, write_parquet
from macl_tf.index.plot import PLOT, read_plot, write_plot
from macl_tf.index.searchers.exact import ExactSearcher
from macl_tf.index.searchers.scann import KINDS, TRAINABLE_FROM, OutOfReachError, ScannSearcher, kind_for
from macl_tf.index.thumbnails import OFFSETS, PICTURES, Thumbnails, write_thumbnails
from macl_tf.index.vectors import blocks_of, read_vectors, unit_rows, write_vectors

if TYPE_CHECKING:
    from macl_tf.index.snapshot import Snapshot

KIND = "index"
_VECTORS, _ITEMS, _SCANN = "vectors.npy", "items.parquet", "scann"
_RECALL_K = 10


@dataclass(frozen=True, eq=False)
class Stored:
    """An opened version. Nothing in it ever changes."""

    version: int
    uuid: str  # what tells it from every other index
    info: dict[str, Any]  # the facts in its manifest
    items: Items  # N
    vectors: NDArray[np.float32]  # (N, D) of unit norm, mapped from disk
    exact: ExactSearcher
    approximate: ScannSearcher | None  # where the kind is hashing or tree and it was asked for
    thumbnails: Thumbnails | None  # where it has some
    plot: tuple[NDArray[np.int64], NDArray[np.float32]] | None  # of `read_plot`, where it has one

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each id. Made when first needed: a million ids take a quarter of a second."""
        return {id_: row for row, id_ in enumerate(self.items.ids)}

    def is_newest(self, root: Path) -> bool:
        """Whether this is the newest version; its number does not tell, where a folder was removed and made anew."""
        try:
            uuid = read_json(root / str(self.version) / MANIFEST)["uuid"]
        except (OSError, ValueError, KeyError):
            return False
        return versions(root)[-1:] == [self.version] and uuid == self.uuid

    @classmethod
    def open(cls, root: Path, version: int | None, *, exact: bool, verify: bool) -> Stored:
        """Opens a version, the newest by default; if `exact` without ScaNN; `verify` compares the SHA-256 of each file.

        An ArtifactError says that it is missing or damaged, or its parts do not fit together.
        """
        path, manifest = open_version(root, KIND, version, verify=False)
        names = [*manifest["files"]] if verify else []
        with ThreadPoolExecutor(1) as beside:  # the largest file, which nothing here looks into
            pictures = [beside.submit(verify_file, path, manifest, name) for name in names if name == PICTURES]
            for name in names:
                if name != PICTURES:
                    verify_file(path, manifest, name)
            opened = cls._opened(path, manifest, exact=exact)
        for whole in pictures:
            whole.result()
        return opened

    @classmethod
    def _opened(cls, path: Path, manifest: dict[str, Any], *, exact: bool) -> Stored:
        info = manifest["info"]
        try:
            items = read_items(path / _ITEMS)
            vectors = read_vectors(path / _VECTORS)
            thumbnails = Thumbnails(path) if (path / OFFSETS).is_file() else None
            small = items if thumbnails is None else thumbnails
            plot = read_plot(path / PLOT, len(items)) if (path / PLOT).is_file() else None
            fits = {
                "count": {len(items), len(vectors), len(small)} == {info["count"]},
                "dim": vectors.shape[1] == info["dim"],
                "label_names": items.label_names == tuple(info["label_names"]),
                "kind": info["kind"] in KINDS and info["recall"]["k"] >= 1,
            }
            if wrong := [name for name, fit in fits.items() if not fit]:
                raise ValueError(f"{', '.join(wrong)} of the manifest does not fit the files")
            approximate = None
            if info["kind"] != "brute_force" and not exact:
                approximate = ScannSearcher.load(path / _SCANN, info["parameters"])
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise ArtifactError(
                f"'{path}' is not a whole index: {error}. Copy it anew from where it is whole, or remove the folder "
                "and make it again with `macl export`."
            ) from error
        exactly = ExactSearcher(vectors)
        return cls(int(path.name), manifest["uuid"], info, items, vectors, exactly, approximate, thumbnails, plot)


def build_index(
    root: str | os.PathLike[str],
    items: Items,
    vectors: NDArray[Any],
    *,
    info: dict[str, Any],
    thumbnails: Iterable[bytes | None] | None = None,
    kind: str = "auto",
    recall_target: float = 0.95,
    keep: int = 2,
    progress: bool = True,
    check: Callable[[], None] | None = None,
) -> Path:
    """Publishes a new version of an index, and returns its folder: whole, or after any error or a kill not at all.

    It starts anew from what is given: upserts and deletes made on an older version stay with that version.
    `Index.compact` makes a new version with them. A BlockingIOError says that another process builds there.

    Args:
        root: Folder of the versions.
        items: N items, N >= 0.
        vectors: (N, D) finite and not zero; an array or a memory map. They are stored with norm 1.
        info: JSON facts to keep in the manifest, {"encoder": {...}}.
        thumbnails: Small JPEG pictures of the N items, None or b"" where there is none.
        kind: "brute_force", "hashing", "tree", or "auto" by size, after ScaNN's rules.
        recall_target: Recall@10 against exact search that hashing and tree are tuned to, in (0, 1].
        keep: How many versions to keep, the newest; 0 for all.
        progress: Whether to show progress bars.
        check: Called when all is written, while nobody can write to the present version: what it raises keeps the new
            one from being published.
    """
    if vectors.ndim != 2 or len(vectors) != len(items) or vectors.shape[1] < 1:
        raise ValueError(f"vectors must have shape (items, D) with {len(items)} items, got {vectors.shape}.")
    if not 0 < recall_target <= 1:
        raise ValueError(f"recall_target must be in (0, 1], got {recall_target}.")
    resolved(kind, len(items))
    unit_rows(vectors[:1])  # of the wrong type, they are refused before a folder is made
    with publishing(Path(root), keep, check=check) as staging:
        content = staging, items, blocks_of(vectors), vectors.shape[1], info, thumbnails
        write_version(*content, kind=kind, recall_target=recall_target, progress=progress)
    assert staging.published is not None  # for the type checker: publish did not raise
    return staging.published


@contextmanager
def publishing(
    root: Path,
    keep: int,
    source: Callable[[], Snapshot] | None = None,
    check: Callable[[], None] | None = None,
    carry: Callable[[Change], Change] | None = None,
) -> Iterator[Staging]:
    """`artifacts.publish` for an index: with its journal, and without the journals of versions that are gone.

    `source` gives, at the end of the block, the state that the new version was made from: what was written to its
    journal since then is handed over to the new version, each change as `carry` makes it, before that can be seen.
    `check` is called just before that, with the journal's lock held.
    """

    @contextmanager
    def hand_over(number: int) -> Iterator[None]:
        with locked(lock_path(root)):  # writers wait
            changes: list[Change] = []
            if source is not None:
                stored, end = (state := source()).stored, state.end
                old = journal_path(root, stored.version)
                changes, _ = read_changes(old, stored.uuid, state.label_names, end)
                changes = changes if carry is None else [*map(carry, changes)]
            if check is not None:
                check()
            begin(journal_path(root, number), staging.uuid, changes)
            yield

    with publish(root, KIND, keep=keep, around_rename=hand_over) as staging:
        yield staging
    with locked(lock_path(root)):  # so that a journal without a version is nobody's who is about to publish
        remove_others(root, versions(root))


def write_version(
    staging: Staging,
    items: Items,
    blocks: Iterable[NDArray[np.float32]],
    dim: int,
    info: dict[str, Any],
    thumbnails: Iterable[bytes | None] | None,
    *,
    kind: str,
    recall_target: float,
    progress: bool,
) -> None:
    """Writes all files of a version but the manifest, and the facts that go into it, beside those of `info`.

    `blocks` are the items' vectors (N, D), as blocks of unit rows; all else is as for `build_index`.
    """
    count = len(items)
    shown: dict[str, Any] = {"unit": "item", "unit_scale": True, "disable": not progress, "leave": False}
    with tqdm(total=count, desc="writing index", **shown) as bar:

        def counted() -> Iterable[NDArray[np.float32]]:
            for block in blocks:
                yield block
                bar.update(len(block))

        write_vectors(staging.path / _VECTORS, counted(), count, dim)
    write_parquet(staging.path / _ITEMS, items)
    if thumbnails is not None:
        write_thumbnails(staging.path, thumbnails, count)
    vectors = read_vectors(staging.path / _VECTORS)
    write_plot(staging.path / PLOT, vectors)
    parameters: dict[str, Any] = {}
    kind = resolved(kind, count)
    if kind != "brute_force":
        try:
            searcher = ScannSearcher.build(
                vectors, kind=kind, recall_target=recall_target, k=_RECALL_K, progress=progress
            )
        except OutOfReachError as error:
            warnings.warn(f"{error}, so all are searched. A lower recall_target is faster.", stacklevel=3)
            kind, parameters = "brute_force", {"instead_of": kind}
        else:
            parameters = searcher.parameters
            (staging.path / _SCANN).mkdir()
            try:
                searcher.save(staging.path / _SCANN, vectors=f"../{_VECTORS}")  # kept once, not twice
            except RuntimeError as error:  # all that ScaNN says of a full disk
                raise OSError(errno.ENOSPC, f"ScaNN could not write its files ({error})", str(staging.path)) from error
    measured, queries = float(parameters.get("recall", 1.0)), int(parameters.get("queries", 0))
    staging.info |= info | {
        "dim": dim,
        "count": count,
        "label_names": list(items.label_names),
        "kind": kind,
        "parameters": parameters,
        "recall": {"target": recall_target, "measured": measured, "k": _RECALL_K, "queries": queries},
    }


def resolved(kind: str, count: int) -> str:
    """The kind that "auto" stands for; of so few vectors that ScaNN cannot be trained on them, brute force."""
    if kind not in ("auto", *KINDS):
        raise ValueError(f"kind must be one of auto, {', '.join(KINDS)}, got {kind!r}.")
    if count < TRAINABLE_FROM:
        return "brute_force"
    return kind_for(count) if kind == "auto" else kind
