"""What there is to say about a `.tflite` file: what it gains nothing by, and how it is called."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_hoyer.exporters import litert_convert, litert_encoding, litert_file
from keras_hoyer.exporters.results import StoredTensor

# Share of a file that may be something else than weights before a note says so, and the size below
# which nobody asks.
OTHER_SHARE, OTHER_BYTES = 0.3, 10_000

# From this share of zeros on a tensor would be smaller if it could be stored sparsely.
SPARSE_SHARE = 0.5


def of_recurrent_layers(unrolled: bool, content: bytes) -> str:
    """How recurrent layers stand in a file, and what that costs."""
    if not unrolled:
        return "recurrent layers run as a loop, for which the batch is fixed at one sample"
    note = "recurrent layers are unrolled, for their fixed number of steps"
    other = len(content) - litert_file.bytes_of_constants(content)
    if other > max(OTHER_BYTES, OTHER_SHARE * len(content)):
        note += (
            f": {other:,} of {len(content):,} bytes are the operations of the steps. An input with "
            "an open number of steps, `Input((None, ...))`, gives a loop, which is smaller"
        )
    return note


def of_weighing(
    folder: Path,
    quantize: str | None,
    sparse: bool | str,
    best: bytes,
    tensors: tuple[StoredTensor, ...],
) -> list[str]:
    """Says which other quantization gives a smaller file, and why, if one does."""
    sizes = {}
    for other in litert_convert.WEIGHED[quantize]:
        path = folder / litert_convert.weighed_file(other)
        if not path.exists():
            continue  # its kernels alone would take more
        content = path.read_bytes()
        encoded = litert_encoding.encode(content) if sparse else None
        sizes[other] = min(len(content), len(encoded or content))
    smaller = {other: size for other, size in sizes.items() if size < len(best)}
    if not smaller:
        return []
    least = min(smaller, key=lambda other: smaller[other])
    return [
        f"quantize={least!r} would give a smaller file: {smaller[least]:,} bytes, where this one "
        f"has {len(best):,}. {_cause(quantize, tensors)}"
    ]


def _cause(quantize: str | None, tensors: tuple[StoredTensor, ...]) -> str:
    zeros = [tensor for tensor in tensors if tensor.sparsity >= SPARSE_SHARE]
    if zeros and quantize == "int8":
        return (
            "It stores zeros: int8 kernels of dense layers can be sparse in blocks of 16 inputs "
            "only, which `patterns.Block((16, 1))` cuts, and `patterns.Channel` with `shrink` "
            "makes every file smaller"
        )
    if zeros and quantize == "dynamic":
        return (
            "It stores zeros: the runtime reads int8 kernels sparsely only where it computes in "
            "int8; `patterns.Channel` with `shrink` makes every file smaller"
        )
    return (
        "In a model this small, or with many small operations, what describes each quantized "
        "tensor weighs more than the bytes that its weights save"
    )


def of_interface(content: bytes, io_dtype: str) -> list[str]:
    """The scale and zero point of each input and output that is in integers in place of floats."""
    if io_dtype == "float32":
        return []
    inputs, outputs = (
        [_described(name, tensor) for name, tensor in places if _scaled(tensor)]
        for places in litert_file.interface_of(content)
    )
    notes = [f"inputs are integers, value / scale + zero point: {', '.join(inputs)}"]
    if not inputs:
        notes = ["no input is in integers that stand for floats"]
    if outputs:
        given = ", ".join(outputs)
        notes.append(f"outputs are integers, (integer - zero point) * scale: {given}")
    return notes


def _scaled(tensor: Any) -> bool:
    quantization = tensor.Quantization()
    return quantization is not None and quantization.ScaleLength() == 1


def _described(name: str, tensor: Any) -> str:
    quantization = tensor.Quantization()
    kind = {3: "uint8", 9: "int8"}.get(tensor.Type(), "int")
    scale = np.float32(quantization.Scale(0))
    return f"{name} {kind}, scale {scale!s}, zero point {quantization.ZeroPoint(0)}"
