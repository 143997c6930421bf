"""What all tests share. Nothing here reaches for a network, a GPU, or data outside the tests."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `import macl_tf` does, which a test may do after Keras
# One process a core: BLAS's threads beside them wait by spinning, and cost twice the time of what they share.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["TFDS_DATA_DIR"] = os.devnull  # a test that forgets its own folder fails

import gc
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

# Tracing makes many objects that stay. Looking through all of them for garbage so often takes a tenth of the time.
gc.set_threshold(50_000, 20, 50)

ROOT = Path(__file__).resolve().parent.parent
# Files that take longest, some with few tests, the longest of all first: begun first, none is left to one process when
# the other has ended.
SLOWEST = (
    "test_docs",
    "test_page_search",
    "test_page_collections",
    "test_page_form",
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


class Warm:
    """tests/warm_python.py, started when it is first needed."""

    process = None

    def run(self, script, arguments, timeout, environment, folder):
        if self.process is None:
            command = [sys.executable, str(ROOT / "tests" / "warm_python.py")]
            variables = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}  # no thread before a fork
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables
            )
        output, error = folder / "output", folder / "error"
        asked = {"code": script, "arguments": arguments, "environment": environment}
        self.process.stdin.write(json.dumps(asked | {"output": str(output), "error": str(error)}).encode() + b"\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        late = threading.Timer(timeout, os.kill, (child, signal.SIGKILL))
        late.start()
        code = int(self.process.stdout.readline())
        late.cancel()
        return subprocess.CompletedProcess(script, code, output.read_text(), error.read_text())

    def end(self):
        if self.process is not None:
            self.process.communicate()


@pytest.fixture(scope="session")
def warm_process():
    """Runs scripts in forks of a process that has loaded TensorFlow."""
    found = Warm()
    yield found
    found.end()


@pytest.fixture
def run_python(warm_process, tmp_path_factory):
    """Runs a script in a process of its own, for what one process cannot do twice (stack.md: strategies).

    A `warm` one begins with TensorFlow loaded, but nothing computed: where it is not what is loaded, when, or how much
    memory there is that is tested.
    """

    def run(script, *arguments, check=True, timeout=240, warm=False, **environment):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        variables = {key: value for key, value in variables.items() if value is not None}
        words = [str(word) for word in arguments]
        if warm:
            result = warm_process.run(script, words, timeout, variables, tmp_path_factory.mktemp("script"))
        else:
            command = [sys.executable, "-c", script, *words]
            result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=variables)
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
