"""One tensor of a file of sparse weights: its entry in the header, and its elements.

An entry comes from a file that anyone may have made: it is checked before anything is allocated.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

ENCODINGS = ("dense", "bitmask", "csr")

# Sizes of the integers that elements are stored as.
ITEMSIZES = (1, 2, 4, 8)

MOST_AXES = 32


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the header says of one tensor; `sparse_weights` describes the fields.

    Raises:
        ValueError: if a field is no such thing, or they contradict each other.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    encoding: str
    count: int
    crc32: int

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not isinstance(self.name, str):
            raise ValueError(f"its path is {self.path!r} and its name {self.name!r}")
        if len(self.shape) > MOST_AXES or not all(_is_count(n) for n in self.shape):
            raise ValueError(f"its shape is {self.shape!r:.100}")
        if not _is_dtype(self.dtype):
            raise ValueError(f"its dtype is {self.dtype!r:.100}")
        if self.stored not in (self.dtype, *(["float16"] if self.dtype == "float32" else [])):
            raise ValueError(f"its values are stored as {self.stored!r:.100}")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"its encoding is {self.encoding!r:.100}")
        if self.encoding == "csr" and (len(self.shape) < 2 or not self.size):
            raise ValueError(f"its shape {self.shape} is no matrix for the encoding 'csr'")
        most, least = self.size, self.size if self.encoding == "dense" else 0
        if not _is_count(self.count) or not least <= self.count <= most:
            raise ValueError(f"it has {self.count!r:.100} values for the shape {self.shape}")
        if not _is_count(self.crc32):
            raise ValueError(f"its crc32 is {self.crc32!r:.100}")

    @classmethod
    def from_json(cls, fields: Any) -> "Entry":
        """The entry that a header holds."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, dict):
            raise ValueError(f"its entry is {fields!r:.100}")
        missing = [name for name in names if name not in fields]
        if missing:
            raise ValueError(f"its entry has no {', '.join(missing)}")
        if not isinstance(fields["shape"], list):
            raise ValueError(f"its shape is {fields['shape']!r:.100}")
        return cls(**{**{name: fields[name] for name in names}, "shape": tuple(fields["shape"])})

    def to_json(self) -> dict[str, Any]:
        """The entry as a header holds it."""
        return dataclasses.asdict(self)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def parts(self) -> dict[str, int]:
        """How many elements of which flat arrays the tensor takes."""
        values = {f"values.{self.stored}": self.count}
        if self.encoding == "bitmask":
            return {**values, "mask": -(-self.size // 8)}
        if self.encoding == "csr":
            rows = self.size // self.shape[-1]
            return {**values, "indices": self.count, "indptr": rows + 1}
        return values


def encode(
    values: np.ndarray, sparse: bool, size: Callable[[np.ndarray], int]
) -> tuple[str, dict[str, np.ndarray]]:
    """The smallest encoding and its parts.

    Args:
        values: the tensor.
        sparse: `False` for dense.
        size: how many bytes an array of bytes takes in the file.

    Returns:
        The encoding, and the flat arrays by name: `values`, and `mask` or `indices` and `indptr`.
    """
    nonzero = values != 0
    kept = values[nonzero]
    zero_bytes = (values.size - len(kept)) * values.dtype.itemsize
    dense = {"values": values.reshape(-1)}
    if not sparse or not zero_bytes:
        return "dense", dense
    # The values are the same in both sparse encodings, so what says where they are decides.
    places = {"bitmask": {"mask": np.packbits(nonzero.reshape(-1), bitorder="little")}}
    if values.ndim > 1:
        matrix = nonzero.reshape(-1, values.shape[-1])
        rows, columns = np.nonzero(matrix)
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(matrix)))])
        places["csr"] = {
            "indices": columns.astype(np.min_scalar_type(matrix.shape[1] - 1)),
            "indptr": starts.astype(np.min_scalar_type(len(kept))),
        }
    sizes = {
        name: sum(size(planes_of(a)) for a in parts.values()) for name, parts in places.items()
    }
    best = min(sizes, key=lambda name: sizes[name])
    return (
        (best, {"values": kept, **places[best]}) if sizes[best] < zero_bytes else ("dense", dense)
    )


def decode(entry: Entry, parts: dict[str, np.ndarray]) -> np.ndarray:
    """The dense array.

    Args:
        entry: what the header says.
        parts: for each of `entry.parts` so many elements.

    Raises:
        ValueError: if the parts contradict each other, or the checksum is wrong.
    """
    stored = dtype_of(entry.stored)
    values = parts[f"values.{entry.stored}"]
    if entry.stored == "bool" and values.max(initial=0) > 1:
        raise ValueError("its values are not of dtype bool")
    values = values.view(stored)
    if entry.encoding == "dense":
        array = values
    else:
        array = np.zeros(entry.size, stored)
        put = _put_by_mask if entry.encoding == "bitmask" else _put_by_rows
        put(entry, array, values, parts)
    if checksum(array) != entry.crc32:
        raise ValueError("its checksum is wrong")
    return array.reshape(entry.shape).astype(dtype_of(entry.dtype))


def _put_by_mask(
    entry: Entry, array: np.ndarray, values: np.ndarray, parts: dict[str, np.ndarray]
) -> None:
    mask = np.unpackbits(parts["mask"], bitorder="little").view(bool)
    if np.count_nonzero(mask) != entry.count or mask[entry.size :].any():
        raise ValueError(f"its mask is not one of {entry.count} values")
    array[mask[: entry.size]] = values


def _put_by_rows(
    entry: Entry, array: np.ndarray, values: np.ndarray, parts: dict[str, np.ndarray]
) -> None:
    starts, columns = parts["indptr"], parts["indices"]
    if starts[0] != 0 or starts[-1] != entry.count or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"its rows are not those of {entry.count} values")
    matrix = array.reshape(-1, entry.shape[-1])
    rows = np.repeat(
        np.arange(len(matrix)), starts[1:].astype(np.int64) - starts[:-1].astype(np.int64)
    )
    places = rows * matrix.shape[1] + columns.astype(np.int64)
    if (columns >= matrix.shape[1]).any() or (places[1:] <= places[:-1]).any():
        raise ValueError("its columns are out of range or out of order")
    array[places] = values


def planes_of(array: np.ndarray) -> np.ndarray:
    """Bytes of shape `(size of an element, elements)`."""
    little = array.astype(array.dtype.newbyteorder("<")) if is_native(array.dtype) else array
    return np.ascontiguousarray(little.view("uint8").reshape(-1, array.itemsize).T)


def elements_of(planes: np.ndarray) -> np.ndarray:
    """The little-endian unsigned integers that `planes_of` took apart."""
    return np.ascontiguousarray(planes.T).view(f"<u{planes.shape[0]}").reshape(-1)


def is_native(dtype: np.dtype) -> bool:
    """Whether NumPy itself knows it."""
    return dtype.isbuiltin == 1


def dtype_of(name: str) -> np.dtype:
    """A dtype by the name that Keras gives it."""
    return np.dtype(getattr(ml_dtypes, name, name))


def checksum(array: np.ndarray) -> int:
    """The CRC-32 of the elements in C order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view("uint8").data)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_dtype(name: Any) -> bool:
    if not isinstance(name, str) or not re.fullmatch(r"bool|bfloat16|u?int\d+|float\d+\w*", name):
        return False
    try:
        return dtype_of(name).itemsize in ITEMSIZES
    except TypeError:
        return False
