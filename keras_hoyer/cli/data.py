"""Samples from `.npy` and `.npz` files."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_hoyer.exporters.arrays import read_arrays


def read_data(path: Path) -> Any:
    """An array, or a list or dict of arrays; raises as `read_arrays` does."""
    arrays = read_arrays(path)
    if isinstance(arrays, np.ndarray):
        return arrays
    # `np.savez` names arrays that were given none like this.
    unnamed = all(re.fullmatch(r"arr_\d+", name) for name in arrays)
    if len(arrays) == 1 or unnamed:
        values = list(arrays.values())
        return values[0] if len(values) == 1 else values
    return arrays
