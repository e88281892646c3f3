import subprocess
import sys

import keras
import numpy as np
import pytest
from cutting import (
    check_shrinks,
    cut_channels,
    largest_difference,
    random_inputs,
    randomize,
    to_numpy,
)
from keras import layers, ops

import keras_hoyer
from keras_hoyer.graph import register_rule
from keras_hoyer.graph.axes import Tensor
from keras_hoyer.graph.shrink import shrink


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
    "reshape to rows": [lambda: layers.Reshape((12, -1)), layers.Flatten],
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
    if keras.backend.backend() == "jax" and getattr(layer, "_value_dim", 4) == 5:
        pytest.skip("Keras on JAX takes only values that are as wide as the keys")
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


# Constants.


def set_weights(layer, *values):
    layer.set_weights([np.asarray(v, "float32") for v in values])


def widths(model):
    return [tuple(w.shape) for w in model.weights]


def with_dead_channels(reader, shape=(8, 8, 3), before=()):
    """Convolution whose last three channels have no kernel but a bias, then the reader."""
    x = inputs = keras.Input(shape)
    conv = layers.Conv2D(8, 3, activation="relu") if len(shape) == 3 else layers.Dense(8, "relu")
    x = conv(x)
    for layer in before:
        x = layer(x)
    x = reader(x)
    x = layers.Flatten()(x) if len(x.shape) > 3 else x
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    kernel, bias = (np.array(w) for w in conv.get_weights())
    kernel[..., 5:] = 0
    bias[5:] = [0.7, 1.5, -2.0]
    conv.set_weights([kernel, bias])
    return model


FOLDING = {
    "dense": (lambda: layers.Dense(4, "relu"), (6,)),
    "dense without bias": (lambda: layers.Dense(4, use_bias=False), (6,)),
    "valid convolution": (lambda: layers.Conv2D(4, 3, activation="tanh"), (8, 8, 3)),
    "strided convolution without bias": (lambda: layers.Conv2D(4, 3, 2, use_bias=False), (8, 8, 3)),
    "pointwise convolution": (lambda: layers.Conv2D(4, 1, padding="same"), (8, 8, 3)),
    "separable convolution": (lambda: layers.SeparableConv2D(4, 3, use_bias=False), (8, 8, 3)),
    "einsum dense": (lambda: layers.EinsumDense("ab,bc->ac", 4, bias_axes="c"), (6,)),
}


@pytest.mark.parametrize(("make", "shape"), FOLDING.values(), ids=FOLDING.keys())
def test_a_constant_goes_into_the_bias_of_its_reader(make, shape):
    model = with_dead_channels(make(), shape)
    small = shrink(model)
    assert small.layers[1].bias.shape == (5,)
    assert largest_difference(model, small) <= 1e-4


def test_a_constant_goes_through_batch_normalization_and_activation():
    between = [layers.BatchNormalization(), layers.Activation("sigmoid"), layers.MaxPooling2D()]
    model = with_dead_channels(layers.Conv2D(4, 2), before=between)
    small = shrink(model)
    assert small.layers[1].filters == 5
    assert largest_difference(model, small) <= 1e-4


@pytest.mark.parametrize(
    "reader",
    [
        lambda: layers.Conv2D(4, 3, padding="same"),
        lambda: layers.Conv2DTranspose(4, 3, strides=2),
        layers.UnitNormalization,
    ],
    ids=["padded convolution", "transposed convolution", "unit normalization"],
)
def test_a_constant_stays_where_no_bias_can_replace_it(reader):
    model = with_dead_channels(reader())
    small = shrink(model)
    # The eighth is a zero behind the activation and goes; the two others stay.
    assert small.layers[1].filters == 7
    assert largest_difference(model, small) <= 1e-4


def test_a_layer_called_on_different_constants_keeps_them():
    inputs = keras.Input((6,))
    one, two, shared = layers.Dense(4), layers.Dense(4), layers.Dense(5)
    x = layers.Add()([shared(one(inputs)), shared(two(inputs))])
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    for layer, constants in ((one, [0.5, 0.25]), (two, [0.5, 0.75])):
        kernel, bias = (np.array(w) for w in layer.get_weights())
        kernel[:, :2], bias[:2] = 0, constants
        layer.set_weights([kernel, bias])
    small = shrink(model)
    assert [layer.units for layer in small.layers if isinstance(layer, layers.Dense)][:2] == [3, 3]
    assert largest_difference(model, small) <= 1e-4


