"""Batches larger than the encoder's memory, with the exact gradient of the whole batch's loss.

A step embeds the batch by microbatches and forgets everything but the embeddings, takes the gradient of the loss with
respect to them, and embeds each microbatch a second time to carry its part of that gradient back to the weights. The
memory is that of one microbatch; the time is one more forward pass.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("macl_tf")
class CachedGradients(keras.Model):
    """The same layers as a model, trained by `fit` with cached gradients.

    The gradient equals that of the whole batch exactly (to rounding) where rows do not depend on each other. Batch
    normalisation does: it takes its statistics from each microbatch, as with as many devices, and its moving averages
    see every microbatch once. Random layers draw the same values in both passes. Under `MirroredStrategy` each replica
    goes through its own rows by microbatches, and the loss is that of the global batch.

    Args:
        model: A functional model, of any inputs and outputs. Layers and weights are shared: train this, save either.
        microbatch: Rows that the encoder sees at a time, >= 1. It must divide the rows of a batch on each replica.

    Raises:
        ValueError: If `microbatch` < 1, or, when training, it does not divide the batch.

    Example:
        >>> import numpy as np, macl_tf
        >>> pixels = keras.Input((4,))
        >>> encoder = keras.Model(pixels, keras.layers.UnitNormalization()(keras.layers.Dense(3)(pixels)))
        >>> trainer = CachedGradients(encoder, microbatch=2)
        >>> trainer.compile("adam", loss=macl_tf.MACL())
        >>> history = trainer.fit(np.random.rand(8, 4), np.eye(8, 2) + np.eye(8, 2, -2), batch_size=8, verbose=0)
        >>> trainer.layers[1] is encoder.layers[1]
        True

    Reference:
        Gao, Zhang, Han, Callan, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021.
    """

    def __init__(self, model: keras.Model, microbatch: int) -> None:
        if microbatch < 1:
            raise ValueError(f"microbatch must be >= 1, got {microbatch}.")
        whole = model.inputs[0], model.outputs[0]  # of a Sequential, which has one of each
        inputs, outputs = whole if isinstance(model, keras.Sequential) else (model.input, model.output)
        super().__init__(inputs, outputs, name=model.name)
        self.microbatch = int(microbatch)

    def get_config(self) -> dict[str, Any]:
        """So that a saved trainer loads as one."""
        model = keras.Model(self.input, self.output, name=self.name)
        return {"model": keras.saving.serialize_keras_object(model), "microbatch": self.microbatch}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> CachedGradients:
        """The trainer that `get_config` described."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(model, config["microbatch"])

    def train_step(self, data: Any) -> dict[str, Any]:
        """One optimizer step on a batch of any multiple of `microbatch` rows."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        first = tf.nest.flatten(x)[0]
        rows, known = tf.shape(first)[0], first.shape[0]
        if known is not None and known % self.microbatch:
            raise ValueError(
                f"microbatch must divide the rows of a batch on each replica, got {self.microbatch} and {known}."
            )
        check = tf.debugging.assert_equal(rows % self.microbatch, 0, "microbatch must divide the rows of a batch.")
        with tf.control_dependencies([check] if check is not None else []):
            count = rows // self.microbatch
        trainable = [variable.value for variable in self.trainable_variables]
        state = [tf.convert_to_tensor(variable.value) for variable in self.non_trainable_variables]

        embeddings = self._embed(x, count, trainable, state)
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss = self.compute_loss(x, y, embeddings, sample_weight, training=True)
            scaled = loss if self.optimizer is None else self.optimizer.scale_loss(loss)
        cached = tape.gradient(scaled, embeddings, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients, state = self._carry_back(x, cached, count, trainable, state)

        for variable, value in zip(self.non_trainable_variables, state, strict=True):
            variable.assign(value)
        # The loss as it is on one device: Keras divides by the replicas, whose gradients are then summed.
        whole_loss = loss * tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_tracker.update_state(whole_loss, sample_weight=rows)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(x, y, embeddings, sample_weight=sample_weight)

    def _part(self, rows: Any, part: Any) -> Any:
        """The rows of one microbatch, of every array."""
        return tf.nest.map_structure(lambda array: array[part * self.microbatch : (part + 1) * self.microbatch], rows)

    def _forward(self, x: Any, part: Any, trainable: list[Any], state: list[Any]) -> tuple[Any, list[Any]]:
        """Outputs of one microbatch, and what it makes of moving averages and random states."""
        outputs, after = self.stateless_call(trainable, state, self._part(x, part), training=True)
        return outputs, list(after)

    def _embed(self, x: Any, count: Any, trainable: list[Any], state: list[Any]) -> Any:
        """All outputs, keeping nothing else."""

        def step(part: Any, written: list[Any], now: list[Any]) -> tuple[Any, list[Any], list[Any]]:
            outputs, after = self._forward(x, part, trainable, now)
            found = zip(written, tf.nest.flatten(outputs), strict=True)
            return part + 1, [array.write(part, output) for array, output in found], after

        empty = [
            tf.TensorArray(output.dtype, size=count, element_shape=(self.microbatch, *output.shape[1:]))
            for output in self.outputs
        ]
        _, written, _ = tf.while_loop(lambda part, *_: part < count, step, (0, empty, state), parallel_iterations=1)
        whole = [tf.stop_gradient(array.concat()) for array in written]
        return tf.nest.pack_sequence_as(self._outputs_struct, whole)

    def _carry_back(
        self, x: Any, cached: Any, count: Any, trainable: list[Any], state: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Gradients of all weights, and the state after the batch."""

        def step(part: Any, sums: list[Any], now: list[Any]) -> tuple[Any, list[Any], list[Any]]:
            with tf.GradientTape() as tape:
                outputs, after = self._forward(x, part, trainable, now)
            upstream = self._part(cached, part)
            found = tape.gradient(outputs, trainable, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return part + 1, [a + b for a, b in zip(sums, found, strict=True)], after

        zeros = [tf.zeros_like(variable) for variable in trainable]
        _, gradients, state = tf.while_loop(
            lambda part, *_: part < count, step, (0, zeros, state), parallel_iterations=1
        )
        return gradients, state
