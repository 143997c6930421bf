"""A saved model that holds something of ours loads in a new process after `import keras, macl_tf`, in either order."""

import ast
import importlib
import inspect
import json

import keras
import numpy as np
import pytest

import macl_tf
from macl_tf import losses
from macl_tf.models.cached_gradients import CachedGradients
from macl_tf.models.fast_layers import fast
from macl_tf.registration import MODULES
from tests.test_architecture import PACKAGE, modules

LABELS = np.eye(8, 3) + np.eye(8, 3, -3) + np.eye(8, 3, -5)
PIXELS = np.random.default_rng(0).random((8, 32, 32, 3)) * 255


def backbone(scaled):
    """What ResNet-18 is made of, once: both kinds of fast layers."""
    maps = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(scaled)
    return keras.layers.ReLU()(keras.layers.BatchNormalization()(maps))


def saved_models(folder):
    """One trained step each: a loss with statistics, proxies under cached gradients, two losses, fast layers."""
    statistics = macl_tf.LabelStatistics.from_labels(LABELS)
    encoder = fast(macl_tf.build_encoder(32, backbone=backbone, embedding_dim=4))
    proxies = keras.Model(encoder.inputs, losses.ProxyHead(3)(encoder.outputs[0]))
    models = {
        "macl": (encoder, macl_tf.MACL(statistics, temperature=0.2)),
        "proxies": (CachedGradients(proxies, 4), losses.ProxyAnchor()),
    }
    values = {}
    for name, (model, loss) in models.items():
        model.compile("adam", loss=loss)
        model.fit(PIXELS, LABELS, batch_size=8, verbose=0)
        model.save(folder / f"{name}.keras")
        values[name] = float(model.evaluate(PIXELS, LABELS, batch_size=8, verbose=0))
    return values


LOAD = """
import json, sys, numpy as np
IMPORTS
labels = np.eye(8, 3) + np.eye(8, 3, -3) + np.eye(8, 3, -5)
pixels = np.random.default_rng(0).random((8, 32, 32, 3)) * 255
for name in json.loads(sys.argv[2]):
    model = keras.saving.load_model(f"{sys.argv[1]}/{name}.keras")
    print(name, type(model).__name__, float(model.evaluate(pixels, labels, batch_size=8, verbose=0)))
    model.fit(pixels, labels, batch_size=8, verbose=0)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder, saved_models(folder)


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import keras, macl_tf", "from macl_tf import MACL; import keras"])
def test_a_compiled_model_loads_in_a_new_process(saved, imports, run_python):
    folder, expected = saved
    lines = run_python(LOAD.replace("IMPORTS", imports), folder, json.dumps(list(expected))).stdout.splitlines()
    found = {name: (kind, float(value)) for name, kind, value in map(str.split, lines)}
    assert {name: kind for name, (kind, _) in found.items()} == {"macl": "Functional", "proxies": "CachedGradients"}
    for name, value in expected.items():
        assert found[name][1] == pytest.approx(value, rel=1e-4)


def test_everything_that_a_model_may_hold_is_registered():
    """Also what is written later: every subclass of a Keras layer, loss, metric or model, wherever it stands."""
    kinds = (keras.layers.Layer, keras.losses.Loss, keras.metrics.Metric, keras.regularizers.Regularizer,
             keras.initializers.Initializer, keras.constraints.Constraint, keras.optimizers.Optimizer,
             keras.optimizers.schedules.LearningRateSchedule)  # fmt: skip
    classes = []
    for _, path in modules():
        text = path.read_text(encoding="utf-8")
        if "keras" in text and any(isinstance(node, ast.ClassDef) for node in ast.parse(text).body):
            name = ".".join(("macl_tf", *path.relative_to(PACKAGE).with_suffix("").parts))
            found = filter(inspect.isclass, vars(importlib.import_module(name)).values())
            classes += [value for value in found if issubclass(value, kinds) and value.__module__ == name]
    # After the last import: an abstract class has its registered subclasses in modules that may come late.
    registered = set(keras.saving.get_custom_objects().values())
    for value in classes:
        abstract = any(other is not value and issubclass(other, value) for other in registered)
        assert value in registered or abstract, f"{value} is not registered"
        home = next((name for name in MODULES if value.__module__.startswith(name)), None)
        assert home is not None, f"{value.__module__} must stand in macl_tf/registration.py"
    seen = [value.__name__ for value in classes]
    assert {"MACL", "ProxyHead", "CachedGradients"} <= set(seen)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["proxy", "targets"])  # with a class, and without
def test_a_module_of_losses_may_be_what_is_imported_first(module, run_python):
    """Keras comes with it, and with Keras all losses, those among them that import this module."""
    script = f"""
import importlib, sys
first = importlib.import_module("macl_tf.losses.{module}")
assert first is sys.modules["macl_tf.losses.{module}"] and first.__spec__.origin.endswith("{module}.py")
import keras
from macl_tf import losses
assert {{losses.TripletHard, losses.MACL}} <= set(keras.saving.get_custom_objects().values())
"""
    run_python(script, warm=True)  # with Keras, but nothing of ours
