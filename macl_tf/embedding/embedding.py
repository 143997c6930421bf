"""Embedding a source of tiles of any size into shards: in bounded memory, and again from where it was stopped."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from macl_tf.datasets.label_lists import listed, quoted
from macl_tf.datasets.label_names import KnownLabels
from macl_tf.embedding.rows import Encoder, Failed, Prepared, Rows, all_labels, prepared_tiles, stamp_of
from macl_tf.embedding.shards import BAD_FILES, LOCK, BadFile, Origin, ShardFolder
from macl_tf.embedding.sources import Tile, TileSource
from macl_tf.embedding.stac import write_stac
from macl_tf.files import locked
from macl_tf.index.thumbnails import THUMBNAIL_SIZE


@dataclass(frozen=True)
class EmbeddingReport:
    """What a run of `embed_images` did."""

    output: Path | str  # a folder, or a place elsewhere, gs://...
    embedded: int  # tiles embedded by this run, new and changed ones
    before: int  # tiles that were embedded before, the changed and the gone among them
    bad: int  # files that could not be embedded, in this run or before; they stand in bad_files.csv
    seconds: float
    changed: int = 0  # tiles embedded before that are others now: their file changed, or their row in the table
    gone: int = 0  # tiles embedded before that are not there any more, or cannot be decoded since they changed
    kept: int = 0  # tiles embedded before that, or whose folder, cannot be looked into now: they stay as they were

    @property
    def images_per_second(self) -> float:
        """Speed of this run."""
        return self.embedded / self.seconds if self.embedded else 0.0

    def __str__(self) -> str:
        """A closing line for the command."""
        parts = {"new": self.embedded - self.changed, "changed": self.changed, "gone": self.gone}
        since = ", ".join(f"{count:,} {word}" for word, count in parts.items() if count) if self.before else ""
        if self.embedded:
            text = f"{self.embedded:,} images embedded, {self.images_per_second:,.1f} a second"
            text += f" ({since}); {self.before:,} were before" if self.before else ""
        elif since:
            text = f"nothing to embed ({since}): {self.before:,} images were embedded before"
        else:
            text = f"nothing to do: {self.before:,} images were embedded before"
        if self.kept:
            text += f"; {self.kept:,} stay as they were, since they cannot be read now"
        files = "file" if self.bad == 1 else "files"
        return text + (f"; {self.bad:,} bad {files}, see '{self.output}/{BAD_FILES}'" if self.bad else "")


def embed_images(
    encoder: Encoder,
    source: TileSource,
    output: str | os.PathLike[str],
    *,
    shard_size: int = 4096,
    thumbnail_size: int = THUMBNAIL_SIZE,
    workers: int = 2,
    batch_size: int = 64,
    progress: bool = True,
) -> EmbeddingReport:
    """Embeds every tile of a source into a folder of Parquet shards, which is made if need be, with STAC of them.

    The same call after an interruption goes on behind the last finished shard. Later it embeds what came since, and
    anew what has changed since: the size or time of its file, or its labels, split or date in the source. What is gone
    is left out from then on, which holds when all else is done. What cannot be looked into at the moment stays as it
    was. A bad file is tried again once it has changed. The source's labels that the encoder does not know become
    columns of their own, behind its own.

    A kill costs `shard_size` tiles at most, which are embedded again. `thumbnail_size` is the longest side in pixels of
    the small pictures to keep, 0 for none. `workers` threads read, decode and resize; the encoder takes `batch_size`
    pictures at once. Memory depends on these and the largest picture, and by 34 bytes each on how many were embedded
    before. What the source has to note is said on standard error, without `progress` too.

    Raises:
        FileNotFoundError: If the source is empty. Then all stays as it was.
        BlockingIOError: If another process is writing to `output`.
        ValueError: If `output` holds shards of another encoder, with other labels, of none of the source's tiles or
            damaged, or a number is too small.
        OSError: If a shard cannot be written; those before stay, and the same call goes on.
    """
    check_numbers(shard_size=shard_size, thumbnail_size=thumbnail_size, workers=workers, batch_size=batch_size)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    busy = f"'{output}' is being written by another process. Wait for it to end, then run this again."
    with locked(output / LOCK, busy=busy):
        label_names = all_labels(encoder.label_names, source.label_names)
        identity = encoder.info["encoder_sha256"], encoder.info["descriptor"], encoder.version
        shards = ShardFolder(output, Origin(*identity, label_names, encoder.dim, thumbnail_size))
        _refuse_another_source(source, shards)
        before, started = shards.rows, time.monotonic()
        shard = _Shard(encoder, shards, batch_size, shard_size)
        closed: list[str] = []  # folders that cannot be looked into
        kept = listed = 0
        with tqdm(desc="embedding", unit="image", smoothing=0, disable=not progress) as bar:
            for note in (*source.notes, *new_labels(encoder.label_names, source.label_names)):
                bar.write(note, file=sys.stderr)
            if progress:
                threading.Thread(target=lambda: setattr(bar, "total", source.count()), daemon=True).start()

            def todo() -> Iterator[Tile]:
                nonlocal kept, listed
                for tile in source:
                    listed += 1
                    if tile.unlisted:
                        closed.append(tile.id)
                    shards.see(tile.id, tile.path)
                    stamp, bad = stamp_of(tile), shards.bad.get(tile.path)
                    held = shards.holds(tile.id)
                    kept += (lost := held and tile.file is not None and not stamp)
                    if held:
                        done = lost or not shards.changes(tile.id, stamp, shard.rows.facts_of(tile))
                    else:
                        done = bad is not None and bad.stamp != "" and bad.stamp == stamp
                    if done:
                        bar.initial = getattr(bar, "initial", 0) + 1  # this run's speed is without it
                        bar.update()
                    else:
                        yield tile

            with closing(prepared_tiles(todo(), encoder, thumbnail_size, workers, 2 * batch_size)) as stream:
                for prepared in stream:
                    if isinstance(prepared, Failed) and prepared.out_of_reach and shards.holds(prepared.tile.id):
                        kept += 1
                    else:
                        shard.take(prepared)
                    bar.update()
            if not listed:
                raise FileNotFoundError(f"'{source.name}' must hold images, but none was found.")
            # Last, when all of the source was seen: a call that is killed takes nothing away.
            for id in shards.unseen(tuple(closed)):
                shard.drop(id)
            shard.write()
        shards.write_bad_files()
        write_stac(output, shards.origin)
        seconds = time.monotonic() - started
    return EmbeddingReport(
        output, shard.embedded, before, len(shards.bad), seconds, shard.changed, shard.gone, kept + shards.left
    )


def check_numbers(**given: int) -> None:
    """Raises a ValueError for a number that is too small."""
    for name, value in given.items():
        if value < (least := 0 if name == "thumbnail_size" else 1):
            raise ValueError(f"{name} must be >= {least}, got {value}.")


def _refuse_another_source(source: TileSource, shards: ShardFolder) -> None:
    """Raises an error if none of the tiles embedded before is in the source: then it is hardly the same one."""
    listed = 0
    for tile in source if shards.rows else ():  # most often the first will do
        if shards.holds(tile.id):
            return
        listed += 1
    if listed:
        raise ValueError(
            f"none of the {shards.rows:,} tiles in '{shards.folder}' is among the {listed:,} of '{source.name}' now. "
            "If this is another archive, use another output folder; if it is the same one, see that all of it is there "
            "(mounted, readable), under the same names."
        )


class _Shard:
    """The shard that is being filled, and written when it is full."""

    def __init__(self, encoder: Encoder, shards: ShardFolder, batch_size: int, shard_size: int) -> None:
        self._shards, self._shard_size = shards, shard_size
        self.rows = Rows(encoder, shards.origin.label_names, batch_size, shard_size)
        self.embedded = self.changed = self.gone = 0  # of what was written
        self._bad: list[BadFile] = []
        self._gone: list[str] = []

    def take(self, prepared: Prepared | Failed) -> None:
        """Takes in a tile, or a bad file."""
        for failed in self.rows.take(prepared):
            self._fail(failed.tile, failed.bad)
        self._write_full()

    def drop(self, id: str) -> None:
        """Leaves out a tile, or a bad file, of earlier shards."""
        self._gone.append(id)
        self._write_full()

    def _fail(self, tile: Tile, bad: BadFile) -> None:
        """Notes a bad file; the tile that was embedded from it before is gone."""
        if self._shards.bad.get(bad.path) != bad:  # else it is told already
            self._bad.append(bad)
        if self._shards.holds(tile.id):
            self._gone.append(tile.id)

    def _write_full(self) -> None:
        if max(len(self.rows), len(self._bad), len(self._gone)) >= self._shard_size:
            self.write()

    def write(self) -> None:
        """Writes what there is."""
        for failed in self.rows.encode():
            self._fail(failed.tile, failed.bad)
        if not len(self.rows) and not self._bad and not self._gone:
            return
        content = self.rows.content()
        self.embedded += len(content.items)
        self.changed += sum(map(self._shards.holds, content.items.ids))
        self.gone += sum(map(self._shards.holds, self._gone))
        told = {"stamps": content.stamps, "facts": content.facts, "gone": self._gone}
        self._shards.add(content.items, content.vectors, content.thumbnails, self._bad, **told)
        self.rows.clear()
        self._bad, self._gone = [], []


def new_labels(encoder: Sequence[str], source: Sequence[str]) -> list[str]:
    """Notes on the labels that the encoder was not trained with, which may be misspellings of its own."""
    known, there, new = KnownLabels(encoder), KnownLabels(source), all_labels(encoder, source)[len(encoder) :]
    if not encoder or not new:
        return []
    # A twin that is in the source as well stands in the source's own notes.
    near = [(name, own) for name in new for own in known.near(name, 1, typo=True) if there.find(own) is None]
    twins = [f"{quoted(name)} beside the encoder's {quoted(own)}: did you mean {quoted(own)}?" for name, own in near]
    return [f"labels that the encoder was not trained with: {listed(new, 10)}", *twins[:5]]
