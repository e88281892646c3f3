import keras
import numpy as np
import pytest
from cutting import check_shrinks, cut_channels, largest_difference, randomize
from keras import layers, ops

from keras_hoyer.surgery import shrink


def image(*stack, shape=(12, 12, 3), classes=5):
    """A convolution, some layers, a convolution and a classifier."""
    x = inputs = keras.Input(shape)
    x = layers.Conv2D(8, 3, padding="same")(x)
    for layer in stack:
        x = layer(x)
    if len(x.shape) == 4:
        x = layers.Conv2D(6, 3)(x)
        x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def sequence(*stack, shape=(10, 6)):
    x = inputs = keras.Input(shape)
    x = layers.Dense(8)(x)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(4)(x))


IMAGE_STACKS = {
    "batch normalization": [layers.BatchNormalization, layers.ReLU],
    "batch normalization without gamma": [lambda: layers.BatchNormalization(scale=False)],
    "strided convolution": [lambda: layers.Conv2D(9, 3, strides=2, activation="relu")],
    "dilated convolution": [lambda: layers.Conv2D(9, 3, dilation_rate=2, use_bias=False)],
    "grouped convolution": [lambda: layers.Conv2D(12, 3, groups=4, padding="same")],
    "transposed convolution": [lambda: layers.Conv2DTranspose(7, 3, strides=2, padding="same")],
    "depthwise convolution": [
        lambda: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        lambda: layers.ReLU(max_value=6.0),
    ],
    "separable convolution": [
        lambda: layers.SeparableConv2D(7, 3, padding="same", depth_multiplier=2)
    ],
    "group normalization": [lambda: layers.GroupNormalization(4)],
    "instance normalization": [lambda: layers.GroupNormalization(-1)],
    "unit normalization": [layers.UnitNormalization],
    "PReLU": [lambda: layers.PReLU(shared_axes=[1, 2])],
    "PReLU of each place": [layers.PReLU],
    "max pooling": [lambda: layers.MaxPooling2D(2, padding="same")],
    "average pooling": [lambda: layers.AveragePooling2D(3, 2, padding="same")],
    "padding": [lambda: layers.ZeroPadding2D(2)],
    "cropping": [lambda: layers.Cropping2D(1)],
    "upsampling": [lambda: layers.UpSampling2D(2, interpolation="bilinear")],
    "resizing": [lambda: layers.Resizing(9, 9)],
    "global pooling": [layers.GlobalAveragePooling2D],
    "global pooling with kept axes": [
        lambda: layers.GlobalMaxPooling2D(keepdims=True),
        layers.Flatten,
    ],
    "dropout": [lambda: layers.SpatialDropout2D(0.3), lambda: layers.GaussianNoise(0.2)],
    "activations": [lambda: layers.LeakyReLU(0.1), lambda: layers.Activation("swish")],
    "reshape": [lambda: layers.Reshape((144, 8)), lambda: layers.Conv1D(5, 3), layers.Flatten],
    "reshape to rows": [lambda: layers.Reshape((12, -1)), lambda: layers.Flatten()],
    "permute": [lambda: layers.Permute((3, 1, 2)), layers.Flatten],
    "swapped twice": [lambda: layers.Permute((3, 1, 2)), lambda: layers.Permute((2, 3, 1))],
    "softmax over places": [lambda: layers.Softmax(axis=(1, 2))],
    "elementwise lambda": [lambda: layers.Lambda(lambda x: x * 2 - ops.relu(x))],
}


@pytest.mark.parametrize("stack", IMAGE_STACKS.values(), ids=IMAGE_STACKS.keys())
def test_channels_go_through_an_image_layer(stack):
    # A softmax over places makes constants of zeros, which the padding-free readers take up.
    check_shrinks(image(*(make() for make in stack)))


SEQUENCE_STACKS = {
    "dense": [lambda: layers.Dense(7, activation="gelu")],
    "conv": [lambda: layers.Conv1D(7, 3, padding="causal"), lambda: layers.MaxPooling1D(2)],
    "conv transpose": [lambda: layers.Conv1DTranspose(7, 3)],
    "depthwise": [lambda: layers.DepthwiseConv1D(3, padding="same")],
    "separable": [lambda: layers.SeparableConv1D(7, 3)],
    "lstm": [lambda: layers.LSTM(9, return_sequences=True), lambda: layers.LSTM(7)],
    "gru": [lambda: layers.GRU(9, return_sequences=True), lambda: layers.GRU(7, reset_after=False)],
    "simple rnn": [lambda: layers.SimpleRNN(9, return_sequences=True)],
    "bidirectional": [
        lambda: layers.Bidirectional(layers.LSTM(6, return_sequences=True)),
        lambda: layers.Bidirectional(layers.GRU(6), merge_mode="sum"),
    ],
    "time distributed": [lambda: layers.TimeDistributed(layers.Dense(7, activation="relu"))],
    "time distributed flatten": [
        lambda: layers.Reshape((5, 2, 8)),
        lambda: layers.TimeDistributed(layers.Flatten()),
    ],
    "einsum dense": [
        lambda: layers.EinsumDense("abc,cd->abd", (None, 7), bias_axes="d", activation="relu")
    ],
    "einsum dense into heads": [
        lambda: layers.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de"),
        lambda: layers.EinsumDense("abde,def->abf", (None, 6), bias_axes="f"),
    ],
    "einsum dense with an ellipsis": [
        lambda: layers.EinsumDense("...c,cd->...d", (7,), bias_axes="d")
    ],
    "rms normalization": [layers.RMSNormalization, lambda: layers.Dense(5)],
    "unit normalization": [layers.UnitNormalization],
    "repeat": [layers.GlobalMaxPooling1D, lambda: layers.RepeatVector(3)],
    "upsampling and cropping": [lambda: layers.UpSampling1D(2), lambda: layers.Cropping1D(1)],
}


