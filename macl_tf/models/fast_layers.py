"""Two layers of Keras that train faster on TensorFlow, with the same weights, values and names.

Outside of training they are the layers of Keras, and so is batch normalisation on other backends. `fast` puts them into
any functional model; `plain` takes them out again, for a file that loads without this package.
"""

from __future__ import annotations

from typing import Any

import keras

Tensor = Any

_DENSE_POSITIONS = 4  # of a map: a 3x3 convolution of 2x2 positions wastes five of nine products on its border


@keras.saving.register_keras_serializable("macl_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation as one kernel forward and one backward, where Keras takes a dozen.

    That kernel normalises by the biased variance of the batch, as Keras does, and this layer keeps the moving average
    of that one too. Feature maps (B, h, w, F) of half precision are summed in float32 without a copy in float32.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """As in Keras."""
        fused = training and self.trainable and mask is None and len(inputs.shape) == 4
        on_tensorflow = keras.config.backend() == "tensorflow"
        if not (fused and on_tensorflow and self.axis in (-1, 3) and self.scale and self.center and not self.renorm):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        empty = tf.zeros([0], gamma.dtype)
        result = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=gamma, offset=beta, mean=empty, variance=empty, epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], gamma.dtype)
        biased = result.batch_variance * (count - 1) / count
        for moving, value in ((self.moving_mean, result.batch_mean), (self.moving_variance, biased)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return result.y


@keras.saving.register_keras_serializable("macl_tf")
class Conv2D(keras.layers.Conv2D):
    """Convolution that takes a map of a few positions as one dense product.

    A "same" convolution of 3x3 with stride 1 on a map of h x w positions is a linear map of its h w F inputs, whose
    matrix holds each weight wherever it applies. On 2x2 positions that is 16 blocks of F x F', where the convolution
    multiplies 36, most of them with the zeros around the map, and a plain matrix product is the fastest thing that a
    processor does. The values are those of the convolution but for rounding.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """As in Keras."""
        height, width = inputs.shape[1:3]
        same = self.padding == "same" and not self.use_bias and self.groups == 1 and self.data_format == "channels_last"
        unit = self.kernel_size == (3, 3) and self.strides == (1, 1) and self.dilation_rate == (1, 1)
        small = height is not None and width is not None and height * width <= _DENSE_POSITIONS
        if not (training and small and same and unit and self.activation is keras.activations.linear):
            return super().call(inputs)
        ops, kernel = keras.ops, self.kernel
        # All at once: of each kernel[y, x] the gradient would be as large as the kernel.
        weights = ops.unstack(ops.reshape(kernel, (9, *kernel.shape[2:])))
        nothing = ops.zeros_like(weights[0])
        places = [(y, x) for y in range(height) for x in range(width)]

        def block(source: tuple[int, int], target: tuple[int, int]) -> Tensor:
            y, x = source[0] - target[0] + 1, source[1] - target[1] + 1
            return weights[3 * y + x] if 0 <= y < 3 and 0 <= x < 3 else nothing

        rows = [ops.concatenate([block(source, target) for target in places], axis=1) for source in places]
        product = ops.matmul(ops.reshape(inputs, (-1, len(places) * inputs.shape[-1])), ops.concatenate(rows))
        return ops.reshape(product, (-1, height, width, self.filters))


_Kinds = dict[type[keras.layers.Layer], type[keras.layers.Layer]]
_FAST: _Kinds = {keras.layers.BatchNormalization: BatchNormalization, keras.layers.Conv2D: Conv2D}
_PLAIN = {fast: plain for plain, fast in _FAST.items()}


def fast(model: keras.Model) -> keras.Model:
    """A copy of a functional model, with those nested in it, that has this module's layers in place of Keras's."""
    return _with_layers(model, _FAST)


def plain(model: keras.Model) -> keras.Model:
    """The reverse of `fast`."""
    return _with_layers(model, _PLAIN)


def _with_layers(model: keras.Model, kinds: _Kinds) -> keras.Model:
    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return kinds.get(type(layer), type(layer)).from_config(layer.get_config())

    copied = keras.models.clone_model(model, clone_function=copy, recursive=True)
    copied.set_weights(model.get_weights())
    return copied
