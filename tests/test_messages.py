"""What messages advise is done here, and has to work."""

import errno
import os
import resource
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from macl_tf import cli
from macl_tf.artifacts import publish, versions
from macl_tf.cli import main
from macl_tf.datasets import load_archive
from macl_tf.datasets.archives import Archive
from macl_tf.export.exporting import encoder_identity, write_retriever
from macl_tf.export.saved_model import export_encoder
from macl_tf.files import disk_full, written_whole
from macl_tf.index.index import build_index
from macl_tf.index.items import Items
from macl_tf.pipeline.pipeline import training_dataset
from macl_tf.training.checkpoint import BEST, STATE
from macl_tf.training.inputs import with_fitting_batches
from macl_tf.training.run_directory import ENCODER, LABELS, METRICS, SETTINGS, UNTRAINED, read_run
from macl_tf.training.settings import Settings, load_settings

SMALL = ("image_size=32", "backbone=resnet18", "width=8", "epochs=1", "batch_size=8", "embedding_dim=8")
TINY = [*(word for text in SMALL for word in ("--set", text)), "--quiet"]


def write_tiles(folder, tables=("one.csv",), count=12):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"t{number}.png")
    rows = "".join(f"t{number}.png,{'sea' if number % 2 else 'sand'};trees\n" for number in range(count))
    for table in tables:
        (folder / table).write_text(f"image,labels\n{rows}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(small_encoder, tmp_path_factory):
    """A finished run, its archive beside it, and the command that made it, without --run-dir."""
    folder = tmp_path_factory.mktemp("trained")
    command = ["train", "--dataset", "folder", "--data-dir", str(write_tiles(folder / "tiles")), *TINY]
    command += ["--set", "batch_size=2", "--set", "validation=0.3", "--set", "test=0.3"]
    assert main([*command, "--run-dir", str(folder / "run")]) == 0
    return folder / "run", command


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "run")


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("name", [ENCODER, METRICS])
def test_what_a_run_can_write_anew_is_written_anew_by_its_own_command(run, trained, capsys, name):
    before = (run / METRICS).read_text()
    (run / name).write_bytes(b"{}")
    texts = [refused(capsys, "export", "--run-dir", run, "--output", run.parent / "served", "--no-index")]
    if name == METRICS:
        texts.append(refused(capsys, *trained[1], "--run-dir", run))
    else:
        texts.append(refused(capsys, "evaluate", "--run-dir", run))
    for text in texts:
        assert name in text and "Remove it, and the `macl train` command of the run writes it anew" in text
    (run / name).unlink()
    text = refused(capsys, "export", "--run-dir", run, "--output", run.parent / "served", "--no-index")
    assert "The `macl train` command of the run makes it" in text
    assert main([*trained[1], "--run-dir", str(run)]) == 0
    assert (run / METRICS).read_text() == before
    assert main(["evaluate", "--run-dir", str(run)]) == 0


@pytest.mark.parametrize("name", [LABELS, UNTRAINED, SETTINGS, STATE, BEST])
def test_a_damaged_file_of_a_run_is_one_message_that_names_it(run, trained, capsys, name):
    kept = (run / name).read_bytes()
    (run / METRICS).unlink()
    (run / name).write_bytes(b"{")
    text = refused(capsys, *trained[1], "--run-dir", run)
    assert f"{name}'" in text and "another --run-dir" in text
    assert "Put it back" in text or "Put the file back" in text
    if name == LABELS:  # each would be a training
        (run / name).write_bytes(kept)
        assert main([*trained[1], "--run-dir", str(run)]) == 0


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b'{"label_names": 3}', b'{"untrained": 3}', b"\xff\xfe", b"{"])
@pytest.mark.parametrize("name", [LABELS, METRICS, UNTRAINED])
def test_whatever_a_damaged_file_holds_is_told_alike(run, name, content):
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' is damaged \(.*\)\. (Put the file back|Remove it)"):
        read_run(run, name)


@pytest.mark.parametrize("name", [LABELS, SETTINGS])
def test_a_run_without_one_of_its_files_says_which(run, capsys, name):
    (run / name).unlink()
    assert name in refused(capsys, "evaluate", "--run-dir", run)


