"""Scores: what each weight matters, against NumPy in float64; and every score with every choice."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer.weights import find_kernels

rng = np.random.default_rng(0)
BACKEND = keras.backend.backend()


def numpy(value) -> np.ndarray:
    return keras.ops.convert_to_numpy(value)


def importances(score, model) -> dict[str, np.ndarray]:
    kernels = find_kernels(model, lambda layer: True)
    ready = score.measured(model, kernels)
    return {kernel.path: np.abs(ready.importance(kernel)) for kernel in kernels}


def rms(x, axes) -> np.ndarray:
    return np.sqrt(np.square(np.asarray(x, "float64")).mean(axis=axes))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


def on(layer, shape, x=None):
    """A model of one layer, its kernels' importances by activation, and its input."""
    model = keras.Sequential([keras.Input(shape, dtype="float32" if x is None else x.dtype), layer])
    if x is None:
        x = rng.normal(size=(40, *shape)) * rng.uniform(0.1, 3, shape[-1])
    return model, importances(kh.scores.Activation(x), model), x


# Activation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_activation_of_a_dense_kernel(shape):
    layer = layers.Dense(5, name="d")
    _, found, x = on(layer, shape)
    close(found["d/kernel"], np.abs(numpy(layer.kernel)) * rms(x.reshape(-1, 6), 0)[:, None])


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv1D(4, 3, name="c"),
        lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2, name="c"),
        lambda: layers.Conv2D(4, 3, strides=2, padding="same", name="c"),
        lambda: layers.Conv3D(4, 2, name="c"),
        lambda: layers.DepthwiseConv1D(3, name="c"),
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, name="c"),
    ],
)
def test_activation_of_convolutions_goes_by_the_channel_of_the_input(layer):
    layer = layer()
    shape = (7,) * (len(layer.kernel_size)) + (6,)
    _, found, x = on(layer, shape)
    close(found["c/kernel"], np.abs(numpy(layer.kernel)) * rms(x.reshape(-1, 6), 0)[:, None])


@pytest.mark.parametrize("cls", [layers.Conv1DTranspose, layers.Conv2DTranspose])
def test_activation_of_transposed_convolutions(cls):
    layer = cls(4, 3, strides=2, name="c")
    _, found, x = on(layer, (5,) * len(layer.kernel_size) + (6,))
    close(found["c/kernel"], np.abs(numpy(layer.kernel)) * rms(x.reshape(-1, 6), 0))


def test_activation_of_groups_of_a_convolution():
    layer = layers.Conv2D(6, 3, groups=3, name="c")
    _, found, x = on(layer, (5, 5, 12))
    each = rms(x, (0, 1, 2))
    expected = np.abs(numpy(layer.kernel)).astype("float64")
    for out in range(6):
        for i in range(4):
            expected[:, :, i, out] *= each[(out // 2) * 4 + i]
    close(found["c/kernel"], expected)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="not on the CPU")
def test_activation_with_channels_first():
    layer = layers.Conv2D(4, 3, data_format="channels_first", name="c")
    model = keras.Sequential([keras.Input((6, 5, 5)), layer])
    x = rng.normal(size=(8, 6, 5, 5)) * np.arange(1, 7)[:, None, None]
    found = importances(kh.scores.Activation(x), model)
    close(found["c/kernel"], np.abs(numpy(layer.kernel)) * rms(x, (0, 2, 3))[:, None])


def test_activation_between_the_two_kernels_of_a_separable_convolution():
    layer = layers.SeparableConv2D(5, 3, padding="same", depth_multiplier=2, name="s")
    _, found, x = on(layer, (6, 6, 3))
    first = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False)
    between = keras.Sequential([keras.Input((6, 6, 3)), first])
    first.kernel.assign(layer.depthwise_kernel)
    y = numpy(between(x.astype("float32")))
    close(
        found["s/depthwise_kernel"],
        np.abs(numpy(layer.depthwise_kernel)) * rms(x, (0, 1, 2))[:, None],
    )
    close(
        found["s/pointwise_kernel"],
        np.abs(numpy(layer.pointwise_kernel)) * rms(y, (0, 1, 2))[:, None],
    )


