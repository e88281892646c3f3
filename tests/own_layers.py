"""Layers as users write them: with and without a rule, a config, weights, a seed."""

import keras
from keras import layers, ops

from keras_hoyer.graph import register_rule

register = keras.saving.register_keras_serializable("own_layers")


@register
class Gain(layers.Layer):
    """A factor and an offset for each channel; it has a rule."""

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="gain")
        self.offset = self.add_weight(shape=(input_shape[-1],), name="offset")

    def call(self, inputs):
        return inputs * self.gain + self.offset


@register
class Weighed(layers.Layer):
    """The same without an offset, and with arguments that its rule does not take."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="gain")

    def call(self, inputs, mask=None, training=None):
        outputs = inputs * self.gain
        if mask is not None:
            outputs = ops.where(ops.expand_dims(mask, -1), outputs, 0.0)
        return outputs


@register
class Gated(Gain):
    """The same with a second tensor, which its rule does not take."""

    def call(self, inputs, gate):
        return super().call(inputs) * ops.sigmoid(gate)

    def compute_output_shape(self, input_shape):
        return input_shape


@register_rule(Gain, Weighed, Gated)
def _gain_rule(graph, layer, inputs):
    channels = inputs.axes[-1]
    graph.weight(layer.gain, [channels])
    if hasattr(layer, "offset"):
        graph.weight(layer.offset, [channels])
    return inputs


@register
class Mixed(layers.Layer):
    """A dense layer that nobody knows."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.width), name="kernel")

    def call(self, inputs):
        return ops.tanh(ops.matmul(inputs, self.kernel))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Scaled(layers.Layer):
    """A layer without a config that works."""

    def __init__(self, factors, **kwargs):
        super().__init__(**kwargs)
        self.factors = factors

    def call(self, inputs):
        return ops.multiply(inputs, self.factors)

    def get_config(self):
        raise NotImplementedError


@register
class Cube(layers.Layer):
    """A function of each element, without weights and without a rule."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs**3

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@register
class Powered(layers.Layer):
    """A function of each element that has a number by name."""

    def call(self, inputs, *, power=2.0, training=None):
        return ops.abs(inputs) ** power


@register
class Both(layers.Layer):
    """A layer whose outputs are a list with a dict in it."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(width)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        outputs = self.dense(inputs)
        return [outputs, {"two": 2 * ops.relu(outputs)}]

    def get_config(self):
        return {**super().get_config(), "width": self.dense.units}


@register
class Centered(layers.Layer):
    """No function of each element, though it nearly is one where the mean is small."""

    def call(self, inputs):
        return inputs - 0.5 * ops.mean(inputs, axis=-1, keepdims=True)


@register
class Noisy(layers.Layer):
    """A layer with a seed, whose state is a variable that is no weight."""

    def __init__(self, seed, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        return inputs + keras.random.normal(ops.shape(inputs), seed=self.generator)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@register
class Block(layers.Layer):
    """A layer that is made of layers."""

    def __init__(self, width, hidden, **kwargs):
        super().__init__(**kwargs)
        self.width, self.hidden = width, hidden
        self.up, self.down = layers.Dense(hidden, "relu"), layers.Dense(width)

    def build(self, input_shape):
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], self.hidden))

    def call(self, inputs):
        return inputs + self.down(self.up(inputs))

    def get_config(self):
        return {**super().get_config(), "width": self.width, "hidden": self.hidden}


@register
class Stretched(layers.Layer):
    """A layer with an attribute that is set after it was made and is not in its config."""

    factor = 1.0

    def call(self, inputs):
        return inputs * self.factor
