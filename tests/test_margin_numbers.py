"""Losses over margins and proxies stay numbers, and keep their laws, whatever the batch."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from macl_tf import losses
from tests.loss_checks import assert_same, drawn, eagerly, value_and_gradient
from tests.test_pairwise_numbers import batches, few, quick

OVER_PAIRS = {
    "TripletSemiHard": {},
    "TripletHard": {},
    "MarginContrastive": {},
    "LiftedStructure": {},
    "MultiSimilarity": {"min_overlap": 0.5},
    "RankedList": {},
    "DCL": {"min_overlap": 0.5},
}
every_loss = pytest.mark.parametrize(("name", "arguments"), OVER_PAIRS.items(), ids=str)
# Larger margins ask for more. Of DCL's and Ranked List's margin, between two boundaries, that is not so in general.
HINGES = ["TripletSemiHard", "TripletHard", "MarginContrastive", "LiftedStructure"]
with_margin = pytest.mark.parametrize("name", HINGES)


def make(name, /, **arguments):
    return getattr(losses, name)(**arguments)


@every_loss
@given(batch=batches())
@quick
@eagerly()
def test_value_and_gradient_are_finite_for_any_labels_and_embeddings(name, arguments, batch):
    y, z = batch
    value, gradient = value_and_gradient(make(name, **arguments), y, z)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert value >= 0 and gradient.shape == z.shape


@given(batch=batches(), scale=st.sampled_from([1.0, 32.0, 256.0]), margin=st.floats(0, 1))
@quick
@eagerly()
def test_proxy_anchor_is_finite_for_any_labels_and_cosines(batch, scale, margin):
    y, _ = batch
    cosines = np.cos(np.arange(y.size).reshape(y.shape)).astype("float32")
    value, gradient = value_and_gradient(losses.ProxyAnchor(scale=scale, margin=margin), y, cosines)
    assert np.isfinite(value) and np.isfinite(gradient).all() and value >= 0


@pytest.mark.slow
@every_loss
@given(seed=st.integers(0, 2**32 - 1))
@few
@eagerly()
def test_permutation_and_rotation_laws(name, arguments, seed):
    y, z = drawn(rows=12, width=4, seed=seed)
    loss = make(name, **arguments)
    value, gradient = value_and_gradient(loss, y, z)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(12)
    assert_same(value_and_gradient(loss, y[rows], z[rows]), (value, gradient[rows]), rtol=2e-5)
    assert_same(value_and_gradient(loss, y[:, rng.permutation(7)], z), (value, gradient), rtol=2e-5)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0].astype("float32")
    # z @ turn is rounded, and what is mined among nearly equal pairs may change with it: the value hardly does.
    np.testing.assert_allclose(float(loss(y, z @ turn)), value, rtol=1e-4, atol=1e-5)


@with_margin
@given(seed=st.integers(0, 2**32 - 1), margins=st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)))
@quick
@eagerly()
def test_a_larger_margin_never_costs_less(name, seed, margins):
    # Semi-hard mining picks its negatives whatever the margin; only the hinge moves.
    y, z = drawn(rows=12, width=4, seed=seed)
    low, high = (float(make(name, margin=margin)(y, z)) for margin in sorted(margins))
    assert high >= low * (1 - 1e-6)


@every_loss
def test_an_embedding_that_is_not_finite_shows(name, arguments):
    y, z = drawn()
    for broken in (np.nan, np.inf):
        z[5, 2] = broken
        with eagerly():
            assert np.isnan(float(make(name, **arguments)(y, z)))
        if name in ("TripletSemiHard", "DCL"):  # it stands in their base class
            assert np.isnan(tf.function(make(name, **arguments))(tf.constant(y), tf.constant(z)).numpy())


@every_loss
def test_an_empty_batch_of_a_graph_that_did_not_know_is_zero(name, arguments):
    signature = [tf.TensorSpec((None, 3)), tf.TensorSpec((None, 4))]
    unseen = tf.function(make(name, **arguments), input_signature=signature, autograph=False)
    assert unseen(tf.zeros((0, 3)), tf.zeros((0, 4))).numpy() == 0
