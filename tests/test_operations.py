"""Operations of `keras.ops` that move, pick, sort or reduce, and kernels that own layers multiply.

Each net is cut, made smaller, and compared with the masked one; each own layer also with the layer
of Keras that does the same.
"""

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
from keras import layers, ops

import keras_hoyer as kh
from keras_hoyer.graph import channel_groups


def of_images(function):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(2)(function(x)))


def of_sequences(function):
    inputs = keras.Input((6, 3))
    return keras.Model(inputs, layers.Dense(2)(function(layers.Dense(8, "relu")(inputs))))


def picked(x):
    order = ops.argsort(layers.Dense(1)(x), axis=1)  # which is not differentiable, nor cut
    return ops.take_along_axis(x, order, axis=1)


def pixel_shuffle(x):
    """What depth-to-space does, from plain operations."""
    x = ops.reshape(layers.Conv2D(40, 1)(x), (-1, 6, 6, 2, 2, 10))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 12, 12, 10))


def pixel_unshuffle(x):
    x = ops.transpose(ops.reshape(x, (-1, 3, 2, 3, 2, 16)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, 3, 3, 64))


SEQUENCES = {
    "roll": lambda x: ops.roll(x, 3, -1),
    "roll back": lambda x: ops.roll(x, -2, axis=2),
    "roll of two axes": lambda x: ops.roll(x, (1, 2), (1, 2)),
    "roll by more than all": lambda x: ops.roll(x, (5, 9), (2, 2)),
    "take": lambda x: ops.take(x, [0, 2], axis=1),
    "take along an axis": picked,
    "unstack": lambda x: sum(ops.unstack(x, axis=1)),
    "sort": lambda x: ops.sort(x, axis=1),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "differences": lambda x: ops.diff(x, axis=1),
    "log of sums": lambda x: ops.logsumexp(x, axis=1),
    "average": lambda x: ops.average(x, axis=1),
    "moments": lambda x: ops.concatenate(ops.moments(x, axes=1), axis=-1),
    "gate": ops.glu,
    "append": lambda x: ops.append(x, 2 * x, axis=1),
    "hstack": lambda x: ops.hstack([x, 2 * x]),
}
if keras.backend.backend() != "jax":  # Keras cannot call it there in a model
    SEQUENCES["norm"] = lambda x: ops.norm(x, axis=1)
IMAGES = {
    "max pool": lambda x: ops.max_pool(x, 2, 2),
    "average pool": lambda x: ops.average_pool(x, 3, 2, padding="same"),
    "resize": lambda x: ops.image.resize(x, (9, 9)),
    "pixel shuffle": pixel_shuffle,
    "pixel unshuffle": pixel_unshuffle,
}
for name in ("depth_to_space", "space_to_depth"):
    if hasattr(ops, name):
        IMAGES[name] = lambda x, name=name: getattr(ops, name)(x, 2)


@pytest.mark.parametrize("name", SEQUENCES)
def test_an_operation_on_sequences_is_followed(name):
    check_shrinks(of_sequences(SEQUENCES[name]))


@pytest.mark.parametrize("name", IMAGES)
def test_an_operation_on_images_is_followed(name):
    check_shrinks(of_images(IMAGES[name]))


@pytest.mark.skipif(not hasattr(ops, "depth_to_space"), reason="Keras has it since 3.14")
def test_channels_that_become_places_go_together():
    [group, _] = channel_groups(of_images(lambda x: layers.Conv2D(4, 1)(ops.depth_to_space(x, 2))))
    assert group.channels == 4
    kernel = next(piece for piece in group.producing if piece.variable.name == "kernel")
    assert sorted(map(sorted, kernel.indices.tolist())) == [
        [first, first + 4, first + 8, first + 12] for first in range(4)
    ]


def test_channels_that_are_picked_by_number_stay():
    with pytest.warns(UserWarning, match="fixed by Take"):
        assert channel_groups(of_sequences(lambda x: ops.take(x, [1, 3], axis=-1))) == []
    with pytest.warns(UserWarning, match="fixed by Roll"):
        assert channel_groups(of_sequences(lambda x: ops.roll(x, 1))) == []


class Own(keras.Layer):
    """A layer that multiplies by a kernel of its own."""

    def __init__(self, kind, width=8, **kwargs):
        super().__init__(**kwargs)
        self.kind, self.width = kind, width
        self.kernel_regularizer = self.kernel_constraint = None

    def build(self, input_shape):
        channels = input_shape[-1]
        shape = {
            "conv": (3, 3, channels, self.width),
            "conv_transpose": (3, 3, self.width, channels),
            "depthwise_conv": (3, 3, channels, 2),
        }.get(self.kind, (channels, self.width))
        self.kernel = self.add_weight(shape=shape, name="kernel")

    def call(self, inputs):
        further = {"conv_transpose": [2], "tensordot": [1]}.get(self.kind, [])
        return getattr(ops, self.kind)(inputs, self.kernel, *further)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "width": self.width}