def test_a_channel_that_nobody_reads_goes():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, "relu"), layers.Dense(5, "relu"), layers.Dense(2)]
    )
    randomize(model)
    kernel, bias = (np.array(w) for w in model.layers[2].get_weights())
    kernel[3:] = 0
    model.layers[2].set_weights([kernel, bias])
    # The middle layer's channels 3 and 4 are not read, and channel 5 of the first only by them.
    kernel, bias = (np.array(w) for w in model.layers[1].get_weights())
    kernel[5, :3] = 0
    model.layers[1].set_weights([kernel, bias])
    small = shrink(model)
    assert [layer.units for layer in small.layers] == [5, 3, 2]
    assert largest_difference(model, small) <= 1e-4


def test_units_that_only_feed_each_other_go():
    model = keras.Sequential([keras.Input((5, 3)), layers.SimpleRNN(6), layers.Dense(2)])
    randomize(model)
    kernel, recurrent, bias = (np.array(w) for w in model.layers[0].get_weights())
    recurrent[4:, :4] = 0
    model.layers[0].set_weights([kernel, recurrent, bias])
    kernel, bias = (np.array(w) for w in model.layers[1].get_weights())
    kernel[4:] = 0
    model.layers[1].set_weights([kernel, bias])
    small = shrink(model)
    assert small.layers[0].units == 4
    assert largest_difference(model, small) <= 1e-4


@pytest.mark.parametrize("norm", [layers.LayerNormalization, lambda: layers.GroupNormalization(1)])
def test_zero_channels_stay_under_a_normalization_that_they_count_in(norm):
    x = inputs = keras.Input((6,))
    dense = layers.Dense(8)
    model = keras.Model(inputs, layers.Dense(3)(norm()(dense(x))))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 4:] = 0
    dense.set_weights([kernel, bias])
    small = shrink(model)
    assert small.layers[1].units == 8
    assert largest_difference(model, small) <= 1e-4


def test_rms_normalization_counts_the_channels_that_are_left():
    x = inputs = keras.Input((6,))
    dense = layers.Dense(8)
    x = layers.RMSNormalization(epsilon=0.3)(dense(x))
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 3:], bias[3:] = 0, 0
    dense.set_weights([kernel, bias])
    small = shrink(model)
    assert small.layers[1].units == 3
    assert largest_difference(model, small) <= 1e-5


def test_one_channel_of_a_dead_layer_stays():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Conv2D(5, 3),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    randomize(model)
    set_weights(model.layers[1], np.zeros((3, 3, 6, 5)), np.zeros(5))
    small = shrink(model)
    assert [small.layers[0].filters, small.layers[1].filters] == [1, 1]
    assert largest_difference(model, small) <= 1e-4
    assert widths(shrink(small)) == widths(small)


def test_a_weightless_layer_called_twice_keeps_one_shape():
    inputs = keras.Input((6,))
    reshape = layers.Reshape((2, 4))
    one, two = layers.Dense(8), layers.Dense(8)
    x = layers.Concatenate()([reshape(one(inputs)), reshape(two(inputs))])
    check_shrinks(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))))


def test_a_nested_model_called_on_a_fixed_and_a_free_width_keeps_it():
    inner = keras.Sequential([keras.Input((6,)), layers.ReLU()])
    inputs = keras.Input((6,))
    dense = layers.Dense(6)
    x = layers.Concatenate()([inner(inputs), inner(dense(inputs))])
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    set_weights(dense, np.zeros((6, 6)), np.zeros(6))
    small = shrink(model)
    assert widths(small) == widths(model)
    assert largest_difference(model, small) <= 1e-6


def test_masking_sees_all_features():
    x = inputs = keras.Input((5, 3))
    dense = layers.Dense(6)
    x = layers.LSTM(4)(layers.Masking(0.5)(dense(x)))
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 1:], bias[1:] = 0, 0
    kernel[:, 0] = [0.5, 0, 0]
    bias[0] = 0
    dense.set_weights([kernel, bias])
    small = shrink(model)
    inputs = np.ones((2, 5, 3), "float32")
    assert largest_difference(model, small, inputs) <= 1e-6


# What is carried over.


def cut_classifier(**dense):
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(6, 3, name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="head", **dense),
        ],
        name="classifier",
    )
    randomize(model)
    cut_channels(model, 0.5)
    return model


