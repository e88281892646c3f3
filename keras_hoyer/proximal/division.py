"""What a proximal operator is applied to: single magnitudes, or the norms of groups.

The operator of a penalty that depends on magnitudes alone is that of the magnitudes: signs stay,
and so do the directions of groups.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer._checks import check_number
from keras_hoyer.patterns import Block

# From magnitudes, a strength and weights (or `None`) to new magnitudes.
Operator = Callable[[Any, Any, Any], Any]


def apply(
    operator: Operator,
    x: Any,
    strength: Any,
    axis: Any,
    pattern: Block | None,
    weights: Any,
) -> Any:
    """Applies an operator on magnitudes to single entries or to groups.

    Args:
        operator: Takes magnitudes, a strength (a scalar tensor) and weights (a tensor of the
            magnitudes' shape, or `None`), and returns the new magnitudes.
        x: Tensor, or a list of tensors.
        strength: Number, 0 or more, or a scalar tensor.
        axis: Int, a list of ints for a list of tensors, or `None`.
        pattern: The blocks, or `None`.
        weights: Array, or `None`.

    Returns:
        A tensor like `x`, or a list of them.

    Raises:
        ValueError: If an argument is out of its range or does not fit the others.
    """
    if isinstance(strength, (int, float, str, np.number, type(None))):
        check_number("strength", strength, "a number, 0 or more", lambda value: value >= 0)
    if pattern is not None and not isinstance(pattern, Block):
        raise ValueError(
            "Invalid value for argument `pattern`. Expected `None` or a `patterns.Block`: other "
            f"patterns have no groups to take norms of. Received: pattern={pattern!r}"
        )
    if pattern is not None and axis is not None:
        raise ValueError(
            "Invalid value for arguments `axis` and `pattern`. Expected one of them. Received: "
            f"axis={axis!r}, pattern={pattern!r}"
        )
    joint = isinstance(x, (list, tuple)) and isinstance(axis, (list, tuple))
    tensors = [_as_float(each) for each in (x if joint else [x])]
    dtype = _compute_dtype(tensors)
    values = [ops.cast(each, dtype) for each in tensors]
    # At once in its dtype: a float would become float32 first.
    strength = ops.convert_to_tensor(strength, dtype=dtype)
    if axis is None and pattern is None:
        results = [_to_entries(operator, values[0], strength, _checked_weights(weights, dtype))]
    else:
        divisions = _divide(values, axis if joint else [axis], pattern)
        weights = _checked_weights(weights, dtype)
        results = _to_groups(operator, divisions, strength, weights)
    results = [ops.cast(new, old.dtype) for new, old in zip(results, tensors, strict=True)]
    return results if joint else results[0]


def _to_entries(operator: Operator, x: Any, strength: Any, weights: Any) -> Any:
    if weights is not None:
        _check_broadcast(weights, tuple(x.shape))
        weights = weights + ops.zeros_like(x)
    new = operator(ops.abs(x), strength, weights)
    # No product with the sign, which makes -0.0.
    new = ops.where(new > 0, ops.where(x < 0, -new, new), ops.zeros_like(x))
    return _with_nan(new, x)


def _with_nan(new: Any, x: Any) -> Any:
    """A diverged weight stays NaN: as a zero it would pass for a cut one."""
    return ops.where(ops.isnan(x), x, new)


class _Division:
    """A tensor as a matrix of groups by members, and the way back.

    Args:
        x: the tensor.
        split: shape that separates groups from their members.
        kept: the axes of it that number groups.
    """

    def __init__(self, x: Any, split: tuple[int, ...], kept: tuple[int, ...]) -> None:
        self.grid = tuple(split[axis] for axis in kept)
        self._shape = tuple(x.shape)
        self._order = (*kept, *(axis for axis in range(len(split)) if axis not in kept))
        self._moved = tuple(split[axis] for axis in self._order)
        groups = int(np.prod(self.grid))
        members = int(np.prod(self._shape)) // max(groups, 1)
        moved = ops.transpose(ops.reshape(x, split), self._order)
        self.matrix = ops.reshape(moved, (groups, members))

    def restore(self, matrix: Any) -> Any:
        """The tensor that the matrix is of."""
        back = tuple(int(axis) for axis in np.argsort(self._order))
        return ops.reshape(ops.transpose(ops.reshape(matrix, self._moved), back), self._shape)


def _divide(values: Sequence[Any], axes: Sequence[Any], pattern: Block | None) -> list[_Division]:
    if len(axes) != len(values):
        raise ValueError(
            "Invalid value for argument `axis`. Expected one int for each of the "
            f"{len(values)} tensors. Received: axis={list(axes)!r}"
        )
    if pattern is not None:
        [x] = values
        shape = tuple(x.shape)
        if not pattern.fits(shape):
            raise ValueError(f"{pattern} does not divide a tensor of shape {shape}.")
        split, inner = pattern.split_shape(shape)
        return [_Division(x, split, tuple(i for i in range(len(split)) if i not in inner))]
    divisions = []
    for x, axis in zip(values, axes, strict=True):
        rank = len(x.shape)
        valid = isinstance(axis, (int, np.integer)) and not isinstance(axis, bool)
        if not valid or not -rank <= axis < rank:
            raise ValueError(
                "Invalid value for argument `axis`. Expected an integer between "
                f"{-rank} and {rank - 1} for a tensor of shape {tuple(x.shape)}: groups of several "
                f"axes overlap, and have no operator in closed form. Received: axis={axis!r}"
            )
        divisions.append(_Division(x, tuple(x.shape), (int(axis) % rank,)))
    if len({division.grid for division in divisions}) > 1:
        raise ValueError(
            "Invalid value for arguments `x` and `axis`. Expected as many groups in each tensor. "
            f"Received: {[division.grid[0] for division in divisions]}"
        )
    return divisions


def _to_groups(
    operator: Operator, divisions: Sequence[_Division], strength: Any, weights: Any
) -> list[Any]:
    grid = divisions[0].grid
    if weights is not None:
        _check_broadcast(weights, grid)
        weights = ops.reshape(ops.broadcast_to(weights, grid), (-1,))
    matrices = [division.matrix for division in divisions]
    # Scaled, because the squares of tiny or huge entries leave the range of the dtype.
    largest = [ops.max(ops.abs(m), axis=1, initial=0.0, keepdims=True) for m in matrices]
    scale = largest[0]
    for other in largest[1:]:
        scale = ops.where(other > scale, other, scale)
    alive = scale >= smallest_normal(scale)
    divisor = ops.where(alive, scale, ops.ones_like(scale))
    squares = 0.0
    for matrix in matrices:
        squares = squares + ops.sum(ops.square(matrix / divisor), axis=1, keepdims=True)
    roots = ops.sqrt(ops.where(alive, squares, ops.ones_like(squares)))
    norms = ops.where(alive, scale * roots, ops.zeros_like(scale))
    new = operator(norms[:, 0], strength, weights)[:, None]
    factor = ops.where(alive, new / (divisor * roots), ops.zeros_like(new))
    return [
        division.restore(
            _with_nan(ops.where(factor > 0, matrix * factor, ops.zeros_like(matrix)), matrix)
        )
        for division, matrix in zip(divisions, matrices, strict=True)
    ]


def smallest_normal(x: Any) -> float:
    """The least number of a tensor's dtype that has all its digits."""
    return float(np.finfo(keras.backend.standardize_dtype(x.dtype)).tiny)


def rounding(x: Any) -> float:
    """The relative rounding of a tensor's dtype."""
    return float(np.finfo(keras.backend.standardize_dtype(x.dtype)).eps)


def weighted(strength: Any, weights: Any) -> Any:
    """The strength of each entry, for penalties that are sums over them."""
    return strength if weights is None else strength * weights


def within(xp: Any, x: Any, least: Any, most: Any) -> Any:
    """A tensor clipped to bounds; not by Keras' minimum, of float32 digits on PyTorch."""
    like = xp.ones_like(x)
    x = xp.where(x < least, least * like, x)
    return xp.where(x > most, most * like, x)


def positive(xp: Any, x: Any) -> Any:
    """A tensor with zeros for what is negative."""
    return xp.where(x < 0, xp.zeros_like(x), x)


def _as_float(x: Any) -> Any:
    x = ops.convert_to_tensor(x)
    return x if keras.backend.is_float_dtype(x.dtype) else ops.cast(x, keras.config.floatx())


def _compute_dtype(tensors: Sequence[Any]) -> str:
    names = {keras.backend.standardize_dtype(each.dtype) for each in tensors}
    return "float64" if "float64" in names else "float32"


def _checked_weights(weights: Any, dtype: str) -> Any:
    if weights is None:
        return None
    if isinstance(weights, (int, float, list, tuple, np.ndarray, np.number)):
        array = np.asarray(weights, "float64")
        if not (np.isfinite(array).all() and (array > 0).all()):
            raise ValueError(
                "Invalid value for argument `weights`. Expected positive numbers. "
                f"Received: weights={weights!r}"
            )
    return ops.convert_to_tensor(weights, dtype=dtype)


def _check_broadcast(weights: Any, shape: tuple[int, ...]) -> None:
    given = tuple(weights.shape)
    fits = len(given) <= len(shape) and all(
        size in (1, expected)
        for size, expected in zip(reversed(given), reversed(shape), strict=False)
    )
    if not fits:
        raise ValueError(
            "Invalid value for argument `weights`. Expected a number, or numbers that broadcast to "
            f"shape {shape}: one for each entry or group. Received: weights of shape {given}"
        )
