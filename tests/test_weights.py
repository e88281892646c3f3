"""Which weights of which models are found, under which names."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer import measures
from keras_hoyer.weights import find_kernels, find_weights


def sequential(shape, *parts, **kwargs):
    return keras.Sequential([keras.Input(shape, **kwargs), *parts])


def attention(layer):
    inputs = keras.Input((5, 8))
    return keras.Model(inputs, layer(inputs, inputs))


def numpy(variable):
    return keras.ops.convert_to_numpy(variable)


def paths(model, chosen=None):
    return [kernel.path for kernel in find_kernels(model, chosen)]


ATTENTION_PARTS = [f"a/{part}/kernel" for part in ("query", "key", "value", "attention_output")]
RECURRENT = ["a/kernel", "a/recurrent_kernel"]

# Built in a function each, so that collecting the tests builds nothing.
KERNELS = {
    "Dense": (lambda: sequential((3,), layers.Dense(4, name="a")), ["a/kernel"]),
    "EinsumDense": (
        lambda: sequential((3, 2), layers.EinsumDense("abc,cd->abd", (None, 4), name="a")),
        ["a/kernel"],
    ),
    "Conv1D": (lambda: sequential((8, 3), layers.Conv1D(4, 3, name="a")), ["a/kernel"]),
    "Conv3D": (lambda: sequential((4, 4, 4, 3), layers.Conv3D(2, 3, name="a")), ["a/kernel"]),
    "Conv2DTranspose": (
        lambda: sequential((4, 4, 3), layers.Conv2DTranspose(2, 3, name="a")),
        ["a/kernel"],
    ),
    "DepthwiseConv2D": (
        lambda: sequential((4, 4, 3), layers.DepthwiseConv2D(3, name="a")),
        ["a/kernel"],
    ),
    "SeparableConv2D": (
        lambda: sequential((4, 4, 3), layers.SeparableConv2D(2, 3, name="a")),
        ["a/depthwise_kernel", "a/pointwise_kernel"],
    ),
    "MultiHeadAttention": (
        lambda: attention(layers.MultiHeadAttention(2, 4, name="a")),
        ATTENTION_PARTS,
    ),
    "GroupQueryAttention": (
        lambda: attention(layers.GroupQueryAttention(4, 4, 2, name="a")),
        ATTENTION_PARTS,
    ),
    "LSTM": (lambda: sequential((5, 3), layers.LSTM(4, name="a")), RECURRENT),
    "GRU": (lambda: sequential((5, 3), layers.GRU(4, name="a")), RECURRENT),
    "SimpleRNN": (lambda: sequential((5, 3), layers.SimpleRNN(4, name="a")), RECURRENT),
    "ConvLSTM2D": (
        lambda: sequential((3, 6, 6, 2), layers.ConvLSTM2D(4, 3, name="a")),
        RECURRENT,
    ),
    "RNN of cells": (
        lambda: sequential(
            (5, 3),
            layers.RNN([layers.LSTMCell(4, name="c"), layers.GRUCell(3, name="d")], name="a"),
        ),
        [f"a/{cell}/{name}" for cell in "cd" for name in ("kernel", "recurrent_kernel")],
    ),
    "Bidirectional": (
        lambda: sequential((5, 3), layers.Bidirectional(layers.GRU(4, name="g"), name="a")),
        [
            f"a/{way}_g/{name}"
            for way in ("forward", "backward")
            for name in ("kernel", "recurrent_kernel")
        ],
    ),
    "TimeDistributed": (
        lambda: sequential((5, 3), layers.TimeDistributed(layers.Dense(4, name="d"), name="a")),
        ["a/d/kernel"],
    ),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_of_known_layers_are_found(kind):
    build, expected = KERNELS[kind]
    model = build()
    assert paths(model) == expected
    assert paths(model, ["a"]) == expected
    assert paths(model, lambda layer: layer.name == "nothing") == []


def test_biases_and_normalisation_are_weights_but_no_kernels():
    model = sequential((3,), layers.Dense(4, name="a"), layers.BatchNormalization(name="b"))
    assert paths(model) == ["a/kernel"]
    names = [weight.path for weight in find_weights(model)]
    assert names == ["a/kernel", "a/bias", "b/gamma", "b/beta"]


def test_embeddings_are_found_only_when_chosen():
    model = sequential(
        (5,), layers.Embedding(9, 4, name="words"), layers.Dense(2, name="out"), dtype="int32"
    )
    assert paths(model) == ["out/kernel"]
    assert paths(model, ["words", "out"]) == ["words/embeddings", "out/kernel"]
    assert paths(model, lambda layer: isinstance(layer, layers.Embedding)) == ["words/embeddings"]


def nested_model():
    shared = layers.Dense(4, name="shared")
    first = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="own"), shared], name="first")
    second = keras.Sequential([keras.Input((4,)), shared], name="second")
    inputs = keras.Input((4,))
    x = second(first(first(inputs)))
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def test_shared_layers_and_models_count_once():
    assert paths(nested_model()) == ["first/own/kernel", "first/shared/kernel", "out/kernel"]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (["own"], {"first/own/kernel"}),
        (["first"], {"first/own/kernel", "first/shared/kernel"}),
        (["second"], {"first/shared/kernel"}),
        (("own", "out"), {"first/own/kernel", "out/kernel"}),
    ],
)
def test_names_choose_layers_and_all_inside_nested_models(chosen, found):
    assert set(paths(nested_model(), chosen)) == found


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["shraed"], "no layer named 'shraed'. Near ones: shared"),
        ("shared", "Expected a list of layer names"),
        ([3], "Expected a list of layer names"),
        (7, "Expected a list of layer names"),
    ],
)
def test_wrong_names_are_errors(chosen, message):
    with pytest.raises(ValueError, match=message):
        find_kernels(nested_model(), chosen)


def test_layers_without_kernel_and_parts_of_attention_cannot_be_named():
    model = attention(layers.MultiHeadAttention(2, 4))
    for name in ("query", model.layers[0].name):
        with pytest.raises(ValueError, match=f"Layer '{name}' has no kernel of its own"):
            find_kernels(model, [name])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(4, name="a"), {"out": layers.Dense(2, name="b")}]
        self.heads = {"out": layers.Dense(2, name="c")}
        self.unused = layers.Dense(2, name="unused")

    def build(self, input_shape):
        super().build(input_shape)

    def call(self, x):
        return self.heads["out"](self.blocks[0](x))


def test_subclassed_models_are_walked_and_unused_layers_named():
    model = Subclassed()
    with pytest.raises(ValueError, match="is not built"):
        find_kernels(model)
    model(np.ones((2, 3)))
    with pytest.warns(UserWarning, match="not built: layers .*unused"):
        assert paths(model) == ["a/kernel", "c/kernel"]


@pytest.mark.parametrize("model", [3, None, keras.Sequential([layers.Dense(2)])], ids=repr)
def test_what_is_no_built_model_is_an_error(model):
    with pytest.raises(ValueError, match=r"Expected a Keras model|is not built"):
        find_kernels(model)


class Unknown(layers.Layer):
    def build(self, input_shape):
        self.table = self.add_weight(shape=(input_shape[-1], 2), name="table")

    def call(self, x):
        return keras.ops.matmul(x, self.table)


def test_layers_of_no_known_kind_are_left_alone_with_one_warning():
    model = sequential((3,), layers.Dense(4, name="a"), Unknown(name="u"), Unknown(name="v"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert paths(model) == ["a/kernel"]
    (warning,) = [w for w in caught if "of no known kind" in str(w.message)]
    assert "layers u, v" in str(warning.message)


class Experts(layers.Layer):
    """A mixture's kernels, which have names of their own and no attributes."""

    def build(self, input_shape):
        self.up = self.add_weight(shape=(2, input_shape[-1], 4), name="gate_up")
        self.up_bias = self.add_weight(shape=(2, 4), name="gate_up_bias")
        self.down = self.add_weight(shape=(2, 4, 3), name="down")
        self.token = self.add_weight(shape=(1, 1, 3), name="class_token")
        self.width = self.add_weight(shape=(3,), name="width")
        self.seen = self.add_weight(shape=(2, 3), name="seen", trainable=False)

    def call(self, x):
        return keras.ops.sum(x[:, None, None, :] @ self.up @ self.down, axis=(1, 2)) * self.width


