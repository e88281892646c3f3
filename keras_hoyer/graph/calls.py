"""Which call is being described: where it is, of which sizes, and how often it happens."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
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
    def inside(self, function: Any, inputs: Sequence[Tensor]) -> Iterator[None]:
        """A scope in which a functional graph, perhaps a nested one, is gone through."""
        outer = self.node, self.path, self.outputs, self._prefix, self._specs
        self._prefix = f"{self.path}/" if self.path else ""
        pairs = list(zip(function.inputs, inputs, strict=True))
        same = all(tuple(r.shape[1:]) == x.sizes[1:] for r, x in pairs)
        self._specs = None
        if self._sized and not same:
            self._specs = {id(r): keras.KerasTensor(x.sizes, r.dtype) for r, x in pairs}
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
    def steps(self, count: int | None) -> Iterator[None]:
        """A scope in which a layer is called on so many slices along axis 1 of an example."""
        outer = self._repeats, self.outputs
        self._repeats *= count or 1
        self.outputs = [(shape[0], *shape[2:]) for shape in self.outputs]
        yield
        self._repeats, self.outputs = outer

    def add_cost(
        self, uses: Iterable[Axis | int], kernel: Any = None, sizes: Iterable[Axis | int] = ()
    ) -> None:
        """Notes multiply-adds of this call; see `Cost`."""
        self.costs.append(Cost(self.path, (*uses, self._repeats), kernel, tuple(sizes)))

    def add_unknown(self, operation: Any) -> None:
        """Notes that this call has no rule."""
        args, kwargs = self.node.arguments.args, self.node.arguments.kwargs
        if self._specs is not None:
            args, kwargs = self.node.arguments.fill_in(self._specs)
        call = Unknown(self.path, operation, args, kwargs, self.outputs, self._repeats)
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