@pytest.mark.parametrize("stack", SEQUENCE_STACKS.values(), ids=SEQUENCE_STACKS.keys())
def test_channels_go_through_a_sequence_layer(stack):
    check_shrinks(sequence(*(make() for make in stack)))


def test_channels_go_through_volumes():
    x = inputs = keras.Input((6, 6, 6, 2))
    x = layers.Conv3D(8, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling3D()(layers.ZeroPadding3D()(x))
    x = layers.Conv3DTranspose(6, 2)(x)
    x = layers.GlobalAveragePooling3D()(x)
    check_shrinks(keras.Model(inputs, layers.Dense(3)(x)))


MERGES = {
    "add": lambda a, b: layers.Add()([a, b]),
    "subtract": lambda a, b: layers.Subtract()([a, b]),
    "multiply": lambda a, b: layers.Multiply()([a, b]),
    "average": lambda a, b: layers.Average()([a, b]),
    "maximum": lambda a, b: layers.Maximum()([a, b]),
    "minimum": lambda a, b: layers.Minimum()([a, b]),
    "concatenate": lambda a, b: layers.Concatenate()([a, b]),
    "concatenate along places": lambda a, b: layers.Concatenate(axis=1)([a, b]),
    "operators": lambda a, b: (a + 2 * b) / 3 - a * b,
    "ops concatenate": lambda a, b: ops.concatenate([a, ops.relu(b)], axis=-1),
    "ops stack": lambda a, b: ops.mean(ops.stack([a, b], axis=1), axis=1),
    "ops where": lambda a, b: ops.where(ops.mean(a, (1, 2), keepdims=True) > 0, a, b),
    "split": lambda a, b: ops.concatenate([*ops.split(a, [3], axis=-1), b], axis=-1),
    "gated half": lambda a, b: a[..., :4] * ops.sigmoid(a[..., 4:]) + b[..., ::2],
    "squeeze and excite": lambda a, b: (
        a
        * layers.Dense(8, activation="sigmoid")(
            layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(b))
        )
    ),
    "ops transpose": lambda a, b: ops.transpose(ops.swapaxes(a, 1, 2) + b, (0, 2, 1, 3)),
    "ops moveaxis": lambda a, b: ops.moveaxis(ops.moveaxis(a, -1, 1), 1, -1) + b,
    "ops pad": lambda a, b: (
        ops.pad(a, [[0, 0], [0, 0], [0, 0], [2, 3]]) + ops.pad(b, [[0, 0], [0, 0], [0, 0], [2, 3]])
    ),
    "ops tile and repeat": lambda a, b: ops.tile(a, (1, 1, 1, 2)) + ops.repeat(b, 2, axis=-1),
    "ops squeeze": lambda a, b: ops.squeeze(ops.expand_dims(ops.flip(a, 1), 3), 3) + b,
    "ops sum": lambda a, b: a + b * ops.sum(b, axis=-1, keepdims=True),
    "ops normalize": lambda a, b: ops.normalize(a, axis=-1) + b,
    "ops broadcast": lambda a, b: (
        a + ops.broadcast_to(ops.mean(b, (0, 1, 2), keepdims=True), (1, 1, 1, 8))
    ),
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES.keys())
def test_channels_are_coupled_where_tensors_meet(merge):
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(8, 3, padding="same")(inputs)
    b = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.Conv2D(5, 3)(merge(a, b))
    check_shrinks(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))), fraction=0.4)


def attention_net(attention, width=12):
    inputs = keras.Input((7, width))
    x = layers.Dense(width)(inputs)
    x = layers.Dense(6)(attention(x))
    return keras.Model(inputs, layers.Dense(3)(x))


ATTENTIONS = {
    "multi head": lambda: layers.MultiHeadAttention(3, 4),
    "multi head with other widths": lambda: layers.MultiHeadAttention(
        3, 4, value_dim=5, output_shape=9, use_bias=False
    ),
    "grouped query": lambda: layers.GroupQueryAttention(4, 6, 3),
}


@pytest.mark.parametrize("make", ATTENTIONS.values(), ids=ATTENTIONS.keys())
@pytest.mark.parametrize("causal", [False, True])
def test_heads_and_widths_of_attention_go(make, causal):
    layer = make()
    check_shrinks(attention_net(lambda x: layer(x, x, use_causal_mask=causal)))


def test_channels_go_through_dot_products():
    inputs = keras.Input((7, 4))
    query, key, value = (layers.Dense(6)(inputs) for _ in range(3))
    one = layers.Attention()([query, value, key])
    two = layers.Dot(axes=(2, 2))([layers.Dense(5)(inputs), layers.Dense(5)(inputs)])
    q, k, v = (layers.Dense(8)(inputs) for _ in range(3))
    q, k, v = (ops.reshape(x, (-1, 7, 4, 2)) for x in (q, k, v))
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
    three = ops.reshape(ops.einsum("bhqk,bkhd->bqhd", scores, v), (-1, 7, 8))
    scores = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))))
    four = ops.matmul(scores, value)
    x = layers.Concatenate()([one, two, three, four])
    check_shrinks(keras.Model(inputs, layers.Dense(3)(x)))
