"""The penalties: ordinary Keras regularizers, computed in float32, with their own gradients.

A penalty written as a plain expression makes an automatic gradient of many passes over the kernel
and NaN at zero. Here every penalty is two sums `S` (of magnitudes, or of the groups' L2 norms) and
`Q` (of squares), and its gradient one expression in them.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer.patterns import Block, Pattern

_serializable = keras.saving.register_keras_serializable(package="keras_hoyer")

# Sums of squares below the smallest normal float32 hold no digits: such a kernel counts as zero.
_TINY = float(np.finfo("float32").tiny)
_LARGE = float(np.finfo("float32").max) / 8

# TensorFlow broadcasts no more axes; blocks in a kernel of rank 5 have up to 10.
_MOST_AXES = 8

# A fused gradient must be worth the tenth of a second that compiling it takes.
_FUSED_SIZE = 1 << 20


class Penalty(keras.regularizers.Regularizer):
    """Base class of the penalties: a factor times a measure of the kernel.

    Args:
        factor: Float between 0 and 1e30: what the measure is multiplied with.

    Raises:
        ValueError: If `factor` is out of its range, NaN or not a number.
    """

    def __init__(self, factor: float = 1e-4) -> None:
        self.factor = _checked_number("factor", factor, 0, 1e30)

    def measure(self, x: Any) -> Any:
        """The penalty for `factor=1`: a scalar tensor, float32 (float64 for a float64 kernel)."""
        raise NotImplementedError

    def __call__(self, x: Any) -> Any:
        """Returns the penalty of a kernel, a scalar tensor."""
        x = ops.convert_to_tensor(x)
        # The reshape reads a variable, which TensorFlow admits in no custom gradient.
        return self.factor * self.measure(ops.reshape(x, x.shape))

    def get_config(self) -> dict:
        """Returns the constructor's arguments as JSON values."""
        return {"factor": self.factor}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


@_serializable
class Hoyer(Penalty):
    """Hoyer penalty `factor * L1 / L2`.

    It asks for few large weights, whatever their scale: between 1 (a single weight is not zero)
    and the square root of the number of weights.

    Source: Hoyer, "Non-negative matrix factorization with sparseness constraints" (2004); Yang,
    Wen and Li, "DeepHoyer" (ICLR 2020), equation 1.

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.

    Raises:
        ValueError: If `factor` is negative, above 1e30, NaN or not a number.

    >>> round(float(Hoyer(1.0)(np.array([[3.0, 0.0], [0.0, -4.0]], "float32"))), 6)
    1.4
    """

    def measure(self, x: Any) -> Any:
        """`L1 / L2`; 0 for a kernel that is all zero."""
        return _norm_ratio(x, power=1)


@_serializable
class HoyerSquare(Penalty):
    """Hoyer-Square penalty `factor * L1**2 / L2**2`, the effective number of nonzero weights.

    Its gradient is orthogonal to the kernel: weights below the trimming threshold `L2**2 / L1`
    shrink, those above grow, and the kernel's norm stays.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), equation 2.

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.

    Raises:
        ValueError: If `factor` is negative, above 1e30, NaN or not a number.

    >>> round(float(HoyerSquare(1.0)(np.array([2.0, -2.0, 0.0, 2.0], "float32"))), 6)
    3.0
    >>> layer = keras.layers.Dense(10, kernel_regularizer=HoyerSquare(1e-4))
    """

    def measure(self, x: Any) -> Any:
        """`L1**2 / L2**2`; 0 for a kernel that is all zero."""
        return _norm_ratio(x, power=2)


