"""The floors of the house: a file imports downwards only, heavy packages are met in few files, names are documented."""

import ast
import inspect
import sys
import tomllib
from pathlib import Path

import macl_tf

PACKAGE = Path(macl_tf.__file__).parent

FLOORS = [
    {"versions", "registration", "files", "layers"},
    {"labels", "metrics", "report", "pretrained", "encoders", "config", "figures", "datasets"},
    {"losses", "sampling", "class_sampling", "augmentation", "retrieval", "cached_gradients", "descriptors"},
    {"pipeline", "callbacks", "checkpoint", "recipe", "run_directory", "run_figures"},
    {"training", "serving"},  # side by side: what serves knows a run's directory, never how it was trained
    {"service"},
    {"cli"},
]
# Who may import what is heavy or fragile at all, at the top of the file or inside a function.
ONLY = {
    "tensorflow_datasets": {"datasets"},
    "matplotlib": {"figures"},
    "PIL": {"datasets", "figures", "serving", "service"},
    "scipy": {"datasets"},
    "keras_hub": {"pretrained"},
    "tensorflow": {
        "losses",
        "layers",
        "sampling",
        "augmentation",
        "pipeline",
        "training",
        "datasets",
        "retrieval",
        "cached_gradients",
        "serving",
    },
    "keras": {
        "losses",
        "layers",
        "encoders",
        "pretrained",
        "callbacks",
        "checkpoint",
        "recipe",
        "run_directory",
        "run_figures",
        "training",
        "retrieval",
        "cached_gradients",
        "descriptors",
        "serving",
    },
    "scann": {"serving"},
    "pyarrow": {"serving"},
    "rasterio": {"datasets"},
    "fastapi": {"service"},
    "starlette": {"service"},
    "pydantic": {"service"},
    "uvicorn": {"service"},
    "prometheus_client": {"service"},
}
# Of a package, the one file that may; all others ask that file.
ONE_FILE = {
    "scann": "serving/scann_library.py",
    "pyarrow": "serving/parquet.py",
    "keras": "serving/saved_model.py",
    "rasterio": "datasets/tiff.py",
}
EVERYWHERE = {"rasterio"}  # where that holds for all of macl_tf, not for serving alone
# The same for the service: who may, and nobody else.
SERVICE_FILES = {
    "PIL": {"pictures"},
    "fastapi": {"app", "refusals", "routes"},
    "starlette": {"errors", "refusals"},  # whose exceptions those of the framework are
    "pydantic": {"schemas", "routes"},
    "uvicorn": {"connections", "server"},
    "prometheus_client": {"metrics"},
    "macl_tf.training": set(),
}
# These open and search an index: they must not wait for TensorFlow.
LIGHT = {"artifacts", "items", "parquet", "filters", "journal", "thumbnails", "index", "exact", "search", "showing"}
PURE = {"labels", "metrics", "class_sampling", "report", "config", "files", "versions"}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield (parts[0] if parts[0] != "__init__" else ""), path


def imports(path):
    """Full names of what a file imports, imports for type checkers only left out."""

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return list(visit(ast.parse(path.read_text(encoding="utf-8"))))


def floor_of(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def test_every_module_has_its_floor_and_imports_downwards_only():
    seen = set()
    for name, path in modules():
        if not name:
            continue
        seen.add(name)
        for target in imports(path):
            if target.startswith("macl_tf.") and (other := target.split(".")[1]) != name:
                # Two names on one floor may meet, in one direction only: checked below.
                assert floor_of(other) <= floor_of(name), f"{path.name} imports {target}, which is above it"
    assert seen == set().union(*FLOORS)


def test_no_two_modules_import_each_other():
    edges = {
        (name, target.split(".")[1])
        for name, path in modules()
        for target in imports(path)
        if name and target.startswith("macl_tf.") and target.split(".")[1] != name
    }
    assert not {(a, b) for a, b in edges if (b, a) in edges}


def test_heavy_packages_are_met_where_they_belong():
    for name, path in modules():
        for package in {target.split(".")[0] for target in imports(path)}:
            if package in ONLY:
                assert name in ONLY[package], f"{path.relative_to(PACKAGE)} must not import {package}"
            if name in PURE:
                assert package not in ("keras", "tensorflow"), f"{name} is pure NumPy"


def test_each_heavy_package_is_met_in_one_file():
    for name, path in modules():
        for package in {target.split(".")[0] for target in imports(path)}:
            if package in ONE_FILE and (name == "serving" or package in EVERYWHERE):
                assert path.relative_to(PACKAGE).as_posix() == ONE_FILE[package], f"{path.name} imports {package}"


def test_service_meets_each_package_where_it_belongs():
    for name, path in modules():
        if name != "service":
            continue
        for target in imports(path):
            for package, files in SERVICE_FILES.items():
                if f"{target}.".startswith(f"{package}."):
                    assert path.stem in files, f"{path.name} imports {target}"


def test_opening_an_index_does_not_wait_for_tensorflow(run_python):
    names = ", ".join(f"macl_tf.serving.{name}" for name in sorted(LIGHT))
    script = f"import sys, {names}; print(sorted({{'tensorflow', 'keras', 'scann', 'matplotlib'}} & set(sys.modules)))"
    assert run_python(script).stdout.strip() == "[]"


def test_importing_macl_tf_costs_keras_and_numpy_only(run_python):
    script = """
import sys, macl_tf
assert "keras" not in sys.modules, "import macl_tf alone must not wait for Keras"
import keras
before = set(sys.modules)  # Keras itself imports pandas, matplotlib and others where they are installed
macl_tf.MACL, macl_tf.LabelStatistics, macl_tf.evaluate, macl_tf.metrics, macl_tf.TemperatureSchedule
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    # tqdm is for the progress bar of `embed`
    loaded = set(run_python(script).stdout.split()) - set(sys.stdlib_module_names)
    assert {"macl_tf"} <= loaded and not loaded & {"tensorflow_datasets", "matplotlib", "PIL", "scipy", "scann"}


def test_help_does_not_wait_for_tensorflow(run_python):
    script = """
import sys
import tomllib
from macl_tf.cli import main
try:
    main(["train", "--help"])
except SystemExit as stop:
    assert stop.code == 0
assert not {"keras", "tensorflow"} & set(sys.modules)
"""
    assert "examples:" in run_python(script).stdout


def test_every_public_name_has_its_docstring():
    missing = []
    for name in macl_tf.__all__:
        value = getattr(macl_tf, name)
        assert value is not None
        if not inspect.getdoc(value):
            missing.append(name)
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            nested = public and isinstance(node, ast.FunctionDef) and node.col_offset > 4
            if public and not nested and not ast.get_docstring(node) and node.col_offset == 0:
                missing.append(f"{path.name}:{node.name}")
    assert not missing


def test_no_file_needs_an_excuse():
    for _, path in modules():
        assert path.stem not in ("utils", "common", "helpers", "base")


def test_the_wheel_holds_every_package():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    found = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == found | {"macl_tf.configs", "macl_tf.deploy"}
