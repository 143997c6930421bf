"""SIGKILL while scenes are cut: the same command goes on, and nothing is lost or there twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

from macl_tf.files import PARTIAL
from tests.scene_files import palette_png, pixels, raster

ROOT = Path(__file__).resolve().parent.parent
KILLS = 10


def command(folder, output):
    arguments = ("tile", folder / "in", "--output", output, "--size", "16", "--masks", folder / "masks", "--classes",
                 folder / "classes.csv", "--workers", "2", "--quiet")  # fmt: skip
    return [sys.executable, "-m", "macl_tf.cli", *map(str, arguments)]


def tiles_in(output):
    """How many there are, whatever becomes of folders meanwhile."""
    return sum(name.endswith(".tif") for _, _, names in os.walk(output) for name in names)


def visible(output):
    """Bytes of every file by its name, but what is there for going on."""
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(output.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(output).parts)}  # fmt: skip


@pytest.mark.slow
def test_nothing_is_lost_or_twice_after_kills(tmp_path):
    codes = np.random.default_rng(0).integers(0, 3, (640, 640))
    for name in ("a", "b", "c"):
        raster(tmp_path / "in" / f"{name}.tif", pixels(4, 640, 640, "uint16"), tiled=True)
        palette_png(tmp_path / "masks" / f"{name}.png", codes)
    (tmp_path / "classes.csv").write_text("value,name\n0,ignore\n1,water\n2,land\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command(tmp_path, tmp_path / "whole"), env=environment, check=True, stdout=subprocess.DEVNULL)
    expected = visible(tmp_path / "whole")
    assert len(expected) == 3 * 1600 + 5

    chance, output, cut = random.Random(7), tmp_path / "killed", 0
    for _ in range(KILLS):
        process = subprocess.Popen(command(tmp_path, output), env=environment, stdout=subprocess.DEVNULL)
        before = tiles_in(output)
        wanted = before + chance.randint(1, 300)  # not a time, in which a busy machine may end or begin nothing
        while process.poll() is None and tiles_in(output) < wanted:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        cut += process.wait() == -signal.SIGKILL
        left = [path for path in output.rglob("*.tif") if not path.name.startswith(PARTIAL)]
        for path in chance.sample(left, min(20, len(left))):
            with rasterio.open(path) as file:  # what has its name is whole
                assert file.read().shape == (4, 16, 16)
    assert cut >= 5
    subprocess.run(command(tmp_path, output), env=environment, check=True, stdout=subprocess.DEVNULL)
    assert visible(output) == expected
    assert not list(output.rglob(f"{PARTIAL}*"))
