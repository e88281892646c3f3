"""Reads the weight tensors of a LiteRT file, and gives its zeros a positive sign."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_hoyer.exporters.results import StoredTensor


def tensors_of(content: bytes) -> tuple[StoredTensor, ...]:
    """How each constant of two or more axes is stored in the file.

    Args:
        content: the bytes of a `.tflite` file.

    Returns:
        One `StoredTensor` for each; `sparsity` counts what stands for zero, the zero point in a
        quantized tensor.
    """
    tensors = []
    for tensor, values in _constants(content):
        if tensor.ShapeLength() < 2:
            continue
        shape = tuple(tensor.ShapeAsNumpy().tolist())
        quantization = tensor.Quantization()
        zero = 0
        if quantization is not None and quantization.ZeroPointLength():
            zero = quantization.ZeroPointAsNumpy()[0]
        nonzero = np.count_nonzero(values != zero)
        tensors.append(
            StoredTensor(
                name=tensor.Name().decode(),
                shape=shape,
                dtype=values.dtype.name,
                storage=_storage(tensor),
                sparsity=1 - float(nonzero) / max(1, math.prod(shape)),
            )
        )
    return tuple(tensors)


def make_zeros_positive(content: bytearray) -> None:
    """Turns every -0.0 of the constants into +0.0, in place.

    Folding a batch normalisation multiplies zeros by negative numbers; a compressor does not take
    -0.0 for a zero.
    """
    for _, values in _constants(content):
        if values.dtype.kind == "f":
            values[values == 0] = 0


def bytes_of_constants(content: bytes) -> int:
    """How much of a file is weights and other constants."""
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model = schema.Model.GetRootAs(content, 0)
    return sum(model.Buffers(i).DataLength() for i in range(model.BuffersLength()))


def interface_of(content: bytes) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Names and tensors of the inputs, and of the outputs, in the file's signature."""
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model = schema.Model.GetRootAs(content, 0)
    signature = model.SignatureDefs(0)
    graph = model.Subgraphs(signature.SubgraphIndex())
    inputs = [signature.Inputs(i) for i in range(signature.InputsLength())]
    outputs = [signature.Outputs(i) for i in range(signature.OutputsLength())]
    named = [
        [(place.Name().decode(), graph.Tensors(place.TensorIndex())) for place in places]
        for places in (inputs, outputs)
    ]
    return named[0], named[1]


def _constants(content: bytes | bytearray) -> Iterator[tuple[Any, np.ndarray]]:
    """Tensors with stored values of a float or int8 dtype, and a view of the stored values."""
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    dtypes = {
        schema.TensorType.FLOAT32: np.dtype("float32"),
        schema.TensorType.FLOAT16: np.dtype("float16"),
        schema.TensorType.INT8: np.dtype("int8"),
    }
    model = schema.Model.GetRootAs(content, 0)
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for t in range(graph.TensorsLength()):
            tensor = graph.Tensors(t)
            buffer = model.Buffers(tensor.Buffer())
            if tensor.Type() in dtypes and buffer.DataLength():
                yield tensor, buffer.DataAsNumpy().view(dtypes[tensor.Type()])


def _storage(tensor: Any) -> str:
    sparsity = tensor.Sparsity()
    if sparsity is None:
        return "dense"
    if not sparsity.BlockMapLength():
        return "csr"
    rank = tensor.ShapeLength()
    sizes = [sparsity.DimMetadata(i).DenseSize() for i in range(rank, sparsity.DimMetadataLength())]
    return f"block {tuple(sizes)}"
