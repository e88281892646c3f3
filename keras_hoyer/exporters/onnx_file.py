"""Makes `.onnx` files and checks them with ONNX Runtime."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer._progress import step
from keras_hoyer.exporters import (
    onnx_operations,
    open_sizes,
    processes,
    signatures,
    substitutes,
    tensorflow_graph,
)
from keras_hoyer.exporters.results import ExportError, ExportResult, StoredTensor

TOLERANCE = 1e-4

NAME = "model.onnx"

WAY_OUT = "Try .tflite, or replace the layer."


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
    return open_sizes.write(
        signature, data, lambda sizes: _write(model, folder, sizes, data, tolerance)
    )


def _write(
    model: keras.Model,
    folder: Path,
    signature: signatures.Signature,
    data: list[np.ndarray] | None,
    tolerance: float,
) -> ExportResult:
    notes = ["ONNX has no sparse kernels that ONNX Runtime makes use of: the file is dense"]
    if data is None:
        data = signatures.random_arrays(model, signature, signatures.CHECK_SAMPLES)
        notes.append("checked on random inputs; `representative_data` gives a check on real ones")
    calls = signatures.calls_of(signature, data)
    expected = signatures.outputs_of(model, signature, calls)
    processes.store_calls(folder / processes.CALLS, signature, calls)
    with step("converting"):
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
        bytes=path.stat().st_size,
        dense_bytes=path.stat().st_size,
        max_error=candidate.error,
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

    try:
        with (
            signatures.in_float32(model),
            substitutes.in_place("onnx"),
            tensorflow_graph.quiet(),
        ):
            content = _converted(tensorflow_graph.function_of(model, signature))
    except Exception as error:  # the converter raises anything
        return f"{processes.shortened(f'{type(error).__name__}: {error}')} {WAY_OUT}"
    unknown = sorted(
        {
            f"{node.op_type} ({node.name})"
            for node in _nodes(content.graph)
            if not onnx.defs.has(node.op_type, node.domain)
        }
    )
    if unknown:
        return f"ONNX has no operation for {', '.join(unknown)}. {WAY_OUT}"
    for tensor in content.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and np.signbit(array[array == 0]).any():
            positive = np.where(array == 0, np.zeros((), array.dtype), array)
            tensor.CopyFrom(onnx.numpy_helper.from_array(positive, tensor.name))
    onnx.save(content, folder / NAME)
    return None


def _converted(function: Any) -> Any:
    """The ONNX model of a function; its inputs and outputs keep their names and their order."""
    import tf2onnx  # noqa: PLC0415

    from keras_hoyer import _keras  # noqa: PLC0415

    _keras.patch_tf2onnx()
    graph, inputs, outputs = tensorflow_graph.frozen(function)
    names = {tensor: tensor.split(":")[0] for tensor in inputs}
    order = list(function.get_concrete_function().structured_outputs)
    # TensorFlow returns a dict in the order of its sorted keys.
    places = dict(zip(sorted(order), outputs, strict=True))
    for name in order:
        taken = name in names.values()
        names[places[name]] = f"{name}_output" if taken else name
    content, _ = tf2onnx.convert.from_graph_def(
        graph,
        input_names=inputs,
        output_names=[places[name] for name in order],
        custom_op_handlers=onnx_operations.handlers(),
        tensors_to_rename=names,
    )
    return content


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the graphs inside them, such as the body of a loop."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(path: Path) -> list[StoredTensor]:
    import onnx  # noqa: PLC0415

    tensors = []
    for tensor in onnx.load(path).graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim > 1 and array.dtype.kind == "f":
            zeros = float(np.mean(array == 0)) if array.size else 0.0
            tensors.append(StoredTensor(tensor.name, array.shape, array.dtype.name, "dense", zeros))
    return tensors
