import keras
import numpy as np
import pytest

import macl_tf
from tests.oracles import contrastive


def data(rows=32):
    rng = np.random.default_rng(0)
    labels = (rng.random((rows, 4)) < [0.6, 0.4, 0.3, 0.1]).astype("float32")
    return rng.random((rows, 6)).astype("float32"), labels


def model(learning_rate=0.0, **loss):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), keras.layers.UnitNormalization()])
    net.compile(keras.optimizers.SGD(learning_rate), loss=macl_tf.MACL(**loss), jit_compile=False)
    return net


def test_the_loss_value_follows_the_schedule_and_is_logged_beside_it():
    x, y = data()
    net = model()  # the weights never change, so only the temperature moves the loss
    schedule = macl_tf.TemperatureSchedule(lambda step: 0.1 / (step + 1))
    history = net.fit(x, y, batch_size=32, epochs=3, verbose=0, callbacks=[schedule]).history
    z = net.predict(x, verbose=0)
    np.testing.assert_allclose(history["temperature"], [0.1, 0.05, 0.1 / 3], rtol=1e-6)
    expected = [contrastive.macl(y, z, temperature=t) for t in (0.1, 0.05, 0.1 / 3)]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


def test_a_keras_schedule_runs_by_steps_not_epochs():
    x, y = data()
    cosine = keras.optimizers.schedules.CosineDecay(0.07, decay_steps=4, alpha=0.01 / 0.07)
    net = model()
    history = net.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[macl_tf.TemperatureSchedule(cosine)]).history
    # Steps 1 and 3 close the epochs: 0.01 + 0.06 (1 + cos(pi t / 4)) / 2
    expected = [0.01 + 0.03 * (1 + np.cos(np.pi * t / 4)) for t in (1, 3)]
    np.testing.assert_allclose(history["temperature"], expected, rtol=1e-6)


def test_a_resumed_run_goes_on_where_the_schedule_was(tmp_path):
    x, y = data()
    net = model(learning_rate=0.1)
    schedule = macl_tf.TemperatureSchedule(lambda step: 0.2 / (step + 1))
    net.fit(x, y, batch_size=16, verbose=0, callbacks=[schedule])
    net.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert float(again.loss.temperature) == pytest.approx(0.1)
    history = again.fit(x, y, batch_size=16, verbose=0, callbacks=[macl_tf.TemperatureSchedule(schedule.schedule)])
    assert history.history["temperature"] == [pytest.approx(0.05)]  # the fourth step of the run


def test_bad_schedules_are_refused():
    x, y = data()
    with pytest.raises(ValueError, match=r"schedule must be a LearningRateSchedule or a function .* got 0.07"):
        macl_tf.TemperatureSchedule(0.07)
    with pytest.raises(ValueError, match=r"must stay > 0, got 0\.0 at step 1"):
        model().fit(x, y, batch_size=16, verbose=0, callbacks=[macl_tf.TemperatureSchedule(lambda s: 0.1 - 0.1 * s)])
    net = model()
    net.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="needs one loss with a `temperature` variable, got"):
        net.fit(x, y[:, :3], verbose=0, callbacks=[macl_tf.TemperatureSchedule(lambda step: 0.1)])


def test_on_jax_it_says_that_the_temperature_would_not_move(monkeypatch):
    """Seen with Keras 3.15 and JAX 0.10: the loss stayed that of the first temperature, without a word."""
    callback = macl_tf.TemperatureSchedule(lambda step: 0.1)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="on JAX, Keras compiles the temperature into the step"):
        callback.on_train_begin()


def test_retrieval_evaluation_logs_what_the_oracle_finds():
    x, y = data()
    net = model(learning_rate=0.1)
    callback = macl_tf.RetrievalEvaluation(x, y, k=10, every=2, batch_size=7)
    history = net.fit(x, y, batch_size=32, epochs=4, verbose=0, callbacks=[callback]).history
    assert len(history["val_ndcg@10_jaccard"]) == 2  # epochs 2 and 4
    z = net.predict(x, verbose=0)
    expected = ranking_oracle(z, y, k=10)
    assert history["val_ndcg@10_jaccard"][-1] == pytest.approx(expected, rel=1e-6)


def ranking_oracle(z, labels, k):
    """NDCG@k with Jaccard gain, leave-one-out, from the plain loops of the oracles."""
    values = []
    for q in range(len(labels)):
        rest = [j for j in range(len(labels)) if j != q]
        order = sorted(rest, key=lambda j: (-float(z[q].astype("float64") @ z[j].astype("float64")), j))
        gains = [contrastive.overlap(labels[q], labels[j])[1] for j in order]
        ideal = sorted(gains, reverse=True)
        if ideal[0] > 0:
            values.append(dcg(gains, k) / dcg(ideal, k))
    return float(np.mean(values))


def dcg(gains, k):
    return sum(gain / np.log2(2 + r) for r, gain in enumerate(gains[:k]))


def test_bad_evaluation_data_are_refused():
    x, y = data()
    with pytest.raises(ValueError, match="same number of rows, got 32 and 31"):
        macl_tf.RetrievalEvaluation(x, y[:31])
    with pytest.raises(ValueError, match="every must be at least 1 epoch, got 0"):
        macl_tf.RetrievalEvaluation(x, y, every=0)
