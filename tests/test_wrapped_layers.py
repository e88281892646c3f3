"""Layers around layers: steps of a sequence, cells of recurrent layers, normalized kernels."""

import keras
import numpy as np
import pytest
from cutting import (
    check_shrinks,
    cut_channels,
    largest_difference,
    random_inputs,
    randomize,
    to_numpy,
)
from keras import layers, ops, tree

import keras_hoyer as kh
from keras_hoyer.graph import channel_groups


@keras.saving.register_keras_serializable("tests")
class Block(keras.Layer):
    """A layer made of layers, whose config says one of its two widths."""

    def __init__(self, width, out, **kwargs):
        super().__init__(**kwargs)
        self.width, self.out = width, out
        self.wide = layers.Dense(width, "relu")
        self.narrow = layers.Dense(out)

    def build(self, input_shape):
        self.wide.build(input_shape)
        self.narrow.build((*input_shape[:-1], self.width))

    def call(self, inputs):
        return self.narrow(self.wide(inputs))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.out)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "out": self.out}


class NoConfig(Block):
    """The same without a word of its widths."""

    def __init__(self, **kwargs):
        super().__init__(8, 6, **kwargs)

    def get_config(self):
        return keras.Layer.get_config(self)


@keras.saving.register_keras_serializable("tests")
class Cell(keras.Layer):
    """A cell with kernels of its own and two states."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size = units, [units, units]
        self.kernel_regularizer = self.kernel_constraint = None
        self.recurrent_regularizer = self.recurrent_constraint = None

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent_kernel")

    def call(self, inputs, states):
        one, two = states
        out = ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(one, self.recurrent))
        return out + two, [out, 0.5 * two + out]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def images(channels=2):
    inputs = keras.Input((6, 6, channels))
    x = layers.Conv2D(6, 3, activation="relu", name="a")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(8, 3, use_bias=False, name="b")(x)
    x = layers.Dense(7, name="c")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="images")


def two_ways():
    """A model with a slice, whose borders follow its channels, and a layer that is called twice."""
    inputs = keras.Input((4,))
    x = layers.Dense(10, "relu")(inputs)
    left, right = ops.split(x, [4], axis=-1)
    dense = layers.Dense(5, "tanh")
    x = dense(layers.Dense(6)(left)) + dense(layers.Dense(6)(right)) + dense(x[:, 2:8])
    return keras.Model(inputs, x)


def steps(layer, shape):
    x = inputs = keras.Input(shape)
    x = layers.Dense(shape[-1], "relu")(x) if len(shape) == 2 else x
    x = layers.TimeDistributed(layer)(x)
    x = layers.GRU(5)(x) if len(x.shape) == 3 else layers.GlobalMaxPooling3D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def recurrent(*cells, around=lambda x: x, **kwargs):
    inputs = keras.Input((5, 4))
    x = layers.Dense(6, "relu")(inputs)
    x = around(layers.RNN(cells[0] if len(cells) == 1 else list(cells), **kwargs))(x)
    x = layers.Concatenate()(tree.flatten(x)) if kwargs.get("return_state") else x
    return keras.Model(inputs, layers.Dense(3)(x))


def normalized(layer, shape=(6, 6, 2)):
    inputs = keras.Input(shape)
    x = layers.SpectralNormalization(layer)(inputs)
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def pictures(rank, first=False, **kwargs):
    order = "channels_first" if first else "channels_last"
    inputs = keras.Input((4, 2, *[6] * rank) if first else (4, *[6] * rank, 2))
    layer = getattr(layers, f"ConvLSTM{rank}D")
    x = layer(6, 2, data_format=order, return_sequences=True, use_bias=False)(inputs)
    x = layer(5, 2, data_format=order, **kwargs)(x)
    x = layers.Concatenate(axis=1 if first else -1)(x) if isinstance(x, (list, tuple)) else x
    x = getattr(layers, f"GlobalAveragePooling{rank}D")(data_format=order)(x)
    return keras.Model(inputs, layers.Dense(3)(x))


NETS = {
    "steps of a model": lambda: steps(images(), (3, 6, 6, 2)),
    "steps of a Sequential": lambda: steps(
        keras.Sequential([layers.Conv2D(5, 3), layers.Flatten(), layers.Dense(6, "relu")]),
        (3, 6, 6, 2),
    ),
    "steps of a model with a split": lambda: steps(two_ways(), (5, 4)),
    "steps of a model of steps": lambda: keras.Sequential(
        [
            keras.Input((2, 3, 4)),
            layers.TimeDistributed(
                keras.Sequential([keras.Input((3, 4)), layers.TimeDistributed(two_ways())])
            ),
            layers.Dense(3),
        ]
    ),
    "steps of a convolution": lambda: steps(layers.Conv2D(5, 3, use_bias=False), (3, 6, 6, 2)),
    "an LSTM cell": lambda: recurrent(layers.LSTMCell(8)),
    "a GRU cell": lambda: recurrent(layers.GRUCell(8, reset_after=False), return_sequences=True),
    "a simple cell": lambda: recurrent(layers.SimpleRNNCell(8, use_bias=False), unroll=True),
    "stacked cells": lambda: recurrent(
        layers.LSTMCell(8), layers.GRUCell(6), layers.SimpleRNNCell(5), go_backwards=True
    ),
    "states of stacked cells": lambda: recurrent(
        layers.LSTMCell(8), layers.GRUCell(6), return_state=True
    ),
    "cells both ways": lambda: recurrent(layers.LSTMCell(6), around=layers.Bidirectional),
    "a normalized convolution": lambda: normalized(layers.Conv2D(6, 3, use_bias=False)),
    "a normalized transposed convolution": lambda: normalized(layers.Conv2DTranspose(6, 3)),
    "a normalized dense layer": lambda: normalized(layers.Dense(6, "relu")),
    "convolutions over time": lambda: pictures(1),
    "convolutions over time of images": lambda: pictures(2, padding="same", strides=2),
    "states of convolutions over time": lambda: pictures(2, return_state=True),
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_wrapped_shrinks(name, tmp_path):
    small = check_shrinks(NETS[name]())
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert largest_difference(small, loaded, random_inputs(small, batch=5)) <= 1e-6


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow convolves channels last on a CPU"
)
def test_convolutions_over_time_shrink_with_the_channels_first():
    check_shrinks(pictures(2, first=True))


@pytest.mark.parametrize("block", [Block(8, 6), NoConfig(), Block(8, 6, name="named")])
def test_a_layer_of_layers_is_opened_in_each_step(block):
    model = randomize(steps(block, (5, 4)))
    inline = steps(keras.Sequential([layers.Dense(8, "relu"), layers.Dense(6)]), (5, 4))
    sizes = sorted(group.channels for group in channel_groups(model))
    assert sizes == sorted(group.channels for group in channel_groups(inline))
    assert sum(kh.count_flops(model).values()) == sum(kh.count_flops(inline).values())
    cut_channels(model, 0.5)
    small = kh.shrink(model)
    assert small.count_params() < 0.7 * model.count_params()
    assert largest_difference(model, small, random_inputs(model, batch=7)) <= 1e-4
    inside = small.layers[2].layer
    assert isinstance(inside, keras.Model if isinstance(block, NoConfig) else Block)


@pytest.mark.parametrize(
    "cells", [(Cell(8),), (Cell(8), layers.LSTMCell(6)), (layers.GRUCell(6), Cell(8))]
)
def test_a_cell_of_ones_own_stays_one_with_fewer_units(cells):
    model = randomize(recurrent(*cells))
    cut_channels(model, 0.6)
    small = kh.shrink(model)
    assert small.count_params() < 0.7 * model.count_params()
    assert largest_difference(model, small, random_inputs(model, batch=7)) <= 1e-4
    kinds = [type(x) for x in small._flatten_layers()]
    assert kinds == [type(x) for x in model._flatten_layers()]
    assert max(x.units for x in small._flatten_layers() if isinstance(x, Cell)) < 8


def test_lengths_that_are_open_stay_open():
    inputs = keras.Input((None, 4))
    x = layers.TimeDistributed(two_ways())(inputs)
    x = layers.RNN([layers.LSTMCell(6), layers.GRUCell(5)], return_sequences=True)(x)
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    cut_channels(model, 0.5)
    small = kh.shrink(model)
    assert small.count_params() < 0.8 * model.count_params()
    for length in (1, 6, 11):
        assert largest_difference(model, small, random_inputs(model, size=length)) <= 1e-4


def test_states_that_are_given_live_with_the_units():
    inputs = keras.Input((5, 4))
    start = layers.Dense(6, "tanh", name="start")(inputs[:, 0])
    x = layers.RNN(layers.GRUCell(6))(inputs, initial_state=[start])
    model = keras.Model(inputs, layers.Dense(3)(x))
    [group] = channel_groups(model)
    assert "start" in group.name
    check_shrinks(model)


def test_a_wrapper_that_is_called_twice_shrinks():
    inputs = keras.Input((3, 4))
    layer = layers.TimeDistributed(two_ways())
    cells = layers.RNN(layers.LSTMCell(6))
    one, two = layer(inputs), layer(layers.Dense(4)(inputs))
    check_shrinks(keras.Model(inputs, layers.Dense(3)(cells(one) + cells(two))))


def test_a_model_that_is_used_alone_as_well_is_not_cut():
    inner = two_ways()
    inputs, one = keras.Input((3, 4)), keras.Input((4,))
    x = layers.LSTM(5)(layers.TimeDistributed(inner)(inputs)) + inner(one)
    model = randomize(keras.Model([inputs, one], layers.Dense(3)(x)))
    with pytest.warns(UserWarning, match="No cut can reach"):
        groups = channel_groups(model)
    held = {id(variable) for variable in inner.weights}
    assert not any(id(piece.variable) in held for group in groups for piece in group.producing)
    assert largest_difference(model, kh.shrink(model)) <= 1e-4


def test_multiply_adds_of_convolutions_over_time_are_those_of_their_kernels():
    model = keras.Sequential([keras.Input((4, 6, 7, 2)), layers.ConvLSTM2D(3, 2, name="x")])
    places = 5 * 6
    assert kh.count_flops(model) == {"x": 4 * places * 4 * (2 * 3 + 3 * 3) * 4}


def test_a_bias_is_added_within_a_wrapper():
    dense = layers.Dense(5, use_bias=False, name="second")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(8, "sigmoid", name="first"), dense])
    model = randomize(steps(inner, (3, 4)))
    first = inner.get_layer("first")
    kernel, bias = (np.array(to_numpy(w)) for w in first.weights)
    kernel[:, :3] = 0
    bias[:3] = [0.5, -1, 2]
    first.set_weights([kernel, bias])
    small = kh.shrink(model)
    [layer] = [x for x in small.layers if isinstance(x, layers.TimeDistributed)]
    assert [x.shape for x in layer.weights] == [(4, 5), (5,), (5, 5), (5,)]
    assert largest_difference(model, small) <= 1e-4


def test_masks_inside_wrappers_hold_and_reach_the_smaller_model():
    model = randomize(steps(images(), (3, 6, 6, 2)))
    kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel())
    small = kh.shrink(model)
    assert small.count_params() < 0.6 * model.count_params()
    kh.prune(model, kh.criteria.TargetSparsity(0.8))
    zeros = kh.report(model).sparsity
    small = kh.shrink(model)
    assert kh.report(small).sparsity > 0 < zeros
    small.compile("adam", "mse")
    before = [to_numpy(w) == 0 for w in small.weights if w.name == "kernel"]
    small.fit(random_inputs(small, batch=4), np.ones((4, 3)), verbose=0)
    after = [to_numpy(w) == 0 for w in small.weights if w.name == "kernel"]
    assert all((b <= a).all() for b, a in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["steps of a model", "stacked cells", "a normalized dense layer"])
def test_what_is_wrapped_and_loses_nothing_is_copied(name, tmp_path):
    model = randomize(NETS[name]())
    small = kh.shrink(model)
    assert largest_difference(model, small) == 0
    small.save(tmp_path / "small.keras")
    assert largest_difference(small, keras.models.load_model(tmp_path / "small.keras")) == 0
    held = {id(variable) for variable in model.weights}
    assert not any(id(variable) in held for variable in small.weights)


def test_states_that_are_given_stay_as_wide():
    x, state = keras.Input((5, 4)), keras.Input((6,))
    y = layers.RNN(layers.SimpleRNNCell(6))(layers.Dense(8)(x), initial_state=[state])
    model = randomize(keras.Model([x, state], layers.Dense(3)(y)))
    kh.prune(model, kh.criteria.TargetSparsity(0.4, scope="layer"), kh.patterns.Channel())
    small = kh.shrink(model)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=shape).astype("float32") for shape in ((2, 5, 4), (2, 6))]
    one, two = (keras.ops.convert_to_numpy(m(inputs)) for m in (model, small))
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(one, two, atol=1e-5 * np.abs(one).max())
