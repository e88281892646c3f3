"""The two containers of sparse weights: a JSON header and flat arrays of bytes, by name.

Both are read in the same steps, so that a file that was made to do harm is refused before it can:
the header, which is limited; what it declares, which the caller accepts or not; and then of each
array exactly what was declared.
"""

import contextlib
import importlib.util
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from keras_hoyer.exporters import arrays
from keras_hoyer.exporters.sparse_encoding import ITEMSIZES, Entry, decode, dtype_of, elements_of

FORMAT = "keras_hoyer sparse weights"
VERSION = 1

# Python takes 25 times as much for the worst JSON. A header of 8 MiB has room for 40,000 weights.
HEADER_BYTES = 2**23

Tensor = tuple[Entry, np.ndarray]


class Refusal(ValueError):
    """What is wrong with a file, in the words of its reader."""


def write_npz(path: Path, header: str, planes: dict[str, np.ndarray]) -> None:
    """Writes a `.npz` file."""
    members = {"header": np.frombuffer(header.encode(), "uint8"), **planes}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=array.nbytes > 2**30) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_safetensors(path: Path, header: str, planes: dict[str, np.ndarray]) -> None:
    """Writes a `.safetensors` file."""
    from safetensors.numpy import save  # noqa: PLC0415

    # Not by `save_file`, which makes the file private and has an error of its own for a full disk.
    path.write_bytes(save(planes, {"header": header}))


def read(
    path: Path, accept: Callable[[list[Entry]], None], most_bytes: int | None = None
) -> Iterator[Tensor]:
    """Reads a file of sparse weights.

    Args:
        path: ends in `.safetensors`, or the file is a `.npz`.
        accept: is called with what the header declares, before anything of that size is
            allocated; raises a `Refusal` if that is too much, or something else than expected.
        most_bytes: the most that such tensors can take in the file beside the header, or `None`.

    Returns:
        The tensors, which are decoded one by one as they are asked for.

    Raises:
        ValueError: if anything is wrong with the file; also later, from the iterator.
        FileNotFoundError: if there is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file of sparse weights at {path}")
    container: type[_Npz | _Safetensors] = _Npz
    if path.suffix == ".safetensors":
        container = _Safetensors
        if importlib.util.find_spec("safetensors") is None:
            raise ImportError(
                "Files that end in `.safetensors` need an extra: "
                "pip install keras-hoyer[safetensors]"
            )
    with (
        _refusals(path, "it is damaged or truncated, or no such file at all"),
        arrays.open_regular(path) as file,
    ):
        size = os.fstat(file.fileno()).st_size
        if most_bytes is not None and size > 2 * HEADER_BYTES + most_bytes:
            raise Refusal(f"its {size:,} bytes are more than the weights of the model can take")
        with container(file) as stored:
            entries = _entries(stored.header())
            accept(entries)
            counts = _counts(entries)
            _check_names(stored.names(), counts)
            planes = {name: stored.planes(name, count) for name, count in counts.items()}
    return _decoded(path, entries, planes)


class _Npz(contextlib.AbstractContextManager["_Npz"]):
    """An open `.npz` file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._archive = zipfile.ZipFile(file)
        self._members = arrays.members_of(self._archive)

    def __exit__(self, *error: Any) -> None:
        self._archive.close()

    def header(self) -> Any:
        """The JSON value that says what is in the file."""
        if "header" not in self._members:
            raise Refusal("it is no file of sparse weights")
        with self._archive.open(self._members["header"]) as member:
            shape, dtype, _ = arrays.read_header(member)
            if len(shape) != 1 or dtype != np.uint8 or shape[0] > HEADER_BYTES:
                raise ValueError(f"its header is of shape {shape} and dtype {dtype}")
            return json.loads(arrays.read_exactly(member, shape[0]))

    def names(self) -> list[str]:
        """The names of the flat arrays."""
        return [name for name in self._members if name != "header"]

    def planes(self, name: str, count: int) -> np.ndarray:
        """A flat array of so many elements, taken apart into bytes."""
        with self._archive.open(self._members[name]) as member:
            shape, dtype, fortran = arrays.read_header(member)
            _check_planes(name, shape, dtype == np.uint8 and not fortran, count)
            content = arrays.read_exactly(member, shape[0] * count)
        return np.frombuffer(content, "uint8").reshape(shape)