KINDS = {
    "conv": lambda: layers.Conv2D(8, 3, use_bias=False),
    "conv_transpose": lambda: layers.Conv2DTranspose(8, 3, 2, use_bias=False),
    "depthwise_conv": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
    "dot": lambda: layers.Dense(8, use_bias=False),
    "matmul": lambda: layers.Dense(8, use_bias=False),
    "tensordot": lambda: layers.Dense(8, use_bias=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_with_a_kernel_of_its_own_goes_the_way_of_keras_layer(kind):
    own, model = (
        randomize(of_images(lambda x, layer=layer: layers.ReLU()(layer(x))))
        for layer in (Own(kind), KINDS[kind]())
    )
    assert [g.channels for g in channel_groups(own)] == [g.channels for g in channel_groups(model)]
    assert list(kh.count_flops(own).values()) == list(kh.count_flops(model).values())
    cut_channels(own, 0.5)
    cut_channels(model, 0.5)
    small, other = kh.shrink(own), kh.shrink(model)
    assert small.count_params() == other.count_params() < 0.6 * own.count_params()
    assert largest_difference(own, small, random_inputs(own, batch=5)) <= 1e-4
    assert any(isinstance(layer, Own) for layer in small.layers)


def language_model(tied, cap=None):
    tokens = keras.Input((None,), dtype="int32")
    table = layers.ReversibleEmbedding(20, 8, tie_weights=tied, logit_soft_cap=cap, name="table")
    x = table(tokens)
    x = layers.RMSNormalization()(x + layers.Dense(8)(layers.Dense(10, "relu")(x)))
    return randomize(keras.Model(tokens, table(x, reverse=True)))


@pytest.mark.skipif(not hasattr(layers, "ReversibleEmbedding"), reason="Keras has it since 3.13")
@pytest.mark.parametrize("tied", [True, False])
def test_a_table_that_is_read_both_ways_loses_its_columns(tied):
    model = language_model(tied, cap=5.0)
    sizes = {group.channels: group for group in channel_groups(model, lambda layer: True)}
    assert sorted(sizes) == [8, 10]
    assert kh.count_flops(model)["table"] == 8 * 20
    for piece in sizes[8].producing:
        values = np.array(to_numpy(piece.variable))
        np.moveaxis(values, piece.axis, 0)[[1, 4]] = 0
        piece.variable.assign(values)
    small = kh.shrink(model)
    shapes = [(20, 6)] if tied else [(20, 6), (6, 20)]
    assert [tuple(w.shape) for w in small.get_layer("table").weights] == shapes
    for length in (1, 9):
        assert largest_difference(model, small, random_inputs(model, size=length)) <= 1e-4


class Experts(keras.Layer):
    """Feed-forward layers side by side, each with kernels of its own, weighed by a router."""

    def __init__(self, experts, width, **kwargs):
        super().__init__(**kwargs)
        self.experts, self.width = experts, width

    def build(self, input_shape):
        channels = input_shape[-1]
        self.first = self.add_weight(shape=(self.experts, channels, self.width), name="first")
        self.gate = self.add_weight(shape=(self.experts, channels, self.width), name="gate")
        self.second = self.add_weight(shape=(self.experts, self.width, channels), name="second")
        self.router = layers.Dense(self.experts, name="router")
        self.router.build(input_shape)

    def call(self, inputs):
        hidden = ops.einsum("bth,ehm->ebtm", inputs, self.first)
        hidden = hidden * ops.silu(ops.einsum("bth,ehm->ebtm", inputs, self.gate))
        outputs = ops.einsum("ebtm,emh->ebth", hidden, self.second)
        weights = ops.softmax(self.router(inputs), axis=-1)
        return ops.einsum("ebth,bte->bth", outputs, weights)

    def get_config(self):
        return {**super().get_config(), "experts": self.experts, "width": self.width}


def test_experts_that_are_named_lose_widths_and_stay_what_they_are():
    inputs = keras.Input((None, 6))
    model = randomize(keras.Model(inputs, Experts(3, 10, name="experts")(inputs)))
    criterion = kh.criteria.TargetSparsity(0.4, scope="layer")
    kh.prune(model, criterion, kh.patterns.Channel(), layers=["experts"])
    small = kh.shrink(model)
    assert [tuple(w.shape) for w in small.layers[1].weights[:3]] == [(3, 6, 6)] * 3
    assert isinstance(small.layers[1], Experts) and small.layers[1].width == 6
    for length in (1, 9):
        assert largest_difference(model, small, random_inputs(model, size=length)) <= 1e-4
