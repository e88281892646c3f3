"""How large the weights of a kernel are: counts on a scale that all kernels share."""

from dataclasses import dataclass

import numpy as np

# Steps of a power of ten, and how many powers of ten below the largest weight are told apart.
STEPS, DECADES = 8, 8

# Beyond the steps of what float32 can hold; so many weights at a time are counted.
FARTHEST, PIECE = 46 * STEPS, 1 << 20


@dataclass(frozen=True)
class Histogram:
    """Magnitudes of the weights that are not zero.

    Attributes:
        edges: Where the bins begin and end, one more than `counts`: powers of ten and seven steps
            between two of them, the same for all kernels.
        counts: How many weights are in each bin. What is smaller than the first edge counts in the
            first bin.
    """

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


def histogram_of(weights: np.ndarray) -> Histogram:
    """Counts the weights that are not zero by their magnitude.

    >>> histogram_of(np.array([0.0, 1.0, -1.1, 10.0])).counts
    (2, 0, 0, 0, 0, 0, 0, 0, 1)
    """
    flat = weights.reshape(-1)
    counts = np.zeros(2 * FARTHEST, int)
    for start in range(0, flat.size, PIECE):
        piece = np.abs(flat[start : start + PIECE].astype("float32"))
        steps = np.floor(np.log10(piece[piece > 0]) * STEPS).astype(int)
        counts += np.bincount(steps + FARTHEST, minlength=counts.size)
    used = np.flatnonzero(counts)
    if not used.size:
        return Histogram()
    first, last = max(used[0], used[-1] - STEPS * DECADES), used[-1]
    counts[first] = counts[: first + 1].sum()
    edges = [float(10 ** ((step - FARTHEST) / STEPS)) for step in range(first, last + 2)]
    return Histogram(tuple(edges), tuple(counts[first : last + 1].tolist()))
