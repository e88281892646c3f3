"""Encodes the zeros of a dense LiteRT file, tensor by tensor.

The converter's own sparse encoding looks at no size, takes random zeros for blocks above 97%, and
drops the last rows of a kernel that its blocks do not divide. Here each tensor gets the smallest:

- blocks: a kernel of a fully connected operation, in blocks of 4 (float32) or 16 (int8) inputs of
  one output, which the runtime skips; only where the block divides the number of inputs;
- CSR along the last axis, turned back into a dense tensor by a `DENSIFY` operation when the file
  is loaded: less size, the same speed;
- dense.
"""

import copy
from typing import Any

import numpy as np

# Elements that the runtime skips at once in a fully connected operation.
BLOCKS = {"float32": 4, "int8": 16}

# Version of the fully connected operation that reads sparse kernels.
FULLY_CONNECTED_SPARSE = 8

# About what the description of a sparse tensor and its operation add to a file.
OVERHEAD = 200


def encode(content: bytes, largest_share: float = 1) -> bytes | None:
    """Encodes the tensors that get smaller by it.

    Args:
        content: the bytes of a dense `.tflite` file.
        largest_share: blocks are used in kernels that keep at most this share of them. They save
            time only where they are few.

    Returns:
        The bytes of the sparse file, or `None` where no tensor gets smaller.
    """
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    users = np.bincount([t.buffer for graph in model.subgraphs for t in graph.tensors])
    encoded = False
    for graph in model.subgraphs:
        for number in range(len(graph.tensors)):
            tensor = graph.tensors[number]
            data = model.buffers[tensor.buffer].data
            if data is None or len(data) == 0 or users[tensor.buffer] > 1:
                continue
            encoded |= _encode_tensor(schema, model, graph, number, largest_share)
    return packed(schema, model) if encoded else None


def _encode_tensor(schema: Any, model: Any, graph: Any, number: int, largest_share: float) -> bool:
    """Encodes one constant in place, if that makes it smaller."""
    tensor = graph.tensors[number]
    dtype = _DTYPES.get(tensor.type)
    if dtype is None or tensor.shape is None or len(tensor.shape) < 2 or number in graph.outputs:
        return False
    block, csr = _abilities(schema, model, graph, number, dtype)
    buffer = model.buffers[tensor.buffer]
    matrix = buffer.data.view(dtype).reshape(-1, tensor.shape[-1])
    options = []
    if block and matrix.shape[1] % block == 0:
        blocks = matrix.reshape(len(matrix), -1, block)
        kept = blocks.any(axis=-1)
        if kept.mean() <= largest_share:
            options.append((blocks, kept))
    if csr:
        options.append((matrix, matrix != 0))
    best = None
    for values, kept in options:
        starts = _smallest(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]))
        indices = _smallest(np.nonzero(kept)[1])
        stored = values[kept].reshape(-1)
        size = stored.nbytes + starts.nbytes + indices.nbytes + OVERHEAD
        if size < (matrix.nbytes if best is None else best[0]):
            best = size, values.ndim == 3, stored, starts, indices
    if best is None:
        return False
    _, in_blocks, stored, starts, indices = best
    buffer.data = stored.view("uint8")
    tensor.sparsity = _sparsity(schema, tensor.shape, starts, indices, block if in_blocks else 0)
    (_mark_as_sparse if in_blocks else _densify)(schema, model, graph, number)
    return True


_DTYPES = {0: "float32", 1: "float16", 9: "int8"}  # numbers of the schema's TensorType


def _abilities(schema: Any, model: Any, graph: Any, number: int, dtype: str) -> tuple[int, bool]:
    """Block size (0: none) and whether CSR works, by what the tensor's operations can read."""
    operations = schema.BuiltinOperator
    names, skipping = set(), True
    for code, operation in _readers(model, graph, number):
        names.add(code)
        kernel = len(operation.inputs) > 1 and operation.inputs[1] == number
        same = _DTYPES.get(graph.tensors[operation.inputs[0]].type) == dtype
        skipping &= code == operations.FULLY_CONNECTED and kernel and same
        if dtype == "int8" and not same and code != operations.TRANSPOSE_CONV:
            return 0, False  # kernels in int8 with activations in float32 are not read sparsely
        if code == operations.DEQUANTIZE:
            # XNNPACK unpacks float16 kernels itself, which these operations are not part of.
            names |= {c for c, _ in _readers(model, graph, operation.outputs[0])}
            names -= {operations.DEQUANTIZE}
            if names & {operations.CONV_3D, operations.GATHER}:
                return 0, False
    tensor = graph.tensors[number]
    zero_points = getattr(tensor.quantization, "zeroPoint", None)
    if not names or (zero_points is not None and np.any(zero_points)):
        return 0, False
    able = {operations.CONV_2D, operations.DEPTHWISE_CONV_2D}
    if dtype != "int8":
        able |= {
            operations.FULLY_CONNECTED,
            operations.TRANSPOSE_CONV,
            operations.BATCH_MATMUL,
            operations.CONV_3D,
            operations.GATHER,
        }
    block = BLOCKS.get(dtype, 0) if skipping and len(tensor.shape) == 2 else 0
    return block, names <= able


