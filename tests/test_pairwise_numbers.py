import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from macl_tf import LabelStatistics, losses
from macl_tf.losses import pairwise, tiles
from tests.loss_checks import assert_same, drawn, eagerly, value_and_gradient
from tests.pairwise_cases import KERNEL, MEMBERS, expected, of

# Deterministic, and without a clock: what hypothesis finds today it finds in every run.
quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
few = settings(quick, max_examples=6)  # where every example is the same law of the one kernel
every_member = pytest.mark.parametrize(("name", "arguments"), MEMBERS, ids=str)
every_kernel = pytest.mark.parametrize(("name", "arguments"), KERNEL, ids=str)


def make(name, /, **arguments):
    return getattr(losses, name)(**arguments)


@st.composite
def batches(draw, rows=(1, 2, 3, 4, 8, 13), labels=(1, 3, 64)):
    """Any labels (none, all, the same, one each, few or many), embeddings with zero and equal rows."""
    b, c = draw(st.sampled_from(rows)), draw(st.sampled_from(labels))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["none", "all", "same", "one", "few", "many"]))
    y = {
        "none": lambda: np.zeros((b, c)),
        "all": lambda: np.ones((b, c)),
        "same": lambda: np.tile(rng.integers(0, 2, (1, c)), (b, 1)),
        "one": lambda: np.eye(c)[rng.integers(0, c, b)],
        "few": lambda: rng.random((b, c)) < 0.1,
        "many": lambda: rng.random((b, c)) < 0.7,
    }[kind]()
    z = rng.normal(size=(b, 4))
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    for row in draw(st.lists(st.integers(0, b - 1), max_size=3)):
        z[row] = draw(st.sampled_from([0.0, 1.0])) * z[0]  # a zero row, or a copy of another
    return np.asarray(y, "float32"), z.astype("float32")


@pytest.mark.slow
@every_member
@given(batch=batches(), temperature=st.sampled_from([0.01, 0.07, 1.0]))
@quick
@eagerly()
def test_value_and_gradient_are_finite_for_any_labels_and_embeddings(name, arguments, batch, temperature):
    y, z = batch
    if name == "InfoNCE":
        y, z = np.tile(y, (2, 1)), np.concatenate([z, z[::-1]])
    value, gradient = value_and_gradient(make(name, **of(name, temperature, **arguments)), y, z)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert value >= 0 and gradient.shape == z.shape
    if not y.any() and name != "InfoNCE":
        assert value == 0 and not gradient.any()


@pytest.mark.parametrize(("name", "arguments"), [m for m in KERNEL if m[0] != "NPairs"], ids=str)
@pytest.mark.parametrize("form", ["dense", "tiled", "backend's"])
@eagerly()
def test_who_has_nobody_else_to_choose_loses_nothing(name, arguments, form, monkeypatch):
    if form == "backend's":
        monkeypatch.setattr(tiles, "rows", lambda *given, **_: pairwise.dense_rows(*given[:3]))
    rng = np.random.default_rng(5)
    # Both terms of a loss are logits of a size of 100: of these, units in the last place may be left, never below 0.
    left = 0 if form == "backend's" else 8 * np.finfo("float32").eps * 100
    for _ in range(20):
        z = rng.normal(size=(2, 4))
        z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype("float32")
        y = np.ones((2, 3), "float32")
        if name != "InfoNCE":
            y[1, 1:] = rng.integers(0, 2, 2)
        loss = make(name, temperature=0.01, tile_size=int(form == "tiled"), **arguments)
        value, gradient = value_and_gradient(loss, y, z)
        assert 0 <= value <= left and abs(gradient).max() < 1e-4


@every_kernel
@pytest.mark.parametrize("tile_size", [0, 3])
@eagerly()
def test_a_batch_without_rows_gives_no_values(name, arguments, tile_size):
    y, z = tf.zeros((0, 3)), tf.zeros((0, 4))
    loss = make(name, tile_size=tile_size, **arguments)
    with tf.GradientTape() as tape:
        tape.watch(z)
        values = loss(y, z)  # Keras reduces nothing to nothing, where it sees that there is nothing
    assert values.shape == (0,) and tape.gradient(values, z).shape == (0, 4)


