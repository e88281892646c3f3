import itertools

import keras
import numpy as np
import pytest
from cutting import largest_difference, randomize
from keras import layers, ops

import keras_hoyer as kh
from keras_hoyer.graph.costs import Costs, count_flops
from keras_hoyer.graph.walk import ChannelGraph


def total(make, shape, calls=1):
    """The multiply-adds of a model with one layer."""
    x = inputs = keras.Input(shape)
    layer = make()
    for _ in range(calls):
        x = layer(x)
    return sum(count_flops(keras.Model(inputs, x)).values())


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda: layers.Dense(7), (5, 3), 5 * 3 * 7),
        (lambda: layers.Conv1D(7, 3), (10, 4), 8 * 3 * 4 * 7),
        (lambda: layers.Conv2D(6, 3, 2, padding="same"), (9, 9, 4), 25 * 9 * 4 * 6),
        (lambda: layers.Conv2D(6, 3, groups=2), (9, 9, 4), 49 * 9 * 2 * 6),
        (lambda: layers.Conv3D(2, 2), (3, 3, 3, 2), 8 * 8 * 2 * 2),
        (lambda: layers.Conv2DTranspose(6, 3, 2), (5, 5, 4), 25 * 9 * 4 * 6),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (9, 9, 4), 49 * 9 * 8),
        (lambda: layers.SeparableConv2D(6, 3), (9, 9, 4), 49 * (9 * 4 + 4 * 6)),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (5, 4), 5 * 4 * 6),
        (lambda: layers.LSTM(6), (5, 4), 5 * (4 + 6) * 4 * 6),
        (lambda: layers.GRU(6), (5, 4), 5 * (4 + 6) * 3 * 6),
        (lambda: layers.Bidirectional(layers.SimpleRNN(6)), (5, 4), 2 * 5 * (4 + 6) * 6),
        (lambda: layers.TimeDistributed(layers.Conv2D(2, 3)), (3, 5, 5, 1), 3 * 9 * 9 * 2),
        (layers.BatchNormalization, (5, 4), 0),
    ],
)
def test_multiply_adds_of_a_layer(make, shape, expected):
    assert total(make, shape) == expected


def test_multiply_adds_of_attention():
    query, value = keras.Input((5, 8)), keras.Input((7, 6))
    x = layers.MultiHeadAttention(2, 3, value_dim=4, name="attention")(query, value)
    projections = 5 * 8 * 6 + 7 * 6 * 6 + 7 * 6 * 8 + 5 * 8 * 8
    products = 5 * 7 * 2 * (3 + 4)
    assert count_flops(keras.Model([query, value], x)) == {"attention": projections + products}


def test_multiply_adds_of_plain_operations():
    one, two = keras.Input((5, 8)), keras.Input((8, 7))
    x = ops.matmul(one, two) + ops.einsum("bij,bjk->bik", one, two) + layers.Dot((2, 1))([one, two])
    assert sum(count_flops(keras.Model([one, two], x)).values()) == 3 * 5 * 8 * 7


def test_each_call_of_a_shared_layer_counts():
    assert total(lambda: layers.Dense(3), (3,), calls=4) == 4 * 9


def test_a_nested_model_counts_at_the_size_it_is_called_with():
    inner = keras.Sequential(
        [keras.Input((None, None, 2)), layers.Conv2D(3, 3, name="conv")], name="inner"
    )
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, layers.Flatten()(inner(inputs)))
    assert count_flops(model) == {"inner/conv": 16 * 9 * 2 * 3}


def test_the_count_agrees_with_the_multiplications_of_an_unrolled_convolution():
    # The gradient with respect to a kernel of ones counts what each of its entries is used for.
    x = inputs = keras.Input((7, 6, 3))
    layer = layers.Conv2D(4, (3, 2), 2, padding="valid", use_bias=False, kernel_initializer="ones")
    model = keras.Model(inputs, layer(x))
    products = np.sum(ops.convert_to_numpy(model(np.ones((1, 7, 6, 3), "float32"))))
    assert count_flops(model) == {layer.name: products}


