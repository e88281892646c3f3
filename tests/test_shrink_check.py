"""The check that a smaller model gives the outputs of the old one."""

import warnings

import keras
import numpy as np
import pytest
from cutting import randomize, to_numpy
from keras import layers, ops

from keras_hoyer import ShrinkError, register_rule, shrink
from keras_hoyer.graph import checking


class Spread(keras.layers.Layer):
    """Adds the mean of the channels to each of them."""

    def call(self, inputs):
        return inputs + ops.mean(inputs, axis=-1, keepdims=True)


def wrong_rule(graph, layer, inputs):
    return inputs  # says that each channel goes by itself


def net(between, width=8, activation="relu"):
    inputs = keras.Input((6,))
    dense = layers.Dense(width, activation, name="wide")
    x = between(dense(layers.Flatten()(inputs)))
    model = randomize(keras.Model(inputs, x))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, width // 2 :], bias[width // 2 :] = 0, 0
    dense.set_weights([kernel, bias])
    return model


def wrong_layer(name="wrong"):
    class Wrong(Spread):
        pass

    register_rule(Wrong, follows_constants=True)(wrong_rule)
    return Wrong(name=name)


def head(x):
    return layers.Dense(3, name="head")(layers.Dense(4, "tanh", name="before")(x))


# What is wrong is found.


@pytest.mark.parametrize("nested", [False, True])
def test_the_first_layer_whose_outputs_differ_is_named(nested):
    wrong = wrong_layer()
    if nested:
        inner = keras.Sequential([keras.Input((8,)), wrong, layers.Dense(5)], name="inner")
        model = net(lambda x: head(inner(x)))
    else:
        model = net(lambda x: head(wrong(x)))
    with pytest.raises(ShrinkError, match="first layer whose outputs differ is Wrong 'wrong'"):
        shrink(model)
    assert shrink(model, check=False).get_layer("wide").units == 4


def test_a_wrong_model_is_found_in_a_sequential_one():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="wide"), wrong_layer()])
    model.add(layers.Dense(3))
    randomize(model)
    kernel, bias = (np.array(w) for w in model.layers[0].get_weights())
    kernel[:, 4:], bias[4:] = 0, 0
    model.layers[0].set_weights([kernel, bias])
    with pytest.raises(ShrinkError, match="Wrong 'wrong'"):
        shrink(model)


def test_any_one_of_several_outputs_is_checked():
    wrong = wrong_layer()

    def between(x):
        return {"right": layers.Dense(2)(x), "wrong": layers.Dense(2)(wrong(x))}

    with pytest.raises(ShrinkError, match="Wrong"):
        shrink(net(between))


def test_wrong_integers_are_found():
    wrong = wrong_layer()
    model = net(lambda x: ops.argmax(layers.Dense(50)(wrong(x)), axis=-1))
    sample = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    with pytest.raises(ShrinkError):
        shrink(model, sample=sample)


def test_the_error_is_a_value_error_and_leaves_the_model():
    model = net(lambda x: head(wrong_layer()(x)))
    before = [to_numpy(v).copy() for v in model.variables]
    policies = [layer.dtype_policy for layer in model.layers]
    with pytest.raises(ValueError, match="No model is handed over"):
        shrink(model)
    assert [layer.dtype_policy for layer in model.layers] == policies
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, to_numpy(variable))


def test_a_sample_shows_what_random_inputs_do_not():
    class Rare(Spread):
        def call(self, inputs):
            wide = super().call(inputs)
            return ops.where(ops.max(inputs, axis=-1, keepdims=True) > 1e4, wide, inputs)

    register_rule(Rare, follows_constants=True)(wrong_rule)
    model = net(lambda x: layers.Dense(2)(Rare()(x)))
    assert shrink(model).get_layer("wide").units == 4
    with pytest.raises(ShrinkError, match="Rare"):
        shrink(model, sample=np.full((2, 6), 1e6) * [[1], [-1]])


# What is right passes.


def chaotic(depth=14):
    """A net in which the last digit of an input becomes a difference of outputs."""

    def between(x):
        for _ in range(depth):
            y = layers.Dense(8)(x)
            x = ops.sin(20.0 * y) + layers.Dense(8, "tanh")(x)
        return layers.Dense(3)(x)

    return between


def test_a_net_that_blows_up_rounding_passes():
    model = net(chaotic())
    wide = model.get_layer("wide")
    wide.bias.assign(np.arange(8) / 8)  # constants change the order of the sums
    sample = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    small = shrink(model, sample=sample)
    assert small.get_layer("wide").units == 4
    one, two = (to_numpy(m(sample)) for m in (model, small))
    assert np.abs(one - two).max() > 1e-3  # what the tolerance alone would refuse


def test_a_wrong_net_that_blows_up_a_little_is_found():
    wrong = wrong_layer()
    model = net(lambda x: chaotic(2)(wrong(x)))
    with pytest.raises(ShrinkError, match="Wrong"):
        shrink(model)


def test_ties_of_an_argmax_pass():
    def between(x):
        x = layers.Dense(4, name="logits")(x)
        return ops.argmax(ops.concatenate([x, x / 3.0 * 3.0], axis=-1), axis=-1)

    small = shrink(net(between))
    assert small.get_layer("wide").units == 4


def test_nan_and_infinity_equal_themselves():
    model = net(lambda x: [ops.log(layers.Dense(4)(x)), 1.0 / ops.relu(layers.Dense(4)(x))])
    assert not np.isfinite(to_numpy(model(np.ones((3, 6)))[1])).all()
    assert shrink(model).get_layer("wide").units == 4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
