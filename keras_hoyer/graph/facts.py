"""What rules say of a model's channels, and what the readers of it ask."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, overload

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer.graph.axes import Axis, Read, Tensor, WeightAxes, along
from keras_hoyer.graph.calls import Calls
from keras_hoyer.graph.labels import Labels

Size = Callable[[Axis], int]


class Facts:
    """What is known of the channels of a model.

    Args:
        values: whether the values of weights may be read.
    """

    def __init__(self, values: bool) -> None:
        self.values = values
        self.weights: dict[int, WeightAxes] = {}
        self.reads: list[Read] = []
        self.axes: list[Axis] = []
        self.tensors: dict[int, Tensor] = {}
        self.calls = Calls(sized=not values)
        self.holders: dict[int, Any] = {}  # whose code calls an operation, by its id
        self.labels = Labels()
        self._operation: Any = "the model's outputs"
        self.parts: dict[int, dict[str, Any]] = {}  # the layers in a layer's config, by its id
        self._fresh: dict[tuple[int, str], Axis] = {}
        self._resizes: dict[int, Callable[[Size], dict[str, Any]]] = {}
        self._rewrites: dict[int, Callable[..., Any]] = {}
        self._scales: dict[int, Callable[[Size], float]] = {}
        self._numpy: dict[int, np.ndarray] = {}

    # What a rule says.

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

    @overload
    def join(self, first: Axis, /, *others: Axis | None) -> Axis: ...

    @overload
    def join(self, *axes: Axis | None) -> Axis | None: ...

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

    def resize(self, operation: Any, update: Callable[[Size], dict[str, Any]]) -> None:
        """Says how the config of a layer or operation follows the number of channels.

        Args:
            operation: the layer or operation.
            update: gets a function that gives the number of channels left on an `Axis`, and
                returns the entries of the config to replace.
        """
        self._resizes[id(operation)] = update

    def hold(self, layer: Any, /, **parts: Any) -> None:
        """Says that entries of a layer's config are layers, which change in ways of their own.

        Args:
            layer: the layer around them; its class takes these entries as arguments.
            parts: a layer or a list of layers for each entry, which are attributes as well.
        """
        self.parts[id(layer)] = parts

    def rewrite(self, change: Callable[..., Any]) -> None:
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

    def variable(self, variable: keras.Variable) -> Tensor:
        """A variable as an operand of an operation, with channels along each of its axes."""
        value = self.value(variable)
        axes: list[Axis | None] = []
        for index, n in enumerate(variable.shape):
            axis = None if n == 1 else self.channels(variable, f"axis {index}", n)
            if axis is not None and value is not None:
                axis = axis.having(along(value, index))
            axes.append(axis)
        self.weight(variable, axes)
        return Tensor(variable.shape, axes, variable=variable)

    @property
    def outputs(self) -> list[Any]:
        """The symbolic outputs of the call that is looked at."""
        outputs: list[Any] = self.calls.node.outputs
        return outputs

    def mark(self) -> tuple[int, int, int]:
        """How far the walk has come."""
        return len(self.reads), len(self.calls.costs), len(self.calls.unknown)

    def back_to(self, mark: tuple[int, int, int]) -> None:
        """Takes back the reads and costs since then, for a rule that looks at a call again."""
        reads, costs, unknown = mark
        del self.reads[reads:], self.calls.costs[costs:], self.calls.unknown[unknown:]

    # What the readers ask.

    def updates(self, operation: Any, size: Size) -> dict[str, Any]:
        """The entries of the operation's config that change with the sizes."""
        update = self._resizes.get(id(operation))
        return update(size) if update else {}

    def parts_of(self, layer: Any) -> Iterator[Any]:
        """The layers that a layer holds in its config, at any depth."""
        for part in tree.flatten(self.parts.get(id(layer), {})):
            yield part
            yield from self.parts_of(part)

    def resized_object(self, layer: Any, size: Size) -> dict[str, Any]:
        """A layer, serialized as part of its wrapper's config, with the sizes put in."""
        serialized: dict[str, Any] = keras.saving.serialize_keras_object(layer)
        serialized["config"].update(self.updates(layer, size))
        for name, part in self.parts.get(id(layer), {}).items():
            serialized["config"][name] = tree.map_structure(
                partial(self.resized_object, size=size), part
            )
        serialized.pop("build_config", None)  # it holds the sizes of before
        return serialized

    def rewritten(
        self, node: Any, size: Size, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call after the sizes have changed."""
        change = self._rewrites.get(id(node))
        return change(size, args, kwargs) if change else (args, kwargs)

    def title(self, operation: Any) -> str:
        """An operation's class and name, and the layer whose code calls it."""
        holder = self.holders.get(id(operation))
        return title(operation) if holder is None else f"{title(operation)} in {title(holder)}"

    def factor(self, variable: Any, size: Size) -> float:
        """By what the variable is multiplied."""
        factor = self._scales.get(id(variable))
        return factor(size) if factor else 1.0


def title(operation: Any) -> str:
    """An operation's class and name, for messages; what is no operation is named already."""
    if isinstance(operation, str):
        return operation
    return f"{type(operation).__name__} '{operation.name}'"
