import keras
import numpy as np
import pytest
import tensorflow as tf

import macl_tf
from macl_tf.losses.targets import held_pairs, pair_rarity
from tests.oracles import contrastive as oracle

RTOL = 1e-5


def batch(rows=24, labels=7, width=8, density=0.3, seed=0):
    rng = np.random.default_rng(seed)
    y = (rng.random((rows, labels)) < density * np.linspace(1.8, 0.3, labels)).astype("float32")
    z = rng.normal(size=(rows, width))
    return y, (z / np.linalg.norm(z, axis=1, keepdims=True)).astype("float32")


def statistics(labels=7, seed=1):
    rng = np.random.default_rng(seed)
    return macl_tf.LabelStatistics.from_labels(rng.random((300, labels)) < np.linspace(0.6, 0.02, labels))


def value_and_gradient(loss, y, z):
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(y, z)
    return float(value), tape.gradient(value, z).numpy()


SETTINGS = [
    {},
    {"temperature": 0.2, "reweighting_power": 1.0},
    {"overlap_scale": 0.0, "rarity_scale": 0.9, "min_temperature": 0.05},
    {"overlap_scale": 2.0, "rarity_scale": 0.0, "temperature": 0.01},
    {"reweighting_power": 0.0, "overlap_scale": 0.0, "rarity_scale": 0.0},
    {"overlap_power": 0.0},
    {"overlap_power": 1.7, "reweighting_power": 1.3, "overlap_scale": 0.5, "rarity_scale": 0.3},
]
NAMES = {
    "temperature": "temperature",
    "reweighting_power": "gamma",
    "overlap_power": "kappa",
    "overlap_scale": "alpha",
    "rarity_scale": "beta",
    "min_temperature": "floor",
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_value_is_the_oracles(settings, weighted, known):
    y, z = batch()
    stats = statistics() if known else None
    loss = macl_tf.MACL(stats, weighted=weighted, **settings)
    expected = oracle.macl(
        y,
        z,
        *((stats.counts, stats.cooccurrence) if known else (None, None)),
        weighted=weighted,
        **{NAMES[key]: value for key, value in settings.items()},
    )
    np.testing.assert_allclose(float(loss(y, z)), expected, rtol=RTOL)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_the_oracles_finite_difference(weighted):
    y, z = batch(rows=8, labels=4, width=3)
    z = z.astype("float64")
    _, gradient = value_and_gradient(macl_tf.MACL(weighted=weighted, dtype="float64"), y, z)
    numeric, step = np.zeros(z.shape), 1e-6
    for index in np.ndindex(*z.shape):
        shift = np.zeros(z.shape)
        shift[index] = step
        up, down = (oracle.macl(y, z + s * shift, weighted=weighted) for s in (1, -1))
        numeric[index] = (up - down) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6 * np.abs(numeric).max())


def test_without_powers_and_scales_it_is_jaccard_weighted_supcon():
    y, z = batch()
    loss = macl_tf.MACL(temperature=0.1, reweighting_power=0, overlap_scale=0, rarity_scale=0)
    expected = oracle.supcon(y, z, 0.1, lambda i, j: oracle.overlap(y[i], y[j])[1])
    np.testing.assert_allclose(float(loss(y, z)), expected, rtol=RTOL)


def test_with_uniform_weights_it_is_supcon_any():
    # Within each of two disjoint label sets all pairs overlap alike, so that w is uniform over positives.
    y = np.array([[1, 1, 0]] * 4 + [[0, 0, 1]] * 3, "float32")
    z = batch(rows=7, width=5)[1]
    loss = macl_tf.MACL(temperature=0.1, overlap_scale=0, rarity_scale=0)
    np.testing.assert_allclose(float(loss(y, z)), oracle.supcon(y, z, 0.1, lambda i, j: 1.0), rtol=RTOL)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_with_one_label_per_image_it_is_supcon(gamma):
    y = np.eye(5, dtype="float32")[[0, 1, 2, 0, 1, 0, 3, 0, 2, 1]]  # label 3 occurs once: no positive; label 4 never
    z = batch(rows=10, width=6)[1]
    loss = macl_tf.MACL(temperature=0.1, reweighting_power=gamma, overlap_scale=0, rarity_scale=0)
    np.testing.assert_allclose(float(loss(y, z)), oracle.supcon(y, z, 0.1, lambda i, j: 1.0), rtol=RTOL)


