import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from macl_tf.losses.boundary import RankedList
from macl_tf.losses.margin import LiftedStructure, MarginContrastive, TripletHard, TripletSemiHard, distances
from macl_tf.losses.multi_similarity import MultiSimilarity
from macl_tf.losses.supcon import NPairs
from tests.loss_checks import (
    REPLICAS,
    RTOL,
    assert_same,
    drawn,
    finite_difference,
    largest_tensor,
    one_label,
    over_replicas,
    value_and_gradient,
)
from tests.oracles import margins as oracle
from tests.oracles.contrastive import unit

# Loss, its oracle, and arguments under our names and the oracle's.
ORACLES = {
    TripletSemiHard: oracle.triplet_semi_hard,
    TripletHard: oracle.triplet_hard,
    MarginContrastive: oracle.margin_contrastive,
    LiftedStructure: oracle.lifted_structure,
    MultiSimilarity: oracle.multi_similarity,
    RankedList: oracle.ranked_list,
}
ORACLE_NAMES = {
    "distance_metric": "metric",
    "positive_scale": "alpha",
    "negative_scale": "beta",
    "weight_scale": "temperature",
}
SETTINGS = [
    (TripletSemiHard, {}),
    (TripletSemiHard, {"margin": 0.2, "min_overlap": 0.5}),
    (TripletSemiHard, {"distance_metric": "squared-L2"}),
    (TripletSemiHard, {"distance_metric": "angular"}),
    (TripletHard, {}),
    (TripletHard, {"soft": True, "min_overlap": 0.5}),
    (TripletHard, {"margin": 0.1, "distance_metric": "squared-L2"}),
    (TripletHard, {"distance_metric": "angular"}),
    (MarginContrastive, {}),
    (MarginContrastive, {"margin": 0.5, "min_overlap": 1.0}),
    (LiftedStructure, {}),
    (LiftedStructure, {"margin": 0.3, "min_overlap": 0.5}),
    (MultiSimilarity, {}),
    (MultiSimilarity, {"positive_scale": 5, "negative_scale": 20, "base": 0.2, "epsilon": 0.5, "min_overlap": 0.5}),
    (MultiSimilarity, {"epsilon": 0.0}),
    (RankedList, {}),
    (RankedList, {"boundary": 1.0, "margin": 0.1, "weight_scale": 1, "balance": 0.5, "min_overlap": 0.5}),
]
LOSSES = [loss for loss in ORACLES]
every_setting = pytest.mark.parametrize(("loss", "arguments"), SETTINGS, ids=str)
every_loss = pytest.mark.parametrize("loss", LOSSES)


def expected(loss, y, z, arguments):
    z = unit(z) if loss in (MultiSimilarity, RankedList) else z
    return ORACLES[loss](y, z, **{ORACLE_NAMES.get(name, name): value for name, value in arguments.items()})


@every_setting
@pytest.mark.parametrize("labels", ["many", "one"])
def test_value_is_the_oracles(loss, arguments, labels):
    y, z = drawn()
    y = y if labels == "many" else one_label()
    value = expected(loss, y, z, arguments)
    assert value > 0.01
    np.testing.assert_allclose(float(loss(**arguments)(y, z)), value, rtol=RTOL)


@every_setting
def test_gradient_is_the_oracles_finite_difference(loss, arguments):
    y, z = drawn(rows=9, labels=4, width=3, density=0.5, dtype="float64", seed=1)
    value, gradient = value_and_gradient(loss(**arguments, dtype="float64"), y, z)
    np.testing.assert_allclose(value, expected(loss, y, z, arguments), rtol=1e-9)
    numeric = finite_difference(lambda moved: expected(loss, y, moved, arguments), z)
    assert np.abs(numeric).max() > 1e-3
    np.testing.assert_allclose(gradient, numeric, rtol=RTOL, atol=1e-6 * np.abs(numeric).max())


