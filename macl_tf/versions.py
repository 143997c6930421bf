"""Refuses combinations of packages that cannot work, each with the one sentence that mends it. Imports none of them."""

from __future__ import annotations

import importlib.util
import os
from importlib import metadata

DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
KERAS, TENSORFLOW, SCANN_TENSORFLOW = (3, 6), (2, 18), (2, 20)
# The modules that an extra of pyproject.toml brings, and their packages where these are named otherwise.
_TRAIN = ("PIL", "rasterio", "tqdm", "tensorflow_datasets", "matplotlib")
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": _TRAIN,
    "index": (*_TRAIN, "pyarrow"),
    "gis": ("pyogrio", "shapely"),
    "beam": ("apache_beam",),
}
PACKAGES = {"PIL": "pillow", "tensorflow_datasets": "tensorflow-datasets", "apache_beam": "apache-beam"}


def installed(name: str) -> tuple[int, int] | None:
    """(major, minor) of an installed distribution, None where there is none."""
    try:
        major, minor = metadata.version(name).split(".")[:2]
    except metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


def installed_tensorflow() -> dict[str, tuple[int, int]]:
    """The distributions of TensorFlow that are installed, with their versions."""
    return {name: version for name in DISTRIBUTIONS if (version := installed(name)) is not None}


def problem(keras_backend: str, legacy_keras: bool) -> str | None:
    """What is wrong with the installed packages, as one sentence with its remedy; None if nothing is."""
    keras = installed("keras")
    if keras is None or keras < KERAS or legacy_keras:
        found = "TF_USE_LEGACY_KERAS is set" if legacy_keras else "none" if keras is None else str_of(keras)
        remedy = "unset TF_USE_LEGACY_KERAS" if legacy_keras else f"pip install -U 'keras>={str_of(KERAS)}'"
        return f"macl_tf needs Keras {str_of(KERAS)} or later, found {found}: {remedy}."
    if keras_backend != "tensorflow":
        return None  # the losses run on JAX and torch; there TensorFlow is not needed
    found_tf = installed_tensorflow()
    old = {name: version for name, version in found_tf.items() if version < TENSORFLOW}
    if found_tf and not old:
        return None
    needed = f"macl_tf needs TensorFlow {str_of(TENSORFLOW)} or later, or KERAS_BACKEND set to jax or torch, found"
    if not found_tf:
        return f"{needed} none: pip install tensorflow (or tensorflow-cpu)."
    name, version = next(iter(old.items()))
    return f"{needed} {name} {str_of(version)}: pip install -U '{name}>={str_of(TENSORFLOW)}'."


def str_of(version: tuple[int, int]) -> str:
    """Version as people write it, 2.20."""
    return f"{version[0]}.{version[1]}"


def check() -> None:
    """Raises an ImportError where macl_tf cannot work."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
    sentence = problem(backend, legacy)
    if sentence is not None:
        raise ImportError(sentence)


def check_for_scann() -> None:
    """Raises an ImportError where ScaNN's TensorFlow operations cannot be loaded: they are built for one TensorFlow."""
    found = installed_tensorflow()
    wrong = [f"{name} {str_of(version)}" for name, version in found.items() if version != SCANN_TENSORFLOW]
    if wrong or not found:
        needed = str_of(SCANN_TENSORFLOW)
        removed = f"pip uninstall -y {' '.join(found)}, then " if found else ""
        raise ImportError(
            f"ScaNN's TensorFlow operations need TensorFlow {needed}, found {', '.join(wrong) or 'none'}: {removed}"
            f"pip install 'scann~=1.4.2' 'tensorflow-cpu~={needed}.0' (or tensorflow). Exact search does without."
        )


def need(extra: str) -> None:
    """Raises an ImportError that names what is not installed of an extra (a key of `EXTRAS`), and how to get it."""
    missing = [PACKAGES.get(name, name) for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(f"{', '.join(missing)} {verb} needed here and not installed: pip install 'macl_tf[{extra}]'.")
