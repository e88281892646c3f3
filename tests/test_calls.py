"""However a layer is called, and whatever comes in and out of it."""

import inspect

import keras
import numpy as np
import pytest
from cutting import check_shrinks, count_channels, largest_difference, randomize, zero_slices
from keras import layers, ops
from own_layers import Gain, Gated, Weighed

import keras_hoyer as kh
from keras_hoyer.graph import channel_groups, register_rule
from keras_hoyer.graph.probing import works_on_each_element
from keras_hoyer.graph.shrink import shrink


def between(call, shape=(6, 6, 3)):
    """A dense layer, what `call` makes of its output, and a head."""
    inputs = keras.Input(shape)
    x = call(layers.Dense(8)(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(6)(x)))


# Arguments of calls.

LAYERS = {
    "Dense": lambda: layers.Dense(5),
    "Conv2D": lambda: layers.Conv2D(5, 3),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3),
    "GroupNormalization": lambda: layers.GroupNormalization(4),
    "LayerNormalization": layers.LayerNormalization,
    "RMSNormalization": layers.RMSNormalization,
    "BatchNormalization": layers.BatchNormalization,
    "ReLU": layers.ReLU,
    "Dropout": lambda: layers.Dropout(0.5),
    "MaxPooling2D": layers.MaxPooling2D,
    "EinsumDense": lambda: layers.EinsumDense("abcd,de->abce", (None, None, 6)),
    "Reshape": lambda: layers.Reshape((36, 8)),
    "Permute": lambda: layers.Permute((2, 1, 3)),
    "Masked": Weighed,
    "own with a rule": Gain,
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_may_be_handed_training_and_its_input_by_name(make):
    name = next(iter(inspect.signature(make().call).parameters))
    plain = between(make())
    for call in (lambda x: make()(x, training=False), lambda x: make()(**{name: x})):
        model = between(call)
        assert count_channels(model) == count_channels(plain)
        zero_slices(randomize(model), 0)
        assert largest_difference(model, shrink(model)) <= 1e-4


def test_merging_layers_may_be_handed_training():
    model = between(lambda x: layers.Concatenate()([x, layers.Add()([x, x], training=False)]))
    check_shrinks(model)


def test_attention_may_be_called_by_name_in_any_order():
    x = inputs = keras.Input((5, 6))
    y = layers.Dense(7)(x)
    x = layers.MultiHeadAttention(2, 3)(key=y, query=layers.Dense(4)(x), value=y)
    check_shrinks(keras.Model(inputs, layers.Dense(3)(x)))


def test_a_subclassed_model_may_pass_training_on():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.norm = layers.Conv2D(8, 3), layers.BatchNormalization()
            self.two, self.head = layers.Conv2D(6, 3), layers.Dense(3)

        def call(self, x, training):
            x = self.norm(self.one(x, training=training), training=training)
            return self.head(self.two(inputs=x, training=training), training=training)

    model = Net()
    model(np.ones((2, 8, 8, 3), "float32"), training=False)
    assert [g.channels for g in channel_groups(model)] == [8, 6]
    check_shrinks(model, inputs=np.ones((2, 8, 8, 3), "float32"))


def two_towers(call):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = layers.Dense(8), layers.Dense(8), layers.Dense(3)

        def towers(self, a, b):
            return self.head(ops.relu(self.one(a) + self.two(b)))

    Net.call = call
    return Net()


FORMS = {
    "several": (
        lambda self, a, b, training=None: self.towers(a, b),
        lambda model, a, b: model(a, b),
    ),
    "by name only": (
        lambda self, a, *, b, scale=2.0: self.towers(a, b) * scale,
        lambda model, a, b: model(a, b=b),
    ),
    "dict": (
        lambda self, x, training=True: self.towers(x["a"], x["b"]),
        lambda model, a, b: model({"a": a, "b": b}),
    ),
    "list": (
        lambda self, x, training=False: self.towers(*x),
        lambda model, a, b: model([a, b]),
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_subclassed_model_may_take_its_inputs_in_any_form(form):
    call, given = form
    model = two_towers(call)
    given(model, keras.Input((4,)), keras.Input((5,)))
    randomize(model)
    kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel())
    small = shrink(model)
    assert small.count_params() < model.count_params()
    a, b = (np.random.default_rng(n).normal(size=(3, n)).astype("float32") for n in (4, 5))
    inputs = {"a": a, "b": b} if isinstance(small.input, dict) else [a, b]
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(inputs)), ops.convert_to_numpy(given(model, a, b)), atol=1e-5
    )


def test_inputs_whose_shapes_keras_does_not_keep_are_asked_for():
    model = two_towers(FORMS["several"][0])
    model(np.ones((2, 4), "float32"), np.ones((2, 5), "float32"))
    with pytest.raises(ValueError, match="call it once on `keras"):
        channel_groups(model)


