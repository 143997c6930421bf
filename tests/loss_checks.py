"""What the tests of several losses share: drawn batches, value and gradient, finite differences, replicas."""

import contextlib

import numpy as np
import tensorflow as tf

from macl_tf.losses import Batch

RTOL = 1e-5


def drawn(rows=24, labels=7, width=8, density=0.3, seed=0, dtype="float32"):
    """Multi-hot labels, some rows without any, and unit-norm embeddings."""
    rng = np.random.default_rng(seed)
    y = (rng.random((rows, labels)) < density * np.linspace(1.8, 0.3, labels)).astype(dtype)
    z = rng.normal(size=(rows, width))
    return y, (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(dtype)


def one_label(rows=24, labels=5, seed=0, dtype="float32"):
    """One label per row; every label has a row or more."""
    classes = np.random.default_rng(seed).permutation(np.arange(rows) % labels)
    return np.eye(labels, dtype=dtype)[classes]


@contextlib.contextmanager
def eagerly():
    """Every `tf.function` runs as Python: where numbers are asked for, tracing each shape takes longest."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def value_and_gradient(loss, y, z):
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(y, z)
    return float(value), tf.convert_to_tensor(tape.gradient(value, z)).numpy()


def finite_difference(function, z, step=1e-6):
    """Central differences of a float64 function of z."""
    result = np.zeros(z.shape)
    for index in np.ndindex(*z.shape):
        shift = np.zeros(z.shape)
        shift[index] = step
        result[index] = (function(z + shift) - function(z - shift)) / (2 * step)
    return result


def assert_same(actual, expected, rtol=RTOL):
    """Values to `rtol`, gradients too, where entries far below the largest may differ by its rounding."""
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * np.abs(e).max() if np.ndim(e) else 0)


def largest_tensor(loss, rows, labels, width):
    """Most elements of any tensor in the traced value and gradient of a loss over `rows` rows."""

    def step(y, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(y, z)
        return value, tape.gradient(value, z)

    specs = [tf.TensorSpec((rows, labels)), tf.TensorSpec((rows, width))]
    graph = tf.function(step, autograph=False).get_concrete_function(*specs).graph
    outputs = [tensor.shape for operation in graph.get_operations() for tensor in operation.outputs]
    known = [shape.num_elements() for shape in outputs if shape.num_elements() is not None]
    assert len(known) > len(outputs) / 2
    return max(known)


def over_replicas(loss, y, z, sizes):
    """Value and gradient summed over replicas that hold `sizes` rows each of the gathered batch (y, z).

    What `tf.distribute` does with `BatchLoss`, without its collectives: every replica computes its own rows
    against all rows, gradients flow back through the gathered ones too, and the optimizer adds them up.
    """
    y, z = tf.constant(y), tf.constant(z)
    assert sum(sizes) == len(y)
    with tf.GradientTape() as tape:
        tape.watch(z)
        values, offset = [], 0
        unit = tf.math.l2_normalize(z, axis=1) if loss.normalize else z
        for size in sizes:
            own = slice(offset, offset + size)
            batch = Batch(y[own], unit[own], y, unit, tf.constant(offset))
            values.append(tf.reduce_sum(loss.rows(batch)))
            offset += size
        value = tf.add_n(values) / tf.cast(len(y), z.dtype)
    return float(value), tf.convert_to_tensor(tape.gradient(value, z)).numpy()


# The same on a strategy: value and gradient of losses (expressions) over uneven replicas and on one device.
REPLICAS = """
import sys, numpy as np, tensorflow as tf
count = int(sys.argv[1])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * count)
from macl_tf import losses
names = {name: getattr(losses, name) for name in losses.__all__}

def step(loss, y, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(y, z)
    return value, tf.convert_to_tensor(tape.gradient(value, z))

strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
assert strategy.num_replicas_in_sync == count
sizes = [4, 9, 7, 3][:count]
rng = np.random.default_rng(0)
z = rng.normal(size=(sum(sizes), 5))
z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype("float32")
y = (rng.random((sum(sizes), 5)) < 0.35).astype("float32")
y[: sizes[0]] = 0  # the first replica holds no positive at all

def of_replica(array):
    parts = np.split(array, np.cumsum(sizes)[:-1])
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group]))

for expression in eval(sys.argv[2]):
    loss = eval(expression, names)
    value, gradient = (part.numpy() for part in step(loss, tf.constant(y), tf.constant(z)))
    assert value > 0.01 and np.abs(gradient).max() > 1e-3
    run = tf.function(lambda y, z: strategy.run(step, (loss, y, z)), autograph=False)
    values, gradients = (strategy.experimental_local_results(part) for part in run(of_replica(y), of_replica(z)))
    np.testing.assert_allclose(sum(map(float, values)), value, rtol=1e-5, err_msg=expression)
    np.testing.assert_allclose(
        np.concatenate(gradients), gradient, rtol=1e-5, atol=1e-5 * np.abs(gradient).max(), err_msg=expression)
    print("same")
"""