@pytest.mark.parametrize("tile_size", [None, 3])
@pytest.mark.parametrize("name", ["MulSupCon", "NPairs", "MACL"])
def test_a_graph_that_did_not_know_how_many_rows_gives_zero_for_none(name, tile_size):
    loss = make(name, tile_size=tile_size)
    unseen = tf.function(loss, input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((None, 4))], autograph=False)
    assert unseen(tf.zeros((0, 3)), tf.zeros((0, 4))).numpy() == 0


@given(
    batch=batches(labels=(1, 3)),
    temperature=st.floats(0.01, 2),
    power=st.floats(0, 3),
    focus=st.floats(0, 20),
    overlap=st.floats(0, 4),
    rarity=st.floats(0, 0.99),
    weighted=st.booleans(),
    counted=st.booleans(),
)
@quick
@eagerly()
def test_macl_is_finite_for_any_settings(batch, temperature, power, focus, overlap, rarity, weighted, counted):
    y, z = batch
    many = LabelStatistics.from_labels(np.random.default_rng(0).random((1000, y.shape[1])) < 0.3)
    loss = losses.MACL(
        many if counted else None,
        temperature=temperature,
        reweighting_power=power,
        overlap_power=focus,
        overlap_scale=overlap,
        rarity_scale=rarity,
        weighted=weighted,
    )
    value, gradient = value_and_gradient(loss, y, z)
    assert np.isfinite(value) and np.isfinite(gradient).all() and value >= 0


@every_kernel
@given(seed=st.integers(0, 2**32 - 1))
@few
@eagerly()
def test_permutation_and_rotation_laws(name, arguments, seed):
    y, z = drawn(rows=12, width=4, seed=seed)
    loss = make(name, **of(name, 0.2, **arguments))
    value, gradient = value_and_gradient(loss, y, z)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(12)
    if name == "InfoNCE":  # views stay together
        rows = np.concatenate([rows[rows < 6], rows[rows < 6] + 6])
    assert_same(value_and_gradient(loss, y[rows], z[rows]), (value, gradient[rows]), rtol=2e-5)
    assert_same(value_and_gradient(loss, y[:, rng.permutation(7)], z), (value, gradient), rtol=2e-5)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0].astype("float32")
    assert_same(value_and_gradient(loss, y, z @ turn), (value, gradient @ turn), rtol=5e-5)  # z @ turn is rounded too


@pytest.mark.parametrize(("name", "arguments"), [m for m in KERNEL if m[0] != "InfoNCE"], ids=str)
@given(seed=st.integers(0, 2**32 - 1))
@few
@eagerly()
def test_a_row_without_labels_is_no_anchor_and_as_a_negative_never_lowers_the_loss(name, arguments, seed):
    y, z = drawn(rows=12, width=4, seed=seed)
    y[3], y[4:6] = 0, np.eye(7)[2]  # one without labels, and two that match
    loss = make(name, **of(name, 0.2, **arguments))
    assert loss.call(tf.constant(y), tf.constant(z)).numpy()[3] == 0
    assert float(loss(y, z)) > float(loss(np.delete(y, 3, 0), np.delete(z, 3, 0)))


@every_kernel
@given(seed=st.integers(0, 2**32 - 1), copies=st.sampled_from([2, 3]))
@few
@eagerly()
def test_replication_law(name, arguments, seed, copies):
    """Every row n times over: the value is that of the loops, whose rows are anchors like all others."""
    y, z = drawn(rows=6, width=4, seed=seed)
    y, z = np.tile(y, (copies, 1)), np.tile(z, (copies, 1))
    value = expected(name, y, z, of(name, 0.2, **arguments))
    loss = make(name, **of(name, 0.2, **arguments))
    np.testing.assert_allclose(float(loss(y, z)), value, rtol=1e-5, atol=1e-6)
    rows = loss.call(tf.constant(y), tf.constant(z)).numpy().reshape(copies, 6)
    np.testing.assert_allclose(rows, np.tile(rows[:1], (copies, 1)), rtol=1e-4, atol=1e-5)  # copies cost the same


@every_member
@eagerly()
def test_the_loss_falls_as_two_images_with_the_same_labels_draw_near(name, arguments):
    y = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], "float32")
    loss = make(name, **of(name, 0.5, **arguments))
    values = []
    for angle in np.linspace(np.pi, 0.0, 7):  # in the plane across the other two
        z = np.array([[1, 0, 0], [0, 0, 1], [np.cos(angle), np.sin(angle), 0], [0, 0, 1]], "float32")
        values.append(float(loss(y, z)))
    assert np.all(np.diff(values) < 0)
