"""Channels, their labels, and the walk that joins them.

Every channel gets a label. A tensor carries one array of labels along each axis that numbers
channels, so Flatten, Concatenate or a transpose only move labels about, and an addition joins the
labels of its two sides. A layer's rule says which axes of its weights carry which labels. What
shares a label after the walk over the model is removed together or not at all.

The walk also carries constants: a channel that has the same value for every input, such as one
whose kernel is zero, is known with its value as far as it stays constant.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer._keras import has_mask, input_structure, projections
from keras_hoyer.graph.arguments import all_labelled, for_rule, of_its_tensor
from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.calls import WrappedCall
from keras_hoyer.graph.facts import Facts, Size, title
from keras_hoyer.graph.opened import CannotOpen, Opened, open_call
from keras_hoyer.graph.opening import (
    as_function,
    has_graph,
    nested_inputs,
    nodes_in_order,
    ranked_inputs,
)
from keras_hoyer.graph.probing import (
    function_key,
    probe_shape,
    probed_constants,
    works_on_each_element,
)
from keras_hoyer.graph.registry import find_rule
from keras_hoyer.graph.sharing import held_variables, sharing_layers

# A variable, one of its axes whose channels have to stay, and what it is that fixes them.
Fixed = tuple[Any, int, str]


class ChannelGraph(Facts):
    """The channels of a model, and what holds them together.

    Rules, registered with `register_rule`, call the methods of this class; `channel_groups`,
    `count_flops` and `shrink` read the result.

    Args:
        model: a built Sequential or functional model, nested models included.
        values: whether to read the weights to follow constants, as `shrink` does; without, it is
            quicker, every channel counts as changing, and costs are right also of nested models
            that are called on other sizes than they were built for.
        fixed: places whose channels have to stay.

    Raises:
        ValueError: if the model is not built, or its graph cannot be seen.
    """

    def __init__(
        self, model: keras.Model, values: bool = True, fixed: Iterable[Fixed] = ()
    ) -> None:
        super().__init__(values)
        self.model = model
        self.masked = False  # whether a mask is known to go through the model so far
        self.opened: dict[int, Opened] = {}
        self.wrapped: dict[int, list[WrappedCall]] = {}  # the calls that a call makes, by its id
        self._closed: dict[int, str] = {}  # what cannot be opened, by its id, and why not
        self._layer: Any = None  # the opened layer whose code is gone through
        self._results: dict[int, list[Tensor]] = {}
        self._given: list[Tensor] = []
        self._pointwise: dict[tuple[Any, ...], bool] = {}

        self.function = as_function(model)
        outputs = self.walk(self.function, [Tensor(x.shape) for x in self.function.inputs])
        for tensor in outputs:
            self.freeze(*tensor.axes)
        self.sharing = sharing_layers(self.function)
        for variable in [v for group in self.sharing for x in group for v in held_variables(x)]:
            if id(variable) in self.weights:
                self.freeze(*self.weights[id(variable)].axes)  # others use it in their own way
        for variable, index, why in fixed:
            axis = self.weights[id(variable)].axes[index]
            if axis is not None:
                self.labels.fix(axis.labels, why)
        self.roots = self.labels.roots()

    # The walk.

    def walk(self, function: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Follows the channels through a functional graph and returns its output tensors."""
        known = self.tensors
        sizes: dict[int, tuple[int | None, ...]] = {}
        for reference, tensor in zip(function.inputs, inputs, strict=True):
            if tensor is None:  # an optional input that is not given
                continue
            tensor = self._with_rank(tensor, len(reference.shape))
            self._agree(known.get(id(reference)), tensor)
            known[id(reference)] = Tensor(reference.shape, tensor.axes, tensor.sizes)
            sizes[id(reference)] = tensor.sizes
        with self.calls.inside(function, sizes):
            for node in nodes_in_order(function):
                args, kwargs = node.arguments.fill_in(known)
                self.calls.enter(node)
                self.masked |= any(has_mask(x) for x in node.input_tensors)
                outputs = tree.flatten(self.call(node.operation, *args, **kwargs))
                if id(node.operation) in self._resizes:
                    # It has one config for all of its calls.
                    earlier = self._results.setdefault(id(node.operation), outputs)
                    for one, two in zip(earlier, outputs, strict=True):
                        self._agree(one, two)
                for reference, tensor, called in zip(
                    node.outputs, outputs, self.output_sizes, strict=True
                ):
                    known[id(reference)] = Tensor(reference.shape, tensor.axes, called)
                    self.axes.extend(tensor.labelled)
        return [known.get(id(x)) or Tensor(getattr(x, "shape", ())) for x in function.outputs]

    def call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """The outputs of one call of a layer or operation."""
        if self._layer is not None and not isinstance(operation, keras.Layer):
            self.holders[id(operation)] = self._layer
        outer, self._operation = self._operation, operation
        outputs = self._called(operation, args, kwargs)
        self._operation = outer
        return outputs

    def _called(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = self._given = _tensors((args, kwargs))
        if isinstance(operation, keras.Model) and has_graph(operation):
            return self._nested(as_function(operation), args, kwargs)
        rule, follows = find_rule(operation)
        if rule is not None and not _is_adapted(operation):
            return self._ruled(operation, rule, follows, args, kwargs)
        labelled = any(x.labelled for x in given)
        if labelled and len(given) == 1 and self.is_pointwise(operation, given[0], args, kwargs):
            return self.pointwise(given[0], of_its_tensor(operation, args, kwargs))
        if rule is not None:
            return self.opaque(operation, given, " (with LoRA, or quantized)")
        plain = type(operation).__module__.startswith("keras.")
        wanted = labelled or not plain or getattr(operation, "weights", None)
        if wanted and (opened := self._open(operation)) is not None:
            return self._inside_opened(opened)
        return self.opaque(operation, given, self._closed.get(id(operation), ""))

    def _open(self, layer: Any) -> Opened | None:
        """What a layer without a rule calls; None if that cannot be seen."""
        node = self.calls.node
        if id(layer) in self._closed or not isinstance(layer, keras.Layer):
            return None
        if id(node) not in self.opened:
            try:
                opened = open_call(layer, node)
                hidden = opened.hidden or getattr(node, "whole", "")
                self.opened[id(node)] = dataclasses.replace(opened, hidden=hidden)
            except CannotOpen as error:
                self._closed[id(layer)] = f" ({error})"
                return None
        return self.opened[id(node)]

    def _inside_opened(self, opened: Opened) -> list[Tensor]:
        """The outputs of a layer that is made of layers."""
        expected = self.calls.node.outputs
        outer, self._layer = self._layer, opened.layer
        outputs = self.walk(
            opened, [self.tensors.get(id(x)) or Tensor(x.shape) for x in opened.given]
        )
        self._layer = outer
        return [self._outside(x, y, opened) for x, y in zip(outputs, expected, strict=True)]

    def _outside(self, x: Tensor, reference: Any, opened: Opened) -> Tensor:
        """What an opened layer gives, where its lengths are open again."""
        axes = list(x.axes) or [None] * len(reference.shape)
        if opened.sample is not None:
            for index, n in enumerate(reference.shape):
                if n is None:
                    self.freeze(axes[index])
                    axes[index] = None
        return Tensor(reference.shape, axes)

    def _nested(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The outputs of a model in the model."""
        inputs, rest = nested_inputs(function, args, kwargs)
        self.freeze(*(axis for x in _tensors(rest) for axis in x.axes))
        pairs = zip(inputs, function.inputs, strict=True)
        if any(x is not None and x.rank != len(y.shape) for x, y in pairs):
            self.rewrite(partial(_with_ranks, function))
        expected = self.calls.node.outputs
        outputs = self.walk(function, inputs)
        if [x.rank for x in outputs] == [len(x.shape) for x in expected]:
            return outputs
        # Keras is mistaken in the shapes where a model changes the rank of its inputs.
        self.freeze(*(axis for x in outputs for axis in x.axes))
        return [Tensor(x.shape) for x in expected]

    def _ruled(
        self,
        operation: Any,
        rule: Callable[..., Any],
        follows: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The outputs of a call, by a rule that may follow constants."""
        given = self._given
        if self._layer is not None and not isinstance(operation, keras.Layer):
            args, kwargs = tree.map_structure(self._with_labels, (args, kwargs))
        elif isinstance(operation, keras.Layer):
            # Such as a token of the layer's own that another of its layers attends with.
            args, kwargs = tree.map_structure(_without_value, (args, kwargs))
        taken = for_rule(operation, rule, args, kwargs)
        for name, value in taken.refused.items():
            if "mask" not in name and _tensors(value):
                return self.opaque(operation, given, f" (its rule takes no `{name}`)")
        self._freeze_masks({**taken.unnamed, **taken.refused}, given)
        arguments = (taken.args, taken.kwargs)
        if not follows:
            arguments = tree.map_structure(all_labelled, arguments)
        result = rule(self, operation, *arguments[0], **arguments[1])
        outputs = tree.flatten(result)
        self._check_outputs(self.calls.node, outputs)
        self.calls.count_consuming(outputs)
        if follows:
            return result
        call = operation if self.values else None
        return probed_constants(call, self.calls.node.arguments, args, kwargs, outputs)

    def _with_labels(self, value: Any) -> Any:
        """A variable of an opened layer as a tensor."""
        return self.variable(value) if isinstance(value, keras.Variable) else value

    # What a rule may ask for.

    def inside(
        self, layer: Any, *args: Any, steps: int | None = 1, whole: str = ""
    ) -> list[Tensor]:
        """The outputs of a layer that the present one wraps, called on tensors.

        Args:
            layer: the layer.
            args: its inputs: tensors, or lists of them.
            steps: how many times it is called for one example.
            whole: why no plain layers can take its place, in words. Default "": they can.
        """
        outer = self.calls.node
        node = WrappedCall(layer, args, outer.input_tensors[0].dtype, whole)
        self.wrapped.setdefault(id(outer), []).append(node)
        pairs = zip(node.input_tensors, tree.flatten(args), strict=True)
        self.tensors.update((id(x), y) for x, y in pairs)
        with self.calls.wrapped(node, args, steps):
            outputs: list[Tensor] = tree.flatten(self.call(layer, *args))
        self.tensors.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
        return outputs

    def nodes(self, function: Any) -> Iterator[Any]:
        """The calls of a functional graph in their order, each with those of what it wraps."""
        pending = nodes_in_order(function)[::-1]
        while pending:
            node = pending.pop()
            yield node
            pending += self.wrapped.get(id(node), [])[::-1]

    def has_rule(self, operation: Any) -> bool:
        """Whether a rule is registered for the operation."""
        return find_rule(operation)[0] is not None

    def opaque(self, operation: Any, inputs: Iterable[Tensor], why: str = "") -> list[Tensor]:
        """Freezes the channels that touch an operation without a rule, and notes it."""
        # What a rule did not name of the call is touched as well.
        for x in (*inputs, *self._given):
            if isinstance(x, Tensor):
                self.freeze(*x.axes)
        self.calls.add_unknown(operation, self._given, why)
        return [Tensor(x.shape) for x in self.calls.node.outputs]

    def pointwise(self, x: Tensor, function: Callable[..., Any]) -> Tensor:
        """The tensor after a function of each element alone."""
        axes = [None if axis is None else self._apply(axis, function) for axis in x.axes]
        return Tensor(x.shape, axes)

    def is_pointwise(
        self, operation: Any, x: Tensor | None = None, args: Any = None, kwargs: Any = None
    ) -> bool:
        """Whether an operation, or a plain function, works on each element alone.

        Args:
            operation: the operation, or a function.
            x: a tensor of the shape in which it is run.
            args: what it is called with, the tensor among them. Defaults to the tensor alone.
            kwargs: the same by name.
        """
        if getattr(operation, "weights", None):
            return False
        args, kwargs = ((Tensor(()),), {}) if args is None else (args, kwargs)
        others = [v for v in tree.flatten((args, kwargs)) if not isinstance(v, Tensor)]
        key = (*function_key(operation, others), x and x.rank)
        if key not in self._pointwise:
            call = of_its_tensor(operation, args, kwargs)
            self._pointwise[key] = works_on_each_element(call, probe_shape(x))
        return self._pointwise[key]

    def activated(self, axis: Axis, activation: Callable[..., Any] | None) -> Axis:
        """The axis after a layer's activation; one that mixes channels freezes them."""
        if activation in (None, keras.activations.linear):
            return axis
        if self.mixes(activation):
            self.freeze(axis)
            return axis.having(np.nan)
        return self._apply(axis, activation)

    def mixes(self, activation: Callable[..., Any] | None) -> bool:
        """Whether a layer's activation looks at several elements, as a softmax does."""
        return activation is not None and not self.is_pointwise(activation)

    def _agree(self, one: Tensor | None, two: Tensor) -> None:
        """Joins the channels of two tensors that have to stay of one shape, where they are."""
        if one is not None and one is not two and one.rank == two.rank:
            for index, (a, b) in enumerate(zip(one.axes, two.axes, strict=True)):
                if one.shape[index] == two.shape[index]:
                    self.join(a, b)

    def _apply(self, axis: Axis, function: Callable[..., Any]) -> Axis:
        if np.isnan(axis.constants).all():
            return axis
        known = ~np.isnan(axis.constants)
        column = np.where(known, axis.constants, 0).astype("float32").reshape(-1, 1)
        result = ops.convert_to_numpy(ops.cast(function(ops.convert_to_tensor(column)), "float32"))
        result = result.reshape(-1)
        return axis.having(np.where(known & np.isfinite(result), result, np.nan))

    def _with_rank(self, x: Tensor, rank: int) -> Tensor:
        """The tensor as a nested model sees it: Keras adds or drops a last axis of one entry."""
        if x.rank == rank - 1:
            return Tensor((*x.shape, 1), (*x.axes, None), (*x.sizes, 1))
        if x.rank == rank + 1:
            self.freeze(x.axes[-1])
            return Tensor(x.shape[:-1], x.axes[:-1], x.sizes[:-1])
        return x

    def _freeze_masks(self, arguments: dict[str, Any], given: list[Tensor]) -> None:
        """Freezes what touches the tensors among arguments that a rule does not name.

        They are masks, which have the first axes of what they mask.
        """
        for mask in _tensors(arguments):
            self.freeze(*mask.axes)
            for x in given:
                self.freeze(*x.axes[: mask.rank])

    def _check_outputs(self, node: Any, outputs: list[Any]) -> None:
        expected = [tuple(x.shape) for x in node.outputs]
        found = [_sizes(x) if isinstance(x, Tensor) else x for x in outputs]
        fits = len(found) == len(expected) and all(
            isinstance(x, Tensor)
            and len(a) == len(b)
            and all(None in pair or pair[0] == pair[1] for pair in zip(a, b, strict=True))
            for x, a, b in zip(outputs, found, expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"The rule for {title(self._operation)} returns tensors of shapes {found}. "
                f"Expected: {expected}, the shapes that the operation returns. Correct the rule."
            )


def _sizes(x: Tensor) -> tuple[int | None, ...]:
    return tuple(n if a is None else len(a) for n, a in zip(x.shape, x.axes, strict=True))


def _with_ranks(
    function: Any, size: Size, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a nested model with the ranks that it gives them itself.

    Keras does not count on it when it works out the shapes inside.
    """
    inputs = ranked_inputs(function, args, kwargs)
    kwargs = {name: value for name, value in kwargs.items() if name != "inputs"}
    return (tree.pack_sequence_as(input_structure(function), inputs), *args[1:]), kwargs


def _tensors(value: Any) -> list[Tensor]:
    return [x for x in tree.flatten(value) if isinstance(x, Tensor)]


def _without_value(x: Any) -> Any:
    """An array or variable as a tensor of its shape."""
    return Tensor(x.shape) if ops.is_tensor(x) or isinstance(x, keras.Variable) else x


def _is_adapted(operation: Any) -> bool:
    """Whether the layer has other variables than those that its rule knows."""
    return any(
        getattr(part, "lora_enabled", False) or getattr(part, "quantization_mode", None)
        for part in (operation, *projections(operation).values())
    )
