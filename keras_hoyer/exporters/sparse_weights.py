"""Sparse weights in a file: zeros cost nothing, everything else comes back bit for bit.

File format, version 1. A file holds a header and a few flat arrays; `.npz` (deflated) and
`.safetensors` carry the same ones. The header is JSON: `format`, `version` and `tensors`, a list
with one entry for each of `model.weights`, in that order:

- `path`, `name`, `shape`, `dtype`: the variable's;
- `stored`: dtype of its values in the file, `dtype` itself or `float16`;
- `encoding`, `count`: how its elements are stored, and how many values that takes;
- `crc32`: checksum of its dense elements, as `stored`, in C order.

Each tensor takes its share of the arrays, one after the other:

- `values.{stored}`: all elements (`dense`) or the nonzero ones (`bitmask`, `csr`), in C order;
- `mask` (`bitmask`): a bit for each element in C order, eight to a byte, the lowest bit first;
- `indices` and `indptr` (`csr`): SciPy's, of the matrix `(product of the other axes, last axis)`.

An array of n elements of b bytes is stored as uint8 of shape `(b, n)`: first all lowest bytes, then
all next ones, which deflates better. In `.npz` the header is the member `header`, in `.safetensors`
the metadata entry `header`. -0.0 is stored as +0.0.
"""

import collections
import dataclasses
import importlib.util
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer._keras import flatten_layers
from keras_hoyer.exporters import limits, sparse_file
from keras_hoyer.exporters.results import Candidate, ExportError, ExportResult, StoredTensor
from keras_hoyer.exporters.sparse_encoding import (
    Entry,
    checksum,
    dtype_of,
    encode,
    is_native,
    planes_of,
)

# Rounding to float16 moves a weight by at most 2**-11 of its size.
TOLERANCES = {None: 0.0, "float16": 1e-3}


def write(
    model: keras.Model,
    path: Path,
    quantize: str | None,
    sparse: bool | str,
    tolerance: float | None,
) -> ExportResult:
    """Writes the weights to `path`, reads them back and compares.

    Args:
        model: a built model.
        path: a file that ends in `.npz` or `.safetensors`.
        quantize: `None`, or `"float16"` to store the values of float32 weights in half precision.
        sparse: `False` stores every tensor densely.
        tolerance: largest difference of a weight relative to the largest weight of its tensor, or
            `None` for the default: 0, or 1e-3 for float16.

    Returns:
        The result.

    Raises:
        ExportError: if a weight does not fit into float16, or the file does not give back what was
            written.
    """
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance
    compressed = path.suffix == ".npz"
    size_of = _deflated_size if compressed else _plain_size
    tensors = [
        _encoded(variable, quantize, bool(sparse), tolerance, size_of) for variable in model.weights
    ]
    max_error = max((tensor.error for tensor in tensors), default=0.0)
    header, planes = _laid_out(tensors)
    (sparse_file.write_npz if compressed else sparse_file.write_safetensors)(path, header, planes)
    _check(model, path, [tensor.wanted for tensor in tensors])
    name = f"{quantize or 'lossless'}, {'smallest encoding' if sparse else 'dense'}"
    size = path.stat().st_size
    return ExportResult(
        path=path,
        format=path.suffix[1:],
        bytes=size,
        dense_bytes=sum(
            tensor.entry.size * dtype_of(tensor.entry.stored).itemsize for tensor in tensors
        ),
        max_error=max_error,
        tolerance=tolerance,
        candidates=(Candidate(name, "kept", size, max_error, right=True),),
        tensors=tuple(tensor.described for tensor in tensors),
    )


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """One weight on its way into a file.

    Attributes:
        entry: what the header says of it.
        parts: its share of the flat arrays.
        wanted: what the file must give back.
        error: largest error of rounding, relative to the largest weight.
        zeros: share of its elements that are zero.
    """

    entry: Entry
    parts: dict[str, np.ndarray]
    wanted: np.ndarray
    error: float
    zeros: float

    @property
    def described(self) -> StoredTensor:
        entry = self.entry
        return StoredTensor(entry.path, entry.shape, entry.stored, entry.encoding, self.zeros)