def _readers(model: Any, graph: Any, number: int) -> list[tuple[int, Any]]:
    """The operations that read a tensor, each with its number in the schema."""
    return [
        (model.operatorCodes[operation.opcodeIndex].builtinCode, operation)
        for operation in graph.operators
        if operation.inputs is not None and number in operation.inputs
    ]


def _sparsity(
    schema: Any, shape: np.ndarray, starts: np.ndarray, indices: np.ndarray, block: int
) -> Any:
    dimensions = [
        schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=int(size))
        for size in shape[:-1]
    ]
    vectors = {
        "uint8": (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
        "uint16": (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
        "int32": (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
    }
    (starts_type, starts_class), (indices_type, indices_class) = (
        vectors[array.dtype.name] for array in (starts, indices)
    )
    dimensions.append(
        schema.DimensionMetadataT(
            format=schema.DimensionType.SPARSE_CSR,
            arraySegmentsType=starts_type,
            arraySegments=starts_class(values=starts),
            arrayIndicesType=indices_type,
            arrayIndices=indices_class(values=indices),
        )
    )
    rank = len(shape)
    if block:
        dimensions.append(
            schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=block)
        )
    return schema.SparsityParametersT(
        traversalOrder=np.arange(rank + bool(block), dtype="int32"),
        blockMap=np.array([rank - 1], "int32") if block else None,
        dimMetadata=dimensions,
    )


def _densify(schema: Any, model: Any, graph: Any, number: int) -> None:
    """Puts a `DENSIFY` operation between a sparse constant and those that read it."""
    sparse = graph.tensors[number]
    dense = copy.copy(sparse)
    dense.buffer, dense.sparsity, dense.name = 0, None, sparse.name + b"/dense"
    graph.tensors.append(dense)
    for _, operation in _readers(model, graph, number):
        moved = operation.inputs == number
        operation.inputs = np.where(moved, len(graph.tensors) - 1, operation.inputs).astype("int32")
    graph.operators.insert(
        0,
        schema.OperatorT(
            opcodeIndex=_operator_code(schema, model, schema.BuiltinOperator.DENSIFY, 1),
            inputs=np.array([number], "int32"),
            outputs=np.array([len(graph.tensors) - 1], "int32"),
        ),
    )


def _mark_as_sparse(schema: Any, model: Any, graph: Any, number: int) -> None:
    """Gives the operations that read blocks the version that stands for sparse kernels.

    XNNPACK goes by the version alone: it takes all others, and reads the blocks as if dense.
    """
    for code, operation in _readers(model, graph, number):
        operation.opcodeIndex = _operator_code(schema, model, code, FULLY_CONNECTED_SPARSE)


def _operator_code(schema: Any, model: Any, code: int, version: int) -> int:
    """The number of an operation in the model's list, which it is added to if need be."""
    known = [(known.builtinCode, known.version) for known in model.operatorCodes]
    if (code, version) not in known:
        model.operatorCodes.append(
            schema.OperatorCodeT(
                deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version
            )
        )
        known.append((code, version))
    return known.index((code, version))


def _smallest(array: np.ndarray) -> np.ndarray:
    """The array in the smallest of the schema's index types."""
    largest = int(array.max(initial=0))
    return array.astype("uint8" if largest < 2**8 else "uint16" if largest < 2**16 else "int32")


def packed(schema: Any, model: Any) -> bytes:
    """The bytes of a file from its unpacked description, aligned as the schema asks."""
    import flatbuffers  # noqa: PLC0415

    class AlignedBuilder(flatbuffers.Builder):
        """Aligns data as the schema asks, which the generated code does not."""

        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
            least = 16 if elemSize == 1 else 4
            start: int = super().StartVector(elemSize, numElems, max(alignment, least))
            return start

    data = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = AlignedBuilder(data + 2**16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
