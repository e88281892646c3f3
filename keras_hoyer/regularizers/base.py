"""What the penalties share: a factor times a measure, with a gradient of its own, in float32.

A penalty written as a plain expression makes an automatic gradient of many passes over the kernel
and NaN at zero. Here every penalty is two sums `S` (of magnitudes, or of the groups' L2 norms) and
`Q` (of squares), and its gradient one expression in them.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer._checks import check_choice, check_number

serializable = keras.saving.register_keras_serializable(package="keras_hoyer")

# Sums of squares below the smallest normal float32 hold no digits: such a kernel counts as zero.
TINY = float(np.finfo("float32").tiny)


class Penalty(keras.regularizers.Regularizer):
    """Base class of the penalties: a factor times a measure of the kernel.

    Args:
        factor: Float between 0 and 1e30: what the measure is multiplied with.

    Raises:
        ValueError: If `factor` is out of its range, NaN or not a number.
    """

    def __init__(self, factor: float = 1e-4) -> None:
        self.factor = checked_number("factor", factor, 0, 1e30)

    # Whether its groups can only be the channels of a model's graph.
    only_couples = False

    @property
    def couples(self) -> bool:
        """Whether its groups may be the channels of a model's graph."""
        return False

    def measure(self, x: Any) -> Any:
        """The penalty for `factor=1`: a scalar tensor, float32 (float64 for a float64 kernel)."""
        raise NotImplementedError

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises a `ValueError` if it is no penalty for a kernel of this shape."""

    def __call__(self, x: Any) -> Any:
        """Returns the penalty of a kernel, a scalar tensor."""
        x = ops.convert_to_tensor(x)
        # The reshape reads a variable, which TensorFlow admits in no custom gradient.
        return self.factor * self.measure(ops.reshape(x, ops.shape(x)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {"factor": self.factor}

    def __repr__(self) -> str:
        # A flag that is off is not worth a word.
        named = {key: value for key, value in vars(self).items() if value is not False}
        arguments = ", ".join(f"{key}={value!r}" for key, value in named.items())
        return f"{type(self).__name__}({arguments})"


def with_gradient(
    x: Any,
    evaluate: Callable[[Any], tuple[Any, Any]],
    differentiate: Callable[[Any, Any, Any], Any],
) -> Any:
    """A scalar function of a tensor whose gradient is given by an expression.

    Args:
        x: the tensor; it is computed with in float32, or in float64 if it is of that dtype.
        evaluate: gives the value, and what the gradient needs besides the tensor.
        differentiate: gives the gradient from the tensor, those, and the gradient from above.

    Returns:
        The value, a scalar tensor; it can be differentiated twice.
    """
    dtype = _compute_dtype(x)

    @ops.custom_gradient
    def measure(x: Any) -> tuple[Any, Callable[..., Any]]:
        weights = ops.cast(x, dtype)
        value, parts = evaluate(weights)

        def gradient(*args: Any, upstream: Any = None) -> Any:
            if upstream is None:
                (upstream,) = args
                now = weights, parts
            elif records_backward():
                # PyTorch computes the value without a graph: what it gave are constants to it.
                again = ops.cast(args[0], dtype)
                now = again, evaluate(again)[1]
            else:
                now = weights, parts
            return _cast_finite(differentiate(*now, upstream), x.dtype)

        return value, gradient

    return measure(x)


def ratio(total: Any, squares: Any, power: int) -> tuple[Any, Any, Any]:
    """Value `(S / sqrt(Q))**power`, and `a`, `c` of its gradient `a * (dS - c * w)`."""
    alive = squares > TINY
    squares = ops.where(alive, squares, ops.ones_like(squares))
    total = ops.where(alive, total, ops.zeros_like(total))
    quotient = total / ops.sqrt(squares)
    value = quotient if power == 1 else quotient * quotient
    slope = power * value / ops.where(alive, total, ops.ones_like(total))
    return value, slope, total / squares


def checked_number(name: str, value: Any, least: float, most: float) -> float:
    """A number between two others as a float."""
    expected = f"a number between {least:g} and {most:g}"
    check_number(name, value, expected, lambda number: least <= number <= most)
    return float(value)


def checked_flag(name: str, value: Any) -> bool:
    """A bool."""
    check_choice(name, value, (False, True))
    return bool(value)


def records_backward() -> bool:
    """Whether PyTorch wants to differentiate the gradient that it asks for."""
    import torch  # noqa: PLC0415  (only where it is the backend)

    return bool(torch.is_grad_enabled())


def _compute_dtype(x: Any) -> str:
    # Half precision overflows in the sum of squares.
    dtype = keras.backend.standardize_dtype(x.dtype)
    return dtype if dtype == "float64" else "float32"


def _cast_finite(gradient: Any, dtype: Any) -> Any:
    # The gradient of a scale-invariant measure grows as weights shrink, beyond what float16 holds.
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype == "float16":
        limit = float(np.finfo("float16").max)
        gradient = ops.clip(gradient, -limit, limit)
    return ops.cast(gradient, dtype)
