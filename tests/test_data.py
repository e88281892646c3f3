"""Whatever holds samples, the same are read: by scores, `recalibrate` and `export` alike."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer import _data
from keras_hoyer.exporters import signatures

rng = np.random.default_rng(0)
X, Z, Y = (rng.normal(size=(20, *shape)).astype("float32") for shape in ((4, 3), (2,), (1,)))


def one_input():
    return keras.Sequential([keras.Input((4, 3)), layers.Flatten(), layers.Dense(2)])


def two_inputs():
    a, b = keras.Input((4, 3), name="a"), keras.Input((2,), name="b")
    return keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([layers.Flatten()(a), b])))


class Batches(keras.utils.PyDataset):
    """Six samples at a time."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 4

    def __getitem__(self, index):
        piece = slice(6 * index, 6 * index + 6)
        return tuple(keras.tree.map_structure(lambda array: array[piece], a) for a in self.arrays)


def one_by_one(*arrays, of=list):
    """What TFLite takes: a function whose generator gives a list with an array for each input."""
    return lambda: (of(array[i : i + 1] for array in arrays) for i in range(len(arrays[0])))


def loaders(*arrays):
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    class Loader(torch.utils.data.DataLoader):
        pass

    dataset = torch.utils.data.TensorDataset(*map(torch.tensor, arrays))
    return [Loader(dataset, batch_size=6), torch.utils.data.DataLoader(dataset, batch_size=6)]


def datasets(*elements):
    if importlib.util.find_spec("tensorflow") is None:
        return []
    import tensorflow as tf

    return [tf.data.Dataset.from_tensor_slices(element).batch(6) for element in elements]


def kinds_of_one():
    return [
        X,
        keras.ops.convert_to_tensor(X),
        [X],
        (X,),
        (X, Y),
        (X, Y, np.ones(20)),
        list(X),
        X.tolist(),
        Batches(X, Y),
        Batches(X),
        one_by_one(X),
        one_by_one(X, Y, of=tuple),
        lambda: iter([(X[:8], Y[:8]), (X[8:], Y[8:])]),
        lambda: iter([X[:8], X[8:]]),
        lambda: ([sample] for sample in X),
        *datasets(X, (X, Y), (X,)),
        *loaders(X, Y),
        *loaders(X),
    ]


def kinds_of_two():
    named = {"b": Z, "a": X}
    return [
        [X, Z],
        (X, Z),
        ([X, Z], Y),
        named,
        (named, Y),
        Batches([X, Z], Y),
        Batches(named),
        one_by_one(X, Z),
        lambda: iter([((X[:8], Z[:8]), Y[:8]), ((X[8:], Z[8:]), Y[8:])]),
        *datasets(((X, Z), Y), (named, Y), named),
    ]


def test_a_single_input_is_read_from_whatever_holds_it():
    model = one_input()
    for number, data in enumerate(kinds_of_one()):
        [array] = signatures.arrays_of(signatures.signature_of(model), data)
        np.testing.assert_array_equal(array, X, err_msg=str(number))
        x = np.concatenate([batch.x for batch in _data.batches_of(model, data, size=7)])
        np.testing.assert_array_equal(x, X, err_msg=str(number))


def test_several_inputs_are_read_from_whatever_holds_them():
    model = two_inputs()
    for number, data in enumerate(kinds_of_two()):
        a, b = signatures.arrays_of(signatures.signature_of(model), data)
        np.testing.assert_array_equal(a, X, err_msg=str(number))
        np.testing.assert_array_equal(b, Z, err_msg=str(number))
        for batch in _data.batches_of(model, data):
            assert _data.call_on(model, batch.x).shape == (batch.size, 2)


def test_labels_and_weights_are_told_from_inputs():
    for data in ((X, Y), Batches(X, Y), one_by_one(X, Y, of=tuple), *datasets((X, Y))):
        labels = [batch.y for batch in _data.batches_of(one_input(), data)]
        np.testing.assert_array_equal(np.concatenate(labels), Y)
    [batch] = _data.batches_of(one_input(), (X, Y, np.ones(20)))
    np.testing.assert_array_equal(batch.weights, np.ones(20))


def test_no_more_batches_are_read_than_it_takes():
    read = []

    def endless():
        while True:
            read.append(1)
            yield X, Y

    x = _data.samples_of(endless, [(None, 4, 3)], "representative_data", most=50)
    assert x.shape == (60, 4, 3) and len(read) == 3


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("text", "Received: str"),
        ([], "Received: list"),
        (lambda: 3, "a function that returns int"),
        (iter([]), r"gave no batch.*read once only"),
        (lambda: iter(X), r"batch\(32\).*shape \(4, 3\) for an input of shape \(None, 4, 3\)"),
        (lambda: iter([3]), "int in place of an array"),
        (lambda: iter([X, X[:, :2]]), r"samples of different shapes: \(4, 3\), \(2, 3\)"),
        ([X, X], "A pair of samples and labels is a tuple"),
        ((X, Y, Y, Y), "a tuple of 4"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_is_done(tmp_path, data, match):
    target = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=rf"(?s)argument `representative_data`.*{match}"):
        kh.export(one_input(), target, representative_data=data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="LiteRT needs TensorFlow")
def test_a_generator_that_can_be_read_once_does_for_a_model_that_says_nothing_of_its_inputs(
    tmp_path,
):
    class Own(keras.Model):
        """Its call takes two arguments, of which Keras knows neither shapes nor dtypes."""

        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x, z):
            return self.dense(layers.concatenate([x, z]))

    model = Own()
    model(X[:, 0], Z)
    once = ({"x": X[i : i + 1, 0], "z": Z[i : i + 1]} for i in range(20))
    result = kh.export(model, tmp_path / "m.tflite", representative_data=once)
    assert result.max_error < 1e-5 and not any("random" in note for note in result.notes)
