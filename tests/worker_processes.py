"""Workers of one machine: forks of a process that has loaded TensorFlow but used nothing of it."""

import dataclasses
import os
import socket
import sys
import traceback

import keras
import numpy as np

LABELS, SIZE, ROWS = 5, 6, 24


def on_workers(count, function, *arguments):
    """Calls function(cluster, *arguments) in as many processes at once; prints their exit codes, -9 of a killed one."""
    from macl_tf.training.workers import cluster_of

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = ",".join(f"127.0.0.1:{own.getsockname()[1]}" for own in sockets)
    for own in sockets:
        own.close()
    children = []
    for index in range(count):
        child = os.fork()
        if not child:
            code = 1
            try:
                function(cluster_of(addresses, index, wait=120), *arguments)
                code = 0
            except Exception as error:
                print(f"worker {index}: {type(error).__name__}: {error}", flush=True)
                if not isinstance(error, ConnectionError):
                    traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    print("codes", [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)


def batch(rows=ROWS):
    """Rows that share labels, the first half without any."""
    rng = np.random.default_rng(0)
    y = (rng.random((rows, LABELS)) < 0.4).astype("float32")
    y[: rows // 3] = 0
    z = rng.normal(size=(rows, LABELS))
    return y, (z / np.linalg.norm(z, axis=1, keepdims=True)).astype("float32")


def losses_agree(cluster, folder):
    """Value and gradient of every loss over the workers' rows, and steps of the loop, against one process."""
    import tensorflow as tf

    from macl_tf.labels import LabelStatistics
    from macl_tf.losses import registry
    from macl_tf.training.workers import Workers, meet

    meet(cluster, {}, [], folder)
    workers = Workers(cluster)
    assert workers.replicas == workers.count == len(cluster.addresses)
    y, z = batch()
    statistics = LabelStatistics.from_labels(np.concatenate([y] * 4))
    own = np.split(np.arange(ROWS), workers.count)[workers.index]

    def step(loss, y, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(y, z)
        return value, tf.convert_to_tensor(tape.gradient(value, z))

    def of_replica(array):
        return workers.strategy.experimental_distribute_values_from_function(lambda context: tf.constant(array[own]))

    for name in registry.LOSSES if workers.count == 2 else ("macl",):
        loss = registry.make(name, label_statistics=statistics, temperature=0.2)
        found = workers.strategy.run(step, (loss, of_replica(y), of_replica(z)))
        part, gradients = (workers.strategy.experimental_local_results(each)[0].numpy() for each in found)
        total, together = workers.gather(part.reshape(1, 1)).sum(), workers.gather(gradients)
        if workers.is_chief:
            value, gradient = (part.numpy() for part in step(loss, tf.constant(y), tf.constant(z)))
            assert value > 0.01 and np.abs(gradient).max() > 1e-3, name
            np.testing.assert_allclose(total, value, rtol=1e-5, err_msg=name)
            tolerance = {"rtol": 1e-5, "atol": 1e-5 * np.abs(gradient).max(), "err_msg": name}
            np.testing.assert_allclose(together, gradient, **tolerance)
            print("[loss]", flush=True)
    for settings in SETTINGS if workers.count == 2 else ():
        losses, moved = steps(workers, settings)
        workers.agree(steps=(losses, moved.tobytes()))
        if workers.is_chief:
            loss, change = steps(None, settings)
            np.testing.assert_allclose(losses, loss, rtol=1e-5)
            assert np.abs(change).max() > 1e-3
            np.testing.assert_allclose(moved, change, rtol=1e-4, atol=1e-5 * np.abs(change).max())
            print("[steps]", flush=True)
    try:
        workers.agree(colour="blue", archive=workers.index)
    except ValueError as error:
        print(error, flush=True)


# A plain model, and one by microbatches with two views, proxies and a classifier.
SETTINGS = (
    {"loss": "macl"},
    {"loss": "proxy-anchor", "classification_weight": 1.0, "views": 2, "microbatch": 8},
)


def steps(workers, chosen):
    """Losses of two epochs of plain gradient descent, and what they change in the weights."""
    import tensorflow as tf

    from macl_tf.labels import LabelStatistics
    from macl_tf.models.cached_gradients import CachedGradients
    from macl_tf.pipeline.features import FeatureViews, feature_dataset
    from macl_tf.pipeline.pipeline import WHOLE
    from macl_tf.pipeline.samplers import make_sampler
    from macl_tf.training import build
    from macl_tf.training.loop import fit
    from macl_tf.training.settings import Settings

    settings = Settings(backbone="resnet18", batch_size=16, epochs=2, **chosen)
    labels = (np.random.default_rng(1).random((40, LABELS)) < 0.4).astype(np.uint8)
    features = FeatureViews((np.random.default_rng(2).normal(size=(3, 40, SIZE)).astype("float32"),))
    sampler = make_sampler("weighted", labels, 16, seed=0)
    parts = workers.parts if workers else WHOLE
    data = feature_dataset(features, labels, sampler, seed=0, epochs=2, views=settings.views, parts=parts)
    keras.utils.set_random_seed(3)
    with (workers.strategy if workers else tf.distribute.get_strategy()).scope():
        given = keras.Input((SIZE,))
        hidden = keras.layers.Activation("linear", name="features")(keras.layers.Dense(6, activation="tanh")(given))
        unit = keras.layers.UnitNormalization(name="embedding")(keras.layers.Dense(4, name="projection_2")(hidden))
        model = keras.Model(given, unit, name="encoder")
        model = build.trained_model(model, dataclasses.replace(settings, microbatch=0), LABELS)
        model = CachedGradients(model, settings.microbatch) if settings.microbatch else model
        statistics = LabelStatistics.from_labels(labels)
        model.compile(keras.optimizers.SGD(0.1), **build.objective(settings, statistics))
    before = model.get_weights()
    loss = fit(model, data, settings).history["loss"]
    return loss, np.concatenate([(b - a).ravel() for a, b in zip(before, model.get_weights(), strict=True)])


def make_encoder(settings, bands=None):
    """Instead of `build.make_encoder`: without batch normalisation, which sees the rows of a replica alone."""
    pixels = keras.Input((settings.image_size, settings.image_size, 3))
    x = keras.layers.Conv2D(8, 5, strides=4, activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.Activation("linear", name="features")(keras.layers.GlobalAveragePooling2D()(x))
    x = keras.layers.Dense(settings.embedding_dim, name="projection_2")(x)
    return keras.Model(pixels, keras.layers.UnitNormalization(name="embedding")(x), name="encoder")


def whole_run(cluster, settings, run, killed):
    """`macl train` of one worker; the last one kills itself in the second epoch if it is to."""
    import signal

    from macl_tf.training import build
    from macl_tf.training.train import train
    from macl_tf.training.workers import ChiefsLogs

    build.make_encoder = make_encoder
    if killed and cluster.index == len(cluster.addresses) - 1:
        real = ChiefsLogs.on_epoch_end

        def dying(self, epoch, logs=None):
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, epoch, logs)

        ChiefsLogs.on_epoch_end = dying
    # Another worker's run directory is another path, where nothing is written.
    result = train(settings, f"{run}{cluster.index or ''}", progress=False, cluster=cluster)
    print("result", cluster.index, result["best_epoch"], result["trained"]["projection"]["map_any"], flush=True)
