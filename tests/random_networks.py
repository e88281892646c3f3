"""Networks that nobody drew by hand: kinds of layers and operations, put together at random.

A kind is one function from a `Network` and a tensor to the tensor, or the list of tensors, that
comes out. `KINDS` names them all, with the ranks of the tensors that they take.
"""

import keras
import numpy as np
from keras import layers, ops
from own_layers import (
    Block,
    Both,
    Centered,
    Cube,
    Gain,
    Gated,
    Mixed,
    Noisy,
    Powered,
    Scaled,
    Stretched,
    Weighed,
)

FEATURES, SEQUENCE, IMAGE, VOLUME = 2, 3, 4, 5  # what a rank stands for
KINDS = {}


def kind(*ranks, known=False):
    """Names a kind by its function; `known` asks for tensors all of whose sizes are known."""

    def register(function):
        KINDS[function.__name__] = (function, ranks or (2, 3, 4, 5), known)
        return function

    return register


class Network:
    """A network under construction: its tensors so far, and the choices of the present step."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.inputs = []
        self.tensors = []

    def pick(self, *values):
        return values[self.rng.integers(len(values))]

    def width(self):
        return self.pick(4, 6, 8)  # all even, so that halves and pairs can be made of any

    def flag(self):
        return bool(self.rng.random() < 0.5)

    def activation(self):
        return self.pick(None, "relu", "relu", "tanh", "sigmoid", "gelu", "silu", "softplus", "elu")

    def input(self, shape, dtype="float32"):
        self.inputs.append(keras.Input(shape, dtype=dtype))
        return self.inputs[-1]

    def like(self, x):
        """A tensor of the same shape, an earlier one if there is one."""
        # Sizes that are not known can be any two.
        others = [] if None in x.shape[1:] else [y for y in self.tensors if y is not x]
        found = [y for y in others if tuple(y.shape) == tuple(x.shape)]
        if found and self.flag():
            return found[self.rng.integers(len(found))]
        near = [y for y in others if tuple(y.shape[:-1]) == tuple(x.shape[:-1])]
        return layers.Dense(x.shape[-1], self.activation())(self.pick(x, *near))


# Convolutions.


@kind(IMAGE)
def conv(net, x):
    stride = net.pick(1, 1, 2)
    return layers.Conv2D(
        net.width(), 3, stride, padding="same", activation=net.activation(), use_bias=net.flag()
    )(x)


@kind(IMAGE)
def valid_conv(net, x):
    if min(x.shape[1:3]) < 3:
        x = layers.UpSampling2D(3)(x)
    return layers.Conv2D(net.width(), 2, activation=net.activation(), use_bias=net.flag())(x)


@kind(IMAGE)
def dilated_conv(net, x):
    return layers.Conv2D(net.width(), 2, dilation_rate=2, padding="same")(x)


@kind(IMAGE)
def conv_of_one_place(net, x):
    return layers.Conv2D(net.width(), 1, activation=net.activation(), use_bias=net.flag())(x)


@kind(IMAGE)
def grouped_conv(net, x):
    return layers.Conv2D(net.pick(4, 6), 3, padding="same", groups=2, use_bias=net.flag())(x)


@kind(IMAGE)
def depthwise_conv(net, x):
    return layers.DepthwiseConv2D(3, padding=net.pick("same", "same", "valid"))(
        layers.ZeroPadding2D(1)(x)
    )


@kind(IMAGE)
def multiplied_depthwise_conv(net, x):
    return layers.DepthwiseConv2D(1, depth_multiplier=2, use_bias=net.flag())(x)


@kind(IMAGE)
def separable_conv(net, x):
    return layers.SeparableConv2D(net.width(), 3, padding="same", use_bias=net.flag())(x)


@kind(IMAGE)
def transposed_conv(net, x):
    return layers.Conv2DTranspose(net.width(), 3, padding="same", use_bias=net.flag())(x)


@kind(SEQUENCE)
def conv_1d(net, x):
    return layers.Conv1D(
        net.width(), 3, padding=net.pick("same", "causal"), activation=net.activation()
    )(x)


@kind(SEQUENCE)
def depthwise_conv_1d(net, x):
    return layers.DepthwiseConv1D(2, padding="same")(x)


@kind(SEQUENCE)
def separable_conv_1d(net, x):
    return layers.SeparableConv1D(net.width(), 2, padding="same", activation=net.activation())(x)


@kind(SEQUENCE)
def transposed_conv_1d(net, x):
    return layers.Conv1DTranspose(net.width(), 3, padding="same")(x)


@kind(VOLUME)
def conv_3d(net, x):
    return layers.Conv3D(net.width(), 2, padding="same", activation=net.activation())(x)


@kind(VOLUME)
def transposed_conv_3d(net, x):
    return layers.Conv3DTranspose(net.width(), 2, padding="same")(x)


# Dense layers and their like.


@kind()
def dense(net, x):
    return layers.Dense(net.width(), net.activation(), use_bias=net.flag())(x)


@kind()
def dense_softmax(net, x):
    return layers.Dense(net.width(), "softmax")(x)


@kind(SEQUENCE)
def einsum_dense(net, x):
    n = net.width()
    return layers.EinsumDense("abc,cd->abd", (None, n), bias_axes=net.pick(None, "d"))(x)


@kind(SEQUENCE, known=True)
def einsum_dense_of_heads(net, x):
    x = layers.EinsumDense("abc,cde->abde", (x.shape[1], 2, 3), bias_axes=net.pick(None, "de"))(x)
    return layers.EinsumDense("abde,def->abf", (x.shape[1], net.width()), bias_axes="f")(x)


@kind(SEQUENCE, known=True)
def einsum_dense_over_steps(net, x):
    return layers.EinsumDense("abc,bd->adc", (x.shape[1], x.shape[-1]), bias_axes="c")(x)


@kind(FEATURES, SEQUENCE, IMAGE)
def gated_unit(net, x):
    one, two = ops.split(layers.Dense(2 * net.width())(x), 2, axis=-1)
    return one * ops.silu(two)


@kind(FEATURES, SEQUENCE, IMAGE)
def residual(net, x):
    y = layers.Dense(net.width(), "relu")(x)
    return x + layers.Dense(x.shape[-1])(y)


@kind(IMAGE)
def squeeze_and_excite(net, x):
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    return layers.Multiply()([x, layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(gate)])


@kind(FEATURES)
def spectral_normalization(net, x):
    return layers.SpectralNormalization(layers.Dense(net.width()))(x)


# Normalisation.


@kind()
def batch_normalization(net, x):
    return layers.BatchNormalization(center=net.flag(), scale=net.flag())(x)


@kind()
def batch_normalization_and_activation(net, x):
    return layers.Activation(net.pick("relu", "sigmoid", "tanh"))(layers.BatchNormalization()(x))


@kind(FEATURES, SEQUENCE, IMAGE)
def frozen_batch_normalization(net, x):
    return layers.BatchNormalization()(x, training=False)


@kind()
def layer_normalization(net, x):
    return layers.LayerNormalization()(x)


@kind(SEQUENCE, IMAGE)
def group_normalization(net, x):
    return layers.GroupNormalization(net.pick(1, 2, -1))(x)


@kind(FEATURES, SEQUENCE, IMAGE)
def rms_normalization(net, x):
    return layers.RMSNormalization(epsilon=net.pick(1e-6, 0.1))(x)


@kind(FEATURES, SEQUENCE, IMAGE)
def unit_normalization(net, x):
    return layers.UnitNormalization()(x)


@kind(FEATURES, SEQUENCE)
def normalized_by_an_operation(net, x):
    return ops.normalize(x + 0.1, axis=-1)


@kind()
def adapted_normalization(net, x):
    layer = layers.Normalization()
    layer.adapt(net.rng.normal(2, 3, (20, *(n or 3 for n in x.shape[1:]))).astype("float32"))
    return layer(x)


# Elements alone.


@kind()
def activation(net, x):
    return layers.Activation(net.pick("relu", "gelu", "tanh", "softplus", "selu", "hard_sigmoid"))(
        x
    )


@kind()
def activation_layer(net, x):
    return net.pick(layers.ReLU(), layers.ReLU(max_value=2.0), layers.LeakyReLU(), layers.ELU())(x)


@kind(IMAGE)
def shared_prelu(net, x):
    return layers.PReLU(shared_axes=[1, 2])(x)


@kind(FEATURES, SEQUENCE, known=True)
def prelu(net, x):
    return layers.PReLU()(x)


@kind()
def elementwise_operation(net, x):
    function = net.pick(
        ops.sigmoid, ops.tanh, ops.abs, ops.square, ops.relu6, ops.sin, ops.negative, ops.softsign
    )
    return function(x)


@kind()
def clipped(net, x):
    return ops.clip(x, -0.5, net.pick(0.5, 2.0))


@kind()
def scaled_by_numbers(net, x):
    return (x * net.pick(2.0, -0.5) + net.pick(0.0, 1.5)) / 1.5


@kind()
def constant_array(net, x):
    return x * net.rng.normal(size=x.shape[-1]).astype("float32")


@kind()
def dropout(net, x):
    return layers.Dropout(0.4, seed=1)(x, training=net.pick(None, False))


@kind()
def noise(net, x):
    return net.pick(layers.GaussianNoise(0.2), layers.GaussianDropout(0.2))(x)


@kind(IMAGE)
def spatial_dropout(net, x):
    return layers.SpatialDropout2D(0.3)(x)


@kind()
def rescaling(net, x):
    return layers.Rescaling(0.5, offset=net.pick(0.0, 0.3))(x)


@kind()
def softmax(net, x):
    return layers.Softmax()(x)


@kind(SEQUENCE, IMAGE)
def softmax_over_places(net, x):
    return ops.softmax(x, axis=1)


@kind()
def anonymous(net, x):
    return layers.Lambda(lambda y: 0.5 * y + 0.1)(x)


@kind()
def penalized_activity(net, x):
    return layers.ActivityRegularization(l2=1e-3)(x)


# Several tensors.


@kind()
def add(net, x):
    return layers.Add()([x, net.like(x), net.like(x)])


@kind()
def subtract(net, x):
    return layers.Subtract()([x, net.like(x)])


@kind()
def multiply(net, x):
    return layers.Multiply()([x, net.like(x)])


@kind()
def average(net, x):
    return layers.Average()([x, net.like(x)])


@kind()
def extreme(net, x):
    return net.pick(layers.Maximum(), layers.Minimum())([x, net.like(x)])


@kind()
def operators(net, x):
    return (x + 2 * net.like(x)) / 3 - x * net.like(x)


@kind()
def chosen_by_a_condition(net, x):
    return ops.where(net.like(x) > 0.1, x, net.like(x))


@kind()
def concatenate(net, x):
    return layers.Concatenate()([x, net.like(x)])


@kind(SEQUENCE, IMAGE)
def concatenate_places(net, x):
    return layers.Concatenate(axis=1)([x, net.like(x)])


@kind()
def stack(net, x):
    return ops.mean(ops.stack([x, net.like(x)], axis=1), axis=1)


@kind(FEATURES)
def dot(net, x):
    layer = layers.Dot(axes=1, normalize=net.flag())
    return layers.Concatenate()([x, layer([net.like(x), x])])


@kind(SEQUENCE, known=True)
def dot_of_steps(net, x):
    return layers.Dot(axes=(2, 2), normalize=net.flag())([x, net.like(x)])


@kind()
def broadcast_mean(net, x):
    return x + ops.mean(net.like(x), axis=-1, keepdims=True)


@kind(SEQUENCE, IMAGE)
def broadcast_place(net, x):
    return x * ops.sigmoid(ops.mean(net.like(x), axis=1, keepdims=True))


# Places.


@kind(IMAGE)
def max_pooling(net, x):
    return layers.MaxPooling2D(2, 1, padding=net.pick("same", "same"))(x)


@kind(IMAGE)
def average_pooling(net, x):
    return layers.AveragePooling2D(2, padding="same")(x)


@kind(SEQUENCE)
def pooling_1d(net, x):
    return net.pick(layers.MaxPooling1D, layers.AveragePooling1D)(2, 1, padding="same")(x)


@kind(VOLUME)
def pooling_3d(net, x):
    return net.pick(layers.MaxPooling3D, layers.AveragePooling3D)(2, padding="same")(x)


@kind(IMAGE)
def upsampling(net, x):
    x = layers.AveragePooling2D(2, padding="same")(x)
    return layers.UpSampling2D(2, interpolation=net.pick("nearest", "bilinear"))(x)


@kind(IMAGE)
def padding_and_cropping(net, x):
    return layers.Cropping2D(((1, 0), (0, 1)))(layers.ZeroPadding2D(1)(x))


@kind(IMAGE)
def resizing(net, x):
    return layers.Resizing(5, 5)(x)


@kind(SEQUENCE)
def padding_1d(net, x):
    return layers.Cropping1D(1)(layers.ZeroPadding1D(2)(x))


@kind(IMAGE)
def random_flip(net, x):
    return layers.RandomFlip(seed=3)(x)


# Channels and axes moved about.


@kind(IMAGE, known=True)
def channel_shuffle(net, x):
    _, height, width, channels = x.shape
    y = ops.reshape(x, (-1, height, width, 2, channels // 2))
    return ops.reshape(ops.transpose(y, (0, 1, 2, 4, 3)), (-1, height, width, channels))


@kind()
def halves(net, x):
    one, two = ops.split(x, 2, axis=-1)
    return ops.concatenate([two, ops.tanh(one)], axis=-1)


@kind()
def thirds(net, x):
    first, *others = ops.array_split(x, 3, axis=-1)
    return ops.concatenate([*others, ops.relu(first)], axis=-1)


@kind()
def uneven_split(net, x):
    one, two = ops.split(x, [3], axis=-1)
    return ops.concatenate([two, one], axis=-1)


@kind(SEQUENCE, IMAGE, known=True)
def unstack(net, x):
    first, *others = ops.unstack(x, axis=1)
    return ops.stack([*others, first], axis=1)


@kind(FEATURES, SEQUENCE)
def unstacked_channels(net, x):
    pieces = ops.unstack(x, axis=-1)
    return ops.stack([pieces[0] + pieces[1], *pieces[1:]], axis=-1)


@kind()
def some_channels(net, x):
    return x[..., 1:-1] if x.shape[-1] > 4 else x[..., :4]


@kind()
def every_second_channel(net, x):
    return layers.Dense(net.width())(x[..., ::2])


@kind()
def padded_channels(net, x):
    width = [[0, 0]] * (len(x.shape) - 1) + [[1, 1]]
    return ops.pad(x, width, constant_values=net.pick(None, 0.5))


@kind(SEQUENCE, IMAGE)
def padded_places(net, x):
    width = [[0, 0], [1, 0], *[[0, 0]] * (len(x.shape) - 2)]
    return ops.pad(x, width, mode=net.pick("constant", "reflect"))[:, 1:]


@kind(SEQUENCE, IMAGE)
def flipped(net, x):
    return ops.flip(x, axis=net.pick(1, -1))


@kind(SEQUENCE)
def running_sum(net, x):
    return ops.cumsum(x, axis=net.pick(1, -1))


@kind()
def sorted_channels(net, x):
    return ops.sort(x, axis=-1)


@kind(SEQUENCE, known=True)
def permuted(net, x):
    y = layers.Permute((2, 1))(x)
    return layers.Permute((2, 1))(layers.Dense(x.shape[1], net.activation())(y))


@kind(IMAGE)
def transposed(net, x):
    return ops.transpose(ops.swapaxes(x, 1, 2), net.pick((0, 1, 2, 3), (0, 2, 1, 3)))


@kind(IMAGE)
def moved_axis(net, x):
    return ops.moveaxis(ops.relu(ops.moveaxis(x, -1, 1)), 1, -1)


@kind()
def expanded_and_squeezed(net, x):
    return ops.squeeze(ops.expand_dims(x, 1) * 1.5, 1)


@kind()
def repeated(net, x):
    return layers.Dense(net.width())(ops.repeat(x, 2, axis=-1))


@kind(FEATURES, SEQUENCE)
def tiled(net, x):
    return layers.Dense(net.width())(ops.tile(x, (*[1] * (len(x.shape) - 1), 2)))


# From one rank to another.


@kind(IMAGE, known=True)
def rows_of_an_image(net, x):
    return layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)


@kind(IMAGE, known=True)
def rows_with_channels(net, x):
    return layers.Reshape((x.shape[1], -1))(x)


@kind(SEQUENCE, known=True)
def image_of_a_sequence(net, x):
    return ops.reshape(x, (-1, 1, x.shape[1], x.shape[2]))


@kind(VOLUME, known=True)
def image_of_a_volume(net, x):
    return net.pick(
        lambda: ops.max(x, axis=1),
        lambda: ops.sum(x, axis=2),
        lambda: x[:, 0],
        lambda: layers.Reshape((x.shape[1] * x.shape[2], *x.shape[3:]))(x),
    )()


@kind(SEQUENCE, IMAGE, VOLUME)
def features_by_pooling(net, x):
    average = {3: layers.GlobalAveragePooling1D, 4: layers.GlobalAveragePooling2D}
    largest = {3: layers.GlobalMaxPooling1D, 4: layers.GlobalMaxPooling2D}
    rank = len(x.shape)
    if rank == VOLUME:
        return layers.GlobalAveragePooling3D()(x)
    return net.pick(average, largest)[rank]()(x)


@kind(SEQUENCE, IMAGE, known=True)
def features_by_flattening(net, x):
    return layers.Dense(net.width(), net.activation())(layers.Flatten()(x))


@kind(FEATURES)
def repeated_vector(net, x):
    return layers.RepeatVector(3)(x)


@kind(FEATURES)
def image_of_features(net, x):
    return layers.Reshape((2, 2, 6))(layers.Dense(24, net.activation())(x))


# Recurrent layers.


@kind(SEQUENCE)
def lstm(net, x):
    return layers.LSTM(net.width(), return_sequences=net.flag(), use_bias=net.flag())(x)


@kind(SEQUENCE)
def gru(net, x):
    return layers.GRU(net.width(), return_sequences=True, reset_after=net.flag())(x)


@kind(SEQUENCE)
def simple_rnn(net, x):
    return layers.SimpleRNN(net.width(), return_sequences=net.flag(), go_backwards=net.flag())(x)


@kind(SEQUENCE)
def recurrence_that_mixes_units(net, x):
    return layers.LSTM(4, activation="softmax", return_sequences=True)(x)


@kind(SEQUENCE)
def both_directions(net, x):
    inner = net.pick(layers.LSTM, layers.GRU)(4, return_sequences=True)
    return layers.Bidirectional(inner, merge_mode=net.pick("concat", "sum", "mul", "ave"))(x)


@kind(SEQUENCE)
def decoder_with_states(net, x):
    n = net.width()
    _, *states = layers.LSTM(n, return_state=True)(x)
    return layers.LSTM(n, return_sequences=True)(net.like(x), initial_state=states)


@kind(SEQUENCE)
def stacked_cells(net, x):
    return layers.RNN([layers.GRUCell(4), layers.LSTMCell(4)], return_sequences=True)(x)


@kind(SEQUENCE)
def each_step(net, x):
    inner = net.pick(
        lambda: layers.Dense(net.width(), "relu"),
        layers.BatchNormalization,
        layers.LayerNormalization,
        layers.ReLU,
    )
    return layers.TimeDistributed(inner())(x)


@kind(SEQUENCE, IMAGE)
def model_in_each_step(net, x):
    inputs = keras.Input(x.shape[2:])
    y = layers.BatchNormalization()(layers.Dense(net.width(), net.activation())(inputs))
    left, right = ops.split(y, [2], axis=-1)
    y = layers.Dense(4, use_bias=net.flag())(right) * layers.Dense(4)(left)
    return layers.TimeDistributed(keras.Model(inputs, y))(x)


@kind(SEQUENCE)
def steps_both_ways(net, x):
    cell = net.pick(layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
    layer = layers.RNN([cell(net.width()), cell(4)], return_sequences=True)
    return layers.Bidirectional(layer, merge_mode=net.pick("concat", "sum", "mul"))(x)


@kind(IMAGE)
def convolution_in_time(net, x):
    layer = layers.ConvLSTM1D(
        net.width(), 2, padding="same", use_bias=net.flag(), return_sequences=net.flag()
    )
    return layer(x)


@kind(FEATURES, SEQUENCE, IMAGE)
def normalized_kernel(net, x):
    return layers.SpectralNormalization(layers.Dense(net.width(), net.activation()))(x)


# Operations that pick and arrange.


@kind()
def rolled(net, x):
    return ops.roll(x, net.pick(1, 3, -2), net.pick(-1, 1))


@kind(SEQUENCE)
def ordered(net, x):
    order = ops.argsort(net.like(x)[..., :1], axis=1)
    return net.pick(ops.sort, ops.cumsum)(ops.take_along_axis(x, order, axis=1), axis=1)


@kind(IMAGE, known=True)
def places_for_channels(net, x):
    if not hasattr(ops, "depth_to_space"):
        return x
    x = ops.depth_to_space(layers.Conv2D(16, 1)(x), 2)
    return net.pick(lambda y: y, lambda y: ops.space_to_depth(y, 2))(x)


@kind(FEATURES, SEQUENCE, IMAGE)
def gated_linear_unit(net, x):
    return ops.glu(layers.Dense(2 * net.width())(x))


@kind(SEQUENCE)
def log_of_sums(net, x):
    return x - ops.logsumexp(x, axis=1, keepdims=True)


# Attention.


@kind(SEQUENCE)
def self_attention(net, x):
    return x + layers.MultiHeadAttention(2, 3, use_bias=net.flag())(x, x)


@kind(SEQUENCE)
def attention_of_other_widths(net, x):
    # JAX takes only values that are as wide as the keys.
    width = 3 if keras.backend.backend() == "jax" else 5
    layer = layers.MultiHeadAttention(3, 3, value_dim=width, output_shape=net.pick(4, 8))
    return layer(query=x, value=net.like(x), key=net.like(x), use_causal_mask=net.flag())


@kind(SEQUENCE, known=True)
def masked_attention(net, x):
    mask = net.like(x)[..., :1] > -0.3
    mask = ops.logical_or(ops.transpose(mask, (0, 2, 1)), np.eye(x.shape[1], dtype=bool)[None])
    return layers.MultiHeadAttention(2, 4)(x, net.like(x), attention_mask=mask)


@kind(SEQUENCE)
def grouped_attention(net, x):
    return layers.GroupQueryAttention(3, 4, 2, use_bias=net.flag())(x, net.like(x))


@kind(SEQUENCE)
def dot_attention(net, x):
    layer = layers.Attention(use_scale=net.flag(), score_mode=net.pick("dot", "dot", "concat"))
    return layer([x, net.like(x), net.like(x)])


@kind(SEQUENCE)
def dot_attention_with_masks(net, x):
    masks = [ops.any(net.like(x) > 0, axis=-1) for _ in range(2)]
    return layers.Attention()([x, net.like(x)], mask=masks)


@kind(SEQUENCE)
def attention_scores(net, x):
    layer = layers.MultiHeadAttention(2, 3)
    y, scores = layer(x, net.like(x), return_attention_scores=True)
    return y * ops.expand_dims(ops.mean(scores, axis=(1, 3)), -1)


@kind(SEQUENCE)
def additive_attention(net, x):
    return layers.AdditiveAttention()([x, net.like(x)])


@kind(SEQUENCE, known=True)
def attention_by_an_operation(net, x):
    def heads():
        y = layers.Dense(8, use_bias=net.flag())(x)
        return ops.reshape(y, (-1, x.shape[1], 2, 4))

    y = ops.dot_product_attention(heads(), heads(), heads(), is_causal=net.flag())
    return ops.reshape(y, (-1, x.shape[1], 8))


@kind(SEQUENCE, known=True)
def attention_by_products(net, x):
    q, k, v = ops.unstack(ops.reshape(layers.Dense(24)(x), (-1, x.shape[1], 3, 2, 4)), axis=2)
    q, k, v = (ops.transpose(y, (0, 2, 1, 3)) for y in (q, k, v))
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 2.0)
    y = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
    return ops.reshape(y, (-1, x.shape[1], 8))


@kind(SEQUENCE, known=True)
def attention_by_einsum(net, x):
    q, k, v = (ops.reshape(layers.Dense(8)(x), (-1, x.shape[1], 4, 2)) for _ in range(3))
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
    return ops.reshape(ops.einsum("bhqk,bkhd->bqhd", scores, v), (-1, x.shape[1], 8))


# Masks and tables.


@kind(SEQUENCE)
def masking(net, x):
    return layers.Masking(0.0)(ops.relu(x))


@kind(SEQUENCE)
def mask_of_channels(net, x):
    mask = ops.any(net.like(x) > 0.5, axis=-1)
    x = layers.Softmax()(x, mask=net.like(x) > -0.5) if net.flag() else x
    return layers.BatchNormalization()(layers.SimpleRNN(4, return_sequences=True)(x, mask=mask))


@kind(SEQUENCE)
def masked_recurrence(net, x):
    return layers.GRU(net.width(), return_sequences=True)(layers.Masking(0.0)(ops.relu(x - 0.5)))


@kind(FEATURES, SEQUENCE)
def embedding(net, x):
    tokens = net.input((5,), "int32")
    y = layers.Embedding(10, net.width(), mask_zero=net.flag())(tokens)
    return layers.LSTM(6, return_sequences=True)(y) if net.flag() else y


# Models and layers in one another, and layers that are called twice.


@kind()
def shared_layer(net, x):
    layer = layers.Dense(x.shape[-1], net.activation())
    return layer(layer(x)) + layer(net.like(x))


@kind(IMAGE)
def shared_conv(net, x):
    layer = layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu")
    return layer(layer(x))


@kind()
def nested_model(net, x):
    inside = keras.Input(x.shape[1:])
    y = layers.Dense(net.width(), "relu")(inside)
    model = keras.Model(inside, layers.Dense(x.shape[-1])(y) + inside)
    return model(model(x)) if net.flag() else model(x)


@kind()
def nested_stack(net, x):
    return keras.Sequential([layers.Dense(net.width()), layers.ReLU(), layers.Dense(4)])(x)


@kind(IMAGE)
def nested_model_of_two_sizes(net, x):
    inside = keras.Input((None, None, x.shape[-1]))
    y = layers.BatchNormalization()(layers.Conv2D(net.width(), 3, padding="same")(inside))
    model = keras.Model(inside, layers.GlobalAveragePooling2D()(ops.relu(y)))
    return layers.Concatenate()([model(x), model(layers.UpSampling2D(2)(x))])


@kind(FEATURES)
def nested_model_of_two_inputs(net, x):
    one, two = keras.Input((x.shape[-1],), name="one"), keras.Input((1,), name="two")
    y = layers.Dense(net.width(), "relu")(one) * two
    model = keras.Model({"one": one, "two": two}, [layers.Dense(4)(y), y])
    return ops.concatenate(model({"two": ops.sum(x, axis=-1), "one": net.like(x)}), axis=-1)


@kind()
def called_by_keyword(net, x):
    x = layers.Dense(net.width())(inputs=x, training=False)
    return layers.LayerNormalization()(inputs=x) if net.flag() else layers.ReLU()(inputs=x)


# Own layers.


@kind()
def own_layer_with_rule(net, x):
    return Gain()(x)


@kind()
def own_layer_whose_rule_has_no_mask(net, x):
    return Weighed()(x, training=False)


@kind()
def own_layer_whose_rule_has_no_gate(net, x):
    return Gated()(x, gate=net.like(x))


@kind()
def own_layer_without_rule(net, x):
    return Mixed(net.width())(x)


@kind()
def own_layer_without_config(net, x):
    return Scaled(net.rng.normal(size=x.shape[-1]).astype("float32"))(x)


@kind()
def own_elementwise_layer(net, x):
    return Cube(0.1)(x)


@kind()
def own_layer_with_a_named_number(net, x):
    return Powered()(x, power=net.pick(1.0, 3.0), training=False)


@kind()
def own_layer_of_several_outputs(net, x):
    one, rest = Both(net.width())(x)
    return ops.concatenate([one, rest["two"]], axis=-1)


@kind()
def own_layer_that_looks_elementwise(net, x):
    return Centered()(x)


@kind()
def own_layer_with_a_seed(net, x):
    return Noisy(seed=4)(x)


@kind()
def own_layer_of_layers(net, x):
    return Block(x.shape[-1], net.width())(x)


@kind()
def own_layer_changed_later(net, x):
    layer = Stretched()
    layer.factor = net.pick(0.5, 3.0)
    return layer(x)


# Putting them together.

INPUTS = {
    FEATURES: [(6,)],
    SEQUENCE: [(5, 4), (5, 4), (None, 4)],
    IMAGE: [(6, 6, 4)],
    VOLUME: [(4, 4, 3, 2)],
}


def build_network(rank, steps):
    """The network of these steps.

    Args:
        rank: of its first input.
        steps: pairs of the name of a kind and a seed for the choices that it has.

    Returns:
        A functional model, and the names of the kinds in it.
    """
    net, used = Network(rank), []
    net.rng = np.random.default_rng(sum(seed for _, seed in steps))
    net.tensors = [layers.Dense(6, net.activation())(net.input(net.pick(*INPUTS[rank])))]
    for name, seed in steps:
        net.rng = np.random.default_rng(seed)
        function, ranks, known = KINDS[name]
        fitting = [
            x for x in net.tensors if len(x.shape) in ranks and not (known and None in x.shape[1:])
        ]
        if not fitting:
            continue
        # Mostly the latest, so that networks are deep.
        x = fitting[-1] if net.rng.random() < 0.7 else net.pick(*fitting)
        y = function(net, x)
        if y.shape[-1] > 12 or y.shape[-1] % 2:
            y = layers.Dense(net.width())(y)
        net.tensors.append(y)
        used.append(name)
    net.rng = np.random.default_rng(len(used))
    outputs = [_head(net, net.tensors[-1])]
    if len(net.tensors) > 3 and net.flag():
        outputs.append(_head(net, net.pick(*net.tensors[1:-1])))
    inputs = net.inputs[0] if len(net.inputs) == 1 else net.inputs
    return keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs), used


def _head(net, x):
    if net.rng.random() < 0.2:
        return x
    if len(x.shape) == FEATURES:
        return layers.Dense(3)(x)
    x = layers.Dense(4)(x)
    if None not in x.shape[1:] and net.flag():
        return layers.Dense(3)(layers.Flatten()(x))
    return layers.Dense(3)(ops.mean(x, axis=tuple(range(1, len(x.shape) - 1))))


def random_steps(rng, longest=10):
    """Arguments of `build_network`, by a NumPy generator."""
    names = sorted(KINDS)
    count = rng.integers(3, longest + 1)
    steps = [(names[rng.integers(len(names))], int(rng.integers(1 << 16))) for _ in range(count)]
    return int(rng.choice([FEATURES, SEQUENCE, SEQUENCE, IMAGE, IMAGE, VOLUME])), steps
