"""What all losses share: one registry, names, configuration, unit length, and what they say of wrong labels."""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import macl_tf
from macl_tf.losses.registry import BY_NAME, LOSSES, make
from tests.conftest import ROOT
from tests.loss_checks import assert_same, drawn, eagerly, over_replicas, value_and_gradient

# A value that is no default, for every argument that a loss may have.
VALUES = {
    "label_statistics": macl_tf.LabelStatistics.from_labels(np.eye(7, dtype=int)),
    "temperature": 0.25, "tile_size": 3, "positives": "all", "min_overlap": 0.5, "views": 3, "weighted": True,
    "reweighting_power": 0.5, "overlap_power": 1.0, "overlap_scale": 0.5, "rarity_scale": 0.1, "min_temperature": 0.02,
    "margin": 0.125, "soft": True, "distance_metric": "angular", "boundary": 1.5, "weight_scale": 3.0, "num_hard": 2,
    "balance": 0.5, "positive_scale": 3.0, "negative_scale": 20.0, "base": 0.25, "epsilon": 0.5, "scale": 16.0,
    "name": "mine", "reduction": "sum", "dtype": "float64",
}  # fmt: skip
OWN = sorted(BY_NAME)
NORMAL = [name for name in OWN if BY_NAME[name].load()().normalize]
every_loss = pytest.mark.parametrize("name", OWN)


def arguments(kind):
    """All that a class takes, through its bases too, and the defaults."""
    found = {}
    for base in kind.__mro__[: kind.__mro__.index(keras.losses.Loss)]:
        for parameter in list(inspect.signature(base.__init__).parameters.values())[1:]:
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                found.setdefault(parameter.name, parameter)
        if all(
            p.kind is not inspect.Parameter.VAR_KEYWORD for p in inspect.signature(base.__init__).parameters.values()
        ):
            break
    return found


def batch(name):
    y, z = drawn()
    return (y, z[:, :7]) if BY_NAME[name].ends_in == "proxies" else (y, z)


def test_one_name_a_loss():
    for name, entry in LOSSES.items():
        loss = make(name)
        assert type(loss).__name__ == entry.kind
        if name in ("wmacl", "supcon-any", "supcon-all", "bce"):  # a class with settings
            assert entry.fixed
        else:
            assert loss.name == name.replace("-", "_") and not entry.fixed
    public = {value for name in macl_tf.losses.__all__ if inspect.isclass(value := getattr(macl_tf.losses, name))}
    losses = {value for value in public if issubclass(value, keras.losses.Loss)}
    bases = {macl_tf.losses.BatchLoss, macl_tf.losses.PairwiseLoss}
    assert losses - bases == {entry.load() for entry in BY_NAME.values()}
    with pytest.raises(AttributeError, match="has no attribute 'Joint'"):
        macl_tf.losses.Joint  # noqa: B018


def test_the_registry_imports_no_keras(run_python):
    script = "import sys; from macl_tf.losses.registry import LOSSES; assert LOSSES and 'keras' not in sys.modules"
    run_python(script)


@every_loss
def test_keras_finds_it_by_name_and_only_there_are_defaults(name):
    loss = keras.losses.get(name)
    assert type(loss) is BY_NAME[name].load() and loss.name == name
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7)])
    model.compile("sgd", loss=name)
    assert type(model.loss) is str or type(model.loss) is type(loss)
    if name not in ("macl", "dcl", "proxy_anchor"):  # one of each base
        return
    x = np.random.default_rng(0).random((24, 3)).astype("float32")
    assert np.isfinite(model.fit(x, drawn()[0], batch_size=24, verbose=0).history["loss"]).all()


def test_by_name_the_first_call_may_be_evaluate():
    x, y = np.random.default_rng(0).random((24, 3)).astype("float32"), drawn()[0]
    values = []
    for loss in ("macl", macl_tf.MACL()):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7)])
        model.compile("sgd", loss=loss)
        values.append(model.evaluate(x, y, verbose=0))
    assert values[0] == values[1] > 0


@every_loss
def test_names_are_the_fields_keyword_only_and_of_one_default(name):
    found = arguments(BY_NAME[name].load())
    assert set(found) <= {*VALUES, "normalize"}
    assert found.get("temperature") is None or found["temperature"].default == 0.1
    for argument, parameter in found.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY or argument == "label_statistics"


