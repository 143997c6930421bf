import keras
import numpy as np
import pytest
import tensorflow as tf

import macl_tf
from macl_tf.losses.targets import held_pairs, pair_rarity
from tests.loss_checks import RTOL, assert_same, drawn, eagerly, value_and_gradient
from tests.oracles import contrastive as oracle


def statistics(labels=7, seed=1):
    rng = np.random.default_rng(seed)
    return macl_tf.LabelStatistics.from_labels(rng.random((300, labels)) < np.linspace(0.6, 0.02, labels))


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
def test_value_with_known_statistics_is_the_oracles(settings, weighted):
    """Counted in the batch: test_pairwise_losses, gradients too."""
    y, z = drawn()
    stats = statistics()
    names = {NAMES[key]: value for key, value in settings.items()}
    expected = oracle.macl(y, z, stats.counts, stats.cooccurrence, weighted=weighted, **names)
    loss = macl_tf.MACL(stats, weighted=weighted, **settings)
    np.testing.assert_allclose(float(loss(y, z)), expected, rtol=RTOL)


def test_with_uniform_weights_it_is_supcon_any():
    # Within each of two disjoint label sets all pairs overlap alike, so that w is uniform over positives.
    y = np.array([[1, 1, 0]] * 4 + [[0, 0, 1]] * 3, "float32")
    z = drawn(rows=7, width=5)[1]
    loss = macl_tf.MACL(temperature=0.1, overlap_scale=0, rarity_scale=0)
    np.testing.assert_allclose(float(loss(y, z)), oracle.supcon(y, z, 0.1, lambda i, j: 1.0), rtol=RTOL)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_with_one_label_per_image_it_is_supcon(gamma):
    y = np.eye(5, dtype="float32")[[0, 1, 2, 0, 1, 0, 3, 0, 2, 1]]  # label 3 occurs once: no positive; label 4 never
    z = drawn(rows=10, width=6)[1]
    loss = macl_tf.MACL(temperature=0.1, reweighting_power=gamma, overlap_scale=0, rarity_scale=0)
    np.testing.assert_allclose(float(loss(y, z)), oracle.supcon(y, z, 0.1, lambda i, j: 1.0), rtol=RTOL)


@pytest.mark.parametrize("known", [False, True])
def test_labels_that_nobody_has_change_nothing(known):
    y, z = drawn()
    rows = (np.random.default_rng(5).random((50, 7)) < 0.3).astype(int)
    wide = np.pad(y, ((0, 0), (0, 3)))
    stats = [macl_tf.LabelStatistics.from_labels(np.pad(rows, ((0, 0), (0, n)))) if known else None for n in (0, 3)]
    for weighted in (False, True):
        narrow_loss, wide_loss = (macl_tf.MACL(s, weighted=weighted) for s in stats)
        np.testing.assert_allclose(float(wide_loss(wide, z)), float(narrow_loss(y, z)), rtol=RTOL)


@pytest.mark.parametrize("y", [np.zeros((5, 3)), np.eye(5), np.ones((1, 3))], ids=["no labels", "all apart", "alone"])
@pytest.mark.parametrize("weighted", [False, True])
@eagerly()
def test_a_batch_without_positives_gives_zero_and_zero_gradient(y, weighted):
    value, gradient = value_and_gradient(macl_tf.MACL(weighted=weighted), y.astype("float32"), drawn(rows=len(y))[1])
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_the_sum_of_shared_pairs_needs_no_cube():
    y, _ = drawn(rows=6)
    pairs = np.maximum(oracle.counted(y)[1], 1)
    expected = [
        [sum(pairs[c, d] ** -0.5 for c in np.flatnonzero(a * b) for d in np.flatnonzero(a * b)) for b in y] for a in y
    ]
    held = held_pairs(tf.constant(y))
    actual = tf.matmul(held * pair_rarity(tf.constant(pairs, "float32"), tf.constant(0.5)), held, transpose_b=True)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=RTOL)


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


@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_fit_learns_in_half_precision(policy):
    y, _ = drawn()
    model = small_model(policy)
    model.compile(keras.optimizers.Adam(0.01), loss=macl_tf.MACL(), jit_compile=False)
    history = model.fit(images(), y, batch_size=24, epochs=12, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < history[0]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_under_mixed_precision_it_computes_in_float32(policy):
    y, z = drawn()
    half = tf.cast(z, "float16" if policy == "mixed_float16" else "bfloat16")
    expected = oracle.macl(y, oracle.unit(half.numpy()))
    np.testing.assert_allclose(float(macl_tf.MACL()(y, half)), expected, rtol=RTOL)


@pytest.mark.slow
def test_saved_model_keeps_statistics_and_the_current_temperature(tmp_path):
    y, _ = drawn()
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


def test_bad_statistics_are_refused():
    y, z = drawn()
    with pytest.raises(ValueError, match=r"7 columns of label_statistics, got 3"):
        macl_tf.MACL(statistics())(y[:, :3], z)
    with pytest.raises(ValueError, match="label_statistics must be a LabelStatistics, got ndarray"):
        macl_tf.MACL(np.ones(3))


def test_temperature_change_is_seen_by_a_compiled_fit():
    """Trap: a Python float would be frozen into the graph at the first step."""
    y, _ = drawn()
    model = small_model()
    model.compile(keras.optimizers.SGD(0.0), loss=macl_tf.MACL(temperature=0.07), jit_compile=False)
    first = model.fit(images(), y, batch_size=24, verbose=0).history["loss"][0]
    model.loss.temperature.assign(0.5)
    second = model.fit(images(), y, batch_size=24, verbose=0).history["loss"][0]
    z = model.predict(images(), verbose=0)
    np.testing.assert_allclose(first, oracle.macl(y, z, temperature=0.07), rtol=RTOL)
    np.testing.assert_allclose(second, oracle.macl(y, z, temperature=0.5), rtol=RTOL)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tile_size", [0, 5])
def test_temperatures_of_anchors_are_those_of_pairs_without_an_overlap_scale(weighted, tile_size):
    y, z = drawn(rows=22)
    own = {"temperature": 0.08, "min_temperature": 0.07, "weighted": weighted, "tile_size": tile_size}
    of_anchors, of_pairs = macl_tf.MACL(**own), macl_tf.MACL(**own, overlap_scale=1e-9)
    assert of_anchors.target.compare is not of_pairs.target.compare
    assert_same(value_and_gradient(of_anchors, y, z), value_and_gradient(of_pairs, y, z))
