"""With a newer TensorFlow and nothing else of ours, in an environment of its own. Slow, and needs PyPI."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
import numpy as np, keras, macl_tf, tensorflow as tf
assert tf.__version__.startswith("2.21."), tf.__version__
x, y = np.random.default_rng(0).random((24, 6)), np.random.default_rng(1).integers(0, 2, (24, 5))
model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
model.compile("adam", loss=macl_tf.MACL(), metrics=[macl_tf.RetrievalNDCG(k=5, capacity=32)])
callback = macl_tf.RetrievalEvaluation(x, y, k=5)
history = model.fit(x, y, epochs=3, validation_data=(x, y), verbose=0, callbacks=[callback]).history
assert history["loss"][-1] < history["loss"][0]
np.testing.assert_allclose(history["val_retrieval_ndcg"], history["val_ndcg@5_jaccard"], rtol=1e-5)
for name in macl_tf.losses.registry.BY_NAME:
    value = float(keras.losses.get(name)(y, np.random.default_rng(2).normal(size=(24, 5)).astype("float32")))
    assert np.isfinite(value), name
try:
    macl_tf.datasets.load_archive("synthetic")
except ImportError as error:
    assert "pip install 'macl_tf[train]'" in str(error)
    print("works")
"""


@pytest.mark.slow
def test_a_newer_tensorflow_and_nothing_else(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=300)
    python = tmp_path / "venv" / "bin" / "python"
    if uv := shutil.which("uv"):  # a third of the time
        installer = [uv, "pip", "install", "--python", python]
    else:
        installer = [python, "-m", "pip", "install", "--no-cache-dir", "--no-compile"]
    subprocess.run([*installer, "--quiet", "tensorflow-cpu==2.21.*"], check=True, timeout=900)
    result = subprocess.run(
        [python, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert result.stdout == "works\n", result.stderr[-3000:]