@every_loss
@pytest.mark.parametrize(
    "y", [np.zeros((5, 3)), np.eye(5), np.ones((5, 3)), np.ones((1, 3)), np.eye(2)], ids=lambda y: f"{y.tolist()}"
)
def test_batches_without_positives_or_negatives(loss, y):
    z = drawn(rows=len(y), width=4)[1]
    value, gradient = value_and_gradient(loss(), y.astype("float32"), z)
    np.testing.assert_allclose(value, expected(loss, y, z, {}), rtol=RTOL)
    if loss in (MarginContrastive, RankedList):  # one kind of pair is enough for them
        assert np.isfinite(gradient).all()
    else:
        assert value == 0
        np.testing.assert_array_equal(gradient, 0.0)


@every_loss
def test_an_empty_batch_gives_no_values(loss):
    assert loss().call(np.zeros((0, 3), "float32"), np.zeros((0, 4), "float32")).shape == (0,)


@every_loss
def test_identical_and_zero_embeddings_stay_finite(loss):
    y, z = drawn()
    z[:12] = z[0]
    z[12:14] = 0
    value, gradient = value_and_gradient(loss(), y, z)
    np.testing.assert_allclose(value, expected(loss, y, z, {}), rtol=1e-3)  # d^2 = 1e-7 by rounding is d = 3e-4
    assert np.isfinite(gradient).all()


def test_a_semi_hard_negative_is_farther_than_its_positive_even_among_equals():
    # By hand. On a line: anchor 0, positives at 1 and 3, negatives at -1 (as far as the first), 2 and 2.5.
    z = np.array([[0.0], [1.0], [3.0], [-1.0], [2.0], [2.5]], "float32")
    y = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]], "float32")
    rows = TripletSemiHard(margin=1.75).call(y, z).numpy()
    # Anchor 0: positive 1 meets 2, not -1: 1.75 + 1 - 2 = 0.75. Positive 3 meets the farthest, 2.5: 1.75 + 3 - 2.5.
    # Anchor 1 (negatives 3 and the other three): positive at 1 meets 1.5: 1.25. Anchor 2 alike: positive at 3 meets 4.
    assert rows * 4 / 6 == pytest.approx([0.75 + 2.25, 1.75 + 1 - 1.5, 1.75 + 3 - 4, 0, 0, 0])
    assert float(TripletSemiHard(margin=1.75)(y, z)) == pytest.approx(oracle.triplet_semi_hard(y, z, 1.75))


@every_loss
def test_nothing_larger_than_pairs_is_held(loss):
    assert largest_tensor(loss(), rows=64, labels=9, width=5) <= 64 * 64


