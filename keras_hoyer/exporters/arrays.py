"""Reads NumPy's files without trusting what they say of their size."""

import contextlib
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np

from keras_hoyer.exporters.limits import check_expansion

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

SUFFIX = ".npy"


def read_arrays(filepath: str | os.PathLike[str]) -> np.ndarray | dict[str, np.ndarray]:
    """Reads a `.npy` or `.npz` file that anyone may have made.

    Nothing is allocated before the sizes that the file declares are found to be possible, and no
    Python object is ever unpickled.

    Args:
        filepath: the file. What it holds decides, not its ending.

    Returns:
        The array of a `.npy` file, which is read piece by piece as it is used; of a `.npz` file a
        dict from name to array.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds anything else than numbers, booleans or strings, or
            says that it holds more than 100 times its size, and more than 256 MB.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/data.npz", x=np.arange(3))
    ...     read_arrays(f"{folder}/data.npz")
    {'x': array([0, 1, 2])}
    """
    with open_regular(Path(filepath)) as file:
        try:
            if file.read(2) == b"PK":
                return _read_archive(file)
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            shape, dtype, fortran = read_header(file)
            count = math.prod(shape) * dtype.itemsize
            if count != size - file.tell():
                raise ValueError(f"it says that it holds {count:,} bytes of its {size:,}")
            if not count:
                return np.zeros(shape, dtype)
            # Copy on write: the caller may change it, and the file stays as it is.
            return np.memmap(file, dtype, "c", file.tell(), shape, "F" if fortran else "C")
        except Exception as error:  # a damaged file raises anything
            raise ValueError(
                f"Expected arrays of numbers in a .npy or .npz file. Received: {filepath} ({error})"
            ) from error


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for reading; `ValueError` for a folder, a device or a pipe that never ends."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"Expected a file. Received: {path}, a folder, device or pipe")
    with open(path, "rb") as file:
        yield file


def members_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays of a `.npz` file by name.

    Raises:
        ValueError: if there is anything that NumPy would not have written.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(SUFFIX)
        if not info.filename.endswith(SUFFIX) or not name or name in members:
            raise ValueError(f"there is no place in it for {info.filename!r:.100}")
        if info.compress_type not in COMPRESSIONS:
            raise ValueError(f"{info.filename!r:.100} is compressed in an unknown way")
        members[name] = info
    return members


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, dtype and whether the order is Fortran's, of the `.npy` content that begins here."""
    version = np.lib.format.read_magic(file)
    # Version 1 is what all arrays have but those of structures; its header has at most 64 KiB.
    if version != (1, 0):
        raise ValueError(f"its version of .npy is {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or dtype.itemsize == 0 or dtype.kind not in "biufcUS":
        raise ValueError(f"its dtype is {dtype}")
    if any(n < 0 for n in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, dtype, fortran


def read_exactly(file: IO[bytes], count: int) -> bytes:
    """So many bytes, which must be all that is left."""
    content = file.read(count)
    if len(content) != count or file.read(1):
        raise ValueError(f"it is not as long as it says, {count:,} bytes")
    return content


def _read_archive(file: IO[bytes]) -> dict[str, np.ndarray]:
    stored = os.fstat(file.fileno()).st_size
    arrays: dict[str, np.ndarray] = {}
    declared = 0
    with zipfile.ZipFile(file) as archive:
        for name, info in members_of(archive).items():
            with archive.open(info) as member:
                shape, dtype, fortran = read_header(member)
                declared += math.prod(shape) * dtype.itemsize
                check_expansion(declared, stored)
                content = bytearray(read_exactly(member, math.prod(shape) * dtype.itemsize))
                order: Literal["F", "C"] = "F" if fortran else "C"
                arrays[name] = np.frombuffer(content, dtype).reshape(shape, order=order)
    if not arrays:
        raise ValueError("it is an archive of nothing")
    return arrays
