"""Building an index from the embeddings of an archive, and the hand-over of its journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from macl_tf.artifacts import MANIFEST, Staging, publish, versions
from macl_tf.files import locked, read_json
from macl_tf.index.items import Items
from macl_tf.index.journal import Change, begin, journal_path, lock_path, read_changes, remove_others
from macl_tf.index.vectors import blocks_of, unit_rows
from macl_tf.index.version import KIND, resolved, write_version

if TYPE_CHECKING:
    from macl_tf.index.snapshot import Snapshot


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
    seed: int = 0,
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
        seed: Draws the queries for tuning.
        progress: Whether to show progress bars.
        check: Called when all is written, while nobody can write to the present version: what it raises keeps the new
            one from being published.

    Example:
        >>> import numpy as np, tempfile
        >>> items = Items.of(("sea", "sand"), ["a", "b"], [[1, 0], [0, 1]])
        >>> with tempfile.TemporaryDirectory() as root:
        ...     build_index(root, items, np.eye(2), info={}, progress=False).name
        '1'
    """
    if vectors.ndim != 2 or len(vectors) != len(items) or vectors.shape[1] < 1:
        raise ValueError(f"vectors must have shape (items, D) with {len(items)} items, got {vectors.shape}.")
    if not 0 < recall_target <= 1:
        raise ValueError(f"recall_target must be in (0, 1], got {recall_target}.")
    resolved(kind, len(items))
    unit_rows(vectors[:1])  # of the wrong type, they are refused before a folder is made
    with publishing(Path(root), keep, check=check) as staging:
        write_version(
            staging,
            items,
            blocks_of(vectors),
            vectors.shape[1],
            info=info,
            thumbnails=thumbnails,
            kind=kind,
            recall_target=recall_target,
            seed=seed,
            progress=progress,
        )
    assert staging.published is not None  # for the type checker: publish did not raise
    return staging.published


@contextmanager
def publishing(
    root: Path, keep: int, source: Callable[[], Snapshot] | None = None, check: Callable[[], None] | None = None
) -> Iterator[Staging]:
    """`artifacts.publish` for an index: with its journal, and without the journals of versions that are gone.

    `source` gives, at the end of the block, the state that the new version was made from: what was written to its
    journal since then is handed over to the new version, before that can be seen. `check` is called just before that,
    with the journal's lock held.
    """

    @contextmanager
    def hand_over(number: int) -> Iterator[None]:
        uuid = read_json(staging.path / MANIFEST)["uuid"]
        with locked(lock_path(root)):  # writers wait
            if check is not None:
                check()
            changes: list[Change] = []
            if source is not None:
                stored, end = (state := source()).stored, state.end
                old = journal_path(root, stored.version)
                changes, _ = read_changes(old, stored.uuid, stored.items.label_names, end)
            begin(journal_path(root, number), uuid, changes)
            yield

    with publish(root, KIND, keep=keep, around_rename=hand_over) as staging:
        yield staging
    with locked(lock_path(root)):  # so that a journal without a version is nobody's who is about to publish
        remove_others(root, versions(root))