def test_costs_add_up_to_the_multiply_adds():
    x = inputs = keras.Input((8, 8, 4))
    x = layers.SeparableConv2D(6, 3)(layers.Conv2D(4, 3, groups=2)(x))
    x = layers.Bidirectional(layers.LSTM(3))(layers.Reshape((16, 6))(x))
    shared = layers.Dense(6)
    model = keras.Model(inputs, shared(shared(x)))
    costs = Costs(ChannelGraph(model, values=False))
    pairs = list(zip(costs.all, costs.uses(), strict=True))
    numbers = [np.prod(cost.kernel.shape) * uses for cost, uses in pairs]
    assert sum(numbers) == costs.total == sum(count_flops(model).values())
    assert sum(uses for cost, uses in pairs if cost.kernel is shared.kernel) == 2


KERNEL = np.ones((4, 7), "float32")


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda x: ops.matmul(x, KERNEL), 9 * 4 * 7),
        (lambda x: ops.dot(x, KERNEL), 9 * 4 * 7),
        (lambda x: ops.tensordot(x, KERNEL, 1), 9 * 4 * 7),
        (lambda x: ops.tensordot(x, KERNEL, [[2], [0]]), 9 * 4 * 7),
        (lambda x: ops.einsum("...i,ij->...j", x, KERNEL), 9 * 4 * 7),
        (lambda x: ops.einsum("bij,jk", x, KERNEL), 9 * 4 * 7),
        (lambda x: ops.einsum("bij,bij->b", x, x), 9 * 4),
        (lambda x: ops.conv(x, np.ones((3, 4, 6), "float32")), 7 * 3 * 4 * 6),
        (lambda x: ops.depthwise_conv(x, np.ones((3, 4, 2), "float32")), 7 * 3 * 8),
        (lambda x: ops.conv_transpose(x, np.ones((3, 6, 4), "float32"), 2), 9 * 3 * 4 * 6),
        (
            lambda x: ops.separable_conv(
                x, np.ones((3, 4, 2), "float32"), np.ones((1, 8, 5), "float32")
            ),
            7 * (3 * 8 + 8 * 5),
        ),
        (lambda x: ops.relu(x) + x, 0),
    ],
)
def test_multiply_adds_of_an_operation(operation, expected):
    inputs = keras.Input((9, 4))
    assert sum(count_flops(keras.Model(inputs, operation(inputs))).values()) == expected


def test_products_of_attention_are_those_of_its_tensors():
    q, k, v = keras.Input((9, 3, 4)), keras.Input((7, 3, 4)), keras.Input((7, 3, 4))
    model = keras.Model([q, k, v], ops.dot_product_attention(q, k, v))
    assert sum(count_flops(model).values()) == 9 * 7 * 3 * (4 + 4)
    q, v = keras.Input((9, 4)), keras.Input((7, 4))
    for layer, widths in (
        (layers.Attention(), 4 + 4),
        (layers.Attention(score_mode="concat"), 4),
        (layers.AdditiveAttention(), 4),
    ):
        model = keras.Model([q, v], layer([q, v]))
        assert sum(count_flops(model).values()) == 9 * 7 * widths


def test_attention_along_one_axis_compares_the_places_of_that_axis():
    x = keras.Input((5, 9, 4))
    model = keras.Model(x, layers.MultiHeadAttention(2, 3, attention_axes=(2,))(x, x))
    assert sum(count_flops(model).values()) == 5 * 9 * 4 * 6 * 4 + 2 * 5 * 9 * 9 * 2 * 3


def cnn():
    return keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Conv2D(3, 3), layers.Conv2D(4, 3), layers.Flatten()]
    )


class OwnBlock(layers.Layer):
    """A residual block with layers inside."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(width, "relu"), layers.Dense(4)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], self.up.units))

    def call(self, x):
        return x + self.down(self.up(x))

    def compute_output_shape(self, shape):
        return shape


class OwnKernel(layers.Layer):
    """A product with a weight of its own."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 6), name="table")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign(self.calls + 1)
        return ops.matmul(x, self.table)


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda: layers.TimeDistributed(cnn()), (5, 6, 6, 2), 5 * (16 * 54 + 4 * 108)),
        (lambda: layers.TimeDistributed(OwnBlock(8)), (5, 4), 5 * 64),
        (lambda: layers.ConvLSTM1D(8, 3, padding="same"), (5, 16, 3), 5 * 16 * 3 * (3 + 8) * 32),
        (
            lambda: layers.RNN([layers.LSTMCell(5), layers.GRUCell(6)]),
            (9, 4),
            9 * ((4 + 5) * 20 + (5 + 6) * 18),
        ),
        (
            lambda: layers.Bidirectional(layers.RNN(layers.SimpleRNNCell(8))),
            (9, 4),
            2 * 9 * (4 + 8) * 8,
        ),
        (lambda: layers.SpectralNormalization(layers.Conv1D(8, 3)), (9, 4), 7 * 3 * 4 * 8),
        (lambda: OwnBlock(8), (9, 4), 9 * 64),
        (OwnKernel, (9, 4), 9 * 4 * 6),
        (lambda: layers.Lambda(lambda x: ops.einsum("bic,bjc->bij", x, x)), (9, 4), 9 * 9 * 4),
    ],
)
@pytest.mark.filterwarnings("ignore:No cut of channels")
def test_a_layer_without_a_rule_counts_as_what_it_calls(make, shape, expected):
    assert total(make, shape) == expected


