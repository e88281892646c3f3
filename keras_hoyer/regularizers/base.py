"""What the penalties share: a factor times a measure, with a gradient of its own, in float32.

A penalty written as a plain expression makes an automatic gradient of many passes over the kernel
and NaN at zero. Here every penalty is two sums `S` (of magnitudes, or of the groups' L2 norms) and
`Q` (of squares), and its gradient one expression in them.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

from keras_hoyer._checks import check_choice, check_number
from keras_hoyer._literals import Factor
from keras_hoyer.regularizers.automatic import AUTO, SteeredFactor

Self = TypeVar("Self", bound="Penalty")

serializable = keras.saving.register_keras_serializable(package="keras_hoyer")

# Sums of squares below the smallest normal float32 hold no digits: such a kernel counts as zero.
TINY = float(np.finfo("float32").tiny)


class Penalty(keras.regularizers.Regularizer):
    """Base class of the penalties: a factor times a measure of the kernel.

    Args:
        factor: Float between 0 and 1e30: what the measure is multiplied with. `"auto"` where
            `can_be_steered`.

    Raises:
        ValueError: If `factor` is out of its range, NaN or not a number.

    Attributes:
        steered: The number behind `factor="auto"`; `None` if the factor is a number.
    """

    def __init__(self, factor: Factor = 1e-4) -> None:
        automatic = isinstance(factor, str) and factor == AUTO and self.can_be_steered
        self.factor: Factor = "auto"
        self.steered = SteeredFactor() if automatic else None
        if not automatic:
            self.factor = _checked_factor(factor, self.can_be_steered)

    # Whether its groups can only be the channels of a model's graph.
    only_couples = False

    # Whether the factor may be "auto": its value is, or tells, an effective number.
    can_be_steered = False

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
        return self.weigh(self.measure(ops.reshape(x, ops.shape(x))))

    def weigh(self, measure: Any) -> Any:
        """A scalar tensor multiplied with the factor."""
        return self.factor * measure if self.steered is None else self.steered.times(measure)

    def steering_scale(self, aim: float) -> float:
        """What the factor is in proportion to, for `aim` as the effective number of a kernel."""
        return 1.0

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values, and what `"auto"` has come to."""
        if self.steered is None or self.steered.value is None:
            return {"factor": self.factor}
        return {"factor": self.factor, "steered": self.steered.value}

    @classmethod
    def from_config(cls: type[Self], config: dict[str, Any]) -> Self:
        """Builds the penalty that `get_config` described."""
        arguments = {key: value for key, value in config.items() if key != "steered"}
        penalty = cls(**arguments)
        if "steered" in config:
            penalty.steered = SteeredFactor(config["steered"])
        return penalty

    def __repr__(self) -> str:
        # A flag that is off is not worth a word.
        hidden = {"steered"}
        named = {k: v for k, v in vars(self).items() if v is not False and k not in hidden}
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


def _checked_factor(factor: Any, can_be_steered: bool) -> float:
    expected = "a number between 0 and 1e+30"
    if can_be_steered:
        expected += ", or 'auto'"
    elif isinstance(factor, str) and factor == AUTO:
        expected += ": 'auto' goes with the Hoyer penalties, whose value tells an effective number"
    check_number("factor", factor, expected, lambda number: 0 <= number <= 1e30)
    return float(factor)


def checked_flag(name: str, value: Any) -> bool:
    """A bool."""
    check_choice(name, value, (False, True))
    return bool(value)


def checked_normalize(value: Any, steered: SteeredFactor | None) -> bool:
    """A bool; what is steered is an effective number, so not divided by that of all."""
    if checked_flag("normalize", value) and steered is not None:
        raise ValueError(
            "Invalid value for argument `normalize`. Expected False for factor='auto', which goes "
            "by the effective number itself. Received: normalize=True"
        )
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