@_serializable
class TransformedL1(Penalty):
    """Transformed L1 penalty `factor * sum((a + 1) |w| / (a + |w|))`.

    Near 0 it tends to the number of nonzero weights, for a large `a` to L1. It depends on the
    weights' scale.

    Source: Zhang and Xin, "Minimization of transformed L1 penalty" (2018); a baseline of DeepHoyer.

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.
        a: Float between 1e-30 and 1e30, in the unit of the weights. Defaults to 1.

    Raises:
        ValueError: If an argument is out of its range or not a number.

    >>> round(float(TransformedL1(1.0, a=1.0)(np.array([1.0, -3.0, 0.0], "float32"))), 6)
    2.5
    """

    def __init__(self, factor: float = 1e-4, a: float = 1.0) -> None:
        super().__init__(factor)
        self.a = _checked_number("a", a, 1e-30, 1e30)

    def measure(self, x: Any) -> Any:
        """`sum((a + 1) |w| / (a + |w|))`."""
        dtype = _compute_dtype(x)

        @ops.custom_gradient
        def measure(x: Any) -> tuple[Any, Callable]:
            weights = ops.cast(x, dtype)
            magnitudes = ops.abs(weights)
            inverse = 1 / (self.a + magnitudes)

            def gradient(*args: Any, upstream: Any = None) -> Any:
                upstream = args[0] if upstream is None else upstream
                slope = upstream * ((self.a + 1) * inverse) * (self.a * inverse)
                return _cast_finite(slope * ops.sign(weights), x.dtype)

            return ops.sum(magnitudes * ((self.a + 1) * inverse)), gradient

        return measure(x)

    def get_config(self) -> dict:
        """Returns the constructor's arguments as JSON values."""
        return {**super().get_config(), "a": self.a}


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

    def __init__(
        self,
        factor: float = 1e-4,
        axis: int | tuple[int, ...] = -1,
        pattern: Pattern | None = None,
    ) -> None:
        super().__init__(factor)
        self.axis = _checked_axis(axis)
        if isinstance(pattern, dict):
            pattern = keras.saving.deserialize_keras_object(pattern)
        if pattern is not None and not isinstance(pattern, Block):
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
        self.pattern = pattern

    def profile(self, total: Any, squares: Any) -> tuple[Any, Any, Any]:
        """The measure of groups from the sum of their norms and that of the norms' squares.

        Returns:
            Three scalars: the value, and `slope` and `pull` of the gradient that it has for a
            norm, `slope * (1 - pull * norm)`.
        """
        raise NotImplementedError

    def measure(self, x: Any) -> Any:
        """The measure of the groups' norms, added over the axes."""
        return _group_measure(x, *self.spans(tuple(x.shape)), self.profile)

    def measure_of_squares(self, squares: Any) -> Any:
        """The measure of groups whose squared norms are given, a float32 tensor of shape `(n,)`."""
        alive = squares > _TINY
        # The root of 1 in place of 0, whose gradient is infinite.
        norms = ops.where(alive, ops.sqrt(ops.where(alive, squares, 1.0)), 0.0)
        return self.profile(ops.sum(norms), ops.sum(ops.where(alive, squares, 0.0)))[0]

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

    def get_config(self) -> dict:
        """Returns the constructor's arguments as JSON values."""
        pattern = keras.saving.serialize_keras_object(self.pattern) if self.pattern else None
        return {**super().get_config(), "axis": self.axis, "pattern": pattern}


@_serializable
class GroupHoyer(GroupPenalty):
    """Hoyer penalty over the groups' L2 norms: `factor * sum(norms) / sqrt(sum(norms**2))`.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), section 3.2.

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.
        axis: Int or tuple of ints: the axes that number groups. Defaults to -1, the output
            channels of a Dense or Conv kernel; `(-2, -1)` adds the input channels.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.

    >>> kernel = np.array([[3.0, 0.0], [4.0, 0.0]], "float32")
    >>> round(float(GroupHoyer(1.0)(kernel)), 6)  # the norms are 5 and 0
    1.0
    """

    def profile(self, total: Any, squares: Any) -> tuple[Any, Any, Any]:
        """`sum(norms) / sqrt(sum(norms**2))`, and its gradient's slope and pull."""
        return _ratio(total, squares, power=1)


@_serializable
class GroupHoyerSquare(GroupPenalty):
    """Hoyer-Square penalty over the groups' L2 norms: `factor * sum(norms)**2 / sum(norms**2)`.

    The effective number of groups that are not zero. `axis=(-2, -1)` on a Dense or Conv kernel is
    the paper's penalty over input channels plus filters.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), equation 4.

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.
        axis: Int or tuple of ints: the axes that number groups. Defaults to -1, the output
            channels of a Dense or Conv kernel; `(-2, -1)` adds the input channels.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.

    >>> kernel = np.array([[3.0, 0.0], [4.0, 5.0]], "float32")
    >>> round(float(GroupHoyerSquare(1.0)(kernel)), 6)  # two norms of 5
    2.0
    """

    def profile(self, total: Any, squares: Any) -> tuple[Any, Any, Any]:
        """`sum(norms)**2 / sum(norms**2)`, and its gradient's slope and pull."""
        return _ratio(total, squares, power=2)


@_serializable
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

    def profile(self, total: Any, squares: Any) -> tuple[Any, Any, Any]:
        """`sum(norms)`, and its gradient's slope and pull."""
        return total, ops.ones_like(total), ops.zeros_like(total)


def _compute_dtype(x: Any) -> str:
    # Half precision overflows in the sum of squares.
    dtype = keras.backend.standardize_dtype(x.dtype)
    return dtype if dtype == "float64" else "float32"


def _ratio(total: Any, squares: Any, power: int) -> tuple[Any, Any, Any]:
    """Value `(S / sqrt(Q))**power`, and `a`, `c` of its gradient `a * (dS - c * w)`."""
    alive = squares > _TINY
    squares = ops.where(alive, squares, ops.ones_like(squares))
    total = ops.where(alive, total, ops.zeros_like(total))
    ratio = total / ops.sqrt(squares)
    value = ratio if power == 1 else ratio * ratio
    slope = power * value / ops.where(alive, total, ops.ones_like(total))
    return value, slope, total / squares


def _norm_ratio(x: Any, power: int) -> Any:
    dtype = _compute_dtype(x)

    @ops.custom_gradient
    def measure(x: Any) -> tuple[Any, Callable]:
        weights = ops.cast(x, dtype)
        value, slope, pull = _ratio(*_sums(weights), power)

        def gradient(*args: Any, upstream: Any = None) -> Any:
            upstream = args[0] if upstream is None else upstream
            return _cast_finite(_signed_gradient(weights, upstream * slope, pull), x.dtype)

        return value, gradient

    return measure(x)


