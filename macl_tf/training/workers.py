"""A run over several machines: who they are, how they meet, and what they tell each other.

Every worker goes through the whole run and sees its own rows of each batch. The first one, the chief, owns the run
directory; the others work in a folder that is gone afterwards, and begin from copies of the chief's files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from macl_tf.pipeline.pipeline import Parts

_SAME = "Start the same command on every worker."


@dataclass(frozen=True)
class Cluster:
    """The workers of a run and which of them this process is, as `cluster_of` and `cluster_of_environment` check it."""

    addresses: tuple[str, ...]  # host:port of each, the chief first
    index: int
    wait: float = 600.0  # seconds that the workers wait for each other to begin

    @property
    def port(self) -> int:
        """Of this worker."""
        return int(self.addresses[self.index].rpartition(":")[2])

    def named(self, index: int) -> str:
        """A worker as messages have it."""
        return f"worker {index} ({self.addresses[index]})"


def cluster_of(workers: str, index: int | None = None, wait: float = 600.0) -> Cluster:
    """The cluster of a list `host:port,host:port`; without an index, this worker is the one whose host is this machine.

    Raises:
        ValueError: If an address is not host:port, two are the same, or the index is none of theirs.
    """
    addresses = tuple(word.strip() for word in workers.split(",") if word.strip())
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"workers must be host:port, with a port of 1 to 65535, got '{address}'.")
        if addresses.count(address) > 1:
            raise ValueError(f"workers must have an address each, got '{address}' twice. Use another port on a host.")
    if not addresses:
        raise ValueError("workers must be host:port,host:port and so on, the chief first, got none.")
    if index is None:
        own = [number for number, address in enumerate(addresses) if _is_here(address.rpartition(":")[0])]
        if len(own) != 1:
            found = ", ".join(map(addresses.__getitem__, own)) or "none"
            raise ValueError(f"one of the workers must have a host of this machine, got {found}. Add --worker-index.")
        index = own[0]
    if not 0 <= index < len(addresses):
        raise ValueError(f"worker-index must be 0 to {len(addresses) - 1} with {len(addresses)} workers, got {index}.")
    if not wait > 0:
        raise ValueError(f"worker-wait must be > 0 seconds, got {wait}.")
    return Cluster(addresses, index, wait)


def cluster_of_environment(text: str, wait: float = 600.0) -> Cluster:
    """The cluster of a `TF_CONFIG`, as Kubernetes operators and Vertex AI set it; a ValueError says what it must be."""
    try:
        found = json.loads(text)
        jobs, task = found["cluster"], found["task"]
        kind, index = task["type"], int(task["index"])
        chiefs, others = list(jobs.get("chief", [])), list(jobs.get("worker", []))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"TF_CONFIG must be JSON with 'cluster' and 'task', got {text!r} ({type(error).__name__}: {error}). Unset "
            "it to train on this machine alone."
        ) from error
    if kind not in ("chief", "worker"):
        raise ValueError(f"TF_CONFIG must be of a chief or a worker, got the task type {kind!r}. Start no others.")
    if not 0 <= index < len(chiefs if kind == "chief" else others):
        raise ValueError(f"TF_CONFIG must give an index of its {kind} addresses, got {index}.")
    return cluster_of(",".join(chiefs + others), index + (len(chiefs) if kind == "worker" else 0), wait)


def _is_here(host: str) -> bool:
    """Whether a host name is one of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as own:
            own.bind(address)
    except OSError:
        return False
    return True


