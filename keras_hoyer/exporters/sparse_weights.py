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

import importlib.util
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_hoyer.exporters.results import Candidate, ExportError, ExportResult, StoredTensor

FORMAT = "keras_hoyer sparse weights"
VERSION = 1

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
    size = _deflated_size if compressed else (lambda array: array.nbytes)
    entries, wanted, stored = [], [], []
    arrays: dict[str, list[np.ndarray]] = {}
    max_error = 0.0
    for variable in model.weights:
        original = values_of(variable)
        values = original
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
            max_error = max(max_error, error)
        encoding, parts = _encode(values, bool(sparse), size)
        entries.append(
            {
                "path": variable.path,
                "name": variable.name,
                "shape": list(values.shape),
                "dtype": original.dtype.name,
                "stored": values.dtype.name,
                "encoding": encoding,
                "count": len(parts["values"]),
                "crc32": _checksum(values),
            }
        )
        parts[f"values.{values.dtype.name}"] = parts.pop("values")
        for part, array in parts.items():
            arrays.setdefault(part, []).append(array)
        wanted.append(values.astype(original.dtype))
        stored.append(
            StoredTensor(
                variable.path,
                values.shape,
                values.dtype.name,
                encoding,
                float(np.mean(values == 0)) if values.size else 0.0,
            )
        )
    header = json.dumps({"format": FORMAT, "version": VERSION, "tensors": entries})
    planes = {name: _planes(np.concatenate(parts)) for name, parts in arrays.items()}
    (_write_npz if compressed else _write_safetensors)(path, header, planes)
    try:
        read = [array for _, array in _read(path)]
    except ValueError as error:
        raise ExportError("check", f"the written file cannot be read back: {error}") from error
    for variable, want, got in zip(model.weights, wanted, read, strict=True):
        if want.dtype != got.dtype or want.tobytes() != got.tobytes():
            raise ExportError(
                "check", f"the file does not give back the weights of {variable.path}"
            )
    name = f"{quantize or 'lossless'}, {'smallest encoding' if sparse else 'dense'}"
    kept = Candidate(name, "kept", path.stat().st_size, max_error, right=True)
    return ExportResult(
        path=path,
        format=path.suffix[1:],
        bytes=kept.bytes,
        dense_bytes=sum(math.prod(t.shape) * np.dtype(t.dtype).itemsize for t in stored),
        max_error=max_error,
        tolerance=tolerance,
        candidates=(kept,),
        tensors=tuple(stored),
    )


