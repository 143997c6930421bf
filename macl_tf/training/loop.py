"""The training loop: the same one on a device, on all devices of a machine, and on several machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from macl_tf.pipeline.pipeline import TrainingData
from macl_tf.training import build
from macl_tf.training.callbacks import TemperatureSchedule
from macl_tf.training.settings import Settings


def fit(
    model: keras.Model,
    data: TrainingData,
    settings: Settings,
    callbacks: Sequence[Any] = (),
    *,
    initial_epoch: int = 0,
    verbose: int = 0,
) -> keras.callbacks.History:
    """Fits a compiled model to the batches of a run, its temperature as the settings say.

    In place of Keras's `fit`, which fails under `MultiWorkerMirroredStrategy` (keras-team/keras#20585): it reduces data
    and logs over the replicas as no such strategy can. The model's strategy is the one that it was built in; `data` are
    the parts of each batch that its replicas on this machine see. After an epoch all replicas have the mean of what
    each kept for itself, the moving averages of batch normalisation.
    """
    strategy = model.distribute_strategy
    dataset = data.dataset.map(lambda inputs, labels: (inputs, build.targets(labels, settings)))
    batches = iter(strategy.distribute_datasets_from_function(lambda context: dataset))
    if model.train_function is None:  # a model that is fitted again is not traced again; `compile` takes it away
        model.train_function = _step(model, strategy)
    average = _average(model, strategy)
    schedule = build.temperature_schedule(settings, settings.epochs * data.steps_per_epoch)
    told = keras.callbacks.CallbackList(
        [*([TemperatureSchedule(schedule)] if build.follows_schedule(settings) else []), *callbacks],
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=settings.epochs,
        steps=data.steps_per_epoch,
    )
    model.stop_training = False
    told.on_train_begin()
    logs: dict[str, Any] = {}
    for epoch in range(initial_epoch, settings.epochs):
        with strategy.scope():
            model.reset_metrics()
        told.on_epoch_begin(epoch)
        for step in range(data.steps_per_epoch):
            told.on_train_batch_begin(step)
            told.on_train_batch_end(step, model.train_function(batches))
        average()
        with strategy.scope():
            logs = dict(model.get_metrics_result())
        told.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    told.on_train_end(logs)
    return model.history


def _step(model: keras.Model, strategy: tf.distribute.Strategy) -> Callable[[Any], Any]:
    """From the iterator to the logs of the next step, as this machine's first replica has them."""

    @tf.function(jit_compile=model.jit_compile, reduce_retracing=True)
    def on_batch(batch: Any) -> Any:
        logs = strategy.run(model.train_step, (batch,))
        return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], logs)

    return tf.function(lambda batches: on_batch(next(batches)), reduce_retracing=True)


def _average(model: keras.Model, strategy: tf.distribute.Strategy) -> Callable[[], object]:
    """Gives all replicas the mean of the variables that no gradient keeps alike."""
    own = [variable for variable in model.non_trainable_variables if variable.dtype.startswith("float")]
    if strategy.num_replicas_in_sync == 1 or not own:
        return lambda: None

    def on_replica() -> None:
        values = [tf.identity(variable.value) for variable in own]
        means = tf.distribute.get_replica_context().all_reduce("mean", values)
        for variable, mean in zip(own, means, strict=True):
            variable.assign(mean)

    return tf.function(lambda: strategy.run(on_replica))
