"""Penalties put on finished models: they count, survive saving, and come off again."""

import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from test_weights import KERNELS

import keras_hoyer as kh
from keras_hoyer.weights import find_kernels, find_weights


def dense_model():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "relu", name="first"),
            layers.Dense(4, name="second"),
        ]
    )
    # A learning rate of zero keeps the weights, so that losses can be compared.
    model.compile(keras.optimizers.SGD(0.0), keras.losses.MeanSquaredError())
    return model


def images_and_words():
    """A functional model of nested, shared, convolutional, recurrent and attention layers."""
    images = keras.Input((6, 6, 2))
    x = layers.SeparableConv2D(4, 3)(images)
    words = keras.Input((5,), dtype="int32")
    y = layers.Embedding(9, 8, name="words")(words)
    y = layers.MultiHeadAttention(2, 4)(y, y)
    y = layers.Bidirectional(layers.SimpleRNN(2))(y)
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()])
    z = layers.Add()([block(layers.GlobalAveragePooling2D()(x)), block(y)])
    return keras.Model([images, words], z)


N_KERNELS = 2 + 4 + 4 + 1


def batch(model, seed=0):
    random = np.random.default_rng(seed)
    shapes = [(8, *tensor.shape[1:]) for tensor in model.inputs]
    x = [random.integers(0, 9, shape).astype("float32") for shape in shapes]
    return x[0] if len(x) == 1 else x, random.normal(size=(8, 4)).astype("float32")


def train_loss(model):
    x, y = batch(model)
    return model.fit(x, y, verbose=0).history["loss"][0]


def test_loss(model):
    return model.evaluate(*batch(model), verbose=0)


test_loss.__test__ = False


def penalty_of(model, regularizer):
    values = [keras.ops.convert_to_numpy(k.variable) for k in find_kernels(model)]
    return sum(as_float(regularizer(value)) for value in values)


def as_float(tensor):
    return float(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("penalty", [kh.HoyerSquare(0.1), kh.GroupHoyer(1.0)], ids=repr)
def test_a_penalty_counts_although_the_model_was_compiled_and_trained_before(penalty):
    model = dense_model()
    bare = train_loss(model), test_loss(model)
    assert kh.regularize(model, penalty) is model
    expected = penalty_of(model, penalty)
    np.testing.assert_allclose(train_loss(model) - bare[0], expected, rtol=1e-4)
    np.testing.assert_allclose(test_loss(model) - bare[1], expected, rtol=1e-4)
    kh.strip(model)
    np.testing.assert_allclose((train_loss(model), test_loss(model)), bare, rtol=1e-5)


def test_train_on_batch_and_eager_steps_see_the_penalty():
    for eager in (False, True):
        model = dense_model()
        model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=eager)
        bare = model.train_on_batch(*batch(model))
        kh.regularize(model, kh.HoyerSquare(0.1))
        expected = penalty_of(model, kh.HoyerSquare(0.1))
        # Older versions of Keras return the mean since the last reset.
        model.reset_metrics()
        np.testing.assert_allclose(model.train_on_batch(*batch(model)) - bare, expected, rtol=1e-4)


def test_each_kernel_of_a_large_model_is_penalized_once_and_survives_saving(tmp_path):
    penalty = kh.HoyerSquare(0.01)
    model = images_and_words()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = batch(model)
    bare = model.evaluate(x, y, verbose=0)
    kh.regularize(model, penalty)
    assert len(model.losses) == len(find_kernels(model)) == N_KERNELS
    expected = penalty_of(model, penalty)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0) - bare, expected, rtol=1e-4)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.losses) == N_KERNELS
    np.testing.assert_allclose(sum(map(as_float, loaded.losses)), expected, rtol=1e-4)
    assert kh.strip(loaded).losses == []


@pytest.mark.parametrize("kind", KERNELS)
def test_penalties_of_every_kind_of_layer_survive_saving_and_come_off(kind, tmp_path):
    model = KERNELS[kind][0]()
    kh.regularize(model, kh.HoyerSquare(0.01))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for weights in (find_weights(model), find_weights(loaded)):
        for weight in weights:
            expected = "HoyerSquare(factor=0.01)" if weight.is_kernel else "None"
            assert repr(weight.variable.regularizer) == expected
    assert "keras_hoyer" in loaded.to_json()
    assert "keras_hoyer" not in kh.strip(loaded).to_json()