def test_every_precision_passes_and_is_judged(policy):
    keras.config.set_dtype_policy(policy)
    try:
        right = net(head)
        wrong = net(lambda x: head(wrong_layer()(x)))
    finally:
        keras.config.set_dtype_policy("float32")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The smaller model")
        assert shrink(right).get_layer("wide").units == 4
    with pytest.raises(ShrinkError):
        shrink(wrong)


def test_constants_are_taken_up_in_the_precision_of_the_model():
    keras.config.set_dtype_policy("float64")
    try:
        model = net(head, activation=None)
    finally:
        keras.config.set_dtype_policy("float32")
    wide = model.get_layer("wide")
    kernel, bias = wide.get_weights()
    bias[4:] = 0.1 + np.arange(4) / 3
    wide.set_weights([kernel, bias])
    small = shrink(model)
    before, after = (m.get_layer("before").get_weights() for m in (model, small))
    assert len(after[0]) == 4
    bound = 1e-6 if keras.backend.backend() == "jax" else 1e-15  # JAX has no float64 by default
    np.testing.assert_allclose(after[1], before[1] + bias[4:] @ before[0][4:], atol=bound)


# What the check needs, and leaves alone.


def test_random_outputs_are_said_not_to_be_checked():
    class Noisy(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed = keras.random.SeedGenerator(1)

        def call(self, inputs):
            return inputs * keras.random.uniform(ops.shape(inputs), seed=self.seed)

    register_rule(Noisy, follows_constants=True)(wrong_rule)
    model = net(lambda x: layers.Dense(3)(Noisy()(x)))
    with pytest.warns(UserWarning, match="not checked, since the model gives other outputs each"):
        small = shrink(model)
    assert small.get_layer("wide").units == 4


def test_the_check_disturbs_neither_model():
    def between(x):
        x = layers.Dropout(0.5, seed=1)(x)
        x = layers.BatchNormalization()(x)
        return layers.Dense(3)(x)

    model = net(between)
    before = [to_numpy(v).copy() for v in model.variables]
    small = shrink(model)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, to_numpy(variable))
    for one, two in zip(model.non_trainable_variables, small.non_trainable_variables, strict=True):
        if one.shape == two.shape:
            np.testing.assert_array_equal(to_numpy(one), to_numpy(two))


def test_inputs_of_tables_are_indices():
    tokens, place = keras.Input((4,), dtype="int32"), keras.Input((4,))
    x = layers.Embedding(3, 4)(tokens) + layers.Embedding(2, 4)(place)
    model = net(head)
    outputs = layers.Concatenate()([model.outputs[0], layers.Flatten()(x)])
    model = keras.Model([tokens, place, model.inputs[0]], outputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The smaller model")
        assert shrink(model).get_layer("wide").units == 4


def test_open_sizes_that_a_model_does_not_take_are_passed_by():
    inputs = keras.Input((None, 6))
    x = inputs + ops.broadcast_to(ops.zeros((1, 8, 6)), (1, 8, 6))  # eight steps and no others
    dense = layers.Dense(8, "relu", name="wide")
    x = layers.Dense(3)(dense(x))
    model = randomize(keras.Model(inputs, x))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The smaller model")
        shrink(model)


def test_a_model_that_takes_no_random_inputs_is_said_not_to_be_checked():
    class Choosy(keras.layers.Layer):
        def call(self, inputs):
            values = ops.convert_to_numpy(inputs) if not _is_symbolic(inputs) else None
            if values is not None and (values != 7).any():
                raise ValueError("sevens only")
            return inputs

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape, inputs.dtype)

    inputs = keras.Input((6,))
    model = net(layers.Dense(2))
    model = keras.Model(inputs, model(Choosy()(inputs)))
    with pytest.warns(UserWarning, match="(?s)not checked.*sevens only.*Give `sample`"):
        shrink(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The smaller model")
        shrink(model, sample=np.full((2, 6), 7.0))
        shrink(model, check=False)


def _is_symbolic(x):
    return isinstance(x, keras.KerasTensor)


def test_a_sample_may_be_an_array_a_list_or_a_dict():
    one, two = keras.Input((6,), name="one"), keras.Input((5,), name="two")
    dense = layers.Dense(8, "relu", name="wide")
    model = randomize(
        keras.Model([one, two], layers.Dense(3)(dense(ops.concatenate([one, two], -1))))
    )
    arrays = [np.ones((2, 6)), np.ones((2, 5))]
    shrink(model, sample=arrays)
    shrink(model, sample=dict(zip(["one", "two"], arrays, strict=True)))
    shrink(keras.Sequential([keras.Input((6,)), layers.Dense(3)]), sample=arrays[0])
    shrink(keras.Sequential([keras.Input((6,)), layers.Dense(3)]), sample=arrays[:1])
    for wrong in (arrays[0], [arrays[0], arrays[0]], "words", {"one": arrays[0]}):
        with pytest.raises(ValueError, match="argument `sample`"):
            shrink(model, sample=wrong)


def test_the_differences_are_those_of_the_worst_output():
    want = [np.array([1.0, 2.0, np.nan]), np.array([1, 2, 3, 4])]
    assert checking._difference(want, [np.array([1.0, 2.2, np.nan]), want[1]]) == pytest.approx(0.1)
    assert checking._difference(want, [want[0], np.array([1, 2, 3, 5])]) == 0.25
    assert checking._difference(want, [np.array([1.0, 2.0, 3.0]), want[1]]) == np.inf
    assert checking._difference(want, [np.array([1.0, np.inf, np.nan]), want[1]]) == np.inf
    assert checking._difference(want, [np.ones(2), want[1]]) == np.inf
    assert checking._difference(want, want) == 0