def meet(cluster: Cluster, said: Mapping[str, Any], files: Sequence[Path], into: Path) -> None:
    """Waits until all workers are there, and gives them copies of the chief's files.

    Args:
        cluster: The workers.
        said: What must be the same on all, by name: JSON values.
        files: The chief's, of different names.
        into: Where another worker writes them.

    Raises:
        ValueError: On every worker, if one says something else than the chief.
        TimeoutError: On every worker, if one does not come.
        OSError: If the port of this worker is in use.
    """
    words = json.loads(json.dumps({"workers": cluster.addresses, **said}))
    try:
        listener = socket.create_server(("", cluster.port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise OSError(
            error.errno,
            f"the port of {cluster.named(cluster.index)} must be free, but another program listens there. End it, or "
            "give the worker another port in --workers, on all",
        ) from error
    with listener:
        if cluster.index == 0:
            _receive(cluster, words, files, listener)
            return
    _join(cluster, words, into)


def _receive(cluster: Cluster, words: dict[str, Any], files: Sequence[Path], listener: socket.socket) -> None:
    """What the chief does to meet the others."""
    deadline = time.monotonic() + cluster.wait
    guests: dict[int, socket.socket] = {}
    with ExitStack() as stack:
        wrong: ValueError | TimeoutError | None = None
        while len(guests) < len(cluster.addresses) - 1 and wrong is None:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                guest = stack.enter_context(listener.accept()[0])
                guest.settimeout(10.0)
                index, theirs = json.loads(stack.enter_context(guest.makefile("rb")).readline(1 << 20))
                index, others = int(index), dict(theirs)
            except TimeoutError:
                if time.monotonic() > deadline:
                    gone = [cluster.named(i) for i in range(1, len(cluster.addresses)) if i not in guests]
                    wrong = TimeoutError(
                        f"all workers must begin within {cluster.wait:g} s, but {', '.join(gone)} did not come. "
                        f"{_SAME} Raise --worker-wait if they take longer."
                    )
                continue
            except (ValueError, TypeError, OSError):
                continue  # no worker of ours
            if index in guests:
                wrong = ValueError(f"--worker-index must be another on each worker, got {index} twice.")
            guests[index] = guest
            for name in {**words, **others}:
                if words.get(name) != others.get(name):
                    wrong = ValueError(
                        f"{name} must be the same on all workers, got {others.get(name)!r} from {cluster.named(index)} "
                        f"and {words.get(name)!r} from {cluster.named(0)}. {_SAME}"
                    )
        contents = [] if wrong else [file.read_bytes() for file in files]
        reply = {
            "error": None if wrong is None else [type(wrong).__name__, str(wrong)],
            "files": [[file.name, len(content)] for file, content in zip(files, contents, strict=False)],
        }
        for guest in guests.values():
            guest.settimeout(cluster.wait)
            guest.sendall(json.dumps(reply).encode() + b"\n" + b"".join(contents))
        if wrong is not None:
            raise wrong


def _join(cluster: Cluster, words: dict[str, Any], into: Path) -> None:
    """What another worker does to meet the chief."""
    host, _, port = cluster.addresses[0].rpartition(":")
    late = f"{cluster.named(0)}, the chief, must begin within {cluster.wait:g} s, but {{}}. {_SAME}"
    deadline = time.monotonic() + cluster.wait
    while True:
        try:
            chief = socket.create_connection((host, int(port)), timeout=5.0)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(late.format(f"does not answer ({error})")) from error
            time.sleep(0.2)
    with chief, chief.makefile("rb") as reader:
        chief.settimeout(cluster.wait + 10)
        try:
            chief.sendall(json.dumps([cluster.index, words]).encode() + b"\n")
            reply = json.loads(reader.readline())
            if reply["error"]:
                kind, text = reply["error"]
                raise (TimeoutError if kind == "TimeoutError" else ValueError)(text)
            for name, size in reply["files"]:
                (into / Path(name).name).write_bytes(_exactly(reader, size))
        except (json.JSONDecodeError, ConnectionError) as error:
            raise TimeoutError(late.format("ended; its own last words say why")) from error


def _exactly(reader: Any, size: int) -> bytes:
    content = reader.read(size)
    if len(content) < size:
        raise ConnectionError("the chief ended")
    return bytes(content)


class Workers:
    """The replicas that a run trains on: of this machine, or of several that met.

    Args:
        cluster: The workers that met; None for this machine alone. It must be given before TensorFlow is used.
    """

    def __init__(self, cluster: Cluster | None = None) -> None:
        self.cluster = cluster
        self.count, self.index = (len(cluster.addresses), cluster.index) if cluster else (1, 0)
        self.strategy: tf.distribute.Strategy
        if cluster:
            spec = tf.train.ClusterSpec({"worker": list(cluster.addresses)})
            resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
                spec, task_type="worker", task_id=cluster.index, rpc_layer="grpc"
            )
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
        else:
            devices = training_devices()
            self.strategy = (
                tf.distribute.get_strategy() if len(devices) == 1 else tf.distribute.MirroredStrategy(devices)
            )

    @property
    def is_chief(self) -> bool:
        """Whether this process owns the run directory."""
        return self.index == 0

    @property
    def replicas(self) -> int:
        """Of all workers."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def parts(self) -> Parts:
        """The parts of each batch that this worker's replicas see."""
        here = self.replicas // self.count
        return Parts(range(self.index * here, (self.index + 1) * here), self.replicas)

    def share(self, rows: int) -> slice:
        """This worker's part of so many rows; a ValueError if it has none."""
        if rows < self.count:
            raise ValueError(
                f"each of {self.count} workers must have a validation tile, got {rows}. Use fewer workers."
            )
        return slice(rows * self.index // self.count, rows * (self.index + 1) // self.count)

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows (n, D) of all workers, in their order, on each: (N, D)."""
        if self.count == 1:
            return rows

        def of_replica(context: Any) -> tf.Tensor:
            first = int(context.replica_id_in_sync_group) == self.parts.own[0]
            return tf.constant(rows if first else rows[:0])

        values = self.strategy.experimental_distribute_values_from_function(of_replica)
        return np.asarray(self.strategy.gather(values, axis=0))

    def of_chief(self, value: Any) -> Any:
        """What the chief gives, a JSON value, on every worker; others may give None."""
        if self.count == 1:
            return value
        content = json.dumps(value).encode() if self.is_chief else b""
        told = self.gather(np.frombuffer(content, np.uint8).astype(np.float32)[:, None])
        return json.loads(told.astype(np.uint8).tobytes())

    def agree(self, **facts: Any) -> None:
        """Raises a ValueError on every worker if a fact, by its `repr`, is not the same on all."""
        if self.count == 1:
            return
        own = [[*hashlib.sha256(repr(fact).encode()).digest()] for fact in facts.values()]
        found = self.gather(np.array([own], np.float32).reshape(1, -1)).reshape(self.count, len(facts), -1)
        for index, name in zip(*np.nonzero((found != found[:1]).any(axis=2)), strict=True):
            raise ValueError(
                f"{[*facts][name]} must be the same on all workers, but worker {index} has another than worker 0. Give "
                "all of them the same files, and the settings that a machine would choose for itself (precision) "
                "yourself."
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turns what TensorFlow raises when another worker is gone into a ConnectionError that says what to do."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.cluster is None or "ollective" not in str(error):
                raise
            found = re.search(r"task:(\d+)", str(error))
            who = self.cluster.named(int(found[1])) if found else "another worker"
            raise ConnectionError(
                f"{who} is gone, and a run needs all its workers. Its own last words say why. The same command on all "
                "workers goes on after the last finished epoch."
            ) from error


class ChiefsLogs(keras.callbacks.Callback):
    """Gives every worker the chief's logs, on which they decide together when to stop; for after those that log."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self.workers = workers

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Replaces the logs."""
        if logs is not None:
            logs.update(self.workers.of_chief({name: float(value) for name, value in logs.items()}))


def training_devices() -> list[str]:
    """Names of all devices of the best kind."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]
