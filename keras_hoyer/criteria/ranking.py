"""The smallest of very many scores, without sorting or copying them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np


def keep_largest(scores: Sequence[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """Where the scores are not among a share of the smallest; infinite ones never are.

    Of equal scores, those of earlier arrays and lower indices count as smaller.
    """
    count = round(sparsity * sum(values.size for values in scores))
    if count == 0:
        return [np.ones(values.shape, bool) for values in scores]
    threshold, ties = _smallest(scores, count)
    if np.isinf(threshold):
        ties = 0  # these must stay
    keep = []
    for values in scores:
        stay = values > threshold
        # `reshape` of these contiguous arrays gives views.
        for piece, stay_piece in zip(
            _pieces(values.reshape(-1)), _pieces(stay.reshape(-1)), strict=True
        ):
            equal = np.flatnonzero(piece == threshold)
            stay_piece[equal[ties:]] = True
            ties = max(0, ties - equal.size)
        keep.append(stay)
    return keep


def _smallest(scores: Sequence[np.ndarray], count: int) -> tuple[np.float32, int]:
    """Value of the `count`-th smallest score, and how many scores of that value are to go.

    Without sorting or copying: the bits of nonnegative floats sort like the floats, so a histogram
    of their upper halves and one of the lower halves below the right upper half find the value.
    """
    pieces = [piece for values in scores for piece in _pieces(_halves(values))]
    upper, left = _bucket((piece[:, 1] for piece in pieces), count)
    lower, left = _bucket((piece[piece[:, 1] == upper, 0] for piece in pieces), left)
    return np.array([lower, upper], "<u2").view("<f4")[0], left


def _bucket(pieces: Iterable[np.ndarray], count: int) -> tuple[int, int]:
    """The `count`-th smallest of 16-bit numbers, and its place among the equal ones."""
    histogram = np.zeros(1 << 16, np.int64)
    for piece in pieces:
        histogram += np.bincount(piece, minlength=1 << 16)
    smaller = np.cumsum(histogram)
    bucket = int(np.searchsorted(smaller, count))
    return bucket, count - int(smaller[bucket] - histogram[bucket])


def _halves(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype="<f4").reshape(-1).view("<u2").reshape(-1, 2)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    # `bincount` and `flatnonzero` make 64-bit integers of what they are given.
    return (array[start : start + (1 << 20)] for start in range(0, len(array), 1 << 20))


def places(values: np.ndarray) -> np.ndarray:
    """Place of each value in the order of all, from 0 for the smallest up to 1."""
    places = np.empty(values.size)
    places[np.argsort(values, kind="stable")] = np.arange(1, values.size + 1) / values.size
    return places
