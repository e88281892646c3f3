"""Constants that meet the scale of attention: NumPy in float64 computes both layers."""

import keras
import numpy as np
import pytest
from cutting import largest_difference, randomize, to_numpy
from keras import layers

from keras_hoyer import shrink


def attended(layer, query, value):
    """The outputs of multi-head attention, from its weights."""
    weights = [to_numpy(w).astype("float64") for w in layer.weights]
    (wq, bq), (wk, bk), (wv, bv), (wo, bo) = (weights[i : i + 2] for i in (0, 2, 4, 6))
    q, k, v = (
        np.einsum("btc,chw->bhtw", x, w) + b[:, None]
        for x, w, b in ((query, wq, bq), (value, wk, bk), (value, wv, bv))
    )
    scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    result = scores / scores.sum(-1, keepdims=True) @ v
    return np.einsum("bhtw,hwo->bto", result, wo) + bo


def with_constants(attention, seed, activation="sigmoid"):
    """A model whose attention reads a query of which two channels are constant."""
    inputs = keras.Input((5, 6))
    dense = layers.Dense(8, activation, name="dense")
    model = randomize(keras.Model(inputs, attention(dense(inputs), inputs)), seed)
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 6:] = 0
    bias[6:] = [0.4, 1.5]
    dense.set_weights([kernel, bias])
    return model


def cut_widths(attention, kept, names=("query_dense", "key_dense")):
    """Zeroes what makes the last widths of query and key."""
    for dense in (getattr(attention, n, None) or getattr(attention, f"_{n}") for n in names):
        for variable in (dense.kernel, dense.bias):
            values = np.array(to_numpy(variable))
            values[..., kept:] = 0
            variable.assign(values)


@pytest.mark.parametrize("kept", [1, 3, 4])
@pytest.mark.parametrize("size", [0.1, 1.0, 20.0])
def test_a_constant_query_is_scaled_as_the_query_is(kept, size):
    layer = layers.MultiHeadAttention(2, 4, name="attention")
    model = with_constants(layer, seed=kept)
    kernel = np.array(to_numpy(layer.query_dense.kernel))
    kernel[6:] *= size
    layer.query_dense.kernel.assign(kernel)
    cut_widths(layer, kept)
    small = shrink(model, check=False)
    copy = small.get_layer("attention")
    assert small.get_layer("dense").units == 6
    width = 4 if keras.backend.backend() == "jax" else kept  # as wide as the values there
    assert copy.query_dense.kernel.shape == (6, 2, width)
    x = np.random.default_rng(0).normal(size=(3, 5, 6))
    outputs = []
    for net in (model, small):
        w, b = (to_numpy(v).astype("float64") for v in net.get_layer("dense").weights)
        outputs.append(attended(net.get_layer("attention"), 1 / (1 + np.exp(-x @ w - b)), x))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5 * np.abs(outputs[0]).max())


def test_a_grouped_query_is_scaled_as_well():
    inputs = keras.Input((5, 6))
    dense, other = layers.Dense(8, "sigmoid", name="dense"), layers.Dense(8, name="other")
    layer = layers.GroupQueryAttention(4, 6, 3, name="attention")
    x = layers.Concatenate()([dense(inputs), other(inputs)])
    model = randomize(keras.Model(inputs, layers.Dense(2, name="head")(layer(x, x))))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 6:], bias[6:] = 0, [0.4, 1.5]
    dense.set_weights([kernel, bias])
    cut_widths(layer, 2, ("query_dense", "key_dense", "value_dense"))  # they have one width
    for index in (6, 7):  # no output of these channels, so that they can go from the query
        for variable, axis in zip(layer._output_dense.weights, (2, 0), strict=True):
            values = np.moveaxis(np.array(to_numpy(variable)), axis, 0).copy()
            values[index] = 0
            variable.assign(np.moveaxis(values, 0, axis))
    small = shrink(model, check=False)
    assert [small.get_layer("dense").units, small.get_layer("attention").head_dim] == [6, 2]
    assert largest_difference(model, small) <= 1e-5