@pytest.mark.parametrize(
    ("equation", "output", "axes"),
    [
        ("abc,cd->abd", (4, 7), ((0, 1), (slice(None), None))),
        ("abc,cde->abde", (4, 7, 2), ((0, 1), (slice(None), None, None))),
        ("abc,bcd->ad", (7,), ((0,), (slice(None), slice(None), None))),
        ("...c,dc->...d", (4, 7), ((0, 1), (None, slice(None)))),
        ("abc,bdc->abd", (4, 7), ((0,), (slice(None), None, slice(None)))),
    ],
)
def test_activation_of_einsum_kernels(equation, output, axes):
    layer = layers.EinsumDense(equation, output, name="e")
    _, found, x = on(layer, (4, 6))
    mean, place = axes
    close(found["e/kernel"], np.abs(numpy(layer.kernel)) * rms(x, mean)[place])


def test_activation_of_a_table_counts_its_look_ups():
    x = rng.integers(0, 7, (10, 4)).astype("int32")
    layer = layers.Embedding(9, 3, name="t")
    _, found, _ = on(layer, (4,), x)
    share = np.bincount(x.ravel(), minlength=9) / x.size
    close(found["t/embeddings"], np.abs(numpy(layer.embeddings)) * np.sqrt(share)[:, None])


@pytest.mark.parametrize("cls", [layers.SimpleRNN, layers.GRU, layers.LSTM])
@pytest.mark.parametrize("backwards", [False, True])
def test_activation_of_recurrent_kernels_goes_by_the_states_before(cls, backwards):
    layer = cls(5, go_backwards=backwards, name="r")
    _, found, x = on(layer, (6, 3))
    twin = cls(5, go_backwards=backwards, return_sequences=True)
    states = keras.Sequential([keras.Input((6, 3)), twin])
    states.set_weights(layer.get_weights())
    before = numpy(states(x.astype("float32")))[:, :-1]  # in the order in which they are made
    before = np.concatenate([np.zeros((40, 1, 5)), before], axis=1)
    kernel, recurrent = layer.get_weights()[:2]
    close(found["r/kernel"], np.abs(kernel) * rms(x, (0, 1))[:, None])
    close(found["r/recurrent_kernel"], np.abs(recurrent) * rms(before, (0, 1))[:, None])


def test_activation_leaves_out_steps_that_are_masked():
    x = rng.normal(size=(20, 5, 3)).astype("float32")
    x[:10, 3:] = 0
    layer = layers.LSTM(4, name="r")
    model = keras.Sequential([keras.Input((5, 3)), layers.Masking(), layer])
    found = importances(kh.scores.Activation(x), model)
    seen = np.concatenate([x[:10, :3].reshape(-1, 3), x[10:].reshape(-1, 3)])
    close(found["r/kernel"], np.abs(layer.get_weights()[0]) * rms(seen, 0)[:, None])
    twin = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4, return_sequences=True)])
    twin.set_weights(layer.get_weights())
    h = numpy(twin(x))
    h = np.concatenate([np.zeros((20, 1, 4)), h[:, :-1]], axis=1)
    before = np.concatenate([h[:10, :3].reshape(-1, 4), h[10:].reshape(-1, 4)])
    close(found["r/recurrent_kernel"], np.abs(layer.get_weights()[1]) * rms(before, 0)[:, None])


def test_activation_of_stacked_cells_and_both_directions():
    cells = layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True, name="deep")
    model = keras.Sequential(
        [keras.Input((5, 2)), cells, layers.Bidirectional(layers.GRU(2, name="g"), name="both")]
    )
    x = rng.normal(size=(8, 5, 2)).astype("float32")
    found = importances(kh.scores.Activation(x), model)
    first = keras.Sequential([keras.Input((5, 2)), layers.LSTM(4, return_sequences=True)])
    first.set_weights(cells.cell.cells[0].get_weights())
    h = numpy(first(x))
    second = [v for v in cells.cell.cells[1].weights if v.name == "kernel"]
    named = [key for key in found if found[key].shape == (4, 9)]
    close(found[named[0]], np.abs(numpy(second[0])) * rms(h, (0, 1))[:, None])
    y = numpy(keras.Model(model.inputs, cells.output)(x))
    for part in (model.layers[1].forward_layer, model.layers[1].backward_layer):
        kernel = numpy(part.cell.kernel)
        expected = np.abs(kernel) * rms(y, (0, 1))[:, None]
        assert any(
            v.shape == expected.shape and np.allclose(v, expected, rtol=1e-4)
            for v in found.values()
        )


