"""What no cut of channels can reach is named, with the reason, wherever channels are cut."""

import warnings

import keras
import numpy as np
import pytest
from cutting import randomize
from keras import layers, ops

import keras_hoyer as kh

CHANNEL = kh.patterns.Channel()


class Block(layers.Layer):
    """A composite layer without a rule, whose code wants numbers."""

    def __init__(self, width=16, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(width, "relu"), layers.Dense(8)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], self.up.units))

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("only numbers")
        return self.down(self.up(x))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 8)


class Cell(layers.Layer):
    """A cell of a recurrent layer whose code wants numbers."""

    state_size = 8
    kernel_regularizer = kernel_constraint = None

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")

    def call(self, x, states):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("only numbers")
        return x @ self.kernel, [x @ self.kernel]

    def compute_output_spec(self, x, states):
        return keras.KerasTensor((*x.shape[:-1], 8)), states


def net(*middle, shape=(8,), tail=True):
    """A model that ends in two dense layers, of which one can be cut."""
    stack = [keras.Input(shape), *middle]
    if tail:
        stack += [layers.Flatten(), layers.Dense(12, name="free"), layers.Dense(3, name="head")]
    return randomize(keras.Sequential(stack))


def said(function, *args):
    """The warnings of a call, each with the file that it points at."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*args)
    found = [w for w in caught if issubclass(w.category, UserWarning)]
    assert all(w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


def prune(model):
    kh.prune(model, kh.criteria.Threshold(0.1), CHANNEL)


CASES = {
    "own block": (lambda: Block(name="x"), (8,), ["'x/", "no rule for Block 'x'"]),
    "wrapped block": (
        lambda: layers.TimeDistributed(Block(name="x"), name="around"),
        (5, 8),
        ["'around/x/", "no rule for Block 'x'"],
    ),
    "cell": (lambda: layers.RNN(Cell(name="x")), (5, 8), ["no rule for Cell 'x'"]),
    "stacked cells": (
        lambda: layers.RNN([layers.LSTMCell(8), Cell(name="x")]),
        (5, 8),
        ["no rule for Cell 'x'"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_without_a_rule_is_named_though_no_channel_arrives_at_it(case):
    make, shape, expected = CASES[case]
    model = net(make(), shape=shape)
    for function in (kh.graph.channel_groups, prune, kh.shrink):
        [message] = said(function, model)
        assert all(text in message for text in expected)
        assert "register_rule" in message
        assert "free" not in message
    [message] = said(kh.count_flops, model)
    assert expected[-1].removeprefix("no rule for ") in message


FIXED = {
    "layer normalization": ([layers.LayerNormalization(name="x")], "LayerNormalization 'x'"),
    "softmax": ([layers.Softmax(name="x")], "Softmax 'x'"),
    "operation": ([layers.Lambda(lambda x: ops.sort(x, axis=-1), name="x")], "in Lambda 'x'"),
    "activation": ([layers.Activation("softmax", name="x")], "Activation 'x'"),
}


@pytest.mark.parametrize("case", FIXED)
def test_what_fixes_a_kernel_is_named(case):
    middle, expected = FIXED[case]
    model = net(layers.Dense(7, name="stuck"), *middle)
    for function in (kh.graph.channel_groups, prune, kh.shrink):
        [message] = said(function, model)
        assert "'stuck' (" in message
        assert expected in message
        assert "free" not in message and "head" not in message
    report = kh.report(model)
    fixed = {kernel.name: kernel.fixed for kernel in report.layers}
    assert expected in fixed["stuck/kernel"]
    assert fixed["free/kernel"] is fixed["head/kernel"] is None
    assert expected in str(report).splitlines()[-1]


def test_the_line_that_cannot_be_followed_is_quoted():
    class Branching(Block):
        def call(self, x):
            if ops.max(x) > 1e9:
                return self.down(x)
            return super().call(x)

    [message] = said(kh.shrink, net(Branching(name="x")))
    assert "test_unreached.py, line" in message
    assert "`if ops.max(x) > 1e9:`" in message


def test_layers_joined_with_inputs_or_read_as_outputs_are_named():
    x = inputs = keras.Input((6,))
    x = layers.Add(name="skip")([layers.Dense(6, name="one")(x), inputs])
    y = layers.Dense(4, name="two")(inputs)
    model = keras.Model(inputs, [layers.Dense(3, name="free")(layers.Dense(9)(x)), y])
    [message] = said(kh.graph.channel_groups, model)
    assert "'one' (fixed by Add 'skip')" in message
    assert "'two' (fixed by the model's outputs)" in message


def test_what_was_joined_before_is_fixed_by_the_same():
    x = inputs = keras.Input((6,))
    one, two = layers.Dense(5, name="one")(x), layers.Dense(5, name="two")(x)
    x = layers.LayerNormalization(name="norm")(two) + ops.relu(layers.Add()([one, two]))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(8)(x)))
    [message] = said(kh.graph.channel_groups, model)
    assert "'two', 'one' (fixed by LayerNormalization 'norm')" in message


def test_a_model_that_can_be_cut_everywhere_says_nothing():
    model = net(layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dense(7))
    for function in (kh.graph.channel_groups, prune, kh.shrink, kh.count_flops, kh.report):
        assert said(function, model) == []


def test_layers_that_were_asked_for_and_cannot_be_cut_are_named():
    model = net(layers.Dense(7, name="stuck"), layers.LayerNormalization(name="norm"))
    criterion = kh.criteria.Threshold(0.1)
    with pytest.raises(ValueError, match=r"'stuck' \(fixed by LayerNormalization 'norm'\)"):
        kh.prune(model, criterion, CHANNEL, layers=["stuck"])
    [message] = said(kh.prune, model, criterion, CHANNEL, ["stuck", "free"])
    assert "'stuck' (fixed by LayerNormalization 'norm')" in message


def test_layers_that_live_with_others_are_not_cut_without_them():
    x = inputs = keras.Input((6,))
    x = layers.Add()([layers.Dense(5, name="one")(x), layers.Dense(5, name="two")(x)])
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ValueError, match=r"'one' \(its channels .* not to be cut\)"):
        kh.prune(model, kh.criteria.Threshold(0.1), CHANNEL, layers=["one"])


def test_an_error_names_the_cause_and_not_the_outputs():
    model = net(Block(name="block"), tail=False)
    with pytest.raises(ValueError, match=r"no channels .*no rule for Block 'block'"):
        prune(model)


def test_a_target_of_multiply_adds_that_cannot_be_reached_names_what_is_fixed():
    model = net(Block(64, name="block"))
    with (
        pytest.warns(UserWarning, match="Block 'block'"),
        pytest.raises(ValueError, match=r"cannot be reached.*no rule for Block 'block'"),
    ):
        kh.prune(model, kh.criteria.TargetFlops(0.5), CHANNEL)


def test_a_missed_target_says_what_was_reached():
    model = net(Block(64, name="block"))
    messages = said(kh.prune, model, kh.criteria.TargetSparsity(0.9), CHANNEL)
    [missed] = [m for m in messages if "Asked to cut 90.0%" in m]
    kernels = kh.report(model)
    assert f"{kernels.sparsity:.1%} of the weights" in missed
    assert "'block/" in missed
    beyond = sum(k.total for k in kernels.layers if k.name.startswith("block")) / kernels.total
    assert f"{beyond:.1%} of these weights" in missed


def test_a_target_that_is_met_says_nothing():
    model = net(layers.Dense(8, "relu"))
    assert said(kh.prune, model, kh.criteria.TargetSparsity(0.5), CHANNEL) == []
    assert said(kh.prune, model, kh.criteria.TargetSparsity(0.9)) == []
    # What no cut can reach is next to nothing here.
    model = net(layers.LayerNormalization(), layers.Dense(2, name="tiny"), layers.Softmax())
    model.add(layers.Dense(300))
    model.add(layers.Dense(300))
    model.add(layers.Dense(2))
    messages = said(kh.prune, model, kh.criteria.TargetSparsity(0.5), CHANNEL)
    assert not [m for m in messages if "Asked to cut" in m]


@pytest.mark.parametrize("limits", [{"min_channels": 10}, {"multiple_of": 8}])
def test_a_pattern_that_keeps_more_than_was_asked_for_is_named(limits):
    model = net(layers.Dense(24))
    pattern = kh.patterns.Channel(**limits)
    [message] = said(kh.prune, model, kh.criteria.TargetSparsity(0.9), pattern)
    kept = sum(group.channels for group in kh.graph.channel_groups(kh.shrink(model)))
    assert f"{1 - kept / 36:.1%} of the units" in message
    assert repr(pattern) in message


def test_a_pattern_that_keeps_whole_layers_names_them():
    model = net(layers.Dense(24))
    [message] = said(
        kh.prune, model, kh.criteria.Threshold(0.1), kh.patterns.Channel(min_channels=12)
    )
    assert "keeps every channel of 'free/kernel' (12)" in message
    with pytest.raises(ValueError, match=r"keeps every channel of .* nothing to cut"):
        kh.prune(model, kh.criteria.Threshold(0.1), kh.patterns.Channel(multiple_of=64))


def test_a_pattern_that_divides_no_kernel_advises_no_empty_list():
    model = net(layers.Dense(24))
    with pytest.raises(ValueError, match="divides no other kernel either"):
        kh.prune(model, kh.criteria.Threshold(0.1), kh.patterns.Block((7, 1)))


def test_a_gradual_cut_says_it_once():
    model = net(Block(64, name="block"))
    model.compile("sgd", "mse")
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetSparsity(0.8), kh.schedules.Polynomial(0, 3), CHANNEL
    )
    x, y = np.ones((8, 8), "float32"), np.ones((8, 3), "float32")

    def fit():
        model.fit(x, y, epochs=5, verbose=0, callbacks=[pruning])

    messages = said(fit)
    assert len([m for m in messages if "No cut can reach the channels" in m]) == 1
    assert len([m for m in messages if "Asked to cut" in m]) == 1