def test_a_state_that_is_cut_off_is_refused(run, trained, capsys):
    (run / METRICS).unlink()
    os.truncate(run / STATE, (run / STATE).stat().st_size // 2)
    assert "cannot be read (BadZipFile" in refused(capsys, *trained[1], "--run-dir", run)


def test_which_table_is_said_by_an_option_that_each_command_has(trained, run, tmp_path, capsys):
    tiles = write_tiles(tmp_path / "tiles", ("one.csv", "my labels.csv"))
    train = ["train", "--dataset", "folder", "--data-dir", str(tiles), *TINY]
    assert "--table 'my labels.csv'" in refused(capsys, *train)
    options = cli.parser().parse_args([*train, "--table", "my labels.csv"])
    assert load_archive("folder", options.data_dir, table=options.table).label_names == ("sand", "sea", "trees")
    # A run whose archive gained a second table meanwhile: the name is told from the archive's folder.
    before = Settings(**load_settings(run / SETTINGS).__dict__ | {"data_dir": str(tiles)})
    (run / SETTINGS).write_text(before.to_toml())
    evaluate = ["evaluate", "--run-dir", str(run)]
    assert "--table 'my labels.csv'" in refused(capsys, *evaluate)
    assert main([*evaluate, "--table", "one.csv"]) == 0
    assert main([*evaluate, "--table", str(tiles / "one.csv")]) == 0
    export = ["export", "--run-dir", str(run), "--output", str(tmp_path / "served"), "--quiet"]
    assert "--table 'my labels.csv'" in refused(capsys, *export)


def test_an_option_of_another_archive_is_left_out():
    with pytest.raises(
        ValueError, match=r"table is an option of 'folder', got 'x\.csv' for 'synthetic'\. Leave it out"
    ):
        load_archive("synthetic", table="x.csv")
    with pytest.raises(ValueError, match="Give it by --data-dir"):
        load_archive("folder")


def test_a_configuration_that_is_not_there_names_a_folder_that_is(tmp_path, capsys):
    text = refused(capsys, "train", "--config", tmp_path / "none.toml")
    folder = text.split("Those of macl_tf are in '")[1].split("'")[0]
    assert os.path.isfile(os.path.join(folder, "ucm.toml"))


def rows_of(*counts):
    """Labels (N, C) of classes with so many tiles each."""
    return np.repeat(np.eye(len(counts), dtype=np.uint8), counts, axis=0)


@pytest.mark.parametrize(
    ("labels", "settings", "advice", "follows"),
    [
        (rows_of(1, 1, 1), {}, "--set sampler=weighted", {"sampler": "weighted", "batch_size": 3}),
        (rows_of(20), {}, "--set sampler=weighted", {"sampler": "weighted", "batch_size": 20}),
        (rows_of(2, 2), {}, r"Lower images_per_class \(2 at least\)\.", {"images_per_class": 2, "batch_size": 4}),
        (
            rows_of(2, 2),
            {"microbatch": 64},
            "Lower images_per_class .* or set microbatch=0",
            {"images_per_class": 2, "microbatch": 0, "batch_size": 4},
        ),
        (
            rows_of(3),
            {"sampler": "weighted", "microbatch": 64},
            r"Lower microbatch \(0: none\)",
            {"sampler": "weighted", "microbatch": 0, "batch_size": 3},
        ),
    ],
)
def test_what_helps_too_few_tiles_is_named(labels, settings, advice, follows):
    asked = {"sampler": "classes", "batch_size": 128}
    with pytest.raises(ValueError, match=advice):
        with_fitting_batches(Settings(**asked | settings), labels)
    fitting = with_fitting_batches(Settings(**asked | settings | follows | {"batch_size": 128}), labels)
    assert fitting.batch_size == follows["batch_size"]


def test_tiles_without_labels_are_not_advised_smaller_batches():
    for sampler in ("weighted", "classes"):
        with pytest.raises(ValueError, match=r"of 3\. Label more tiles|Label more tiles alike"):
            with_fitting_batches(Settings(sampler=sampler, microbatch=64), np.zeros((3, 2), np.uint8))
    tile = np.zeros((32, 32, 3), np.uint8)
    archive = Archive("mine", ("a", "b"), ("0", "1"), np.eye(2, dtype=np.uint8), lambda index: tile)
    arguments = {"image_size": 32, "seed": 0, "epochs": 1, "progress": False, "batch_size": 2}
    with pytest.raises(ValueError, match="Label some alike, or use sampler='weighted'"):
        training_dataset(archive, np.arange(2), sampler="classes", images_per_class=2, **arguments)
    assert training_dataset(archive, np.arange(2), sampler="weighted", **arguments).steps_per_epoch == 1


def test_batches_hold_no_more_classes_than_there_are(capsys):
    """Five classes of many tiles: sixteen a batch were asked for, and `classes_per_batch` is no setting."""
    labels = rows_of(40, 40, 40, 40, 40)
    settings = with_fitting_batches(Settings(sampler="classes"), labels)
    assert settings.batch_size == 40
    assert "batch_size is 40 instead of 128" in capsys.readouterr().err
    tile = np.zeros((32, 32, 3), np.uint8)
    names = tuple(f"{number:03}" for number in range(200))
    archive = Archive("mine", tuple("abcde"), names, labels, lambda index: tile)
    data = training_dataset(
        archive, np.arange(200), image_size=32, batch_size=settings.batch_size, seed=0, epochs=1, sampler="classes",
        progress=False,
    )  # fmt: skip
    assert data.steps_per_epoch == 5


@pytest.fixture
def small_files():
    """A limit on the size of files, which ends a write as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.slow
def test_a_full_disk_in_export_is_one_message_and_what_was_published_is_whole(small_run, tmp_path, small_files):
    run, served = small_run, tmp_path / "served"
    export_encoder(run, served)
    small_files(100_000)
    with pytest.raises(OSError, match=r"could not be written, and .* as it was") as error:
        export_encoder(run, served, descriptor="backbone")
    assert error.value.errno == errno.EFBIG and "Free some space on the disk" in str(error.value)
    assert versions(served / "encoder") == [1]
    assert [path.name for path in (served / "encoder").iterdir() if path.name.startswith(".part")] == []
    small_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])  # "free some space, then try again"
    export_encoder(run, served, descriptor="backbone")
    assert versions(served / "encoder") == [1, 2]


def test_a_full_disk_is_known_whoever_says_it(tmp_path):
    full = os.strerror(errno.ENOSPC)
    said = [OSError(errno.ENOSPC, full), tf.errors.ResourceExhaustedError(None, None, f"x; {full}"), RuntimeError(full)]
    for error in said:
        with pytest.raises(OSError, match="Free some space") as told, written_whole(tmp_path / "a.json"):
            raise error
        assert told.value.errno == errno.ENOSPC
    assert disk_full(ValueError("no")) is None and disk_full(PermissionError(errno.EACCES, "no")) is None
    with pytest.raises(KeyError), written_whole(tmp_path / "a.json"):
        raise KeyError("a")


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM")])
def test_too_little_memory_is_one_message_with_settings_that_exist(monkeypatch, capsys, error):
    def fail(options):
        raise error

    monkeypatch.setattr("macl_tf.cli.train.run_train", fail)
    text = refused(capsys, "train")
    assert "--set microbatch=N" in text and "--set cache_gib=0" in text
    load_settings(None, ["microbatch=16", "cache_gib=0"])


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fail(options):
        raise KeyError("ours")

    monkeypatch.setattr("macl_tf.cli.train.run_train", fail)
    with pytest.raises(KeyError, match="ours"):
        main(["train"])


def test_an_index_without_tiles_is_whole_without_a_retriever(tmp_path):
    """What `macl index` builds when all tiles were deleted: it is published, and the command does not fail."""
    with publish(tmp_path / "encoder", "encoder") as staging:
        (staging.path / "graph").write_text("of an encoder")
    info = {"encoder": encoder_identity(tmp_path, 1)}
    nothing = np.zeros((0, 4), np.float32)
    build_index(tmp_path / "index", Items.of(("sea",), []), nothing, info=info, progress=False)
    said: list[str] = []
    write_retriever(tmp_path, 2, said.append)
    assert len(said) == 1 and "retriever  left out" in said[0] and "Add tiles with `macl upsert`" in said[0]
    assert versions(tmp_path / "retriever") == []


def test_tiles_without_labels_are_refused_with_what_to_do(tmp_path, capsys):
    (tmp_path / "tiles").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "tiles/a.png")
    run = tmp_path / "run"
    assert cli.main(["train", "--dataset", "folder", "--data-dir", str(tmp_path / "tiles"), "--run-dir", str(run)]) == 2
    error = capsys.readouterr().err
    assert "training needs labels" in error and f"macl index {tmp_path / 'tiles'} --backbone" in error
    assert not run.exists()