def test_a_functional_model_with_a_call_of_its_own_is_not_taken_for_its_graph():
    class Twice(keras.Model):
        def call(self, inputs, training=None):
            x = super().call(inputs, training=training)
            return ops.concatenate([x, self.get_layer("first")(inputs)], axis=-1)

    inputs = keras.Input((4,))
    x = layers.Dense(6, name="first")(inputs)
    model = Twice(inputs, layers.Dense(3)(layers.Dense(5, name="second")(x)))
    assert [g.name for g in channel_groups(model)] == ["second/kernel"]


# Masks and other tensors that a rule does not take.


def test_a_mask_that_is_made_of_channels_keeps_them():
    inputs = keras.Input((5, 4))
    x, y = layers.Dense(6, name="x")(inputs), layers.Dense(6, name="y")(inputs)
    x = layers.Softmax(axis=1)(x, mask=y > 0)
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    assert channel_groups(model) == []
    zero_slices(model, 0)
    assert largest_difference(model, shrink(model)) <= 1e-4


def test_a_tensor_that_a_users_rule_does_not_take_keeps_all_that_it_touches():
    inputs = keras.Input((4,))
    x, y = layers.Dense(6)(inputs), layers.Dense(6)(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(3)(Gated()(x, gate=y))))
    with pytest.warns(UserWarning, match="takes no `gate`"):
        assert channel_groups(model) == []


def test_a_mask_that_a_users_rule_does_not_take_changes_what_is_constant():
    inputs = keras.Input((5, 4))
    dense = layers.Dense(6, "relu")
    x = Weighed()(dense(layers.Masking()(inputs)))
    model = randomize(keras.Model(inputs, layers.Dense(3)(layers.LSTM(5)(x))))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, :3], bias[:3] = 0, [0.7, 1.5, -1.0]
    dense.set_weights([kernel, bias])
    sample = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    sample[:, 3:] = 0
    small = shrink(model)
    assert largest_difference(model, small, sample) <= 1e-4
    assert small.count_params() < model.count_params()  # the zero behind the relu goes


def test_what_a_users_rule_gets_is_named_as_the_layer_names_it():
    seen = []

    class Paired(layers.Layer):
        def call(self, left, right, scale=1.0, training=None):
            return (left + right) * scale

    @register_rule(Paired)
    def rule(graph, layer, left, right, scale):
        seen.append((left.shape, right.shape, scale))
        graph.join(left.axes[-1], right.axes[-1])
        return left

    inputs = keras.Input((4,))
    x = Paired()(
        right=layers.Dense(6)(inputs),
        left=inputs[:, :1] * 0 + layers.Dense(6)(inputs),
        scale=2.0,
        training=False,
    )
    channel_groups(keras.Model(inputs, layers.Dense(3)(x)))
    assert seen == [((None, 6), (None, 6), 2.0)]


# Lists of outputs, and ranks.


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_channels_go_through_unstack(axis):
    inputs = keras.Input((4, 3, 5))
    pieces = ops.unstack(layers.Dense(6)(inputs), axis=axis)
    x = layers.Concatenate()([pieces[0], pieces[1] * pieces[2]])
    model = randomize(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))))
    assert count_channels(model) == (0 if axis == 3 else 6)
    zero_slices(model, 0)
    assert largest_difference(model, shrink(model)) <= 1e-4


def heads(x, count, width, steps=5):
    return ops.reshape(layers.Dense(count * width)(x), (-1, steps, count, width))


def test_widths_go_through_dot_product_attention():
    inputs = keras.Input((5, 6))
    x = ops.dot_product_attention(*(heads(inputs, 2, 4) for _ in range(3)))
    model = keras.Model(inputs, layers.Dense(3)(ops.reshape(x, (-1, 5, 8))))
    [group] = channel_groups(model)
    assert group.channels == 4
    check_shrinks(model)


def test_values_of_another_width_stay_in_dot_product_attention():
    inputs = keras.Input((5, 6))
    query, key, value = heads(inputs, 2, 4), heads(inputs, 2, 4), heads(inputs, 2, 3)
    x = ops.dot_product_attention(query, key, value)
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Dense(5)(ops.mean(x, axis=-1)))))
    assert [g.channels for g in channel_groups(model)] == [5]
    if keras.backend.backend() == "jax":
        return  # it takes only values that are as wide as the keys
    zero_slices(model, 0)
    assert largest_difference(model, shrink(model)) <= 1e-4