def load(path):
    # Keras cannot train on with the optimizer that it loads from an .h5 file.
    model = keras.saving.load_model(path, compile=False)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@pytest.mark.parametrize("extension", ["h5", "keras"])
def test_loaded_models_can_be_regularized_and_saved_again(extension, tmp_path):
    model = dense_model()
    model.save(tmp_path / f"model.{extension}")
    for _ in range(2):
        model = load(tmp_path / f"model.{extension}")
        kh.regularize(model, kh.GroupHoyerSquare(0.1, axis=(-2, -1)))
        model.save(tmp_path / f"model.{extension}")
    restored = load(tmp_path / f"model.{extension}")
    loss = train_loss(restored)
    expected = penalty_of(restored, kh.GroupHoyerSquare(0.1, axis=(-2, -1)))
    for layer in restored.layers:
        assert repr(layer.kernel_regularizer) == repr(kh.GroupHoyerSquare(0.1, axis=(-2, -1)))
        assert layer.kernel.regularizer is layer.kernel_regularizer
    np.testing.assert_allclose(loss - train_loss(kh.strip(restored)), expected, rtol=1e-4)


def test_training_moves_a_regularized_model_towards_sparsity():
    model = dense_model()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = np.zeros((32, 6)), np.zeros((32, 4))
    model.fit(x, y, verbose=0)
    before = kh.report(model).layers[0].effective
    kh.regularize(model, kh.HoyerSquare(0.1))
    model.fit(x, y, epochs=30, verbose=0)
    assert kh.report(model).layers[0].effective < 0.8 * before


def test_layers_are_chosen_by_name_predicate_or_function():
    def penalized(model):
        return [layer.name for layer in model.layers if layer.kernel_regularizer]

    assert penalized(kh.regularize(dense_model(), kh.Hoyer(), layers=["second"])) == ["second"]
    by_predicate = kh.regularize(dense_model(), kh.Hoyer(), layers=lambda layer: layer.units > 4)
    assert penalized(by_predicate) == ["first"]
    by_layer = kh.regularize(
        dense_model(), lambda layer: kh.Hoyer(layer.units) if layer.units > 4 else None
    )
    assert penalized(by_layer) == ["first"]
    assert by_layer.layers[0].kernel_regularizer.factor == 5


def test_embeddings_are_penalized_only_when_named():
    model = kh.regularize(images_and_words(), kh.Hoyer())
    assert model.get_layer("words").embeddings_regularizer is None
    kh.regularize(model, kh.Hoyer(), layers=["words"])
    assert isinstance(model.get_layer("words").embeddings_regularizer, kh.Hoyer)


def test_another_regularizer_is_replaced_with_a_warning_and_an_own_one_without(recwarn):
    model = dense_model()
    kh.regularize(model, kh.Hoyer())
    kh.regularize(model, kh.HoyerSquare())
    assert not [w for w in recwarn if "Replaced" in str(w.message)]
    model.layers[0].kernel.regularizer = keras.regularizers.L2()
    with pytest.warns(UserWarning, match="Replaced the regularizers .* first/kernel"):
        kh.regularize(model, kh.HoyerSquare())
    assert len(model.losses) == 2


def test_frozen_layers_are_free_until_they_are_trained():
    model = dense_model()
    model.layers[0].trainable = False
    kh.regularize(model, kh.Hoyer())
    assert len(model.losses) == 1
    model.layers[0].trainable = True
    assert len(model.losses) == 2


def test_layers_with_lora_train_on():
    model = dense_model()
    model.layers[0].enable_lora(2)
    kh.regularize(model, kh.HoyerSquare(0.1))
    model.compile("adam", "mse")
    assert np.isfinite(train_loss(model))
    assert len(model.losses) == 1  # the other layer: this one's kernel is frozen


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_lower_precision_trains_to_finite_weights(policy):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, dtype=policy), layers.Dense(4, dtype=policy)]
    )
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    kh.regularize(model, kh.GroupHoyerSquare(0.1, axis=(-2, -1)))
    x, y = batch(model)
    model.fit(x / 9, y, epochs=3, verbose=0)
    for weights in model.get_weights():
        assert np.isfinite(np.asarray(weights, "float32")).all()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5)
        self.attention = layers.MultiHeadAttention(2, 4)
        self.out = layers.Dense(4)

    def call(self, x):
        x = self.hidden(x)[:, None]
        return self.out(self.attention(x, x))[:, 0]