def _laid_out(tensors: list[_Encoded]) -> tuple[str, dict[str, np.ndarray]]:
    """The header of a file, and its flat arrays."""
    header = json.dumps(
        {
            "format": sparse_file.FORMAT,
            "version": sparse_file.VERSION,
            "tensors": [tensor.entry.to_json() for tensor in tensors],
        }
    )
    arrays: dict[str, list[np.ndarray]] = {}
    for tensor in tensors:
        for part, array in tensor.parts.items():
            arrays.setdefault(part, []).append(array)
    return header, {name: planes_of(np.concatenate(parts)) for name, parts in arrays.items()}


def _encoded(
    variable: Any,
    quantize: str | None,
    sparse: bool,
    tolerance: float,
    size: Callable[[np.ndarray], int],
) -> _Encoded:
    original = values_of(variable)
    values, error = original, 0.0
    if quantize == "float16" and original.dtype == np.float32:
        with np.errstate(over="ignore"):
            values = _with_positive_zeros(original.astype("float16"))
        error = _rounding_error(original, values)
        if not error <= tolerance:
            raise ExportError(
                "convert",
                f"the weights of {variable.path} do not fit into float16: their largest error "
                f"would be {error:.2g} of the largest weight, {tolerance:.2g} is allowed.",
            )
    encoding, parts = encode(values, sparse, size)
    entry = Entry(
        path=variable.path,
        name=variable.name,
        shape=values.shape,
        dtype=original.dtype.name,
        stored=values.dtype.name,
        encoding=encoding,
        count=len(parts["values"]),
        crc32=checksum(values),
    )
    parts[f"values.{values.dtype.name}"] = parts.pop("values")
    zeros = float(np.mean(values == 0)) if values.size else 0.0
    return _Encoded(entry, parts, values.astype(original.dtype), error, zeros)


def _check(model: keras.Model, path: Path, wanted: list[np.ndarray]) -> None:
    """Raises an `ExportError` unless a file gives back what was written."""
    try:
        read = [array for _, array in _read_into(model.weights, path)]
    except ValueError as error:
        raise ExportError("check", f"the written file cannot be read back: {error}") from error
    for variable, want, got in zip(model.weights, wanted, read, strict=True):
        if want.dtype != got.dtype or want.tobytes() != got.tobytes():
            raise ExportError(
                "check", f"the file does not give back the weights of {variable.path}"
            )


def load_sparse_weights(model: keras.Model, filepath: str | os.PathLike[str]) -> None:
    """Puts exported sparse weights back into a model of the same architecture.

    The weights are matched in the order of `model.weights`; names of layers may differ, so a second
    model built by the same code will do. Everything is read and verified before the first weight
    is changed.

    Args:
        model: a built `keras.Model`, on any backend.
        filepath: a file that `export` wrote, `.npz` or `.safetensors`.

    Raises:
        ValueError: if the file is damaged, truncated, of another version or of another model, or
            says that it holds more than the model.
        FileNotFoundError: if there is no such file.

    Whatever is raised, the model is as it was.

    Example:
    >>> import keras, tempfile
    >>> from keras_hoyer.exporters import export, load_sparse_weights
    >>> def build():
    ...     return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model, other = build(), build()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = export(model, f"{folder}/weights.npz")
    ...     load_sparse_weights(other, result.path)
    >>> bool((model.get_weights()[0] == other.get_weights()[0]).all())
    True
    """
    path = Path(filepath)
    if not getattr(model, "built", False):
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that is built. "
            f"Received: model={model!r}. Call it on data, or `build` it with an input shape."
        )
    variables = model.weights
    unbuilt = [layer.name for layer in flatten_layers(model) if not layer.built]
    arrays = [array for _, array in _read_into(variables, path, unbuilt)]
    before: list[np.ndarray] = []
    try:
        for variable, array in zip(variables, arrays, strict=True):
            before.append(_array_of(variable))
            variable.assign(array)
    except BaseException:  # no memory on the device, or Ctrl-C
        for variable, array in zip(variables, before, strict=False):
            variable.assign(array)
        raise


