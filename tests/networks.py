"""Small networks of the known kinds."""

import keras
from keras import layers, ops


def conv_block(x, filters, stride=1, activation="relu"):
    x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def resnet20(blocks=3):
    x = inputs = keras.Input((16, 16, 3))
    x = conv_block(x, 8)
    for stage, filters in enumerate((8, 16, 32)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = conv_block(x, filters, stride)
            y = conv_block(y, filters, activation=None)
            if stride > 1 or x.shape[-1] != filters:
                x = layers.Conv2D(filters, 1, stride)(x)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def padded_shortcuts():
    """A residual net whose shortcuts pad with zero channels, as in the paper for CIFAR."""
    x = inputs = keras.Input((16, 16, 3))
    x = conv_block(x, 8)
    for filters in (16, 32):
        y = conv_block(conv_block(x, filters, 2), filters, activation=None)
        more = filters - x.shape[-1]
        x = ops.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [more // 2, more - more // 2]])
        x = ops.relu(x + y)
    return keras.Model(inputs, layers.Dense(10)(ops.mean(x, axis=(1, 2))))


def unet():
    x = inputs = keras.Input((16, 16, 2))
    skips = []
    for filters in (6, 8):
        x = conv_block(x, filters)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = conv_block(x, 12)
    for filters, skip in zip((8, 6), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(filters, 2, 2)(x)
        x = conv_block(layers.Concatenate()([skip, x]), filters)
    return keras.Model(inputs, layers.Conv2D(3, 1)(x))


def densenet():
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(2):
        for _ in range(3):
            y = layers.ReLU()(layers.BatchNormalization()(x))
            y = layers.Conv2D(12, 1, use_bias=False)(y)
            y = layers.ReLU()(layers.BatchNormalization()(y))
            y = layers.Conv2D(6, 3, padding="same", use_bias=False)(y)
            x = layers.Concatenate()([x, y])
        x = layers.Conv2D(x.shape[-1] // 2, 1)(layers.ReLU()(layers.BatchNormalization()(x)))
        x = layers.AveragePooling2D(2)(x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def transformer_block(x, heads, width, causal=False):
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(heads, width)(y, y, use_causal_mask=causal)
    y = layers.Dense(3 * x.shape[-1], "gelu")(layers.LayerNormalization()(x))
    return x + layers.Dropout(0.1)(layers.Dense(x.shape[-1])(y))


def vit():
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 4, 4)(x)
    x = layers.Reshape((16, 16))(x)
    x = transformer_block(transformer_block(x, 4, 4), 4, 4)
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def gpt():
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(10, 16)(tokens)
    x = transformer_block(transformer_block(x, 2, 8, True), 2, 8, True)
    return keras.Model(tokens, layers.Dense(10)(layers.LayerNormalization()(x)))


def gpt_of_plain_operations():
    """Heads by reshape and transpose, gated units and RMS norms, as newer decoders have them."""
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(10, 16)(tokens)
    for _ in range(2):
        y = layers.RMSNormalization()(x)
        q, k, v = (
            ops.transpose(
                ops.reshape(layers.Dense(32, use_bias=False)(y), (-1, 12, 2, 16)), (0, 2, 1, 3)
            )
            for _ in range(3)
        )
        scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 4.0)
        y = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
        x = x + layers.Dense(16)(ops.reshape(y, (-1, 12, 32)))
        y = layers.RMSNormalization()(x)
        up, gate = ops.split(layers.Dense(48)(y), 2, axis=-1)
        x = x + layers.Dense(16)(up * ops.silu(gate))
    return keras.Model(tokens, layers.Dense(10)(x))


def lstm_tagger():
    tokens = keras.Input((9,), dtype="int32")
    x = layers.Embedding(10, 12, mask_zero=True)(tokens)
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x)
    x = layers.LSTM(10, return_sequences=True)(x)
    return keras.Model(tokens, layers.TimeDistributed(layers.Dense(4))(x))


def encoder_decoder():
    """The last states of one recurrent layer start another."""
    one, two = keras.Input((6, 5)), keras.Input((4, 5))
    _, *states = layers.LSTM(8, return_state=True)(layers.Dense(6)(one))
    x = layers.LSTM(8, return_sequences=True)(layers.Dense(6)(two), initial_state=states)
    return keras.Model([one, two], layers.Dense(3)(x))


def two_inputs_two_outputs():
    image, vector = keras.Input((12, 12, 3), name="image"), keras.Input((5,), name="vector")
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.Conv2D(8, 3, activation="relu")(x)
    y = layers.Dense(8, activation="relu")(vector)
    z = layers.Multiply()([x, layers.Reshape((1, 1, 8))(y)])
    z = layers.Concatenate()([layers.GlobalMaxPooling2D()(z), y])
    outputs = {"class": layers.Dense(4, name="class")(z), "map": layers.Conv2D(1, 1, name="map")(x)}
    return keras.Model({"image": image, "vector": vector}, outputs)


def shared_tower():
    tower = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(6, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(9),
        ]
    )
    one, two = keras.Input((12, 12, 3)), keras.Input((12, 12, 3))
    a, b = tower(one), tower(two)
    x = layers.Concatenate()([ops.abs(a - b), a * b])
    return keras.Model([one, two], layers.Dense(2)(layers.Dense(7, "relu")(x)))


def shared_layer():
    """One convolution, called three times in a row."""
    x = inputs = keras.Input((12, 12, 3))
    conv = layers.Conv2D(8, 3, padding="same", activation="relu")
    x = layers.Conv2D(8, 3)(x)
    for _ in range(3):
        x = conv(x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def nested():
    inner_input = keras.Input((8, 8, 6))
    y = layers.Conv2D(10, 3, padding="same", activation="relu")(inner_input)
    inner = keras.Model(inner_input, layers.Add()([layers.Conv2D(6, 1)(y), inner_input]))
    head = keras.Sequential([layers.Conv2D(7, 3), layers.ReLU(), layers.GlobalMaxPooling2D()])
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1)(x)
    return keras.Model(inputs, layers.Dense(3)(head(inner(inner(x)))))


def mlp_mixer():
    x = inputs = keras.Input((9, 6))
    x = layers.Dense(8)(x)
    y = layers.Permute((2, 1))(x)
    y = layers.Dense(9)(layers.Dense(14, "gelu")(y))
    x = x + layers.Permute((2, 1))(y)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def channels_first():
    x = inputs = keras.Input((3, 12, 12))
    x = layers.Conv2D(8, 3, data_format="channels_first")(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.DepthwiseConv2D(3, data_format="channels_first")(x)
    x = layers.GroupNormalization(8, axis=1)(x)
    x = layers.Concatenate(axis=1)([x, layers.Conv2D(4, 1, data_format="channels_first")(x)])
    x = layers.Flatten(data_format="channels_first")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


NETWORKS = [
    resnet20,
    padded_shortcuts,
    unet,
    densenet,
    vit,
    gpt,
    gpt_of_plain_operations,
    lstm_tagger,
    encoder_decoder,
    two_inputs_two_outputs,
    shared_tower,
    shared_layer,
    nested,
    mlp_mixer,
]
