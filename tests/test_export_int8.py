"""Int8 `.tflite` files: their interface, recurrent layers, and what is said of their size."""

import logging
import re
import warnings

import keras
import numpy as np
import pytest

from keras_hoyer.exporters import ExportError, comparison, export, processes, sides

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
layers, ops = keras.layers, keras.ops

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="converts in this process"
)


def give_biases(model):
    rng = np.random.default_rng(1)
    for w in model.weights:
        if len(w.shape) < 2 or w.name == "bias":
            w.assign(0.2 * rng.standard_normal(w.shape))
    return model


def words_and_numbers():
    words = keras.Input((3,), dtype="int32", name="words")
    numbers = keras.Input((8,), name="numbers")
    x = layers.Concatenate()([layers.Flatten()(layers.Embedding(9, 4)(words)), numbers])
    return keras.Model([words, numbers], layers.Dense(4, name="scores")(x))


@pytest.mark.parametrize("io_dtype", ["int8", pytest.param("uint8", marks=on_tensorflow)])
def test_a_file_takes_and_returns_integers_on_request(tmp_path, io_dtype):
    rng = np.random.default_rng(0)
    data = [
        rng.integers(0, 9, (64, 3)).astype("int32"),
        rng.normal(1, 3, (64, 8)).astype("float32"),
    ]
    model = words_and_numbers()
    result = export(
        model,
        tmp_path / "m.tflite",
        quantize="int8",
        io_dtype=io_dtype,
        representative_data=data,
    )
    said = " ".join(result.notes)
    pattern = rf"{{}} {io_dtype}, scale ([\d.e-]+), zero point (-?\d+)"
    (scale, zero), (step, middle) = (
        map(float, re.search(pattern.format(name), said).groups()) for name in ("numbers", "scores")
    )
    runner = interpreter.Interpreter(str(result.path)).get_signature_runner()
    details = runner.get_input_details()
    assert details["words"]["dtype"] is np.int32
    assert details["numbers"]["dtype"] is np.dtype(io_dtype).type
    limits = np.iinfo(io_dtype)
    integers = np.clip(np.round(data[1] / scale) + zero, limits.min, limits.max).astype(io_dtype)
    (got,) = runner(words=data[0], numbers=integers).values()
    assert got.dtype == io_dtype
    wanted = model.predict(data, verbose=0)
    error = np.abs((got - middle) * step - wanted).max() / np.abs(wanted).max()
    assert error < 0.05
    assert abs(result.max_error - error) < 0.05
    # What the command line does: the data are the model's, whatever the file takes.
    both = sides.KerasSide(tmp_path, model), sides.FileSide(result.path)
    compared = comparison.compare(*both, data, tolerance=0.05, runs=2)
    assert compared.within_tolerance
    assert min(compared.milliseconds) > 0


@on_tensorflow
def test_recurrent_layers_run_in_int8(tmp_path):
    # What a first state of zeros gives has a scale that the runtime refuses to compute with.
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(20, 4, mask_zero=True, embeddings_initializer="normal")(inputs)
    x = layers.LSTM(5, return_sequences=True)(x)
    model = give_biases(keras.Model(inputs, layers.Dense(3)(layers.GRU(5)(x))))
    data = np.random.default_rng(0).integers(0, 20, (64, 4))
    result = export(model, tmp_path / "m.tflite", quantize="int8", representative_data=data)
    assert result.max_error < 0.1
    assert any("unrolled" in note for note in result.notes)


@on_tensorflow
def test_a_calibration_that_crashes_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((65, 2)), layers.LSTM(2, name="my_lstm")])
    run_process = processes.run_process

    def crash(arguments, timeout, environment=None):
        if arguments[1].endswith("_calibrate"):
            return "crashed with SIGSEGV"
        return run_process(arguments, timeout, environment)

    monkeypatch.setattr(processes, "run_process", crash)
    with pytest.raises(ExportError, match=r"my_lstm.*quantize='dynamic'(?s:.*)SIGSEGV") as caught:
        export(
            model,
            tmp_path / "m.tflite",
            quantize="int8",
            representative_data=np.zeros((4, 65, 2)),
        )
    assert caught.value.step == "convert"
    assert not list(tmp_path.iterdir())


