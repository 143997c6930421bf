import numpy as np
import pytest
import tensorflow as tf

from macl_tf.losses.boundary import DCL, label_sets
from tests.loss_checks import (
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

SETTINGS = [
    {},
    {"min_overlap": 0.5},
    {"boundary": 1.4, "margin": 0.2, "weight_scale": 1.0},
    {"num_hard": 1},
    {"num_hard": 40},  # more than the batch has
    {"weight_scale": 0.0, "num_hard": 2},
]
every_setting = pytest.mark.parametrize("arguments", SETTINGS, ids=str)


def expected(y, z, arguments):
    names = {"weight_scale": "temperature", "num_hard": "hard"}
    return oracle.dcl(y, unit(z), **{names.get(name, name): value for name, value in arguments.items()})


@every_setting
@pytest.mark.parametrize("labels", ["many", "one"])
def test_value_is_the_oracles(arguments, labels):
    y, z = drawn(rows=32, width=4)
    y = y if labels == "many" else one_label(rows=32, labels=8)
    value = expected(y, z, arguments)
    assert value > 0.1
    np.testing.assert_allclose(float(DCL(**arguments)(y, z)), value, rtol=RTOL)


@every_setting
@pytest.mark.parametrize("labels", ["many", "one"])
def test_gradient_is_the_oracles_finite_difference(arguments, labels):
    y, z = drawn(rows=10, labels=4, width=3, density=0.5, dtype="float64", seed=1)
    y = y if labels == "many" else one_label(rows=10, labels=4, dtype="float64")
    value, gradient = value_and_gradient(DCL(**arguments, dtype="float64"), y, z)
    np.testing.assert_allclose(value, expected(y, z, arguments), rtol=1e-9)
    numeric = finite_difference(lambda moved: expected(y, moved, arguments), z)
    assert np.abs(numeric).max() > 1e-3
    np.testing.assert_allclose(gradient, numeric, rtol=RTOL, atol=1e-6 * np.abs(numeric).max())


def test_a_batch_by_hand():
    # Three classes on the unit circle at the angles below; chords: 2 sin(angle / 2).
    angles = np.radians([0.0, 90.0, 60.0, 180.0, 60.0])
    z = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    y = np.eye(3)[[0, 0, 1, 1, 2]]
    chord = {degrees: 2 * np.sin(np.radians(degrees) / 2) for degrees in (30, 60, 90, 120)}

    def weigh(*violations):
        return sum(np.exp(10 * v) * v for v in violations) / sum(np.exp(10 * v) for v in violations)

    rows = [
        (chord[90] - 0.8) + weigh(1.2 - chord[60], 1.2 - chord[60]),  # classes 1 and 2, both at 60 degrees
        (chord[90] - 0.8) + weigh(1.2 - chord[30], 1.2 - chord[30]),  # class 1 by its nearer image alone
        (chord[120] - 0.8) + weigh(1.2 - chord[30], 1.2),  # class 0 at 30 degrees, class 2 at the same place
        (chord[120] - 0.8) + 0,  # 90 degrees and more to all others: beyond 1.2
        0 + weigh(1.2 - chord[30], 1.2),  # no positive
    ]
    np.testing.assert_allclose(DCL(dtype="float64").call(y, z).numpy(), rows, rtol=1e-9)


def test_a_class_is_an_exact_label_set():
    y = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 0]], "float32")
    np.testing.assert_array_equal(label_sets(tf.constant(y)), [0, 1, 0, 3, 4, 1, 3])


def test_pairs_that_overlap_too_little_are_neither_positive_nor_negative():
    y = np.array([[1, 1, 1, 0], [0, 0, 1, 1]], "float32")  # Jaccard 1/4
    z = np.array([[1, 0], [0.6, 0.8]], "float32")
    assert float(DCL(min_overlap=0.25)(y, z)) == pytest.approx(np.sqrt(0.8) - 0.8)
    assert float(DCL(min_overlap=0.3)(y, z)) == 0.0


@pytest.mark.parametrize(
    "y", [np.zeros((5, 3)), np.eye(5), np.ones((5, 3)), np.ones((1, 3)), np.eye(2)], ids=lambda y: f"{y.tolist()}"
)
def test_batches_without_positives_or_negatives(y):
    z = drawn(rows=len(y), width=4)[1]
    value, gradient = value_and_gradient(DCL(), y.astype("float32"), z)
    np.testing.assert_allclose(value, expected(y, z, {}), rtol=RTOL)
    assert np.isfinite(gradient).all()
    assert len(y) > 1 or not gradient.any()


def test_an_empty_batch_gives_no_values():
    assert DCL().call(np.zeros((0, 3), "float32"), np.zeros((0, 4), "float32")).shape == (0,)


def test_identical_and_zero_embeddings_stay_finite():
    y, z = drawn()
    z[:12] = z[0]
    z[12:14] = 0
    value, gradient = value_and_gradient(DCL(), y, z)
    np.testing.assert_allclose(value, expected(y, z, {}), rtol=RTOL)
    assert np.isfinite(gradient).all()


def test_nothing_larger_than_pairs_is_held():
    assert largest_tensor(DCL(), rows=64, labels=9, width=5) <= 64 * 65  # and a spare column


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_graph_and_xla_agree_with_eager(jit):
    y, z = drawn()

    @tf.function(jit_compile=jit)
    def compiled(y, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = DCL()(y, z)
        return value, tf.convert_to_tensor(tape.gradient(value, z))

    actual = [part.numpy() for part in compiled(tf.constant(y), tf.constant(z))]
    assert_same(actual, value_and_gradient(DCL(), y, z), rtol=1e-5 if not jit else 1e-4)  # XLA's own exp and log


def test_rows_of_replicas_add_up_to_the_whole_batch():
    y, z = drawn()
    y[:6] = 0
    assert_same(over_replicas(DCL(), y, z, [6, 1, 9, 8]), value_and_gradient(DCL(), y, z))


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        ("boundary", 0, "> 0"),
        ("margin", 1.3, r"in \[0, boundary = 1.2\]"),
        ("weight_scale", -1, ">= 0"),
        ("num_hard", 0, "an integer >= 1"),
        ("num_hard", 2.5, "an integer >= 1"),
        ("min_overlap", -0.5, r"in \[0, 1\]"),
    ],
)
def test_bad_arguments_are_refused(argument, value, rule):
    with pytest.raises(ValueError, match=f"{argument} must be {rule}, got {value}"):
        DCL(**{argument: value})
