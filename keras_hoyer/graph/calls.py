"""Which call is being described: where it is, of which sizes, and how often it happens."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_hoyer.graph.axes import Axis, Cost, Tensor, Unknown, WeightAxes

Shape = tuple[int | None, ...]


class Calls:
    """The calls of a model one by one, and what they cost.

    Args:
        sized: whether to find the sizes of nested models that are called on others than they were
            built for.
    """

    def __init__(self, sized: bool) -> None:
        self.node: Any = None
        self.path = ""
        self.outputs: list[Shape] = []
        self.costs: list[Cost] = []
        self.unknown: list[Unknown] = []
        self.consuming: list[WeightAxes] = []  # those of the call of whose use nothing is said
        self._sized = sized
        self._prefix = ""
        self._repeats = 1
        self._specs: dict[int, keras.KerasTensor] | None = None

    @contextlib.contextmanager
    def inside(self, function: Any, sizes: Mapping[int, Shape]) -> Iterator[None]:
        """A scope in which a functional graph, perhaps a nested one, is gone through.

        Args:
            function: the graph.
            sizes: the shapes of its inputs in this call, by their ids.
        """
        outer = self.node, self.path, self.outputs, self._prefix, self._specs
        self._prefix = f"{self.path}/" if self.path else ""
        given = [x for x in function.inputs if id(x) in sizes]
        same = all(tuple(x.shape[1:]) == sizes[id(x)][1:] for x in given)
        self._specs = None
        if self._sized and not same:
            self._specs = {id(x): keras.KerasTensor(sizes[id(x)], x.dtype) for x in given}
        yield
        self.node, self.path, self.outputs, self._prefix, self._specs = outer

    def enter(self, node: Any) -> None:
        """Goes on to the call of a node of the graph."""
        self.node, self.path = node, f"{self._prefix}{node.operation.name}"
        outputs = node.outputs
        if self._specs is not None:
            args, kwargs = node.arguments.fill_in(self._specs)
            outputs = tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
            self._specs.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
        self.outputs = [tuple(y.shape) for y in outputs]

    @contextlib.contextmanager
    def wrapped(self, layer: Any, inputs: Sequence[Tensor], times: int | None) -> Iterator[None]:
        """A scope in which the present layer calls one that it wraps.

        Args:
            layer: the layer inside.
            inputs: what it is called on.
            times: how many times it is called for one example.
        """
        outer = self.node, self.outputs, self._repeats
        shapes = [keras.KerasTensor(x.shape) for x in inputs]
        outputs = tree.flatten(layer.compute_output_spec(*shapes))
        operation = self.node.operation
        self.node = SimpleNamespace(operation=operation, arguments=None, outputs=outputs)
        if any(x.sizes[1:] != x.shape[1:] for x in inputs):
            sizes = [keras.KerasTensor(x.sizes) for x in inputs]
            outputs = tree.flatten(layer.compute_output_spec(*sizes))
        self.outputs = [tuple(y.shape) for y in outputs]
        self._repeats *= times or 1
        yield
        self.node, self.outputs, self._repeats = outer

    def add_cost(
        self, uses: Iterable[Axis | int], kernel: Any = None, sizes: Iterable[Axis | int] = ()
    ) -> None:
        """Notes multiply-adds of this call; see `Cost`."""
        self.costs.append(Cost(self.path, (*uses, self._repeats), kernel, tuple(sizes)))

    def add_unknown(self, operation: Any, inputs: Sequence[Tensor], why: str) -> None:
        """Notes that this call has no rule, or why its rule does not do."""
        arguments = self.node.arguments
        if arguments is None:
            args, kwargs = tuple(keras.KerasTensor(x.sizes) for x in inputs), {}
        elif self._specs is None:
            args, kwargs = arguments.args, arguments.kwargs
        else:
            args, kwargs = arguments.fill_in(self._specs)
        call = Unknown(self.path, operation, why, args, kwargs, self.outputs, self._repeats)
        self.unknown.append(call)

    def count_consuming(self, outputs: Sequence[Tensor]) -> None:
        """Takes the kernels of whose use nothing was said to be used once a place of the output."""
        for weight in self.consuming:
            output = Tensor(outputs[0].shape, outputs[0].axes, self.outputs[0])
            made: list[int] = []
            for index, (n, axis) in enumerate(zip(weight.variable.shape, weight.axes, strict=True)):
                # Kernels number what they make along their last axes, as tensors do.
                free = (i for i in reversed(range(1, output.rank)) if i not in made)
                if index not in weight.reads:
                    made.extend([i for i in free if _is_along(axis, n, output, i)][:1])
            self.add_cost(output.places(*made), weight.variable, weight.sizes)
        self.consuming = []


def _is_along(axis: Axis | None, size: int, x: Tensor, index: int) -> bool:
    """Whether an axis of a tensor has the channels, or else the size, of an axis of a variable."""
    if axis is None or x.axes[index] is None:
        return x.sizes[index] == size
    return np.array_equal(axis.labels, x.axes[index].labels)
