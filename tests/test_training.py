"""Whole runs, small: training, interruption, replicas, another archive, and the command line around them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from macl_tf import cli
from macl_tf.training.run_directory import describe_run
from macl_tf.training.settings import Settings
from macl_tf.training.train import train
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_encoder")]

SMALL = [
    "num_tiles=200",
    "test=0.3",
    "image_size=32",
    "batch_size=16",
    "epochs=3",
    "embedding_dim=16",
    "warmup_epochs=1",
    "final_temperature=0.02",
]
PICTURES = ("history.png", "label_frequencies.png", "per_label.png", "neighbours.png")


def command(run_dir, *more):
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return ["train", "--run-dir", str(run_dir), *settings, *more]


# `macl` in a process of its own, with the small encoder of this one.
MACL = """
import sys
import macl_tf.training.train
from tests.runs import make_small_encoder
macl_tf.training.build.make_encoder = make_small_encoder
from macl_tf.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-c", MACL, *arguments],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def weights(run_dir):
    with np.load(Path(run_dir) / "state.npz") as state:
        names = sorted(set(state.files) - {"history"})
        return hashlib.sha256(b"".join(state[name].tobytes() for name in names)).hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never interrupted, in a process of its own."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    process = start(command(run_dir))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    return run_dir, output


def test_a_run_shows_progress_and_a_table_and_says_where_it_wrote(finished):
    run_dir, output = finished
    assert "Epoch 3/3" in output and "temperature" in output
    table = output[output.index("metric") :]
    assert "untrained" in table and "rarest third" in table and f"{run_dir}/" in table