@pytest.mark.parametrize("given", [(None,), (None, 1), (None, 1, 1)])
def test_a_nested_model_gives_its_input_the_rank_that_it_wants(given):
    inside, other = keras.Input((1,), name="inside"), keras.Input((8,), name="other")
    nested = keras.Model({"other": other, "inside": inside}, layers.Dense(6)(other) * inside)
    one, two = keras.Input(batch_shape=given), keras.Input((4,))
    x = nested({"inside": one, "other": layers.Dense(8)(two)})
    model = keras.Model([one, two], layers.Dense(3)(x))
    randomize(model)
    for variable in (v for v in model.weights if v.shape[-1] != 3):
        variable.assign(ops.convert_to_numpy(variable) * (np.arange(variable.shape[-1]) == 1))
    inputs = [np.ones((3, *given[1:]), "float32"), np.ones((3, 4), "float32")]
    small = shrink(model)
    assert largest_difference(model, small, inputs) <= 1e-4
    assert count_channels(small) < count_channels(model)


# What looks like a function of each element, and is none.

ELEMENTWISE = {
    "relu": ops.relu,
    "comparison": lambda x: x > 0.1,
    "floor": ops.floor,
    "exp": ops.exp,
    "integers": lambda x: ops.cast(ops.clip(x, -9, 9), "int32"),
    "constant": ops.zeros_like,
    "clip": lambda x: ops.clip(x, -1, 1),
    "log": ops.log,
}
MIXING = {
    "list": lambda x: ops.unstack(x, axis=0),
    "two": lambda x: [x, x],
    "shape": ops.shape,
    "int": ops.size,
    "bool": lambda x: True,
    "array": ops.convert_to_numpy,
    "running sum of the batch": lambda x: ops.cumsum(x, axis=0),
    "roll": lambda x: ops.roll(x, 1, axis=0),
    "sort": lambda x: ops.sort(x, axis=0),
    "flip": lambda x: ops.flip(x, axis=1),
    "triangle": ops.tril,
    "order": lambda x: ops.argsort(x, axis=-1),
    "softmax": ops.softmax,
    "threshold on the mean": lambda x: ops.where(ops.mean(x) > 0, x, 0 * x),
    "threshold on the largest": lambda x: ops.where(ops.max(ops.abs(x)) > 5, x, 2 * x),
    "threshold on the smallest": lambda x: ops.where(ops.min(x) > -200, x, 2 * x),
    "median": lambda x: ops.where(x > ops.median(x), x, 0 * x),
    "deviation": lambda x: x / (1 + ops.std(x)),
    "divided by a size": lambda x: x / x.shape[0],
    "by place": lambda x: x * ops.arange(1, x.shape[-1] + 1, dtype="float32"),
    "noise": lambda x: x + keras.random.normal(ops.shape(x)),
    "another shape": ops.transpose,
}


@pytest.mark.parametrize("shape", [(5, 2, 8), (5, 3)])
def test_functions_of_each_element_are_told_from_others(shape):
    assert [k for k, f in ELEMENTWISE.items() if not works_on_each_element(f, shape)] == []
    assert [k for k, f in MIXING.items() if works_on_each_element(f, shape)] == []


@pytest.mark.skipif(
    keras.__version__.startswith("3.12."), reason="Keras' scan of one entry calls itself for ever"
)
def test_an_operation_is_looked_at_on_more_than_one_entry():
    inputs = keras.Input((1, 6))
    x = ops.associative_scan(ops.add, layers.Dense(8)(inputs), axis=1)
    other = layers.Dense(8)(keras.layers.UpSampling1D(3)(inputs))
    y = ops.associative_scan(ops.add, other, axis=1)
    model = randomize(keras.Model(inputs, layers.Dense(3)(layers.Concatenate(1)([x, y]))))
    zero_slices(model, 0)
    with pytest.warns(UserWarning, match="no rule for AssociativeScan"):
        assert largest_difference(model, shrink(model)) <= 1e-4


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LSTM(6, activation="softmax"),
        lambda: layers.GRU(6, recurrent_activation="softmax"),
        lambda: layers.Dense(6, activation=lambda x: ops.softmax(x, axis=1)),
        lambda: layers.EinsumDense("abc,cd->adb", (6, 5), activation="softmax"),
    ],
    ids=["units", "gates", "steps", "einsum"],
)
def test_an_activation_that_mixes_channels_keeps_them(make):
    inputs = keras.Input((5, 4))
    x = layers.Permute((2, 1))(layers.Dense(7)(inputs))
    x = make()(layers.Permute((2, 1))(layers.Dense(5)(x)))
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    zero_slices(model, 0)
    # Nobody reads half of what comes out.
    kernel, bias = (np.array(w) for w in model.layers[-1].get_weights())
    kernel[::2] = 0
    model.layers[-1].set_weights([kernel, bias])
    assert largest_difference(model, shrink(model)) <= 1e-4


