"""Files for other programs than LiteRT: `.onnx` and deflated `.keras`."""

import zipfile

import keras
import numpy as np
import pytest

from keras_hoyer.exporters import ExportError, export, keras_archive, onnx_file, processes

layers, ops = keras.layers, keras.ops

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="converts in this process"
)


def sparse_model(sparsity=0.95, inputs=200):
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(100, "relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dense(10),
        ]
    )
    for w in model.trainable_weights:
        if len(w.shape) > 1:
            mask = rng.random(w.shape) >= sparsity
            w.assign(np.where(mask, rng.standard_normal(w.shape), -0.0))
    return model


def test_a_deflated_archive_is_a_fraction_and_keras_loads_it(tmp_path):
    model = sparse_model()
    result = export(model, tmp_path / "m.keras")
    assert result.bytes == (tmp_path / "m.keras").stat().st_size < result.dense_bytes / 3
    loaded = keras.models.load_model(tmp_path / "m.keras")
    x = np.random.default_rng(1).standard_normal((4, 200)).astype("float32")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    zeros = [np.asarray(w) for w in loaded.get_weights()]
    assert not any(np.signbit(w[w == 0]).any() for w in zeros)
    assert np.signbit(model.get_weights()[0]).any()


def test_an_archive_that_loses_a_weight_is_not_handed_over(tmp_path, monkeypatch):
    def lose(path):
        import h5py

        with h5py.File(path, "r+") as file:
            file["layers/dense/vars/0"][3] = 7

    monkeypatch.setattr(keras_archive, "_make_zeros_positive", lose)
    with pytest.raises(ExportError, match=r"'check'.*does not give back the weights of .*kernel"):
        export(sparse_model(), tmp_path / "m.keras")
    assert not list(tmp_path.iterdir())


