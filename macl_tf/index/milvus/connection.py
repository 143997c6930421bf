"""The way to a Milvus: a file of milvus-lite or a server. The one file that knows pymilvus and what its errors mean.

Every call has an end: one that is not answered in time is an `EngineError`, never an empty answer. What is written is
written under its primary key, so that a call whose answer was lost may be made again.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from macl_tf.index.view import EngineError

PREFIX = "milvus:"
NAME = "tiles"  # the collection, where none is named
TOKEN = "MILVUS_TOKEN"  # environment variable: USER:PASSWORD or an API key
MOST = 16_384  # results that Milvus gives at most for one question
READ, WRITE = 10.0, 60.0  # seconds until a call has failed, by default
BUILD = 86_400.0  # seconds for an index to be built: milvus-lite answers when it is
_TRIES = 2  # of a write whose answer did not come in time
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_NOT_LOADED, _CONNECT_FAILED = 101, 2  # codes of Milvus and of pymilvus
# gRPC's own pauses between attempts grow to two minutes, and are shared by all that ask the same address.
_CHANNEL = {"grpc.use_local_subchannel_pool": 1, "grpc.max_reconnect_backoff_ms": 1000}
_PAUSE = 0.05  # seconds before the next attempt, twice as long each time
_servers: dict[str, tuple[Any, Any, int]] = {}  # server, database and port of each file that this process has opened
_opening = threading.Lock()


@dataclass(frozen=True)
class Address:
    """Where an index lies: a file of milvus-lite, or http(s)://HOST:PORT, and the name of its collection there.

    Example:
        >>> Address.parse("milvus:http://127.0.0.1:19530#harbours")
        Address(uri='http://127.0.0.1:19530', collection='harbours')
    """

    uri: str
    collection: str = NAME

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.collection):
            raise ValueError(
                f"the collection must be of letters, digits and _, beginning with no digit, got {self.collection!r}."
            )
        parts = urlsplit(self.uri)
        if parts.scheme in ("http", "https"):
            if "@" in parts.netloc:
                raise ValueError(
                    f"an address must hold no password, got one for {parts.hostname!r}. Set the environment variable "
                    f"{TOKEN}=USER:PASSWORD instead: others see command lines."
                )
            if not parts.hostname:
                raise ValueError(f"an address must be http://HOST:PORT, got {self.uri!r}.")
        elif re.fullmatch(r"[\w.-]+:\d+", self.uri) or "://" in self.uri or not self.uri:
            raise ValueError(f"an address must be a file or http://HOST:PORT, got {self.uri!r}. The port is 19530.")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads milvus:URI or milvus:URI#COLLECTION."""
        if not text.startswith(PREFIX):
            raise ValueError(f"--index must be {PREFIX}FILE.db or {PREFIX}http://HOST:PORT, got {text!r}.")
        uri, _, name = text[len(PREFIX) :].partition("#")
        return cls(os.path.expanduser(uri), name or NAME)

    @property
    def is_file(self) -> bool:
        """Whether it is milvus-lite's."""
        return "://" not in self.uri

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{PREFIX}{self.uri}" + ("" if self.collection == NAME else f"#{self.collection}")