def test_activation_of_a_stateful_layer_leaves_its_state():
    layer = layers.LSTM(3, stateful=True, name="r")
    model = keras.Sequential([keras.Input(batch_shape=(4, 5, 2)), layer])
    x = rng.normal(size=(10, 5, 2)).astype("float32")
    with pytest.raises(ValueError, match=r"Expected 4 samples or more.* 3 samples"):
        importances(kh.scores.Activation(x[:3]), model)
    model(x[:4])
    before = [numpy(state).copy() for state in layer.states]
    kh.prune(model, kh.criteria.TargetSparsity(0.5), score=kh.scores.Activation(x))
    for state, kept in zip(layer.states, before, strict=True):
        np.testing.assert_array_equal(numpy(state), kept)


def test_activation_of_what_is_applied_to_each_step():
    a, b = layers.Dense(4, "relu", name="a"), layers.Dense(3, name="b")
    inner = keras.Sequential([keras.Input((6,)), a, b])
    model = keras.Sequential([keras.Input((5, 6)), layers.TimeDistributed(inner)])
    x = rng.normal(size=(8, 5, 6)).astype("float32")
    found = importances(kh.scores.Activation(x), model)
    hidden = np.maximum(x.reshape(-1, 6) @ numpy(a.kernel) + numpy(a.bias), 0)
    by_shape = {value.shape: value for value in found.values()}
    close(by_shape[6, 4], np.abs(numpy(a.kernel)) * rms(x.reshape(-1, 6), 0)[:, None])
    close(by_shape[4, 3], np.abs(numpy(b.kernel)) * rms(hidden, 0)[:, None])


@pytest.mark.parametrize("grouped", [False, True])
def test_activation_of_the_parts_of_attention(grouped):
    x = rng.normal(size=(8, 5, 6)).astype("float32")
    inputs = keras.Input((5, 6))
    if grouped:
        layer = layers.GroupQueryAttention(3, 4, 2, name="att")
    else:
        layer = layers.MultiHeadAttention(2, 3, name="att")
    model = keras.Model(inputs, layer(inputs, inputs))
    found = importances(kh.scores.Activation(x), model)
    for name in ("query", "key", "value"):
        kernel = next(numpy(v) for v in layer.weights if v.path.endswith(f"{name}/kernel"))
        close(found[f"att/{name}/kernel"], np.abs(kernel) * rms(x, (0, 1))[:, None, None])
    parts = {}
    for name in ("query", "key", "value"):
        kernel, bias = (
            next(
                numpy(v).astype("float64") for v in layer.weights if v.path.endswith(f"{name}/{k}")
            )
            for k in ("kernel", "bias")
        )
        parts[name] = np.einsum("btd,dhk->bthk", x, kernel) + bias
    if grouped:
        parts["key"], parts["value"] = (np.repeat(parts[k], 2, axis=2) for k in ("key", "value"))
    logits = np.einsum("bthk,bshk->bhts", parts["query"], parts["key"]) / np.sqrt(3)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.einsum("bhts,bshk->bthk", weights, parts["value"])
    (name,) = [key for key in found if "output" in key]
    kernel = next(numpy(v) for v in layer.weights if "output" in v.path and v.name == "kernel")
    close(found[name], np.abs(kernel) * rms(mixed, (0, 1))[:, :, None])


def test_activation_in_convolutional_recurrent_layers():
    layer = layers.ConvLSTM1D(2, 3, padding="same", return_sequences=True, name="r")
    _, found, x = on(layer, (4, 6, 3))
    close(found["r/kernel"], np.abs(layer.get_weights()[0]) * rms(x, (0, 1, 2))[:, None])
    h = numpy(keras.Sequential([keras.Input((4, 6, 3)), layer])(x.astype("float32")))
    h = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1)
    close(found["r/recurrent_kernel"], np.abs(layer.get_weights()[1]) * rms(h, (0, 1, 2))[:, None])


class Twice(keras.Model):
    """A subclassed model with a nested block, a layer called twice, and several arguments."""

    def __init__(self):
        super().__init__()
        self.shared = layers.Dense(4, name="shared")
        self.block = keras.Sequential([layers.Dense(4, name="inner")], name="block")

    def call(self, a, b, training=None):
        return self.block(self.shared(a) + self.shared(b), training=training)


