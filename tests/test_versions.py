import importlib.metadata

import pytest

from macl_tf import versions


@pytest.mark.parametrize(
    ("packages", "backend", "legacy", "sentence"),
    [
        ({"keras": "3.15.1", "tensorflow-cpu": "2.20.0"}, "tensorflow", False, None),
        ({"keras": "3.12.0", "tensorflow": "2.20.1"}, "tensorflow", False, None),
        ({"keras": "3.15.1"}, "jax", False, None),
        ({"keras": "3.15.1"}, "tensorflow", False, "TensorFlow 2.20, found none: pip install 'macl_tf[cpu]'"),
        ({"keras": "3.15.1", "tensorflow": "2.21.0"}, "tensorflow", False, "found tensorflow 2.21, with which ScaNN"),
        (
            {"keras": "3.15.1", "tensorflow": "2.21.0", "tensorflow-cpu": "2.20.0"},
            "tensorflow",
            False,
            "pip uninstall -y tensorflow tensorflow-cpu",
        ),
        (
            {"keras": "2.15.0", "tensorflow": "2.20.0"},
            "tensorflow",
            False,
            "Keras 3.12 to 3.15, found 2.15: pip install",
        ),
        ({"tensorflow": "2.20.0"}, "tensorflow", False, "Keras 3.12 to 3.15, found none"),
        ({"keras": "3.15.1", "tensorflow": "2.20.0"}, "tensorflow", True, "unset TF_USE_LEGACY_KERAS"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(monkeypatch, packages, backend, legacy, sentence):
    def version(name):
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(versions.metadata, "version", version)
    found = versions.problem(backend, legacy)
    assert found is None if sentence is None else sentence in found
    assert found is None or found.count("\n") == 0


def test_import_is_refused(run_python):
    result = run_python("import macl_tf", check=False, TF_USE_LEGACY_KERAS="1")
    assert result.returncode == 1
    assert "ImportError: macl_tf needs Keras 3.12 to 3.15, found TF_USE_LEGACY_KERAS" in result.stderr
