"""The exported encoder, from a folder of this machine or from wherever Apache Beam reads: gs://, s3://."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macl_tf.artifacts import MANIFEST, open_version
from macl_tf.embedding.remote import copy_folder, is_remote, names_below

if TYPE_CHECKING:
    from macl_tf.export.saved_model import ExportedEncoder

_KIND = "encoder"


def encoder_info(served: str) -> tuple[int, dict[str, Any]]:
    """Number and manifest's facts of the newest version of SERVED/encoder, without TensorFlow."""
    with _here(served, None) as folder:
        path, manifest = open_version(folder / _KIND, _KIND)
        return int(path.name), dict(manifest["info"])


def load_encoder(served: str, version: int, runtime: str) -> ExportedEncoder:
    """As `ExportedEncoder.load`; of a place elsewhere the version is copied here first, and not kept."""
    from macl_tf.export.saved_model import ExportedEncoder

    with _here(served, version) as folder:
        return ExportedEncoder.load(folder, version, runtime)


@contextmanager
def _here(served: str, version: int | None) -> Iterator[Path]:
    """The folder on this machine with a version of the encoder, or the newest."""
    if not is_remote(served):
        yield Path(served)
        return
    root = f"{served.rstrip('/')}/{_KIND}"
    if version is None:
        there = [name.split("/")[0] for name in names_below(root, f"*/{MANIFEST}")]
        version = max(map(int, filter(str.isdecimal, there)), default=None)
    with tempfile.TemporaryDirectory() as folder:
        if version is not None:
            copy_folder(f"{root}/{version}", Path(folder) / _KIND / str(version))
        yield Path(folder)
