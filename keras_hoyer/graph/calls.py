"""Which call is being described: where it is, of which sizes, and how often it happens."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_hoyer.graph.arguments import accepted
from keras_hoyer.graph.axes import Axis, Cost, Tensor, Unknown, WeightAxes
from keras_hoyer.graph.opened import BATCH, Opened
from keras_hoyer.graph.opening import as_function, has_graph, nested_inputs, nodes_in_order

Shape = tuple[int | None, ...]


class WrappedCall:
    """The call of a layer by another one that wraps it, seen as a node of a graph.

    Args:
        layer: the layer inside.
        args: the tensors that it is called on, as a structure of `Tensor`s.
        dtype: of these.
        whole: why it can only be called as the layer that it is, in words; empty if any other that
            gives the same would do.
    """

    is_input = False

    def __init__(
        self, layer: keras.Layer, args: tuple[Any, ...], dtype: str, whole: str = ""
    ) -> None:
        self.operation = layer
        self.arguments = _Arguments(
            tree.map_structure(lambda x: keras.KerasTensor(x.shape, dtype), args), {}
        )
        self.input_tensors = tree.flatten(self.arguments.args)
        self.outputs = tree.flatten(layer.compute_output_spec(*self.arguments.args))
        self.whole = whole


@dataclasses.dataclass(frozen=True)
class _Arguments:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def fill_in(self, tensors: Mapping[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with what stands for their tensors."""
        filled: tuple[tuple[Any, ...], dict[str, Any]] = tree.map_structure(
            lambda x: tensors.get(id(x), x), (self.args, self.kwargs)
        )
        return filled


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
        self._owner = ""  # the layer whose code is gone through
        self._repeats = 1
        self._specs: dict[int, keras.KerasTensor] | None = None
        self._sample: int | None = None  # what stands for open lengths

    @contextlib.contextmanager
    def inside(self, function: Any, sizes: Mapping[int, Shape]) -> Iterator[None]:
        """A scope in which a functional graph, perhaps a nested one, is gone through.

        Args:
            function: the graph.
            sizes: the shapes of its inputs in this call, by their ids.
        """
        outer = (self.node, self.path, self.outputs, self._owner)
        around = (self._prefix, self._specs, self._sample)
        self._owner = self.path if isinstance(function, Opened) else ""
        self._prefix = f"{self.path}/" if self.path else ""
        given = [x for x in function.inputs if id(x) in sizes]
        same = all(tuple(x.shape[1:]) == sizes[id(x)][1:] for x in given)
        self._sample = getattr(function, "sample", None) or self._sample
        same |= self._sample is not None
        self._specs = None
        if self._sized and not same:
            self._specs = {id(x): keras.KerasTensor(sizes[id(x)], x.dtype) for x in given}
        yield
        self.node, self.path, self.outputs, self._owner = outer
        self._prefix, self._specs, self._sample = around

    def enter(self, node: Any) -> None:
        """Goes on to the call of a node of the graph."""
        self.node, self.path = node, f"{self._prefix}{node.operation.name}"
        if self._owner and not isinstance(node.operation, keras.Layer):
            self.path = self._owner  # the operations of a layer's code have no names of their own
        outputs = node.outputs
        if self._specs is not None:
            args, kwargs = node.arguments.fill_in(self._specs)
            outputs = _output_specs(node.operation, args, kwargs)
            self._specs.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
        self.outputs = [self._open_again(y.shape) for y in outputs]

    def _open_again(self, shape: Shape) -> Shape:
        """The shape with None for what stands for an open length."""
        return tuple(None if n is not None and n == self._sample else n for n in shape)

    @contextlib.contextmanager
    def wrapped(self, node: "WrappedCall", args: Any, times: int | None) -> Iterator[None]:
        """A scope in which the present layer calls one that it wraps.

        Args:
            node: the call.
            args: the tensors that it is called on.
            times: how many times it happens for one example.
        """
        outer = self.node, self.outputs, self._repeats, self._specs
        self.node, self._specs, outputs = node, None, node.outputs
        pairs = list(zip(tree.flatten(args), node.input_tensors, strict=True))
        if any(x.sizes[1:] != x.shape[1:] for x, _ in pairs):
            self._specs = {id(y): keras.KerasTensor(x.sizes, y.dtype) for x, y in pairs}
            given, _ = node.arguments.fill_in(self._specs)
            outputs = tree.flatten(node.operation.compute_output_spec(*given))
        self.outputs = [tuple(y.shape) for y in outputs]
        self._repeats *= times or 1
        yield
        self.node, self.outputs, self._repeats, self._specs = outer

    def add_cost(
        self, uses: Iterable[Axis | int], kernel: Any = None, sizes: Iterable[Axis | int] = ()
    ) -> None:
        """Notes multiply-adds of this call; see `Cost`."""
        uses = [n if isinstance(n, Axis) else self._steps(n) for n in uses]
        self.costs.append(Cost(self.path, (*uses, self._repeats), kernel, tuple(sizes)))

    def _steps(self, size: int) -> int:
        """How many places of one example a size stands for, an open length being one step."""
        if self._sample is None or size % self._sample:
            return size
        while size and size % self._sample == 0:
            size //= self._sample
        return size // BATCH if size % BATCH == 0 else size  # a batch that lies along the length

    def add_unknown(self, operation: Any, inputs: Sequence[Tensor], why: str) -> None:
        """Notes that this call has no rule, or why its rule does not do."""
        args, kwargs = self.node.arguments.args, self.node.arguments.kwargs
        if self._specs is not None:
            args, kwargs = self.node.arguments.fill_in(self._specs)
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


def _output_specs(
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[keras.KerasTensor]:
    """What an operation gives for symbolic tensors, perhaps of other sizes than it was built for.

    A nested model refuses those itself, though it computes on them.
    """
    if not isinstance(operation, keras.Model) or not has_graph(operation):
        specs: list[keras.KerasTensor] = tree.flatten(
            operation.compute_output_spec(*args, **accepted(operation, kwargs))
        )
        return specs
    function = as_function(operation)
    given, _ = nested_inputs(function, args, kwargs)
    known = {id(x): y for x, y in zip(function.inputs, given, strict=True)}
    for node in nodes_in_order(function):
        outputs = _output_specs(node.operation, *node.arguments.fill_in(known))
        known.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
    return [known[id(x)] for x in function.outputs]


def _is_along(axis: Axis | None, size: int, x: Tensor, index: int) -> bool:
    """Whether an axis of a tensor has the channels, or else the size, of an axis of a variable."""
    other = x.axes[index]
    if axis is None or other is None:
        return x.sizes[index] == size
    return np.array_equal(axis.labels, other.labels)