def test_a_model_without_zeros_stays_as_it_is():
    model = randomize(cut_classifier())
    small = shrink(model)
    assert widths(small) == widths(model)
    for one, two in zip(model.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_model_itself_is_not_changed():
    model = cut_classifier()
    before, config = model.get_weights(), model.to_json()
    shrink(model)
    assert model.to_json() == config
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_names_types_and_trainable_flags_are_kept():
    model = cut_classifier()
    model.get_layer("norm").trainable = False
    small = shrink(model)
    assert isinstance(small, keras.Sequential)
    assert small.name == "classifier"
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert small.input_shape == model.input_shape
    assert small.inputs[0].name == "image"
    assert [w.trainable for w in small.weights] == [w.trainable for w in model.weights]


def test_trainable_flags_of_nested_models_are_kept():
    base = cut_classifier()
    inputs = keras.Input((12, 12, 3))
    model = keras.Model(inputs, layers.Dense(2)(base(inputs)))
    base.trainable = False
    base.get_layer("second").trainable = True
    small = shrink(model)
    assert [w.trainable for w in small.weights] == [w.trainable for w in model.weights]
    assert small.layers[1].name == "classifier"


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", "float64"])
def test_dtype_policies_are_kept(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = cut_classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    small = shrink(model)
    assert small.get_layer("first").filters < 8
    assert [layer.dtype_policy.name for layer in small.layers] == [policy] * len(small.layers)
    assert [w.dtype for w in small.weights] == [w.dtype for w in model.weights]
    assert largest_difference(model, small) <= (1e-6 if policy == "float64" else 2e-2)


def test_compile_settings_are_kept_and_training_goes_on():
    model = cut_classifier()
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.9))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    small = shrink(model)
    assert isinstance(small.optimizer, keras.optimizers.Adam)
    assert small.optimizer.get_config() == model.optimizer.get_config()
    assert small.loss.get_config()["from_logits"]
    x = np.random.default_rng(0).normal(size=(32, 12, 12, 3)).astype("float32")
    y = (x.mean(axis=(1, 2, 3)) > 0).astype("int32")
    before, _ = small.evaluate(x, y, verbose=0)
    small.fit(x, y, epochs=5, verbose=0)
    after, _ = small.evaluate(x, y, verbose=0)
    assert after < before


def test_compile_settings_that_cannot_be_copied_are_warned_of():
    class Metric(keras.metrics.Mean):
        def get_config(self):
            raise NotImplementedError

    model = cut_classifier()
    model.compile("sgd", "mse", metrics=[Metric()])
    with pytest.warns(UserWarning, match="compile settings"):
        assert not shrink(model).compiled


def test_the_smaller_model_loads_without_this_package(tmp_path):
    model = cut_classifier(kernel_regularizer=keras_hoyer.HoyerSquare(1e-3))
    keras_hoyer.prune(model.get_layer("first"), keras_hoyer.criteria.Threshold(1e-9))
    model.get_layer("second").kernel_regularizer = keras.regularizers.L2(1e-4)
    small = shrink(model)
    x = random_inputs(small)
    small.save(tmp_path / "small.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", to_numpy(small(x)))
    code = (
        "import sys; sys.modules['keras_hoyer'] = None\n"
        "import keras, numpy as np\n"
        f"model = keras.saving.load_model({str(tmp_path / 'small.keras')!r})\n"
        "assert isinstance(model.get_layer('second').kernel_regularizer, keras.regularizers.L2)\n"
        f"y = keras.ops.convert_to_numpy(model(np.load({str(tmp_path / 'x.npy')!r})))\n"
        f"np.testing.assert_allclose(y, np.load({str(tmp_path / 'y.npy')!r}), atol=1e-5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_smaller_model_clones():
    small = shrink(cut_classifier())
    clone = keras.models.clone_model(small)
    clone.set_weights(small.get_weights())
    assert largest_difference(small, clone) == 0


def test_masks_of_what_is_left_are_held():
    model = cut_classifier(kernel_constraint=keras.constraints.MaxNorm(3.0))
    model.compile("sgd", "mse")
    keras_hoyer.prune(model, keras_hoyer.criteria.TargetSparsity(0.8))
    model.get_layer("first").bias_constraint = keras.constraints.NonNeg()
    small = shrink(model)
    assert small.count_params() < model.count_params()
    x = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype("float32")
    zeros = [to_numpy(layer.kernel) == 0 for layer in (small.layers[2], small.layers[4])]
    assert any(zero.any() for zero in zeros)
    small.fit(x, np.ones((8, 4)), verbose=0)
    for zero, layer in zip(zeros, (small.layers[2], small.layers[4]), strict=True):
        assert (to_numpy(layer.kernel)[zero] == 0).all()
        assert (to_numpy(layer.kernel)[~zero] != 0).all()
    inner = small.layers[4].kernel_constraint
    inner = getattr(inner, "constraint", inner)
    assert isinstance(inner, keras.constraints.MaxNorm)
    assert isinstance(small.layers[0].bias_constraint, keras.constraints.NonNeg)


# Models whose graph is not given.


class Subclassed(keras.Model):
    def __init__(self, branch=False):
        super().__init__()
        self.first = layers.Conv2D(8, 3, activation="relu")
        self.second = layers.Conv2D(6, 3)
        self.head = layers.Dense(4)
        self.branch = branch

    def call(self, inputs):
        x = self.first(inputs)
        if self.branch and ops.sum(x) > 0:
            x = -x
        x = ops.mean(self.second(x), axis=(1, 2))
        return self.head(x)


def test_a_subclassed_model_is_traced():
    model = Subclassed()
    x = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype("float32")
    model(x)
    small = check_shrinks(model, inputs=x)
    assert type(small).__name__ == "Functional"


def test_a_subclassed_model_that_cannot_be_traced_gets_an_error():
    model = Subclassed(branch=True)
    model(np.ones((3, 12, 12, 3), "float32"))
    with pytest.raises(ValueError, match="functional model"):
        shrink(model)


def test_a_model_that_is_not_built_gets_an_error():
    with pytest.raises(ValueError, match="not built"):
        shrink(keras.Sequential([layers.Dense(3), layers.Dense(2)]))
    with pytest.raises(ValueError, match="not built"):
        shrink(Subclassed())
    with pytest.raises(ValueError, match="Expected a Keras model"):
        shrink(layers.Dense(3))


# Layers without a rule, and rules of users.


class Gain(keras.layers.Layer):
    def __init__(self, width, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.offset = offset

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(self.width,), initializer="ones", name="gain")

    def call(self, inputs):
        return inputs * self.gain + self.offset

    def get_config(self):
        return {**super().get_config(), "width": self.width, "offset": self.offset}


def gain_model(offset=0.0, rule=None):
    class Own(Gain):
        def call(self, inputs):
            return super().call(inputs)

    if rule is not None:
        register_rule(Own)(rule)
    x = inputs = keras.Input((6,))
    dense = layers.Dense(8)
    x = layers.Dense(5)(Own(8, offset, name="own")(dense(x)))
    model = randomize(keras.Model(inputs, x))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 4:], bias[4:] = 0, 0
    dense.set_weights([kernel, bias])
    return model


