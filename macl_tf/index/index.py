"""The index: search by vector, with filters, beside upserts and deletes that survive a crash.

A published version never changes. What is written since goes to its journal, on disk before it is acknowledged, and is
held in memory beside it: added rows are searched exactly, replaced and deleted ones are masked. `compact` folds it all
into a new version.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.artifacts import ArtifactError, open_version, versions
from macl_tf.datasets.label_names import known_labels
from macl_tf.files import locked
from macl_tf.index.items import Items
from macl_tf.index.journal import Change, Delete, NewLabels, Relabel, Upsert, append, journal_path, lock_path
from macl_tf.index.snapshot import Snapshot
from macl_tf.index.version import KIND, Stored, build_index, publishing, write_version
from macl_tf.index.view import Engine, Hit

__all__ = ["Hit", "Index", "Snapshot", "build_index"]


@dataclass(frozen=True)
class Projection:
    """How the vectors of one encoder become those of another."""

    old: Any  # the `info["encoder"]` of the index whose vectors they are
    new: Any  # and of what they become
    dim: int  # D of the new ones
    project: Callable[[NDArray[np.float32]], NDArray[np.float32]]  # (n, D) old to (n, D) new, of unit norm

    def check(self, info: Mapping[str, Any]) -> None:
        """Refuses an index of another encoder."""
        if info.get("encoder") != self.old:
            raise ArtifactError(
                "the index must be of the encoder that its vectors are projected from, and another was published "
                "meanwhile. Begin again."
            )

    def carry(self, change: Change) -> Change:
        """A change made to the old index, as the new one takes it."""
        return replace(change, vectors=self.project(change.vectors)) if isinstance(change, Upsert) else change


class Index(Engine):
    """An opened index; `Index.open` opens it.

    Searches may run in any number of threads beside writes: each sees one state, `snapshot`. Several processes may
    search and write; each sees what the others wrote when it writes itself or calls `refresh`.

    Example:
        >>> import numpy as np, tempfile
        >>> from macl_tf.index.filters import Filter
        >>> root = tempfile.mkdtemp()
        >>> items = Items.of(("sea", "sand"), ["a", "b", "c"], [[1, 0], [0, 1], [1, 1]])
        >>> path = build_index(root, items, [[1, 0], [0, 1], [0.6, 0.8]] @ np.eye(2), info={}, progress=False)
        >>> index = Index.open(root)
        >>> [(hit.id, round(hit.score, 2)) for hit in index.search([[0, 1]], k=2)[0]]
        [('b', 1.0), ('c', 0.8)]
        >>> [hit.id for hit in index.search([[1, 0]], filter=Filter.parse("any_of=sea"))[0]]
        ['a', 'c']
        >>> index.delete(["c"]), len(index)
        (1, 2)
    """

    def __init__(self, root: Path, version: int | None, exact: bool, verify: bool) -> None:
        self._root, self._wanted, self._exact, self._verify = root, version, exact, verify
        self._mutex = threading.Lock()
        self._snapshot = self._open(self._shared)

    @classmethod
    def open(
        cls, root: str | os.PathLike[str], version: int | None = None, *, exact: bool = False, verify: bool = True
    ) -> Index:
        """Opens the index in a folder of versions, "served/index", with all changes that were acknowledged.

        A `version` opened by its number cannot be written to; by default it is the newest, also after `refresh`.
        `exact` compares with every item always, and does not load ScaNN. `verify` reads every file and compares its
        SHA-256 first; sizes are compared always. An ArtifactError says which file is missing or damaged, and what to
        do.
        """
        return cls(Path(root), version, exact, verify)

    @property
    def snapshot(self) -> Snapshot:
        """The present state, which never changes: for several questions that must agree with each other."""
        return self._snapshot

    # Its positions change with writes, ids do not.
    @property
    def items(self) -> Items:
        """The living items of the present state."""
        return self._snapshot.items

    def published(self) -> list[tuple[int, dict[str, Any]]]:
        """See `Engine`."""
        found = []
        for version in versions(self._root):
            try:
                found.append((version, dict(open_version(self._root, KIND, version, verify=False)[1]["info"])))
            except (OSError, ValueError, KeyError):
                continue  # it is being removed, or never was whole
        return found

    def at(self, version: int) -> Snapshot:
        """See `Engine`; an ArtifactError for one that is damaged."""
        return Index.open(self._root, version).snapshot

    def upsert(
        self,
        items: Items,
        vectors: ArrayLike,
        thumbnails: Iterable[bytes | None] | None = None,
        *,
        encoder: Any = None,
        missing: Mapping[str, Sequence[bool]] | None = None,
        new_labels: Sequence[str] = (),
        meant: Sequence[str] | None = None,
    ) -> int:
        """See `Engine`. When it returns the items are on disk and survive a crash."""

        def change(now: Snapshot) -> list[Change]:
            if encoder not in (None, now.stored.info.get("encoder")):
                raise ArtifactError("vectors must be of the newest index's encoder, which is another now: embed again.")
            known_now, sure = known_labels(now.label_names), new_labels if meant is None else meant
            names = known_now.open_to(new_labels, sure)[1].names
            grown = now.after(added := _of_labels(now, names), now.end)
            known = grown.keeping(items.aligned(names), missing or {})
            upsert = Upsert.of(known, vectors, thumbnails, names, now.dim)
            replaced.extend(id_ for id_ in items.ids if now.holds(id_))
            return [*added, upsert] if len(items) else []

        replaced: list[str] = []
        self._write(change)
        return len(replaced)

    def delete(self, ids: Iterable[str]) -> int:
        """See `Engine`."""
        wanted = dict.fromkeys([ids] if isinstance(ids, str) else ids)
        found: list[str] = []

        def change(now: Snapshot) -> list[Change]:
            found.extend(id_ for id_ in wanted if now.holds(id_))
            return [Delete(tuple(found))] if found else []

        self._write(change)
        return len(found)

    def relabel(self, label: str, holds: Mapping[str, bool], *, new_labels: Sequence[str] = ()) -> dict[str, bool]:
        """See `Engine`."""
        changed: dict[str, bool] = {}

        def change(now: Snapshot) -> list[Change]:
            (name,), known = known_labels(now.label_names).open_to([label], new_labels)
            grown = now.after(added := _of_labels(now, known.names), now.end)
            wanted = {id_: bool(held) for id_, held in holds.items() if now.holds(id_)}
            changed.update((id_, held) for id_, held in wanted.items() if grown.holds_label(id_, name) != held)
            return [*added, Relabel(name, changed)] if changed else []

        if not label:
            raise ValueError("a label must not be empty, got ''. Give its name.")
        self._write(change)
        return changed

    def compact(self, *, kind: str = "auto", recall_target: float = 0.95, keep: int = 2, progress: bool = True) -> Path:
        """Publishes a new version with all changes folded in, while searches and writes go on; returns its folder.

        This index shows it from then on. The arguments are those of `build_index`.
        """
        return self._republish(None, kind=kind, recall_target=recall_target, keep=keep, progress=progress)

    def projected(
        self,
        projection: Projection,
        *,
        kind: str = "auto",
        recall_target: float = 0.95,
        keep: int = 2,
        progress: bool = True,
        check: Callable[[], None] | None = None,
    ) -> Path:
        """As `compact`, with all vectors as another encoder would have made them, those written meanwhile too.

        Args:
            projection: From the vectors that are there to the new ones.
            kind: As of `build_index`; so are the next ones.
            recall_target: See there.
            keep: See there.
            progress: See there.
            check: See there.

        Raises:
            ArtifactError: If the index is of another encoder than the projection is for.
        """
        build: dict[str, Any] = {"kind": kind, "recall_target": recall_target, "progress": progress}
        return self._republish(projection, check, keep=keep, **build)

    def _republish(
        self,
        projection: Projection | None,
        check: Callable[[], None] | None = None,
        *,
        keep: int,
        **build: Any,
    ) -> Path:
        self._check_writable()
        now = self._snapshot
        carry = None if projection is None else projection.carry
        with publishing(self._root, keep, lambda: now, check, carry) as staging:
            self.refresh()  # here nobody else publishes: what is newest now stays it
            now = self._snapshot
            info = now.info | {"folded_changes": now.info.get("folded_changes", 0) + now.num_changes}
            blocks, dim = now.blocks(), now.dim
            if projection is not None:
                projection.check(info)
                info, blocks, dim = info | {"encoder": projection.new}, map(projection.project, blocks), projection.dim
            content = staging, now.items, blocks, dim, info, map(now.thumbnail, range(len(now)))
            write_version(*content, **build)
        self.refresh()
        return Path(staging.published or self._root)

    def refresh(self) -> None:
        """Takes in what other processes wrote or published since; after an ArtifactError all stays as it was."""
        if self._superseded():
            opened = self._open(self._shared)  # takes seconds, in which others write and catch up
            with self._mutex:
                if opened.version > self._snapshot.version:
                    self._snapshot = opened
        self.catch_up()

    def catch_up(self) -> None:
        """See `Engine`."""
        with self._mutex, self._shared():
            self._snapshot = self._snapshot.caught_up(self._root)

    def _write(self, change: Callable[[Snapshot], list[Change]]) -> None:
        """Makes changes durable, then visible. `change` sees the newest state and checks everything first."""
        self._check_writable()
        with self._mutex, locked(lock_path(self._root)):
            now = self._snapshot = self._newest(nullcontext)
            made = change(now)
            if made:
                path = journal_path(self._root, now.stored.version)
                end = append(path, now.stored.uuid, made, now.end)
                self._snapshot = now.after(made, end)

    def _check_writable(self) -> None:
        if self._wanted is not None:
            raise ValueError(
                f"an index opened at version {self._wanted} cannot be written to: open it without a version, which "
                "opens the newest."
            )

    def _shared(self) -> AbstractContextManager[None]:
        """Held while the journal is read, where its lock is not held already."""
        return locked(lock_path(self._root), shared=True)

    def _newest(self, reading: Callable[[], AbstractContextManager[None]]) -> Snapshot:
        """The present state, or a newer one."""
        if self._superseded():
            return self._open(reading)
        with reading():
            return self._snapshot.caught_up(self._root)

    def _superseded(self) -> bool:
        return self._wanted is None and not self._snapshot.stored.is_newest(self._root)

    def _open(self, reading: Callable[[], AbstractContextManager[None]]) -> Snapshot:
        while True:
            newest = versions(self._root)[-1:]
            try:
                stored = Stored.open(self._root, self._wanted, exact=self._exact, verify=self._verify)
                with reading():
                    state = Snapshot.of(stored).caught_up(self._root)
            except (ArtifactError, FileNotFoundError):
                if versions(self._root)[-1:] == newest:
                    raise
            else:  # a version that was superseded meanwhile may have lost its journal: look again
                if versions(self._root)[-1:] == newest:
                    return state


def _of_labels(now: Snapshot, names: tuple[str, ...]) -> list[Change]:
    """What brings a state to these labels, which begin with its own."""
    new = names[len(now.label_names) :]
    return [NewLabels(new)] if new else []
