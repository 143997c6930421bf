"""Turns learned: what a head gives in one pass comes near to the mean of four, and nothing else of a run changes."""

import keras
import numpy as np
import pytest

from macl_tf.models.encoders import classified, vector_encoder
from macl_tf.models.fine_tuning import backbone_part
from macl_tf.training import learned_turns
from macl_tf.training.learned_turns import teach_turns
from macl_tf.training.run_directory import read_encoder
from macl_tf.training.settings import Settings, load_settings
from macl_tf.training.train import train
from tests.runs import residual

WIDTH, LABELS = 24, 3


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def features(tiles, seed):
    """(4, N, F): what a tile shows, and what each of its turns adds by itself."""
    rng = np.random.default_rng(seed)
    shown = rng.normal(size=(tiles, WIDTH)) * ([2] * 6 + [0] * (WIDTH - 6))
    return (shown + rng.normal(size=(4, tiles, WIDTH))).astype("float32")


def seen(head, turns):
    return [head.predict(turn, verbose=0) for turn in turns]


def test_one_pass_comes_near_to_the_mean_of_four():
    keras.utils.set_random_seed(0)
    head = vector_encoder(WIDTH, embedding_dim=8, hidden_dim=32)
    learned, others = features(600, 0), features(200, 1)
    before = seen(head, others)
    wanted = unit(sum(before))
    teach_turns(head, learned, progress=False)
    for one, other in zip(before, seen(head, others), strict=True):
        untaught, taught = (1 - np.sum(found * wanted, axis=1).mean() for found in (one, other))
        assert taught < 0.7 * untaught


def test_a_classifier_learns_the_mean_of_its_probabilities():
    keras.utils.set_random_seed(0)
    head = classified(vector_encoder(WIDTH, embedding_dim=8, hidden_dim=32), LABELS)
    learned, others = features(600, 0), features(200, 1)

    def probabilities():
        return [1 / (1 + np.exp(-found[1])) for found in seen(head, others)]

    before = probabilities()
    wanted = np.mean(before, axis=0)
    teach_turns(head, learned, progress=False)
    assert np.square(probabilities()[0] - wanted).mean() < 0.9 * np.square(before[0] - wanted).mean()


def settings_of(**changes):
    small = {"num_tiles": 60, "image_size": 32, "embedding_dim": 8, "batch_size": 16, "epochs": 1, "weights": ""}
    return Settings(**{**small, "backbone": "resnet18", "width": 8, **changes})


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Trains a run of a small network under a name, and gives its encoder."""
    monkeypatch.setattr("macl_tf.models.encoders.backbone_of", lambda *arguments, **options: small)

    def run(name, **changes):
        train(settings_of(**changes), tmp_path / name, progress=False)
        return read_encoder(tmp_path / name)

    return run


def small(pixels):
    return residual(keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels))


def test_it_changes_the_head_alone_and_goes_on_where_it_was_killed(runs, monkeypatch):
    without, taught = runs("without", learn_turns=False), runs("taught")
    for one, other in zip(backbone_part(without).weights, backbone_part(taught).weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    kernels = [encoder.get_layer("projection_2").get_weights()[0] for encoder in (without, taught)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learned_turns, "teach_turns", killed)
        runs("killed")
    again = runs("killed")
    for one, other in zip(taught.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_of_many_tiles_a_sample_is_learned_from(runs, monkeypatch):
    sizes = []
    monkeypatch.setattr(learned_turns, "MOST", 10)
    monkeypatch.setattr(learned_turns, "_PART", 4)
    monkeypatch.setattr(learned_turns, "teach_turns", lambda head, found, **options: sizes.append(found.shape))
    runs("run")
    assert [shape[:2] for shape in sizes] == [(4, 10)]


@pytest.mark.parametrize(
    ("assignments", "learns"),
    [([], True), (["learn_turns=false"], False), (["trainable=head"], False), (["head=spoc"], False),
     (["trainable=last:1"], True), (["features=v.npz"], False)],
)  # fmt: skip
def test_it_is_of_a_projection_behind_a_backbone_that_was_trained(assignments, learns):
    assert load_settings(assignments=assignments).learns_turns is learns
