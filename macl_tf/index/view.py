"""What an index is asked, whatever engine holds it: files of a served folder (`index.py`) or a Milvus (`milvus/`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.datasets.walk import shorten
from macl_tf.index.filters import Filter
from macl_tf.index.items import Items
from macl_tf.index.plot import Plot
from macl_tf.index.thumbnails import THUMBNAIL_SIZE

BACKGROUND = 300  # items that stand for what is usual, beside those that somebody marked


class EngineError(OSError):
    """What an engine elsewhere cannot do now: what must hold, what was met instead (or None), and what to do."""

    def __init__(self, rule: str, value: Any = None, remedy: str = "") -> None:
        self.rule, self.value, self.remedy = rule, value, remedy
        got = "" if value is None else f", got {value!r}"
        super().__init__(f"{rule}{got}. {remedy}".rstrip())


class Hit(NamedTuple):
    """An item that was found: its id, its cosine with the query, and its position in the `items` of that state."""

    id: str
    score: float
    position: int = -1  # where the items have no order


class View(ABC):
    """One state of an index, of which several questions are asked that must agree with each other."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the dimensions of the vectors."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Number of the published version."""

    @property
    @abstractmethod
    def uuid(self) -> str:
        """What tells the published version from every other."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """What tells this state from every other."""

    @property
    @abstractmethod
    def info(self) -> dict[str, Any]:
        """The facts of the version: encoder, dim, count, label_names, kind, parameters, recall."""

    @property
    @abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """C label names: those of the version in its order, then those that came since in theirs."""

    @property
    @abstractmethod
    def label_counts(self) -> NDArray[np.int64]:
        """(C,) how many items hold each label."""

    @abstractmethod
    def counts(self, filter: Filter | None = None) -> tuple[int, NDArray[np.int64]]:
        """How many items meet a filter, and (C,) how many of these hold each label."""

    @property
    @abstractmethod
    def has_places(self) -> bool:
        """Whether any item has a footprint."""

    @property
    @abstractmethod
    def num_changes(self) -> int:
        """Items in which this state differs from the published version; 0 where that is not counted."""

    @property
    @abstractmethod
    def can_be_exact(self) -> bool:
        """Whether `search(exact=True)` is possible."""

    @property
    @abstractmethod
    def background(self) -> tuple[str, ...]:
        """Ids of 300 items, or of all if there are fewer: drawn at random, and always the same."""

    @abstractmethod
    def diverse(self, count: int, seed: int = 0) -> tuple[str, ...]:
        """Ids of so many items that are unlike each other, to begin with; see `macl_tf.index.diverse`."""

    @abstractmethod
    def present(self, ids: Collection[str]) -> set[str]:
        """Those of the ids that there are items with."""

    @abstractmethod
    def vectors_of(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit vectors of items. A ValueError names an id that is not there, here and in what follows."""

    @abstractmethod
    def items_of(self, ids: Sequence[str]) -> Items:
        """What is known of the items of these ids, in their order; of one that is not there nothing but its id."""

    @abstractmethod
    def describe(self, item: str) -> dict[str, Any]:
        """Everything known about the item of an id; see `Items.describe`."""

    def describe_all(self, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        """The same of items that were found in this state, in their order."""
        return [self.describe(hit.id) for hit in hits]

    @abstractmethod
    def has_thumbnail(self, item: str) -> bool:
        """Whether the item of an id has a small picture."""

    @abstractmethod
    def thumbnail(self, item: str) -> bytes | None:
        """Small JPEG picture of the item of an id, None where it has none."""

    @abstractmethod
    def ids_like(self, text: str, most: int) -> list[str]:
        """Ids that hold a text: the one that is it, those that end so after a slash, then others; at most so many."""

    @abstractmethod
    def ids_ending(self, name: str) -> list[str]:
        """Ids that end so after a slash, or, after "…", anywhere; see `id_of`."""

    @abstractmethod
    def search(
        self,
        vectors: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        exact: bool = False,
        without: Collection[str] = (),
    ) -> list[list[Hit]]:
        """The k nearest items of each query, best first: k, or as many as there are.

        Queries are `vectors` (Q, D), finite, not zero, of any norm. `filter` says which items may be found, and `exact`
        to compare with every item this time; `without` are ids that are not to be found. A ValueError says which rule
        is broken.
        """

    @property
    def plot(self) -> Plot | None:
        """The items in two dimensions, as far as they are drawn; None where they are not."""
        return None

    def anew(self) -> View:
        """The same version for another request."""
        return self

    def holds(self, id_: str) -> bool:
        """Whether there is an item with this id."""
        return bool(self.present([id_]))

    @property
    def thumbnail_size(self) -> int:
        """Longest side of the index's small pictures, in pixels, 0 for none; 256 where it does not say."""
        return int(self.info.get("built", {}).get("thumbnail_size", THUMBNAIL_SIZE))

    def id_of(self, name: str) -> str | None:
        """The id that somebody means who writes a name as results show it; None where no id is it or ends so.

        That is an id, or the end of one after a slash, as cards show it, or after "…", as contact sheets do. Where
        several ids end so, a ValueError names them.
        """
        if self.holds(name):
            return name
        found = self.ids_ending(name)
        if len(found) > 1:
            those = shorten([repr(id_) for id_ in found], 5)
            raise ValueError(
                f"an id must be of one tile, but {name!r} is the end of {len(found):,}: {those}. Write the whole id."
            )
        return found[0] if found else None


def _present(name: str) -> Any:
    """An attribute of the present state."""
    return property(attrgetter(f"snapshot.{name}"))


class Engine(ABC):
    """An index that is searched and written to. Any number of threads may use it."""

    @property
    @abstractmethod
    def snapshot(self) -> View:
        """The present state."""

    # What the present state answers, as `View` documents it.
    label_names: tuple[str, ...] = _present("label_names")
    version: int = _present("version")
    info: dict[str, Any] = _present("info")
    dim: int = _present("dim")
    num_changes: int = _present("num_changes")
    describe: Callable[..., dict[str, Any]] = _present("describe")
    thumbnail: Callable[..., bytes | None] = _present("thumbnail")
    search: Callable[..., list[list[Hit]]] = _present("search")

    def __len__(self) -> int:
        return len(self.snapshot)

    @abstractmethod
    def refresh(self) -> None:
        """Takes in what others wrote or published since; after an error all stays as it was."""

    def catch_up(self) -> None:
        """Takes in what others wrote to the version that is shown, which takes no time where it can be told apart."""
        self.refresh()

    @abstractmethod
    def published(self) -> list[tuple[int, dict[str, Any]]]:
        """Number and facts of every version that can be opened, the newest last."""

    @abstractmethod
    def at(self, version: int) -> View:
        """An older version, as it is now."""

    @abstractmethod
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
        """Adds n items, and replaces those whose ids are there already; returns how many were replaced.

        When it returns they are kept; after an error (a ValueError for what does not fit, an OSError as on a full disk)
        nothing was changed, or, of an engine elsewhere, the same call again makes it whole. Many items in one call are
        much faster than many calls.

        Args:
            items: n items with labels of the index, or new ones.
            vectors: (n, D) finite and not zero.
            thumbnails: n small JPEG pictures, None or b"" where there is none.
            encoder: The `info["encoder"]` that the vectors belong to; an ArtifactError if the newest index has another.
            missing: By name of a column, labels, splits, sources, footprints or dates, for which of the n nothing was
                given: an item that is replaced keeps there what it has at that moment, whoever wrote it.
            new_labels: Labels of the items that the index gets with them, where it does not have them yet.
            meant: Those that it gets however near to others they are; by default all. Another that is near to a label,
                and so may be misspelled, is an UnknownLabelError.
        """

    @abstractmethod
    def delete(self, ids: Iterable[str]) -> int:
        """Takes away those items that are there, durably, and returns how many; an OSError leaves all as it was."""

    @abstractmethod
    def relabel(self, label: str, holds: Mapping[str, bool], *, new_labels: Sequence[str] = ()) -> dict[str, bool]:
        """Gives items a label, or takes it from them, durably: all of them or, after an error, none.

        Args:
            label: A label of the index, or a new one; it must be among `new_labels` where it is near to another.
            holds: By id, whether the item is to hold it. Ids that are not there are left out.
            new_labels: See `label`.

        Returns:
            The items that changed: those that hold it already, or do not, are left out.

        Raises:
            UnknownLabelError: For a label that may be misspelled.
        """
