"""Samples from `.npy` and `.npz` files."""

import math
import os
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from keras_hoyer.cli.arguments import check_readable


def read_data(path: Path | None) -> Any:
    """An array, or a list or dict of arrays; `None` without a file.

    Raises:
        OSError: if there is no file that may be read.
        ValueError: if it does not hold arrays of numbers, or less than it says.
    """
    if path is None:
        return None
    check_readable(path)
    try:
        arrays = _read(path)
    except (ValueError, OSError, EOFError, SyntaxError, OverflowError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Expected arrays of numbers in a .npy or .npz file. Received: --data {path} ({error})"
        ) from error
    if isinstance(arrays, np.ndarray):
        return arrays
    # `np.savez` names arrays that were given none like this.
    unnamed = all(re.fullmatch(r"arr_\d+", name) for name in arrays)
    if len(arrays) == 1 or unnamed:
        values = list(arrays.values())
        return values[0] if len(values) == 1 else values
    return arrays


def _read(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            _check_size(file, os.path.getsize(path))
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if not members or len(members) < len(archive.infolist()):
            raise ValueError("it is an archive of other things")
        for info in members:
            with archive.open(info) as file:
                _check_size(file, info.file_size)
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def _check_size(file: IO[bytes], size: int) -> None:
    """Raises a `ValueError` unless so many bytes are what the array that begins here takes."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and declared != size - file.tell():
        raise ValueError(f"it says that it holds {declared:,} bytes, but it has {size:,}")