def test_the_run_directory_says_all(finished):
    run_dir, _ = finished
    for name in PICTURES:
        with Image.open(run_dir / name) as picture:
            assert picture.format == "PNG" and picture.width > 400
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for state in ("untrained", "trained"):
        for descriptor in ("projection", "backbone"):
            assert 0 < metrics[state][descriptor]["ndcg@100_jaccard"] < 1
            assert 0 < metrics[state][descriptor]["map_rarest_third"] < 1
    history = (run_dir / "history.csv").read_text().splitlines()
    assert len(history) == 4
    columns = history[0].split(",")
    assert {"epoch", "loss", "temperature", "learning_rate", "val_map_rarest_third"} <= set(columns)
    temperatures = [float(row.split(",")[columns.index("temperature")]) for row in history[1:]]
    assert temperatures == sorted(temperatures, reverse=True) and temperatures[-1] < 0.03  # the cosine's end
    splits = json.loads((run_dir / "splits.json").read_text())
    parts = [set(splits[part]) for part in ("train", "validation", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 200
    assert "tensorflow" in " ".join(json.loads((run_dir / "versions.json").read_text()))
    assert 'dataset = "synthetic"' in (run_dir / "settings.toml").read_text()
    assert any((run_dir / "tensorboard").rglob("events*"))


def test_killed_at_any_moment_it_goes_on_bit_for_bit(finished, tmp_path):
    """SIGKILL after the first epoch is written, somewhere in the second; then the same command again."""
    whole, _ = finished
    run_dir = tmp_path / "killed"
    process = start(command(run_dir))
    deadline = time.monotonic() + 240
    while not (run_dir / "state.npz").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (run_dir / "state.npz").exists() and not (run_dir / "metrics.json").exists()
    process = start(command(run_dir))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    assert "Going on after epoch" in output
    assert weights(run_dir) == weights(whole)
    for name in ("metrics.json", "history.csv"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes()


def test_a_finished_run_is_shown_not_trained_again(finished, capsys):
    run_dir, _ = finished
    before = (run_dir / "state.npz").stat().st_mtime_ns
    assert cli.main(command(run_dir)) == 0
    assert "Finished before" in capsys.readouterr().out
    assert (run_dir / "state.npz").stat().st_mtime_ns == before


def test_other_settings_do_not_touch_a_run(finished, capsys):
    run_dir, _ = finished
    assert cli.main(command(run_dir, "--set", "temperature=0.2")) == 2
    assert "other settings: temperature (0.1 there, 0.2 now). Use another --run-dir" in capsys.readouterr().err


def test_evaluate_again_gives_the_same_figures(finished, tmp_path, capsys):
    run_dir, _ = finished
    assert cli.main(["evaluate", "--run-dir", str(run_dir), "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    first = json.loads((run_dir / "metrics.json").read_text())["trained"]
    for descriptor in ("projection", "backbone"):
        for key in ("ndcg@100_jaccard", "map_any", "map_rarest_third"):
            assert again[descriptor][key] == pytest.approx(first[descriptor][key], rel=1e-6)
    assert "NDCG@100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--set", "epoch=3"], "There is no setting 'epoch'"),
        (["train", "--dataset", "whdld", "--data-dir", "nowhere"], "nowhere"),
        (["train", "--dataset", "folder"], "folder needs data_dir"),
        (["train", "--set", "weights=nowhere/encoder.keras"], "nowhere/encoder.keras' is not there"),
        (["evaluate", "--run-dir", "nowhere"], "'nowhere' holds no finished run"),
    ],
)
def test_bad_input_costs_one_message_and_leaves_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_run_starts_from_the_encoder_of_another(finished, tmp_path):
    before = json.loads((finished[0] / "metrics.json").read_text())["trained"]
    more = ["--set", f"weights={finished[0] / 'encoder.keras'}", "--set", "epochs=1", "--quiet"]
    assert cli.main(command(tmp_path / "run", *more)) == 0
    start = json.loads((tmp_path / "run" / "metrics.json").read_text())["untrained"]
    for descriptor in ("projection", "backbone"):  # the same test tiles
        for key in ("ndcg@100_jaccard", "map_rarest_third"):
            assert start[descriptor][key] == pytest.approx(before[descriptor][key], rel=1e-4)


def test_settings_that_did_not_train_can_be_mended_in_place(tmp_path):
    """A run that was killed before its first epoch has nothing to lose; one that was refused leaves nothing."""
    small = {"num_tiles": 60, "image_size": 32, "epochs": 1, "embedding_dim": 8, "warmup_epochs": 0.0, "batch_size": 16}
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="microbatch must divide the 16 rows of a batch, got 7"):
        train(Settings(microbatch=7, **small), run, progress=False)
    assert not run.exists()
    run.mkdir()
    describe_run(Settings(learning_rate=0.5, **small), run)
    assert train(Settings(**small), run, progress=False)["best_epoch"] == 1
    assert "learning_rate = 0.001" in (run / "settings.toml").read_text()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert cli.main(command(tmp_path)) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def tiles(folder, labels=("water", "trees", "cars"), seed=0):
    """A folder archive of 40 coloured tiles with a table."""
    rng, rows = np.random.default_rng(seed), ["image," + ",".join(labels)]
    folder.mkdir()
    for number in range(40):
        held = rng.random(3) < [0.7, 0.5, 0.2]
        held[0] |= not held.any()
        pixels = rng.integers(0, 60, (40, 36, 3)) + 180 * held
        Image.fromarray(pixels.astype("uint8")).save(folder / f"tile{number:02}.tif")
        rows.append(f"tile{number:02}," + ",".join("01"[int(h)] for h in held))
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_a_folder_of_tiffs_with_a_broken_file_trains_and_reports(tmp_path, capsys):
    folder = tiles(tmp_path / "tiles")
    (folder / "tile03.tif").write_bytes(b"not a picture")
    run_dir = tmp_path / "run"
    arguments = command(run_dir, "--dataset", "folder", "--data-dir", str(folder), "--set", "epochs=1")
    arguments = [part for part in arguments if part != "num_tiles=200"]
    arguments = [a for i, a in enumerate(arguments) if not (a == "--set" and arguments[i + 1 : i + 2] == ["--set"])]
    assert cli.main(arguments) == 0
    assert "unreadable images, left out: 1 (tile03.tif)" in "".join(capsys.readouterr())
    assert "tile03.tif" in (run_dir / "archive_report.csv").read_text()
    other = tiles(tmp_path / "other", labels=("water", "trees", "lorries"), seed=1)
    assert cli.main(["evaluate", "--run-dir", str(run_dir), "--data-dir", str(other)]) == 2
    assert "in only one of the two: cars, lorries" in capsys.readouterr().err
    again = tiles(tmp_path / "again", labels=("water", "trees", "cars"), seed=2)
    assert cli.main(["evaluate", "--run-dir", str(run_dir), "--data-dir", str(again)]) == 0
    assert "NDCG@100" in capsys.readouterr().out


