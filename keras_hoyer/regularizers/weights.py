"""Penalties on single weights."""

import functools
import math
from typing import Any

import keras
from keras import ops

from keras_hoyer._literals import Factor
from keras_hoyer.regularizers.base import (
    Penalty,
    checked_normalize,
    checked_number,
    ratio,
    records_backward,
    serializable,
    with_gradient,
)

# A fused gradient must be worth the tenth of a second that compiling it takes.
_FUSED_SIZE = 1 << 20


@serializable
class Hoyer(Penalty):
    """Hoyer penalty `factor * L1 / L2`.

    It asks for few large weights, whatever their scale: between 1 (a single weight is not zero)
    and the square root of the number of weights.

    Source: Hoyer, "Non-negative matrix factorization with sparseness constraints" (2004); Yang,
    Wen and Li, "DeepHoyer" (ICLR 2020), equation 1.

    Args:
        factor: Float, 0 or more, or `"auto"`: `callbacks.Pruning` sets it, from how much is to
            stay. Defaults to 1e-4.
        normalize: Whether the measure is divided by the number of weights, for outputs of layers,
            whose size differs (`activity_regularizer`). Defaults to `False`.

    Raises:
        ValueError: If `factor` is negative, above 1e30, NaN or neither a number nor `"auto"`, or
            `normalize` is no bool, or true for `factor="auto"`.

    >>> round(float(Hoyer(1.0)(np.array([[3.0, 0.0], [0.0, -4.0]], "float32"))), 6)
    1.4
    """

    can_be_steered = True

    def __init__(self, factor: Factor = 1e-4, normalize: bool = False) -> None:
        super().__init__(factor)
        self.normalize = checked_normalize(normalize, self.steered)

    def steering_scale(self, aim: float) -> float:
        """Its slope in the effective number, of which it is the root, is so much smaller."""
        return 2 * math.sqrt(aim)

    def measure(self, x: Any) -> Any:
        """`L1 / L2`; 0 for a kernel that is all zero."""
        return _norm_ratio(x, 1, self.normalize)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {**super().get_config(), "normalize": self.normalize}


@serializable
class HoyerSquare(Penalty):
    """Hoyer-Square penalty `factor * L1**2 / L2**2`, the effective number of nonzero weights.

    Its gradient is orthogonal to the kernel: weights below the trimming threshold `L2**2 / L1`
    shrink, those above grow, and the kernel's norm stays.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), equation 2.

    Args:
        factor: Float, 0 or more, or `"auto"`: `callbacks.Pruning` sets it, from how much is to
            stay. Defaults to 1e-4.
        normalize: Whether the measure is divided by the number of weights, for outputs of layers,
            whose size differs (`activity_regularizer`). Defaults to `False`.

    Raises:
        ValueError: If `factor` is negative, above 1e30, NaN or neither a number nor `"auto"`, or
            `normalize` is no bool, or true for `factor="auto"`.

    >>> round(float(HoyerSquare(1.0)(np.array([2.0, -2.0, 0.0, 2.0], "float32"))), 6)
    3.0
    >>> layer = keras.layers.Dense(10, kernel_regularizer=HoyerSquare(1e-4))
    """

    can_be_steered = True

    def __init__(self, factor: Factor = 1e-4, normalize: bool = False) -> None:
        super().__init__(factor)
        self.normalize = checked_normalize(normalize, self.steered)

    def measure(self, x: Any) -> Any:
        """`L1**2 / L2**2`; 0 for a kernel that is all zero."""
        return _norm_ratio(x, 2, self.normalize)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {**super().get_config(), "normalize": self.normalize}


@serializable
class L1(Penalty):
    """L1 penalty `factor * sum(|w|)`: Keras' own, with a gradient in one pass.

    Source: Tibshirani, "Regression shrinkage and selection via the lasso" (1996).

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.

    Raises:
        ValueError: If `factor` is negative, above 1e30, NaN or not a number.

    >>> round(float(L1(0.5)(np.array([2.0, -1.0, 0.0], "float32"))), 6)
    1.5
    """

    def measure(self, x: Any) -> Any:
        """`sum(|w|)`."""

        def evaluate(weights: Any) -> tuple[Any, Any]:
            return ops.sum(ops.abs(weights)), ()

        def differentiate(weights: Any, parts: Any, upstream: Any) -> Any:
            return upstream * ops.sign(weights)

        return with_gradient(x, evaluate, differentiate)


@serializable
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
        self.a = checked_number("a", a, 1e-30, 1e30)

    def measure(self, x: Any) -> Any:
        """`sum((a + 1) |w| / (a + |w|))`."""

        def evaluate(weights: Any) -> tuple[Any, Any]:
            magnitudes = ops.abs(weights)
            inverse = 1 / (self.a + magnitudes)
            return ops.sum(magnitudes * ((self.a + 1) * inverse)), inverse

        def differentiate(weights: Any, inverse: Any, upstream: Any) -> Any:
            slope = upstream * ((self.a + 1) * inverse) * (self.a * inverse)
            return slope * ops.sign(weights)

        return with_gradient(x, evaluate, differentiate)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {**super().get_config(), "a": self.a}


def _norm_ratio(x: Any, power: int, normalize: bool) -> Any:
    def evaluate(weights: Any) -> tuple[Any, Any]:
        value, slope, pull = ratio(*_sums(weights), power)
        return value, (slope, pull)

    def differentiate(weights: Any, parts: Any, upstream: Any) -> Any:
        slope, pull = parts
        return _signed_gradient(weights, upstream * slope, pull)

    value = with_gradient(x, evaluate, differentiate)
    return value / ops.cast(ops.size(x), value.dtype) if normalize else value


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
    """`slope * (sign(weights) - pull * weights)`."""
    backend = keras.backend.backend()
    if backend == "tensorflow" and None not in weights.shape:
        if math.prod(weights.shape) >= _FUSED_SIZE:
            return _fused_signed_gradient()(weights, slope, pull)
    elif backend == "torch" and not records_backward():
        # In place: fresh memory costs more than the arithmetic.
        return weights.sign().addcmul_(weights, -pull).mul_(slope)
    return slope * (ops.sign(weights) - pull * weights)


@functools.cache
def _fused_signed_gradient() -> Any:
    import tensorflow as tf  # noqa: PLC0415  (only where it is the backend)

    # TensorFlow runs each operation as a pass over memory of its own; XLA makes them one.
    @tf.function(jit_compile=True, reduce_retracing=True)
    def gradient(weights: Any, slope: Any, pull: Any) -> Any:
        return slope * (tf.sign(weights) - pull * weights)

    return gradient
