"""Reads from a LiteRT file how it is quantized, and for which inputs."""

from typing import Any


def quantization_of(content: bytes) -> str | None:
    """How a file computes, in the words of `export`'s argument `quantize`.

    Args:
        content: the bytes of a `.tflite` file.

    Returns:
        `"int8"` if anything is computed in int8, `"dynamic"` or `"float16"` if only weights are
        stored so, else `None`.
    """
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model = schema.Model.GetRootAs(content, 0)
    stored: set[int] = set()
    computed: set[int] = set()
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for t in range(graph.TensorsLength()):
            tensor = graph.Tensors(t)
            constant = model.Buffers(tensor.Buffer()).DataLength() > 0
            (stored if constant else computed).add(tensor.Type())
    if schema.TensorType.INT8 in computed:
        return "int8"
    if schema.TensorType.INT8 in stored:
        return "dynamic"
    return "float16" if schema.TensorType.FLOAT16 in stored else None


def input_ranges(content: bytes) -> dict[str, tuple[float, float]]:
    """What the integers of a file's inputs can stand for: the range that it was calibrated on.

    Args:
        content: the bytes of a `.tflite` file.

    Returns:
        The least and the largest value of each input that is, or is made, an integer with a scale.
    """
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model = schema.Model.GetRootAs(content, 0)
    if not model.SignatureDefsLength():
        return {}
    signature = model.SignatureDefs(0)
    graph = model.Subgraphs(signature.SubgraphIndex())
    becomes = {}
    for o in range(graph.OperatorsLength()):
        operator = graph.Operators(o)
        code = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if code == schema.BuiltinOperator.QUANTIZE:
            becomes[operator.Inputs(0)] = operator.Outputs(0)
    limits = {
        schema.TensorType.INT8: (-(2**7), 2**7 - 1),
        schema.TensorType.UINT8: (0, 2**8 - 1),
        schema.TensorType.INT16: (-(2**15), 2**15 - 1),
    }
    ranges = {}
    for i in range(signature.InputsLength()):
        place = signature.Inputs(i)
        tensor = graph.Tensors(becomes.get(place.TensorIndex(), place.TensorIndex()))
        if tensor.Type() in limits and (scale := _scale(tensor)):
            low, high = ((end - scale[1]) * scale[0] for end in limits[tensor.Type()])
            ranges[place.Name().decode()] = (low, high)
    return ranges


def _scale(tensor: Any) -> tuple[float, int] | None:
    """Scale and zero point of a tensor that has one of each."""
    quantization = tensor.Quantization()
    if quantization is None or quantization.ScaleLength() != 1:
        return None
    return float(quantization.Scale(0)), int(quantization.ZeroPoint(0))
