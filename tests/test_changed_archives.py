"""What a run decides once, and what became of its archive since: more tiles, fewer, other labels, another place."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from macl_tf import cli
from macl_tf.models.descriptors import descriptor_model
from macl_tf.models.familiarity import FAMILIAR
from macl_tf.training.callbacks import RetrievalEvaluation
from macl_tf.training.checkpoint import Checkpoint
from macl_tf.training.evaluate import evaluate_run
from macl_tf.training.run_directory import occupied
from macl_tf.training.train import MONITOR

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_encoder")]
TINY = ["image_size=32", "embedding_dim=8", "batch_size=8", "epochs=2", "warmup_epochs=0"]


def tile(path: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def make_archive(folder: Path, tiles: int = 40, first: int = 0, table: Path | None = None) -> Path:
    """Tiles of noise with one to three of three labels; the table lies in the folder unless a path is given."""
    folder.mkdir(exist_ok=True)
    for number in range(first, first + tiles):
        tile(folder / f"t{number:03}.png", number)
    write_table(table or folder / "labels.csv", first + tiles)
    return folder


def write_table(path: Path, tiles: int, changed: int = -1) -> None:
    rows = []
    for number in range(tiles):
        held = [label for label, every in (("water", 1), ("trees", 2), ("ship", 5)) if number % every == 0]
        rows.append(f"t{number:03},{'cars' if number == changed else ';'.join(held)}")
    path.write_text("image,labels\n" + "\n".join(rows))


def train(run: Path | str, folder: Path | str, *more: str, settings: list[str] = TINY) -> int:
    chosen = [word for setting in settings for word in ("--set", setting)]
    return cli.main(["train", "--run-dir", str(run), "--dataset", "folder", "--data-dir", str(folder), *chosen, *more])


@pytest.fixture
def interrupted(monkeypatch):
    """Ends a run as Ctrl-C does, when its first epoch is on disk."""
    after = Checkpoint.on_epoch_end

    def stop(self, epoch, logs=None):
        after(self, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", stop)
        yield patch.undo


@pytest.fixture(scope="module")
def finished(small_encoder, tmp_path_factory):
    """A finished run, to be copied, and its archive: the table lies beside it and was named from where one stood."""
    root = tmp_path_factory.mktemp("finished")
    make_archive(root / "tiles", table=root / "mine.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert train("run", "tiles", "--quiet", settings=[*TINY, "table=mine.csv"]) == 0
    return root


@pytest.fixture
def own(finished, tmp_path, monkeypatch):
    """A copy of the run and its archive at another place, where the first one no longer is."""
    shutil.copytree(finished, tmp_path / "own")
    settings = tmp_path / "own" / "run" / "settings.toml"
    settings.write_text(settings.read_text().replace(str(finished), str(tmp_path / "own")))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own"


def parts(run: Path) -> dict[str, list[str]]:
    content = json.loads((run / "splits.json").read_text())
    return {part: content[part] for part in ("train", "validation", "test")}


def test_going_on_keeps_the_parts_of_an_archive_that_changed_and_moved(tmp_path, interrupted, capsys):
    folder, run = make_archive(tmp_path / "tiles"), tmp_path / "run"
    assert train(run, folder, "--quiet") == 130
    interrupted()
    before = parts(run)
    gone, relabelled = before["test"][0], before["train"][0]
    (folder / gone).unlink()
    make_archive(folder, 10, first=40)
    write_table(folder / "labels.csv", 50, changed=int(relabelled[1:4]))
    folder.rename(tmp_path / "moved")
    capsys.readouterr()
    assert train(run, tmp_path / "moved") == 0
    said = capsys.readouterr()
    assert "Going on after epoch 1 of 2" in said.out
    assert f"test tiles of the run that are not in the archive now: 1 ({gone})" in said.err
    assert "new tiles, in no part of the run: 10 (t040.png, t041.png, t042.png and 7 more)" in said.err
    assert f"tiles with other labels than when the run began: 1 ({relabelled})" in said.err
    assert "labels that the run does not know, left out: cars" in said.err
    assert parts(run) == before
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["changes"]) == 4 and metrics["trained"]["projection"]["num_queries"] == len(before["test"]) - 1
    assert str(tmp_path / "moved") in (run / "settings.toml").read_text()  # where export will look


def test_another_archive_cannot_go_on_with_a_run(tmp_path, interrupted, capsys):
    run = tmp_path / "run"
    assert train(run, make_archive(tmp_path / "tiles"), "--quiet") == 130
    interrupted()
    other = make_archive(tmp_path / "other", 20, first=100)
    before = (run / "settings.toml").read_bytes(), (run / "splits.json").read_bytes()
    assert train(run, other) == 2
    assert "of its 40 images 0 are in 'folder' with the same labels or pixels" in capsys.readouterr().err
    assert ((run / "settings.toml").read_bytes(), (run / "splits.json").read_bytes()) == before
    assert train(tmp_path / "another", other, "--quiet") == 0  # the remedy


def test_a_finished_run_is_evaluated_and_exported_whatever_became_of_some_tiles(own, tmp_path, capsys):
    run = own / "run"
    lost = [parts(run)["test"][0], parts(run)["train"][0]]
    for name in lost:
        (own / "tiles" / name).unlink()
    assert cli.main(["evaluate", "--run-dir", str(run), "--json", str(tmp_path / "figures.json")]) == 0
    said = capsys.readouterr()
    left = len(parts(run)["test"]) - 1
    assert f"Retrieval among the {left} test tiles of {run}" in said.out
    assert json.loads((tmp_path / "figures.json").read_text())["projection"]["num_queries"] == left
    for part, name in zip(("test", "train"), lost, strict=True):
        assert f"{part} tiles of the run that are not in the archive now: 1 ({name})" in said.err
    assert cli.main(["export", "--run-dir", str(run), "--output", str(tmp_path / "served"), "--quiet"]) == 0
    assert f"test tiles of the run that are not in the archive now: 1 ({lost[0]})" in capsys.readouterr().err
    (run / "splits.json").unlink()
    for command in (["evaluate"], ["export", "--output", str(tmp_path / "served")]):
        assert cli.main([*command, "--run-dir", str(run)]) == 2
        assert "splits.json' is not there, which says which tiles the run trained on" in capsys.readouterr().err


def test_an_archive_that_moved_is_the_same_archive(own, tmp_path, capsys):
    run = own / "run"
    (own / "tiles").rename(tmp_path / "elsewhere")
    (own / "mine.csv").rename(tmp_path / "mine.csv")
    assert cli.main(["evaluate", "--run-dir", str(run)]) == 2
    assert "say --data-dir DIR; if its label table does, --table FILE" in capsys.readouterr().err
    moved = ["--data-dir", "elsewhere", "--table", "mine.csv"]
    assert cli.main(["evaluate", "--run-dir", str(run), *moved]) == 0
    assert f"the {len(parts(run)['test'])} test tiles of {run}" in capsys.readouterr().out
    assert cli.main(["export", "--run-dir", str(run), "--output", "served", "--no-index", *moved]) == 0


def test_another_archive_is_evaluated_without_copies_of_what_was_trained_on(own, tmp_path, capsys):
    run, other = own / "run", make_archive(tmp_path / "other", 12, first=100)
    rows = [f"t{number:03},{'water;trees;ship' if number % 2 else 'water'}" for number in range(100, 112)]
    for number, name in enumerate(parts(run)["train"][:3]):
        shutil.copy(own / "tiles" / name, other / f"copy{number}.png")
        rows.append(f"copy{number},water")
    (other / "labels.csv").write_text("image,labels\n" + "\n".join(rows))
    assert cli.main(["evaluate", "--run-dir", str(run), "--data-dir", str(other)]) == 0
    said = capsys.readouterr()
    assert f"all 12 tiles of {other}" in said.out
    assert "3 tiles are exact copies of tiles that the run trained on, left out: copy0.png" in said.err


def test_a_run_finds_its_table_and_weights_from_everywhere(own, tmp_path, interrupted, monkeypatch, capsys):
    assert cli.main(["evaluate", "--run-dir", str(own / "run")]) == 0  # the working directory is another one
    more = [*TINY, "table=mine.csv", "weights=run/encoder.keras"]
    monkeypatch.chdir(own)
    assert train("second", "tiles", "--quiet", settings=more) == 130
    interrupted()
    shutil.rmtree(own / "run")  # what it began from is in its checkpoint
    assert train("second", "tiles", "--quiet", settings=more) == 0
    capsys.readouterr()


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    make_archive(tmp_path / "tiles")
    assert train("~/runs/x", "~/tiles", "--quiet", settings=[*TINY, "epochs=1", "table=~/tiles/labels.csv"]) == 0
    assert (tmp_path / "runs" / "x" / "metrics.json").is_file() and not (tmp_path / "~").exists()


def test_two_processes_do_not_train_in_one_directory(tmp_path, interrupted, capsys):
    folder, run = make_archive(tmp_path / "tiles"), tmp_path / "run"
    with occupied(run):
        assert train(run, folder) == 2
        assert "is being trained by another process. Wait for it to end" in capsys.readouterr().err
        assert [path.name for path in run.iterdir()] == [".lock"]
    assert train(run, folder, "--quiet") == 130  # a lock that nobody holds is no obstacle


def test_a_small_archive_is_trained_in_batches_that_it_fills(tmp_path, capsys):
    folder = make_archive(tmp_path / "tiles", 20)
    settings = [setting for setting in TINY if "batch" not in setting]
    assert train(tmp_path / "run", folder, "--quiet", settings=[*settings, "epochs=1"]) == 0
    size = json.loads((tmp_path / "run" / "metrics.json").read_text())["batch_size"]
    assert size == len(parts(tmp_path / "run")["train"])
    assert f"batch_size is {size} instead of 128: only {size} training tiles can be drawn." in capsys.readouterr().err
    assert "batch_size = 128" in (tmp_path / "run" / "settings.toml").read_text()  # what was asked for


def test_what_cannot_be_learned_is_refused_before_anything_is_written(tmp_path, capsys):
    folder, run = make_archive(tmp_path / "tiles", 30), tmp_path / "run"
    (folder / "labels.csv").write_text("image,labels\n" + "\n".join(f"t{n:03},l{n}" for n in range(30)))
    assert train(run, folder) == 2
    error = capsys.readouterr().err
    assert "two training tiles must share a label for macl to learn from, but none of the 30 labels is on two" in error
    assert not run.exists()
    # The remedy: and what cannot be judged is said before the first epoch.
    assert train(run, folder, settings=[*TINY, "epochs=1", "loss=bce"]) == 0
    said = capsys.readouterr()
    assert "No two test tiles share a label, so that retrieval among them cannot be judged" in said.err
    assert "No two validation tiles share a label" in said.err
    assert all((run / name).is_file() for name in ("metrics.json", "neighbours.png", "per_label.png"))


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("macl_tf.training.run_figures.plot_history", lambda *_, **__: 1 / 0)
    run = tmp_path / "run"
    assert train(run, make_archive(tmp_path / "tiles"), "--quiet", settings=[*TINY, "epochs=1"]) == 0
    assert "history.png was not drawn: ZeroDivisionError: division by zero" in capsys.readouterr().err
    assert (run / "metrics.json").is_file() and (run / "neighbours.png").is_file()


def test_quiet_hides_bars_and_not_losses(tmp_path, capsys):
    folder = make_archive(tmp_path / "tiles")
    (folder / "t003.png").write_bytes(b"not a picture")
    write_table(folder / "labels.csv", 43)
    shutil.copy(folder / "t001.png", folder / "t002.png")
    assert train(tmp_path / "run", folder, "--quiet", settings=[*TINY, "epochs=1"]) == 0
    said = capsys.readouterr()
    assert "rows without an image, left out: 3 (t040, t041, t042)" in said.err
    assert "unreadable images, left out: 1 (t003.png)" in said.err
    assert "1 image is an exact copy of another, in the same part (t002.png = t001.png)" in said.out + said.err
    assert "Epoch" not in said.out + said.err and "img/s" not in said.err


def test_the_encoder_is_of_the_best_epoch(tmp_path, monkeypatch):
    kept = []

    def judge(self, epoch, logs):
        logs[MONITOR] = [0.2, 0.9, 0.1][epoch]
        kept.append([array.copy() for array in self.model.get_weights()])

    monkeypatch.setattr(RetrievalEvaluation, "on_epoch_end", judge)
    run, settings = tmp_path / "run", [*TINY[:-2], "epochs=3", "warmup_epochs=0", "learn_turns=false"]
    assert train(run, make_archive(tmp_path / "tiles"), "--quiet", settings=settings) == 0
    assert json.loads((run / "metrics.json").read_text())["best_epoch"] == 2
    # Not the backbone as it began, which lies beside.
    saved = descriptor_model(keras.models.load_model(run / "encoder.keras"), "projection").get_weights()
    assert len(saved) >= 4
    same = [[any(np.array_equal(array, one) for one in epoch) for array in saved] for epoch in kept]
    assert all(same[1]) and not any(same[0]) and not any(same[2])


def test_an_archive_whose_table_has_its_columns_in_another_order_is_judged_alike(own):
    """Three columns moved on by one: a permutation that is not its own inverse."""
    rng = np.random.default_rng(5)
    rows = rng.random((30, 3)) < (0.9, 0.5, 0.2)
    rows[:3] = True
    reports = []
    for columns in (("ship", "trees", "water"), ("water", "ship", "trees")):  # the run has them sorted
        folder = own / "-".join(columns)
        folder.mkdir()
        lines = [",".join(["image", *columns])]
        for number, row in enumerate(rows):
            tile(folder / f"u{number:03}.png", 1000 + number)
            held = dict(zip(("water", "trees", "ship"), row.astype(int), strict=True))
            lines.append(",".join([f"u{number:03}", *(str(held[name]) for name in columns)]))
        (folder / "labels.csv").write_text("\n".join(lines))
        reports.append(evaluate_run(own / "run", data_dir=str(folder), progress=False).reports["projection"].to_dict())
    assert reports[0]["map_rarest_third"] > 0
    assert reports[0] == reports[1]


def test_another_archive_is_judged_as_an_index_of_it_would_be(own):
    """By "robust" with less of what was learned, where its tiles are unlike those of the training."""
    folder = make_archive(own / "others", first=1000)
    judged = {}
    for name in ("like", "unlike", "old run"):
        if name == "unlike":
            np.save(own / "run" / FAMILIAR, (-1 - np.random.default_rng(0).random((20, 8))).astype(np.float16))
        elif name == "old run":
            (own / "run" / FAMILIAR).unlink()
        reports = evaluate_run(own / "run", data_dir=str(folder), progress=False).reports
        judged[name] = {by: reports[by]["map_per_label"] for by in ("projection", "robust")}
    assert judged["like"] == judged["old run"] and judged["like"]["robust"] != judged["unlike"]["robust"]
    assert len({found["projection"] for found in judged.values()}) == 1