@on_tensorflow
def test_open_steps_take_those_of_the_data_where_a_loop_fails(tmp_path, monkeypatch):
    run_process = processes.run_process

    def crash(arguments, timeout, environment=None):
        if arguments[1].endswith("_calibrate"):
            return "crashed with SIGSEGV"
        return run_process(arguments, timeout, environment)

    monkeypatch.setattr(processes, "run_process", crash)
    model = keras.Sequential([keras.Input((None, 2)), layers.SimpleRNN(3)])
    data = np.random.default_rng(0).standard_normal((32, 4, 2))
    result = export(model, tmp_path / "m.tflite", quantize="int8", representative_data=data)
    assert any("input_0 (None, 4, 2)" in note for note in result.notes)
    assert any("unrolled" in note for note in result.notes)


@on_tensorflow
def test_a_quantized_file_that_gains_nothing_says_what_would(tmp_path):
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(128), layers.Dense(4)])
    kernel = rng.standard_normal((64, 128)) * (rng.random((64, 128)) > 0.9)
    model.layers[0].kernel.assign(kernel)
    data = rng.standard_normal((64, 64)).astype("float32")
    sizes = {
        quantize: export(model, tmp_path / "m.tflite", quantize=quantize, representative_data=data)
        for quantize in ("float16", "dynamic", "int8")
    }
    assert sizes["float16"].bytes < sizes["int8"].bytes
    for quantize in ("dynamic", "int8"):
        (note,) = (n for n in sizes[quantize].notes if "smaller file" in n)
        assert "quantize='float16'" in note
        assert f"{sizes['float16'].bytes:,} bytes" in note
    assert "patterns.Block((16, 1))" in sizes["int8"].notes[-1]
    assert not any("smaller file" in note for note in sizes["float16"].notes)


@on_tensorflow
def test_an_export_says_nothing_of_the_converters_own(tmp_path, caplog):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(2)])
    caplog.set_level(logging.INFO)
    levels = [logging.getLogger(name).level for name in ("tensorflow", "absl", "tf2onnx")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        export(
            model,
            tmp_path / "m.tflite",
            quantize="int8",
            representative_data=np.random.default_rng(0).standard_normal((64, 8)),
        )
        assert warnings.filters == filters
    texts = [str(w.message) for w in caught] + [r.getMessage() for r in caplog.records]
    assert not [t for t in texts if "Assets written" in t or "deprecated" in t]
    assert levels == [logging.getLogger(n).level for n in ("tensorflow", "absl", "tf2onnx")]


@on_tensorflow
def test_layers_that_litert_lacks_are_right_by_others(tmp_path):
    volume = keras.Input((5, 6, 7, 4))
    x = layers.MaxPooling3D((2, 3, 2), strides=(2, 1, 2), padding="same")(volume)
    y = layers.AveragePooling3D((2, 3, 2), strides=(2, 1, 2), padding="same")(volume)
    x = layers.Conv3D(4, 2, groups=2, activation="gelu")(layers.Add()([x, y]))
    image = layers.Reshape((10, 4, 3))(layers.Flatten()(x)[:, :120])
    image = layers.Conv2DTranspose(2, (3, 2), dilation_rate=(2, 3), padding="same")(image)
    image = layers.Conv2DTranspose(2, 2, dilation_rate=2)(image)
    scores = layers.Dense(3, name="scores")(layers.Flatten()(image))
    model = keras.Model(volume, [scores, ops.argmax(scores, axis=-1)])
    before = [getattr(ops, name) for name in ("max_pool", "conv", "conv_transpose", "signbit")]
    path = export(model, tmp_path / "m.tflite").path
    data = np.random.default_rng(0).standard_normal((3, 5, 6, 7, 4)).astype("float32")
    got = interpreter.Interpreter(str(path)).get_signature_runner()(input_0=data)
    scores, best = model.predict(data, verbose=0)
    np.testing.assert_allclose(got["scores"], scores, atol=2e-5 * np.abs(scores).max())
    assert any(np.array_equal(array, best) for array in got.values())
    assert before == [getattr(ops, n) for n in ("max_pool", "conv", "conv_transpose", "signbit")]


@on_tensorflow
def test_open_sizes_that_fail_take_those_of_the_data(tmp_path):
    values, mask = keras.Input((None, 4)), keras.Input((None, None), dtype="int32")
    product = ops.einsum("btd,bsd->bts", values, values)[:, None]
    outputs = ops.sum(product * ops.cast(mask[:, None, :, :], "float32"), axis=1)
    model = keras.Model([values, mask], outputs)
    with pytest.raises(ExportError, match=r"Sizes of input_0, input_1 are open.*representative_d"):
        export(model, tmp_path / "m.tflite")
    data = [np.ones((4, 5, 4), "float32"), np.ones((4, 5, 5), "int32")]
    result = export(model, tmp_path / "m.tflite", representative_data=data)
    assert any("input_1 (None, 5, 5)" in note for note in result.notes)
