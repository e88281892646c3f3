import keras
import numpy as np
import pytest
from cutting import to_numpy
from keras import layers, ops

from keras_hoyer.graph.undrawn import without_drawing


def initializers_in(layer):
    return {
        (number, name): type(value)
        for number, part in enumerate(layer._flatten_layers())
        for name, value in vars(part).items()
        if isinstance(value, keras.Initializer)
    }


SHAPES = {
    "Dense": (lambda: layers.Dense(3), (2, 4)),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(3, 2), (2, 5, 5, 4)),
    "LSTM": (lambda: layers.LSTM(3), (2, 5, 4)),
    "Bidirectional": (lambda: layers.Bidirectional(layers.GRU(3)), (2, 5, 4)),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(3)), (2, 5, 4)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_layer_is_built_with_zeros_and_keeps_its_initializers(kind):
    make, shape = SHAPES[kind]
    drawn, undrawn = make(), make()
    drawn(ops.ones(shape))
    with without_drawing(undrawn):
        undrawn(ops.ones(shape))
    assert initializers_in(undrawn) == initializers_in(drawn)
    for one, two in zip(drawn.weights, undrawn.weights, strict=True):
        one, two = to_numpy(one), to_numpy(two)
        assert one.shape == two.shape
        np.testing.assert_array_equal(two, 0 if one.std() > 0 and one.ndim > 1 else one)


def test_layers_made_while_building_keep_their_initializers():
    def attention():
        return layers.MultiHeadAttention(2, 3, kernel_initializer=keras.initializers.HeNormal(7))

    drawn, undrawn = attention(), attention()
    x = keras.Input((5, 4))
    drawn(x, x)
    with without_drawing(undrawn):
        undrawn(x, x)
    assert initializers_in(undrawn) == initializers_in(drawn)
    assert undrawn._query_dense.kernel_initializer.seed == 7


def test_a_built_layer_and_a_failing_one_are_left_as_they_are():
    layer = layers.Dense(3)
    before = initializers_in(layer)
    with pytest.raises(ValueError, match="stop"), without_drawing(layer):
        raise ValueError("stop")
    assert initializers_in(layer) == before
    layer.build((None, 4))
    with without_drawing(layer):
        assert initializers_in(layer) == before


def test_initializers_that_are_not_random_are_asked():
    layer = layers.Dense(
        3,
        kernel_initializer="ones",
        bias_initializer=lambda shape, dtype: ops.full(shape, 5, dtype),
    )
    with without_drawing(layer):
        layer(ops.ones((2, 4)))
    assert (to_numpy(layer.kernel) == 1).all()
    assert (to_numpy(layer.bias) == 5).all()