class _Safetensors(contextlib.AbstractContextManager["_Safetensors"]):
    """An open `.safetensors` file, with the same methods."""

    def __init__(self, file: IO[bytes]) -> None:
        import safetensors  # noqa: PLC0415

        (length,) = struct.unpack("<Q", file.read(8))
        # The header is text inside of JSON, where each quotation mark takes two bytes.
        if length > 2 * HEADER_BYTES:
            raise ValueError(f"its header takes {length:,} bytes")
        self._file = safetensors.safe_open(file.name, "numpy")

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def header(self) -> Any:
        text = (self._file.metadata() or {}).get("header")
        if text is None:
            raise Refusal("it is no file of sparse weights")
        if len(text) > HEADER_BYTES:
            raise ValueError(f"its header takes {len(text):,} characters")
        return json.loads(text)

    def names(self) -> list[str]:
        return list(self._file.keys())

    def planes(self, name: str, count: int) -> np.ndarray:
        stored = self._file.get_slice(name)
        shape = tuple(stored.get_shape())
        _check_planes(name, shape, stored.get_dtype() == "U8", count)
        array: np.ndarray = self._file.get_tensor(name)
        return array


@contextlib.contextmanager
def _refusals(path: Path, otherwise: str) -> Iterator[None]:
    """Turns whatever goes wrong into a `ValueError` that names the file."""
    try:
        yield
    except Refusal as error:
        refuse(path, str(error), error)
    except Exception as error:  # a damaged file raises anything
        refuse(path, f"{otherwise}: {error}", error)


def refuse(path: Path, reason: str, cause: BaseException | None = None) -> NoReturn:
    """Raises the error of a file that cannot be used."""
    raise ValueError(
        f"Cannot load sparse weights from {path}: {reason}. Nothing was changed."
    ) from cause


def _entries(header: Any) -> list[Entry]:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise Refusal("it is no file of sparse weights")
    if header.get("version") != VERSION:
        version = header.get("version")
        raise Refusal(f"its format version is {version!r:.100}, this keras_hoyer reads {VERSION}")
    tensors = header.get("tensors")
    if not isinstance(tensors, list):
        raise Refusal("it is damaged: its header has no list of tensors")
    entries = []
    for fields in tensors:
        try:
            entries.append(Entry.from_json(fields))
        except ValueError as error:
            raise Refusal(f"it is damaged at weight {len(entries)}: {error}") from error
    return entries


def _counts(entries: list[Entry]) -> dict[str, int]:
    """How many elements of each flat array the tensors take altogether."""
    counts: dict[str, int] = {}
    for entry in entries:
        for name, count in entry.parts.items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _check_names(names: list[str], counts: dict[str, int]) -> None:
    if missing := sorted(set(counts) - set(names)):
        raise Refusal(f"it is damaged: there is no {', '.join(missing)} in it")
    if len(names) != len(counts):
        raise Refusal("it is damaged: there is more in it than its header says")


def _check_planes(name: str, shape: tuple[int, ...], is_bytes: bool, count: int) -> None:
    itemsizes = {"mask": (1,), "indices": ITEMSIZES, "indptr": ITEMSIZES}
    expected = itemsizes.get(name) or (dtype_of(name.removeprefix("values.")).itemsize,)
    if not is_bytes or len(shape) != 2 or shape[0] not in expected:
        raise Refusal(f"it is damaged: its array {name} is not made of the right bytes")
    if shape[1] != count:
        more = "more" if shape[1] > count else "less"
        raise Refusal(f"it is damaged: there is {more} in it than its header says, in {name}")


def _decoded(path: Path, entries: list[Entry], planes: dict[str, np.ndarray]) -> Iterator[Tensor]:
    positions = dict.fromkeys(planes, 0)
    for number, entry in enumerate(entries):
        with _refusals(path, f"it is damaged at weight {number}"):
            parts = {}
            for name, count in entry.parts.items():
                start = positions[name]
                positions[name] = start + count
                parts[name] = elements_of(planes[name][:, start : start + count])
            array = decode(entry, parts)
        yield entry, array
