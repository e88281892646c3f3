"""How sparse is an array: the formulas behind Hoyer's penalties, in float64 NumPy."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

__all__ = ["effective_count", "effective_count_of", "hoyer_sparsity", "trimming_threshold"]


def __dir__() -> list[str]:
    return __all__


def hoyer_sparsity(array: Any) -> float:
    """Normalised Hoyer sparsity of an array.

    `(sqrt(n) - L1 / L2) / (sqrt(n) - 1)` over the `n` entries: 0 when all magnitudes are equal,
    1 when a single entry is not zero. It does not change with the scale of the array.

    Sources: Hoyer, "Non-negative matrix factorization with sparseness constraints" (2004);
    Hurley and Rickard, "Comparing measures of sparsity" (2009).

    Args:
        array: Array, tensor or variable of any shape and real dtype.

    Returns:
        A float in `[0, 1]`. An array that is all zero gives 1, an array of one entry 0.

    Raises:
        ValueError: If `array` is empty or holds values that are not finite.

    >>> hoyer_sparsity([1.0, 1.0, 1.0, 1.0])
    0.0
    >>> hoyer_sparsity([0.0, 0.0, -3.0, 0.0])
    1.0
    """
    count, _, total, squares = _sums(array)
    if total == 0:
        return 1.0
    if count == 1:
        return 0.0
    root = math.sqrt(count)
    return float(np.clip((root - total / math.sqrt(squares)) / (root - 1), 0.0, 1.0))


def effective_count(array: Any) -> float:
    """Effective number of nonzero entries: `L1**2 / L2**2`, the Hoyer-Square measure.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), equation 2.

    Args:
        array: Array, tensor or variable of any shape and real dtype.

    Returns:
        A float between 1 and the number of entries; 0 for an array that is all zero.

    Raises:
        ValueError: If `array` is empty or holds values that are not finite.

    >>> effective_count([2.0, -2.0, 0.0, 2.0])
    3.0
    """
    return effective_count_of([array])


def effective_count_of(arrays: Iterable[Any]) -> float:
    """The effective number of nonzero entries of several arrays together, as of one.

    Args:
        arrays: Arrays, tensors or variables of any shape and real dtype; one is looked at after
            the other.

    Returns:
        A float between 1 and the number of entries; 0 if all are zero.

    Raises:
        ValueError: If an array is empty or holds values that are not finite.

    >>> effective_count_of([[2.0, -2.0], [0.0], [2.0]])
    3.0
    """
    parts = [_sums(array) for array in arrays]
    top = max((peak for _, peak, _, _ in parts), default=0.0)
    if top == 0:
        return 0.0
    total = sum(peak / top * sums for _, peak, sums, _ in parts)
    squares = sum((peak / top) ** 2 * sums for _, peak, _, sums in parts)
    return total**2 / squares


def trimming_threshold(array: Any) -> float:
    """Magnitude below which Hoyer-Square shrinks an entry, and above which it lets it grow.

    `L2**2 / L1`, the zero of the penalty's gradient; in the unit of the array's entries.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), section 3.1.

    Args:
        array: Array, tensor or variable of any shape and real dtype.

    Returns:
        A float, at most the largest magnitude; 0 for an array that is all zero.

    Raises:
        ValueError: If `array` is empty or holds values that are not finite.

    >>> trimming_threshold([3.0, -1.0])
    2.5
    """
    _, peak, total, squares = _sums(array)
    return peak * (squares / total) if total else 0.0


def _sums(array: Any) -> tuple[int, float, float, float]:
    """Number of entries, largest magnitude, and in units of that: sum of magnitudes, of squares."""
    tensor = keras.ops.is_tensor(array) or isinstance(array, keras.Variable)
    values = np.ravel(keras.ops.convert_to_numpy(array) if tensor else array)
    if values.size == 0:
        raise ValueError(
            "Invalid value for argument `array`. Expected at least one entry. Received: "
            f"array={array!r}"
        )
    peak = max(abs(float(values.max())), abs(float(values.min())))
    if not math.isfinite(peak):
        raise ValueError(
            "Invalid value for argument `array`. Expected finite values. Received an array with "
            "NaN or infinity."
        )
    total = squares = 0.0
    # In pieces, so that float64 takes no second copy of a large kernel.
    for start in range(0, values.size if peak else 0, 1 << 20):
        piece = np.abs(values[start : start + (1 << 20)].astype("float64")) / peak
        total += float(piece.sum())
        squares += float(np.dot(piece, piece))
    return values.size, peak, total, squares