def test_an_archive_that_cannot_be_read_is_not_handed_over(tmp_path, monkeypatch):
    class Broken(zipfile.ZipFile):
        def write(self, path, name):
            self.writestr(name, b"x")

    monkeypatch.setattr(keras_archive.zipfile, "ZipFile", Broken)
    with pytest.raises(ExportError, match=r"'check'.*Keras cannot load"):
        export(sparse_model(), tmp_path / "m.keras")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def onnx_result(tmp_path_factory):
    for package in ("onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    model = sparse_model()
    return model, export(model, tmp_path_factory.mktemp("onnx") / "m.onnx")


def test_an_onnx_file_computes_the_same(onnx_result):
    import onnxruntime

    model, result = onnx_result
    session = onnxruntime.InferenceSession(str(result.path))
    x = np.random.default_rng(1).standard_normal((4, 200)).astype("float32")
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    wanted = model.predict(x, verbose=0)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert result.max_error < 1e-5
    assert result.bytes == result.path.stat().st_size


def test_zeros_are_positive_in_an_onnx_file(onnx_result):
    import onnx

    _, result = onnx_result
    for tensor in onnx.load(result.path).graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        assert not np.signbit(array[array == 0]).any()
    assert max(tensor.sparsity for tensor in result.tensors) > 0.9


def test_a_wrong_onnx_file_is_not_handed_over(onnx_result, tmp_path, monkeypatch):
    _, result = onnx_result

    def wrong(model, signature, folder, *rest):
        (folder / onnx_file.NAME).write_bytes(result.path.read_bytes())

    monkeypatch.setattr(onnx_file, "convert_here", wrong)
    monkeypatch.setattr(processes, "convert_on_tensorflow", wrong)
    other = sparse_model(sparsity=0.5)
    with pytest.raises(ExportError, match=r"'check'.*(?s:.*)above the tolerance"):
        export(other, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="failed: "):
        export(sparse_model(inputs=20), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def run_onnx(path, **arrays):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    names = [place.name for place in session.get_outputs()]
    return dict(zip(names, session.run(None, arrays), strict=True))


def test_layers_that_the_converter_lacks_are_right_in_an_onnx_file(tmp_path):
    pytest.importorskip("tf2onnx")
    rng = np.random.default_rng(0)
    image = keras.Input((6, 6, 4), name="image")
    volume = keras.Input((4, 4, 4, 4), name="volume")
    x = layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0, 1.0, 2.0, 3.0])(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", groups=2, activation="gelu")(x)
    x = layers.Flatten()(layers.DepthwiseConv2D(3, activation="celu")(x))
    y = layers.Flatten()(layers.Conv3D(4, 3, groups=2, activation="elu")(volume))
    scores = layers.Dense(5, name="scores")(layers.Concatenate()([x, y]))
    outputs = {"scores": scores, "best": ops.argmax(scores, axis=-1)}
    model = keras.Model({"image": image, "volume": volume}, outputs)
    path = export(model, tmp_path / "m.onnx").path
    data = {
        "image": rng.normal(2, 3, (16, 6, 6, 4)).astype("float32"),
        "volume": rng.standard_normal((16, 4, 4, 4, 4)).astype("float32"),
    }
    got, wanted = run_onnx(path, **data), model.predict(data, verbose=0)
    assert set(got) == set(wanted)
    np.testing.assert_allclose(got["scores"], wanted["scores"], rtol=0, atol=2e-5)
    np.testing.assert_array_equal(got["best"], wanted["best"])


@on_tensorflow
def test_operations_made_of_others_keep_their_digits(tmp_path):
    pytest.importorskip("tf2onnx")
    special = pytest.importorskip("scipy.special")
    tf = pytest.importorskip("tensorflow")
    functions = {
        "erfc": (tf.math.erfc, special.erfc),
        "expm1": (tf.math.expm1, np.expm1),
        "log1p": (lambda x: tf.math.log1p(tf.abs(x)), lambda x: np.log1p(np.abs(x))),
        "xlogy": (lambda x: tf.math.xlogy(x, 0 * x + 3), lambda x: special.xlogy(x, 3)),
        "zero": (lambda x: tf.math.xlogy(0 * x, 0 * x), lambda x: 0 * x),
        "xdivy": (lambda x: tf.math.xdivy(x, x), lambda x: np.float64(x != 0)),
    }
    inputs = keras.Input((1,), name="x")
    outputs = {k: layers.Lambda(f, output_shape=(1,))(inputs) for k, (f, _) in functions.items()}
    x = np.array([-6, -1, -0.999, -1e-3, -1e-7, 0, 1e-7, 1e-4, 0.5, 0.999, 1, 6], "float32")
    data = np.concatenate([x, 10.0 * x])[:, None]
    path = export(keras.Model(inputs, outputs), tmp_path / "m.onnx", representative_data=data).path
    got = run_onnx(path, x=data)
    for name, (_, exact) in functions.items():
        wanted = exact(data.astype("float64"))
        # erfc is one less erf: what is left of it far out is rounding.
        rounding = 1.2e-7 if name == "erfc" else 1e-9
        np.testing.assert_allclose(got[name], wanted, rtol=1e-5, atol=rounding, err_msg=name)


@on_tensorflow
def test_a_model_with_a_longest_length_goes_to_onnx_by_its_data(tmp_path):
    pytest.importorskip("tf2onnx")

    class Positions(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(5, shape[-1]))

        def call(self, x):
            return x + ops.slice(self.table, (0, 0), (ops.shape(x)[1], x.shape[-1]))

    inputs = keras.Input((None,), dtype="int32", name="words")
    x = Positions()(layers.Embedding(7, 4)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(ops.mean(x, axis=1)))
    with pytest.raises(ExportError, match="representative_data"):
        export(model, tmp_path / "m.onnx")
    data = np.random.default_rng(0).integers(0, 7, (8, 5)).astype("int32")
    path = export(model, tmp_path / "m.onnx", representative_data=data).path
    for length in (3, 5):
        (got,) = run_onnx(path, words=data[:, :length]).values()
        wanted = model.predict(data[:, :length], verbose=0)
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@on_tensorflow
def test_an_operation_that_onnx_lacks_is_named(tmp_path):
    pytest.importorskip("tf2onnx")
    inputs = keras.Input((3, 3))
    inverse = layers.Lambda(ops.inv, name="my_inverse")(inputs)
    with pytest.raises(ExportError, match=r"no operation for MatrixInverse \(.*my_inverse.*tflite"):
        export(keras.Model(inputs, inverse), tmp_path / "m.onnx")
