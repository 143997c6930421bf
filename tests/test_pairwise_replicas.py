import pytest

from tests.pairwise_cases import KERNEL

pytestmark = pytest.mark.slow

SETUP = """
import sys, numpy as np, tensorflow as tf
count, cases = int(sys.argv[1]), eval(sys.argv[2])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * count)
import keras, macl_tf

strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
assert strategy.num_replicas_in_sync == count
"""

# Value and gradient of embeddings that lie on the replicas, against one device.
STEPS = (
    SETUP
    + """
def step(loss, y, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(y, z)
    return value, tape.gradient(value, z)

sizes = [5, 1, 16]
rng = np.random.default_rng(0)
z = rng.normal(size=(22, 5))
z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype("float32")
y = (rng.random((22, 5)) < 0.35).astype("float32")
y[: sizes[0]] = 0  # the first replica holds no positive at all

def of_replica(array):
    parts = np.split(array, np.cumsum(sizes)[:-1])
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group]))

for name, settings in cases:
    make = lambda tile_size: getattr(macl_tf.losses, name)(tile_size=tile_size, **settings)
    value, gradient = (part.numpy() for part in step(make(0), tf.constant(y), tf.constant(z)))
    assert value > 0.1 and np.abs(gradient).max() > 1e-3
    for tile_size in (0, 3):
        loss = make(tile_size)
        run = tf.function(lambda y, z: strategy.run(step, (loss, y, z)), autograph=False)
        values, gradients = (strategy.experimental_local_results(part) for part in run(of_replica(y), of_replica(z)))
        case = str((name, settings, tile_size))
        np.testing.assert_allclose(sum(map(float, values)), value, rtol=1e-5, err_msg=case)
        np.testing.assert_allclose(
            np.concatenate(gradients), gradient, rtol=1e-5, atol=1e-5 * np.abs(gradient).max(), err_msg=case)
        print("same")
"""
)

# What training makes of it: loss and change of weights after an epoch of `fit`.
FITS = (
    SETUP
    + """
def model(stats, settings):
    keras.utils.set_random_seed(1)
    m = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.UnitNormalization()])
    m.compile(keras.optimizers.SGD(1.0), loss=macl_tf.MACL(stats, **settings), jit_compile=False)
    return m

def epoch(m, x, y, size):
    before = m.get_weights()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(size)
    loss = m.fit(data, epochs=1, verbose=0, shuffle=False).history["loss"][0]
    return loss, np.concatenate([(b - a).ravel() for a, b in zip(m.get_weights(), before)])

for settings, known, rows, size in cases:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype("float32")
    y = (rng.random((rows, 5)) < 0.35).astype("float32")
    y[: size // 2] = 0          # the first replica holds no positive at all
    stats = macl_tf.LabelStatistics.from_labels(rng.random((90, 5)) < [.5, .4, .3, .2, .05]) if known else None
    single = epoch(model(stats, settings), x, y, size)
    with strategy.scope():
        several = epoch(model(stats, settings), x, y, size)
    if rows % size == 0:  # Keras's own mean over batches does not know that the last one is smaller
        np.testing.assert_allclose(several[0], single[0], rtol=1e-5)
    np.testing.assert_allclose(several[1], single[1], rtol=1e-5, atol=1e-5 * np.abs(single[1]).max())
    assert np.abs(single[1]).max() > 1e-3
    print("same")
"""
)


def test_every_loss_is_that_of_the_whole_batch_in_both_forms(run_python):
    """Traps 2, 4, 5 and 6 of tf.distribute; replicas hold different numbers of rows."""
    result = run_python(STEPS, 3, KERNEL, timeout=600, warm=True)
    assert result.stdout.count("same") == 2 * len(KERNEL)


def test_fit_takes_the_steps_of_one_device(run_python):
    """Traps 2 to 6 with the optimizer's own collectives, an uneven last batch among them."""
    cases = [({"weighted": True, "tile_size": 3}, True, 31, 16), ({}, False, 40, 20)]
    assert run_python(FITS, 2, cases, timeout=600, warm=True).stdout.count("same") == len(cases)