@every_loss
def test_its_configuration_is_complete(name):
    kind = BY_NAME[name].load()
    given = {
        key: VALUES[key] for key in arguments(kind) if key != "normalize" and (name, key) != ("n_pairs", "temperature")
    }
    loss = kind(**given)
    config = loss.get_config()
    plain = {key: value.get_config() if key == "label_statistics" else value for key, value in given.items()}
    assert {**config, **plain} == config
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is kind and again.get_config() == config and again.dtype == "float64"
    if "normalize" in config:
        other = kind(normalize=not kind().normalize)
        assert kind.from_config(other.get_config()).normalize == other.normalize != kind().normalize
    if getattr(loss, "temperature", None) is not None:
        loss.temperature.assign(0.125)
        assert loss.get_config()["temperature"] == 0.125


def test_a_subclass_needs_no_init_and_may_take_keywords():
    @keras.saving.register_keras_serializable("test")
    class Mine(macl_tf.MACL):
        def __init__(self, sharper=1.0, **kwargs):
            super().__init__(**kwargs)
            self.sharper = sharper

        def get_config(self):
            return {**super().get_config(), "sharper": self.sharper}

    @keras.saving.register_keras_serializable("test")
    class Named(macl_tf.MACL):
        arguments = ("sharper",)

        def __init__(self, sharper=1.0, **kwargs):
            super().__init__(**kwargs)
            self.sharper = sharper

    @keras.saving.register_keras_serializable("test")
    class Bare(macl_tf.MACL):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)

    sharp = {"sharper": 2.0, "rarity_scale": 0.1, "name": "sharp"}
    for loss in (Mine(**sharp), Named(**sharp), Bare(rarity_scale=0.1)):
        again = keras.losses.deserialize(keras.losses.serialize(loss))
        assert type(again) is type(loss) and again.get_config() == loss.get_config()
        assert getattr(again, "sharper", 2.0) == 2.0 and again.name == ("macl" if type(loss) is Bare else "sharp")
        assert again.rarity_scale == 0.1
        assert float(again(*drawn())) == float(macl_tf.MACL(rarity_scale=0.1)(*drawn()))


@pytest.mark.parametrize("name", NORMAL)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@eagerly()
def test_the_length_of_an_embedding_changes_nothing(name, dtype):
    y, z = drawn(dtype=dtype)
    y = y.astype("float32")
    loss = keras.losses.get(name)
    value, gradient = value_and_gradient(loss, y, z)
    for scale in (3, 10):
        scaled = (z.astype("float64") * scale).astype(dtype)
        other = value_and_gradient(loss, y, scaled)
        rtol = 1e-5 if dtype == "float32" else 1e-2
        np.testing.assert_allclose(other[0], value, rtol=rtol)
        if dtype == "float32":  # a longer row turns less
            np.testing.assert_allclose(other[1] * scale, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())
    radial = np.sum(gradient * z, axis=1)
    np.testing.assert_allclose(radial, 0, atol=(1e-5 if dtype == "float32" else 1e-2) * np.abs(gradient).max())
    long = z.astype("float32") * np.float32(1e20)  # squares beyond float32
    assert np.isnan(float(loss(y, long)))


def test_who_is_of_cosines_normalises():
    raw = {"n_pairs", "triplet_semi_hard", "triplet_hard", "margin_contrastive", "lifted_structure", "proxy_anchor"}
    assert set(OWN) - set(NORMAL) == raw
    for name in raw - {"proxy_anchor"}:
        y, z = drawn()
        loss = BY_NAME[name].load()(normalize=True)
        assert float(loss(y, 3 * z)) == pytest.approx(float(loss(y, z)), rel=1e-5)
        assert float(BY_NAME[name].load()()(y, 3 * z)) != pytest.approx(float(loss(y, z)), rel=1e-2)


