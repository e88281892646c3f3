"""The quadratic that pulls a kernel to a point, as a loss that compiled steps follow.

The points and the weight of the quadratic change often, and no step is to be traced again for it.
On TensorFlow and PyTorch a step reads a variable as it is at the time. A compiled step of JAX is a
function of the variables that its model has, so there the model is handed these as well.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer import _keras
from keras_hoyer.weights import Weight, refresh_compiled

_OWNER = "pull"


class Pull(keras.regularizers.Regularizer):
    """Adds `rho / 2 * sum(counts * (w - target)**2)` to what another regularizer gives.

    It is set on variables alone, so no config ever holds it.

    Args:
        target: Variable of the kernel's shape.
        rho: Variable, a scalar.
        counts: Positive number, or an array that broadcasts to the kernel.
        other: The kernel's own regularizer, or `None`.
    """

    def __init__(
        self, target: keras.Variable, rho: keras.Variable, counts: Any, other: Any
    ) -> None:
        self.target = target
        self.rho = rho
        self.counts = counts
        self.other = other

    def __call__(self, x: Any) -> Any:
        """The penalty of a kernel, a scalar tensor."""
        pull = self._pull(ops.convert_to_tensor(x))
        return pull if self.other is None else pull + self.other(x)

    def _pull(self, x: Any) -> Any:
        target = ops.convert_to_tensor(self.target)
        if keras.backend.backend() == "torch" and isinstance(self.counts, float):
            import torch  # noqa: PLC0415  (only where it is the backend)

            # Of half the passes that the plain expression makes there.
            squares = torch.nn.functional.mse_loss(x.to(target.dtype), target, reduction="sum")
            return self.rho.value * (self.counts / 2) * squares
        squares = ops.square(ops.cast(x, target.dtype) - target)
        rho = ops.cast(ops.convert_to_tensor(self.rho), target.dtype)
        return rho / 2 * ops.sum(squares * self.counts)


class Pulls:
    """The pulls on some kernels of a model.

    Args:
        model: A built model.
        kernels: Those of its kernels that are pulled.
        counts: For each kernel, how many points pull at each weight.
    """

    def __init__(
        self, model: keras.Model, kernels: Sequence[Weight], counts: Sequence[np.ndarray]
    ) -> None:
        release(model)
        self._model = model
        self._rho = _variable(np.ones((), "float32"))
        self._targets = []
        for kernel, count in zip(kernels, counts, strict=True):
            target = _variable(np.zeros(kernel.shape, _dtype_beside(kernel)))
            self._targets.append(target)
            kernel.variable.regularizer = Pull(
                target, self._rho, _compact(count), kernel.variable.regularizer
            )
        if keras.backend.backend() == "jax":
            _keras.hold_beside_weights(model, [self._rho, *self._targets], _OWNER)
        refresh_compiled(model)

    def set(self, rho: float, targets: Sequence[Any]) -> None:
        """Sets the weight of the quadratic, and for each kernel the point that it is pulled to.

        These are arrays of their own, not those of other variables: a step of JAX uses them up.
        """
        self._rho.assign(rho)
        for variable, target in zip(self._targets, targets, strict=True):
            variable.assign(target)


def release(model: keras.Model) -> None:
    """Takes all pulls off a model, also those that an interrupted training left behind."""
    pulled = [v for v in model.variables if isinstance(getattr(v, "regularizer", None), Pull)]
    for variable in pulled:
        variable.regularizer = variable.regularizer.other
    _keras.release_beside_weights(model, _OWNER)
    if pulled:
        refresh_compiled(model)


def _dtype_beside(kernel: Weight) -> str:
    dtype = keras.backend.standardize_dtype(kernel.variable.dtype)
    return dtype if dtype == "float64" else "float32"


def _variable(value: np.ndarray) -> keras.Variable:
    dtype = str(value.dtype)
    return keras.Variable(value, dtype=dtype, trainable=False, autocast=False, name="pull")


def _compact(counts: np.ndarray) -> Any:
    """One number, or as small an array as says the same."""
    for axis in range(counts.ndim):
        first = counts.take([0], axis)
        if (counts == first).all():
            counts = first
    return float(counts.reshape(())) if counts.size == 1 else ops.convert_to_tensor(counts)
