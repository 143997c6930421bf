"""The run directory: its files, its lock, and the settings and versions of the run."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

from macl_tf.datasets import load_archive
from macl_tf.datasets.archives import Archive, by_scene
from macl_tf.datasets.bands import Bands
from macl_tf.datasets.label_lists import listed
from macl_tf.datasets.label_names import KnownLabels
from macl_tf.datasets.splits import SPLITS
from macl_tf.datasets.vector_tiles import with_features
from macl_tf.datasets.vectors import VectorFiles
from macl_tf.evaluation.report import RetrievalReport
from macl_tf.files import is_partial, locked, read_json, sha256_of, write_json, write_text
from macl_tf.labels import LabelStatistics
from macl_tf.training.checkpoint import STATE
from macl_tf.training.settings import Settings, load_settings

SETTINGS, METRICS, LABELS, ENCODER = "settings.toml", "metrics.json", "labels.json", "encoder.keras"
VERSIONS, UNTRAINED, LOCK, BANDS = "versions.json", "untrained.json", ".lock", "bands.json"
# Where the archive lies, which is not what it is: splits.json tells whether it is the run's.
PLACES = ("data_dir", "table", "features")
_COMPUTING = ("macl_tf", "tensorflow", "tensorflow-cpu", "keras")  # the same on all machines of a run
_PACKAGES = (*_COMPUTING, "numpy", "tensorflow-datasets", "pillow")


def default_run_dir(settings: Settings) -> Path:
    """runs/<dataset>-<what the settings hash to>: the same command finds its run again."""
    digest = hashlib.sha256(settings.to_toml().encode()).hexdigest()[:8]
    return Path("runs") / f"{settings.dataset}-{digest}"


def placed(settings: Settings) -> Settings:
    """The same settings with absolute paths; a label table in `data_dir` is told from there, so that both may move."""
    data_dir = _absolute(settings.data_dir)
    table, root = settings.table, Path(data_dir)
    if table and not (root / table).is_file() and os.path.isfile(_absolute(table)):
        table = _absolute(table)
    if table and os.path.isabs(table) and data_dir and Path(table).is_relative_to(root):
        table = Path(table).relative_to(root).as_posix()
    weights = settings.weights if settings.weights == "imagenet" else _absolute(settings.weights)
    backbone = _absolute(settings.backbone) if settings.backbone.endswith(".keras") else settings.backbone
    features = _absolute(settings.features)
    return dataclasses.replace(
        settings, data_dir=data_dir, table=table, weights=weights, backbone=backbone, features=features
    )


def moved(settings: Settings, data_dir: str | os.PathLike[str], table: str | os.PathLike[str] = "") -> Settings:
    """The settings of a run whose archive is looked for at `data_dir`; where they say so if that is empty.

    Its label table is the one that is named, else the run's own where that lies in the archive, else what is found.
    """
    if not data_dir:
        return placed(dataclasses.replace(settings, table=os.fspath(table) or settings.table))
    own = settings.table if not os.path.isabs(settings.table) else ""
    there = _absolute(data_dir)
    kept = own if own and Path(there, own).is_file() else ""
    return placed(dataclasses.replace(settings, data_dir=there, table=os.fspath(table) or kept))


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(path)) if os.fspath(path) else ""


def check_run(settings: Settings, run: Path) -> None:
    """Raises a ValueError if a directory holds a run with other settings, or anything but a run."""
    if has_progress(run):
        before = run_settings(run)
        changed = [
            f"{field.name} ({getattr(before, field.name)!r} there, {getattr(settings, field.name)!r} now)"
            for field in dataclasses.fields(Settings)
            if field.name not in PLACES and getattr(before, field.name) != getattr(settings, field.name)
            if field.name != "weights" or not _began_from(run, settings.weights)
        ]
        if changed:
            raise ValueError(f"'{run}' holds a run with other settings: {', '.join(changed)}. Use another --run-dir.")
    elif run.is_dir() and not (run / SETTINGS).is_file():
        foreign = [entry for entry in run.iterdir() if not is_partial(entry) and entry.name != LOCK]
        if foreign:
            raise ValueError(f"'{run}' is not empty and holds no run. Use another --run-dir.")


def _began_from(run: Path, weights: str) -> bool:
    """Whether a run began from weights that lie elsewhere now: the same bytes."""
    before = read_run(run, VERSIONS).get("weights_sha256") if (run / VERSIONS).is_file() else None
    return before is not None and os.path.isfile(weights) and before == sha256_of(weights)


@contextmanager
def occupied(run: Path) -> Iterator[None]:
    """Holds a run directory, made if need be, for one process that trains; another gets a BlockingIOError."""
    run.mkdir(parents=True, exist_ok=True)
    busy = f"'{run}' is being trained by another process. Wait for it to end, or use another --run-dir."
    with locked(run / LOCK, busy=busy):
        yield


def has_progress(run: Path) -> bool:
    """Whether a directory holds a run with something to lose: a finished epoch or figures."""
    return (run / STATE).is_file() or (run / METRICS).is_file()


def is_finished(run: Path) -> bool:
    """Whether a directory holds a run with nothing left to do."""
    return (run / METRICS).is_file() and (run / ENCODER).is_file()


def describe_run(settings: Settings, run: Path) -> None:
    """Writes what a run is made from and with: settings.toml and versions.json."""
    write_text(run / SETTINGS, settings.to_toml())  # first: it is what makes the directory a run
    if has_progress(run):  # only the place of the archive may be another one
        return
    versions: dict[str, Any] = {"python": platform.python_version(), "command": sys.argv[1:]}
    versions |= installed_versions(*_PACKAGES)
    if os.path.isfile(settings.weights):
        versions["weights_sha256"] = sha256_of(settings.weights)
    write_json(run / VERSIONS, versions)


def files_to_go_on(run: Path) -> list[Path]:
    """What a run is at a moment: the files that another machine needs to go on with it, or to show its figures."""
    names = (SETTINGS, VERSIONS, SPLITS, LABELS, BANDS, UNTRAINED, STATE, METRICS, ENCODER)
    return [run / name for name in names if (run / name).is_file()]


def common_ground(settings: Settings) -> dict[str, Any]:
    """What must be the same on all machines of a run, by name: settings but for places, and versions."""
    told = {name: value for name, value in dataclasses.asdict(settings).items() if name not in PLACES}
    return told | {f"the version of {name}": found for name, found in installed_versions(*_COMPUTING).items()}


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def run_settings(run: Path) -> Settings:
    """The settings that a run was made with; a FileNotFoundError or ValueError where their file is gone or damaged."""
    path = run / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' is not there. {_remedy(SETTINGS)}")
    try:
        return load_settings(path)
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged or of another macl_tf ({error}). {_remedy(SETTINGS)}") from error


def read_run(run: Path, name: str) -> dict[str, Any]:
    """One of the JSON files of a run, checked with all that is read of it; errors as those of `run_settings`."""
    path = run / name
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' is not there. {_remedy(name)}")
    try:
        content: dict[str, Any] = read_json(path)
        reports = [content] if name == UNTRAINED else []
        if name == METRICS:
            reports = [content[part] for part in ("untrained", "trained")]
            content["split"], content["best_epoch"]
        if name == LABELS:
            LabelStatistics.from_config(content)
        for report in (report for part in reports for report in part.values()):
            RetrievalReport.from_dict(report)
        content.get("")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' is damaged ({type(error).__name__}: {error}). {_remedy(name)}") from error
    return content


def _remedy(name: str) -> str:
    """What to do about a file of a run that is damaged or gone."""
    if name in (METRICS, ENCODER):
        return "Remove it, and the `macl train` command of the run writes it anew from the last epoch."
    return "Put the file back as the run wrote it, or train again with another --run-dir."


def read_encoder(run: Path) -> Any:
    """The encoder of a run, a Keras model; a ValueError where Keras cannot read it."""
    try:
        return keras.saving.load_model(run / ENCODER, compile=False)
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"'{run / ENCODER}' cannot be read as a Keras model: {error}. {_remedy(ENCODER)}") from error


def open_archive(settings: Settings) -> Archive:
    """The archive that the settings name, with the labels that they ask for, and the vectors of its tiles if they do.

    Of a folder with vectors the pictures need not be there, only the label table.
    """
    source = VectorFiles(settings.features) if settings.features else None
    archive = load_archive(
        settings.dataset,
        settings.data_dir or None,
        seed=settings.seed,
        num_tiles=settings.num_tiles if settings.dataset == "synthetic" else None,
        table=settings.table or None,
        min_area=settings.min_area,
        names=source.ids() if source and settings.dataset == "folder" else (),
        bands={"asked": settings.bands, "rgb": settings.rgb, "scaling": settings.scaling} if settings.bands else None,
        classes=int(settings.classes),
    )
    archive = with_features(archive, source) if source else archive
    return by_scene(archive) if settings.labels == "scene" else archive


def finished_run(run_dir: str | os.PathLike[str]) -> Path:
    """The directory of a finished run; a FileNotFoundError where it holds none."""
    run = Path(run_dir).expanduser()
    if not (run / ENCODER).is_file():
        raise FileNotFoundError(
            f"'{run}' holds no finished run ({ENCODER} is not there). The `macl train` command of the run makes it."
        )
    return run


def archive_of(
    run: Path,
    data_dir: str | os.PathLike[str] = "",
    table: str | os.PathLike[str] = "",
    features: str | os.PathLike[str] = "",
) -> tuple[Archive, Settings]:
    """The archive of a run, where it lay at the training or lies now, and the run's settings with its place."""
    settings = moved(run_settings(run), data_dir, table)
    if features:
        if not settings.features:
            raise ValueError(f"'{run}' sees pictures, so vectors cannot be given to it: leave out {features}.")
        settings = placed(dataclasses.replace(settings, features=os.fspath(features)))
    try:
        return with_bands_of(run, open_archive(settings)), settings
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}\nIf the archive of '{run}' lies elsewhere now, say --data-dir DIR; if its label table does, "
            "--table FILE; if the vectors that it was trained on do, --features FILE."
        ) from error


