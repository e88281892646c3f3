"""Wrong arguments of `export` are refused at once, in Keras' words, and leave nothing behind."""

import importlib.util

import keras
import numpy as np
import pytest

from keras_hoyer.exporters import ExportError, export


def model_of(*inputs, **kwargs):
    tensors = [keras.Input(shape, name=f"in{i}", **kwargs) for i, shape in enumerate(inputs)]
    joined = keras.layers.Concatenate()(tensors) if len(tensors) > 1 else tensors[0]
    outputs = keras.layers.Dense(2)(joined)
    return keras.Model(tensors if len(tensors) > 1 else tensors[0], outputs)


@pytest.fixture(autouse=True)
def nothing_is_converted_and_no_file_is_left(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise AssertionError("the arguments should have been refused before")

    monkeypatch.setattr("keras_hoyer.exporters.litert.write", fail)
    monkeypatch.setattr("keras_hoyer.exporters.sparse_weights.write", fail)
    yield
    assert not [path for path in tmp_path.iterdir() if path.name != "old.tflite"]


@pytest.mark.parametrize("model", [None, keras.layers.Dense(3), "model.keras"])
def test_something_else_than_a_model(tmp_path, model):
    with pytest.raises(ValueError, match=r"argument `model`.*Expected a `keras.Model`"):
        export(model, tmp_path / "m.tflite")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x, y=None):
        return self.dense(x)


class TwoArguments(Subclassed):
    def call(self, x, y):
        return self.dense(x) + self.dense(y)


def test_a_model_that_was_never_built(tmp_path):
    for model in (keras.Sequential([keras.layers.Dense(3)]), Subclassed()):
        for name in ("m.tflite", "m.npz"):
            with pytest.raises(ValueError, match=r"a model that is built.*Call it on data"):
                export(model, tmp_path / name)


def test_several_call_arguments_need_data_that_shows_their_shapes(tmp_path):
    model = TwoArguments()
    model(np.zeros((1, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"keys \['x', 'y'\]"):
        export(model, tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("name", "format", "match"),
    [
        ("m", None, "argument `filepath`.*'.tflite'"),
        ("m.h5", None, "argument `filepath`.*m.h5"),
        ("m.tflite", "npz", "argument `format`. Expected 'tflite'.*Received: format='npz'"),
        ("m.npz", "tflite", "argument `format`. Expected 'npz'"),
        ("m.bin", "litert", "argument `format`. Expected one of .*'tflite'"),
    ],
)
def test_endings_and_formats_that_do_not_fit(tmp_path, name, format, match):
    with pytest.raises(ValueError, match=match):
        export(model_of((3,)), tmp_path / name, format=format)


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("m.tflite", {"quantize": "int4"}, "argument `quantize`.*'dynamic'.*'int4'"),
        ("m.npz", {"quantize": "int8"}, "argument `quantize`.*'npz'"),
        ("m.tflite", {"quantize": "int8"}, "argument `representative_data`.*100 samples"),
        ("m.tflite", {"sparse": "always"}, "argument `sparse`.*'always'"),
        ("m.tflite", {"tolerance": -1}, "argument `tolerance`.*-1"),
        ("m.tflite", {"tolerance": float("nan")}, "argument `tolerance`.*nan"),
        ("m.tflite", {"tolerance": "1e-3"}, "argument `tolerance`"),
        ("m.tflite", {"optimize_for": "speed"}, "argument `optimize_for`.*'speed'"),
        ("m.npz", {"optimize_for": "latency"}, "argument `optimize_for`.*'npz'"),
        ("m.tflite", {"tolerance": True}, "argument `tolerance`"),
        ("m.tflite", {"io_dtype": "int16"}, "argument `io_dtype`.*'uint8'.*'int16'"),
        ("m.tflite", {"io_dtype": "int8"}, "argument `io_dtype`.*quantize='int8'.*quantize=None"),
        ("m.onnx", {"io_dtype": "uint8"}, "argument `io_dtype`.*'onnx'"),
    ],
)
def test_options_outside_their_range(tmp_path, name, arguments, match):
    with pytest.raises(ValueError, match=match):
        export(model_of((3,)), tmp_path / name, **arguments)


