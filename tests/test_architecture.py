"""The floors of the house: a file imports downwards only, heavy packages are met in few files, names are documented."""

import ast
import inspect
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from http import HTTPStatus
from pathlib import Path

import macl_tf

PACKAGE = Path(macl_tf.__file__).parent

# The rooms from the ground up: data flows down the list of docs/design.md, imports flow up to this list's start.
ROOMS = (
    "",  # the root: what all rooms use
    "metrics",
    "figures",
    "datasets",
    "tiling",
    "pipeline",
    "models",
    "losses",
    "evaluation",
    "training",
    "index",
    "embedding",
    "export",
    "search",
    "teaching",
    "server",
    "cli",
)
# What serves knows a run's directory and settings, never how it was trained.
SERVES = {"index", "embedding", "export", "search", "teaching", "server"}
OF_A_RUN = {"macl_tf.training.run_directory", "macl_tf.training.settings"}
TEACHES = ("macl_tf.teaching.teach", "macl_tf.training.heads")  # and what teaches trains a head, and no more
# Which rooms may import what is heavy or fragile at all, at the top of the file or inside a function; or which files.
ONLY = {
    "tensorflow_datasets": {"datasets"},
    "scipy": {"datasets", "index/milvus/connection.py"},
    "matplotlib": {"figures"},
    "PIL": {"datasets", "figures", "export", "index/thumbnails.py", "search", "embedding", "tiling/encoding.py"},
    "tensorflow": {"losses", "models", "pipeline", "evaluation", "training", "datasets", "export", "index/searchers"},
    "keras": {"losses", "models", "evaluation", "training", "export/saved_model.py"},
    "keras_hub": {"models/backbones.py"},
    "openvino": {"models/runtimes.py"},
    "apache_beam": {"embedding/beam.py", "embedding/remote.py"},
    "rasterio": {"datasets/tiff.py", "tiling"},
    "openpyxl": {"datasets/table_files.py"},
    "pyogrio": {"tiling/polygons.py"},
    "shapely": {"tiling/polygons.py"},
    "pyarrow": {
        "index/parquet.py",
        "datasets/bigearthnet.py",
        "datasets/vector_parquet.py",
        "datasets/table_files.py",
        "datasets/tile_places.py",
        "tiling/geoparquet.py",
    },
    "scann": {"index/searchers/scann.py"},
    "pymilvus": {"index/milvus/connection.py"},
    "milvus_lite": {"index/milvus/connection.py"},
    "grpc": {"index/milvus/connection.py"},
    "fastapi": {"server/app.py", "server/errors.py", "server/routes.py", "server/collection_routes.py"},
    "starlette": {"server/errors.py", "server/guard.py", "server/express.py"},
    "pydantic": {"server/schemas.py", "server/routes.py"},
    "uvicorn": {"server/server.py"},
    "httptools": {"server/server.py"},
    "prometheus_client": {"server/metrics.py"},
}
# These open and search an index: they must not wait for TensorFlow.
LIGHT = (
    "artifacts",
    "index.items",
    "index.parquet",
    "index.filters",
    "index.journal",
    "index.thumbnails",
    "index.index",
    "index.engines",
    "index.milvus.filling",
    "index.milvus.index",
    "index.searchers.exact",
    "search.engine",
    "search.showing",
    "teaching.rounds",
    "teaching.collection_files",
    "tiling.tile",
)
PURE = {"labels.py", "metrics", "pipeline/samplers.py", "evaluation/report.py", "training/settings.py",
        "models/descriptor_names.py", "models/runtimes.py", "files.py", "versions.py"}  # fmt: skip


def modules():
    """Each file's room, "" for the root, and its path."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        yield (parts[0] if len(parts) > 1 else ""), path


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


def module_of(path):
    return ".".join(("macl_tf", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@cache
def edges():
    """All (module, module that it imports) among our files."""
    return frozenset(_edges())


def _edges():
    known = {module_of(path) for _, path in modules()}
    for _, path in modules():
        for target in imports(path):
            while target and target not in known:
                target = target.rpartition(".")[0]
            if target and target != "macl_tf" and target != module_of(path):
                yield module_of(path), target


def test_rooms_import_downwards_only():
    rooms = {module_of(path): room for room, path in modules()}
    assert set(rooms.values()) == set(ROOMS)
    above = {(a, b) for a, b in edges() if a != "macl_tf" and ROOMS.index(rooms[b]) > ROOMS.index(rooms[a])}
    assert not above
    trained = {(a, b) for a, b in edges() if rooms[a] in SERVES and rooms[b] == "training" and b not in OF_A_RUN}
    assert trained == {TEACHES}


def test_no_two_modules_import_each_other_by_whatever_way():
    """A package's `__init__` only gathers: its files are compared, not their folder."""
    files = {a for a, _ in edges()} - {module_of(path) for _, path in modules() if path.stem == "__init__"}
    graph = {file: {b for a, b in edges() if a == file and b in files} for file in files}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names them


def test_heavy_packages_are_met_where_they_belong():
    for room, path in modules():
        name = path.relative_to(PACKAGE).as_posix()
        for target in imports(path):
            package = target.split(".")[0]
            if package in ONLY:
                assert room in ONLY[package] or any(
                    name.startswith(where) for where in ONLY[package] if "/" in where
                ), f"{name} must not import {package}"
            if name in PURE or room in PURE:
                assert package not in ("keras", "tensorflow"), f"{name} is pure NumPy"


def test_one_file_knows_which_status_an_error_has():
    """What is wrong is said by exceptions: the search's, which know no HTTP, and the server's, named for what it is."""
    numbers = {status.value for status in HTTPStatus if status >= 400}
    found = set()
    for room, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            number = room == "server" and isinstance(node, ast.Constant) and node.value in numbers
            raised = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "HTTPException",
                "Refused",
            )
            if number or raised:
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {"server/errors.py"}


def test_the_server_and_the_search_ask_a_snapshot_and_do_not_look_inside():
    inside = {"stored", "added", "added_alive", "added_rows", "added_vectors", "added_thumbnails", "end"}
    looks = {
        f"{path.name}:{node.lineno}"
        for room, path in modules()
        if room in ("search", "teaching", "server")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in inside
    }
    assert not looks


def test_opening_an_index_does_not_wait_for_tensorflow(run_python):
    names = ", ".join(f"macl_tf.{name}" for name in LIGHT)
    heavy = {"tensorflow", "keras", "scann", "matplotlib", "pymilvus", "grpc"}
    script = f"import sys, {names}; print(sorted({heavy} & set(sys.modules)))"
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


def test_the_wheel_holds_all_of_the_page():
    """Also what is vendored, with its licence."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["macl_tf.server"]
    page = {path for path in (PACKAGE / "server" / "page").rglob("*") if path.is_file()}
    assert page == {path for pattern in patterns for path in (PACKAGE / "server").glob(pattern) if path.is_file()}
    assert {path.parent.name for path in page if path.name == "LICENSE.txt"} == {"leaflet", "natural-earth"}