def test_activation_in_models_of_all_kinds_with_data_as_export_takes_them():
    model = Twice()
    a, b = rng.normal(size=(2, 30, 4)).astype("float32")
    out = model(a, b)
    found = importances(kh.scores.Activation({"a": a, "b": b}), model)
    shared, inner = model.shared, model.block.layers[0]
    both = np.concatenate([a, b])
    named = {key.split("/")[-2]: value for key, value in found.items()}
    close(named["shared"], np.abs(numpy(shared.kernel)) * rms(both, 0)[:, None])
    hidden = sum(x @ numpy(shared.kernel) + numpy(shared.bias) for x in (a, b))
    close(named["inner"], np.abs(numpy(inner.kernel)) * rms(hidden, 0)[:, None])
    np.testing.assert_allclose(numpy(model(a, b)), numpy(out), rtol=1e-6)
    assert "call" not in vars(shared) and "call" not in vars(inner)


def test_activation_takes_each_kind_of_data():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return x[index * 8 : index * 8 + 8], y[index * 8 : index * 8 + 8]

    x, y = rng.normal(size=(20, 3)).astype("float32"), rng.normal(size=(20, 2)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d")])
    expected = importances(kh.scores.Activation(x), model)["d/kernel"]

    def pieces():
        for start in (0, 8, 16):
            yield x[start : start + 8], y[start : start + 8]

    kinds = [
        (x, y),
        [x],
        (x,),
        Batches(),
        pieces,
        keras.ops.convert_to_tensor(x),
        x.tolist() and x.astype("float64"),
    ]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        kinds += [
            tf.data.Dataset.from_tensor_slices((x, y)).batch(8),
            tf.data.Dataset.from_tensor_slices(x).batch(8),
        ]
    if BACKEND == "torch":
        import torch

        pairs = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        kinds += [torch.utils.data.DataLoader(pairs, batch_size=8)]
    for data in kinds:
        close(importances(kh.scores.Activation(data), model)["d/kernel"], expected)
    some = importances(kh.scores.Activation(pieces, batches=1), model)["d/kernel"]
    close(some, importances(kh.scores.Activation(x[:8]), model)["d/kernel"])
    two = keras.Input((3,)), keras.Input((2,))
    joined = keras.Model(two, layers.Dense(2, name="d")(layers.Concatenate()(two)))
    kernel = np.abs(numpy(joined.get_layer("d").kernel))
    both = rms(np.concatenate([x, y], axis=1), 0)[:, None]
    for data in ([x, y], (x, y), ([x, y], y), ((x, y), None)):
        close(importances(kh.scores.Activation(data), joined)["d/kernel"], kernel * both)


@pytest.mark.parametrize("data", ["text", None, 3, [], {}, ["a", "b"]])
def test_what_is_no_data_is_refused_at_once(data):
    for score in (kh.scores.Activation, kh.scores.Taylor, kh.scores.Fisher):
        with pytest.raises(ValueError, match="Invalid value for argument `data`"):
            score(data)


def test_data_that_cannot_be_read_again_or_do_not_fit_together_are_named():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    x = np.ones((8, 3), "float32")
    once = kh.scores.Activation(iter([(x, x)]))
    kh.prune(model, kh.criteria.TargetSparsity(0.2), score=once)
    with pytest.raises(ValueError, match="read once only"):
        kh.prune(model, kh.criteria.TargetSparsity(0.4), score=once)
    with pytest.raises(ValueError, match=r"`batches`. Expected a number, since `data` has no end"):
        kh.prune(model, kh.criteria.TargetSparsity(0.4), score=kh.scores.Activation(Endless()))
    some = kh.scores.Activation(Endless(), batches=2)
    assert kh.prune(model, kh.criteria.TargetSparsity(0.4), score=some).sparsity > 0.3
    with pytest.raises(ValueError, match=r"is a tuple. Received: a list of 2 arrays for one input"):
        kh.prune(model, kh.criteria.TargetSparsity(0.4), score=kh.scores.Activation([x, x]))
    with pytest.raises(ValueError, match=r"as many samples each.*\[7, 8\]"):
        kh.prune(model, kh.criteria.TargetSparsity(0.4), score=kh.scores.Activation((x, x[:7])))


class Endless(keras.utils.PyDataset):
    """As Keras takes one whose length is not known."""

    num_batches = None

    def __getitem__(self, index):
        return (np.ones((4, 3), "float32"),)


class Hidden(layers.Layer):
    """Uses the kernel of a layer that it never calls."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="never")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return keras.ops.matmul(x, self.dense.kernel)


def test_a_kernel_whose_input_is_not_seen_is_named_and_nothing_is_cut():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="seen"), Hidden(name="own")])
    with pytest.raises(ValueError, match=r"input of 'own/never/kernel' was not seen.*`layers=`"):
        kh.prune(
            model, kh.criteria.TargetSparsity(0.5), score=kh.scores.Activation(np.ones((4, 3)))
        )
    assert all(np.all(numpy(v) != 0) for v in model.weights if v.name == "kernel")


# Taylor and Fisher --------------------------------------------------------------------------------


def two_layers(**compiled):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, "tanh", name="a"),
            layers.Dropout(0.5),
            layers.Dense(2, name="b"),
        ]
    )
    model.compile("sgd", "mse", **compiled)
    return model


def gradients(model, x, y, weights=None):
    """The gradients of the mean squared error, in float64."""
    a, b = model.get_layer("a"), model.get_layer("b")
    w, u = (numpy(layer.kernel).astype("float64") for layer in (a, b))
    hidden = np.tanh(x @ w + numpy(a.bias))
    weights = np.ones(len(x)) if weights is None else weights
    error = 2 * (hidden @ u + numpy(b.bias) - y) * weights[:, None] / y.size
    return x.T @ ((error @ u.T) * (1 - hidden**2)), hidden.T @ error, w, u


@pytest.mark.parametrize("batch_size", [4, 7, 30])
def test_taylor_is_the_first_order_change_of_the_mean_loss_whatever_the_batches(batch_size):
    model = kh.regularize(two_layers(), kh.HoyerSquare(0.1))  # no part of the loss in question
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    found = importances(kh.scores.Taylor((x, y), batch_size=batch_size), model)
    dw, du, w, u = gradients(model, x, y)
    close(found["a/kernel"], np.abs(w * dw))
    close(found["b/kernel"], np.abs(u * du))
    assert model.get_layer("a").kernel_regularizer.factor == 0.1
    assert model.get_layer("a").kernel.regularizer is not None


def test_a_score_that_is_asked_again_knows_new_weights_and_losses():
    calls, traced = [], []

    class Seen(layers.Layer):
        def call(self, x):
            calls.append(x)
            return x

    inputs = keras.Input((3,))
    dense = layers.Dense(1, use_bias=False, name="d")
    model = keras.Model(inputs, Seen()(dense(inputs)))
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
    score = kh.scores.Taylor((x, y))
    for loss, power in (("mse", 2), ("mse", 2), ("mae", 1)):
        if power == 1 or not model.compiled:
            model.compile("sgd", loss)
        w = rng.normal(size=(3, 1))
        dense.kernel.assign(w)
        calls.clear()
        error = x @ w - y
        slope = 2 * error if power == 2 else np.sign(error)
        close(importances(score, model)["d/kernel"], np.abs(w * (x.T @ slope) / 8))
        traced.append(bool(calls))
    assert BACKEND != "jax" or traced == [True, False, True]


def test_taylor_heeds_sample_weights():
    model = two_layers()
    x, y, weights = rng.normal(size=(20, 4)), rng.normal(size=(20, 2)), rng.uniform(0, 2, 20)
    found = importances(kh.scores.Taylor((x, y, weights)), model)
    dw, _, w, _ = gradients(model, x, y, weights)
    close(found["a/kernel"], np.abs(w * dw))


def test_fisher_is_the_square_times_the_mean_squared_gradient_of_batches():
    model = two_layers()
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 2))
    found = importances(kh.scores.Fisher((x, y), batch_size=8), model)
    squares = [0.0, 0.0]
    for start in (0, 8, 16):
        part = slice(start, start + 8)
        dw, du, w, u = gradients(model, x[part], y[part])
        share = len(x[part]) / 20
        squares = [squares[0] + share * dw**2, squares[1] + share * du**2]
    close(found["a/kernel"], w**2 * squares[0])
    close(found["b/kernel"], u**2 * squares[1])


def test_gradients_of_frozen_kernels_and_of_whatever_the_model_adds_to_its_loss():
    class Adds(layers.Layer):
        def call(self, x):
            self.add_loss(0.5 * keras.ops.sum(keras.ops.square(x)))
            return x

    inputs = keras.Input((3,))
    dense = layers.Dense(2, use_bias=False, name="d")
    model = keras.Model(inputs, Adds()(dense(inputs)))
    dense.trainable = False
    model.compile("sgd")
    x = rng.normal(size=(8, 3)).astype("float32")
    found = importances(kh.scores.Taylor(x), model)
    w = numpy(dense.kernel).astype("float64")
    close(found["d/kernel"], np.abs(w * (x.T @ (x @ w))))
    assert not dense.kernel.trainable
    if BACKEND == "torch":
        assert not dense.kernel.value.requires_grad


@pytest.mark.parametrize("score", [kh.scores.Taylor, kh.scores.Fisher])
def test_a_loss_that_is_missing_or_wants_labels_is_named(score):
    x, y = np.ones((4, 4)), np.ones((4, 2))
    model = two_layers()
    target = kh.criteria.TargetSparsity(0.5)
    with pytest.raises(ValueError, match=r"wants labels. Expected a pair `\(x, y\)`"):
        kh.prune(model, target, score=score(x))
    bare = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match=rf"`{score.__name__}` needs the loss.*`model.compile"):
        kh.prune(bare, target, score=score((x, y)))
    assert np.all(numpy(bare.layers[0].kernel) != 0)


def test_what_the_loss_does_not_depend_on_is_named():
    inputs = keras.Input((3,))
    used, other = layers.Dense(2, name="used")(inputs), layers.Dense(2, name="other")(inputs)
    model = keras.Model(inputs, [used, other])
    model.compile("sgd", ["mse", None])
    x, y = np.ones((4, 3)), np.ones((4, 2))
    with pytest.warns(UserWarning, match="does not depend on 'other/kernel'"):
        kh.prune(model, kh.criteria.TargetSparsity(0.5), score=kh.scores.Taylor((x, [y, y])))
    assert np.all(numpy(model.get_layer("used").kernel) != 0)
    assert np.all(numpy(model.get_layer("other").kernel) == 0)


# All together -------------------------------------------------------------------------------------


def net():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(8, 3, name="one"),
            layers.BatchNormalization(name="n1"),
            layers.ReLU(),
            layers.Conv2D(12, 3, name="two"),
            layers.BatchNormalization(name="n2"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="head"),
        ]
    )
    for name in ("n1", "n2"):
        gamma = model.get_layer(name).gamma
        gamma.assign(np.random.default_rng(1).uniform(0.1, 1, gamma.shape))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


X, Y = rng.normal(size=(24, 8, 8, 4)).astype("float32"), rng.integers(0, 4, 24)
SCORES = [
    kh.scores.Magnitude(),
    kh.scores.Activation(X),
    kh.scores.Taylor((X, Y)),
    kh.scores.Fisher((X, Y)),
    kh.scores.BatchNormScale(),
    kh.scores.Random(3),
]
PATTERNS = [
    kh.patterns.Unstructured(),
    kh.patterns.Block((4, 1)),
    kh.patterns.NByM(2, 4),
    kh.patterns.Channel(),
    kh.patterns.Channel("max"),
]


# One model for all patterns, since what a score compiled for the cut before serves again.
@pytest.mark.parametrize("score", SCORES, ids=lambda score: type(score).__name__)
def test_every_score_goes_with_every_pattern_and_what_is_cut_stays_cut(score):
    model, named = net(), ["one", "two"]
    dense = model.get_weights()
    for pattern in PATTERNS:
        kh.strip(model).set_weights(dense)
        first = kh.prune(model, kh.criteria.TargetSparsity(0.25), pattern, named, score=score)
        zero = [numpy(model.get_layer(name).kernel) == 0 for name in named]
        again = kh.prune(model, kh.criteria.TargetSparsity(0.5), pattern, named, score=score)
        assert 0.2 < first.sparsity < again.sparsity, pattern
        for name, before in zip(named, zero, strict=True):
            assert np.all(numpy(model.get_layer(name).kernel)[before] == 0), pattern
        if not pattern.whole_channels:
            assert (first.sparsity, again.sparsity) == pytest.approx((0.25, 0.5), abs=0.01), pattern
        else:
            alive = [(numpy(model.get_layer(n).kernel) != 0).any(axis=(0, 1, 2)) for n in named]
            assert np.concatenate(alive).sum() == 10, pattern


# A criterion sees values alone, so what one score of data gives stands for the others.
@pytest.mark.parametrize(
    "criterion",
    [
        kh.criteria.Threshold(0.003),
        kh.criteria.StdThreshold(1.0),
        kh.criteria.HoyerThreshold(1.0),
        kh.criteria.TargetSparsity(0.5, scope="layer"),
        kh.criteria.EffectiveNumber(0.5),
        kh.criteria.EffectiveNumber(0.5, scope="layer"),
        kh.criteria.TargetFlops(0.5),
    ],
    ids=repr,
)
def test_every_criterion_goes_by_what_a_score_says(criterion):
    score = kh.scores.Activation(X)
    if isinstance(criterion, kh.criteria.Threshold):  # in the unit of the score
        model = net()
        values = np.concatenate([v.ravel() for v in importances(score, model).values()])
        criterion = kh.criteria.Threshold(float(np.quantile(values, 0.7)))
    channels = kh.patterns.Channel()
    patterns = [channels] if criterion.counts_flops else [kh.patterns.Unstructured(), channels]
    for pattern in patterns:
        model = net()
        report = kh.prune(model, criterion, pattern, score=score)
        assert 0 < report.nonzero < report.total


def sums(model, score):
    """What the scores of channels come to, from what the weights score: rows of two and head."""
    found = importances(score, model)
    one, two, head = (found[f"{name}/kernel"].astype("float64") for name in ("one", "two", "head"))
    power = 1 if score.additive else 2
    made = [(one**power).sum(axis=(0, 1, 2)), (two**power).sum(axis=(0, 1, 2))]
    read = [(two**power).sum(axis=(0, 1, 3)), (head**power).sum(axis=1)]
    return [a + b for a, b in zip(made, read, strict=True)]


@pytest.mark.parametrize("score", SCORES[:4], ids=lambda score: type(score).__name__)
def test_channels_score_the_sum_over_all_that_lives_and_dies_with_them(score):
    model = net()
    expected = sums(model, score)
    kh.prune(model, kh.criteria.TargetSparsity(0.5, "layer"), kh.patterns.Channel(), score=score)
    for name, total in zip(("one", "two"), expected, strict=True):
        alive = numpy(model.get_layer(name).kernel).any(axis=(0, 1, 2))
        assert set(np.flatnonzero(~alive)) == set(np.argsort(total)[: total.size // 2])


def test_batch_norm_scale_of_channels_and_of_weights():
    model = net()
    gammas = [numpy(model.get_layer(name).gamma) for name in ("n1", "n2")]
    kernel = numpy(model.get_layer("one").kernel).astype("float64")
    kernels = find_kernels(model, ["one", "two"])
    ready = kh.scores.BatchNormScale().measured(model, kernels)
    root = np.sqrt(np.square(kernel).mean(axis=(0, 1, 2)))
    close(np.abs(ready.importance(kernels[0])), np.abs(kernel) / root * gammas[0])
    score = kh.scores.BatchNormScale()
    kh.prune(model, kh.criteria.TargetSparsity(0.5, "layer"), kh.patterns.Channel(), score=score)
    for name, gamma in zip(("one", "two"), gammas, strict=True):
        alive = numpy(model.get_layer(name).kernel).any(axis=(0, 1, 2))
        assert set(np.flatnonzero(~alive)) == set(np.argsort(gamma)[: gamma.size // 2])


def test_batch_norm_scale_names_kernels_that_have_none():
    model = net()
    score, target = kh.scores.BatchNormScale(), kh.criteria.TargetSparsity(0.5)
    with pytest.raises(ValueError, match=r"none after 'head/kernel'.*layers=\['one', 'two'\]"):
        kh.prune(model, target, score=score)
    bare = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"none after 'a/kernel'. Take another score"):
        kh.prune(bare, target, kh.patterns.Channel(), score=score)


def test_random_goes_by_its_seed_alone_and_asks_all_units_alike():
    channels, cut = kh.patterns.Channel(), []
    for seed in (0, 0, 1):
        model = net()
        kh.prune(model, kh.criteria.TargetSparsity(0.4), channels, score=kh.scores.Random(seed))
        cut.append(numpy(model.get_layer("two").kernel).any(axis=(0, 1, 2)))
    assert np.array_equal(cut[0], cut[1]) and not np.array_equal(cut[0], cut[2])
    narrow = []
    for seed in range(5):
        model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(8), layers.Dense(200), layers.Dense(2)]
        )
        kh.prune(model, kh.criteria.TargetSparsity(0.3), channels, score=kh.scores.Random(seed))
        narrow.append(np.mean(~numpy(model.layers[0].kernel).any(axis=0)))
    assert 0.15 < np.mean(narrow) < 0.45


def test_weights_whose_input_is_always_zero_go_first_and_a_second_cut_is_met():
    x = rng.normal(size=(16, 10)).astype("float32")
    x[:, 4:] = 0
    model = keras.Sequential([keras.Input((10,)), layers.Dense(10, name="d")])
    score = kh.scores.Activation(x)
    # What another score cut before goes before weights that score zero but are not cut.
    kh.prune(model, kh.criteria.TargetSparsity(0.3))
    before = numpy(model.get_layer("d").kernel) == 0
    for share in (0.5, 0.65, 0.8):
        report = kh.prune(model, kh.criteria.TargetSparsity(share), score=score)
        assert report.sparsity == pytest.approx(share)
        zero = numpy(model.get_layer("d").kernel) == 0
        unused = 60 - before[4:].sum()
        others = max(0, round(share * 100) - before.sum() - unused)
        assert zero[:4].sum() == before[:4].sum() + others


def small_net():
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Flatten(), layers.Dense(8), layers.Dense(4)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_callbacks_look_at_the_data_anew_for_each_cut_and_leave_training_alone():
    looks = []

    def batches():
        looks.append(1)
        yield X, Y

    model = small_net()
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetSparsity(0.5),
        kh.schedules.Polynomial(0, 3),
        score=kh.scores.Taylor(batches),
    )
    history = model.fit(X, Y, epochs=4, verbose=0, callbacks=[pruning])
    assert len(looks) == 3 and history.history["sparsity"][-1] == pytest.approx(0.5, abs=0.01)
    target = kh.criteria.TargetSparsity(0.5)
    model, within = small_net(), kh.schedules.Polynomial(0, 1, frequency=0.25)
    pruning = kh.callbacks.Pruning(target, within, score=kh.scores.Taylor(batches))
    history = model.fit(X, Y, epochs=2, batch_size=6, verbose=0, callbacks=[pruning])
    assert len(looks) == 7 and history.history["sparsity"][-1] == pytest.approx(0.5, abs=0.01)
    model = small_net()
    budget = kh.callbacks.BudgetPruning(
        1e9, 0.0, "loss", begin=0, score=kh.scores.Activation(batches), patience=1
    )
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[budget])
    assert len(looks) == 9 and kh.report(model).sparsity > 0.4


def test_a_score_that_cannot_be_had_is_an_error_before_any_training():
    bare = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
    bare.compile("sgd", "mse")
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetSparsity(0.5), kh.schedules.OneShot(5), score=kh.scores.BatchNormScale()
    )
    before = numpy(bare.layers[0].kernel).copy()
    with pytest.raises(ValueError, match="BatchNormalization"):
        bare.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=6, verbose=0, callbacks=[pruning])
    np.testing.assert_array_equal(numpy(bare.layers[0].kernel), before)


@pytest.mark.parametrize("score", SCORES[1:4], ids=lambda score: type(score).__name__)
def test_looking_changes_nothing(score):
    model = net()
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    model.fit(X, Y, verbose=0)
    variables = [*model.variables, *(v for metric in model.metrics for v in metric.variables)]
    before = [numpy(v).copy() for v in variables]
    score.measured(model, find_kernels(model))
    for variable, kept in zip(variables, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), kept)
    assert not any("call" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("score", SCORES[1:4], ids=lambda score: type(score).__name__)
def test_scores_are_computed_in_float32_under_a_half_precision_policy(score):
    model = net()
    half = keras.models.clone_model(model)
    half.set_weights(model.get_weights())
    half.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for layer in half.layers:
        layer.dtype_policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    expected, found = importances(score, model), importances(score, half)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-6 * value.max())
    assert all(layer.dtype_policy.name == "mixed_float16" for layer in half.layers)