def test_a_softmax_of_channels_some_of_which_are_constant_is_not_constant():
    inputs = keras.Input((4,))
    one, two = layers.Dense(6), layers.Dense(5)
    x = two(layers.Softmax()(one(inputs)))
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    kernel, bias = (np.array(w) for w in one.get_weights())
    kernel[:, :4] = 0
    one.set_weights([kernel, bias])
    kernel, bias = (np.array(w) for w in two.get_weights())
    kernel[4:, :2] = 0  # these two look at nothing but shares that the others have a part in
    two.set_weights([kernel, bias])
    assert largest_difference(model, shrink(model, check=False)) <= 1e-4


@pytest.mark.parametrize("make", [layers.Multiply, layers.Maximum, layers.Minimum])
def test_what_is_masked_of_one_operand_is_no_constant(make):
    inputs = keras.Input((5, 4))
    masked = layers.Dense(4)(layers.Masking()(inputs))
    x = make()([layers.Dense(4)(inputs), masked])
    two = layers.Dense(5)
    model = randomize(keras.Model(inputs, layers.Dense(3)(two(x))))
    for layer in model.layers[-6:]:
        if isinstance(layer, layers.Dense) and layer.units == 4:
            kernel, bias = (np.array(w) for w in layer.get_weights())
            kernel[:, :2], bias[:2] = 0, [0, 0.5]
            layer.set_weights([kernel, bias])
    kernel, bias = (np.array(w) for w in two.get_weights())
    kernel[2:, :2] = 0
    two.set_weights([kernel, bias])
    sample = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    sample[:, 3:] = 0
    assert largest_difference(model, shrink(model, check=False), sample) <= 1e-4


def test_a_channel_counts_in_the_norms_of_a_dot_product():
    inputs = keras.Input((5, 4))
    one, two = layers.Dense(6), layers.Dense(6)
    x = layers.Dot(axes=2, normalize=True)([one(inputs), two(inputs)])
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    for layer, zeros in ((one, slice(0, 3)), (two, slice(1, 5))):
        kernel, bias = (np.array(w) for w in layer.get_weights())
        kernel[:, zeros], bias[zeros] = 0, 0
        layer.set_weights([kernel, bias])
    small = shrink(model, check=False)
    assert largest_difference(model, small) <= 1e-4
    assert [x.units for x in small.layers if isinstance(x, layers.Dense)][:2] == [4, 4]


def test_normalization_by_the_batch_has_no_constants_of_its_moving_averages():
    inputs = keras.Input((4,))
    dense, norm = layers.Dense(6), layers.BatchNormalization()
    x = norm(dense(inputs), training=True)
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, :3] = 0
    dense.set_weights([kernel, bias])
    small = shrink(model)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    for training in (None, False):
        one, two = (ops.convert_to_numpy(m(x, training=training)) for m in (model, small))
        np.testing.assert_allclose(one, two, atol=1e-4)


# Models that only hold others.


class Pair(keras.Model):
    """A generator and a critic with a `train_step` and no `call`, as people write them."""

    def __init__(self, one, two):
        super().__init__()
        self.one, self.parts = one, {"two": two}

    def compute_loss(self, x=None, **kwargs):
        return ops.mean(ops.square(self.parts["two"](self.one(x, training=True))))


def stack(name, *widths):
    inner = [layers.Dense(width, "relu") for width in widths[1:]]
    return keras.Sequential([keras.Input(widths[:1]), *inner], name=name)


def test_a_model_without_a_call_is_worked_on_by_its_parts():
    one, two = stack("one", 4, 8, 6), stack("two", 6, 8, 2)
    pair = Pair(one, two)
    kh.regularize(pair, kh.HoyerSquare(1e-3))
    assert len(one.losses) == len(two.losses) == 2
    kh.prune(pair, kh.criteria.TargetSparsity(0.5), layers=["one"])
    assert kh.report(one).sparsity == pytest.approx(0.5, abs=0.02)
    assert kh.report(two).sparsity == 0
    kh.strip(pair)
    assert one.losses == []
    for call in (shrink, channel_groups, kh.count_flops):
        with pytest.raises(ValueError, match=r"no `call`.*parts: 'one', 'two'"):
            call(pair)


def test_a_model_without_a_call_asks_for_its_parts_to_be_built():
    pair = Pair(keras.Sequential([layers.Dense(3)], name="one"), stack("two", 3, 2))
    with pytest.warns(UserWarning, match="not built: layers one"):
        kh.prune(pair, kh.criteria.TargetSparsity(0.5))
    pair = Pair(keras.Sequential([layers.Dense(3)], name="one"), keras.Sequential(name="two"))
    with pytest.raises(ValueError, match="no `call`, and its parts 'one', 'two' are not built"):
        kh.report(pair)
