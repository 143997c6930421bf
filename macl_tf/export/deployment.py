"""The files of a server beside what it serves: SERVED/deploy."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from string import Template

from macl_tf.artifacts import ArtifactError, versions
from macl_tf.files import write_text, written_whole

MODELS = "models.config"
FILES = ("compose.yaml", "batching.config", "monitoring.config", "client.py")


def deploy_files() -> Path:
    """Folder of the files that come with macl_tf: macl_tf/deploy of a wheel, export/deploy of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "deploy", package.parent / "export" / "deploy"):
        if (folder / MODELS).is_file():
            return folder
    raise FileNotFoundError("The server's files did not come with this macl_tf. Install it from its wheel or checkout.")


def models_config(served: str | os.PathLike[str]) -> str:
    """TensorFlow Serving's model configuration for the versions that are there.

    The label `canary` names the newest version. `stable` names what SERVED/deploy/models.config says, if that version
    is still there, and else the newest: a new encoder is not everybody's at once.
    """
    stable = stable_version(served)
    template = Template((deploy_files() / MODELS).read_text(encoding="utf-8"))
    return template.substitute(stable=stable, canary=versions(Path(served) / "encoder")[-1])


def stable_version(served: str | os.PathLike[str]) -> int:
    """The version of the encoder that the label `stable` names; see `models_config`."""
    served = Path(served)
    there = versions(served / "encoder")
    if not there:
        raise ArtifactError(f"'{served / 'encoder'}' holds no encoder. `macl export` makes one.")
    before = served / "deploy" / MODELS
    text = before.read_text(encoding="utf-8") if before.is_file() else ""
    label = re.search(r'key:\s*"stable"\s*,?\s*value:\s*(\d+)', text)
    return int(label[1]) if label and int(label[1]) in there else there[-1]


def write_deployment(served: str | os.PathLike[str]) -> Path:
    """Writes compose file, server configurations and client into SERVED/deploy, and returns it.

    Files that are there already stay as they are, since people tune them; models.config is written anew.
    """
    folder = Path(served) / "deploy"
    text = models_config(served)
    for name in FILES:
        if not (folder / name).exists():
            with written_whole(folder / name) as path:
                shutil.copyfile(deploy_files() / name, path)
    write_text(folder / MODELS, text)
    return folder
