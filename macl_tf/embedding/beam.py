"""Embedding as an Apache Beam pipeline: many machines, the same tiles, batches, shards and report as on one.

    OUTPUT/.plan/00000.jsonl ...    the tiles of each shard, one a line, while the pipeline runs

The list of all tiles, in its order, is cut into parts of one size before the pipeline begins, and part i becomes shard
i: an element of the pipeline is a number. What a shard holds depends on its part and the encoder alone, and it is there
as a whole or not at all. So a worker may be lost, a part be done twice and the command be given again: the shards are
the same, and nothing is in two of them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from apache_beam.utils.shared import Shared

from macl_tf.datasets.bands import Reader, reader_of
from macl_tf.embedding.embedding import EmbeddingReport, check_numbers, new_labels
from macl_tf.embedding.remote import Fetched, fetch, is_remote, put, sizes_in, tile_of
from macl_tf.embedding.rows import Encoder, Rows, all_labels, prepared_tiles, stamp_of
from macl_tf.embedding.scenes import window_tile
from macl_tf.embedding.shards import (
    BAD_FILES,
    LOCK,
    BadFile,
    Origin,
    Record,
    bad_files_text,
    parse_record,
    remedy,
    shard_name,
    shard_number,
    write_shard,
)
from macl_tf.embedding.sources import Tile, TileSource
from macl_tf.embedding.stac import write_stac
from macl_tf.files import PARTIAL, locked
from macl_tf.index.thumbnails import THUMBNAIL_SIZE
from macl_tf.tiling.in_memory import WindowReader
from macl_tf.tiling.options import Options
from macl_tf.tiling.sources import Window

_PLAN = ".plan"
_OF_A_FILE = 7  # entries in a plan's line, before the window where there is one
_AT_ONCE = 16  # records that are read together
_UNHEARD = 5.0  # seconds after which a pipeline that lost a worker is interrupted again


@dataclass(frozen=True)
class Job:
    """What every worker knows.

    Args:
        load: Gives the encoder; a function that another process can import, with its arguments.
        origin: Of the shards.
        output: Their folder, wherever Beam writes.
        root: Folder of the tiles, wherever it reads.
        source: What the tiles come from, for their column.
        workers: Threads in each process that read tiles.
        batch_size: Tiles that are embedded together.
        windows: How scenes are cut, where tiles are windows of them.
    """

    load: Callable[[], Encoder]
    origin: Origin
    output: str
    root: str
    source: str
    workers: int = 2
    batch_size: int = 64
    windows: Options | None = None

    def plan(self, number: int) -> str:
        """The file with the tiles of a shard."""
        return f"{self.output}/{_PLAN}/{number:05}.jsonl"


class EmbedShards(beam.PTransform):
    """From numbers of shards to the same, when each shard is there.

    Counters of the namespace macl_tf: `tiles` embedded, `bad_files`, `shards` written, and `shards_there` already,
    which a lost worker had finished.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, numbers: Any) -> Any:
        """The pipeline's one step, before which the numbers are spread over the workers."""
        return numbers | beam.Reshuffle() | "Embed" >> beam.ParDo(_Embed(self._job, Shared()))


