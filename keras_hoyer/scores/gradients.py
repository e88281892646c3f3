"""Gradients of a model's own loss, on each backend."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_hoyer._data import Batch, call_on
from keras_hoyer._keras import compilation_of, compile_arguments
from keras_hoyer._precision import HALF, computing_in

# Adds the gradients of a batch's loss, times a share, to sums; gives these, maybe in place.
Add = Callable[[list[Any], Batch, float], list[Any]]


class GradientSums:
    """Sums of the gradients of a model's own loss, or of their squares.

    What was compiled for them is used again.

    Args:
        power: 1, or 2 for squares.
    """

    def __init__(self, power: int) -> None:
        self._power = power
        self._made_for: list[Any] = []
        self._add: Add | None = None

    def of(
        self,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        batches: Iterator[Batch],
    ) -> list[np.ndarray]:
        """The mean over samples, in inference mode, without penalties on weights.

        Args:
            model: A compiled model. It computes in float32.
            variables: With respect to what.
            batches: The data, with labels if the loss wants them.

        Returns:
            A float32 array for each variable, zero where the loss does not depend on it. The
            gradient of a batch counts as often as the batch has samples.
        """
        count = first = 0
        sums: list[Any] = []
        with computing_in("float32", model, HALF), _without_penalties(model):
            add = self._made(model, variables)
            for batch in batches:
                _check_labels(model, batch)
                first = first or batch.size
                count += batch.size
                sums = add(sums or _zeros(variables), batch, batch.size / first)
        means = []
        while sums:  # one by one, since a copy of all is as large as the model
            means.append(keras.ops.convert_to_numpy(sums.pop()) * np.float32(first / count))
        return means[::-1]

    def _made(self, model: keras.Model, variables: Sequence[keras.Variable]) -> Add:
        """The function of before, unless it was for something else or the model was compiled."""
        wanted = [model, compilation_of(model), *model.variables, *variables]
        same = len(wanted) == len(self._made_for)
        if not same or any(a is not b for a, b in zip(wanted, self._made_for, strict=True)):
            make = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
            self._add = make[keras.backend.backend()](model, variables, self._power)
            self._made_for = wanted
        assert self._add is not None
        return self._add


def check_loss(model: keras.Model, name: str) -> None:
    """Raises a `ValueError` if a model has no loss of its own."""
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"`{name}` needs the loss that a model was compiled with. Model '{model.name}' is not "
            "compiled: call `model.compile(optimizer, loss)` first."
        )


def _check_labels(model: keras.Model, batch: Batch) -> None:
    if batch.y is None and compile_arguments(model).get("loss") is not None:
        raise ValueError(
            f"Invalid value for argument `data`. The loss of model '{model.name}' wants labels. "
            "Expected a pair `(x, y)`, or batches of such pairs. Received: samples without labels"
        )


def _loss(model: keras.Model, batch: Batch) -> Any:
    # A loss wants tensors; inputs are cast by the layers that take them.
    y, weights = keras.tree.map_structure(
        lambda part: None if part is None else keras.ops.convert_to_tensor(part),
        (batch.y, batch.weights),
    )
    outputs = call_on(model, batch.x)
    return model.compute_loss(batch.x, y, outputs, weights)


def _zeros(variables: Sequence[keras.Variable]) -> list[Any]:
    if keras.backend.backend() == "jax":  # where they lie on the devices as the variables do
        return [keras.ops.zeros_like(variable.value, "float32") for variable in variables]
    return [np.zeros(variable.shape, "float32") for variable in variables]


def _gather(sums: list[Any], gradients: list[Any], share: float, power: int) -> list[Any]:
    """Adds in place, and takes out what was added: the gradients of two batches are too many."""
    while gradients:
        tensor = gradients.pop()
        if tensor is not None:
            gradient = _viewed(tensor) if power == 1 else np.square(_viewed(tensor))
            total = sums[len(gradients)]
            total += gradient if share == 1 else np.float32(share) * gradient
    return sums


def _viewed(tensor: Any) -> np.ndarray:
    # Keras copies the tensors of TensorFlow.
    torch = keras.backend.backend() == "torch"
    return np.asarray(keras.ops.convert_to_numpy(tensor) if torch else tensor)


def _on_torch(model: keras.Model, variables: Sequence[keras.Variable], power: int) -> Add:
    import torch  # noqa: PLC0415  (only where it is the backend)

    def add(sums: list[Any], batch: Batch, share: float) -> list[Any]:
        tensors = [variable.value for variable in variables]
        frozen = [tensor for tensor in tensors if not tensor.requires_grad]
        try:
            for tensor in frozen:
                tensor.requires_grad_(True)
            with torch.enable_grad():
                found = torch.autograd.grad(_loss(model, batch), tensors, allow_unused=True)
            return _gather(sums, [*found], share, power)
        finally:
            for tensor in frozen:
                tensor.requires_grad_(False)

    return add


def _on_tensorflow(model: keras.Model, variables: Sequence[keras.Variable], power: int) -> Add:
    import tensorflow as tf  # noqa: PLC0415  (only where it is the backend)

    def add(sums: list[Any], batch: Batch, share: float) -> list[Any]:
        values = [variable.value for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = _loss(model, batch)
        found = tape.gradient(loss, values)
        tensors = [tf.convert_to_tensor(g) if g is not None else None for g in found]
        del found, tape, loss
        return _gather(sums, tensors, share, power)

    return add


def _on_jax(model: keras.Model, variables: Sequence[keras.Variable], power: int) -> Add:
    import jax  # noqa: PLC0415  (only where it is the backend)

    wanted = {id(variable) for variable in variables}
    others = [variable for variable in model.variables if id(variable) not in wanted]

    def loss(values: list[Any], rest: list[Any], batch: Batch) -> Any:
        state = [*zip(variables, values, strict=True), *zip(others, rest, strict=True)]
        with keras.StatelessScope(state_mapping=state, collect_losses=True):
            return _loss(model, batch)

    # Sums that are given away are added to in place: to allocate takes as long as to compute.
    @functools.partial(jax.jit, donate_argnums=0)
    def added(
        sums: list[Any], values: list[Any], rest: list[Any], batch: Batch, share: Any
    ) -> list[Any]:
        found = jax.grad(loss)(values, rest, batch)
        return [
            total + share * gradient.astype(total.dtype) ** power
            for total, gradient in zip(sums, found, strict=True)
        ]

    def add(sums: list[Any], batch: Batch, share: float) -> list[Any]:
        values = [variable.value for variable in variables]
        rest = [variable.value for variable in others]
        return list(added(sums, values, rest, batch, np.float32(share)))

    return add


@contextlib.contextmanager
def _without_penalties(model: keras.Model) -> Iterator[None]:
    """A scope in which the loss is that of the outputs alone, and of what layers add to it."""
    penalized = [(v, v.regularizer) for v in model.variables if getattr(v, "regularizer", None)]
    try:
        for variable, _ in penalized:
            variable.regularizer = None
        yield
    finally:
        for variable, regularizer in penalized:
            variable.regularizer = regularizer
