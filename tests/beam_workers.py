"""What workers of a pipeline import: an encoder whose process is killed, and a file system with a scheme of its own."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import numpy as np
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem

from tests.stub_encoder import StubEncoder


class KilledOnce(StubEncoder):
    """Once some shards are there, the first process that embeds gets SIGKILL, as the kernel sends it for memory."""

    def __init__(self, output: str, shards: int) -> None:
        super().__init__()
        self._output, self._shards = Path(output), shards

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        if len(list(self._output.glob("part-*.parquet"))) >= self._shards:
            try:
                (self._output.parent / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_pixels(pixels)


class FailsAtEighth(StubEncoder):
    """Fails at the eighth picture."""

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        if sum(self.batches) + len(pixels) > 7:
            raise ValueError("no eighth picture")
        return super().embed_pixels(pixels)


class ElsewhereFileSystem(LocalFileSystem):
    """Folders of this disk under elsewhere://, as an object store: read and written through Beam alone."""

    refused: frozenset[str] = frozenset()  # names of files that cannot be opened

    @classmethod
    def scheme(cls) -> str:
        return "elsewhere"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    @staticmethod
    def _path(place: str) -> str:
        return place.removeprefix("elsewhere:/")

    def mkdirs(self, path):
        super().mkdirs(self._path(path))

    def has_dirs(self):
        return False  # a name is a key, and folders are not there without one

    def _list(self, dir_or_prefix):
        root = Path(self._path(dir_or_prefix[: dir_or_prefix.rindex("/")]))
        for path in root.rglob("*"):
            if path.is_file():
                yield FileMetadata(f"elsewhere:/{path}", path.stat().st_size, path.stat().st_mtime)

    def open(self, path, *arguments, **options):
        if Path(path).name in self.refused:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return super().open(self._path(path), *arguments, **options)

    def create(self, path, *arguments, **options):
        return super().create(self._path(path), *arguments, **options)

    def rename(self, sources, destinations):
        super().rename([*map(self._path, sources)], [*map(self._path, destinations)])

    def exists(self, path):
        return super().exists(self._path(path))

    def metadata(self, path):
        found = super().metadata(self._path(path))
        return FileMetadata(path, found.size_in_bytes, found.last_updated_in_seconds)

    def delete(self, paths):
        super().delete([*map(self._path, paths)])