class Connection:
    """An open way to a Milvus, for any number of threads. `read` and `write` are the seconds that a call may take."""

    def __init__(self, uri: str, *, make: bool = False, read: float = READ, write: float = WRITE) -> None:
        self.uri, self.read, self.write = uri, read, write
        try:
            import pymilvus
        except ImportError as error:
            raise ImportError(f"an index in Milvus needs pymilvus ({error}): pip install 'macl_tf[milvus]'") from error
        with suppress(ImportError):  # here: pymilvus would look into one that TensorFlow's thread is just importing
            import scipy.sparse  # noqa: F401
        for name in ("pymilvus", "milvus_lite"):  # what they log is raised as well, and their logs show tracebacks
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._address = uri if "://" in uri else _served_file(uri, make)
        self._failures = (pymilvus.MilvusException, *_rpc_errors())
        self._mutex = threading.Lock()
        self._client: Any = None
        try:
            self._connected(read)
        except self._failures as error:
            raise self._said(error, "connect", read) from error

    @cached_property
    def is_lite(self) -> bool:
        """Whether milvus-lite answers, which knows fewer kinds of index, and filters arrays slowly."""
        return str(self.call("get_server_version")).startswith("milvus_lite")

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """A method of pymilvus's client that reads; an EngineError says what kept it from being answered."""
        return self._made(name, arguments, options, self.read)

    def change(
        self, name: str, *arguments: Any, done: Callable[[], bool] = lambda: False, within: float = 0.0, **options: Any
    ) -> None:
        """A method that writes, and may be called again where no answer came.

        `done` says whether it has done what it should, of one that fails where that was done before; `within` are other
        seconds than `write`.
        """
        for left in range(_TRIES - 1, -1, -1):
            try:
                self._made(name, arguments, options, within or self.write)
                return
            except EngineError as error:
                late = _rpc_code(error.__cause__) == "DEADLINE_EXCEEDED"
                if not (late and left) and (late or not done()):
                    raise
                if not late:
                    return

    def create(self, collection: str, fields: Mapping[str, Mapping[str, Any]], level: str) -> None:
        """Makes a collection of fields, whose types are named as pymilvus names them."""
        from pymilvus import DataType

        schema = self._connected(self.read).create_schema(auto_id=False, enable_dynamic_field=False)
        for name, options in fields.items():
            types = {key: getattr(DataType, options[key]) for key in ("datatype", "element_type") if key in options}
            schema.add_field(name, **{**options, **types})
        told = {"schema": schema, "consistency_level": level}
        self.change("create_collection", collection, done=lambda: bool(self.call("has_collection", collection)), **told)

    def build_index(self, collection: str, kinds: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        """Builds an index of a kind and its parameters for each field, and loads the collection; that may take hours.

        The products of vectors are compared, which are cosines where the vectors are of unit norm.
        """
        for field, (kind, parameters) in kinds.items():
            index = self._connected(self.read).prepare_index_params()
            metric = {"metric_type": "IP"} if field == "vector" else {}
            # milvus-lite 3.2 passes over parameters that stand beside the kind, as pymilvus 3.0 sends them by itself.
            said = {"params": dict(parameters)} if self.is_lite else dict(parameters)
            index.add_index(field, index_type=kind, index_name=field, params=said, **metric)
            if not self._has_index(collection, field):
                there = partial(self._has_index, collection, field)
                self.change("create_index", collection, index, sync=False, done=there, within=BUILD)
        self.change("load_collection", collection, within=BUILD)
        while (told := self.call("describe_index", collection, "vector"))["state"] not in ("Finished", "Failed"):
            time.sleep(1.0)
        if told["state"] == "Failed":
            raise EngineError(f"the Milvus at {self.uri} must build the index", str(told), "See its log.")

    def _has_index(self, collection: str, field: str) -> bool:
        return field in self.call("list_indexes", collection)

    def rows(
        self, collection: str, condition: str, fields: Sequence[str], *, most: int = MOST, strong: bool = True
    ) -> list[dict[str, Any]]:
        """Up to `most` rows that meet a condition; `strong` for what others wrote a moment ago, too."""
        level = {"consistency_level": "Strong"} if strong else {}
        found = self.call("query", collection, filter=condition, output_fields=list(fields), limit=most, **level)
        return [dict(row) for row in found]

    def count(self, collection: str, condition: str = "") -> int:
        """How many rows meet a condition; all for none."""
        found = self.call("query", collection, filter=condition, output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def target(self, alias: str) -> str | None:
        """The collection that an alias stands for; None where there is no such alias."""
        if not self.call("has_collection", alias):
            return None
        name = str(self.call("describe_collection", alias)["collection_name"])
        if name == alias:
            raise ValueError(
                f"'{alias}' of {self.uri} must be an alias that `macl index --to milvus` made, but is a collection of "
                "another program. Choose another name: --collection NAME."
            )
        return name

    def _connected(self, seconds: float) -> Any:
        """The client, a new one after the last one lost its server: pymilvus's own does not come back."""
        import pymilvus

        with self._mutex:
            if self._client is None:
                token = os.environ.get(TOKEN, "")
                self._client = pymilvus.MilvusClient(
                    self._address, token=token, timeout=seconds, dedicated=True, grpc_options=_CHANNEL
                )
            return self._client

    def _made(self, name: str, arguments: Sequence[Any], options: dict[str, Any], seconds: float) -> Any:
        """Calls a method until it is answered, refused, or the time is over: of a read, where the server is away."""
        begin, pause, loaded, client = time.monotonic(), _PAUSE, False, None
        while True:
            past = time.monotonic() - begin
            left = seconds - past
            try:
                client = self._connected(max(left, _PAUSE))
                return getattr(client, name)(*arguments, timeout=max(left, _PAUSE), **options)
            except (*self._failures, ValueError) as error:
                if isinstance(error, ValueError) and "closed channel" not in str(error):
                    raise
                if getattr(error, "code", None) == _NOT_LOADED and arguments and not loaded:
                    loaded = True  # as after the server's restart
                    self._made("load_collection", arguments[:1], {}, self.write)
                elif _is_away(error) and past + pause < min(seconds, self.read):
                    with self._mutex:
                        if self._client is client:
                            self._client = None
                    time.sleep(pause)
                    pause = min(2 * pause, 1.0)
                else:
                    raise self._said(error, name, seconds) from error

    def _said(self, error: Exception, name: str, seconds: float) -> EngineError:
        """What an error of pymilvus means to who waits for the answer."""
        where, words = f"the Milvus at {self.uri}", str(getattr(error, "message", error))
        code = _rpc_code(error)
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") or "auth check" in words:
            return EngineError(f"{where} must know who asks", code, f"Set the environment variable {TOKEN}.")
        if code == "DEADLINE_EXCEEDED":
            remedy = "It hangs or has too much to do: see its log. The same call again is safe."
            return EngineError(f"{where} must answer within {seconds:g} s", "no answer", remedy)
        if _is_away(error):
            remedy = "Start it, or name another. The same call again is safe."
            return EngineError(f"{where} must be there", code or "no connection", remedy)
        return EngineError(f"{where} must do '{name}'", words, "See its log.")


def release(path: str | os.PathLike[str]) -> None:
    """Closes a file that this process has opened, so that others may open it; nothing where it has not."""
    with _opening:
        server, database, _ = _servers.pop(os.path.abspath(path), (None, None, 0))
    if server is not None:
        server.stop(grace=2).wait()
        database.close()


def _served_file(path: str, make: bool) -> str:
    """The address at which milvus-lite answers for a file, in threads of this process."""
    key = os.path.abspath(path)
    if not make and not Path(key).exists():
        raise FileNotFoundError(
            f"'{path}' is not there. `macl index SERVED --to milvus --uri {path}` makes it; a server is http://HOST:PORT."
        )
    if Path(key).is_file():
        raise ValueError(f"'{path}' must be a folder of milvus-lite 3 or later, but is a file. Choose another name.")
    if not Path(key).parent.is_dir():
        raise FileNotFoundError(f"'{Path(path).parent}' is not there: make the folder that the file is to lie in.")
    try:
        from milvus_lite.adapter.grpc.server import start_server_in_thread
        from milvus_lite.exceptions import DataDirLockedError
    except ImportError as error:
        raise ImportError(f"a file needs milvus-lite ({error}): pip install 'macl_tf[milvus]'") from error
    with _opening:
        if key not in _servers:
            try:
                _servers[key] = start_server_in_thread(data_dir=key, host="127.0.0.1", port=0)
            except DataDirLockedError as error:
                raise EngineError(
                    f"'{path}' must be opened by one process at a time, and another one has it open",
                    remedy=f"End that one, or let both use a server: milvus-lite server --data-dir {path}, then "
                    "--index milvus:http://127.0.0.1:19530.",
                ) from error
        return f"http://127.0.0.1:{_servers[key][2]}"


def _rpc_errors() -> tuple[type[Exception], ...]:
    import grpc

    return (grpc.RpcError, grpc.FutureTimeoutError)


def _rpc_code(error: BaseException | None) -> str | None:
    """The name of gRPC's status of an error of the connection; None for any other."""
    for one in (error, error and error.__cause__):
        if isinstance(one, _rpc_errors()):
            code = getattr(one, "code", None)
            return "DEADLINE_EXCEEDED" if code is None else str(code().name)
    return None


def _is_away(error: BaseException) -> bool:
    """Whether an error says that the server was not reached, or did not stay."""
    code = getattr(error, "code", None)
    lost = _rpc_code(error) in ("UNAVAILABLE", "CANCELLED", "UNKNOWN") or isinstance(error, ValueError)
    return lost or code == _CONNECT_FAILED
