"""Layers as people write them, once opened: right on other sizes, and loaded again from a file."""

import keras
import numpy as np
import pytest
from cutting import randomize
from keras import layers, ops

import keras_hoyer as kh

register = keras.saving.register_keras_serializable("opened_saving")


def unnamed(x):
    """A function that no name loads."""
    return x * ops.sigmoid(1.7 * x)


class Part(layers.Layer):
    """What the layers below share: a hidden width in their config."""

    def __init__(self, hidden=10, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        self.up, self.down = layers.Dense(self.hidden), layers.Dense(shape[-1])
        self.up.build(shape)
        self.down.build((*shape[:-1], self.hidden))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden}


class Silent(Part):
    """The same, with a config that does not say how wide it is: plain layers take its place."""

    def get_config(self):
        return layers.Layer.get_config(self)


@register
class TwoInputs(Silent):
    """Its arguments are not in the order of the alphabet."""

    def call(self, *, second, first):
        return self.down(ops.tanh(self.up(second))) - 2 * first

    def compute_output_shape(self, second_shape, first_shape):
        return first_shape

    def build(self, second_shape, first_shape):
        super().build(second_shape)


@register
class ForeseenWrongly(layers.Layer):
    """Keras is told of one step more than there is."""

    def call(self, x):
        return x[:, 1:]

    def compute_output_shape(self, shape):
        return shape


@register
class Activated(Silent):
    """A function in an `Activation`."""

    def build(self, shape):
        super().build(shape)
        self.activation = layers.Activation(unnamed)

    def call(self, x):
        return x + self.down(self.activation(self.up(x)))


@register
class ScaledFirst(Part):
    """A number of the layer's own, to the left of a tensor."""

    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x):
        return self.down(self.scale * ops.relu(self.up(x)))


@register
class OrDefault(Silent):
    """A length that is unknown is taken for the largest."""

    def call(self, x):
        steps = ops.shape(x)[1] or 50
        places = ops.reshape(ops.arange(steps, dtype="float32"), (1, steps, 1))
        return self.down(ops.relu(self.up(x + ops.cos(places))))


@register
class Besides(Part):
    """An array that depends on nothing beside what is computed, and nothing at all."""

    def call(self, x):
        return self.down(ops.relu(self.up(x))), ops.zeros((0, 3))

    def compute_output_shape(self, shape):
        return shape, (0, 3)


@register
class Stack(layers.Layer):
    """One number for two blocks, and no plain layers that could take their place."""

    def __init__(self, hidden=10, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        self.blocks = [Part(self.hidden), Part(self.hidden)]
        for block in self.blocks:
            block.build(shape)
        self.offset = self.add_weight(shape=shape[-1:], name="offset")

    def call(self, x):
        for block in self.blocks:
            x = x + block.down(ops.relu(block.up(x)))
        return x + self.offset

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden}


@register
class WantsTuples(Part):
    """Its `build` takes no lists, and its config holds a variable."""

    def __init__(self, hidden=10, rate=0.5, **kwargs):
        super().__init__(hidden, **kwargs)
        self.rate = rate

    def build(self, shape):
        self.up = layers.Dense(self.hidden)
        self.up.build(shape[:-1] + (shape[-1],))  # noqa: RUF005  (that is the point)
        self.down = layers.Dense(shape[-1])
        self.down.build(shape[:-1] + (self.hidden,))  # noqa: RUF005
        start = keras.initializers.Constant(self.rate)
        self.rate = self.add_weight(shape=(1,), initializer=start, name="rate")

    def call(self, x):
        return self.down(ops.relu(self.up(x))) * self.rate[0]

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def _alone(layer):
    inputs = keras.Input((None, 6))
    outputs = layer(layers.Dense(8)(inputs))
    return keras.Model(inputs, [layers.Dense(3)(y) for y in keras.tree.flatten(outputs)[:1]])


def _foreseen_wrongly():
    inputs = keras.Input((5, 6))
    x = Activated()(layers.Dense(8)(ForeseenWrongly()(inputs)))
    return keras.Model(inputs, layers.Dense(3)(x))


def _two_inputs():
    inputs = keras.Input((None, 6))
    one, two = layers.Dense(8)(inputs), layers.Dense(8)(inputs)
    return keras.Model(inputs, layers.Dense(3)(TwoInputs()(second=two, first=one)))