class _Embed(beam.DoFn):
    def __init__(self, job: Job, shared: Shared) -> None:
        super().__init__()
        self._job, self._shared = job, shared
        names = ("tiles", "bad_files", "shards", "shards_there")
        self._counters = {name: Metrics.counter("macl_tf", name) for name in names}

    def setup(self) -> None:
        """Loads the encoder, once a process."""
        self._encoder = self._shared.acquire(self._job.load)
        self._windows = WindowReader(self._job.windows or Options())

    def process(self, number: int) -> Iterator[int]:
        job, content = self._job, fetch(self._job.plan(number))
        digest = hashlib.sha256(content).hexdigest()
        there = _there(job.output, number)
        if there is not None and there.plan == digest and not _within_reach(there, self._encoder.reader, job.root):
            self._counters["shards_there"].inc()
        else:
            tiles = [self._tile(json.loads(line)) for line in content.split(b"\n")]
            rows, bad = self._embedded(tiles)
            _write(job, number, rows, bad, digest)
            for name, count in (("tiles", len(rows)), ("bad_files", len(bad)), ("shards", 1)):
                self._counters[name].inc(count)
        yield number

    def _tile(self, said: list[Any]) -> Tile:
        job, reader = self._job, self._encoder.reader
        if len(said) > _OF_A_FILE:
            name, stamp, (scene, paths, *place) = said[0], said[5], said[-1]
            return window_tile(self._windows, Window(scene, tuple(paths), *place), name, reader, job.source, stamp)
        return tile_of(said, reader, job.root, job.source)

    def _embedded(self, tiles: Sequence[Tile]) -> tuple[Rows, list[BadFile]]:
        job, encoder, bad = self._job, self._encoder, list[BadFile]()
        rows = Rows(encoder, job.origin.label_names, job.batch_size, len(tiles))
        with closing(
            prepared_tiles(tiles, encoder, job.origin.thumbnail_size, job.workers, 2 * job.batch_size)
        ) as stream:
            for prepared in stream:
                bad += [failed.bad for failed in rows.take(prepared)]
        bad += [failed.bad for failed in rows.encode()]
        order = {tile.path: place for place, tile in enumerate(tiles)}
        return rows, sorted(bad, key=lambda file: order[file.path])


def _write(job: Job, number: int, rows: Rows, bad: Sequence[BadFile], digest: str) -> None:
    content, name = rows.content(), shard_name(number)
    record = Record(job.origin, len(rows), content.thumbnails is not None, tuple(bad), plan=digest)
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / name
        texts = {"stamp": content.stamps, "facts": content.facts}
        write_shard(shard, record, content.items, content.vectors, content.thumbnails, texts)
        if FileSystems.exists(f"{job.output}/{name}"):
            FileSystems.delete([f"{job.output}/{name}"])  # no shard stands beside the record of another
        put(shard.with_suffix(".json"), job.output)
        put(shard, job.output)


def _there(output: str, number: int) -> Record | None:
    """What stands beside a shard that is there as a whole; None where it is not, or not yet."""
    path = f"{output}/{shard_name(number)}"
    beside = path.removesuffix(".parquet") + ".json"
    if not (FileSystems.exists(path) and FileSystems.exists(beside)):
        return None
    record, size, _ = parse_record(fetch(beside), Path(shard_name(number)))
    return record if FileSystems.get_filesystem(path).metadata(path).size_in_bytes == size else None


def _within_reach(record: Record, reader: Reader, root: str) -> bool:
    """Whether a file can be opened now that could not when the shard was made."""
    away = [file.path for file in record.bad if not file.stamp]
    return any(Fetched(reader, root, name).opens() for name in away)


def embed_on_beam(
    load: Callable[[], Encoder],
    info: Mapping[str, Any],
    version: int,
    source: TileSource,
    root: str,
    output: str,
    options: PipelineOptions,
    *,
    shard_size: int = 4096,
    thumbnail_size: int = THUMBNAIL_SIZE,
    workers: int = 2,
    batch_size: int = 64,
    windows: Options | None = None,
) -> EmbeddingReport:
    """Embeds every tile of a source into a folder of Parquet shards, on a runner of Apache Beam.

    Shard i holds what can be embedded of the i-th `shard_size` tiles of the source. The same call again makes those
    that are missing, and does nothing where none is. A file that could not be opened is tried again.

    Args:
        load: Gives the encoder in a worker; a function that it can import, with its arguments.
        info: What the encoder's manifest says.
        version: Its number.
        source: The tiles.
        root: Their folder, as workers find it.
        output: Folder of the shards, on this machine, if all workers see it, or wherever Beam writes.
        options: Of `beam_options`.
        shard_size: As of `embed_images`, like all that follow.
        thumbnail_size: 0 for none.
        workers: Threads in each process that read tiles.
        batch_size: Tiles.
        windows: Of a `SceneSource` its options.

    Raises:
        FileNotFoundError: If the source is empty.
        ValueError: If `output` holds shards of another encoder or of other tiles, or a number is too small.
        BlockingIOError: If another process is writing to `output`, where that is a folder of this machine.
        ChildProcessError: If a worker process of the DirectRunner was lost.
        OSError: If the pipeline failed. As before, shards that were written stay, and the same call goes on.
    """
    check_numbers(shard_size=shard_size, thumbnail_size=thumbnail_size, workers=workers, batch_size=batch_size)
    output = output.rstrip("/") if is_remote(output) else os.path.abspath(output)
    known = tuple(info["labels"] or ())
    labels = all_labels(known, source.label_names)
    identity = str(info["encoder_sha256"]), str(info["descriptor"]), version
    origin = Origin(*identity, labels, int(info["dim"]), thumbnail_size)
    job = Job(load, origin, output, root, source.name, workers, batch_size, windows)
    with _held(output), _plans_of(output):
        for note in (*source.notes, *new_labels(known, source.label_names)):
            print(note, file=sys.stderr)
        started, there = time.monotonic(), _all_there(output, origin)
        todo, count = plan_shards(job, source, shard_size, there, reader_of(info.get("bands")))
        if not count:
            raise FileNotFoundError(f"'{source.name}' must hold images, but none was found.")
        before = sum(record.rows for number, record in there.items() if number not in todo)
        if todo:
            _run(job, todo, options)
        records = _all_there(output, origin)
        if missing := [number for number in range(count) if number not in records]:
            raise OSError(f"the pipeline ended, but {len(missing):,} of {count:,} shards are not there.")
        bad = [file for _, record in sorted(records.items()) for file in record.bad]
        with tempfile.TemporaryDirectory() as folder:
            (told := Path(folder) / BAD_FILES).write_bytes(bad_files_text(bad))
            put(told, output)
        if not is_remote(output):
            write_stac(Path(output), origin)
        rows = sum(record.rows for record in records.values())
        return EmbeddingReport(output, rows - before, before, len(bad), time.monotonic() - started)