def gain_rule(graph, layer, inputs):
    channels = inputs.axes[-1]
    graph.weight(layer.gain, [channels])
    graph.resize(layer, lambda size: {"width": size(channels)})
    return inputs


def test_a_layer_without_a_rule_is_opened_and_made_again_from_its_config():
    model = gain_model()
    small = shrink(model)
    assert small.layers[1].units == 4
    assert small.get_layer("own").width == 4
    assert largest_difference(model, small) <= 1e-5


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_a_registered_rule_lets_channels_go(offset):
    model = gain_model(offset, gain_rule)
    small = shrink(model)
    assert small.layers[1].units == 4
    assert small.get_layer("own").width == 4
    assert largest_difference(model, small) <= 1e-5


def test_a_rule_that_returns_a_wrong_shape_gets_an_error():
    def wrong(graph, layer, inputs):
        return Tensor((None, 3), (None, graph.channels(layer, "units", 3)))

    with pytest.raises(ValueError, match=r"Own 'own'.*Expected: \[\(None, 8\)\]"):
        shrink(gain_model(rule=wrong))


def test_a_rule_that_labels_a_weight_wrongly_gets_an_error():
    def wrong(graph, layer, inputs):
        graph.weight(layer.gain, [graph.channels(layer, "units", 3)])
        return inputs

    with pytest.raises(ValueError, match="gain"):
        shrink(gain_model(rule=wrong))


def test_a_lambda_that_mixes_channels_keeps_them():
    x = inputs = keras.Input((6,))
    dense = layers.Dense(8)
    x = layers.Lambda(lambda x: x - ops.mean(x, axis=-1, keepdims=True), name="mixer")(dense(x))
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 4:], bias[4:] = 0, 0
    dense.set_weights([kernel, bias])
    with pytest.warns(UserWarning, match="Mean '.*' in Lambda 'mixer'"):
        small = shrink(model)
    assert widths(small) == widths(model)
    assert largest_difference(model, small) == 0


@pytest.mark.parametrize("activation", ["softmax", "log_softmax"])
def test_an_activation_that_mixes_channels_keeps_them(activation):
    x = inputs = keras.Input((6,))
    dense = layers.Dense(8)
    x = layers.Activation(activation)(dense(x))
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 4:], bias[4:] = 0, 0
    dense.set_weights([kernel, bias])
    small = shrink(model)
    assert small.layers[1].units == 8
    assert largest_difference(model, small) <= 1e-6


def test_an_adapted_layer_keeps_its_weights():
    model = gain_model(rule=gain_rule)
    model.layers[3].enable_lora(2)
    with pytest.warns(UserWarning, match="Dense"):
        small = shrink(model)
    assert largest_difference(model, small) <= 1e-5
