"""Makes `.onnx` files and checks them with ONNX Runtime."""

import dataclasses
from pathlib import Path

import keras
import numpy as np

from keras_hoyer.exporters import processes, signatures
from keras_hoyer.exporters.results import ExportError, ExportResult, StoredTensor

TOLERANCE = 1e-4

NAME = "model.onnx"


def write(
    model: keras.Model,
    folder: Path,
    signature: signatures.Signature,
    *,
    data: list[np.ndarray] | None,
    tolerance: float | None,
) -> ExportResult:
    """Writes an `.onnx` file into `folder`, runs it and compares.

    Args:
        model: a built model.
        folder: an empty folder.
        signature: what the model takes.
        data: representative inputs as `signatures.arrays_of` gives them, or `None`.
        tolerance: largest relative error, 1e-4 by default.

    Returns:
        The result; its `path` lies in `folder`.

    Raises:
        ExportError: if the model cannot be called or converted, or the file is not right.
    """
    tolerance = TOLERANCE if tolerance is None else tolerance
    notes = ["ONNX has no sparse kernels that ONNX Runtime makes use of: the file is dense"]
    if data is None:
        data = signatures.random_arrays(model, signature, signatures.CHECK_SAMPLES)
        notes.append("checked on random inputs; `representative_data` gives a check on real ones")
    calls = signatures.calls_of(signature, data)
    expected = signatures.outputs_of(model, signature, calls)
    processes.store_calls(folder / "calls.npz", signature, calls)
    if keras.backend.backend() == "tensorflow":
        failure = convert_here(model, signature, folder, None)
    else:
        job = {"format": "onnx"}
        failure = processes.convert_on_tensorflow(model, signature, folder, None, job)
    if failure is not None:
        raise ExportError("convert", failure)
    path = folder / NAME
    candidate = processes.check("float32 dense", path, expected, tolerance)
    if not candidate.right:
        raise ExportError("check", "the file is not right, nothing was written.", (candidate,))
    return ExportResult(
        path=path,
        format="onnx",
        bytes=candidate.bytes,
        dense_bytes=candidate.bytes,
        max_error=candidate.max_error,
        tolerance=tolerance,
        candidates=(dataclasses.replace(candidate, outcome="kept"),),
        tensors=tuple(_tensors(path)),
        notes=tuple(notes),
    )


def convert_here(
    model: keras.Model,
    signature: signatures.Signature,
    folder: Path,
    calibration: None,
) -> str | None:
    """Writes the file where Keras runs on TensorFlow; returns why it could not, or `None`."""
    import onnx  # noqa: PLC0415

    path = folder / NAME
    try:
        with signatures.in_float32(model):
            # Keras exports a model only once it has been called.
            arrays = signatures.random_arrays(model, signature, 1)
            signature.call(model, [keras.ops.convert_to_tensor(array) for array in arrays])
            model.export(path, format="onnx", verbose=False)
    except Exception as error:  # the converter raises anything
        return f"{type(error).__name__}: {error}"[:300]
    content = onnx.load(path)
    for tensor in content.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and np.signbit(array[array == 0]).any():
            positive = np.where(array == 0, np.zeros((), array.dtype), array)
            tensor.CopyFrom(onnx.numpy_helper.from_array(positive, tensor.name))
    onnx.save(content, path)
    return None


def _tensors(path: Path) -> list[StoredTensor]:
    import onnx  # noqa: PLC0415

    tensors = []
    for tensor in onnx.load(path).graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim > 1 and array.dtype.kind == "f":
            zeros = float(np.mean(array == 0)) if array.size else 0.0
            tensors.append(StoredTensor(tensor.name, array.shape, array.dtype.name, "dense", zeros))
    return tensors