@pytest.mark.parametrize("weighted", [False, True])
def test_invariances(weighted):
    y, z = batch()
    loss = macl_tf.MACL(weighted=weighted)
    value = float(loss(y, z))
    rng = np.random.default_rng(3)
    rows, columns = rng.permutation(len(y)), rng.permutation(y.shape[1])
    rotation = np.linalg.qr(rng.normal(size=(z.shape[1],) * 2))[0].astype("float32")
    for y_other, z_other in ((y[rows], z[rows]), (y[:, columns], z), (y, z @ rotation)):
        np.testing.assert_allclose(float(loss(y_other, z_other)), value, rtol=RTOL)


@pytest.mark.parametrize("known", [False, True])
def test_labels_that_nobody_has_change_nothing(known):
    y, z = batch()
    rows = (np.random.default_rng(5).random((50, 7)) < 0.3).astype(int)
    wide = np.pad(y, ((0, 0), (0, 3)))
    stats = [macl_tf.LabelStatistics.from_labels(np.pad(rows, ((0, 0), (0, n)))) if known else None for n in (0, 3)]
    for weighted in (False, True):
        narrow_loss, wide_loss = (macl_tf.MACL(s, weighted=weighted) for s in stats)
        np.testing.assert_allclose(float(wide_loss(wide, z)), float(narrow_loss(y, z)), rtol=RTOL)