MODELS = {
    "inputs by name": _two_inputs,
    "wrong sizes": _foreseen_wrongly,
    "a function": lambda: _alone(Activated()),
    "a scalar first": lambda: _alone(ScaledFirst()),
    "a default size": lambda: _alone(OrDefault()),
    "an array beside": lambda: _alone(Besides()),
    "one number for two": lambda: _alone(Stack()),
    "tuples and variables": lambda: _alone(WantsTuples()),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_of_layers_shrinks_and_is_loaded_again(name, tmp_path):
    model = MODELS[name]()
    randomize(model)
    kh.prune(model, kh.criteria.TargetSparsity(0.5, scope="layer"), kh.patterns.Channel())
    small = kh.shrink(model)
    assert small.count_params() < 0.8 * model.count_params()
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    for steps in (5, 9) if model.input_shape[1] is None else (5,):
        x = np.random.default_rng(steps).normal(size=(2, steps, 6)).astype("float32")
        expected = keras.ops.convert_to_numpy(model(x))
        for other in (small, loaded):
            np.testing.assert_allclose(ops.convert_to_numpy(other(x)), expected, atol=1e-5)


@register
class FirstHalf(layers.Layer):
    """One half of its channels, without a weight that would tell how many it was given."""

    def call(self, x):
        return ops.split(x, 2, axis=-1)[0]


def test_half_of_the_channels_stays_the_half_that_it_was():
    inputs = keras.Input((6,))
    x = FirstHalf()(layers.Dense(8, use_bias=False, name="halved")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    randomize(model)
    kernel = model.get_layer("halved").kernel
    values = np.array(ops.convert_to_numpy(kernel))
    values[:, [1, 4, 5, 6]] = 0
    kernel.assign(values)
    small = kh.shrink(model)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(x)), ops.convert_to_numpy(model(x)), atol=1e-5
    )


@register
class TiedHead(Part):
    """Back to tokens, through the table of the embedding that it holds."""

    def __init__(self, embedding, hidden=10, **kwargs):
        super().__init__(hidden, **kwargs)
        self.embedding = embedding

    def call(self, x):
        x = x + self.down(ops.relu(self.up(x)))
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.embedding.input_dim)


@register
class Tagger(keras.Model):
    """A model whose class makes the table and the head that holds it."""

    def __init__(self, hidden=10, head=10, **kwargs):
        tokens = keras.Input((None,), dtype="int32")
        table = layers.Embedding(20, 8)
        x = layers.Dense(12, "relu")(layers.Dense(hidden, "relu")(table(tokens)))
        x = layers.Dense(8)(x)
        super().__init__(tokens, TiedHead(table, head)(x), **kwargs)
        self.hidden, self.head = hidden, head

    def get_config(self):
        return {"hidden": self.hidden, "head": self.head, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def test_a_model_with_a_head_that_holds_its_embedding_stays_of_its_class(tmp_path):
    """Any other model would be loaded with two tables in the place of one."""
    model = Tagger()
    randomize(model)
    kh.prune(model, kh.criteria.TargetSparsity(0.5, scope="layer"), kh.patterns.Channel())
    small = kh.shrink(model)
    assert isinstance(small, Tagger)
    assert small.hidden == 5
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    x = np.arange(12).reshape(2, 6)
    expected = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(x)), expected, rtol=1e-4, atol=1e-5)


def test_a_scale_to_the_left_of_a_tensor_is_followed_while_opening_only():
    variable = keras.Variable(np.ones(3, "float32"))
    before = type(variable).__mul__
    kh.graph.channel_groups(_alone(ScaledFirst()))
    assert type(variable).__mul__ is before


@register
class Strict(layers.Layer):
    """It takes nothing but its own argument, so that the config Keras gives it does not make it."""

    def __init__(self, width):
        super().__init__()
        self.norm = layers.LayerNormalization()
        self.norm.build((None, width))

    def call(self, x):
        return self.norm(x)


def test_a_layer_that_stays_is_loaded_though_its_config_does_not_make_it(tmp_path):
    inputs = keras.Input((4,))
    x = Strict(6)(layers.Dense(6)(inputs))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Dense(8, "relu")(x))))
    kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel())
    small = kh.shrink(model)
    assert small.count_params() < model.count_params()
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    x = np.random.default_rng(0).normal(size=(5, 4))
    one, two = (each.predict_on_batch(x) for each in (loaded, model))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