def beam_options(runner: str, options: Sequence[str] = ()) -> PipelineOptions:
    """The options of a pipeline, from "key=value" or "key"; Beam's file systems have them from now on.

    Beam's DirectRunner is its Python one here: it would download another, Prism, which is asked for by its name. A
    worker process embeds one shard at a time, unless `number_of_worker_harness_threads` says otherwise. A ValueError
    for what is no option, as far as it can be known here.
    """
    for option in options:
        if not re.fullmatch(r"[a-zA-Z]\w*(=.*)?", option):
            raise ValueError(f"a runner's option must be like key=value, got {option!r}.")
    keys = {option.partition("=")[0] for option in options}
    flags = [f"--runner={runner}", *(f"--{option}" for option in options)]
    direct = runner == "DirectRunner"
    flags += ["--allow_unsafe_triggers"] * direct  # which Prism cannot have: the pipeline has no trigger at all
    if "number_of_worker_harness_threads" not in keys:
        flags.append("--number_of_worker_harness_threads=1")
    made = PipelineOptions(flags)
    if direct and (unknown := sorted(keys - made.get_all_options().keys())):
        raise ValueError(f"DirectRunner must know its options, got {', '.join(unknown)}. See docs/beam.md.")
    FileSystems.set_options(made)
    return made


def _held(output: str) -> AbstractContextManager[None]:
    """Holds a folder of this machine against others who write there."""
    if is_remote(output):
        return nullcontext()
    os.makedirs(output, exist_ok=True)
    busy = f"'{output}' is being written by another process. Wait for it to end, then run this again."
    return locked(f"{output}/{LOCK}", busy=busy)


@contextmanager
def _plans_of(output: str) -> Iterator[None]:
    """Leaves neither plans nor parts of files behind, nor what a killed process left of either."""
    plans = f"{output}/{_PLAN}"

    def remove() -> None:
        left = [f"{output}/{name}" for name in sizes_in(output) if name.startswith(PARTIAL)]
        left += [f"{plans}/{name}" for name in sizes_in(plans)]
        if left:
            FileSystems.delete(left)
        if FileSystems.exists(plans):  # where folders are more than parts of names
            FileSystems.delete([plans])

    remove()
    try:
        yield
    finally:
        remove()