@pytest.mark.parametrize("y", [np.zeros((5, 3)), np.eye(5), np.ones((1, 3))], ids=["no labels", "all apart", "alone"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_without_positives_gives_zero_and_zero_gradient(y, weighted):
    value, gradient = value_and_gradient(macl_tf.MACL(weighted=weighted), y.astype("float32"), batch(rows=len(y))[1])
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_extreme_logits_stay_finite():
    y, z = batch()
    z[:] = z[0]  # all similarities 1; at temperature 0.01, exp(100) does not fit float32
    value, gradient = value_and_gradient(macl_tf.MACL(temperature=0.01, overlap_scale=0), y, z)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_call_gives_a_value_per_row_and_sample_weights_count():
    y, z = batch()
    y[3] = 0
    loss = macl_tf.MACL()
    rows = loss.call(tf.constant(y), tf.constant(z)).numpy()
    assert rows.shape == (24,) and rows[3] == 0
    np.testing.assert_allclose(rows.mean(), oracle.macl(y, z), rtol=RTOL)
    assert float(loss(y, z, sample_weight=np.zeros(24, "float32"))) == 0


def test_the_sum_of_shared_pairs_needs_no_cube():
    y, _ = batch(rows=6)
    pairs = np.maximum(oracle.counted(y)[1], 1)
    expected = [
        [sum(pairs[c, d] ** -0.5 for c in np.flatnonzero(a * b) for d in np.flatnonzero(a * b)) for b in y] for a in y
    ]
    held = held_pairs(tf.constant(y))
    actual = tf.matmul(held * pair_rarity(tf.constant(pairs, "float32"), tf.constant(0.5)), held, transpose_b=True)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=RTOL)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_graph_and_xla_agree_with_eager(jit):
    y, z = batch()
    loss = macl_tf.MACL(statistics())
    value, gradient = value_and_gradient(loss, y, z)
    compiled = tf.function(value_tensors, jit_compile=jit)
    result = compiled(loss, tf.constant(y), tf.constant(z))
    np.testing.assert_allclose(result[0].numpy(), value, rtol=RTOL)
    np.testing.assert_allclose(result[1].numpy(), gradient, rtol=1e-4, atol=RTOL * np.abs(gradient).max())


def value_tensors(loss, y, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(y, z)
    return value, tape.gradient(value, z)


def small_model(policy="float32"):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Flatten(dtype=policy),
        keras.layers.Dense(8, dtype=policy),
        keras.layers.UnitNormalization(dtype="float32"),  # in float16 its epsilon overflows
    ]
    return keras.Sequential([keras.Input((4, 4, 3)), *layers])


def images(rows=24):
    return np.random.default_rng(2).random((rows, 4, 4, 3)).astype("float32")


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_fit_learns_under_every_precision(policy):
    y, _ = batch()
    model = small_model(policy)
    model.compile(keras.optimizers.Adam(0.01), loss=macl_tf.MACL(), jit_compile=False)
    history = model.fit(images(), y, batch_size=24, epochs=12, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < history[0]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_under_mixed_precision_it_computes_in_float32(policy):
    y, z = batch()
    half = tf.cast(z, "float16" if policy == "mixed_float16" else "bfloat16")
    expected = oracle.macl(y, half.numpy().astype("float64"))
    np.testing.assert_allclose(float(macl_tf.MACL()(y, half)), expected, rtol=RTOL)


def test_saved_model_keeps_statistics_and_the_current_temperature(tmp_path):
    y, _ = batch()
    model = small_model()
    model.compile("adam", loss=macl_tf.MACL(statistics(), rarity_scale=0.2, weighted=True), jit_compile=False)
    model.fit(images(), y, epochs=1, verbose=0)
    model.loss.temperature.assign(0.031)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.label_statistics == statistics()
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.loss.get_config()["temperature"] == pytest.approx(0.031)
    assert loaded.evaluate(images(), y, verbose=0) == pytest.approx(model.evaluate(images(), y, verbose=0), rel=1e-6)


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        ("temperature", 0, "> 0"),
        ("temperature", float("nan"), "> 0"),
        ("reweighting_power", -1, ">= 0"),
        ("overlap_power", -0.5, ">= 0"),
        ("overlap_scale", -0.5, ">= 0"),
        ("rarity_scale", 1, r"in \[0, 1\)"),
        ("min_temperature", 0, "> 0"),
    ],
)
def test_bad_hyper_parameters_are_refused(argument, value, rule):
    with pytest.raises(ValueError, match=f"{argument} must be {rule}.*got {value}"):
        macl_tf.MACL(**{argument: value})


def test_bad_shapes_and_statistics_are_refused():
    y, z = batch()
    with pytest.raises(ValueError, match=r"labels must be multi-hot .* got \(24,\) and \(24, 8\)"):
        macl_tf.MACL()(np.zeros(24, "float32"), z)
    with pytest.raises(ValueError, match=r"7 columns of label_statistics, got 3"):
        macl_tf.MACL(statistics())(y[:, :3], z)
    with pytest.raises(ValueError, match="label_statistics must be a LabelStatistics, got ndarray"):
        macl_tf.MACL(np.ones(3))


def test_temperature_change_is_seen_by_a_compiled_fit():
    """Trap: a Python float would be frozen into the graph at the first step."""
    y, _ = batch()
    model = small_model()
    model.compile(keras.optimizers.SGD(0.0), loss=macl_tf.MACL(temperature=0.07), jit_compile=False)
    first = model.fit(images(), y, batch_size=24, verbose=0).history["loss"][0]
    model.loss.temperature.assign(0.5)
    second = model.fit(images(), y, batch_size=24, verbose=0).history["loss"][0]
    z = model.predict(images(), verbose=0)
    np.testing.assert_allclose(first, oracle.macl(y, z, temperature=0.07), rtol=RTOL)
    np.testing.assert_allclose(second, oracle.macl(y, z, temperature=0.5), rtol=RTOL)
