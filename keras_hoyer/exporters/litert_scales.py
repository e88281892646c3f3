"""Gives int8 tensors that are always zero a scale that the runtime can compute with.

Calibration sees no range in the first state of a recurrent layer, nor in what is made of it, and
the converter gives such tensors a scale of 8e-9. XNNPACK then fails on ratios of scales far outside
of what it can hold. A zero is a zero at any scale.
"""

from typing import Any

import numpy as np

from keras_hoyer.exporters.litert_encoding import packed

# The converter's scale for a range of nothing is 2e-6 / 255.
NOTHING = 1e-8

INT32 = 2  # number of the schema's TensorType


def widen(content: bytes) -> bytes:
    """Mends the scales of a quantized `.tflite` file.

    Args:
        content: the bytes of the file.

    Returns:
        The bytes of the mended file; the same if there is nothing to mend.
    """
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    mended = [_widen_graph(model, graph) for graph in model.subgraphs]
    return packed(schema, model) if any(mended) else content


def _widen_graph(model: Any, graph: Any) -> bool:
    empty = {number for number, tensor in enumerate(graph.tensors) if _is_empty(tensor)}
    if not empty:
        return False
    scale = _common_scale(graph, empty)
    for operation in graph.operators:
        _rescale_bias(model, graph, operation, empty, scale)
    for number in empty:
        graph.tensors[number].quantization.scale = np.array([scale], "float32")
    return True


def _is_empty(tensor: Any) -> bool:
    scale = _scale(tensor)
    return scale is not None and scale <= NOTHING


def _scale(tensor: Any) -> float | None:
    """The one scale of a tensor; `None` if it has none or one for each channel."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    return float(quantization.scale[0]) or None


def _common_scale(graph: Any, empty: set[int]) -> float:
    """A scale like those that the empty tensors are computed with; it must be one for all.

    Operations that only move values want the scales of what they read and write to be equal.
    """
    scales = []
    for operation in graph.operators:
        numbers = [*_numbers(operation.inputs), *_numbers(operation.outputs)]
        if empty & set(numbers):
            near = [_scale(graph.tensors[number]) for number in numbers if number not in empty]
            scales += [scale for scale in near if scale]
    return float(np.median(scales)) if scales else 1 / 128


def _rescale_bias(model: Any, graph: Any, operation: Any, empty: set[int], scale: float) -> None:
    """Keeps the value of a bias, whose scale is the product of input's and kernel's."""
    numbers = _numbers(operation.inputs)
    if len(numbers) < 3 or not empty & set(numbers[:1]):
        return
    bias = graph.tensors[numbers[2]]
    scales = None if bias.quantization is None else bias.quantization.scale
    before = _scale(graph.tensors[numbers[0]])
    if bias.type != INT32 or scales is None or before is None:
        return  # no bias: where a slice ends, for example
    ratio = scale / before
    buffer = model.buffers[bias.buffer]
    values = np.frombuffer(bytes(buffer.data), "int32") / ratio
    buffer.data = np.round(values).astype("int32").view("uint8")
    bias.quantization.scale = (np.asarray(scales) * ratio).astype("float32")


def _numbers(tensors: Any) -> list[int]:
    return [] if tensors is None else [int(number) for number in tensors if number >= 0]
