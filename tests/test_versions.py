import importlib.metadata
import tomllib

import pytest

import macl_tf
from macl_tf import versions
from tests.conftest import ROOT


def pretend(monkeypatch, packages):
    def version(name):
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(versions.metadata, "version", version)


@pytest.mark.parametrize(
    ("packages", "backend", "legacy", "sentence"),
    [
        ({"keras": "3.15.1", "tensorflow-cpu": "2.20.0"}, "tensorflow", False, None),
        ({"keras": "3.6.0", "tensorflow": "2.18.1"}, "tensorflow", False, None),
        ({"keras": "4.0.0", "tensorflow": "2.22.0rc1"}, "tensorflow", False, None),
        ({"keras": "3.15.1"}, "jax", False, None),
        ({"keras": "3.15.1"}, "tensorflow", False, "jax or torch, found none: pip install tensorflow"),
        ({"keras": "3.15.1", "tensorflow": "2.17.0"}, "tensorflow", False, "found tensorflow 2.17: pip install -U"),
        ({"keras": "3.5.0", "tensorflow": "2.20.0"}, "tensorflow", False, "Keras 3.6 or later, found 3.5: pip install"),
        ({"tensorflow": "2.20.0"}, "tensorflow", False, "Keras 3.6 or later, found none"),
        ({"keras": "3.15.1", "tensorflow": "2.20.0"}, "tensorflow", True, "unset TF_USE_LEGACY_KERAS"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(monkeypatch, packages, backend, legacy, sentence):
    pretend(monkeypatch, packages)
    found = versions.problem(backend, legacy)
    assert found is None if sentence is None else sentence in found
    assert found is None or found.count("\n") == 0


@pytest.mark.parametrize(
    ("packages", "sentence"),
    [
        ({"tensorflow-cpu": "2.20.0"}, None),
        ({"tensorflow": "2.21.0"}, "found tensorflow 2.21: pip uninstall -y tensorflow, then pip install 'scann"),
        ({"tensorflow": "2.21.0", "tensorflow-cpu": "2.20.0"}, "pip uninstall -y tensorflow tensorflow-cpu, then"),
        ({}, "found none: pip install 'scann~=1.4.2' 'tensorflow-cpu~=2.20.0'"),
    ],
)
def test_scanns_tensorflow_is_asked_for_where_scann_is(monkeypatch, packages, sentence):
    pretend(monkeypatch, packages)
    if sentence is None:
        versions.check_for_scann()
    else:
        with pytest.raises(ImportError) as refused:
            versions.check_for_scann()
        assert sentence in str(refused.value)


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch):
    for extra in versions.EXTRAS:
        versions.need(extra)
    monkeypatch.setitem(versions.EXTRAS, "train", ("numpy", "no_such_module"))
    with pytest.raises(ImportError, match=r"no_such_module is needed here and not .*: pip install 'macl_tf\[train\]'"):
        versions.need("train")


def test_import_is_refused(run_python):
    result = run_python("import macl_tf", check=False, TF_USE_LEGACY_KERAS="1")
    assert result.returncode == 1
    assert "ImportError: macl_tf needs Keras 3.6 or later, found TF_USE_LEGACY_KERAS" in result.stderr


WITHOUT = """
import sys
hidden = set(sys.argv[1].split(","))

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in hidden else found(name, *more)
import numpy as np, macl_tf, keras
x, y = np.random.default_rng(0).random((12, 6)), np.random.default_rng(1).integers(0, 2, (12, 4))
model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
model.compile("adam", loss="macl", metrics=[macl_tf.RetrievalNDCG(capacity=16)])
model.fit(x, y, verbose=0, callbacks=[macl_tf.RetrievalEvaluation(x, y)])
for name in macl_tf.losses.__all__:
    getattr(macl_tf.losses, name)
from macl_tf.pipeline import samplers, streams
macl_tf.build_encoder(32, width=8), macl_tf.metrics.rank, macl_tf.datasets.NAMES
try:
    macl_tf.datasets.load_archive("synthetic", num_tiles=4)
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_all_but_archives_and_indexes_works_with_keras_and_numpy_alone(run_python):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {"train", "index", "serve", "all"} <= set(extras)
    assert all("imagenet" in extras[name][0] for name in ("cpu", "gpu")), "a run begins with these weights by default"
    hidden = "scann,tensorflow_datasets,pyarrow,matplotlib,PIL,rasterio,tqdm,array_record,scipy,fastapi,uvicorn"
    output = run_python(WITHOUT, hidden).stdout
    assert "pillow, rasterio, tqdm, tensorflow-datasets, matplotlib are needed here" in output
    assert "pip install 'macl_tf[train]'" in output


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "macl_tf.__version__"}
    assert macl_tf.__version__.count(".") == 2
