"""The number behind `factor="auto"`: callbacks set it, compiled steps read it."""

from typing import Any

import keras
from keras import ops

from keras_hoyer._checks import warn
from keras_hoyer._keras import callbacks_of_fit

AUTO = "auto"

# What counts where nobody has set a number yet.
DEFAULT = 1e-4


class SteeredFactor:
    """A factor that is set while a model is being trained.

    Args:
        value: Float, or `None` as long as nobody has set it.
    """

    def __init__(self, value: float | None = None) -> None:
        self.value = value
        self._variable: keras.Variable | None = None
        self._told = False
        if value is not None:
            _ = self.variable  # now, since it cannot be made while a step is traced

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value,)

    @property
    def variable(self) -> keras.Variable:
        """What compiled steps read."""
        if self._variable is None:
            value = DEFAULT if self.value is None else self.value
            self._variable = keras.Variable(value, "float32", trainable=False, name="factor")
        return self._variable

    def set(self, value: float) -> bool:
        """Sets it; returns whether steps that are compiled already do not read the variable."""
        stale = self._variable is None or self.value is None
        self.variable.assign(value)
        self.value = value
        return stale

    def times(self, measure: Any) -> Any:
        """A scalar tensor multiplied with it."""
        if self.value is None:
            return measure * self._unset()
        return measure * ops.cast(self.variable, measure.dtype)

    def _unset(self) -> float:
        """What counts before anybody has set it; raises a `ValueError` if nobody will."""
        callbacks = callbacks_of_fit()
        if callbacks is None:
            if not self._told:
                self._told = True
                warn(
                    "A penalty with factor='auto' has no factor yet: `callbacks.Pruning` sets it "
                    f"in `fit`. Until then, as here, it counts with {DEFAULT:g}. In a training "
                    "loop of your own, give the penalty a number."
                )
        elif not any(getattr(callback, "sets_factors", False) for callback in callbacks):
            raise ValueError(
                "Invalid value for argument `factor`. A penalty with factor='auto' needs a "
                "callback of `fit` that sets the factor, from how much is to stay. Expected "
                "`keras_hoyer.callbacks.Pruning(criterion, schedule)` among the callbacks, or a "
                f"number, such as `HoyerSquare({DEFAULT:g})`. Received: factor='auto', callbacks="
                f"{[type(callback).__name__ for callback in callbacks]}"
            )
        return DEFAULT
