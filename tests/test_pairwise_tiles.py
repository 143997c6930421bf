import json

import numpy as np
import pytest
import tensorflow as tf

from macl_tf import losses
from macl_tf.losses import tiles
from tests.loss_checks import assert_same, drawn, eagerly, largest_tensor, over_replicas, value_and_gradient
from tests.pairwise_cases import KERNEL, MEMBERS, expected

every_member = pytest.mark.parametrize(("name", "settings"), MEMBERS, ids=str)
every_kernel = pytest.mark.parametrize(("name", "settings"), KERNEL, ids=str)


def make(name, /, **settings):
    return getattr(losses, name)(**settings)


def step(loss, y, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(y, z)
    return value, tape.gradient(value, z)


def in_graph(loss, y, z, rows=None, jit=False):
    """Value and gradient in a compiled step, with `rows` rows known when it is traced."""
    shapes = [tf.TensorSpec((rows, array.shape[1]), array.dtype) for array in (y, z)]
    compiled = tf.function(lambda y, z: step(loss, y, z), input_signature=shapes, autograph=False, jit_compile=jit)
    value, gradient = compiled(tf.constant(y), tf.constant(z))
    return float(value), gradient.numpy()


@every_member
@eagerly()
def test_tiles_give_value_and_gradient_of_the_dense_form(name, settings):
    y, z = drawn(rows=22)
    y[4:9] = y[3]  # equal label sets, far apart in no order
    y[20] = y[0]
    dense = value_and_gradient(make(name, tile_size=0, **settings), y, z)
    np.testing.assert_allclose(dense[0], expected(name, y, z, settings), rtol=1e-5)
    for tile_size in (1, 5, 1000):  # 22 is no multiple of 5
        assert_same(value_and_gradient(make(name, tile_size=tile_size, **settings), y, z), dense)


@every_kernel
@pytest.mark.parametrize("tile_size", [0, 5])
@eagerly()
def test_rows_of_replicas_add_up_to_the_whole_batch(name, settings, tile_size, monkeypatch):
    y, z = drawn(rows=22)
    y[:6] = 0  # the first replica holds no positive at all
    y[15:19] = y[9]
    loss = make(name, tile_size=tile_size, **settings)
    whole = value_and_gradient(loss, y, z)
    if tile_size:
        monkeypatch.setattr(tiles, "AT_ONCE", 0)
        monkeypatch.setattr(tiles, "BLOCK_PAIRS", 60)  # some three sets at a time
    for sizes in ([6, 16], [6, 1, 7, 8]):
        assert_same(over_replicas(loss, y, z, sizes), whole)


@pytest.mark.parametrize("rows", [22, None], ids=["known", "unknown"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(("name", "jit"), [("MACL", False), ("SupCon", True)], ids=["graph", "xla"])
def test_size_decides_in_every_kind_of_graph(name, rows, large, jit, monkeypatch):
    y, z = drawn(rows=22)
    at_once = value_and_gradient(make(name), y, z)
    if large:
        for constant, value in (("AT_ONCE", 100), ("TILE_PAIRS", 150), ("FEWEST_ROWS", 4), ("BLOCK_PAIRS", 60)):
            monkeypatch.setattr(tiles, constant, value)
    known = []  # when it is traced; None: the graph decides
    original = tiles.by_blocks

    def watched(number, width, at_once, *rest):
        known.append(at_once if isinstance(at_once, bool) else None)
        return original(number, width, at_once, *rest)

    monkeypatch.setattr(tiles, "by_blocks", watched)
    assert_same(in_graph(make(name), y, z, rows, jit), at_once, rtol=1e-4 if jit else 1e-5)
    assert known and set(known) == {None if rows is None else not large}


@pytest.mark.parametrize("tile_size", [pytest.param(0, marks=pytest.mark.slow), 5])
def test_forced_forms_under_xla(tile_size):
    y, z = drawn(rows=22)
    dense = value_and_gradient(losses.MACL(tile_size=0), y, z)
    for rows in (22, None):
        assert_same(in_graph(losses.MACL(tile_size=tile_size), y, z, rows, jit=True), dense, rtol=1e-4)


def test_eager_calls_with_changing_rows_share_a_trace():
    loss = losses.JaccardSupCon()
    for rows in (24, 17, 9, 30):
        y, z = drawn(rows=rows, labels=6)
        np.testing.assert_allclose(value_and_gradient(loss, y, z)[0], expected("JaccardSupCon", y, z, {}), rtol=1e-5)


@every_kernel
def test_no_tensor_holds_all_pairs_in_tiles_nor_all_triples_ever(name, settings):
    rows, labels, width = 512, 17, 16
    per_pair = {size: largest_tensor(make(name, tile_size=size, **settings), rows, labels, width) for size in (0, 8)}
    assert rows * rows <= per_pair[0] <= rows * rows * 2
    # A tile, or what describes each row: the pairs of labels that it holds.
    assert per_pair[8] <= max(8 * rows, rows * labels * (labels + 1) // 2)


@pytest.mark.slow
def test_the_memory_script_measures_the_tiles(run_python, tmp_path):
    script = "from benchmarks.speed.losses_memory import main; main()"
    words = ["x", "--rows", "5000", "--tile-size", "100", "--out", str(tmp_path / "memory.json")]
    run_python(f"import sys; sys.argv = {words}; {script}")
    figures = json.loads((tmp_path / "memory.json").read_text())
    dense = 5000 * 5000 * 4
    assert figures["beyond"] < 2 * dense  # all at once takes three and a half such matrices
    assert figures["large"]["tensors"] == 4 * 5000 * (2 * 128 + 17)


@every_kernel
@pytest.mark.parametrize("weights", ["uneven", "nearly even", "none", "one row", "scaled"])
@eagerly()
def test_rows_may_be_weighed_by_anything(name, settings, weights):
    """Equal weights take the gradient that was prepared on the way forward, others make the tiles again."""
    y, z = drawn(rows=20)
    w = {
        "uneven": np.random.default_rng(3).random(20),
        "nearly even": 1 + 0.005 * np.random.default_rng(3).random(20),  # a sample weight of 1.005 is not one of 1
        "none": np.zeros(20),
        "one row": np.eye(20)[7],
        "scaled": np.full(20, -3.0),
    }[weights].astype("float32")
    results = []
    for tile_size in (0, 6):
        loss = make(name, tile_size=tile_size, **settings)
        moved = tf.constant(z)
        with tf.GradientTape() as tape:
            tape.watch(moved)
            value = tf.reduce_sum(w * loss.call(tf.constant(y), moved))
        results.append((float(value), tape.gradient(value, moved).numpy()))
    assert_same(results[1], results[0], rtol=2e-5)
    if weights != "one row":  # whose row may have no positive
        assert np.any(results[0][1]) == (weights != "none")


@every_member
@eagerly()
def test_who_has_a_positive_is_what_the_weights_say(name, settings):
    """Replicas count the anchors of the whole batch by `positive`, and their own by the weights."""
    y, _ = drawn(rows=40, labels=5)
    y[7] = y[3]
    loss = make(name, **settings)
    labels = tf.constant(np.arange(40, dtype="float32")[:, None] // 3 if name == "InfoNCE" else y)
    parameters = {"temperature": tf.constant(0.1), **loss.parameters(tf.constant(y))}
    parameters = {key: tf.cast(value, "float32") for key, value in parameters.items()}
    target = loss.target
    described = target.describe(labels, parameters)
    positive = target.positive(described, described, parameters).numpy()
    if target.compare is not None:  # else all positives weigh alike
        weights = target.compare(described, described, parameters)[0].numpy()
        np.testing.assert_array_equal(positive, weights > 0)
    assert 0 < positive.mean() < 1
    if not target.include_self:
        np.fill_diagonal(positive, False)
    np.testing.assert_array_equal(tiles.with_positive(target, parameters, labels), positive.any(axis=1))


def test_the_prepared_gradient_is_used_and_the_other_way_is_there():
    upstream = tf.constant([2.0, 4.0, 0.0, 6.0])
    importance, positive = tf.constant([1.0, 2.0, 5.0, 3.0]), tf.constant([True, True, False, True])
    common, factor = tiles.common_factor(upstream, importance, positive)
    assert common and factor == 2
    assert not tiles.common_factor(upstream, tf.ones(4), positive)[0]
    assert not tiles.common_factor(tf.constant([2.0, 4.0, 0.0, 6.01]), importance, positive)[0]
    assert tiles.common_factor(tf.constant([2.0, 4.0, 0.0, 6.000001]), importance, positive)[0]  # by rounding
    assert not tiles.common_factor(upstream * float("nan"), importance, positive)[0]
    common, factor = tiles.common_factor(upstream, importance, tf.zeros(4, tf.bool))
    assert common and factor == 0
