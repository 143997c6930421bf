"""Artefacts on disk: folders with whole numbers for names, published whole or not at all, refused when damaged.

    root/1/  root/2/ ...   each with a manifest.json that holds the size and SHA-256 of every other file

Nothing in a version changes after it is published, and nothing in it knows where it lies: a folder can be moved.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import macl_tf
from macl_tf.files import PARTIAL, locked, read_json, sha256_of, sync, told_if_full, write_json

MANIFEST = "manifest.json"
FORMAT = 1
_LOCK = ".lock"
_REMEDY = "Copy it anew from where it is whole, or remove the folder and make it again with `macl export`."


class ArtifactError(ValueError):
    """An artefact that is missing, damaged, or not what it should be."""


@dataclass
class Staging:
    """A version that is being made: its folder, JSON facts for its manifest, and where it is once it is published."""

    path: Path
    info: dict[str, Any] = field(default_factory=dict)
    uuid: str = field(default_factory=lambda: uuid.uuid4().hex)  # what tells it from all others
    published: Path | None = None


def versions(root: str | os.PathLike[str]) -> list[int]:
    """Published versions under `root`, ascending; none where there is no such folder."""
    folder = Path(root)
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal() and entry.is_dir())


@contextmanager
def publish(
    root: str | os.PathLike[str],
    kind: str,
    *,
    keep: int = 0,
    around_rename: Callable[[int], AbstractContextManager[Any]] | None = None,
) -> Iterator[Staging]:
    """A folder to write a new version into, which appears under the next number when the block ends without an error.

    After an error, a SIGKILL or a full disk there is no new version and all old ones are as they were; what a dead
    process left is removed by the next one. One process publishes under a root at a time: another gets a
    BlockingIOError. The newest `keep` versions stay (0: all). `around_rename` makes, of the new number, a context
    manager to be in at the moment of publishing.
    """
    if keep < 0:
        raise ValueError(f"keep must be >= 0 (0 keeps all versions), got {keep}.")
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    whole = told_if_full(root, "the new version could not be written, and all is as it was")
    with whole, _publisher(root):
        for left in root.glob(f"{PARTIAL}*"):  # whoever made it is dead: we hold the lock
            remove = shutil.rmtree if left.is_dir() else os.unlink
            remove(left)
        staging = Staging(Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root)))
        try:
            yield staging
            staging.path.chmod(0o755)  # mkdtemp's 0700 would shut a server of another user out
            _write_manifest(staging, kind)
            number = max(versions(root), default=0) + 1
            with around_rename(number) if around_rename else nullcontext():
                os.rename(staging.path, root / str(number))
                sync(root)
        except BaseException:
            shutil.rmtree(staging.path, ignore_errors=True)
            raise
        staging.published = root / str(number)
        _prune(root, keep, ())


def prune(root: str | os.PathLike[str], keep: int, protected: Iterable[int] = ()) -> None:
    """Removes all versions but the newest `keep` (0: all stay) and the `protected`; BlockingIOError as of `publish`."""
    with _publisher(Path(root)):
        _prune(Path(root), keep, protected)


def withdraw(root: str | os.PathLike[str], version: int) -> None:
    """Removes one version that nobody needs; BlockingIOError as of `publish`."""
    with _publisher(Path(root)):
        _remove(Path(root), version)


def _publisher(root: Path) -> AbstractContextManager[None]:
    """Held by the one process that publishes or removes versions under `root`."""
    busy = f"'{root}' is being written by another process. Wait for it to end, then run this again."
    return locked(root / _LOCK, busy=busy)


def _prune(root: Path, keep: int, protected: Iterable[int]) -> None:
    for old in set(versions(root)[:-keep] if keep else []) - set(protected):
        _remove(root, old)


def _remove(root: Path, version: int) -> None:
    # Renamed first, so that nobody opens half a version while it goes.
    doomed = root / f"{PARTIAL}old-{version}"
    os.rename(root / str(version), doomed)
    shutil.rmtree(doomed)


def open_version(
    root: str | os.PathLike[str], kind: str, version: int | None = None, *, verify: bool = True
) -> tuple[Path, dict[str, Any]]:
    """The folder and manifest of a version (None: the newest), which must be whole and of this kind.

    Names and sizes of all files are compared; `verify` reads them, too, and compares their SHA-256. An ArtifactError
    says which file is missing, truncated or changed.
    """
    root = Path(root)
    there = versions(root)
    if not there or (version is not None and version not in there):
        wanted = f"no {kind}" if version is None else f"no version {version} of the {kind}"
        have = f"; there is {', '.join(map(str, there))}" if there else ""
        raise ArtifactError(f"'{root}' holds {wanted}{have}. `macl export` makes one.")
    path = root / str(there[-1] if version is None else version)
    try:
        manifest = read_json(path / MANIFEST)
        found_kind, format_, files = manifest["kind"], manifest["format"], manifest["files"]
        listed = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
        if not isinstance(manifest["info"], dict) or not isinstance(manifest["uuid"], str):
            raise TypeError("info or uuid is not what it should be")
    except FileNotFoundError:
        raise ArtifactError(f"'{path}' has no {MANIFEST}: it was not made by macl_tf, or not all of it was copied. "
                            f"{_REMEDY}") from None  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"'{path / MANIFEST}' is damaged ({type(error).__name__}: {error}). {_REMEDY}") from error
    if found_kind != kind or format_ != FORMAT:
        raise ArtifactError(
            f"'{path}' must be of kind {kind}, format {FORMAT}, got {found_kind}, format {format_}. Name the folder "
            "that `macl export` wrote, and use the macl_tf that wrote it."
        )
    if manifest.get("sha256") != _facts_digest(manifest):
        raise ArtifactError(f"'{path / MANIFEST}' does not say what was written (SHA-256 differs). {_REMEDY}")
    for name, (size, _) in listed.items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"'{file}' is missing. {_REMEDY}")
        if file.stat().st_size != size:
            raise ArtifactError(f"'{file}' must have {size:,} bytes, got {file.stat().st_size:,}. {_REMEDY}")
        if verify:
            verify_file(path, manifest, name)
    return path, manifest


def verify_file(path: Path, manifest: Mapping[str, Any], name: str) -> None:
    """Compares the SHA-256 of a file of a version with its manifest, which `open_version` gave."""
    if sha256_of(path / name) != manifest["files"][name]["sha256"]:
        raise ArtifactError(f"'{path / name}' does not hold the bytes that were written (SHA-256 differs). {_REMEDY}")


def open_encoder(
    served: str | os.PathLike[str], made_with: Mapping[str, Any], *, verify: bool = True
) -> tuple[Path, dict[str, Any]]:
    """The folder and manifest of the encoder that an index was made with, as that one's manifest says (version, uuid).

    An ArtifactError as of `open_version`, or where another one has its number.
    """
    path, manifest = open_version(Path(served) / "encoder", "encoder", made_with["version"], verify=verify)
    if manifest["uuid"] != made_with["uuid"]:
        raise ArtifactError(
            f"The index of '{served}' was made with another encoder than its version {made_with['version']} is: "
            "vectors of two encoders cannot be compared. Copy both from one export, or export again."
        )
    return path, manifest


def _write_manifest(staging: Staging, kind: str) -> None:
    names = sorted(path for path in staging.path.rglob("*") if path.is_file() and path != staging.path / MANIFEST)
    files = {}
    for path in names:
        files[path.relative_to(staging.path).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        sync(path)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "kind": kind,
        "uuid": staging.uuid,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "macl_tf": macl_tf.__version__,
        "info": staging.info,
        "files": files,
    }
    write_json(staging.path / MANIFEST, {**facts, "sha256": _facts_digest(facts)})
    for folder in {path.parent for path in names} | {staging.path}:
        sync(folder)


def _facts_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of everything that a manifest says but that itself."""
    facts = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