def scipy_matrices(
    filepath: str | os.PathLike[str], max_bytes: int | None = None
) -> dict[str, Any]:
    """The weights of two or more axes of an exported file, as SciPy matrices.

    Args:
        filepath: a file that `export` wrote, `.npz` or `.safetensors`.
        max_bytes: the most that the dense weights may take, since a file may say that it holds
            anything. Default: 100 times the file, and 256 MiB at least.

    Returns:
        A dict from the weight's path to a `scipy.sparse.csr_array` of shape `(product of the other
        axes, last axis)`; for a dense kernel `x @ matrix` is what the layer computes. Of weights
        with the same path the second is named `path (2)`, and so on.

    Raises:
        ValueError: if the file is not whole, or its weights take more than `max_bytes`.
        ImportError: if SciPy is missing.

    Example:
    >>> import keras, tempfile
    >>> from keras_hoyer.exporters import export, scipy_matrices
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = export(model, f"{folder}/weights.npz")
    ...     [matrix.shape for matrix in scipy_matrices(result.path).values()]
    [(8, 4)]
    """
    if importlib.util.find_spec("scipy") is None:
        raise ImportError("SciPy matrices need SciPy: pip install keras-hoyer[scipy]")
    from scipy import sparse  # noqa: PLC0415

    path = Path(filepath)

    def accept(entries: list[Entry]) -> None:
        dense = sum(entry.size * dtype_of(entry.dtype).itemsize for entry in entries)
        limit = limits.most_bytes(path.stat().st_size) if max_bytes is None else max_bytes
        if dense > limit:
            raise sparse_file.Refusal(
                f"its weights take {dense:,} bytes when dense, {limit:,} are allowed: pass "
                "`max_bytes` if you trust it"
            )

    matrices: dict[str, Any] = {}
    seen: collections.Counter[str] = collections.Counter()
    for entry, array in sparse_file.read(path, accept):
        seen[entry.path] += 1
        if array.ndim > 1:
            matrix = array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
            if not is_native(matrix.dtype) or matrix.dtype == np.float16:
                matrix = matrix.astype("float32")
            number = f" ({seen[entry.path]})" if seen[entry.path] > 1 else ""
            matrices[entry.path + number] = sparse.csr_array(matrix)
    return matrices


def _read_into(
    variables: list[Any], path: Path, unbuilt: list[str] | None = None
) -> Iterator[sparse_file.Tensor]:
    """The tensors of a file, once its header is found to be that of these variables."""

    def accept(entries: list[Entry]) -> None:
        if len(variables) != len(entries):
            hint = f"; {', '.join(unbuilt)} of it are not built: call it on data" if unbuilt else ""
            raise sparse_file.Refusal(
                f"it holds {len(entries)} weights, the model has {len(variables)}{hint}"
            )
        for variable, entry in zip(variables, entries, strict=True):
            theirs = (entry.name, entry.shape, entry.dtype)
            ours = (variable.name, tuple(variable.shape), _dtype_name(variable))
            if theirs != ours:
                raise sparse_file.Refusal(
                    f"it belongs to another model: its {entry.path} {theirs[1:]} would go into "
                    f"{variable.path} {ours[1:]}"
                )

    dense_bytes = sum(
        math.prod(variable.shape) * dtype_of(_dtype_name(variable)).itemsize
        for variable in variables
    )
    return sparse_file.read(path, accept, most_bytes=2 * dense_bytes)


def tensors_of(model: keras.Model) -> tuple[StoredTensor, ...]:
    """The weights of a model, as a file holds them that stores all densely."""
    tensors = []
    for weight in model.weights:
        array = values_of(weight)
        sparsity = float(np.mean(array == 0)) if array.size else 0.0
        tensors.append(StoredTensor(weight.path, array.shape, array.dtype.name, "dense", sparsity))
    return tuple(tensors)


def values_of(variable: Any) -> np.ndarray:
    """A weight as NumPy array of its own dtype, -0.0 turned into +0.0."""
    return _with_positive_zeros(_array_of(variable))


def _array_of(variable: Any) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable)))
    return array.astype(dtype_of(_dtype_name(variable)))


def _dtype_name(variable: Any) -> str:
    name: str = keras.backend.standardize_dtype(variable.dtype)
    return name


def _with_positive_zeros(array: np.ndarray) -> np.ndarray:
    array = np.array(array, order="C")
    array[array == 0] = 0
    return array


def _rounding_error(original: np.ndarray, rounded: np.ndarray) -> float:
    finite = np.isfinite(original)
    if not np.isfinite(rounded[finite]).all():
        return math.inf
    difference = np.abs(rounded[finite].astype("float32") - original[finite]).max(initial=0)
    return float(difference / (np.abs(original[finite]).max(initial=0) or 1))


def _deflated_size(array: np.ndarray) -> int:
    return len(zlib.compress(array.data))


def _plain_size(array: np.ndarray) -> int:
    return array.nbytes
