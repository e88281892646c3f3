"""The words that arguments may be, each set once: types for users' checkers, choices for ours."""

from typing import Literal, TypeAlias

# How criteria compare: over all layers, or each layer in itself.
Scope: TypeAlias = Literal["global", "layer"]

# What the groups of a penalty are, where they are not those of each kernel.
Groups: TypeAlias = Literal["coupled"]

# Of `export`: `format`, `quantize`, `sparse`, `optimize_for` and `io_dtype`.
FormatName: TypeAlias = Literal["tflite", "onnx", "keras", "npz", "safetensors"]
Quantization: TypeAlias = Literal["float16", "dynamic", "int8"]
Sparse: TypeAlias = bool | Literal["auto"]
Goal: TypeAlias = Literal["size", "latency"]
InterfaceDtype: TypeAlias = Literal["float32", "int8", "uint8"]

# Of a penalty: a number, or one that a callback sets.
Factor: TypeAlias = float | Literal["auto"]
