"""Refuses combinations of packages that cannot work, each with the one sentence that mends it."""

from __future__ import annotations

import os
from importlib import metadata

INSTALL = "pip install 'macl_tf[cpu]' (or 'macl_tf[gpu]')"
DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")


def installed(name: str) -> tuple[int, int] | None:
    """(major, minor) of an installed distribution, None where there is none. Imports nothing."""
    try:
        major, minor = metadata.version(name).split(".")[:2]
    except metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


def problem(keras_backend: str, legacy_keras: bool) -> str | None:
    """What is wrong with the installed packages, as one sentence with its remedy; None if nothing is."""
    keras = installed("keras")
    if keras is None or keras < (3, 12) or legacy_keras:
        found = "TF_USE_LEGACY_KERAS is set" if legacy_keras else "none" if keras is None else str_of(keras)
        remedy = "unset TF_USE_LEGACY_KERAS" if legacy_keras else "pip install 'keras>=3.12,<3.16'"
        return f"macl_tf needs Keras 3.12 to 3.15, found {found}: {remedy}."
    if keras_backend != "tensorflow":
        return None  # the losses run on JAX and torch; there TensorFlow is not needed
    found_tf = {name: version for name in DISTRIBUTIONS if (version := installed(name)) is not None}
    if not found_tf:
        return f"macl_tf needs TensorFlow 2.20, found none: {INSTALL}."
    wrong = {name: version for name, version in found_tf.items() if version != (2, 20)}
    if wrong:
        name, version = next(iter(wrong.items()))
        return (
            f"macl_tf needs TensorFlow 2.20, found {name} {str_of(version)}, with which ScaNN cannot be loaded: "
            f"pip uninstall -y {' '.join(found_tf)}, then {INSTALL}."
        )
    return None


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
