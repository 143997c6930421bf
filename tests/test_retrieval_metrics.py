"""Retrieval quality as a Keras metric is what `evaluate` and the callback find on the same tiles."""

import keras
import numpy as np
import pytest

import macl_tf
from tests.loss_checks import drawn

NAMES = {"retrieval_ndcg": "ndcg@5_jaccard", "retrieval_map": "map_any"}


def metrics(capacity=64):
    return [macl_tf.RetrievalNDCG(k=5, capacity=capacity), macl_tf.RetrievalMAP(capacity=capacity)]


@pytest.mark.parametrize("rows", [40, 64])
def test_in_batches_it_is_what_evaluate_finds(rows):
    y, z = drawn(rows=rows)
    z *= np.linspace(0.1, 5, rows, dtype="float32")[:, None]  # of any length
    report = macl_tf.evaluate(z, y, k=5)
    for metric in metrics():
        for start in range(0, rows, 12):
            metric.update_state(y[start : start + 12], z[start : start + 12])
        assert float(metric.result()) == pytest.approx(report[NAMES[metric.name]], rel=1e-5)
        metric.reset_state()
        assert float(metric.result()) == 0
        metric.update_state(y[:12], z[:12])
        again = macl_tf.evaluate(z[:12], y[:12], k=5)
        assert float(metric.result()) == pytest.approx(again[NAMES[metric.name]], rel=1e-5)


def test_rows_beyond_its_room_are_not_looked_at_and_nothing_to_find_is_0():
    y, z = drawn(rows=40)
    for metric in metrics(capacity=20):
        metric.update_state(y[:16], z[:16])
        metric.update_state(y[16:40], z[16:40])
        expected = macl_tf.evaluate(z[:20], y[:20], k=5)[NAMES[metric.name]]
        assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
        metric.reset_state()
        metric.update_state(np.eye(6, 7), z[:6])
        assert float(metric.result()) == 0


@pytest.mark.slow
def test_in_fit_it_is_the_callbacks_figure_and_it_is_kept(tmp_path):
    y = drawn(rows=40)[0]
    x = np.random.default_rng(2).random((40, 6)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    model.compile(keras.optimizers.Adam(0.05), loss="macl", metrics=metrics())
    callback = macl_tf.RetrievalEvaluation(x, y, k=5)
    history = model.fit(x, y, batch_size=16, epochs=2, validation_data=(x, y), verbose=0, callbacks=[callback]).history
    for name, key in NAMES.items():
        assert history[f"val_{name}"] == pytest.approx(history[f"val_{key}"], rel=1e-5)
        assert history[f"val_{name}"][0] != history[f"val_{name}"][1]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
    for metric in metrics():
        assert type(metric).from_config(metric.get_config()).get_config() == metric.get_config()


REPLICAS = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, macl_tf
from tests.test_retrieval_metrics import NAMES, drawn, metrics
y, x = drawn(rows=40)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    model.compile("adam", loss="macl", metrics=metrics())
found = model.evaluate(tf.data.Dataset.from_tensor_slices((x, y)).batch(16), verbose=0, return_dict=True)
expected = macl_tf.evaluate(model.predict(x, verbose=0), y, k=5)
for name, key in NAMES.items():
    np.testing.assert_allclose(found[name], expected[key], rtol=1e-5)
    print("same")
"""


@pytest.mark.slow
def test_over_replicas_it_is_that_of_all_tiles(run_python):
    assert run_python(REPLICAS, warm=True).stdout.count("same") == 2


def test_bad_use_is_refused():
    y, z = drawn()
    with pytest.raises(ValueError, match="capacity must be >= 2 rows, got 1"):
        macl_tf.RetrievalNDCG(capacity=1)
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        macl_tf.RetrievalNDCG(k=0)
    with pytest.raises(ValueError, match="put it into metrics=, not weighted_metrics="):
        macl_tf.RetrievalMAP().update_state(y, z, np.ones(24))
    with pytest.raises(ValueError, match=r"labels must be \(B, C\) and embeddings \(B, D\), got \(24,\)"):
        macl_tf.RetrievalMAP().update_state(y[:, 0], z)
