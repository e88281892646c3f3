import keras
import numpy as np
import pytest
from keras import layers, ops

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


def test_kernel_uses_add_up_to_the_multiply_adds():
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