def _all_there(output: str, origin: Origin) -> dict[int, Record]:
    """What stands beside all shards that are there, by number; a ValueError where one cannot stand with `origin`."""
    sizes = sizes_in(output)
    names = sorted(name for name in sizes if name.endswith(".parquet") and shard_number(Path(name)) >= 0)

    def read(name: str) -> tuple[Record, int]:
        beside = name.removesuffix(".parquet") + ".json"
        if beside not in sizes:
            raise ValueError(
                f"'{name}' in '{output}' is no shard of macl_tf: '{beside}' is not beside it. {remedy(Path(name))}"
            )
        return parse_record(fetch(f"{output}/{beside}"), Path(name))[:2]

    with ThreadPoolExecutor(_AT_ONCE) as executor:
        found = dict(zip(names, executor.map(read, names), strict=True))
    for name, (record, _) in found.items():
        origin.check(record.origin, f"{output}/{name}")
    return {shard_number(Path(name)): record for name, (record, size) in found.items() if sizes[name] == size}


def plan_shards(
    job: Job, source: TileSource, shard_size: int, there: Mapping[int, Record], reader: Reader
) -> tuple[list[int], int]:
    """Writes down the tiles of each shard that is to be made; returns their numbers, and how many shards there are."""
    todo, count, tiles = list[int](), 0, iter(source)
    while part := list(itertools.islice(tiles, shard_size)):
        content = b"\n".join(_said_of(tile) for tile in part)
        record = there.get(count)
        if record is not None and record.plan != hashlib.sha256(content).hexdigest():
            raise _other_tiles(job.output, count, source)
        if record is None or _within_reach(record, reader, job.root):
            with FileSystems.create(job.plan(count)) as file:
                file.write(content)
            todo.append(count)
        count += 1
    if count and max(there, default=0) >= count:
        raise _other_tiles(job.output, max(there), source)
    return todo, count


def _other_tiles(output: str, number: int, source: TileSource) -> ValueError:
    instead = "Use another output folder"
    if not is_remote(output):
        instead += ", or take the changes in by `macl embed` without --runner"
    return ValueError(
        f"'{output}/{shard_name(number)}' was made of other tiles than '{source.name}' holds now: files came, went or "
        f"changed since, or the shard size was another. {instead}."
    )


def _said_of(tile: Tile) -> bytes:
    """A tile, written down in one line of ASCII, whatever bytes its name holds."""
    lost = ""
    if tile.unlisted:
        try:
            tile.read()
        except OSError as error:
            lost = error.strerror or str(error)
    corners = tile.footprint.tolist() if np.isfinite(tile.footprint).all() else None
    said = [tile.path, tile.labels, tile.split, str(tile.date), corners, stamp_of(tile), lost]
    return json.dumps(said if tile.window is None else [*said, tile.window]).encode()


def _run(job: Job, numbers: Sequence[int], options: PipelineOptions) -> None:
    """Runs the pipeline to its end; an OSError says why there is none."""
    pipeline = beam.Pipeline(options=options)
    pipeline | beam.Create(numbers) | EmbedShards(job)
    goes_on = "Shards that were written stay; the same command goes on."
    with _told_of_lost_workers() as lost:
        try:
            result = pipeline.run()
            state = result.wait_until_finish() if hasattr(result, "wait_until_finish") else result.state
        except KeyboardInterrupt:
            if not lost:
                raise
            raise ChildProcessError(f"a worker process was lost ({lost[0]}). {goes_on}") from None
        except Exception as error:
            raise OSError(f"the pipeline failed: {error}\n{goes_on}") from error
    if state not in (None, PipelineState.DONE):
        raise OSError(f"the pipeline ended as {state}. {goes_on}")


@contextmanager
def _told_of_lost_workers() -> Iterator[list[str]]:
    """Interrupts this thread when a worker process of the DirectRunner is lost, which would wait for it for ever."""
    lost, before, main, over = list[str](), threading.excepthook, threading.get_ident(), threading.Event()
    # A shell that runs a command in the background has it ignore interrupts. Only the main thread can change that.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN and main == threading.main_thread().ident

    def interrupt() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        while not over.wait(_UNHEARD):  # what waits may have passed over it
            signal.pthread_kill(main, signal.SIGINT)

    def hook(said: threading.ExceptHookArgs) -> None:
        if said.thread is not None and said.thread.name == "run_worker":
            lost.append(str(said.exc_value))
            if len(lost) == 1:
                threading.Thread(target=interrupt, daemon=True).start()
        elif not lost:
            before(said)

    threading.excepthook = hook
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield lost
    finally:
        over.set()
        threading.excepthook = before
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
