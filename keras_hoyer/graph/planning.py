"""Which way each layer without a rule goes: its own class, plain layers in its place, or neither.

The same class is best: where its config can say the new sizes. Else the layers that it is made of
take its place, if its calls show all that it does. Where neither works, what its config cannot say
stays as it is, and the walk begins again.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_hoyer import _keras
from keras_hoyer.graph.arguments import accepted
from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.configs import Shapes, find_updates
from keras_hoyer.graph.facts import title
from keras_hoyer.graph.groups import Group
from keras_hoyer.graph.opened import depends_on_training
from keras_hoyer.graph.opening import as_function, has_graph
from keras_hoyer.graph.remaking import config_of
from keras_hoyer.graph.tries import Tries
from keras_hoyer.graph.walk import ChannelGraph, Fixed

Kind = tuple[int, ...]  # the roots of the channels of an axis


@dataclasses.dataclass(eq=False)
class Plan:
    """What becomes of the layers without a rule that change.

    Attributes:
        whole: the entries of the model's own config that change, if its class is not one of Keras'
            and can say all new sizes; else None.
        updates: for each layer that keeps its class, by its id, the entries of its config that
            change.
        in_place: the ids of the layers in whose place plain ones are put.
        fixed: the places whose channels have to stay, since no config can say how many are left: a
            variable, one of its axes, and why.
    """

    whole: dict[str, Any] | None = None
    updates: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    in_place: set[int] = dataclasses.field(default_factory=set)
    fixed: list[Fixed] = dataclasses.field(default_factory=list)

    @property
    def uses_configs(self) -> bool:
        """Whether something is made from a config in which numbers were replaced."""
        return bool(self.whole or self.updates)


class Planner:
    """Makes a `Plan`.

    Args:
        graph: the channels of the model.
        removed: whether each root of the graph goes.
        apart: the ids of the layers that are not looked at.
        needs_bias: the axes whose constants a new bias has to take up, with their layers.
        keep_classes: whether layers and the model may be made from their own configs.
        tries: makes layers with other configs. Defaults to `None`: one for this plan alone.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        removed: np.ndarray,
        apart: Iterable[int],
        needs_bias: Iterable[tuple[Any, Axis]],
        keep_classes: bool = True,
        tries: Tries | None = None,
    ) -> None:
        self.graph = graph
        self.removed = removed
        self.apart = set(apart)
        self.needs_bias = list(needs_bias)
        self.keep_classes = keep_classes
        self.plan = Plan()
        self.seen: set[int] = set()
        self.tries = tries or Tries(graph.model)

    def make(self) -> Plan:
        """The plan for the whole model."""
        self.plan.whole = self.whole()
        if self.plan.whole is None and not self._holds_to_its_class():
            self.look_through(self.graph.function)
        return self.plan

    def look_through(self, function: Any) -> None:
        """Plans for all layers of a graph."""
        for node in self.graph.nodes(function):
            operation = node.operation
            if isinstance(operation, keras.Model) and has_graph(operation):
                self.look_through(as_function(operation))
            elif id(node) in self.graph.opened and id(operation) not in self.apart:
                self._decide(node)

    def whole(self, cut: set[Kind] | None = None) -> dict[str, Any] | None:
        """The entries of the model's own config with which it has all new sizes.

        Args:
            cut: the channels of which some go. Defaults to `None`: all of which some do.
        """
        model = self.graph.model
        if not (_of_own_class(model) and self.keep_classes and self.removed.any()):
            return None
        if self.needs_bias:
            return None
        places = self._places(model)
        cut = set(places) if cut is None else cut
        sizes = dict.fromkeys((len(kind), self._left_of(kind)) for kind in cut)
        for x in self.graph.function.inputs:
            if any(self._left(axis) < len(axis) for axis in self.graph.tensors[id(x)].labelled):
                return None
        try:
            config = model.get_config()
        except Exception:  # the class has none
            return None
        expected = [self._shape_of(variable, cut) for variable in model.weights]
        inputs = self.graph.function.inputs
        return find_updates(
            config, sizes, expected, functools.partial(self.tries.model, model, inputs)
        )

    def _holds_to_its_class(self) -> bool:
        """Fixes what the config of a model cannot say, if no other model could be saved.

        Layers that hold the same layer, as an embedding and a tied head do, are loaded with a copy
        each, unless the model's class makes them.
        """
        model = self.graph.model
        if not (_of_own_class(model) and self.keep_classes):
            return False
        held = [
            f"{title(one)} and {title(other)} hold the same layer"
            for group in self.graph.sharing
            for one, other in itertools.combinations(group, 2)
            if {*map(id, _keras.all_of(one))} & {*map(id, _keras.all_of(other))}
        ]
        kinds = {kind: found for kind, found in self._places(model).items() if self._cuts(kind)}
        if not held or not kinds or not self.tries.comes_back(model):
            return False
        said = self._said(list(kinds), self.whole)
        why = f"the config of {title(model)}, which does not say this size, while {held[0]}"
        for kind in kinds.keys() - said:
            self.plan.fixed += [(*place, why) for place in kinds[kind]]
        return bool(self.plan.fixed)

    def _places(self, layer: keras.Layer) -> dict[Kind, list[tuple[Any, int]]]:
        """The channels along the weights of a layer, and where they lie."""
        places: dict[Kind, list[tuple[Any, int]]] = {}
        for weight in filter(None, (self.graph.weights.get(id(v)) for v in layer.weights)):
            for index, axis in enumerate(weight.axes):
                if axis is not None:
                    places.setdefault(self._kind(axis), []).append((weight.variable, index))
        return places

    def _decide(self, node: Any) -> None:
        layer, opened = node.operation, self.graph.opened[id(node)]
        if id(layer) in self.seen:
            if id(layer) in self.plan.in_place:
                self.look_through(opened)
            return
        self.seen.add(id(layer))
        kinds = self._kinds(node)
        if not kinds:
            if self._is_lost(node):
                self.plan.in_place.add(id(layer))
                self.look_through(opened)
            return
        inner = {id(part) for part in _keras.all_of(layer)}
        without_bias = {self._kind(axis) for reader, axis in self.needs_bias if id(reader) in inner}
        updates = None if without_bias else self._updates(node, set(kinds))
        comes_back = self.tries.comes_back(layer)
        if updates is not None and comes_back:
            self.plan.updates[id(layer)] = updates
            return
        hidden = opened.hidden
        if not hidden and depends_on_training(opened, node):
            hidden = "it calls something else in training"
        if not hidden:
            self.plan.in_place.add(id(layer))
            self.look_through(opened)
            return
        sayable = [kind for kind in kinds if kind not in without_bias]
        said = self._said(sayable, functools.partial(self._updates, node))
        why = f"the config of {title(layer)}, which does not say this size, while {hidden}"
        if len(said) == len(kinds) and not comes_back:
            # Only a model of its own class could be saved with it.
            said, why = set(), f"the config of {title(layer)}, which does not make it again"
        for kind in kinds:
            if kind not in said:
                self.plan.fixed += [(*place, why) for place in kinds[kind]]

    def _said(
        self, kinds: Sequence[Kind], updates: Callable[[set[Kind]], dict[str, Any] | None]
    ) -> set[Kind]:
        """The channels among these of which a config can say how many are left.

        Args:
            kinds: the channels.
            updates: the entries of the config for a set of them, or None if it cannot say these.
        """
        alike: dict[tuple[int, int], list[Kind]] = {}
        for kind in kinds:
            alike.setdefault((len(kind), self._left_of(kind)), []).append(kind)
        said: set[Kind] = set()
        # One number may stand for several blocks, which can only change together.
        for together in (*alike.values(), *([kind] for kind in kinds)):
            cut = {*said, *together}
            if cut != said and updates(cut) is not None:
                said = cut
        return said

    def _is_lost(self, node: Any) -> bool:
        """Whether a layer of which nothing goes would not come back from a saved model.

        The class of a model may make such layers itself, and load all the same.
        """
        layer, opened = node.operation, self.graph.opened[id(node)]
        if opened.hidden or not _of_own_class(self.graph.model):
            return False
        return not self.tries.comes_back(layer) and not depends_on_training(opened, node)

    def _kinds(self, node: Any) -> dict[Kind, list[tuple[Any, int]]]:
        """The channels that go in a layer, and the places where they lie; the most first."""
        places = self._places(node.operation)
        kinds = {kind: found for kind, found in places.items() if self._cuts(kind)}
        for axis in self._around(node):
            if self._left(axis) < len(axis):
                kinds.setdefault(self._kind(axis), [])
        return dict(sorted(kinds.items(), key=lambda entry: -len(entry[1])))

    def _kind(self, axis: Axis) -> Kind:
        return tuple(self.graph.roots[axis.labels].tolist())

    def _left(self, axis: Axis) -> int:
        return self._left_of(self._kind(axis))

    def _left_of(self, kind: Kind) -> int:
        return int((~self.removed[list(kind)]).sum())

    def _cuts(self, kind: Kind) -> bool:
        return self._left_of(kind) < len(kind)

    def _around(self, node: Any) -> Iterator[Axis]:
        """The axes of a call's inputs and outputs."""
        for x in (*node.input_tensors, *node.outputs):
            known = self.graph.tensors.get(id(x))
            yield from known.labelled if known else ()

    def _updates(self, node: Any, cut: set[Kind]) -> dict[str, Any] | None:
        """The entries of the layer's config with which it has the sizes after a cut of these."""
        layer = node.operation
        config = config_of(layer) if self.keep_classes else None
        if config is None:
            return None
        expected = [self._shape_of(variable, cut) for variable in layer.weights]
        expected += [self._widths_of(x, cut) for x in node.outputs]
        axes = [
            axis
            for weight in (self.graph.weights.get(id(v)) for v in layer.weights)
            for axis in (weight.axes if weight else ())
            if axis is not None and self._kind(axis) in cut
        ]
        sizes = dict.fromkeys((len(axis), self._left(axis)) for axis in axes)
        args, kwargs = node.arguments.args, accepted(layer, node.arguments.kwargs)
        args, kwargs = tree.map_structure(lambda x: self._smaller(x, cut), (args, kwargs))

        def shapes_with(updates: dict[str, Any]) -> Shapes | None:
            found = self.tries.layer(layer, updates, args, kwargs)
            # One without weights may still make something else of fewer channels, as one half.
            if found is None or len(found[1]) != len(node.outputs):
                return None
            shapes, outputs = found
            pairs = zip(node.outputs, outputs, strict=True)
            return [*shapes, *(self._along_channels(x, shape) for x, shape in pairs)]

        return find_updates(config, sizes, expected, shapes_with)

    def _widths_of(self, x: Any, cut: set[Kind]) -> tuple[int, ...]:
        """What is left of the channels along the axes of an output."""
        return self._along_channels(x, self._smaller(x, cut).shape)

    def _along_channels(self, x: Any, shape: Sequence[Any]) -> tuple[int, ...]:
        """The sizes in a shape that number channels of an output."""
        axes = self.graph.tensors.get(id(x), Tensor(x.shape)).axes
        return tuple(n for n, axis in zip(shape, axes, strict=True) if axis is not None)

    def _shape_of(self, variable: Any, cut: set[Kind]) -> tuple[int, ...]:
        weight = self.graph.weights.get(id(variable))
        axes = weight.axes if weight else (None,) * len(variable.shape)
        return tuple(
            n if axis is None or self._kind(axis) not in cut else self._left(axis)
            for n, axis in zip(variable.shape, axes, strict=True)
        )

    def _smaller(self, x: Any, cut: set[Kind]) -> Any:
        """A symbolic tensor of the shape that is left of one."""
        if not isinstance(x, keras.KerasTensor):
            return x
        known = self.graph.tensors.get(id(x), Tensor(x.shape))
        shape = [
            n if axis is None or self._kind(axis) not in cut else self._left(axis)
            for n, axis in zip(x.shape, known.axes, strict=True)
        ]
        return keras.KerasTensor(shape, x.dtype)


def can_say_fewer(graph: ChannelGraph, groups: Sequence[Group], tries: Tries) -> bool:
    """Whether the config of a model's own class can say that fewer of these channels are left.

    Args:
        graph: the channels of the model.
        groups: channels of which the same number goes in each.
        tries: makes models with other configs.
    """
    if not _of_own_class(graph.model):
        return True
    channels = groups[0].channels
    for gone in dict.fromkeys((channels // 2, 1)):
        removed = np.zeros(len(graph.roots), bool)
        for group in groups:
            removed[group.roots[:gone]] = True
        if 0 < gone < channels and _says(graph, removed, tries):
            return True
    return False


def _says(graph: ChannelGraph, removed: np.ndarray, tries: Tries) -> bool:
    return Planner(graph, removed, (), (), tries=tries).whole() is not None


def _of_own_class(model: keras.Model) -> bool:
    """Whether the class of a model says more than its graph does."""
    return not type(model).__module__.startswith("keras.")
