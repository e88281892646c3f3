"""How sparse activations are: `report(model, data=...)`."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer import measures


def net():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((6, 4)), layers.Dense(5), layers.ReLU()], name="in")
    inputs = keras.Input((6, 3))
    x = layers.Dense(4, activation="relu", name="first")(inputs)
    x = layers.Flatten()(inner(x))
    x = layers.Dense(7, name="linear", activity_regularizer=kh.HoyerSquare(1e-3, normalize=True))(x)
    return keras.Model(inputs, layers.Dense(2, name="plain")(x))


def outputs_of(model, x):
    """The same outputs by plain Keras: a model for each layer."""
    first = keras.Model(model.inputs, model.get_layer("first").output)(x)
    inner = model.get_layer("in")(first)
    linear = keras.Model(model.inputs, model.get_layer("linear").output)(x)
    found = {"first": first, f"in/{model.get_layer('in').layers[-1].name}": inner, "linear": linear}
    return {name: keras.ops.convert_to_numpy(tensor) for name, tensor in found.items()}


def test_zeros_and_hoyer_measure_are_those_of_the_outputs():
    model = net()
    x = np.random.default_rng(0).normal(size=(32, 6, 3)).astype("float32")
    report = kh.report(model, data=(x, np.zeros(32)))
    want = outputs_of(model, x)
    assert [layer.name for layer in report.activations] == list(want)
    for layer in report.activations:
        values = want[layer.name]
        assert layer.shape == values.shape[1:] and layer.values == values.size
        assert layer.zeros == pytest.approx(np.mean(values == 0))
        assert layer.hoyer == pytest.approx(np.mean([measures.hoyer_sparsity(v) for v in values]))
    zeros = sum(int((v == 0).sum()) for v in want.values()) / sum(v.size for v in want.values())
    assert f"all                                    {zeros:.2%}".split() == str(report).split()[-2:]
    assert report._repr_html_().count("<table>") == 2
    assert kh.report(model).activations == ()


def test_layers_are_chosen_as_for_kernels_and_the_model_is_left_alone():
    model = net()
    x = np.ones((32, 6, 3), "float32")
    before = [np.array(w) for w in model.get_weights()]
    names = [a.name for a in kh.report(model, ["in"], data=x).activations]
    assert len(names) == 1 and names[0].startswith("in/")
    assert all("call" not in vars(layer) for layer in model.layers)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