@pytest.mark.slow
def test_a_head_without_a_norm_trains():
    y = drawn()[0]
    x = np.random.default_rng(2).random((24, 6)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(8)])
    model.compile(keras.optimizers.Adam(0.05), loss="macl")
    before = macl_tf.evaluate(model.predict(x, verbose=0), y)["map_any"]
    history = model.fit(x, y, batch_size=24, epochs=80, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    assert macl_tf.evaluate(model.predict(x, verbose=0), y)["map_any"] > before + 0.05


WRONG = {
    "0.9": lambda y: np.where(y > 0, np.float32(0.9), y),
    "2": lambda y: 2 * y,
    "nan": lambda y: np.where(y > 0, np.float32("nan"), y),
    "-1": lambda y: -y,
}


SENTENCE = r"labels must hold only 0 and 1, got -1(\.0)? in row 2, column 1\. Class indices must be turned into"


@every_loss
@eagerly()
def test_wrong_labels_are_said(name):
    y, z = batch(name)
    loss = keras.losses.get(name)
    wrong = y.copy()
    wrong[2, 1] = -1
    with pytest.raises(ValueError, match=SENTENCE):
        loss(wrong, z)
    with pytest.raises(ValueError, match=r"labels must be multi-hot .* got \(24,\) and \(24, \d\)"):
        loss(y[:, 0], z)
    with pytest.raises(ValueError, match=r"labels must be multi-hot .* got \(23, 7\) and \(24, \d\)"):
        loss(y[1:], z)
    broken = z.copy()
    broken[5, 2] = np.nan
    assert np.isnan(float(loss(y, broken)))


@pytest.mark.parametrize("name", ["supcon", "dcl", "proxy_anchor"])  # one of each base
def test_wrong_labels_are_said_in_graphs_and_are_nan_under_xla(name):
    y, z = batch(name)
    loss = keras.losses.get(name)
    y[2, 1] = -1
    with pytest.raises(tf.errors.InvalidArgumentError, match=SENTENCE):
        tf.function(loss)(tf.constant(y), tf.constant(z))
    if name != "dcl":  # which takes XLA longest
        assert np.isnan(tf.function(loss, jit_compile=True)(tf.constant(y), tf.constant(z)).numpy())


def test_a_compiled_fit_stops_at_wrong_labels_and_goes_on_with_right_ones():
    y = drawn()[0]
    x = np.random.default_rng(2).random((24, 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    model.compile("adam", loss="macl", jit_compile=False)
    for value, spoilt in WRONG.items():
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=rf"labels must hold only 0 and 1, got {value} in row 0, column"
        ):
            model.fit(x, spoilt(y), shuffle=False, verbose=0)
        assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])
    with pytest.raises(ValueError, match="Class indices must be turned into multi-hot rows first"):
        model.fit(x, y.argmax(axis=1), verbose=0)


def test_top_level_names():
    assert macl_tf.__version__ == "0.1.0"
    assert macl_tf.datasets.load_archive
    assert {"MACL", "losses", "datasets", "metrics", "__version__"} <= set(dir(macl_tf)) == set(macl_tf.__all__)
    assert {"MACL", "PairwiseLoss", "Target"} <= set(dir(macl_tf.losses))


def test_the_documents_own_loss_is_one_of_the_family():
    text = (ROOT / "docs" / "own_loss.md").read_text(encoding="utf-8")
    define, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in define.splitlines() if line]) <= 12
    names = {}
    exec(define + use, names)
    kind = names["DiceSupCon"]
    y, z = drawn(rows=12)
    expected, unit = [], z / np.linalg.norm(z, axis=1, keepdims=True)
    for i in range(12):
        others = [j for j in range(12) if j != i]
        weights = np.array([2 * (y[i] @ y[j]) / max(y[i].sum() + y[j].sum(), 1) for j in others])
        logits = np.array([unit[i] @ unit[j] for j in others]) / 0.2
        if weights.sum():
            expected.append(-(weights / weights.sum()) @ (logits - np.log(np.exp(logits).sum())))
    for size in (0, 5):
        assert float(kind(temperature=0.2, tile_size=size)(y, z)) == pytest.approx(np.mean(expected), rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(kind(temperature=0.2)))
    assert type(again) is kind and float(again.temperature) == pytest.approx(0.2)
    assert_same(over_replicas(kind(), y, z, [5, 7]), value_and_gradient(kind(), y, z))