class Mixture(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.router = layers.Dense(3, name="router")
        self.experts = Experts(name="experts")

    def build(self, input_shape):
        self.router.build(input_shape)
        self.experts.build(input_shape)

    def call(self, x):
        return self.router(x) + self.experts(x)


MIXTURE = ["moe/experts/gate_up", "moe/experts/down"]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (["experts"], MIXTURE),
        (["moe"], ["moe/router/kernel", *MIXTURE]),
        (lambda layer: layer.name == "experts", MIXTURE),
        (["whole"], ["moe/router/kernel"]),
        (["router"], ["moe/router/kernel"]),
    ],
)
def test_matrices_of_other_names_are_found_where_their_layer_is_chosen(chosen, found):
    inner = keras.Sequential([keras.Input((3,)), Mixture(name="moe")], name="whole")
    model = keras.Sequential([keras.Input((3,)), inner])
    assert [path.removeprefix("whole/") for path in paths(model, chosen)] == found


def test_matrices_of_other_names_are_penalized_pruned_and_stripped():
    model = sequential((3,), Mixture(name="moe"))
    with pytest.warns(UserWarning, match=r"penalty of moe/experts/gate_up, .* is not saved"):
        kh.regularize(model, kh.HoyerSquare(1.0), layers=["experts"])
    experts = model.get_layer("moe").experts
    hoyer = sum(measures.effective_count(numpy(w)) for w in (experts.up, experts.down))
    assert float(sum(model.losses)) == pytest.approx(hoyer, rel=1e-4)
    cut = kh.criteria.TargetSparsity(0.5)
    with pytest.warns(UserWarning, match=r"mask of .*keep_zeros\(model, layers=\['experts'\]\)"):
        assert kh.prune(model, cut, layers=["experts"]).held == 24
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kh.prune(model, kh.criteria.TargetSparsity(0.6), layers=["experts"])
    assert not [w for w in caught if "is not saved" in str(w.message)]  # it is said once
    zeros = [numpy(w) == 0 for w in (experts.up, experts.down)]
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3), "float32"), np.zeros((4, 3), "float32"), verbose=0)
    for w, zero in zip((experts.up, experts.down), zeros, strict=True):
        assert not numpy(w)[zero].any()
        assert numpy(w)[~zero].all()
    kh.strip(model)
    assert all(w.constraint is None and w.regularizer is None for w in model.weights)


