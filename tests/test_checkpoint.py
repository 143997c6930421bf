import json
import os

import keras
import numpy as np
import pytest

from macl_tf.files import read_json, write_json, written_whole
from macl_tf.training.checkpoint import BEST, HISTORY, STATE, Checkpoint, without_optimizer
from macl_tf.training.run_directory import check_run, describe_run
from macl_tf.training.settings import Settings, load_settings


def net(width=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(width)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


class Score(keras.callbacks.Callback):
    """Logs made-up validation figures."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self.scores[epoch]


def fit(model, checkpoint, scores, initial_epoch=0):
    x = np.random.default_rng(0).random((8, 4)).astype("float32")
    callbacks = [Score(scores), checkpoint]
    model.fit(x, x[:, :3], epochs=len(scores), initial_epoch=initial_epoch, verbose=0, callbacks=callbacks)


def test_state_brings_model_optimizer_and_history_back(tmp_path):
    model, checkpoint = net(), Checkpoint(tmp_path, "score")
    assert checkpoint.restore(model) == 0
    fit(model, checkpoint, [0.1, 0.3, 0.2])
    again, restored = net(), Checkpoint(tmp_path, "score")
    assert restored.restore(again) == 3
    for a, b in zip(
        [*model.variables, *model.optimizer.variables], [*again.variables, *again.optimizer.variables], strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert int(again.optimizer.iterations) == 3 and restored.best_epoch == 1
    assert restored.columns()["score"] == [0.1, 0.3, 0.2]
    assert (tmp_path / HISTORY).read_text().splitlines()[0] == "epoch,loss,score"


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    model = net()
    fit(model, Checkpoint(tmp_path, "score"), [0.1, 0.3])
    best = model.get_weights()
    model = net()
    fit(model, Checkpoint(tmp_path, "score"), [0.1, 0.3, 0.2, float("nan")])
    other = without_optimizer(net())
    other.load_weights(tmp_path / BEST)
    for a, b in zip(best, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_patience_is_used_up_and_a_restored_run_knows(tmp_path):
    model, checkpoint = net(), Checkpoint(tmp_path, "score", patience=2)
    fit(model, checkpoint, [0.3, 0.2, 0.1, 0.9])
    assert len(checkpoint.history) == 3  # the fourth epoch was not begun
    restored = Checkpoint(tmp_path, "score", patience=2)
    restored.restore(net())
    assert restored.finished_early
    assert not Checkpoint(tmp_path, "score").finished_early


def test_the_state_of_another_model_is_refused(tmp_path):
    fit(net(), Checkpoint(tmp_path, "score"), [0.1])
    with pytest.raises(ValueError, match="holds the state of another model"):
        Checkpoint(tmp_path, "score").restore(net(width=2))


def test_the_bytes_of_a_file_are_on_disk_before_its_name_is(tmp_path, disk_order):
    write_json(tmp_path / "a.json", 1)
    (synced, temporary), named = disk_order
    assert synced == "sync" and temporary.endswith("-a.json") and named == ("name", "a.json")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "figures.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="power"), written_whole(path) as temporary:
        temporary.write_text('{"a"')
        raise RuntimeError("power")
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, float("nan"))
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["figures.json"]


def test_the_state_needs_no_pickle(tmp_path):
    fit(net(), Checkpoint(tmp_path, "score"), [0.1])
    with np.load(tmp_path / STATE, allow_pickle=False) as state:
        assert json.loads(str(state["history"]))[0]["score"] == 0.1


@pytest.mark.parametrize("left", [[".part-settings.toml"], ["settings.toml", ".part-versions.json"]])
def test_a_run_killed_before_it_began_can_begin_again(tmp_path, left):
    settings = Settings(epochs=1)
    for name in left:
        (tmp_path / name).write_text(settings.to_toml())
    check_run(settings, tmp_path)
    describe_run(settings, tmp_path)
    assert load_settings(tmp_path / "settings.toml") == settings
    assert "keras" in read_json(tmp_path / "versions.json")
    (tmp_path / "settings.toml").unlink()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        check_run(settings, tmp_path)