def test_subclassed_models_are_penalized():
    model = Subclassed()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = np.ones((8, 6), "float32"), np.ones((8, 4), "float32")
    bare = model.evaluate(x, y, verbose=0)
    kh.regularize(model, kh.Hoyer(0.1))
    assert len(model.losses) == 6
    loss = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(loss - bare, penalty_of(model, kh.Hoyer(0.1)), rtol=1e-4)


LOAD_WITHOUT_KERAS_HOYER = """
import sys
sys.modules["keras_hoyer"] = None  # an import of it now fails
import keras
model = keras.saving.load_model(sys.argv[1])
assert model.losses == []
print("parameters", model.count_params())
"""


def test_a_stripped_model_loads_where_the_package_is_not_installed(tmp_path):
    penalty = kh.GroupHoyerSquare(0.1, pattern=kh.patterns.Block((2, 1)))
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, use_bias=False, bias_regularizer=kh.Hoyer())(inputs, inputs)
    x = layers.BatchNormalization(scale=False, gamma_regularizer=kh.Hoyer())(x)
    x = layers.LSTM(4, recurrent_regularizer=penalty, bias_regularizer=kh.Hoyer())(x)
    x = layers.Dense(4, use_bias=False, bias_regularizer=kh.Hoyer())(x)
    x = layers.Dense(2, activity_regularizer=kh.Hoyer())(x)
    model = keras.Model(inputs, x)
    kh.regularize(model, penalty)
    kh.prune(model, kh.criteria.TargetSparsity(0.5))
    weights = model.get_weights()
    assert kh.strip(model) is model
    assert all(map(np.array_equal, weights, model.get_weights()))
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert b"keras_hoyer" not in archive.read("config.json")
    result = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_KERAS_HOYER, tmp_path / "model.keras"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert f"parameters {model.count_params()}" in result.stdout, result.stderr


class OwnWeights(layers.Layer):
    def build(self, input_shape):
        self.table = self.add_weight(
            shape=(input_shape[-1], 2), name="table", regularizer=kh.Hoyer(0.1)
        )

    def call(self, x):
        return keras.ops.matmul(x, self.table)


def test_strip_takes_penalties_off_weights_of_any_name_and_leaves_others():
    model = keras.Sequential(
        [keras.Input((3,)), OwnWeights(), layers.Dense(2, kernel_regularizer="l2")]
    )
    assert len(model.losses) == 2
    kh.strip(model)
    assert len(model.losses) == 1
    assert isinstance(model.layers[1].kernel_regularizer, keras.regularizers.L2)


def assert_untouched(model):
    assert [layer.kernel_regularizer for layer in model.layers] == [None, None]
    assert model.losses == []


@pytest.mark.parametrize(
    ("regularizer", "message"),
    [
        (None, "To take penalties off, use `strip`"),
        (kh.HoyerSquare, "not its class"),
        (5, "Could not interpret regularizer"),
        (lambda layer: 1e-4, r"Received 0.0001 for layer 'first'"),
        (
            lambda layer: kh.Hoyer() if layer.name == "first" else "l2",
            "Received 'l2' for layer 'second'",
        ),
        (kh.GroupHoyer(1.0, axis=2), r"does not fit kernel 'first/kernel'.*shape \(6, 5\)"),
        (
            kh.GroupHoyer(1.0, pattern=kh.patterns.Block((3, 1))),
            r"does not fit kernel 'second/kernel'.*shape \(5, 4\)",
        ),
    ],
)
def test_a_wrong_regularizer_is_an_error_that_changes_nothing(regularizer, message):
    model = dense_model()
    with pytest.raises(ValueError, match=message):
        kh.regularize(model, regularizer)
    assert_untouched(model)


def test_wrong_layers_are_errors_that_change_nothing():
    model = dense_model()
    with pytest.raises(ValueError, match=r"no layer named 'frist'\. Near ones: first"):
        kh.regularize(model, kh.Hoyer(), layers=["second", "frist"])
    assert_untouched(model)
    with pytest.warns(UserWarning, match="No kernel of model .* got a penalty"):
        kh.regularize(model, kh.Hoyer(), layers=lambda layer: False)


def test_a_model_that_is_not_built_is_an_error():
    for function in (lambda model: kh.regularize(model, kh.Hoyer()), kh.strip, kh.report):
        with pytest.raises(ValueError, match="is not built"):
            function(keras.Sequential([layers.Dense(2)]))
