"""The directory of a run: what is in it, whose it is, and what it was made with."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from macl_tf.checkpoint import STATE
from macl_tf.config import Settings, load_settings
from macl_tf.datasets import load_archive
from macl_tf.datasets.archives import Archive, by_scene
from macl_tf.files import is_partial, write_json, write_text

SETTINGS, METRICS, LABELS, ENCODER = "settings.toml", "metrics.json", "labels.json", "encoder.keras"


def default_run_dir(settings: Settings) -> Path:
    """runs/<dataset>-<what the settings hash to>: the same command finds its run again."""
    digest = hashlib.sha256(settings.to_toml().encode()).hexdigest()[:8]
    return Path("runs") / f"{settings.dataset}-{digest}"


def check_run(settings: Settings, run: Path) -> None:
    """Raises a ValueError if a directory holds a run with other settings, or anything but a run."""
    path = run / SETTINGS
    if has_progress(run):
        before = load_settings(path)
        changed = [
            f"{field.name} ({getattr(before, field.name)!r} there, {getattr(settings, field.name)!r} now)"
            for field in dataclasses.fields(Settings)
            if getattr(before, field.name) != getattr(settings, field.name)
        ]
        if changed:
            raise ValueError(f"'{run}' holds a run with other settings: {', '.join(changed)}. Use another --run-dir.")
    elif run.is_dir() and not path.is_file() and any(not is_partial(entry) for entry in run.iterdir()):
        raise ValueError(f"'{run}' is not empty and holds no run. Use another --run-dir.")


def has_progress(run: Path) -> bool:
    """Whether a directory holds a run with something to lose: a finished epoch or figures."""
    return (run / STATE).is_file() or (run / METRICS).is_file()


def describe_run(settings: Settings, run: Path) -> None:
    """Writes what a run is made from and with: settings.toml and versions.json."""
    if has_progress(run):
        return
    packages = ("macl_tf", "tensorflow", "tensorflow-cpu", "keras", "numpy", "tensorflow-datasets", "pillow")
    versions: dict[str, Any] = {"python": platform.python_version(), "command": sys.argv[1:]}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    write_text(run / SETTINGS, settings.to_toml())  # first: it is what makes the directory a run
    write_json(run / "versions.json", versions)


def open_archive(settings: Settings) -> Archive:
    """The archive that the settings name, with the labels that they ask for."""
    archive = load_archive(
        settings.dataset,
        settings.data_dir or None,
        seed=settings.seed,
        num_tiles=settings.num_tiles if settings.dataset == "synthetic" else None,
        table=settings.table or None,
        min_area=settings.min_area,
    )
    return by_scene(archive) if settings.labels == "scene" else archive