def load_sparse_weights(model: keras.Model, filepath: str | os.PathLike) -> None:
    """Puts exported sparse weights back into a model of the same architecture.

    The weights are matched in the order of `model.weights`; names of layers may differ, so a second
    model built by the same code will do. Everything is read and verified before the first weight
    is changed.

    Args:
        model: a built `keras.Model`, on any backend.
        filepath: a file that `export` wrote, `.npz` or `.safetensors`.

    Raises:
        ValueError: if the file is damaged, truncated, of another version or of another model. The
            model is then unchanged.
        FileNotFoundError: if there is no such file.

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
    tensors = _read(path)
    if not getattr(model, "built", False):
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that is built. "
            f"Received: model={model!r}. Call it on data, or `build` it with an input shape."
        )
    variables = model.weights
    if len(variables) != len(tensors):
        _refuse(path, f"it holds {len(tensors)} weights, the model has {len(variables)}")
    for variable, (entry, array) in zip(variables, tensors, strict=True):
        theirs = (entry["name"], array.shape, array.dtype.name)
        ours = (variable.name, tuple(variable.shape), _dtype_name(variable))
        if theirs != ours:
            _refuse(
                path,
                f"it belongs to another model: its {entry['path']} {theirs[1:]} would go into "
                f"{variable.path} {ours[1:]}",
            )
    for variable, (_, array) in zip(variables, tensors, strict=True):
        variable.assign(array)


def scipy_matrices(filepath: str | os.PathLike) -> dict[str, Any]:
    """The weights of two or more axes of an exported file, as SciPy matrices.

    Args:
        filepath: a file that `export` wrote, `.npz` or `.safetensors`.

    Returns:
        A dict from the weight's path to a `scipy.sparse.csr_array` of shape `(product of the other
        axes, last axis)`; for a dense kernel `x @ matrix` is what the layer computes.

    Raises:
        ValueError: if the file is not whole.
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

    matrices = {}
    for entry, array in _read(Path(filepath)):
        if array.ndim > 1:
            matrix = array.reshape(-1, array.shape[-1])
            if not _is_native(matrix.dtype) or matrix.dtype == np.float16:
                matrix = matrix.astype("float32")
            matrices[entry["path"]] = sparse.csr_array(matrix)
    return matrices


# --- one tensor ---------------------------------------------------------------------------------


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
    array = np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable)))
    return _with_positive_zeros(array.astype(_dtype(_dtype_name(variable))))


def _dtype_name(variable: Any) -> str:
    return keras.backend.standardize_dtype(variable.dtype)


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


def _encode(
    values: np.ndarray, sparse: bool, size: Callable[[np.ndarray], int]
) -> tuple[str, dict[str, np.ndarray]]:
    """The smallest encoding; the values are the same in both sparse ones, so indices decide."""
    nonzero = values != 0
    kept = values[nonzero]
    zero_bytes = (values.size - len(kept)) * values.dtype.itemsize
    dense = {"values": values.reshape(-1)}
    if not sparse or not zero_bytes:
        return "dense", dense
    indices = {"bitmask": {"mask": np.packbits(nonzero.reshape(-1), bitorder="little")}}
    if values.ndim > 1:
        matrix = nonzero.reshape(-1, values.shape[-1])
        rows, columns = np.nonzero(matrix)
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(matrix)))])
        indices["csr"] = {
            "indices": columns.astype(np.min_scalar_type(matrix.shape[1] - 1)),
            "indptr": starts.astype(np.min_scalar_type(len(kept))),
        }
    sizes = {name: sum(size(_planes(a)) for a in parts.values()) for name, parts in indices.items()}
    best = min(sizes, key=sizes.get)
    return (
        (best, {"values": kept, **indices[best]}) if sizes[best] < zero_bytes else ("dense", dense)
    )


def _decode(entry: dict, take: Callable[[str, int], np.ndarray]) -> np.ndarray:
    """The dense array; `take(name, n)` gives the next n elements of an array of the file."""
    shape, stored = tuple(entry["shape"]), _dtype(entry["stored"])
    size = math.prod(shape)
    values = take(f"values.{stored.name}", entry["count"]).view(stored)
    array = np.zeros(size, stored)
    if entry["encoding"] == "dense":
        array[:] = values
    elif entry["encoding"] == "bitmask":
        mask = take("mask", -(-size // 8))
        array[np.unpackbits(mask, count=size, bitorder="little").astype(bool)] = values
    else:
        matrix = array.reshape(-1, shape[-1])
        starts = take("indptr", len(matrix) + 1).astype(np.int64)
        rows = np.repeat(np.arange(len(matrix)), np.diff(starts))
        matrix[rows, take("indices", entry["count"])] = values
    array = array.reshape(shape)
    if _checksum(array) != entry["crc32"]:
        raise ValueError("its checksum is wrong")
    return array.astype(_dtype(entry["dtype"]))


def _planes(array: np.ndarray) -> np.ndarray:
    """Bytes of shape `(size of an element, elements)`."""
    little = array.astype(array.dtype.newbyteorder("<")) if _is_native(array.dtype) else array
    return np.ascontiguousarray(little.view("uint8").reshape(-1, array.itemsize).T)


def _elements(planes: np.ndarray) -> np.ndarray:
    """The little-endian unsigned integers that `_planes` took apart."""
    return np.ascontiguousarray(planes.T).view(f"<u{planes.shape[0]}").reshape(-1)


def _is_native(dtype: np.dtype) -> bool:
    return dtype.isbuiltin == 1


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view("uint8"))


def _deflated_size(array: np.ndarray) -> int:
    return len(zlib.compress(array))


# --- the file -----------------------------------------------------------------------------------


def _write_npz(path: Path, header: str, arrays: dict[str, np.ndarray]) -> None:
    members = {"header": np.frombuffer(header.encode(), "uint8"), **arrays}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=array.nbytes > 2**30) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_safetensors(path: Path, header: str, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file  # noqa: PLC0415

    save_file(arrays, path, {"header": header})


def _read(path: Path) -> list[tuple[dict, np.ndarray]]:
    """All entries with their dense arrays.

    Raises:
        ValueError: if anything about the file is wrong.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file of sparse weights at {path}")
    if path.suffix == ".safetensors":
        header, arrays = _open_safetensors(path)
    else:
        header, arrays = _open_npz(path)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        _refuse(path, "it is no file of sparse weights")
    if header.get("version") != VERSION:
        _refuse(
            path,
            f"its format version is {header.get('version')}, this keras_hoyer reads {VERSION}",
        )
    positions = dict.fromkeys(arrays, 0)

    def take(name: str, count: int) -> np.ndarray:
        start = positions[name]
        positions[name] = start + count
        return _elements(arrays[name][:, start : start + count])

    tensors = []
    try:
        for entry in header["tensors"]:
            tensors.append((entry, _decode(entry, take)))
        if any(positions[name] != array.shape[1] for name, array in arrays.items()):
            raise ValueError("there is more in it than its header says")
    except Exception as error:  # contradictions raise anything
        _refuse(path, f"it is damaged at weight {len(tensors)}: {error}")
    return tensors


def _open_npz(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = bytes(arrays.pop("header", np.zeros(0, "uint8"))).decode() or "null"
        return json.loads(header), arrays
    except Exception as error:  # a damaged archive raises anything
        return _refuse(path, f"it is damaged or truncated, or no such file at all: {error}")


def _open_safetensors(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    if importlib.util.find_spec("safetensors") is None:
        raise ImportError(
            "Files that end in `.safetensors` need an extra: pip install keras-hoyer[safetensors]"
        )
    import safetensors  # noqa: PLC0415

    try:
        with safetensors.safe_open(path, "numpy") as stored:
            header = (stored.metadata() or {}).get("header", "null")
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        return json.loads(header), arrays
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        return _refuse(path, f"it is damaged or truncated, or no such file at all: {error}")


def _refuse(path: Path, reason: str) -> Any:
    raise ValueError(f"Cannot load sparse weights from {path}: {reason}. Nothing was changed.")
