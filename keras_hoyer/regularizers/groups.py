"""Penalties over the L2 norms of groups of weights: channels, or blocks."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer._literals import Factor
from keras_hoyer.patterns import KernelPattern
from keras_hoyer.regularizers.base import (
    TINY,
    Penalty,
    checked_normalize,
    ratio,
    serializable,
    with_gradient,
)

_LARGE = float(np.finfo("float32").max) / 8

# TensorFlow broadcasts no more axes; blocks in a kernel of rank 5 have up to 10.
_MOST_AXES = 8


class GroupPenalty(Penalty):
    """Base class of the penalties over the L2 norms of groups of weights.

    Args:
        factor: Float, 0 or more.
        axis: Int or tuple of ints. Each named axis numbers groups, a group being all weights that
            share that index; the penalties of several axes add.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.
    """

    normalize = False
    sides = 1

    def __init__(
        self,
        factor: Factor = 1e-4,
        axis: int | tuple[int, ...] = -1,
        pattern: KernelPattern | None = None,
    ) -> None:
        super().__init__(factor)
        self.axis = _checked_axis(axis)
        if isinstance(pattern, dict):
            pattern = keras.saving.deserialize_keras_object(pattern)
        if isinstance(pattern, type) or not getattr(pattern, "has_groups", pattern is None):
            raise ValueError(
                "Invalid value for argument `pattern`. Expected `None` or a `patterns.Block`: "
                "other patterns have no groups to take norms of. "
                f"Received: pattern={pattern!r}"
            )
        if pattern is not None and self.axis != -1:
            raise ValueError(
                "Invalid value for arguments `axis` and `pattern`. Expected one of them: groups "
                "are numbered by axes, or they are the pattern's blocks. "
                f"Received: axis={axis!r}, pattern={pattern!r}"
            )
        self.pattern: Any = pattern  # one that has groups, see `Pattern.has_groups`

    @property
    def couples(self) -> bool:
        """Whether its groups may be the channels of a model's graph: no others were named."""
        return self.pattern is None and self.axis == -1

    def profile(self, norms: Any) -> tuple[Any, Any]:
        """The measure of groups from a tensor of their norms, 0 for groups that count as zero.

        Returns:
            The value, a scalar, and its derivatives by the norms.
        """
        raise NotImplementedError

    def measure(self, x: Any) -> Any:
        """The measure of the groups' norms, added over the axes."""
        return _group_measure(x, *self.spans(tuple(x.shape)), self.profile, self.normalize)

    def measure_of_squares(self, squares: Any) -> Any:
        """The measure of groups whose squared norms are given, a float32 tensor of shape `(n,)`."""
        alive = squares > TINY
        # The root of 1 in place of 0, whose gradient is infinite.
        norms = ops.where(alive, ops.sqrt(ops.where(alive, squares, 1.0)), 0.0)
        return self.profile(norms)[0]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises a `ValueError` if a kernel of this shape has no such axis or blocks."""
        self.spans(shape)

    def spans(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Shape to give a kernel, and the axes of it that each kind of group spans.

        Raises:
            ValueError: If a kernel of this shape has no such axis or does not divide into blocks.
        """
        if self.pattern is not None:
            if not self.pattern.fits(shape):
                raise ValueError(
                    f"{self.pattern} does not divide a kernel of shape {shape}. Leave its layer "
                    "out with `regularize(model, regularizer, layers=...)`, or choose another "
                    "block."
                )
            split, inner = self.pattern.split_shape(shape)
            return split, [inner]
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        rank = len(shape)
        for axis in axes:
            if not -rank <= axis < rank:
                raise ValueError(
                    f"Invalid value for argument `axis`. Expected axes between {-rank} and "
                    f"{rank - 1} for a kernel of shape {shape}. Received: axis={self.axis}"
                )
        numbered = [axis % rank for axis in axes]
        if len(set(numbered)) < len(numbered):
            raise ValueError(
                "Invalid value for argument `axis`. Expected each axis once. Received: "
                f"axis={self.axis} for a kernel of shape {shape}"
            )
        return shape, [tuple(i for i in range(rank) if i != axis) for axis in numbered]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        pattern = keras.saving.serialize_keras_object(self.pattern) if self.pattern else None
        return {**super().get_config(), "axis": self.axis, "pattern": pattern}


class _GroupRatio(GroupPenalty):
    """The penalties that do not change with the scale of the weights."""

    power: int
    can_be_steered = True

    def __init__(
        self,
        factor: Factor = 1e-4,
        axis: int | tuple[int, ...] = -1,
        pattern: KernelPattern | None = None,
        normalize: bool = False,
    ) -> None:
        super().__init__(factor, axis, pattern)
        self.normalize = checked_normalize(normalize, self.steered)

    def profile(self, norms: Any) -> tuple[Any, Any]:
        """`sum(norms)**power / sum(norms**2)**(power / 2)`, and its derivatives by the norms."""
        value, slope, pull = ratio(ops.sum(norms), ops.sum(norms * norms), self.power)
        return value, slope * (1 - pull * norms)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {**super().get_config(), "normalize": self.normalize}