REPLICATED = """
import sys, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import macl_tf.training.train as training
from macl_tf.training.settings import Settings
from tests.runs import make_small_encoder
training.build.make_encoder = make_small_encoder
settings = Settings(num_tiles=60, image_size=32, batch_size=16, epochs=1, embedding_dim=8, backbone="resnet18",
                    weights="", descriptor="projection")
result = training.train(settings, sys.argv[1], progress=False)
print("replicas", tf.distribute.get_strategy().num_replicas_in_sync, result["best_epoch"])
"""


def test_it_trains_on_all_devices_by_itself(run_python, tmp_path):
    output = run_python(REPLICATED, tmp_path / "run", warm=True).stdout
    assert "replicas" in output and (tmp_path / "run" / "metrics.json").is_file()


def test_a_run_with_proxies_keeps_its_encoder_without_them(tmp_path, monkeypatch, run_python):
    traced, real = [], keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda self, data: traced.append(self) or real(self, data))
    for setting in ("microbatch=8", "classification_weight=5"):
        run = tmp_path / setting
        more = ["--set", "loss=proxy-anchor", "--set", setting, "--set", "learn_turns=false", "--quiet"]
        assert cli.main(command(run, *more, "--set", "epochs=2")) == 0
        history = (run / "history.csv").read_text().splitlines()
        assert len(history) == 3 and "temperature" not in history[0]
    assert len(traced) == 1  # of the joint run; microbatches have a step of their own
    script = """
import sys, keras
for path in sys.argv[1:]:
    encoder = keras.saving.load_model(path, compile=False)
    print(*[output.shape[1] for output in encoder.outputs], "proxies" in [layer.name for layer in encoder.layers])
"""
    encoders = [tmp_path / setting / "encoder.keras" for setting in ("microbatch=8", "classification_weight=5")]
    result = run_python(script, *encoders, warm=True)
    # The last are the features of the backbone as it began. And it took no macl_tf to load them.
    assert result.stdout.splitlines() == ["16 8 False", "16 14 8 False"]


def test_a_run_knows_its_archive_from_everywhere(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("macl_tf.training.train.train", lambda settings, *_, **__: seen.append(settings) or 1 / 0)
    monkeypatch.chdir(tmp_path)
    for words in (["--data-dir", "tiles"], ["--set", "data_dir=./tiles"], ["--set", "weights=w.h5"]):
        with pytest.raises(ZeroDivisionError):
            cli.main(["train", "--dataset", "folder", *words])
    assert [settings.data_dir for settings in seen[:2]] == [str(tmp_path / "tiles")] * 2
    assert seen[2].weights == str(tmp_path / "w.h5")


def test_another_archive_may_spell_its_labels_otherwise():
    from macl_tf.datasets.archives import Archive
    from macl_tf.labels import LabelStatistics
    from macl_tf.training.evaluate import check_labels
    from macl_tf.training.run_directory import with_labels_of

    statistics = LabelStatistics.from_labels(np.eye(3), ("bare-soil", "Beaches, dunes, sands", "water"))

    def other(names):
        return Archive("other", names, ("a", "b"), np.eye(2, 3), lambda _: None)

    spelled = other(("Water", "Bare Soil", "beaches, dunes, sands"))
    check_labels(statistics, spelled)
    archive, lines = with_labels_of(statistics, spelled)
    assert archive.labels.tolist() == [[0, 0, 1], [1, 0, 0]] and lines == ()
    assert archive.label_names == statistics.label_names
    with pytest.raises(ValueError, match='only one of the two: Beaches, "Beaches, dunes, sands"'):
        check_labels(statistics, other(("Water", "Bare Soil", "Beaches")))
