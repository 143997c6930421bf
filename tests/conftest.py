"""What all tests share. Nothing here reaches for a network, a GPU, or data outside the tests."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `import macl_tf` does, which a test may do after Keras
os.environ["TFDS_DATA_DIR"] = os.devnull  # a test that forgets its own folder fails

import gc
import subprocess
import sys
from pathlib import Path

import pytest

# Tracing makes many objects that stay. Looking through all of them for garbage so often takes a tenth of the time.
gc.set_threshold(50_000, 20, 50)

ROOT = Path(__file__).resolve().parent.parent
# Files that take longest, some with few tests, the longest of all first: begun first, none is left to one process when
# the other has ended.
SLOWEST = (
    "test_server_page",
    "test_docs",
    "test_pairwise_replicas",
    "test_benchmarks",
    "test_training",
    "test_changed_archives",
    "test_search",
    "test_encoders",
    "test_messages",
)


def pytest_collection_modifyitems(items):
    """Puts the slowest files first."""
    order = {stem: place for place, stem in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture
def run_python():
    """Runs a script in a process of its own, for what one process cannot do twice (stack.md: strategies)."""

    def run(script, *arguments, check=True, timeout=240, **environment):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        result = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={key: value for key, value in variables.items() if value is not None},
        )
        if check and result.returncode:
            pytest.fail(f"exit {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")
        return result

    return run


@pytest.fixture
def disk_order(monkeypatch):
    """What is brought to the disk and what gets its name, in order: what a power cut would show and SIGKILL cannot."""
    order = []

    def spied(name, said):
        real = getattr(os, name)

        def spy(*arguments, **options):
            order.append(said(*arguments))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, spy)

    spied("fsync", lambda file: ("sync", Path(os.readlink(f"/proc/self/fd/{file}")).name))
    for name in ("replace", "rename"):
        spied(name, lambda source, target: ("name", Path(target).name))
    return order


# Made once a session, and so once a worker. Nobody writes into them: who does, takes a copy.


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A finished run of a small encoder (tests/runs.py)."""
    from tests.runs import make_run

    return make_run(tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="session")
def other_run(tmp_path_factory):
    """A run with another encoder, and so with vectors that are never compared with those of `small_run`."""
    from tests.runs import make_run

    return make_run(tmp_path_factory.mktemp("other") / "run", seed=1)


@pytest.fixture(scope="session")
def small_served(small_run, tmp_path_factory):
    """What `macl export` makes of `small_run`: encoder, index, retriever and the files to deploy them."""
    from macl_tf.export.exporting import export_run

    return export_run(small_run, tmp_path_factory.mktemp("exports") / "served", progress=False)


@pytest.fixture(scope="module")
def small_encoder():
    """Runs train one layer instead of ResNet-18: where the archive and its files are tested, tracing takes longest."""
    from tests.runs import make_small_encoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("macl_tf.training.build.make_encoder", make_small_encoder)
        yield
