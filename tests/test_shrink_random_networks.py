"""Shrinking networks that nobody drew by hand."""

import keras
from cutting import largest_difference, randomize, zero_slices
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_hoyer.graph.shrink import shrink

SIZE = 6


def squeeze_and_excite(x):
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    return layers.Multiply()([x, layers.Conv2D(channels, 1, activation="sigmoid")(gate)])


def heads(x):
    channels = x.shape[-1]
    y = layers.Reshape((SIZE * SIZE, channels))(x)
    return layers.Reshape((SIZE, SIZE, channels))(layers.MultiHeadAttention(2, 3)(y, y) + y)


def halves(x):
    one, two = ops.split(x, 2, axis=-1)
    return ops.concatenate([two, ops.tanh(one)], axis=-1)


def shuffle(x):
    channels = x.shape[-1]
    y = ops.reshape(x, (-1, SIZE, SIZE, 2, channels // 2))
    return ops.reshape(ops.transpose(y, (0, 1, 2, 4, 3)), (-1, SIZE, SIZE, channels))


# All widths are even, so that each of them takes any tensor.
ONE = {
    "conv": lambda x, n: layers.Conv2D(n, 3, padding="same", activation="relu")(x),
    "pointwise": lambda x, n: layers.Conv2D(n, 1, use_bias=False)(x),
    "depthwise": lambda x, n: layers.DepthwiseConv2D(3, padding="same")(x),
    "multiplied": lambda x, n: layers.DepthwiseConv2D(1, depth_multiplier=2)(x),
    "separable": lambda x, n: layers.SeparableConv2D(n, 3, padding="same")(x),
    "grouped": lambda x, n: layers.Conv2D(n, 3, padding="same", groups=2)(x),
    "transposed": lambda x, n: layers.Conv2DTranspose(n, 3, padding="same")(x),
    "dense": lambda x, n: layers.Dense(n, "gelu")(x),
    "batch norm": lambda x, n: layers.BatchNormalization()(x),
    "layer norm": lambda x, n: layers.LayerNormalization()(x),
    "group norm": lambda x, n: layers.GroupNormalization(2)(x),
    "relu": lambda x, n: layers.ReLU()(x),
    "prelu": lambda x, n: layers.PReLU(shared_axes=[1, 2])(x),
    "sigmoid": lambda x, n: ops.sigmoid(x),
    "pool": lambda x, n: layers.MaxPooling2D(3, 1, padding="same")(x),
    "down and up": lambda x, n: layers.UpSampling2D()(layers.AveragePooling2D(2)(x)),
    "squeeze and excite": lambda x, n: squeeze_and_excite(x),
    "heads": lambda x, n: heads(x),
    "halves": lambda x, n: halves(x),
    "shuffle": lambda x, n: shuffle(x),
    "padded": lambda x, n: ops.pad(x, [[0, 0], [0, 0], [0, 0], [1, 1]]),
    "some": lambda x, n: x[..., 1:-1] if x.shape[-1] > 4 else x,
}
TWO = {
    "add": lambda x, y: layers.Add()([x, y]),
    "product": lambda x, y: x * y,
    "maximum": lambda x, y: layers.Maximum()([x, y]),
    "difference": ops.subtract,
    "average": lambda x, y: layers.Average()([x, y]),
}

# What is done, to which of the tensors so far, with which other one, and how wide it becomes.
STEPS = st.lists(
    st.tuples(
        st.sampled_from([*ONE, *TWO, "join"]),
        st.integers(0, 20),
        st.integers(0, 20),
        st.sampled_from([4, 6, 8]),
    ),
    min_size=3,
    max_size=9,
)


def build(steps, flatten):
    """The network of these steps; tensors that differ in width meet by a convolution."""
    inputs = keras.Input((SIZE, SIZE, 4))
    tensors = [inputs, layers.Conv2D(6, 3, padding="same")(inputs)]
    for kind, first, second, width in steps:
        # Mostly the latest, so that networks are deep.
        x, y = tensors[-1 - first % min(2, len(tensors))], tensors[second % len(tensors)]
        if kind == "join":
            x = layers.Concatenate()([x, y])
        elif kind in TWO:
            if x.shape[-1] != y.shape[-1]:
                y = layers.Conv2D(x.shape[-1], 1)(y)
            x = TWO[kind](x, y)
        else:
            x = ONE[kind](x, width)
        tensors.append(x)
    flat = layers.Flatten() if flatten else layers.GlobalAveragePooling2D()
    return keras.Model(inputs, layers.Dense(3)(flat(layers.Conv2D(6, 1)(tensors[-1]))))


# JAX compiles each operation of each network anew.
EXAMPLES = 6 if keras.backend.backend() == "jax" else 20


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(STEPS, st.booleans(), st.integers(0, 1000))
def test_a_random_network_gives_the_same_outputs(steps, flatten, seed):
    keras.backend.clear_session()
    model = randomize(build(steps, flatten), seed)
    zero_slices(model, seed)
    small = shrink(model)
    assert largest_difference(model, small) <= 1e-4
    assert [w.shape for w in shrink(small).weights] == [w.shape for w in small.weights]
