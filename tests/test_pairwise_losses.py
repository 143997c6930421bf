import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from macl_tf import losses
from tests.loss_checks import RTOL, assert_same, drawn, eagerly, finite_difference, one_label, value_and_gradient
from tests.pairwise_cases import MEMBERS, SETTINGS, expected

every_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
every_member = pytest.mark.parametrize(("name", "settings"), MEMBERS, ids=str)


def make(name, /, **settings):
    return getattr(losses, name)(**settings)


@every_setting
@pytest.mark.parametrize("labels", ["many", "one"])
def test_value_is_the_oracles(name, settings, labels):
    y, z = drawn()
    y = y if labels == "many" else one_label()
    value = expected(name, y, z, settings)
    assert value > 0.1
    np.testing.assert_allclose(float(make(name, **settings)(y, z)), value, rtol=RTOL)


@every_setting
def test_gradient_is_the_oracles_finite_difference(name, settings):
    y, z = drawn(rows=6, labels=4, width=3, density=0.5, dtype="float64")
    gradient = value_and_gradient(make(name, dtype="float64", **settings), y, z)[1]
    numeric = finite_difference(lambda moved: expected(name, y, moved, settings), z)
    np.testing.assert_allclose(gradient, numeric, rtol=RTOL, atol=1e-6 * np.abs(numeric).max())


@every_member
@eagerly()
def test_value_and_gradient_in_float32_are_those_in_float64(name, settings):
    y, z = drawn(rows=48)
    single = value_and_gradient(make(name, **settings), y, z)
    double = value_and_gradient(make(name, dtype="float64", **settings), y, z.astype("float64"))
    assert_same(single, double, rtol=2e-5)  # logits of 14 in float32 carry 1e-6, and their exponentials that much


def test_with_one_label_per_image_the_supervised_losses_are_one():
    y, z = one_label(), drawn()[1]
    reference = float(losses.SupCon()(y, z))
    same = [
        losses.SupCon(positives="all"),
        losses.JaccardSupCon(),
        losses.MultiSupCon(),
        losses.MulSupCon(),
        losses.SimilarityDissimilarity(),
        losses.MACL(overlap_scale=0, rarity_scale=0),
    ]
    for loss in same:
        np.testing.assert_allclose(float(loss(y, z)), reference, rtol=RTOL, err_msg=loss.name)


def test_info_nce_is_supcon_with_an_image_as_its_own_class():
    z = drawn(rows=24)[1]
    twice, thrice = np.tile(np.eye(12), (2, 1)), np.tile(np.eye(8), (3, 1))
    anything = np.zeros((24, 3))  # the labels only fill their place
    for views, y in ((2, twice), (3, thrice)):
        value = float(losses.InfoNCE(views=views)(anything, z))
        np.testing.assert_allclose(value, float(losses.SupCon()(y, z)), rtol=RTOL)


def test_jaccard_supcon_is_macl_without_powers_and_scales():
    y, z = drawn()
    plain = losses.MACL(reweighting_power=0, overlap_scale=0, rarity_scale=0)
    both = [value_and_gradient(loss, y, z) for loss in (losses.JaccardSupCon(), plain)]
    assert_same(*both)


def test_n_pairs_is_tensorflow_addons():
    reference = json.loads((Path(__file__).parent / "reference/tensorflow_addons.json").read_text())
    cases = [case for case in reference["cases"] if case["loss"] == "NpairsMultilabelLoss"]
    compared = 0
    for case in cases:
        batch = reference["batches"][case["batch"]]
        y, z = (np.array(batch[key], "float32") for key in ("labels", "embeddings"))
        if not y.any(axis=1).all():
            continue  # 0 / 0 there; named in the docstring
        value, gradient = value_and_gradient(losses.NPairs(), y, z)
        np.testing.assert_allclose(value, case["value"], rtol=RTOL)
        np.testing.assert_allclose(gradient, case["gradient"], rtol=1e-4, atol=RTOL * np.abs(gradient).max())
        compared += 1
    assert compared


@pytest.mark.peers
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_supcon_is_pytorch_metric_learnings(temperature):
    pytest.importorskip(
        "pytorch_metric_learning", reason="needs the extra `peers` (CPU torch and pytorch-metric-learning)"
    )
    import torch
    from pytorch_metric_learning.losses import NTXentLoss, SupConLoss

    y, z = one_label(), drawn()[1]
    theirs = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    value = SupConLoss(temperature=temperature)(theirs, torch.tensor(y.argmax(1)))
    value.backward()
    ours = value_and_gradient(losses.SupCon(temperature=temperature, dtype="float64"), y, z.astype("float64"))
    assert_same(ours, (value.item(), theirs.grad.numpy()))
    views = NTXentLoss(temperature=temperature)(theirs, torch.arange(24) % 12).item()
    np.testing.assert_allclose(float(losses.InfoNCE(temperature=temperature)(y, z)), views, rtol=RTOL)


@every_member
def test_call_gives_a_value_per_row_and_sample_weights_count(name, settings):
    y, z = drawn()
    y[3] = 0
    loss = make(name, **settings)
    rows = loss.call(tf.constant(y), tf.constant(z)).numpy()
    assert rows.shape == (24,) and (rows[3] == 0 or name == "InfoNCE")
    np.testing.assert_allclose(rows.mean(), expected(name, y, z, settings), rtol=RTOL)
    weights = np.arange(24, dtype="float32")
    np.testing.assert_allclose(float(loss(y, z, sample_weight=weights)), (rows * weights).mean(), rtol=RTOL)


@pytest.mark.parametrize("name", ["InfoNCE", "NPairs"])
def test_fit_trains(name):
    """These two here; every loss that a run may have in test_build."""
    y = drawn(rows=16)[0]
    x = np.random.default_rng(2).random((16, 6)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.UnitNormalization()])
    model.compile(keras.optimizers.Adam(0.02), loss=make(name), jit_compile=False)
    history = model.fit(x, y, batch_size=16, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


@pytest.mark.parametrize(
    ("name", "argument", "value", "rule"),
    [
        ("SupCon", "positives", "some", "'any' or 'all'"),
        ("MultiSupCon", "min_overlap", -0.1, r"in \[0, 1\]"),
        ("MultiSupCon", "min_overlap", 1.1, r"in \[0, 1\]"),
        ("InfoNCE", "views", 1, "a whole number >= 2"),
        ("InfoNCE", "views", 2.5, "a whole number >= 2"),
        ("SupCon", "temperature", 0, "> 0"),
        ("NPairs", "temperature", 0.1, "left out, n-pairs has none"),
        ("MACL", "tile_size", -1, "None .chosen by size., 0 .all at once. or a number of rows >= 1"),
        ("SupCon", "tile_size", 2.5, "None .chosen by size., 0 .all at once. or a number of rows >= 1"),
    ],
)
def test_bad_arguments_are_refused(name, argument, value, rule):
    with pytest.raises(ValueError, match=f"{argument} must be {rule}, got {value!r}"):
        make(name, **{argument: value})


def test_info_nce_wants_all_views_of_each_image():
    y, z = drawn(rows=15)
    with pytest.raises(ValueError, match="must be a multiple of views=2, got 15"):
        losses.InfoNCE()(y, z)
    unknown = tf.function(losses.InfoNCE(), input_signature=[tf.TensorSpec((None, 7)), tf.TensorSpec((None, 8))])
    assert np.isnan(unknown(tf.constant(y), tf.constant(z)).numpy())
    assert np.isfinite(unknown(tf.constant(y[:14]), tf.constant(z[:14])).numpy())