def test_counting_leaves_a_layer_as_it_was():
    inputs = keras.Input((9, 4))
    layer = OwnKernel(name="own")
    model = keras.Model(inputs, layer(inputs))
    layer.calls.assign(5)
    assert count_flops(model) == {"own": 9 * 4 * 6}
    assert float(ops.convert_to_numpy(layer.calls)) == 5


def test_a_layer_that_cannot_be_seen_counts_at_least_once_and_is_named():
    class Blind(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 6), name="kernel")

        def call(self, x):
            if type(x) is keras.KerasTensor:
                raise TypeError("only numbers")
            return ops.matmul(x, self.kernel)

        def compute_output_shape(self, shape):
            return (*shape[:-1], 6)

    inputs = keras.Input((9, 4))
    model = keras.Model(inputs, layers.Dense(3)(Blind(name="blind")(inputs)))
    with pytest.warns(UserWarning, match="the least there can be. What Blind 'blind'"):
        assert count_flops(model) == {"blind": 24, model.layers[-1].name: 9 * 18}
    report = kh.report(model)
    assert "Blind 'blind'" in report.at_least
    assert "Blind 'blind'" in str(report)


class Projection(layers.Layer):
    """A dense layer with a rule of its own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.kernel_regularizer = self.kernel_constraint = None

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x):
        return ops.matmul(x, self.kernel)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@kh.graph.register_rule(Projection)
def _projection(graph, layer, x):
    out = graph.channels(layer, "units", layer.units)
    graph.weight(layer.kernel, [x.axes[-1], out], reads=[0])
    kernel = graph.value(layer.kernel)
    graph.read(x.axes[-1], None if kernel is None else kernel != 0, [out])
    graph.resize(layer, lambda size: {"units": size(out)})
    return x.replace(-1, out)


def test_a_rule_that_says_nothing_of_uses_counts_a_kernel_once_a_place():
    assert total(lambda: Projection(6), (5, 3, 4)) == 5 * 3 * 4 * 6
    assert total(lambda: layers.TimeDistributed(Projection(6)), (5, 3, 4)) == 5 * 3 * 4 * 6


def test_target_flops_counts_layers_with_a_rule_of_their_own():
    model = keras.Sequential(
        [keras.Input((5, 4)), Projection(32), layers.ReLU(), Projection(32), layers.ReLU()]
    )
    model.add(layers.GlobalMaxPooling1D())
    model.add(layers.Dense(3))
    before = sum(count_flops(model).values())
    kh.prune(model, kh.criteria.TargetFlops(0.5), kh.patterns.Channel())
    left = sum(count_flops(kh.shrink(model)).values()) / before
    assert 0.47 < left <= 0.5


def test_a_kernel_that_reads_nothing_counts_as_its_rule_says():
    class Scaled(layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],), name="gain")

        def call(self, x):
            return x * self.gain

    @kh.graph.register_rule(Scaled)
    def _scaled(graph, layer, x):
        graph.weight(layer.gain, [x.axes[-1]], uses=x.places(-1))
        return x

    assert total(Scaled, (5, 3, 4)) == 5 * 3 * 4


def attention_net(kind):
    x = inputs = keras.Input((30, 12))
    x = layers.Dense(12)(x)
    if kind == "multi-head":
        x = layers.MultiHeadAttention(4, 8)(x, x)
    elif kind == "grouped":
        x = layers.GroupQueryAttention(8, 6, 2)(x, x)
    elif kind == "attention":
        x = layers.Attention()([layers.Dense(16)(x), layers.Dense(16)(x)])
    elif kind == "plain":
        q, k = layers.Dense(16)(x), layers.Dense(16)(x)
        scores = ops.softmax(ops.einsum("bqd,bkd->bqk", q, k))
        x = ops.matmul(scores, layers.Dense(24)(x))
    x = layers.GlobalAveragePooling1D()(layers.Dense(16, "relu")(x))
    return randomize(keras.Model(inputs, layers.Dense(5)(x)))


def recurrent_net():
    x = inputs = keras.Input((9, 5))
    x = layers.GRU(12, return_sequences=True)(x)
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(7))(x)
    return randomize(keras.Model(inputs, layers.Dense(2)(layers.SimpleRNN(9)(x))))


def image_net():
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(12, 1)(layers.SeparableConv2D(16, 3)(x))
    x = layers.Conv2D(12, 3, groups=4)(layers.DepthwiseConv2D(3, depth_multiplier=1)(x))
    x = layers.Flatten()(layers.Conv2D(4, 1)(layers.Conv2DTranspose(12, 3, 2)(x)))
    return randomize(keras.Model(inputs, layers.Dense(3)(x)))


def sizes_net():
    """A nested model that is called on two sizes, neither of them its own."""
    inner = keras.Sequential(
        [keras.Input((None, None, 4)), layers.Conv2D(8, 3), layers.Conv2D(4, 3)]
    )
    one, two, first = keras.Input((8, 8, 3)), keras.Input((12, 12, 3)), layers.Conv2D(4, 1)
    x = [layers.GlobalAveragePooling2D()(inner(first(x))) for x in (one, two)]
    x = layers.Dense(2)(layers.Dense(8)(layers.Concatenate()(x)))
    return randomize(keras.Model([one, two], x))


def mixer_net():
    """Channels that number the places of another kernel."""
    x = inputs = keras.Input((9, 6))
    x = layers.Permute((2, 1))(layers.Dense(16)(x))
    x = layers.Permute((2, 1))(layers.Dense(14, "relu")(x))
    return randomize(keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling1D()(x))))


NETS = {
    **{kind: lambda kind=kind: attention_net(kind) for kind in ("multi-head", "grouped")},
    **{kind: lambda kind=kind: attention_net(kind) for kind in ("attention", "plain")},
    "recurrent": recurrent_net,
    "image": image_net,
    "sizes": sizes_net,
    "mixer": mixer_net,
}


@pytest.mark.parametrize(("net", "fraction"), zip(NETS, itertools.cycle([0.6, 0.25]), strict=False))
def test_target_flops_report_and_count_flops_are_of_one_account(net, fraction):
    model = NETS[net]()
    before = sum(count_flops(model).values())
    kh.prune(model, kh.criteria.TargetFlops(fraction), kh.patterns.Channel())
    small = kh.shrink(model)
    left = sum(count_flops(small).values())
    assert left <= fraction * before
    assert left > 0.8 * fraction * before
    report = kh.report(model)
    assert (report.flops, report.flops_left) == (before, left)
    assert largest_difference(model, small) <= 1e-4


def test_a_report_of_some_layers_counts_what_is_within_them():
    model = attention_net("multi-head")
    counts = count_flops(model)
    [name] = [n for n in counts if "attention" in n]
    assert kh.report(model, [name]).flops == counts[name]
    rows = [line.split()[0] for line in str(kh.report(model)).splitlines()]
    assert "products" in rows


class Attending(layers.Layer):
    """Two kernels and two products of tensors."""

    def __init__(self, units):
        super().__init__()
        self.first, self.last = layers.Dense(3 * units), layers.Dense(units)

    def call(self, x):
        x = ops.reshape(self.first(x), (-1, ops.shape(x)[1], self.first.units))
        return self.last(ops.matmul(ops.softmax(ops.matmul(x, ops.transpose(x, (0, 2, 1)))), x))


class Windows(layers.Layer):
    """Computes with its length, so that it is opened on a length of its own."""

    def __init__(self, units):
        super().__init__()
        self.inside, self.alone = Attending(units), layers.Dense(units, use_bias=False)

    def call(self, x):
        batch, length, width = ops.shape(x)
        rows = ops.reshape(x, (batch * length, width))
        x = self.inside(x) + ops.reshape(self.alone(rows), (batch, length, width))
        return ops.reshape(ops.reshape(x, (batch, length * width)), (batch, length, width))


def test_an_open_length_is_one_step_in_layers_that_are_opened_with_one_too():
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, Windows(8)(inputs))
    assert sum(count_flops(model).values()) == 8 * 24 + 2 * 24 + 24 * 8 + 8 * 8
