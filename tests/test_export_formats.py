"""Files for other programs than LiteRT: `.onnx` and deflated `.keras`."""

import zipfile

import keras
import numpy as np
import pytest

from keras_hoyer.exporters import ExportError, export, keras_archive, onnx_file, processes

layers = keras.layers


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