@pytest.mark.parametrize(
    ("shapes", "data", "match"),
    [
        ([(3,)], np.zeros((5, 4)), r"in0: \(None, 3\) float32.*shape \(5, 4\)"),
        ([(3,)], np.zeros(3), r"shape \(3,\)"),
        ([(3,)], np.zeros((0, 3)), "0.* samples"),
        ([(3,)], np.full((5, 3), np.nan), "NaN or infinite"),
        ([(3,)], np.array([["a", "b", "c"]]), "no array of numbers"),
        ([(3,)], (x for x in range(3)), "int in place of an array"),
        ([(3,)], {"other": np.zeros((5, 3))}, r"keys \['other'\]"),
        ([(3,), (2,)], np.zeros((5, 3)), "1 arrays for 2 inputs"),
        ([(3,), (2,)], [np.zeros((5, 3)), np.zeros((4, 2))], r"\[4, 5\] samples"),
    ],
)
def test_data_that_does_not_fit_the_inputs(tmp_path, shapes, data, match):
    with pytest.raises(ValueError, match=f"(?s)argument `representative_data`.*{match}"):
        export(model_of(*shapes), tmp_path / "m.tflite", representative_data=data)


def test_strings_as_inputs(tmp_path):
    if keras.__version__ < "3.14":
        pytest.skip("Keras takes no input that leads nowhere before 3.14")
    inputs = keras.Input((1,), dtype="string", name="text")
    other = keras.Input((3,))
    model = keras.Model([inputs, other], keras.layers.Dense(2)(other))
    with pytest.raises(ValueError, match=r"Expected numbers as inputs.*\['text'\]"):
        export(model, tmp_path / "m.tflite")


def test_paths_that_cannot_be_written(tmp_path):
    model = model_of((3,))
    with pytest.raises(ValueError, match=r"argument `filepath`.*a folder that exists"):
        export(model, tmp_path / "nowhere" / "m.tflite")
    with pytest.raises(ValueError, match=r"argument `filepath`.*a folder"):
        export(model, tmp_path, format="tflite")
    old = tmp_path / "old.tflite"
    old.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"argument `filepath`.*a folder that exists"):
        export(model, old / "m.tflite")
    with pytest.raises(ValueError, match="can be written"):
        export(model, "/proc/m.tflite")
    assert old.read_bytes() == b"old"


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec

    def without(name, *args):
        return None if name in ("ai_edge_litert", "safetensors") else find_spec(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ImportError, match=r"pip install keras-hoyer\[litert\]"):
        export(model_of((3,)), tmp_path / "m.tflite")
    with pytest.raises(ImportError, match=r"pip install keras-hoyer\[safetensors\]"):
        export(model_of((3,)), tmp_path / "m.safetensors")


def test_a_write_that_fails_midway_leaves_the_older_file(tmp_path, monkeypatch):
    old = tmp_path / "old.tflite"
    old.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keras_hoyer.exporters.litert.write", full)
    with pytest.raises(ExportError, match=r"'write'.*No space left") as caught:
        export(model_of((3,)), old)
    assert caught.value.step == "write"
    assert old.read_bytes() == b"old"


def adapted(mode):
    model = model_of((3,))
    if mode == "lora":
        model.layers[-1].enable_lora(1)
    else:
        model.quantize(mode)
    return model


@pytest.mark.filterwarnings("ignore:Layer InputLayer")
@pytest.mark.parametrize(
    ("mode", "ending", "match"),
    [
        ("int8", "tflite", r"(?s)quantized.*'int8'.*Quantize last.*quantize='int8'"),
        ("int4", "tflite", "quantized"),
        ("float8", "onnx", "quantized"),
        ("float8", "keras", "quantized"),
        ("lora", "keras", r"(?s)LoRA in \['dense.*save_weights.*load_weights"),
    ],
)
def test_layers_whose_kernel_is_not_what_computes(tmp_path, mode, ending, match):
    with pytest.raises(ValueError, match=match):
        export(adapted(mode), tmp_path / f"m.{ending}")


def test_the_advice_for_lora_gives_the_same_outputs(tmp_path):
    model, plain = adapted("lora"), model_of((3,))
    rng = np.random.default_rng(0)
    for weight in model.layers[-1].trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    model.save_weights(tmp_path / "m.weights.h5")
    plain.load_weights(tmp_path / "m.weights.h5")
    x = rng.standard_normal((4, 3)).astype("float32")
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )
    (tmp_path / "m.weights.h5").unlink()
