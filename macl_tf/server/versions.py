"""The versions that can be searched, each with its encoder, and how a new one takes the place of the old."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from macl_tf.artifacts import ArtifactError, open_encoder
from macl_tf.index.engines import open_engine
from macl_tf.index.view import Engine, View
from macl_tf.search.encoders import Encoder, load_encoder
from macl_tf.search.query import NotThereError
from macl_tf.server.batching import Batcher
from macl_tf.server.errors import unavailable
from macl_tf.server.settings import Options
from macl_tf.server.shared import Shared

Load = Callable[[Path, dict[str, Any], str | None], Encoder]

_log = logging.getLogger(__name__)
_OLDER = 3  # older versions that are held open at a time
_RETIRED = 120.0  # seconds after which no request can still want an encoder that no version uses


@dataclass(frozen=True, eq=False)
class State:
    """What a request works on from beginning to end, whatever is written or published meanwhile."""

    snapshot: View
    encoder: Encoder  # the one that the index was made with
    batcher: Batcher  # the way to that encoder
    newest: bool  # whether it was the newest version when the request began

    @property
    def index_version(self) -> int:
        """Number of the index's version."""
        return self.snapshot.version

    @property
    def made_with(self) -> dict[str, Any]:
        """What the index says about its encoder."""
        return dict(self.snapshot.info["encoder"])

    @property
    def versions(self) -> dict[str, int]:
        """The versions that stand in every answer."""
        return {"model_version": self.encoder.version, "index_version": self.index_version}


