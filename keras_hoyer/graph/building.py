"""The new model: layers with the widths that are left, called in the same order."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_hoyer import _keras
from keras_hoyer.graph.arguments import accepted
from keras_hoyer.graph.axes import Axis, Read
from keras_hoyer.graph.copying import CannotCopy, Copier
from keras_hoyer.graph.errors import ShrinkError, advice
from keras_hoyer.graph.opened import Opened, open_sizes, reshape_of, same_calls
from keras_hoyer.graph.opening import as_function, call_on, has_graph, nodes_in_order
from keras_hoyer.graph.planning import Planner
from keras_hoyer.graph.remaking import keep_loadable, made_from_config
from keras_hoyer.graph.state import carry_assets
from keras_hoyer.graph.tries import Tries
from keras_hoyer.graph.undrawn import without_drawing
from keras_hoyer.graph.walk import ChannelGraph


class Builder:
    """Makes the layers anew with the widths that are left, and calls them in the same order.

    Args:
        graph: the channels of the model.
        removed: whether each root of the graph goes.
        keep_classes: whether layers that are made of layers may be made from their own configs.
        tries: makes layers with other configs, for the plan.

    Attributes:
        steps: for each functional graph, by its id, the new inputs, and the calls in their order:
            the old node, and the new operation, arguments and outputs.
        kept_shared: the layers that the new model has in common with the old one.
        in_place: for each layer, by its id, what it calls and the models that do so in its place.
        parts: the layers around which a layer was made, by the entries of its config; by its id.
        plan: which way the layers without a rule go.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        removed: np.ndarray,
        keep_classes: bool = True,
        tries: Tries | None = None,
    ) -> None:
        self.graph = graph
        self.removed = removed
        self.classes = {type(layer).__name__: type(layer) for layer in _keras.all_of(graph.model)}
        self.copier = Copier(self._copied_model)
        self.steps: dict[
            int, tuple[list[Any], list[tuple[Any, Any, tuple[Any, ...], dict[str, Any], list[Any]]]]
        ] = {}
        self.kept_shared: list[Any] = []
        self.made: dict[int, tuple[Any, Any]] = {}
        self.in_place: dict[int, list[tuple[Opened, keras.Model]]] = {}
        self.parts: dict[int, dict[str, Any]] = {}
        self.from_config: dict[int, tuple[dict[str, Any] | None, dict[str, Any]]] = {}
        self.partners = {id(layer): group for group in graph.sharing for layer in group}
        self.touched = self._touched(graph.function)
        self.shifts: dict[int, tuple[Read, np.ndarray]] = {}
        for read in graph.reads:
            if read.shift is not None:
                # What varies and goes all the same is read by nothing that stays.
                constants = np.where(self.kept(read.axis), 0, np.nan_to_num(read.axis.constants))
                shift = read.shift(constants)
                if shift.any():
                    self.shifts[id(read.layer)] = (read, shift)
        adding = [(read.layer, read.axis) for read, _ in self.shifts.values() if read.bias is None]
        self.plan = Planner(graph, removed, self.partners, adding, keep_classes, tries).make()

    def kept(self, axis: Axis) -> np.ndarray:
        """Which channels of the axis are left."""
        kept: np.ndarray = ~self.removed[self.graph.roots[axis.labels]]
        return kept

    def size(self, axis: Axis) -> int:
        """How many channels of the axis are left."""
        return int(self.kept(axis).sum())

    def build(self, model: keras.Model) -> keras.Model:
        """The whole model, without its weights."""
        if self.plan.whole is not None:
            new = self._of_its_class(model, self.plan.whole)
        else:
            new = self.model(model, self.graph.function)
        self.made[id(model)] = (model, new)
        return new

    def _of_its_class(self, model: keras.Model, updates: dict[str, Any]) -> keras.Model:
        """A model of the same class, from its config."""
        new = self._with_updates(model, updates)
        if not new.built:
            inputs = self.graph.function.inputs
            call_on(new, [keras.KerasTensor(x.shape, x.dtype) for x in inputs], like=model)
        held = _keras.attributes_of(new)
        for name, value in _keras.attributes_of(model).items():
            # Such as a preprocessor with its vocabulary, of which no config makes another one.
            if isinstance(value, keras.Layer) and not value.weights and name in held:
                _keras.set_part(new, name, value)
        return new

    def model(self, model: Any, function: Any, of_any_size: bool = False) -> keras.Model:
        """A model of any depth, without its weights.

        Args:
            model: the model, or the layer in whose place it is put.
            function: its graph.
            of_any_size: whether all axes of its inputs are open but those of channels.
        """
        inputs = [self.input(x, of_any_size) for x in function.inputs]
        known = {id(x): y for x, y in zip(function.inputs, inputs, strict=True)}
        _, steps = self.steps[id(function)] = (inputs, [])
        for node in nodes_in_order(function):
            args, kwargs = node.arguments.fill_in(known)
            args, kwargs = self.graph.rewritten(node, self.size, args, kwargs)
            new, args, kwargs, results = self.call(node, args, kwargs)
            outputs = [y for y in tree.flatten(results) if y is not None]
            known.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
            steps.append((node, new, args, kwargs, outputs))
        if isinstance(function, Opened):
            _name_apart(steps)
            return keras.Model(inputs, [known[id(x)] for x in function.outputs], name=model.name)
        if isinstance(model, keras.Sequential):
            stack = [self.made[id(layer)][1] for layer in model.layers]
            return keras.Sequential([*inputs, *stack], name=model.name)
        return keras.Model(
            tree.pack_sequence_as(_keras.input_structure(function), inputs),
            tree.pack_sequence_as(
                _keras.output_structure(function), [known[id(x)] for x in function.outputs]
            ),
            name=model.name,
        )

    def input(self, reference: keras.KerasTensor, of_any_size: bool) -> keras.KerasTensor:
        """An input with the channels that are left."""
        config = _keras.producer_of(reference).get_config()
        known = self.graph.tensors.get(id(reference))
        if known is not None:
            last = len(reference.shape) - 1
            config["batch_shape"] = tuple(
                (None if of_any_size and index != last else n) if axis is None else self.size(axis)
                for index, (n, axis) in enumerate(zip(reference.shape, known.axes, strict=True))
            )
        return keras.layers.InputLayer.from_config(config).output

    def call(
        self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any], Any]:
        """The layer or operation of a call with the sizes that are left, and what it gives.

        The first way that works is taken; the same layer again for each call.

        Returns:
            The layer or operation, the arguments that it was called with, and its outputs.
        """
        old = node.operation
        if id(old) in self.plan.in_place:
            return self._called_in_place(node, args, kwargs)
        kwargs = accepted(old, kwargs)  # more would be in the way when sizes are worked out
        if id(old) in self.made:
            new = self.made[id(old)][1]
            return new, args, kwargs, new(*args, **kwargs)
        reasons = []
        ways = self._ways(old)
        if open_sizes(node) and reshape_of(node):
            ways = iter([self._reshape_layer])
        for way in ways:
            self.from_config.pop(id(old), None)
            try:
                new = way(old)
                with without_drawing(new):
                    outputs = new(*args, **kwargs)
                self._check_weights(old, new)
                keep_loadable(new, self.classes)
            except ShrinkError:
                raise
            except Exception as error:  # whatever a foreign class raises
                reasons.append(f"{type(error).__name__}: {error}")
            else:
                self.made[id(old)] = (old, new)
                return new, args, kwargs, outputs
        raise ShrinkError(
            f"{type(old).__name__} '{old.name}' has to be built anew, as channels of its weights "
            f"or its inputs go, and its config does not make it: {reasons[0]}\n{advice()}"
        )

    def _ways(self, old: Any) -> Iterator[Callable[[Any], Any]]:
        """The ways to make a layer, the best first."""
        if _is_graph(old):
            yield lambda old: self.model(old, as_function(old))
        elif not isinstance(old, keras.Layer):
            yield self.configured
        elif id(old) in self.partners:
            yield self._with_partners
        elif id(old) not in self.touched:
            yield from (self.configured, self.copier.layer, self._kept_shared)
        elif id(old) in self.plan.updates:
            yield partial(self._with_updates, updates=self.plan.updates[id(old)])
        elif id(old) in self.graph.parts:
            yield self._around_parts
        else:
            yield self.configured
            if self._keeps_config(old):
                yield self._copied_for_other_inputs

    def _called_in_place(
        self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[keras.Model, tuple[Any, ...], dict[str, Any], Any]:
        """The layers that a layer is made of, as a model in its place."""
        old, opened = node.operation, self.graph.opened[id(node)]
        given = {id(x): x for x in tree.flatten((args, accepted(old, kwargs))) if _is_symbolic(x)}
        known = self.in_place.setdefault(id(old), [])
        new = next((model for other, model in known if same_calls(other, opened)), None)
        if new is None:
            new = self._in_place(old, opened)
            known.append((opened, new))
            self.made.setdefault(id(old), (old, new))
        inputs = list(given.values())
        return new, (inputs,), {}, new(inputs)

    def _in_place(self, old: keras.Layer, opened: Opened) -> keras.Model:
        """What a layer calls, as a model that asks for no more of its inputs than the layer did."""
        if any(x is y for x in opened.inputs for y in opened.outputs):
            return self.model(old, opened)  # Keras makes a circle of an input that it hands on
        made, configs, parts = dict(self.made), dict(self.from_config), dict(self.parts)
        in_place, shared = dict(self.in_place), list(self.kept_shared)
        try:
            return self.model(old, opened, of_any_size=True)
        except Exception:  # a layer inside needs the sizes
            self.made, self.from_config, self.parts = made, configs, parts
            self.in_place, self.kept_shared = in_place, shared
            return self.model(old, opened)

    def _around_parts(self, old: keras.Layer) -> keras.Layer:
        """A layer made from its config, around layers that are made each in its own way."""
        self.parts[id(old)] = self.graph.parts[id(old)]
        parts = tree.map_structure(self._part, self.parts[id(old)])
        return self._with_updates(old, {**self.graph.updates(old, self.size), **parts})

    def _part(self, old: keras.Layer) -> keras.Layer:
        if id(old) in self.graph.parts:
            new = self._around_parts(old)
        elif id(old) in self.plan.in_place:
            opened = next(x for x in self.graph.opened.values() if x.layer is old)
            new = self._in_place(old, opened)
            self.in_place[id(old)] = [(opened, new)]
            new = keras.Model(new.inputs[0], new.outputs[0], name=old.name)
        else:
            new = next(self._ways(old))(old)
        self.made[id(old)] = (old, new)
        return new

    def configured(self, old: Any) -> Any:
        """A layer or operation made from the config of the old one."""
        return self._with_updates(old, self.graph.updates(old, self.size))

    def _with_updates(self, old: Any, updates: dict[str, Any]) -> Any:
        """A layer or operation made from the config of the old one, with some entries replaced."""
        if id(old) in self.shifts and self.shifts[id(old)][0].bias is None:
            updates = {**updates, "use_bias": True}
        if not isinstance(old, keras.Layer) and not updates:
            return old  # it has no state, and its arguments may not fit into a config
        new = self._from_config(old, updates)
        if isinstance(old, keras.Layer):
            same = id(old) not in self.touched and old is not self.graph.model
            reference = new if same or not updates else self._from_config(old, {})
            unbuilt = None if same else dict(_keras.attributes_of(reference))
            carry_assets(old, new)
            self.from_config[id(old)] = (unbuilt, dict(_keras.attributes_of(new)))
        return new

    def _reshape_layer(self, old: Any) -> keras.layers.Reshape:
        """The layer in place of an operation that was given the size of an open batch."""
        updates = self.graph.updates(old, self.size)
        shape = updates.get("newshape", old.newshape)
        return keras.layers.Reshape([-1 if n is None else n for n in shape[1:]], name=old.name)

    def _from_config(self, old: Any, updates: dict[str, Any]) -> Any:
        # A layer of which nothing goes is copied before it is made from arguments alone, which
        # say nothing of what it was given since.
        noted = id(old) in self.touched or old is self.graph.model
        return made_from_config(old, updates, self.classes, noted)

    def _with_partners(self, old: Any) -> Any:
        """A copy that shares with the copies of other layers what the old one shares with these."""
        group = self.partners[id(old)]
        try:
            return [self.copier.twin(layer) for layer in group][[*map(id, group)].index(id(old))]
        except CannotCopy:
            for layer in group:
                self.made[id(layer)] = (layer, layer)
            self.kept_shared += group
            return old

    def _kept_shared(self, old: Any) -> Any:
        self.kept_shared.append(old)
        return old

    def _copied_for_other_inputs(self, old: keras.Layer) -> keras.Layer:
        new = self.copier.layer(old)
        new.built = bool(new.weights)  # so that it learns its input's shape
        return new

    def cut(self, variable: Any, values: np.ndarray) -> np.ndarray:
        """What is left of an array that has the axes of a variable."""
        weight = self.graph.weights.get(id(variable))
        for index, axis in enumerate(weight.axes if weight else ()):
            if axis is not None:
                values = values.compress(self.kept(axis), axis=index)
        return values

    def _copied_model(self, model: keras.Model) -> keras.Model:
        """A nested model that a copied layer holds."""
        if id(model) not in self.made:
            self.made[id(model)] = (model, self.model(model, as_function(model)))
        return self.made[id(model)][1]

    def _touched(self, function: Any) -> set[int]:
        """The ids of the layers of which something changes: a weight, an input or an output."""
        touched = set()
        for node in self.graph.nodes(function):
            operation = node.operation
            if _is_graph(operation):
                touched |= self._touched(as_function(operation))
            elif id(node) in self.graph.opened:
                touched |= self._touched(self.graph.opened[id(node)])
            around = [*node.input_tensors, *node.outputs]
            tensors = [self.graph.tensors[id(x)] for x in around if id(x) in self.graph.tensors]
            axes = [axis for tensor in tensors for axis in tensor.labelled]
            axes += self._axes_of_weights(operation)
            if not all(self.kept(axis).all() for axis in axes):
                touched.add(id(operation))
            for part in self.graph.parts_of(operation):
                if not all(self.kept(axis).all() for axis in self._axes_of_weights(part)):
                    touched.add(id(part))
        return touched

    def _axes_of_weights(self, operation: Any) -> list[Axis]:
        weights = [self.graph.weights.get(id(v)) for v in getattr(operation, "weights", ())]
        return [axis for weight in weights if weight for axis in weight.axes if axis is not None]

    def _keeps_config(self, operation: Any) -> bool:
        """Whether a layer with other inputs has the weights and the config that it had."""
        if not all(self.kept(axis).all() for axis in self._axes_of_weights(operation)):
            return False
        try:
            return self.graph.updates(operation, len) == self.graph.updates(operation, self.size)
        except Exception:  # a layer inside has no config
            return False

    def _check_weights(self, old: Any, new: Any) -> None:
        """Raises a `ValueError` if the config has not made the weights that are to be copied."""
        inlined = _is_graph(old) or id(old) in self.in_place
        if not isinstance(old, keras.Layer) or inlined or old is new:
            return
        ours, theirs = self.own_weights(old, old), self.own_weights(old, new)
        expected = [self.cut(v, np.empty(v.shape, bool)).shape for v in ours]
        found = [tuple(variable.shape) for variable in theirs]
        if id(old) in self.shifts and self.shifts[id(old)][0].bias is None:
            found = found[:-1]  # a bias that was added is the last weight of its layer
        if found != expected:
            raise ValueError(f"It gives weights of shapes {found}. Expected: {expected}")
        for part in tree.flatten(self.parts.get(id(old), {})):
            self._check_weights(part, self.made[id(part)][1])

    def own_weights(self, old: keras.Layer, layer: keras.Layer) -> list[keras.Variable]:
        """The weights of a layer, or of the one that is made of it, without those of its parts."""
        parts = [getattr(layer, name) for name in self.parts.get(id(old), {})]
        inner = {id(variable) for part in tree.flatten(parts) for variable in part.weights}
        return [variable for variable in layer.weights if id(variable) not in inner]


def _name_apart(steps: Sequence[Any]) -> None:
    """Gives new layers of the same name others, as a model wants; those of several may share."""
    kept = [new for node, new, *_ in steps if new is node.operation]
    named = {operation.name: operation for operation in kept}  # they are the old model's, too
    for _, operation, *_ in steps:
        name, number = operation.name, 0
        while named.setdefault(operation.name, operation) is not operation:
            number += 1
            operation.name = f"{name}_{number}"


def _is_graph(operation: Any) -> bool:
    return isinstance(operation, keras.Model) and has_graph(operation)


def _is_symbolic(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)