def _group_measure(
    x: Any, shape: tuple[int, ...], spans: list[tuple[int, ...]], profile: Callable
) -> Any:
    dtype = _compute_dtype(x)

    @ops.custom_gradient
    def measure(x: Any) -> tuple[Any, Callable]:
        weights = ops.cast(x, dtype)
        value, parts = 0.0, []
        for sums in _sums_of_squares(weights, spans):
            alive = sums > _TINY
            norms = ops.where(alive, ops.sqrt(sums), ops.zeros_like(sums))
            inverse = ops.where(alive, 1 / ops.where(alive, norms, 1.0), ops.zeros_like(sums))
            part, slope, pull = profile(ops.sum(norms), ops.sum(ops.where(alive, sums, 0.0)))
            value = value + part
            parts.append((slope, inverse - pull))

        def gradient(*args: Any, upstream: Any = None) -> Any:
            upstream = args[0] if upstream is None else upstream
            # Norms near the smallest float32 would make infinity, and infinity times zero NaN.
            scales = [ops.clip(upstream * a * b, -_LARGE, _LARGE) for a, b in parts]
            # Not `ops.add`, which on TensorFlow takes (1, n, 1) + (1, 1, n) for adding a bias.
            return _cast_finite(weights * functools.reduce(operator.add, scales), x.dtype)

        return value, gradient

    x = ops.reshape(x, shape)
    if len(shape) > _MOST_AXES:
        (span,) = spans
        kept = tuple(axis for axis in range(len(shape)) if axis not in span)
        x = ops.reshape(ops.transpose(x, kept + span), (*(shape[axis] for axis in kept), -1))
        spans = [(len(kept),)]
    return measure(x)


def _sums_of_squares(weights: Any, spans: list[tuple[int, ...]]) -> list[Any]:
    """Sums of squares over each of the spans, with the summed axes kept."""
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415  (only where it is the backend)

        # One after the other: XLA on CPU makes sums over rows and columns one loop, which is slow.
        sums = []
        for span in spans:
            weights, sums = jax.lax.optimization_barrier((weights, sums))
            sums.append(ops.sum(ops.square(weights), span, keepdims=True))
        return sums
    squares = ops.square(weights)
    return [ops.sum(squares, span, keepdims=True) for span in spans]


def _sums(weights: Any) -> tuple[Any, Any]:
    """Sums of magnitudes and of squares, in one pass each where a plain sum takes two."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415  (only where it is the backend)

        return tf.reduce_sum(tf.abs(weights)), 2 * tf.nn.l2_loss(weights)
    if backend == "torch":
        import torch  # noqa: PLC0415  (only where it is the backend)

        # Row by row: over a whole large kernel these norms lose four of float32's seven digits.
        magnitudes = torch.linalg.vector_norm(weights, 1, dim=-1)
        return magnitudes.sum(), torch.linalg.vector_norm(weights, 2, dim=-1).square().sum()
    return ops.sum(ops.abs(weights)), ops.sum(ops.square(weights))


def _signed_gradient(weights: Any, slope: Any, pull: Any) -> Any:
    backend = keras.backend.backend()
    if backend == "tensorflow" and math.prod(weights.shape) >= _FUSED_SIZE:
        return _fused_signed_gradient()(weights, slope, pull)
    if backend == "torch":
        # In place: fresh memory costs more than the arithmetic.
        return weights.sign().addcmul_(weights, -pull).mul_(slope)
    return slope * (ops.sign(weights) - pull * weights)


@functools.cache
def _fused_signed_gradient() -> Callable:
    import tensorflow as tf  # noqa: PLC0415  (only where it is the backend)

    # TensorFlow runs each operation as a pass over memory of its own; XLA makes them one.
    @tf.function(jit_compile=True, reduce_retracing=True)
    def gradient(weights: Any, slope: Any, pull: Any) -> Any:
        return slope * (tf.sign(weights) - pull * weights)

    return gradient


def _cast_finite(gradient: Any, dtype: Any) -> Any:
    # The gradient of a scale-invariant measure grows as weights shrink, beyond what float16 holds.
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype == "float16":
        limit = float(np.finfo("float16").max)
        gradient = ops.clip(gradient, -limit, limit)
    return ops.cast(gradient, dtype)


def _checked_number(name: str, value: Any, least: float, most: float) -> float:
    valid = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not valid or not least <= value <= most:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a number between {least:g} and "
            f"{most:g}. Received: {name}={value!r}"
        )
    return float(value)


def _checked_axis(axis: Any) -> int | tuple[int, ...]:
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    valid = all(isinstance(a, (int, np.integer)) and not isinstance(a, bool) for a in axes)
    if not axes or not valid or len(set(axes)) < len(axes):
        raise ValueError(
            "Invalid value for argument `axis`. Expected an integer, or a tuple of different "
            f"integers. Received: axis={axis!r}"
        )
    return tuple(int(a) for a in axes) if isinstance(axis, (tuple, list)) else int(axis)
