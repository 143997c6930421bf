"""What made a figure: the command, the machine, the versions."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import sys
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Arguments that say where something lies on this machine, and what stands for them.
PLACES = {
    "--work": "DIR",
    "--run-dir": "RUN",
    "--data-dir": "UCM",
    "--elsewhere": "DUBAI",
    "--naip": "NAIP",
    "--served": "SERVED",
    "--pictures": "FOLDER",
    "--encoder": "PRE/encoder.keras",
    "--out": "OUT",
}


def made_by(module: str, packages: Iterable[str]) -> dict[str, Any]:
    """For the head of a results file: command (without places of this machine), machine, python, versions.

    `packages` are distributions whose versions matter; those that are not installed are left out.
    """
    return {
        "command": shlex.join(["python", "-m", module, *without_places(sys.argv[1:])]),
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": processor()},
        "python": platform.python_version(),
        "versions": installed(packages),
    }


def without_places(words: Iterable[str], places: Mapping[str, str] = PLACES) -> list[str]:
    """A command line without the places of this machine."""
    words = [re.sub(r"^(weights=|table=|(?=[^=]*\.toml$)).*/", r"\1", word) for word in words]
    return [places.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def settings_without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without places of this machine; weights from a file by its name and contents."""
    kept = {key: value for key, value in settings.items() if key not in ("data_dir", "table")}
    weights = Path(str(kept.get("weights") or ""))
    if weights.is_file():
        kept["weights"] = f"{weights.name}, {digest(weights)}"
    return kept


def digest(weights: Path) -> str:
    """A hash of the numbers in a `.keras` or `.weights.h5` file, which itself also holds the time it was written."""
    import h5py

    with ExitStack() as stack:
        stream: Any = stack.enter_context(weights.open("rb"))
        if weights.suffix == ".keras":
            stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(stream)).open("model.weights.h5"))
        file = stack.enter_context(h5py.File(stream, "r"))
        found: dict[str, bytes] = {}
        file.visititems(lambda name, held: found.update({name: held[()].tobytes()} if hasattr(held, "dtype") else {}))
    whole = hashlib.sha256(b"".join(name.encode() + found[name] for name in sorted(found)))
    return f"sha256 of its numbers {whole.hexdigest()[:12]}"


def processor() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are there: `tensorflow` comes under two names."""
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
