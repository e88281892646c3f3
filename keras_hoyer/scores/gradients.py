"""Gradients of a model's own loss, on each backend."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_hoyer._data import Batch, call_on
from keras_hoyer._keras import compilation_of, compile_arguments
from keras_hoyer._precision import HALF, computing_in

Gradients = Callable[[Batch], list[Any]]


class LossGradients:
    """The gradients of a model's own loss; what was compiled for them is used again."""

    def __init__(self) -> None:
        self._made_for: list[Any] = []
        self._function: Gradients | None = None

    def of(
        self,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        batches: Iterator[Batch],
    ) -> Iterator[tuple[list[Any], int]]:
        """The gradients of each batch's loss, in inference mode, without penalties on weights.

        Args:
            model: A compiled model. It computes in float32.
            variables: With respect to what.
            batches: The data, with labels if the loss wants them.

        Yields:
            A gradient for each variable, a tensor, or `None` where the loss does not depend on it
            (on JAX zeros); and the number of samples. The list is yours to empty.
        """
        with computing_in("float32", model, HALF), _without_penalties(model):
            gradients = self._made(model, variables)
            for batch in batches:
                _check_labels(model, batch)
                yield gradients(batch), batch.size

    def _made(self, model: keras.Model, variables: Sequence[keras.Variable]) -> Gradients:
        """The function of before, unless it was for something else or the model was compiled."""
        wanted = [model, compilation_of(model), *model.variables, *variables]
        same = len(wanted) == len(self._made_for)
        if not same or any(a is not b for a, b in zip(wanted, self._made_for, strict=True)):
            make = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
            self._function = make[keras.backend.backend()](model, variables)
            self._made_for = wanted
        assert self._function is not None
        return self._function


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


def _on_torch(model: keras.Model, variables: Sequence[keras.Variable]) -> Gradients:
    import torch  # noqa: PLC0415  (only where it is the backend)

    def gradients(batch: Batch) -> list[Any]:
        tensors = [variable.value for variable in variables]
        frozen = [tensor for tensor in tensors if not tensor.requires_grad]
        try:
            for tensor in frozen:
                tensor.requires_grad_(True)
            with torch.enable_grad():
                return list(torch.autograd.grad(_loss(model, batch), tensors, allow_unused=True))
        finally:
            for tensor in frozen:
                tensor.requires_grad_(False)

    return gradients


def _on_tensorflow(model: keras.Model, variables: Sequence[keras.Variable]) -> Gradients:
    import tensorflow as tf  # noqa: PLC0415  (only where it is the backend)

    def gradients(batch: Batch) -> list[Any]:
        values = [variable.value for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = _loss(model, batch)
        found = tape.gradient(loss, values)
        return [tf.convert_to_tensor(g) if g is not None else None for g in found]

    return gradients


def _on_jax(model: keras.Model, variables: Sequence[keras.Variable]) -> Gradients:
    import jax  # noqa: PLC0415  (only where it is the backend)

    wanted = {id(variable) for variable in variables}
    others = [variable for variable in model.variables if id(variable) not in wanted]

    def loss(values: list[Any], rest: list[Any], batch: Batch) -> Any:
        state = [*zip(variables, values, strict=True), *zip(others, rest, strict=True)]
        with keras.StatelessScope(state_mapping=state, collect_losses=True):
            return _loss(model, batch)

    differentiate = jax.jit(jax.grad(loss))

    def gradients(batch: Batch) -> list[Any]:
        values = [variable.value for variable in variables]
        return list(differentiate(values, [variable.value for variable in others], batch))

    return gradients


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
