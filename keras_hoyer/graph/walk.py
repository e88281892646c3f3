"""Channels, their labels, and the walk that joins them.

Every channel gets a label. A tensor carries one array of labels along each axis that numbers
channels, so Flatten, Concatenate or a transpose only move labels about, and an addition joins the
labels of its two sides. A layer's rule says which axes of its weights carry which labels. What
shares a label after the walk over the model is removed together or not at all.

The walk also carries constants: a channel that has the same value for every input, such as one
whose kernel is zero, is known with its value as far as it stays constant.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer._keras import has_mask, input_structure
from keras_hoyer.graph.arguments import accepted, for_rule
from keras_hoyer.graph.axes import Axis, Read, Tensor, WeightAxes
from keras_hoyer.graph.calls import Calls
from keras_hoyer.graph.labels import Labels
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

Size = Callable[[Axis], int]


class ChannelGraph:
    """The channels of a model, and what holds them together.

    Rules, registered with `register_rule`, call the methods of this class; `channel_groups`,
    `count_flops` and `shrink` read the result.

    Args:
        model: a built Sequential or functional model, nested models included.
        values: whether to read the weights to follow constants, as `shrink` does; without, it is
            quicker, every channel counts as changing, and costs are right also of nested models
            that are called on other sizes than they were built for.

    Raises:
        ValueError: if the model is not built, or its graph cannot be seen.
    """

    def __init__(self, model: keras.Model, values: bool = True) -> None:
        self.model = model
        self.values = values
        self.weights: dict[int, WeightAxes] = {}
        self.reads: list[Read] = []
        self.axes: list[Axis] = []
        self.tensors: dict[int, Tensor] = {}
        self.calls = Calls(sized=not values)
        self.masked = False  # whether a mask is known to go through the model so far
        self.labels = Labels()
        self._fresh: dict[tuple[int, str], Axis] = {}
        self._resizes: dict[int, Callable[[Size], dict]] = {}
        self._rewrites: dict[int, Callable] = {}
        self._scales: dict[int, Callable[[Size], float]] = {}
        self._results: dict[int, list[Tensor]] = {}
        self._operation: Any = "the model's outputs"
        self._given: list[Tensor] = []
        self._numpy: dict[int, np.ndarray] = {}
        self._pointwise: dict[tuple, bool] = {}

        self.function = as_function(model)
        outputs = self.walk(self.function, [Tensor(x.shape) for x in self.function.inputs])
        for tensor in outputs:
            self.freeze(*tensor.axes)
        self.sharing = sharing_layers(self.function)
        for variable in [v for group in self.sharing for x in group for v in held_variables(x)]:
            if id(variable) in self.weights:
                self.freeze(*self.weights[id(variable)].axes)  # others use it in their own way
        self.roots = self.labels.roots()

    # What a rule may do.

    def channels(self, layer: Any, name: str, size: int, optional: bool = False) -> Axis:
        """New channels of a layer; the same ones again when the layer is called again.

        Args:
            layer: the layer that makes them.
            name: tells several kinds of channels of one layer apart.
            size: how many.
            optional: whether all of them may go. Default False: at least one stays.

        Returns:
            An `Axis` with unknown constants.
        """
        key = (id(layer), name)
        if key not in self._fresh:
            self._fresh[key] = Axis(self.labels.new(size), np.full(size, np.nan))
            if not optional:
                self.axes.append(self._fresh[key])
        return self._fresh[key]

    def join(self, *axes: Axis | None) -> Axis | None:
        """Says that the channels of several axes live and die together, index by index.

        Args:
            axes: axes of one size. A None among them freezes the others.

        Returns:
            The joined axis with unknown constants, or None if all are None.
        """
        labelled = [axis for axis in axes if axis is not None]
        if not labelled:
            return None
        if len(labelled) < len(axes):
            self.freeze(*labelled)
        first = labelled[0]
        for other in labelled[1:]:
            if other.labels is not first.labels:
                self.labels.join(first.labels, other.labels, self._operation)
        return first.having(np.nan)

    def freeze(self, *axes: Axis | None) -> None:
        """Says that no channel of these axes may be removed."""
        for axis in axes:
            if axis is not None:
                self.labels.fix(axis.labels, self._operation)

    def merge(self, axis: Axis, groups: np.ndarray) -> None:
        """Joins all channels of an axis that have the same number in `groups`."""
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        self.labels.join(axis.labels, axis.labels[first[inverse]], self._operation)

    def weight(
        self,
        variable: Any,
        axes: Sequence[Axis | None],
        reads: Iterable[int] = (),
        state: bool = False,
        uses: Iterable[Axis | int] | None = None,
    ) -> None:
        """Says which channels lie along the axes of a variable, and how often it is multiplied.

        Args:
            variable: a `keras.Variable` of the layer, or None, which is ignored.
            axes: an `Axis` or None for each axis of the variable.
            reads: the axes of the variable along which it only reads channels.
            state: True for what has no part in producing the channel (moving statistics).
            uses: how often each entry is multiplied in one example, as factors: sizes, and an
                `Axis` where channels number the places; see `Tensor.places`. Default None: a
                variable that reads channels is multiplied once for each place of the layer's
                output, any other one not at all.

        Raises:
            ValueError: if `axes` does not fit the variable's shape.
        """
        if variable is None:
            return
        expected = tuple(variable.shape)
        found = tuple(n if a is None else len(a) for n, a in zip(expected, axes, strict=False))
        if len(axes) != len(expected) or found != expected:
            raise ValueError(
                f"The rule for {title(self._operation)} gives the variable "
                f"'{variable.path}' of shape {expected} axes of sizes "
                f"{tuple(None if a is None else len(a) for a in axes)}. Expected one axis (or "
                "None) of the right size for each axis of the variable."
            )
        axes = tuple(axes)
        weight = WeightAxes(variable, axes, tuple(reads), state)
        if uses is not None:
            self.calls.add_cost(uses, variable, weight.sizes)
        elif weight.reads:
            self.calls.consuming.append(weight)
        known = self.weights.get(id(variable))
        if known is not None:
            axes = tuple(
                self.join(a, b) if a is not None or b is not None else None
                for a, b in zip(known.axes, axes, strict=True)
            )
        self.weights[id(variable)] = WeightAxes(variable, axes, weight.reads, state)

    def product(self, *factors: Axis | int | None) -> None:
        """Says that tensors are multiplied with each other.

        Args:
            factors: sizes, an `Axis` where channels number them, or None for an unknown size, which
                counts as one: their product is the number of multiply-adds for one example.
        """
        self.calls.add_cost([1 if factor is None else factor for factor in factors])

    @property
    def output_sizes(self) -> list[tuple[int | None, ...]]:
        """The shapes of the outputs in the call that is described."""
        return self.calls.outputs

    def read(
        self,
        axis: Axis | None,
        used: np.ndarray | None = None,
        outputs: Sequence[Axis | None] = (),
        shift: Callable[[np.ndarray], np.ndarray] | None = None,
        layer: Any = None,
        bias: Any = None,
    ) -> None:
        """Says that the channels of an axis are used up here; see `Read` for the arguments."""
        if axis is None:
            return
        if bias is None and layer is not self.calls.node.operation:
            shift = None  # a layer inside another cannot be given a bias
        self.reads.append(Read(axis, used, tuple(outputs), shift, layer, bias))

    def resize(self, operation: Any, update: Callable[[Size], dict]) -> None:
        """Says how the config of a layer or operation follows the number of channels.

        Args:
            operation: the layer or operation.
            update: gets a function that gives the number of channels left on an `Axis`, and
                returns the entries of the config to replace.
        """
        self._resizes[id(operation)] = update

    def rewrite(self, change: Callable) -> None:
        """Says how the arguments of this call follow the channels that are left.

        Args:
            change: `change(size, args, kwargs)` returns new `args` and `kwargs`.
        """
        self._rewrites[id(self.calls.node)] = change

    def scale(self, variable: Any, factor: Callable[[Size], float]) -> None:
        """Says by what a variable is multiplied once channels are gone."""
        if variable is not None:
            self._scales[id(variable)] = factor

    def value(self, variable: Any) -> np.ndarray | None:
        """The variable as a NumPy array, or None if there is none or values are not followed."""
        if variable is None or not self.values:
            return None
        if id(variable) not in self._numpy:
            values = ops.convert_to_numpy(variable)
            self._numpy[id(variable)] = values.astype(np.promote_types("float32", values.dtype))
        return self._numpy[id(variable)]

    @property
    def outputs(self) -> list[Any]:
        """The symbolic outputs of the call that is looked at."""
        return self.calls.node.outputs

    # What the walk does.

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
        return [known[id(reference)] for reference in function.outputs]

    def call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """The outputs of one call of a layer or operation."""
        outer, self._operation = self._operation, operation
        outputs = self._called(operation, args, kwargs)
        self._operation = outer
        return outputs

    def _called(self, operation: Any, args: tuple, kwargs: dict) -> Any:
        given = self._given = _tensors((args, kwargs))
        if isinstance(operation, keras.Model) and has_graph(operation):
            return self._nested(as_function(operation), args, kwargs)
        rule, follows = find_rule(operation)
        if rule is not None and not _is_adapted(operation):
            return self._ruled(operation, rule, follows, args, kwargs)
        labelled = any(x.labelled for x in given)
        if labelled and len(given) == 1 and self.is_pointwise(operation, given[0], args, kwargs):
            return self.pointwise(given[0], _of_its_tensor(operation, args, kwargs))
        return self.opaque(operation, given, " (with LoRA, or quantized)" if rule else "")

    def _nested(self, function: Any, args: tuple, kwargs: dict) -> list[Tensor]:
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
        self, operation: Any, rule: Callable, follows: bool, args: tuple, kwargs: dict
    ) -> Any:
        """The outputs of a call, by a rule that may follow constants."""
        given = self._given
        taken = for_rule(operation, rule, args, kwargs)
        for name, value in taken.refused.items():
            if "mask" not in name and _tensors(value):
                return self.opaque(operation, given, f" (its rule takes no `{name}`)")
        self._freeze_masks({**taken.unnamed, **taken.refused}, given)
        arguments = (taken.args, taken.kwargs)
        if not follows:
            arguments = tree.map_structure(_all_labelled, arguments)
        result = rule(self, operation, *arguments[0], **arguments[1])
        outputs = tree.flatten(result)
        self._check_outputs(self.calls.node, outputs)
        self.calls.count_consuming(outputs)
        if follows:
            return result
        call = operation if self.values else None
        return probed_constants(call, self.calls.node.arguments, args, kwargs, outputs)

    def inside(self, layer: Any, *args: Tensor, steps: int | None = 1) -> Any:
        """The outputs of a layer that the present one wraps, called on tensors.

        Args:
            layer: the layer.
            args: its inputs.
            steps: how many times it is called for one example.
        """
        with self.calls.wrapped(layer, args, steps):
            return tree.flatten(self.call(layer, *args))

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

    def pointwise(self, x: Tensor, function: Callable) -> Tensor:
        """The tensor after a function of each element alone."""
        return Tensor(x.shape, [self._apply(axis, function) for axis in x.axes])

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
            call = _of_its_tensor(operation, args, kwargs)
            self._pointwise[key] = works_on_each_element(call, probe_shape(x))
        return self._pointwise[key]

    def activated(self, axis: Axis, activation: Callable | None) -> Axis:
        """The axis after a layer's activation; one that mixes channels freezes them."""
        if activation is None or activation is keras.activations.linear:
            return axis
        if self.mixes(activation):
            self.freeze(axis)
            return axis.having(np.nan)
        return self._apply(axis, activation)

    def mixes(self, activation: Callable | None) -> bool:
        """Whether a layer's activation looks at several elements, as a softmax does."""
        return activation is not None and not self.is_pointwise(activation)

    # What the readers of the graph ask.

    def updates(self, operation: Any, size: Size) -> dict:
        """The entries of the operation's config that change with the sizes."""
        update = self._resizes.get(id(operation))
        return update(size) if update else {}

    def resized_object(self, layer: Any, size: Size) -> dict:
        """A layer, serialized as part of its wrapper's config, with the sizes put in."""
        serialized = keras.saving.serialize_keras_object(layer)
        serialized["config"].update(self.updates(layer, size))
        serialized.pop("build_config", None)  # it holds the sizes of before
        return serialized

    def rewritten(self, node: Any, size: Size, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments of a call after the sizes have changed."""
        change = self._rewrites.get(id(node))
        return change(size, args, kwargs) if change else (args, kwargs)

    def factor(self, variable: Any, size: Size) -> float:
        """By what the variable is multiplied."""
        factor = self._scales.get(id(variable))
        return factor(size) if factor else 1.0

    def _agree(self, one: Tensor | None, two: Tensor) -> None:
        """Joins the channels of two tensors that have to stay of one shape."""
        if one is not None and one is not two:
            for a, b in zip(one.axes, two.axes, strict=True):
                self.join(a, b)

    def _apply(self, axis: Axis | None, function: Callable) -> Axis | None:
        if axis is None or np.isnan(axis.constants).all():
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

    def _check_outputs(self, node: Any, outputs: list) -> None:
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


def _with_ranks(function: Any, size: Size, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments of a nested model with the ranks that it gives them itself.

    Keras does not count on it when it works out the shapes inside.
    """
    inputs = ranked_inputs(function, args, kwargs)
    kwargs = {name: value for name, value in kwargs.items() if name != "inputs"}
    return (tree.pack_sequence_as(input_structure(function), inputs), *args[1:]), kwargs


def _tensors(value: Any) -> list[Tensor]:
    return [x for x in tree.flatten(value) if isinstance(x, Tensor)]


def _of_its_tensor(operation: Any, args: tuple, kwargs: dict) -> Callable:
    """The operation, or plain function, as a function of the only tensor in its arguments."""
    call = getattr(operation, "call", operation)
    kwargs = accepted(operation, kwargs)

    def function(x: Any) -> Any:
        def put(value: Any) -> Any:
            return x if isinstance(value, Tensor) else value

        return call(*tree.map_structure(put, args), **tree.map_structure(put, kwargs))

    return function


def _is_adapted(operation: Any) -> bool:
    """Whether the layer has other variables than those that its rule knows."""
    return bool(
        getattr(operation, "lora_enabled", False) or getattr(operation, "quantization_mode", None)
    )


def _all_labelled(x: Any) -> Any:
    """The tensor with frozen channels for None, so that a user's rule need not ask for it."""
    if not isinstance(x, Tensor):
        return x
    axes = [
        Axis(np.zeros(n, "int64"), np.full(n, np.nan)) if axis is None and n is not None else axis
        for axis, n in zip(x.axes, x.shape, strict=True)
    ]
    return Tensor(x.shape, axes)


def title(operation: Any) -> str:
    """An operation's class and name, for messages; what is no operation is named already."""
    if isinstance(operation, str):
        return operation
    return f"{type(operation).__name__} '{operation.name}'"
