"""Training over several workers: who they are, how they meet, and that they compute what one process does."""

import csv
import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from macl_tf import cli
from macl_tf.training import build
from macl_tf.training.settings import Settings
from macl_tf.training.workers import Cluster, cluster_of, cluster_of_environment, meet
from tests import worker_processes

HERE = "127.0.0.1"


@pytest.mark.parametrize(
    ("workers", "index", "message"),
    [
        ("a:1,b", 0, "workers must be host:port, with a port of 1 to 65535, got 'b'"),
        ("a:70000", 0, "got 'a:70000'"),
        ("a:1,a:1", 0, "workers must have an address each, got 'a:1' twice"),
        (",", 0, "got none"),
        ("a:1,b:1", 2, "worker-index must be 0 to 1 with 2 workers, got 2"),
        ("127.0.0.1:1,127.0.0.1:2", None, "got 127.0.0.1:1, 127.0.0.1:2. Add --worker-index"),
    ],
)
def test_addresses_that_are_none_are_refused(workers, index, message):
    with pytest.raises(ValueError, match=message):
        cluster_of(workers, index)


def test_a_worker_finds_itself_by_its_host():
    assert cluster_of(f"no-such-host.invalid:2222, {HERE}:2222").index == 1


def test_tf_config_is_read_as_its_writers_mean_it():
    def config(kind, index, **jobs):
        return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})

    assert cluster_of_environment(config("worker", 1, worker=["a:1", "b:2"])) == Cluster(("a:1", "b:2"), 1)
    assert cluster_of_environment(config("worker", 0, chief=["c:1"], worker=["a:1"])) == Cluster(("c:1", "a:1"), 1)
    assert cluster_of_environment(config("chief", 0, chief=["c:1"], worker=["a:1"])).index == 0
    for text, message in (
        ("{", "TF_CONFIG must be JSON with 'cluster' and 'task'"),
        (config("evaluator", 0, worker=["a:1"]), "must be of a chief or a worker, got the task type 'evaluator'"),
        (config("worker", 1, worker=["a:1"]), "must give an index of its worker addresses, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            cluster_of_environment(text)


def test_the_command_says_what_is_wrong(capsys, monkeypatch):
    for options, message in (
        (["--worker-index", "0"], "--worker-index must come with --workers, got 0 alone"),
        (["--workers", "a"], "workers must be host:port"),
        (["--workers", f"{HERE}:1", "--worker-wait", "0"], "worker-wait must be > 0 seconds, got 0"),
    ):
        assert cli.main(["train", *options]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setenv("TF_CONFIG", "[]")
    assert cli.main(["train"]) == 2
    assert "TF_CONFIG must be JSON" in capsys.readouterr().err


def meeting(said, files=(), wait=20.0, absent=()):
    """What `meet` raises on each worker (None: nothing), where the workers say `said`."""
    found = {}
    with socket.create_server((HERE, 0)) as chief, socket.create_server((HERE, 0)) as other:
        ports = [chief.getsockname()[1], other.getsockname()[1]]
    addresses = tuple(f"{HERE}:{port}" for port in (*ports, *range(1, len(said) - 1)))

    def run(index, into):
        try:
            meet(Cluster(addresses, index, wait), said[index], files, into)
            found[index] = None
        except (OSError, ValueError) as error:
            found[index] = error

    def all_of(into):
        threads = [threading.Thread(target=run, args=(i, into)) for i in range(len(said)) if i not in absent]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    return all_of


def test_workers_meet_and_begin_from_the_chiefs_files(tmp_path):
    state, empty = tmp_path / "state.npz", tmp_path / "empty"
    state.write_bytes(np.random.default_rng(0).bytes(3_000_000))
    empty.write_bytes(b"")
    (tmp_path / "other").mkdir()
    assert meeting([{"epochs": 3}] * 2, [state, empty])(tmp_path / "other") == {0: None, 1: None}
    assert (tmp_path / "other" / "state.npz").read_bytes() == state.read_bytes()
    assert (tmp_path / "other" / "empty").read_bytes() == b""


def test_workers_that_differ_are_refused_on_all(tmp_path):
    found = meeting([{"epochs": 3}, {"epochs": 4}])(tmp_path)
    assert str(found[0]) == str(found[1])
    assert "epochs must be the same on all workers, got 4 from worker 1 (127.0.0.1:" in str(found[0])
    assert "and 3 from worker 0" in str(found[0]) and "Start the same command" in str(found[0])


def test_a_worker_that_does_not_come_is_named_on_all(tmp_path):
    found = meeting([{}] * 3, wait=0.5, absent=[2])(tmp_path)
    assert {type(error) for error in found.values()} == {TimeoutError} and str(found[0]) == str(found[1])
    assert "all workers must begin within 0.5 s, but worker 2 (127.0.0.1:1) did not come" in str(found[0])
    found = meeting([{}] * 2, wait=0.3, absent=[0])(tmp_path)
    assert "worker 0 (127.0.0.1:" in str(found[1]) and "the chief, must begin within 0.3 s" in str(found[1])


def test_a_port_must_be_free(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        for index in (0, 1):
            cluster = Cluster((f"{HERE}:{port}", f"localhost:{port}"), index, 1.0)
            with pytest.raises(OSError, match=rf"the port of worker {index} \(\S+:{port}\) must be free") as raised:
                meet(cluster, {}, [], tmp_path)
            assert "give the worker another port" in str(raised.value)


def test_a_batch_must_be_divisible_among_replicas():
    with pytest.raises(ValueError, match=r"divisible by the 3 replicas .*got 16 times 1. .*--set batch_size=18"):
        build.check_microbatch(Settings(batch_size=16), 3)
    build.check_microbatch(Settings(batch_size=18), 3)
    with pytest.raises(ValueError, match="microbatch must divide the 8 rows of a batch on each of 2 replicas, got 16"):
        build.check_microbatch(Settings(batch_size=16, microbatch=16), 2)


ON_WORKERS = """
import sys
from tests.worker_processes import losses_agree, on_workers
on_workers(int(sys.argv[1]), losses_agree, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_losses_and_steps_are_those_of_one_process(count, tmp_path, run_python):
    from macl_tf.losses import registry

    output = run_python(ON_WORKERS, count, tmp_path, warm=True, timeout=400).stdout
    assert f"codes {[0] * count}" in output, output
    assert output.count("[loss]") == (len(registry.LOSSES) if count == 2 else 1), output
    assert output.count("[steps]") == (len(worker_processes.SETTINGS) if count == 2 else 0), output
    assert output.count("archive must be the same on all workers, but worker 1 has another") == count, output


RUN = """
import sys
from macl_tf.training.settings import Settings
from tests.worker_processes import on_workers, whole_run
on_workers(2, whole_run, eval(sys.argv[1]), sys.argv[2], sys.argv[3] == "killed")
"""


@pytest.mark.slow
def test_a_run_of_two_workers_is_that_of_one_and_goes_on_after_a_kill(tmp_path, run_python, monkeypatch):
    from macl_tf.training.train import train

    settings = Settings(num_tiles=60, image_size=32, batch_size=16, epochs=2, embedding_dim=8, backbone="resnet18",
                        weights="", descriptor="projection", precision="float32")  # fmt: skip
    run = tmp_path / "together"
    killed = run_python(RUN, settings, run, "killed", warm=True, timeout=400).stdout
    assert "codes [1, -9]" in killed and "result" not in killed, killed
    assert "worker 0: ConnectionError: worker 1 (127.0.0.1:" in killed, killed
    assert "is gone, and a run needs all its workers" in killed and "goes on after the last finished epoch" in killed
    assert len((run / "history.csv").read_text().splitlines()) == 2  # the first epoch
    output = run_python(RUN, settings, run, "whole", warm=True, timeout=400).stdout
    assert "codes [0, 0]" in output, output
    assert [path.name for path in tmp_path.iterdir()] == ["together"]  # nobody but the chief wrote a run directory
    monkeypatch.setattr(build, "make_encoder", worker_processes.make_encoder)
    alone = train(settings, tmp_path / "alone", progress=False)
    results = {line.split(maxsplit=2)[2] for line in output.splitlines() if line.startswith("result")}
    assert len(results) == 1  # both have the chief's figures
    found = json.loads((run / "metrics.json").read_text())
    assert found["trained"]["projection"]["map_any"] == pytest.approx(
        alone["trained"]["projection"]["map_any"], abs=1e-3
    )
    assert found["untrained"] == alone["untrained"]
    columns = [columns_of(folder / "history.csv") for folder in (run, tmp_path / "alone")]
    assert columns[0].keys() == columns[1].keys() >= {"loss", "learning_rate", "temperature", "val_map_any"}
    for name, values in columns[1].items():
        np.testing.assert_allclose(columns[0][name], values, rtol=1e-4, err_msg=name)
    assert {path.name for path in run.iterdir()} == {path.name for path in (tmp_path / "alone").iterdir()}


def columns_of(path: Path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}