@every_loss
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_graph_and_xla_agree_with_eager(loss, jit):
    y, z = drawn()

    @tf.function(jit_compile=jit)
    def compiled(y, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss()(y, z)
        return value, tape.gradient(value, z)

    actual = [part.numpy() for part in compiled(tf.constant(y), tf.constant(z))]
    assert_same(actual, value_and_gradient(loss(), y, z), rtol=1e-5 if not jit else 1e-4)  # XLA's own exp and log


@pytest.mark.slow
@pytest.mark.parametrize("loss", [TripletHard, MultiSimilarity])  # a setting of both bases; of all losses: test_losses
def test_fit_learns_and_a_saved_model_keeps_the_loss(loss, tmp_path):
    y = one_label(labels=3)
    images = np.random.default_rng(2).random((24, 4, 4, 3)).astype("float32")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(8), keras.layers.UnitNormalization()]
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    model.compile(keras.optimizers.Adam(0.01), loss=loss(min_overlap=0.25), jit_compile=False)
    history = model.fit(images, y, batch_size=24, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.loss.min_overlap == 0.25
    assert loaded.evaluate(images, y, verbose=0) == pytest.approx(model.evaluate(images, y, verbose=0), rel=1e-6)


@every_loss
def test_rows_of_replicas_add_up_to_the_whole_batch(loss):
    y, z = drawn()
    y[:6] = 0  # the first replica of four holds no positive at all
    assert_same(over_replicas(loss(), y, z, [6, 1, 9, 8]), value_and_gradient(loss(), y, z))


@pytest.mark.slow
def test_replicas_give_loss_and_gradient_of_the_whole_batch(run_python):
    """All that are not pairwise, in one process."""
    losses = [f"{loss.__name__}()" for loss in LOSSES] + ["DCL()", "ProxyAnchor()"]
    assert run_python(REPLICAS, 2, losses, warm=True).stdout.count("same") == len(losses)


@pytest.mark.parametrize(
    ("loss", "argument", "value", "rule"),
    [
        (TripletSemiHard, "margin", 0, "> 0"),
        (TripletHard, "margin", float("nan"), "> 0"),
        (MarginContrastive, "margin", -1, "> 0"),
        (LiftedStructure, "margin", -1, "> 0"),
        (TripletHard, "min_overlap", 1.5, r"in \[0, 1\]"),
        (TripletHard, "distance_metric", "L1", "one of L2, squared-L2, angular"),
        (MultiSimilarity, "positive_scale", 0, "> 0"),
        (MultiSimilarity, "negative_scale", -2, "> 0"),
        (MultiSimilarity, "base", float("nan"), "a number"),
        (MultiSimilarity, "epsilon", -0.1, ">= 0"),
        (RankedList, "boundary", 0, "> 0"),
        (RankedList, "margin", 1.3, r"in \[0, boundary = 1.2\]"),
        (RankedList, "weight_scale", -1, ">= 0"),
        (RankedList, "balance", -1, ">= 0"),
    ],
)
def test_bad_arguments_are_refused(loss, argument, value, rule):
    with pytest.raises(ValueError, match=f"{argument} must be {rule}.*got .*{value}"):
        loss(**{argument: value})


def test_distances_are_those_of_the_definition():
    _, z = drawn(rows=6, width=3)
    z *= np.arange(1, 7)[:, None]
    for metric in ("L2", "squared-L2", "angular"):
        pairs = [[oracle.distance(a, b, metric) for b in z] for a in z[:4]]
        actual = distances(tf.constant(z[:4]), tf.constant(z), metric).numpy()
        np.testing.assert_allclose(actual, pairs, rtol=RTOL, atol=2e-3 if metric == "L2" else 1e-5)


REFERENCE = json.loads((Path(__file__).parent / "reference" / "tensorflow_addons.json").read_text(encoding="utf-8"))
ADDONS = {
    "TripletSemiHardLoss": TripletSemiHard,
    "TripletHardLoss": TripletHard,
    "ContrastiveLoss": MarginContrastive,
    "LiftedStructLoss": LiftedStructure,
    "NpairsMultilabelLoss": NPairs,
}


def reference_cases():
    for case in REFERENCE["cases"]:
        yield pytest.param(case, id=f"{case['loss']} {case['batch']} {case['arguments']}")


def reference_batch(case):
    batch = REFERENCE["batches"][case["batch"]]
    classes = np.array(batch["classes"])
    multi_hot = batch["labels"] if case["loss"] == "NpairsMultilabelLoss" else np.eye(classes.max() + 1)[classes]
    return np.array(multi_hot, "float32"), np.array(batch["embeddings"], "float32")


@pytest.mark.parametrize("case", list(reference_cases()))
def test_values_and_gradients_are_those_of_tensorflow_addons(case):
    y, z = reference_batch(case)
    loss = ADDONS[case["loss"]](**case["arguments"])
    value, gradient = value_and_gradient(loss, y, z)
    known = case["value"], np.array(case["gradient"])
    if case["batch"] == "single" and case["loss"] == "TripletHardLoss":
        # The departure: they take d = 0 for the positive that row 9 lacks, and count it as an anchor.
        metric, margin = case["arguments"]["distance_metric"], case["arguments"]["margin"]
        gap = -min(oracle.distance(z[9], z[j], metric) for j in range(12) if j != 9)
        extra = np.log1p(np.exp(gap)) if case["arguments"]["soft"] else max(gap + margin, 0)
        np.testing.assert_allclose(value * 11 + extra, known[0] * 12, rtol=RTOL)
        return
    if case["batch"] == "twins":  # of two identical rows, only the sum of their gradients means something
        gradient, known = np.delete(gradient, 3, 0), (known[0], np.delete(known[1], 3, 0))
        full = value_and_gradient(loss, y, z)[1]
        gradient[0] += full[3]
        known[1][0] += np.array(case["gradient"])[3]
    assert_same((value, gradient), known)


def test_reference_values_say_what_made_them():
    assert REFERENCE["versions"]["tensorflow-addons"] == "0.23.0"
    assert {case["loss"] for case in REFERENCE["cases"]} == set(ADDONS)
