"""The pairwise family on JAX and torch, against the same oracles. Imports no Keras: the backend is the process's."""

import importlib.util
import json

import numpy as np
import pytest

from tests.pairwise_cases import SETTINGS, expected

SCRIPT = """
import json, sys
import numpy as np
import keras
from macl_tf import LabelStatistics, losses

cases, rows = eval(sys.argv[1])
rng = np.random.default_rng(0)
y = (rng.random((rows, 7)) < 0.4).astype("float32")
y[3] = 0
z = rng.normal(size=(rows, 6))
z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype("float32")

def value_and_gradient(loss):
    if keras.config.backend() == "jax":
        import jax
        value, gradient = jax.value_and_grad(lambda z: loss(y, z))(z)
        jitted = jax.jit(lambda y, z: loss(y, z))
        np.testing.assert_allclose(jitted(y, z), value, rtol=1e-5)
        assert np.isnan(jitted(y - 2, z))  # a compiled step cannot raise
        return float(value), np.asarray(gradient)
    import torch
    z_ = torch.tensor(z, requires_grad=True)
    value = loss(y, z_)
    value.backward()
    return value.item(), z_.grad.numpy()

for name, settings in cases:
    loss = getattr(losses, name)(**settings)
    value, gradient = value_and_gradient(loss)
    try:
        loss(y - 2, z)
    except ValueError as error:
        refused = str(error)
    print(json.dumps({"value": value, "gradient": gradient.tolist(), "refused": refused}))

stats = LabelStatistics.from_labels(rng.random((90, 7)) < 0.3)
empty = losses.MACL(stats)(np.zeros((4, 7), "float32"), z[:4])
print(json.dumps({"y": y.tolist(), "z": z.tolist(), "empty": float(empty), "backend": keras.config.backend()}))
"""
ROWS = 12


@pytest.mark.peers
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_value_and_gradient_are_the_oracles(run_python, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}: .ci/run has a step with it")
    output = run_python(SCRIPT, (SETTINGS, ROWS), timeout=600, KERAS_BACKEND=backend).stdout
    *results, last = [json.loads(line) for line in output.splitlines()]
    assert (last["backend"], last["empty"], len(results)) == (backend, 0, len(SETTINGS))
    y, z = np.array(last["y"]), np.array(last["z"])
    direction = np.random.default_rng(1).normal(size=z.shape)
    for (name, settings), result in zip(SETTINGS, results, strict=True):
        np.testing.assert_allclose(result["value"], expected(name, y, z, settings), rtol=1e-5, err_msg=name)
        up, down = (expected(name, y, z + step * direction, settings) for step in (1e-6, -1e-6))
        gradient = np.array(result["gradient"])
        # Along one direction; float32 on one side, so relative to the length of the gradient.
        slope, length = (gradient * direction).sum(), np.linalg.norm(gradient) * np.linalg.norm(direction)
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=0, atol=1e-5 * length, err_msg=name)
        assert "labels must hold only 0 and 1" in result["refused"]