@pytest.mark.skipif(
    not hasattr(layers, "ReversibleEmbedding"), reason="this Keras has no ReversibleEmbedding"
)
def test_the_head_of_an_untied_embedding_is_pruned_by_its_name():
    inputs = keras.Input((4,), dtype="int32")
    words = layers.ReversibleEmbedding(20, 6, tie_weights=False, name="words")
    middle = layers.Dense(6, name="middle")
    model = keras.Model(inputs, words(middle(words(inputs)), reverse=True))
    assert paths(model) == ["middle/kernel"]
    assert paths(model, ["words"]) == ["words/embeddings", "words/reverse_embeddings"]
    report = kh.prune(model, kh.criteria.TargetSparsity(0.5, scope="layer"), layers=["words"])
    assert [layer.nonzero for layer in report.layers] == [60, 60]
    # An output of the head is a column, a feature of the embedding is one too.
    assert [layer.channels for layer in report.layers] == [6, 20]
    before = numpy(words.reverse_embeddings)
    model.compile("adam", "mse")
    model.fit(np.ones((4, 4), "int32"), np.ones((4, 4, 20), "float32"), verbose=0)
    assert not numpy(words.reverse_embeddings)[before == 0].any()
    assert (numpy(words.reverse_embeddings) != before).any()


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (lambda: layers.Dense(4), (3,), (1,)),
        (lambda: layers.Conv2D(4, 3), (5, 5, 3), (3,)),
        (lambda: layers.Conv2DTranspose(4, 3), (5, 5, 3), (2,)),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 3), (2, 3)),
        (lambda: layers.EinsumDense("...x,xy->...y", 4), (5, 3), (1,)),
        (lambda: layers.EinsumDense("abc,dec->abde", (None, 2, 4)), (5, 3), (0, 1)),
    ],
)
def test_output_axes_are_those_whose_weights_feed_one_output(layer, shape, axes):
    layer = layer()
    layer.bias_initializer = "zeros"
    model = sequential(shape, layer)
    (kernel,) = find_kernels(model)
    assert kernel.output_axes == axes
    # Silence the first output channel: exactly the outputs it feeds become zero.
    weights = np.ones(kernel.shape, "float32")
    weights[tuple(0 if axis in axes else slice(None) for axis in range(weights.ndim))] = 0
    kernel.variable.assign(weights)
    outputs = keras.ops.convert_to_numpy(model(np.ones((1, *shape), "float32")))
    channels = np.abs(outputs).reshape(-1, np.prod([kernel.shape[a] for a in axes])).sum(axis=0)
    assert channels[0] == 0
    assert (channels[1:] > 0).all()