class Versions:
    """A served folder, which `macl export` wrote, open for searches and writes. Any number of threads may use it.

    `load` loads the encoder that an index was made with. `index` is "milvus:URI" for an index in a Milvus. Other
    workers, with which it shares `shared`, may write.
    """

    def __init__(
        self,
        served: Path,
        options: Options | None = None,
        load: Load = load_encoder,
        index: str = "",
        shared: Shared | None = None,
    ) -> None:
        if not served.is_dir():
            raise ArtifactError(f"'{served}' is not there. `macl export --run-dir RUN --output {served}` makes it.")
        self.served, self._options, self._load = served, options or Options(), load
        self._shared = shared or Shared()
        self._seen = self._shared.writes
        self._index = open_engine(served, index)
        self._mutex = threading.Lock()  # of what follows; the newest state is read without it
        self._batchers: dict[tuple[str, float | None], tuple[Encoder, Batcher]] = {}  # by `_key`
        self._older: dict[int, State] = {}
        self._idle_since: dict[tuple[str, float | None], float] = {}
        self._newest = self._state_of(self._index.snapshot, newest=True)

    @property
    def newest(self) -> State:
        """The newest version, with everything written to it."""
        state, snapshot = self._newest, self._index.snapshot
        if snapshot is state.snapshot:
            return state
        # While the encoder of a version just published is being loaded, the version before it answers.
        return replace(state, snapshot=snapshot) if snapshot.uuid == state.snapshot.uuid else state

    def held(self, version: int | None) -> State | None:
        """A version that need not be opened first; the newest for None."""
        newest = self.newest
        if version in (None, newest.index_version):
            return newest
        older = self._older.get(version or 0)
        return older and replace(older, snapshot=older.snapshot.anew())

    def opened(self, version: int) -> State:
        """A version, which is opened if need be: that takes seconds."""
        with self._mutex:
            if (state := self.held(version)) is not None:
                return state
            there = [entry["version"] for entry in self.searchable()]
            if version not in there:
                rule = f"index must be one of {', '.join(map(str, there))}"
                raise NotThereError(rule, version, "Choose one of these.")
            try:
                state = self._state_of(self._index.at(version), newest=False)
            except (OSError, ValueError) as error:
                _log.warning("version %d of the index cannot be opened: %s", version, error)
                remedy = "Search another version; see the server log."
                raise unavailable("This version of the index is damaged", version, remedy) from error
            self._older[version] = state
            while len(self._older) > _OLDER:
                del self._older[next(iter(self._older))]
            return state

    def searchable(self) -> list[dict[str, Any]]:
        """Versions of the index whose encoder is there, as `schemas.VersionInfo` tells them."""
        newest, found = self.newest, []
        for version, info in self._index.published():
            if version == newest.index_version:
                info, facts = newest.snapshot.info | {"count": len(newest.snapshot)}, newest.encoder.info
            else:
                try:
                    facts = open_encoder(self.served, info["encoder"], verify=False)[1]["info"]
                except (OSError, ValueError, KeyError):
                    continue  # it is being removed, or never was whole
            archive = info.get("archive")
            found.append({"version": version, "encoder_version": info["encoder"]["version"],
                          "share": info["encoder"].get("share"),
                          "descriptor": facts["descriptor"], "count": info["count"],
                          "archive": archive["name"] if archive else None})  # fmt: skip
        return found

    def write(self, change: Callable[[Engine], Any]) -> tuple[State, Any]:
        """Makes a change durable; the state that has it, and what `change` returned."""
        result = change(self._index)
        self._shared.wrote()
        return self.newest, result

    @property
    def behind(self) -> bool:
        """Whether a worker wrote what is not taken in here."""
        return self._shared.workers > 1 and self._shared.writes != self._seen

    def catch_up(self) -> None:
        """Takes in what other workers wrote to the version that is shown here."""
        writes = self._shared.writes
        self._index.catch_up()
        self._seen = writes

    def refresh(self) -> None:
        """Takes in what other processes wrote or published. Requests that began before go on with what they have.

        After an ArtifactError, for what is damaged, all stays as it was.
        """
        self._index.refresh()
        with self._mutex:
            snapshot = self._index.snapshot
            if snapshot.uuid != self._newest.snapshot.uuid:
                self._newest = self._state_of(snapshot, newest=True)
                _log.info("serving index version %d", self._newest.index_version)
                there = {version for version, _ in self._index.published()} - {self._newest.index_version}
                self._older = {version: state for version, state in self._older.items() if version in there}
            self._retire()

    def warm(self) -> None:
        """Loads the encoder, where that was left for later."""
        if not self._newest.encoder.ready():
            _warmed(self._newest.encoder, self._newest.batcher)

    def close(self) -> None:
        """Ends the encoders' threads, after what they were given."""
        for _, batcher in self._batchers.values():
            batcher.close()

    def _state_of(self, snapshot: View, *, newest: bool) -> State:
        made_with = snapshot.info.get("encoder")
        if not made_with:
            raise ArtifactError(f"The index of '{self.served}' does not say which encoder made it. Export again.")
        if (key := _key(made_with)) not in self._batchers:
            encoder = self._load(self.served, made_with, self._options.encoder_url)
            batcher = Batcher(encoder.embed_pixels, self._options)
            if self._batchers or encoder.ready():  # others answer meanwhile, or it takes no time
                _warmed(encoder, batcher)
            self._batchers[key] = encoder, batcher
        snapshot.holds("")  # makes the table of ids, for which no request should wait
        return State(snapshot, *self._batchers[key], newest)

    def _retire(self) -> None:
        """Lets go of encoders that no version has used for a while."""
        used = {_key(state.made_with) for state in [self._newest, *self._older.values()]}
        now = time.monotonic()
        for key in [*self._batchers]:
            if key in used:
                self._idle_since.pop(key, None)
            elif now - self._idle_since.setdefault(key, now) > _RETIRED:
                self._batchers.pop(key)[1].close()
                del self._idle_since[key]


def _key(made_with: Mapping[str, Any]) -> tuple[str, float | None]:
    """What tells an encoder, as an index has its vectors, from others."""
    return made_with["uuid"], made_with.get("share")


def _warmed(encoder: Encoder, batcher: Batcher) -> None:
    """Returns when the encoder has seen a picture: the first takes longer, and nobody should wait for it."""
    if size := encoder.image_size:
        blank: Any = encoder.reader.blank(size)
        batcher.submit(blank).result()