@serializable
class GroupHoyer(_GroupRatio):
    """Hoyer penalty over the groups' L2 norms: `factor * sum(norms) / sqrt(sum(norms**2))`.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), section 3.2.

    Args:
        factor: Float, 0 or more, or `"auto"`: `callbacks.Pruning` sets it, from how much is to
            stay. Defaults to 1e-4.
        axis: Int or tuple of ints: the axes that number groups. Defaults to -1, the output
            channels of a Dense or Conv kernel; `(-2, -1)` adds the input channels.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.
        normalize: Whether the measure is divided by the number of groups, for outputs of layers,
            whose size differs (`activity_regularizer`). Defaults to `False`.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.

    >>> kernel = np.array([[3.0, 0.0], [4.0, 0.0]], "float32")
    >>> round(float(GroupHoyer(1.0)(kernel)), 6)  # the norms are 5 and 0
    1.0
    """

    power = 1

    def steering_scale(self, aim: float) -> float:
        """Its slope in the effective number, of which it is the root, is so much smaller."""
        return 2 * math.sqrt(aim)


@serializable
class GroupHoyerSquare(_GroupRatio):
    """Hoyer-Square penalty over the groups' L2 norms: `factor * sum(norms)**2 / sum(norms**2)`.

    The effective number of groups that are not zero. `axis=(-2, -1)` on a Dense or Conv kernel is
    the paper's penalty over input channels plus filters.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), equation 4.

    Args:
        factor: Float, 0 or more, or `"auto"`: `callbacks.Pruning` sets it, from how much is to
            stay. Defaults to 1e-4.
        axis: Int or tuple of ints: the axes that number groups. Defaults to -1, the output
            channels of a Dense or Conv kernel; `(-2, -1)` adds the input channels.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.
        normalize: Whether the measure is divided by the number of groups, for outputs of layers,
            whose size differs (`activity_regularizer`). Defaults to `False`.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.

    >>> kernel = np.array([[3.0, 0.0], [4.0, 5.0]], "float32")
    >>> round(float(GroupHoyerSquare(1.0)(kernel)), 6)  # two norms of 5
    2.0
    """

    power = 2


@serializable
class GroupLasso(GroupPenalty):
    """Group lasso `factor * sum(norms)` over the groups' L2 norms, as the paper compares with.

    Source: Wen et al., "Learning structured sparsity in deep neural networks" (2016); a baseline of
    DeepHoyer.

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.
        axis: Int or tuple of ints: the axes that number groups. Defaults to -1, the output
            channels of a Dense or Conv kernel; `(-2, -1)` adds the input channels.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.

    >>> kernel = np.array([[3.0, 0.0], [4.0, 5.0]], "float32")
    >>> round(float(GroupLasso(1.0)(kernel)), 6)
    10.0
    """

    def profile(self, norms: Any) -> tuple[Any, Any]:
        """`sum(norms)`, and its derivatives by the norms."""
        return ops.sum(norms), ops.ones_like(norms)


def _group_measure(
    x: Any,
    shape: tuple[int | None, ...],
    spans: list[tuple[int, ...]],
    profile: Callable[[Any], tuple[Any, Any]],
    normalize: bool,
) -> Any:
    def evaluate(weights: Any) -> tuple[Any, Any]:
        value, parts = 0.0, []
        for sums in _sums_of_squares(weights, spans):
            alive = sums > TINY
            # The root of 1 in place of 0, whose gradient is infinite.
            roots = ops.sqrt(ops.where(alive, sums, 1.0))
            norms = ops.where(alive, roots, ops.zeros_like(sums))
            inverse = ops.where(alive, 1 / roots, ops.zeros_like(sums))
            part, slopes = profile(norms)
            if normalize:
                share = 1 / ops.cast(ops.size(sums), part.dtype)
                part, slopes = part * share, slopes * share
            value = value + part
            parts.append((slopes, inverse))
        return value, parts

    def differentiate(weights: Any, parts: Any, upstream: Any) -> Any:
        # Norms near the smallest float32 would make infinity, and infinity times zero NaN.
        scales = [ops.clip(upstream * a * b, -_LARGE, _LARGE) for a, b in parts]
        # Not `ops.add`, which on TensorFlow takes (1, n, 1) + (1, 1, n) for adding a bias.
        return weights * functools.reduce(operator.add, scales)

    if len(shape) != len(x.shape):
        x = ops.reshape(x, _sizes(x, shape))
    if len(shape) > _MOST_AXES:
        (span,) = spans
        kept = tuple(axis for axis in range(len(shape)) if axis not in span)
        sizes = ops.shape(x)
        x = ops.reshape(ops.transpose(x, kept + span), (*(sizes[axis] for axis in kept), -1))
        spans = [(len(kept),)]
    return with_gradient(x, evaluate, differentiate)


def _sizes(x: Any, shape: tuple[int | None, ...]) -> tuple[Any, ...]:
    """The shape with the sizes of the leading axes that only the tensor knows."""
    known = ops.shape(x)
    return tuple(known[i] if size is None else size for i, size in enumerate(shape))


def _sums_of_squares(weights: Any, spans: list[tuple[int, ...]]) -> list[Any]:
    """Sums of squares over each of the spans, with the summed axes kept."""
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415  (only where it is the backend)

        # One after the other: XLA on CPU makes sums over rows and columns one loop, which is slow.
        sums: list[Any] = []
        for span in spans:
            weights, sums = jax.lax.optimization_barrier((weights, sums))
            sums.append(ops.sum(ops.square(weights), span, keepdims=True))
        return sums
    squares = ops.square(weights)
    return [ops.sum(squares, span, keepdims=True) for span in spans]


def _checked_axis(axis: Any) -> int | tuple[int, ...]:
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    valid = all(isinstance(a, (int, np.integer)) and not isinstance(a, bool) for a in axes)
    if not axes or not valid or len(set(axes)) < len(axes):
        raise ValueError(
            "Invalid value for argument `axis`. Expected an integer, or a tuple of different "
            f"integers. Received: axis={axis!r}"
        )
    return tuple(int(a) for a in axes) if isinstance(axis, (tuple, list)) else int(axis)