def with_bands_of(run: Path, archive: Archive) -> Archive:
    """The same tiles with the statistics of a run's bands, if they have bands."""
    if archive.bands is None:
        return archive
    bands = Bands.from_dict(read_run(run, BANDS))
    if (bands.names, bands.rgb) != (archive.bands.names, archive.bands.rgb):
        raise ValueError(
            f"tiles must have the bands that the run was trained on, {', '.join(bands.names)}, got "
            f"{', '.join(archive.bands.names)}. Name them alike, or train on them with another --run-dir."
        )
    return dataclasses.replace(archive, bands=dataclasses.replace(bands, template=archive.bands.template))


def bands_of(run: Path) -> Bands | None:
    """The bands of a run's tiles; None where they are pictures of 8-bit RGB."""
    return Bands.from_dict(read_run(run, BANDS)) if (run / BANDS).is_file() else None


def compared_labels(statistics: LabelStatistics, archive: Archive) -> tuple[list[int | None], list[str], list[str]]:
    """Where an archive has each label of a run, names of those that it has not, and of those that the run has not."""
    known, names = KnownLabels(archive.label_names), statistics.label_names or archive.label_names
    columns = [known.find(name) for name in names]
    gone = [name for name, column in zip(names, columns, strict=True) if column is None]
    came = [name for column, name in enumerate(archive.label_names) if column not in columns]
    return columns, gone, came


def with_labels_of(statistics: LabelStatistics, archive: Archive) -> tuple[Archive, tuple[str, ...]]:
    """The tiles of an archive with the labels that a run knows, in its order, and lines about what that changed.

    A label that no tile holds any more is a column of zeros; one that came later is left out.
    """
    names = statistics.label_names or archive.label_names
    if names == archive.label_names:
        return archive, ()
    columns, gone, came = compared_labels(statistics, archive)
    none = np.zeros(len(archive), np.uint8)
    labels = np.stack([none if column is None else archive.labels[:, column] for column in columns], axis=1)
    lines = [f"labels of the run that no tile of the archive holds now: {listed(gone)}"] if gone else []
    lines += [f"labels that the run does not know, left out: {listed(came)}"] if came else []
    return dataclasses.replace(archive, label_names=tuple(names), labels=labels, label_areas=None), tuple(lines)
